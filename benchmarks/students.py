"""The parity table of a supernet's students: every size x every ONNX file, against torch and against the teacher.

    python benchmarks/students.py runs/sst2/depth --json students.json

For each size the students are exported, compared with the torch student on the recipe's validation rows, and timed
in turns with the teacher, in torch and in ONNX Runtime: the ratios are to the teacher in the same minutes.
`--graph plain dynamo fused` compares the ways of writing a graph (see dynackd/onnx/graphs.py). One or two minutes
a size.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.validation import Outputs, Validation, load_validation, torch_predictor
from dynackd.errors import UserError
from dynackd.measure.latency import benchmark
from dynackd.onnx.graphs import GRAPHS, ONNX_FILE, OnnxModel, parity
from dynackd.onnx.quantize import VARIANTS
from dynackd.report.terminal import machine_name
from dynackd.students.loading import load_student
from dynackd.subnet import SubnetSpec
from dynackd.supernet.checkpoints import load_model
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system.places import write_json
from dynackd.tasks.task import main_metric
from dynackd.training.recipe import load_recipe

FILES = {"fp32": ONNX_FILE, **{name: variant.file for name, variant in VARIANTS.items()}}
TEACHERS = ("torch", "onnxruntime")
console = Console(width=130, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    logging.disable_progress_bar()
    try:
        result = measure(options)
    except UserError as error:
        print(f"students: {error}", file=sys.stderr)
        return 2
    console.print(table(result, options.lengths))
    if options.json:
        write_json(options.json, result)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("supernet", type=Path, metavar="SUPERNET", help="a supernet directory")
    parser.add_argument("--graph", nargs="+", choices=list(GRAPHS), default=["plain"], dest="graphs")
    for name in ("width", "depth"):
        help_text = f"these {name}s only (default: all trained)"
        parser.add_argument(f"--{name}", type=float, nargs="+", dest=f"{name}s", help=help_text)
    parser.add_argument("--length", type=int, nargs="+", dest="lengths", default=[32, 128], help="tokens in a row")
    parser.add_argument("--repeats", type=int, default=200, help="runs that count, of each row (default: 200)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each model (default: 1)")
    parser.add_argument("--teacher", metavar="DIR", help="the teacher's directory, if it has moved")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe's field")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the students here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The content of `--json`: the machine, the teacher, and a row for each size, graph and file."""
    supernet, tokenizer = load_supernet(options.supernet)
    recipe = load_recipe(options.supernet / "recipe.yaml", options.set)
    validation = load_validation(recipe.task, recipe.data, supernet.model, tokenizer)
    teacher = options.teacher or str(supernet.origin.teacher)
    predict = torch_predictor(load_model(teacher).eval(), validation.task.kind)
    metrics = validation.metrics(validation.outputs(predict, 32))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for spec, graph in _sizes(supernet, options):
            place = (options.output or Path(temporary)) / graph / f"w{spec.width:g}-d{spec.depth:g}"
            console.print(f"{spec}, {graph}")
            export = ExportOptions(variants=tuple(VARIANTS), graph=graph)
            about = export_student(supernet, tokenizer, spec, place, overwrite=True, options=export)
            size = {"width": spec.width, "depth": spec.depth, "graph": graph, "parameters": about["parameters"]}
            rows += [{**size, **row} for row in _rows(place, teacher, validation, about, options)]
    return {
        "machine": machine_name(),
        "threads": options.threads,
        "validation_rows": len(validation),
        "metric": main_metric(validation.task),
        "teacher": {"path": teacher, "metrics": metrics},
        "rows": rows,
    }


def _sizes(supernet: Supernet, options: argparse.Namespace) -> Iterator[tuple[SubnetSpec, str]]:
    widths, depths = options.widths or supernet.grid.widths, options.depths or supernet.grid.depths
    for depth in depths:
        for width in widths:
            for graph in options.graphs:
                yield SubnetSpec(width, depth), graph


