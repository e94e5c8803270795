"""Ranking: a reranker gives a query with a passage a score, by which the passages of a query are put in order.

A passage is read together with its query, and each such pair is one input. The score is learned as the logit of the
relevance, so that its sigmoid is a probability, as sentence-transformers' CrossEncoder has it.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import rankdata
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score
from torch import Tensor

from dynackd.data.labels import LabelMap
from dynackd.data.model_labels import ModelLabels
from dynackd.data.rows import Column, Rows
from dynackd.errors import UserError, listed
from dynackd.system.settings import checked
from dynackd.tasks.doubts import Doubt, doubt_of_order, doubt_of_values
from dynackd.tasks.guessing import Guess, Sample
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.losses import binary_cross_entropy, squared_error, wide
from dynackd.tasks.parts import Arrays, Labels, Tensors
from dynackd.tasks.passages import PASSAGES, QUERY, Ranked, RankingTask, check_columns, columns_of, gathered, guesses
from dynackd.tasks.rank_clients import EXAMPLE, RANK_CLIENTS
from dynackd.tasks.tokens import told_full

GROUP = "of_query"  # of an input: the number of its query, from 0
AT = 10  # how many places count
# Where sentence-transformers keeps which function CrossEncoder.predict applies to a score; a sigmoid by default.
CLIENT_KEY, CLIENT_FILE, FUNCTION = "sentence_transformers", "config_sentence_transformers.json", "activation_fn"


class Ranking(Kind):
    """A row is a query with passages and the relevance of each; the output is `logits` [pairs, 1], the scores. A row's
    label is a list of the relevances, 0 to 1."""

    name = "ranking"
    names_outputs = False
    noun = "reranker"
    row_noun, input_noun = "queries", "pairs"
    rows_needed = (
        "a query and a list of passages, or one passage, with how relevant each is, or a positive and a negative one"
    )
    section = RankingTask
    task_keys = tuple(RankingTask.model_fields)
    metrics = default_metrics = (f"ndcg@{AT}", f"mrr@{AT}", "map")
    refused_training: Mapping[str, str] = {"label_smoothing_factor": "a relevance is a number"}
    of_lines = False
    label_columns = ("labels", GROUP)
    stock_labels: tuple[str, ...] = ()  # transformers' own loss for one output is a squared error
    together = GROUP
    pipeline_tag = "text-ranking"
    example, example_pair = EXAMPLE
    clients = RANK_CLIENTS

    # ------------------------------------------------------------------------------------------- a recipe's `task`

    def task(self, value: Mapping[str, Any]) -> Task:
        columns = checked(RankingTask, {key: own for key, own in value.items() if key != "labels"}, "task")
        check_columns(columns)
        return Ranked("custom", (QUERY, PASSAGES), columns.relevance or "", self, self.chosen_metrics(value),
                      written=columns)

    def guess(self, sample: Sample) -> list[Guess]:
        return guesses(self.name, sample)

    def can_finetune(self, task: Task) -> bool:
        columns = _ranked(task).columns
        return bool(columns.relevance or columns.positive)

    # ---------------------------------------------------------------------------------------------------- the rows

    def columns(self, task: Task) -> list[Column]:
        return columns_of(_ranked(task))

    def without_labels(self, task: Task) -> Task:
        own = _ranked(task)
        return dataclasses.replace(own, written=own.columns.model_copy(update={"relevance": None}))

    def placeholders(self, task: Task, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        return {"label": [[0.0] * len(some) for some in batch[PASSAGES]]} if self.can_finetune(task) else {}

    def gathered(self, task: Task, rows: Rows) -> Rows:
        return gathered(_ranked(task), rows)

    def labels(self, task: Task, raw: Mapping[str, Rows], model: ModelLabels | None) -> Labels:
        """Relevance above 1 is divided by the largest of the first rows, which changes no metric."""
        if not self.can_finetune(task):
            return Labels({split: [] for split in raw})
        largest = max(1.0, max(chain.from_iterable(next(iter(raw.values())).labels)))
        notes = [f"relevance is divided by {largest:g}, the largest"] if largest > 1 else []
        for split, rows in raw.items():
            idle = sum(len(set(own)) < 2 for own in rows.labels)
            if idle == len(rows) and split != "train":
                raise UserError(f"{rows.where}: no query has passages of different relevance, so that no order is "
                                f"better than another")
            if idle and split != "train":
                notes.append(f"{idle:,} of {len(rows):,} {split} queries have passages of one relevance alone; the "
                             f"metrics leave them out")
        values = {split: [[one / largest for one in own] for own in rows.labels] for split, rows in raw.items()}
        return Labels(values, None, "; ".join(notes))

    # --------------------------------------------------------------------------------------------------- the model

    def settled(self, config: Any, directory: Path) -> Mapping[str, Any]:
        """What CrossEncoder makes of the scores, where a model that it saved says so in a file of its own."""
        file = directory / CLIENT_FILE
        try:
            function = json.loads(file.read_text(encoding="utf-8")).get(FUNCTION) if file.is_file() else None
        except (OSError, ValueError, AttributeError):
            function = None  # somebody else's file; the scores do not depend on it
        known = getattr(config, CLIENT_KEY, None)
        return {CLIENT_KEY: {FUNCTION: function}} if isinstance(function, str) and not known else {}

    def check_model(self, task: Task, model: ModelLabels | None) -> None:
        if model is None:
            return
        if model.problem_type not in (None, "regression"):
            raise UserError(f"task '{task.name}' is a ranking, but the model's problem_type is {model.problem_type}")
        if len(model.names) != 1:
            raise UserError(f"task '{task.name}' is a ranking and needs a model with 1 output, the score, but the "
                            f"model has {len(model.names)} ({listed(model.names)})")

    def made(self, architecture: str, config: Any) -> bool:
        """Only one that says so; any other with one output passes for a regression, which gives the same."""
        return False

    # ------------------------------------------------------------------------------------------------ rows as inputs

    def encode(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], **options: Any) -> Any:
        """A pair for each passage. Of one that is too long the passage is cut, and the query where it is longer than
        half of what there is: so do CrossEncoder and the tokenizer.json that an export writes."""
        queries = [query for query, some in zip(batch[QUERY], batch[PASSAGES], strict=True) for _ in some]
        return tokenizer(queries, list(chain.from_iterable(batch[PASSAGES])), **options)

    def features(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], max_length: int) -> dict[str, Any]:
        encoded = self.encode(task, tokenizer, batch, truncation=True, max_length=max_length)
        rows = [row for row, some in zip(batch["row"], batch[PASSAGES], strict=True) for _ in some]
        labels = {"labels": list(chain.from_iterable(batch["label"]))} if "label" in batch else {}
        return {**encoded, GROUP: rows, **labels}

    def lost(self, tokens: Dataset, max_length: int) -> str:
        return told_full(tokens, max_length)

    # ------------------------------------------------------------------------------------------------------ learning

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """Cross entropy of the score's sigmoid with the relevance."""
        return binary_cross_entropy(outputs["logits"].reshape(-1), batch["labels"])

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """The squared error of the scores, and T² times KL(teacher ‖ student) of the softmax of scores / T over the
        passages of a query that are in the batch; a mean over pairs, each with the divergence of its query."""
        ours, theirs = outputs["logits"], teacher["logits"]
        divergence = query_divergence(ours.reshape(-1), theirs.reshape(-1), batch[GROUP], temperature)
        return squared_error(ours, theirs.reshape(-1)) + temperature**2 * divergence

    # ------------------------------------------------------------------------------------------------------- judging

    def own_labels(self, outputs: Tensors) -> dict[str, Tensor]:
        """Relevant where the score is above 0; at the sigmoid of the score itself the loss has no slope."""
        return {"labels": (outputs["logits"].reshape(-1) > 0).float()}

    def answers(self, outputs: Arrays) -> np.ndarray:
        return outputs["logits"].reshape(-1).astype(np.float64)

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        if "labels" not in labels:
            return {}
        found = rank_metrics(self.answers(outputs), labels["labels"], labels[GROUP])
        return {name: found[name] for name in task.metrics}

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`rmse`, the root of the mean squared difference of the scores."""
        return {"rmse": float(np.sqrt(np.square(self.answers(outputs) - self.answers(teacher)).mean()))}

    def compared(self, outputs: Arrays, teacher: Arrays, labels: Arrays) -> dict[str, float]:
        """And `spearman`, the rank correlation with the teacher's scores of a query's passages, a mean over queries."""
        by_query = rank_correlation(self.answers(outputs), self.answers(teacher), labels[GROUP])
        return {"spearman": by_query, **self.fidelity(outputs, teacher)}

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        if "labels" not in labels:
            return None
        scores, relevance = self.answers(outputs), labels["labels"]
        return doubt_of_values(scores, relevance) or doubt_of_order(scores, relevance, labels[GROUP])


def _ranked(task: Task) -> Ranked:
    assert isinstance(task, Ranked)
    return task


def query_divergence(student: Tensor, teacher: Tensor, group: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of the softmax of scores [pairs] / T over each query's pairs; a mean over pairs, in nats.
    group [pairs]: the query of each."""
    _, query, sizes = torch.unique(group, return_inverse=True, return_counts=True)
    ours, theirs = (_log_softmax(wide(scores) / temperature, query, len(sizes)) for scores in (student, teacher))
    return (sizes[query] * theirs.exp() * (theirs - ours)).sum() / len(student)


