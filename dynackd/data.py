"""The rows of a task: read, checked, labelled.

    source = resolve_source({"train": "train.tsv", "validation": "dev.tsv", "train_rows": 10_000}, task)
    data = load_task_data(task, source, label2id=model.config.label2id)
    train, cut = tokenize(data.train, data.task, tokenizer, source.max_length)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value

from dynackd.errors import UserError, listed, nearest
from dynackd.labels import LabelMap, label_key, label_map
from dynackd.readers import Columns, Rows, read_file, read_hub
from dynackd.sources import DataSource
from dynackd.tasks import Task


@dataclass(frozen=True)
class TaskData:
    """The rows of a task: text columns as named, and "label" (class id, or a float for regression).

    task: the task as resolved with the labels found; hand this one to `compute_metrics`. validation: suffix of the
    metrics' names -> rows; "" is the main one. label_names: in the order of the class ids, empty for regression.
    written_labels: how the data write each class, in the same order.
    """

    task: Task
    train: Dataset | None
    validation: dict[str, Dataset]
    label_names: tuple[str, ...]
    written_labels: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        """Outputs of a model for this task: the classes, or 1 for regression."""
        return len(self.label_names) or 1


def load_task_data(task: Task, source: DataSource, splits: Sequence[str] = ("train", "validation"),
                   label2id: Mapping[str, int] | None = None) -> TaskData:
    """Reads, checks and labels the splits asked for ("train", "validation").

    label2id: that of a trained model, whose ids the labels then get; None for a model whose head is still to be made.
    Classes are those of the training rows (of the first split read when training is not asked for), found before
    `train_rows` takes its subset. Raises UserError for every fault in the data, with file, row and column. Rows are
    counted from 1, the header not counted.
    """
    model_names = None if label2id is None else tuple(sorted(label2id, key=lambda name: label2id[name]))
    _check_outputs(task, model_names)
    raw = _read_splits(task, source, splits)
    labels, names, written = _labels_of(task, raw, model_names)
    built = {split: _build(task, raw[split].columns, labels[split]) for split in raw}
    train = built.pop("train", None)
    if train is not None:
        train = _subset(train, source.train_rows, source.seed)
    validation = {split.removeprefix("validation"): _subset(rows, source.validation_rows, source.seed)
                  for split, rows in built.items()}
    return TaskData(_with_names(task, names), train, validation, names, written)


def _check_outputs(task: Task, model_names: Sequence[str] | None) -> None:
    if model_names is None:
        return
    if task.kind == "regression" and len(model_names) != 1:
        raise UserError(f"task '{task.name}' is a regression and needs a model with 1 output, but the model has "
                        f"{len(model_names)} labels ({listed(model_names)})")
    if task.kind == "classification" and len(model_names) < 2:
        raise UserError(f"task '{task.name}' is a classification, but the model has 1 output, as for a regression")


def _read_splits(task: Task, source: DataSource, splits: Sequence[str]) -> dict[str, Rows]:
    """The checked rows of "train", "validation" and, where the task has it, "validation_mm"."""
    raw: dict[str, Rows] = {}
    if "train" in splits or source.validation_share is not None:
        raw["train"] = _read_split(task, source, "train", source.train, task.train_split)
    if source.validation_share is not None:
        raw = _cut_off_validation(raw["train"], source.validation_share, source.seed)
    elif "validation" in splits:
        raw["validation"] = _read_split(task, source, "validation", source.validation, task.validation_splits[""])
        for suffix, default in task.validation_splits.items():
            named = source.validation_mm if suffix == "_mm" else None
            if suffix and (named or (source.hub and not source.validation)):
                raw[f"validation{suffix}"] = _read_split(task, source, f"validation{suffix}", named, default)
    return {split: rows for split, rows in raw.items() if split.split("_")[0] in splits}


def _read_split(task: Task, source: DataSource, key: str, named: str | None, default: str) -> Rows:
    """named: the path or split that the user gave for `key`; default: the task's split on the hub."""
    wanted = [*task.text_columns, task.label_column]
    if source.hub is None and named is None:
        hint = ", or validation_share: 0.1 to cut it off the training rows" if key == "validation" else ""
        raise UserError(f"data.{key} is missing: give the path of a file{hint}")
    rows = read_hub(source.hub, named or default, wanted) if source.hub else read_file(named or "", wanted)
    for name in wanted:
        if rows.columns and name not in rows.columns:
            raise UserError(f"{rows.where}: no column '{name}'{nearest(name, list(rows.columns))}; the columns are "
                            f"{listed(list(rows.columns))}")
    if not rows.columns or not rows.columns[wanted[0]]:
        raise UserError(f"{rows.where}: the data set is empty; expected the columns {listed(wanted)} and some rows")
    checked = {name: _checked(rows.columns[name], rows.where, name, name == task.label_column) for name in wanted}
    return dataclasses.replace(rows, columns=checked)


