"""The places of a run: a stage trains in `<output_dir>/<stage>-checkpoints` and its result appears as
`<output_dir>/<stage>` in one rename, so a result that exists is whole, and a killed run is resumed from its last whole
checkpoint.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dynackd.data.origins import ORIGIN_FILE, Record
from dynackd.data.sources import OTHERS
from dynackd.errors import UserError
from dynackd.report.reading import IMPORTANCE_FILE
from dynackd.report.terminal import console, say
from dynackd.supernet.checkpoints import check_safetensors_file
from dynackd.supernet.joining import GENERAL, ORDERS_FILE
from dynackd.system.interruption import Interruption
from dynackd.system.places import at_home, holds, manifest_of, mark, occupied_run, read_json, refuse_existing, remove
from dynackd.training.arguments import FINETUNE
from dynackd.training.lineage import refuse_changed_content, refuse_changed_recipe, write_record
from dynackd.training.progress import LOG_FILE
from dynackd.training.recipe import Recipe, StageSettings
from dynackd.training.resumable import one_device

TEACHER = "teacher"
# What a command makes in a run's directory, and what its manifest calls that.
RESULTS = {
    TEACHER: "a teacher",
    GENERAL: "a general supernet",
    "width": "a supernet of the width stage",
    "depth": "a supernet of the depth stage",
    "augmented": "augmented rows",
}
POLISH, POLISHED = "polish", "a polished sub-network"  # any number of these, named by their sizes
CHECKPOINTS = "the checkpoints of a run"
LEFT_OVER = "what is left of a finished run's checkpoints"
# What `begin`, the Trainer (in checkpoint-N) and `augment` write there; all else is somebody else's.
CHECKPOINT_FILES = [
    *("recipe.yaml", ORIGIN_FILE, LOG_FILE, IMPORTANCE_FILE, ORDERS_FILE),
    *("candidates-*.json", "labels-*.json", ".*.tmp", "README.md", "runs/*/*", "runs/*/*/*"),
    *(f"{PREFIX_CHECKPOINT_DIR}-*/{name}" for name in (
        *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json"),
        *("trainer_state.json", "training_args.bin", "optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.jinja"),
        *("vocab.txt", "vocab.json", "merges.txt", "*.model", "bpe.codes", "user_content.pt", ".*.tmp"),
    )),
]
T = TypeVar("T")


@dataclass(frozen=True)
class RunMode:
    """What to do with what the output directory already holds, and what interrupts the run."""

    resume: bool = False
    overwrite: bool = False
    interruption: Interruption = field(default_factory=Interruption, compare=False)

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other; give one of them")


@dataclass(frozen=True)
class Run:
    """One stage's places, the mode it was started in and the checkpoint that it resumes from."""

    recipe: Recipe
    settings: StageSettings
    directory: Path
    arguments: TrainingArguments
    mode: RunMode
    checkpoint: Path | None

    @property
    def checkpoints(self) -> Path:
        return Path(str(self.arguments.output_dir))


def alone(command: Callable[[Recipe, RunMode], T]) -> Callable[[Recipe, RunMode], T]:
    """The command with the recipe's output directory for itself while it runs; `UserError` where another is there."""

    @functools.wraps(command)
    def run(recipe: Recipe, mode: RunMode) -> T:
        with occupied_run(recipe.output_dir, list(RESULTS)):
            return command(recipe, mode)

    return run


def prepare(recipe: Recipe, stage: str, name: str, mode: RunMode) -> Run:
    """Check a stage's places before anything is loaded or written."""
    recipe.check_machine()
    settings, (directory, checkpoints) = recipe.stages[stage], claim(recipe, name, mode)
    checkpoint = last_checkpoint(checkpoints) if mode.resume else None
    if checkpoint is not None:
        refuse_changed_recipe(recipe, checkpoints)
    # Under torchrun this is where the processes meet, so none of them writes before all of them have checked.
    arguments = settings.arguments(checkpoints)
    if checkpoint is not None:
        _refuse_other_processes(checkpoint, arguments.world_size)
    console.quiet = arguments.process_index > 0
    if (devices := one_device(arguments)) > 1:
        command = f"torchrun --nproc_per_node {devices} -m dynackd {name_of_command(stage)} ..."
        say(f"note: this process uses one of {devices} devices; to use all: {command}")
    return Run(recipe, settings, directory, arguments, mode, checkpoint)


def name_of_command(stage: str) -> str:
    return stage if stage in (FINETUNE, POLISH) else f"train-{stage}"


