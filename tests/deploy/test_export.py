"""Student directories: they load in transformers bit for bit, agree with ONNX, and are never written half or wrong."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import tiny_batch, tiny_model, tiny_recipe, tiny_tokenizer, uneven_student, write_recipe, write_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import dynackd.deploy.export
from dynackd.cli.command_line import main
from dynackd.data.sources import resolve_source
from dynackd.deploy.card import known_metrics, licence_of
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.gates import Gates
from dynackd.deploy.validation import Validation, load_validation, torch_predictor
from dynackd.errors import UserError
from dynackd.families.table import FAMILIES, max_positions
from dynackd.grid import Grid, read_subnet
from dynackd.onnx.graphs import GRAPHS, Fixed, OnnxModel, Shape, example_batch, export_onnx, parity, parity_shapes
from dynackd.onnx.quantize import VARIANTS, Variant
from dynackd.students.cutting import cut
from dynackd.subnet import FULL, Layer, Subnet, SubnetSpec
from dynackd.supernet.cost import FlopCounter, count_parameters
from dynackd.supernet.network import Origin, Supernet
from dynackd.system.places import write_json
from dynackd.tasks.task import resolve_task

SPEC = SubnetSpec(0.5, 0.5)
# Their scores have another addend, which ONNX Runtime's Attention node knows nothing of: they stay as they are.
RELATIVE = {"deberta-v2", "mpnet"}


@pytest.fixture
def supernet(family, grid):
    return Supernet(tiny_model(family, num_labels=3), grid).eval()


def test_a_student_directory_loads_bit_for_bit_and_holds_what_it_promises(supernet, tokenizer, tmp_path):
    about = export_student(supernet, tokenizer, SPEC, tmp_path / "student")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    with torch.no_grad():
        expected = supernet(SPEC, **tiny_batch()).outputs["logits"]
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


UNEVEN = Subnet((Layer(0, 1, 40), Layer(2, 4, 7), Layer(3, 2, 13)), 32)


def test_layers_with_sizes_of_their_own_are_exported_with_the_same_parity(supernet, tokenizer, tmp_path):
    about = export_student(supernet, tokenizer, UNEVEN, tmp_path / "s", options=ExportOptions(variants=("int8",)))
    assert about["parity_max_abs_diff"] < 1e-5
    assert (about["heads"], about["neurons"], about["layers"]) == ([1, 4, 2], [40, 7, 13], [0, 2, 3])
    assert read_subnet(write(tmp_path / "again.json", about["subnet"]), supernet.geometry) == UNEVEN
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    with torch.no_grad():
        expected = supernet(UNEVEN, **tiny_batch()).outputs["logits"]
        torch.testing.assert_close(loaded(**tiny_batch()).logits, expected, atol=1e-6, rtol=0)
    card = (tmp_path / "s" / "README.md").read_text()
    assert "with a size for each layer" in card
    assert f"| heads per layer | 1, 4, 2 of size {supernet.geometry.head_size} | 4 |" in card


def write(file, content):
    file.write_text(json.dumps(content))
    return file


def test_parameters_and_flops_are_those_of_the_sliced_student(supernet):
    from torch.utils.flop_counter import FlopCounterMode

    flops = FlopCounter(supernet)
    for subnet in (*map(supernet.resolve, (FULL, SPEC, SubnetSpec(0.25, 0.75))), UNEVEN):
        student = cut(supernet, subnet)
        assert count_parameters(supernet, subnet) == sum(p.numel() for p in student.parameters())
        student.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            student(input_ids=torch.ones(1, 11, dtype=torch.long))
        assert flops.count(subnet, 11) == counter.get_total_flops()


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
    honest = dynackd.deploy.export.export_onnx

    def wrong(model, names, file, *more):
        changed = cut(supernet, supernet.resolve(SPEC))
        with torch.no_grad():
            next(p for name, p in changed.named_parameters() if "classifier" in name).add_(0.01)
        honest(changed, names, file, *more)

    monkeypatch.setattr(dynackd.deploy.export, "export_onnx", wrong)
    with pytest.raises(UserError, match=r"differs from the torch student by .* was not written"):
        export_student(supernet, tokenizer, SPEC, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def prices(grid):
    """A regression whose outputs are in the thousands, as prices are: float32's own spacing there is 1e-4."""
    model = tiny_model(num_labels=1)
    model.config.problem_type = "regression"
    with torch.no_grad():
        model.classifier.weight.mul_(3000)
    return Supernet(model, grid)


