"""How long everything takes, and what is trained in a bounded time: arithmetic on what was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dynackd.errors import UserError

SANDWICH = "sandwich(1)"
LEAST_STEPS = 8  # of a stage, or it learns nothing
# Of the time for training, what each stage may take where that is not enough for all; what one leaves goes to others.
SHARES = {"finetune": 0.25, "width": 0.25, "depth": 0.3, "polish": 0.2}


@dataclass(frozen=True)
class StageCost:
    """A stage before it is planned: the steps of an epoch, the steps that are wanted, and the seconds of a step by
    sampler. said: whether the user says how many."""

    stage: str
    epoch_steps: int
    step_s: Mapping[str, float]
    wanted: int
    said: bool = False


@dataclass(frozen=True)
class StagePlan:
    """What a stage trains: its steps, and in how many epochs these are made."""

    stage: str
    steps: int
    epochs: float
    step_s: float

    @property
    def seconds(self) -> float:
        return self.steps * self.step_s


@dataclass(frozen=True)
class Plan:
    """What is trained and how long all takes. share: of the training rows that are used. other_s: all that is no
    training. changed: what the bound changed, in words. usual_s: the seconds of all that is wanted, without a bound, at
    the sampler that is taken."""

    stages: tuple[StagePlan, ...]
    sampler: str
    other_s: float
    share: float = 1.0
    changed: tuple[str, ...] = ()
    usual_s: float | None = None

    @property
    def seconds(self) -> float:
        return self.other_s + sum(own.seconds for own in self.stages)


def make_plan(
    costs: Sequence[StageCost],
    other_s: float,
    sampler: str,
    seconds: float | None,
    gives_way: bool = False,
    spent_s: float = 0.0,
) -> Plan:
    """What is trained in so many seconds; None: whatever it takes. spent_s: of the bound, on planning.

    Where all that is wanted takes too long, first fewer sub-networks are trained at each step, then steps are left out
    by `SHARES`, and below one epoch of every stage rows are left out. Where nothing could be learned the bound
    `gives_way`, or it is a `UserError`.
    """
    whole = _planned(costs, other_s, sampler, {own.stage: own.wanted for own in costs})
    if seconds is None or whole.seconds <= seconds:
        return whole
    few = _planned(costs, other_s, SANDWICH, {own.stage: own.wanted for own in costs})
    fewer, told = sampler, tuple[str, ...]()
    if few.seconds < whole.seconds:
        fewer, told = SANDWICH, (f"sampler {SANDWICH} instead of {sampler}",)
    if few.seconds <= seconds:
        return replace(few, changed=told, usual_s=whole.seconds)
    usual_s = min(few.seconds, whole.seconds)
    steps = _fitting(costs, fewer, seconds - other_s)
    if steps is None and gives_way:
        steps = {own.stage: min(LEAST_STEPS, own.wanted) for own in costs}
    if steps is None:
        whole_share = sum(SHARES[own.stage] for own in costs)
        needed = [min(LEAST_STEPS, own.wanted) * own.step_s[fewer] / SHARES[own.stage] for own in costs]
        least = other_s + max(needed) * whole_share
        enough = math.ceil((least + spent_s) / 60 + 0.5)
        raise UserError(
            f"--max-minutes is too short here: {max(0, seconds) / 60:.1f} minutes are left, but even with hardly any "
            f"training {math.ceil(least / 6 + 1) / 10:g} are needed; give it {enough}, or "
            "a smaller model, shorter texts (--set data.max_length=32) or fewer rows to validate on (--set "
            "data.validation_rows=500)"
        )
    plan = _planned(costs, other_s, fewer, steps)
    longest = max(own.epochs for own in plan.stages)
    if longest >= 1:
        return replace(plan, changed=(*told, "fewer epochs"), usual_s=usual_s)
    stages = tuple(replace(own, epochs=own.epochs / longest) for own in plan.stages)
    changed = (*told, "fewer epochs", "fewer rows")
    return replace(plan, stages=stages, share=longest, changed=changed, usual_s=usual_s)


def _planned(costs: Sequence[StageCost], other_s: float, sampler: str, steps: Mapping[str, int]) -> Plan:
    stages = tuple(
        StagePlan(own.stage, steps[own.stage], steps[own.stage] / own.epoch_steps, own.step_s[sampler]) for own in costs
    )
    return Plan(stages, sampler, other_s)


def _fitting(costs: Sequence[StageCost], sampler: str, seconds: float) -> dict[str, int] | None:
    """The steps of each stage that fit into so many seconds of training, by `SHARES`; None where they are too few."""
    steps: dict[str, int] = {}
    left, open_ = seconds, list(costs)
    while open_:
        whole = sum(SHARES[own.stage] for own in open_)
        allowed = {own.stage: left * SHARES[own.stage] / whole / own.step_s[sampler] for own in open_}
        sated = [own for own in open_ if own.wanted <= allowed[own.stage]]
        if not sated:
            steps |= {own.stage: math.floor(allowed[own.stage]) for own in open_}
            break
        for own in sated:
            steps[own.stage] = own.wanted
            left -= own.wanted * own.step_s[sampler]
            open_.remove(own)
    few = any(steps[own.stage] < min(LEAST_STEPS, own.wanted) for own in costs)
    return None if few else steps
