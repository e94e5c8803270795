"""Everything once, on a text set that needs no download: from a pretrained encoder to exported students."""

import json
import os
import shlex
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dynackd.data.docstrings import write_docstring_dataset
from dynackd.deploy.export import STUDENT, export_student, known_metrics
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.measure.latency import benchmark
from dynackd.report.terminal import benchmark_table, console, grid_table, plot_tradeoff, progress, say, show
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import load_supernet
from dynackd.system.places import (
    holds,
    manifest_of,
    mark,
    new_directory,
    new_file,
    occupied_run,
    read_json,
    refuse_existing,
    write_json,
)
from dynackd.tasks.task import main_metric
from dynackd.training import stages
from dynackd.training.recipe import Recipe, load_recipe
from dynackd.training.runs import TEACHER, RunMode, claim
from dynackd.training.teachers import refuse_other_result

ROWS_PER_LABEL = 300
VALIDATION_ROWS_PER_LABEL = 70
RECIPE = "quickstart.yaml"
QUICKSTART, TEXTS = "a quickstart", "the quickstart's texts"  # what the manifests call the output, and its data/
SUMMARY, PLOT = "summary.json", "tradeoff.png"
STAGES = (
    ("1/5 fine-tuning the teacher", TEACHER, stages.finetune),
    ("2/5 training all widths", "width", stages.train_width),
    ("3/5 training all widths and depths", "depth", stages.train_depth),
)


