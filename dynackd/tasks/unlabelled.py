"""Rows without labels: texts of which the teacher says what they are.

    texts = read_unlabelled(task, source)                             # as they stand in files, on disk
    rows = tokenize_unlabelled(texts, task, tokenizer, source.max_length, like=train, first=len(data.train))

A file has the columns of the task's texts, or one column `text`, as a file of plain text has. Of such a file each text
is a row; for a task whose rows have two, each text with the one behind it is: texts that stand together in a file are
about the same thing, as the two of a labelled row are, while two that are drawn at random hardly ever are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from datasets.table import InMemoryTable

from dynackd.data.readers import TEXT_COLUMN, columns_of, read_file
from dynackd.data.rows import Column, checked_rows
from dynackd.data.sources import OTHERS, DataSource
from dynackd.errors import UserError, a, listed
from dynackd.tasks.kind import LABELLED, Task
from dynackd.tasks.tokens import encoded


def read_unlabelled(task: Task, source: DataSource) -> Dataset | None:
    """The rows of `data.unlabelled`, whose labels are not read, if there are any; None where no file is named. Raises
    UserError for every fault, with file, row and column."""
    parts = [_read(task, name) for name in source.unlabelled_files]
    return concatenate_datasets(parts) if parts else None


def _read(task: Task, name: str) -> Dataset:
    kind = task.kind
    task = kind.without_labels(kind.of_split(task, "train"))
    columns, found = kind.columns(task), columns_of(name)
    wanted = [column.name for column in columns]
    if set(wanted) <= set(found) or not found:
        return kind.gathered(task, checked_rows(read_file(name, wanted), columns, None)).texts
    if kind.of_lines and TEXT_COLUMN in found:
        texts = checked_rows(read_file(name, [TEXT_COLUMN]), [Column(TEXT_COLUMN)], None).texts
        return _consecutive(name, texts, wanted)
    missing = next(column for column in wanted if column not in found)
    other = f", or one column '{TEXT_COLUMN}'" if kind.of_lines else ""
    raise UserError(f"data.{OTHERS}: {name} has no column '{missing}'; rows without labels of {a(kind.name)} task "
                    f"need {listed(wanted)}{other}; the columns are {listed(found)}")


def _consecutive(name: str, texts: Dataset, columns: Sequence[str]) -> Dataset:
    """Each text in the first column, beside it the one behind it in the second, and so on; nothing is copied."""
    count = len(texts) + 1 - len(columns)
    if count < 1:
        raise UserError(f"data.{OTHERS}: {name} has one text; a row of this task is two, so that it takes two or more")
    column = texts.data.column(TEXT_COLUMN)
    return Dataset(InMemoryTable.from_pydict({own: column.slice(i, count) for i, own in enumerate(columns)}))


def tokenize_unlabelled(texts: Dataset, task: Task, tokenizer: Any, max_length: int, like: Dataset,
                        first: int) -> Dataset:
    """The model's inputs of rows without labels, in the columns of the tokenised training rows `like`: what stands
    there for labels means nothing. first: the number of the first of the rows, behind those of the training rows."""

    def features(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
        filled = {**batch, **task.kind.placeholders(task, batch), "row": [first + number for number in numbers]}
        return task.kind.features(task, tokenizer, filled, max_length)

    return encoded(texts, features, like.features)


def mixed(labelled: Dataset, unlabelled: Dataset) -> Dataset:
    """The inputs of both, those with labels first, and a column that says which have any."""
    parts = [rows.add_column(LABELLED, np.full(len(rows), flag)) for rows, flag in ((labelled, 1), (unlabelled, 0))]
    return concatenate_datasets(parts)
