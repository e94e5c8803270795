"""A recipe: one YAML file that says what is trained, on what, how, and where the results go."""

import copy
import dataclasses
import importlib.util
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments

from dynackd.distill import SIGNALS, DistillationSettings
from dynackd.errors import UserError, one_of, refuse_unknown_keys
from dynackd.importance import IMPORTANCE
from dynackd.places import at_home
from dynackd.sources import DataSource, resolve_source
from dynackd.spec import Grid
from dynackd.tasks import Task, resolve_task
from dynackd.trainer import SubnetSampler
from dynackd.words import AugmentationSettings

STAGES = ("finetune", "width", "depth")
PACKAGE_PREFIX = "package:"
IMPORTANCE_ROWS = 512

# What a recipe gets where it is silent. A checkpoint at every tenth of the way, so that a killed run loses little.
TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 5e-5,
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
# Fields of TrainingArguments that the stages set themselves.
OWN_TRAINING_FIELDS = {"output_dir": "output_dir, at the top of the recipe", "resume_from_checkpoint": "--resume"}


@dataclass(frozen=True)
class StageSettings:
    """What one stage trains with: fields of `transformers.TrainingArguments`, the distillation signal, and the rate of
    every dropout (None: the model's own)."""

    training: Mapping[str, Any]
    distillation: DistillationSettings
    dropout: float | None = None

    def arguments(self, output_dir: Path) -> TrainingArguments:
        """The stage's TrainingArguments; `UserError` with the library's own reason for a value it refuses."""
        # Without this they refuse bf16 on a machine that has no other device.
        device = {"use_cpu": not torch.accelerator.is_available()}
        try:
            return TrainingArguments(output_dir=str(output_dir), **{**device, **self.training})
        except (TypeError, ValueError, ImportError, AttributeError) as error:
            raise UserError(f"training: {str(error).strip().splitlines()[0]}") from error


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `content` is the plain mapping, overrides applied, as it is written beside the results."""

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

    def to_yaml(self) -> str:
        return yaml.safe_dump(dict(self.content), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 5e-5 is a number (YAML 1.1 takes it for a text), a repeated key is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"the key {key!r} stands twice, line {node.start_mark.line + 1} and on")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

RECIPE_KEYS = (
    *("model", "teacher", "task", "data", "grid"),
    *("augmentation", "importance", "distillation", "training", "stages", "output_dir"),
)
GRID_KEYS = ("widths", "depths", "kept_layers", "sampler")
IMPORTANCE_KEYS = ("score", "rows")
STAGE_KEYS = ("training", "distillation", "dropout")
# None: the model's own. Without dropout a step takes about a tenth less time on a CPU (benchmarks/training.py, its
# variant `dropout`), sub-networks share their first layers exactly, and no noise stands between student and teacher.
DROPOUT: dict[str, float | None] = {"finetune": None, "width": 0.0, "depth": 0.0}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file; `overrides` are `key.key=value` texts. Raises `UserError`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no recipe {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} cannot be read: {error}") from error
    try:
        content = _parse(text)
        return dataclasses.replace(make_recipe(apply_overrides(content, overrides)), file=Path(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def make_recipe(content: Mapping[str, Any]) -> Recipe:
    """Check a recipe's mapping. Raises `UserError` that names the key."""
    refuse_unknown_keys("", content, RECIPE_KEYS)
    for key in ("model", "task", "output_dir"):
        if key not in content:
            raise UserError(f"{key!r} is missing; a recipe names at least model, task, data and output_dir")
    for key in ("model", "output_dir", "teacher"):
        if not isinstance(content.get(key, ""), str):
            raise UserError(f"{key} must be a text, not {content[key]!r}")
    grid = _section("grid", content.get("grid"), GRID_KEYS)
    importance = _section("importance", content.get("importance"), IMPORTANCE_KEYS)
    task = resolve_task(content["task"])
    return Recipe(
        model=resolve_model(content["model"]),
        teacher=at_home(content["teacher"]) if content.get("teacher") else None,
        task=task,
        data=resolve_source(content.get("data"), task),
        grid=_grid({key: value for key, value in grid.items() if key != "sampler"}),
        sampler=SubnetSampler.parse(grid.get("sampler", "all")),
        importance=one_of("importance.score", importance.get("score", "gradient"), IMPORTANCE),
        importance_rows=_whole("importance.rows", importance.get("rows", IMPORTANCE_ROWS)),
        stages={name: _stage_settings(content, name) for name in STAGES},
        augmentation=_augmentation(content.get("augmentation")),
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
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = _load_yaml(value)
    return result


def resolve_model(name: str) -> str:
    """A hub name, or a path with its `~` expanded; `package:NAME/sub/directory` is one inside an installed package."""
    if not name.startswith(PACKAGE_PREFIX):
        return at_home(name)
    package, _, rest = name.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"model {name!r}: the Python package {package!r} is not installed; pip install 'dynackd[demo]'")
    return str(Path(spec.origin).parent / rest)


