"""What half of the depth and half of the width keep of the teacher's metric, step by step: with the learning rates and
epochs of before, with the default ones, and with these and texts without labels, new pairs of the training rows' own
texts, layers chosen by importance, a start from a general supernet; each of them as both stages leave it and polished.

    python benchmarks/make_unlabelled.py ../shared/data runs/unlabelled
    dynackd train-general recipes/general/minilm.yaml     # for the variants from a general supernet
    python benchmarks/small_end.py --bf16                 # what is missing, then the tables
    python benchmarks/small_end.py --bf16 --no-polish --tasks stsb --variants defaults text --seeds 0
    python benchmarks/small_end.py --show

Each task's shipped recipe in recipes/glue without its learning rates and epochs, its rows, three sub-networks a step;
one teacher a task and seed for all variants. With texts a training has as many steps as without. Reports on the
validation rows, by which nothing is chosen. Each run's figures are kept in a JSON file under --output, and each stage's
checkpoints of every hundredth step, so a killed run goes on where it stopped.
"""

import argparse
import copy
import csv
import json
import math
import shutil
import statistics
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer

from dynackd.data.sources import DataSource
from dynackd.subnet import SubnetSpec
from dynackd.tasks.loading import taken
from dynackd.tasks.task import main_metric
from dynackd.training.lengths import default_epochs
from dynackd.training.polish import polish
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import finetune, train_depth, train_width

RECIPES = Path(__file__).parents[1] / "recipes" / "glue"
TASKS = ("sst2", "mrpc", "stsb", "rte-bge-small", "cola-bge-small")
STAGES = ("width", "depth", "polish")
RATES_BEFORE = {"sst2": 1e-4}  # of the other recipes 5e-5
EPOCHS_BEFORE = {"sst2": {"width": 1, "depth": 2}}  # of the other recipes 3
SIZES = ((1, 1), (0.5, 0.75), (0.5, 0.5), (0.25, 0.5))
POLISHED = ((0.5, 0.5), (0.25, 0.5))
# name -> what it changes: learning rates and epochs as before, rows without labels, the rule for layers, where the
# weights start
VARIANTS = {
    "before": {"before rates", "before epochs"},
    "rates": {"before epochs"},
    "defaults": set(),
    "text": {"text"},
    "own texts": {"own"},  # first texts of the training rows beside second texts of others
    "layers": {"layers"},
    "general": {"general"},
    "general, its head alone": {"general", "head"},  # join: head, where the other adds the teacher's difference
    "text, layers": {"text", "layers"},
    "text, general": {"text", "general"},
    "together": {"text", "layers", "general"},
}
console = Console(width=180)


def recipe_of(task, variant, seed, options, place):
    changes, name = VARIANTS[variant], task.partition("-")[0]
    content = copy.deepcopy(dict(load_recipe(RECIPES / f"{task}.yaml").content))
    content["output_dir"] = str(place)
    content.setdefault("grid", {})["sampler"] = "sandwich(1)"
    training = content.setdefault("training", {})
    training |= {"bf16": options.bf16, "seed": seed, "save_strategy": "steps", "save_steps": 100}
    training["disable_tqdm"] = True
    content["stages"] = {}
    for key in ("learning_rate", "num_train_epochs"):
        training.pop(key, None)
    if options.rows:
        content["data"]["train_rows"] = options.rows
    if "before rates" in changes:
        training["learning_rate"] = RATES_BEFORE.get(task, 5e-5)
    if "before epochs" in changes:
        set_epochs(content, {**dict.fromkeys(STAGES, 3), **EPOCHS_BEFORE.get(task, {})})
    if changes & {"text", "own"}:
        file = options.unlabelled / f"{name}.jsonl" if "text" in changes else new_pairs(content["data"], name, options)
        content["data"] |= {"unlabelled": str(file), "unlabelled_share": options.share}
        steps = math.ceil(rows_of(content["data"]) / training["per_device_train_batch_size"])
        set_epochs(content, {stage: default_epochs(stage, steps) * (1 - options.share) for stage in STAGES})
    if "layers" in changes:
        content["grid"]["kept_layers"] = "importance"
    if "general" in changes:
        content |= {"model": str(options.general), "teacher": str(place / "teacher")}
    if "head" in changes:
        content["join"] = "head"
    return make_recipe(content)


def set_epochs(content, epochs):
    content["stages"] = {stage: {"training": {"num_train_epochs": number}} for stage, number in epochs.items()}


def rows_of(data):
    """The labelled rows of a GLUE file that a training reads."""
    with open(data["train"], encoding="utf-8") as lines:
        return min(sum(1 for _ in lines) - 1, data.get("train_rows", math.inf))


