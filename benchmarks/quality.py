"""The quality of every sub-network, signal against signal: the same teacher, data, steps and seeds, both stages.

    python benchmarks/quality.py                                   # trains what is missing, then prints the tables
    python benchmarks/quality.py --tasks rte cola --seeds 0 1 2 --signals ckd mse
    python benchmarks/quality.py --ablation dropout --tasks rte --seeds 0
    python benchmarks/quality.py --full 3                          # all rows, three epochs a stage: for a GPU
    python benchmarks/quality.py --show --markdown                 # only the tables of what is kept, as in RESULTS.md

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
from dataclasses import replace
from operator import attrgetter, itemgetter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from dynackd.distill import terms as distill
from dynackd.report.terminal import machine_name
from dynackd.system.places import write_json
from dynackd.tasks.glue import TASKS
from dynackd.tasks.task import main_metric
from dynackd.training.augment import augment, overrides
from dynackd.training.recipe import apply_overrides, load_recipe, make_recipe
from dynackd.training.runs import TEACHER, RunMode
from dynackd.training.stages import finetune, train_depth, train_width

RECIPES = Path(__file__).parents[1] / "recipes" / "glue"
FEW_ROWS, AUGMENTED = 600, "ckd, few rows and new ones"
console = Console(width=200)

# A tenth of the CKD authors' weights for SST-2 (distil_config.py of GeondoPark/CKD: pairs 100, triples 1000).
PAPER = {"wr_pair": 10, "wr_triple": 100, "ltr_pair": 10, "ltr_triple": 100}
# Each term at about the size of the logits term at the start (dynackd's default, which ends at 0); and its gradient at
# about that of the logits term's.
VALUE = {"wr_pair": 3000, "wr_triple": 50, "ltr_pair": 300, "ltr_triple": 50}
GRADIENT = {
    "width": {"wr_pair": 1000, "wr_triple": 30, "ltr_pair": 100, "ltr_triple": 10},
    "depth": {"wr_pair": 1000, "wr_triple": 5, "ltr_pair": 30, "ltr_triple": 1},
}
MSE = {"width": {"hidden_mse": 0.1}, "depth": {"hidden_mse": 1.0}}  # DynaBERT's, by stage
STAGES = ("width", "depth")


def only(by_stage, **options):
    """Overrides: these weights beside the logits', by stage, and options for both stages, instead of the recipe's."""
    own = {stage: {"signal": "logits", "weights": by_stage[stage], **options} for stage in STAGES}
    return {"distillation": {}} | {f"stages.{stage}.distillation": own[stage] for stage in STAGES}


def scaled(weights, factor):
    return multiplied(dict.fromkeys(STAGES, weights), factor)


def multiplied(by_stage, factor):
    return {stage: {name: factor * w for name, w in weights.items()} for stage, weights in by_stage.items()}


def without(*names):
    """Overrides: the recipe's own distillation less these terms."""
    return {f"stages.{stage}.distillation.weights.{name}": 0 for stage in STAGES for name in names}


def dropout(rate):
    return {f"stages.{stage}.dropout": rate for stage in STAGES}


FACTORS = (0.3, 1, 3)
# What is compared: name -> recipe overrides. `matrix` is the main comparison, the rest are ablations.
SIGNALS = {
    "matrix": {
        "ckd+mse": {},
        "ckd": without("hidden_mse"),
        "mse": only(MSE),
        "logits": only({"width": {}, "depth": {}}),
    },
    "paper": {f"paper x{factor:g}": only(scaled(PAPER, factor)) for factor in (0.01, 0.1, 1, 10)},
    "value": {f"value x{factor:g}": only(scaled(VALUE, factor)) for factor in FACTORS},
    "linear": {
        **{f"value x{factor:g}, linear": only(scaled(VALUE, factor), schedule="linear") for factor in FACTORS},
        "mse, linear": only(MSE, schedule="linear"),
        # dynackd's default, and that of sst2.yaml.
        "ckd+mse, linear": {"distillation": {"weights": VALUE, "schedule": "linear"}},
        "ckd+mse, linear, width^1": {"distillation": {"weights": VALUE, "schedule": "linear", "width_power": 1}},
    },
    "width": {
        **{f"value x1, width^{power}": only(scaled(VALUE, 1), width_power=power) for power in (1, 2)},
        **{f"value x1, linear, width^{p}": only(scaled(VALUE, 1), schedule="linear", width_power=p) for p in (1, 2)},
        **{f"gradient x{factor}, width^1": only(multiplied(GRADIENT, factor), width_power=1) for factor in FACTORS},
    },
    "gradient": {
        **{f"gradient x{factor:g}": only(multiplied(GRADIENT, factor)) for factor in FACTORS},
        "gradient x1 and mse": only({stage: GRADIENT[stage] | MSE[stage] for stage in STAGES}),
    },
    "terms": {
        "ckd, no wr_pair": without("hidden_mse", "wr_pair"),
        "ckd, no wr_triple": without("hidden_mse", "wr_triple"),
        "ckd, no ltr_pair": without("hidden_mse", "ltr_pair"),
        "ckd, no ltr_triple": without("hidden_mse", "ltr_triple"),
        "ckd, no wr": without("hidden_mse", "wr_pair", "wr_triple"),
        "ckd, no ltr": without("hidden_mse", "ltr_pair", "ltr_triple"),
    },
    "distance": {
        "distances": only({s: GRADIENT[s] | {"wr_pair": 0.01, "ltr_pair": 0.01} for s in STAGES}, distance="l2")
    },
    "dropout": {"ckd, dropout 0.1": without("hidden_mse") | dropout(0.1), "mse, dropout 0.1": only(MSE) | dropout(0.1)},
    # Few rows, the same steps: with ten new rows beside each (dynackd augment), and without.
    "augment": {
        name: without("hidden_mse") | {"data.train_rows": FEW_ROWS} for name in ("ckd, few rows", AUGMENTED)
    },
}  # fmt: skip

