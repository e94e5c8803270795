"""The stages from a checkpoint to a trained supernet: finetune, train-general, train-width and train-depth."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedConfig, Trainer
from transformers.trainer_utils import EvalPrediction, PredictionOutput

from dynackd.data.model_labels import WRITTEN_KEY, ModelLabels, labels_of
from dynackd.data.origins import Record, model_record, resolve_model
from dynackd.data.sources import OTHERS
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError, a
from dynackd.families.table import geometry_of, max_positions
from dynackd.measure.teacher_check import doubt_of
from dynackd.report.reading import IMPORTANCE_FILE
from dynackd.report.terminal import console, grid_table, machine_name, show
from dynackd.subnet import describe, describe_layers
from dynackd.supernet.checkpoints import (
    begin_head,
    load_config,
    load_model,
    load_model_config,
    load_tokenizer,
    name_outputs,
    reset_head,
    set_attribute,
)
from dynackd.supernet.importance import in_order_of
from dynackd.supernet.joining import ORDERS_FILE, general_place, in_hidden_order
from dynackd.supernet.network import Origin, Supernet, check_hidden, load_supernet
from dynackd.system.places import new_directory, write_files, write_json
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.kinds import KIND_KEY
from dynackd.tasks.loading import TaskData, load_task_data
from dynackd.tasks.parts import Arrays
from dynackd.tasks.task import compute_metrics
from dynackd.training.evaluating import evaluate_subnets
from dynackd.training.finetuner import FineTuner
from dynackd.training.lineage import INHERITED, SUPERNET, record_of, refuse_other, refuse_other_models, write_record
from dynackd.training.loop import choose_length, choose_rate, run_training
from dynackd.training.mixing import mixed_in, others_of
from dynackd.training.progress import LOG_FILE, predicting, write_log
from dynackd.training.recipe import Recipe
from dynackd.training.resumable import check_steps, set_dropout
from dynackd.training.rewiring import order_as_in, order_in, order_layers, rewire_by_importance
from dynackd.training.rows import Rows, tokenized
from dynackd.training.runs import TEACHER, Run, RunMode, alone, checked, drop, prepare, result_called
from dynackd.training.teachers import (
    AGAIN,
    check_teacher,
    encoder_of,
    labels_of_teacher,
    load_pair,
    load_teacher,
    models_of,
    other_reader,
    refuse_other_teacher,
    refuse_student,
    say_doubt,
    start_of,
    teacher_of,
)
from dynackd.training.trainer import DEPTH_STAGE, GENERAL_STAGE, WIDTH_STAGE, Stage, SupernetTrainer


@alone
def finetune(recipe: Recipe, mode: RunMode) -> Path:
    """Stage 0: fine-tune a bare encoder with the stock Trainer. Returns the teacher's directory."""
    if not recipe.task.kind.can_finetune(recipe.task):
        raise UserError(f"task: {a(recipe.task.kind.noun)} {recipe.task.kind.not_finetuned}")
    run = prepare(recipe, "finetune", TEACHER, mode)
    encoder = encoder_of(recipe.model)
    source = resolve_model(encoder)
    config = load_config(source)
    refuse_student(source, config)
    tokenizer = load_tokenizer(source, config, recipe.task.kind)
    data = load_rows(run, labels=labels_of_teacher(recipe))
    record = checked(run, record_of(recipe, data, {"model": model_record(encoder, run.directory)}))
    foreign_head = _has_foreign_head(source, config, data)
    kind = data.task.kind
    name_outputs(config, kind.output_names(data.label_names))
    config.problem_type = kind.problem_type
    _remember_task(config, data)
    _tell_same_sizes(recipe, config)
    choose_rate(run, "finetune", config)
    torch.manual_seed(run.arguments.seed)  # the new head is random
    model = load_model(source, config, kind, new_head=True)
    if foreign_head:
        reset_head(model, kind)
    labels = data.train["label"][:] if data.train is not None and "label" in data.train.column_names else []
    is_new = foreign_head or not kind.has_head((load_config(source).architectures or [""])[0])
    if is_new and (bias := kind.first_bias(labels)) is not None:
        begin_head(model, kind, bias)
    rows = tokenized(data, recipe, tokenizer, max_positions(config))
    choose_length(run, "finetune", len(rows.train))
    trainer = FineTuner(
        model,
        kind,
        run.arguments,
        train_dataset=rows.train,
        eval_dataset=rows.validation[""],
        processing_class=tokenizer,
        stop=mode.interruption.asked,
        compute_metrics=lambda found: _measured(data.task, found),
    )
    set_dropout(model, run.settings.dropout)
    seconds = run_training(trainer, run, record, "fine-tuning")
    found = {suffix: _predicted(trainer, some) for suffix, some in rows.validation.items()}
    metrics = {
        name: value for suffix, own in found.items() for name, value in _measured(data.task, own, suffix).items()
    }

    def save(directory: Path) -> None:
        model.save_pretrained(directory)
        set_attribute(tokenizer, "model_max_length", recipe.data.max_length)  # clients cut where the training did
        tokenizer.save_pretrained(directory)
        write_files(directory, kind.files(config))

    about = {"task": data.task.name, "metrics": metrics, "train_seconds": round(seconds, 1)}
    _finish(run, trainer, record, save, about)
    told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    console.print(f"teacher: {told or 'not judged, because the validation rows have no labels'}")
    say_doubt(doubt_of(*_arrays(data.task, found[""]), data), data.task)
    return run.directory


