"""What a model file loses on validation data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynackd.data.labels import labels_of
from dynackd.families.table import max_positions
from dynackd.measure.evaluation import batches_of
from dynackd.onnx.graphs import Feed
from dynackd.report.terminal import console
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.sources import DataSource
from dynackd.tasks.task import Task, compute_metrics, greater_is_better, main_metric
from dynackd.tasks.tokens import tokenize, unknown

Logits = dict[str, np.ndarray]
TEXTS = 200  # rows whose texts are kept


@dataclass(frozen=True)
class Validation:
    """Tokenised validation rows by the suffix of their metrics' names ("" is the main set), the task, and the texts of
    the first rows."""

    task: Task
    rows: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase
    texts: Sequence[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    def logits(self, predict: Callable[[Feed], np.ndarray], batch_size: int = 1) -> Logits:
        """Logits [rows, labels] of every set, in an order that is always the same.

        One row at a time by default, as most are served: 8-bit models are scaled by what else is in the batch.
        """
        return {
            suffix: np.concatenate([predict(batch) for batch in self._batches(rows, batch_size)])
            for suffix, rows in self.rows.items()
        }

    def metrics(self, logits: Logits) -> dict[str, float]:
        """The task's metrics of what `logits` returned."""
        metrics: dict[str, float] = {}
        for suffix, rows in self.rows.items():
            labels = np.concatenate([batch["labels"] for batch in self._batches(rows, len(rows), labels=True)])
            metrics |= compute_metrics(self.task, logits[suffix], labels, suffix)
        return metrics

    def drop(self, before: dict[str, float], after: dict[str, float]) -> float:
        """By how much the task's main metric got worse, in its own unit; of several sets the worst."""
        name = main_metric(self.task)
        sign = 1 if greater_is_better(name) else -1
        return max(sign * (before[name + suffix] - after[name + suffix]) for suffix in self.rows)

    def _batches(self, rows: Dataset, batch_size: int, labels: bool = False) -> Iterator[Feed]:
        for batch in batches_of(rows, self.tokenizer, batch_size):
            yield {name: value.numpy() for name, value in batch.items() if labels or name != "labels"}


def load_validation(
    task: Task,
    source: DataSource,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    longest: int | None = None,
) -> Validation:
    """The validation rows of a recipe, with the model's label ids, cut to `data.max_length` and to `longest` tokens.
    Raises `UserError` for every fault in the data."""
    data = load_task_data(task, source, ("validation",), model=labels_of(model.config))
    length = min(source.max_length, longest or source.max_length)
    positions = max_positions(model.config)
    rows = {
        suffix: tokenize(dataset, data.task, tokenizer, length, f"validation{suffix}", positions)[0]
        for suffix, dataset in data.validation.items()
    }
    for suffix, tokens in rows.items():
        if (report := unknown(tokens, tokenizer, f"validation{suffix}")) is not None:
            console.print(f"warning: {report}")
    first = next(iter(data.validation.values()))[:TEXTS]
    texts = list(zip(*(first[name] for name in data.task.text_columns), strict=True))
    return Validation(data.task, rows, tokenizer, texts)


def torch_predictor(model: PreTrainedModel) -> Callable[[Feed], np.ndarray]:
    """A torch classifier as a function from a batch to logits."""

    @torch.no_grad()
    def predict(batch: Feed) -> np.ndarray:
        inputs: dict[str, Tensor] = {name: torch.from_numpy(array) for name, array in batch.items()}
        return model(**inputs).logits.float().numpy()

    return predict


def agreement(ours: Logits, theirs: Logits) -> float:
    """The share of rows on which two classifiers choose the same label."""
    same = np.concatenate([ours[suffix].argmax(-1) == theirs[suffix].argmax(-1) for suffix in ours])
    return float(same.mean())


def largest_difference(ours: Logits, theirs: Logits) -> float:
    """The largest absolute difference of two models' logits."""
    return float(max(np.abs(ours[suffix] - theirs[suffix]).max() for suffix in ours))
