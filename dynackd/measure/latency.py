"""Latency of students and teachers, in torch and in ONNX Runtime.

Every model runs in a process of its own with its own threads; the processes take turns, so that a slow moment of the
machine falls on all of them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynackd.errors import UserError
from dynackd.report.terminal import machine_name
from dynackd.supernet.checkpoints import load_config, load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROUNDS = 10
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Case:
    """One row of the benchmark: a model directory or .onnx file, how it runs, and the shape of its input."""

    path: str
    runtime: str
    provider: str
    threads: int
    batch_size: int
    length: int


Runner = Callable[[], None]


def _torch_runner(case: Case) -> Runner:
    """One forward pass of the torch model."""
    import torch

    from dynackd.onnx.graphs import Shape, example_batch, input_names

    torch.set_num_threads(case.threads)
    device = torch.device(case.provider)
    model, tokenizer = _load(case.path)
    torch.nn.Module.to(model, device)
    names = input_names(model, tokenizer)
    batch = example_batch(Shape(case.batch_size, case.length), names, model)
    # No padding: every row has the stated length.
    batch["attention_mask"].fill_(1)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}

    def run() -> None:
        with torch.inference_mode():
            model(**batch)[0].cpu()  # waits for the device

    return run


def _load(path: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A student or a fine-tuned model, in evaluation mode, and its tokenizer."""
    from dynackd.students.loading import load_student
    from dynackd.students.registration import MODEL_TYPE_PREFIX

    config = load_config(path)
    if config.model_type.startswith(MODEL_TYPE_PREFIX):
        return load_student(path)
    return load_model(path, config).eval(), load_tokenizer(path, config)


def _onnx_runner(case: Case) -> Runner:
    """One run of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(case.path, options, providers=[PROVIDERS[case.provider]])
    shape = (case.batch_size, case.length)
    values = {
        "input_ids": np.random.default_rng(0).integers(3, size=shape),  # ids that every vocabulary has
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    feed = {node.name: values[node.name] for node in session.get_inputs()}

    def run() -> None:
        session.run(None, feed)

    return run


RUNNERS: dict[str, Callable[[Case], Runner]] = {"torch": _torch_runner, "onnxruntime": _onnx_runner}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


# A fresh interpreter that is told nothing of the caller's script: `multiprocessing` would import that once more, and so
# start without end what has no `if __name__ == "__main__"`.
_COMMAND = (sys.executable, "-c", "from dynackd.measure.latency import serve; serve()")


def serve() -> None:
    """A worker: reads its cases, a line of JSON, builds their runners and answers "" or what went wrong, then answers
    each [case, n] with n latencies in ms, until its input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        from transformers.utils import logging

        logging.disable_progress_bar()  # a process of its own has not heard of the parent's wish
        cases = [Case(**case) for case in json.loads(sys.stdin.readline())]
        runners = [RUNNERS[case.runtime](case) for case in cases]
        for run in runners:
            run()  # a length that the model does not take fails here
    except Exception as error:  # whatever a runtime raises is told to the parent
        answer(f"{type(error).__name__}: {error}")
        return
    answer("")
    for line in sys.stdin:
        index, repeats = json.loads(line)
        latencies_ms = []
        for _ in range(repeats):
            start = time.perf_counter()
            runners[index]()
            latencies_ms.append((time.perf_counter() - start) * 1e3)
        answer(latencies_ms)


Worker = subprocess.Popen[str]


@contextmanager
def _workers(groups: Sequence[Sequence[Case]]) -> Iterator[list[Worker]]:
    """A process for each group of cases, ready to run."""
    # The same modules as here, and none that only happens to lie where the command was given.
    places = os.pathsep.join(place or os.getcwd() for place in sys.path)
    environment = {**os.environ, "PYTHONPATH": places, "PYTHONSAFEPATH": "1"}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    workers: list[Worker] = []
    try:
        for group in groups:
            workers.append(subprocess.Popen(_COMMAND, env=environment, **pipes))
            _ask(workers[-1], [asdict(case) for case in group])
        for worker, (case, *_rest) in zip(workers, groups, strict=True):
            if problem := _answer(worker, case).splitlines():
                raise UserError(f"{case.path} cannot run in {case.runtime} on {case.provider}: {problem[0]}")
        yield workers
    finally:
        for worker in workers:
            assert worker.stdin
            with suppress(OSError):
                worker.stdin.close()
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(10)
            worker.kill()
            worker.wait()
            assert worker.stdout
            worker.stdout.close()


def _ask(worker: Worker, content: Any) -> None:
    assert worker.stdin
    with suppress(BrokenPipeError):  # it died, and `_answer` says so
        print(json.dumps(content), file=worker.stdin, flush=True)


