"""Everything once, on a text set that needs no download: from a pretrained encoder to exported students."""

import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dynackd import stages
from dynackd.benchmark import benchmark
from dynackd.docstrings import write_docstring_dataset
from dynackd.errors import UserError
from dynackd.export import export_student, known_metrics
from dynackd.places import read_json, refuse_existing, write_json
from dynackd.recipe import load_recipe
from dynackd.report import benchmark_table, console, grid_table, plot_tradeoff, progress_bar
from dynackd.spec import SubnetSpec
from dynackd.stages import RunMode
from dynackd.supernet import load_supernet
from dynackd.tasks import main_metric

ROWS_PER_LABEL = 300
VALIDATION_ROWS_PER_LABEL = 70
# The README's own `export --width 0.5 --depth 0.75`, and the smallest.
EXPORTED = (SubnetSpec(0.5, 0.75), SubnetSpec(0.25, 0.5))
RECIPE = "quickstart.yaml"


def quickstart(output: Path, mode: RunMode, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run all stages into `output` and print what came out. Resumed, it passes over the finished stages."""
    start = time.monotonic()
    summary = output / "summary.json"
    if not mode.resume:
        refuse_existing(output, mode.overwrite)
    elif summary.is_file():
        raise UserError(f"{output} holds a finished quickstart; --overwrite runs it again")
    data = _data(output, mode)
    places = [f"output_dir={output}", f"data.train={data / 'train.tsv'}", f"data.validation={data / 'validation.tsv'}"]
    recipe = load_recipe(Path(str(files("dynackd.recipes") / RECIPE)), [*places, *overrides])
    for title, name, stage in (
        ("1/5 fine-tuning the teacher", "teacher", stages.finetune),
        ("2/5 training all widths", "width", stages.train_width),
        ("3/5 training all widths and depths", "depth", stages.train_depth),
    ):
        console.rule(title)
        if mode.resume and (recipe.output_dir / name).is_dir():
            console.print(f"{recipe.output_dir / name} is finished; passed over")
        else:
            stage(recipe, mode)
    console.rule("4/5 exporting two sizes")
    students = _export(recipe.output_dir / "depth", output / "students")
    console.rule("5/5 measuring")
    result = _measure(output, students, main_metric(recipe.task))
    result["seconds"] = round(time.monotonic() - start)
    write_json(summary, result)
    _tell(output, result)
    return result


def _data(output: Path, mode: RunMode) -> Path:
    data = output / "data"
    if not (mode.resume and (data / "validation.tsv").is_file()):
        console.print("reading the docstrings of the installed packages")
        write_docstring_dataset(data, ROWS_PER_LABEL, VALIDATION_ROWS_PER_LABEL)
    return data


def _export(supernet_directory: Path, directory: Path) -> dict[str, Path]:
    supernet, tokenizer = load_supernet(supernet_directory)
    students = {}
    for spec in EXPORTED:
        place = directory / f"w{spec.width:g}-d{spec.depth:g}"
        facts = {"task": "docstring sentence -> package", **known_metrics(supernet_directory, spec)}
        about = export_student(supernet, tokenizer, spec, place, overwrite=True, facts=facts)
        console.print(f"{place}: {about['parameters']:,} parameters, parity {about['parity_max_abs_diff']:.1e}")
        students[place.name] = place
    return students


def _measure(output: Path, students: dict[str, Path], metric: str) -> dict[str, Any]:
    """Latencies beside the metrics that the depth stage measured."""
    evaluation = read_json(output / "depth" / "metrics.json")
    scores = {"teacher": evaluation["teacher"]["metrics"][metric]}
    for row in evaluation["subnetworks"]:
        scores[f"w{row['width']:g}-d{row['depth']:g}"] = row["metrics"][metric]
    paths = [str(output / "teacher"), *map(str, students.values())]
    with progress_bar() as progress:
        bar = progress.add_task("measuring latency", total=None)
        latency = benchmark(
            paths,
            ["torch", "onnxruntime"],
            threads=1,
            batch_sizes=[1],
            lengths=[48],
            repeats=100,
            warmup=10,
            on_round=lambda total: progress.update(bar, total=total, advance=1),
        )
    points = [
        {
            "label": Path(row["path"]).name,
            "runtime": row["runtime"],
            "latency_ms": row["latency_ms"]["p50"],
            "metric": scores[Path(row["path"]).name],
        }
        for row in latency["rows"]
    ]
    plot_tradeoff(points, metric, output / "tradeoff.png")
    table = {key: evaluation[key] for key in ("task", "length", "teacher", "subnetworks")}
    return {"evaluation": table, "latency": latency, "points": points}


def _tell(output: Path, result: dict[str, Any]) -> None:
    console.print(grid_table(result["evaluation"]))
    console.print(benchmark_table(result["latency"]))
    console.print(f"plot of the metric against latency: {output / 'tradeoff.png'}")
    console.print(f"results: {output} ({result['seconds']} s in all)")
    console.print(f"next: dynackd export {output / 'depth'} --width 0.5 --depth 0.5, or a recipe of your own")
