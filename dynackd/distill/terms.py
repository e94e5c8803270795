"""Contextual knowledge distillation (CKD) and the other signals that a sub-network learns from.

Paper: Park, Kim and Yang, "Distilling Linguistic Context for Language Model Compression", EMNLP 2021, pages 364-378:
its word relations (WR) and layer-transforming relations (LTR), each pair-wise and triple-wise, and their losses.

The relations themselves, their comparison and gradients are in `relations.py`; here are the settings, the four terms as
pure functions, all other terms, and the trainer's side.

To add a relation term: one `Relation` and a line in `RELATION_TERMS` there; any other term: one function and a line
each in `OUTPUT_TERMS` and `OUTPUT_COUNTS` here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from dynackd.distill.relations import (
    AVERAGES,
    DIVERGENCES,
    LAYERS,
    PAIR_RELATIONS,
    RELATION_TERMS,
    WORDS,
    Arrangement,
    How,
    Points,
    Relation,
    Share,
    index,
    join,
    measure,
    plain,
    relation_losses,
)
from dynackd.errors import UserError
from dynackd.system.settings import Among, Number, Whole, section

# ---------------------------------------------------------------------------------------------------- settings

# What a student is for; every other term is a means, whose weight follows the schedule.
GOALS = ("ce", "logits")

# schedule -> factor of the means' weights, by the share of the stage's steps that is done
SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda done: 1.0, "linear": lambda done: 1.0 - done}


Weights = Mapping[Annotated[str, Among(lambda: TERMS)], Annotated[Number, Field(ge=0)]]


def _some(value: Any) -> Any:
    return {} if value is None else value


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"must be an odd number from 3, or null, not {value}")
    return value


@section("distillation")
class DistillationSettings:
    """What a sub-network learns from: the weight of each term, and the options of the terms.

    A term that is absent or has weight 0 is not computed at all. The means, whose weights follow the schedule and the
    width, are all terms but `ce` and `logits`. A narrow network has not the capacity to follow the teacher inside as
    well, and what it spends on that it lacks for its goals: with weights under which the full network gains most a
    quarter of it loses (benchmarks/quality.py --tune --ablation value).
    """

    weights: Annotated[Weights, BeforeValidator(_some, json_schema_input_type=Weights | None)] = Field(
        default_factory=lambda: _CKD,
        description="The weight of each term of the loss; terms that are not named keep the signal's",
    )
    temperature: Number = Field(default=1.0, gt=0, description="Temperature of the logits term")
    window: Annotated[Whole, Field(ge=3), AfterValidator(_odd)] | None = Field(
        default=21,
        description="Odd number of words centred on j in which the i and k of wr_triple lie; null for all words",
    )
    distance: Annotated[str, Among(lambda: PAIR_RELATIONS)] = Field(
        default="cos", description="The relation of a pair: its cosine, or its distance"
    )
    average: Annotated[str, Among(lambda: AVERAGES)] = Field(
        default="pairs", description="What the sum over pairs is divided by: the pairs, or the words"
    )
    divergence: Annotated[str, Among(lambda: DIVERGENCES)] = Field(
        default="mse", description="How the angles of student and teacher are compared"
    )
    schedule: Annotated[str, Among(lambda: SCHEDULES)] = Field(
        default="constant",
        description="How the weights of all terms but ce and logits go through a stage; the signals ckd and ckd+mse "
        "come with linear, which ends at 0",
    )
    width_power: Number = Field(
        default=0.0, ge=0, description="All terms but ce and logits count times a sub-network's width to this power"
    )

    def active(self, names: Mapping[str, Any]) -> list[str]:
        """The names that have a weight, in the order of `names`."""
        return [name for name in names if self.weights.get(name, 0) > 0]

    def at(self, done: float) -> DistillationSettings:
        """The settings for the step at which this share of a stage's steps, from 0 to below 1, is done."""
        factor = SCHEDULES[self.schedule](done)
        weights = {name: weight if name in GOALS else factor * weight for name, weight in self.weights.items()}
        return replace(self, weights=weights)


def _how(settings: DistillationSettings, arrangement: Arrangement) -> How:
    window = settings.window if arrangement.windowed else None
    return How(window, settings.distance, settings.average, settings.divergence)


# ---------------------------------------------------------------------------------------------------- the four terms


def _relation_term(
    name: str, student_hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor, **options: Any
) -> Tensor:
    _check_hidden(student_hidden, teacher_hidden, attention_mask)
    settings, term = DistillationSettings(weights={name: 1.0}, **options), RELATION_TERMS[name]
    how = _how(settings, term.arrangement)
    with plain(attention_mask.device):
        chunks = measure([teacher_hidden], attention_mask, [term.arrangement])
        teacher = join(term.arrangement, [term.relate(points, how) for (points,) in chunks])
    stack, share = tuple(range(student_hidden.shape[1])), Share(term, how, 1.0, lambda places: teacher)
    return relation_losses([student_hidden], attention_mask, [stack], {name: share}, [1.0])[0]


