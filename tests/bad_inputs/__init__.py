"""What people get wrong, one module an area, each with a list `CASES`; `tests/test_bad_inputs.py` runs them all.

A case is a command line, what is done to the directory before it, and the whole sentence that it must print. `{d}`
stands for the directory, which holds (see `world` in `tests/test_bad_inputs.py`):

    encoder/     a bare encoder with its tokenizer        train.tsv, validation.tsv   columns sentence, label (0, 1)
    recipe.yaml  of all this, output_dir {d}/run          run/teacher, run/width, run/depth   what the stages made
    fresh.yaml   the same with output_dir {d}/fresh       student/   cut out of run/depth
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def nothing(directory: Path) -> None:
    """The directory as it is."""


@dataclass(frozen=True)
class Bad:
    """One mistake: `name` says what it is, `arguments` the command line, `sentence` what must be printed, whole.

    change: what is done to the directory first. In a sentence `{d}` is the directory, and `...` stands for words that
    are a library's, not ours.
    """

    name: str
    arguments: str
    sentence: str
    change: Callable[[Path], object] = nothing


def all_cases() -> list[tuple[str, Bad]]:
    """(area, case) of every module here."""
    found = []
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        found += [(module, case) for case in importlib.import_module(f"{__name__}.{module}").CASES]
    return found
