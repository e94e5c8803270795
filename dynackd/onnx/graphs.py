"""ONNX graphs of models: how one is written, which inputs it takes, and how far it is from the torch model.

A way of writing a graph is one function, one line in `GRAPHS`, and its name in `choices.py`.
"""

import copy
import inspect
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynackd.errors import UserError
from dynackd.families.table import geometry_of, max_positions
from dynackd.tasks.kind import Kind
from dynackd.tasks.kinds import kind_of

OPSET = 17
INPUT_ORDER = ("input_ids", "attention_mask", "token_type_ids")
ONNX_FILE = "onnx/model.onnx"
MAX_ABS_DIFF, MAX_RELATIVE_DIFF = 1e-4, 1e-5  # of a float32 graph's outputs from torch's; of the largest of these
LONGEST_COMPARED = 1024  # tokens; attention over 8192 would take 10 GB


@dataclass(frozen=True)
class Shape:
    """One shape at which ONNX is compared with torch; `padding` says which places of the later rows are padding."""

    batch_size: int
    length: int
    padding: str = "right"


@dataclass(frozen=True)
class Fixed:
    """The sizes of a graph's inputs that are fixed, for devices that need them; None is dynamic."""

    batch_size: int | None = None
    length: int | None = None

    def axes(self, names: Sequence[str] = ("batch", "length")) -> dict[int, str]:
        """The dynamic ones of a tensor's axes, an input's by default: index -> name in the graph."""
        sizes = {"batch": ("batch_size", self.batch_size), "length": ("sequence_length", self.length)}
        known = {axis: sizes[name] for axis, name in enumerate(names) if name in sizes}
        return {axis: name for axis, (name, size) in known.items() if size is None}


DYNAMIC = Fixed()
Feed = dict[str, np.ndarray]
Exporter = Callable[[PreTrainedModel, list[str], Path, Fixed], None]


class _Function(nn.Module):
    """The model as a function of positional tensors, which is what the exporters trace; gives its kind's outputs."""

    def __init__(self, model: PreTrainedModel, names: list[str], kind: Kind) -> None:
        super().__init__()
        self.model, self.names, self.kind = model, names, kind

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        batch = dict(zip(self.names, tensors, strict=True))
        return tuple(self.kind.read(self.model(**batch), batch, self.model.config).values())


def kind_of_model(model: PreTrainedModel) -> Kind:
    """The kind of task that a loaded model is for."""
    return kind_of(model.config, type(model).__name__)


def input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokenizer's outputs that the model reads, in the order in which the graph takes them."""
    accepted = inspect.signature(model.forward).parameters
    return [name for name in INPUT_ORDER if name in tokenizer.model_input_names and name in accepted]


def max_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input in tokens that both the model and the tokenizer take."""
    return min(max_positions(model.config), tokenizer.model_max_length)


# --- writing ---------------------------------------------------------------------------------------------------------


def export_plain(model: PreTrainedModel, names: list[str], file: Path, fixed: Fixed) -> None:
    """torch's tracing exporter over eager attention: standard operators only, and ten times as fast as dynamo's."""
    # Batch 2, length 3: sizes of 1 could be traced as constants.
    example = _example(names, fixed, Shape(2, 3))
    outputs = {output.name: fixed.axes(output.axes) for output in kind_of_model(model).outputs}
    axes = {name: fixed.axes() for name in names} | outputs
    _onnx_export(model, names, example, file, opset_version=OPSET, dynamic_axes=axes, dynamo=False)


def export_dynamo(model: PreTrainedModel, names: list[str], file: Path, fixed: Fixed) -> None:
    """torch's exporter over `torch.export`: ten times as slow, its graphs no faster."""
    example = _example(names, fixed, Shape(2, 8))
    shape = dict.fromkeys(fixed.axes(), torch.export.Dim.DYNAMIC)
    options = {"dynamic_shapes": {"tensors": tuple(shape for _ in names)}, "external_data": False, "verbose": False}
    _onnx_export(model, names, example, file, opset_version=20, dynamo=True, **options)


def export_fused(model: PreTrainedModel, names: list[str], file: Path, fixed: Fixed) -> None:
    """The plain graph after ONNX Runtime's transformer optimiser: Attention, LayerNorm and GELU as single nodes of
    ONNX Runtime's own, which no other runtime reads."""
    # Imported here: the optimiser takes a second to load.
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    head_size, heads = geometry_of(model.config).head_size, _most_heads(model)
    options = FusionOptions("bert")
    # Otherwise the mask becomes a count of leading tokens: wrong for padding on the left and in the middle.
    options.use_raw_attention_mask(True)
    # The look-up of the words stays a node that `quantize` finds.
    options.enable_embed_layer_norm = False
    with tempfile.TemporaryDirectory() as directory, quiet():
        plain = Path(directory) / "plain.onnx"
        export_plain(model, names, plain, fixed)
        optimised = optimize_model(
            str(plain),
            model_type="bert",
            num_heads=heads,
            hidden_size=heads * head_size,
            optimization_options=options,
            opt_level=0,
        ).model
    weights = {tensor.name: tensor for tensor in optimised.graph.initializer}
    for node in optimised.graph.node:
        if node.op_type == "Attention":
            _set_heads(node, weights[node.input[1]], head_size)
    if all(opset.domain != "com.microsoft" for opset in optimised.opset_import):
        optimised.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(optimised, str(file))


