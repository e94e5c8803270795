"""Which fine-tuned model is the teacher, and whether it may be one."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dynackd.data.model_labels import ModelLabels, labels_of
from dynackd.data.origins import Record, is_place, local_model, model_record, read_origin, resolve_model, weights_sha256
from dynackd.data.sources import OTHERS
from dynackd.distill.settings import RELATIONS
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError, a, listed
from dynackd.families.table import FAMILIES, FAMILY_KEY, geometry_of, max_positions
from dynackd.grid import Grid
from dynackd.measure.teacher_check import doubt
from dynackd.report.terminal import console
from dynackd.subnet import Geometry
from dynackd.supernet.checkpoints import load_config, load_model, load_model_config, load_tokenizer
from dynackd.supernet.joining import general_place, join, origin_of
from dynackd.supernet.network import CONFIG_KEY, Origin, Supernet
from dynackd.tasks.alignment import read_alike
from dynackd.tasks.doubts import Doubt
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.loading import TaskData, load_task_data
from dynackd.training.lineage import INHERITED, SUPERNET, record_of, refuse_other
from dynackd.training.recipe import Recipe, StageSettings
from dynackd.training.rows import OtherReader
from dynackd.training.runs import TEACHER
from dynackd.training.trainer import DEPTH_STAGE, GENERAL_STAGE, WIDTH_STAGE

# How a result that no longer fits is made anew.
AGAIN = {
    TEACHER: "run dynackd finetune with --overwrite",
    WIDTH_STAGE.name: "run dynackd train-width with --overwrite, or undo the change",
    DEPTH_STAGE.name: "run dynackd train-depth with --overwrite, or undo the change",
    GENERAL_STAGE.name: "run dynackd train-general with --overwrite, or undo the change",
}
# What can be done where a supernet's teacher is gone or another; no command has an option for a general one's encoder.
NAMED = {"noun": "teacher", "gone": "name it with --teacher DIR",
         "other": "name the right one, or this one, with --teacher DIR"}  # fmt: skip
UNNAMED = {"noun": "encoder"} | dict.fromkeys(("gone", "other"), "put that back, or run dynackd train-general anew")
GRIDS = {stage.name: stage.grid_of for stage in (WIDTH_STAGE, DEPTH_STAGE)}


def encoder_of(model: str) -> str:
    """A recipe's `model`, or the encoder that it is the general supernet of."""
    place = general_place(model)
    return model if place is None else teacher_of_supernet(place, origin_of(place), None, UNNAMED)


def teacher_of(recipe: Recipe) -> str:
    """The name or absolute directory of the fine-tuned model: the recipe's `teacher`, else what `finetune` made, which
    must be of the recipe's model, else the recipe's `model` if that is fine-tuned already."""
    _refuse_gone_supernet(recipe)
    finetuned = recipe.output_dir / TEACHER
    if recipe.teacher:
        return _absolute(recipe.teacher)
    if finetuned.is_dir():
        refuse_other_teacher(recipe, {"model": model_record(encoder_of(recipe.model), finetuned)})
        return _absolute(str(finetuned))
    encoder = encoder_of(recipe.model)
    architectures = load_config(resolve_model(encoder)).architectures or ["nothing named"]
    kind = recipe.task.kind
    if not kind.has_head(architectures[0]):
        raise UserError(
            f"{encoder} is a bare encoder ({architectures[0]}), not a fine-tuned {kind.noun}; run dynackd "
            f"finetune with this recipe first, or name a fine-tuned model under 'teacher'"
        )
    return _absolute(encoder)


def _refuse_gone_supernet(recipe: Recipe) -> None:
    """`UserError` where the recipe's results started from a general supernet that is not where the recipe says: by the
    name alone that would be an encoder."""
    if not is_place(recipe.model) or Path(recipe.model).expanduser().exists():
        return
    for name in (WIDTH_STAGE.name, DEPTH_STAGE.name):
        if SUPERNET in read_origin(recipe.output_dir / name):
            raise UserError(
                f"{recipe.model}: no such directory, but {recipe.output_dir / name} started from the general supernet "
                "there; put it back, or correct 'model' in the recipe"
            )


def labels_of_teacher(recipe: Recipe) -> ModelLabels | None:
    """How a teacher that the recipe names calls its outputs, which `finetune` must call alike; None where it names
    none, or what `finetune` makes."""
    own = os.path.abspath(recipe.output_dir / TEACHER)
    if not recipe.teacher or os.path.abspath(Path(recipe.teacher).expanduser()) == own:
        return None
    return labels_of(load_model_config(resolve_model(recipe.teacher)))


