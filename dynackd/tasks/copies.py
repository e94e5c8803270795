"""Validation rows that were trained on."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

TOLD_FROM = 0.01  # of the validation rows: fewer move no metric by more than its own error
MOST_LETTERS = 60
AT_ONCE = 1000


def note_of_copies(validation: Dataset, train: Dataset, labels: Sequence[str], what: str = "a training row") -> str:
    """What is told where many validation rows have the texts of training rows, whatever the columns of `labels` say;
    else empty. Of each training row a number is held in memory, not the row. what: what one of `train` is called."""
    columns = _shared(validation, train, labels)
    copies = copies_of(validation, train, labels)
    if len(copies) < max(1, TOLD_FROM * len(validation)):
        return ""
    first = validation[int(copies[0])]
    text = " | ".join(str(first[column]) for column in columns)
    shown = text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."
    return (f"{len(copies):,} of {len(validation):,} validation rows have the texts of {what} (the first: "
            f"{shown!r}); these may be known by heart, so that a metric is better than it will be on new rows; leave "
            "them out of one of the two")


def copies_of(rows: Dataset, others: Dataset, labels: Sequence[str]) -> np.ndarray:
    """The places of the rows that have the texts of one of the others, whatever the columns of `labels` say. Of each of
    the others a number is held in memory, not the row."""
    columns = _shared(rows, others, labels)
    if not columns:  # such as single texts to train on and pairs of them to judge by
        return np.arange(0)
    seen = np.fromiter(_hashes(others, columns), np.int64, len(others))
    return np.flatnonzero(np.isin(np.fromiter(_hashes(rows, columns), np.int64, len(rows)), seen))


def _shared(rows: Dataset, others: Dataset, labels: Sequence[str]) -> list[str]:
    return sorted({*rows.column_names} & {*others.column_names} - {*labels})


def alike(rows: Dataset, others: Dataset, column: str) -> Dataset:
    """Of `rows`, however many, those whose text in `column` one of the `others` has; all where it holds no texts."""
    found = rows.data.column(column) if column in {*rows.column_names} & {*others.column_names} else None
    if found is None or not pa.types.is_string(found.type):
        return rows
    known = pa.array(others[column][:], pa.string())
    return rows.select(np.flatnonzero(pc.is_in(found, value_set=known).to_numpy()))


def _hashes(rows: Dataset, columns: list[str]) -> Iterator[int]:
    """Of each row's texts, for one process."""
    for batch in rows.select_columns(columns).iter(AT_ONCE):
        yield from (hash(str(row)) for row in zip(*(batch[column] for column in columns), strict=True))