GRAPHS: dict[str, Exporter] = {"plain": export_plain, "dynamo": export_dynamo, "fused": export_fused}


def _most_heads(model: PreTrainedModel) -> int:
    return max(getattr(model.config, "layer_heads", None) or [geometry_of(model.config).heads])


def _set_heads(node: onnx.NodeProto, weight: onnx.TensorProto, head_size: int) -> None:
    """Give a fused Attention node the number of heads that its own weight [hidden, 3 * heads * head size] holds: the
    optimiser writes one number into all of them, silently wrong where layers differ."""
    for attribute in node.attribute:
        if attribute.name == "num_heads":
            attribute.i = weight.dims[1] // (3 * head_size)


def _example(names: list[str], fixed: Fixed, shape: Shape) -> tuple[Tensor, ...]:
    size = (fixed.batch_size or shape.batch_size, fixed.length or shape.length)
    return tuple(torch.ones(size, dtype=torch.long) for _ in names)


def _onnx_export(
    model: PreTrainedModel, names: list[str], example: tuple[Tensor, ...], file: Path, **options: Any
) -> None:
    traced, kind = copy.deepcopy(model).eval(), kind_of_model(model)
    traced.set_attn_implementation("eager")
    outputs = [output.name for output in kind.outputs]
    with quiet():
        torch.onnx.export(
            _Function(traced, names, kind), example, str(file), input_names=names, output_names=outputs, **options
        )


def export_onnx(
    model: PreTrainedModel, names: list[str], file: Path, fixed: Fixed = DYNAMIC, graph: str = "plain"
) -> None:
    """Write the ONNX graph of a model, batch and length dynamic where `fixed` does not fix them, and check it
    with `onnx.checker`. `graph` is a name in `GRAPHS`.

    "plain" is the default because it is as fast or faster in ONNX Runtime as the others and every runtime reads it;
    all agree with torch to 1e-5.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    GRAPHS[graph](model, names, file, fixed)
    _forget_where(file)
    if graph != "fused":  # the checker does not know ONNX Runtime's own nodes
        onnx.checker.check_model(str(file), full_check=True)


def _forget_where(file: Path) -> None:
    """Take out what the exporters tell of how the graph came about: stack traces with this machine's directories."""
    model = onnx.load(str(file))
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    graphs = [model.graph, *model.functions]
    for holder in [part for graph in graphs for part in _parts(graph)]:
        holder.ClearField("doc_string")
        if "metadata_props" in holder.DESCRIPTOR.fields_by_name:
            holder.ClearField("metadata_props")
    onnx.save(model, str(file))


def _parts(graph: Any) -> Iterator[Any]:
    """A graph or function and everything in it that may carry notes."""
    yield graph
    for name in ("node", "input", "output", "value_info", "initializer"):
        yield from getattr(graph, name, ())


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' log lines and tracer warnings; whether a graph is right is decided by the comparison."""
    # The optimiser's modules log under their own names, which only the root has in common.
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- running ---------------------------------------------------------------------------------------------------------