def refuse_other_teacher(recipe: Recipe, now: Record) -> None:
    """`UserError` where what `finetune` made came from something else than `now` says, unless the recipe itself names
    its teacher, whatever that is."""
    finetuned = recipe.output_dir / TEACHER
    if not recipe.teacher:
        keys = [key for key in INHERITED if key != TEACHER]
        refuse_other(finetuned, now, keys, f"{AGAIN[TEACHER]}, or --set teacher={finetuned} to use it as it is")


def refuse_other_result(recipe: Recipe, name: str) -> None:
    """`UserError` where the finished result `name` of a recipe is not what its stage would make now, but for the
    training's settings."""
    directory = recipe.output_dir / name
    if not read_origin(directory):
        return
    config = load_config(str(directory))
    splits = ("train", "validation", *((OTHERS,) if name in GRIDS else ()))
    data = load_task_data(recipe.task, recipe.data, splits, labels_of(config))
    models: dict[str, Callable[[], Mapping[str, Record]]] = {
        TEACHER: lambda: {"model": model_record(encoder_of(recipe.model), directory)},
        WIDTH_STAGE.name: lambda: models_of(recipe, directory),
        DEPTH_STAGE.name: lambda: {"parent": model_record(str(recipe.output_dir / WIDTH_STAGE.name), directory)},
    }
    now = record_of(recipe, data, models[name](), GRIDS[name](recipe.grid) if name in GRIDS else None)
    refuse_other(directory, now, [*INHERITED, OTHERS, "parent", "grid"], AGAIN[name])


def _absolute(source: str) -> str:
    """A local directory as a path that holds from everywhere; a name on the hub or in a package as it is."""
    return os.path.abspath(Path(source).expanduser()) if is_place(source) else source


def start_of(recipe: Recipe, teacher: str) -> str:
    """The name or absolute directory of the fine-tuned model whose weights the supernet starts from: the teacher,
    unless the recipe names that beside a model of its own, which is fine-tuned already or by `finetune`, or a general
    supernet as its model."""
    if general_place(recipe.model):
        return _absolute(recipe.model)
    finetuned = recipe.output_dir / TEACHER
    if not recipe.teacher or (finetuned.is_dir() and finetuned.resolve() == Path(teacher).resolve()):
        return teacher
    config = load_config(resolve_model(recipe.model))
    if finetuned.is_dir():  # also of a model that had a head, of other classes or for everything, as an embedder
        keys = [key for key in INHERITED if key != TEACHER]
        refuse_other(finetuned, {"model": model_record(recipe.model, finetuned)}, keys, AGAIN[TEACHER])
        return _absolute(str(finetuned))
    if recipe.task.kind.has_head((config.architectures or [""])[0]):
        return _absolute(recipe.model)
    theirs = load_config(resolve_model(teacher))
    refuse_student(teacher, theirs)
    if (theirs.model_type, geometry_of(theirs)) != (config.model_type, geometry_of(config)):
        raise UserError(
            f"{recipe.model} is a bare encoder of another shape than the teacher {recipe.teacher}, so the supernet has "
            "nothing to start from; run dynackd finetune with this recipe first"
        )
    return teacher


@dataclass(frozen=True)
class Pair:
    """A teacher and the network that the supernet starts from, which may be the same; the latter's tokenizer; what
    their stage trains with; and who reads other tokens."""

    teacher: Supernet
    start: Supernet
    tokenizer: PreTrainedTokenizerBase
    settings: StageSettings
    other: OtherReader | None = None


def load_pair(recipe: Recipe, teacher: str, start: str, stage: str = WIDTH_STAGE.name) -> Pair:
    """Raises `UserError` where the two have other outputs, or the recipe's task or distillation cannot compare them."""
    kind, settings = recipe.task.kind, recipe.stages[stage]
    imitated = load_teacher(teacher, kind)
    place = general_place(start)
    if place is not None:
        own = join(place, encoder_of(start), imitated.model, recipe.join)
    else:
        own = imitated if start == teacher else load_teacher(start, kind)
    tokenizer = load_tokenizer(resolve_model(start), own.model.config, kind)
    if start == teacher:
        return Pair(own, own, tokenizer, settings)
    other = other_reader(teacher, imitated, kind, tokenizer, teaches=True)
    names = [labels_of(network.model.config).names for network in (own, imitated)]
    if not say_the_same(kind, *names):
        raise UserError(
            f"the outputs of {start} are {listed(names[0])}, the teacher's {listed(names[1])}; they must be the same "
            "in the same order"
        )
    comparison = Teacher(imitated, kind, settings.distillation.matching, other is not None)
    return Pair(imitated, own, tokenizer, settled(settings, comparison, own.geometry), other)


