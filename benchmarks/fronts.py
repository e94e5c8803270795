"""What the benchmarks of embedders and rerankers share: trainings whose cost is kept, one exporter and one clock for
everybody's models, and the fronts that come of them.

A training ends in models of one or more sizes. Each is exported by `dynackd.deploy.export` as float32 and int8 files,
judged by these, and its figures are kept in a JSON file of their own, so that a killed run goes on where it stopped.
Latency depends on the shape alone (layers, heads, neurons), so that one file of each shape is kept and timed, whoever
trained it.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.gates import Gates
from dynackd.errors import UserError
from dynackd.measure.latency import benchmark
from dynackd.onnx.graphs import ONNX_FILE
from dynackd.onnx.quantize import VARIANTS
from dynackd.report.terminal import machine_name, say
from dynackd.subnet import FULL, SubnetSpec
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system.places import read_json, write_json
from dynackd.training.polish import polish
from dynackd.training.recipe import Recipe, apply_overrides, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import train_depth, train_width

OURS = "dynackd"  # the name of our front
FILES = {"fp32": ONNX_FILE, "int8": VARIANTS["int8"].file}
WHATEVER_IS_LOST = Gates(max_drop=9.0)
Json = dict[str, Any]


@dataclass(frozen=True)
class Sized:
    """A trained model of one size, ready to be exported: a sub-network of a supernet, or a whole other model in one."""

    network: Supernet
    tokenizer: PreTrainedTokenizerBase
    which: SubnetSpec = FULL


@dataclass(frozen=True)
class Training:
    """One training, of one size or of many.

    method: whose front its models are on. run: trains with a seed in a directory of its own, in steps (`step`), and
    gives the models by their size; what it finds done there it does not do again.
    """

    method: str
    name: str
    run: Callable[[int, Path], Mapping[str, Sized]]


@dataclass(frozen=True)
class Task:
    """What is measured: judge(onnx file) gives metrics by name, of which `main` counts, `shown` stand in the table of
    sizes, and fronts are compared and drawn by `compared`; latencies are of these (batch size, length in tokens)."""

    main: str
    shown: Sequence[str]
    compared: Sequence[str]
    judge: Callable[[Path], Mapping[str, float]]
    shapes: Sequence[tuple[int, int]]


# --- training --------------------------------------------------------------------------------------------------------


def step(place: Path, name: str, work: Callable[[], int]) -> None:
    """Do a part of a training, whose result `work` leaves in `place`, and keep what it cost; not again where it is
    done. work: returns how many rows it read with a gradient."""
    file = place / f"{name}.cost.json"
    if file.is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    begin, cpu = time.monotonic(), time.process_time()
    seen = work()
    write_json(file, {"seen": seen, "seconds": time.monotonic() - begin, "cpu_seconds": time.process_time() - cpu})


def cost_of(place: Path) -> Json:
    """The sums over a training's steps."""
    costs = [read_json(file) for file in sorted(place.glob("*.cost.json"))]
    return {key: round(sum(cost[key] for cost in costs), 1) for key in ("seen", "seconds", "cpu_seconds")}


