"""Smaller ONNX files made from the float32 one: 8-bit and 16-bit weights.

A way of making one is one function, one line in `VARIANTS`, and its option's in `choices.py`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dynackd.onnx.graphs import initializer, quiet


@dataclass(frozen=True)
class Variant:
    """A smaller file beside `model.onnx`, at the place where transformers.js and Optimum look for it.

    `write(source, file)` makes it from the float32 file. saturates: whether ONNX Runtime's products of it can saturate
    on an x86 processor without VNNI.
    """

    file: str
    write: Callable[[Path, Path], None]
    saturates: bool = False


def write_int8(source: Path, file: Path) -> None:
    """Dynamic 8-bit weights: attention and FFN products per output channel, word embeddings per row.

    ONNX Runtime would quantise the embedding table with a single scale. One scale per row (4 bytes a word) is nearer:
    MiniLM at width .5 on SST-2's 872 rows, mean difference of the logits .0479 against .0571 (.0491 with embeddings in
    float32), at 18.5 MB against 17.7 (53.5).
    The classifier stays in float32: it is small, and its error would be the output's.
    """
    _write_integers(source, file, reduce_range=False)


def write_int7(source: Path, file: Path) -> None:
    """As `write_int8`, but the products' weights are of 7 bits.

    Without VNNI, x86 processors add two products of a u8 and an s8 in 16 bits, which saturate: 255 * 127 * 2 is more
    than 32,767. With 7 bits (64 instead of 127) it is not. MiniLM, WNUT-17, 1,009 rows: mean difference of the logits
    .0157 against .0142, as fast, as large. Unsigned weights would do too, and took 1.5 times as long with VNNI.
    """
    _write_integers(source, file, reduce_range=True)


def _write_integers(source: Path, file: Path, reduce_range: bool) -> None:
    # Imported here: it takes a second to load.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as directory:
        products = Path(directory) / "products.onnx"
        with quiet():  # it advises to run ONNX Runtime's optimiser first
            quantize_dynamic(
                str(source),
                str(products),
                op_types_to_quantize=["MatMul", "Attention"],
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                # The types behind fused nodes are not inferred.
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
        model = onnx.load(str(products))
    quantize_word_embeddings(model)
    keep_sums_apart(model)
    onnx.save(model, str(file))


def keep_sums_apart(model: onnx.ModelProto) -> None:
    """Write the addition before each LayerNormalization as a Sum of two, which is the same, in place.

    ONNX Runtime 1.32 would otherwise make the two one node on the CPU, SkipLayerNormalization, which takes longer than
    both by themselves, and as long in a narrow student as in its teacher. `benchmarks/roads.py time --length 64` before
    and after on a quiet machine, (.5, .5) in int8: MiniLM 1.0 to 1.1 -> .8 ms, MPNet 6.3 -> 5.0 ms, the fp32 files as
    they were.
    """
    normed = {node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    for node in model.graph.node:
        if node.op_type == "Add" and node.output[0] in normed:
            node.op_type = "Sum"


def quantize_word_embeddings(model: onnx.ModelProto) -> None:
    """Turn the table [words, hidden] that `input_ids` looks up into int8 with one scale per row, in place.

    Standard operators only: row = float(Gather(int8 table)) * Gather(scales). A graph without such a look-up (the
    fused one) is left as it is.
    """
    graph = model.graph
    found = [node for node in graph.node if node.op_type == "Gather" and node.input[1] == "input_ids"]
    for node in found:
        name, result = node.input[0], node.output[0]
        table = initializer(model, name)
        if table is None or table.dtype != np.float32:
            continue
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rounded = np.rint(table / scale).astype(np.int8)
        position = list(graph.node).index(node)
        nodes = [
            helper.make_node("Gather", [f"{name}_int8", "input_ids"], [f"{name}_row"]),
            helper.make_node("Cast", [f"{name}_row"], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scale", "input_ids"], [f"{name}_row_scale"]),
            helper.make_node("Mul", [f"{name}_float", f"{name}_row_scale"], [result]),
        ]
        del graph.node[position]
        for offset, new in enumerate(nodes):
            graph.node.insert(position + offset, new)
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))
        graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))


def write_fp16(source: Path, file: Path) -> None:
    """16-bit floats, the logits in 32: half the size, for GPUs and browsers. A CPU computes in 32 bits anyway."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():  # it tells of each weight that is too small for 16 bits
        model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    onnx.save(model, str(file))


VARIANTS: dict[str, Variant] = {
    "int8": Variant("onnx/model_quantized.onnx", write_int8, saturates=True),
    "int7": Variant("onnx/model_int7.onnx", write_int7),
    "fp16": Variant("onnx/model_fp16.onnx", write_fp16),
}
