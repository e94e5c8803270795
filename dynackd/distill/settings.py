"""What a sub-network learns from: the weight of each term, the options of the terms, and settings that go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from dynackd.distill.matching import MATCHINGS
from dynackd.distill.projection import TERM as PROJECTED
from dynackd.distill.relations import AVERAGES, DIVERGENCES, PAIR_RELATIONS, RELATION_TERMS, Arrangement, How
from dynackd.distill.terms import TERMS
from dynackd.errors import UserError
from dynackd.system.settings import Among, Number, Whole, section
from dynackd.tasks.kind import Kind

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
    matching: Annotated[str, Among(lambda: MATCHINGS)] = Field(
        default="own",
        description="Which layers of the recipe's teacher the model's learn from: own, the same ones, uniform, those "
        "at the same relative depth, or last; between stages it is always own",
    )
    width_power: Number = Field(
        default=0.0, ge=0, description="All terms but ce and logits count times a sub-network's width to this power"
    )

    def active(self, names: Mapping[str, Any]) -> list[str]:
        """The names that have a weight, in the order of `names`."""
        return [name for name in names if self.weights.get(name, 0) > 0]

    def check_smaller(self, what: str, kind: Kind) -> None:
        """Refuse (`UserError`) to train a hidden size that is smaller than the teacher's where nothing but `hidden_mse`
        compares the two inside, which is left out then, or nothing compares them at all."""
        blind = self.blind(kind)
        if blind or (self.active({"hidden_mse": 0}) and not self.active(RELATION_TERMS)):
            raise UserError(
                f"{what} than the teacher's leaves the distillation term '{blind or 'hidden_mse'}' nothing to compare, "
                "and no other looks inside; set distillation.signal to ckd+mse or ckd, which compare relations"
            )

    def blind(self, kind: Kind) -> str:
        """The term that would be all there is, and 0, where the teacher has another hidden size: the outputs of a kind
        that are hidden states themselves. Empty where another term looks inside."""
        return "" if kind.compares_sizes or self.active({**RELATION_TERMS, PROJECTED: None}) else "logits"

    def at(self, done: float) -> DistillationSettings:
        """The settings for the step at which this share of a stage's steps, from 0 to below 1, is done."""
        factor = SCHEDULES[self.schedule](done)
        weights = {name: weight if name in GOALS else factor * weight for name, weight in self.weights.items()}
        return replace(self, weights=weights)

    def how(self, arrangement: Arrangement) -> How:
        """The options of a relation term whose points are arranged like this."""
        window = self.window if arrangement.windowed else None
        return How(window, self.distance, self.average, self.divergence)


# Weights under which each term begins at about the size of the logits term; their schedule ends them at 0. In trainings
# of a few hundred steps weights under which the gradients begin alike, kept constant, do as well or better, in longer
# ones these. With the CKD authors' (their distil_config.py: pairs 100, triples 1000 for SST-2) the pairs count next to
# nothing, and in short trainings the triples starve the logits: benchmarks/quality.py --tune compares them all.
_CKD: dict[str, float] = {"logits": 1.0, "wr_pair": 3000.0, "wr_triple": 50.0, "ltr_pair": 300.0, "ltr_triple": 50.0}
_DYNABERT = {"width": {"logits": 1.0, "hidden_mse": 0.1}, "depth": {"logits": 1.0, "hidden_mse": 1.0}}  # of its code
_DYNABERT["general"] = _DYNABERT["polish"] = _DYNABERT["depth"]

# Settings that go together: signal -> stage -> fields of `DistillationSettings`. Where a student and its teacher have
# the same hidden size, both papers' signals can work together (benchmarks/quality.py compares them); where they have
# not, `hidden_mse` is left out, and CKD is what remains of ckd+mse.
SIGNALS: dict[str, dict[str, dict[str, Any]]] = {
    "ckd+mse": {stage: {"weights": _CKD | own, "schedule": "linear"} for stage, own in _DYNABERT.items()},
    "ckd": {stage: {"weights": _CKD, "schedule": "linear"} for stage in _DYNABERT},
    "dynabert": {stage: {"weights": weights} for stage, weights in _DYNABERT.items()},
    "logits": {stage: {"weights": {"logits": 1.0}} for stage in _DYNABERT},
}
RELATIONS = "ckd"  # the one that needs nothing but layers that match