def quickstart(output: Path, mode: RunMode, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run all stages into `output` and print what came out. Resumed, it passes over the finished stages."""
    _refuse_output(output, mode)
    data = output / "data"
    places = {"output_dir": output, "data.train": data / "train.tsv", "data.validation": data / "validation.tsv"}
    # A text in JSON's quotes is one in YAML's.
    own = [f"{key}={json.dumps(str(place), ensure_ascii=False)}" for key, place in places.items()]
    recipe = load_recipe(Path(str(files("dynackd.recipes") / RECIPE)), [*own, *overrides])
    if recipe.content["output_dir"] != str(output):
        raise UserError("--set output_dir is not possible for a quickstart; --output says where its results go")
    if recipe.teacher is not None:
        raise UserError("--set teacher is not possible for a quickstart, which trains its own; run your own recipe")
    recipe.check_machine()
    with occupied_run(output, [data.name]):
        _claim(output, recipe, mode)
        return _run(output, recipe, mode)


def _refuse_output(output: Path, mode: RunMode) -> None:
    """`UserError` where `output` is not a quickstart's, or one that the mode does not allow for."""
    if holds(output):
        manifest = manifest_of(output)
        if manifest is None or manifest.what != QUICKSTART:
            raise UserError(f"{output} holds what no quickstart wrote; name another directory")
        if not (mode.resume or mode.overwrite):
            raise UserError(f"{output} holds a quickstart already; add --resume to go on with it or --overwrite")
    if mode.resume and (output / SUMMARY).is_file():
        raise UserError(f"{output} holds a finished quickstart; --overwrite runs it again")


def _claim(output: Path, recipe: Recipe, mode: RunMode) -> None:
    """Check every place that will be written before anything is, and say whose the output is."""
    _refuse_output(output, mode)
    for _, name, _ in STAGES:
        if not (mode.resume and (recipe.output_dir / name).is_dir()):
            claim(recipe, name, mode)
    if not mode.resume:
        refuse_existing(output / "data", TEXTS, mode.overwrite)
    for place in _student_places(output, recipe).values():
        refuse_existing(place, STUDENT, overwrite=True)
    mark(output, QUICKSTART, [SUMMARY, PLOT])


def exported_sizes(grid: Grid) -> list[SubnetSpec]:
    """The sizes of a grid that are exported and measured: one in the middle by width x depth, and the smallest."""
    ordered = sorted(grid.specs(), key=lambda spec: (spec.width * spec.depth, spec.width))
    return list(dict.fromkeys([ordered[(len(ordered) - 1) // 2], ordered[0]]))


def _student_places(output: Path, recipe: Recipe) -> dict[SubnetSpec, Path]:
    return {spec: output / "students" / f"w{spec.width:g}-d{spec.depth:g}" for spec in exported_sizes(recipe.grid)}


def _run(output: Path, recipe: Recipe, mode: RunMode) -> dict[str, Any]:
    start = time.monotonic()
    _data(output / "data", mode)
    for title, name, stage in STAGES:
        console.rule(title)
        if mode.resume and (recipe.output_dir / name).is_dir():
            refuse_other_result(recipe, name)
            console.print(f"{recipe.output_dir / name} is finished; passed over")
            if name == "depth":
                show(grid_table(read_json(recipe.output_dir / name / "metrics.json")))
        else:
            stage(recipe, mode)
    places = _student_places(output, recipe)
    console.rule(f"4/5 exporting {'two sizes' if len(places) > 1 else 'one size'}")
    students = _export(recipe.output_dir / "depth", places)
    console.rule("5/5 measuring")
    result = _measure(output, students, main_metric(recipe.task), recipe.data.max_length)
    result["seconds"] = round(time.monotonic() - start)
    write_json(output / SUMMARY, result)
    _tell(output, recipe, result)
    return result


def _data(data: Path, mode: RunMode) -> None:
    if not (mode.resume and (data / "validation.tsv").is_file()):
        console.print("reading the docstrings of the installed packages")
        with new_directory(data, TEXTS, mode.overwrite) as temporary:
            write_docstring_dataset(temporary, ROWS_PER_LABEL, VALIDATION_ROWS_PER_LABEL)


def _export(supernet_directory: Path, places: dict[SubnetSpec, Path]) -> dict[str, Path]:
    supernet, tokenizer = load_supernet(supernet_directory)
    students = {}
    for spec, place in places.items():
        known = known_metrics(supernet_directory, supernet.resolve(spec))
        facts = {"task": "docstring sentence -> package", **known}
        about = export_student(supernet, tokenizer, spec, place, overwrite=True, facts=facts)
        console.print(f"{place}: {about['parameters']:,} parameters, parity {about['parity_max_abs_diff']:.1e}")
        students[place.name] = place
    return students


def _measure(output: Path, students: dict[str, Path], metric: str, length: int) -> dict[str, Any]:
    """Latencies beside the metrics that the depth stage measured."""
    evaluation = read_json(output / "depth" / "metrics.json")
    scores = {"teacher": evaluation["teacher"]["metrics"][metric]}
    for row in evaluation["subnetworks"]:
        scores[f"w{row['width']:g}-d{row['depth']:g}"] = row["metrics"][metric]
    paths = [str(output / "teacher"), *map(str, students.values())]
    with progress("measuring latency") as told:
        latency = benchmark(
            paths,
            ["torch", "onnxruntime"],
            threads=1,
            batch_sizes=[1],
            lengths=[length],
            repeats=100,
            warmup=10,
            on_round=lambda total: told(total=total, advance=1),
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
    with new_file(output / PLOT) as temporary:
        plot_tradeoff(points, metric, temporary)
    latency["rows"] = [{**row, "path": os.path.relpath(row["path"], output)} for row in latency["rows"]]
    table = {key: evaluation[key] for key in ("task", "length", "teacher", "subnetworks")}
    return {"evaluation": table, "latency": latency, "points": points}


def _tell(output: Path, recipe: Recipe, result: dict[str, Any]) -> None:
    show(benchmark_table(result["latency"]))
    say(f"plot of the metric against latency: {output / PLOT}")
    say(f"results: {output} ({result['seconds']} s in all), and then perhaps a recipe of your own")
    spec = recipe.grid.nearest(SubnetSpec(0.5, 0.5))
    size = ["--width", f"{spec.width}", "--depth", f"{spec.depth}"]
    say("next: " + shlex.join(["dynackd", "export", str(output / "depth"), *size]))
