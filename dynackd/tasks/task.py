"""The task of a recipe: which columns are read, of which kind it is, and which metrics count.

    task = resolve_task("sst2")                                   # or {"kind": ..., "text": [...], "label": ...}
    compute_metrics(data.task, outputs, labels)                   # {"accuracy": 0.91}
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynackd.errors import UserError, nearest, one_of, refuse_unknown_keys
from dynackd.tasks.glue import TASKS
from dynackd.tasks.kind import OWN_TASK, Task
from dynackd.tasks.kinds import KINDS
from dynackd.tasks.parts import Arrays, ClassScore

NAMED_TASK_KEYS = ("name", "labels", "check_teacher")


def resolve_task(value: str | Mapping[str, Any]) -> Task:
    """The task of a recipe: a name in `TASKS`, or `{kind, text: column or [column, column], label, metrics: [...]}`.

    Both may have `labels` (see `wanted_labels`) and `check_teacher`, a named task then as `{name: sst2, ...}`.
    Raises UserError for an unknown name, key, kind or metric.
    """
    if isinstance(value, str):
        return _named_task(value)
    if not isinstance(value, Mapping):
        raise UserError(f"task: expected a name or a mapping with kind, text and label, got {value!r}")
    if "name" in value:
        refuse_unknown_keys("task", value, NAMED_TASK_KEYS)
        return _completed(_named_task(value["name"]), value)
    if not value.get("kind"):
        refuse_unknown_keys("task", value, dict.fromkeys(key for kind in KINDS.values() for key in kind.task_keys))
        raise UserError(f"task: 'kind' is missing; {OWN_TASK} needs kind, text and label")
    return _completed(KINDS[one_of("task.kind", value["kind"], KINDS)].task(value), value)


def _named_task(name: Any) -> Task:
    if name not in TASKS:
        raise UserError(f"task '{name}' is unknown{nearest(str(name), list(TASKS))}; known: {', '.join(TASKS)}, or "
                        f"{OWN_TASK}: {{kind: classification, text: [column], label: column}}")
    return TASKS[name]


def _completed(task: Task, value: Mapping[str, Any]) -> Task:
    check = value.get("check_teacher", True)
    if not isinstance(check, bool):
        raise UserError(f"task.check_teacher must be true or false, not {check!r}")
    if value.get("labels") is not None:
        task = task.kind.with_labels(task, value["labels"])
    return dataclasses.replace(task, check_teacher=check)


def main_metric(task: Task) -> str:
    """The metric by which checkpoints and sub-networks are compared: the task's first; "fidelity" without any."""
    return task.metrics[0] if task.metrics else "fidelity"


def compute_metrics(task: Task, outputs: Arrays, labels: Arrays, suffix: str = "") -> dict[str, float]:
    """The task's metrics, each name followed by `suffix`; outputs and labels [rows, ...] by name. None without labels.
    Raises UserError when the outputs are not finite: no metric of a diverged model means anything.
    """
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise UserError("the model's outputs are not finite numbers: training has diverged; try a lower learning_rate")
    about = dataclasses.replace(task, judged=task.rows.get(suffix))
    found = task.kind.measure(about, outputs, labels) if labels else {}
    return {name + suffix: value for name, value in found.items()}


def compute_per_class(task: Task, outputs: Arrays, labels: Arrays, suffix: str = "") -> dict[str, ClassScore]:
    """How well each class is found, each name followed by `suffix`; none without classes or labels."""
    found = task.kind.per_class(task, outputs, labels) if labels else {}
    return {name + suffix: score for name, score in found.items()}


def compute_fidelity(
    task: Task, outputs: Arrays, teacher: Arrays, labels: Arrays, suffix: str = ""
) -> dict[str, float]:
    """How closely outputs follow the teacher's, whoever is right, each name followed by `suffix`."""
    return {name + suffix: value for name, value in task.kind.compared(outputs, teacher, labels).items()}
