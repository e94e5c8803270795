"""What lies in the output directory of a compress: what was asked and planned, how far it is, and whose it is."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynackd.compress.request import Request
from dynackd.data.sources import OTHERS
from dynackd.errors import UserError, shown
from dynackd.system.places import (
    at_home,
    holds,
    manifest_of,
    read_json,
    remove,
    strangers,
    write_json,
)
from dynackd.training.recipe import Recipe, load_recipe
from dynackd.training.runs import RunMode, inputs_of

COMPRESSED = "a compressed model and how it came to be"  # what its manifest calls it
RECIPE = "recipe.yaml"
STATE, SUMMARY, BENCHMARK, REPORT = "compress.json", "summary.json", "benchmark.json", "report.html"
POLISH = "polish.json"
REPORTS = (REPORT, "report.png", "report.svg")
FILES = [STATE, SUMMARY, BENCHMARK, POLISH, RECIPE, *REPORTS]
STAGES = {"finetune": "teacher", "width": "width", "depth": "depth"}  # and the directory of each one's result
TRAINED = [part for name in STAGES.values() for part in (name, f"{name}-checkpoints")]
SEARCH, STUDENT, POLISHED_NAME = "search", "student", "chosen"
POLISHED = f"polished-{POLISHED_NAME}"
CHOSEN = (SEARCH, STUDENT, POLISHED, f"{POLISHED}-checkpoints")  # what depends on the budget
# What may be asked otherwise of a supernet that is trained already, and where its rows lie, which are compared.
OF_A_SIZE = ("budget", "setting")
OF_THE_CHOICE = (*OF_A_SIZE, "max_minutes")
OF_THE_ROWS = {"data": "data.train", "validation": "data.validation", "unlabelled": f"data.{OTHERS}"}
OPTIONS = {"model": "the model", "overrides": "--set"}  # others are called as their options are


@dataclass(frozen=True)
class State:
    """What compress.json says: the request, whether the teacher is trained first, and the seconds that were planned."""

    request: Mapping[str, Any]
    finetunes: bool
    planned_s: float
    effort: Mapping[str, Any]

    def write(self, output: Path) -> None:
        content = {"request": self.request, "finetunes": self.finetunes, "planned_s": self.planned_s,
                   "effort": self.effort}  # fmt: skip
        write_json(output / STATE, content)


def read_state(output: Path) -> State | None:
    """How far the run in `output` is; None where none has begun."""
    if not (output / STATE).is_file():
        return None
    content = read_json(output / STATE)
    try:
        return State(content["request"], content["finetunes"], content["planned_s"], content["effort"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{output / STATE} is damaged; begin again with --overwrite") from error


def refuse_output(output: Path, mode: RunMode) -> None:
    """`UserError` where `output` is not a compress's own, or holds one that the mode does not allow for."""
    if not holds(output):
        return
    manifest = manifest_of(output)
    if manifest is None or manifest.what != COMPRESSED:
        raise UserError(f"{output} holds what no dynackd compress wrote; name another directory with --output")
    if (output / STATE).is_file() and not (mode.resume or mode.overwrite):
        raise UserError(f"{output} holds a run already; add --resume to go on with it or --overwrite to begin again")


def refuse_other_request(output: Path, state: State, request: Request) -> None:
    """`UserError` where a run that is gone on with was asked for something else than the student's size."""
    _refuse_other_rows(output, state, request)
    before, now = ({**own, "overrides": _said(own)[0]} for own in (state.request, request.to_dict()))
    other = {key for key in now if before.get(key) != now[key]} - {*OF_THE_CHOICE}
    changed = [key for key in now if key in other and not (key in OF_THE_ROWS and before.get(key) and now[key])]
    if changed:
        told = ", ".join(f"{OPTIONS.get(key, '--' + key)} was {_told(before.get(key), now[key])}, is "
                         f"{_told(now[key], before.get(key))}" for key in changed)  # fmt: skip
        raise UserError(f"the run in {output} was asked for something else: {told}; repeat that, or --overwrite it")


