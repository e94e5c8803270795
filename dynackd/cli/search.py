"""`dynackd search`."""

import argparse
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dynackd.cli.arguments import add_json, add_overwrite, add_set, add_supernet, path, say_next
from dynackd.errors import UserError
from dynackd.system.places import refuse_json, write_json

# An option of the budget -> what it says, and the letters that may follow a number.
BUDGET = {
    "max_latency_ms": "the median of a forward pass, as measured on this machine",
    "max_params": "parameters, such as 10M",
    "max_size_mb": "the file's size in 10^6 bytes",
    "max_flops": "floating-point operations of one row, such as 500M or 1.2G",
    "min_metric": "the least of the task's main metric, on rows that the search did not see",
}
LETTERS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def _number(text: str) -> float:
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kMG]?)\s*", text)
    try:
        number = float(found[1]) * LETTERS[found[2]] if found else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UserError(f"{text!r} is no number; write one such as 5, 0.5, 10M or 1.2G")
    return number


def add_search(parser: argparse.ArgumentParser) -> None:
    add_supernet(parser)
    budget = parser.add_argument_group("budget", "what the sub-network must meet; at least one")
    for name, text in BUDGET.items():
        budget.add_argument(f"--{name.replace('_', '-')}", type=_number, metavar="X", help=text)
    setting = parser.add_argument_group("setting", "how it will run")
    setting.add_argument("--length", type=int, metavar="N", help="tokens in a row (default: data.max_length)")
    setting.add_argument("--batch-size", type=int, default=1, metavar="N", help="rows at a time (default: 1)")
    setting.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the model (default: 1)")
    setting.add_argument("--runtime", default="onnxruntime", help="onnxruntime (default) or torch")
    setting.add_argument("--int8", action="store_true", help="as the int8 file that export --int8 writes")
    setting.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    effort = parser.add_argument_group("effort", "how long to look")
    count = "sub-networks that are evaluated (default: 300)"
    effort.add_argument("--evaluations", type=int, default=300, metavar="N", help=count)
    rows = "held-out training rows on which these are compared; four times as many for the choice (default: 256)"
    effort.add_argument("--rows", type=int, default=256, metavar="N", help=rows)
    samples = "sizes that are exported and timed to learn what latency depends on (default: 32)"
    effort.add_argument("--samples", type=int, default=32, metavar="N", help=samples)
    effort.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same result (default: 0)")
    again = "measure anew, also what an earlier search in the same setting has measured"
    effort.add_argument("--remeasure", action="store_true", help=again)
    parser.add_argument("--output", type=path, metavar="DIR", help="results (default: search, beside SUPERNET)")
    add_overwrite(parser)
    add_set(parser)
    add_json(parser)


def search(options: argparse.Namespace) -> None:
    from dynackd.search.settings import Budget, Effort, Setting

    budget = Budget(**{name: getattr(options, name) for name in BUDGET})
    setting = Setting(**_fields(options, ("length", "batch_size", "threads", "runtime", "int8", "device")))
    effort = Effort(**_fields(options, ("evaluations", "rows", "samples", "seed", "remeasure")))
    if options.json:
        refuse_json(options.json, "choice")
    _search(options, budget, setting, effort)


def _fields(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _search(options: argparse.Namespace, budget: Any, setting: Any, effort: Any) -> None:
    from dynackd.report.terminal import console, say, show
    from dynackd.search.searching import search
    from dynackd.search.told import front_table, sentences
    from dynackd.supernet.network import check_supernet
    from dynackd.training.recipe import load_recipe

    check_supernet(options.supernet)
    recipe = load_recipe(options.supernet / "recipe.yaml", options.set)
    with _bars() as told:
        found = search(
            options.supernet, budget, setting, effort, recipe, options.output, options.overwrite, on_progress=told
        )
    show(front_table(found))
    for sentence in sentences(found):
        console.print(sentence)
    if options.json:
        write_json(options.json, found)
    say(f"results: {found['output']}")
    say_next(["dynackd", "export", str(options.supernet), "--spec", f"{found['output']}/best.json",
              *(["--int8"] if setting.int8 else [])])


@contextmanager
def _bars() -> Iterator[Any]:
    """What shows the progress of one thing after another, each with a bar and a time to go of its own."""
    from dynackd.report.terminal import progress

    with ExitStack() as stack:
        now: dict[str, Any] = {}

        def told(what: str, done: int, total: int) -> None:
            if now.get("what") != what:
                stack.close()
                now["what"], now["bar"] = what, stack.enter_context(progress(what, total))
            now["bar"](completed=done, total=total)

        yield told
