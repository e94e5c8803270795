"""MPNet: a bias of relative positions whose columns are the heads of every layer."""

import pytest
import torch
from conftest import tiny_batch, tiny_model, tiny_tokenizer, uneven_student
from safetensors.torch import load_file, save_file

from dynackd.errors import UserError
from dynackd.families.table import layer_list, max_positions
from dynackd.onnx.graphs import export_onnx, parity
from dynackd.students.cutting import cut
from dynackd.subnet import FULL, Layer, Subnet
from dynackd.supernet.checkpoints import load_model
from dynackd.supernet.importance import Importance, rewire
from dynackd.supernet.network import Supernet
from dynackd.tasks.kinds import KINDS

UNEVEN = Subnet((Layer(0, 1, 40), Layer(2, 3, 7), Layer(3, 2, 13)), 32)


def table(model):
    return model.mpnet.encoder.relative_attention_bias.weight


@torch.no_grad()
def test_the_heads_of_all_layers_are_in_one_order_by_the_sum_of_their_scores():
    model, before = tiny_model("mpnet"), tiny_model("mpnet")
    # The layers disagree; the sums are 4, 9, 5, 6.
    heads = torch.tensor([[4.0, 0, 0, 0], [0, 3, 5, 0], [0, 6, 0, 0], [0, 0, 0, 6]])
    rewire(model, Importance(heads, torch.zeros(4, 40)))
    order = [1, 3, 2, 0]
    assert torch.equal(table(model), table(before)[:, order])
    for now, then in zip(layer_list(model), layer_list(before), strict=True):
        rows = then.attention.attn.q.weight.unflatten(0, (4, 8))[order].flatten(0, 1)
        assert torch.equal(now.attention.attn.q.weight, rows)
    torch.testing.assert_close(model(**tiny_batch()).logits, before(**tiny_batch()).logits, atol=1e-6, rtol=0)


def test_gradients_of_the_bias_land_in_the_columns_of_the_widest_layer():
    supernet = Supernet(tiny_model("mpnet"))
    supernet(UNEVEN, **tiny_batch()).outputs["logits"].square().sum().backward()
    grad = table(supernet.model).grad
    assert grad.shape == (32, 4)
    assert all(grad[:, head].abs().sum() > 0 for head in range(3))
    assert not grad[:, 3].any()


def test_a_narrower_layer_leaves_no_hook_behind():
    supernet = Supernet(tiny_model("mpnet"))
    with torch.no_grad():
        supernet(UNEVEN, **tiny_batch())
    assert not any(module._forward_pre_hooks for module in supernet.modules())
    student = cut(supernet, UNEVEN)
    hooks = [len(layer.attention._forward_pre_hooks) for layer in layer_list(student)]
    assert hooks == [1, 0, 1], "one, where the layer has fewer heads than the bias has columns"
    assert table(student).shape == (32, 3)


def test_positions_are_counted_from_token_1_whatever_the_config_says(tmp_path):
    # 32 positions, 2 of them for padding; both of `pad_token_id` 1 and 0 take 30 tokens.
    for pad in (1, 0):
        student = uneven_student("mpnet", pad_token_id=pad, max_position_embeddings=32)
        assert max_positions(student.config) == 30
        student(input_ids=torch.full((1, 30), 5))
        with pytest.raises(IndexError):
            student(input_ids=torch.full((1, 31), 5))
        export_onnx(student, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
        assert parity(student, ["input_ids", "attention_mask"], 30, tmp_path / "model.onnx") <= 1e-5


@torch.no_grad()
def test_relative_positions_are_exported_beyond_the_length_that_was_traced(tmp_path):
    # 140 tokens reach the last bucket, of distances of 128 and more.
    student = uneven_student("mpnet", max_position_embeddings=142)
    export_onnx(student, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
    assert parity(student, ["input_ids", "attention_mask"], 140, tmp_path / "model.onnx") <= 1e-5


def test_a_bare_encoder_without_its_bias_is_refused_and_not_drawn_at_random(tmp_path):
    model = tiny_model("mpnet")
    model.mpnet.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    load_model(str(tmp_path), kind=KINDS["classification"], new_head=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.relative_attention_bias.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="relative_attention_bias"):
        load_model(str(tmp_path), kind=KINDS["classification"], new_head=True)


@torch.no_grad()
def test_the_supernet_beside_its_narrow_networks_stays_the_hugging_face_model():
    model = tiny_model("mpnet")
    supernet = Supernet(model)
    supernet(UNEVEN, **tiny_batch())
    assert torch.equal(supernet(FULL, **tiny_batch()).outputs["logits"], tiny_model("mpnet")(**tiny_batch()).logits)
