"""A teacher of another shape than the model that is made smaller: whether it can teach it, and how long it takes to."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from dynackd.compress.calibrate import row_s
from dynackd.data.model_labels import ModelLabels, labels_of
from dynackd.data.origins import resolve_model
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.families.table import family_of, geometry_of, max_positions
from dynackd.measure.teacher_check import SAMPLE_ROWS
from dynackd.subnet import Geometry
from dynackd.supernet.checkpoints import load_model_config
from dynackd.supernet.joining import general_place
from dynackd.supernet.network import Supernet
from dynackd.tasks.loading import TaskData, taken
from dynackd.tasks.tokens import tokenize
from dynackd.training.recipe import Recipe
from dynackd.training.teachers import check_teacher, load_teacher, other_reader, settled


@dataclass(frozen=True)
class OtherTeacher:
    """source: its directory or name; config: of the model in `source`."""

    source: str
    config: PreTrainedConfig

    @property
    def labels(self) -> ModelLabels:
        return labels_of(self.config)

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.config)


def other_teacher(model: str, config: PreTrainedConfig, teacher: str | None) -> OtherTeacher | None:
    """The teacher of a model with this config, where it is of another shape or family; None where there is none, or it
    is of the same. Raises `UserError` where it can be no teacher."""
    if teacher is None:
        return None
    source = resolve_model(teacher)
    theirs = load_model_config(source)
    family_of(theirs)
    if (theirs.model_type, geometry_of(theirs)) == (config.model_type, geometry_of(config)):
        return None
    if general_place(model):
        raise UserError(
            f"{model} has another shape than its teacher {teacher}, and a general supernet meets only a teacher that "
            "was fine-tuned from its own encoder; name that, or the encoder as the model"
        )
    return OtherTeacher(teacher, theirs)


def try_teacher(
    other: OtherTeacher,
    recipe: Recipe,
    network: Supernet,
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
) -> float:
    """The seconds in which the teacher reads a row. `UserError` where it cannot teach this network, whatever the
    reason, or knows no better than chance: nothing is trained for it."""
    kind, settings, source = data.task.kind, recipe.stages["width"], resolve_model(other.source)
    teacher = load_teacher(other.source, kind)
    reader = other_reader(source, teacher, kind, tokenizer, teaches=True)
    settled(settings, Teacher(teacher, kind, settings.distillation.matching, reader is not None), network.geometry)
    assert data.train is not None
    theirs = reader.tokenizer if reader else tokenizer
    some = data.train.select(taken(len(data.train), SAMPLE_ROWS, recipe.data.seed)[0])
    positions = max_positions(teacher.model.config)
    rows, _ = tokenize(some, data.task, theirs, min(recipe.data.max_length, positions), max_positions=positions)
    teacher = teacher.to(settings.arguments(Path(tempfile.gettempdir())).device)
    check_teacher(teacher, data, rows, theirs, recipe.data.seed)
    return row_s(teacher, data.task, theirs, rows)
