"""Where data comes from: the `data` of a recipe.

    source = resolve_source({"train": "train.tsv", "validation": "dev.tsv", "train_rows": 10_000}, task)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynackd.data.readers import READERS
from dynackd.errors import UserError, nearest, refuse_unknown_keys
from dynackd.tasks.task import GLUE, Task

GLUE_CONFIGS = ("ax", "cola", "mnli", "mnli_matched", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb",
                "wnli")


@dataclass(frozen=True)
class DataSource:
    """Where the rows come from and how many of them are used.

    `hub` is (path, config) and `train`, `validation`, `validation_mm` are then split names (None: the task's own);
    without `hub` they are file paths. `train_rows` and `validation_rows` take at most that many rows, a shuffled
    subset that depends on `seed` alone. `validation_share` cuts the validation rows off the training rows.
    `max_length` is in tokens.
    """

    hub: tuple[str, str | None] | None = None
    train: str | None = None
    validation: str | None = None
    validation_mm: str | None = None
    validation_share: float | None = None
    max_length: int = 128
    train_rows: int | None = None
    validation_rows: int | None = None
    seed: int = 42


def resolve_source(value: str | Mapping[str, Any] | None, task: Task | None = None) -> DataSource:
    """The `data` of a recipe: a hub name ("glue/sst2", "owner/name", "owner/name/config") or a mapping with
    `DataSource`'s fields; where it names no place, the task's own place on the hub is taken. Raises UserError.
    """
    if isinstance(value, str):
        if Path(value).suffix.lower() in READERS:
            raise UserError(f"data: '{value}' is a file; write {{train: {value}, validation: ...}}")
        value = {"hub": value}
    if not isinstance(value, Mapping | None):
        raise UserError(f"data: expected a hub name or a mapping, got {value!r}")
    refuse_unknown_keys("data", value or {}, list(SOURCE_CHECKS))
    fields = {key: v for key, v in (value or {}).items() if v is not None}
    for key, v in fields.items():
        holds, expected = SOURCE_CHECKS[key]
        if not holds(v):
            raise UserError(f"data.{key}: expected {expected}, got {v!r}")
    if "validation" in fields and "validation_share" in fields:
        raise UserError("data: give either validation or validation_share, not both")
    if "hub" in fields:
        for key in ("train", "validation", "validation_mm"):
            if Path(fields.get(key, "")).suffix.lower() in READERS:
                raise UserError(f"data.{key}: '{fields[key]}' is a file, but data.hub names the data set "
                                f"'{fields['hub']}'; for files alone set data.hub to null")
        return DataSource(**{**fields, "hub": _hub_place(fields["hub"])})
    if "train" in fields or "validation" in fields:
        return DataSource(**fields)
    if task is None or task.hub is None:
        raise UserError("data: give train: and validation: files, or hub: the name of a data set on the hub")
    return DataSource(**fields, hub=task.hub)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# What each key of `data` must hold, and how that is said.
SOURCE_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hub": (_is_name, "a name such as glue/sst2 or owner/name"),
    "train": (_is_name, "the path of a file (with hub: the name of a split)"),
    "validation": (_is_name, "the path of a file (with hub: the name of a split)"),
    "validation_mm": (_is_name, "the path of a file (with hub: the name of a split)"),
    "validation_share": (lambda v: isinstance(v, float) and 0 < v < 1, "a number between 0 and 1"),
    "max_length": (_is_count, "a whole number of 1 or more"),
    "train_rows": (_is_count, "a whole number of 1 or more"),
    "validation_rows": (_is_count, "a whole number of 1 or more"),
    "seed": (lambda v: v == 0 or _is_count(v), "a whole number of 0 or more"),
}


def _hub_place(name: str) -> tuple[str, str | None]:
    parts = name.split("/")
    if not all(parts) or len(parts) > 3:
        raise UserError(f"data: '{name}' is no hub name; write glue/sst2, owner/name or owner/name/config")
    if parts[0] == "glue" or name.startswith(GLUE + "/"):
        if parts[-1] not in GLUE_CONFIGS:
            raise UserError(f"data: GLUE has no '{parts[-1]}'{nearest(parts[-1], list(GLUE_CONFIGS))}; "
                            f"known: {', '.join(GLUE_CONFIGS)}")
        return GLUE, parts[-1]
    return "/".join(parts[:2]), (parts[2] if len(parts) == 3 else None)
