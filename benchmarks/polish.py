"""A size of the supernet as both stages leave it, polished, and trained alone from the teacher; on rows held out of the
training rows.

    python benchmarks/polish.py --bf16 --tasks sst2 mrpc stsb emotions    # what is missing, then the tables
    python benchmarks/polish.py --show

Trained alone is the same sub-network of the rewired teacher, untrained until then, with the same signal, for as many
examples as both stages see (`alone`), and as both stages and the polish see (`alone, longer`); `polished, longer` is
polished for --longer-epochs. Seconds are those of training and evaluating; the supernet's are for all of its sizes
together. A tenth of the training rows is cut off and reported on, GLUE's validation rows are never read. Each row of
figures is kept in a JSON file under --output, so a killed run goes on where it stopped.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

from learning_rate import MODELS, TASKS, recipe_of
from rich.console import Console
from rich.table import Table

from dynackd.subnet import SubnetSpec
from dynackd.training.polish import polish
from dynackd.training.recipe import apply_overrides, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import finetune, train_depth, train_width

SIZES = ((0.5, 1), (1, 0.5), (0.5, 0.5), (0.25, 0.5))
WAYS = ("supernet", "polished", "polished, longer", "alone", "alone, longer")
UNTRAINED = {"max_steps": 1, "learning_rate": 1e-20}  # a width stage that only rewires
console = Console(width=160)


def changed(recipe, stage, training):
    """The recipe with these fields of a stage's training."""
    overrides = [f"stages.{stage}.training.{key}={json.dumps(value)}" for key, value in training.items()]
    return make_recipe(apply_overrides(recipe.content, overrides))


def begun(task, seed, options, name, stages):
    """The recipe of a directory in which the teacher is fine-tuned and `stages` are trained, each timed."""
    place = options.output / "runs" / f"{options.model}-{task}-{seed}" / name
    recipe = recipe_of(options.model, task, options, place, {})
    teacher = options.output / "runs" / f"{options.model}-{task}-{seed}" / "teacher"
    if not teacher.is_dir():
        first = recipe_of(options.model, task, options, teacher.parent, {})
        finetune(first, RunMode(resume=any(teacher.parent.glob("teacher-checkpoints"))))
    if not place.is_dir():
        place.mkdir(parents=True)
        shutil.copytree(teacher, place / "teacher")
    for stage, (train, training) in stages.items():
        if not (place / stage).is_dir():
            train(changed(recipe, stage, training), RunMode(overwrite=True))
    return recipe


def supernet_of(task, seed, options):
    return begun(task, seed, options, "supernet", {"width": (train_width, {}), "depth": (train_depth, {})})


def rewired(task, seed, options):
    return begun(task, seed, options, "rewired", {"width": (train_width, UNTRAINED)})


def of_size(directory, size):
    """Metrics and fidelity of a size in a result's metrics.json, and the seconds that training took."""
    about = json.loads((directory / "metrics.json").read_text())
    row = next(row for row in about["subnetworks"] if (row["width"], row["depth"]) == size)
    return {"figures": {**row["metrics"], **row["fidelity"]}, "teacher": about["teacher"]["metrics"],
            "seconds": about["train_seconds"]}  # fmt: skip


def measured(task, seed, way, size, options):
    if way == "supernet":
        place = supernet_of(task, seed, options).output_dir
        found = of_size(place / "depth", size)
        return {**found, "seconds": found["seconds"] + of_size(place / "width", (1, 1))["seconds"]}
    base = options.width_epochs + options.depth_epochs
    epochs = {"polished": options.polish_epochs, "polished, longer": options.longer_epochs, "alone": base,
              "alone, longer": base + options.polish_epochs}[way]  # fmt: skip
    polishes = way.startswith("polished")
    recipe = (supernet_of if polishes else rewired)(task, seed, options)
    parent = recipe.output_dir / ("depth" if polishes else "width")
    name = f"{way.replace(', ', '-')}-{size[0]:g}-{size[1]:g}"
    own = changed(recipe, "polish", {"num_train_epochs": epochs})
    start = time.monotonic()
    directory = polish(parent, SubnetSpec(*size), name, own, RunMode(overwrite=True))
    found = {**of_size(directory, size), "wall_s": round(time.monotonic() - start)}
    shutil.rmtree(directory)
    return found


def by_task(output):
    """(task, its runs in the JSON files of `output`, the names of metric and fidelity)."""
    runs = [json.loads(file.read_text()) for file in sorted(output.glob("*.json"))]
    for task in sorted({run["task"] for run in runs}):
        mine = [run for run in runs if run["task"] == task]
        metric = next(iter(mine[0]["result"]["teacher"]))
        yield task, mine, metric, next(key for key in ("kl", "rmse") if key in mine[0]["result"]["figures"])


def show(options):
    for task, mine, metric, fidelity in by_task(options.output):
        seeds = sorted({run["seed"] for run in mine})
        teacher = statistics.fmean(
            next(run["result"]["teacher"][metric] for run in mine if run["seed"] == seed) for seed in seeds
        )
        title = f"{task}: {metric} / {fidelity} / seconds of training; teacher {teacher:.4f}; seeds {seeds}"
        table = Table("size", *WAYS, title=title)
        for size in SIZES:
            cells = []
            for way in WAYS:
                own = [run["result"] for run in mine if run["way"] == way and tuple(run["size"]) == size]
                cells.append(_cell(own, metric, fidelity) if own else "")
            table.add_row(f"({size[0]:g}, {size[1]:g})", *cells)
        console.print(table)


def _cell(results, metric, fidelity):
    figures = [result["figures"] for result in results]
    mean = [statistics.fmean(row[key] for row in figures) for key in (metric, fidelity)]
    return f"{mean[0]:.4f} / {mean[1]:.4f} / {statistics.fmean(r['seconds'] for r in results):.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["mrpc", "sst2", "stsb", "emotions"])
    parser.add_argument("--sizes", nargs="+", default=["0.5,0.5", "0.25,0.5"], metavar="WIDTH,DEPTH")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=4, help="of the teacher")
    parser.add_argument("--width-epochs", type=float, default=1)
    parser.add_argument("--depth-epochs", type=float, default=2)
    parser.add_argument("--polish-epochs", type=float, default=2)
    parser.add_argument("--longer-epochs", type=float, default=6, help="of `polished, longer`")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/polish"))
    parser.add_argument("--show", action="store_true", help="print the tables only")
    options = parser.parse_args()
    sizes = [tuple(map(float, size.split(","))) for size in options.sizes]
    wanted = [(t, seed, way, size) for seed in options.seeds for t in options.tasks for size in sizes
              for way in options.ways]  # fmt: skip
    for task, seed, way, size in [] if options.show else wanted:
        options.seed = seed
        file = options.output / f"{task}-{seed}-{way.replace(', ', '-')}-{size[0]:g}-{size[1]:g}.json"
        if not file.is_file():
            result = measured(task, seed, way, size, options)
            found = {"task": task, "seed": seed, "way": way, "size": size, "result": result}
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
            console.print(f"{task}, {seed}, {way}, {size}: {result}")
    show(options)


if __name__ == "__main__":
    main()
