"""The sub-networks that a search looks at."""

import numpy as np
import pytest

from dynackd.grid import Grid
from dynackd.search.space import GENES, Space
from dynackd.subnet import Geometry, Layer, Subnet

MINILM = Geometry(layers=6, heads=12, head_size=32, neurons=1536, hidden=384)
ODD = Geometry(layers=3, heads=3, head_size=4, neurons=20, hidden=12)  # no whole number of neurons a head


@pytest.mark.parametrize("geometry", [MINILM, ODD])
@pytest.mark.parametrize("rule", ["last", "ends", "importance", "dynabert-code"])
def test_every_size_that_a_grid_can_name_is_in_it(geometry, rule):
    space = Space(geometry)
    order = range(geometry.layers)[::-1] if rule == "importance" else None
    grid = Grid((1.0, 2 / 3, 1 / 3), (1.0, 2 / 3, 1 / 3), rule, order)
    even = set(space.even(grid))
    assert len(even) == geometry.heads * geometry.layers
    assert set(grid.subnets(geometry).values()) <= even
    for subnet in even:
        assert space.subnet(space.genes(subnet)) == subnet


def test_genes_are_within_their_bounds_and_name_one_sub_network():
    space, rng = Space(MINILM), np.random.default_rng(0)
    for _ in range(50):
        genes = rng.integers(space.lowest, space.highest + 1)
        genes[0] = 1
        subnet = space.subnet(genes)
        again = space.genes(subnet)
        assert (again >= space.lowest).all()
        assert (again <= space.highest).all()
        assert space.subnet(again) == subnet
        assert subnet.indices == tuple(np.flatnonzero(genes[::GENES]))


def test_samples_are_different_the_same_for_a_seed_and_of_all_depths():
    space = Space(MINILM)
    found = space.sample(24, seed=0)
    assert len(set(found)) == 24
    assert found == space.sample(24, seed=0) != space.sample(24, seed=1)
    assert {len(subnet.layers) for subnet in found} == {1, 2, 3, 4, 5, 6}
    heads = [subnet.layers[0].heads for subnet in found]
    assert max(heads) - min(heads) >= 9


def test_a_tiny_space_has_no_more_samples_than_it_has_sizes():
    space = Space(Geometry(layers=1, heads=1, head_size=4, neurons=2, hidden=4))
    assert 1 <= len(space.sample(50, seed=0)) <= 2


def test_of_several_hidden_sizes_a_last_gene_names_one_and_every_size_of_a_grid_is_in_it():
    space, rng = Space(MINILM, (384, 192, 288)), np.random.default_rng(0)
    grid = Grid((1.0, 0.5), (1.0, 0.5), hidden=(1.0, 0.75, 0.5))
    even = list(space.even(grid))
    assert set(grid.subnets(MINILM).values()) <= set(even)
    assert len(set(even)) == 3 * 12 * 6
    assert (even[0].hidden, even[-1].hidden) == (192, 384)
    for genes in rng.integers(space.lowest, space.highest + 1, size=(50, len(space.lowest))):
        genes[0] = 1
        subnet = space.subnet(genes)
        assert subnet.hidden == (192, 288, 384)[genes[-1]]
        assert subnet.indices == tuple(np.flatnonzero(genes[space.kept]))
        assert space.subnet(space.genes(subnet)) == subnet
    assert space.smallest == Subnet((Layer(5, 1, 64),), 192)
    assert {own.hidden for own in space.sample(24, seed=0)} == {192, 288, 384}
    assert {own.hidden for own in space.at(288).sample(24, seed=0)} == {288}


def test_the_smallest_is_the_least_of_all_in_the_last_layer():
    assert Space(MINILM).smallest == Subnet((Layer(5, 1, 64),), 384)