def _check_hidden(student_hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (student_hidden, teacher_hidden, attention_mask)]
    student, teacher, mask = shapes
    if len(student) != 4 or student[:3] != teacher[:3] or mask != (student[0], student[2]):
        raise UserError(
            f"hidden states must be [batch, layers, length, hidden] with the same first three sizes and the mask "
            f"[batch, length]; the student's are {student}, the teacher's {teacher}, the mask is {mask}"
        )


def wr_pair(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    attention_mask: Tensor,
    *,
    distance: str = "cos",
    average: str = "pairs",
) -> Tensor:
    """Word relation, pair-wise (CKD, Park, Kim, Yang, EMNLP 2021: WR).

    For each layer and word i the cosines to the other words make a distribution, p_ij = softmax over j ≠ i of
    cos(h_i, h_j), and the loss is KL(teacher ‖ student) = Σ_ij p_ij·(log p_ij − log q_ij), divided by the count that
    `average` names. With distance "l2" it is Σ_ij (‖h_i − h_j‖_student − ‖h_i − h_j‖_teacher)²: distances, not
    their squares. Only pairs of two different real words take part.

    student_hidden [batch, layers, length, hidden_s], teacher_hidden [batch, layers, length, hidden_t], attention_mask
    [batch, length] -> scalar. average "pairs": per ordered pair i ≠ j (the authors divide by the number of pairs with
    the diagonal, so theirs is (n − 1)/n of ours for a sentence of n words); "rows": per word i.
    """
    options = {"distance": distance, "average": average}
    return _relation_term("wr_pair", student_hidden, teacher_hidden, attention_mask, **options)


def wr_triple(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    attention_mask: Tensor,
    *,
    window: int | None = 21,
    divergence: str = "mse",
) -> Tensor:
    """Word relation, triple-wise (CKD, Park, Kim, Yang, EMNLP 2021: WR).

    For each layer the angle at j: cos∠(i, j, k) = <e_ij, e_kj>, e_ij = (h_i − h_j)/‖h_i − h_j‖ (0 for equal vectors),
    for i and k among the `window` words centred on j. The loss is the mean over triples of (student − teacher)². Each
    triple of three different real words counts once: i < k (with both orders the mean would be the same); i = k is
    left out, since its cosine is 1 on both sides and only dilutes the mean. A window is counted in positions, cut off
    at the ends of the sentence; None means all words.

    student_hidden [batch, layers, length, hidden_s], teacher_hidden [batch, layers, length, hidden_t], attention_mask
    [batch, length] -> scalar. divergence: a name in DIVERGENCES.
    """
    options = {"window": window, "divergence": divergence}
    return _relation_term("wr_triple", student_hidden, teacher_hidden, attention_mask, **options)


def ltr_pair(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    attention_mask: Tensor,
    *,
    distance: str = "cos",
    average: str = "pairs",
) -> Tensor:
    """Layer-transforming relation, pair-wise (CKD, Park, Kim, Yang, EMNLP 2021: LTR).

    As `wr_pair`, where the points are the representations of one word at all layers instead of the words of one layer.
    """
    options = {"distance": distance, "average": average}
    return _relation_term("ltr_pair", student_hidden, teacher_hidden, attention_mask, **options)


def ltr_triple(
    student_hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor, *, divergence: str = "mse"
) -> Tensor:
    """Layer-transforming relation, triple-wise (CKD, Park, Kim, Yang, EMNLP 2021: LTR).

    As `wr_triple`, where the points are the representations of one word at all layers, without a window.
    """
    return _relation_term("ltr_triple", student_hidden, teacher_hidden, attention_mask, divergence=divergence)


# ---------------------------------------------------------------------------------------------------- output terms


@dataclass(frozen=True)
class Outputs:
    """What the terms that are no relations see of one forward pass.

    student_hidden: tensors [batch, length, hidden_s]. real_words [words]: their places in [batch · length].
    teacher_hidden: the states that match the student's, of the real words alone, [words, hidden_t]; none where no term
    wants them. regression: the outputs are values, no classes.
    """

    settings: DistillationSettings
    student_logits: Tensor
    teacher_logits: Tensor
    student_hidden: Sequence[Tensor]
    teacher_hidden: Sequence[Tensor]
    real_words: Tensor
    labels: Tensor | None
    regression: bool


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def label_loss(outputs: Outputs) -> Tensor:
    """Cross entropy with the labels; for regression the mean squared error."""
    if outputs.labels is None:
        raise UserError("the distillation term 'ce' needs labels, but the batch has none")
    logits = _wide(outputs.student_logits)
    if outputs.regression:
        return F.mse_loss(logits.reshape(-1), outputs.labels.reshape(-1).to(logits.dtype))
    return F.cross_entropy(logits.flatten(0, -2), outputs.labels.reshape(-1))


