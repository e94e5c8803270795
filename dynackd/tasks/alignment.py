"""Which words two tokenizers have in common.

A word is a smallest run of characters of a text through which neither of the two cuts: pieces that share a character
belong to one word, and so do all that are linked through others. Its ends are ends of pieces on both sides. So a word
may be a part of what people call one ("play" and "ing", where both cut there), or several ("don't"). Characters that
one side drops, such as spaces and accents, neither link nor part anything; spaces that one side counts to a piece
(byte-level ones, by `trim_offsets`) do not matter either.

- A word of which one side lost a piece to the cut at `data.max_length` is none, nor is one that a side does not read.
- Special tokens stand before, between and behind the texts. Where both sides have as many at such a place, each is a
  word with its counterpart (`[CLS]` with `<s>`); where they have not, all of the place are one word (`[SEP]` with
  `</s></s>`); where one has none, the other's are no words. They are not left out, since a classifier reads the first.

Two equal encodings without pieces of parts of a character have each token as a word, and the relations of words are
those of tokens. Offsets are needed, so the tokenizers must be fast ones, as all that dynackd loads are.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from tokenizers import Encoding

from dynackd.system.disk import on_disk
from dynackd.tasks.common_words import NO_WORD, NUMBERS, THEIRS
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.tokens import quiet, rows_at_once

# What tells tokenizers of one vocabulary apart: case, accents, composed letters, spaces, digits, apostrophes.
PROBE = "CamelCase don't na\u00efve e\u0301t\u00e9 \ufb01n \u0130st  two\tTab\n12,345.6 \u5317\u4eac \U0001f600 ##x "
PROBED_WORDS = 64  # of the vocabulary, as they stand and in capitals


def read_alike(one: Any, other: Any) -> bool:
    """Whether two tokenizers give the same inputs."""
    if (one.get_vocab(), one.model_input_names) != (other.get_vocab(), other.model_input_names):
        return False
    words = sorted(one.get_vocab())
    some = " ".join(words[:: max(1, len(words) // PROBED_WORDS)])
    probe = PROBE + some + some.upper()
    first, second = (dict(tokenizer(probe, probe, verbose=False)) for tokenizer in (one, other))
    return first == second


def read_by_both(
    dataset: Dataset, task: Task, own: Any, theirs: Any, max_length: int, their_length: int
) -> Dataset:
    """The columns of `common_words.py` for what `tokenize` makes of the rows, input by input. own, theirs: tokenizers,
    which cut at so many tokens."""
    kind = task.kind

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        ours, other = (
            kind.encode(task, tokenizer, batch, truncation=True, max_length=length)
            for tokenizer, length in ((own, max_length), (theirs, their_length))
        )
        numbers = common_words(kind, ours.encodings, other.encodings)
        columns = {name: other[name] for name in theirs.model_input_names}
        return {NUMBERS: numbers[0], **{THEIRS + name: value for name, value in columns.items()},
                THEIRS + NUMBERS: numbers[1]}

    def write(path: Path) -> Dataset:
        return dataset.map(encode, batched=True, batch_size=rows_at_once(dataset), load_from_cache_file=False,
                           remove_columns=dataset.column_names, cache_file_name=str(path))

    with quiet():
        return on_disk(write)


class _Pieces(NamedTuple):
    """Tokens of several inputs, [tokens] each: the input, the text in it (-1, -2, ... for the places of special
    tokens), and where in the text they begin and end."""

    input: np.ndarray
    text: np.ndarray
    start: np.ndarray
    end: np.ndarray


def common_words(
    kind: Kind, own: Sequence[Encoding], theirs: Sequence[Encoding]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each input, as two tokenizers read it, the word that each token is a piece of, or -1: both sides'. Words are
    numbered from 0 in the order of `own`."""
    sides = _with_special([_kept(kind, own), _kept(kind, theirs)])
    lost = [_lost(kind, own), _lost(kind, theirs)]
    sizes = [len(part.input) for part in (*sides, *lost)]
    every = _Pieces(*(np.concatenate(column) for column in zip(*sides, *lost, strict=True)))
    words = _words(every)
    is_word, part = words != NO_WORD, np.repeat(np.arange(4), sizes)
    has = [np.bincount(words[is_word & (part == n)], minlength=words.max() + 1) > 0 for n in range(4)]
    shared = has[0] & has[1] & ~has[2] & ~has[3]
    # Numbers in the order of the words' first own pieces, anew in each input.
    found, first = np.unique(words[: sizes[0]], return_index=True)
    known = (found != NO_WORD) & shared[found]
    found, first = found[known], first[known]
    found = found[np.argsort(first)]
    inputs = every.input[np.sort(first)]
    numbers = np.full(len(shared) + 1, NO_WORD)  # the last one is for NO_WORD itself
    numbers[found] = np.arange(len(found)) - np.searchsorted(inputs, inputs)
    ends = [np.cumsum([len(encoding) for encoding in side])[:-1] for side in (own, theirs)]
    flat = numbers[words]
    return np.split(flat[: sizes[0]], ends[0]), np.split(flat[sizes[0] : sum(sizes[:2])], ends[1])


