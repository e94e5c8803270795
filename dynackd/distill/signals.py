"""What a teacher gives and what sub-networks make of it: the trainer's side of distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain

import torch
from torch import Tensor

from dynackd.distill.projection import TERM as PROJECTED
from dynackd.distill.relations import (
    LAYERS,
    RELATION_TERMS,
    WORDS,
    Points,
    Share,
    index,
    join,
    measure,
    plain,
    relation_losses,
)
from dynackd.distill.settings import GOALS, DistillationSettings
from dynackd.distill.terms import OUTPUT_TERMS, TERMS, Outputs, of_words
from dynackd.errors import UserError
from dynackd.tasks.common_words import CommonWords, read_both
from dynackd.tasks.kind import Kind
from dynackd.tasks.parts import Tensors

OF_STATES = {"hidden_mse": None, PROJECTED: None}  # terms that want the teacher's hidden states themselves


class TeacherSignal:
    """One teacher forward's share of the distillation, shared by all sub-networks of the step.

    The relations are made here, once, and kept instead of the hidden states, which only terms of states themselves
    keep. Positions before the first and behind the last at which any sentence has a word are padding, and left out. WR
    relations belong to a layer: those of a sub-network's layers are selected. LTR relations belong to a stack of
    layers: each stack's are made from the Gram matrices at first use and kept.

    kind: of the task; outputs: the teacher's, as the kind names them; hidden_states: N + 1 tensors [batch, length,
    hidden_t], the embedding output first; batch: "attention_mask" [batch, length], and labels where a term wants them.
    common: the words that it shares with the students where it reads other tokens. Then the points are these words,
    each the mean of its pieces, and "words" below, where tokens are meant otherwise, are these too.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        kind: Kind,
        outputs: Tensors,
        hidden_states: Sequence[Tensor],
        batch: Tensors,
        common: CommonWords | None = None,
    ) -> None:
        self.common = common
        attention_mask = batch["attention_mask"] if common is None else common.mask
        self.settings, self.kind, self.batch, self.attention_mask = settings, kind, batch, attention_mask
        self.words = _span(attention_mask) if settings.active(RELATION_TERMS) else slice(None)
        self.word_mask = attention_mask[:, self.words]
        self.outputs = {name: output.detach() for name, output in outputs.items()}
        self.layer_count = len(hidden_states) - 1
        wanted = bool(settings.active(OF_STATES))
        points = [h if common is None else common.theirs.mean(h) for h in hidden_states]
        self.real_words = attention_mask.flatten().nonzero()[:, 0] if wanted else attention_mask.new_empty(0)
        self.hidden_states = [of_words(h.detach(), self.real_words) for h in points] if wanted else []
        self._relations: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._word_relations: dict[str, Tensor] = {}
        self._layer_points: Points | None = None
        if settings.active(RELATION_TERMS):
            with plain(attention_mask.device):
                self._measure([h[:, None, self.words] for h in points])

    def _measure(self, parts: Sequence[Tensor]) -> None:
        names = [n for n in self.settings.active(RELATION_TERMS) if RELATION_TERMS[n].arrangement is WORDS]
        how, relations, layer_points = self.settings.how(WORDS), [], []
        for words, layers in measure(parts, self.word_mask, [WORDS, LAYERS]):
            relations.append([RELATION_TERMS[name].relate(words, how) for name in names])
            layer_points.append(layers)
        self._word_relations = {
            name: join(WORDS, made) for name, made in zip(names, zip(*relations, strict=True), strict=True)
        }
        self._layer_points = Points(*(join(LAYERS, [getattr(p, f.name) for p in layer_points]) for f in fields(Points)))

    def relation(self, name: str, states: tuple[int, ...]) -> Tensor:
        """What a relation term compares a student with whose hidden states match these of the teacher."""
        if (name, states) not in self._relations:
            with plain(self.attention_mask.device):
                self._relations[name, states] = self._relate(name, states)
        return self._relations[name, states]

    def _relate(self, name: str, states: tuple[int, ...]) -> Tensor:
        if name in self._word_relations:
            return self._word_relations[name][:, index(states)]
        assert self._layer_points is not None
        return RELATION_TERMS[name].relate(self._layer_points.select(states), self.settings.how(LAYERS))


@dataclass(frozen=True)
class Student:
    """What distillation sees of one sub-network's forward pass.

    outputs: as the kind of the task names them. hidden_states: len(layers) + 1 tensors [batch, length, hidden_s], the
    embedding output first. layers: 0-based indices of the teacher's layers that the student's match. width: the share
    of heads and neurons that it has. projected: the hidden states in the teacher's space (`Projection`), where a term
    wants that.
    """

    outputs: Tensors
    hidden_states: Sequence[Tensor]
    layers: tuple[int, ...]
    width: float = 1.0
    projected: Sequence[Tensor] = ()

    @property
    def matched(self) -> tuple[int, ...]:
        """The teacher's hidden states that the student's match: 0, then that behind each layer."""
        return 0, *(layer + 1 for layer in self.layers)


