"""The command line: parses, calls, prints. A user's mistake is one sentence on stderr and exit code 2."""

import argparse
import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from dynackd.errors import UserError, nearest, out_of_memory
from dynackd.system import processes
from dynackd.system.interruption import NAMES, Interrupted, Interruption
from dynackd.system.places import at_home, disk_trouble, occupied_output, refuse_existing, refuse_json, write_json


class _Parser(argparse.ArgumentParser):
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
    if options.command in SEVERAL_PROCESSES:
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


def _complain(sentence: str) -> None:
    """One sentence on stderr, once however many processes have found the same."""
    for number in NAMES:  # torchrun ends the others as soon as one has
        if signal.getsignal(number) not in (signal.default_int_handler, signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_IGN)
    if processes.is_first_to_say(sentence):
        print(f"dynackd: {sentence}", file=sys.stderr, flush=True)


def _way_on(typed: Sequence[str], interruption: Interruption) -> str:
    """What to do after an interruption: how to go on where something is kept, how to begin again otherwise."""
    if typed and typed[0] not in RESUMABLE:
        return "; nothing was written"
    resume = interruption.resumable or "--resume" in typed
    command = shlex.join(processes.again(typed, resume))
    return f"; go on with: {command}" if resume else f" before there was anything to keep; begin again with: {command}"


def _hide_shard_bars() -> None:
    """transformers draws a bar for each file that it reads or writes; training keeps its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _parser() -> _Parser:
    from dynackd.version import __version__

    parser = _Parser(prog="dynackd", description="Train once, cut any size: shrink Transformer encoders.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (help_text, example, add, run) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=f"example: {example}",
            allow_abbrev=False,
        )
        add(command)
        command.set_defaults(run=run, command=name)
    return parser


def _path(text: str) -> Path:
    return Path(at_home(text))


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=_path, metavar="RECIPE", help="a YAML recipe")
    _add_set(parser)
    _add_mode(parser)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what the output directory holds")


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field of the recipe, such as training.learning_rate=3e-5; may be repeated",
    )


def _add_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of an unfinished run")
    _add_overwrite(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=_path, metavar="FILE", help="also write the table as JSON")


def _add_supernet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "supernet", type=_path, nargs="?", default=Path(), metavar="SUPERNET", help="a supernet directory (default: .)"
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_supernet(parser)
    parser.add_argument("--length", type=int, help="tokens at which FLOPs are counted (default: data.max_length)")
    parser.add_argument("--teacher", type=at_home, metavar="DIR", help="the teacher's directory, if it has moved")
    _add_set(parser)
    _add_json(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    from dynackd.subnet import multiplier

    _add_supernet(parser)
    for name, what in (("width", "heads and neurons"), ("depth", "layers")):
        text = f"share of {what} to keep, such as 0.5 or 2/3 (default: 1.0)"
        parser.add_argument(f"--{name}", type=partial(multiplier, name), default=1.0, metavar="X", help=text)
    parser.add_argument(
        "--output", type=_path, metavar="DIR", help="the student directory (default: students/wW-dD beside SUPERNET)"
    )
    _add_overwrite(parser)
    _add_targets(parser)
    _add_set(parser)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    from dynackd.deploy.export import FASTEST, MAX_DROP
    from dynackd.onnx.graphs import GRAPHS
    from dynackd.onnx.quantize import VARIANTS

    for name, variant in VARIANTS.items():
        parser.add_argument(f"--{name}", action="append_const", dest="variants", const=name, help=variant.help)
    drop = f"leave out such a file if it loses more than this of the task's metric (default: {MAX_DROP})"
    parser.add_argument("--max-drop", type=float, default=MAX_DROP, metavar="X", help=drop)
    parser.add_argument(
        "--validation",
        action=argparse.BooleanOptionalAction,
        help="measure the metric on the recipe's validation data (default: where an option above needs it)",
    )
    parser.add_argument("--compat", action="store_true", help="a stock checkpoint, padded, that needs no dynackd")
    parser.add_argument("--with-code", action="store_true", help="add the file for trust_remote_code=True")
    kinds = [*GRAPHS, FASTEST]
    parser.add_argument("--graph", default="plain", choices=kinds, help="how ONNX is written (default: plain)")
    parser.add_argument("--static-length", type=int, metavar="N", help="fix the ONNX input's length in tokens")
    parser.add_argument("--static-batch", type=int, metavar="N", help="fix the ONNX input's rows")
    cut = "cut texts at N tokens (default: data.max_length of the supernet's recipe)"
    parser.add_argument("--max-length", type=int, metavar="N", help=cut)
    parser.add_argument("--measure", action="store_true", help="measure latencies here for the model card")


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    what = "student or model directories, or .onnx files"
    parser.add_argument("paths", type=at_home, nargs="+", metavar="PATH", help=what)
    parser.add_argument("--runtime", nargs="+", default=["torch", "onnxruntime"], help="torch, onnxruntime or both")
    parser.add_argument("--threads", type=int, default=1, help="threads of each model (default: 1)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="rows at a time (default: 1)")
    parser.add_argument("--length", type=int, nargs="+", default=[128], help="tokens in a row (default: 128)")
    parser.add_argument("--repeats", type=int, default=100, help="runs that count, of each row (default: 100)")
    parser.add_argument("--warmup", type=int, default=10, help="runs before that do not count (default: 10)")
    _add_json(parser)


def _add_quickstart(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=_path, default=Path("runs/quickstart"), metavar="DIR", help="where results go")
    _add_set(parser)
    _add_mode(parser)


def _mode(options: argparse.Namespace) -> Any:
    from dynackd.training.runs import RunMode

    return RunMode(options.resume, options.overwrite, options.interruption)


def _with_recipe(command: str) -> Callable[[argparse.Namespace, Any, Path], list[str]]:
    """The next step is a command with the same recipe and the same overrides."""

    def following(options: argparse.Namespace, _recipe: Any, _directory: Path) -> list[str]:
        return ["dynackd", command, str(options.recipe), *_overrides(options.set)]

    return following


def _export_following(_options: argparse.Namespace, recipe: Any, directory: Path) -> list[str]:
    """The next step is to export a size of the grid, which the supernet's own recipe has all else for."""
    from dynackd.subnet import SubnetSpec

    spec = recipe.grid.nearest(SubnetSpec(0.5, 0.75))
    return ["dynackd", "export", str(directory), "--width", f"{spec.width}", "--depth", f"{spec.depth}"]


