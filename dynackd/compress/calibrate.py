"""How long the steps of each stage take on this machine: a few real ones of each, on rows of usual lengths."""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from dynackd.compress.plan import SANDWICH
from dynackd.distill.teacher import Teacher
from dynackd.measure.evaluation import batches_of
from dynackd.subnet import Subnet
from dynackd.supernet.network import Supernet
from dynackd.tasks.kind import Task
from dynackd.training.finetuner import FineTuner
from dynackd.training.recipe import Recipe
from dynackd.training.samplers import SubnetSampler
from dynackd.training.trainer import DEPTH_STAGE, POLISH_STAGE, WIDTH_STAGE, Stage, SupernetTrainer

# Where in the rows by length the batches are taken from: the longest, which warms up, and the middle of each quarter.
PLACES = (1.0, 7 / 8, 5 / 8, 3 / 8, 1 / 8)
BY_LENGTH = "group_by_length"
SAMPLED = 200  # steps whose sub-networks are drawn, to know what a step costs in the mean
SILENT = {"save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no", "report_to": "none"}
SHORT = {**SILENT, "max_steps": len(PLACES)}


@dataclass(frozen=True)
class Timing:
    """Seconds of a step by stage and sampler, and of a row's forward pass through the full network."""

    steps: dict[str, dict[str, float]]
    row_s: float