@pytest.mark.parametrize("options", [ExportOptions(), ExportOptions(compat=True)], ids=["graph", "compat"])
def test_large_outputs_are_compared_by_their_size(prices, tokenizer, tmp_path, options):
    about = export_student(prices, tokenizer, SubnetSpec(1, 0.5), tmp_path / "student", options=options)
    largest = prices(SubnetSpec(1, 0.5), **tiny_batch()).outputs["logits"].abs().max()
    assert largest > 500
    assert about["parity_max_abs_diff"] <= 1e-5 * largest


def test_large_outputs_that_differ_are_refused(prices, tokenizer, tmp_path, monkeypatch):
    honest = dynackd.deploy.export.export_onnx

    def wrong(model, names, file, *more):
        changed = cut(prices, prices.resolve(SPEC))
        with torch.no_grad():
            changed.classifier.bias.add_(1)
        honest(changed, names, file, *more)

    monkeypatch.setattr(dynackd.deploy.export, "export_onnx", wrong)
    with pytest.raises(UserError, match=r"differs from the torch student by 1\.0e\+00, more than [1-9]e-02"):
        export_student(prices, tokenizer, SPEC, tmp_path / "student")


def test_a_student_whose_own_outputs_are_nan_is_told_as_such(grid, tokenizer, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite numbers in torch either"):
        export_student(Supernet(model, grid), tokenizer, SPEC, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_opset_is_the_files_own(grid, tokenizer, tmp_path, graph):
    supernet = Supernet(tiny_model(), grid)
    about = export_student(supernet, tokenizer, SPEC, tmp_path / "student", options=ExportOptions(graph=graph))
    needed = {own.domain: own.version for own in onnx.load(str(tmp_path / "student/onnx/model.onnx")).opset_import}
    assert about["opset"] == needed[""]
    assert f"opset {needed['']}" in (tmp_path / "student" / "README.md").read_text()


def test_a_graph_that_gives_nan_is_no_match(tmp_path):
    model = tiny_model()
    names = ["input_ids", "attention_mask"]
    broken = tiny_model()
    with torch.no_grad():
        broken.classifier.bias.fill_(float("nan"))
    export_onnx(broken, names, tmp_path / "model.onnx")
    assert not parity(model, names, 16, tmp_path / "model.onnx") <= 1e-4


@pytest.mark.parametrize("length", [1, 7, 48])
def test_a_graph_that_gives_nan_at_one_length_is_no_match(tmp_path, monkeypatch, length):
    """Wherever that comes among the shapes: behind a NaN no number is larger, nor smaller."""
    model, names, whole = tiny_model(), ["input_ids", "attention_mask"], OnnxModel.__call__
    export_onnx(model, names, tmp_path / "model.onnx")

    def at_one(graph, batch):
        found = whole(graph, batch)
        return {name: own * np.nan if batch["input_ids"].shape[1] == length else own for name, own in found.items()}

    assert parity(model, names, 48, tmp_path / "model.onnx") <= 1e-4
    monkeypatch.setattr(OnnxModel, "__call__", at_one)
    assert np.isnan(parity(model, names, 48, tmp_path / "model.onnx"))


def test_a_student_is_not_overwritten_unasked(tokenizer, grid, tmp_path):
    supernet = Supernet(tiny_model(), grid)
    export_student(supernet, tokenizer, SPEC, tmp_path / "student")
    before = (tmp_path / "student" / "export.json").read_bytes()
    with pytest.raises(UserError, match="add --overwrite"):
        export_student(supernet, tokenizer, FULL, tmp_path / "student")
    assert (tmp_path / "student" / "export.json").read_bytes() == before
    export_student(supernet, tokenizer, FULL, tmp_path / "student", overwrite=True)
    assert json.loads((tmp_path / "student" / "export.json").read_text())["width"] == 1.0


# --- smaller files, gated --------------------------------------------------------------------------------------------


@pytest.fixture
def net(grid):
    return Supernet(tiny_model(), grid).eval()


@pytest.fixture
def validation(net, tokenizer, tmp_path):
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "v.tsv", 40, 2)
    task = resolve_task({"kind": "classification", "text": "sentence", "label": "label"})
    source = resolve_source({"validation": str(tmp_path / "rows" / "v.tsv"), "max_length": 16}, task.hub)
    return load_validation(task, source, net.model, tokenizer)


def wrecked(source, file):
    """A variant whose classifier gives the other answer."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("classifier.weight", "classifier.bias")):
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, str(file))


def not_a_number(source, file):
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classifier.bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(2, np.nan, np.float32), tensor.name))
    onnx.save(model, str(file))


def put(monkeypatch, write):
    monkeypatch.setitem(VARIANTS, "int8", Variant("onnx/model_quantized.onnx", write))


@pytest.mark.parametrize("graph", ["plain", "fused"])
def test_the_graphs_of_every_family_pass_parity_and_make_smaller_files(supernet, tokenizer, tmp_path, graph, family):
    options = ExportOptions(variants=("int8", "fp16"), graph=graph)
    about = export_student(supernet, tokenizer, SPEC, tmp_path / "student", options=options)
    assert about["graph"] == graph
    assert about["parity_max_abs_diff"] <= 1e-5
    assert about["files"]["onnx/model_fp16.onnx"]["max_abs_diff"] < 0.05
    operators = [node.op_type for node in onnx.load(tmp_path / "student" / "onnx" / "model.onnx").graph.node]
    norm = "SkipSimplifiedLayerNormalization" if family == "eurobert" else "SkipLayerNormalization"
    assert (norm in operators) == (graph == "fused")
    fused = graph == "fused" and family not in RELATIVE and not FAMILIES[family].rotary
    assert operators.count("Attention") == (len(about["layers"]) if fused else 0)
    quantised = onnx.load(tmp_path / "student" / "onnx" / "model_quantized.onnx").graph
    table = next(tensor for tensor in quantised.initializer if tensor.name.endswith("_int8"))
    assert len(onnx.numpy_helper.to_array(table)) == 27  # the word embeddings, a row for each word
    assert any(node.op_type == "MatMulInteger" for node in quantised.node)


@pytest.mark.parametrize("graph", ["plain", "fused"])
def test_layers_with_different_heads_are_right(family, graph, tmp_path):
    student = uneven_student(family)
    export_onnx(student, ["input_ids", "attention_mask"], tmp_path / "model.onnx", graph=graph)
    assert parity(student, ["input_ids", "attention_mask"], 48, tmp_path / "model.onnx") <= 1e-5


def test_the_dynamo_graph_passes_parity_and_makes_smaller_files(net, tokenizer, tmp_path):
    options = ExportOptions(variants=("int8", "fp16"), graph="dynamo")
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options)
    assert about["parity_max_abs_diff"] <= 1e-5
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_fp16.onnx"} <= set(about["files"])


def test_eight_bit_embeddings_have_a_scale_for_each_row(net, tokenizer, tmp_path):
    with torch.no_grad():
        net.model.bert.embeddings.word_embeddings.weight[7] *= 100  # one scale for all would lose the other words
    export_student(net, tokenizer, SPEC, tmp_path / "s", options=ExportOptions(variants=("int8",)))
    model = onnx.load(tmp_path / "s" / "onnx" / "model_quantized.onnx")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    table = next(v for name, v in values.items() if name.endswith("_int8")).astype(np.float32)
    restored = table * next(v for name, v in values.items() if name.endswith("embeddings.weight_scale"))
    original = net.model.bert.embeddings.word_embeddings.weight.detach().numpy()
    error = np.abs(restored - original).max(axis=1)
    assert (error <= np.abs(original).max(axis=1) / 254 + 1e-6).all()


def test_each_file_is_judged_on_the_validation_rows(net, tokenizer, validation, tmp_path):
    options = ExportOptions(variants=("int8", "fp16"), gates=Gates(1.0))
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options, validation=validation)
    outputs = validation.outputs(torch_predictor(cut(net, net.resolve(SPEC)), validation.task.kind), 8)
    assert about["metrics"]["student"] == validation.metrics(outputs) == about["files"]["onnx/model.onnx"]["metrics"]
    for name in ("onnx/model_quantized.onnx", "onnx/model_fp16.onnx"):
        facts = about["files"][name]
        before = about["metrics"]["student"]["accuracy"]
        assert facts["drop"] == pytest.approx(before - facts["metrics"]["accuracy"])
        assert 0 <= facts["agreement"] <= 1
    card = (tmp_path / "s" / "README.md").read_text()
    assert "On 40 validation rows" in card
    assert f"| student | {about['metrics']['student']['accuracy']:.4f} |" in card


def test_a_file_that_loses_too_much_is_left_out_and_the_rest_is_written(
    net, tokenizer, validation, tmp_path, monkeypatch
):
    put(monkeypatch, wrecked)
    # Labels that the student gets right: the other answer loses everything.
    logits = validation.outputs(torch_predictor(cut(net, net.resolve(SPEC)), validation.task.kind), 8)[""]["logits"]
    order = np.argsort(np.asarray(validation.rows[""]["length"][:]), kind="stable")[::-1]
    labels = np.empty(len(order), dtype=np.int64)
    labels[order] = logits.argmax(-1)
    rows = validation.rows[""].remove_columns("labels").add_column("labels", labels)
    validation = Validation(validation.task, {"": rows}, tokenizer)
    options = ExportOptions(variants=("int8", "fp16"))
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options, validation=validation)
    assert "of accuracy, more than --max-drop 0.01" in about["refused"]["onnx/model_quantized.onnx"]["reason"]
    assert not (tmp_path / "s" / "onnx" / "model_quantized.onnx").exists()
    assert "onnx/model_fp16.onnx" in about["files"]
    assert "model_quantized" not in (tmp_path / "s" / "README.md").read_text()


def test_a_file_that_gives_nan_is_left_out_without_validation_too(net, tokenizer, tmp_path, monkeypatch):
    put(monkeypatch, not_a_number)
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=ExportOptions(variants=("int8",)))
    assert about["refused"]["onnx/model_quantized.onnx"]["reason"] == "its outputs are not finite numbers"
    assert json.loads((tmp_path / "s" / "export.json").read_text()) == about


def test_a_file_that_gives_nan_for_texts_alone_is_left_out_and_the_others_are_written(
    net, tokenizer, validation, tmp_path, monkeypatch
):
    """As half precision overflows on real texts and not on random ids."""
    whole = dynackd.deploy.export._outputs

    def overflowed(file, rows):
        found = whole(file, rows)
        if file.name == "model_fp16.onnx":
            next(iter(found[""].values()))[3] = np.nan
        return found

    monkeypatch.setattr(dynackd.deploy.export, "_outputs", overflowed)
    options = ExportOptions(variants=("fp16", "int8"), gates=Gates(max_drop=1.0))
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options, validation=validation)
    assert about["refused"] == {"onnx/model_fp16.onnx": {"reason": "its outputs are not finite numbers"}}
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx"} <= set(about["files"])
    assert not (tmp_path / "s" / "onnx" / "model_fp16.onnx").exists()


def test_a_drop_that_is_no_number_passes_no_gate():
    assert Gates().refusal({"max_abs_diff": 0.1, "drop": float("nan")}, "pearson") is not None
    assert Gates().refusal({"max_abs_diff": 0.1, "drop": 0.01}, "pearson") is None
    assert Gates().refusal({"max_abs_diff": 0.1}, "pearson") is None


def test_a_metric_where_less_is_better_drops_when_it_grows():
    task = resolve_task({"kind": "regression", "text": "a", "label": "b", "metrics": ["mse"]})
    both = Validation(task, {"": None, "_mm": None}, None)
    assert both.drop({"mse": 1.0, "mse_mm": 1.0}, {"mse": 0.9, "mse_mm": 1.2}) == pytest.approx(0.2)


# --- sizes that are fixed, and figures -------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", list(GRAPHS))
@pytest.mark.parametrize("fixed", [Fixed(2, 16), Fixed(None, 16), Fixed(1, None)])
def test_fixed_sizes_are_fixed_in_the_graph(net, tokenizer, validation, tmp_path, fixed, graph):
    options = ExportOptions(fixed=fixed, graph=graph)
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options, validation=validation)
    assert (about["static_batch"], about["static_length"]) == (fixed.batch_size, fixed.length)
    model = onnx.load(tmp_path / "s" / "onnx" / "model.onnx")
    for node in model.graph.input:
        sizes = [dim.dim_value or None for dim in node.type.tensor_type.shape.dim]
        assert sizes == [fixed.batch_size, fixed.length]
    predict = torch_predictor(cut(net, net.resolve(SPEC)), validation.task.kind)
    assert about["metrics"]["student"] == validation.metrics(validation.outputs(predict, 8))


def test_sizes_that_no_input_has_are_refused(net, tokenizer, tmp_path):
    for fixed, message in (
        (Fixed(0), "--static-batch is 0"), (Fixed(None, 49), "beyond the 48 tokens"),
        (Fixed(None, 2), "--static-length 2 leaves no room for a text; it takes 3 or more"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            export_student(net, tokenizer, SPEC, tmp_path / "s", options=ExportOptions(fixed=fixed))
    with pytest.raises(UserError, match="--max-drop is nan"):
        Gates(float("nan"))
    assert not (tmp_path / "s").exists()


def test_the_fastest_graph_that_passes_parity_is_chosen_and_the_figures_recorded(
    net, tokenizer, tmp_path, monkeypatch
):
    p50_ms = {"plain": 3.0, "dynamo": 1.0, "fused": 2.0}
    honest = GRAPHS["plain"]

    def wrong(model, names, file, fixed):
        honest(tiny_model(seed=9), names, file, fixed)

    def measured(paths, runtimes, threads, batch_sizes, lengths, repeats, warmup):
        return {"rows": [
            {"path": path, "length": length, "latency_ms": {"p50": p50_ms[Path(path).stem]}}
            for path in paths for length in lengths
        ]}

    monkeypatch.setitem(GRAPHS, "dynamo", wrong)
    monkeypatch.setattr(dynackd.deploy.export, "benchmark", measured)
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=ExportOptions(graph="fastest"))
    assert about["graph"] == "fused"
    assert about["graphs"]["plain"]["p50_ms"] == {"32": 3.0, "48": 3.0}
    assert about["graphs"]["dynamo"]["max_abs_diff"] > 1e-4
    assert about["parity_max_abs_diff"] <= 1e-5


def test_the_card_holds_the_latencies_and_the_licence_when_they_are_known(net, tokenizer, tmp_path):
    teacher = tmp_path / "teacher"
    tiny_model().save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    (teacher / "README.md").write_text("---\nlicense: mit\n---\n# A teacher\n")
    net.origin = Origin("depth", str(teacher))
    options = ExportOptions(variants=("int8",), measure=True)
    about = export_student(net, tokenizer, SPEC, tmp_path / "s", options=options)
    runs = [(path, runtime) for path in ("teacher", "student") for runtime in ("torch", "onnxruntime")]
    runs.append(("onnx/model_quantized.onnx", "onnxruntime"))
    rows = [(row["path"], row["runtime"], row["length"]) for row in about["latency"]["rows"]]
    assert sorted(rows) == sorted((*run, length) for run in runs for length in (32, 48))
    card = (tmp_path / "s" / "README.md").read_text()
    assert about["latency"]["machine"] in card
    assert "license: mit" in card
    assert about["licence"] == "mit"


NO_LICENCE = ["", "# no head", "---\nlicense: [a, b]\n---\n", "---\n{: bad\n---\n", "---\nnever closed"]


@pytest.mark.parametrize("text", NO_LICENCE)
def test_a_card_that_states_no_licence_is_no_mistake(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert licence_of([None, "/no/such/place", tmp_path]) is None


STATED = ["\ufeff---\nlicense: mit\n---\n", "--- \nlicense: mit\n---\t\n# x", "---\r\nlicense: mit\r\n---\r\n"]


@pytest.mark.parametrize("text", STATED)
def test_a_licence_is_found_however_the_card_is_written(tmp_path, text):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert licence_of([tmp_path]) == "mit"


def test_a_quote_in_the_directorys_name_breaks_no_snippet(grid, tokenizer, tmp_path):
    place = tmp_path / "bob's \"x\" student"
    export_student(Supernet(tiny_model(), grid), tokenizer, SPEC, place)
    card = (place / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) > 1
    for block in blocks:
        compile(block, "snippet", "exec")
    named = re.findall(r'pipeline\("text-classification", (".*student")', card)
    (loaded,) = {ast.literal_eval(found) for found in named}
    assert loaded == place.name
    assert "'bob's" not in card.replace(f"# {place.name}", "")


def test_a_row_of_metrics_without_sizes_is_of_no_sub_network(grid, tmp_path):
    net = Supernet(tiny_model(), grid)
    write_json(tmp_path / "metrics.json", {"subnetworks": [{"width": 1}], "teacher": {"metrics": {}}})
    assert known_metrics(tmp_path, net, net.whole) == {}


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A supernet's directory with its recipe and evaluation."""
    directory = tmp_path_factory.mktemp("export-cli")
    content = tiny_recipe(directory)
    teacher = tiny_model()
    net = Supernet(teacher, Grid((1.0, 0.5), (1.0, 0.5)), Origin("depth", None))
    net.save(directory / "depth", tiny_tokenizer())
    write_recipe(directory / "depth", {**content, "output_dir": str(directory)})
    rows = []
    for spec in net.grid.specs():
        heads, neurons = net.resolve(spec).sizes
        sizes = {"heads": heads, "neurons": neurons, "layers": list(net.resolve(spec).indices)}
        metrics = {"accuracy": spec.width * spec.depth}
        rows.append({"width": spec.width, "depth": spec.depth, **sizes, "metrics": metrics})
    write_json(directory / "depth" / "metrics.json", {"teacher": {"metrics": {"accuracy": 0.9}}, "subnetworks": rows})
    return directory


def export(road, place, *arguments):
    sizes = ["--width", "0.5", "--depth", "0.5", "--output", str(place)]
    return main(["export", str(road / "depth"), *sizes, *map(str, arguments)])


def test_the_command_cuts_what_a_file_says_and_tells_whether_that_was_trained(road, tmp_path, capsys):
    net = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5)))
    for name, subnet, told in (
        ("mine", UNEVEN, "this network was not trained; the nearest trained one is (width 0.5, depth 1)"),
        ("half", net.resolve(SPEC), "the same network as (width 0.5, depth 0.5), which was trained"),
    ):
        spec = write(tmp_path / f"{name}.json", subnet.to_dict())
        assert main(["export", str(road / "depth"), "--spec", str(spec)]) == 0
        assert told in " ".join(capsys.readouterr().out.split())
        about = json.loads((road / "students" / name / "export.json").read_text())
        assert about["subnet"] == subnet.to_dict()


