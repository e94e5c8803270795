"""Everything once, on a text set that needs no download: `dynackd compress` with a recipe and rows of our own."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dynackd.compress.request import Request
from dynackd.compress.road import compress
from dynackd.compress.state import COMPRESSED, FILES, refuse_output
from dynackd.data.docstrings import write_docstring_dataset
from dynackd.errors import UserError
from dynackd.report.terminal import console
from dynackd.system.places import mark, new_directory, occupied_run
from dynackd.training.recipe import load_recipe
from dynackd.training.runs import RunMode

ROWS_PER_LABEL = 300
VALIDATION_ROWS_PER_LABEL = 70
RECIPE = "quickstart.yaml"
DATA, TEXTS = "data", "the quickstart's texts"  # in the output, and what their manifest calls them
MINUTES = 9.0


def quickstart(
    output: Path, mode: RunMode, overrides: Sequence[str] = (), max_minutes: float | None = None
) -> dict[str, Any]:
    """Run all of it into `output` and tell what came out, in at most so many minutes; by default in nine, or what it
    takes at least on a slower machine. Resumed, it goes on where it was."""
    data = output / DATA
    places = {"output_dir": output, "data.train": data / "train.tsv", "data.validation": data / "validation.tsv"}
    # A text in JSON's quotes is one in YAML's.
    own = [f"{key}={json.dumps(str(place), ensure_ascii=False)}" for key, place in places.items()]
    file = Path(str(files("dynackd.recipes") / RECIPE))
    recipe = load_recipe(file, [*own, *overrides])
    if recipe.content["output_dir"] != str(output):
        raise UserError("--set output_dir is not possible for a quickstart; --output says where its results go")
    if recipe.teacher is not None:
        raise UserError("--set teacher is not possible for a quickstart, which trains its own; run your own recipe")
    recipe.check_machine()
    request = Request(
        str(file),
        max_minutes=MINUTES if max_minutes is None else max_minutes,
        gives_way=max_minutes is None,
        output=output,
        overrides=(*own, *overrides),
    )
    refuse_output(output, mode)
    with occupied_run(output, [DATA]):
        refuse_output(output, mode)
        _write_rows(output, data, mode)
        return compress(request, mode)


def _write_rows(output: Path, data: Path, mode: RunMode) -> None:
    if mode.overwrite or not (data / "validation.tsv").is_file():
        console.print("reading the docstrings of the installed packages")
        mark(output, COMPRESSED, FILES)
        with new_directory(data, TEXTS, overwrite=True) as temporary:
            write_docstring_dataset(temporary, ROWS_PER_LABEL, VALIDATION_ROWS_PER_LABEL)
