"""The quality of every sub-network, signal against signal: the same teacher, data, steps and seeds, both stages.

    python benchmarks/quality.py                                   # trains what is missing, then prints the tables
    python benchmarks/quality.py --tasks rte cola --seeds 0 1 2 --signals ckd mse
    python benchmarks/quality.py --ablation dropout --tasks rte --seeds 0
    python benchmarks/quality.py --full                            # all rows, the recipe's own epochs: for a GPU

Each run's figures are kept in a JSON file under --output, so a killed matrix goes on where it stopped, and several
processes may share one (--shard 0/2 and 1/2). Tuning never sees the validation rows: --tune cuts a tenth off the
training rows and measures there. The teacher of a task is what `dynackd finetune recipes/glue/TASK.yaml --set
output_dir=OUTPUT/TASK` made; it is made where it is missing.
"""

import argparse
import copy
import itertools
import json
import shutil
import statistics
import time
from operator import itemgetter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dynackd.checkpoints import write_json
from dynackd.recipe import apply_overrides, load_recipe, make_recipe
from dynackd.report import machine_name
from dynackd.stages import TEACHER, RunMode, finetune, train_depth, train_width
from dynackd.tasks import TASKS, main_metric

RECIPES = Path(__file__).parents[1] / "recipes" / "glue"
console = Console(width=200)

# A tenth of the CKD authors' weights for SST-2 (distil_config.py of GeondoPark/CKD), with which the logits starve in so
# few steps: --tune --ablation scale.
CKD = {"wr_pair": 10, "wr_triple": 100, "ltr_pair": 10, "ltr_triple": 100}
MSE = {"width": {"hidden_mse": 0.1}, "depth": {"hidden_mse": 1.0}}  # DynaBERT's, by stage


def weights(width, depth=None):
    """Override: these weights beside the logits' in the width and the depth stage."""
    by_stage = {"width": width, "depth": width if depth is None else depth}
    return {f"stages.{stage}.distillation": {"signal": "logits", "weights": terms} for stage, terms in by_stage.items()}


def scaled(factor):
    return {name: factor * weight for name, weight in CKD.items()}


def only(*names):
    return {name: CKD[name] for name in names}


# What is compared: name -> recipe overrides. `matrix` is the main comparison, the rest are ablations.
SIGNALS = {
    "matrix": {
        "ckd": weights(CKD),
        "mse": weights(MSE["width"], MSE["depth"]),
        "logits": weights({}),
        "ckd+mse": weights({**CKD, **MSE["width"]}, {**CKD, **MSE["depth"]}),
    },
    "scale": {f"ckd x{factor:g}": weights(scaled(factor)) for factor in (0.01, 0.1, 1, 10)},
    # Weights under which the four terms begin at about the size of the logits term; wr_pair is by far the smallest.
    "balance": {
        f"ckd balanced x{factor:g}": weights(
            {"wr_pair": 3000 * factor, "wr_triple": 50 * factor, "ltr_pair": 300 * factor, "ltr_triple": 50 * factor}
        )
        for factor in (0.3, 1, 3)
    },
    "terms": {
        **{f"{name} alone": weights(only(name)) for name in CKD},
        "wr": weights(only("wr_pair", "wr_triple")),
        "ltr": weights(only("ltr_pair", "ltr_triple")),
    },
    "mse": {f"ckd+mse {w:g}": weights({**CKD, "hidden_mse": w}) for w in (0.1, 1, 10)},
    "distance": {"ckd l2": {**weights(CKD), "distillation.distance": "l2"}},
    "dropout": {
        "ckd, dropout 0.1": {**weights(CKD), "stages.width.dropout": 0.1, "stages.depth.dropout": 0.1},
        "mse, dropout 0.1": {
            **weights(MSE["width"], MSE["depth"]), "stages.width.dropout": 0.1, "stages.depth.dropout": 0.1
        },
    },
}  # fmt: skip

