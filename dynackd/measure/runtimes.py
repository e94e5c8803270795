"""What runs a model: torch eager and compiled, ONNX Runtime, OpenVINO.

A runtime is one function and one line in `RUNTIMES`. Nothing heavy is imported before a runtime opens a model: the
process of an ONNX file holds no torch, so that its memory is the model's and ONNX Runtime's.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynackd.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Case:
    """One row of the benchmark: a model directory or .onnx file, how it runs, and the shape of its input."""

    path: str
    runtime: str
    provider: str
    threads: int
    batch_size: int
    length: int


Runner = Callable[[], Any]
Prepare = Callable[[int, int], Runner]  # (batch size, length in tokens) -> one forward pass at that shape


@dataclass(frozen=True)
class Runtime:
    """How a model is run.

    open: loads the model of a case with its threads and on its provider. reads_onnx: whether that is an ONNX file
    rather than a model directory. providers: the devices that it can use here. missing: why it cannot be used here, ""
    where it can.
    """

    open: Callable[[Case], Prepare]
    reads_onnx: bool
    providers: Callable[[], list[str]]
    missing: Callable[[], str] = lambda: ""


# --- torch -----------------------------------------------------------------------------------------------------------


def open_torch(case: Case) -> Prepare:
    """torch as it comes (eager)."""
    return _open_torch(case, lambda model: model)


def open_torch_compile(case: Case) -> Prepare:
    """`torch.compile`, for any length. The first run at a shape, which is never timed, compiles where it must: once for
    batch 1 and once for larger batches, a quarter to half a minute each. Graphs of one length each were no faster."""
    import torch

    return _open_torch(case, lambda model: torch.compile(model, dynamic=True))


def _open_torch(case: Case, made: Callable[[Any], Callable[..., Any]]) -> Prepare:
    import torch
    from transformers.utils import logging

    from dynackd.onnx.graphs import Shape, example_batch, input_names

    logging.disable_progress_bar()  # a process of its own has not heard of the parent's wish
    torch.set_num_threads(case.threads)
    device = torch.device(case.provider)
    model, tokenizer = load_any(case.path)
    torch.nn.Module.to(model, device)
    names, forward = input_names(model, tokenizer), made(model)

    def prepare(batch_size: int, length: int) -> Runner:
        batch = example_batch(Shape(batch_size, length), names, model)
        # No padding: every row has the stated length.
        batch["attention_mask"].fill_(1)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}

        def run() -> None:
            with torch.inference_mode():
                forward(**batch)[0].cpu()  # waits for the device

        return run

    return prepare


def load_any(path: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A student, a fine-tuned model or an encoder, in evaluation mode, and its tokenizer."""
    from dynackd.students.loading import load_student
    from dynackd.students.registration import MODEL_TYPE_PREFIX
    from dynackd.supernet.checkpoints import load_config, load_model, load_tokenizer

    config = load_config(path)
    if config.model_type.startswith(MODEL_TYPE_PREFIX):
        return load_student(path)
    return load_model(path, config).eval(), load_tokenizer(path, config)


def torch_providers() -> list[str]:
    """The devices that torch sees here: always cpu, cuda when present."""
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _no_compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if any(map(shutil.which, names)):
        return ""
    return f"torch.compile needs a C++ compiler, and none is here (looked for {' and '.join(names)}); install one"


# --- ONNX files ------------------------------------------------------------------------------------------------------

EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
FEW_WORDS = 3  # ids that every vocabulary has


def open_onnxruntime(case: Case) -> Prepare:
    """ONNX Runtime as it comes: all of its graph optimisations, no library of custom operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    wanted = EXECUTION_PROVIDERS[case.provider]
    session = onnxruntime.InferenceSession(case.path, options, providers=[wanted])
    if wanted not in session.get_providers():  # it falls back to the CPU with a warning
        raise UserError(f"ONNX Runtime could not start its {wanted}")
    inputs = [(node.name, np.dtype(_NUMPY[node.type])) for node in session.get_inputs()]
    words = vocabulary(case.path)

    def prepare(batch_size: int, length: int) -> Runner:
        feed = example_feed(inputs, batch_size, length, words)
        return lambda: session.run(None, feed)

    return prepare


def open_openvino(case: Case) -> Prepare:
    """OpenVINO on the CPU, tuned for latency, in float32 as in docs/deployment.md: left alone, it computes in bfloat16
    where the processor has that."""
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": case.threads,
    }
    model = openvino.Core().compile_model(case.path, case.provider.upper(), options)
    inputs = [(port.get_any_name(), port.get_element_type().to_dtype()) for port in model.inputs]
    words, request = vocabulary(case.path), model.create_infer_request()

    def prepare(batch_size: int, length: int) -> Runner:
        feed = example_feed(inputs, batch_size, length, words)
        return lambda: request.infer(feed)

    return prepare


# The types of ONNX Runtime that an input may be of -> numpy's.
_NUMPY = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32", "tensor(bool)": "bool"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def example_feed(
    inputs: Iterable[tuple[str, np.dtype]], batch_size: int, length: int, words: int
) -> dict[str, np.ndarray]:
    """Random texts of `words` words without padding: an array [batch size, length] for each (name, type) of `inputs`,
    whose names are some of `INPUTS`."""
    shape = (batch_size, length)
    values = {
        "input_ids": np.random.default_rng(0).integers(words, size=shape),
        "attention_mask": np.ones(shape),
        "token_type_ids": np.zeros(shape),
        "position_ids": np.broadcast_to(np.arange(length), shape),
    }
    return {name: np.ascontiguousarray(values[name], dtype=kind) for name, kind in inputs}


def model_directory(file: str | Path) -> Path | None:
    """The directory of the model that an ONNX file is of, with its config.json: where the file lies, or above a folder
    `onnx`. None for a file by itself."""
    parent = Path(file).absolute().parent
    places = [parent, *([parent.parent] if parent.name == "onnx" else [])]
    return next((place for place in places if (place / "config.json").is_file()), None)


def vocabulary(file: str) -> int:
    """How many words the model of an ONNX file has, as far as a config.json says so."""
    directory = model_directory(file)
    try:
        content = json.loads((directory / "config.json").read_text(encoding="utf-8")) if directory else {}
        size = content.get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return FEW_WORDS
    return size if isinstance(size, int) and size > 0 else FEW_WORDS


def _onnxruntime_providers() -> list[str]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [name for name in torch_providers() if EXECUTION_PROVIDERS[name] in available]


def _no_openvino() -> str:
    return "" if importlib.util.find_spec("openvino") else "openvino is not installed; pip install openvino"


RUNTIMES: dict[str, Runtime] = {
    "torch": Runtime(open_torch, False, torch_providers),
    "torch-compile": Runtime(open_torch_compile, False, torch_providers, _no_compiler),
    "onnxruntime": Runtime(open_onnxruntime, True, _onnxruntime_providers),
    "openvino": Runtime(open_openvino, True, lambda: ["cpu"], _no_openvino),
}


def check_runtimes(names: Sequence[str]) -> None:
    """Refuse (`UserError`) a runtime that there is not, or not here."""
    for name in names:
        if name not in RUNTIMES:
            raise UserError(f"the runtime {name!r} is unknown; it is one of {', '.join(RUNTIMES)}")
        if reason := RUNTIMES[name].missing():
            raise UserError(f"{reason}, or leave {name} out of --runtime")


def runtimes_here() -> list[str]:
    """The names of the runtimes that can be used here."""
    return [name for name, runtime in RUNTIMES.items() if not runtime.missing()]
