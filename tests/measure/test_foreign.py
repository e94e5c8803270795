"""Other people's models are measured as they are: graphs with inputs of other orders and types, weights in files of
their own, directories of sentence-transformers, directories of which dynackd knows the ONNX file alone."""

import json

import numpy as np
import onnx
import pytest
from conftest import tiny_model, tiny_tokenizer
from onnx import TensorProto, helper, numpy_helper

from dynackd.measure.latency import benchmark
from dynackd.measure.runtimes import example_feed
from dynackd.measure.sources import other_files, read_graph, source_of
from dynackd.onnx.graphs import DYNAMIC, Fixed, export_onnx

WORDS = 7


def foreign(file, kinds=(TensorProto.INT32, TensorProto.INT32), shape=("N", "L"), external=None, weights=np.float32):
    """A graph that reads mask, positions, types and words, in this order: [batch, length] of sums of embeddings."""
    tables = {"words": WORDS, "positions": 16, "types": 2}
    initializers = [numpy_helper.from_array(np.ones((rows, 1), weights), name) for name, rows in tables.items()]
    ids = {"positions": "position_ids", "types": "token_type_ids", "words": "input_ids"}
    names = ["attention_mask", *ids.values()]
    nodes = [helper.make_node("Gather", [table, name], [f"{table}_rows"]) for table, name in ids.items()]
    nodes += [
        helper.make_node("Sum", [f"{table}_rows" for table in ids], ["sum"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=helper.np_dtype_to_tensor_dtype(np.dtype(weights))),
        helper.make_node("Squeeze", ["sum", "last"], ["states"]),
        helper.make_node("Mul", ["states", "mask"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kinds[name == "input_ids"], shape) for name in names],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(weights)), None)],
        [*initializers, numpy_helper.from_array(np.array([2]), "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = {"save_as_external_data": True, "location": external, "size_threshold": 50} if external else {}
    onnx.save(model, str(file), **options)
    return str(file)


def run(*paths, runtimes=("onnxruntime",), length=5, batch_size=2):
    return benchmark(paths, runtimes, 1, [batch_size], [length], 1, 1)


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.client)])
def test_inputs_in_another_order_and_of_another_type_are_fed(tmp_path, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    mixed = foreign(tmp_path / "mixed.onnx", kinds=(TensorProto.INT64, TensorProto.INT32))
    result = run(foreign(tmp_path / "f.onnx"), mixed, runtimes=[runtime])
    assert [row["path"].rpartition("/")[2] for row in result["rows"]] == ["f.onnx", "mixed.onnx"]
    assert result["left_out"] == []


def test_a_feed_is_of_the_inputs_types_and_of_texts_without_padding():
    inputs = [("position_ids", np.dtype("int32")), ("attention_mask", np.dtype("float32")),
              ("input_ids", np.dtype("int64")), ("token_type_ids", np.dtype("int32"))]  # fmt: skip
    feed = example_feed(inputs, 2, 3, WORDS)
    assert list(feed) == [name for name, _ in inputs]
    assert {name: array.dtype for name, array in feed.items()} == dict(inputs)
    assert feed["position_ids"].tolist() == [[0, 1, 2]] * 2
    assert feed["attention_mask"].tolist() == [[1, 1, 1]] * 2
    assert feed["token_type_ids"].tolist() == [[0, 0, 0]] * 2
    assert feed["input_ids"].shape == (2, 3)
    assert 0 <= feed["input_ids"].min() <= feed["input_ids"].max() < WORDS


def test_weights_in_a_file_beside_the_graph_are_read(tmp_path):
    file = foreign(tmp_path / "f.onnx", external="f.weights")
    assert (tmp_path / "f.weights").is_file()
    assert len(run(file)["rows"]) == 1


def test_sizes_that_a_graph_fixes_and_its_precision_are_seen(tmp_path):
    assert read_graph(tmp_path / foreign(tmp_path / "a.onnx")).fixed == DYNAMIC
    assert read_graph(tmp_path / foreign(tmp_path / "b.onnx", shape=("N", 8))).fixed == Fixed(None, 8)
    half = read_graph(tmp_path / foreign(tmp_path / "c.onnx", shape=(1, 8), weights=np.float16))
    assert (half.fixed, half.precision) == (Fixed(1, 8), "fp16")


def test_a_length_that_only_the_runtime_refuses_is_left_out_and_told(tmp_path):
    file = foreign(tmp_path / "f.onnx")  # 16 positions, which no config tells
    result = benchmark([file], ["onnxruntime"], 1, [1], [5, 17, 40], 1, 1)
    assert [row["length"] for row in result["rows"]] == [5]
    (told,) = result["left_out"]
    assert told.startswith(f"{file} cannot run in onnxruntime on cpu: ")
    assert told.endswith("(batch x length 1x17, 1x40)")


def test_a_directory_whose_architecture_is_unknown_is_measured_by_its_onnx_file(tmp_path):
    """ALBERT, say; torch is left out and the reason told."""
    (tmp_path / "onnx").mkdir()
    foreign(tmp_path / "onnx" / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "albert", "vocab_size": WORDS}))
    result = run(str(tmp_path), runtimes=("torch", "onnxruntime"))
    assert [(row["path"], row["runtime"]) for row in result["rows"]] == [(str(tmp_path), "onnxruntime")]
    (told,) = result["left_out"]
    assert "'albert' is not supported" in told


# --- sentence-transformers -------------------------------------------------------------------------------------------


def by_hand(place, folder):
    """A directory as older versions wrote it, the Transformer in a folder of its own."""
    names = ["input_ids", "attention_mask"]
    tiny_model().base_model.save_pretrained(place / folder)
    tiny_tokenizer().save_pretrained(place / folder)
    kinds = {"Transformer": folder, "Pooling": "1_Pooling"}
    modules = [{"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for index, (kind, path) in enumerate(kinds.items())]  # fmt: skip
    (place / "modules.json").write_text(json.dumps(modules))
    return names


@pytest.mark.parametrize(("folder", "onnx_place"), [("0_Transformer", "onnx"), ("0_Transformer", "0_Transformer/onnx")])
def test_an_embedder_whose_transformer_has_a_folder_of_its_own_is_found(tmp_path, folder, onnx_place):
    names = by_hand(tmp_path, folder)
    for name in ("model.onnx", "model_O3.onnx"):
        export_onnx(tiny_model().base_model, names, tmp_path / onnx_place / name)
    source = source_of(str(tmp_path))
    assert source.directory == str(tmp_path / folder)
    assert source.graph.file == str(tmp_path / onnx_place / "model.onnx")
    assert source.positions == 48
    assert other_files(str(tmp_path)) == [str(tmp_path / onnx_place / "model_O3.onnx")]


@pytest.mark.client
def test_an_embedder_of_sentence_transformers_is_measured_in_torch_and_as_onnx(tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    tiny_model().base_model.save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    parts = [modules.Transformer(str(tmp_path / "encoder")), modules.Pooling(32)]
    library.SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "embedder"))
    assert (tmp_path / "embedder" / "modules.json").is_file()
    result = run(str(tmp_path / "embedder"), runtimes=("torch", "onnxruntime"))
    assert [row["runtime"] for row in result["rows"]] == ["torch", "onnxruntime"]
    assert result["left_out"] == []
