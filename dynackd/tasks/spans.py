"""Answers out of contexts: places in a text, the tokens that hold them, and what the two scores of each token choose.

Characters are counted from 0 as Python counts them, an end is behind the last one. A window is a question with a part
of its context that the model takes at once; `starts` and `ends` [tokens] are the characters of each of its tokens in
the context, OUTSIDE for those of the question, special ones and padding.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OUTSIDE = -1
MOST_TOKENS = 30  # of an answer

# --- the answers of the data -----------------------------------------------------------------------------------------


def located(context: str, text: str, start: int) -> tuple[int, int] | None:
    """(start, end) of an answer in its context, without blanks around it; None where it is not there.

    A start that lies in blanks before the answer is put right; one that is off by letters is a fault of the data.
    """
    wanted = text.strip()
    if not wanted or not 0 <= start < len(context):
        return None
    first = start + len(context[start:]) - len(context[start:].lstrip())
    return (first, first + len(wanted)) if context.startswith(wanted, first) else None


def tokens_of(place: tuple[int, int], starts: np.ndarray, ends: np.ndarray) -> tuple[int, int] | None:
    """(first, last) of the tokens of a window that hold the characters of an answer; None where they do not."""
    inside = np.flatnonzero(starts != OUTSIDE)
    if not len(inside) or place[0] < starts[inside[0]] or place[1] > ends[inside[-1]]:
        return None
    first = int(np.searchsorted(ends[inside], place[0], side="right"))
    last = int(np.searchsorted(starts[inside], place[1], side="left")) - 1
    return (int(inside[first]), int(inside[last])) if first <= last else None


# --- what a model chooses --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spans:
    """The best span of each window: its `first` and `last` token and its `score`, the sum of the two logits, -inf where
    the window holds nothing of a context; `nothing`, the score of no answer, which is that of the first token."""

    first: np.ndarray
    last: np.ndarray
    score: np.ndarray
    nothing: np.ndarray


def best_spans(start_logits: np.ndarray, end_logits: np.ndarray, inside: np.ndarray, most: int = MOST_TOKENS) -> Spans:
    """Of all spans of at most `most` tokens, no end before its start, each window's best; all arrays [windows, tokens],
    `inside` says which tokens are of the context."""
    begin, end = (np.where(inside, some.astype(np.float64), -np.inf) for some in (start_logits, end_logits))
    score, first = np.full(len(begin), -np.inf), np.zeros(len(begin), int)
    last, windows = first.copy(), np.arange(len(begin))
    for more in range(min(most, begin.shape[1])):
        sums = begin[:, : begin.shape[1] - more] + end[:, more:]
        place = sums.argmax(1)
        better = sums[windows, place] > score
        score[better], first[better], last[better] = sums[windows, place][better], place[better], place[better] + more
    return Spans(first, last, score, start_logits[:, 0].astype(np.float64) + end_logits[:, 0])


def best_windows(spans: Spans, rows: np.ndarray) -> dict[int, int]:
    """The window of each row in which its best span lies; rows [windows]: of which row each is."""
    order = np.lexsort((-spans.score, rows))
    found, places = np.unique(rows[order], return_index=True)
    return dict(zip(found.tolist(), order[places].tolist(), strict=True))


def least_nothing(spans: Spans, rows: np.ndarray) -> dict[int, float]:
    """The score of no answer of each row: the least of its windows', any of which may hold the answer."""
    order = np.lexsort((spans.nothing, rows))
    found, places = np.unique(rows[order], return_index=True)
    return dict(zip(found.tolist(), spans.nothing[order][places].tolist(), strict=True))


def padded(flat: np.ndarray, lengths: np.ndarray, filling: float) -> np.ndarray:
    """Tokens of windows one behind the other [tokens] as [windows, longest], filled up on the right."""
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]
    full = np.full(real.shape, filling, flat.dtype)
    full[real] = flat
    return full


# --- how right it is, as SQuAD's evaluate-v2.0.py counts it ----------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Without case, punctuation, articles and surplus blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def gold_of(answers: Sequence[str]) -> list[str]:
    """The answers that count; [""] for a question that has none."""
    return [text for text in answers if normalised(text)] or [""]


def exact(text: str, gold: str) -> float:
    return float(normalised(text) == normalised(gold))


def overlap(text: str, gold: str) -> float:
    """F1 of the words; of nothing at all it is 1 where both are nothing."""
    ours, theirs = normalised(text).split(), normalised(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def best_of(measure: str, text: str, answers: Sequence[str]) -> float:
    """The best that a text reaches against any of a question's answers."""
    return max(MEASURES[measure](text, gold) for gold in gold_of(answers))


MEASURES = {"f1": overlap, "exact_match": exact}
