"""Texts that a vocabulary is counted on: lines of a file, or rows as a recipe's task reads them.

One text in ten is not counted but held out, to see what the counting is good for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dynackd.data.model_labels import ModelLabels
from dynackd.data.readers import TEXT_COLUMN, kind_of_file, read_file
from dynackd.data.rows import Column, checked_rows
from dynackd.data.sources import DataSource
from dynackd.errors import UserError
from dynackd.tasks.kind import Task
from dynackd.tasks.loading import load_task_data

TRAIN = "train"  # the name of the recipe's own training texts
HELD_OUT = 10  # one text in so many
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
        return self.rows.select(np.setdiff1d(np.arange(len(self.rows)), self._held_out()))

    @property
    def held_out(self) -> Dataset:
        return self.rows.select(self._held_out())

    def _held_out(self) -> np.ndarray:
        step = min(HELD_OUT, len(self.rows))
        return np.arange(step - 1, len(self.rows), step)

    def tokens(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Iterator[Encoded]:
        """The inputs of the rows, some at once."""
        for batch in rows.iter(AT_ONCE):
            yield dict(self.encode(tokenizer, batch, verbose=False, **options))

    def counts(self, tokenizer: PreTrainedTokenizerBase, size: int) -> np.ndarray:
        """How often each id below `size` occurs in the counted texts, whole and without special tokens, [size]."""
        found = np.zeros(size, np.int64)
        for encoded in self.tokens(self.counted, tokenizer, add_special_tokens=False):
            found += np.bincount(np.concatenate([np.asarray(ids, np.int64) for ids in encoded["input_ids"]]),
                                 minlength=size)  # fmt: skip
        return found


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
    data = load_task_data(task, replace(source, train_rows=None), (TRAIN,), model=labels)
    assert data.train is not None
    return Texts("the training texts", data.train, _encoding(data.task))


def _of_task(name: str, task: Task) -> Texts:
    own = task.kind.without_labels(task.kind.of_split(task, TRAIN))
    columns = task.kind.columns(own)
    rows = checked_rows(read_file(name, [column.name for column in columns]), columns, None)
    return Texts(name, task.kind.gathered(own, rows).texts, _encoding(own))


def _encoding(task: Task) -> Callable[..., Any]:
    def encode(tokenizer: PreTrainedTokenizerBase, batch: Any, **options: Any) -> Any:
        return task.kind.encode(task, tokenizer, batch, **options)

    return encode
