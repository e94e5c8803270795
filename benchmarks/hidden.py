"""The third dial, the hidden size: which order of its dimensions, where in the road it is trained and how, and what the
whole space costs and is worth.

    python benchmarks/hidden.py --orders --tasks sst2 stsb               # orders of the dimensions, before any training
    python benchmarks/hidden.py --roads --bf16 --tasks sst2 stsb         # roads, samplers, teachers and signals
    python benchmarks/hidden.py --roads --bf16 --variants depth logits --seeds 0 1 2
    python benchmarks/hidden.py --roads --bf16 --variants depth --fronts # two dials and three at as many parameters
    python benchmarks/hidden.py --space runs/sst2-hidden                 # of a run: every size as files, and a table

A tenth of the training rows is cut off and reported on by --orders and --roads; GLUE's validation rows are never read
there. --space reads those of the run's recipe, and times: on a quiet machine only. Each road's figures are kept in a
JSON file under --output, so a killed sweep goes on where it stopped.
"""

import argparse
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from front_tables import markdown
from learning_rate import TASKS, recipe_of
from rich.console import Console
from rich.table import Table

from dynackd.cli import main as dynackd
from dynackd.data.model_labels import labels_of
from dynackd.data.origins import resolve_model
from dynackd.families.family import HEAD, HIDDEN, NEURON, POOLED
from dynackd.families.table import family_of, layer_list, max_positions
from dynackd.grid import Grid
from dynackd.measure.evaluation import batches_of
from dynackd.subnet import Subnet, SubnetSpec, full
from dynackd.supernet.checkpoints import load_tokenizer
from dynackd.supernet.importance import gradient_importance, in_order_of, magnitude_importance, rewire
from dynackd.supernet.network import Supernet
from dynackd.tasks.loading import load_task_data
from dynackd.training import stages
from dynackd.training.evaluating import evaluate_subnets
from dynackd.training.recipe import apply_overrides, make_recipe
from dynackd.training.rows import tokenized
from dynackd.training.runs import RunMode
from dynackd.training.samplers import SAMPLERS, sample_sandwich
from dynackd.training.teachers import load_teacher
from dynackd.training.trainer import DEPTH_STAGE, WIDTH_STAGE, Stage

console = Console(width=200)
HIDDEN_SIZES = (1.0, 0.75, 0.5)
SIZES = [SubnetSpec(*shares) for shares in
         ((1, 1, 1), (0.5, 0.5, 1), (0.5, 0.5, 0.75), (1, 1, 0.5), (0.5, 1, 0.5), (0.5, 0.5, 0.5), (0.25, 0.5, 0.5))]


def name_of(spec):
    return "x".join(f"{share:g}" for share in (spec.width, spec.depth, spec.hidden))


# --- orders ----------------------------------------------------------------------------------------------------------


def by_gradient(model, batches):
    """dynackd's: |Σ x·dL/dx| over tokens and places where the residual stream is read (Molchanov et al. 2017)."""
    return gradient_importance(model, batches).hidden


def by_magnitude(model, batches):
    """The squares of all weights that a dimension has."""
    return magnitude_importance(model, batches).hidden


