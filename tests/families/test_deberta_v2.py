"""DeBERTa-v2 and -v3: what their configs turn on and off, and the convolution behind the first layer."""

import copy

import pytest
import torch
from conftest import PATHS, tiny_batch, tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from dynackd.families.table import layer_list
from dynackd.onnx.graphs import export_onnx, parity
from dynackd.students.cutting import cut
from dynackd.students.stock import stock_model
from dynackd.subnet import FULL, Layer, Subnet
from dynackd.supernet.cost import FlopCounter
from dynackd.supernet.importance import Importance, rewire
from dynackd.supernet.network import Supernet

# Without the first layer, narrow and wide.
UNEVEN = Subnet((Layer(1, 1, 40), Layer(2, 2, 7), Layer(3, 2, 13)), 32)
MODELS = {
    "v3": {"share_att_key": True, "conv_kernel_size": 0},
    "v2": {"share_att_key": True, "position_buckets": 8, "type_vocab_size": 2, "attention_head_size": 8},
    "keys of its own": {"position_biased_input": True},
    "words to positions": {"pos_att_type": ["c2p"], "norm_rel_ebd": "none"},
    "positions to words": {"pos_att_type": ["p2c"], "position_buckets": -1},
    "relative positions unread": {"pos_att_type": []},
    "no relative positions": {"relative_attention": False, "position_biased_input": True},
    "narrow embeddings": {"embedding_size": 16, "share_att_key": True},
}


@pytest.fixture(params=list(MODELS))
def model(request):
    return tiny_model("deberta-v2", **MODELS[request.param])


def silenced(model, subnet):
    """The same network as a stock model: the kept layers, and their other heads and neurons without effect."""
    model = copy.deepcopy(model)
    layers = layer_list(model)
    _, attention_output, _, ffn_output = PATHS["deberta-v2"]
    with torch.no_grad():
        for own in subnet.layers:
            layers[own.index].get_submodule(attention_output).weight[:, own.heads * 8 :] = 0
            layers[own.index].get_submodule(ffn_output).weight[:, own.neurons :] = 0
    model.base_model.encoder.layer = torch.nn.ModuleList(layers[index] for index in subnet.indices)
    return model


@torch.no_grad()
def test_every_variant_is_the_same_network_in_all_its_forms(model, tmp_path):
    supernet, batch = Supernet(copy.deepcopy(model)).eval(), tiny_batch()
    assert torch.equal(supernet(FULL, **batch).outputs["logits"], model(**batch).logits)
    expected = silenced(model, UNEVEN)(**batch).logits
    assert (expected - model(**batch).logits).abs().max() > 1e-3
    student = cut(supernet, UNEVEN)
    student.save_pretrained(tmp_path)
    for found in (
        supernet(UNEVEN, **batch).outputs["logits"],
        student(**batch).logits,
        AutoModelForSequenceClassification.from_pretrained(tmp_path)(**batch).logits,
        stock_model(student)(**batch).logits,
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    rewire(supernet.model, Importance(torch.rand(4, 4), torch.rand(4, 40)))
    torch.testing.assert_close(supernet(FULL, **batch).outputs["logits"], model(**batch).logits, atol=1e-6, rtol=0)


def test_every_variant_is_exported_at_lengths_that_were_not_traced(model, tmp_path):
    # 48 tokens reach beyond the 8 buckets and the 4 near distances that have one of their own.
    student = cut(Supernet(model), UNEVEN)
    export_onnx(student, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
    assert parity(student, ["input_ids", "attention_mask"], 48, tmp_path / "model.onnx") <= 1e-5


def test_operations_are_counted_without_the_numbers_that_the_model_asks_for(model):
    student = cut(Supernet(model), UNEVEN).requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(input_ids=torch.ones(1, 11, dtype=torch.long))
    assert FlopCounter(Supernet(model)).count(UNEVEN, 11) == counter.get_total_flops()


@torch.no_grad()
def test_the_convolution_stands_behind_the_first_layer_that_there_is_and_no_other():
    supernet, batch = Supernet(tiny_model("deberta-v2")).eval(), tiny_batch()
    whole = supernet(UNEVEN, **batch)
    for known in (1, 2, 3):
        below = whole.hidden_states[:known]
        again = supernet(UNEVEN, below=below, **batch)
        assert torch.equal(again.outputs["logits"], whole.outputs["logits"])
    calls = []
    supernet.model.deberta.encoder.conv.register_forward_hook(lambda *_: calls.append(1))
    supernet(UNEVEN, **batch)
    supernet(UNEVEN, below=whole.hidden_states[:2], **batch)
    assert calls == [1]


@torch.no_grad()
def test_what_is_padding_has_no_influence_through_the_convolution():
    supernet = Supernet(tiny_model("deberta-v2")).eval()
    alone = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    padded = {"input_ids": torch.tensor([[2, 5, 6, 3, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]])}
    found = [supernet(UNEVEN, **batch).outputs["logits"] for batch in (alone, padded)]
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)