def result_called(name: str) -> str:
    """What the manifest of a result calls it."""
    return RESULTS.get(name, POLISHED)


def claim(recipe: Recipe, name: str, mode: RunMode) -> tuple[Path, Path]:
    """The directories of a result and of what is kept until that is whole; `UserError` where the mode does not allow
    for what they hold."""
    directory, checkpoints = recipe.output_dir / name, recipe.output_dir / f"{name}-checkpoints"
    inputs = inputs_of(recipe, name)
    manifest = manifest_of(checkpoints)
    left_over = manifest is not None and manifest.what == LEFT_OVER  # killed while it cleared up after a whole result
    if left_over and os.environ.get("RANK", "0") == "0":
        drop(checkpoints)
    begun = not left_over and (manifest is not None or (checkpoints / "recipe.yaml").is_file())
    if mode.resume and holds(directory) and not begun:
        raise UserError(f"{directory} holds a finished run, nothing is left to resume; --overwrite begins again")
    # A run that began with --overwrite is gone on with beside the result that it will replace.
    refuse_existing(directory, result_called(name), mode.overwrite or mode.resume, inputs)
    if not left_over and (mode.overwrite or not begun):
        refuse_existing(checkpoints, CHECKPOINTS, mode.overwrite, inputs)
    elif begun and not mode.resume:
        raise UserError(
            f"{checkpoints} holds an unfinished run; add --resume to go on with it or --overwrite to begin again"
        )
    return directory, checkpoints


def inputs_of(recipe: Recipe, name: str) -> dict[str, str | Path | None]:
    """What a command that makes the result `name` reads, as far as it may lie in a directory."""
    files = {key: getattr(recipe.data, key) for key in ("train", "validation", "validation_mm")}
    data = {f"data.{key}": at_home(file) for key, file in files.items() if file}
    others = {f"data.{OTHERS} {i}": at_home(file) for i, file in enumerate(recipe.data.unlabelled_files, start=1)}
    inputs = {"recipe": recipe.file, "model": recipe.model, **({} if recipe.data.hub else data), **others}
    return inputs if name == TEACHER else {**inputs, "teacher": recipe.teacher}


def begin(recipe: Recipe, record: Record, checkpoints: Path) -> None:
    """An empty directory for what a run keeps, and what a resumed run will be compared with."""
    remove(checkpoints)
    mark(checkpoints, CHECKPOINTS, CHECKPOINT_FILES)
    write_record(checkpoints, recipe, record, checkpoints)


def checked(run: Run, record: Record) -> Record:
    """A stage's record, which a resumed run must share with the one that it goes on with."""
    if run.checkpoint is not None:
        refuse_changed_content(record, run.checkpoints)
    return record


def drop(checkpoints: Path) -> None:
    """Delete what a finished run kept; what dynackd did not write there stays, and is told."""
    if manifest_of(checkpoints) is not None:
        mark(checkpoints, LEFT_OVER, CHECKPOINT_FILES)  # whatever a kill leaves of it is nothing to go on from
    for name in remove(checkpoints)[:1]:
        console.print(f"{checkpoints} stays: it holds {name}, which dynackd did not write")


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint. One without its last file was cut off while it was written and is passed over;
    one with it but damaged raises `UserError`."""
    found = sorted(
        checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True
    )
    for checkpoint in found:
        if not (checkpoint / "trainer_state.json").is_file():
            console.print(f"{checkpoint} was cut off while it was written; passed over")
            continue
        weights = checkpoint / "model.safetensors"
        hint = f"; delete {checkpoint} to resume from the one before it"
        try:
            read_json(checkpoint / "trainer_state.json")
            check_safetensors_file(weights)
            torch.load(checkpoint / "optimizer.pt", map_location="meta", weights_only=True)
        except UserError as error:
            raise UserError(f"{error}{hint}") from error
        except Exception as error:  # torch raises whatever its unpickler meets
            raise UserError(f"{checkpoint / 'optimizer.pt'} is damaged ({type(error).__name__}){hint}") from error
        return checkpoint
    return None


def _refuse_other_processes(checkpoint: Path, count: int) -> None:
    """Each process has its own share of a batch and its own random numbers."""
    before = len(list(checkpoint.glob("rng_state*.pth")))
    if before != count:
        raise UserError(
            f"{checkpoint} was trained by {before} processes, these are {count}: start {before} to resume (torchrun "
            f"--nproc_per_node {before}), or begin again with --overwrite"
        )