# Steps of the two stages and their batch size that a recipe gets on a CPU: two to ten minutes a run on one core, twice
# that with the 12 layers of bge-small.
BUDGET = {
    "sst2": (50, 150, 32), "cola": (50, 150, 32), "stsb": (40, 120, 16), "mrpc": (40, 120, 16), "rte": (40, 120, 16),
    "cola-bge-small": (50, 150, 32), "rte-bge-small": (40, 120, 16),
}  # fmt: skip
FIVE = ("sst2", "cola", "stsb", "mrpc", "rte")
BOUNDED = {"grid.sampler": "sandwich(1)", "training.bf16": True, "training.use_cpu": True}


# ---------------------------------------------------------------------------------------------------- one run


def content_of(task, signal, seed, options):
    """The task's shipped recipe with the signal's overrides, and the bounds of this machine."""
    content = copy.deepcopy(dict(load_recipe(RECIPES / f"{task}.yaml").content))
    for key, value in {**SIGNALS_BY_NAME[signal], **({"grid.sampler": "all"} if options.full else BOUNDED)}.items():
        content = apply_overrides(content, [f"{key}={json.dumps(value)}"])
    *steps, batch_size = BUDGET[task]
    for stage, count, rate in zip(STAGES, steps, options.rates, strict=True):
        training = content["stages"].setdefault(stage, {}).setdefault("training", {})
        training |= {"seed": seed, "learning_rate": rate, "logging_steps": 0.1, "disable_tqdm": True}
        bounds = {"max_steps": round(options.scale * count), "per_device_train_batch_size": batch_size}
        training |= {"num_train_epochs": options.full} if options.full else bounds
        training |= {"save_strategy": "no"}
    if options.tune:
        content["data"] = {**content["data"], "validation_share": 0.1, "validation_rows": 400}
        content["data"].pop("validation")
    return content | {"output_dir": str(options.output / task)}


def recipe_of(task, signal, seed, options):
    content = content_of(task, signal, seed, options)
    teacher = ensure_teacher(content)
    if signal == AUGMENTED:
        content = ensure_augmented(content)
    content |= {"teacher": str(teacher), "output_dir": str(options.output / "work" / file_name(task, signal, seed))}
    return make_recipe(content)


def distillation_of(content):
    """By stage, what it distils: the weights that count, and how."""
    stages = make_recipe(content).stages
    settings = [stages[stage].distillation for stage in STAGES]
    return [replace(own, weights={term: own.weights[term] for term in own.active(distill.TERMS)}) for own in settings]


def ensure_teacher(content):
    teacher = Path(content["output_dir"]) / TEACHER
    if not teacher.is_dir():
        finetune(make_recipe(content), RunMode())
    return teacher


def ensure_augmented(content):
    recipe = make_recipe(content)
    if not (recipe.output_dir / "augmented" / "augment.json").is_file():
        augment(recipe, RunMode(overwrite=True))
    return apply_overrides(content, overrides(recipe))


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


def metric_of(result):
    return main_metric(TASKS[result["recipe"]["task"]])


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
        metric = metric_of(runs[0])
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


