"""`dynackd export`."""

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from dynackd.cli.arguments import add_overwrite, add_set, add_supernet, at_least_one, path, say_next
from dynackd.errors import UserError
from dynackd.onnx.choices import FASTEST, GRAPHS, MAX_DROP, VARIANTS
from dynackd.subnet import multiplier
from dynackd.system.places import occupied_output, refuse_existing


def add_export(parser: argparse.ArgumentParser) -> None:
    add_supernet(parser)
    for name, what in (("width", "heads and neurons"), ("depth", "layers")):
        text = f"share of {what} to keep, such as 0.5 or 2/3 (default: 1.0)"
        parser.add_argument(f"--{name}", type=partial(multiplier, name), default=1.0, metavar="X", help=text)
    parser.add_argument(
        "--output", type=path, metavar="DIR", help="the student directory (default: students/wW-dD beside SUPERNET)"
    )
    add_overwrite(parser)
    _add_targets(parser)
    add_set(parser)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    for name, text in VARIANTS.items():
        parser.add_argument(f"--{name}", action="append_const", dest="variants", const=name, help=text)
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


def export(options: argparse.Namespace) -> None:
    from dynackd.deploy.export import STUDENT
    from dynackd.subnet import SubnetSpec
    from dynackd.supernet.network import check_supernet

    at_least_one(options, "max_length")
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
    say_next(["dynackd", "benchmark", str(output)])


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
