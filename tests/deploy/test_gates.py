"""What a smaller file may lose: of the metric, and of each class where that is asked for."""

import numpy as np
import onnx
import pytest
from conftest import tiny_model, write_rows

import dynackd.deploy.export
from dynackd.cli.command_line import main
from dynackd.data.sources import resolve_source
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.gates import Gates, undecided_class, worst_class
from dynackd.deploy.validation import Validation, load_validation, torch_predictor
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.measure.evaluation import longest_first
from dynackd.onnx.quantize import VARIANTS, Variant
from dynackd.students.cutting import cut
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Supernet
from dynackd.system import processor
from dynackd.tasks.parts import ClassScore
from dynackd.tasks.task import compute_per_class, resolve_task

SPEC = SubnetSpec(0.5, 0.5)
TASK = {"kind": "classification", "text": "sentence", "label": "label"}


def test_a_class_is_judged_by_its_recall_and_its_rows():
    task = resolve_task({**TASK, "labels": ["ham", "spam", "eggs"]})
    logits = np.eye(3)[[0, 0, 1, 1, 1, 0]]
    found = compute_per_class(task, {"logits": logits}, {"labels": np.array([0, 0, 0, 1, 1, 1])}, "_mm")
    assert found == {"ham_mm": ClassScore(2 / 3, 3), "spam_mm": ClassScore(2 / 3, 3)}  # no row is eggs
    assert compute_per_class(task, {"logits": logits}, {}) == {}


FACTS = {
    "max_abs_diff": 0.1,
    "drop": 0.001,
    "class_drops": {
        "common": {"drop": 0.0, "count": 900},
        "rare": {"drop": 0.3, "count": 20},
        "lone": {"drop": 0.5, "count": 19},
    },
}


def test_the_worst_class_with_enough_rows_decides_and_a_rarer_one_is_told():
    assert worst_class(FACTS) == ("rare", 0.3, 20)
    assert undecided_class(FACTS) == ("lone", 0.5, 19)
    assert Gates().refusal(FACTS, "accuracy") is None
    assert Gates(max_drop_per_class=0.3).refusal(FACTS, "accuracy") is None
    assert Gates(max_drop_per_class=0.25).refusal(FACTS, "accuracy") == (
        "it loses 0.3000 of the class 'rare' (20 of it in the validation data), more than --max-drop-per-class 0.25"
    )
    some = {**FACTS, "class_drops": {"lone": FACTS["class_drops"]["lone"]}}
    assert Gates(max_drop_per_class=0).refusal(some, "accuracy") is None
    assert undecided_class({"class_drops": {"lone": {"drop": 0.0, "count": 1}}}) is None


def test_the_mean_metric_comes_first():
    assert "more than --max-drop 0" in Gates(0, 0).refusal(FACTS, "accuracy")


