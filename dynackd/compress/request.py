"""What a user asks of the whole road."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynackd.compress.guess import Said
from dynackd.errors import UserError, shown
from dynackd.search.settings import Budget, Setting

KEEP = 0.97  # of the teacher's metric, where nothing is asked
RECIPES = (".yaml", ".yml")


@dataclass(frozen=True)
class Request:
    """model: a model, or a recipe in its place. data, validation: files of rows. budget: what the student may cost,
    None for no bound but `keep`, the share of the teacher's metric that it must keep. max_minutes: for everything
    together. overrides: `key=value` for the recipe. Raises `UserError`."""

    model: str
    data: str | None = None
    validation: str | None = None
    said: Said = field(default_factory=Said)
    budget: Budget | None = None
    keep: float | None = None
    setting: Setting = field(default_factory=Setting)
    max_minutes: float | None = None
    output: Path | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, value, most in (("--keep", self.keep, 1.0), ("--max-minutes", self.max_minutes, 1e6)):
            if value is not None and not 0 < value <= most:
                raise UserError(f"{option} is {shown(value)}; it must be above 0" + " and at most 1" * (most == 1))
        if self.keep is not None and self.budget is not None and self.budget.min_metric is not None:
            raise UserError("--keep and --min-metric say the same in two ways; give one of them")
        if self.is_recipe:
            given = {"--data": self.data, "--validation": self.validation, "--kind": self.said.kind,
                     "--text": self.said.text, "--label": self.said.label}  # fmt: skip
            for option, said in given.items():
                if said:
                    raise UserError(f"{option} is in the recipe {self.model} already; remove it, or use --set")
        elif self.data is None:
            raise UserError("--data is missing: name a file of rows to train on, such as train.csv")

    @property
    def is_recipe(self) -> bool:
        return Path(self.model).suffix.lower() in RECIPES

    @property
    def least_share(self) -> float | None:
        """The share of the teacher's metric that must be kept, where that is asked for, or nothing else is."""
        return self.keep or (None if self.budget else KEEP)

    def to_dict(self) -> dict[str, Any]:
        """As it is remembered: a run that is gone on with must be asked for the same."""
        return {
            "model": self.model,
            "data": self.data,
            "validation": self.validation,
            "kind": self.said.kind,
            "text": list(self.said.text),
            "label": list(self.said.label),
            "budget": self.budget.to_dict() if self.budget else {},
            "keep": self.least_share,
            "setting": self.setting.to_dict(),
            "max_minutes": self.max_minutes,
            "overrides": list(self.overrides),
        }