def distillation_loss(
    settings: DistillationSettings,
    students: Sequence[Student],
    teacher: TeacherSignal,
    scales: Mapping[str, float] | None = None,
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The weighted sum of the active terms over all students, and for each student its terms, unweighted and detached,
    by name. A term that cannot compare a student of another hidden size is left out of that student's.

    Only the sum is differentiable: of the relations one gradient is kept, not one for each term. A hidden state that
    several students share, which is the same tensor object in each, is measured once. scales: what each term's weight
    is multiplied by where the batch is a part of a larger one (`term_counts`).
    """
    scales = scales or dict.fromkeys(TERMS, 1.0)
    for student in students:
        layers = student.layers
        if len(student.hidden_states) != len(layers) + 1 or not set(layers) <= set(range(teacher.layer_count)):
            raise UserError(
                f"{len(student.hidden_states)} hidden states of the student do not match the embedding output and "
                f"layers {list(layers)} of a teacher with {teacher.layer_count} layers"
            )
    if not settings.active(TERMS):
        raise UserError("no distillation term has a weight above 0")
    weighted, losses = [], []
    factors = [student.width**settings.width_power for student in students]
    for student, factor in zip(students, factors, strict=True):
        teacher_states = [teacher.hidden_states[i] for i in student.matched] if teacher.hidden_states else []
        outputs = Outputs(
            teacher.kind, student.outputs, teacher.outputs, teacher.batch, settings.temperature,
            student.hidden_states, teacher_states, teacher.real_words, teacher.common, student.projected,
        )  # fmt: skip
        names = [name for name in settings.active(OUTPUT_TERMS) if OUTPUT_TERMS[name].applies(outputs)]
        if not names and not settings.active(RELATION_TERMS):
            raise UserError(
                f"the distillation terms {', '.join(settings.active(OUTPUT_TERMS))} need equal hidden sizes; the CKD "
                "terms (wr_pair, wr_triple, ltr_pair, ltr_triple) have no such limit"
            )
        losses.append({name: OUTPUT_TERMS[name].loss(outputs) for name in names})
        weighted += [
            settings.weights[name] * (1.0 if name in GOALS else factor) * scales[name] * loss
            for name, loss in losses[-1].items()
        ]
    if settings.active(RELATION_TERMS):
        total, relations = _relations(settings, students, factors, teacher, scales)
        weighted.append(total)
        losses = [own | more for own, more in zip(losses, relations, strict=True)]
    return torch.stack(weighted).sum(), [{name: loss.detach() for name, loss in own.items()} for own in losses]


def _relations(
    settings: DistillationSettings,
    students: Sequence[Student],
    factors: Sequence[float],
    teacher: TeacherSignal,
    scales: Mapping[str, float],
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """`relation_losses` of the students' different hidden states, each matched with one of the teacher's."""
    pairs = [list(zip(student.hidden_states, student.matched, strict=True)) for student in students]
    states = {(id(h), i): h for h, i in chain(*pairs)}
    places = {key: place for place, key in enumerate(states)}
    teacher_places = [i for _, i in states]

    def share(name: str) -> Share:
        def relation(some: tuple[int, ...]) -> Tensor:
            return teacher.relation(name, tuple(teacher_places[place] for place in some))

        term = RELATION_TERMS[name]
        return Share(term, settings.how(term.arrangement), settings.weights[name] * scales[name], relation)

    stacks = [tuple(places[id(h), i] for h, i in own) for own in pairs]
    shares = {name: share(name) for name in settings.active(RELATION_TERMS)}
    # A slice of all positions would still cost a copy of the gradient.
    trimmed = teacher.word_mask.shape != teacher.attention_mask.shape
    points = states.values() if teacher.common is None else map(teacher.common.own.mean, states.values())
    parts = [h[:, None, teacher.words] if trimmed else h[:, None] for h in points]
    return relation_losses(parts, teacher.word_mask, stacks, shares, factors)


def _span(mask: Tensor) -> slice:
    """From the first to the last position at which a sentence of the batch has a word; mask [batch, length]."""
    positions = mask.bool().any(0).nonzero()[:, 0]
    return slice(int(positions[0]), int(positions[-1]) + 1) if len(positions) else slice(None)


def term_counts(settings: DistillationSettings, kind: Kind, batch: Tensors) -> dict[str, int]:
    """How much each active term is a mean over in a batch, up to a factor that is the same in every batch.

    A batch that is spread over processes, or over the steps of gradient accumulation, has the same loss as in one
    piece when each part's terms count in proportion. All terms are means over what the kind says, words, or pairs and
    triples of words of a layer; those of LTR are over pairs and triples of a word's layers, as many for each word.
    """
    batch, common = read_both(batch)
    mask = batch["attention_mask"] if common is None else common.mask
    counts = {name: OUTPUT_TERMS[name].mean_over(kind, batch, common) for name in settings.active(OUTPUT_TERMS)}
    for name in settings.active(RELATION_TERMS):
        term = RELATION_TERMS[name]
        # Any number of layers of which there are pairs and triples.
        real = term.arrangement.real(mask, 3)
        counts[name] = term.count(real, settings.how(term.arrangement))
    return {name: int(count) for name, count in counts.items()}
