"""Times the optimiser steps of DynaBERT's own run_glue.py, for benchmarks/training.py, in the reference's environment.

    python benchmarks/training_reference.py DIR STEPS THREADS [arguments of run_glue.py]

Their training loop runs as it is, unmodified; the clock is read at the end of every optimiser step, and after STEPS + 1
of them the run ends. Prints the STEPS intervals as JSON. Knows nothing of dynackd, which that environment lacks.
"""

import itertools
import json
import os
import sys
import time

import torch


class _DoneError(Exception):
    pass


def main() -> None:
    directory, steps, threads, *arguments = sys.argv[1:]
    torch.set_num_threads(int(threads))
    clock = time.thread_time if int(threads) == 1 else time.perf_counter
    sys.path.insert(0, os.path.join(directory, "DynaBERT"))
    import run_glue

    marks = []

    class TimedAdamW(run_glue.AdamW):
        def step(self, closure=None):
            result = super().step(closure)
            marks.append(clock())
            if len(marks) > int(steps):
                raise _DoneError
            return result

    run_glue.AdamW = TimedAdamW
    sys.argv = ["run_glue.py", *arguments]
    try:
        run_glue.main()
    except _DoneError:
        intervals = [end - start for start, end in itertools.pairwise(marks)]
        print(json.dumps({"seconds": intervals}))


if __name__ == "__main__":
    main()
