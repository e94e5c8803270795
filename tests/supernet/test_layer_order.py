"""Layers leave one by one, each time the one that is missed least."""

import itertools

import pytest
import torch
from conftest import PATHS, tiny_batch, tiny_model

from dynackd.families.table import layer_list
from dynackd.grid import Grid
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.layer_order import order_by_removal
from dynackd.supernet.network import Supernet
from dynackd.tasks.classification import CLASSIFICATION

SPARE = 2  # the layer that is made to do nothing


def batches():
    """Of different sizes and lengths, since the mean is over rows."""
    return [tiny_batch(5, 9, seed=0), tiny_batch(4, 7, seed=1)]


@torch.no_grad()
def with_a_spare_layer(family):
    """A model whose layer 2 gives what it is given: its projections add nothing, and its norms, and the one before it,
    do no more than norm."""
    model = tiny_model(family)
    before, spare = layer_list(model)[SPARE - 1 : SPARE + 1]
    for path in (PATHS[family][1], PATHS[family][3]):
        for tensor in spare.get_submodule(path).parameters():
            tensor.zero_()
    for name, module in [*before.named_modules(), *spare.named_modules()]:
        if "norm" in name.lower():
            for parameter, value in (("weight", 1.0), ("bias", 0.0)):
                if getattr(module, parameter, None) is not None:
                    getattr(module, parameter).fill_(value)
    return model


def test_the_layer_that_does_nothing_leaves_first_at_no_loss(family):
    found = order_by_removal(Supernet(with_a_spare_layer(family)), CLASSIFICATION, batches())
    assert found.order[0] == SPARE
    assert found.losses[0] == pytest.approx(found.before, abs=1e-4)
    assert found.losses[1] > found.before + 1e-3


@torch.no_grad()
def by_hand(supernet, widths):
    """The same in the plainest way: every network is run whole, from its words on."""

    def outputs(subnet, batch):
        return supernet(subnet, **batch).outputs["logits"]

    def loss(layers):
        total, rows = 0.0, 0
        for batch in batches():
            target = outputs(supernet.whole, batch).softmax(-1)
            for width in widths:
                own = supernet.resolve(SubnetSpec(width))
                subnet = Subnet(tuple(layer for layer in own.layers if layer.index in layers), own.hidden)
                total -= float((target * outputs(subnet, batch).log_softmax(-1)).sum())
                rows += len(target)
        return total / rows

    left, order, losses = [0, 1, 2, 3], [], []
    while len(left) > 1:
        costs = {index: loss([other for other in left if other != index]) for index in left}
        order.append(min(costs, key=costs.get))
        left.remove(order[-1])
        losses.append(costs[order[-1]])
    return (*order, *left), losses, loss(range(4))


@pytest.mark.parametrize("widths", [(1.0,), (1.0, 0.5)])
def test_the_order_is_that_of_networks_run_whole_one_after_another(family, widths):
    supernet = Supernet(tiny_model(family, seed=2)).eval()
    found = order_by_removal(supernet, CLASSIFICATION, batches(), widths)
    order, losses, before = by_hand(supernet, widths)
    assert found.order == order
    assert found.losses == pytest.approx(losses, abs=1e-5)
    assert found.before == pytest.approx(before, abs=1e-5)


def test_a_shallower_networks_layers_are_among_a_deeper_ones():
    supernet = Supernet(tiny_model(seed=3))
    found = order_by_removal(supernet, CLASSIFICATION, batches())
    grid = Grid((1.0,), (1.0, 0.75, 0.5, 0.25), "importance", found.order)
    kept = [set(own.indices) for own in grid.subnets(supernet.geometry).values()]
    assert all(smaller < larger for larger, smaller in itertools.pairwise(kept))
    assert kept[-1] == {found.order[-1]}


def test_a_loss_that_is_no_number_keeps_its_layer_and_the_supernet_stays_as_it_was():
    class Odd(type(CLASSIFICATION)):
        """Of which the loss without layer 0 is no number, and all others are alike."""

        def output_loss(self, outputs, teacher, batch, temperature):
            return torch.tensor(float("nan") if torch.equal(outputs["logits"], missing) else 1.0)

    supernet = Supernet(tiny_model()).train()
    before = [parameter.clone() for parameter in supernet.parameters()]
    whole = supernet.whole
    supernet.eval()
    with torch.no_grad():
        missing = supernet(Subnet(whole.layers[1:], whole.hidden), **batches()[0]).outputs["logits"]
    supernet.train()
    assert order_by_removal(supernet, Odd(), batches()[:1]).order == (1, 0, 2, 3)
    assert supernet.training
    assert all(torch.equal(old, new) for old, new in zip(before, supernet.parameters(), strict=True))
