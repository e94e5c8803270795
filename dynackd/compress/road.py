"""The road: what is asked becomes a recipe and a plan, these a supernet, and that a student and a report."""

import time
from pathlib import Path

from dynackd.compress.preparing import prepare
from dynackd.compress.request import Request
from dynackd.compress.telling import tell_plan
from dynackd.errors import UserError
from dynackd.training.recipe import load_recipe
from dynackd.training.runs import RunMode


def compress(request: Request, mode: RunMode, dry_run: bool = False) -> None:
    """All of it. dry_run: what it will cost is measured and told, and nothing is written."""
    started = time.monotonic()
    output = output_of(request)
    prepared = prepare(request, output, 60.0, started)
    tell_plan(request, prepared)
    if not dry_run:
        raise UserError("the road itself is still being written; add --dry-run")


def output_of(request: Request) -> Path:
    """Where results go: as the user says, or the recipe, or by the name of the rows' file."""
    if request.output is not None:
        return request.output
    if request.is_recipe:
        return load_recipe(Path(request.model), request.overrides).output_dir
    return Path("runs") / (Path(str(request.data)).name.partition(".")[0] or "compressed")
