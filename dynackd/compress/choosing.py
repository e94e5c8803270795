"""The last steps: the size is chosen, exported and measured."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynackd.compress.request import Request
from dynackd.compress.state import BENCHMARK, STUDENT
from dynackd.data.origins import resolve_model
from dynackd.deploy.card import facts_of_training
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.validation import load_validation
from dynackd.measure.latency import benchmark
from dynackd.onnx.quantize import VARIANTS
from dynackd.report.terminal import benchmark_table, console, progress, progress_of_steps, show
from dynackd.search.searching import search
from dynackd.search.settings import Effort
from dynackd.subnet import Subnet
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json, write_json
from dynackd.training.recipe import Recipe

INT8 = "int8"
REPEATS, WARMUP = 100, 10


def searched(request: Request, recipe: Recipe, output: Path, effort: Effort) -> dict[str, Any]:
    """What the search found, now or before this run was interrupted; what one for another budget found stays until
    this one has ended."""
    if found := found_before(request, recipe, output):
        return found
    supernet, again = recipe.output_dir / "depth", (output / "search.json").is_file()
    with progress_of_steps() as told:
        return search(
            supernet,
            request.budget,
            request.setting,
            effort,
            recipe=recipe,
            output=output,
            overwrite=again,
            on_progress=told,
        )


def found_before(request: Request, recipe: Recipe, output: Path) -> dict[str, Any]:
    """What a search for this budget and setting found; nothing where none has ended."""
    if not (output / "search.json").is_file():
        return {}
    found: dict[str, Any] = read_json(output / "search.json")
    setting = request.setting.to_dict() | {"length": request.setting.length or recipe.data.max_length}
    same = found.get("budget") == request.budget.to_dict() and found.get("setting") == setting
    return found if same else {}


def exported(recipe: Recipe, found: Mapping[str, Any], source: Path, output: Path) -> dict[str, Any]:
    """export.json of the student that was chosen, cut from the supernet directory `source`; as int8 too if that passes
    its gate."""
    if (output / "export.json").is_file():
        about: dict[str, Any] = read_json(output / "export.json")
        return about
    supernet, tokenizer = load_supernet(source)
    subnet = Subnet.from_dict(found["choice"]["subnet"])
    which = supernet.trained(subnet) or subnet
    with progress("exporting, and validating the files"):
        validation = load_validation(recipe.task, recipe.data, supernet.model, tokenizer)
        models = [recipe.teacher, recipe.output_dir / "teacher", recipe.model]
        facts = facts_of_training(recipe.task, recipe.data, models)
        options = ExportOptions(variants=(INT8,))
        about = export_student(supernet, tokenizer, which, output, facts=facts, options=options, validation=validation)
    for file, own in about.get("refused", {}).items():
        console.print(f"{file} was left out: {own['reason']}")
    return about


def benchmarked(request: Request, recipe: Recipe, output: Path) -> dict[str, Any]:
    """Latencies of the teacher, the student and its smaller file, as `benchmark --json` has them."""
    if (output / BENCHMARK).is_file():
        found: dict[str, Any] = read_json(output / BENCHMARK)
        return found
    setting, student = request.setting, output / STUDENT
    own = output / "teacher"  # of a recipe that names another it is what the supernet started from
    teacher = str(own) if own.is_dir() and not recipe.teacher else resolve_model(recipe.teacher or recipe.model)
    int8 = student / VARIANTS[INT8].file
    paths = [teacher, str(student), *([str(int8)] if int8.is_file() else [])]
    with progress("measuring latency") as told:
        table = benchmark(
            paths,
            [setting.runtime],
            threads=setting.threads,
            batch_sizes=[setting.batch_size],
            lengths=[setting.length or recipe.data.max_length],
            repeats=REPEATS,
            warmup=WARMUP,
            on_round=lambda total: told(total=total, advance=1),
        )
    show(benchmark_table(table))
    table["rows"] = [{**row, "path": os.path.relpath(row["path"], output)} for row in table["rows"]]
    write_json(output / BENCHMARK, table)
    return table
