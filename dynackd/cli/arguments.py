"""The parser, and the arguments that several commands share."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynackd.errors import UserError, nearest
from dynackd.system.places import at_home


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors that name the nearest known option."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nothing is left over for the parser above, which does not know this one's options."""
        known, unknown = super().parse_known_args(args, namespace)
        for argument in unknown:
            if argument.startswith("-") and argument != "--":
                name = argument.partition("=")[0]
                options = [option for action in self._actions for option in action.option_strings]
                self.error(f"unknown option {name}{nearest(name, options) or f'; see {self.prog} --help'}")
        if unknown:
            self.error(f"{shlex.join(unknown)} is one argument too many; see {self.prog} --help")
        return known, []

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        raise UserError(f"{command}: {message}" if command else message)


def path(text: str) -> Path:
    return Path(at_home(text))


def add_nothing(parser: argparse.ArgumentParser) -> None:
    """For a command that needs no more than its name."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=path, metavar="RECIPE", help="a YAML recipe")
    add_set(parser)
    add_mode(parser)


def add_supernet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "supernet", type=path, nargs="?", default=Path(), metavar="SUPERNET", help="a supernet directory (default: .)"
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field of the recipe, such as training.learning_rate=3e-5; may be repeated",
    )


# Sections of a recipe that a command on a finished supernet does not read, and what they settled.
SETTLED = {"grid": "how the supernet was trained", "importance": "how the supernet was rewired",
           "model": "what the supernet began as", "join": "how the supernet began",
           "output_dir": "where the training's results went", "augmentation": "what dynackd augment reads"}  # fmt: skip
OF_TRAINING = dict.fromkeys(("distillation", "training", "stages", "teacher"), "how the supernet was trained")


def overrides_of(options: argparse.Namespace, settled: Mapping[str, str]) -> list[str]:
    """What `--set` says; `UserError` for a section in `settled`, which would change nothing."""
    for override in options.set:
        section = override.partition("=")[0].strip().partition(".")[0]
        if section in settled:
            raise UserError(
                f"--set {override}: {section} says {settled[section]}, and dynackd {options.command} does not read it"
            )
    return list(options.set)


def add_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of an unfinished run")
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what the output directory holds")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=path, metavar="FILE", help="also write the table as JSON")


def at_least_one(options: argparse.Namespace, name: str) -> None:
    value = getattr(options, name)
    for number in value if isinstance(value, list) else [value]:
        if number is not None and number < 1:
            raise UserError(f"--{name.replace('_', '-')} is {number}; it must be 1 or more")


def run_mode(options: argparse.Namespace) -> Any:
    from dynackd.training.runs import RunMode

    return RunMode(options.resume, options.overwrite, options.interruption)


def set_options(overrides: Sequence[str]) -> list[str]:
    """Overrides of a recipe as they are typed."""
    return [part for override in overrides for part in ("--set", override)]


def say_next(command: Sequence[str]) -> None:
    """A command to paste."""
    from dynackd.report.terminal import say

    say(f"next: {shlex.join(command)}")
