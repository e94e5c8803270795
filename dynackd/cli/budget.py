"""The options that say what a sub-network may cost and must reach, of every command that looks for one."""

import argparse
import math
import re
from typing import Any

from dynackd.errors import UserError

# A field of `dynackd.search.settings.Budget` -> what its option says.
BUDGET = {
    "max_latency_ms": "the median of a forward pass, as measured on this machine",
    "max_params": "parameters, embeddings and head included, such as 10M",
    "max_size_mb": "the file's size in 10^6 bytes",
    "max_flops": "floating-point operations of one row, such as 500M or 1.2G",
    "min_metric": "the least of the task's main metric, on rows that the search did not see",
    "keep": "instead of that the share of the full network's metric on these rows, such as 0.97",
}
LETTERS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}  # that may follow a number


def add_budget(parser: argparse.ArgumentParser, help: str) -> None:
    group = parser.add_argument_group("budget", help)
    for name, text in BUDGET.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=_number, metavar="X", help=text)


def budget_of(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked, by field; None for what was not."""
    return {name: getattr(options, name) for name in BUDGET}


def _number(text: str) -> float:
    found = re.fullmatch(r"\s*([+-]?[0-9.]+(?:e[+-]?[0-9]+)?)\s*([kMG]?)\s*", text)
    try:
        number = float(found[1]) * LETTERS[found[2]] if found else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UserError(f"{text!r} is no number; write one such as 5, 0.5, 10M or 1.2G")
    return number
