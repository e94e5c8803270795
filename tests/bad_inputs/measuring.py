"""Measuring: files that are no graphs of texts, runtimes that there are not, nothing that is left to be measured."""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bad_inputs import Bad

ONNX = "benchmark {d}/x.onnx"


def graph(inputs, node=("Identity", ["input_ids"], "")):
    """Write x.onnx with these (name, type, shape) and one node: (operator, inputs, domain)."""

    def change(directory: Path) -> None:
        operator, read, domain = node
        made = helper.make_graph(
            [helper.make_node(operator, read, ["y"], domain=domain)],
            "g",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info("y", inputs[0][1], None)],
        )
        opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
        onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), str(directory / "x.onnx"))

    return change


def external(location: str):
    """Write x.onnx whose words lie in another file, which there is not."""

    def change(directory: Path) -> None:
        words = TensorProto(name="words", data_type=TensorProto.FLOAT, dims=[3, 4])
        words.data_location = TensorProto.EXTERNAL
        words.external_data.add(key="location", value=location)
        made = helper.make_graph(
            [helper.make_node("Gather", ["words", "input_ids"], ["y"])],
            "g",
            [helper.make_tensor_value_info(*IDS)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [words],
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (directory / "x.onnx").write_bytes(model.SerializeToString())

    return change


def modules(content):
    return lambda directory: (directory / "encoder" / "modules.json").write_text(json.dumps(content))


IDS = ("input_ids", TensorProto.INT64, ["batch", "length"])
TEXTS = "input_ids, attention_mask, token_type_ids, position_ids, each [batch, length]"
TRANSFORMER = "sentence_transformers.models.Transformer"

CASES = [
    Bad(
        "no ONNX file in it",
        ONNX,
        "{d}/x.onnx is no ONNX file, or is damaged",
        lambda d: (d / "x.onnx").write_text("weights"),
    ),
    Bad(
        "a picture's graph",
        ONNX,
        f"{{d}}/x.onnx has an input 'pixel_values' ['batch', 3, 224, 224], and only texts can be measured: {TEXTS}",
        graph([("pixel_values", TensorProto.FLOAT, ["batch", 3, 224, 224])], ("Identity", ["pixel_values"], "")),
    ),
    Bad(
        "a graph that reads no words",
        ONNX,
        "{d}/x.onnx has no input input_ids, so that it reads no texts",
        graph([("attention_mask", TensorProto.INT64, ["batch", "length"])], ("Identity", ["attention_mask"], "")),
    ),
    Bad(
        "one text, not a batch",
        ONNX,
        "{d}/x.onnx has input_ids as int64 ['length']; expected int64 or int32 [batch, length]",
        graph([("input_ids", TensorProto.INT64, ["length"])]),
    ),
    Bad(
        "texts as strings",
        ONNX,
        "{d}/x.onnx has input_ids as string ['batch', 1]; expected int64 or int32 [batch, length]",
        graph([("input_ids", TensorProto.STRING, ["batch", 1])]),
    ),
    Bad(
        "an operator of a library",
        ONNX,
        "{d}/x.onnx uses the operator BertTokenizer of 'ai.onnx.contrib', which only a library of custom operators "
        "can run, and dynackd loads none",
        graph([IDS], ("BertTokenizer", ["input_ids"], "ai.onnx.contrib")),
    ),
    Bad(
        "weights left behind",
        ONNX,
        "{d}/x.onnx keeps weights in 'x.onnx.data', and {d} holds no such file",
        external("x.onnx.data"),
    ),
    Bad(
        "weights elsewhere",
        ONNX,
        "{d}/x.onnx keeps weights in '../run/secret', which is not beside it, and dynackd reads none there",
        external("../run/secret"),
    ),
    Bad(
        "modules that are none",
        "benchmark {d}/encoder",
        "{d}/encoder/modules.json is damaged: it is no list of modules with a type and a path",
        modules({"type": TRANSFORMER}),
    ),
    Bad(
        "a module outside",
        "benchmark {d}/encoder",
        "{d}/encoder/modules.json names the module '../run/teacher', which is not inside it",
        modules([{"type": TRANSFORMER, "path": "../run/teacher"}]),
    ),
    Bad(
        "texts that are too long for the model",
        "benchmark {d}/student --length 49 64",
        "{d}/student takes at most 48 tokens: length 49, 64 was left out",
    ),
    Bad(
        "a graph alone for torch",
        "benchmark {d}/student/onnx/model.onnx --runtime torch",
        "{d}/student/onnx/model.onnx does not run in torch",
    ),
    Bad("no threads", "benchmark {d}/student --threads 1 0", "--threads is 0; it must be 1 or more"),
    Bad(
        "a runtime that there is not",
        "benchmark {d}/student --runtime torch tensorrt",
        "the runtime 'tensorrt' is unknown; it is one of torch, torch-compile, onnxruntime, openvino",
    ),
]
