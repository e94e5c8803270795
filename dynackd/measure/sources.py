"""What a path that is to be measured holds: a student, a model, an embedder's directory, an ONNX file of anyone's."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import TensorProto
from transformers import PreTrainedConfig

from dynackd.errors import UserError, listed
from dynackd.families.table import max_positions
from dynackd.measure.runtimes import INPUTS, load_any, model_directory
from dynackd.onnx.graphs import DYNAMIC, ONNX_FILE, Fixed, export_onnx, input_names
from dynackd.onnx.quantize import VARIANTS
from dynackd.supernet.checkpoints import load_config
from dynackd.system.places import read_json

FLOAT32 = "fp32"
MODULES = "modules.json"  # of sentence-transformers, in the order in which they run
# Domains of operators that a runtime brings itself, and types that an input may have.
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
TYPES = {TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL}


@dataclass(frozen=True)
class Graph:
    """An ONNX file: the sizes of its inputs that are fixed, and the precision of its weights."""

    file: str
    fixed: Fixed = DYNAMIC
    precision: str = FLOAT32


@dataclass(frozen=True)
class Source:
    """A path as it was named, and what is measured of it.

    directory: what torch loads; graph: what the others do; config: of the model, where dynackd knows it. missing: why
    there is no directory where one was to be expected.
    """

    path: str
    directory: str | None = None
    graph: Graph | None = None
    config: PreTrainedConfig | None = field(default=None, compare=False)
    missing: str = ""

    @property
    def positions(self) -> int | None:
        """The longest input in tokens, as far as it is known."""
        return max_positions(self.config) if self.config else None


def source_of(path: str) -> Source:
    """What lies at a path; `UserError` where that is nothing to be measured."""
    place = Path(path)
    if place.is_file() and place.suffix == ".onnx":
        directory = model_directory(place)
        config, _ = _config(str(directory)) if directory else (None, "")
        return Source(path, graph=read_graph(place), config=config)
    directory = encoder_directory(place)
    file = main_file(place)
    if not (directory / "config.json").is_file():
        raise UserError(f"{path} is neither a model directory nor an .onnx file")
    config, missing = _config(str(directory))
    if missing and file is None:
        raise UserError(missing)
    graph = read_graph(file) if file else None
    return Source(path, None if missing else str(directory), graph, config, missing)


def _config(directory: str) -> tuple[PreTrainedConfig | None, str]:
    """The config, or why dynackd does not know it."""
    try:
        return load_config(directory), ""
    except UserError as error:
        return None, str(error)


def encoder_directory(place: Path) -> Path:
    """Where the Transformer of a sentence-transformers directory lies, else the directory itself."""
    if not (place / MODULES).is_file():
        return place
    modules = read_json(place / MODULES)
    try:
        found = [module["path"] for module in modules if module["type"].rpartition(".")[2] == "Transformer"]
        inside = place / found[0] if found else place
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{place}/{MODULES} is damaged: it is no list of modules with a type and a path") from error
    if not inside.resolve().is_relative_to(place.resolve()):
        raise UserError(f"{place}/{MODULES} names the module {found[0]!r}, which is not inside it")
    return inside


def _folders(place: Path) -> list[Path]:
    """Where a model directory may hold ONNX files: transformers.js and sentence-transformers look into `onnx`, Optimum
    beside the config."""
    directories = dict.fromkeys([encoder_directory(place), place])
    return [folder for directory in directories for folder in (directory / "onnx", directory)]


def main_file(place: Path) -> Path | None:
    """The ONNX file that stands for a model directory."""
    files = [folder / Path(ONNX_FILE).name for folder in _folders(place)]
    return next((file for file in files if file.is_file()), None)


def other_files(path: str) -> list[str]:
    """Every ONNX file of a model directory beside the one that is measured with it: smaller ones, optimised ones."""
    place = Path(path)
    if not place.is_dir():
        return []
    main = main_file(place)
    return [str(file) for folder in _folders(place) for file in sorted(folder.glob("*.onnx")) if file != main]


# --- ONNX files of anyone's -------------------------------------------------------------------------------------------


def read_graph(file: Path) -> Graph:
    """An ONNX file, read without running it; `UserError` for one that cannot be fed with texts, asks for a library of
    operators, or lacks its weights."""
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # whatever protobuf makes of another file
        raise UserError(f"{file} is no ONNX file, or is damaged") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]  # old files list weights, too
    for value in inputs:
        _check_input(file, value)
    if all(value.name != "input_ids" for value in inputs):
        raise UserError(f"{file} has no input input_ids, so that it reads no texts")
    _refuse_unknown_operators(file, model)
    _check_external_data(file, model)
    sizes = [[dim.dim_value or None for dim in value.type.tensor_type.shape.dim] for value in inputs]
    fixed = Fixed(*(next((size[axis] for size in sizes if size[axis]), None) for axis in (0, 1)))
    return Graph(str(file), fixed, _precision(file, model))


def _check_input(file: Path, value: Any) -> None:
    tensor = value.type.tensor_type
    sizes = [dim.dim_param or dim.dim_value or "?" for dim in tensor.shape.dim]
    if value.name not in INPUTS:
        raise UserError(
            f"{file} has an input {value.name!r} {sizes}, and only texts can be measured: {listed(INPUTS)}, each "
            "[batch, length]"
        )
    if len(sizes) != 2 or tensor.elem_type not in TYPES:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise UserError(f"{file} has {value.name} as {kind} {sizes}; expected int64 or int32 [batch, length]")


def _refuse_unknown_operators(file: Path, model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for holder in (model.graph, *model.functions):
        for node in holder.node:
            if node.domain not in DOMAINS and (node.domain, node.op_type) not in own:
                raise UserError(
                    f"{file} uses the operator {node.op_type} of {node.domain!r}, which only a library of custom "
                    "operators can run, and dynackd loads none"
                )


def _check_external_data(file: Path, model: onnx.ModelProto) -> None:
    """Weights in files of their own must lie beside the graph."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    for name in sorted(names):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{file} keeps weights in {name!r}, which is not beside it, and dynackd reads none there")
        if not (file.parent / name).is_file():
            raise UserError(f"{file} keeps weights in {name!r}, and {file.parent} holds no such file")


