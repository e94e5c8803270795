"""What a user asks of the whole road."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynackd.compress.guess import Said
from dynackd.errors import UserError, shown
from dynackd.search.settings import Budget, Setting

KEEP = 0.97  # of the full network's metric, where nothing is asked
RECIPES = (".yaml", ".yml")
MOST_MINUTES = 1e6
ARGUMENTS = {"model": "the MODEL", "teacher": "--teacher", "data.train": "--data", "output_dir": "--output"}


@dataclass(frozen=True)
class Request:
    """model: a model, or a recipe in its place. teacher: who is imitated, where that is another. data, validation,
    unlabelled: files of rows. budget: what the student must meet, by default the fastest that keeps `KEEP` of the
    metric. max_minutes: for everything together; gives_way: whether more is taken where a machine is too slow for that.
    overrides: `key=value` for the recipe. Raises `UserError`."""

    model: str
    data: str | None = None
    validation: str | None = None
    said: Said = field(default_factory=Said)
    budget: Budget = field(default_factory=lambda: Budget(keep=KEEP))
    setting: Setting = field(default_factory=Setting)
    max_minutes: float | None = None
    gives_way: bool = False
    output: Path | None = None
    overrides: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.max_minutes is not None and not 0 < self.max_minutes <= MOST_MINUTES:
            raise UserError(f"--max-minutes is {shown(self.max_minutes)}; it must be above 0")
        if self.is_recipe:
            given = {"--teacher": self.teacher, "--data": self.data, "--validation": self.validation,
                     "--unlabelled": self.unlabelled, "--kind": self.said.kind, "--text": self.said.text,
                     "--label": self.said.label}  # fmt: skip
            for option, said in given.items():
                if said:
                    raise UserError(f"{option} is in the recipe {self.model} already; remove it, or use --set")
        elif self.data is None:
            raise UserError("--data is missing: name a file of rows to train on, such as train.csv")
        else:
            self._refuse_said_twice()

    def _refuse_said_twice(self) -> None:
        """What is guessed and planned goes by the arguments, and would be another's than what is trained."""
        for override in self.overrides:
            if (key := override.partition("=")[0].strip()) in ARGUMENTS:
                raise UserError(f"--set {key}: without a recipe {ARGUMENTS[key]} says that")

    @property
    def is_recipe(self) -> bool:
        return Path(self.model).suffix.lower() in RECIPES

    def to_dict(self) -> dict[str, Any]:
        """As it is remembered: a run that is gone on with must be asked for the same."""
        return {
            "model": self.model,
            "teacher": self.teacher,
            "data": self.data,
            "validation": self.validation,
            "unlabelled": list(self.unlabelled) or None,
            "kind": self.said.kind,
            "text": list(self.said.text),
            "label": list(self.said.label),
            "budget": self.budget.to_dict(),
            "setting": self.setting.to_dict(),
            "max_minutes": self.max_minutes,
            "overrides": list(self.overrides),
        }
