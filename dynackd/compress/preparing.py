"""All that comes before the first training: the recipe is made, and what it costs is measured."""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from dynackd.compress.bounds import meet_bounds
from dynackd.compress.calibrate import Timing, calibrate, name_of_sampler
from dynackd.compress.drafting import (
    Draft,
    check_grid,
    cut_texts,
    first_draft,
    hold_out,
    leave_rows,
    start_or_not,
    teacher_or_not,
)
from dynackd.compress.effort import effort_for, search_s
from dynackd.compress.plan import Plan, StageCost, make_plan
from dynackd.compress.request import Request
from dynackd.compress.teaching import OtherTeacher, other_teacher, try_teacher
from dynackd.data.origins import resolve_model
from dynackd.errors import UserError
from dynackd.families.table import family_of, geometry_of, max_positions
from dynackd.grid import Grid
from dynackd.onnx.graphs import export_onnx, input_names
from dynackd.report.terminal import progress
from dynackd.search.held_out import refuse_too_few
from dynackd.search.settings import Effort
from dynackd.supernet.checkpoints import load_config, load_model, load_tokenizer, name_outputs
from dynackd.supernet.cost import count_parameters
from dynackd.supernet.layer_order import passes
from dynackd.supernet.network import Supernet
from dynackd.tasks.loading import TaskData, taken
from dynackd.tasks.tokens import tokenize
from dynackd.tasks.unlabelled import mixed, read_unlabelled, tokenize_unlabelled
from dynackd.training.lengths import default_epochs
from dynackd.training.order import others_an_epoch
from dynackd.training.rates import default_learning_rate
from dynackd.training.recipe import Recipe, load_recipe
from dynackd.training.rewiring import ORDER_ROWS
from dynackd.training.teachers import load_teacher, refuse_student

FINETUNE = "finetune"
STAGE_S, EXPORT_S = 4.0, 20.0  # beside what depends on the rows: loading, writing; graphs, latencies, the report
FEW = 512  # training rows beside which those without labels are looked at
CHECKED_ROWS = 512  # on which the teacher of each stage is tried, and heads are judged


@dataclass(frozen=True)
class Prepared:
    """A recipe that is ready to be trained, and what it will cost.

    finetunes: whether the model becomes a teacher only by a training. model: what it is, in words. rows: that are
    trained on. decided: what was decided without the user, in lines; comments: for the keys of the recipe. rates: the
    learning rate of each stage; effort: how long the search looks.
    """

    recipe: Recipe
    finetunes: bool
    plan: Plan
    model: str
    rows: int
    validation_rows: int
    rates: Mapping[str, float]
    effort: Effort
    decided: tuple[str, ...]
    comments: Mapping[str, str]


def prepare(request: Request, output: Path, started: float) -> Prepared:
    """Make the recipe, measure what it costs and plan the training. started: when the time that may be taken began, by
    `time.monotonic`. `UserError` for every mistake that can be seen by now."""
    source, other = _source_of(request)
    config = load_config(source)
    if (request.setting.length or 0) > (most := max_positions(config)):
        raise UserError(f"--length {request.setting.length} is beyond the {most} tokens that {source} takes")
    draft = first_draft(request, output, config)
    draft.recipe.check_machine()
    hold_out(draft)
    check_grid(draft, config)
    if other:
        finetunes, data = start_or_not(draft, source, config, other)
    else:
        finetunes, data = teacher_or_not(draft.recipe, source, config)
    kind = draft.recipe.task.kind
    if finetunes and not kind.can_finetune(draft.recipe.task):
        raise UserError(f"{source} is no {kind.noun}, and the task {kind.not_finetuned}")
    refuse_too_few(data)
    data = leave_rows(draft, data)
    data = replace(data, unlabelled=read_unlabelled(data.task, draft.recipe.data))
    cut_texts(draft, data, load_tokenizer(source, config, kind), config)
    return _planned(request, draft, source, config, data, finetunes, other, started)


def _source_of(request: Request) -> tuple[str, OtherTeacher | None]:
    """The model by whose shape sizes, bounds and minutes are planned, and its teacher where that is of another shape;
    a teacher of the same shape is that model."""
    named = load_recipe(Path(request.model), request.overrides) if request.is_recipe else request
    model = resolve_model(named.model)
    other = other_teacher(named.model, load_config(model), named.teacher)
    source = model if other or named.teacher is None else resolve_model(named.teacher)
    for own in (source, *([resolve_model(other.source)] if other else [])):
        config = load_config(own)
        refuse_student(own, config)
        family_of(config)
    return source, other


