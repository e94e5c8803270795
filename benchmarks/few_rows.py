"""What keeps half of the depth from learning few rows by heart: a sub-network trained alone from the rewired teacher,
with other rates, lengths, temperatures and dropout, on rows held out of the training rows.

    python benchmarks/few_rows.py --bf16 --tasks mrpc      # what is missing, then the table
    python benchmarks/few_rows.py --show

All training rows but the tenth that is cut off and reported on; GLUE's validation rows are never read. The teacher is
fine-tuned by the defaults, one a task and seed for all variants. Each run's figures are kept in a JSON file under
--output, so a killed sweep goes on where it stopped.
"""

import argparse
import json
import shutil
from pathlib import Path

from learning_rate import TASKS
from polish import by_task, of_size, rewired
from rich.console import Console
from rich.table import Table

from dynackd.subnet import SubnetSpec
from dynackd.training.polish import polish
from dynackd.training.rates import default_learning_rate
from dynackd.training.recipe import apply_overrides, make_recipe
from dynackd.training.runs import RunMode

RATE = default_learning_rate("depth", 384)
# name -> overrides of the stage; nothing: the depth stage's rate, temperature 1, no dropout, its default length
VARIANTS = {
    "base": {},
    "dropout .1": {"dropout": 0.1},
    "temperature 4": {"distillation.temperature": 4},
    "3 epochs": {"training.num_train_epochs": 3},
    "3 epochs, rate / 4": {"training.num_train_epochs": 3, "training.learning_rate": RATE / 4},
}
console = Console(width=160)


def trained(task, variant, seed, options):
    parent = rewired(task, seed, options)
    own = {"training.learning_rate": RATE, "training.num_train_epochs": options.length} | VARIANTS[variant]
    overrides = [f"stages.polish.{key}={json.dumps(value)}" for key, value in own.items()]
    recipe = make_recipe(apply_overrides(parent.content, overrides))
    name = variant.replace(" ", "-").replace("/", "by").replace(",", "").replace(".", "")
    directory = polish(parent.output_dir / "width", SubnetSpec(*options.size), name, recipe, RunMode(overwrite=True))
    found = of_size(directory, tuple(options.size))
    losses = [row for row in map(json.loads, (directory / "log.jsonl").read_text().splitlines()) if "loss" in row]
    shutil.rmtree(directory)
    return found | {"last": losses[-1]}


def show(options):
    for task, mine, metric, fidelity in by_task(options.output):
        table = Table("variant", "seed", "size", "teacher", metric, fidelity, "seconds", title=task)
        for run in sorted(mine, key=lambda run: (run["seed"], list(VARIANTS).index(run["variant"]))):
            result = run["result"]
            figures = f"{result['figures'][metric]:.4f}", f"{result['figures'][fidelity]:.4f}"
            table.add_row(run["variant"], str(run["seed"]), str(tuple(run["size"])),
                          f"{result['teacher'][metric]:.4f}", *figures, f"{result['seconds']:.0f}")  # fmt: skip
        console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["mrpc"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--size", nargs=2, type=float, default=[0.5, 0.5], metavar=("WIDTH", "DEPTH"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=9, help="of the teacher")
    parser.add_argument("--length", type=float, default=10, help="epochs of the sub-network where a variant says none")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/few-rows"))
    parser.add_argument("--show", action="store_true", help="print the table only")
    options = parser.parse_args()
    options.width_epochs = options.depth_epochs = 1  # of stages that are not trained
    wanted = [(task, variant, seed) for seed in options.seeds for task in options.tasks for variant in options.variants]
    for task, variant, seed in [] if options.show else wanted:
        options.seed = seed
        file = options.output / f"{task}-{variant.replace(' ', '_').replace('/', 'by')}-{seed}.json"
        if not file.is_file():
            result = trained(task, variant, seed, options)
            found = {"task": task, "variant": variant, "seed": seed, "size": options.size, "result": result}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
            console.print(f"{task}, {variant}, {seed}: {result}")
    show(options)


if __name__ == "__main__":
    main()