def say_the_same(kind: Kind, ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether two models' outputs are the same in the same order: the classes by their names, in whatever case, numbers
    by how many there are; what a model without a head calls outputs is a left-over."""
    if not kind.head:
        return True
    if not kind.names_outputs:
        return len(ours) == len(theirs)
    return [name.casefold() for name in ours] == [name.casefold() for name in theirs]


def other_reader(
    source: str, teacher: Supernet, kind: Kind, tokenizer: PreTrainedTokenizerBase, teaches: bool = False
) -> OtherReader | None:
    """What is known of a teacher that reads other tokens than this tokenizer gives; None where it reads the same.
    teaches: see there. Raises `UserError` where the kind needs the same."""
    theirs = load_tokenizer(resolve_model(source), teacher.model.config, kind)
    if read_alike(theirs, tokenizer):
        return None
    if kind.one_tokenizer:
        raise UserError(
            f"the teacher {source} reads other tokens than the model, which {a(kind.noun)} cannot learn from: "
            f"{kind.one_tokenizer}; name a teacher with the model's tokenizer"
        )
    return OtherReader(theirs, max_positions(teacher.model.config), teaches)


def settled(settings: StageSettings, teacher: Teacher, full: Geometry) -> StageSettings:
    """What a stage trains with under this teacher, for students whose full network has these sizes: relations alone
    where states cannot be compared and the recipe leaves that open, which is told. Raises `UserError`."""
    if settings.relations is not None and (why := teacher.unlike(full)):
        console.print(f"note: {why}: relations are compared, states are not (distillation.signal: {RELATIONS})")
        settings = replace(settings, distillation=settings.relations)
    teacher.check(full, settings.distillation)
    return settings


def models_of(recipe: Recipe, directory: Path) -> dict[str, Record]:
    """What the record of a stage, in `directory`, says of the teacher, and of what its supernet started from where that
    is another."""
    teacher = teacher_of(recipe)
    start = start_of(recipe, teacher)
    what = SUPERNET if general_place(start) else "model"
    own = {} if start == teacher else {what: model_record(start, directory)}
    return {TEACHER: model_record(teacher, directory), **own}


def load_teacher(source: str, kind: Kind) -> Supernet:
    """A fine-tuned model as a frozen supernet, of which only the full network is asked."""
    source = resolve_model(source)
    config = load_model_config(source)
    refuse_student(source, config)
    return Supernet(load_model(source, config, kind), Grid((1.0,), (1.0,))).frozen_copy()


def teacher_of_supernet(directory: Path, origin: Origin, named: str | None, ways: Mapping[str, str] = NAMED) -> str:
    """The teacher that a supernet remembers, or the one that the user names, which is not refused. ways: what it is
    called, and what can be done where it is not there or another."""
    source, noun = named or origin.teacher, ways["noun"]
    if source is None:
        raise UserError(f"{directory} remembers no {noun}; {ways['gone']}")
    place = local_model(source)
    if place is None and is_place(source) and not named:
        raise UserError(f"the {noun} of {directory} is not at {source} any more; {ways['gone']}")
    if place is not None and origin.teacher_sha256 not in (None, weights_sha256(source)):
        what = f"{source} has other weights than the {noun} of {directory}"
        if not named:
            raise UserError(f"{what} had; {ways['other']}")
        console.print(f"note: {what}")
    return source


def refuse_student(source: str, config: Any) -> None:
    if config.model_type not in FAMILIES and hasattr(config, FAMILY_KEY):
        raise UserError(f"{source} is a sliced student already; name the fine-tuned model that it was cut from")
    if hasattr(config, CONFIG_KEY):
        raise UserError(f"{source} is a supernet, not a plain fine-tuned model; name its teacher")


def check_teacher(
    teacher: Supernet, data: TaskData, rows: Dataset, tokenizer: PreTrainedTokenizerBase, seed: int
) -> None:
    """Refuse (`UserError`) a teacher that is worse than chance on a sample of the tokenised training rows."""
    found = doubt(teacher, data, rows, tokenizer, seed) if data.task.check_teacher else None
    if found and found.certain:
        raise UserError(found.told)
    say_doubt(found, data.task)


def say_doubt(found: Doubt | None, task: Task) -> None:
    if found and task.check_teacher:
        console.print(f"warning: {found.told}", markup=False)
