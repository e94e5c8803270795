"""Regression: one or two texts, a number."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from dynackd.data.labels import LabelMap
from dynackd.data.model_labels import ModelLabels
from dynackd.data.rows import Column, read_number
from dynackd.errors import UserError, listed
from dynackd.tasks.doubts import Doubt, doubt_of_loose_values, doubt_of_values
from dynackd.tasks.guessing import Guess, Sample, Seen, as_written
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.losses import squared_error
from dynackd.tasks.metrics import METRICS
from dynackd.tasks.parts import Arrays, Tensors

MOST_IDS = 50  # classes whose ids are taken for these and not for values


class Regression(Kind):
    """A row is one or two texts with a number; the output is `logits` [rows, 1], the value."""

    name = problem_type = "regression"
    names_outputs = False
    noun = "classifier"
    rows_needed = "a text, or two, and a number"
    metrics = ("pearson", "spearmanr", "mse")
    default_metrics = ("pearson", "spearmanr")
    lower_is_better = frozenset({"mse"})
    refused_training: Mapping[str, str] = {"label_smoothing_factor": "its loss would be 0 for any output"}
    augmentable = True
    pipeline = "text-classification"  # transformers.js would take a softmax over the output

    def guess(self, sample: Sample) -> list[Guess]:
        """Whole numbers from 0 on without a gap are class ids, unless they are too many."""

        def fits(label: Seen) -> bool:
            ids = label.counts_from_0 and len(label.distinct) <= MOST_IDS
            return len(label.distinct) > 1 and bool(label.numbers) and (sample.told or not ids)

        def made(text: tuple[str, ...], label: Seen) -> Guess:
            task = {"kind": self.name, "text": as_written(text), "label": label.name}
            told = f"numbers from {min(label.numbers):g} to {max(label.numbers):g}"
            return Guess(task, text, (label.name,), told)

        return [made(text, label) for text, label in sample.readings(fits)]

    def label_column(self, task: Task) -> Column:
        return Column(task.label_column, "label", read_number, pa.float64())

    def check_model(self, task: Task, model: ModelLabels | None) -> None:
        super().check_model(task, model)
        if model is not None and len(model.names) != 1:
            raise UserError(f"task '{task.name}' is a regression and needs a model with 1 output, but the model has "
                            f"{len(model.names)} ({listed(model.names)})")

    def made(self, architecture: str, config: Any) -> bool:
        return super().made(architecture, config) and config.num_labels == 1

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        return squared_error(outputs["logits"], batch["labels"])

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        return squared_error(outputs["logits"], teacher["logits"])

    def answers(self, outputs: Arrays) -> np.ndarray:
        return outputs["logits"].reshape(-1).astype(np.float64)

    def own_labels(self, outputs: Tensors) -> dict[str, Tensor]:
        """One above the model's own values: at these themselves the loss has no slope."""
        return {"labels": outputs["logits"].reshape(-1).detach() + 1}

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        predictions, references = self.answers(outputs), labels["labels"].astype(np.float64)
        return {name: METRICS[name](predictions, references, 1) for name in task.metrics}

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`rmse`, the root of the mean squared difference."""
        difference = outputs["logits"].astype(np.float64) - teacher["logits"].astype(np.float64)
        return {"rmse": float(np.sqrt(np.square(difference).mean()))}

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        values = outputs["logits"].reshape(-1)
        return doubt_of_values(values, labels["labels"]) or doubt_of_loose_values(values, labels["labels"])


REGRESSION = Regression()
