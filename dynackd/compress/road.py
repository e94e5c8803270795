"""The road: what is asked becomes a recipe and a plan, these a supernet, and that a student and a report.

Every step leaves a result that is whole or none, so that a run that was killed goes on at the first step that is
missing; the stages themselves go on from their checkpoints.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynackd.compress.choosing import benchmarked, exported, found_before, searched
from dynackd.compress.polishing import polished, source_of
from dynackd.compress.preparing import prepare
from dynackd.compress.request import Request
from dynackd.compress.state import (
    CHOSEN,
    COMPRESSED,
    FILES,
    OF_A_SIZE,
    OF_THE_ROWS,
    POLISHED,
    RECIPE,
    SEARCH,
    STAGES,
    STUDENT,
    SUMMARY,
    State,
    clear,
    forget_student,
    moved_rows,
    read_state,
    refuse_inputs_within,
    refuse_missing_rows,
    refuse_other_request,
    refuse_output,
    refuse_strangers,
)
from dynackd.compress.summary import make_summary
from dynackd.compress.telling import TITLES, tell_plan, tell_result
from dynackd.compress.writing import write_recipe
from dynackd.errors import UserError
from dynackd.report.html import write_report
from dynackd.report.terminal import console, say
from dynackd.search.settings import Effort
from dynackd.system.places import mark, occupied_run, write_json
from dynackd.training import stages
from dynackd.training.recipe import Recipe, load_recipe
from dynackd.training.runs import RunMode, drop, inputs_of
from dynackd.training.teachers import refuse_other_result

TRAINED = {"finetune": stages.finetune, "width": stages.train_width, "depth": stages.train_depth}


def tell_cost(request: Request) -> None:
    """What it will take is measured and told; nothing is written."""
    tell_plan(request, prepare(request, output_of(request), time.monotonic()))


def compress(request: Request, mode: RunMode) -> dict[str, Any]:
    """All of it, or what is left of it; returns the summary."""
    started, output = time.monotonic(), output_of(request)
    refuse_output(output, mode)
    with occupied_run(output, [*STAGES.values(), SEARCH, POLISHED, STUDENT]):
        refuse_output(output, mode)
        before = read_state(output) if mode.resume else None
        state = _go_on(request, output, before) if before else _begin(request, output, mode, started)
        mode.interruption.resumable = True
        summary, report = _walk(request, output, state, mode, started)
        tell_result(summary, output, report, gone_on=before is not None)
        return summary


def output_of(request: Request) -> Path:
    """Where results go: as the user says, or the recipe, or by the name of the rows' file."""
    if request.output is not None:
        return request.output
    if request.is_recipe:
        return load_recipe(Path(request.model), request.overrides).output_dir
    return Path("runs") / (Path(str(request.data)).name.partition(".")[0] or "compressed")


def read_by(request: Request) -> Iterator[tuple[str, str]]:
    """What a command reads: (what it is, path or name)."""
    if request.is_recipe:
        recipe = load_recipe(Path(request.model), request.overrides)
        named = inputs_of(recipe, STAGES["depth"])
    else:
        named = {"model": request.model, "--teacher": request.teacher, "--data": request.data}
        named |= {"--validation": request.validation}
        named |= {f"--unlabelled {i}": file for i, file in enumerate(request.unlabelled, start=1)}
    yield from ((what, str(source)) for what, source in named.items() if source)


# --- what is asked of this directory ---------------------------------------------------------------------------------


def _begin(request: Request, output: Path, mode: RunMode, started: float) -> State:
    """Everything that comes before the first stage; the file that says that a run has begun comes last."""
    if mode.overwrite:
        refuse_inputs_within(output, list(read_by(request)))
    prepared = prepare(request, output, started)
    tell_plan(request, prepared)
    if mode.overwrite:
        clear(output)
    mark(output, COMPRESSED, FILES)
    write_recipe(request, prepared, output)
    state = State(request.to_dict(), prepared.finetunes, prepared.plan.seconds, dataclasses.asdict(prepared.effort))
    state.write(output)
    say(f"recipe: {output / RECIPE}")
    return state


def _go_on(request: Request, output: Path, state: State) -> State:
    """The state of a run that is gone on with. What was chosen for another budget stays until there is a new choice."""
    refuse_other_request(output, state, request)
    recipe = load_recipe(output / RECIPE, moved_rows(state, request))
    refuse_missing_rows(recipe, request)
    if _is_chosen(request, state, recipe, output):
        if (output / SUMMARY).is_file():
            raise UserError(f"{output} holds a finished run; another budget or --overwrite runs it again")
    else:
        refuse_strangers(output, CHOSEN)
    return state


def _is_chosen(request: Request, state: State, recipe: Recipe, output: Path) -> bool:
    """Whether what lies there after the search is of this budget."""
    now = request.to_dict()
    asked = all(state.request.get(key) == now[key] for key in OF_A_SIZE)
    return asked and bool(found_before(request, recipe, output / SEARCH))


def _rows_of(state: State) -> dict[str, Any]:
    """Where the rows lay when the recipe was written."""
    return {name: state.request.get(name) for name in (*OF_THE_ROWS, "overrides")}


# --- the steps -------------------------------------------------------------------------------------------------------


def _walk(
    request: Request, output: Path, state: State, mode: RunMode, started: float
) -> tuple[dict[str, Any], Path]:
    """The summary, and where the report lies."""
    recipe = load_recipe(output / RECIPE, moved_rows(state, request))
    recipe = dataclasses.replace(recipe, output_dir=output)  # as the user wrote it
    names = [name for name in STAGES if name != "finetune" or state.finetunes]
    steps, effort = len(names) + 4, Effort(**state.effort)
    for number, name in enumerate(names, start=1):
        console.rule(f"{number}/{steps} {TITLES[name]}")
        _train(recipe, name, mode)
    console.rule(f"{steps - 3}/{steps} choosing a size")
    chosen = _is_chosen(request, state, recipe, output)
    found = searched(request, recipe, output / SEARCH, effort)
    if not chosen:
        forget_student(output)  # of an earlier choice
        dataclasses.replace(state, request={**request.to_dict(), **_rows_of(state)}).write(output)
    console.rule(f"{steps - 2}/{steps} {TITLES['polish']}")
    polish = polished(recipe, found, effort, mode)
    console.rule(f"{steps - 1}/{steps} exporting")
    about = exported(recipe, found, source_of(recipe, polish), output / STUDENT)
    table = benchmarked(request, recipe, output)
    console.rule(f"{steps}/{steps} the report")
    seconds = {"planned": round(state.planned_s), "taken": round(time.monotonic() - started)}
    summary = make_summary(request, recipe, found, polish, about, table, seconds)
    report = write_report(output)
    write_json(output / SUMMARY, summary)
    return summary, report


def _train(recipe: Recipe, name: str, mode: RunMode) -> None:
    """A stage, passed over where it is finished."""
    directory = recipe.output_dir / STAGES[name]
    if not directory.is_dir():
        # What was there before --overwrite is gone already.
        TRAINED[name](recipe, dataclasses.replace(mode, overwrite=False))
        return
    refuse_other_result(recipe, STAGES[name])
    drop(recipe.output_dir / f"{STAGES[name]}-checkpoints")  # of a run that was killed while it cleared up
    console.print(f"{directory} is finished; passed over")
