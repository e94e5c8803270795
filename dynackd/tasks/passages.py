"""The rows of a reranker: a query and its passages, however a file writes them.

Whatever stands in the file, a row becomes {"query": text, "passages": texts} with a relevance for each passage.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from dynackd.data.rows import Column, Rows, read_number
from dynackd.errors import UserError
from dynackd.system.disk import written
from dynackd.system.settings import Settings
from dynackd.tasks.guessing import CERTAIN, IF_ASKED, LIKELY, Guess, Sample, Seen
from dynackd.tasks.kind import Task

QUERY, PASSAGES = "query", "passages"
TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema([(QUERY, pa.string()), (PASSAGES, TEXTS)])
QUERIES_AT_ONCE = 256
QUERY_NAMES = ("query", "question", "anchor")  # in files of which nobody says what they are
PASSAGE_NAMES = ("passage", "document", "doc")
Name = Annotated[str, Field(min_length=1)]
LAYOUTS = ("passages", "passage", "positive")  # the keys of which a recipe has one
WAYS = "passages (a list a row), passage (one a row) or positive and negative"
Query = tuple[str, Sequence[str], Sequence[float] | None]  # with its passages, and how relevant each is


class RankingTask(Settings):
    """Queries and passages, which are put in order."""

    kind: Literal["ranking"] = Field(description="How relevant a passage is to a query")
    query: Name = Field(default=QUERY, description="The column of the query")
    passages: Name | None = Field(default=None, description="The column with the list of a query's passages")
    passage: Name | None = Field(
        default=None, description="The column of one passage; rows of equal queries belong together"
    )
    relevance: Name | None = Field(
        default=None,
        description="The column of the passages' relevance, 0 or more, as many as passages; without it there is a "
        "teacher to learn from alone",
    )
    positive: Name | None = Field(default=None, description="The column of the relevant passages, a text or a list")
    negative: Name | None = Field(default=None, description="The column of the others, a text or a list")
    metrics: str | list[Literal["ndcg@10", "mrr@10", "map"]] | None = Field(
        default=None, description="What is measured, the main one first; by default ndcg@10, mrr@10, map"
    )
    check_teacher: bool = Field(
        default=True,
        description="Whether the teacher is tried on rows: an error if its scores fall where the relevance rises, a "
        "warning if they hardly rise",
    )


@dataclass(frozen=True)
class Ranked(Task):
    """`written` says in which columns of a file queries and passages are; here they are always the same two."""

    written: RankingTask | None = None

    @property
    def columns(self) -> RankingTask:
        assert self.written is not None
        return self.written


def check_columns(columns: RankingTask) -> None:
    """Refuse (UserError) a recipe's `task` that names no passages, or in two ways, or a column twice."""
    named = [key for key in LAYOUTS if getattr(columns, key) is not None]
    if len(named) != 1 or (columns.negative is not None) != (named == ["positive"]):
        got = [key for key in (*LAYOUTS, "negative") if getattr(columns, key) is not None]
        raise UserError(f"task: name the columns of the passages in one way, {WAYS}; got {' and '.join(got) or 'none'}")
    if named == ["positive"] and columns.relevance is not None:
        raise UserError("task.relevance: passages that are positive or negative have one already; remove it")
    keys = (QUERY, *LAYOUTS, "relevance", "negative")
    every = [getattr(columns, key) for key in keys if getattr(columns, key) is not None]
    if len(set(every)) < len(every):
        raise UserError(f"task: query, passages and relevance must be different columns, got {', '.join(every)}")


def guesses(kind: str, sample: Sample) -> list[Guess]:
    """How a file's rows could be queries with passages: by a column of lists of texts, one called positive and one
    negative, or a passage a row whose query comes again."""
    if len(sample.text) not in (0, 2, 3) or len(sample.label) > 1:
        return []
    if sample.text:
        named = sample.text
    else:
        queries = [own.name for own in sample.columns.values() if own.all_are(str) and own.name.lower() in QUERY_NAMES]
        lists = [own.name for own in sample.others if own.parts.is_text]
        both = [name for name in ("positive", "negative") if name in sample.columns]
        passage = [name for name in sample.columns if name.lower() in PASSAGE_NAMES]
        others = both if len(both) == 2 else lists or passage
        if len(queries) != 1 or len(others) != (2 if others is both else 1):
            return []
        named = (queries[0], *others)
    query, *rest = (sample[name] for name in named)
    if len(rest) == 2:
        task = {"positive": rest[0].name, "negative": rest[1].name}
        return [] if sample.label else [Guess({"kind": kind, "query": query.name, **task}, named, (), "good and bad")]
    numbers = [own for own in ([sample[name] for name in sample.label] or sample.others) if _rates(own, rest[0])]
    if len(numbers) > 1 or (sample.label and not numbers):
        return []
    label = tuple(own.name for own in numbers)
    key = "passages" if rest[0].lengths else "passage"
    task = {"kind": kind, "query": query.name, key: rest[0].name}
    task |= {"relevance": label[0]} if label else {}
    again = bool(rest[0].lengths) or 2 * len(query.distinct) <= len(query.values)
    if not again and not sample.told:
        return []
    strength = IF_ASKED if not label else CERTAIN if rest[0].lengths else LIKELY
    return [Guess(task, named, label, "queries with passages", strength)]


def _rates(numbers: Seen, passages: Seen) -> bool:
    """Whether a column says how relevant passages are, each of them."""
    if passages.lengths:
        return numbers.lengths == passages.lengths and bool(numbers.parts.numbers)
    return bool(numbers.numbers) and min(numbers.numbers) >= 0 and not numbers.names_rows


