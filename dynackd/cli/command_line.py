"""The command line: parses, calls, prints. A user's mistake is one sentence on stderr and exit code 2."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence

from dynackd.cli.arguments import Parser
from dynackd.cli.commands import COMMANDS
from dynackd.errors import UserError, out_of_memory
from dynackd.system import processes
from dynackd.system.interruption import NAMES, Interrupted, Interruption
from dynackd.system.places import disk_trouble


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0; 2 for a user's mistake, and for what only the user can change, such as too little memory or a full disk; 1 when
    another process of the same training ended; 128 + the signal when interrupted: 130 by Ctrl-C, 143 by SIGTERM.
    """
    typed, interruption = list(sys.argv[1:] if arguments is None else arguments), Interruption()
    with interruption.installed():
        try:
            return _run(typed, interruption)
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            _complain(f"stopped by {NAMES[signal.Signals(number)]}{_way_on(typed, interruption)}")
            return 128 + number
        except UserError as error:
            _complain(str(error))
            return 2
        except BrokenPipeError:
            # `dynackd ... | head`: whoever read this has had enough. Python's own flush at the end must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if (stopped := _swallowed(error)) is not None:  # an import that is stopped is an ImportError
                _complain(f"stopped by {NAMES[signal.Signals(stopped)]}{_way_on(typed, interruption)}")
                return 128 + stopped
            if out_of_memory(error):
                _complain("out of memory: close other programs, or lower data.max_length or the rows at a time")
                return 2
            if processes.lost_the_others(error):
                _complain("another process of this training ended; it said why, or what started it does")
                return 1
            if (trouble := disk_trouble(error)) is not None:
                _complain(f"a file could not be written or read: {trouble}{_way_on(typed, interruption)}")
                return 2
            raise


def _run(typed: list[str], interruption: Interruption) -> int:
    options = _parser().parse_args(typed)
    options.interruption = interruption
    processes.check_launch()
    if COMMANDS[options.command].shared:
        if processes.started_alone_by_accelerate():
            print(f"note: accelerate launch started one process; for several use {processes.LAUNCHER}", flush=True)
    elif not processes.go_alone():
        return 0
    _hide_shard_bars()
    try:
        options.run(options)
    finally:
        processes.leave()
    return 0


def _swallowed(error: BaseException | None) -> int | None:
    """The number of the signal that an error hides which was raised while the signal ended something; else None."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__cause__ or error.__context__
    return error.number if isinstance(error, Interrupted) else None


def _complain(sentence: str) -> None:
    """One sentence on stderr, once however many processes have found the same."""
    for number in NAMES:  # torchrun ends the others as soon as one has
        if signal.getsignal(number) not in (signal.default_int_handler, signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_IGN)
    if processes.is_first_to_say(sentence):
        print(f"dynackd: {sentence}", file=sys.stderr, flush=True)


def _way_on(typed: Sequence[str], interruption: Interruption) -> str:
    """What to do after an interruption: how to go on where something is kept, how to begin again otherwise."""
    if typed and typed[0] in COMMANDS and COMMANDS[typed[0]].kept:
        return f"; what it found is kept; go on with: {shlex.join(processes.again(typed, False))}"
    if typed and not (typed[0] in COMMANDS and COMMANDS[typed[0]].resumable):
        return "; nothing was written"
    resume = interruption.resumable or "--resume" in typed
    command = shlex.join(processes.again(typed, resume))
    return f"; go on with: {command}" if resume else f" before there was anything to keep; begin again with: {command}"


def _hide_shard_bars() -> None:
    """transformers draws a bar for each file that it reads or writes; training keeps its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _parser() -> Parser:
    from dynackd.version import __version__

    parser = Parser(prog="dynackd", description="Train once, cut any size: shrink Transformer encoders.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=f"example: {command.example}",
            allow_abbrev=False,
        )
        command.add(own)
        own.set_defaults(run=command.run, command=name)
    return parser