def _log_softmax(scores: Tensor, query: Tensor, queries: int) -> Tensor:
    """Over the scores [pairs] of each query, which `query` [pairs] numbers from 0."""
    largest = scores.detach().new_full((queries,), -torch.inf).scatter_reduce(0, query, scores.detach(), "amax")
    shifted = scores - largest[query]
    return shifted - torch.zeros_like(largest).scatter_add(0, query, shifted.exp()).log()[query]


def rank_metrics(scores: np.ndarray, relevance: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """nDCG@10 with the relevance as gain, MRR@10 and MAP of any relevance above 0: means over the queries whose
    passages differ in relevance, since no order of the others is better than another; 0 without such.

    scores, relevance, group: [pairs]. Of equal scores the less relevant passage comes first, so that a model that
    tells nothing apart gets the least.
    """
    found: list[tuple[int, list[float]]] = []
    for own, known in _by_size(group, scores, relevance):
        told = np.ptp(known, 1) > 0
        own, known = own[told], known[told]
        if not len(own):
            continue
        places = np.argsort(np.lexsort((known, -own), axis=1), axis=1)  # from 0
        first = np.where(known > 0, places, known.shape[1]).min(1)
        found.append((len(own), [
            ndcg_score(known, -places, k=AT, ignore_ties=True),
            float(np.where(first < AT, 1 / (1 + first), 0.0).mean()),
            label_ranking_average_precision_score(known > 0, -places),
        ]))  # fmt: skip
    means = np.average([own for _, own in found], 0, [count for count, _ in found]) if found else np.zeros(3)
    return dict(zip(Ranking.metrics, map(float, means), strict=True))


def rank_correlation(ours: np.ndarray, theirs: np.ndarray, group: np.ndarray) -> float:
    """Spearman's correlation of two scores [pairs] of a query's passages, a mean over the queries with two or more; 0
    for a query where one side is constant, and without such queries."""
    found: list[float] = []
    for own, other in _by_size(group, ours, theirs):
        if own.shape[1] > 1:
            a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(own, axis=1), rankdata(other, axis=1)))
            norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
            found += ((a * b).sum(1) / np.where(norms > 0, norms, 1.0)).tolist()
    return float(np.mean(found)) if found else 0.0


def _by_size(group: np.ndarray, *values: np.ndarray) -> list[list[np.ndarray]]:
    """The values [pairs] of queries with equally many passages together, each [queries, passages]."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    members: dict[int, list[np.ndarray]] = defaultdict(list)
    for some in np.split(order, starts[1:]):
        members[len(some)].append(some)
    return [[one.astype(np.float64)[np.stack(some)] for one in values] for _, some in sorted(members.items())]


RANKING = Ranking()
