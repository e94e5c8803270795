"""A recipe as it is written: its sections, their keys, and the JSON Schema by which an editor completes it.

    checked(RecipeFile, content)    # UserError, one sentence: the key's path, what stands there, what would be right
    recipe_schema()                 # what `dynackd schema` prints, and recipes/recipe.schema.json
"""

from typing import Annotated, Any, Literal, Union

from pydantic import Field, PlainValidator, ValidationInfo

from dynackd.data.sources import DataSource, resolve_source
from dynackd.data.words import AugmentationSettings
from dynackd.distill.settings import SIGNALS, DistillationSettings
from dynackd.grid import Grid
from dynackd.supernet.importance import IMPORTANCE
from dynackd.supernet.joining import JOIN, JOINS
from dynackd.system.settings import Among, Json, Number, Settings, Whole, refused, schema_of, section
from dynackd.tasks.glue import TASKS
from dynackd.tasks.kind import Task
from dynackd.tasks.kinds import KINDS
from dynackd.tasks.metrics import METRICS
from dynackd.tasks.task import resolve_task
from dynackd.training.arguments import Training
from dynackd.training.samplers import SubnetSampler

# What relative paths in a recipe file are relative to; recipes beside results say `recipe`.
WORKING_DIRECTORY, RECIPE_FILE = "working directory", "recipe"
# A supernet has its teacher's hidden size, so the hidden states themselves can be compared beside CKD's relations.
SIGNAL = "ckd+mse"
# None: the model's own. Without dropout a step takes about a tenth less time on a CPU (benchmarks/training.py, its
# variant `dropout`), sub-networks share their first layers exactly, and no noise stands between student and teacher.
DROPOUT: dict[str, float | None] = {"finetune": None, "general": 0.0, "width": 0.0, "depth": 0.0, "polish": 0.0}

Name = Annotated[str, Field(pattern=r"\S")]
Dropout = Annotated[Number, Field(ge=0, lt=1)] | None
NO_DISTILLATION = "does nothing: the teacher learns from the labels; remove it"
MEASURED = "is what train-width measures for kept_layers: importance, and keeps in its result; remove it"
STAGE_TRAINING = Field(default=None, description="As the recipe's, for this stage")
DROPOUT_WORDS = "Rate of every dropout; null for the model's own"


class _Labelled(Settings):
    labels: list[str] | dict[str, int | str] | None = Field(
        default=None, description="The classes in the order of their ids, or label in the data: class id or name"
    )
    check_teacher: bool = Field(
        default=True,
        description="Whether the teacher is tried on rows: an error if worse than chance, a warning if hardly better",
    )


class KnownTask(_Labelled):
    """A known task, and what the data or the teacher do otherwise."""

    name: Annotated[str, Among(lambda: TASKS)] = Field(description="A known task")


class OwnTask(_Labelled):
    """A task of your own."""

    kind: Annotated[str, Among(lambda: [name for name, kind in KINDS.items() if not kind.section])] = Field(
        description="What kind of label a row carries"
    )
    text: str | list[str] = Field(description="The column of the text, or the two columns of a pair")
    label: str = Field(description="The column of the label")
    metrics: str | list[Annotated[str, Among(lambda: METRICS)]] | None = Field(
        default=None, description="What is measured, the main one first; by default the kind's"
    )


SECTIONS = [kind.section for kind in KINDS.values() if kind.section is not None]
WrittenTask: Any = Union[(Annotated[str, Among(lambda: TASKS)], KnownTask, OwnTask, *SECTIONS)]


@section("grid")
class GridSection(Grid):
    """The sub-networks that are trained: every width with every depth."""

    layer_order: refused(MEASURED, None) = Field(default=None, description=MEASURED)  # type: ignore[valid-type]
    sampler: Annotated[SubnetSampler, PlainValidator(SubnetSampler.parse, json_schema_input_type=str)] = Field(
        default="sandwich(1)",
        validate_default=True,
        description="Which of them train at a step: sandwich(k) for the largest, the smallest and k others, all, "
        "random(k) for any k, or mixed(k) for k with layers and widths of their own, as a search finds them, in the "
        "others' place",
    )