class _Clock(TrainerCallback):
    """The seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def calibrate(
    recipe: Recipe,
    task: Task,
    teacher: Supernet,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    finetunes: bool,
    distilled: Dataset | None = None,
    taught_s: float | None = None,
) -> Timing:
    """Time a few steps of every stage. teacher: of the shape that will be trained, whatever its weights; rows: the
    tokenised training rows; distilled: what the stages of the supernet read, where that is not the same; taught_s: the
    seconds in which the teacher reads a row, where that is of another shape."""
    batch = recipe.stages[WIDTH_STAGE.name].arguments(Path(tempfile.gettempdir())).per_device_train_batch_size
    some, taught = _batches(rows, batch, task), _batches(distilled or rows, batch, task)
    steps: dict[str, dict[str, float]] = {}
    samplers = {name: SubnetSampler.parse(name) for name in {name_of_sampler(recipe.sampler), SANDWICH}}
    with tempfile.TemporaryDirectory(prefix="dynackd-") as scratch:
        if finetunes:
            arguments = _arguments(recipe, "finetune", Path(scratch))
            model = teacher.frozen_copy().requires_grad_(True).model
            tuner = FineTuner(model, task.kind, arguments, train_dataset=some, processing_class=tokenizer)
            steps["finetune"] = dict.fromkeys(samplers, fmean(_timed(tuner)))
        for stage in (WIDTH_STAGE, DEPTH_STAGE):
            unit_s = _unit_s(recipe, task, teacher, tokenizer, taught, stage, Path(scratch))
            grid = stage.grid_of(recipe.grid.supposed(teacher.geometry))
            subnets = list(grid.subnets(teacher.geometry).values())
            own_s = None if taught_s is None or stage is DEPTH_STAGE else taught_s * batch
            for name, own in samplers.items():
                drawn = [own.sample(subnets, 0, step) for step in range(SAMPLED)]
                mean_s = fmean(_step_s(stage, some, teacher, unit_s, own_s) for some in drawn)
                steps.setdefault(stage.name, {})[name] = mean_s
    # Nobody knows yet which size will be chosen, and a bounded time holds whichever it is: none costs more than all.
    own_s = None if taught_s is None else taught_s * batch
    polish_s = _step_s(POLISH_STAGE, [teacher.whole], teacher, unit_s, own_s)
    steps[POLISH_STAGE.name] = dict.fromkeys(samplers, polish_s)
    return Timing(steps, row_s(teacher, task, tokenizer, some))


def name_of_sampler(sampler: SubnetSampler) -> str:
    """As a recipe writes it."""
    return sampler.name + (f"({sampler.counts[0]})" if sampler.counts else "")


def _arguments(recipe: Recipe, stage: str, scratch: Path) -> TrainingArguments:
    settings = recipe.stages[stage]
    training = {name: value for name, value in settings.training.items() if not name.startswith(("save_", "eval_"))}
    if training["train_sampling_strategy"] == BY_LENGTH:
        # So few rows would not be grouped at all: all batches would be as long as their longest row.
        training["train_sampling_strategy"] = "sequential"
    return dataclasses.replace(settings, training={**training, **SHORT}).arguments(scratch)


def _batches(rows: Dataset, batch: int, task: Task) -> Dataset:
    """As many batches as `PLACES`, each of rows of like length; of rows that belong together the first ones."""
    if task.kind.together:
        return rows.select(range(min(len(rows), batch * len(PLACES))))
    order, last = np.argsort(np.asarray(rows["length"][:]), kind="stable"), max(0, len(rows) - batch)
    chosen = [order[round(place * last) : round(place * last) + batch] for place in PLACES]
    return rows.select(np.concatenate(chosen))


def _timed(trainer: Any) -> list[float]:
    """The seconds of each step but the first."""
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds[1:] or clock.seconds


def _unit_s(
    recipe: Recipe,
    task: Task,
    teacher: Supernet,
    tokenizer: PreTrainedTokenizerBase,
    some: Dataset,
    stage: Stage,
    scratch: Path,
) -> float:
    """Seconds of a forward pass of the full network: of a few steps of few sub-networks, by what these compute."""
    sampler = SubnetSampler.parse(SANDWICH)
    grid = stage.grid_of(recipe.grid.supposed(teacher.geometry))
    supernet = Supernet(teacher.frozen_copy().requires_grad_(True).model, grid)
    arguments = _arguments(recipe, stage.name, scratch)
    own = Supernet(teacher.model, grid) if stage is DEPTH_STAGE else teacher
    trainer = SupernetTrainer(
        supernet,
        Teacher(own, task.kind, recipe.stages[stage.name].distillation.matching),
        stage,
        task,
        recipe.stages[stage.name].distillation,
        arguments,
        sampler,
        train_dataset=some,
        processing_class=tokenizer,
        data_collator=task.kind.collator(tokenizer),
    )
    seconds, subnets = _timed(trainer), list(supernet.subnets.values())
    steps = range(len(PLACES) - len(seconds), len(PLACES))
    drawn = [sampler.sample(subnets, arguments.seed, step) for step in steps]
    return sum(seconds) / sum(_learned(own, teacher) + _taught(stage, own, teacher) for own in drawn)


def _step_s(
    stage: Stage, subnets: Sequence[Subnet], teacher: Supernet, unit_s: float, taught_s: float | None
) -> float:
    """The seconds of a step. unit_s: of a forward pass of the full network; taught_s: of the teacher, where that is
    none of this shape."""
    taught_s = unit_s * _taught(stage, subnets, teacher) if taught_s is None else taught_s
    return unit_s * _learned(subnets, teacher) + taught_s


def _learned(subnets: Sequence[Subnet], teacher: Supernet) -> float:
    """What a step's sub-networks compute, in forward passes of the full network: a backward pass is two; first layers
    that sub-networks of a hidden size have in common run once; every product is as much smaller as the hidden size."""
    shared = {(own.hidden, own.layers[: count + 1]) for own in subnets for count in range(len(own.layers))}
    return 3 * sum(hidden * layers[-1].heads for hidden, layers in shared) / _whole(teacher)


def _taught(stage: Stage, subnets: Sequence[Subnet], teacher: Supernet) -> float:
    """What a step's teachers compute, in forward passes of the full network."""
    teachers = {stage.teacher_of(subnet, teacher.geometry) for subnet in subnets}
    return sum(own.hidden * layer.heads for own in teachers for layer in own.layers) / _whole(teacher)


def _whole(teacher: Supernet) -> int:
    geometry = teacher.geometry
    return geometry.hidden * geometry.heads * geometry.layers


@torch.no_grad()
def row_s(teacher: Supernet, task: Task, tokenizer: PreTrainedTokenizerBase, some: Dataset) -> float:
    """The seconds of a row's forward pass."""
    device, seconds, count = next(teacher.parameters()).device, 0.0, 0
    for number, batch in enumerate(batches_of(some, task.kind, tokenizer, max(1, len(some) // len(PLACES)))):
        inputs, _ = task.kind.split({name: tensor.to(device) for name, tensor in batch.items()})
        start = time.perf_counter()
        teacher(**inputs)
        if number:
            seconds, count = seconds + time.perf_counter() - start, count + len(inputs["input_ids"])
    return seconds / max(1, count)
