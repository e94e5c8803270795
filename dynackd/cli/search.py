"""`dynackd search`."""

import argparse
from typing import Any

from dynackd.cli.arguments import (
    OF_TRAINING,
    SETTLED,
    add_json,
    add_overwrite,
    add_set,
    add_supernet,
    overrides_of,
    path,
    say_next,
)
from dynackd.cli.budget import add_budget, budget_of
from dynackd.search.settings import Budget, Effort, Setting
from dynackd.system.places import refuse_json, write_json

EFFORT = {
    "evaluations": "sub-networks that are evaluated",
    "rows": "held-out training rows on which these are compared; four times as many for the choice",
    "samples": "sizes (of each hidden size) that are exported and timed to learn what latency depends on",
    "seed": "same seed, same result",
}

def add_search(parser: argparse.ArgumentParser) -> None:
    add_supernet(parser)
    add_budget(parser, "what the sub-network must meet; at least one")
    setting = parser.add_argument_group("setting", "how it will run")
    setting.add_argument("--length", type=int, metavar="N", help="tokens in a row (default: data.max_length)")
    setting.add_argument("--batch-size", type=int, default=1, metavar="N", help="rows at a time (default: 1)")
    setting.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the model (default: 1)")
    setting.add_argument("--runtime", default="onnxruntime", help="onnxruntime (default) or torch")
    setting.add_argument("--int8", action="store_true", help="as the int8 file that export --int8 writes")
    setting.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    effort = parser.add_argument_group("effort", "how long to look")
    for name, text in EFFORT.items():
        usual = getattr(Effort, name)
        effort.add_argument(f"--{name}", type=int, default=usual, metavar="N", help=f"{text} (default: {usual})")
    again = "measure anew, also what an earlier search in the same setting has measured"
    effort.add_argument("--remeasure", action="store_true", help=again)
    parser.add_argument("--output", type=path, metavar="DIR", help="results (default: search, beside SUPERNET)")
    add_overwrite(parser)
    add_set(parser)
    add_json(parser)


def search(options: argparse.Namespace) -> None:
    budget = Budget(**budget_of(options))
    setting = Setting(**_fields(options, ("length", "batch_size", "threads", "runtime", "int8", "device")))
    effort = Effort(**_fields(options, ("evaluations", "rows", "samples", "seed", "remeasure")))
    if options.json:
        refuse_json(options.json, "choice")
    _search(options, budget, setting, effort)


def _fields(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _search(options: argparse.Namespace, budget: Any, setting: Any, effort: Any) -> None:
    from dynackd.report.terminal import console, progress_of_steps, say, show
    from dynackd.search.searching import search
    from dynackd.search.told import front_table, sentences
    from dynackd.supernet.network import check_supernet
    from dynackd.training.recipe import load_recipe

    check_supernet(options.supernet)
    recipe = load_recipe(options.supernet / "recipe.yaml", overrides_of(options, SETTLED | OF_TRAINING))
    with progress_of_steps() as told:
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
