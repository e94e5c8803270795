"""The process of one model, which runs and times it when asked. Imports nothing heavy: its memory is told."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dynackd.errors import UserError, first_line, reason_of
from dynackd.measure.runtimes import RUNTIMES, Case, Runner


def serve() -> None:
    """Reads the cases of one model, a line of JSON, which differ in their shapes alone; opens the model, runs every
    case twice, and answers with a line of JSON: for each case "problem", "" or what went wrong, "peak_memory_mb", and
    "run_ms", how long the second run took. Then answers each [case, n] with n latencies in ms, until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent ends this by its input
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    cases = [Case(**case) for case in json.loads(sys.stdin.readline())]
    runners, told = _prepared(cases)
    answer(told)
    for line in sys.stdin:
        index, repeats = json.loads(line)
        answer([_timed_ms(runners[index]) for _ in range(repeats)])


def _timed_ms(run: Runner) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def _prepared(cases: list[Case]) -> tuple[dict[int, Runner], list[dict[str, Any]]]:
    """The runner of each case that can run, by its place, and what is told of each."""
    told: list[dict[str, Any]] = [{} for _ in cases]
    runners: dict[int, Runner] = {}
    try:
        prepare = RUNTIMES[cases[0].runtime].open(cases[0])
    except Exception as error:  # whatever a runtime raises is told to the parent
        return {}, [{"problem": _problem(error)} for _ in cases]
    # From the smallest to the largest, so that the peak so far is a shape's own.
    for index, case in sorted(enumerate(cases), key=lambda item: item[1].batch_size * item[1].length):
        try:
            runners[index] = prepare(case.batch_size, case.length)
            runners[index]()  # a length that the model does not take fails here
            run_ms = _timed_ms(runners[index])
            told[index] = {"problem": "", "peak_memory_mb": peak_memory_mb(), "run_ms": run_ms}
        except Exception as error:  # see above
            told[index] = {"problem": _problem(error)}
    return runners, told


def _problem(error: Exception) -> str:
    return reason_of(error) if isinstance(error, UserError) else first_line(error)


def peak_memory_mb() -> float:
    """The most memory (resident, in 10^6 bytes) that this process has had.

    Linux's own count for the program that runs: `ru_maxrss` counts what the process held before its `exec` too, which
    is the parent's memory.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="utf-8").splitlines()
        for name, value in (line.split(":", 1) for line in lines if ":" in line):
            if name == "VmHWM":
                return round(int(value.split()[0]) * 1024 / 1e6, 1)
    import resource  # not everywhere

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