@alone
def train_width(recipe: Recipe, mode: RunMode) -> Path:
    """Stages 1 and 2: rewire the teacher's heads and neurons, and hidden dimensions where the grid has fewer, then
    train all widths. Returns the supernet's directory."""
    return _train_from_teacher(recipe, mode, WIDTH_STAGE)


@alone
def train_general(recipe: Recipe, mode: RunMode) -> Path:
    """Before all others, once for an encoder: rewire it, then all widths x depths x hidden sizes learn from it on plain
    text, without a task. Returns the directory of the supernet, from which those of tasks may start."""
    if recipe.task.kind.head:
        raise UserError(
            f"task: train-general is for an encoder without a head, not {a(recipe.task.kind.noun)}; train one in a "
            "recipe with task: {kind: plain, text: text}, and name the result as the model of this one"
        )
    if recipe.grid.awaits_order:
        raise UserError(
            f"grid.kept_layers: {recipe.grid.kept_layers} goes by an order of layers that is measured after all widths "
            "were trained, and train-general trains depths with them; take last or ends. A task's recipe that starts "
            "from the result may still say it"
        )
    return _train_from_teacher(recipe, mode, GENERAL_STAGE)


def _train_from_teacher(recipe: Recipe, mode: RunMode, stage: Stage) -> Path:
    """The stage from which a supernet starts. One that starts from a general supernet keeps the order of that."""
    place = general_place(recipe.model)
    if min(recipe.grid.hidden) < 1 and place and not in_hidden_order(place):
        raise UserError(
            f"grid.hidden: the hidden dimensions of {recipe.model} do not stand in the order of their importance, "
            "since its recipe had none of these sizes; run dynackd train-general with them, or remove the key"
        )
    run = prepare(recipe, stage.name, stage.name, mode)
    source = teacher_of(recipe)
    begins_as = start_of(recipe, source)
    pair = load_pair(recipe, source, begins_as, stage.name)
    teacher, start, tokenizer = pair.teacher, pair.start, pair.tokenizer
    run = replace(run, settings=pair.settings)
    recipe.grid.supposed(start.geometry).subnets(start.geometry)  # refuses a grid that names one network twice
    check_hidden(start.model.config, recipe.grid)
    data = load_rows(run, teacher)
    grid, known = stage.grid_of(recipe.grid), models_of(recipe, run.directory)
    record = checked(run, record_of(recipe, data, known, grid))
    refuse_other_teacher(recipe, record)
    readers = (start,) if pair.other else (teacher, start)
    positions = min(max_positions(network.model.config) for network in readers)
    rows = tokenized(data, recipe, tokenizer, positions, pair.other)
    if run.checkpoint is None:
        check_teacher(teacher.to(run.arguments.device), data, *rows.sample(), recipe.data.seed)
    began = known.get(SUPERNET) or known.get("model") or known[TEACHER]
    origin = Origin(stage.name, source, begins_as, known[TEACHER]["sha256"], began["sha256"])
    model = start.frozen_copy().requires_grad_(True).model
    supernet = Supernet(model, grid, origin, hidden_order=start.hidden_order)
    _remember_task(supernet.model.config, data)
    kept = {}
    if run.checkpoint is None:
        here = supernet.to(run.arguments.device)
        kept = order_as_in(place, here, recipe, rows) if place else rewire_by_importance(here, recipe, rows)
    else:
        supernet.hidden_order = order_in(run.checkpoints)
    in_order_of(supernet, teacher)
    imitated = Teacher(teacher, data.task.kind, run.settings.distillation.matching, pair.other is not None)
    return train_stage(run, record, stage, supernet, imitated, teacher, rows, kept)