def _planned(
    request: Request,
    draft: Draft,
    source: str,
    config: PreTrainedConfig,
    data: TaskData,
    finetunes: bool,
    other: OtherTeacher | None,
    started: float,
) -> Prepared:
    kind, recipe, positions = draft.recipe.task.kind, draft.recipe, max_positions(config)
    assert data.train is not None
    with progress("measuring what the steps of each stage take here"):
        began = time.monotonic()
        network, tokenizer = _network(source, recipe, data, finetunes), load_tokenizer(source, config, kind)
        export_s = _export_s(network, tokenizer)
        meet_bounds(request, draft, network, tokenizer, export_s)
        recipe = draft.recipe
        rows, _ = tokenize(data.train, data.task, tokenizer, recipe.data.max_length, max_positions=positions)
        loading_s = time.monotonic() - began - export_s
        taught_s = try_teacher(other, recipe, network, data, tokenizer) if other else None
        others = _others_too(rows, data, recipe, tokenizer)
        timing = calibrate(recipe, data.task, network, tokenizer, rows, finetunes, others, taught_s)
    looked = timing.row_s, export_s, len(recipe.grid.hidden)
    effort = effort_for(request.max_minutes and request.max_minutes * 60, *looked)
    other_s = search_s(effort, *looked) + _other_s(recipe, data, network, timing, loading_s, taught_s)
    costs = [_cost(recipe, stage, timing, len(rows)) for stage in timing.steps]
    spent_s = time.monotonic() - started
    bound = None if request.max_minutes is None else request.max_minutes * 60 - spent_s
    plan = make_plan(costs, other_s, name_of_sampler(recipe.sampler), bound, request.gives_way, spent_s)
    _apply(draft, plan, costs, len(data.train), request.max_minutes)
    hidden = network.geometry.hidden
    rates = {
        stage: recipe.stages[stage].training.get("learning_rate") or default_learning_rate(stage, hidden)
        for stage in timing.steps
    }
    return Prepared(
        draft.recipe,
        finetunes,
        plan,
        _what_it_is(recipe, config, network, finetunes, other),
        math.ceil(len(data.train) * plan.share),
        sum(map(len, data.validation.values())),
        rates,
        effort,
        tuple(draft.decided),
        draft.comments,
    )


def _network(source: str, recipe: Recipe, data: TaskData, finetunes: bool) -> Supernet:
    """The teacher, or a network of its shape with a head that knows nothing yet."""
    kind = recipe.task.kind
    if not finetunes:
        return load_teacher(source, kind)
    config = load_config(source)
    name_outputs(config, kind.output_names(data.label_names))
    config.problem_type = kind.problem_type
    torch.manual_seed(0)  # of the head
    return Supernet(load_model(source, config, kind, new_head=True), Grid((1.0,), (1.0,))).frozen_copy()


