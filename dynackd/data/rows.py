"""Rows that were checked as they passed by: texts on disk, labels as a compact column."""

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from dynackd.data.tables import Table
from dynackd.errors import UserError, listed
from dynackd.system.disk import written

BLOCK_ROWS, BLOCK_CHARACTERS = 1000, 2**20  # rows that are in memory at once


def label_key(value: Any) -> str:
    """Labels are compared as text: 1, "1", 1.0, "1.0" and "1.00" are the same class, and True is "True"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


@dataclass(frozen=True)
class Column:
    """A column that is read. what: what each of its values is, in messages. read: a value as it is kept; a ValueError
    says what is wrong with one. kept: as what it is kept on disk. takes: the types that a value may be of. may_lack:
    whether a row may be without a value, of which `read` then makes something."""

    name: str
    what: str = "text"
    read: Callable[[Any], Any] = str
    kept: pa.DataType = field(default_factory=pa.string)
    takes: tuple[type, ...] = (str, int, float)
    may_lack: bool = False


@dataclass(frozen=True)
class Rows:
    """The checked rows of one split.

    where: names them in messages. texts: the columns but the label's, on disk. labels `[rows]`: as their column's
    `read` gives them, float64 or objects; empty where rows have none. class_names: those that the file declares for
    the label column. notes: what the reader decided. index `[rows]`: which rows of `texts` these are; None for all.
    """

    where: str
    texts: Dataset
    labels: np.ndarray
    class_names: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    index: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts) if self.index is None else len(self.index)

    def number(self, place: int) -> int:
        """The number in the file, counted from 1, of the row at `place` here."""
        return int(place if self.index is None else self.index[place]) + 1

    def select(self, index: np.ndarray) -> "Rows":
        """Some of the rows; they keep their numbers in the file."""
        known = index if self.index is None else self.index[index]
        return dataclasses.replace(self, labels=self.labels[index] if len(self.labels) else self.labels, index=known)

    def labelled(self, labels: Sequence[Any]) -> Dataset:
        """The columns with "label" beside them, one for each row; without where there are none."""
        texts = self.texts
        if len(labels):
            column = pa.array(labels)
            if self.index is not None:
                place = np.zeros(len(texts), int)
                place[self.index] = np.arange(len(self.index))
                column = column.take(pa.array(place))
            texts = texts.add_column("label", column)
        return texts if self.index is None else texts.select(self.index)


def checked_rows(table: Table, columns: Sequence[Column], label: Column | None) -> Rows:
    """The table's rows, checked; each row's values are those of `columns` and then of `label`, if there is one.

    A number in a text column is its text, as it would be in a csv file. Raises UserError for the first fault, with the
    data row, counted from 1 without the header, and the column.
    """
    faults, labels = _Faults(table.where), []
    every = [*columns, *([label] if label else [])]

    def batches() -> Iterator[pa.RecordBatch]:
        count = 0
        for block in _blocks(table.rows):
            read = [faults.read(column, values, count)
                    for column, values in zip(every, zip(*block, strict=True), strict=True)]
            count += len(block)
            if faults.none:
                if label:
                    labels.append(np.fromiter(read.pop(), _kept_as(label), len(block)))
                arrays = [pa.array(values, column.kept) for column, values in zip(columns, read, strict=True)]
                yield pa.record_batch(arrays, schema=schema)
        if not count:
            raise UserError(f"{table.where}: the data set is empty; expected the columns "
                            f"{listed([column.name for column in every])} and some rows")
        faults.tell(every, count)

    schema = pa.schema([(column.name, column.kept) for column in columns])
    dataset = written(batches(), schema)
    found = np.concatenate(labels) if labels else np.empty(0)
    return Rows(table.where, dataset, found, table.class_names.get(label.name) if label else None, table.notes)


def _kept_as(label: Column) -> Any:
    return np.float64 if pa.types.is_floating(label.kept) else object


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

    def read(self, column: Column, values: Sequence[Any], before: int) -> Sequence[Any]:
        """A column of a block of rows as it is kept; `before`: how many rows came before it."""
        if column.read is str and _plain(values):
            return values
        return [
            self._read(value, column, row) if self._usable(value, column, row) else None
            for row, value in enumerate(values, before + 1)
        ]

    def _read(self, value: Any, column: Column, row: int) -> Any:
        try:
            found = column.read(value)
            if isinstance(found, str):
                found.encode()
            return found
        except UnicodeEncodeError as error:
            half = _shown(error.object[error.start])
            self._add(column, row, f"it holds half of a character ({half}, a lone surrogate); repair it or drop the "
                                   f"row")
        except ValueError as error:
            self._add(column, row, str(error))
        return None

    def _usable(self, value: Any, column: Column, row: int) -> bool:
        what = column.what
        # An empty string that somebody wrote is a text; an empty cell of a csv comes here as None.
        if value is None or value != value or (what != "text" and isinstance(value, str) and not value.strip()):
            if column.may_lack:
                return True
            first, count = self.missing.get(column.name, (row, 0))
            self.missing[column.name] = (first, count + 1)
        elif isinstance(value, dict) and dict not in column.takes:
            self._add(column, row, f"expected a {what}, got an object; name a field of it, such as "
                                   f"'{column.name}.{next(iter(value), 'name')}'")
        elif not isinstance(value, column.takes):
            self._add(column, row, f"expected a {what}, got a {type(value).__name__}")
        elif isinstance(value, float) and math.isinf(value):
            self._add(column, row, f"expected a {what}, got {value}, which no number that can be held is")
        else:
            return True
        return False

    def _add(self, column: Column, row: int, sentence: str) -> None:
        self.other.setdefault(column.name, f"{self.where}, data row {row}, column '{column.name}': {sentence}")

    def tell(self, columns: Sequence[Column], rows: int) -> None:
        """Raises UserError for the first column with a fault, a missing value before any other."""
        for column in columns:
            name, what = column.name, column.what
            if name in self.missing:
                row, count = self.missing[name]
                if count == rows > 1:
                    raise UserError(f"{self.where}: the column '{name}' is empty in all {rows:,} rows; it is where "
                                    f"the {what} of each row should be")
                others = f" (and {count - 1:,} more)" if count > 1 else ""
                raise UserError(f"{self.where}, data row {row}, column '{name}': the {what} is missing{others}; fill "
                                f"it in or drop the row")
            if name in self.other:
                raise UserError(self.other[name])


def _plain(values: Sequence[Any]) -> bool:
    """Whether all are whole texts."""
    try:
        return all(type(value) is str for value in values) and bool("".join(values).encode() or True)
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    """A value as it would be written in Python, the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}... ({len(text):,} characters)"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def held_out_rows(classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Sorted numbers of the rows to hold out: of `classes` [rows] about `share` of each class, `share` of all.

    At least one row of every class stays, so that a class of one row is never held out. Rows that are not to be kept
    apart by class have the same number in `classes`. Depends on the seed alone.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(classes))
    _, codes, counts = np.unique(classes[rows], return_inverse=True, return_counts=True)
    exact = counts * share
    quota = np.floor(exact).astype(int)
    left = max(1, round(share * len(classes))) - int(quota.sum())
    # What is left goes to the classes that lack the most, equal ones in an order of the seed's.
    order = rng.permutation(len(counts))
    order = order[np.argsort((quota - exact)[order], kind="stable")]
    open_ = order[(quota < counts - 1)[order]][: max(0, left)]
    quota[open_] += 1
    by_class = np.argsort(codes, kind="stable")
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(rows[by_class[place < np.repeat(quota, counts)]])
