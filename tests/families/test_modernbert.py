"""ModernBERT: layers that depend on their place, windows, rotary positions, and everything without biases."""

import json

import pytest
import torch
from conftest import randomise, tiny_batch, tiny_config, tiny_model, tiny_tokenizer, uneven_student
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from dynackd.errors import UserError
from dynackd.families.table import layer_list
from dynackd.onnx.graphs import OnnxModel, export_onnx, kind_of_model, parity
from dynackd.students.cutting import cut
from dynackd.students.loading import load_student
from dynackd.students.stock import stock_model
from dynackd.subnet import FULL, Layer, Subnet
from dynackd.supernet.checkpoints import load_model
from dynackd.supernet.cost import count_parameters
from dynackd.supernet.network import Supernet
from dynackd.tasks.kinds import KINDS

# Of the four layers the first and the last attend to all, the others to a window; the first has no norm before it.
FULL_ATTENTION, SLIDING = "full_attention", "sliding_attention"
NO_BIASES = {"attention_bias": False, "mlp_bias": False, "norm_bias": False, "classifier_bias": False}


def of_layers(*indices, heads=2, neurons=20):
    return Subnet(tuple(Layer(index, heads, neurons) for index in indices), 32)


@torch.no_grad()
def test_the_kept_layers_keep_their_norms_their_windows_and_their_rotations(tmp_path):
    supernet = Supernet(tiny_model("modernbert"))
    for indices, types in (
        ((1, 3), [SLIDING, FULL_ATTENTION]), ((1, 2), [SLIDING] * 2), ((0, 3), [FULL_ATTENTION] * 2), ((2,), [SLIDING]),
    ):  # fmt: skip
        subnet = of_layers(*indices)
        student = cut(supernet, subnet)
        assert student.config.layer_types == [layer.attention_type for layer in layer_list(student)] == types
        assert isinstance(layer_list(student)[0].attn_norm, torch.nn.Identity) == (indices[0] == 0)
        expected = supernet(subnet, **tiny_batch(length=30)).outputs["logits"]
        torch.testing.assert_close(student(**tiny_batch(length=30)).logits, expected, atol=1e-6, rtol=0)
        student.save_pretrained(tmp_path / str(indices))
        tiny_tokenizer().save_pretrained(tmp_path / str(indices))
        assert json.loads((tmp_path / str(indices) / "config.json").read_text())["layer_types"] == types
        loaded, _ = load_student(tmp_path / str(indices))
        assert torch.equal(loaded(**tiny_batch(length=30)).logits, student(**tiny_batch(length=30)).logits)


@torch.no_grad()
def test_a_window_hides_what_is_further_away_in_the_supernet_its_student_and_its_graph(tmp_path):
    supernet = Supernet(tiny_model("modernbert")).eval()
    batch = {name: tensor[:1] for name, tensor in tiny_batch(length=20).items()}  # the classifier reads the first token
    near, far = ({**batch, "input_ids": batch["input_ids"].clone()} for _ in range(2))
    near["input_ids"][0, 2], far["input_ids"][0, 3] = 1, 1
    for index, sees in ((2, False), (3, True)):
        student = cut(supernet, of_layers(index))
        export_onnx(student, list(batch), tmp_path / "model.onnx")
        graph = OnnxModel(tmp_path / "model.onnx", kind_of_model(student))
        for run in (
            lambda inputs, index=index: supernet(of_layers(index), **inputs).outputs["logits"],
            lambda inputs, student=student: student(**inputs).logits,
            lambda inputs, graph=graph: torch.tensor(graph({k: v.numpy() for k, v in inputs.items()})["logits"]),
        ):
            assert (run(near) - run(batch)).abs().max() > 1e-4
            assert ((run(far) - run(batch)).abs().max() > 1e-4) == sees


