"""Every sub-network of a supernet on the validation rows of a recipe."""

from functools import partial
from pathlib import Path
from typing import Any

from dynackd.data.model_labels import labels_of
from dynackd.data.origins import differences, read_origin
from dynackd.errors import UserError
from dynackd.families.table import max_positions
from dynackd.measure.evaluation import evaluate_grid, this_device
from dynackd.measure.teacher_check import doubt
from dynackd.report.terminal import console, progress
from dynackd.supernet.importance import in_order_of
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system.places import at_home
from dynackd.tasks.loading import load_task_data
from dynackd.training.lineage import record_of
from dynackd.training.recipe import Recipe
from dynackd.training.rows import Rows, tokenized
from dynackd.training.teachers import load_teacher, other_reader, say_doubt, teacher_of_supernet


def evaluate(directory: Path, recipe: Recipe, length: int | None, teacher: str | None = None) -> dict[str, Any]:
    """Every sub-network of a supernet directory on the recipe's validation data; the content of `evaluate --json`.

    FLOPs are counted at `length` tokens, or at the recipe's `data.max_length`.
    """
    _refuse_missing_rows(recipe)
    supernet, tokenizer = load_supernet(directory)
    positions = max_positions(supernet.model.config)
    length = length or recipe.data.max_length
    if length > positions:
        raise UserError(f"--length {length} is beyond the {positions} tokens that {directory} takes")
    source = teacher_of_supernet(directory, supernet.origin, teacher)
    original = load_teacher(source, recipe.task.kind)
    other = other_reader(source, original, recipe.task.kind, tokenizer)
    in_order_of(supernet, original)
    data = load_task_data(recipe.task, recipe.data, ("validation",), model=labels_of(supernet.model.config))
    keys = [f"validation{suffix}" for suffix in data.validation]
    if differences(read_origin(directory), record_of(recipe, data, {}), keys):
        console.print(f"note: these validation rows are not those of {directory / 'metrics.json'}")
    rows = tokenized(data, recipe, tokenizer, positions, other)
    device, sides = this_device(), rows.theirs or rows
    say_doubt(doubt(original.to(device), data, sides.validation[""], sides.tokenizer, recipe.data.seed), data.task)
    return evaluate_subnets(supernet.to(device), original.to(device), rows, length)


def _refuse_missing_rows(recipe: Recipe) -> None:
    """`UserError` where a file of validation rows is not where the recipe says, as after a move of a run alone."""
    source = recipe.data
    keys = ("validation", "validation_mm") if source.validation_share is None else ("train",)
    for key in keys if source.hub is None else ():
        file = getattr(source, key)
        if file and not Path(at_home(file)).exists():
            raise UserError(f"data.{key}: there is no file {file}; name it with --set data.{key}=FILE")


def evaluate_subnets(supernet: Supernet, teacher: Supernet, rows: Rows, length: int) -> dict[str, Any]:
    """Every sub-network on the validation rows, FLOPs at `length` tokens; the content of `evaluate --json`."""
    task = rows.data.task
    loaders = rows.batches(64)
    total = sum(map(len, loaders.values()))
    what = "one sub-network" if len(supernet.subnets) == 1 else f"{len(supernet.subnets)} sub-networks"
    with progress(f"evaluating {what}", total) as told:
        return evaluate_grid(supernet, teacher, task, loaders, length, partial(told, advance=1))
