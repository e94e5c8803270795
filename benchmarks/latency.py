"""How fast a supernet's students are beside their teacher: every size x runtime x precision x threads x batch x length.

    python benchmarks/latency.py runs/sst2/depth --json latency.json          # an hour or two
    python benchmarks/latency.py runs/sst2/depth --quick                      # minutes: length 128, batch 1, one thread
    python benchmarks/latency.py --show latency.json                          # the tables again

The teacher and a handful of sizes are exported (float32, int8 and fp16) and measured in every runtime that is here,
each file in a process of its own; the files of one runtime and number of threads take turns. A row takes at most
`--seconds`, so that the slow ones are run less often (`repeats` in the JSON). Prints Markdown.

The share is the speed-up over the teacher in the same runtime, precision, threads and shape, divided by the FLOP ratio:
(teacher's p50 / p50) / (teacher's FLOPs / FLOPs). Measure on a quiet machine: ± is the spread, from quartile to
quartile of the medians of ten rounds, as a share of p50.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from dynackd.deploy.export import ExportOptions, export_student
from dynackd.errors import UserError
from dynackd.measure.latency import benchmark
from dynackd.measure.runtimes import RUNTIMES, load_any, runtimes_here
from dynackd.measure.shares import with_shares
from dynackd.measure.sources import FLOAT32
from dynackd.onnx.graphs import GRAPHS, ONNX_FILE, export_onnx, input_names
from dynackd.onnx.quantize import VARIANTS
from dynackd.report.terminal import machine_name, progress, say
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json, write_json

SIZES = ["1,1", "0.75,1", "0.5,1", "1,0.5", "0.5,0.5", "0.25,0.5"]
QUICK = {"sizes": ["0.5,1", "0.5,0.5"], "threads": [1], "batch_sizes": [1], "lengths": [128], "seconds": 4.0}
TEACHER = "teacher"
WARMUP = 10
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    logging.disable_progress_bar()
    try:
        result = read_json(options.show) if options.show else measured(options)
    except UserError as error:
        print(f"latency: {error}", file=sys.stderr)
        return 2
    if options.json and not options.show:
        write_json(options.json, result)
    print("\n".join(report(result)))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("supernet", type=Path, nargs="?", metavar="SUPERNET", help="a supernet directory")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of what was measured before")
    parser.add_argument("--quick", action="store_true", help=f"a small matrix: {QUICK}")
    parser.add_argument("--size", nargs="+", dest="sizes", metavar="WIDTH,DEPTH", help=f"default: {' '.join(SIZES)}")
    parser.add_argument("--runtime", nargs="+", dest="runtimes", help="default: those that are here")
    parser.add_argument("--precision", nargs="+", dest="precisions", default=[FLOAT32, "int8", "fp16"])
    parser.add_argument("--graph", choices=list(GRAPHS), default="plain")
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--batch-size", type=int, nargs="+", dest="batch_sizes")
    parser.add_argument("--length", type=int, nargs="+", dest="lengths")
    parser.add_argument("--repeats", type=int, default=100, help="runs of a row (default: 100)")
    parser.add_argument("--seconds", type=float, help="that a row may take at most (default: 6)")
    parser.add_argument("--teacher", metavar="DIR", help="the teacher's directory, if it has moved")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the models here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows as JSON")
    options = parser.parse_args(arguments)
    if not options.supernet and not options.show:
        parser.error("name a supernet, or --show FILE")
    usual = {"sizes": SIZES, "threads": [1, 2], "batch_sizes": [1, 32], "lengths": [16, 32, 64, 128, 256, 512],
             "seconds": 6.0}  # fmt: skip
    for name, value in {**usual, **(QUICK if options.quick else {})}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


# --- measuring -------------------------------------------------------------------------------------------------------


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The content of `--json`: the rows of `dynackd benchmark --json`, each with the name of its "model"."""
    with tempfile.TemporaryDirectory() as temporary:
        places = _models(options, options.output or Path(temporary))
        rows: list[Row] = []
        left_out: list[str] = []
        for runtime in options.runtimes or runtimes_here():
            paths = [path for place in places for path in _paths(place, runtime, options.precisions)]
            result = with_shares(_measured(paths, runtime, options), str(places[0]))
            rows += [{**row, "model": _model_of(row["path"], places)} for row in result["rows"]]
            left_out += result["left_out"]
    return {"machine": machine_name(), "graph": options.graph, "rows": rows, "left_out": left_out}


