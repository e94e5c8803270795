"""What a teacher's own answers on labelled rows say against it: statistics on the outputs of one forward pass.

A teacher whose classes are numbered otherwise than the data's trains every sub-network towards the wrong answers, and
nothing after it would say so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import linear_sum_assignment

from dynackd.data.labels import LabelMap, flow

FEWEST_ROWS = 50  # of fewer, chance alone makes anything
FEWEST_OTHERS = 10  # rows of rarer classes, and queries: of fewer, chance misses all or misplaces many
MOST_SHOWN = 6
SAME = 2e-3  # of the largest output: by how much rows differ where a model is blind to them
CHANCE = 1e-5  # how seldom chance alone may look as bad
HARDLY = 0.2  # agreement with the data below which it is slight (Landis and Koch 1977, of Cohen's kappa): for each kind
# on a scale where chance is 0, or nearly
IMITATED = ("and all sub-networks would imitate that; most often its training was too short "
            "(training.num_train_epochs), or its learning_rate not the right one")
TOO_LITTLE = f"it has hardly learned the task, {IMITATED}"
WAY_OUT = "or task.check_teacher: false if it is meant so"


@dataclass(frozen=True)
class Doubt:
    """What speaks against a teacher; `certain` where it is worse than chance on enough rows."""

    told: str
    certain: bool


def doubt_of_sameness(outputs: Mapping[str, np.ndarray]) -> Doubt | None:
    """A teacher that says nearly the same of every row `[rows, ...]` has learned no more than how frequent labels are.
    """
    for array in outputs.values():
        rows = array.reshape(len(array), -1)
        if len(rows) < FEWEST_ROWS or rows.std(0).max() > SAME * np.abs(rows).max():
            return None
    return Doubt("the teacher gives nearly the same outputs for every row: its training has collapsed, most often by "
                 "too high a learning_rate, or it is not of this task", certain=False)


def doubt_of_one_answer(
    answers: np.ndarray, labels: np.ndarray, named: Callable[[Any], str], counted: str = "rows"
) -> Doubt | None:
    """A teacher that answers all rows `[rows, ...]` alike, where the labels `[rows, ...]` do not, has learned no more
    than what is most frequent. named: what an answer is called; counted: what the rows are."""
    if len(answers) < FEWEST_ROWS or (answers != answers[0]).any() or not (labels != labels[0]).any():
        return None
    told = (f"the teacher answers each of {len(answers)} {counted} with {named(answers[0])}: it has learned no more "
            f"than what is most frequent, {IMITATED}")
    return Doubt(told, certain=False)


def confusion_of(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """How many rows of each class of the data `[classes, classes]` the teacher calls what."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, answers), 1)
    return counts


def doubt_of_values(values: np.ndarray, labels: np.ndarray) -> Doubt | None:
    """A regression's teacher is in doubt when its values `[rows]` fall where the data's rise."""
    if len(labels) < 3 or np.ptp(values) == 0 or np.ptp(labels) == 0:
        return None
    result = stats.pearsonr(values, labels, alternative="less")
    if result.pvalue >= CHANCE:
        return None
    told = (f"the teacher's values fall where the data's rise (Pearson's correlation {result.statistic:.2f} on "
            f"{len(labels)} rows); name the teacher of this task, {WAY_OUT}")
    return Doubt(told, len(labels) >= FEWEST_ROWS)


def doubt_of_little(confusion: np.ndarray, counted: str = "rows") -> Doubt | None:
    """A teacher that is right hardly more often than its answers dealt out at random, by Cohen's kappa of a confusion
    `[data's class, teacher's class]`: where most rows are of one class, its accuracy does not show that."""
    found = _hardly_right(confusion[None])
    if found is None:
        return None
    right, rows, chance = found
    told = (f"the teacher gives {right} of {rows} {counted} the class that the data say ({right / rows:.0%}), where "
            f"its answers dealt out at random would do so of {chance:.0%}: {TOO_LITTLE}")
    return Doubt(told, certain=False)


def doubt_of_few_found(answers: np.ndarray, known: np.ndarray) -> Doubt | None:
    """A multi-label teacher whose decisions 0 or 1 `[rows, labels]` are right hardly more often than at random, each
    label's dealt out over its own rows."""
    found = _hardly_right(np.stack([confusion_of(*own, 2) for own in zip(known.T.astype(int), answers.T, strict=True)]))
    if found is None:
        return None
    right, decisions, chance = found
    told = (f"the teacher decides {right:,} of {decisions:,} times as the data say whether a row has a label "
            f"({right / decisions:.1%}), where its decisions dealt out at random would do so in {chance:.1%}: "
            f"{TOO_LITTLE}")
    return Doubt(told, certain=False)


def _hardly_right(confusions: np.ndarray) -> tuple[int, int, float] | None:
    """(right, all, share that chance makes right) of confusions `[tables, classes, classes]`, where Cohen's kappa of
    them together is slight; None where it is not, or the rows are few. Of rows of one class nothing can be told."""
    tables = confusions[np.count_nonzero(confusions.sum(2), axis=1) > 1]
    rows = tables.sum((1, 2))
    others = int((rows - tables.sum(2).max(1, initial=0)).sum())  # of another class than the most frequent
    if rows.max(initial=0) < FEWEST_ROWS or others < FEWEST_OTHERS:
        return None
    right, count = int(np.trace(tables, axis1=1, axis2=2).sum()), int(rows.sum())
    chance = float(((tables.sum(1) * tables.sum(2)).sum(1) / rows).sum())
    return None if right - chance >= HARDLY * (count - chance) else (right, count, chance / count)


