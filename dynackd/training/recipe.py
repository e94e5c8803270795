"""A recipe: one YAML file that says what is trained, on what, how, and where the results go."""

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from dynackd.data.origins import PACKAGE_PREFIX, is_place, located, portable
from dynackd.data.words import AugmentationSettings
from dynackd.distill.terms import SIGNALS, TERMS, DistillationSettings
from dynackd.errors import UserError, one_of, reason_of, refuse_unknown_keys, shown
from dynackd.subnet import Grid
from dynackd.supernet.importance import IMPORTANCE
from dynackd.system.places import at_home
from dynackd.system.yamltext import MAX_CHARACTERS, read_yaml, write_yaml
from dynackd.tasks.sources import DataSource, resolve_source
from dynackd.tasks.task import Task, resolve_task
from dynackd.training.arguments import FINETUNE, TrainingFields, check_machine, resolve_training, with_device
from dynackd.training.trainer import DEPTH_STAGE, WIDTH_STAGE, SubnetSampler, metric_names

STAGES = (FINETUNE, "width", "depth")
IMPORTANCE_ROWS = 512

# What a recipe gets where it is silent, beside a learning rate that depends on the encoder (`rates.py`). A checkpoint
# at every tenth of the way, so that a killed run loses little.
TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "num_train_epochs": 3,
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "length",
    "save_steps": 0.1,
    "save_total_limit": 2,
    "logging_steps": 0.02,
    "report_to": "none",
    "ddp_find_unused_parameters": False,
    "dataloader_pin_memory": False,
}
# A supernet has its teacher's hidden size, so the hidden states themselves can be compared beside CKD's relations.
SIGNAL = "ckd+mse"


