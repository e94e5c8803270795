"""The rows of a task: read, checked, labelled.

    source = resolve_source({"train": "train.tsv", "validation": "dev.tsv", "train_rows": 10_000}, task)
    data = load_task_data(task, source, model=labels_of(model.config))
    train, cut = tokenize(data.train, data.task, tokenizer, source.max_length)
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from dynackd.data.labels import LabelMap, ModelLabels, check_outputs, held_out_rows, label_map, resolve_wanted
from dynackd.data.readers import read_file, read_hub
from dynackd.data.rows import LABEL_READERS, Rows, checked_rows
from dynackd.errors import UserError, listed
from dynackd.tasks.sources import DataSource
from dynackd.tasks.task import Task


@dataclass(frozen=True)
class TaskData:
    """The rows of a task: text columns as named, and "label" (class id, or a float for regression).

    task: the task as resolved with the labels found; hand this one to `compute_metrics`. validation: suffix of the
    metrics' names -> rows; "" is the main one. labels: how the data's labels became class ids, None for regression.
    notes: what was decided in reading, for the user.
    """

    task: Task
    train: Dataset | None
    validation: dict[str, Dataset]
    labels: LabelMap | None = None
    notes: tuple[str, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """In the order of the class ids, empty for regression."""
        return self.labels.names if self.labels else ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the outputs of a model for this task: the classes, or the one of a regression."""
        return self.label_names or ("LABEL_0",)

    @property
    def num_labels(self) -> int:
        """Outputs of a model for this task: the classes, or 1 for regression."""
        return len(self.output_names)


def load_task_data(task: Task, source: DataSource, splits: Sequence[str] = ("train", "validation"),
                   model: ModelLabels | None = None) -> TaskData:
    """Reads, checks and labels the splits asked for ("train", "validation").

    model: the outputs of a trained model, whose ids the labels then get; None where the head is still to be made.
    Classes are those of the training rows (of the first split read when training is not asked for), found before
    `train_rows` takes its subset. Raises UserError for every fault in the data, with file, row and column. Rows are
    counted from 1, the header not counted.
    """
    _check_outputs(task, model)
    raw = _read_splits(task, source, splits)
    labels, mapping = _labels_of(task, raw, model)
    built = {split: raw[split].labelled(labels[split]) for split in raw}
    train = built.pop("train", None)
    if train is not None:
        train = _subset(train, source.train_rows, source.seed)
    validation = {split.removeprefix("validation"): _subset(rows, source.validation_rows, source.seed)
                  for split, rows in built.items()}
    notes = dict.fromkeys(note for rows in raw.values() for note in rows.notes)
    if mapping is not None:
        notes[mapping.told(key for rows in raw.values() for key in rows.labels)] = None
    return TaskData(_with_names(task, mapping), train, validation, mapping, tuple(notes))


def _check_outputs(task: Task, model: ModelLabels | None) -> None:
    if model is not None:
        check_outputs(task.name, task.kind, model)
    if task.labels:
        resolve_wanted(task.labels, task.label_names, model)


def _read_splits(task: Task, source: DataSource, splits: Sequence[str]) -> dict[str, Rows]:
    """The checked rows of "train", "validation" and, where the task has it, "validation_mm"."""
    raw: dict[str, Rows] = {}
    if "train" in splits or source.validation_share is not None:
        raw["train"] = _read_split(task, source, "train", source.train, task.train_split)
    if source.validation_share is not None:
        raw = _cut_off_validation(task, raw["train"], source.validation_share, source.seed)
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


def _cut_off_validation(task: Task, rows: Rows, share: float, seed: int) -> dict[str, Rows]:
    count = len(rows.labels)
    classes = np.unique(rows.labels, return_inverse=True)[1] if task.kind == "classification" else np.zeros(count)
    held_out = held_out_rows(classes, share, seed)
    if not len(held_out):
        raise UserError(f"{rows.where}: {count:,} rows are too few to cut off a validation_share of {share}, since "
                        f"every class keeps a row in training")
    return {"train": rows.select(np.setdiff1d(np.arange(count), held_out)), "validation": rows.select(held_out)}


def _labels_of(task: Task, raw: Mapping[str, Rows], model: ModelLabels | None
               ) -> tuple[dict[str, Sequence[Any]], LabelMap | None]:
    """(split -> labels as numbers, how they became so)."""
    column = task.label_column
    if task.kind == "regression":
        return {split: rows.labels.tolist() for split, rows in raw.items()}, None
    first = next(iter(raw))
    where, declared = f"{raw[first].where}, column '{column}'", task.label_names or raw[first].class_names
    mapping = label_map(Counter(raw[first].labels), where, declared, model, task.labels)
    if len(mapping.names) < 2:
        raise UserError(f"{where}: a classification needs two labels or more, got only {listed(mapping.names)}")
    return {split: _class_ids(rows, mapping, column) for split, rows in raw.items()}, mapping


def _class_ids(rows: Rows, mapping: LabelMap, column: str) -> list[int]:
    ids = {key: mapping.find(key) for key in dict.fromkeys(rows.labels)}
    for key, found in ids.items():
        if found is None:
            place = int(np.argmax(rows.labels == key))
            raise UserError(f"{rows.where}, data row {rows.number(place)}, column '{column}': {mapping.unknown(key)}")
    return [found for key in rows.labels if (found := ids[key]) is not None]


def _subset(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    if rows is None or rows >= len(dataset):
        return dataset
    return dataset.select(np.random.default_rng(seed).permutation(len(dataset))[:rows])


def _with_names(task: Task, mapping: LabelMap | None) -> Task:
    return task if mapping is None else dataclasses.replace(task, label_names=mapping.names, class_order=mapping.order)
