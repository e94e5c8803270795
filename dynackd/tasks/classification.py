"""Classification: one or two texts, one of several labels."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax
from torch import Tensor

from dynackd.data.labels import LabelMap, label_map
from dynackd.data.model_labels import ModelLabels
from dynackd.data.rows import Column, Rows, read_class
from dynackd.data.wanted_labels import resolve_wanted, wanted_labels
from dynackd.errors import UserError, listed
from dynackd.tasks.doubts import Doubt, confusion_of, doubt_of_classes, doubt_of_little, doubt_of_one_answer
from dynackd.tasks.guessing import Guess, Sample, Seen, as_written, some_of
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.losses import cross_entropy, soft_cross_entropy
from dynackd.tasks.metrics import METRICS
from dynackd.tasks.parts import Arrays, ClassScore, Labels, Tensors


class Classification(Kind):
    """A row is one or two texts with a label; the output is `logits` [rows, classes]."""

    name = "classification"
    problem_type = "single_label_classification"
    noun = "classifier"
    metrics = ("accuracy", "f1", "f1_macro", "matthews_correlation")
    default_metrics = ("accuracy",)
    augmentable = True
    pipeline = js_pipeline = "text-classification"

    def with_labels(self, task: Task, labels: Any) -> Task:
        wanted, names = wanted_labels(labels)
        return dataclasses.replace(task, labels=wanted, label_names=names or task.label_names)

    def guess(self, sample: Sample) -> list[Guess]:
        def fits(label: Seen) -> bool:
            if sample.label:
                few = 2 <= len(label.distinct) <= max(2, len(label.values) // 2)
                return len(label.distinct) > 1 if sample.told else few and (label.whole or not label.numbers)
            return label.is_label and (label.whole or not label.numbers)

        def made(text: tuple[str, ...], label: Seen) -> Guess:
            whole = label.whole and all(re.fullmatch(r"-?\d+", key) for key in label.distinct)  # and none is 1e3
            ids = {int(key): i for i, key in enumerate(label.distinct)} if whole else {}
            numbers = {} if label.counts_from_0 else {"labels": ids} if ids else {}
            task = {"kind": self.name, "text": as_written(text), "label": label.name, **numbers}
            return Guess(task, text, (label.name,), some_of(label.distinct))

        return [made(text, label) for text, label in sample.readings(fits)]

    def label_column(self, task: Task) -> Column:
        return Column(task.label_column, "label", read_class)

    def labels(self, task: Task, raw: Mapping[str, Rows], model: ModelLabels | None) -> Labels:
        column, first = task.label_column, next(iter(raw.values()))
        where, declared = f"{first.where}, column '{column}'", task.label_names or first.class_names
        names = label_map(Counter(first.labels), where, declared, model, task.labels)
        if len(names.names) < 2:
            raise UserError(f"{where}: a classification needs two labels or more, got only {listed(names.names)}")
        ids = {split: _class_ids(rows, names, column) for split, rows in raw.items()}
        return Labels(ids, names, names.told(key for rows in raw.values() for key in rows.labels))

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return np.unique(labels, return_inverse=True)[1]

    def written(self, task: Task, label: int, names: LabelMap | None) -> dict[str, Any]:
        assert names is not None
        return {task.label_column: names.written[label]}

    def check_model(self, task: Task, model: ModelLabels | None) -> None:
        super().check_model(task, model)
        if model is not None and len(model.names) < 2:
            raise UserError(f"task '{task.name}' is a classification and needs a model with 2 outputs or more, but the "
                            f"model has {len(model.names)}, as for a regression")
        if task.labels:
            resolve_wanted(task.labels, task.label_names, model)

    def made(self, architecture: str, config: Any) -> bool:
        return super().made(architecture, config) and config.num_labels > 1

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        return cross_entropy(outputs["logits"], batch["labels"])

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        return soft_cross_entropy(outputs["logits"], teacher["logits"], temperature)

    def answers(self, outputs: Arrays) -> np.ndarray:
        return outputs["logits"].argmax(-1)

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        predictions, references = self.answers(outputs), labels["labels"]
        if task.class_order is not None:
            order = np.asarray(task.class_order)
            predictions, references = order[predictions], order[references]
        classes = outputs["logits"].shape[-1]
        return {name: METRICS[name](predictions, references, classes) for name in task.metrics}

    def per_class(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, ClassScore]:
        """Each class's recall: the share of its rows that are found."""
        right, references = self.answers(outputs) == labels["labels"], labels["labels"]
        own = {i: right[references == i] for i in np.unique(references)}
        names = task.label_names or ()
        return {names[i] if names else str(i): ClassScore(float(r.mean()), len(r)) for i, r in own.items()}

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`agreement`, the share of rows with the teacher's label, and `kl`, the mean over rows of KL(teacher ‖
        student) in nats."""
        ours, theirs = (log_softmax(some["logits"].astype(np.float64), axis=-1) for some in (outputs, teacher))
        same = outputs["logits"].argmax(-1) == teacher["logits"].argmax(-1)
        return {"agreement": float(same.mean()), "kl": float((np.exp(theirs) * (theirs - ours)).sum(-1).mean())}

    def same_answers(self, ours: Arrays, theirs: Arrays) -> np.ndarray:
        return np.equal(self.answers(ours), self.answers(theirs))

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        assert names is not None
        answers, known = self.answers(outputs), labels["labels"]
        confusion = confusion_of(known, answers, len(names.names))
        one = doubt_of_one_answer(answers, known, lambda own: f"'{names.names[own]}'")
        return doubt_of_classes(confusion, names) or one or doubt_of_little(confusion)

    def relabelled(self, names: Sequence[str], before: Sequence[int], after: Sequence[int]) -> dict[str, Any]:
        changed = sum(old != new for old, new in zip(before, after, strict=True))
        return {"new_labels": {name: list(after).count(index) for index, name in enumerate(names)},
                "label_changed": round(changed / len(after), 4)}


def _class_ids(rows: Rows, mapping: LabelMap, column: str) -> list[int]:
    ids = {key: mapping.find(key) for key in dict.fromkeys(rows.labels)}
    for key, found in ids.items():
        if found is None:
            place = int(np.argmax(rows.labels == key))
            raise UserError(f"{rows.where}, data row {rows.number(place)}, column '{column}': {mapping.unknown(key)}")
    return [found for key in rows.labels if (found := ids[key]) is not None]


CLASSIFICATION = Classification()