@dataclass(frozen=True)
class StageSettings:
    """What one stage trains with: fields of `transformers.TrainingArguments`, the distillation signal, the rate of
    every dropout (None: the model's own), and the sections of the recipe that the fields come from."""

    training: Mapping[str, Any]
    distillation: DistillationSettings
    dropout: float | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, output_dir: Path) -> TrainingArguments:
        """The stage's TrainingArguments; `UserError` with the library's own reason for a value it refuses."""
        try:
            return TrainingArguments(output_dir=str(output_dir), **with_device(self.training))
        except Exception as error:  # whatever the library raises is its reason
            raise UserError(f"training: {reason_of(error)}") from error


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `content` is the plain mapping, overrides applied."""

    model: str
    task: Task
    data: DataSource
    grid: Grid
    sampler: SubnetSampler
    importance: str
    importance_rows: int
    stages: Mapping[str, StageSettings]
    output_dir: Path
    teacher: str | None = None
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    content: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None  # that it was read from

    def to_yaml(self, directory: Path) -> str:
        """The text of the recipe as a file in `directory`, whose relative paths hold from there."""

        def of_model(name: str) -> str:
            return portable(name, directory) if is_place(name) else name

        content = with_places(self.content, lambda name: portable(name, directory), of_model)
        return write_yaml({"paths": RECIPE_FILE, **content})

    def check_machine(self) -> None:
        """Refuse (`UserError`) what any of the stages asks of this machine in vain, before the first is trained."""
        for settings in self.stages.values():
            check_machine(TrainingFields(settings.training, settings.places))


RECIPE_KEYS = (
    *("model", "teacher", "task", "data", "grid"),
    *("augmentation", "importance", "distillation", "training", "stages", "output_dir"),
)
DATA_FILES = ("train", "validation", "validation_mm")
# Keys whose values are paths or names, so that --set takes them as they stand.
TEXT_KEYS = ("model", "teacher", "output_dir", "augmentation.masked_lm", "data.hub", *(f"data.{k}" for k in DATA_FILES))
# What relative paths in a recipe file are relative to, under the key `paths`; recipes beside results say `recipe`.
WORKING_DIRECTORY, RECIPE_FILE = "working directory", "recipe"
STAGE_KEYS = ("training", "distillation", "dropout")
DISTILLATION_KEYS = ("signal", *(setting.name for setting in dataclasses.fields(DistillationSettings)))
# Sections that are mappings -> their keys.
SECTIONS: dict[str, Sequence[str]] = {
    "grid": ("widths", "depths", "kept_layers", "sampler"),
    "importance": ("score", "rows"),
    "distillation": DISTILLATION_KEYS,
    "augmentation": [setting.name for setting in dataclasses.fields(AugmentationSettings)],
    "stages": STAGES,
}
# None: the model's own. Without dropout a step takes about a tenth less time on a CPU (benchmarks/training.py, its
# variant `dropout`), sub-networks share their first layers exactly, and no noise stands between student and teacher.
DROPOUT: dict[str, float | None] = {"finetune": None, "width": 0.0, "depth": 0.0}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file; `overrides` are `key.key=value` texts. Raises `UserError`."""
    text = _read(Path(path))
    try:
        content = apply_overrides(_from_working_directory(_parse(text), Path(path)), overrides)
        if "paths" in content:
            raise UserError("paths belongs in the file; a path after --set is relative to the working directory")
        return dataclasses.replace(make_recipe(content), file=Path(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def make_recipe(content: Mapping[str, Any]) -> Recipe:
    """Check a recipe's mapping. Raises `UserError` that names the key."""
    refuse_unknown_keys("", content, RECIPE_KEYS)
    for key in ("model", "task", "output_dir"):
        if key not in content:
            raise UserError(f"{key!r} is missing; a recipe names at least model, task, data and output_dir")
    for key in ("model", "output_dir", "teacher"):
        value = content.get(key, "unsaid")
        if not (isinstance(value, str) and value.strip()) and not (key == "teacher" and value is None):
            raise UserError(f"{key} must be a text, not {shown(value)}; a number that is a name stands in quotes")
    sections = {key: _section(key, content.get(key), known) for key, known in SECTIONS.items()}
    stages = {name: _section(f"stages.{name}", sections["stages"].get(name), STAGE_KEYS) for name in STAGES}
    grid, importance = sections["grid"], sections["importance"]
    task = resolve_task(content["task"])
    trained = Grid(**{key: value for key, value in grid.items() if key != "sampler"})
    training = _training(content, stages, task, trained)
    return Recipe(
        model=at_home(content["model"]),
        teacher=at_home(content["teacher"]) if content.get("teacher") else None,
        task=task,
        data=resolve_source(content.get("data"), task),
        grid=trained,
        sampler=SubnetSampler.parse(grid.get("sampler", "all")),
        importance=one_of("importance.score", importance.get("score", "gradient"), IMPORTANCE),
        importance_rows=_whole("importance.rows", importance.get("rows", IMPORTANCE_ROWS)),
        stages={
            name: StageSettings(
                training[name].values,
                _distillation(name, sections["distillation"], own),
                _dropout(name, own),
                training[name].places,
            )
            for name, own in stages.items()
        },
        augmentation=_augmentation(sections["augmentation"]),
        output_dir=Path(at_home(content["output_dir"])),
        content=content,
    )


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe's mapping with each `training.learning_rate=3e-5` in place; values are read as YAML."""
    result = copy.deepcopy(dict(content))
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not name:
            raise UserError(f"--set {override!r} is not of the form key.key=value, such as training.learning_rate=3e-5")
        *parents, last = name.strip().split(".")
        place = result
        for depth, parent in enumerate(parents, start=1):
            place[parent] = _opened(place.get(parent), ".".join(parents[:depth]), override)
            place = place[parent]
        place[last] = _override_value(name.strip(), value)
    return result


def _opened(content: Any, where: str, override: str) -> dict[str, Any]:
    """The mapping at `where`, in which an override sets a key. Raises `UserError` where something else stands there."""
    if where == "data" and isinstance(content, str):
        return {"hub": content}  # what the text means
    if content is None or isinstance(content, dict):
        return content or {}
    raise UserError(f"--set {override!r}: {where} is {content!r}, which has no keys; set {where} as a whole")


def _override_value(name: str, value: str) -> Any:
    """A value as YAML reads it; a path or name as it stands, also where YAML would see a comment or a mapping in it."""
    text = value.strip()
    if name not in TEXT_KEYS or text[:1] in ("'", '"'):
        return _load_yaml(value)
    try:
        read = _load_yaml(value)
    except UserError:
        return text
    return read if not isinstance(read, str | dict) and "#" not in text else text


def with_places(
    content: Mapping[str, Any], of_file: Callable[[str], Any], of_model: Callable[[str], Any]
) -> dict[str, Any]:
    """A recipe's mapping with the files and directories in it changed by `of_file`, names of models by `of_model`."""
    result = copy.deepcopy(dict(content))
    data, augmentation = result.get("data"), result.get("augmentation")
    files = () if isinstance(data, dict) and data.get("hub") else DATA_FILES
    sections: tuple[tuple[Any, Sequence[str], Callable[[str], Any]], ...] = (
        (result, ("output_dir",), of_file),
        (data, files, of_file),
        (result, ("model", "teacher"), of_model),
        (augmentation, ("masked_lm",), of_model),
    )
    for section, keys, change in sections:
        for key in keys if isinstance(section, dict) else ():
            if isinstance(section.get(key), str):
                section[key] = change(section[key])
    return result


def _from_working_directory(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """A recipe file's mapping without `paths`, its relative places as absolute ones where that says `recipe`."""
    meaning = one_of("paths", content.pop("paths", WORKING_DIRECTORY), (WORKING_DIRECTORY, RECIPE_FILE))
    if meaning == WORKING_DIRECTORY:
        return content

    def of_model(name: str) -> str:
        place = located(name, file.parent)
        return place if not name.startswith(PACKAGE_PREFIX) and (is_place(name) or Path(place).is_dir()) else name

    return with_places(content, lambda name: located(name, file.parent), of_model)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(4 * MAX_CHARACTERS + 1).decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no recipe {path}") from error
    except IsADirectoryError as error:
        inside = path / "recipe.yaml"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise UserError(f"the recipe {path} is a directory{hint}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the recipe {path} is no text in UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}") from error


def _parse(text: str) -> dict[str, Any]:
    content = _load_yaml(text)
    if not isinstance(content, dict):
        raise UserError("a recipe is a YAML mapping with the keys " + ", ".join(RECIPE_KEYS))
    return content


def _load_yaml(text: str) -> Any:
    return read_yaml(text)


def _section(where: str, content: Any, known: Sequence[str]) -> dict[str, Any]:
    content = _mapping(where, content)
    refuse_unknown_keys(where, content, known)
    return content


def _mapping(where: str, content: Any) -> dict[str, Any]:
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping, such as {{key: value}}, not {shown(content)}")
    return content


def _augmentation(section: Mapping[str, Any]) -> AugmentationSettings:
    settings = AugmentationSettings(**section)
    if settings.masked_lm is None:
        return settings
    return dataclasses.replace(settings, masked_lm=at_home(settings.masked_lm))


def _whole(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where} must be a whole number of 1 or more, not {shown(value)}")
    return value


def _training(
    content: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]], task: Task, grid: Grid
) -> dict[str, TrainingFields]:
    """Each stage's fields: the defaults, then the recipe's, then the recipe's for this stage."""
    shared = _mapping("training", content.get("training"))
    sections = {}
    for name, own in stages.items():
        where = f"stages.{name}.training"
        sections[name] = [("training", shared), (where, _mapping(where, own.get("training")))]
    names = [metric + suffix for suffix in task.validation_splits for metric in task.metrics]
    measured = {
        FINETUNE: ["loss", *task.metrics],
        **{stage.name: metric_names(stage.grid_of(grid).specs(), names) for stage in (WIDTH_STAGE, DEPTH_STAGE)},
    }
    training = resolve_training(TRAINING_DEFAULTS, sections, measured)
    for fields in training.values():
        if task.kind == "regression" and fields.values.get("label_smoothing_factor"):
            where = fields.where("label_smoothing_factor")
            raise UserError(f"{where} is not possible for a regression: its loss would be 0 for any output; remove it")
    return training


def _dropout(stage: str, own: Mapping[str, Any]) -> float | None:
    rate = own.get("dropout", DROPOUT[stage])
    if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < 1):
        raise UserError(f"stages.{stage}.dropout must be a number from 0 to below 1, or null, not {shown(rate)}")
    return rate


