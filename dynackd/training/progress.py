"""How far a training is: a bar in a terminal, a line now and then elsewhere, and every logged number in a file."""

import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.progress import TextColumn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from dynackd.report.terminal import console, progress, progress_bar

LOG_FILE = "log.jsonl"
LINES = 10  # of a training where there is no terminal


def write_log(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """What a Trainer logged, one JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Stopwatch(TrainerCallback, ExportableState):
    """The seconds of a training, with those before the checkpoint that it goes on from, which holds them."""

    def __init__(self) -> None:
        self.before_s, self.start = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self.start

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        kept = cast(Any, state.stateful_callbacks).get(type(self).__name__)  # of a checkpoint, or a fresh zero
        self.before_s = kept["attributes"]["before_s"] if kept and state.global_step else 0.0
        self.start = time.monotonic()

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"before_s": round(self.seconds, 1)}}


class TrainingProgress(TrainerCallback):
    """Shows one training, from the first process only: steps, loss, examples per second and the time to go.

    log_file: gets a line at each log. A resumed training first takes out what came after its checkpoint.
    """

    def __init__(self, title: str, log_file: Path) -> None:
        self.title, self.log_file, self.loss = title, log_file, ""
        self.bar = progress_bar(TextColumn("{task.fields[facts]}"))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.start, self.first_step = time.monotonic(), state.global_step
        self.examples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size  # of a step
        self.live = console.is_interactive and not args.disable_tqdm
        if state.is_world_process_zero:
            write_log(self.log_file, state.log_history)
        if self.live:
            self.task = self.bar.add_task(self.title, total=state.max_steps, completed=state.global_step, facts="")
            self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, steps = state.global_step, state.max_steps
        seconds = (time.monotonic() - self.start) / (step - self.first_step)  # of a step
        facts = f"{self.loss}{self.examples / seconds:,.0f} examples/s"
        if self.live:
            self.bar.update(self.task, completed=step, facts=facts)
        elif LINES * step // steps > LINES * (step - 1) // steps:
            to_go = datetime.timedelta(seconds=round(seconds * (steps - step)))
            console.print(f"{self.title}: {step:,} of {steps:,} steps, {facts}, {to_go} to go", soft_wrap=True)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        row = state.log_history[-1]
        if "loss" in row:
            self.loss = f"loss {row['loss']:.4g}, "
        if state.is_world_process_zero:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        told = {name.removeprefix("eval_"): value for name, value in metrics.items() if name != "epoch"}
        numbers = ", ".join(f"{n} {v:.4f}" for n, v in told.items() if not n.endswith(("runtime", "_per_second")))
        console.print(f"after {state.global_step:,} steps: {numbers}")

    def close(self) -> None:
        """What is said next begins a line."""
        self.bar.stop()


class _Advance(TrainerCallback):
    def __init__(self, advance: Any) -> None:
        self.advance = advance

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        self.advance()


@contextmanager
def predicting(trainer: Trainer, title: str, batches: int) -> Iterator[None]:
    """A bar for what the Trainer predicts inside the block."""
    with progress(title, batches) as told:
        callback = _Advance(partial(told, advance=1))
        trainer.add_callback(callback)
        yield
        trainer.remove_callback(callback)