@torch.no_grad()
def by_activation(model, batches):
    """Minitron's (Muralidharan et al. 2024): of the norms' outputs the absolute mean over a row's tokens, the root of
    the squares' sum over rows, summed over norms. Padding is left out."""
    sums, mask, handles = {}, None, []

    def note(path):
        def hook(_, __, output):
            means = (output.abs() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            sums[path] = sums.get(path, 0) + means.square().sum(0)

        return hook

    for index, layer in enumerate(layer_list(model)):
        for path in family_of(model.config).norms:
            handles.append(layer.get_submodule(path).register_forward_hook(note((index, path))))
    for batch in batches:
        mask = batch["attention_mask"].float()
        model(**{name: batch[name] for name in batch if name in ("input_ids", "attention_mask", "token_type_ids")})
    for handle in handles:
        handle.remove()
    return sum(own.sqrt() for own in sums.values())


def at_random(model, batches):
    size = getattr(model.config, family_of(model.config).hidden_key)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


ORDERS = {"gradient": by_gradient, "activation (Minitron)": by_activation, "magnitude": by_magnitude,
          "random": at_random}  # fmt: skip


def compare_orders(task, options):
    """Metric and KL (or RMSE) to the teacher of narrow networks before any training, on held-out rows."""
    place = teacher_of(task, options)
    recipe = recipe_of("minilm", task, options, place, {})
    source = resolve_model(str(place / "teacher"))
    teacher = load_teacher(source, recipe.task.kind)
    tokenizer = load_tokenizer(source, teacher.model.config, recipe.task.kind)
    data = load_task_data(recipe.task, recipe.data, model=labels_of(teacher.model.config))
    rows = tokenized(data, recipe, tokenizer, max_positions(teacher.model.config))
    some = rows.train.shuffle(seed=0).select(range(min(512, len(rows.train))))
    batches = list(batches_of(some, recipe.task.kind, tokenizer, 32))
    grid, found = Grid((1.0, 0.5), (1.0,), hidden=(1.0, 0.75, 0.5, 0.25)), {}
    for name, score in ORDERS.items():
        model = load_teacher(source, recipe.task.kind).requires_grad_(True).model
        importance = replace(gradient_importance(model, batches), hidden=score(model, batches).detach())
        orders = rewire(model, importance, (HEAD, NEURON, HIDDEN, POOLED))
        supernet = Supernet(model, grid, hidden_order=orders[HIDDEN][0]).eval().requires_grad_(False)
        original = in_order_of(supernet, load_teacher(source, recipe.task.kind))
        table = evaluate_subnets(supernet, original, rows, recipe.data.max_length)
        found[name] = {name_of(SubnetSpec(row["width"], row["depth"], row.get("hidden", 1.0))):
                       {**row["metrics"], **row["fidelity"]} for row in table["subnetworks"]}  # fmt: skip
        console.print(f"{task}, {name}: measured")
    shown = Table("order of the hidden dimensions", *next(iter(found.values())),
                  title=f"{task}, untrained: {table['main_metric']}, KL or RMSE")  # fmt: skip
    metric = table["main_metric"]
    for name, sizes in found.items():
        shown.add_row(name, *(f"{row[metric]:.4f} / {row[fidelity_of(row)]:.4f}" for row in sizes.values()))
    console.print(shown)


def fidelity_of(row):
    return "kl" if "kl" in row else "rmse"


# --- roads -----------------------------------------------------------------------------------------------------------


def without_hidden(grid):
    return replace(grid, hidden=(1.0,))


def everything(grid):
    return grid


def corners(subnets, rng, count):
    """The largest, the smallest, one that is largest in some dials and smallest in others, and `count` - 1 random."""
    ends = [{*ends_of(own(subnet) for subnet in subnets)} for own in DIALS]
    between = [own for own in subnets[1:-1] if all(dial(own) in end for dial, end in zip(DIALS, ends, strict=True))]
    if not between:  # of one dial
        return sample_sandwich(subnets, rng, count)
    corner = rng.choice(between)
    others = rng.sample([own for own in subnets[1:-1] if own is not corner], count - 1)
    return [subnets[0], *sorted([corner, *others], key=subnets.index), subnets[-1]]


def ends_of(values):
    values = list(values)
    return min(values), max(values)


DIALS = (lambda own: own.layers[0].heads, lambda own: len(own.layers), lambda own: own.hidden)
SAMPLERS["corners"] = corners

# What the width stage trains, and the stages behind it; each of these learns from the one before.
WIDTH_TOO = Stage("width", lambda grid: replace(grid, depths=(1.0,)), WIDTH_STAGE.teacher_of)
OWN_SIZE = Stage("depth", everything, Subnet.at_full_depth)
FROM_FULL = Stage("depth", everything, lambda _, geometry: full(geometry))
FLAT = Stage("depth", without_hidden, DEPTH_STAGE.teacher_of)
LOGITS = {"distillation": {"signal": "logits"}}
PROJECTED = {"distillation": {"signal": "logits", "weights": {"hidden_projected_mse": 1.0}, "schedule": "linear"}}
SAMPLED = {"grid.sampler": "sandwich(2)"}
# name -> (overrides of the recipe, the width stage, the stages behind it, which share the depth stage's epochs)
VARIANTS = {
    "depth": (SAMPLED, WIDTH_STAGE, [DEPTH_STAGE]),
    "width too": (SAMPLED, WIDTH_TOO, [DEPTH_STAGE]),
    "width too, teacher of its own hidden size": (SAMPLED, WIDTH_TOO, [OWN_SIZE]),
    "depth, the full network for all": (SAMPLED, WIDTH_STAGE, [FROM_FULL]),
    "a stage of its own": (SAMPLED, WIDTH_STAGE, [FLAT, DEPTH_STAGE]),
    "depth, sandwich(1)": ({"grid.sampler": "sandwich(1)"}, WIDTH_STAGE, [DEPTH_STAGE]),
    "depth, sandwich(4)": ({"grid.sampler": "sandwich(4)"}, WIDTH_STAGE, [DEPTH_STAGE]),
    "depth, mixed(2)": ({"grid.sampler": "mixed(2)"}, WIDTH_STAGE, [DEPTH_STAGE]),
    "depth, random(4)": ({"grid.sampler": "random(4)"}, WIDTH_STAGE, [DEPTH_STAGE]),
    "depth, corners(2)": ({"grid.sampler": "corners(2)"}, WIDTH_STAGE, [DEPTH_STAGE]),
    "logits": (SAMPLED | LOGITS, WIDTH_STAGE, [DEPTH_STAGE]),
    "projected": (SAMPLED | PROJECTED, WIDTH_STAGE, [DEPTH_STAGE]),  # TinyBERT's, beside the outputs
}


def teacher_of(task, options):
    """The directory of a run that holds the task's teacher, trained where it is missing."""
    place = options.output / "teachers" / f"{task}-{options.seed}"
    if not (place / "teacher").is_dir():
        stages.finetune(recipe_of("minilm", task, options, place, {}), RunMode())
    return place


def trained(task, variant, options):
    overrides, width, behind = VARIANTS[variant]
    place = options.output / "runs" / f"{task}-{options.seed}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(teacher_of(task, options), place)
    epochs = {"stages.depth.training.num_train_epochs": options.depth_epochs / len(behind)}
    content = recipe_of("minilm", task, options, place, {}).content
    changes = {"grid.hidden": list(HIDDEN_SIZES), **epochs, **overrides}
    recipe = make_recipe(apply_overrides(content, [f"{key}={json.dumps(value)}" for key, value in changes.items()]))
    start = time.monotonic()
    try:
        stages.WIDTH_STAGE = width
        stages.train_width(recipe, RunMode())
        for before, stage in zip([None, *behind], behind, strict=False):
            if before is not None:  # what it has made is the next one's width stage
                shutil.rmtree(place / "width")
                (place / "depth").rename(place / "width")
                stages.WIDTH_STAGE = replace(before, name=WIDTH_STAGE.name)
            stages.DEPTH_STAGE = stage
            stages.train_depth(recipe, RunMode())
    finally:
        stages.WIDTH_STAGE, stages.DEPTH_STAGE = WIDTH_STAGE, DEPTH_STAGE
    about = json.loads((place / "depth" / "metrics.json").read_text())
    sizes = {name_of(SubnetSpec(row["width"], row["depth"], row.get("hidden", 1.0))):
             {**row["metrics"], **row["fidelity"], "parameters": row["parameters"]}
             for row in about["subnetworks"]}  # fmt: skip
    shutil.rmtree(place)
    return {"teacher": about["teacher"]["metrics"], "metric": about["main_metric"],
            "seconds": round(time.monotonic() - start), "sizes": sizes}  # fmt: skip


def show_roads(options):
    """What is kept of the tasks, variants and seeds that were asked for: compared are those of the same seeds."""
    runs = [json.loads(file.read_text()) for file in sorted(options.output.glob("*.json"))]
    runs = [run for run in runs if run["seed"] in options.seeds and run["variant"] in options.variants]
    for task in options.tasks:
        mine = [run for run in runs if run["task"] == task]
        if not mine:
            continue
        keys = measures_of(mine[0]["result"])
        teacher = statistics.fmean(run["result"]["teacher"][keys[0]] for run in mine)
        table = Table("variant", *map(name_of, SIZES), "mean of hidden < 1", "minutes",
                      title=f"{task}: {' / '.join(keys)} (teacher {teacher:.4f}), held-out rows")  # fmt: skip
        for variant in [name for name in VARIANTS if any(run["variant"] == name for run in mine)]:
            own = [run["result"] for run in mine if run["variant"] == variant]
            seconds = statistics.fmean(result["seconds"] for result in own)
            table.add_row(variant, *(cell(own, [spec], keys) for spec in SIZES),
                          cell(own, [spec for spec in SIZES if spec.hidden < 1], keys, spread=True),
                          f"{seconds / 60:.1f} ({len(own)})")  # fmt: skip
        present(table, options)
        for run in mine if options.fronts else ():
            title, points = f"{run['variant']}, seed {run['seed']}, M parameters", roads_points(run["result"])
            present(fronts(points, PARAMETERS, keys[0], title), options)


PARAMETERS = "fp32 M parameters"


def roads_points(result):
    """Every size of a road as a point of `fronts`."""
    return [{"name": name, "hidden": float(name.rpartition("x")[2]), "fidelity": row[fidelity_of(row)],
             "fp32": row[result["metric"]], PARAMETERS: row["parameters"] / 1e6}
            for name, row in result["sizes"].items()]  # fmt: skip


def measures_of(result):
    """The metric, and what is known of the fidelity."""
    known = result["sizes"][name_of(SIZES[0])]
    return [result["metric"], *(key for key in ("agreement", fidelity_of(known)) if key in known)]


def cell(results, specs, keys, spread=False):
    """The mean of each measure over sizes, of that the mean over seeds, and the deviation between seeds."""
    found = []
    for key in keys:
        means = [statistics.fmean(result["sizes"][name_of(spec)][key] for spec in specs) for result in results]
        deviation = f" ± {statistics.stdev(means):.4f}" if spread and len(means) > 1 else ""
        found.append(f"{statistics.fmean(means):.4f}{deviation}")
    return " / ".join(found)


def present(table, options):
    (markdown if options.markdown else console.print)(table)


# --- the space -------------------------------------------------------------------------------------------------------


def space(run, options):
    """Every size of a run as a float32 and an int8 file, timed beside the teacher, with its metric."""
    table = json.loads((run / "depth" / "metrics.json").read_text())
    metric, places = table["main_metric"], {}
    for row in table["subnetworks"]:
        spec = SubnetSpec(row["width"], row["depth"], row.get("hidden", 1.0))
        places[name_of(spec)] = place = run / "space" / name_of(spec)
        if not (place / "export.json").is_file():
            shares = [part for axis, share in spec.to_dict().items() for part in (f"--{axis}", f"{share:g}")]
            command = ["export", str(run / "depth"), *shares, "--int8", "--max-drop", "1", "--output", str(place)]
            if dynackd(command) != 0:
                raise SystemExit(f"could not export {spec}")
    latency = run / "space" / "latency.json"
    if not latency.is_file():
        files = [file for place in places.values() for file in
                 (f"{place}/onnx/model.onnx", f"{place}/onnx/model_quantized.onnx")]  # fmt: skip
        teacher = [str(run / "teacher")] if (run / "teacher").is_dir() else []
        dynackd(["benchmark", *teacher, *files, "--runtime", "onnxruntime", "--length", "32", "128",
                 "--json", str(latency)])  # fmt: skip
    timed = {(row["path"], row["length"]): row["latency_ms"]["p50"] for row in json.loads(latency.read_text())["rows"]}
    points = [point_of(row, name, place, metric, timed)
              for row, (name, place) in zip(table["subnetworks"], places.items(), strict=True)]  # fmt: skip
    costs = [f"{file} {cost}" for file in FILES for cost in ("MB", "ms at 32", "ms at 128")]
    listed = Table("width x depth x hidden", "M params", metric, fidelity_of(table["subnetworks"][0]["fidelity"]),
                   f"int8: {metric}", *costs, title=f"{run}: teacher {table['teacher']['metrics'][metric]:.4f}")
    for point in points:
        listed.add_row(point["name"], f"{point['parameters'] / 1e6:.2f}", f"{point['fp32']:.4f}",
                       f"{point['fidelity']:.3f}", f"{point['int8']:.4f}", *(f"{point[cost]:.2f}" for cost in costs))
    present(listed, options)
    for cost in costs:
        present(fronts(points, cost, metric, f"by {cost}"), options)


FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}