def _words(pieces: _Pieces) -> np.ndarray:
    """The word of each piece, [pieces]: those linked by characters that they share. -1 for a piece without any."""
    words = np.full(len(pieces.input), NO_WORD)
    real = np.flatnonzero(pieces.end > pieces.start)
    if not len(real):
        return words
    text = pieces.text[real] - pieces.text.min()
    _, texts = np.unique(pieces.input[real] * (text.max() + 1) + text, return_inverse=True)
    base = texts * (pieces.end.max() + 1)  # every text has a stretch of one long line for itself
    start, end = base + pieces.start[real], base + pieces.end[real]
    order = np.argsort(start, kind="stable")
    reached = np.maximum.accumulate(end[order])
    apart = start[order][1:] >= reached[:-1]
    words[real[order]] = np.concatenate([[0], np.cumsum(apart)])
    return words


def _kept(kind: Kind, encodings: Sequence[Encoding]) -> tuple[_Pieces, np.ndarray]:
    """All tokens, and which of them are special."""
    lengths = np.array([len(encoding) for encoding in encodings])
    inputs = np.repeat(np.arange(len(encodings)), lengths)
    offsets = np.array(list(chain.from_iterable(e.offsets for e in encodings)), dtype=np.int64).reshape(-1, 2)
    texts = _numbers(chain.from_iterable(kind.texts_of(e) for e in encodings))
    sequences = _numbers(chain.from_iterable(e.sequence_ids for e in encodings))
    special = sequences == NO_WORD
    # A special token's place is behind which text it stands, and its offset how many such stand there before it.
    line = np.arange(len(inputs))
    at_first = line == np.repeat(np.cumsum(lengths) - lengths, lengths)
    most = sequences.max(initial=0) + 2
    behind = np.maximum.accumulate(inputs * most + sequences + 1) - inputs * most
    before = line - np.maximum.accumulate(np.where(special, np.where(at_first, line, 0), line + 1))
    place = np.where(special, -1 - behind, texts)
    start, end = (np.where(special, before + n, offsets[:, n]) for n in (0, 1))
    return _Pieces(inputs, place, start, end), special


def _numbers(values: Iterator[int | None]) -> np.ndarray:
    return np.array([NO_WORD if value is None else value for value in values], dtype=np.int64)


def _with_special(sides: Sequence[tuple[_Pieces, np.ndarray]]) -> list[_Pieces]:
    """The tokens of both sides, the special ones of a place as one where there are not as many on both."""
    most = max(1, *(int(-pieces.text.min(initial=0)) for pieces, _ in sides))
    inputs = max(int(pieces.input.max(initial=-1)) for pieces, _ in sides) + 1
    keys = [np.where(special, pieces.input * most - pieces.text - 1, -1) for pieces, special in sides]
    counts = [np.bincount(key[key >= 0], minlength=inputs * most) for key in keys]
    unlike = np.append(counts[0] != counts[1], False)  # the last one is for tokens that are not special
    return [
        pieces._replace(start=np.where(unlike[key], 0, pieces.start), end=np.where(unlike[key], 1, pieces.end))
        for (pieces, _), key in zip(sides, keys, strict=True)
    ]


def _lost(kind: Kind, encodings: Sequence[Encoding]) -> _Pieces:
    """The tokens that a cut left out. tokenizers keeps them in further parts, each with some of one text or of both:
    what was left out of one, beside what was kept or left out of the other."""
    found = [(number, *piece) for number, encoding in enumerate(encodings) if encoding.overflowing
             for piece in _left_out(kind, encoding)]
    return _Pieces(*np.array(found, dtype=np.int64).reshape(-1, 4).T)


def _left_out(kind: Kind, encoding: Encoding) -> set[tuple[int, int, int]]:
    kept, lost = _by_sequence(kind, encoding), set[tuple[int, int, int]]()
    for part in encoding.overflowing:
        for sequence, pieces in _by_sequence(kind, part).items():
            if pieces != kept.get(sequence):
                lost.update(pieces)
    return lost


def _by_sequence(kind: Kind, encoding: Encoding) -> Mapping[int, list[tuple[int, int, int]]]:
    """(text, start, end) of the tokens of each of the tokenizer's sequences, of which a pair has two."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for sequence, text, (start, end) in zip(
        encoding.sequence_ids, kind.texts_of(encoding), encoding.offsets, strict=True
    ):
        if sequence is not None and text is not None:
            found.setdefault(sequence, []).append((text, start, end))
    return found