def write_one_answer(source, file):
    """A variant that calls everything class 0."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classifier.bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1e3, -1e3], np.float32), tensor.name))
    onnx.save(model, str(file))


@pytest.fixture
def net():
    return Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5))).eval()


@pytest.fixture
def validation(net, tokenizer, tmp_path):
    """60 rows of class 0 and 20 of class 1, all as the student itself says."""
    write_rows(tmp_path / "v.tsv", 600, 2)
    source = resolve_source({"validation": str(tmp_path / "v.tsv"), "max_length": 16})
    read = load_validation(resolve_task(TASK), source, net.model, tokenizer)
    answers = read.outputs(torch_predictor(cut(net, net.resolve(SPEC)), read.task.kind), 8)[""]["logits"].argmax(-1)
    labels = np.empty(len(answers), np.int64)
    labels[longest_first(read.rows[""])] = answers
    rows = read.rows[""].remove_columns("labels").add_column("labels", labels)
    chosen = [*np.flatnonzero(labels == 0)[:60], *np.flatnonzero(labels == 1)[:20]]
    assert len(chosen) == 80
    return Validation(read.task, {"": rows.select(chosen)}, tokenizer)


def test_a_file_that_loses_a_class_is_left_out_though_its_mean_passes(
    net, tokenizer, validation, tmp_path, monkeypatch
):
    monkeypatch.setitem(VARIANTS, "int8", Variant("onnx/model_quantized.onnx", write_one_answer))

    def exported(place, gates):
        options = ExportOptions(variants=("int8", "fp16"), gates=gates)
        return export_student(net, tokenizer, SPEC, tmp_path / place, options=options, validation=validation)

    facts = exported("a", Gates(0.3))["files"]["onnx/model_quantized.onnx"]
    assert facts["drop"] == pytest.approx(0.25)
    assert facts["class_drops"] == {
        "LABEL_0": {"drop": 0.0, "count": 60},
        "LABEL_1": {"drop": 1.0, "count": 20},
    }
    assert "| -0.2500 | -1.0000 (LABEL_1) |" in (tmp_path / "a" / "README.md").read_text()
    about = exported("b", Gates(0.3, 0.5))
    assert about["refused"]["onnx/model_quantized.onnx"]["reason"] == (
        "it loses 1.0000 of the class 'LABEL_1' (20 of it in the validation data), more than --max-drop-per-class 0.5"
    )
    assert about["refused"]["onnx/model_quantized.onnx"]["class_drops"]["LABEL_1"]["drop"] == 1.0
    assert not (tmp_path / "b" / "onnx" / "model_quantized.onnx").exists()
    assert "onnx/model_fp16.onnx" in about["files"]


def test_a_demand_on_classes_where_there_are_none_is_refused(tokenizer, tmp_path):
    net = Supernet(tiny_model(num_labels=1), Grid((1.0, 0.5), (1.0, 0.5))).eval()
    write_rows(tmp_path / "v.tsv", 8, 2)
    source = resolve_source({"validation": str(tmp_path / "v.tsv"), "max_length": 16})
    data = load_validation(resolve_task({**TASK, "kind": "regression"}), source, net.model, tokenizer)
    options = ExportOptions(variants=("fp16",), gates=Gates(max_drop_per_class=0.1))
    with pytest.raises(UserError, match="the validation data of this regression have no classes; remove it"):
        export_student(net, tokenizer, SPEC, tmp_path / "s", options=options, validation=data)
    assert not (tmp_path / "s").exists()
    assert main(["export", str(tmp_path), "--max-drop-per-class", "-1"]) == 2


# --- 8 bits and processors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "expected"), [
    ("flags\t\t: fpu avx2 avx512f", False),
    ("flags\t\t: fpu avx2 avx_vnni", True),
    ("flags\t\t: avx512_vnni", True),
    ("flags\t\t: avx2 amx_int8", True),
    ("Features\t: asimd asimddp", None),  # an Arm processor
    (None, None),
])  # fmt: skip
def test_whether_a_processor_has_vnni_is_read_from_its_flags(tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: X\n{flags}\n")
    assert processor.has_vnni() is expected


def weights_of_products(file):
    """The largest absolute weight of the 8-bit products; embeddings are none."""
    weights = [onnx.numpy_helper.to_array(own) for own in onnx.load(file).graph.initializer]
    products = [own for own in weights if own.dtype == np.int8 and own.ndim == 2 and len(own) != 27]
    found = [np.abs(own.astype(int)).max() for own in products]
    assert len(found) >= 6
    return max(found)


@pytest.mark.parametrize("graph", ["plain", "fused"])
def test_with_7_bits_two_products_fit_into_16(net, tokenizer, tmp_path, graph):
    options = ExportOptions(variants=("int8", "int7"), graph=graph)
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options)
    assert 255 * 2 * weights_of_products(tmp_path / "s" / "onnx" / "model_int7.onnx") < 2**15
    assert 255 * 2 * weights_of_products(tmp_path / "s" / "onnx" / "model_quantized.onnx") > 2**15
    seven, eight = (about["files"][f"onnx/model_{name}.onnx"] for name in ("int7", "quantized"))
    assert seven["max_abs_diff"] < 1
    assert abs(seven["size_bytes"] - eight["size_bytes"]) < 100


@pytest.mark.parametrize(("vnni", "told"), [(True, ", which has VNNI."), (False, ", which has no VNNI."), (None, ".")])
def test_an_8_bit_file_says_on_what_it_was_measured_and_what_to_do_on_others(
    net, tokenizer, tmp_path, monkeypatch, vnni, told
):
    monkeypatch.setattr(dynackd.deploy.export, "has_vnni", lambda: vnni)
    monkeypatch.setattr(dynackd.deploy.export, "machine_name", lambda: "an abacus")
    options = ExportOptions(variants=("int8", "int7"))
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options)
    assert about["files"]["onnx/model_quantized.onnx"]["measured_on"] == {"processor": "an abacus", "vnni": vnni}
    assert "measured_on" not in about["files"]["onnx/model_int7.onnx"]
    card = (tmp_path / "s" / "README.md").read_text()
    assert f"`onnx/model_quantized.onnx` was measured on an abacus{told} On an x86 processor without VNNI" in card