@torch.no_grad()
@pytest.mark.parametrize("changes", [NO_BIASES, {"classifier_pooling": "mean"}, {"local_attention": 8}], ids=str)
def test_it_is_exact_without_biases_with_either_pooling_and_any_window(changes, tmp_path):
    model = tiny_model("modernbert", **changes)
    supernet, batch = Supernet(model), tiny_batch(length=30)
    assert torch.equal(supernet(FULL, **batch).outputs["logits"], tiny_model("modernbert", **changes)(**batch).logits)
    student = uneven_student("modernbert", **changes)
    export_onnx(student, list(batch), tmp_path / "model.onnx")
    assert parity(student, list(batch), 48, tmp_path / "model.onnx") <= 1e-5
    subnet = of_layers(0, 2, 3)
    assert count_parameters(supernet, subnet) == sum(p.numel() for p in cut(supernet, subnet).parameters())


def test_padding_longer_than_a_window_reaches_neither_the_real_words_nor_their_gradients():
    supernet, subnet = Supernet(tiny_model("modernbert")), of_layers(0, 1, 2)
    found = []
    for length in (6, 20):
        batch = {name: tensor[:1] for name, tensor in tiny_batch(length=6).items()}
        batch = {name: torch.nn.functional.pad(tensor, (0, length - 6)) for name, tensor in batch.items()}
        supernet.zero_grad()
        output = supernet(subnet, **batch)
        states = torch.stack(output.hidden_states)
        assert states.isfinite().all()
        (states[:, :, :6].square().sum() + output.outputs["logits"].sum()).backward()
        gradients = [weight.grad.clone() for weight in supernet.parameters() if weight.grad is not None]
        found.append([states[:, :, :6].detach(), *gradients])
    for short, padded in zip(*found, strict=True):
        torch.testing.assert_close(padded, short, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForTokenClassification, AutoModelForQuestionAnswering])
@torch.no_grad()
def test_students_with_every_head_load_again(auto, tmp_path):
    model = randomise(auto.from_config(tiny_config("modernbert"))).eval()
    supernet, subnet, batch = Supernet(model), of_layers(1, 3), tiny_batch()
    (name, expected), *_ = supernet(subnet, **batch).outputs.items()
    cut(supernet, subnet).save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)(**batch, output_hidden_states=True)
    torch.testing.assert_close(loaded[name], expected, atol=1e-6, rtol=0)
    assert len(loaded.hidden_states) == 3


@torch.no_grad()
def test_a_stock_checkpoint_holds_the_first_layer_and_any_others_with_heads_of_the_same_size():
    supernet, batch = Supernet(tiny_model("modernbert")), tiny_batch(length=30)
    for indices in ((0, 1, 3), (0, 2), (0,)):
        student = cut(supernet, of_layers(*indices, heads=3))
        stock = stock_model(student)
        assert stock.config.num_attention_heads == 4, "rotations know the head size"
        assert stock.config.intermediate_size == 20
        torch.testing.assert_close(stock(**batch).logits, student(**batch).logits, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="no stock checkpoint holds the layers 1, 3 alone: a modernbert's layers"):
        stock_model(cut(supernet, of_layers(1, 3)))


def test_a_bare_encoder_without_its_last_norm_is_refused_and_not_drawn_at_random(tmp_path):
    tiny_model("modernbert").model.save_pretrained(tmp_path)
    load_model(str(tmp_path), kind=KINDS["classification"], new_head=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["final_norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing .* 'model\.final_norm\.weight'"):
        load_model(str(tmp_path), kind=KINDS["classification"], new_head=True)


@torch.no_grad()
def test_a_config_as_the_hub_has_it_is_read(tmp_path):
    """Those published say how often a layer attends to all, not which; and how the authors compiled it."""
    model = tiny_model("modernbert", local_attention=8)
    model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    content = json.loads(file.read_text())
    rope = content.pop("rope_parameters")
    del content["layer_types"]
    content |= {"global_attn_every_n_layers": 3, "reference_compile": True, "sparse_prediction": False}
    content |= {"global_rope_theta": rope["full_attention"]["rope_theta"], "position_embedding_type": "absolute"}
    content |= {"local_rope_theta": rope["sliding_attention"]["rope_theta"], "repad_logits_with_grad": False}
    file.write_text(json.dumps(content))
    loaded, batch = load_model(str(tmp_path / "m")).eval(), tiny_batch(length=30)
    assert torch.equal(Supernet(loaded)(FULL, **batch).outputs["logits"], model(**batch).logits)
    student = cut(Supernet(loaded), of_layers(1, 3))
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert torch.equal(again(**batch).logits, student(**batch).logits)