def _checked(values: list[Any], where: str, column: str, is_label: bool) -> list[Any]:
    """The values, texts as str (a number in a text column is its text, as it would be in a csv file)."""
    bad = [i for i, v in enumerate(values, start=1) if _missing(v) or (is_label and str(v).strip() == "")]
    if bad:
        others = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        raise UserError(f"{where}, data row {bad[0]}, column '{column}': the {'label' if is_label else 'text'} is "
                        f"missing{others}; fill it in or drop the row")
    odd = [i for i, v in enumerate(values, start=1) if not isinstance(v, str | int | float)]
    if odd:
        raise UserError(f"{where}, data row {odd[0]}, column '{column}': expected a {'label' if is_label else 'text'}, "
                        f"got a {type(values[odd[0] - 1]).__name__}")
    return values if is_label else [str(v) for v in values]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cut_off_validation(rows: Rows, share: float, seed: int) -> dict[str, Rows]:
    count = len(next(iter(rows.columns.values())))
    order = np.random.default_rng(seed).permutation(count)
    cut = max(1, round(share * count))
    if cut >= count:
        raise UserError(f"{rows.where}: {count} rows are too few to cut off a validation_share of {share}")
    parts = {"train": sorted(order[cut:]), "validation": sorted(order[:cut])}
    return {split: dataclasses.replace(rows, columns={n: [v[i] for i in part] for n, v in rows.columns.items()})
            for split, part in parts.items()}


def _labels_of(task: Task, raw: Mapping[str, Rows], model_names: Sequence[str] | None
               ) -> tuple[dict[str, list[Any]], tuple[str, ...], tuple[str, ...]]:
    """(split -> labels as numbers, names of the classes, how the data write them)."""
    column = task.label_column
    if task.kind == "regression":
        return {split: _numbers(rows.columns[column], rows.where, column) for split, rows in raw.items()}, (), ()
    keys = {split: [label_key(v) for v in rows.columns[column]] for split, rows in raw.items()}
    first = next(iter(raw))
    where = f"{raw[first].where}, column '{column}'"
    mapping = label_map(keys[first], where, task.label_names or raw[first].class_names.get(column), model_names)
    if len(mapping.names) < 2:
        raise UserError(f"{where}: a classification needs two labels or more, got only {listed(mapping.names)}")
    ids = {split: _class_ids(keys[split], mapping, rows.where, column) for split, rows in raw.items()}
    # What the rows hold counts before what they might hold: of a task that names its labels, numbers and names.
    written = {i: key for key, i in mapping.ids.items()} | {mapping.ids[key]: key for key in keys[first]}
    return ids, mapping.names, tuple(written.get(i, name) for i, name in enumerate(mapping.names))


def _class_ids(keys: Sequence[str], mapping: LabelMap, where: str, column: str) -> list[int]:
    for row, key in enumerate(keys, start=1):
        if key not in mapping.ids:
            raise UserError(f"{where}, data row {row}, column '{column}': label '{key}' is none of the known labels "
                            f"({listed(mapping.names)})")
    return [mapping.ids[key] for key in keys]


def _numbers(values: Sequence[Any], where: str, column: str) -> list[float]:
    numbers = []
    for row, value in enumerate(values, start=1):
        try:
            numbers.append(float(value))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise UserError(f"{where}, data row {row}, column '{column}': expected a number, got {value!r}")
    return numbers


def _build(task: Task, columns: Columns, labels: list[Any]) -> Dataset:
    kinds = {"classification": "int64", "regression": "float64"}
    features = Features({**{name: Value("string") for name in task.text_columns}, "label": Value(kinds[task.kind])})
    return Dataset.from_dict({**{name: columns[name] for name in task.text_columns}, "label": labels}, features)


def _subset(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    if rows is None or rows >= len(dataset):
        return dataset
    return dataset.select(np.random.default_rng(seed).permutation(len(dataset))[:rows])


def _with_names(task: Task, names: tuple[str, ...]) -> Task:
    if task.kind == "regression":
        return task
    declared = [name.casefold() for name in task.label_names or ()]
    folded = [name.casefold() for name in names]
    order = None
    if declared and folded != declared and sorted(folded) == sorted(declared):
        order = tuple(declared.index(name) for name in folded)
    return dataclasses.replace(task, label_names=names, class_order=order)