def soft_cross_entropy(outputs: Outputs) -> Tensor:
    """−T²·Σ softmax(teacher / T)·log softmax(student / T), mean over the batch; for regression the mean squared error.

    The factor T² keeps the size of the gradient independent of T (Hinton, Vinyals, Dean 2015, section 2). The loss is
    not 0 but the teacher's entropy when the student equals the teacher.
    """
    student, teacher = _wide(outputs.student_logits), _wide(outputs.teacher_logits)
    if outputs.regression:
        return F.mse_loss(student, teacher)
    temperature = outputs.settings.temperature
    soft = (teacher / temperature).softmax(-1) * (student / temperature).log_softmax(-1)
    return -(temperature**2) * soft.sum(-1).mean()


def hidden_mse(outputs: Outputs) -> Tensor:
    """Mean squared error of the hidden states of real words, over layers and components (DynaBERT, section 2.2).

    Needs equal hidden sizes.
    """
    sizes = {h.shape[-1] for h in (*outputs.student_hidden, *outputs.teacher_hidden)}
    if len(sizes) > 1:
        raise UserError(
            f"the distillation term 'hidden_mse' needs equal hidden sizes, but these are {sorted(sizes)}; "
            "the CKD terms (wr_pair, wr_triple, ltr_pair, ltr_triple) have no such limit"
        )
    pairs = zip(outputs.student_hidden, outputs.teacher_hidden, strict=True)
    errors = [F.mse_loss(_wide(_of_words(s, outputs.real_words)), _wide(t), reduction="sum") for s, t in pairs]
    return torch.stack(errors).sum() / max(1, len(outputs.real_words) * len(errors) * sizes.pop())


def _of_words(hidden: Tensor, words: Tensor) -> Tensor:
    """[batch, length, hidden] -> [words, hidden]: in a padded batch real words are few, and the rest is left out."""
    return hidden.flatten(0, 1).index_select(0, words)


OUTPUT_TERMS: dict[str, Callable[[Outputs], Tensor]] = {
    "ce": label_loss,
    "logits": soft_cross_entropy,
    "hidden_mse": hidden_mse,
}

TERMS: dict[str, Callable[[Outputs], Tensor] | Relation] = {**OUTPUT_TERMS, **RELATION_TERMS}

# What each is a mean over in a batch with this mask [batch, length]: sentences, or words.
OUTPUT_COUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    "ce": lambda mask: torch.tensor(len(mask)),
    "logits": lambda mask: torch.tensor(len(mask)),
    "hidden_mse": lambda mask: mask.sum(),
}


def term_counts(settings: DistillationSettings, attention_mask: Tensor) -> dict[str, int]:
    """How much each active term is a mean over in a batch, up to a factor that is the same in every batch.

    A batch that is spread over processes, or over the steps of gradient accumulation, has the same loss as in one
    piece when each part's terms count in proportion. All terms are means over sentences, words, or pairs and triples
    of words of a layer; those of LTR are over pairs and triples of a word's layers, as many for each word.
    attention_mask [batch, length].
    """
    counts = {name: OUTPUT_COUNTS[name](attention_mask) for name in settings.active(OUTPUT_TERMS)}
    for name in settings.active(RELATION_TERMS):
        term = RELATION_TERMS[name]
        real = term.arrangement.real(attention_mask, 3)  # any number of layers of which there are pairs and triples
        counts[name] = term.count(real, _how(settings, term.arrangement))
    return {name: int(count) for name, count in counts.items()}


# Weights under which each term begins at about the size of the logits term; their schedule ends them at 0. In trainings
# of a few hundred steps weights under which the gradients begin alike, kept constant, do as well or better, in longer
# ones these. With the CKD authors' (their distil_config.py: pairs 100, triples 1000 for SST-2) the pairs count next to
# nothing, and in short trainings the triples starve the logits: benchmarks/quality.py --tune compares them all.
_CKD: dict[str, float] = {"logits": 1.0, "wr_pair": 3000.0, "wr_triple": 50.0, "ltr_pair": 300.0, "ltr_triple": 50.0}
_DYNABERT = {"width": {"logits": 1.0, "hidden_mse": 0.1}, "depth": {"logits": 1.0, "hidden_mse": 1.0}}  # of its code

