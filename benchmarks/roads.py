"""The whole road for every kind of task, with real weights and data, and the table of it.

    python benchmarks/roads.py train recipes/wnut17.yaml recipes/squad.yaml --output runs/roads --bf16
    python benchmarks/roads.py time --output runs/roads --length 64        # on a quiet machine
    python benchmarks/roads.py show --output runs/roads                    # the tables, as Markdown

`train` runs `finetune` (where the kind learns from labels and the recipe's model is a bare encoder), `train-width`,
`train-depth` and `export --width 0.5 --depth 0.5 --int8` (--max-drop 9: whatever is lost is told); what is there
already is kept, and a killed run goes on. `time` measures teacher, student and its 8-bit file in turns. Each recipe's
results lie under --output, named like the recipe.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dynackd.report.terminal import machine_name
from dynackd.system.places import read_json, write_json
from dynackd.tasks.task import main_metric
from dynackd.training.recipe import Recipe, load_recipe

SMALL = ["--width", "0.5", "--depth", "0.5"]
FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in (train, measure, show):
        own = commands.add_parser("time" if function is measure else function.__name__)
        own.set_defaults(function=function)
        own.add_argument("--output", type=Path, default=Path("runs/roads"), metavar="DIR")
        if function is train:
            own.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE")
            own.add_argument("--bf16", action="store_true", help="train the two stages in bfloat16")
            own.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
        if function is measure:
            own.add_argument("--length", type=int, nargs="+", default=[32, 128], dest="lengths")
    options = parser.parse_args()
    options.function(options)


def dynackd(*arguments: object) -> None:
    print("dynackd", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "dynackd", *map(str, arguments)], check=True)


def train(options: argparse.Namespace) -> None:
    for path in options.recipes:
        place = options.output / path.stem
        sets = [part for override in [*options.set, f"output_dir={place}"] for part in ("--set", override)]
        half = ["--set", "training.bf16=true"] if options.bf16 else []
        recipe = load_recipe(path, [f"output_dir={place}"])
        minutes: dict[str, float] = read_json(place / "minutes.json") if (place / "minutes.json").is_file() else {}
        for command, result in _commands(recipe, place):
            if result.is_dir():
                continue
            resume = ["--resume"] if (place / f"{result.name}-checkpoints").is_dir() else []
            begin = time.monotonic()
            dynackd(command, path, *sets, *(half if command != "finetune" else []), *resume)
            minutes[result.name] = round((time.monotonic() - begin) / 60, 1)
            write_json(place / "minutes.json", {**minutes, "bf16": options.bf16, "machine": machine_name()})
        gate = ["--int8", "--max-drop", 9]
        dynackd("export", place / "depth", *SMALL, *gate, "--output", place / "student", "--overwrite")


def _commands(recipe: Recipe, place: Path) -> Iterator[tuple[str, Path]]:
    """The commands of the recipe's road, each with the directory that it makes."""
    if recipe.task.kind.can_finetune(recipe.task) and recipe.teacher is None:
        yield "finetune", place / "teacher"
    yield "train-width", place / "width"
    yield "train-depth", place / "depth"


def measure(options: argparse.Namespace) -> None:
    for place in _done(options.output):
        teacher = read_json(place / "depth" / "config.json")["dynackd"]["teacher"]
        teacher = str((place / "depth" / teacher).resolve()) if teacher.startswith(".") else teacher
        files = [teacher, place / "student", place / "student" / FILES["int8"]]
        dynackd("benchmark", *files, "--length", *options.lengths, "--json", place / "latency.json")


def _done(output: Path) -> list[Path]:
    return [file.parents[1] for file in sorted(output.glob("*/student/export.json"))]


# --- tables ----------------------------------------------------------------------------------------------------------


def show(options: argparse.Namespace) -> None:
    lines = [_summary(place) for place in _done(options.output)]
    print(_markdown(["recipe", "kind", "metric", "teacher", "(1, 1)", "(.5, .5)", "of the teacher's", "int8",
                     "MB fp32 / int8", "p50 ms: teacher torch / ONNX", "student ONNX / int8", "minutes"], lines))
    for place in _done(options.output):
        print(f"\n{place.name}:\n")
        print(_grid(place))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _metrics(place: Path) -> tuple[str, dict[str, Any], dict[tuple[float, float], dict[str, Any]]]:
    """(the name of what counts, the teacher's metrics, each size's row)."""
    known = read_json(place / "depth" / "metrics.json")
    task = load_recipe(place / "depth" / "recipe.yaml").task
    rows = {(row["width"], row["depth"]): row for row in known["subnetworks"]}
    return main_metric(task) if task.metrics else "", known["teacher"]["metrics"], rows


def _summary(place: Path) -> list[str]:
    name, teacher, rows = _metrics(place)
    about, minutes = read_json(place / "student" / "export.json"), read_json(place / "minutes.json")
    best, small = (rows[size]["metrics"][name] for size in ((1.0, 1.0), (0.5, 0.5)))
    int8 = about["files"].get(FILES["int8"], {})
    sizes = " / ".join(f"{about['files'][file]['size_bytes'] / 1e6:.0f}" for file in FILES.values())
    numbers = [f"{value:.4f}" for value in (teacher[name], best, small)]
    trained = " + ".join(str(minutes[stage]) for stage in ("teacher", "width", "depth") if stage in minutes)
    kept = f"{small / teacher[name]:.1%}" if teacher[name] else "-"
    return [place.name, about["kind"], name, *numbers, kept,
            f"{int8['metrics'][name]:.4f}", sizes, *_latencies(place), trained]


def _latencies(place: Path) -> list[str]:
    if not (place / "latency.json").is_file():
        return ["", ""]
    rows = [row for row in read_json(place / "latency.json")["rows"] if row["provider"] == "cpu"]
    length, int8 = max(row["length"] for row in rows), Path(FILES["int8"]).name
    longest = [row for row in rows if row["length"] == length]
    p50 = {(Path(row["path"]).name, row["runtime"]): row["latency_ms"]["p50"] for row in longest}
    student = [p50["student", "onnxruntime"], p50[int8, "onnxruntime"]]
    other = {runtime: value for (name, runtime), value in p50.items() if name not in ("student", int8)}
    teacher = [other[runtime] for runtime in ("torch", "onnxruntime")]
    return [f"{one:.1f} / {two:.1f} ({length} tokens)" for one, two in (teacher, student)]


def _grid(place: Path) -> str:
    """The grid's main metric, and the first of fidelity, of every size."""
    name, teacher, rows = _metrics(place)
    fidelity = next(iter(next(iter(rows.values()))["fidelity"]))
    head = ["width x depth", "M params", f"{name} (teacher {teacher[name]:.4f})", fidelity]
    return _markdown(head, [
        [f"{width:g} x {depth:g}", f"{row['parameters'] / 1e6:.2f}", f"{row['metrics'][name]:.4f}",
         f"{row['fidelity'][fidelity]:.4f}"]
        for (width, depth), row in sorted(rows.items(), reverse=True)
    ])  # fmt: skip


if __name__ == "__main__":
    main()