def test_the_command_validates_the_smaller_files_on_the_recipes_data(road, tmp_path, capsys):
    assert export(road, tmp_path / "s", "--int8", "--fp16", "--max-drop", "1") == 0
    about = json.loads((tmp_path / "s" / "export.json").read_text())
    assert about["metrics"]["rows"] == "On 24 validation rows"
    assert "drop" in about["files"]["onnx/model_quantized.onnx"]
    assert (about["task"], about["data"]) == ("custom", "train.tsv")
    printed = " ".join(capsys.readouterr().out.split())
    assert "onnx/model_fp16.onnx:" in printed
    assert ", metric " in printed


def test_without_smaller_files_the_card_tells_what_the_supernet_was_evaluated_to(road, tmp_path):
    assert export(road, tmp_path / "s") == 0
    about = json.loads((tmp_path / "s" / "export.json").read_text())
    assert (about["metrics"]["student"]["accuracy"], about["metrics"]["teacher"]["accuracy"]) == (0.25, 0.9)
    assert "when the supernet was trained" in (tmp_path / "s" / "README.md").read_text()


def test_the_command_says_what_it_left_out_and_exits_with_2(road, tmp_path, capsys, monkeypatch):
    put(monkeypatch, not_a_number)
    assert export(road, tmp_path / "s", "--int8") == 2
    error = capsys.readouterr().err
    assert "onnx/model_quantized.onnx was left out of" in error
    assert error.count("\n") == 1
    assert (tmp_path / "s" / "export.json").is_file()