def _overrides(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _say_next(command: Sequence[str]) -> None:
    """A command to paste."""
    from dynackd.report.terminal import say

    say(f"next: {shlex.join(command)}")


def _stage_command(
    name: str, following: Callable[[argparse.Namespace, Any, Path], list[str]]
) -> Callable[[argparse.Namespace], None]:
    """A command that runs one stage of a recipe and names the next step."""

    def run(options: argparse.Namespace) -> None:
        from dynackd.report.terminal import say
        from dynackd.training import stages
        from dynackd.training.recipe import load_recipe

        recipe = load_recipe(options.recipe, options.set)
        directory = getattr(stages, name)(recipe, _mode(options))
        say(f"results: {directory}")
        _say_next(following(options, recipe, directory))

    return run


def _run_augment(options: argparse.Namespace) -> None:
    from dynackd.report.terminal import console, say
    from dynackd.training.augment import augment, overrides
    from dynackd.training.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    directory, about = augment(recipe, _mode(options))
    console.print(f"{about['rows']['original']:,} rows and {about['rows']['new']:,} new ones")
    say(f"results: {directory}")
    following = [*options.set, *overrides(recipe)]  # the later one counts
    _say_next(["dynackd", "train-width", str(options.recipe), *_overrides(following)])


def _run_evaluate(options: argparse.Namespace) -> None:
    from dynackd.report.terminal import grid_table, show
    from dynackd.supernet.network import check_supernet
    from dynackd.training.evaluating import evaluate
    from dynackd.training.recipe import load_recipe

    _at_least_one(options, "length")
    if options.json:
        refuse_json(options.json, "subnetworks")
    check_supernet(options.supernet)
    recipe = load_recipe(options.supernet / "recipe.yaml", options.set)
    evaluation = evaluate(options.supernet, recipe, options.length, options.teacher)
    show(grid_table(evaluation))
    if options.json:
        write_json(options.json, evaluation)


def _run_export(options: argparse.Namespace) -> None:
    from dynackd.deploy.export import STUDENT
    from dynackd.subnet import SubnetSpec
    from dynackd.supernet.network import check_supernet

    _at_least_one(options, "max_length")
    spec, export_options = SubnetSpec(options.width, options.depth), _export_options(options)
    check_supernet(options.supernet)
    max_length = options.max_length or _trained_max_length(options)
    export_options = dataclasses.replace(export_options, max_length=max_length)
    name = f"w{spec.width:g}-d{spec.depth:g}"
    output = options.output or options.supernet.resolve().parent / "students" / name
    with occupied_output(output):
        refuse_existing(output, STUDENT, options.overwrite, {"supernet": options.supernet})
        _export(options, spec, export_options, output)


def _export(options: argparse.Namespace, spec: Any, export_options: Any, output: Path) -> None:
    from dynackd.deploy.export import export_student
    from dynackd.report.terminal import console, say
    from dynackd.subnet import describe
    from dynackd.supernet.network import load_supernet

    supernet, tokenizer = load_supernet(options.supernet)
    console.print(describe(supernet.resolve(spec), supernet.geometry))
    trained = supernet.grid.trained(spec, supernet.geometry)
    if trained is not None and trained != spec:
        console.print(f"the same network as ({trained}), which was trained")
    if trained is None:
        nearest_spec = supernet.grid.nearest(spec)
        console.print(f"warning: ({spec}) was not trained; the nearest trained one is ({nearest_spec})")
    validation = _export_validation(options, supernet, tokenizer)
    facts = _export_facts(options, supernet.resolve(spec))
    about = export_student(supernet, tokenizer, spec, output, options.overwrite, facts, export_options, validation)
    console.print(f"{about['parameters']:,} parameters")
    if compat := about.get("compat"):
        cost = compat["flops"] / about["flops"]["student"]
        console.print(f"stock checkpoint: {compat['parameters']:,} parameters, {cost:.2f} times the student's FLOPs")
    for file, own in about["files"].items():
        if "max_abs_diff" in own:
            change = f", metric {0.0 - own['drop']:+.4f}" if "drop" in own else ""
            size = own["size_bytes"] / 1e6
            console.print(f"{file}: {size:.1f} MB, differs from torch by {own['max_abs_diff']:.1e}{change}")
    say(f"results: {output}")
    for file, own in about.get("refused", {}).items():
        raise UserError(f"{file} was left out of {output}: {own['reason']}; the other files are there")
    _say_next(["dynackd", "benchmark", str(output)])


def _export_options(options: argparse.Namespace) -> Any:
    from dynackd.deploy.export import ExportOptions
    from dynackd.onnx.graphs import Fixed

    return ExportOptions(
        variants=tuple(dict.fromkeys(options.variants or ())),
        graph=options.graph,
        fixed=Fixed(options.static_batch, options.static_length),
        max_drop=options.max_drop,
        compat=options.compat,
        with_code=options.with_code,
        measure=options.measure,
    )


def _trained_max_length(options: argparse.Namespace) -> int | None:
    """Where the texts were cut in the training, in tokens, as far as the supernet's directory says."""
    from dynackd.training.recipe import load_recipe

    recipe = options.supernet / "recipe.yaml"
    return load_recipe(recipe, options.set).data.max_length if recipe.is_file() else None


def _export_validation(options: argparse.Namespace, supernet: Any, tokenizer: Any) -> Any:
    """The validation rows of the supernet's recipe, or None. Data that are named must be there, and so must those
    that an 8- or 16-bit file is judged by."""
    from dynackd.deploy.validation import load_validation
    from dynackd.report.terminal import console
    from dynackd.training.recipe import load_recipe

    wanted = options.validation if options.validation is not None else bool(options.variants or options.set)
    if not wanted:
        if options.variants:
            console.print("warning: without validation data nothing says what the smaller files lose")
        return None
    try:
        recipe = load_recipe(options.supernet / "recipe.yaml", options.set)
        data = dataclasses.replace(recipe.data, max_length=options.max_length or recipe.data.max_length)
        return load_validation(recipe.task, data, supernet.model, tokenizer, options.static_length)
    except UserError as error:
        raise UserError(f"no validation data: {error} (--set data.validation=FILE, or --no-validation)") from error


def _export_facts(options: argparse.Namespace, resolved: Any) -> dict[str, Any]:
    """What the supernet's directory knows about its data, its teacher's licence and this sub-network's metrics."""
    from dynackd.deploy.card import licence_of
    from dynackd.deploy.export import known_metrics
    from dynackd.training.recipe import load_recipe

    facts: dict[str, Any] = {}
    if (options.supernet / "recipe.yaml").is_file():
        recipe = load_recipe(options.supernet / "recipe.yaml")
        facts["task"], facts["data"] = recipe.task.name, _data_name(recipe.data)
        facts["trained_max_length"] = recipe.data.max_length
        if licence := licence_of([recipe.teacher, recipe.output_dir / "teacher", recipe.model]):
            facts["licence"] = licence
    if options.validation is None and not options.variants:
        facts |= known_metrics(options.supernet, resolved)
    return facts


def _data_name(data: Any) -> str:
    """A data set as a card names it, without the places of this machine."""
    return "/".join(part for part in data.hub if part) if data.hub else Path(str(data.train)).name


def _run_benchmark(options: argparse.Namespace) -> None:
    from dynackd.measure.latency import benchmark
    from dynackd.report.terminal import benchmark_table, progress_bar, show

    for name in ("threads", "batch_size", "length", "repeats"):
        _at_least_one(options, name)
    if options.json:
        refuse_json(options.json, "rows")
    with progress_bar() as progress:
        bar = progress.add_task("measuring", total=None)
        result = benchmark(
            options.paths,
            options.runtime,
            options.threads,
            options.batch_size,
            options.length,
            options.repeats,
            options.warmup,
            lambda total: progress.update(bar, total=total, advance=1),
        )
    show(benchmark_table(result))
    if options.json:
        write_json(options.json, result)


def _run_quickstart(options: argparse.Namespace) -> None:
    from dynackd.quickstart import quickstart

    quickstart(options.output, _mode(options), options.set)


def _at_least_one(options: argparse.Namespace, name: str) -> None:
    value = getattr(options, name)
    for number in value if isinstance(value, list) else [value]:
        if number is not None and number < 1:
            raise UserError(f"--{name.replace('_', '-')} is {number}; it must be 1 or more")


# Commands that several processes can share; the others are one process's work.
SEVERAL_PROCESSES = ("finetune", "train-width", "train-depth")
# Commands that have --resume.
RESUMABLE = (*SEVERAL_PROCESSES, "augment", "quickstart")

# name -> (help, example, arguments, function)
COMMANDS: dict[
    str, tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]
] = {
    "quickstart": (
        "run everything once, from a pretrained encoder to exported students, without a download",
        "dynackd quickstart",
        _add_quickstart,
        _run_quickstart,
    ),
    "finetune": (
        "fine-tune a bare encoder, to be the teacher",
        "dynackd finetune recipes/glue/sst2.yaml --set training.learning_rate=3e-5",
        _add_recipe,
        _stage_command("finetune", _with_recipe("train-width")),
    ),
    "augment": (
        "make more training rows by replacing words, and label them with the teacher",
        "dynackd augment recipes/glue/sst2.yaml --set augmentation.copies=20",
        _add_recipe,
        _run_augment,
    ),
    "train-width": (
        "rewire the teacher and train all widths of the supernet",
        "dynackd train-width recipes/glue/sst2.yaml",
        _add_recipe,
        _stage_command("train_width", _with_recipe("train-depth")),
    ),
    "train-depth": (
        "train all widths and depths, each taught by the width stage's network of its width",
        "dynackd train-depth recipes/glue/sst2.yaml",
        _add_recipe,
        _stage_command("train_depth", _export_following),
    ),
    "evaluate": (
        "evaluate every sub-network of a supernet, and its teacher",
        "dynackd evaluate runs/sst2/depth --json evaluation.json",
        _add_evaluate,
        _run_evaluate,
    ),
    "export": (
        "slice one size out of a supernet, as a torch and an ONNX model",
        "dynackd export runs/sst2/depth --width 0.5 --depth 0.75 --int8 --output student",
        _add_export,
        _run_export,
    ),
    "benchmark": (
        "measure the latency of students and teachers",
        "dynackd benchmark runs/sst2/teacher student --length 32 128 --json benchmark.json",
        _add_benchmark,
        _run_benchmark,
    ),
}