# Steps of batch 32 per stage that a task gets on a CPU, so that each run takes a few minutes on one core.
BUDGET = {"sst2": (100, 300), "cola": (100, 300), "stsb": (80, 240), "mrpc": (60, 180), "rte": (60, 180)}
BOUNDED = {"grid.sampler": "sandwich(1)", "training.bf16": True, "training.use_cpu": True}


# ---------------------------------------------------------------------------------------------------- one run


def recipe_of(task, signal, seed, options):
    """The task's shipped recipe with the signal's overrides, and the bounds of this machine."""
    content = copy.deepcopy(dict(load_recipe(RECIPES / f"{task}.yaml").content))
    content["stages"] = {"finetune": content.get("stages", {}).get("finetune", {})}
    content.pop("distillation", None)
    for key, value in {**SIGNALS_BY_NAME[signal], **({} if options.full else BOUNDED)}.items():
        content = apply_overrides(content, [f"{key}={json.dumps(value)}"])
    width, depth = (options.scale * steps for steps in BUDGET[task])
    for stage, steps, rate in (("width", width, options.rates[0]), ("depth", depth, options.rates[1])):
        training = content["stages"].setdefault(stage, {}).setdefault("training", {})
        training |= {"seed": seed, "learning_rate": rate, "logging_steps": 0.1, "disable_tqdm": True}
        training |= {"num_train_epochs": options.full} if options.full else {"max_steps": round(steps)}
        training |= {"save_strategy": "no"}
    if options.tune:
        content["data"] = {**content["data"], "validation_share": 0.1, "validation_rows": 400}
        content["data"].pop("validation")
    content["output_dir"] = str(options.output / task)
    teacher = ensure_teacher(content)
    content |= {"teacher": str(teacher), "output_dir": str(options.output / "work" / file_name(task, signal, seed))}
    return make_recipe(content)


def ensure_teacher(content):
    teacher = Path(content["output_dir"]) / TEACHER
    if not teacher.is_dir():
        finetune(make_recipe(content), RunMode())
    return teacher


def file_name(task, signal, seed):
    return f"{task}-{signal.replace(' ', '_').replace(',', '')}-{seed}"


def train(task, signal, seed, options):
    """Both stages; what their evaluations said."""
    recipe, start = recipe_of(task, signal, seed, options), time.monotonic()
    results = {}
    for stage, run in (("width", train_width), ("depth", train_depth)):
        directory = run(recipe, RunMode(overwrite=True))
        result = json.loads((directory / "metrics.json").read_text())
        results[stage] = {key: result[key] for key in ("teacher", "subnetworks", "train_seconds")}
    shutil.rmtree(recipe.output_dir)
    about = {"task": task, "signal": signal, "seed": seed, "seconds": round(time.monotonic() - start)}
    return {**about, "machine": machine_name(), "recipe": recipe.content, **results}


# ---------------------------------------------------------------------------------------------------- tables


def grid_mean(result, kind, name, stage="depth"):
    return statistics.mean(row[kind][name] for row in result[stage]["subnetworks"])


def spread(values):
    deviation = f"±{statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def summary_table(results):
    """Each task and signal: the average over the grid, of the metric, of the teacher's share and of the fidelity."""
    table = Table(title="average over the grid (mean±standard deviation over seeds)")
    for column in ("task", "signal", "seeds", "metric", "grid", "of teacher's", "(1, 1)", "(0.5, 0.5)", "(0.25, 0.5)"):
        table.add_column(column)
    fidelities = ("agreement", "kl", "rmse")
    for column in (*fidelities, "minutes"):
        table.add_column(column)
    for (task, signal), runs in grouped(results):
        metric = main_metric(TASKS[task])
        teacher = runs[0]["depth"]["teacher"]["metrics"][metric]
        cells = [spread([at(run, w, d)[metric] for run in runs]) for w, d in ((1, 1), (0.5, 0.5), (0.25, 0.5))]
        averages = [grid_mean(run, "metrics", metric) for run in runs]
        known = runs[0]["depth"]["subnetworks"][0]["fidelity"]
        fidelity = [
            spread([grid_mean(run, "fidelity", name) for run in runs]) if name in known else "" for name in fidelities
        ]
        table.add_row(
            f"{task} ({teacher:.4f})", signal, str(len(runs)), metric, spread(averages),
            f"{100 * statistics.mean(averages) / teacher:.1f} %", *cells, *fidelity,
            f"{statistics.mean(run['seconds'] for run in runs) / 60:.1f}",
        )  # fmt: skip
    return table