# Settings that go together: signal -> stage -> fields of `DistillationSettings`. A supernet and its teacher have the
# same hidden size, so that both papers' signals can work together: benchmarks/quality.py compares them.
SIGNALS: dict[str, dict[str, dict[str, Any]]] = {
    "ckd+mse": {stage: {"weights": _CKD | own, "schedule": "linear"} for stage, own in _DYNABERT.items()},
    "ckd": {stage: {"weights": _CKD, "schedule": "linear"} for stage in _DYNABERT},
    "dynabert": {stage: {"weights": weights} for stage, weights in _DYNABERT.items()},
    "logits": {stage: {"weights": {"logits": 1.0}} for stage in _DYNABERT},
}


# --------------------------------------------------------------------------------------------------- the trainer's side


class TeacherSignal:
    """One teacher forward's share of the distillation, shared by all sub-networks of the step.

    The relations are made here, once, and kept instead of the hidden states, which only `hidden_mse` keeps. Positions
    before the first and behind the last at which any sentence has a word are padding, and left out. WR relations belong
    to a layer: those of a sub-network's layers are selected. LTR relations belong to a stack of layers: each stack's
    are made from the Gram matrices at first use and kept.

    logits [batch, classes]; hidden_states: N + 1 tensors [batch, length, hidden_t], the embedding output first;
    attention_mask [batch, length]; regression: the logits are values.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        logits: Tensor,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor,
        regression: bool = False,
    ) -> None:
        self.settings, self.attention_mask, self.regression = settings, attention_mask, regression
        self.words = _span(attention_mask) if settings.active(RELATION_TERMS) else slice(None)
        self.word_mask = attention_mask[:, self.words]
        self.logits = logits.detach()
        self.layer_count = len(hidden_states) - 1
        wanted = bool(settings.active({"hidden_mse": 0}))
        self.real_words = attention_mask.flatten().nonzero()[:, 0] if wanted else attention_mask.new_empty(0)
        self.hidden_states = [_of_words(h.detach(), self.real_words) for h in hidden_states] if wanted else []
        self._relations: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._word_relations: dict[str, Tensor] = {}
        self._layer_points: Points | None = None
        if settings.active(RELATION_TERMS):
            with plain(attention_mask.device):
                self._measure([h[:, None, self.words] for h in hidden_states])

    def _measure(self, parts: Sequence[Tensor]) -> None:
        names = [n for n in self.settings.active(RELATION_TERMS) if RELATION_TERMS[n].arrangement is WORDS]
        how, relations, layer_points = _how(self.settings, WORDS), [], []
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
        return RELATION_TERMS[name].relate(self._layer_points.select(states), _how(self.settings, LAYERS))


@dataclass(frozen=True)
class Student:
    """What distillation sees of one sub-network's forward pass.

    hidden_states: len(layers) + 1 tensors [batch, length, hidden_s], the embedding output first. layers: 0-based
    indices of the teacher's layers that the student's came from. width: the share of heads and neurons that it has.
    """

    logits: Tensor
    hidden_states: Sequence[Tensor]
    layers: tuple[int, ...]
    width: float = 1.0

    @property
    def matched(self) -> tuple[int, ...]:
        """The teacher's hidden states that the student's match: 0, then that behind each layer."""
        return 0, *(layer + 1 for layer in self.layers)


def distillation_loss(
    settings: DistillationSettings,
    students: Sequence[Student],
    teacher: TeacherSignal,
    labels: Tensor | None = None,
    scales: Mapping[str, float] | None = None,
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The weighted sum of the active terms over all students, and for each student its terms, unweighted and detached,
    by name.

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
            settings, student.logits, teacher.logits, student.hidden_states, teacher_states,
            teacher.real_words, labels, teacher.regression,
        )  # fmt: skip
        losses.append({name: OUTPUT_TERMS[name](outputs) for name in settings.active(OUTPUT_TERMS)})
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
        return Share(term, _how(settings, term.arrangement), settings.weights[name] * scales[name], relation)

    stacks = [tuple(places[id(h), i] for h, i in own) for own in pairs]
    shares = {name: share(name) for name in settings.active(RELATION_TERMS)}
    # A slice of all positions would still cost a copy of the gradient.
    trimmed = teacher.word_mask.shape != teacher.attention_mask.shape
    parts = [h[:, None, teacher.words] if trimmed else h[:, None] for h in states.values()]
    return relation_losses(parts, teacher.word_mask, stacks, shares, factors)


def _span(mask: Tensor) -> slice:
    """From the first to the last position at which a sentence of the batch has a word; mask [batch, length]."""
    positions = mask.bool().any(0).nonzero()[:, 0]
    return slice(int(positions[0]), int(positions[-1]) + 1) if len(positions) else slice(None)
