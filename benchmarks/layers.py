"""Which layers a depth keeps: the rules compared, on rows held out of the training rows.

    python benchmarks/layers.py --untrained        # minutes: what each rule leaves of a teacher before any distillation
    python benchmarks/layers.py                    # what becomes of that in the depth stage
    python benchmarks/layers.py --show             # only the tables of what is kept

A tenth of the training rows (the seed's) is cut off and reported on; GLUE's validation rows are never read. Each run's
figures are kept in a JSON file under --output, so a killed run goes on where it stopped, and several processes may
share one (--shard 0/2 and 1/2). One teacher and one width stage serve all rules: at full depth they are the same.

--untrained knows two rules beside the package's: `influence`, the layers that change their vectors most by the cosine
(ShortGPT's Block Influence, Men et al. 2024), and `best`, of all sets of so many layers the one whose outputs are
nearest to the full network's on the very rows that `importance` is measured on.
"""

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path

import torch
from learning_rate import MODELS, TASKS, recipe_of
from rich.console import Console
from rich.table import Table

from dynackd.data.model_labels import labels_of
from dynackd.families.table import max_positions
from dynackd.grid import KEPT_LAYER_RULES, Grid
from dynackd.measure.evaluation import batches_of, predict
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.checkpoints import load_tokenizer
from dynackd.supernet.layer_order import order_by_removal
from dynackd.supernet.network import CONFIG_KEY, Supernet
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.task import compute_fidelity, compute_metrics, main_metric
from dynackd.training.recipe import make_recipe
from dynackd.training.rewiring import ORDER_ROWS, rewire_by_importance
from dynackd.training.rows import tokenized
from dynackd.training.runs import RunMode
from dynackd.training.stages import finetune, train_depth, train_width
from dynackd.training.teachers import load_teacher

RULES = ("last", "ends", "importance")
WIDTHS, DEPTHS = (0.25, 0.5, 1.0), (0.5, 0.67, 1.0)
SHOWN = ((1.0, 0.67), (0.5, 0.67), (1.0, 0.5), (0.5, 0.5), (0.25, 0.5))
TRIED_SETS = 100  # of layers, at most, for `best`
TEMPERATURE = 1.0
console = Console(width=180)


def recipe_by(rule, model, task, options, place):
    """The recipe of `learning_rate.py` at the default rates, with these depths and this rule."""
    content = dict(recipe_of(model, task, options, place, {}).content)
    grid = {"widths": list(WIDTHS), "depths": list(DEPTHS), "sampler": "sandwich(1)", "kept_layers": rule}
    return make_recipe({**content, "grid": grid})


def teacher_place(model, task, options):
    """The output directory of a teacher, which is fine-tuned where it is not there yet."""
    place = options.output / "teachers" / f"{model}-{task}-{options.rows}x{options.epochs:g}-{options.seed}"
    if not (place / "teacher").is_dir():
        finetune(recipe_by("last", model, task, options, place), RunMode(overwrite=True))
    return place


# --- before any distillation -----------------------------------------------------------------------------------------


