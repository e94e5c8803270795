"""What a smaller ONNX file may lose, and whether it is left out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynackd.errors import UserError
from dynackd.onnx.choices import FEWEST_OF_CLASS, MAX_DROP
from dynackd.tasks.parts import ClassScore

Facts = Mapping[str, Any]  # of one file, as export.json has them


@dataclass(frozen=True)
class Gates:
    """How much of the task's main metric a smaller file may lose, in the metric's unit, and how much of any one class's
    own score, where that is asked for."""

    max_drop: float = MAX_DROP
    max_drop_per_class: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("--max-drop", self.max_drop), ("--max-drop-per-class", self.max_drop_per_class)):
            if value is not None and not value >= 0:  # nor NaN
                raise UserError(f"{option} is {value}; it must be 0 or more")

    def check(self, kind: str, classes: Mapping[str, ClassScore]) -> None:
        """Refuse (`UserError`) a demand on classes where the validation data have none."""
        if self.max_drop_per_class is not None and not classes:
            raise UserError(f"--max-drop-per-class: the validation data of this {kind} have no classes; remove it")

    def refusal(self, facts: Facts, metric: str) -> str | None:
        """Why a file is left out, or None."""
        if not math.isfinite(facts["max_abs_diff"]):
            return "its outputs are not finite numbers"
        if not facts.get("drop", 0.0) <= self.max_drop:  # which NaN is not either
            return f"it loses {_amount(facts['drop'])} of {metric}, more than --max-drop {self.max_drop:g}"
        if self.max_drop_per_class is not None and (worst := worst_class(facts)):
            name, drop, count = worst
            if drop > self.max_drop_per_class:
                return (
                    f"it loses {_amount(drop)} of the class '{name}' ({count:,} of it in the validation data), more "
                    f"than --max-drop-per-class {self.max_drop_per_class:g}"
                )
        return None


USUAL = Gates()


def _amount(drop: float) -> str:
    """Four decimals, or two digits of what these would call nothing."""
    return f"{drop:.4f}" if drop >= 0.00005 else f"{drop:.1e}"


def class_drops(before: Mapping[str, ClassScore], after: Mapping[str, ClassScore]) -> dict[str, dict[str, Any]]:
    """By how much each class's score got worse, and how many of it the validation data have."""
    return {name: {"drop": own.score - after[name].score, "count": own.count} for name, own in before.items()}


def worst_class(facts: Facts) -> tuple[str, float, int] | None:
    """(name, drop, count) of the class that loses most, of those with enough in the validation data to decide."""
    drops = facts.get("class_drops", {})
    found = [(name, own["drop"], own["count"]) for name, own in drops.items() if own["count"] >= FEWEST_OF_CLASS]
    return max(found, key=lambda own: own[1], default=None)


def undecided_class(facts: Facts) -> tuple[str, float, int] | None:
    """(name, drop, count) of the class that loses most and more than the worst that decides, but has too few."""
    drops, worst = facts.get("class_drops", {}), worst_class(facts)
    found = [(name, own["drop"], own["count"]) for name, own in drops.items() if own["count"] < FEWEST_OF_CLASS]
    most = max(found, key=lambda own: own[1], default=None)
    return most if most and most[1] > max(0.0, worst[1] if worst else 0.0) else None
