"""`dynackd export`."""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynackd.cli.arguments import (
    OF_TRAINING,
    SETTLED,
    add_overwrite,
    add_set,
    add_supernet,
    at_least_one,
    overrides_of,
    path,
    say_next,
)
from dynackd.cli.size import add_size, size_of
from dynackd.errors import UserError
from dynackd.onnx.choices import COVERAGE, FASTEST, FEWEST_OF_CLASS, GRAPHS, MAX_DROP, VARIANTS
from dynackd.system.places import occupied_output, refuse_existing


def add_export(parser: argparse.ArgumentParser) -> None:
    add_supernet(parser)
    add_size(parser)
    output = "the student directory (default: students/wW-dD, or the name of FILE, beside SUPERNET)"
    parser.add_argument("--output", type=path, metavar="DIR", help=output)
    add_overwrite(parser)
    _add_targets(parser)
    add_set(parser)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    for name, text in VARIANTS.items():
        parser.add_argument(f"--{name}", action="append_const", dest="variants", const=name, help=text)
    drop = f"leave out such a file if it loses more than this of the task's metric (default: {MAX_DROP})"
    parser.add_argument("--max-drop", type=float, default=MAX_DROP, metavar="X", help=drop)
    per_class = (
        "also if it loses more than this of any one class's own score, such as its recall; classes with fewer than "
        f"{FEWEST_OF_CLASS} in the validation data do not decide (default: not asked)"
    )
    parser.add_argument("--max-drop-per-class", type=float, metavar="X", help=per_class)
    parser.add_argument(
        "--validation",
        action=argparse.BooleanOptionalAction,
        help="measure the metric on the recipe's validation data (default: where an option above needs it)",
    )
    _add_vocabulary(parser)
    parser.add_argument("--compat", action="store_true", help="a stock checkpoint, padded, that needs no dynackd")
    parser.add_argument("--with-code", action="store_true", help="add the file for trust_remote_code=True")
    kinds = [*GRAPHS, FASTEST]
    parser.add_argument("--graph", default="plain", choices=kinds, help="how ONNX is written (default: plain)")
    parser.add_argument("--static-length", type=int, metavar="N", help="fix the ONNX input's length in tokens")
    parser.add_argument("--static-batch", type=int, metavar="N", help="fix the ONNX input's rows")
    cut = "cut texts at N tokens (default: data.max_length of the supernet's recipe)"
    parser.add_argument("--max-length", type=int, metavar="N", help=cut)
    parser.add_argument("--measure", action="store_true", help="measure latencies here for the model card")


def _add_vocabulary(parser: argparse.ArgumentParser) -> None:
    texts = (
        "keep the words of these texts alone: a .txt file with a text in each line, any other file of rows like the "
        "recipe's training rows, or 'train' for these themselves"
    )
    parser.add_argument("--vocabulary", metavar="TEXTS", help=texts)
    share = f"as many of them as make up this share of all tokens of the texts (default: {COVERAGE})"
    parser.add_argument("--coverage", type=float, metavar="X", help=share)
    parser.add_argument("--vocabulary-size", type=int, metavar="N", help="so many tokens instead, the most frequent")


def export(options: argparse.Namespace) -> None:
    from dynackd.deploy.export import STUDENT

    at_least_one(options, "max_length")
    overrides_of(options, SETTLED | OF_TRAINING)
    _check_vocabulary(options)
    export_options, size = _export_options(options), size_of(options)
    max_length = options.max_length or _trained_max_length(options)
    export_options = dataclasses.replace(export_options, max_length=max_length)
    output = options.output or options.supernet.resolve().parent / "students" / size.name
    with occupied_output(output):
        refuse_existing(output, STUDENT, options.overwrite, {"supernet": options.supernet, "spec": options.spec})
        _export(options, size.which, export_options, output)