def untrained(model, task, options):
    """Of each rule and depth, at full width: metric and fidelity on the rows held out; and the layers that it keeps."""
    place, start = teacher_place(model, task, options), time.monotonic()
    recipe = recipe_by("importance", model, task, options, place)
    supernet = Supernet(load_teacher(str(place / "teacher"), recipe.task.kind).model, Grid((1.0,), (1.0,))).eval()
    config = supernet.model.config
    tokenizer = load_tokenizer(str(place / "teacher"), config, recipe.task.kind)
    data = load_task_data(recipe.task, recipe.data, model=labels_of(config))
    rows, kind = tokenized(data, recipe, tokenizer, max_positions(config)), data.task.kind
    supernet.model.requires_grad_(True)
    rewire_by_importance(supernet, recipe, rows)
    sample = rows.train.shuffle(seed=recipe.data.seed).select(range(min(ORDER_ROWS, len(rows.train))))
    batches = list(batches_of(sample, kind, tokenizer, 32))
    geometry, measured = supernet.geometry, time.monotonic()
    order = order_by_removal(supernet, kind, batches).order
    found = {"order": order, "order_seconds": round(time.monotonic() - measured, 1)}
    grids = {rule: Grid(WIDTHS, DEPTHS, rule).ordered(order) for rule in KEPT_LAYER_RULES}
    grids["influence"] = Grid(WIDTHS, DEPTHS, "importance").ordered(by_influence(supernet, kind, batches))
    kept = {rule: {depth: grid.resolve(SubnetSpec(1.0, depth), geometry) for depth in DEPTHS if depth < 1}
            for rule, grid in grids.items()}  # fmt: skip
    kept["best"] = {depth: by_trial(supernet, kind, batches, len(own.layers)) for depth, own in kept["last"].items()}
    evaluated = batches_of(rows.validation[""], kind, tokenizer, 64)
    (expected,), labels = predict(supernet, [supernet.whole], kind, evaluated)
    found |= {"teacher": compute_metrics(data.task, expected, labels), "rules": {}}
    for rule, own in kept.items():
        for depth, subnet in own.items():
            if subnet is not None:
                (outputs,), _ = predict(supernet, [subnet], kind, evaluated)
                figures = compute_metrics(data.task, outputs, labels)
                figures |= compute_fidelity(data.task, outputs, expected, labels)
                found["rules"].setdefault(rule, {})[f"1x{depth:g}"] = {"layers": subnet.indices, **figures}
    return {**found, "metric": main_metric(recipe.task), "seconds": round(time.monotonic() - start)}


@torch.no_grad()
def by_influence(supernet, kind, batches):
    """The layers (0-based), the one first whose vectors point most nearly where those that it was given did, a mean
    over real words."""
    sums, words = torch.zeros(supernet.geometry.layers), 0.0
    for batch in batches:
        inputs, _ = kind.split(batch)
        states = supernet(supernet.whole, **inputs).hidden_states
        real = batch["attention_mask"].bool()
        words += float(real.sum())
        for index, (before, after) in enumerate(itertools.pairwise(states)):
            sums[index] += (1 - torch.cosine_similarity(before[real], after[real], dim=-1)).sum()
    return torch.argsort(sums / words, stable=True).tolist()


@torch.no_grad()
def by_trial(supernet, kind, batches, count):
    """Of all sets of so many layers the one that is nearest to the full network; None of too many sets."""
    whole = supernet.whole
    sets = [Subnet(layers, whole.hidden) for layers in itertools.combinations(whole.layers, count)]
    if len(sets) > TRIED_SETS:
        return None

    def read(subnet, batch):
        inputs, _ = kind.split(batch)
        return kind.read(supernet(subnet, **inputs).outputs, inputs, supernet.model.config)

    expected = [read(whole, batch) for batch in batches]

    def loss(subnet):
        found = zip(batches, expected, strict=True)
        return sum(
            float(kind.output_count(batch) * kind.output_loss(read(subnet, batch), theirs, batch, TEMPERATURE))
            for batch, theirs in found
        )

    return min(sets, key=loss)


# --- after both stages -----------------------------------------------------------------------------------------------


def width_place(model, task, options):
    """The output directory of a teacher and a width stage, which know the order of the layers; made where they are not
    there yet."""
    name = f"{model}-{task}-{options.rows}x{options.epochs:g}+{options.width_epochs:g}-{options.seed}"
    place = options.output / "widths" / name
    if not (place / "width").is_dir():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(teacher_place(model, task, options), place)
        train_width(recipe_by("importance", model, task, options, place), RunMode(overwrite=True))
    return place


def trained(model, task, rule, options):
    """Metric and fidelity of every size on the rows held out after a depth stage by this rule."""
    own = width_place(model, task, options)
    place = options.output / "runs" / f"{own.name}-{rule}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(own, place)
    set_rule(place / "width" / "config.json", rule)
    recipe, start = recipe_by(rule, model, task, options, place), time.monotonic()
    train_depth(recipe, RunMode(overwrite=True))
    about = json.loads((place / "depth" / "metrics.json").read_text())
    shutil.rmtree(place)
    found = {
        f"{row['width']:g}x{row['depth']:g}": {"layers": row["layers"], **row["metrics"], **row["fidelity"]}
        for row in about["subnetworks"]
    }
    seconds = round(time.monotonic() - start)
    return {**found, "teacher": about["teacher"]["metrics"], "metric": main_metric(recipe.task), "seconds": seconds}