def doubt_of_loose_values(values: np.ndarray, labels: np.ndarray) -> Doubt | None:
    """A regression's teacher whose values `[rows]` hardly rise with the data's."""
    if len(labels) < FEWEST_ROWS or np.ptp(values) == 0 or np.ptp(labels) == 0:
        return None
    correlation = stats.pearsonr(values, labels).statistic
    if correlation >= HARDLY:
        return None
    told = (f"the teacher's values hardly follow the data's (Pearson's correlation {correlation:.2f} on {len(labels)} "
            f"rows): {TOO_LITTLE}")
    return Doubt(told, certain=False)


def doubt_of_order(scores: np.ndarray, relevance: np.ndarray, group: np.ndarray) -> Doubt | None:
    """A reranker whose scores hardly put a query's passages in the order of their relevance, all `[pairs]`, by Somers'
    D: of two passages of a query that differ, how much more often the more relevant one is above than below. Scores of
    different queries are not compared. group: the query of each pair."""
    found = [rate for own in _members(group) if (rate := _in_order(scores[own], relevance[own])) is not None]
    if len(found) < 2 * FEWEST_OTHERS or (share := float(np.mean(found))) >= (1 + HARDLY) / 2:
        return None
    told = (f"the teacher puts the more relevant one of two passages first {share:.0%} of the times (mean over "
            f"{len(found)} queries), where chance would half of them: {TOO_LITTLE}")
    return Doubt(told, certain=False)


def _members(group: np.ndarray) -> list[np.ndarray]:
    """The places of each group's members."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _in_order(scores: np.ndarray, relevance: np.ndarray) -> float | None:
    """The share of a query's pairs of passages of different relevance that the scores put in its order, an equal score
    counting half; None without such pairs."""
    more = relevance[:, None] > relevance[None]
    ahead = np.sign(scores[:, None] - scores[None])[more]
    return float((1 + ahead.mean()) / 2) if ahead.size else None


def doubt_of_places(answers: np.ndarray, places: np.ndarray) -> Doubt | None:
    """A teacher whose answers `[windows, 2]`, first and last token, share hardly any tokens (F1) with the data's, in
    the windows that hold one."""
    held = places[:, 1] > 0
    if held.sum() < FEWEST_ROWS:
        return None
    (first, last), (start, end) = answers[held].T, places[held].T
    shared = np.clip(np.minimum(last, end) - np.maximum(first, start) + 1, 0, None)
    f1 = float((2 * shared / (np.clip(last - first + 1, 0, None) + end - start + 1)).mean())
    if f1 >= HARDLY:
        return None
    told = (f"the teacher's answers share {f1:.0%} of their tokens (F1) with the data's, in the {held.sum()} windows "
            f"that hold one: {TOO_LITTLE}")
    return Doubt(told, certain=False)


def doubt_of_classes(confusion: np.ndarray, labels: LabelMap, counted: str = "rows") -> Doubt | None:
    """What a confusion `[data's class, teacher's class]` says against the teacher.

    Certain: it is right less often than the same answers dealt out at random would be, or, on the classes that another
    numbering of its outputs would explain better, less often than a guess. Uncertain: only the latter, without being
    worse than a guess. Binomial tests at 1e-5. counted: what the confusion counts.
    """
    rows, right = int(confusion.sum()), int(np.trace(confusion))
    chance = float(confusion.sum(0) @ confusion.sum(1)) / rows**2
    below = stats.binomtest(right, rows, chance, "less").pvalue < CHANCE
    better = _better_numbering(confusion)
    if not below and not better:
        return None
    moved = list(better)
    own = int(confusion[moved, moved].sum())
    guess = 1 / len(confusion)
    worse = bool(moved) and stats.binomtest(own, int(confusion[moved].sum()), guess, "less").pvalue < CHANCE
    said = f"; its answers fit task.labels: {flow(_map(confusion, labels, better))}" if better else ""
    told = (f"the teacher gives {right} of {rows} {counted} the class that the data say ({right / rows:.0%}; at random "
            f"{chance:.0%}): {_shown(confusion, labels)}{said}; set task.labels, name another teacher, {WAY_OUT}")
    return Doubt(told, rows >= FEWEST_ROWS and (below or worse))


def _better_numbering(confusion: np.ndarray) -> dict[int, int]:
    """Data's class -> teacher's, for the classes with rows that another numbering gives another, if it fits the
    answers better than chance could make it; else empty."""
    ours, theirs = linear_sum_assignment(confusion, maximize=True)
    moved = {int(i): int(j) for i, j in zip(ours, theirs, strict=True) if i != j and confusion[i].any()}
    after = sum(int(confusion[i, j]) for i, j in moved.items())
    before = sum(int(confusion[i, i]) for i in moved)
    if after <= before or stats.binomtest(after, after + before, 0.5, "greater").pvalue >= CHANCE:
        return {}
    return moved


def _map(confusion: np.ndarray, labels: LabelMap, better: Mapping[int, int]) -> dict[str, int]:
    return {written: better.get(i, i) for i, written in enumerate(labels.written) if confusion[i].any()}


def _shown(confusion: np.ndarray, labels: LabelMap) -> str:
    """What the teacher calls the rows of each class of the data, the most frequent first."""
    lines = [
        f"'{labels.written[i]}' is called "
        + ", ".join(f"{labels.names[j]} {row[j]} times" for j in np.argsort(-row, kind="stable")[:3] if row[j])
        for i, row in enumerate(confusion) if row.any()
    ]
    return "; ".join(lines[:MOST_SHOWN]) + ("; ..." if len(lines) > MOST_SHOWN else "")