class OnnxModel:
    """An ONNX file as a function from a batch to outputs by name, on one CPU thread unless told otherwise."""

    def __init__(self, file: Path, kind: Kind, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.names = [node.name for node in self._session.get_inputs()]
        self.outputs = kind.outputs
        batch_size, length = self._session.get_inputs()[0].shape
        self.fixed = Fixed(*(size if isinstance(size, int) else None for size in (batch_size, length)))

    def __call__(self, batch: Feed) -> Feed:
        """The outputs [rows, ...] of a batch of int64 arrays [rows, length]; where the graph's sizes are fixed, the
        batch is filled up to them, and what was filled up is left out of the outputs."""
        feed = {name: filled_up(batch[name], self.fixed) for name in self.names}
        rows, length = batch[self.names[0]].shape
        arrays = self._session.run([output.name for output in self.outputs], feed)
        kept = {"batch": rows, "length": length}
        return {
            output.name: np.asarray(array)[tuple(slice(kept.get(axis)) for axis in output.axes)]
            for output, array in zip(self.outputs, arrays, strict=True)
        }


def filled_up(array: np.ndarray, fixed: Fixed) -> np.ndarray:
    """An input [rows, length] with zeros (padding of the mask, token 0 of the ids) up to the fixed sizes.

    Rows that are all padding are harmless: every row is computed by itself.
    """
    rows, length = array.shape
    return np.pad(array, [(0, (fixed.batch_size or rows) - rows), (0, (fixed.length or length) - length)])


# --- comparing -------------------------------------------------------------------------------------------------------


def parity_shapes(longest: int, fixed: Fixed = DYNAMIC) -> list[Shape]:
    """Batch 1 and more; length 1, 7, 128 and the maximum, up to 1024; padding on the right, on the left and in the
    middle. A size that is fixed takes the place of all of its kind."""
    longest = min(longest, LONGEST_COMPARED)
    lengths = [fixed.length] if fixed.length else sorted({1, min(7, longest), min(128, longest), longest})
    batch_sizes = [fixed.batch_size] if fixed.batch_size else [1, 3]
    shapes = [Shape(batch_size, length) for length in lengths for batch_size in batch_sizes]
    return [*shapes, *(Shape(batch_sizes[-1], lengths[len(lengths) > 1], side) for side in ("left", "middle"))]


def example_batch(shape: Shape, names: Sequence[str], model: PreTrainedModel, seed: int = 0) -> dict[str, Tensor]:
    """A random batch of that shape, row i padded by a further i-th of its length."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    pad = config.pad_token_id or 0
    ids = torch.randint(config.vocab_size - 1, (shape.batch_size, shape.length), generator=generator)
    ids += ids >= pad  # every word but the padding, wherever that stands
    mask = torch.ones_like(ids)
    for row in range(1, shape.batch_size):
        padded = min(row * shape.length // (shape.batch_size + 1), shape.length - 1)
        start = {"right": shape.length - padded, "left": 0, "middle": 1}[shape.padding]
        mask[row, start : start + padded] = 0
    ids = ids.masked_fill(mask == 0, pad)
    types = torch.zeros_like(ids)
    if getattr(config, "type_vocab_size", 0) > 1:
        types[:, shape.length // 2 :] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: batch[name] for name in names}


def parity(model: PreTrainedModel, names: Sequence[str], longest: int, file: Path) -> float:
    """The largest absolute difference of the outputs between torch and ONNX Runtime (CPU)."""
    return compared(model, names, longest, file).difference


def allowed_difference(largest: float) -> float:
    """By how much float32 outputs of this size may differ and count as the same. A value of 1,800, as of a regression
    to prices, has a spacing of 1e-4 in itself."""
    return max(MAX_ABS_DIFF, MAX_RELATIVE_DIFF * largest)


class Compared(NamedTuple):
    """The largest absolute difference of outputs, and the largest that they may have; NaN where torch's own outputs
    are not finite."""

    difference: float
    allowed: float


@torch.no_grad()
def compared(model: PreTrainedModel, names: Sequence[str], longest: int, file: Path) -> Compared:
    """A graph's outputs (ONNX Runtime, CPU) beside torch's over `parity_shapes`.

    Not compared is what depends on a padding token where that sees nothing but padding, as in a window: its attention
    is anything, and differs between torch's own kernels. So of the outputs for each token the real ones count; and with
    padding on the left, where a classifier may read the first place, torch runs the attention that was traced.
    """
    kind, worst, largest = kind_of_model(model), 0.0, 0.0
    graph, traced = OnnxModel(file, kind), copy.deepcopy(model)
    traced.set_attn_implementation("eager")
    for shape in parity_shapes(longest, graph.fixed):
        batch = example_batch(shape, names, model)
        outputs = graph({name: tensor.numpy() for name, tensor in batch.items()})
        expected = kind.read((traced if shape.padding == "left" else model)(**batch), batch, model.config)
        for output in kind.outputs:
            found, theirs = outputs[output.name], expected[output.name].numpy()
            if output.axes[:2] == ("batch", "length"):
                real = batch["attention_mask"].numpy().astype(bool)
                found, theirs = found[real], theirs[real]
            worst = float(np.maximum(worst, np.abs(found - theirs).max()))  # Python's max() would drop a NaN
            largest = float(np.maximum(largest, np.abs(theirs).max()))
    return Compared(worst, allowed_difference(largest) if math.isfinite(largest) else math.nan)


def check_fixed(fixed: Fixed, longest: int) -> None:
    """Refuse (`UserError`) fixed sizes that no input fits."""
    for option, value in (("--static-batch", fixed.batch_size), ("--static-length", fixed.length)):
        if value is not None and value < 1:
            raise UserError(f"{option} is {value}; it must be 1 or more")
    if fixed.length is not None and fixed.length > longest:
        raise UserError(f"--static-length {fixed.length} is beyond the {longest} tokens that the model takes")


def opset_of(file: Path) -> int:
    """The version of ONNX's own operators that a graph needs."""
    return next(own.version for own in onnx.load(str(file)).opset_import if own.domain in ("", "ai.onnx"))


def initializer(model: onnx.ModelProto, name: str) -> np.ndarray | None:
    """A constant tensor of a graph, or None where there is none of that name."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    return None


def bytes_per_word(file: Path) -> int:
    """What a graph holds for each word of the vocabulary: a row of the tables that `input_ids` looks up, in bytes."""
    model = onnx.load(str(file))
    read = {node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input[1] == "input_ids"}
    tables = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name in read]
    return sum(table.nbytes // len(table) for table in tables)
