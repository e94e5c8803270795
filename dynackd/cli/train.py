"""The commands that read a recipe."""

import argparse
import json
from pathlib import Path
from typing import Any

from dynackd.cli.arguments import add_mode, add_set, path, run_mode, say_next, set_options


def add_quickstart(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=path, default=Path("runs/quickstart"), metavar="DIR", help="where results go")
    bound = "how long it may take, after the install (default: 9, and more where the machine is too slow for that)"
    parser.add_argument("--max-minutes", type=float, metavar="N", help=bound)
    add_set(parser)
    add_mode(parser)


def quickstart(options: argparse.Namespace) -> None:
    from dynackd.quickstart import quickstart

    quickstart(options.output, run_mode(options), options.set, options.max_minutes)


def finetune(options: argparse.Namespace) -> None:
    _stage(options, "finetune")
    say_next(["dynackd", "train-width", str(options.recipe), *set_options(options.set)])


def train_general(options: argparse.Namespace) -> None:
    from dynackd.report.terminal import say

    _, directory = _stage(options, "train_general")
    say(f"next: in the recipe of a task, model: {directory}")


def train_width(options: argparse.Namespace) -> None:
    _stage(options, "train_width")
    say_next(["dynackd", "train-depth", str(options.recipe), *set_options(options.set)])


def train_depth(options: argparse.Namespace) -> None:
    from dynackd.subnet import SubnetSpec

    recipe, directory = _stage(options, "train_depth")
    spec = recipe.grid.nearest(SubnetSpec(0.5, 0.75))  # the supernet's own recipe has all else that an export needs
    say_next(["dynackd", "export", str(directory), "--width", f"{spec.width}", "--depth", f"{spec.depth}"])


def _stage(options: argparse.Namespace, name: str) -> tuple[Any, Path]:
    """The recipe of a stage, and the directory of its result."""
    from dynackd.report.terminal import say
    from dynackd.training import stages
    from dynackd.training.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    directory = getattr(stages, name)(recipe, run_mode(options))
    say(f"results: {directory}")
    return recipe, directory


def augment(options: argparse.Namespace) -> None:
    from dynackd.report.terminal import console, say
    from dynackd.training.augment import augment, overrides
    from dynackd.training.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    directory, about = augment(recipe, run_mode(options))
    console.print(f"{about['rows']['original']:,} rows and {about['rows']['new']:,} new ones")
    say(f"results: {directory}")
    following = [*options.set, *overrides(recipe)]  # the later one counts
    say_next(["dynackd", "train-width", str(options.recipe), *set_options(following)])


def schema(options: argparse.Namespace) -> None:
    from dynackd.training.schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=1, ensure_ascii=False))