def _others_too(rows: Dataset, data: TaskData, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Dataset | None:
    """Some training inputs and some without labels, as many of each as their share says: these may be longer.
    None where there are no others, or where inputs come in groups, whose first ones are timed."""
    texts, source = data.unlabelled, recipe.data
    if texts is None or data.task.kind.together:
        return None
    some = rows.select(taken(len(rows), FEW, source.seed)[0])
    others = texts.select(taken(len(texts), others_an_epoch(len(some), source.unlabelled_share), source.seed)[0])
    return mixed(some, tokenize_unlabelled(others, data.task, tokenizer, source.max_length, rows, len(rows)))


def _export_s(network: Supernet, tokenizer: PreTrainedTokenizerBase) -> float:
    """The seconds of writing an ONNX file."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dynackd-") as scratch:
        model = network.frozen_copy().model
        export_onnx(model, input_names(model, tokenizer), Path(scratch) / "model.onnx")
    return time.monotonic() - start


def _cost(recipe: Recipe, stage: str, timing: Timing, inputs: int) -> StageCost:
    """inputs: that have labels; the stages of the supernet may have others beside them."""
    if recipe.data.unlabelled_files and stage != FINETUNE:
        inputs += others_an_epoch(inputs, recipe.data.unlabelled_share)
    settings = recipe.stages[stage]
    fields = settings.training
    batch = fields["per_device_train_batch_size"] * fields.get("gradient_accumulation_steps", 1)
    epoch = math.ceil(inputs / batch)
    steps, epochs = fields.get("max_steps", -1), fields.get("num_train_epochs")
    said = steps > 0 or epochs is not None
    if steps <= 0:
        steps = math.ceil((default_epochs(stage, epoch) if epochs is None else epochs) * epoch)
    return StageCost(stage, epoch, timing.steps[stage], steps, said)


def _other_s(
    recipe: Recipe, data: TaskData, network: Supernet, timing: Timing, loading_s: float, taught_s: float | None
) -> float:
    """The seconds of all that is no training: each stage reads the rows, tries its teacher and evaluates its sizes.
    taught_s: of a row through a teacher of another shape."""
    whole = network.geometry.heads * network.geometry.layers
    subnets = recipe.grid.supposed(network.geometry).subnets(network.geometry).values()
    shares = [sum(own.heads for own in subnet.layers) / whole for subnet in subnets]
    validation, checked = sum(map(len, data.validation.values())), min(CHECKED_ROWS, len(data.train or ()))
    evaluated = validation * (len(timing.steps) + 2 * sum(shares)) + 6 * checked
    exported = 4 * validation
    evaluated += _ordered(recipe, network)
    other_s = (taught_s or 0.0) * len(timing.steps) * (validation + checked)
    return EXPORT_S + len(timing.steps) * (STAGE_S + loading_s) + (evaluated + exported) * timing.row_s + other_s


def _ordered(recipe: Recipe, network: Supernet) -> float:
    """The forward passes of rows that it takes to order the layers, where the recipe goes by that."""
    rows = min(ORDER_ROWS, recipe.importance_rows)
    return rows * sum(recipe.grid.widths) * passes(network.geometry.layers) if recipe.grid.by_order else 0.0


def _apply(draft: Draft, plan: Plan, costs: list[StageCost], rows: int, max_minutes: float | None) -> None:
    """Write what was planned into the recipe."""
    changes: dict[str, object] = {}
    if plan.sampler != name_of_sampler(draft.recipe.sampler):
        changes["grid.sampler"] = plan.sampler
    if plan.share < 1:
        changes["data.train_rows"] = math.ceil(rows * plan.share)
    for own, cost in zip(plan.stages, costs, strict=True):
        if own.steps == cost.wanted and cost.said:
            continue
        place = f"stages.{own.stage}.training"
        limited = draft.recipe.stages[own.stage].training.get("max_steps", -1) > 0
        changes |= {f"{place}.max_steps": own.steps} if limited else {f"{place}.num_train_epochs": _epochs(own.epochs)}
    grid = draft.recipe.grid
    draft.set({"grid.widths": list(grid.widths), "grid.depths": list(grid.depths), **changes})  # to be seen and edited
    why = ""
    if plan.changed and plan.usual_s is not None:
        why = f"--max-minutes {max_minutes:g}: {', '.join(plan.changed)}"
        draft.decided.append(f"{why}; all that is usual would take {plan.usual_s / 60:.0f} minutes")
    draft.comments["stages"] = "\n".join(filter(None, ["How long each stage trains.", why]))
    shares = "The shares of heads and neurons, and of layers, that are trained."
    draft.comments["grid"] = "\n".join(filter(None, [shares, draft.comments.get("grid")]))


def _epochs(epochs: float) -> float | int:
    """As a recipe has it: rounded down, so that no step is added."""
    rounded = math.floor(epochs * 1000) / 1000
    return int(rounded) if rounded.is_integer() else rounded


def _what_it_is(
    recipe: Recipe, config: PreTrainedConfig, network: Supernet, finetunes: bool, other: OtherTeacher | None
) -> str:
    kind = recipe.task.kind
    as_it_is = "it is what is made smaller" if other else "it is the teacher as it is"
    role = f"no {kind.noun} for these rows yet: it is fine-tuned first" if finetunes else as_it_is
    named = recipe.model if other else recipe.teacher or recipe.model
    parameters = f"{count_parameters(network, network.whole) / 1e6:.1f} M parameters"
    told = f"{named} ({_shape(config)}, {parameters}): {role}"
    return told + (f"\n{other.source} ({_shape(other.config)}) is the teacher" if other else "")


def _shape(config: PreTrainedConfig) -> str:
    sizes = geometry_of(config)
    return f"{config.model_type}: {sizes.layers} layers, {sizes.heads} heads, hidden size {sizes.hidden}"