def against_table(results, own_signal):
    """A signal's grid average less that of each other signal. A seed draws the rows, their order and the sub-networks
    of each step for all signals alike, so that most of the deviation between seeds is common to them: the second figure
    is in deviations of the differences, seed by seed."""
    title = f"{own_signal} less the other (in standard deviations: the larger of the two; of the paired differences)"
    table = Table(title=f"{title}; seeds where it is better")
    table.add_column("task")
    table.add_column("other")
    names = ("metric", "agreement", "kl", "rmse")
    for name in names:
        table.add_column(name)
    runs = dict(grouped(results))
    for (task, signal), others in runs.items():
        own = runs.get((task, own_signal), [])
        if signal == own_signal or len({run["seed"] for run in own} & {run["seed"] for run in others}) < 2:
            continue
        known = own[0]["depth"]["subnetworks"][0]["fidelity"]
        kinds = {"metric": ("metrics", metric_of(own[0]))} | {name: ("fidelity", name) for name in known}
        cells = [difference(own, others, *kinds[name]) if name in kinds else "" for name in names]
        table.add_row(task, signal, *cells)
    return table


def difference(own, others, kind, name):
    left, right = ({run["seed"]: grid_mean(run, kind, name) for run in runs} for runs in (own, others))
    pairs = [(left[seed], right[seed]) for seed in left.keys() & right.keys()]
    apart = [mine - other for mine, other in pairs]
    deviations = max(statistics.stdev(values) for values in zip(*pairs, strict=True)), statistics.stdev(apart)
    mean, better = statistics.mean(apart), sum((d < 0) if name in ("kl", "rmse") else (d > 0) for d in apart)
    shares = "; ".join(f"{mean / deviation:+.1f}" if deviation else "-" for deviation in deviations)
    return f"{mean:+.4f} ({shares}) {better}/{len(pairs)}"


def full_table(results, task):
    """Every sub-network of one task: the metric by signal, mean and standard deviation over seeds."""
    runs = {signal: group for (name, signal), group in grouped(results) if name == task}
    metric = metric_of(next(iter(runs.values()))[0])
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


def print_markdown(table):
    console.print(f"\n{table.title}:\n")
    table.title, table.box = None, box.MARKDOWN
    console.print(table, width=1000, crop=False)  # a row on one line


SIGNALS_BY_NAME = {name: changes for group in SIGNALS.values() for name, changes in group.items()}


# ---------------------------------------------------------------------------------------------------- command line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=FIVE, choices=list(BUDGET), help="recipes")
    parser.add_argument("--ablation", default="matrix", choices=list(SIGNALS), help="a group of signals")
    parser.add_argument("--signals", nargs="+", choices=list(SIGNALS_BY_NAME), help="single signals, of any group")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of BUDGET")
    parser.add_argument("--full", type=int, metavar="EPOCHS", help="epochs per stage over all rows, all sub-networks")
    parser.add_argument("--rates", nargs=2, type=float, default=[1e-4, 1e-4], help="learning rates of the two stages")
    parser.add_argument("--tune", action="store_true", help="measure on a tenth of the training rows")
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    parser.add_argument("--shard", default="0/1", help="i/n: of all runs only each nth")
    compared = {"choices": list(SIGNALS_BY_NAME), "default": "ckd+mse", "metavar": "SIGNAL"}
    parser.add_argument("--against", **compared, help="what the others are compared with (default: ckd+mse)")
    parser.add_argument("--show", action="store_true", help="only print the tables")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args()
    parts = ["tune" if options.tune else "validation", f"x{options.scale:g}" if not options.full else "full"]
    place = options.output / "-".join([*parts, *map(str, options.rates)])
    signals = options.signals or list(SIGNALS[options.ablation])
    runs = list(itertools.product(options.seeds, options.tasks, signals))
    index, count = map(int, options.shard.split("/"))
    for seed, task, signal in runs[index::count]:
        file = place / f"{file_name(task, signal, seed)}.json"
        if file.is_file():
            kept = json.loads(file.read_text())["recipe"]
            if distillation_of(kept) != distillation_of(content_of(task, signal, seed, options)):
                console.print(f"{file} has other weights than {task}.yaml gives now; remove it to repeat it")
        elif not options.show:
            console.rule(f"{task}, {signal}, seed {seed}")
            write_json(file, train(task, signal, seed, options))
    results = [json.loads(file.read_text()) for file in sorted(place.glob("*.json"))]
    results = [r for r in results if (r["seed"], r["task"], r["signal"]) in runs]
    console.print(f"{machine_name()}; {place}")
    tables = [summary_table(results), against_table(results, options.against)]
    tables += [full_table(results, task) for task in sorted({result["task"] for result in results})]
    for table in filter(attrgetter("row_count"), tables):
        (print_markdown if options.markdown else console.print)(table)


if __name__ == "__main__":
    main()