def with_overrides(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> Json:
    return apply_overrides(content, [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


def epochs_of(recipe: Recipe) -> float:
    """How often the width and depth stages together read a row."""
    return sum(recipe.stages[stage].training["num_train_epochs"] for stage in ("width", "depth"))


def rows_read(result: Path) -> int:
    """How many rows a stage's training read, each as often as it did: by its own log, not by what was asked of it."""
    rows = read_json(result / "origin.json")["training"]["rows"]
    log = [json.loads(line) for line in (result / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return round(rows * max(entry["epoch"] for entry in log if "epoch" in entry))


def supernet_sizes(content: Mapping[str, Any], place: Path) -> dict[str, Sized]:
    """Every size of a recipe's grid, out of its width and depth stages."""
    recipe = make_recipe({**content, "output_dir": str(place)})
    for stage, train in (("width", train_width), ("depth", train_depth)):
        step(place, stage, lambda train=train: rows_read(train(recipe, RunMode(overwrite=True))))
    network, tokenizer = load_supernet(place / "depth")
    return {size_name(spec): Sized(network, tokenizer, spec) for spec in network.grid.specs()}


def alone(content: Mapping[str, Any], spec: SubnetSpec, place: Path) -> dict[str, Sized]:
    """One size trained alone from the teacher: ordered by importance but not trained before, then by the signal, rate
    and rows of the recipe's depth stage, for as many epochs as both stages of the supernet take."""
    recipe = make_recipe(content)
    depth = (content.get("stages") or {}).get("depth") or {}
    training = {**(depth.get("training") or {}), "num_train_epochs": epochs_of(recipe)}
    still = {"training.max_steps": 1, "training.learning_rate": 1e-12}  # a step below float32's last digit
    ordered = make_recipe(with_overrides(
        {**content, "output_dir": str(place), "stages": {"polish": {**depth, "training": training}}},
        {"grid.widths": [1.0], "grid.depths": [1.0], **{f"stages.width.{key}": own for key, own in still.items()}},
    ))  # fmt: skip

    def work() -> int:
        start = train_width(ordered, RunMode(overwrite=True))
        return rows_read(polish(start, spec, "alone", ordered, RunMode(overwrite=True)))

    step(place, "alone", work)
    network, tokenizer = load_supernet(place / "polished-alone")
    (name,) = network.subnets
    return {size_name(spec): Sized(network, tokenizer, name)}


def polished(content: Mapping[str, Any], specs: Sequence[SubnetSpec], place: Path) -> dict[str, Sized]:
    """Some sizes of a recipe's supernet, each polished: trained on alone, by the recipe's `stages.polish`."""
    recipe = make_recipe({**content, "output_dir": str(place)})
    supernet_sizes(content, place)
    models = {}
    for spec in specs:
        name = f"w{spec.width:g}-d{spec.depth:g}"

        def work(spec: SubnetSpec = spec, name: str = name) -> int:
            return rows_read(polish(place / "depth", spec, name, recipe, RunMode(overwrite=True)))

        step(place, f"polish-{name}", work)
        network, tokenizer = load_supernet(place / f"polished-{name}")
        (only,) = network.subnets
        models[size_name(spec)] = Sized(network, tokenizer, only)
    return models


def own_trainings(options: argparse.Namespace, content_of: Callable[[int], Json]) -> dict[str, list[Training]]:
    """dynackd's, by the name of a method: all sizes of a recipe at once, some of them polished after it, and some each
    alone. content_of: the recipe's content for a seed."""
    label = f", {options.label}" if options.label else ""
    tail = f"-{options.label.replace(' ', '_')}" if options.label else ""

    def specs(sizes: Sequence[str]) -> list[SubnetSpec]:
        return [SubnetSpec(*map(float, size.split("x"))) for size in sizes]

    def each_alone(spec: SubnetSpec) -> Training:
        name = f"alone{spec.width:g}x{spec.depth:g}{tail}"
        return Training(f"{OURS}, each alone{label}", name, lambda seed, place: alone(content_of(seed), spec, place))

    every = Training(OURS + label, f"ours{tail}", lambda seed, place: supernet_sizes(content_of(seed), place))
    some = Training(f"{OURS}, polished{label}", f"polished{tail}",
                    lambda seed, place: polished(content_of(seed), specs(options.polished), place))  # fmt: skip
    return {"ours": [every], "polished": [some], "alone": [each_alone(spec) for spec in specs(options.alone)]}


def size_name(spec: SubnetSpec) -> str:
    return f"{spec.width:g} x {spec.depth:g}"


def has_bf16() -> bool:
    """Whether bfloat16 is arithmetic of this processor, and no emulation 30 times as slow."""
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.cpu._is_avx512_bf16_supported()


def rival_arguments(place: Path, seed: int, **own: Any) -> Json:
    """The fields of sentence-transformers' training arguments that all rivals get."""
    return {
        "output_dir": str(place / "checkpoints"), "seed": seed, "data_seed": seed, "warmup_ratio": 0.1,
        "bf16": has_bf16(), "use_cpu": not torch.cuda.is_available(), "save_strategy": "no", "report_to": "none",
        "logging_steps": 0.1, "disable_tqdm": True, **own,
    }  # fmt: skip


# On a CPU the backward pass of plain attention is up to twice as fast as the fused one's: dynackd's trainer takes it,
# and so that their training time is not told as more than it need be, rivals get it, too.
ATTENTION = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}


# --- one run ---------------------------------------------------------------------------------------------------------


def run(trainings: Iterable[Training], seeds: Sequence[int], task: Task, output: Path, keep: bool = False) -> None:
    """Train and judge what is missing under `output`. keep: all models, else a file of each shape."""
    for seed in seeds:
        for training in trainings:
            _run(training, seed, task, output, keep)


def _run(training: Training, seed: int, task: Task, output: Path, keep: bool) -> None:
    name = f"{training.name}-{seed}"
    place, done = output / "work" / name, output / "results" / f"{name}.json"
    if done.is_file():
        return
    say(f"== {name}")
    models = training.run(seed, place)
    for size, model in models.items():
        file = output / "results" / f"{name}-{size.replace(' ', '')}.json"
        if not file.is_file():
            found = _judged(model, task, place / "students" / size.replace(" ", ""), output / "timed")
            write_json(file, {"method": training.method, "size": size, "seed": seed, **found})
            main = {precision: own[task.main] for precision, own in found["files"].items()}
            say(f"{name}, {size}: {task.main} " + ", ".join(f"{key} {value:.4f}" for key, value in main.items()))
    about = {"method": training.method, "seed": seed, "machine": machine_name(), "threads": torch.get_num_threads()}
    write_json(done, {**about, "sizes": list(models), "cost": cost_of(place)})
    if not keep:
        shutil.rmtree(place)


def _judged(model: Sized, task: Task, place: Path, timed: Path) -> Json:
    """The shape, size and metrics of a model's files."""
    options = ExportOptions(variants=("int8",), gates=WHATEVER_IS_LOST)
    about = export_student(model.network, model.tokenizer, model.which, place, overwrite=True, options=options)
    shape = f"{len(about['layers'])} layers, {about['heads']} heads, {about['neurons']} neurons"
    files = {
        name: {"mb": (place / file).stat().st_size / 1e6, **task.judge(place / file)} for name, file in FILES.items()
    }
    if not (timed / shape).is_dir():
        (timed / shape / "onnx").mkdir(parents=True)
        for file in ("config.json", *FILES.values()):
            shutil.copy(place / file, timed / shape / file)
    return {"shape": shape, "parameters": about["parameters"], "flops": about["flops"], "files": files}


def time_shapes(task: Task, output: Path, repeats: int = 100, seconds: float = 10.0) -> None:
    """Measure one file of every shape, in turns, on one thread, and keep it: on a quiet machine."""
    places = sorted((output / "timed").iterdir()) if (output / "timed").is_dir() else []
    if not places:
        raise UserError(f"{output} holds no models yet; train them first")
    paths = {str(place / file): (place.name, name) for place in places for name, file in FILES.items()}
    p50: dict[str, dict[str, dict[str, float]]] = {}
    for batch_size, length in task.shapes:
        # The files of a shape take their turns together; some hundred processes at once would not fit into memory.
        found = benchmark(list(paths), ["onnxruntime"], 1, [batch_size], [length], repeats, 10, seconds=seconds)
        for row in found["rows"]:
            shape, precision = paths[row["path"]]
            p50.setdefault(shape, {}).setdefault(precision, {})[at(batch_size, length)] = row["latency_ms"]["p50"]
    write_json(output / "latency.json", {"machine": machine_name(), "load": os.getloadavg()[0], "p50_ms": p50})


def at(batch_size: int, length: int) -> str:
    return f"{length} tokens" if batch_size == 1 else f"{batch_size} x {length} tokens"


def same_budget(output: Path, budget: Mapping[str, Any]) -> None:
    """`UserError` where `output` holds results of another budget: they could not be compared."""
    file = output / "budget.json"
    if file.is_file() and (before := read_json(file)) != budget:
        changed = [f"{key} {before.get(key)}" for key in budget if before.get(key) != budget[key]]
        raise UserError(f"{output} holds results with {', '.join(changed)}; give another --output")
    output.mkdir(parents=True, exist_ok=True)
    write_json(file, budget)


def add_options(parser: argparse.ArgumentParser, output: Path, drop_rate: float) -> None:
    """The options that both benchmarks have."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--label", default="", help="what the front of a changed recipe is called")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change of the recipe")
    parser.add_argument("--drop-rate", type=float, default=drop_rate, help=f"of layer dropping ({drop_rate:g})")
    parser.add_argument("--polished", nargs="+", default=["1x0.5", "0.5x0.5"], metavar="WIDTHxDEPTH",
                        help="sizes of ours that are polished, too")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of the trainings (default: 1)")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--keep", action="store_true", help="keep all models (0.2 GB each), not a file of each shape")
    parser.add_argument("--time", action="store_true", help="measure the latencies of what is kept")
    parser.add_argument("--show", action="store_true", help="only print the tables")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the fronts (.svg or .png)")


# --- what is kept ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A size of a method: its figures, each over seeds, and its latency in ms by precision and shape of the input."""

    method: str
    size: str
    shape: str
    parameters: int
    files: Mapping[str, Mapping[str, list[float]]]
    p50_ms: Mapping[str, Mapping[str, float]]

    def values(self, metric: str, precision: str = "fp32") -> list[float]:
        return self.files[precision][metric]

    def mean(self, metric: str, precision: str = "fp32") -> float:
        return statistics.mean(self.values(metric, precision))


def points_of(output: Path) -> list[Point]:
    """What is kept under `output`."""
    found = [read_json(file) for file in sorted((output / "results").glob("*.json"))]
    rows = [row for row in found if "size" in row]
    latency = read_json(output / "latency.json")["p50_ms"] if (output / "latency.json").is_file() else {}
    points = []
    for method, size in dict.fromkeys((row["method"], row["size"]) for row in rows):
        own = [row for row in rows if (row["method"], row["size"]) == (method, size)]
        files = {
            name: {metric: [row["files"][name][metric] for row in own] for metric in own[0]["files"][name]}
            for name in FILES
        }
        shape = own[0]["shape"]
        points.append(Point(method, size, shape, own[0]["parameters"], files, latency.get(shape, {})))
    return points


def costs_of(output: Path) -> dict[str, Json]:
    """By method, the mean over seeds of what training all its sizes takes: rows read, minutes, minutes of processor."""
    done = [read_json(file) for file in sorted((output / "results").glob("*.json"))]
    done = [row for row in done if "cost" in row]
    costs = {}
    for method in dict.fromkeys(row["method"] for row in done):
        own = [row for row in done if row["method"] == method]
        seeds = {row["seed"] for row in own}
        sums = {key: sum(row["cost"][key] for row in own) / len(seeds) for key in own[0]["cost"]}
        costs[method] = {"sizes": len({size for row in own for size in row["sizes"]}), "seeds": len(seeds), **sums}
    return costs


def best_within(points: Iterable[Point], budget_ms: float, precision: str, shape: str, metric: str) -> Point | None:
    """The point with the best mean that takes at most so long; None where none does."""
    within = [point for point in points if point.p50_ms.get(precision, {}).get(shape, float("inf")) <= budget_ms]
    return max(within, key=lambda point: point.mean(metric, precision), default=None)
