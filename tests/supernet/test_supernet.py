"""The invariant that carries the project: supernet(spec) == sliced torch student == ONNX, and supernet(full) == HF."""

import copy
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import PATHS, parted, tiny_batch, tiny_model
from transformers import AutoModelForSequenceClassification

from dynackd.deploy.export import export_onnx
from dynackd.errors import UserError
from dynackd.families.table import FAMILIES, family_of, layer_list
from dynackd.grid import Grid
from dynackd.students.cutting import cut
from dynackd.subnet import FULL, Layer, Subnet, SubnetSpec
from dynackd.supernet.network import Supernet, load_supernet


@torch.no_grad()
def test_every_subnetwork_equals_its_sliced_student_and_its_onnx_graph(family, grid, tmp_path):
    supernet = Supernet(tiny_model(family), grid).eval()
    batch = tiny_batch()
    outputs = []
    for spec in grid.specs():
        expected = supernet(spec, **batch)
        student = cut(supernet, supernet.resolve(spec))
        own = student(**batch, output_hidden_states=True)
        torch.testing.assert_close(own.logits, expected.outputs["logits"], atol=1e-5, rtol=0)
        for mine, theirs in zip(own.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
        export_onnx(student, list(batch), tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        np.testing.assert_allclose(logits, expected.outputs["logits"].numpy(), atol=1e-5, rtol=0)
        outputs.append(expected.outputs["logits"])
    # Not vacuous: the sub-networks are different functions.
    for i, logits in enumerate(outputs):
        assert all((logits - other).abs().max() > 1e-3 for other in outputs[:i])


@torch.no_grad()
def test_the_full_subnetwork_is_the_hugging_face_model_exactly(family):
    model = tiny_model(family)
    batch = tiny_batch()
    expected = copy.deepcopy(model)(**batch, output_hidden_states=True)
    output = Supernet(model)(FULL, **batch)
    assert torch.equal(output.outputs["logits"], expected.logits)
    for mine, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_subnetwork_goes_on_from_hidden_states_that_are_known_with_the_same_gradients(family, known):
    supernet, batch, spec = Supernet(tiny_model(family)), tiny_batch(), SubnetSpec(0.5, 0.75)
    full = supernet(SubnetSpec(0.5, 1.0), **batch).hidden_states  # layers 0, 1, 2, 3; those of spec are 0, 1, 3
    results = []
    for below in ((), full[:known] if known > 1 else (supernet.embed(**batch),)):
        supernet.zero_grad()
        output = supernet(spec, below=below, **batch)
        (output.outputs["logits"].sum() + sum(h.square().sum() for h in output.hidden_states)).backward()
        grads = [p.grad.clone() for p in supernet.parameters() if p.grad is not None]
        results.append([output.outputs["logits"].detach(), *output.hidden_states, *grads])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(results[1][known], full[known - 1])


@torch.no_grad()
def test_a_subnetwork_whose_layers_are_all_known_from_a_deeper_one_is_right(family):
    supernet, batch = Supernet(tiny_model(family)).eval(), tiny_batch()
    deep = supernet.resolve(SubnetSpec(0.5, 1.0))
    first = replace(deep, layers=deep.layers[:2])
    expected, output = supernet(first, **batch), supernet(first, supernet(deep, **batch).hidden_states[:3], **batch)
    torch.testing.assert_close(output.outputs["logits"], expected.outputs["logits"])
    for mine, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_first_call_at_half_depth_leaves_the_hidden_states_of_the_others_whole(family):
    # transformers hooks the layers that are in the list at the first call.
    supernet = Supernet(tiny_model(family))
    assert len(supernet(SubnetSpec(0.5, 0.5), **tiny_batch()).hidden_states) == 3
    assert len(supernet(FULL, **tiny_batch()).hidden_states) == 5


def test_nothing_of_a_subnetwork_stays_in_the_model(family):
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    supernet = Supernet(model)
    with pytest.raises(ValueError, match="input_ids"):
        supernet(SubnetSpec(0.5, 0.5))
    assert len(layer_list(model)) == 4
    for path in family_of(model.config).head_count:
        holder, _, attribute = path.rpartition(".")
        assert getattr(layer_list(model)[1].get_submodule(holder), attribute) == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_gradients_land_in_the_kept_part_of_the_full_weights_only(family):
    model = tiny_model(family)
    supernet = Supernet(model)
    spec = SubnetSpec(0.5, 0.5)
    supernet(spec, **tiny_batch()).outputs["logits"].square().sum().backward()
    subnet, (query, _, ffn_in, _) = supernet.resolve(spec), PATHS[family]
    heads, neurons = subnet.sizes
    for index, layer in enumerate(layer_list(model)):
        for path, kept in ((query, heads * 8), *((path, neurons) for path in ffn_in)):
            weight = layer.get_submodule(path).weight
            if index not in subnet.indices:
                assert weight.grad is None
                continue
            assert weight.grad.shape == weight.shape
            assert all(part[:kept].abs().sum() > 0 for part in parted(weight.grad, path))
            assert not parted(weight.grad, path)[:, kept:].any()


def test_a_saved_supernet_is_a_stock_checkpoint_and_comes_back_with_its_grid(family, grid, tokenizer, tmp_path):
    supernet = Supernet(tiny_model(family), grid)
    supernet.save(tmp_path / "net", tokenizer)
    batch = tiny_batch()
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "net")
    assert torch.equal(stock(**batch).logits, supernet(FULL, **batch).outputs["logits"])
    loaded, _ = load_supernet(tmp_path / "net")
    assert loaded.grid == grid
    spec = SubnetSpec(0.25, 0.5)
    assert torch.equal(loaded.eval()(spec, **batch).outputs["logits"], supernet(spec, **batch).outputs["logits"])


def test_a_supernet_refuses_a_grid_whose_entries_are_the_same_network():
    with pytest.raises(UserError, match="same network"):
        Supernet(tiny_model(), Grid((1.0, 0.5, 0.4), (1.0,)))


def test_an_unsupported_architecture_is_refused_with_the_reason_or_the_supported_ones():
    from transformers import AlbertConfig

    config = AlbertConfig(vocab_size=20, embedding_size=8, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(UserError, match="'albert' is not supported: all of its layers are one"):
        Supernet(model)
    config.model_type = "funnel"
    told = f"'funnel' is not supported; dynackd knows {', '.join(sorted(FAMILIES))}; docs/extending.md says how to add"
    with pytest.raises(UserError, match=f"{told} one$"):
        Supernet(model)


@pytest.mark.parametrize(("layers", "hidden", "sentence"), [
    ([(0, 9, 40)], 32, "heads of layer 0 is 9; this network has 1 to 4"),
    ([(0, 0, 40)], 32, "heads of layer 0 is 0"), ([(0, 4, 640)], 32, "neurons of layer 0 is 640"),
    ([(9, 4, 40)], 32, "index of layer 9 is 9; this network has 0 to 3"), ([(0, 4, 40)], 64, "hidden is 64"),
    ([(2, 4, 40), (0, 4, 40)], 32, r"layers are \[2, 0\]"), ([(2, 4, 40)] * 2, 32, r"layers are \[2, 2\]"),
    ([], 32, r"layers are \[\]; name one or more, in ascending order"),
])  # fmt: skip
def test_a_subnetwork_that_the_network_does_not_hold_is_refused(layers, hidden, sentence):
    """Larger sizes ran as the full ones without a word."""
    supernet = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5)))
    with pytest.raises(UserError, match=sentence):
        supernet(Subnet(tuple(Layer(*own) for own in layers), hidden), **tiny_batch())


def test_a_polished_supernet_runs_what_was_polished_unless_it_is_asked_for_another():
    whole = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5))).eval()
    only = whole.resolve(SubnetSpec(0.5, 0.5))
    polished = Supernet(whole.model, whole.grid, only=only).eval()
    with torch.no_grad():
        assert torch.equal(polished(**tiny_batch()).outputs["logits"], whole(only, **tiny_batch()).outputs["logits"])
        full = polished(SubnetSpec(1.0, 1.0), **tiny_batch()).outputs["logits"]
        assert torch.equal(full, whole(**tiny_batch()).outputs["logits"])