def _export(options: argparse.Namespace, which: Any, export_options: Any, output: Path) -> None:
    from dynackd.deploy.card import known_metrics
    from dynackd.deploy.export import export_student
    from dynackd.report.terminal import console, say
    from dynackd.supernet.network import load_supernet

    supernet, tokenizer = load_supernet(options.supernet)
    _say_size(supernet, which)
    validation = _export_validation(options, supernet, tokenizer)
    facts = _export_facts(options)
    if validation is None and options.validation is None:
        facts |= known_metrics(options.supernet, supernet, supernet.resolve(which))
    export_options = dataclasses.replace(export_options, vocabulary=_vocabulary(options, supernet))
    about = export_student(supernet, tokenizer, which, output, options.overwrite, facts, export_options, validation)
    console.print(f"{about['parameters']:,} parameters")
    if compat := about.get("compat"):
        cost = compat["flops"] / about["flops"]["student"]
        console.print(f"stock checkpoint: {compat['parameters']:,} parameters, {cost:.2f} times the student's FLOPs")
    _say_vocabulary(about.get("vocabulary"))
    for file, own in about["files"].items():
        if "max_abs_diff" in own:
            change = f", metric {0.0 - own['drop']:+.4f}" if "drop" in own else ""
            size = f"{own['size_bytes'] / 1e6:.1f} MB"
            if whole := own.get("whole_size_bytes"):
                size += f" ({whole / 1e6:.1f} with all words)"
            console.print(f"{file}: {size}, differs from torch by {own['max_abs_diff']:.1e}{change}")
            _say_classes(own)
            _say_processor(own)
    say(f"results: {output}")
    if left_out := list(_left_out(about, output)):
        raise UserError(". ".join(left_out))
    say_next(["dynackd", "benchmark", str(output)])


def _left_out(about: Mapping[str, Any], output: Path) -> Iterator[str]:
    """A sentence for whatever was asked for and loses too much."""
    if reason := about.get("vocabulary", {}).get("refused"):
        yield f"the smaller vocabulary was left out of {output}: {reason}; the student there has all words"
    for file, own in about.get("refused", {}).items():
        yield f"{file} was left out of {output}: {own['reason']}; the other files are there"


def _say_vocabulary(facts: Mapping[str, Any] | None) -> None:
    """How many words are left, and what was proved and measured of that."""
    from dynackd.deploy.card import compared_told
    from dynackd.report.terminal import console

    if not facts:
        return
    held, left_out = facts["held_out"], "refused" in facts
    console.print(
        f"vocabulary{' (left out)' if left_out else ''}: {facts['size']:,} of {facts['tokens']:,} tokens, which are "
        f"{facts['coverage']:.2%} of those of {facts['counted']:,} texts"
    )
    console.print(
        f"  of {held['texts']:,} held-out texts {held['differ']:.1%} become other tokens, {held['tokens_after']:.2f} a "
        f"text instead of {held['tokens_before']:.2f}; {compared_told(held)}"
    )
    if "unknown" in held:
        console.print(f"  in {held['unknown']:.1%} of them more is unknown than before")
    if "drop" in facts:
        console.print(f"  metric {0.0 - facts['drop']:+.4f}")
        _say_classes(facts)


def _say_classes(facts: Mapping[str, Any]) -> None:
    """Which class a smaller file loses most of, and one that loses more but has too few rows to decide."""
    from dynackd.deploy.gates import undecided_class, worst_class
    from dynackd.report.terminal import console

    if (worst := worst_class(facts)) and worst[1] > 0:
        console.print(f"  of its classes '{worst[0]}' loses most, {worst[1]:.4f} of {worst[2]:,}")
    if few := undecided_class(facts):
        console.print(f"  note: '{few[0]}' loses {few[1]:.4f}, but of {few[2]:,} alone, too few to decide")


def _say_processor(facts: Mapping[str, Any]) -> None:
    """On which processor a file with 8-bit products was measured, if it matters."""
    from dynackd.report.terminal import console

    if on := facts.get("measured_on"):
        what = {True: "with", False: "without", None: "that does not say whether it has"}[on["vnni"]]
        console.print(
            f"  measured on a processor {what} VNNI; x86 processors without it may give other results: --int7 is safe"
        )