def point_of(row, name, place, metric, timed):
    """What a size costs as its two files, and is worth."""
    files = json.loads((place / "export.json").read_text())["files"]
    point = {"name": name, "hidden": row.get("hidden", 1.0), "parameters": row["parameters"],
             "fidelity": row["fidelity"][fidelity_of(row["fidelity"])]}  # fmt: skip
    for file, path in FILES.items():
        point |= {file: files[path]["metrics"][metric], f"{file} MB": files[path]["size_bytes"] / 1e6}
        point |= {f"{file} ms at {length}": timed[f"{place}/{path}", length] for length in (32, 128)}
    return point


def fronts(points, cost, metric, title):
    """Beside each size of the front of two dials the one of all three that is nearest to the teacher at its cost. What
    is nearest is told by the fidelity, which many sizes move less by luck than the metric."""
    table = Table(cost, "two dials", "cost", "fidelity", metric, "three dials", "cost", "fidelity", metric,
                  title=f"{title}: the nearest to the teacher within each size's cost")  # fmt: skip
    file, best = cost.partition(" ")[0], float("inf")
    for point in sorted((own for own in points if own["hidden"] == 1), key=lambda own: (own[cost], own["fidelity"])):
        if point["fidelity"] >= best:
            continue
        best = point["fidelity"]
        within = min((own for own in points if own[cost] <= point[cost]), key=lambda own: own["fidelity"])
        cells = [(own["name"], f"{own[cost]:.2f}", f"{own['fidelity']:.3f}", f"{own[file]:.4f}")
                 for own in (point, within)]  # fmt: skip
        table.add_row(f"{point[cost]:.2f}", *cells[0], *cells[1])
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", action="store_true", help="compare orders of the hidden dimensions")
    parser.add_argument("--roads", action="store_true", help="train what is missing of the variants, then show them")
    parser.add_argument("--space", type=Path, metavar="RUN", help="export, time and list every size of a run")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sst2", "stsb"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=4, help="of the teacher")
    parser.add_argument("--width-epochs", type=float, default=1)
    parser.add_argument("--depth-epochs", type=float, default=4)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--show", action="store_true", help="train nothing: only the table of what is kept")
    parser.add_argument("--fronts", action="store_true", help="beside roads, two dials and three at as many parameters")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--output", type=Path, default=Path("runs/hidden"))
    options = parser.parse_args()
    if options.space:
        space(options.space, options)
    for seed in options.seeds:
        options.seed = seed
        for task in options.tasks if options.orders else ():
            compare_orders(task, options)
        for variant in options.variants if options.roads and not options.show else ():
            for task in options.tasks:
                file = options.output / f"{task}-{variant.replace(' ', '_').replace(',', '')}-{options.seed}.json"
                if not file.is_file():
                    found = {"task": task, "variant": variant, "seed": options.seed, "rows": options.rows,
                             "result": trained(task, variant, options)}  # fmt: skip
                    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if options.roads:
        show_roads(options)


if __name__ == "__main__":
    main()
