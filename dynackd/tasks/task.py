"""Tasks: which columns are read, what kind of label they carry, and which metrics count.

    task = resolve_task("sst2")                                   # or {"kind": ..., "text": [...], "label": ...}
    compute_metrics(data.task, logits, labels)                    # {"accuracy": 0.91}

A new task is one entry in `TASKS`, a new metric one function and one line in `METRICS`.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import log_softmax
from sklearn import metrics as skm

from dynackd.data.labels import wanted_labels
from dynackd.errors import UserError, names_of, nearest, one_of, refuse_unknown_keys

GLUE = "nyu-mll/glue"


# --- metrics ---------------------------------------------------------------------------------------------------------


# Each takes predictions `[rows]`, references `[rows]` (class ids, or values) and how many classes the task has.


def accuracy(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Share of rows whose class is right."""
    return float(np.mean(predictions == references))


def f1(predictions: np.ndarray, references: np.ndarray, classes: int) -> float:
    """F1 of class 1 for a task of two classes (as GLUE does), the unweighted mean over classes for one of more."""
    if classes > 2:
        return f1_macro(predictions, references, classes)
    return float(skm.f1_score(references == 1, predictions == 1, zero_division=0.0))


def f1_macro(predictions: np.ndarray, references: np.ndarray, classes: int) -> float:
    """F1 averaged without weights over all classes of the task, whichever occur here.

    A class that no row has and none is given counts 1: there is nothing to find, and nothing was found. So the best
    possible value is 1 on any rows; as 0 it would depend on the rows, left out it would depend on the predictions.
    """
    labels = list(range(classes))
    return float(skm.f1_score(references, predictions, labels=labels, average="macro", zero_division=1.0))


