"""The rows of a task: read, checked, labelled.

    source = resolve_source({"train": "train.tsv", "validation": "dev.tsv", "train_rows": 10_000})
    data = load_task_data(task, source, model=labels_of(model.config))
    train, cut = tokenize(data.train, data.task, tokenizer, source.max_length)
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from dynackd.data.labels import LabelMap
from dynackd.data.model_labels import ModelLabels
from dynackd.data.readers import read_file, read_hub
from dynackd.data.rows import Rows, checked_rows, held_out_rows
from dynackd.data.sources import OTHERS, DataSource
from dynackd.errors import UserError
from dynackd.tasks.copies import alike, note_of_copies
from dynackd.tasks.kind import Task
from dynackd.tasks.unlabelled import read_unlabelled


@dataclass(frozen=True)
class TaskData:
    """The rows of a task: its columns as named, and "label" where rows have one (a class id, a number, ...).

    task: the task as resolved with the labels found; hand this one to `compute_metrics`. validation: suffix of the
    metrics' names -> rows; "" is the main one. labels: how the data's labels became class ids, None without classes.
    notes: what was decided in reading, for the user. unlabelled: rows without labels, where asked for and named.
    """

    task: Task
    train: Dataset | None
    validation: dict[str, Dataset]
    labels: LabelMap | None = None
    notes: tuple[str, ...] = ()
    unlabelled: Dataset | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """In the order of the class ids, empty without classes."""
        return self.labels.names if self.labels else ()


def load_task_data(task: Task, source: DataSource, splits: Sequence[str] = ("train", "validation"),
                   model: ModelLabels | None = None) -> TaskData:
    """Reads, checks and labels the splits asked for ("train", "validation", and "unlabelled" for `data.unlabelled`).

    model: the outputs of a trained model, whose ids the labels then get; None where the head is still to be made.
    Classes are those of the training rows (of the first split read when training is not asked for), found before
    `train_rows` takes its subset. Raises UserError for every fault in the data, with file, row and column. Rows are
    counted from 1, the header not counted.
    """
    task.kind.check_model(task, model)
    raw = _read_splits(task, source, splits)
    labels = task.kind.labels(task, raw, model)
    built = {split: rows.labelled(labels.values[split]) for split, rows in raw.items()}
    train = built.pop("train", None)
    if train is not None:
        train = _subset(train, source.train_rows, source.seed)
    validation = {split.removeprefix("validation"): _subset(rows, source.validation_rows, source.seed)
                  for split, rows in built.items()}
    told = [*(note for rows in raw.values() for note in rows.notes), labels.note]
    if train is not None:
        told += [note_of_copies(rows, train, ("label", task.label_column)) for rows in validation.values()]
    known = dataclasses.replace(_with_names(task, labels.names), rows=validation)
    unlabelled = read_unlabelled(known, source) if OTHERS in splits else None
    if unlabelled is not None:
        own, first = ("label", task.label_column), known.text_columns[0]
        told += [note_of_copies(rows, alike(unlabelled, rows, first), own, f"a row of data.{OTHERS}")
                 for rows in validation.values()]
    notes = dict.fromkeys(filter(None, told))
    return TaskData(known, train, validation, labels.names, tuple(notes), unlabelled)


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
    task = task.kind.of_split(task, key)
    columns, label = task.kind.columns(task), task.kind.label_column(task)
    wanted = [column.name for column in (*columns, *([label] if label else []))]
    if source.hub is None and named is None:
        hint = ", or validation_share: 0.1 to cut it off the training rows" if key == "validation" else ""
        raise UserError(f"data.{key} is missing: give the path of a file{hint}")
    table = read_hub(source.hub, named or default, wanted) if source.hub else read_file(named or "", wanted)
    return task.kind.gathered(task, checked_rows(table, columns, label))


def _cut_off_validation(task: Task, rows: Rows, share: float, seed: int) -> dict[str, Rows]:
    count = len(rows)
    strata = task.kind.strata(rows.labels) if len(rows.labels) else np.zeros(count)
    held_out = held_out_rows(strata, share, seed)
    if not len(held_out):
        raise UserError(f"{rows.where}: {count:,} rows are too few to cut off a validation_share of {share}, since "
                        f"every class keeps a row in training")
    return {"train": rows.select(np.setdiff1d(np.arange(count), held_out)), "validation": rows.select(held_out)}


def _subset(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    return dataset if rows is None or rows >= len(dataset) else dataset.select(taken(len(dataset), rows, seed)[0])


def taken(count: int, rows: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the rows that `data.train_rows` or `validation_rows` takes of so many, and of those that it leaves,
    both in random order but for all rows, which keep theirs."""
    if rows is None or rows >= count:
        return np.arange(count), np.arange(0)
    order = np.random.default_rng(seed).permutation(count)
    return order[:rows], order[rows:]


def _with_names(task: Task, mapping: LabelMap | None) -> Task:
    return task if mapping is None else dataclasses.replace(task, label_names=mapping.names, class_order=mapping.order)