def _parse(text: str) -> dict[str, Any]:
    content = _load_yaml(text)
    if not isinstance(content, dict):
        raise UserError("a recipe is a YAML mapping with the keys " + ", ".join(RECIPE_KEYS))
    return content


def _load_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError("not valid YAML: " + " ".join(str(error).split())) from error


def _section(where: str, content: Any, known: Sequence[str]) -> dict[str, Any]:
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping with the keys {', '.join(known)}, not {content!r}")
    refuse_unknown_keys(where, content, known)
    return content


def _grid(content: Mapping[str, Any]) -> Grid:
    for name in ("widths", "depths"):
        if name in content and not isinstance(content[name], list):
            raise UserError(f"grid.{name} must be a list such as [1.0, 0.5], not {content[name]!r}")
    return Grid(**content)


def _augmentation(content: Any) -> AugmentationSettings:
    fields = [f.name for f in dataclasses.fields(AugmentationSettings)]
    settings = AugmentationSettings(**_section("augmentation", content, fields))
    if settings.masked_lm is None:
        return settings
    return dataclasses.replace(settings, masked_lm=resolve_model(settings.masked_lm))


def _whole(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where} must be a whole number of 1 or more, not {value!r}")
    return value


def _stage_settings(content: Mapping[str, Any], stage: str) -> StageSettings:
    """A stage's settings: the defaults, then the recipe's, then the recipe's for this stage."""
    stages = _section("stages", content.get("stages"), STAGES)
    own = _section(f"stages.{stage}", stages.get(stage), STAGE_KEYS)
    training_fields = [f.name for f in dataclasses.fields(TrainingArguments) if f.init]
    training = dict(TRAINING_DEFAULTS)
    for where, section in (("training", content.get("training")), (f"stages.{stage}.training", own.get("training"))):
        training |= _section(where, section, training_fields)
    hints = typing.get_type_hints(TrainingArguments)
    for name, value in training.items():
        _check_type(f"training.{name}", value, hints[name])
    for name, instead in OWN_TRAINING_FIELDS.items():
        if name in training:
            raise UserError(f"training.{name} is set by dynackd; use {instead} instead")
    distillation = _merged(content.get("distillation"), own.get("distillation"))
    return StageSettings(training, _distillation_settings(stage, distillation), _dropout(stage, own))


def _dropout(stage: str, own: Mapping[str, Any]) -> float | None:
    rate = own.get("dropout", DROPOUT[stage])
    if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < 1):
        raise UserError(f"stages.{stage}.dropout must be a number from 0 to below 1, or null, not {rate!r}")
    return rate


# What YAML can give for each type that TrainingArguments names; it checks nothing itself.
_YAML_TYPES: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def _check_type(where: str, value: Any, hint: Any) -> None:
    """Refuse a value whose type is none of a field's; fields of other types than number, text and switch pass."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    known = [member for member in members if member in _YAML_TYPES]
    if len(known) < len([member for member in members if member is not type(None)]) or value is None:
        return
    allowed = {kind for member in known for kind in _YAML_TYPES[member]}
    if type(value) not in allowed:
        names = " or ".join(member.__name__ for member in known)
        raise UserError(f"{where} must be of type {names}, not {value!r}")


def _merged(base: Any, own: Any) -> dict[str, Any]:
    """Two distillation sections, the second over the first; weights are merged key by key."""
    for where, section in (("distillation", base), ("stages' distillation", own)):
        if section is not None and not isinstance(section, dict):
            raise UserError(f"{where} must be a mapping, not {section!r}")
    merged = {**(base or {}), **(own or {})}
    # A stage that names another signal starts from that signal's weights, not from the recipe's.
    base_weights = {} if own and "signal" in own else (base or {}).get("weights") or {}
    weights = {**base_weights, **((own or {}).get("weights") or {})}
    return {**merged, "weights": weights}


def _distillation_settings(stage: str, content: Mapping[str, Any]) -> DistillationSettings:
    """`signal` names what the stage begins with, `weights` changes single weights, the rest are other fields of the
    settings."""
    fields = [f.name for f in dataclasses.fields(DistillationSettings)]
    refuse_unknown_keys("distillation", content, ["signal", *fields])
    signal = one_of("distillation.signal", content.get("signal", SIGNAL), SIGNALS)
    weights = _section("distillation.weights", content.get("weights"), list(content.get("weights") or {}))
    rest = {key: value for key, value in content.items() if key not in ("signal", "weights")}
    preset = {"weights": {}, **SIGNALS[signal].get(stage, {})}  # finetune has no distillation
    return DistillationSettings(**{**preset, **rest, "weights": {**preset["weights"], **weights}})
