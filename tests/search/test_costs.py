"""Costs as sums over layers are the costs as they are counted."""

import random
from dataclasses import replace

import pytest
from conftest import tiny_model

from dynackd.grid import Grid
from dynackd.search.costs import Additive, ByHidden
from dynackd.search.space import Space
from dynackd.subnet import Geometry
from dynackd.supernet.cost import FlopCounter, count_parameters
from dynackd.supernet.network import Supernet


# One whose heads and neurons stand in fused tensors, in groups, and under a bias that all layers share.
@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert", "eurobert", "deberta-v2"])
def test_parameters_and_flops_of_any_sub_network_are_exact(family):
    supernet = Supernet(tiny_model(family), Grid((1.0,), (1.0,), hidden=(1.0, 0.5)))
    flops, sizes = FlopCounter(supernet), (supernet.geometry.hidden, supernet.geometry.hidden // 2)
    space = Space(supernet.geometry, sizes)
    for count in (lambda own: count_parameters(supernet, own), lambda own: flops.count(own, 9)):
        cost = ByHidden({hidden: Additive.of(count, supernet.geometry, hidden) for hidden in sizes})
        for hidden in sizes:
            whole = replace(supernet.whole, hidden=hidden)
            for subnet in [space.at(hidden).smallest, whole, *space.at(hidden).sample(2, seed=3)]:
                assert cost(subnet) == count(subnet)


@pytest.mark.parametrize(("layers", "heads", "neurons"), [(1, 4, 8), (3, 1, 8), (3, 4, 1), (1, 1, 1)])
def test_networks_with_one_of_something_are_counted_too(layers, heads, neurons):
    def count(subnet):
        own = sum(7 + 5 * layer.heads + 3 * layer.neurons + layer.index for layer in subnet.layers)
        return 1000 + 11 * subnet.most_heads + own

    geometry = Geometry(layers, heads, 4, neurons, 16)
    cost = Additive.of(count, geometry)
    rng = random.Random(0)
    space = Space(geometry)
    for subnet in [space.smallest, *space.even(), *space.sample(rng.randint(3, 9), seed=1)]:
        assert cost(subnet) == count(subnet)
