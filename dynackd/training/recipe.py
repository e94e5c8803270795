"""A recipe: one YAML file that says what is trained, on what, how, and where the results go."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from dynackd.data.origins import PACKAGE_PREFIX, is_place, located, portable
from dynackd.data.sources import OTHERS, DataSource
from dynackd.data.words import AugmentationSettings
from dynackd.distill.settings import RELATIONS, SIGNALS, DistillationSettings
from dynackd.distill.terms import TERMS
from dynackd.errors import UserError, a, one_of, reason_of
from dynackd.grid import Grid
from dynackd.supernet.joining import JOIN
from dynackd.system.places import at_home
from dynackd.system.settings import checked
from dynackd.system.yamltext import MAX_CHARACTERS, read_yaml, write_yaml
from dynackd.tasks.kind import Task
from dynackd.training.arguments import FINETUNE, TRAINING_DEFAULTS, TrainingFields, check_training
from dynackd.training.machine import check_machine, with_device
from dynackd.training.samplers import SubnetSampler
from dynackd.training.schema import DROPOUT, RECIPE_FILE, SIGNAL, WORKING_DIRECTORY, GridSection, Importance, RecipeFile
from dynackd.training.trainer import SUPERNET_STAGES, metric_names

# Two ways to say one thing: to override the one is to leave the other.
INSTEAD = {"validation": "validation_share", "validation_share": "validation"}
STAGES = (FINETUNE, "width", "depth", "polish", "general")


@dataclass(frozen=True)
class StageSettings:
    """What one stage trains with: fields of `transformers.TrainingArguments`, the distillation signal, the rate of
    every dropout (None: the model's own), and the sections of the recipe that the fields come from.

    relations: the signal in its place where a teacher's hidden states cannot be compared with the model's own; None
    where the recipe itself asks for that comparison, or for a signal.
    """

    training: Mapping[str, Any]
    distillation: DistillationSettings
    dropout: float | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    relations: DistillationSettings | None = None

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
    join: str = JOIN
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


MIXABLE = ("group_by_length", "random")  # orders in which rows without labels may come between the others
DATA_FILES = ("train", "validation", "validation_mm")
# Keys whose values are paths or names, so that --set takes them as they stand.
DATA_KEYS = tuple(f"data.{key}" for key in ("hub", *DATA_FILES, OTHERS))
TEXT_KEYS = ("model", "teacher", "output_dir", "augmentation.masked_lm", *DATA_KEYS)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file; `overrides` are `key.key=value` texts. Raises `UserError`."""
    text = _read(Path(path))
    try:
        content = apply_overrides(_from_working_directory(_parse(text), Path(path)), overrides)
        return replace(make_recipe(content), file=Path(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def make_recipe(content: Mapping[str, Any]) -> Recipe:
    """Check a recipe's mapping. Raises `UserError` that names the key."""
    if "paths" in content:
        raise UserError("paths belongs in the file; a path after --set is relative to the working directory")
    written = checked(RecipeFile, content)
    grid, importance = written.grid or GridSection(), written.importance or Importance()
    augmentation = written.augmentation or AugmentationSettings()
    trained = Grid(grid.widths, grid.depths, grid.kept_layers, hidden=grid.hidden)
    own = {name: (content.get("stages") or {}).get(name) or {} for name in STAGES}
    training = _training(content.get("training") or {}, own, written.task, trained)
    _check_mixed(written.data, training)
    shared = content.get("distillation") or {}
    distillation = {name: own[name].get("distillation") or {} for name in STAGES}
    stages = {
        name: StageSettings(
            training[name].values,
            _distillation(name, shared, distillation[name]),
            own[name].get("dropout", DROPOUT[name]),
            training[name].places,
            _relations(name, shared, distillation[name]),
        )
        for name in STAGES
    }
    if min(trained.hidden) < 1:
        for name in ("depth",) if written.task.kind.compares_sizes else ("general", "depth"):
            stages[name].distillation.check_smaller("grid.hidden: a smaller hidden size", written.task.kind)
    return Recipe(
        model=at_home(written.model),
        teacher=written.teacher and at_home(written.teacher),
        join=written.join,
        task=written.task,
        data=written.data,
        grid=trained,
        sampler=grid.sampler,
        importance=importance.score,
        importance_rows=importance.rows,
        stages=stages,
        augmentation=replace(augmentation, masked_lm=augmentation.masked_lm and at_home(augmentation.masked_lm)),
        output_dir=Path(at_home(written.output_dir)),
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
    named, data = {override.partition("=")[0].strip() for override in overrides}, result.get("data")
    for name, other in INSTEAD.items():
        if isinstance(data, dict) and f"data.{name}" in named and f"data.{other}" not in named and data.get(name):
            data.pop(other, None)
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
        return read_yaml(value)
    try:
        read = read_yaml(value)
    except UserError:
        return text
    return read if not isinstance(read, str | dict) and "#" not in text else text


def with_places(
    content: Mapping[str, Any], of_file: Callable[[str], Any], of_model: Callable[[str], Any]
) -> dict[str, Any]:
    """A recipe's mapping with the files and directories in it changed by `of_file`, names of models by `of_model`."""
    result = copy.deepcopy(dict(content))
    data, augmentation = result.get("data"), result.get("augmentation")
    files = (*(() if isinstance(data, dict) and data.get("hub") else DATA_FILES), OTHERS)
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
            elif isinstance(section.get(key), list):
                section[key] = [change(name) if isinstance(name, str) else name for name in section[key]]
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
    content = read_yaml(text)
    if not isinstance(content, dict):
        raise UserError("a recipe is a YAML mapping with the keys " + ", ".join(RecipeFile.model_fields))
    return content


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in layers, a later one over an earlier one; `weights` key by key."""
    result = {key: value for layer in layers for key, value in layer.items()}
    if "weights" in result:
        result["weights"] = _merged(*(layer.get("weights") or {} for layer in layers))
    return result


def _training(
    shared: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]], task: Task, grid: Grid
) -> dict[str, TrainingFields]:
    """Each stage's fields: the defaults, then the recipe's, then the recipe's for this stage."""
    training = {}
    for name, stage in stages.items():
        own = stage.get("training") or {}
        places = dict.fromkeys(shared, "training") | dict.fromkeys(own, f"stages.{name}.training")
        training[name] = TrainingFields(_merged(TRAINING_DEFAULTS, shared, own), places)
    names = [metric + suffix for suffix in task.validation_splits for metric in task.metrics]
    measured = {
        FINETUNE: ["loss", *task.metrics],
        **{stage.name: metric_names(stage.grid_of(grid).specs(), names) for stage in SUPERNET_STAGES},
    }
    check_training(training, measured)
    for fields in training.values():
        for key, why in task.kind.refused_training.items():
            if fields.values.get(key):
                raise UserError(f"{fields.where(key)} is not possible for {a(task.kind.name)}: {why}; remove it")
    return training


def _check_mixed(data: DataSource, training: Mapping[str, TrainingFields]) -> None:
    """Rows without labels come between the others in some of the Trainer's orders alone."""
    for stage, fields in training.items() if data.unlabelled_files else ():
        strategy = fields.values["train_sampling_strategy"]
        if stage != FINETUNE and strategy not in MIXABLE:
            raise UserError(
                f"{fields.where('train_sampling_strategy')}: {strategy} is not possible with data.unlabelled; take "
                f"{' or '.join(MIXABLE)}"
            )


def _distillation(stage: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> DistillationSettings:
    """`signal` names what the stage begins with; what the recipe says overrides that, and what it says for the stage
    overrides both, weights key by key."""
    preset = SIGNALS[own.get("signal", shared.get("signal", SIGNAL))].get(stage, {})  # finetune has no distillation
    # A stage that names another signal starts from that signal's weights, not from the recipe's.
    fields = _merged({"weights": {}}, preset, {**shared, "weights": {}} if "signal" in own else shared, own)
    settings = DistillationSettings(**{key: value for key, value in fields.items() if key != "signal"})
    if stage != FINETUNE and not settings.active(TERMS):
        raise UserError(
            f"stages.{stage}.distillation: no term has a weight above 0, so nothing would be learned; give one a weight"
        )
    return settings


def _relations(stage: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> DistillationSettings | None:
    """The same with the signal of relations alone, unless the recipe asks for a signal or for hidden_mse itself."""
    if any("signal" in said or "hidden_mse" in (said.get("weights") or {}) for said in (shared, own)):
        return None
    return _distillation(stage, {**shared, "signal": RELATIONS}, own)
