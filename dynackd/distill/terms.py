"""All terms of distillation by name: those that are no relations are functions here, the relations are CKD's.

To add a relation term: one `Relation` and a line in `RELATION_TERMS` of `relations.py`; any other term: one function
and a line in `OUTPUT_TERMS` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynackd.distill.projection import TERM
from dynackd.distill.relations import RELATION_TERMS, Relation
from dynackd.errors import UserError
from dynackd.tasks.common_words import CommonWords
from dynackd.tasks.kind import LABELLED, Kind
from dynackd.tasks.losses import wide
from dynackd.tasks.parts import Tensors


@dataclass(frozen=True)
class Outputs:
    """What the terms that are no relations see of one forward pass.

    kind: of the task, which knows what the outputs `student` and `teacher` are. batch: of which they are, with
    "attention_mask" [batch, length] and labels, if it has any. student_hidden: tensors [batch, length, hidden_s].
    teacher_hidden: the states that match the student's, of the real words alone, [words, hidden_t]; none where no term
    wants them. real_words [words]: their places in [batch · length]. common: the words that both sides share where
    the teacher reads other tokens. projected: student_hidden in the teacher's hidden space, where a term wants that.
    """

    kind: Kind
    student: Tensors
    teacher: Tensors
    batch: Tensors
    temperature: float
    student_hidden: Sequence[Tensor]
    teacher_hidden: Sequence[Tensor]
    real_words: Tensor
    common: CommonWords | None = None
    projected: Sequence[Tensor] = ()


def label_loss(outputs: Outputs) -> Tensor:
    """The kind's loss against the labels, such as cross entropy, a mean over those that are labels."""
    if not set(outputs.kind.label_columns) <= set(outputs.batch):
        raise UserError("the distillation term 'ce' needs labels, but the batch has none")
    student = labelled(outputs.student, outputs.batch)
    if not len(next(iter(student.values()))):
        return torch.stack([output.sum() for output in outputs.student.values()]).sum() * 0
    return outputs.kind.label_loss(student, labelled(outputs.batch, outputs.batch))


def labelled(tensors: Tensors, batch: Tensors) -> Tensors:
    """What is of the rows that have labels, where a batch holds others too: [rows, ...] tensors -> fewer rows."""
    if LABELLED not in batch:
        return tensors
    rows = batch[LABELLED].bool()
    return {name: tensor[rows] for name, tensor in tensors.items()}


def output_loss(outputs: Outputs) -> Tensor:
    """The kind's distance of the outputs from the teacher's, such as soft cross entropy."""
    kind, student, teacher, batch = outputs.kind, outputs.student, outputs.teacher, outputs.batch
    if (common := outputs.common) is not None:
        student, teacher = kind.in_words(student, common.own), kind.in_words(teacher, common.theirs)
        batch = kind.batch_in_words(batch, common)
    return kind.output_loss(student, teacher, batch, outputs.temperature)


def output_count(kind: Kind, batch: Tensors, common: CommonWords | None) -> Any:
    """What `output_loss` is a mean over."""
    return kind.output_count(batch if common is None else kind.batch_in_words(batch, common))


def word_count(kind: Kind, batch: Tensors, common: CommonWords | None) -> Any:
    """What the errors of hidden states are a mean over, up to layers and components: real words."""
    return (batch["attention_mask"] if common is None else common.mask).sum()


def hidden_mse(outputs: Outputs) -> Tensor:
    """Mean squared error of the hidden states of real words, over layers and components (DynaBERT, section 2.2).

    Needs equal hidden sizes (`equal_sizes`); the CKD terms do not.
    """
    return _squared_error(outputs, outputs.student_hidden)


def hidden_projected_mse(outputs: Outputs) -> Tensor:
    """The same of the hidden states that a learned `Projection` takes into the teacher's space: TinyBERT's way to
    compare states of different sizes (Jiao et al. 2020), a control of the CKD terms, which have nothing to learn."""
    states = outputs.projected
    return _squared_error(outputs, states if outputs.common is None else [outputs.common.own.mean(h) for h in states])


def _squared_error(outputs: Outputs, states: Sequence[Tensor]) -> Tensor:
    """The mean over real words, layers and components."""
    size = outputs.teacher_hidden[0].shape[-1]
    pairs = zip(states, outputs.teacher_hidden, strict=True)
    errors = [F.mse_loss(wide(of_words(s, outputs.real_words)), wide(t), reduction="sum") for s, t in pairs]
    return torch.stack(errors).sum() / max(1, len(outputs.real_words) * len(errors) * size)


def equal_sizes(outputs: Outputs) -> bool:
    """Whether student and teacher have hidden states of one size."""
    return outputs.student_hidden[0].shape[-1] == outputs.teacher_hidden[0].shape[-1]


def of_words(hidden: Tensor, words: Tensor) -> Tensor:
    """[batch, length, hidden] -> [words, hidden]: in a padded batch real words are few, and the rest is left out."""
    return hidden.flatten(0, 1).index_select(0, words)


@dataclass(frozen=True)
class OutputTerm:
    """A term that is no relation: its value, what that is a mean over in a batch, with the words that both sides share
    where the teacher reads other tokens, and whether it can compare these outputs; where it cannot, it is left out."""

    loss: Callable[[Outputs], Tensor]
    mean_over: Callable[[Kind, Tensors, CommonWords | None], Any]
    applies: Callable[[Outputs], bool] = lambda outputs: True


OUTPUT_TERMS: dict[str, OutputTerm] = {
    "ce": OutputTerm(label_loss, lambda kind, batch, _: kind.label_count(labelled(batch, batch))),
    "logits": OutputTerm(output_loss, output_count),
    "hidden_mse": OutputTerm(hidden_mse, word_count, equal_sizes),
    TERM: OutputTerm(hidden_projected_mse, word_count),
}

TERMS: dict[str, OutputTerm | Relation] = {**OUTPUT_TERMS, **RELATION_TERMS}
