"""Texts that a vocabulary is counted on: lines of a file, or rows as a recipe's task reads them.

One text in ten is not counted but held out, to see what the counting is good for: any ten, since a file may hold texts
of one sort in every tenth line, and of rows that share a long text, as questions about one passage do, all or none.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from dynackd.data.model_labels import ModelLabels
from dynackd.data.readers import TEXT_COLUMN, kind_of_file, read_file
from dynackd.data.rows import Column, checked_rows
from dynackd.data.sources import OTHERS, DataSource
from dynackd.errors import UserError
from dynackd.tasks.kind import Task
from dynackd.tasks.loading import load_task_data

TRAIN = "train"  # the name of the recipe's own training texts
HELD_OUT, SEED = 10, 0  # one text in so many, and which
AT_ONCE = 256
Encoded = dict[str, list[list[int]]]  # the inputs of some texts, as the tokenizer calls them


@dataclass(frozen=True)
class Texts:
    """Rows of texts and how a tokenizer reads them: `encode(tokenizer, rows, **options)`; a row may become several
    inputs. `where` names them for the user."""

    where: str
    rows: Dataset
    encode: Callable[..., Any]

    @property
    def counted(self) -> Dataset:
        return self.rows.select(np.flatnonzero(~self._is_held_out))

    @property
    def held_out(self) -> Dataset:
        return self.rows.select(np.flatnonzero(self._is_held_out))

    @cached_property
    def _is_held_out(self) -> np.ndarray:
        """Of each row."""
        groups = self._groups()
        count = int(groups.max()) + 1
        if count == 1:  # all rows have one text in common
            groups, count = np.arange(len(groups)), len(groups)
        drawn = np.random.default_rng(SEED).permutation(count)[: max(1, count // HELD_OUT)]
        return np.isin(groups, drawn)

    def _groups(self) -> np.ndarray:
        """The number of the group of each row: of those whose longest text is the same; of rows with one text each is
        its own, since a text that comes often is as often read."""
        columns = [field.name for field in self.rows.data.schema if _holds_texts(field.type)]
        if len(columns) < 2:
            return np.arange(len(self.rows))
        numbers: dict[int, int] = {}
        found = []
        for batch in self.rows.select_columns(columns).iter(AT_ONCE):
            for values in zip(*(batch[name] for name in columns), strict=True):
                longest = max(_strings(values), key=len, default="")
                found.append(numbers.setdefault(hash(longest), len(numbers)))
        return np.asarray(found, int)

    def tokens(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Iterator[Encoded]:
        """The inputs of the rows, some at once."""
        for batch in rows.iter(AT_ONCE):
            yield dict(self.encode(tokenizer, batch, verbose=False, **options))

    def counts(self, tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[np.ndarray, int]:
        """How often each id below `size` occurs in the counted texts, whole and without special tokens, [size], and how
        many inputs these are."""
        found, inputs = np.zeros(size, np.int64), 0
        for encoded in self.tokens(self.counted, tokenizer, add_special_tokens=False):
            found += np.bincount(np.concatenate([np.asarray(ids, np.int64) for ids in encoded["input_ids"]]),
                                 minlength=size)  # fmt: skip
            inputs += len(encoded["input_ids"])
        return found, inputs


def read_texts(name: str, task: Task | None, source: DataSource | None, labels: ModelLabels) -> Texts:
    """The texts of a file, or those that a recipe trains with (`train`).

    A .txt file is read line by line, any other as the task's training rows are, without their labels. Raises
    `UserError` for every fault in the data, and for fewer than two texts.
    """
    if name == TRAIN or not _is_plain(name):
        if task is None or source is None:
            raise UserError(f"--vocabulary {name}: the supernet has no recipe.yaml that says which columns to read; "
                            f"give a .txt file with a text in each line")  # fmt: skip
        texts = _of_recipe(task, source, labels) if name == TRAIN else _of_task(name, task)
    else:
        texts = Texts(name, checked_rows(read_file(name, [TEXT_COLUMN]), [Column(TEXT_COLUMN)], None).texts, _line)
    if len(texts.rows) < 2:
        raise UserError(f"--vocabulary {name}: 1 text is too few; of two or more one is held out")
    return texts


def _is_plain(name: str) -> bool:
    return kind_of_file(Path(name)) == ".txt"


def _line(tokenizer: PreTrainedTokenizerBase, batch: Any, **options: Any) -> Any:
    return tokenizer(batch[TEXT_COLUMN], **options)


def _of_recipe(task: Task, source: DataSource, labels: ModelLabels) -> Texts:
    data = load_task_data(task, replace(source, train_rows=None), (TRAIN, OTHERS), model=labels)
    assert data.train is not None
    rows, where = data.train, "the training texts"
    if data.unlabelled is None:
        return Texts(where, rows, _encoding(data.task))
    shared = [name for name in data.unlabelled.column_names if name in rows.column_names]
    mine, others = (part.select_columns(shared) for part in (rows, data.unlabelled))
    rows = concatenate_datasets([mine, others.cast(mine.features)])
    return Texts(where, rows, _encoding(data.task.kind.without_labels(data.task)))


def _of_task(name: str, task: Task) -> Texts:
    own = task.kind.without_labels(task.kind.of_split(task, TRAIN))
    columns = task.kind.columns(own)
    rows = checked_rows(read_file(name, [column.name for column in columns]), columns, None)
    return Texts(name, task.kind.gathered(own, rows).texts, _encoding(own))


def _holds_texts(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_texts(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _strings(values: Iterable[Any]) -> Iterator[str]:
    """All texts of a row, those of lists too."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _strings(value)


def _encoding(task: Task) -> Callable[..., Any]:
    def encode(tokenizer: PreTrainedTokenizerBase, batch: Any, **options: Any) -> Any:
        return task.kind.encode(task, tokenizer, batch, **options)

    return encode