def _refuse_other_rows(output: Path, state: State, request: Request) -> None:
    """`UserError` for an override that names rows where there were none: nothing has moved."""
    data = load_recipe(output / RECIPE).content.get("data") or {}
    for override in moved_rows(state, request):
        key = override.partition("=")[0].strip()
        if not data.get(key.removeprefix("data.")):
            raise UserError(
                f"the run in {output} was asked for something else: it had no {key}; leave that out, or --overwrite it"
            )


def _said(request: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The overrides of a request: those that do not say where rows lie, and those that do."""
    parts: tuple[list[str], list[str]] = [], []
    for override in request.get("overrides") or ():
        parts[override.partition("=")[0].strip() in OF_THE_ROWS.values()].append(override)
    return parts


def _told(value: Any, other: Any) -> str:
    """A value; of a list what the other has not."""
    if value is None:
        return "not said"
    both = isinstance(value, list) and isinstance(other, list)
    only = [own for own in value if own not in other] if both else value
    return "without it" if both and not only else shown(only)


def moved_rows(state: State, request: Request) -> list[str]:
    """`key=value` for a recipe whose rows lie elsewhere now."""
    now = request.to_dict()
    named = [f"{key}={json.dumps(now[name], ensure_ascii=False)}" for name, key in OF_THE_ROWS.items()
             if now[name] and state.request.get(name) not in (None, now[name])]  # fmt: skip
    return named + [own for own in _said(now)[1] if own not in _said(state.request)[1]]


def refuse_missing_rows(recipe: Recipe, request: Request) -> None:
    """`UserError` where a file of rows is not where it was, before hours are spent on what goes without it."""
    options = {key: f"--set {key}=FILE" if request.is_recipe else f"--{name} FILE" for name, key in OF_THE_ROWS.items()}
    for key, source in inputs_of(recipe, STAGES["depth"]).items():
        option = next((options[own] for own in options if key.startswith(own)), None)
        if option and not Path(str(source)).exists():
            raise UserError(f"{source}: no such file; put it back, or say with {option} where it is now")


def refuse_inputs_within(output: Path, inputs: Iterable[tuple[str, str]]) -> None:
    """`UserError` where `clear` would delete one of the command's own inputs, (what it is, path or name)."""
    for name in (*TRAINED, *CHOSEN, f"{SEARCH}-kept"):
        place = Path(os.path.realpath(output / name))
        for what, source in inputs:
            own = Path(os.path.realpath(at_home(source)))
            if own.exists() and (own == place or place in own.parents):
                raise UserError(f"--overwrite would delete {output / name}, and with it the {what} {source} that this "
                                f"command reads; name another directory with --output")  # fmt: skip


def refuse_strangers(output: Path, names: Iterable[str]) -> None:
    """`UserError` where something in what is to be deleted is not dynackd's."""
    for name in names:
        if left := strangers(output / name):
            raise UserError(f"{output / name} holds {left[0]}, which dynackd did not write; move that away first")


def clear(output: Path) -> None:
    """Delete what an earlier run left, for --overwrite. `UserError` where something in it is not dynackd's."""
    refuse_strangers(output, (*TRAINED, *CHOSEN, f"{SEARCH}-kept"))
    (output / STATE).unlink(missing_ok=True)  # from here on nothing has begun
    for name in (*TRAINED, *CHOSEN):
        remove(output / name)
    forget_choice(output)


def forget_choice(output: Path) -> None:
    """Delete what was chosen for a budget, the summary first. `UserError`, and nothing is deleted, where something in
    it is not dynackd's."""
    refuse_strangers(output, CHOSEN)
    forget_student(output)
    remove(output / SEARCH)


def forget_student(output: Path) -> None:
    """Delete what was made of a choice; what the search found stays."""
    of_it = [name for name in CHOSEN if name != SEARCH]
    refuse_strangers(output, of_it)
    for name in (SUMMARY, BENCHMARK, POLISH, *REPORTS):
        (output / name).unlink(missing_ok=True)
    for name in of_it:
        remove(output / name)