def _measured(paths: Sequence[str], runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    shapes = (options.threads, options.batch_sizes, options.lengths)
    with progress(runtime) as told:
        return benchmark(
            paths, [runtime], *shapes, options.repeats, WARMUP, lambda total: told(total=total, advance=1),
            options.seconds,
        )  # fmt: skip


def _models(options: argparse.Namespace, output: Path) -> list[Path]:
    """The directories of the teacher and of each size, written."""
    supernet, tokenizer = load_supernet(options.supernet)
    teacher = options.teacher or supernet.origin.teacher_here()
    if teacher is None:
        raise UserError(f"the teacher of {options.supernet} is not here; --teacher says where it is")
    variants = tuple(name for name in options.precisions if name in VARIANTS)
    places = [_teacher(teacher, output / TEACHER, variants, options.graph)]
    for size in options.sizes:
        spec = SubnetSpec(*map(float, size.split(",")))
        places.append(output / f"{spec.width:g} x {spec.depth:g}")
        say(f"exporting {spec}")
        export = ExportOptions(variants=variants, graph=options.graph)
        export_student(supernet, tokenizer, spec, places[-1], overwrite=True, options=export)
    return places


def _teacher(source: str, place: Path, variants: Sequence[str], graph: str) -> Path:
    """The teacher with the files that a student has."""
    model, tokenizer = load_any(source)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    export_onnx(model, input_names(model, tokenizer), place / ONNX_FILE, graph=graph)
    for name in variants:
        VARIANTS[name].write(place / ONNX_FILE, place / VARIANTS[name].file)
    return place


def _paths(place: Path, runtime: str, precisions: Sequence[str]) -> Iterator[str]:
    """What a runtime measures of a model."""
    if not RUNTIMES[runtime].reads_onnx or FLOAT32 in precisions:
        yield str(place)
    if RUNTIMES[runtime].reads_onnx:
        yield from (str(place / VARIANTS[name].file) for name in precisions if name in VARIANTS)


def _model_of(path: str, places: Sequence[Path]) -> str:
    return next(place.name for place in places if place in (Path(path), *Path(path).parents))


# --- tables ----------------------------------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> Iterator[str]:
    """Markdown: the share at length 128 and batch 1, then latencies, throughput and memory of every shape."""
    rows = result["rows"]
    yield f"{result['machine']}; graph: {result['graph']}"
    for threads in _values(rows, "threads"):
        for batch_size in _values(rows, "batch_size"):
            chosen = [row for row in rows if (row["threads"], row["batch_size"]) == (threads, batch_size)]
            where = f"batch {batch_size}, {threads} thread{'s' * (threads > 1)}"
            yield from _table(f"Share of the FLOP ratio, {where}", chosen, _share)
            yield from _table(f"p50 in ms ± spread, {where}", chosen, _latency)
            yield from _table(f"Rows per second, {where}", chosen, lambda row: f"{row['throughput_per_s']:,.0f}")
            yield from _table(f"Peak memory in MB, {where}", chosen, lambda row: f"{row['peak_memory_mb']:,.0f}")
    yield ""
    yield from (f"- {sentence}" for sentence in result["left_out"])


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _share(row: Row) -> str:
    share = row.get("share_of_flop_ratio")
    return "" if share is None or row["model"] == TEACHER else f"{share:.0%}"


def _latency(row: Row) -> str:
    rounds, p50 = row["round_medians_ms"], row["latency_ms"]["p50"]
    return f"{p50:.1f} ± {(rounds['p75'] - rounds['p25']) / p50:.0%}"


def _table(title: str, rows: Sequence[Row], told: Any) -> Iterator[str]:
    """Lines: one for each runtime, precision and model; a column for each length."""
    lengths = sorted(_values(rows, "length"))
    lines: dict[tuple[str, ...], dict[int, str]] = {}
    for row in rows:
        provider = "" if row["provider"] == "cpu" else f" {row['provider']}"
        key = (f"{row['runtime']}{provider} {row['precision']}", row["model"])
        lines.setdefault(key, {})[row["length"]] = told(row)
    shown = {key: cells for key, cells in lines.items() if any(cells.values())}
    if not shown:
        return
    yield from ("", f"**{title}**", "")
    yield f"| runtime | width x depth | {' | '.join(map(str, lengths))} |"
    yield "|---" * (2 + len(lengths)) + "|"
    for (runtime, model), cells in sorted(shown.items(), key=lambda line: line[0][0]):
        yield f"| {runtime} | {model} | {' | '.join(cells.get(length, '') for length in lengths)} |"


if __name__ == "__main__":
    sys.exit(main())