@alone
def train_depth(recipe: Recipe, mode: RunMode) -> Path:
    """Stage 3: train all widths x depths x hidden sizes, each taught by the width stage's network of its width. Returns
    the supernet's directory."""
    run = prepare(recipe, "depth", "depth", mode)
    parent = recipe.output_dir / WIDTH_STAGE.name
    if not parent.is_dir():
        raise UserError(f"{parent} does not exist; run dynackd train-width with this recipe first")
    source = teacher_of(recipe)
    known = models_of(recipe, run.directory)
    own = model_record(str(parent), run.directory)
    refuse_other_models(parent, known, AGAIN["width"])
    teacher, tokenizer = load_supernet(parent)
    grid = recipe.grid.ordered(teacher.grid.layer_order)  # as the width stage measured it
    if teacher.grid != WIDTH_STAGE.grid_of(grid):
        raise UserError(
            f"{parent} was trained at widths {list(teacher.grid.widths)} with the rule {teacher.grid.kept_layers!r}, "
            f"the recipe asks for {list(recipe.grid.widths)} with {recipe.grid.kept_layers!r}; make them agree"
        )
    if min(recipe.grid.hidden) < 1 and not teacher.hidden_order:
        raise UserError(
            f"grid.hidden: the hidden dimensions of {parent} do not stand in the order of their importance, since the "
            f"recipe had none of these sizes then; {AGAIN['width']}"
        )
    data = load_rows(run, teacher)
    record = checked(run, record_of(recipe, data, {**known, "parent": own}, DEPTH_STAGE.grid_of(recipe.grid)))
    refuse_other_teacher(recipe, record)
    refuse_other(parent, record, INHERITED, AGAIN["width"])
    original = load_teacher(source, recipe.task.kind)
    other = other_reader(source, original, recipe.task.kind, tokenizer)
    rows = tokenized(data, recipe, tokenizer, max_positions(teacher.model.config), other)
    if run.checkpoint is None:
        check_teacher(teacher.to(run.arguments.device), data, rows.train, tokenizer, recipe.data.seed)
    origin = Origin(DEPTH_STAGE.name, source, str(parent), known[TEACHER]["sha256"], own["sha256"])
    model = teacher.frozen_copy().requires_grad_(True).model
    supernet = Supernet(model, DEPTH_STAGE.grid_of(grid), origin, hidden_order=teacher.hidden_order)
    in_order_of(supernet, original)
    return train_stage(run, record, DEPTH_STAGE, supernet, Teacher(teacher, data.task.kind), original, rows)


def load_rows(run: Run, teacher: Supernet | None = None, labels: ModelLabels | None = None) -> TaskData:
    """The recipe's rows, which must be enough for a step, with classes as the teacher numbers them, or as `labels`
    does; where there is a teacher, those without labels too."""
    model = labels_of(teacher.model.config) if teacher is not None else labels
    splits = ("train", "validation", *((OTHERS,) if teacher is not None else ()))
    data = load_task_data(run.recipe.task, run.recipe.data, splits, model)
    if data.train is not None and data.unlabelled is None and _is_one_input(data.task.kind):
        check_steps(len(data.train), run.arguments)  # of other rows it is known once they are tokenised
    return data


def _is_one_input(kind: Kind) -> bool:
    """Whether a row becomes one input, and not one for each of its passages, windows or texts."""
    return kind.together is None and kind.input_noun == Kind.input_noun


def _remember_task(config: PreTrainedConfig, data: TaskData) -> None:
    """The kind of task, and how these data write the classes, for all that is later done with what is trained."""
    setattr(config, KIND_KEY, data.task.kind.name)
    if data.labels is not None:
        setattr(config, WRITTEN_KEY, dict(data.labels.ids))


def _tell_same_sizes(recipe: Recipe, config: PreTrainedConfig) -> None:
    """What train-width would refuse after this training."""
    for key, shares in recipe.grid.distinct(geometry_of(config)).items():
        told = f"note: train-width will ask for {key}: {shares}, since others are the same network here"
        console.print(told, markup=False)


def _has_foreign_head(source: str, config: PreTrainedConfig, data: TaskData) -> bool:
    """Whether the model has a head of other classes than the data's; what becomes of a head is told."""
    kind = data.task.kind
    if not kind.has_head((config.architectures or [""])[0]):
        return False
    before = labels_of(load_model_config(source))
    kept, told = kind.head_fits(source, before, kind.output_names(data.label_names))
    console.print(told, markup=False)
    return not kept