def set_rule(config, rule):
    """Let a width stage's result say another rule: its weights are the same by all of them."""
    content = json.loads(config.read_text())
    grid = content[CONFIG_KEY]["grid"] | {"kept_layers": rule}
    if rule != "importance":
        del grid["layer_order"]
    config.write_text(json.dumps(content | {CONFIG_KEY: content[CONFIG_KEY] | {"grid": grid}}))


# --- what is kept ----------------------------------------------------------------------------------------------------


def show(output):
    """The tables of what is kept, each cell the mean over seeds."""
    runs = [json.loads(file.read_text()) for file in sorted(output.glob("*.json"))]
    for stage in ("untrained", "trained"):
        mine = [run for run in runs if run["stage"] == stage]
        found = {}  # (model, task, budget, size) -> rule -> (metric, fidelity, layers) of each seed
        for run in mine:
            of_rules = {run["rule"]: run["result"]} if stage == "trained" else run["result"]["rules"]
            for rule, sizes in of_rules.items():
                for width, depth in SHOWN:
                    if own := sizes.get(size := f"{width:g}x{depth:g}"):
                        key = (run["model"], run["task"], run["budget"], size)
                        figures = (own[run["result"]["metric"]], own.get("kl", own.get("rmse")), tuple(own["layers"]))
                        found.setdefault(key, {}).setdefault(rule, []).append(figures)
        rules = list(dict.fromkeys(rule for own in found.values() for rule in own))
        heads = ("model", "task", "rows x epochs", "size", "seeds", *rules)
        table = Table(*heads, title=f"{stage}: metric, fidelity, layers")
        for key, own in found.items():
            seeds = max(map(len, own.values()))
            table.add_row(*key, str(seeds), *(cell(own.get(rule, [])) for rule in rules))
        if found:
            console.print(table)


def cell(figures):
    """`0.8412 0.0531 0 3 5`: means over seeds, and the layers where all seeds keep the same."""
    if not figures:
        return ""
    metric, fidelity = (sum(own[place] for own in figures) / len(figures) for place in (0, 1))
    layers = {own[2] for own in figures}
    return f"{metric:.4f} {fidelity:.4f} " + (" ".join(map(str, layers.pop())) if len(layers) == 1 else "differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--untrained", action="store_true", help="only what is left before any distillation")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["minilm"])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sst2", "stsb", "mrpc", "emotions"])
    parser.add_argument("--rules", nargs="+", choices=KEPT_LAYER_RULES, default=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--width-epochs", type=float, default=1)
    parser.add_argument("--depth-epochs", type=float, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--shard", default="0/1", help="by model, task and seed, whose rules share a width stage")
    parser.add_argument("--output", type=Path, default=Path("runs/layers"))
    parser.add_argument("--show", action="store_true", help="print the tables only")
    options = parser.parse_args()
    shard, shards = map(int, options.shard.split("/"))
    stage = "untrained" if options.untrained else "trained"
    later = [] if options.untrained else [options.width_epochs, options.depth_epochs]
    budget = f"{options.rows}x" + "+".join(map("{:g}".format, [options.epochs, *later]))
    wanted = list(itertools.product(options.models, options.tasks, options.seeds))[shard::shards]
    for (model, task, seed), rule in itertools.product(
        [] if options.show else wanted, ["all"] if options.untrained else options.rules
    ):
        options.seed = seed
        name = f"{stage}-{model}-{task}-{rule}-{budget}-{seed}"
        file = options.output / f"{name}.json"
        if file.is_file():
            continue
        result = untrained(model, task, options) if options.untrained else trained(model, task, rule, options)
        about = {"stage": stage, "model": model, "task": task, "rule": rule, "budget": budget, "seed": seed,
                 "result": result}  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(about, indent=1), encoding="utf-8")
        console.print(f"{name}: {result['seconds']} s")
    show(options.output)


if __name__ == "__main__":
    main()
