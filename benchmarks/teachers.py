"""A supernet of MiniLM (6 layers, hidden 384) taught by encoders of other shapes: by relations, by the outputs alone,
and by hidden states through a learned projection.

    python benchmarks/teachers.py --bf16 --mpnet DIRECTORY          # what is missing, then the tables
    python benchmarks/teachers.py --bf16 --teachers own bge-small --tasks sst2
    python benchmarks/teachers.py --show

Teachers: MiniLM itself, fine-tuned ("own"); bge-small (12 layers, hidden 384); MPNet (12 layers, hidden 768, a
vocabulary of its own; recipes/glue/sst2-mpnet.yaml says where it is found). Every supernet starts from the fine-tuned
MiniLM, so that only what teaches differs. Each is trained by the same rows, steps and rate for each signal:

    ckd         relations between words and between layers, beside the outputs (CKD, EMNLP 2021)
    logits      the outputs alone
    projected   the outputs and the squared error of hidden states through a learned projection (TinyBERT, 2020)

A tenth of the training rows is cut off, from teachers too, and reported on; GLUE's validation rows are not read.
Fidelity is that to the teacher which taught. Each run's figures are kept in a JSON file under --output, so a killed run
goes on.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

from learning_rate import MODELS, SIZES, TASKS, recipe_of
from rich.console import Console
from rich.table import Table

from dynackd.training.recipe import apply_overrides, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import finetune, train_depth, train_width

console = Console(width=180)
ENCODERS = ("own", "bge-small", "mpnet")
RATES = {"mpnet": 5e-5}  # the others' are the defaults
SIGNALS = {
    "ckd": {"signal": "ckd"},
    "logits": {"signal": "logits"},
    "projected": {"signal": "logits", "weights": {"hidden_projected_mse": 1.0}},
}
MATCHED = {"matching": "uniform", "schedule": "linear", "width_power": 1}  # of all three


def teacher_of(task, name, seed, options):
    """The directory of a fine-tuned teacher, trained where it is missing."""
    place = options.output / "teachers" / f"{task}-{name}-{seed}"
    if not (place / "teacher").is_dir():
        models = {"own": MODELS["minilm"], "bge-small": MODELS["bge-small"], "mpnet": options.mpnet}
        content = recipe_of("minilm", task, options, place, {"finetune": RATES.get(name)}).content
        finetune(make_recipe({**content, "model": models[name]}), RunMode(overwrite=True))
    return (place / "teacher").resolve()


def trained(task, name, signal, seed, options):
    """What the sizes of a supernet come to, and what its teacher does."""
    start, teacher = (teacher_of(task, whose, seed, options) for whose in ("own", name))
    place = options.output / "runs" / f"{task}-{name}-{signal}-{seed}"
    content = recipe_of("minilm", task, options, place, {}).content
    changes = {"model": str(start), "teacher": str(teacher), "distillation": SIGNALS[signal] | MATCHED}
    recipe = make_recipe(apply_overrides(content, [f"{key}={json.dumps(value)}" for key, value in changes.items()]))
    for stage, train in (("width", train_width), ("depth", train_depth)):
        if not (place / stage).is_dir():
            train(recipe, RunMode(overwrite=True))
    about = json.loads((place / "depth" / "metrics.json").read_text())
    rows = {(row["width"], row["depth"]): {**row["metrics"], **row["fidelity"]} for row in about["subnetworks"]}
    seconds = [json.loads((place / stage / "metrics.json").read_text())["train_seconds"]
               for stage in ("width", "depth")]  # fmt: skip
    shutil.rmtree(place)
    sizes = {f"{width:g}x{depth:g}": rows[width, depth] for width, depth in SIZES}
    return {"teacher": about["teacher"]["metrics"], "metric": about["main_metric"], "seconds": sum(seconds),
            "sizes": sizes}  # fmt: skip


def show(options):
    runs = [json.loads(file.read_text()) for file in sorted(options.output.glob("*.json"))]
    for task in sorted({run["task"] for run in runs}):
        mine = [run for run in runs if run["task"] == task]
        metric, sizes = mine[0]["result"]["metric"], list(mine[0]["result"]["sizes"])
        fidelity = ["agreement", "kl"] if "kl" in mine[0]["result"]["sizes"][sizes[0]] else ["rmse"]
        table = Table("teacher", "its own", "signal", *sizes, "mean", "seconds",
                      title=f"{task}: {' / '.join([metric, *fidelity])}, held-out rows")  # fmt: skip
        for name in ENCODERS:
            for signal in SIGNALS:
                own = [run["result"] for run in mine if (run["teacher"], run["signal"]) == (name, signal)]
                if own:
                    table.add_row(name, f"{statistics.fmean(one['teacher'][metric] for one in own):.4f}", signal,
                                  *_cells(own, sizes, [metric, *fidelity]),
                                  f"{statistics.fmean(one['seconds'] for one in own):.0f} ({len(own)})")  # fmt: skip
        console.print(table)


def _cells(results, sizes, keys):
    """Each size's figures, mean over seeds, and their mean over the sizes."""
    means = [[statistics.fmean(one["sizes"][size][key] for one in results) for key in keys] for size in sizes]
    means.append([statistics.fmean(column) for column in zip(*means, strict=True)])
    return [" / ".join(f"{value:.4f}" for value in row) for row in means]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sst2", "stsb"])
    parser.add_argument("--teachers", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--mpnet", default="sentence-transformers/all-mpnet-base-v2", help="directory or name of MPNet")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=3, help="of the teachers")
    parser.add_argument("--width-epochs", type=float, default=1)
    parser.add_argument("--depth-epochs", type=float, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/teachers"))
    parser.add_argument("--show", action="store_true", help="print the tables only")
    options = parser.parse_args()
    wanted = [(task, name, signal, seed) for seed in options.seeds for task in options.tasks
              for name in options.teachers for signal in options.signals]  # fmt: skip
    for task, name, signal, seed in [] if options.show else wanted:
        file, options.seed = options.output / f"{task}-{name}-{signal}-{seed}.json", seed
        if not file.is_file():
            found = {"task": task, "teacher": name, "signal": signal, "seed": seed, "rows": options.rows,
                     "result": trained(task, name, signal, seed, options)}  # fmt: skip
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
            console.print(f"{task}, {name}, {signal}, {seed}: {found['result']['seconds']:.0f} s")
    show(options)


if __name__ == "__main__":
    main()