def _rows(
    place: Path, teacher: str, validation: Validation, about: dict[str, Any], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The torch student's row, and one for each of its files."""
    model, _ = load_student(place)
    reference = validation.outputs(torch_predictor(model, validation.task.kind), 32)
    p50_ms = _latencies(place, teacher, options)
    safetensors = about["files"]["model.safetensors"]["size_bytes"]
    own = {"max_abs_diff": 0.0, "max_abs_diff_rows": 0.0, "agreement": 1.0, "metrics": validation.metrics(reference)}
    yield {"file": "torch", "size_bytes": safetensors, **own, **_ratios(p50_ms, (str(place), "torch"), teacher)}
    for name, file in FILES.items():
        onnx = OnnxModel(place / file, validation.task.kind)
        key = (str(place) if file == ONNX_FILE else str(place / file), "onnxruntime")
        yield {
            "file": name,
            "size_bytes": about["files"][file]["size_bytes"],
            "max_abs_diff": parity(model, about["inputs"], about["max_length"], place / file),
            **_fidelity(validation, reference, validation.outputs(onnx)),
            **_ratios(p50_ms, key, teacher),
        }


def _fidelity(validation: Validation, reference: Outputs, outputs: Outputs) -> dict[str, Any]:
    return {
        "max_abs_diff_rows": _largest_difference(outputs, reference),
        **validation.agreement(outputs, reference),
        "metrics": validation.metrics(outputs),
    }


def _largest_difference(ours: Outputs, theirs: Outputs) -> float:
    pairs = [(ours[suffix][name], theirs[suffix][name]) for suffix in ours for name in ours[suffix]]
    return float(max(np.abs(one - other).max() for one, other in pairs))


Latencies = dict[tuple[str, str], dict[int, float]]


def _latencies(place: Path, teacher: str, options: argparse.Namespace) -> Latencies:
    """(path, runtime) -> length -> p50 in ms, of the teacher, the student and its smaller files, taken in turns."""
    paths = [teacher, str(place), *(str(place / variant.file) for variant in VARIANTS.values())]
    result = benchmark(paths, list(TEACHERS), options.threads, [1], options.lengths, options.repeats, 20)
    found: Latencies = {}
    for row in result["rows"]:
        if row["provider"] == "cpu":
            found.setdefault((row["path"], row["runtime"]), {})[row["length"]] = row["latency_ms"]["p50"]
    return found


def _ratios(p50_ms: Latencies, key: tuple[str, str], teacher: str) -> dict[str, Any]:
    own = p50_ms[key]
    ratios = {
        f"ratio_to_{runtime}_teacher": {str(n): round(own[n] / p50_ms[teacher, runtime][n], 3) for n in own}
        for runtime in TEACHERS
    }
    return {"p50_ms": {str(n): value for n, value in own.items()}, **ratios}


def table(result: dict[str, Any], lengths: Sequence[int]) -> Table:
    """What is printed: p50 latencies as ratios to the teacher in torch and in ONNX Runtime."""
    metric = result["metric"]
    score = result["teacher"]["metrics"][metric]
    shown = Table(title=f"{result['machine']}, {result['threads']} thread(s); teacher's {metric} {score:.4f}")
    ratios = [f"{n} /{runtime}" for runtime in ("torch", "ort") for n in lengths]
    for column in ("width", "depth", "graph", "file", "MB", "max diff", "same label", metric, *ratios):
        shown.add_column(column, justify="left" if column in {"graph", "file"} else "right", no_wrap=True)
    for row in result["rows"]:
        shown.add_row(
            f"{row['width']:g}",
            f"{row['depth']:g}",
            row["graph"],
            row["file"],
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['max_abs_diff']:.1e}",
            f"{row['agreement']:.4f}",
            f"{row['metrics'][metric]:.4f}",
            *(f"{row[f'ratio_to_{runtime}_teacher'][str(n)]:.2f}" for runtime in TEACHERS for n in lengths),
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