def _answer(worker: Worker, case: Case) -> Any:
    assert worker.stdout
    if line := worker.stdout.readline():
        return json.loads(line)
    code = worker.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise UserError(f"{case.path} in {case.runtime}: its process {how}; is there enough memory?")


def measure(
    cases: Sequence[Case], repeats: int, warmup: int, on_round: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """The rows of `benchmark --json`, one for each case: `repeats` runs in `ROUNDS` turns, after a turn of warm-up."""
    each = max(1, -(-repeats // ROUNDS))
    groups = [list(group) for _, group in groupby(cases, key=lambda case: (case.path, case.runtime, case.provider))]
    latencies_ms: list[list[list[float]]] = [[[] for _ in group] for group in groups]
    with _workers(groups) as workers:
        for turn in range(ROUNDS + 1):
            for worker, group, values in zip(workers, groups, latencies_ms, strict=True):
                for index, case in enumerate(group):
                    _ask(worker, (index, each if turn else warmup))
                    answer = _answer(worker, case)
                    values[index] += answer if turn else []
                    on_round()
                time.sleep(0.02)  # the runtimes' threads spin for a moment after their last run
    return [
        _row(case, values)
        for group, group_values in zip(groups, latencies_ms, strict=True)
        for case, values in zip(group, group_values, strict=True)
    ]


def _row(case: Case, latencies_ms: list[float]) -> dict[str, Any]:
    percentiles = np.percentile(latencies_ms, PERCENTILES)
    return {
        **asdict(case),
        "latency_ms": {f"p{p}": round(float(value), 4) for p, value in zip(PERCENTILES, percentiles, strict=True)},
        "throughput_per_s": round(case.batch_size / float(np.mean(latencies_ms)) * 1e3, 1),
        "repeats": len(latencies_ms),
    }


def providers() -> list[str]:
    """The devices that torch sees here: always cpu, cuda when present."""
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make_cases(
    path: str, runtimes: Sequence[str], threads: int, batch_sizes: Sequence[int], lengths: Sequence[int]
) -> list[Case]:
    """All cases of a student directory, a fine-tuned model's directory or an .onnx file. Raises `UserError`."""
    files = _files(path)
    unknown = [runtime for runtime in runtimes if runtime not in RUNNERS]
    if unknown:
        raise UserError(f"the runtime {unknown[0]!r} is unknown; it is one of {', '.join(RUNNERS)}")
    return [
        Case(files[runtime], runtime, provider, threads, batch_size, length)
        for runtime in runtimes
        if runtime in files
        for provider in _usable(runtime)
        for length in lengths
        for batch_size in batch_sizes
    ]


def _usable(runtime: str) -> list[str]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [p for p in providers() if runtime != "onnxruntime" or PROVIDERS[p] in available]


def _files(path: str) -> dict[str, str]:
    """What each runtime reads of a path."""
    from dynackd.onnx.graphs import ONNX_FILE

    place = Path(path)
    if place.is_file() and place.suffix == ".onnx":
        return {"onnxruntime": path}
    if not (place / "config.json").is_file():
        raise UserError(f"{path} is neither a model directory nor an .onnx file")
    load_config(path)
    onnx = place / ONNX_FILE
    return {"torch": path, **({"onnxruntime": str(onnx)} if onnx.is_file() else {})}


@contextmanager
def with_onnx(paths: Sequence[str]) -> Iterator[dict[str, str]]:
    """For each model directory without an ONNX file (a teacher), a temporary one: path -> .onnx file."""
    from dynackd.onnx.graphs import ONNX_FILE, export_onnx, input_names

    with tempfile.TemporaryDirectory() as directory:
        made = {}
        for index, path in enumerate(paths):
            if Path(path).is_dir() and not (Path(path) / ONNX_FILE).is_file():
                model, tokenizer = _load(path)
                made[path] = str(Path(directory) / f"{index}.onnx")
                export_onnx(model, input_names(model, tokenizer), Path(made[path]))
        yield made


def benchmark(
    paths: Sequence[str],
    runtimes: Sequence[str],
    threads: int,
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
    repeats: int,
    warmup: int,
    on_round: Callable[[int], None] = lambda total: None,
) -> dict[str, Any]:
    """The content of `benchmark --json`."""
    with with_onnx(paths if "onnxruntime" in runtimes else []) as made:
        cases, names = [], []
        for path in paths:
            own = make_cases(path, runtimes, threads, batch_sizes, lengths)
            if path in made:
                own += make_cases(made[path], ["onnxruntime"], threads, batch_sizes, lengths)
            cases += own
            names += [path] * len(own)
        if not cases:
            raise UserError(f"none of {', '.join(paths)} runs in {', '.join(runtimes)}")
        rows = measure(cases, repeats, warmup, lambda: on_round(len(cases) * (ROUNDS + 1)))
    return {"machine": machine_name(), "rows": [{**row, "path": name} for row, name in zip(rows, names, strict=True)]}