def _distillation(stage: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> DistillationSettings:
    """`signal` names what the stage begins with, `weights` changes single weights, the rest are other fields of the
    settings; what stands under the stage overrides what all stages share, weights key by key."""
    where = f"stages.{stage}.distillation"
    mine = _section(where, own.get("distillation"), DISTILLATION_KEYS)
    if stage == FINETUNE and mine:
        raise UserError(f"{where} does nothing: the teacher learns from the labels; remove it")
    signal = one_of(f"{where if 'signal' in mine else 'distillation'}.signal",
                    mine.get("signal", shared.get("signal", SIGNAL)), SIGNALS)  # fmt: skip
    shared_weights, own_weights = (
        _section(f"{place}.weights", section.get("weights"), list(TERMS))
        for place, section in (("distillation", shared), (where, mine))
    )
    preset = {"weights": {}, **SIGNALS[signal].get(stage, {})}  # finetune has no distillation
    # A stage that names another signal starts from that signal's weights, not from the recipe's.
    weights = {**preset["weights"], **({} if "signal" in mine else shared_weights), **own_weights}
    fields = {key: value for key, value in {**preset, **shared, **mine}.items() if key != "signal"}
    try:
        settings = DistillationSettings(**{**fields, "weights": weights})
    except UserError as error:
        own_paths = {f"distillation.{key}" for key in mine} | {f"distillation.weights.{name}" for name in own_weights}
        path = re.split(r":| must", str(error))[0]
        raise UserError(f"stages.{stage}.{error}" if path in own_paths else str(error)) from error
    if stage != FINETUNE and not settings.active(TERMS):
        raise UserError(f"{where}: no term has a weight above 0, so nothing would be learned; give one a weight")
    return settings
