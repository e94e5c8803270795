"""The loop of every stage: its rate and length, its progress, what stops it, and whether it was long enough."""

import logging
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedConfig, Trainer, TrainingArguments

from dynackd.data.origins import Record
from dynackd.errors import UserError, out_of_memory
from dynackd.families.table import family_of
from dynackd.report.terminal import console
from dynackd.system.interruption import Interrupted
from dynackd.system.places import write_files, writing
from dynackd.training.lengths import FEWEST_EPOCHS, default_epochs, epoch_steps
from dynackd.training.progress import LOG_FILE, Stopwatch, TrainingProgress
from dynackd.training.rates import default_learning_rate, still_falling
from dynackd.training.resumable import ResumableTrainer
from dynackd.training.runs import GENERAL, Run, begin

SUPERNETS = (GENERAL, "width", "depth")


def choose_rate(run: Run, stage: str, config: PreTrainedConfig) -> None:
    """A recipe that names no learning rate gets the one for its encoder's hidden size, and is told so."""
    if "learning_rate" in run.settings.training:
        return
    hidden_size = getattr(config, family_of(config).hidden_key)
    run.arguments.learning_rate = default_learning_rate(stage, hidden_size)
    console.print(
        f"learning rate {run.arguments.learning_rate:g}, the default of this stage for hidden size {hidden_size} "
        "(training.learning_rate)"
    )


def choose_length(run: Run, stage: str, inputs: int) -> None:
    """A recipe that names neither epochs nor steps gets the epochs that are usual for so many inputs an epoch, and is
    told so where these are few."""
    said, arguments = run.settings.training, run.arguments
    if "num_train_epochs" in said or said.get("max_steps", -1) > 0:
        return
    steps = epoch_steps(arguments, inputs)
    arguments.num_train_epochs = epochs = default_epochs(stage, steps)
    if epochs > FEWEST_EPOCHS:
        console.print(
            f"{epochs} epochs of {steps:,} steps, the default of this stage for so few rows (training.num_train_epochs)"
        )


def run_training(
    trainer: ResumableTrainer, run: Run, record: Record, title: str, kept: Mapping[str, Any] = MappingProxyType({})
) -> float:
    """Train, or go on from the checkpoint; returns the seconds it took, those before the checkpoint too. kept: JSON
    files for the result."""
    _warn_of_slow_bf16(run.arguments)
    if run.checkpoint is None and run.arguments.should_save:
        begin(run.recipe, record, run.checkpoints)
        write_files(run.checkpoints, kept)
    run.mode.interruption.resumable = True
    shown = TrainingProgress(title, run.checkpoints / LOG_FILE)
    trainer.add_callback(Stopwatch)
    trainer.add_callback(shown)
    try:
        with (
            run.mode.interruption.held(),
            writing(run.checkpoints, "; put that right and go on with --resume"),
            closing(shown),
            _without_shares_told(),
        ):
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise UserError(_less_memory(run)) from error
        raise
    if trainer.stopped:  # by a signal that another process got
        raise Interrupted(signal.SIGTERM)
    # Not the one that was added: with restore_callback_states_from_checkpoint another is in its place.
    seconds = next(own.seconds for own in trainer.callback_handler.callbacks if isinstance(own, Stopwatch))
    say_if_too_short(trainer)
    return seconds


@contextmanager
def _without_shares_told() -> Iterator[None]:
    """Without transformers' word that `logging_steps: 0.02` is not the 1 of a checkpoint: that is the same, as a share
    and as steps. What has really changed since a run began is refused before (`refuse_changed_recipe`)."""
    logger = logging.getLogger("transformers.trainer_utils")

    def same(record: logging.LogRecord) -> bool:
        return "do not match the ones in the `trainer_state.json`" not in record.getMessage()

    logger.addFilter(same)
    try:
        yield
    finally:
        logger.removeFilter(same)


def _less_memory(run: Run) -> str:
    """What to change after the memory was too small for a step."""
    size, parts = run.arguments.per_device_train_batch_size, run.arguments.gradient_accumulation_steps
    halved = f"training.per_device_train_batch_size={max(1, size // 2)}"
    many = run.directory.name in SUPERNETS and run.recipe.sampler.name == "all"
    sampler = ", or grid.sampler=sandwich(1)" if many else ""
    return (
        f"out of memory in a training step of {size} rows: add --set {halved} --set "
        f"training.gradient_accumulation_steps={2 * parts} (the same result in smaller parts), or lower "
        f"data.max_length{sampler}, and begin again with --overwrite"
    )


def say_if_too_short(trainer: Trainer) -> None:
    """Whether the training loss was still falling fast; of the distillation stages' the term that no weight changes."""
    for name in ("loss_logits", "loss"):
        losses = [row[name] for row in trainer.state.log_history if name in row]
        if losses:
            break
    if fall := still_falling(losses):
        before, end = fall
        console.print(
            f"note: the training loss was still falling fast at the end ({before:.3f} -> {end:.3f} in the last third): "
            "not trained out, and all that follows imitates it; more epochs (training.num_train_epochs) or another "
            "training.learning_rate may help"
        )


def _warn_of_slow_bf16(arguments: TrainingArguments) -> None:
    cpu = arguments.device.type == "cpu"
    if arguments.bf16 and cpu and not torch.cpu._is_avx512_bf16_supported():
        warnings.warn("this processor has no bf16 arithmetic: training.bf16 is about 30 times slower", stacklevel=2)
