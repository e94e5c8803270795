"""The commands that measure: evaluate and benchmark."""

import argparse

from dynackd.cli.arguments import OF_TRAINING, SETTLED, add_json, add_set, add_supernet, at_least_one, overrides_of
from dynackd.system.places import at_home, refuse_json, write_json


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_supernet(parser)
    parser.add_argument("--length", type=int, help="tokens at which FLOPs are counted (default: data.max_length)")
    parser.add_argument("--teacher", type=at_home, metavar="DIR", help="the teacher's directory, if it has moved")
    add_set(parser)
    add_json(parser)


def evaluate(options: argparse.Namespace) -> None:
    from dynackd.report.terminal import grid_table, show
    from dynackd.supernet.network import check_supernet
    from dynackd.training.evaluating import evaluate
    from dynackd.training.recipe import load_recipe

    at_least_one(options, "length")
    if options.json:
        refuse_json(options.json, "subnetworks")
    check_supernet(options.supernet)
    recipe = load_recipe(options.supernet / "recipe.yaml", overrides_of(options, SETTLED | OF_TRAINING))
    evaluation = evaluate(options.supernet, recipe, options.length, options.teacher)
    show(grid_table(evaluation))
    if options.json:
        write_json(options.json, evaluation)


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    what = "model directories (or package:NAME/PATH) or .onnx files; the first is what the others are compared with"
    parser.add_argument("paths", nargs="+", metavar="PATH", help=what)
    runtimes = "torch, torch-compile, onnxruntime, openvino (default: torch onnxruntime)"
    parser.add_argument("--runtime", nargs="+", default=["torch", "onnxruntime"], help=runtimes)
    parser.add_argument("--files", action="store_true", help="measure every ONNX file of a directory")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads of each model (default: 1)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="rows at a time (default: 1)")
    parser.add_argument("--length", type=int, nargs="+", default=[128], help="tokens in a row (default: 128)")
    parser.add_argument("--repeats", type=int, default=100, help="runs that count, of each row (default: 100)")
    parser.add_argument("--warmup", type=int, default=10, help="runs before that do not count (default: 10)")
    add_json(parser)


def benchmark(options: argparse.Namespace) -> None:
    from dynackd.data.origins import resolve_model
    from dynackd.measure.latency import benchmark
    from dynackd.measure.shares import with_shares
    from dynackd.measure.sources import other_files
    from dynackd.report.terminal import benchmark_tables, progress, say, show

    for name in ("threads", "batch_size", "length", "repeats"):
        at_least_one(options, name)
    if options.json:
        refuse_json(options.json, "rows")
    paths = [resolve_model(path) for path in options.paths]
    every = [file for path in paths for file in (path, *(other_files(path) if options.files else []))]
    with progress("measuring") as told:
        result = benchmark(
            every,
            options.runtime,
            options.threads,
            options.batch_size,
            options.length,
            options.repeats,
            options.warmup,
            lambda total: told(total=total, advance=1),
        )
    result = with_shares(result, paths[0])
    for table in benchmark_tables(result):
        show(table)
    for sentence in result["left_out"]:
        say(sentence)
    if options.json:
        write_json(options.json, result)
