"""The rows of a task: read, checked, labelled.

    source = resolve_source({"train": "train.tsv", "validation": "dev.tsv", "train_rows": 10_000}, task)
    data = load_task_data(task, source, label2id=model.config.label2id)
    train, cut = tokenize(data.train, data.task, tokenizer, source.max_length)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from dynackd.errors import UserError, listed
from dynackd.labels import LabelMap, label_map
from dynackd.readers import read_file, read_hub
from dynackd.rows import LABEL_READERS, Rows, checked_rows
from dynackd.sources import DataSource
from dynackd.tasks import Task


@dataclass(frozen=True)
class TaskData:
    """The rows of a task: text columns as named, and "label" (class id, or a float for regression).

    task: the task as resolved with the labels found; hand this one to `compute_metrics`. validation: suffix of the
    metrics' names -> rows; "" is the main one. label_names: in the order of the class ids, empty for regression.
    written_labels: how the data write each class, in the same order. notes: what was decided in reading, for the user.
    """

    task: Task
    train: Dataset | None
    validation: dict[str, Dataset]
    label_names: tuple[str, ...]
    written_labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
    built = {split: raw[split].labelled(labels[split]) for split in raw}
    train = built.pop("train", None)
    if train is not None:
        train = _subset(train, source.train_rows, source.seed)
    validation = {split.removeprefix("validation"): _subset(rows, source.validation_rows, source.seed)
                  for split, rows in built.items()}
    notes = tuple(dict.fromkeys(note for rows in raw.values() for note in rows.notes))
    return TaskData(_with_names(task, names), train, validation, names, written, notes)


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
    return checked_rows(
        read_hub(source.hub, named or default, wanted) if source.hub else read_file(named or "", wanted),
        task.text_columns, task.label_column, LABEL_READERS[task.kind],
    )


def _cut_off_validation(rows: Rows, share: float, seed: int) -> dict[str, Rows]:
    count = len(rows.labels)
    order = np.random.default_rng(seed).permutation(count)
    cut = max(1, round(share * count))
    if cut >= count:
        raise UserError(f"{rows.where}: {count} rows are too few to cut off a validation_share of {share}")
    return {"train": rows.select(np.sort(order[cut:])), "validation": rows.select(np.sort(order[:cut]))}


def _labels_of(task: Task, raw: Mapping[str, Rows], model_names: Sequence[str] | None
               ) -> tuple[dict[str, Sequence[Any]], tuple[str, ...], tuple[str, ...]]:
    """(split -> labels as numbers, names of the classes, how the data write them)."""
    column = task.label_column
    if task.kind == "regression":
        return {split: rows.labels.tolist() for split, rows in raw.items()}, (), ()
    keys = {split: rows.labels.tolist() for split, rows in raw.items()}
    first = next(iter(raw))
    where = f"{raw[first].where}, column '{column}'"
    mapping = label_map(keys[first], where, task.label_names or raw[first].class_names, model_names)
    if len(mapping.names) < 2:
        raise UserError(f"{where}: a classification needs two labels or more, got only {listed(mapping.names)}")
    ids: dict[str, Sequence[Any]] = {split: _class_ids(rows, mapping, column) for split, rows in raw.items()}
    # What the rows hold counts before what they might hold: of a task that names its labels, numbers and names.
    written = {i: key for key, i in mapping.ids.items()} | {mapping.ids[key]: key for key in keys[first]}
    return ids, mapping.names, tuple(written.get(i, name) for i, name in enumerate(mapping.names))


def _class_ids(rows: Rows, mapping: LabelMap, column: str) -> list[int]:
    for place, key in enumerate(rows.labels):
        if key not in mapping.ids:
            raise UserError(f"{rows.where}, data row {rows.number(place)}, column '{column}': label '{key}' is none of "
                            f"the known labels ({listed(mapping.names)})")
    return [mapping.ids[key] for key in rows.labels]


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
