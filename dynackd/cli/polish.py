"""`dynackd polish`."""

import argparse
import dataclasses

from dynackd.cli.arguments import SETTLED, add_mode, add_set, add_supernet, overrides_of, run_mode, say_next
from dynackd.cli.size import add_size, size_of


def add_polish(parser: argparse.ArgumentParser) -> None:
    add_supernet(parser)
    add_size(parser)
    add_set(parser)
    add_mode(parser)


def polish(options: argparse.Namespace) -> None:
    from dynackd.report.terminal import say
    from dynackd.training.polish import polish, refuse_polished
    from dynackd.training.recipe import load_recipe

    refuse_polished(options.supernet)
    size = size_of(options)
    recipe = load_recipe(options.supernet / "recipe.yaml", overrides_of(options, SETTLED))
    recipe = dataclasses.replace(recipe, output_dir=options.supernet.resolve().parent)
    directory = polish(options.supernet, size.which, size.name, recipe, run_mode(options))
    say(f"results: {directory}")
    say_next(["dynackd", "export", str(directory)])
