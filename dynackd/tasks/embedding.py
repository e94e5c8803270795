"""Sentence embedding: one vector for a text, whose cosines with others say how near in meaning two texts are."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from pydantic import Field
from torch import Tensor

from dynackd.data.labels import LabelMap
from dynackd.data.model_labels import ModelLabels
from dynackd.data.rows import Column, Rows, read_number
from dynackd.errors import UserError
from dynackd.report.terminal import console
from dynackd.system.settings import Number, Settings, checked
from dynackd.tasks.doubts import Doubt, doubt_of_loose_values, doubt_of_values
from dynackd.tasks.embedding_clients import EMBEDDING_CLIENTS
from dynackd.tasks.guessing import IF_ASKED, Guess, Sample, Seen, as_written
from dynackd.tasks.kind import RESERVED_COLUMNS, Kind, Task
from dynackd.tasks.losses import cosines, cross_entropy, signed_sum, unit, wide
from dynackd.tasks.metrics import METRICS, pearson
from dynackd.tasks.parts import Arrays, Labels, Output, Tensors
from dynackd.tasks.pooling import MODULES, Pooling, pooling_of
from dynackd.tasks.tokens import told_full

ANCHORED = ("anchor", "positive")
POOLING_KEY = "dynackd_pooling"  # of a config: a `Pooling`
ROW, SCORES = "row", "scores"  # what a batch says of each text: the row that it is of, and that row's score
SHARP = 0.05  # what cosines are divided by before a softmax, as is usual for embedders (a scale of 20)
NEARNESS, SIMILARITIES = 10.0, 1.0  # weights in `output_loss`; chosen by `benchmarks/embedders.py --choose`
MOST_COMPARED = 2000  # texts whose cosines with one another are compared, all pairs of them

Metric = Literal["spearmanr", "pearson"]


class EmbeddingTask(Settings):
    """Texts that become vectors."""

    kind: Literal["embedding"] = Field(description="A vector for each text, compared by cosine")
    text: str | list[str] | None = Field(
        default=None, description="The column of the training texts, or two whose texts belong together"
    )
    pair: list[str] | None = Field(
        default=None, description="The two columns of pairs to validate on; where text is not given, to train on too"
    )
    score: str | None = Field(default=None, description="The column that says how near the texts of a pair are")
    pooling: Literal["mean", "cls"] | None = Field(
        default=None, description="Which token states make the vector, where no modules.json beside the model says it"
    )
    normalize: bool | None = Field(
        default=None, description="Whether vectors are of length 1, where no modules.json says it; by default they are"
    )
    metrics: Metric | list[Metric] | None = Field(
        default=None, description="What is measured, the main one first; by default spearmanr and pearson"
    )
    similarities: Number = Field(
        default=SIMILARITIES, ge=0, description="How much the cosines of a batch's texts with one another count: more "
        "keeps the order of pairs in narrow sub-networks, less brings vectors nearer to the teacher's"
    )


@dataclass(frozen=True)
class Embedding(Kind):
    """A row is a text, or two that are embedded one by one; the outputs are `sentence_embedding` [texts, hidden], and
    for clients that pool themselves `last_hidden_state` [texts, length, hidden].

    text, pair, score, pooling, normalize, similarities: as the recipe's `task` says it.
    """

    name = "embedding"
    auto_class = "AutoModel"
    head = ()
    pooler = False
    outputs = (
        Output("last_hidden_state", ("batch", "length", "hidden"), judged=False),
        Output("sentence_embedding", ("batch", "hidden")),
    )
    noun = "embedder"
    rows_needed = "a text; or two and, where it is known, a number that says how near they are"
    section = EmbeddingTask
    task_keys = tuple(EmbeddingTask.model_fields)
    metrics = ("spearmanr", "pearson")
    default_metrics = ("spearmanr", "pearson")
    label_columns = (ROW, SCORES)
    stock_labels = ()
    together = ROW
    not_finetuned = "learns from pairs (task.text: [one, other]); an embedder is its own teacher: run train-width"
    pipeline_tag = "sentence-similarity"
    clients = EMBEDDING_CLIENTS

    text: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()
    score: str = ""
    pooling: str | None = None
    normalize: bool | None = None
    similarities: float = SIMILARITIES

    # ------------------------------------------------------------------------------------------- a recipe's `task`

    def task(self, value: Mapping[str, Any]) -> Task:
        written = checked(EmbeddingTask, value, "task")
        text = [written.text] if isinstance(written.text, str) else written.text or []
        pair = written.pair or (text if len(text) == 2 else [])
        if not text and not pair:
            raise UserError("task: 'text' is missing; an embedding needs the column of its texts, or a pair of columns")
        for key, names, counts in (("text", text, (0, 1, 2)), ("pair", pair, (0, 2))):
            if len(names) not in counts or len({*names, written.score}) != len(names) + 1:
                more = "; negatives are not read: name the two that belong together" * (len(names) > 2)
                raise UserError(f"task.{key}: expected {'one or ' * (1 in counts)}two different columns other than the "
                                f"score's, got {names}{more}")
            if clash := [name for name in names if name in (*RESERVED_COLUMNS, SCORES)]:
                raise UserError(f"task.{key}: rename the column '{clash[0]}'; dynackd makes one of that name itself")
        for key in ("score", "metrics"):
            if getattr(written, key) and not (pair and written.score):
                raise UserError(f"task.{key}: it is about scored pairs; give 'pair' and 'score', or remove it")
        how = (written.pooling, written.normalize, written.similarities)
        own = Embedding(tuple(text), tuple(pair), written.score or "", *how)
        metrics = own.chosen_metrics(value) if own.score else ()
        return Task("custom", own.read_from("validation"), own.score, own, metrics)

    def guess(self, sample: Sample) -> list[Guess]:
        """Two texts with a number that is no class id, or an anchor and a positive, as in sentence-transformers' files;
        any others only if the user says so."""

        def near(score: Seen) -> bool:
            return len(score.distinct) > 1 and bool(score.numbers) and (sample.told or not score.counts_from_0)

        scored = [(text, score.name) for text, score in sample.readings(near) if len(text) == 2]
        found = [Guess({"kind": self.name, "pair": list(text), "score": score}, text, (score,),
                       "how near two texts are") for text, score in scored]
        if found or sample.label:
            return found
        if not sample.text and all(name in sample.columns and sample[name].all_are(str) for name in ANCHORED):
            return [Guess({"kind": self.name, "text": list(ANCHORED)}, ANCHORED, (), "texts that belong together")]
        texts = sample.texts()
        return [Guess({"kind": self.name, "text": as_written(text)}, text, strength=IF_ASKED) for text in texts]

    def read_from(self, split: str) -> tuple[str, ...]:
        """The columns of a split's texts."""
        return self.text or self.pair if split == "train" else self.pair or self.text

    def can_finetune(self, task: Task) -> bool:
        return len(self.read_from("train")) == 2

    # ---------------------------------------------------------------------------------------------------- the rows

    def of_split(self, task: Task, split: str) -> Task:
        columns = self.read_from(split)
        scored = columns == self.pair and not (split == "train" and self.text)
        score = self.score if scored else ""
        return dataclasses.replace(task, text_columns=columns, label_column=score)

    def label_column(self, task: Task) -> Column | None:
        return Column(task.label_column, "score", read_number, pa.float64()) if task.label_column else None

    def labels(self, task: Task, raw: Mapping[str, Rows], model: ModelLabels | None) -> Labels:
        for rows in raw.values():
            if self._columns(rows.texts.column_names) != self.pair != () and rows is not raw.get("train"):
                raise UserError(f"{rows.where}: task.pair is about validation rows, but these are cut off the training "
                                "rows; give data.validation instead of validation_share, or remove task.pair")
        return super().labels(task, raw, model)

    def _columns(self, names: Any) -> tuple[str, ...]:
        """The columns of texts that rows with these columns have."""
        return next(columns for columns in (self.pair, self.text) if columns and set(columns) <= set(names))

    # --------------------------------------------------------------------------------------------------- the model

    def settled(self, config: Any, directory: Path) -> Mapping[str, Any]:
        model = str(directory)
        known = _pooling(config) or pooling_of(model)
        how = known or Pooling(self.pooling or "mean", self.normalize is not False)
        if known is None:
            console.print(f"note: no {MODULES} says how {model} makes a vector of a text; taken is {how.told()}")
        for key, asked, own in (("pooling", self.pooling, how.mode), ("normalize", self.normalize, how.normalize)):
            if asked not in (None, own):
                raise UserError(f"task.{key}: {str(asked).lower()}, but a vector of {model} is {how.told()}; remove it")
        return {POOLING_KEY: how.to_dict()}

    def files(self, config: Any) -> Mapping[str, Any]:
        return _pooling_of(config).files(config.hidden_size)

    def facts(self, config: Any) -> Mapping[str, Any]:
        how = _pooling_of(config)
        return {"pooling": how.mode, "normalize": how.normalize}

    def check_model(self, task: Task, model: ModelLabels | None) -> None:
        """Any encoder will do, whatever its head was for."""

    def made(self, architecture: str, config: Any) -> bool:
        return hasattr(config, POOLING_KEY)

    def has_head(self, architecture: str) -> bool:
        return True  # an encoder is all that it takes

    def can_teach(self, config: Any, source: str) -> bool:
        """A bare encoder makes vectors, too, but nobody trained them to say how near texts are."""
        return (_pooling(config) or pooling_of(source)) is not None

    def head_fits(self, source: str, before: ModelLabels, names: Any) -> tuple[bool, str]:
        return True, f"{source} is trained further as an embedder"

    # ------------------------------------------------------------------------------------------------ rows as inputs

    def encode(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], **options: Any) -> Any:
        columns = [batch[name] for name in self._columns(batch)]
        return tokenizer([text for row in zip(*columns, strict=True) for text in row], **options)

    def features(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], max_length: int) -> dict[str, Any]:
        encoded = self.encode(task, tokenizer, batch, truncation=True, max_length=max_length)
        times = len(self._columns(batch))
        columns = {ROW: batch["row"], **({SCORES: batch["label"]} if "label" in batch else {})}
        return {**encoded, **{name: np.repeat(values, times).tolist() for name, values in columns.items()}}

    def lost(self, tokens: Dataset, max_length: int) -> str:
        return told_full(tokens, max_length)

    def least_tokens(self, task: Task, tokenizer: Any) -> int:
        return int(tokenizer.num_special_tokens_to_add()) + 1

    # -------------------------------------------------------------------------------------------------- the outputs

    def read(self, fields: Any, batch: Tensors, config: Any) -> dict[str, Tensor]:
        states = fields["last_hidden_state"]
        vectors = _pooling_of(config).of(states, batch["attention_mask"])
        return {"last_hidden_state": states, "sentence_embedding": vectors}

    # ------------------------------------------------------------------------------------------------------ learning

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """Of the batch's pairs. With scores CoSENT (Su 2022): the mean over pairs of log(1 + Σ exp of how much nearer,
        by cosine, pairs are that should be farther), which asks for no scale of the scores. Without, the second text
        is to be the nearest to the first of all second texts (Henderson et al. 2017)."""
        vectors = unit(outputs["sentence_embedding"])
        first, second = _pairs(batch[ROW])
        if not len(first):
            return vectors.sum() * 0
        with torch.autocast(vectors.device.type, enabled=False):
            if SCORES not in batch:
                similar = vectors[first] @ vectors[second].T / SHARP
                return cross_entropy(similar, torch.arange(len(first), device=similar.device))
            near, scores = cosines(vectors[first], vectors[second]) / SHARP, batch[SCORES][first]
            too_near = (near[:, None] - near).masked_fill(scores[:, None] >= scores, -torch.inf)
            return torch.cat([too_near, torch.zeros_like(near)[:, None]], 1).logsumexp(1).mean()

    def label_count(self, batch: Tensors) -> Any:
        return len(_pairs(batch[ROW])[0])

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """10 (1 - cosine to the teacher's vector) and, `similarities` times, how the texts of the batch lie to one
        another; where the teacher's vectors are of another length, the latter alone, once.

        The latter is the KL divergence of the softmax over a text's cosines with the others, as CKD's pair term is for
        words, at the temperature at which embedders are trained (SEED, Fang et al. 2021, over a queue of texts). Of a
        batch in parts each part is a batch of its own there.
        """
        ours, theirs = unit(outputs["sentence_embedding"]), unit(teacher["sentence_embedding"])
        if ours.shape != theirs.shape:
            return _relations(ours, theirs, SHARP * temperature)
        near = NEARNESS * (1 - cosines(ours, theirs)).mean()
        return near + self.similarities * _relations(ours, theirs, SHARP * temperature) if self.similarities else near

    def loss_of_any_size(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """How the texts of the batch lie to one another."""
        ours, theirs = unit(outputs["sentence_embedding"]), unit(teacher["sentence_embedding"])
        return _relations(ours, theirs, SHARP * temperature)

    def importance_loss(self, model: Any, batch: Tensors) -> Tensor:
        """How far the vectors move: what a head says of a text does not depend on scores."""
        inputs, _ = self.split(batch)
        return signed_sum(self.read(model(**inputs), inputs, model.config)["sentence_embedding"])

    # ------------------------------------------------------------------------------------------------------- judging

    def answers(self, outputs: Arrays) -> np.ndarray:
        return outputs["sentence_embedding"]

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        """Correlations of the pairs' cosines with their scores, where they have any."""
        if SCORES not in labels:
            return {}
        near, scores = self._near(outputs, labels)
        return {name: METRICS[name](near, scores, 1) for name in task.metrics}

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        if SCORES not in labels:
            return None
        near, scores = self._near(outputs, labels)
        return doubt_of_values(near, scores) or doubt_of_loose_values(near, scores)

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`cosine`, the mean to the teacher's vectors where these are as long; `similarities`, the correlation of the
        texts' cosines with one another."""
        ours, theirs = outputs["sentence_embedding"], teacher["sentence_embedding"]
        found = {"cosine": float(_cosines(ours, theirs).mean())} if ours.shape == theirs.shape else {}
        if len(ours) > 1:
            # Evenly spaced, since they come by their lengths.
            places = np.linspace(0, len(ours) - 1, min(MOST_COMPARED, len(ours))).astype(int)
            some = [_unit(vectors[places]) for vectors in (ours, theirs)]
            above = np.triu_indices(len(some[0]), k=1)
            own, other = ((vectors @ vectors.T)[above] for vectors in some)
            found["similarities"] = pearson(own, other, 1)
        return found

    @staticmethod
    def _near(outputs: Arrays, labels: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """The cosine of each pair, and its score."""
        first, second = (index.numpy() for index in _pairs(torch.from_numpy(labels[ROW])))
        vectors = outputs["sentence_embedding"]
        return _cosines(vectors[first], vectors[second]), labels[SCORES][first].astype(np.float64)

    def unlabelled_drop(self, ours: Arrays, theirs: Arrays) -> float:
        """1 - the mean cosine."""
        return float(1 - _cosines(self.answers(ours), self.answers(theirs)).mean())


def _pooling(config: Any) -> Pooling | None:
    known = getattr(config, POOLING_KEY, None)
    return Pooling(**known) if known else None


def _pooling_of(config: Any) -> Pooling:
    return _pooling(config) or Pooling()


def _pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the first and of the second texts of the rows of which both are there; rows [texts]."""
    ordered, order = torch.sort(rows, stable=True)
    whole = ordered[1:] == ordered[:-1]
    return order[:-1][whole], order[1:][whole]


def _relations(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """KL(theirs || ours) of the softmax over each vector's cosines with all others [texts, size], mean over texts."""
    if len(ours) < 2:
        return wide(ours).sum() * 0
    with torch.autocast(ours.device.type, enabled=False):
        itself = torch.eye(len(ours), dtype=torch.bool, device=ours.device)
        own, other = ((vectors @ vectors.T)[~itself].view(len(ours), -1) / temperature for vectors in (ours, theirs))
        own, other = own.log_softmax(-1), other.log_softmax(-1)
        return (other.exp() * (other - own)).sum(-1).mean()


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (_unit(one) * _unit(other)).sum(-1)


EMBEDDING = Embedding()