def new_pairs(data, name, options):
    """A file of the pairs that the training rows' own texts make: each first text beside two second texts that share
    most with it (by TF-IDF), and one of any other row."""
    file = options.output / "pairs" / f"{name}-{data.get('train_rows', 'all')}.jsonl"
    if file.is_file():
        return file
    with open(data["train"], encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    used = taken(len(rows), data.get("train_rows"), data.get("seed", DataSource().seed))[0]
    firsts, seconds = ([rows[i][column] for i in used] for column in ("sentence1", "sentence2"))
    vectors = TfidfVectorizer().fit([*firsts, *seconds])
    near = (vectors.transform(firsts) @ vectors.transform(seconds).T).toarray()
    np.fill_diagonal(near, -1)
    chosen = np.concatenate([np.argsort(-near)[:, :2], np.roll(np.arange(len(used)), 1)[:, None]], axis=1)
    known = set(zip(firsts, seconds, strict=True))
    pairs = dict.fromkeys((firsts[i], seconds[j]) for i, some in enumerate(chosen) for j in some)
    file.parent.mkdir(parents=True, exist_ok=True)
    made = ({"sentence1": one, "sentence2": other} for one, other in pairs if (one, other) not in known)
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return file


def begun_or_not(checkpoints):
    return RunMode(resume=True) if checkpoints.is_dir() else RunMode()


def trained(task, variant, seed, options):
    """Metric and fidelity of each size, and of two of them polished."""
    shared = options.output / "teachers" / f"{task}-{seed}"
    if not (shared / "teacher").is_dir():
        finetune(recipe_of(task, "defaults", seed, options, shared), begun_or_not(shared / "teacher-checkpoints"))
    place = options.output / "runs" / f"{task}-{variant.replace(', ', '-')}-{seed}"
    if not place.is_dir():
        place.mkdir(parents=True)
        shutil.copytree(shared / "teacher", place / "teacher")
    recipe = recipe_of(task, variant, seed, options, place)
    for stage, train in (("width", train_width), ("depth", train_depth)):
        if not (place / stage).is_dir():
            train(recipe, begun_or_not(place / f"{stage}-checkpoints"))
    about = json.loads((place / "depth" / "metrics.json").read_text())
    metric = main_metric(recipe.task)
    found = {
        "metric": metric,
        "teacher": about["teacher"]["metrics"][metric],
        "seconds": sum(json.loads((place / stage / "metrics.json").read_text())["train_seconds"]
                       for stage in ("width", "depth")),
        "sizes": {f"{row['width']:g}x{row['depth']:g}": row["metrics"][metric] for row in about["subnetworks"]},
        "fidelity": {f"{row['width']:g}x{row['depth']:g}": row["fidelity"] for row in about["subnetworks"]},
        "polished": {},
    }  # fmt: skip
    for width, depth in POLISHED if options.polish else ():
        directory = polish(place / "depth", SubnetSpec(width, depth), f"w{width:g}-d{depth:g}", recipe, RunMode(True))
        row = json.loads((directory / "metrics.json").read_text())
        found["polished"][f"{width:g}x{depth:g}"] = row["subnetworks"][0]["metrics"][metric]
    if not options.keep:
        shutil.rmtree(place)
    return found


def show(options):
    runs = [json.loads(file.read_text()) for file in sorted(options.output.glob("*.json"))]
    sizes = [f"{width:g}x{depth:g}" for width, depth in SIZES]
    polished = [f"{width:g}x{depth:g}" for width, depth in POLISHED]
    for task in [name for name in TASKS if any(run["task"] == name for run in runs)]:
        mine = [run for run in runs if run["task"] == task]
        table = Table(
            "variant", "seeds", "teacher", *sizes, *(f"{size} polished" for size in polished), "minutes",
            title=f"{task}: {mine[0]['result']['metric']}, and what is kept of the teacher's",
        )  # fmt: skip
        for variant in [name for name in VARIANTS if any(run["variant"] == name for run in mine)]:
            own = [run["result"] for run in mine if run["variant"] == variant]
            teacher = [result["teacher"] for result in own]
            cells = [_kept([result["sizes"][size] for result in own], teacher) for size in sizes]
            cells += [_kept([result["polished"].get(size, math.nan) for result in own], teacher) for size in polished]
            minutes = f"{statistics.fmean(result['seconds'] for result in own) / 60:.0f}"
            table.add_row(variant, str(len(own)), f"{statistics.fmean(teacher):.4f}", *cells, minutes)
        console.print(table)


def _kept(values, teachers):
    spread = f"±{statistics.stdev(values):.4f}" if len(values) > 1 else ""
    share = statistics.fmean(value / teacher for value, teacher in zip(values, teachers, strict=True))
    return f"{statistics.fmean(values):.4f}{spread} {share:.1%}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--unlabelled", type=Path, default=Path("runs/unlabelled"), help="of make_unlabelled.py")
    parser.add_argument("--share", type=float, default=0.5, help="of the rows without labels in an epoch")
    parser.add_argument("--general", type=Path, default=Path("runs/general/minilm/general"), help="of train-general")
    parser.add_argument("--rows", type=int, help="of training, in the place of the recipe's")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--polish", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--keep", action="store_true", help="leave the supernets under --output")
    parser.add_argument("--output", type=Path, default=Path("runs/small-end"))
    parser.add_argument("--show", action="store_true", help="print the tables only")
    options = parser.parse_args()
    wanted = [(t, v, seed) for seed in options.seeds for t in options.tasks for v in options.variants]
    for task, variant, seed in [] if options.show else wanted:
        impossible = ("general", "bge"), ("text", "sst2"), ("own", "sst2"), ("own", "cola")
        if any(change in VARIANTS[variant] and name in task for change, name in impossible):
            continue  # the general supernet is MiniLM's; SST-2 has rows enough; new pairs are made of pairs
        file = options.output / f"{task}-{variant.replace(', ', '-')}-{seed}.json"
        if not file.is_file():
            found = {"task": task, "variant": variant, "seed": seed, "result": trained(task, variant, seed, options)}
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
            console.print(f"{task}, {variant}, {seed}: {found['result']}")
    show(options)


if __name__ == "__main__":
    main()
