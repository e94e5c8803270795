"""Rewiring changes nothing but the order, and the order follows what a unit is worth."""

import copy

import pytest
import torch
from conftest import PATHS, parted, tiny_batch, tiny_model

from dynackd.families.table import layer_list
from dynackd.grid import Grid
from dynackd.subnet import SubnetSpec
from dynackd.supernet.importance import IMPORTANCE, Importance, gradient_importance, orders_of, rewire
from dynackd.supernet.network import Supernet
from dynackd.supernet.rewired import POINTS, rewiring_record


def batches(count=3):
    return [{**tiny_batch(seed=seed), "labels": torch.tensor([0, 1, 1, 0])} for seed in range(count)]


@pytest.mark.parametrize("score", list(IMPORTANCE))
@torch.no_grad()
def test_rewiring_leaves_the_output_as_it_was_and_changes_the_narrow_networks(family, score):
    model = tiny_model(family)
    supernet = Supernet(model)
    before = supernet(**tiny_batch())
    narrow = supernet(SubnetSpec(0.5), **tiny_batch()).outputs["logits"]
    with torch.enable_grad():
        importance = IMPORTANCE[score](model, batches())
    rewire(model, importance)
    after = supernet(**tiny_batch())
    torch.testing.assert_close(after.outputs["logits"], before.outputs["logits"], atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(after.hidden_states, before.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-6, rtol=3e-6)
    assert (supernet(SubnetSpec(0.5), **tiny_batch()).outputs["logits"] - narrow).abs().max() > 1e-3


def test_head_importance_is_the_derivative_of_the_loss_by_a_factor_on_the_head(family):
    # Left to guess the type, DeBERTa takes its loss in single precision.
    model = tiny_model(family, problem_type="single_label_classification").double()
    importance = gradient_importance(model, batches(1))
    output = PATHS[family][1]

    def loss(layer, head, factor):
        changed = copy.deepcopy(model)
        weight = layer_list(changed)[layer].get_submodule(output).weight
        with torch.no_grad():
            weight[:, head * 8 : (head + 1) * 8] *= factor
            return changed(**batches(1)[0]).loss

    # Some compute rotary positions and the softmax in float32, whatever the model is in: a smaller step would measure
    # their rounding.
    for layer, head in ((0, 0), (2, 3)):
        slope = (loss(layer, head, 1 + 1e-3) - loss(layer, head, 1 - 1e-3)) / 2e-3
        assert float(importance.heads[layer, head]) == pytest.approx(abs(float(slope)), rel=1e-3)


def test_neuron_importance_is_the_sum_over_its_rows_biases_and_column(family):
    model = tiny_model(family)
    importance = gradient_importance(model, batches(1))
    model.zero_grad()
    model(**batches(1)[0]).loss.backward()
    _, _, wide, narrow = PATHS[family]
    named = dict(layer_list(model)[1].named_parameters())
    for neuron in (0, 17):
        column = named[f"{narrow}.weight"]
        total = (column[:, neuron] * column.grad[:, neuron]).sum()
        for path in wide:
            for tensor in (named[f"{path}.weight"], named.get(f"{path}.bias")):
                total += 0 if tensor is None else parted(tensor * tensor.grad, path)[:, neuron].sum()
        expected = float(total.abs().detach())
        assert float(importance.neurons[1, neuron]) == pytest.approx(expected, rel=1e-4)


def test_scores_add_up_over_batches_with_the_gradients_cleared_between():
    model = tiny_model()
    whole = gradient_importance(model, batches(3))
    parts = [gradient_importance(model, [batch]) for batch in batches(3)]
    torch.testing.assert_close(whole.heads, sum(part.heads for part in parts))
    torch.testing.assert_close(whole.neurons, sum(part.neurons for part in parts))


@torch.no_grad()
def test_the_units_with_no_effect_are_cut_first():
    # A network of which half the heads and neurons do nothing is the same at width 0.5.
    model = tiny_model()
    _, output, _, ffn_out = PATHS["bert"]
    for layer in layer_list(model):
        layer.get_submodule(output).weight[:, 0:8] = 0
        layer.get_submodule(output).weight[:, 16:24] = 0
        layer.get_submodule(ffn_out).weight[:, ::2] = 0
    supernet = Supernet(model, Grid((1.0, 0.5), (1.0,)))
    full = supernet(**tiny_batch()).outputs["logits"]
    with torch.enable_grad():
        rewire(model, gradient_importance(model, batches()))
    torch.testing.assert_close(supernet(SubnetSpec(0.5), **tiny_batch()).outputs["logits"], full, atol=1e-5, rtol=0)


def test_the_record_of_a_rewiring_tells_who_stood_where_and_what_the_first_neurons_hold():
    heads = torch.tensor([[1.0, 4.0, 2.0, 3.0]]).expand(4, 4)
    neurons = torch.cat([torch.zeros(4, 30), torch.ones(4, 10)], dim=1)  # all importance in the last quarter
    importance, model = Importance(heads, neurons), tiny_model()
    record = rewiring_record(importance, orders_of(model, importance))
    assert record["heads"]["scores"][0] == [1, 4, 2, 3]
    assert record["heads"]["order"][0] == [1, 3, 2, 0]
    kept = record["neurons"]
    assert kept["count"] == 40
    before_and_after = zip(kept["before"][2], kept["after"][2], strict=True)
    held = dict(zip(kept["shares"], before_and_after, strict=True))
    assert len(held) == POINTS
    assert held[0.0] == (0, 0)
    assert held[0.25] == (0, 1)
    assert held[0.125] == (0, 0.5)
    assert held[0.875] == (0.5, 1)
    assert held[1.0] == (1, 1)


def test_the_record_of_a_layer_without_any_importance_is_finite():
    importance = Importance(torch.zeros(4, 4), torch.zeros(4, 40))
    record = rewiring_record(importance, orders_of(tiny_model(), importance))
    assert record["neurons"]["after"][0] == [0] * POINTS
