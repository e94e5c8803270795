"""How texts become tokens.

    train, cut = tokenize(data.train, data.task, tokenizer, source.max_length)
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, Features

from dynackd.errors import UserError
from dynackd.system.disk import on_disk
from dynackd.tasks.kind import Task

CHARACTERS_AT_ONCE = 2**21  # of texts that are tokenised together


@dataclass(frozen=True)
class TruncationReport:
    """How many texts (pairs count as one) were cut to `max_length` tokens, the longest before the cut, and what of the
    labels is lost with it."""

    split: str
    rows: int
    cut: int
    longest: int
    max_length: int
    lost: str = ""

    def __str__(self) -> str:
        if not self.cut:
            return f"of the {self.split} texts {self.lost}"
        cut = (f"{self.cut:,} of {self.rows:,} {self.split} texts were longer than {self.max_length} tokens and were "
               f"cut (longest {self.longest:,})")
        return f"{cut}; {self.lost}" if self.lost else cut


@dataclass(frozen=True)
class WindowsReport:
    """How many inputs of at most `max_length` tokens the rows of a split became; both are called as the kind says."""

    split: str
    rows: str
    inputs: str
    max_length: int
    lost: str = ""

    def __str__(self) -> str:
        became = f"{self.rows} of the {self.split} rows became {self.inputs} of at most {self.max_length:,} tokens"
        return became + (f"; {self.lost}" if self.lost else "")


@dataclass(frozen=True)
class UnknownReport:
    """How much of a split the tokenizer does not know."""

    split: str
    share: float

    def __str__(self) -> str:
        return (f"{self.share:.0%} of the tokens of the {self.split} texts are unknown to the tokenizer; is it the one "
                "of this model and language?")


MANY_UNKNOWN = 0.5  # share of the tokens from which on the user is told


def tokenize(dataset: Dataset, task: Task, tokenizer: Any, max_length: int, split: str = "training",
             max_positions: int | None = None) -> tuple[Dataset, TruncationReport | WindowsReport | None]:
    """The model's inputs, "labels" where rows have one, "length" (tokens); and a report when texts were cut or rows
    became several inputs, else None.

    Pairs lose tokens of the longer text first. No padding here: the kind's collator pads each batch.
    max_positions: the tokens that the model itself takes (512 for RoBERTa, whose table has 514 rows); by default the
    tokenizer's `model_max_length`. Raises UserError when `max_length` is beyond it or leaves no room for a text.
    """
    limit = max_positions or tokenizer.model_max_length
    if max_length > limit:
        raise UserError(f"data.max_length: {max_length} is more than the {limit} tokens that the model takes")
    least = task.kind.least_tokens(task, tokenizer)
    if max_length < least:
        raise UserError(f"data.max_length: {max_length} leaves no room for a text; it takes {least} or more")

    def features(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
        return task.kind.features(task, tokenizer, {**batch, "row": numbers}, max_length)

    tokens = encoded(dataset, features)
    return tokens, _truncation(dataset, tokens, task, tokenizer, max_length, split)


def encoded(dataset: Dataset, features_of: Callable[[dict[str, list[Any]], list[int]], dict[str, Any]],
            columns: Features | None = None) -> Dataset:
    """On disk, the features that a function makes of some rows and their numbers, from 0, and "length" (tokens).
    columns: their types, where these are known."""

    def encode(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
        features = features_of(batch, numbers)
        return {**features, "length": [len(ids) for ids in features["input_ids"]]}

    def write(path: Path) -> Dataset:
        # With a file of its own `map` keeps no row in memory.
        return dataset.map(encode, with_indices=True, batched=True, batch_size=rows_at_once(dataset), features=columns,
                           load_from_cache_file=False, remove_columns=dataset.column_names, cache_file_name=str(path))

    with quiet():
        return on_disk(write)


def unknown(tokens: Dataset, tokenizer: Any, split: str = "training") -> UnknownReport | None:
    """A report when most of what `tokenize` made of the texts is the unknown token, special ones aside, else None."""
    unknown_id = id_of_unknown(tokenizer)
    special = set(tokenizer.all_special_ids) - {unknown_id}
    if unknown_id is None or not len(tokens):
        return None
    known = missing = 0
    for chunk in tokens.data.column("input_ids").chunks:
        ids = chunk.flatten().to_numpy(zero_copy_only=False)
        words = ids[~np.isin(ids, list(special))]
        missing += int((words == unknown_id).sum())
        known += len(words)
    share = missing / max(1, known)
    return UnknownReport(split, share) if share > MANY_UNKNOWN else None


def id_of_unknown(tokenizer: Any) -> int | None:
    """The id that a tokenizer gives what it does not know, by its model where transformers was not told; None where
    it knows everything."""
    if tokenizer.unk_token_id is not None:
        return int(tokenizer.unk_token_id)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if (number := model.get("unk_id")) is not None:
        return int(number)
    return tokenizer.get_vocab().get(model.get("unk_token"))  # type: ignore[no-any-return]


def rows_at_once(dataset: Dataset) -> int:
    """How many rows are tokenised at once: fewer of long ones, of which each is first tokenised as a whole."""
    return max(1, min(1000, CHARACTERS_AT_ONCE * len(dataset.data) // max(1, dataset.data.nbytes)))


def _truncation(dataset: Dataset, tokens: Dataset, task: Task, tokenizer: Any, max_length: int,
                split: str) -> TruncationReport | WindowsReport | None:
    lost = task.kind.lost(tokens, max_length)
    if len(tokens) != len(dataset):  # what did not fit became more rows
        kind = task.kind
        before, after = f"{len(dataset):,} {kind.row_noun}", f"{len(tokens):,} {kind.input_noun}"
        return WindowsReport(split, before, after, max_length, lost)
    full = np.flatnonzero(np.asarray(tokens["length"][:]) == max_length)
    cut, longest = 0, 0
    for batch in dataset.select(full).iter(rows_at_once(dataset)):
        encoded = task.kind.encode(task, tokenizer, batch, truncation=False, verbose=False)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        cut += sum(length > max_length for length in lengths)
        longest = max(longest, *lengths)
    return TruncationReport(split, len(dataset), cut, longest, max_length, lost) if cut or lost else None


def told_full(tokens: Dataset, max_length: int) -> str:
    """How many inputs, of rows that become several, may be cut; "" for none."""
    full = sum(length == max_length for length in tokens["length"][:])
    return f"{full:,} of them fill these, and what was longer is cut" if full else ""


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of `datasets` inside; the user's own setting afterwards."""
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