class Importance(Settings):
    """How heads and neurons are ordered before the width stage, so that the most important ones are kept."""

    score: Annotated[str, Among(lambda: IMPORTANCE)] = Field(default="gradient", description="What makes one important")
    rows: Whole = Field(default=512, ge=1, description="Training rows on which that is measured")


@section("distillation")
class DistillationSection(DistillationSettings):
    """What a sub-network learns from."""

    signal: Annotated[str, Among(lambda: SIGNALS)] = Field(
        default=SIGNAL, description="The weights and the schedule to begin with; the other keys change single ones"
    )


class FinetuneStage(Settings):
    """The fine-tuning of the teacher."""

    training: Training | None = STAGE_TRAINING  # type: ignore[valid-type]
    dropout: Dropout = Field(default=DROPOUT["finetune"], description=DROPOUT_WORDS)
    distillation: refused(NO_DISTILLATION, None) = Field(default=None, description=NO_DISTILLATION)  # type: ignore[valid-type]


class SupernetStage(Settings):
    """A stage of the supernet; what stands here overrides what all stages share."""

    training: Training | None = STAGE_TRAINING  # type: ignore[valid-type]
    distillation: DistillationSection | None = Field(
        default=None, description="As the recipe's, for this stage; weights key by key"
    )
    dropout: Dropout = Field(default=DROPOUT["width"], description=DROPOUT_WORDS)


class Stages(Settings):
    """What differs between the stages."""

    finetune: FinetuneStage | None = Field(default=None, description="The teacher, from an encoder")
    general: SupernetStage | None = Field(default=None, description="All sizes of an encoder, before any task")
    width: SupernetStage | None = Field(default=None, description="All widths at full depth")
    depth: SupernetStage | None = Field(default=None, description="All widths at all depths")
    polish: SupernetStage | None = Field(default=None, description="One sub-network alone, after the others")


def _source(value: Any, info: ValidationInfo) -> Any:
    return resolve_source(value, info.data["task"].hub) if "task" in info.data else value


class RecipeFile(Settings):
    """A recipe: what is trained, on what, how, and where the results go."""

    model: Name = Field(description="Where the supernet's weights start: path, hub name, or package:NAME/PATH")
    teacher: Name | None = Field(
        default=None, description="Who is imitated; by default what dynackd finetune has made of the model"
    )
    task: Annotated[Task, PlainValidator(resolve_task, json_schema_input_type=WrittenTask)] = Field(
        description="What is learned: a known task, or one of your own"
    )
    data: Annotated[DataSource, PlainValidator(_source, json_schema_input_type=Name | DataSource | None)] = Field(
        default=None, validate_default=True, description="The rows, on the hub or in files; by default the task's own"
    )
    join: Annotated[str, Among(lambda: JOINS)] = Field(
        default=JOIN,
        description="How a general supernet under model and the teacher become one: difference adds to the teacher's "
        "weights what the general stage changed, head puts the teacher's head on the general supernet",
    )
    grid: GridSection | None = Field(default=None, description="The sub-networks that are trained")
    augmentation: AugmentationSettings | None = Field(default=None, description="How dynackd augment makes more rows")
    importance: Importance | None = Field(default=None, description="Which heads and neurons stay")
    distillation: DistillationSection | None = Field(default=None, description="What the sub-networks learn from")
    training: Training | None = Field(  # type: ignore[valid-type]
        default=None, description="Fields of transformers.TrainingArguments"
    )
    stages: Stages | None = Field(default=None, description="What differs between the stages")
    output_dir: Name = Field(description="The directory of all results")
    paths: Literal["working directory", "recipe"] = Field(
        default="working directory", description="What relative paths in this file are relative to"
    )


def recipe_schema() -> Json:
    """The JSON Schema of a recipe. A key that is refused has `not` or `const`, with the reason as its description."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by: dynackd schema. An editor with the YAML language server completes and checks a recipe "
        "that has the line   # yaml-language-server: $schema=PATH-OF-THIS-FILE",
        **schema_of(RecipeFile),
    }
