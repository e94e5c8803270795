"""Student directories: they load in transformers bit for bit, agree with ONNX, and are never written half or wrong."""

import json

import onnx
import pytest
import torch
from conftest import tiny_batch, tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import dynackd.export
from dynackd.cost import FlopCounter, count_parameters
from dynackd.errors import UserError
from dynackd.export import Shape, example_batch, export_student, parity, parity_shapes
from dynackd.families import max_positions
from dynackd.spec import FULL, SubnetSpec
from dynackd.student import cut
from dynackd.supernet import Supernet

SPEC = SubnetSpec(0.5, 0.5)


@pytest.fixture
def supernet(family, grid):
    return Supernet(tiny_model(family, num_labels=3), grid).eval()


def test_a_student_directory_loads_bit_for_bit_and_holds_what_it_promises(supernet, tokenizer, tmp_path):
    about = export_student(supernet, tokenizer, SPEC, tmp_path / "student")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    with torch.no_grad():
        expected = supernet(SPEC, **tiny_batch()).logits
        assert torch.equal(loaded(**tiny_batch()).logits, cut(supernet, supernet.resolve(SPEC))(**tiny_batch()).logits)
        torch.testing.assert_close(loaded(**tiny_batch()).logits, expected, atol=1e-6, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "student")("a film")["input_ids"][0] == 2
    assert json.loads((tmp_path / "student" / "export.json").read_text()) == about
    assert (about["heads"], about["neurons"], about["layers"]) == (2, 20, [1, 3])
    assert about["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert about["parity_max_abs_diff"] <= 1e-5
    for name, facts in about["files"].items():
        assert (tmp_path / "student" / name).stat().st_size == facts["size_bytes"]
    assert {"onnx/model.onnx", "model.safetensors", "config.json", "README.md"} <= set(about["files"])


def test_saving_a_loaded_student_again_changes_nothing(supernet, tokenizer, tmp_path):
    export_student(supernet, tokenizer, SPEC, tmp_path / "a")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "config.json").read_text() == (tmp_path / "b" / "config.json").read_text()


def test_parameters_and_flops_are_those_of_the_sliced_student(supernet):
    from torch.utils.flop_counter import FlopCounterMode

    flops = FlopCounter(supernet)
    for spec in (FULL, SPEC, SubnetSpec(0.25, 0.75)):
        student = cut(supernet, supernet.resolve(spec))
        assert count_parameters(supernet, spec) == sum(p.numel() for p in student.parameters())
        student.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            student(input_ids=torch.ones(1, 11, dtype=torch.long))
        assert flops.count(spec, 11) == counter.get_total_flops()


def test_the_graph_has_a_dynamic_batch_and_length(supernet, tokenizer, tmp_path):
    export_student(supernet, tokenizer, SPEC, tmp_path / "student")
    graph = onnx.load(tmp_path / "student" / "onnx" / "model.onnx").graph
    for node in graph.input:
        assert [dim.dim_param for dim in node.type.tensor_type.shape.dim] == ["batch_size", "sequence_length"]
    assert [node.name for node in graph.output] == ["logits"]


def test_parity_looks_at_the_shapes_where_exports_go_wrong():
    shapes = parity_shapes(512)
    assert {shape.length for shape in shapes} == {1, 7, 128, 512}
    assert {shape.batch_size for shape in shapes} == {1, 3}
    assert {shape.padding for shape in shapes} == {"right", "left", "middle"}
    model = tiny_model("roberta")
    batch = example_batch(Shape(3, 8, "left"), ["input_ids", "attention_mask"], model)
    assert batch["attention_mask"].tolist() == [[1] * 8, [0] * 2 + [1] * 6, [0] * 4 + [1] * 4]
    assert max_positions(model.config) == 48


def test_an_export_that_differs_from_torch_leaves_nothing_behind(supernet, tokenizer, tmp_path, monkeypatch):
    honest = dynackd.export.export_onnx

    def wrong(model, names, file):
        changed = cut(supernet, supernet.resolve(SPEC))
        with torch.no_grad():
            next(p for name, p in changed.named_parameters() if "classifier" in name).add_(0.01)
        honest(changed, names, file)

    monkeypatch.setattr(dynackd.export, "export_onnx", wrong)
    with pytest.raises(UserError, match=r"differs from the torch student by .* was not written"):
        export_student(supernet, tokenizer, SPEC, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_gives_nan_is_no_match(tmp_path):
    model = tiny_model()
    names = ["input_ids", "attention_mask"]
    broken = tiny_model()
    with torch.no_grad():
        broken.classifier.bias.fill_(float("nan"))
    dynackd.export.export_onnx(broken, names, tmp_path / "model.onnx")
    assert not parity(model, names, 16, tmp_path / "model.onnx") <= 1e-4


def test_a_student_is_not_overwritten_unasked(tokenizer, grid, tmp_path):
    supernet = Supernet(tiny_model(), grid)
    export_student(supernet, tokenizer, SPEC, tmp_path / "student")
    before = (tmp_path / "student" / "export.json").read_bytes()
    with pytest.raises(UserError, match="add --overwrite"):
        export_student(supernet, tokenizer, FULL, tmp_path / "student")
    assert (tmp_path / "student" / "export.json").read_bytes() == before
    export_student(supernet, tokenizer, FULL, tmp_path / "student", overwrite=True)
    assert json.loads((tmp_path / "student" / "export.json").read_text())["width"] == 1.0
