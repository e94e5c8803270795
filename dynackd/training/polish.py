"""One chosen sub-network trained on alone: from a supernet's weights, taught by the fine-tuned model once more."""

from dataclasses import replace
from pathlib import Path

from dynackd.data.origins import model_record
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.families.table import layer_list, max_positions
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.importance import in_order_of
from dynackd.supernet.joining import origin_of
from dynackd.supernet.network import Origin, Supernet, check_supernet, load_supernet, only_of
from dynackd.system.places import occupied_run
from dynackd.training.lineage import INHERITED, record_of, refuse_other, refuse_other_models
from dynackd.training.recipe import Recipe
from dynackd.training.rows import tokenized
from dynackd.training.runs import POLISH, RESULTS, TEACHER, RunMode, checked, prepare
from dynackd.training.stages import load_rows, train_stage
from dynackd.training.teachers import (
    AGAIN,
    check_teacher,
    load_teacher,
    models_of,
    other_reader,
    refuse_other_teacher,
    settled,
    teacher_of,
)
from dynackd.training.trainer import POLISH_STAGE


def polish(parent: Path, which: SubnetSpec | Subnet, name: str, recipe: Recipe, mode: RunMode) -> Path:
    """Train one sub-network of the supernet directory `parent` alone, by the recipe's `stages.polish`, and write it as
    `polished-NAME` into the recipe's output directory.

    The result is a supernet directory whose weights are good for this sub-network only (`Supernet.only`). Returns the
    directory. Raises `UserError`.
    """
    result = f"polished-{name}"
    with occupied_run(recipe.output_dir, [*RESULTS, result]):
        return _polish(parent, which, result, recipe, mode)


def refuse_polished(parent: Path) -> None:
    """`UserError` for a supernet directory that is good for one sub-network only."""
    if only_of(check_supernet(parent)):
        raise UserError(f"{parent} was polished already; name the supernet that it came from")


def _polish(parent: Path, which: SubnetSpec | Subnet, result: str, recipe: Recipe, mode: RunMode) -> Path:
    refuse_polished(parent)
    run = prepare(recipe, POLISH, result, mode)
    source = teacher_of(recipe)
    known, again = models_of(recipe, run.directory), AGAIN[origin_of(parent).stage]
    own = model_record(str(parent), run.directory)
    refuse_other_models(parent, known, again)
    before, tokenizer = load_supernet(parent)
    subnet = before.resolve(which)
    data = load_rows(run, before)
    models = {**known, "parent": own}
    record = checked(run, {**record_of(recipe, data, models, before.grid), "only": subnet.to_dict()})
    refuse_other_teacher(recipe, record)
    refuse_other(parent, record, INHERITED, again)
    teacher = in_order_of(before, load_teacher(source, data.task.kind))
    other = other_reader(source, teacher, data.task.kind, tokenizer, teaches=True)
    rows = tokenized(data, recipe, tokenizer, max_positions(before.model.config), other)
    imitated = Teacher(teacher, data.task.kind, run.settings.distillation.matching, other is not None)
    run = replace(run, settings=settled(run.settings, imitated, before.geometry))
    if subnet.hidden < before.geometry.hidden:
        run.settings.distillation.check_smaller("a smaller hidden size", data.task.kind)
    if run.checkpoint is None:
        check_teacher(teacher.to(run.arguments.device), data, *rows.sample(), recipe.data.seed)
    origin = Origin(POLISH, source, str(parent), known[TEACHER]["sha256"], own["sha256"])
    model = before.frozen_copy().requires_grad_(True).model
    supernet = Supernet(model, before.grid, origin, subnet, before.hidden_order)
    # Several processes wait for a gradient of every weight that may have one.
    for index, layer in enumerate(layer_list(supernet.model)):
        layer.requires_grad_(index in subnet.indices)
    return train_stage(run, record, POLISH_STAGE, supernet, imitated, teacher, rows)