_INTEGER_OPERATORS = {"MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "QAttention", "DequantizeLinear"}


def _precision(file: Path, model: onnx.ModelProto) -> str:
    """fp32, fp16, int8, ...: by the name that dynackd gives its own files, else by what most weights are."""
    named = {Path(variant.file).name: name for name, variant in VARIANTS.items()}
    if file.name in named:
        return named[file.name]
    if any(node.op_type in _INTEGER_OPERATORS for node in model.graph.node):
        return "int8"
    sizes: dict[int, int] = {}
    for tensor in model.graph.initializer:
        count = 1
        for size in tensor.dims:
            count *= size
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + count
    most = max(sizes, key=lambda kind: sizes[kind], default=0)
    return {int(TensorProto.FLOAT16): "fp16", int(TensorProto.BFLOAT16): "bf16"}.get(most, FLOAT32)


# --- models without an ONNX file -------------------------------------------------------------------------------------


@contextmanager
def with_graphs(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """The sources, each model directory without an ONNX file (a teacher) with a temporary one."""
    with TemporaryDirectory() as temporary:
        yield [_with_graph(source, Path(temporary) / str(index)) for index, source in enumerate(sources)]


def _with_graph(source: Source, place: Path) -> Source:
    if source.graph or not source.directory:
        return source
    model, tokenizer = load_any(source.directory)
    file = place / ONNX_FILE
    export_onnx(model, input_names(model, tokenizer), file)
    (place / "config.json").write_text(json.dumps({"vocab_size": model.config.vocab_size}), encoding="utf-8")
    return replace(source, graph=Graph(str(file)))
