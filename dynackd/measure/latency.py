"""Latency of students, teachers and other people's models, in every runtime.

Every model runs in a process of its own with its own threads; the processes take turns, so that a slow moment of the
machine falls on all of them.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from dynackd.errors import UserError, listed
from dynackd.measure.runtimes import RUNTIMES, Case, check_runtimes
from dynackd.measure.sources import FLOAT32, Source, source_of, with_graphs
from dynackd.onnx.graphs import DYNAMIC
from dynackd.report.terminal import machine_name

ROUNDS = 10
PERCENTILES = (50, 90, 99)
FEWEST_ROUNDS = 3  # in which even the slowest case runs
SPREAD = (25, 75)  # percentiles of the rounds' medians


# --- processes -------------------------------------------------------------------------------------------------------

# A fresh interpreter that is told nothing of the caller's script: `multiprocessing` would import that once more, and so
# start without end what has no `if __name__ == "__main__"`.
_COMMAND = (sys.executable, "-c", "from dynackd.measure.worker import serve; serve()")

Worker = subprocess.Popen[str]


@contextmanager
def _workers(groups: Sequence[Sequence[Case]]) -> Iterator[tuple[list[Worker], list[list[dict[str, Any]]]]]:
    """A process for each group of cases, ready to run, and what each tells of its cases."""
    # The same modules as here, and none that only happens to lie where the command was given.
    places = os.pathsep.join(place or os.getcwd() for place in sys.path)
    environment = {**os.environ, "PYTHONPATH": places, "PYTHONSAFEPATH": "1"}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    workers: list[Worker] = []
    try:
        for group in groups:
            workers.append(subprocess.Popen(_COMMAND, env=environment, **pipes))
            _ask(workers[-1], [asdict(case) for case in group])
        yield workers, [_answer(worker, group[0]) for worker, group in zip(workers, groups, strict=True)]
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


# --- measuring -------------------------------------------------------------------------------------------------------


class Failed(NamedTuple):
    """Stands for the row of a case that cannot run."""

    problem: str


def measure(
    cases: Sequence[Case], repeats: int, warmup: int, on_round: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """The rows of `benchmark --json`, one for each case: `repeats` runs in `ROUNDS` turns, after a turn of warm-up.

    Raises `UserError` where a case cannot run.
    """
    rows = []
    for case, row in zip(cases, measure_possible(cases, repeats, warmup, on_round), strict=True):
        if isinstance(row, Failed):
            raise UserError(f"{_where(case.path, case)}: {row.problem}")
        rows.append(row)
    return rows


def measure_possible(
    cases: Sequence[Case],
    repeats: int,
    warmup: int,
    on_round: Callable[[], None] = lambda: None,
    seconds: float = math.inf,
) -> list[dict[str, Any] | Failed]:
    """As `measure`; a case that cannot run says why in the place of its row, and one that would take more than so many
    `seconds` is run less often, down to once in each of three rounds."""
    groups = [list(group) for _, group in groupby(cases, key=_process)]
    latencies_ms: list[list[list[list[float]]]] = [[[] for _ in group] for group in groups]
    with _workers(groups) as (workers, told):
        for turn in range(ROUNDS + 1):
            for worker, group, about, values in zip(workers, groups, told, latencies_ms, strict=True):
                for index, case in enumerate(group):
                    counts = _counts(about[index], repeats, warmup, seconds)
                    if counts[turn]:
                        _ask(worker, (index, counts[turn]))
                        answer = _answer(worker, case)
                        values[index] += [answer] if turn else []
                    on_round()
                time.sleep(0.02)  # the runtimes' threads spin for a moment after their last run
    return [
        Failed(known["problem"]) if known["problem"] else _row(case, values, known["peak_memory_mb"])
        for group, group_told, group_values in zip(groups, told, latencies_ms, strict=True)
        for case, known, values in zip(group, group_told, group_values, strict=True)
    ]


def _counts(about: Mapping[str, Any], repeats: int, warmup: int, seconds: float) -> list[int]:
    """How often a case is run in the warm-up and in each round."""
    if about["problem"]:
        return [0] * (ROUNDS + 1)
    whole = max(1, -(-repeats // ROUNDS)) * ROUNDS
    total = int(min(whole, max(FEWEST_ROUNDS, seconds * 1e3 / about["run_ms"])))
    rounds = [total * (turn + 1) // ROUNDS - total * turn // ROUNDS for turn in range(ROUNDS)]
    return [warmup if total == whole else min(warmup, max(rounds)), *rounds]


def _process(case: Case) -> tuple[Any, ...]:
    """What the cases of one process share."""
    return case.path, case.runtime, case.provider, case.threads


def _row(case: Case, rounds: Sequence[Sequence[float]], peak_memory_mb: float) -> dict[str, Any]:
    """A row from the latencies in ms of each round."""
    latencies_ms = np.concatenate(rounds)

    def percentiles(values: Any, wanted: Sequence[int]) -> dict[str, float]:
        return {f"p{p}": round(float(value), 4) for p, value in zip(wanted, np.percentile(values, wanted), strict=True)}

    return {
        **asdict(case),
        "latency_ms": percentiles(latencies_ms, PERCENTILES),
        "round_medians_ms": percentiles([np.median(values) for values in rounds], SPREAD),
        "throughput_per_s": round(case.batch_size / float(np.mean(latencies_ms)) * 1e3, 1),
        "peak_memory_mb": peak_memory_mb,
        "repeats": len(latencies_ms),
    }


def _where(path: str, case: Case) -> str:
    return f"{path} cannot run in {case.runtime} on {case.provider}"


# --- paths -----------------------------------------------------------------------------------------------------------


class Planned(NamedTuple):
    """A case and whose it is."""

    source: Source
    case: Case

    @property
    def precision(self) -> str:
        """Of the weights."""
        onnx = RUNTIMES[self.case.runtime].reads_onnx
        return self.source.graph.precision if onnx and self.source.graph else FLOAT32


def benchmark(
    paths: Sequence[str],
    runtimes: Sequence[str],
    threads: int | Sequence[int],
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
    repeats: int,
    warmup: int,
    on_round: Callable[[int], None] = lambda total: None,
    seconds: float = math.inf,
) -> dict[str, Any]:
    """The content of `benchmark --json`: rows, and under "left_out" a sentence for each thing that was not measured or
    was measured otherwise than asked for. Raises `UserError` where a path is nothing, or nothing of it runs.

    The models take turns for one number of threads after the other. seconds: see `measure_possible`.
    """
    check_runtimes(runtimes)
    sources = [source_of(path) for path in paths]
    counts = [threads] if isinstance(threads, int) else threads
    graphs = with_graphs(sources) if any(RUNTIMES[name].reads_onnx for name in runtimes) else nullcontext(sources)
    with graphs as sources:
        plan: list[Planned] = []
        told: dict[str, list[str]] = {source.path: [] for source in sources}
        for source in sources:
            own, why = _planned(source, runtimes, counts, batch_sizes, lengths)
            plan += own
            told[source.path] += why
        _refuse_unmeasured(plan, told)
        rows, measured = [], []
        for count in counts:
            turn = [planned for planned in plan if planned.case.threads == count]
            found = measure_possible(
                [planned.case for planned in turn], repeats, warmup, lambda: on_round(len(plan) * (ROUNDS + 1)), seconds
            )
            failed: dict[tuple[str, str], list[str]] = {}
            for planned, row in zip(turn, found, strict=True):
                source, case = planned.source, planned.case
                if isinstance(row, Failed):
                    shapes = failed.setdefault((source.path, f"{_where(source.path, case)}: {row.problem}"), [])
                    shapes.append(f"{case.batch_size}x{case.length}")
                else:
                    measured.append(planned)
                    rows.append({**row, "path": source.path, "precision": planned.precision})
            for (path, problem), shapes in failed.items():
                told[path].append(f"{problem} (batch x length {listed(shapes)})")
        _refuse_unmeasured(measured, told)
    left_out = [sentence for sentences in told.values() for sentence in dict.fromkeys(sentences)]
    return {"machine": machine_name(), "rows": rows, "left_out": left_out}


def _refuse_unmeasured(measured: Sequence[Planned], told: dict[str, list[str]]) -> None:
    """`UserError` for a path of which nothing is measured."""
    known = {planned.source.path for planned in measured}
    for path, why in told.items():
        if path not in known:
            raise UserError(why[0])


def _planned(
    source: Source, runtimes: Sequence[str], threads: Sequence[int], batch_sizes: Sequence[int], lengths: Sequence[int]
) -> tuple[list[Planned], list[str]]:
    """The cases of a source, and what is to be told of it."""
    plan, told = [], []
    for name in runtimes:
        runtime = RUNTIMES[name]
        path = (source.graph.file if source.graph else None) if runtime.reads_onnx else source.directory
        if path is None:
            told += [source.missing] if source.missing else []
            continue
        fixed = source.graph.fixed if runtime.reads_onnx and source.graph else DYNAMIC
        shapes, why = _shapes(source, fixed.batch_size, fixed.length, batch_sizes, lengths)
        told += why
        plan += [
            Planned(source, Case(path, name, provider, count, batch_size, length))
            for count in threads
            for provider in runtime.providers()
            for length, batch_size in shapes
        ]
    if not plan and not told:
        told = [f"{source.path} does not run in {listed(runtimes)}"]
    return plan, told


def _shapes(
    source: Source, batch_size: int | None, length: int | None, batch_sizes: Sequence[int], lengths: Sequence[int]
) -> tuple[list[tuple[int, int]], list[str]]:
    """(length, batch size) of the cases, where a graph fixes one of them the only one that it takes; and what is to be
    told of it."""
    told = []
    sizes = {"batch size": (batch_size, batch_sizes), "length": (length, lengths)}
    fixed = [f"{name} {own}" for name, (own, asked) in sizes.items() if own and list(asked) != [own]]
    if fixed:
        told.append(f"{source.path} is made for {' and '.join(fixed)} alone, and was measured at that")
    longest = source.positions
    beyond = [] if length or longest is None else [str(own) for own in lengths if own > longest]
    if beyond:
        told.append(f"{source.path} takes at most {longest} tokens: length {', '.join(beyond)} was left out")
    own_lengths = [length] if length else [own for own in lengths if str(own) not in beyond]
    return [(own, size) for own in own_lengths for size in ([batch_size] if batch_size else batch_sizes)], told