def matthews_correlation(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Matthews' correlation of class ids, -1 to 1; 0 when one side is constant."""
    if _constant(predictions) or _constant(references):
        return 0.0
    return float(skm.matthews_corrcoef(references, predictions))


def pearson(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Pearson's correlation, -1 to 1; 0 when one side is constant."""
    return _correlation(stats.pearsonr, predictions, references)


def spearmanr(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Spearman's rank correlation, -1 to 1; 0 when one side is constant."""
    return _correlation(stats.spearmanr, predictions, references)


def mse(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Mean squared error, in squared units of the label: the one metric here where less is better."""
    return float(np.mean((predictions - references) ** 2))


def _constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) == 0)


def _correlation(function: Callable[..., Any], predictions: np.ndarray, references: np.ndarray) -> float:
    if _constant(predictions) or _constant(references):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)  # an untrained model is nearly constant
        value = float(function(predictions, references)[0])
    return value if math.isfinite(value) else 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1_macro": f1_macro,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
    "mse": mse,
}
LOWER_IS_BETTER = frozenset({"mse"})
# The metrics that make sense for each kind of task. A user's task that names none gets the default.
KIND_METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "f1_macro", "matthews_correlation"),
    "regression": ("pearson", "spearmanr", "mse"),
}
DEFAULT_METRICS: dict[str, tuple[str, ...]] = {"classification": ("accuracy",), "regression": ("pearson", "spearmanr")}


# --- tasks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What is read and what counts: one or two text columns, a label column, a kind and its metrics.

    `label_names` is in the order of the class ids. `metrics[0]` is the main one. `validation_splits` maps the suffix
    of the metrics' names to the split on the hub. `class_order` is set by `load_task_data` when a model orders the
    classes of a declared task differently: `class_order[model's id]` is the task's own id, in which metrics count.
    `labels` is the recipe's map from what stands in the data to class ids or names. `check_teacher`: whether a teacher
    that is worse than chance on the training rows is an error.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    kind: str
    metrics: tuple[str, ...]
    label_names: tuple[str, ...] | None = None
    hub: tuple[str, str | None] | None = None
    train_split: str = "train"
    validation_splits: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    class_order: tuple[int, ...] | None = None
    labels: Mapping[str, int | str] | None = None
    check_teacher: bool = True


ENTAILED = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")
MNLI_SPLITS = {"": "validation_matched", "_mm": "validation_mismatched"}

# Columns, label names and their order are those of `nyu-mll/glue` on the hub, metrics those of GLUE's leaderboard.
TASKS: dict[str, Task] = {
    "cola": Task("cola", ("sentence",), "label", "classification", ("matthews_correlation",),
                 ("unacceptable", "acceptable"), (GLUE, "cola")),
    "sst2": Task("sst2", ("sentence",), "label", "classification", ("accuracy",),
                 ("negative", "positive"), (GLUE, "sst2")),
    "mrpc": Task("mrpc", PAIR, "label", "classification", ("accuracy", "f1"),
                 ("not_equivalent", "equivalent"), (GLUE, "mrpc")),
    "qqp": Task("qqp", ("question1", "question2"), "label", "classification", ("accuracy", "f1"),
                ("not_duplicate", "duplicate"), (GLUE, "qqp")),
    "stsb": Task("stsb", PAIR, "label", "regression", ("pearson", "spearmanr"), None, (GLUE, "stsb")),
    "mnli": Task("mnli", ("premise", "hypothesis"), "label", "classification", ("accuracy",),
                 ("entailment", "neutral", "contradiction"), (GLUE, "mnli"), validation_splits=MNLI_SPLITS),
    "qnli": Task("qnli", ("question", "sentence"), "label", "classification", ("accuracy",), ENTAILED, (GLUE, "qnli")),
    "rte": Task("rte", PAIR, "label", "classification", ("accuracy",), ENTAILED, (GLUE, "rte")),
}

TASK_KEYS = ("kind", "text", "label", "metrics", "labels", "check_teacher")
NAMED_TASK_KEYS = ("name", "labels", "check_teacher")
RESERVED_COLUMNS = ("label", "labels", "length")  # the names that our own columns take


def resolve_task(value: str | Mapping[str, Any]) -> Task:
    """The task of a recipe: a name in `TASKS`, or `{kind, text: column or [column, column], label, metrics: [...]}`.

    Both may have `labels` (see `labels.wanted_labels`) and `check_teacher`, a named task then as `{name: sst2, ...}`.
    Raises UserError for an unknown name, key, kind or metric.
    """
    if isinstance(value, str):
        return _named_task(value)
    if not isinstance(value, Mapping):
        raise UserError(f"task: expected a name or a mapping with kind, text and label, got {value!r}")
    if "name" in value:
        refuse_unknown_keys("task", value, NAMED_TASK_KEYS)
        return _with_labels(_named_task(value["name"]), value)
    return _with_labels(_own_task(value), value)


def _named_task(name: Any) -> Task:
    if name not in TASKS:
        raise UserError(f"task '{name}' is unknown{nearest(str(name), list(TASKS))}; known: {', '.join(TASKS)}, or a "
                        f"task of your own: {{kind: classification, text: [column], label: column}}")
    return TASKS[name]


def _own_task(value: Mapping[str, Any]) -> Task:
    refuse_unknown_keys("task", value, TASK_KEYS)
    for key in ("kind", "text", "label"):
        if not value.get(key):
            raise UserError(f"task: '{key}' is missing; a task of your own needs kind, text and label")
    kind = one_of("task.kind", value["kind"], KIND_METRICS)
    text, label = names_of("task.text", value["text"]), value["label"]
    if not isinstance(label, str):
        raise UserError(f"task.label: expected one column name, got {label!r}")
    if len(text) > 2 or len(set(text)) < len(text) or label in text:
        raise UserError(f"task.text: expected one or two different columns other than the label's, got {text}")
    if clash := [column for column in text if column in RESERVED_COLUMNS]:
        raise UserError(f"task.text: rename the column '{clash[0]}'; dynackd makes a column of that name itself")
    names = names_of("task.metrics", value.get("metrics") or list(DEFAULT_METRICS[kind]))
    for name in names:
        one_of(f"task.metrics of a {kind} task", name, KIND_METRICS[kind])
    return Task("custom", tuple(text), label, kind, tuple(names))


def _with_labels(task: Task, value: Mapping[str, Any]) -> Task:
    check = value.get("check_teacher", True)
    if not isinstance(check, bool):
        raise UserError(f"task.check_teacher must be true or false, not {check!r}")
    if value.get("labels") is None:
        return dataclasses.replace(task, check_teacher=check)
    if task.kind == "regression":
        raise UserError("task.labels: a regression has no classes; remove it")
    labels, names = wanted_labels(value["labels"])
    return dataclasses.replace(task, check_teacher=check, labels=labels, label_names=names or task.label_names)


def main_metric(task: Task) -> str:
    """The metric by which checkpoints and sub-networks are compared: the task's first."""
    return task.metrics[0]


def greater_is_better(metric: str) -> bool:
    return metric not in LOWER_IS_BETTER


def compute_metrics(task: Task, logits: np.ndarray, labels: np.ndarray, suffix: str = "") -> dict[str, float]:
    """The task's metrics, each name followed by `suffix`; logits `[rows, labels]` (regression `[rows, 1]`), labels
    `[rows]`. Raises UserError when the logits are not finite: no metric of a diverged model means anything.
    """
    if not np.isfinite(logits).all():
        raise UserError("the model's outputs are not finite numbers: training has diverged; try a lower learning_rate")
    logits, references = np.asarray(logits), np.asarray(labels)
    if task.kind == "regression":
        predictions, references = logits.reshape(-1).astype(np.float64), references.astype(np.float64)
    else:
        predictions = logits.argmax(axis=-1)
        if task.class_order is not None:
            order = np.asarray(task.class_order)
            predictions, references = order[predictions], order[references]
    classes = logits.shape[-1]
    return {name + suffix: METRICS[name](predictions, references, classes) for name in task.metrics}


def compute_fidelity(task: Task, logits: np.ndarray, teacher_logits: np.ndarray, suffix: str = "") -> dict[str, float]:
    """How closely outputs `[rows, labels]` follow the teacher's, whoever is right, each name followed by `suffix`.

    Classification: `agreement`, the share of rows with the teacher's label, and `kl`, the mean over rows of
    KL(teacher ‖ student) in nats. Regression: `rmse`, the root of the mean squared difference.
    """
    logits, teacher_logits = logits.astype(np.float64), teacher_logits.astype(np.float64)
    if task.kind == "regression":
        return {f"rmse{suffix}": float(np.sqrt(np.square(logits - teacher_logits).mean()))}
    student, teacher = log_softmax(logits, axis=-1), log_softmax(teacher_logits, axis=-1)
    return {
        f"agreement{suffix}": float((logits.argmax(-1) == teacher_logits.argmax(-1)).mean()),
        f"kl{suffix}": float((np.exp(teacher) * (teacher - student)).sum(-1).mean()),
    }