def train_stage(
    run: Run,
    record: Record,
    stage: Stage,
    supernet: Supernet,
    teacher: Teacher,
    original: Supernet,
    rows: Rows,
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """The stage's training, evaluation and result. original: whom fidelity is measured against. kept: JSON files (name
    -> content) that the result will have too."""
    for spec, subnet in supernet.subnets.items():
        uneven = any(isinstance(own, list) for own in subnet.sizes)
        told = describe_layers(subnet, supernet.geometry) if uneven else describe(spec, subnet, supernet.geometry)
        console.print(told)
    choose_rate(run, stage.name, supernet.model.config)
    choose_length(run, stage.name, len(rows.train) + others_of(run, rows))
    task, tokenizer = rows.data.task, rows.tokenizer
    train, mixture = mixed_in(run, rows)
    trainer = SupernetTrainer(
        supernet,
        teacher,
        stage,
        task,
        run.settings.distillation,
        run.arguments,
        run.recipe.sampler,
        mixture=mixture,
        train_dataset=train,
        eval_dataset=rows.validation,
        processing_class=tokenizer,
        data_collator=rows.collator(),
        stop=run.mode.interruption.asked,
    )
    set_dropout(supernet, run.settings.dropout)
    seconds = run_training(trainer, run, record, f"{stage.name} stage", kept)
    # accelerate leaves its autocast round the model: what is told of the sizes would be another precision's.
    trainer.accelerator.unwrap_model(supernet, keep_fp32_wrapper=False)
    if supernet.grid.by_order and supernet.grid.layer_order is None:
        importance = run.checkpoints / IMPORTANCE_FILE
        order_layers(supernet, run.recipe, rows, importance if run.arguments.should_save else None)
    length = run.recipe.data.max_length
    evaluation = evaluate_subnets(supernet, original.to(run.arguments.device), rows, length)
    about = {**evaluation, "stage": stage.name, "train_seconds": round(seconds, 1)}
    set_attribute(tokenizer, "model_max_length", length)  # clients, and the export, cut where the training did
    _finish(run, trainer, record, lambda directory: supernet.save(directory, tokenizer), about)
    show(grid_table(evaluation))
    return run.directory


def _finish(
    run: Run, trainer: Trainer, record: Record, save: Callable[[Path], None], about: Mapping[str, Any]
) -> None:
    """Write the result directory in one rename, then drop the checkpoints."""
    if trainer.args.should_save:
        replace = run.mode.overwrite or run.mode.resume  # see `claim`
        with new_directory(run.directory, result_called(run.directory.name), replace) as directory:
            save(directory)
            write_record(directory, run.recipe, record, run.directory)
            write_json(directory / "metrics.json", {**about, "machine": machine_name()})
            write_log(directory / LOG_FILE, trainer.state.log_history)
            for kept in filter(Path.is_file, (run.checkpoints / name for name in (IMPORTANCE_FILE, ORDERS_FILE))):
                shutil.copy(kept, directory)
            if (boards := run.checkpoints / "runs").is_dir():  # TensorBoard's
                shutil.copytree(boards, directory / "runs")
        drop(run.checkpoints)


def _predicted(trainer: Trainer, rows: Dataset) -> PredictionOutput:
    batches = math.ceil(len(rows) / (trainer.args.eval_batch_size * trainer.args.world_size))
    with predicting(trainer, f"evaluating on {len(rows):,} rows", batches):
        return trainer.predict(rows)


def _measured(task: Task, found: EvalPrediction | PredictionOutput, suffix: str = "") -> dict[str, float]:
    return compute_metrics(task, *_arrays(task, found), suffix)


def _arrays(task: Task, found: EvalPrediction | PredictionOutput) -> tuple[Arrays, Arrays]:
    """Outputs and labels of what the stock Trainer predicted: one array or a tuple of them, filled up with -100."""

    def named(names: Sequence[str], arrays: Any) -> dict[str, np.ndarray]:
        every = [np.asarray(array) for array in (arrays if isinstance(arrays, tuple) else (arrays,))]
        return dict(zip(names, every, strict=False))

    kind = task.kind
    outputs, labels = named(kind.judged, found.predictions), named(kind.label_columns, found.label_ids)
    filled = np.ones(next(iter(outputs.values())).shape[:2])
    mask = kind.places({"attention_mask": filled, **labels})
    return kind.flat(outputs, mask), kind.flat(labels, mask)
