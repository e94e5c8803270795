"""The latency model finds a law that it can express, and its error is that on what it has not seen."""

import numpy as np
import pytest

from dynackd.search.latency_model import LatencyModel, Weights, fit
from dynackd.search.space import Space
from dynackd.subnet import Geometry

MINILM = Geometry(layers=6, heads=12, head_size=32, neurons=1536, hidden=384)
SUBNETS = Space(MINILM).sample(32, seed=0)
WEIGHTS = Weights(head=50_000, neuron=770)
LAWS = [
    LatencyModel(0.3, 0.05, 0.02, 0.0004, beyond=0.2, cache=4.0, weights=WEIGHTS),
    LatencyModel(0.3, 0.05, 0.02, 0.0004),
    LatencyModel(0.3, 0.05, 0.02, 0.0004, head_step=4),
    LatencyModel(0.3, 0.0, 0.02, 0.0004, neuron_step=256),
    LatencyModel(0.0, 0.2, 0.0, 0.001, head_step=1, neuron_step=128),
]


@pytest.mark.parametrize("law", LAWS)
def test_an_additive_law_is_found_to_within_a_percent(law):
    found = fit(SUBNETS, [law(subnet) for subnet in SUBNETS], 8, WEIGHTS)
    others, most = Space(MINILM).sample(40, seed=5), 0.02 if law.cache else 0.01  # a cache is found to within a step
    assert max(abs(found.model(subnet) / law(subnet) - 1) for subnet in others) < most
    assert found.worst_error < most
    assert (found.model.cache is None) == (law.cache is None)
    assert (found.fitted, found.unseen) == (24, 8)


def test_two_sub_networks_are_enough_for_a_model():
    """A network of one layer of one head has no more: one is fitted, one tells the error."""
    found = fit(Space(Geometry(1, 1, 8, 16, 8)).sample(2, seed=0), [1.0, 2.0], 1)
    assert (found.fitted, found.unseen) == (1, 1)


def test_noise_is_told_as_error_and_steps_are_not_made_up_of_it():
    law, rng = LAWS[1], np.random.default_rng(0)
    noisy = [law(subnet) * float(np.exp(rng.normal(0, 0.03))) for subnet in SUBNETS]
    found = fit(SUBNETS, noisy, 8, WEIGHTS)
    assert 0.005 < found.median_error < 0.06
    assert (found.model.head_step, found.model.neuron_step, found.model.cache) == (1, 1, None)
    assert max(abs(found.model(subnet) / law(subnet) - 1) for subnet in SUBNETS) < 0.06


def test_the_error_is_that_on_sub_networks_that_it_was_not_fitted_to():
    """What is held out is measured twice as slow: the model knows nothing of it, and is off by half."""
    law = LAWS[1]
    right = [law(subnet) for subnet in SUBNETS]
    first = fit(SUBNETS, right, 8)
    held = np.linspace(0, len(SUBNETS) - 1, 10).round().astype(int)[1:-1]
    wrong = [2 * own if index in held else own for index, own in enumerate(right)]
    found = fit(SUBNETS, wrong, 8)
    assert found.model == first.model
    assert found.median_error == pytest.approx(0.5, abs=0.01)
    assert found.fitted_median_error < 0.01


def test_more_never_costs_less():
    """Latencies that fall with the neurons, as a loaded machine gives them, make no negative number."""
    odd = [5.0 - sum(own.neurons for own in subnet.layers) / 4000 for subnet in SUBNETS]
    model = fit(SUBNETS, odd, 8).model
    assert min(model.base, model.layer, model.head, model.neuron) >= 0