def columns_of(task: Ranked) -> list[Column]:
    """What is read of a file."""
    own = task.columns
    columns = [Column(own.query, "query", _text)]
    if own.passages:
        columns.append(Column(own.passages, "list of passages", _texts, TEXTS, (list,)))
        if own.relevance:
            columns.append(Column(own.relevance, "list of numbers", _numbers, pa.list_(pa.float64()), (list,)))
    elif own.passage:
        columns.append(Column(own.passage, "passage", _text))
        if own.relevance:
            columns.append(Column(own.relevance, "relevance", _relevance, pa.float64()))
    else:
        for name in (own.positive, own.negative):
            columns.append(Column(name or "", "passage", _texts, TEXTS, (list, str, int, float), may_lack=True))
    return columns


def gathered(task: Ranked, rows: Rows) -> Rows:
    """A query with its passages a row; the labels are lists of numbers, none where the passages have no relevance.
    Raises UserError for what does not fit together."""
    labels: list[Sequence[float]] = []

    def batches() -> Iterator[pa.RecordBatch]:
        block: list[Query] = []
        for query in _queries(task, rows):
            block.append(query)
            if query[2] is not None:
                labels.append(tuple(query[2]))
            if len(block) == QUERIES_AT_ONCE:
                yield _batch(block)
                block = []
        if block:
            yield _batch(block)

    texts = written(batches(), SCHEMA)
    return dataclasses.replace(rows, texts=texts, labels=np.fromiter(labels, object, len(labels)))


def _batch(block: Sequence[Query]) -> pa.RecordBatch:
    queries, passages, _ = zip(*block, strict=True)
    return pa.record_batch([pa.array(queries, pa.string()), pa.array(passages, TEXTS)], schema=SCHEMA)


def _queries(task: Ranked, rows: Rows) -> Iterator[Query]:
    return _of_flat_rows(task.columns, rows) if task.columns.passage else _of_grouped_rows(task.columns, rows)


def _of_grouped_rows(own: RankingTask, rows: Rows) -> Iterator[Query]:
    """The queries in the order in which they first come, those of several rows, as files of triplets have them, with
    the passages of all: else a query that is held out would be trained on, too."""
    for query, some, numbers in _by_query(own, rows):
        read = [_of_row(own, row) for row in some.to_pylist()]
        for number, (passages, relevance) in zip(numbers, read, strict=True):
            where = f"{rows.where}, data row {number + 1}"
            if not passages:
                raise UserError(f"{where}: the query has no passage; drop the row")
            if relevance is not None and len(relevance) != len(passages):
                raise UserError(f"{where}: {len(passages)} passages in column '{own.passages}', but {len(relevance)} "
                                f"numbers in column '{own.relevance}'; each passage needs one")
        yield query, *(read[0] if len(read) == 1 else _together(read))


def _together(read: Sequence[tuple[list[str], list[float] | None]]) -> tuple[list[str], list[float] | None]:
    """The passages of several rows, each once, with the largest relevance that one gives it."""
    found: dict[str, float] = {}
    for passages, relevance in read:
        for passage, own in zip(passages, relevance or [0.0] * len(passages), strict=True):
            found[passage] = max(own, found.get(passage, own))
    return list(found), None if read[0][1] is None else list(found.values())


def _of_row(own: RankingTask, row: Mapping[str, Any]) -> tuple[list[str], list[float] | None]:
    if own.passages:
        return row[own.passages], row[own.relevance] if own.relevance else None
    good, bad = row[own.positive or ""], row[own.negative or ""]
    return good + bad, [1.0] * len(good) + [0.0] * len(bad)


def _of_flat_rows(own: RankingTask, rows: Rows) -> Iterator[Query]:
    """The queries in the order in which they first come."""
    for query, some, _ in _by_query(own, rows):
        relevance = some[own.relevance].to_pylist() if own.relevance else None
        yield query, some[own.passage or ""].to_pylist(), relevance


def _by_query(own: RankingTask, rows: Rows) -> Iterator[tuple[str, pa.Table, np.ndarray]]:
    """Each query, in the order in which they first come, with its rows and their places."""
    numbers: dict[str, int] = {}
    of_query = np.fromiter((numbers.setdefault(query, len(numbers)) for query in rows.texts[own.query]), int)
    order = np.argsort(of_query, kind="stable")
    ends = np.cumsum(np.bincount(of_query))
    # Arrow's own take: a data set that is indexed row by row is slow. It copies, which rows in order need not.
    table = rows.texts.data.table
    if len(numbers) < len(order):
        table = table.take(pa.array(order))
    for query, begin, end in zip(numbers, [0, *ends[:-1]], ends, strict=True):
        yield query, table.slice(begin, end - begin), order[begin:end]


# --- values; a ValueError says what is wrong with one -----------------------------------------------------------------


def _text(value: Any) -> str:
    text = str(value).strip()
    if not text:
        raise ValueError("the text is empty")
    return text


def _texts(value: Any) -> list[str]:
    """Of a list or one text; no value is none."""
    some = value if isinstance(value, list) else [] if value is None or value != value else [value]
    for place, one in enumerate(some, start=1):
        if not isinstance(one, str | int | float) or not str(one).strip():
            raise ValueError(f"expected texts, but passage {place} is {one!r}")
        str(one).encode()
    return [str(one).strip() for one in some]


def _relevance(value: Any) -> float:
    number = read_number(value)
    if number < 0:
        raise ValueError(f"a relevance must be 0 or more, got {value!r}")
    return number


def _numbers(value: list[Any]) -> list[float]:
    for place, one in enumerate(value, start=1):
        if not isinstance(one, int | float | str):
            raise ValueError(f"expected numbers, but that of passage {place} is {one!r}")
    return [_relevance(one) for one in value]