def test_missing_validation_data_are_told_with_the_way_out(road, tmp_path, capsys):
    assert export(road, tmp_path / "s", "--int8", "--set", "data.validation=/no/rows.tsv") == 2
    error = capsys.readouterr().err
    assert "/no/rows.tsv" in error
    assert "or --no-validation" in error
    assert not (tmp_path / "s").exists()
    assert export(road, tmp_path / "s", "--int8", "--no-validation") == 0
    assert "warning: without validation data" in " ".join(capsys.readouterr().out.split())
    assert "drop" not in json.loads((tmp_path / "s" / "export.json").read_text())["files"]["onnx/model_quantized.onnx"]


def test_the_command_writes_stock_checkpoints_code_and_fixed_sizes(road, tmp_path, capsys):
    assert export(road, tmp_path / "a", "--compat", "--static-length", 16, "--static-batch", 2) == 0
    assert "times the student's FLOPs" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "a" / "config.json").read_text())["model_type"] == "bert"
    assert export(road, tmp_path / "b", "--with-code") == 0
    assert (tmp_path / "b" / "modeling_dynackd.py").is_file()
    assert export(road, tmp_path / "c", "--compat", "--with-code") == 2


def test_sums_and_norms_of_an_integer_file_stay_apart_in_onnx_runtime_and_give_the_same(tmp_path):
    """One node of both is slow on the CPU, and does not shrink with the width."""
    student = cut(Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5))), Subnet((Layer(0, 2, 20), Layer(3, 2, 20)), 32))
    names = ["input_ids", "attention_mask"]
    export_onnx(student, names, tmp_path / "model.onnx")
    VARIANTS["int8"].write(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    joined = onnx.load(str(tmp_path / "int8.onnx"))
    sums = [node for node in joined.graph.node if node.op_type == "Sum"]
    assert len(sums) == 5  # after the embeddings, and twice in each of two layers
    for node in sums:
        node.op_type = "Add"
    onnx.save(joined, str(tmp_path / "joined.onnx"))
    batch = {name: tensor.numpy() for name, tensor in example_batch(Shape(3, 9), names, student).items()}
    outputs, operators = {}, {}
    for name in ("int8", "joined"):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), options, ["CPUExecutionProvider"])
        outputs[name] = session.run(None, batch)[0]
        operators[name] = {node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node}
    assert "SkipLayerNormalization" in operators["joined"] - operators["int8"]
    np.testing.assert_allclose(outputs["int8"], outputs["joined"], atol=1e-3)