def _say_size(supernet: Any, which: Any) -> None:
    """What will be cut, and whether it was trained."""
    from dynackd.report.terminal import console
    from dynackd.subnet import SubnetSpec, describe, describe_layers

    subnet, geometry = supernet.resolve(which), supernet.geometry
    named = isinstance(which, SubnetSpec)
    console.print(describe(which, subnet, geometry) if named else describe_layers(subnet, geometry))
    trained = supernet.trained(subnet)
    if trained is None:
        share = which if named else subnet.shares(geometry)
        told = f"({which})" if named else "this network"
        console.print(f"warning: {told} was not trained; the nearest trained one is ({supernet.grid.nearest(share)})")
    elif trained != which:
        console.print(f"the same network as ({trained}), which was trained")


def _export_options(options: argparse.Namespace) -> Any:
    from dynackd.deploy.export import ExportOptions
    from dynackd.deploy.gates import Gates
    from dynackd.onnx.graphs import Fixed

    return ExportOptions(
        variants=tuple(dict.fromkeys(options.variants or ())),
        graph=options.graph,
        fixed=Fixed(options.static_batch, options.static_length),
        gates=Gates(options.max_drop, options.max_drop_per_class),
        compat=options.compat,
        with_code=options.with_code,
        measure=options.measure,
    )


def _check_vocabulary(options: argparse.Namespace) -> None:
    """Refuse (UserError) options that do not go together, before anything is loaded."""
    given = [name for name in ("coverage", "vocabulary_size") if getattr(options, name) is not None]
    if given and options.vocabulary is None:
        raise UserError(f"--{given[0].replace('_', '-')} is about a smaller vocabulary; add --vocabulary TEXTS")
    if len(given) > 1:
        raise UserError("--coverage and --vocabulary-size exclude each other; give one of them")
    if options.coverage is not None and not 0 < options.coverage <= 1:
        raise UserError(f"--coverage {options.coverage:g} is outside (0, 1]")
    at_least_one(options, "vocabulary_size")


def _vocabulary(options: argparse.Namespace, supernet: Any) -> Any:
    """The words that are kept; None for all."""
    from dynackd.data.model_labels import labels_of
    from dynackd.deploy.texts import read_texts
    from dynackd.deploy.vocabulary import Wish
    from dynackd.training.recipe import load_recipe

    if options.vocabulary is None:
        return None
    file = options.supernet / "recipe.yaml"
    recipe = load_recipe(file, options.set) if file.is_file() else None
    task, data = (recipe.task, recipe.data) if recipe else (None, None)
    texts = read_texts(options.vocabulary, task, data, labels_of(supernet.model.config))
    return Wish(texts, COVERAGE if options.coverage is None else options.coverage, options.vocabulary_size)


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

    smaller = options.variants or options.vocabulary
    wanted = options.validation if options.validation is not None else bool(smaller or options.set)
    if not wanted:
        if smaller:
            console.print("warning: without validation data nothing says what the smaller files lose")
        return None
    missing = "validation"
    try:
        recipe = load_recipe(options.supernet / "recipe.yaml", options.set)
        missing = "train" if recipe.data.validation_share else missing
        data = dataclasses.replace(recipe.data, max_length=options.max_length or recipe.data.max_length)
        return load_validation(recipe.task, data, supernet.model, tokenizer, options.static_length)
    except UserError as error:
        raise UserError(f"no validation data: {error} (--set data.{missing}=FILE, or --no-validation)") from error


def _export_facts(options: argparse.Namespace) -> dict[str, Any]:
    """What the supernet's directory knows about its data and its teacher's licence."""
    from dynackd.deploy.card import facts_of_training
    from dynackd.training.recipe import load_recipe

    if not (options.supernet / "recipe.yaml").is_file():
        return {}
    recipe = load_recipe(options.supernet / "recipe.yaml")
    models = [recipe.teacher, recipe.output_dir / "teacher", recipe.model]
    return facts_of_training(recipe.task, recipe.data, models)
