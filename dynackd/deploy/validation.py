"""What a model file loses on validation data."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dynackd.data.model_labels import labels_of
from dynackd.data.sources import DataSource
from dynackd.families.table import max_positions
from dynackd.measure.evaluation import batches_of, joined
from dynackd.onnx.graphs import Feed
from dynackd.report.terminal import console
from dynackd.supernet.checkpoints import load_tokenizer
from dynackd.tasks.alignment import read_alike
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.parts import Arrays, ClassScore
from dynackd.tasks.task import compute_fidelity, compute_metrics, compute_per_class, main_metric
from dynackd.tasks.tokens import tokenize, unknown

Outputs = dict[str, Arrays]  # by the suffix of the set
TEXTS = 200  # rows whose texts are kept


@dataclass(frozen=True)
class Validation:
    """Tokenised validation rows by the suffix of their metrics' names ("" is the main set), the task, and the texts of
    the first rows. The rows were cut to `max_length` tokens, for a model of so many `positions`."""

    task: Task
    rows: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase
    texts: Sequence[tuple[str, ...]] = ()
    max_length: int = 0
    positions: int = 0

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    def read_by(self, tokenizer: PreTrainedTokenizerBase, positions: int | None = None) -> "Validation":
        """The same rows as another tokenizer reads them, in the same order; positions: of its model, if another."""
        positions = positions or self.positions
        length = min(self.max_length, positions)
        rows = {suffix: self._again(suffix, tokenizer, length, positions) for suffix in self.rows}
        return dataclasses.replace(self, rows=rows, tokenizer=tokenizer, max_length=length, positions=positions)

    def read_by_model(self, directory: str, config: PreTrainedConfig) -> "Validation":
        """The same rows as a model reads them, itself where that reads the same tokens."""
        tokenizer = load_tokenizer(directory, config, self.task.kind)
        return self if read_alike(tokenizer, self.tokenizer) else self.read_by(tokenizer, max_positions(config))

    def _again(self, suffix: str, tokenizer: PreTrainedTokenizerBase, length: int, positions: int) -> Dataset:
        raw, split = self.task.rows[suffix], f"validation{suffix}"
        rows = tokenize(raw, self.task, tokenizer, length, split, positions)[0]
        if len(rows) != len(self.rows[suffix]):  # of which the windows are others
            return rows
        # The lengths decide the order, and outputs are compared row by row.
        return rows.remove_columns("length").add_column("length", self.rows[suffix]["length"][:])

    def outputs(self, predict: Callable[[Feed], Arrays], batch_size: int = 1) -> Outputs:
        """The outputs of every set, in an order that is always the same.

        One row at a time by default, as most are served: 8-bit models are scaled by what else is in the batch.
        """
        kind = self.task.kind
        return {
            suffix: joined(
                self._judged(predict(inputs), kind.places({**inputs, **labels}))
                for inputs, labels in self._batches(rows, batch_size)
            )
            for suffix, rows in self.rows.items()
        }

    def _judged(self, outputs: Arrays, mask: np.ndarray) -> Arrays:
        kind = self.task.kind
        return kind.flat({name: outputs[name] for name in kind.judged}, mask)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """The task's metrics of what `outputs` returned."""
        metrics: dict[str, float] = {}
        for suffix, labels in self.labels.items():
            metrics |= compute_metrics(self.task, outputs[suffix], labels, suffix)
        return metrics

    def of_rows(self, outputs: Outputs) -> Outputs:
        """The outputs of rows whose tokens are not those of the model that they are compared with."""
        return {suffix: self.task.kind.of_rows(arrays) for suffix, arrays in outputs.items()}

    def fidelity(self, ours: Outputs, theirs: Outputs) -> dict[str, float]:
        """How closely a model's outputs follow another's; nothing where one has more of them than the other."""
        found: dict[str, float] = {}
        for suffix, labels in self.labels.items() if _comparable(ours, theirs) else ():
            found |= compute_fidelity(self.task, ours[suffix], theirs[suffix], labels, suffix)
        return found

    def per_class(self, outputs: Outputs) -> dict[str, ClassScore]:
        """How well each class is found by what `outputs` returned, in every set; none without classes or labels."""
        found: dict[str, ClassScore] = {}
        for suffix, labels in self.labels.items():
            found |= compute_per_class(self.task, outputs[suffix], labels, suffix)
        return found

    @cached_property
    def labels(self) -> Outputs:
        """The labels of every set, in the order of its outputs."""
        kind = self.task.kind
        return {
            suffix: joined(
                kind.flat(labels, kind.places({**inputs, **labels})) for inputs, labels in self._batches(rows, 64)
            )
            for suffix, rows in self.rows.items()
        }

    def drop(self, before: dict[str, float], after: dict[str, float]) -> float:
        """By how much the task's main metric got worse, in its own unit; of several sets the worst."""
        names = [main_metric(self.task) + suffix for suffix in self.rows]
        return max(self.task.kind.drop(main_metric(self.task), before[name], after[name]) for name in names)

    def unlabelled_drop(self, ours: Outputs, theirs: Outputs) -> float | None:
        """How far a model's outputs are from another's where there are no labels to measure with; of several sets the
        worst."""
        every = ours if _comparable(ours, theirs) else ()
        found = [self.task.kind.unlabelled_drop(ours[suffix], theirs[suffix]) for suffix in every]
        return max((drop for drop in found if drop is not None), default=None)

    def agreement(self, ours: Outputs, theirs: Outputs) -> dict[str, float]:
        """The share of rows on which two models choose the same label; empty where outputs are no labels."""
        every = ours if _comparable(ours, theirs) else ()
        found = [self.task.kind.same_answers(ours[suffix], theirs[suffix]) for suffix in every]
        same = [rows for rows in found if rows is not None]
        return {"agreement": float(np.concatenate(same).mean())} if same else {}

    def _batches(self, rows: Dataset, batch_size: int) -> Iterator[tuple[Feed, Feed]]:
        for batch in batches_of(rows, self.task.kind, self.tokenizer, batch_size):
            yield self.task.kind.split({name: value.numpy() for name, value in batch.items()})


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
    texts = [tuple(map(_text, row)) for row in zip(*(first[name] for name in data.task.text_columns), strict=True)]
    return Validation(data.task, rows, tokenizer, texts, length, positions)


def _comparable(ours: Outputs, theirs: Outputs) -> bool:
    """Whether two models give one output for the other's."""
    return all(
        array.shape == theirs[suffix][name].shape for suffix, own in ours.items() for name, array in own.items()
    )


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def torch_predictor(model: PreTrainedModel, kind: Kind) -> Callable[[Feed], Feed]:
    """A torch model as a function from a batch to its outputs by name."""

    @torch.no_grad()
    def predict(batch: Feed) -> Feed:
        inputs: dict[str, Tensor] = {name: torch.from_numpy(array) for name, array in batch.items()}
        read = kind.read(model(**inputs), inputs, model.config)
        return {name: output.float().numpy() for name, output in read.items()}

    return predict