def full_table(results, task):
    """Every sub-network of one task: the metric by signal, mean and standard deviation over seeds."""
    metric = main_metric(TASKS[task])
    runs = {signal: group for (name, signal), group in grouped(results) if name == task}
    table = Table(title=f"{task}: {metric} of every sub-network")
    for column in ("width", "depth", *runs):
        table.add_column(column)
    specs = [(row["width"], row["depth"]) for row in next(iter(runs.values()))[0]["depth"]["subnetworks"]]
    for width, depth in specs:
        cells = [spread([at(run, width, depth)[metric] for run in group]) for group in runs.values()]
        table.add_row(f"{width:g}", f"{depth:g}", *cells)
    return table


def at(result, width, depth):
    rows = result["depth"]["subnetworks"]
    return next(row["metrics"] for row in rows if (row["width"], row["depth"]) == (width, depth))


def grouped(results):
    order = {signal: index for index, signal in enumerate(SIGNALS_BY_NAME)}
    ordered = sorted(results, key=lambda result: (result["task"], order[result["signal"]], result["seed"]))
    return [(name, list(group)) for name, group in itertools.groupby(ordered, itemgetter("task", "signal"))]


SIGNALS_BY_NAME = {name: overrides for group in SIGNALS.values() for name, overrides in group.items()}


# ---------------------------------------------------------------------------------------------------- command line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(BUDGET), choices=list(BUDGET))
    parser.add_argument("--ablation", default="matrix", choices=list(SIGNALS), help="a group of signals")
    parser.add_argument("--signals", nargs="+", choices=list(SIGNALS_BY_NAME), help="single signals, of any group")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of BUDGET")
    parser.add_argument("--full", type=int, metavar="EPOCHS", help="epochs per stage over all rows, all sub-networks")
    parser.add_argument("--rates", nargs=2, type=float, default=[1e-4, 1e-4], help="learning rates of the two stages")
    parser.add_argument("--tune", action="store_true", help="measure on a tenth of the training rows")
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    parser.add_argument("--shard", default="0/1", help="i/n: of all runs only each nth")
    parser.add_argument("--show", action="store_true", help="only print the tables")
    options = parser.parse_args()
    parts = ["tune" if options.tune else "validation", f"x{options.scale:g}" if not options.full else "full"]
    place = options.output / "-".join([*parts, *map(str, options.rates)])
    signals = options.signals or list(SIGNALS[options.ablation])
    runs = list(itertools.product(options.seeds, options.tasks, signals))
    index, count = map(int, options.shard.split("/"))
    for seed, task, signal in [] if options.show else runs[index::count]:
        file = place / f"{file_name(task, signal, seed)}.json"
        if not file.is_file():
            console.rule(f"{task}, {signal}, seed {seed}")
            write_json(file, train(task, signal, seed, options))
    results = [json.loads(file.read_text()) for file in sorted(place.glob("*.json"))]
    results = [r for r in results if (r["seed"], r["task"], r["signal"]) in runs]
    console.print(f"{machine_name()}; {place}")
    console.print(summary_table(results))
    for task in sorted({result["task"] for result in results}):
        console.print(full_table(results, task))


if __name__ == "__main__":
    main()
