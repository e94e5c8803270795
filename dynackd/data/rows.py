"""Rows that were checked as they passed by: texts on disk, labels as a compact column."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from dynackd.data.labels import label_key
from dynackd.data.tables import Table
from dynackd.errors import UserError, listed
from dynackd.system.disk import written

BLOCK_ROWS, BLOCK_CHARACTERS = 1000, 2**20  # rows that are in memory at once


@dataclass(frozen=True)
class Rows:
    """The checked rows of one split.

    where: names them in messages. texts: the text columns, on disk. labels `[rows]`: texts as `label_key` gives them
    (dtype object), or float64 for a regression. class_names: those that the file declares for the label column.
    notes: what the reader decided. index `[rows]`: which rows of `texts` these are; None for all of them.
    """

    where: str
    texts: Dataset
    labels: np.ndarray
    class_names: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    index: np.ndarray | None = None

    def number(self, place: int) -> int:
        """The number in the file, counted from 1, of the row at `place` here."""
        return int(place if self.index is None else self.index[place]) + 1

    def select(self, index: np.ndarray) -> "Rows":
        """Some of the rows; they keep their numbers in the file."""
        known = index if self.index is None else self.index[index]
        return dataclasses.replace(self, labels=self.labels[index], index=known)

    def labelled(self, labels: Sequence[Any]) -> Dataset:
        """The text columns with "label" beside them, a class id or a number for each row."""
        values = np.asarray(labels)
        if self.index is None:
            return self.texts.add_column("label", values)
        column = np.zeros(len(self.texts), values.dtype)
        column[self.index] = values
        return self.texts.add_column("label", column).select(self.index)


def checked_rows(table: Table, texts: Sequence[str], label: str, read_label: Callable[[Any], Any]) -> Rows:
    """The table's rows, checked; each row's values are those of the columns `texts` and then of `label`.

    A number in a text column is its text, as it would be in a csv file. Raises UserError for the first fault, with the
    data row, counted from 1 without the header, and the column.
    """
    faults, labels = _Faults(table.where), []

    def batches() -> Iterator[pa.RecordBatch]:
        count = 0
        for block in _blocks(table.rows):
            *columns, values = zip(*block, strict=True)
            arrays = [faults.texts(column, name, count) for column, name in zip(columns, texts, strict=True)]
            labels.append(np.array(faults.labels(values, label, count, read_label), READ_AS[read_label]))
            count += len(block)
            if faults.none:
                yield pa.record_batch(arrays, schema=schema)
        if not count:
            raise UserError(
                f"{table.where}: the data set is empty; expected the columns {listed([*texts, label])} and some rows"
            )
        faults.tell([*texts, label], count)

    schema = pa.schema([(name, pa.string()) for name in texts])
    dataset = written(batches(), schema)
    return Rows(table.where, dataset, np.concatenate(labels), table.class_names.get(label), table.notes)


def read_class(value: Any) -> str:
    """A label as text; equal ones are one object, so that a column of them is small. ValueError says what is wrong."""
    key = sys.intern(label_key(value))
    key.encode()
    return key


def read_number(value: Any) -> float:
    """The label of a regression. ValueError says what is wrong."""
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    hint = "; write a point, not a comma" if isinstance(value, str) and _is_number(value.replace(",", ".")) else ""
    raise ValueError(f"expected a number, got {_shown(value)}{hint}")


READ_AS: dict[Callable[[Any], Any], Any] = {read_class: object, read_number: np.float64}
LABEL_READERS: dict[str, Callable[[Any], Any]] = {"classification": read_class, "regression": read_number}


def _blocks(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    block: list[Sequence[Any]] = []
    size = 0
    for row in rows:
        block.append(row)
        size += sum(len(value) for value in row if isinstance(value, str))
        if len(block) == BLOCK_ROWS or size > BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


@dataclass
class _Faults:
    """What is wrong in the rows so far, by column: (first row, how many) without a value, and the first other fault."""

    where: str
    missing: dict[str, tuple[int, int]] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)

    @property
    def none(self) -> bool:
        return not self.missing and not self.other

    def texts(self, values: Sequence[Any], column: str, before: int) -> pa.Array:
        """The column of a block of rows; `before`: how many rows came before it."""
        plain = values
        if not all(type(value) is str for value in values):
            plain = [
                str(value) if self._usable(value, "text", column, row) else ""
                for row, value in enumerate(values, before + 1)
            ]
        try:
            return pa.array(plain, pa.string())
        except UnicodeEncodeError:
            read = [self._read(value, column, row, _encoded) for row, value in enumerate(plain, before + 1)]
            return pa.array([text if isinstance(text, str) else "" for text in read], pa.string())

    def labels(self, values: Sequence[Any], column: str, before: int, read: Callable[[Any], Any]) -> list[Any]:
        return [
            self._read(value, column, row, read) if self._usable(value, "label", column, row) else math.nan
            for row, value in enumerate(values, before + 1)
        ]

    def _read(self, value: Any, column: str, row: int, read: Callable[[Any], Any]) -> Any:
        try:
            return read(value)
        except UnicodeEncodeError as error:
            half = _shown(error.object[error.start])
            self._add(column, row, f"it holds half of a character ({half}, a lone surrogate); repair it or drop the "
                                   f"row")
        except ValueError as error:
            self._add(column, row, str(error))
        return math.nan

    def _usable(self, value: Any, what: str, column: str, row: int) -> bool:
        if value is None or value != value or (what == "label" and isinstance(value, str) and not value.strip()):
            first, count = self.missing.get(column, (row, 0))
            self.missing[column] = (first, count + 1)
        elif isinstance(value, dict):
            self._add(column, row, f"expected a {what}, got an object; name a field of it, such as "
                                   f"'{column}.{next(iter(value), 'name')}'")
        elif not isinstance(value, str | int | float):
            self._add(column, row, f"expected a {what}, got a {type(value).__name__}")
        elif isinstance(value, float) and math.isinf(value):
            self._add(column, row, f"expected a {what}, got {value}, which no number that can be held is")
        else:
            return True
        return False

    def _add(self, column: str, row: int, sentence: str) -> None:
        self.other.setdefault(column, f"{self.where}, data row {row}, column '{column}': {sentence}")

    def tell(self, columns: Sequence[str], rows: int) -> None:
        """Raises UserError for the first column with a fault, a missing value before any other."""
        for column in columns:
            if column in self.missing:
                row, count = self.missing[column]
                what = "label" if column == columns[-1] else "text"
                if count == rows > 1:
                    raise UserError(f"{self.where}: the column '{column}' is empty in all {rows:,} rows; it is where "
                                    f"the {what} of each row should be")
                others = f" (and {count - 1:,} more)" if count > 1 else ""
                raise UserError(f"{self.where}, data row {row}, column '{column}': the {what} is missing{others}; fill "
                                f"it in or drop the row")
            if column in self.other:
                raise UserError(self.other[column])


def _encoded(text: str) -> str:
    text.encode()
    return text


def _shown(value: Any) -> str:
    """A value as it would be written in Python, the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}... ({len(text):,} characters)"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
