"""What lets small sub-networks take large steps without harm to the full one: variants of the two stages, on rows held
out of the training rows.

    python benchmarks/steps.py --bf16 --tasks sst2 stsb mrpc emotions     # what is missing, then the tables
    python benchmarks/steps.py --variants base "depth x2" --seeds 0 1 2
    python benchmarks/steps.py --show

One teacher and, where a variant leaves the width stage alone, one width stage a task and seed; a tenth of the training
rows is cut off and reported on, GLUE's validation rows are never read. Each run's figures are kept in a JSON file under
--output, so a killed sweep goes on where it stopped. Seconds are those of the stages that the variant trained: variants
compare at equal time only where these agree.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path

from learning_rate import SIZES, TASKS, recipe_of
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback

from dynackd.distill.teacher import Teacher
from dynackd.subnet import full
from dynackd.training import stages, trainer
from dynackd.training.rates import default_learning_rate
from dynackd.training.recipe import apply_overrides, make_recipe
from dynackd.training.runs import RunMode

console = Console(width=180)
RATE = default_learning_rate("depth", 384)


class Averaged(TrainerCallback):
    """The weights at the end are an exponential average over the last steps."""

    def __init__(self, decay):
        self.decay, self.shadow = decay, None

    def on_step_end(self, args, state, control, model=None, **_):
        named = {name: parameter.detach() for name, parameter in model.named_parameters()}
        if self.shadow is None:
            self.shadow = {name: tensor.clone() for name, tensor in named.items()}
        for name, tensor in named.items():
            self.shadow[name].lerp_(tensor, 1 - self.decay)

    def on_train_end(self, args, state, control, model=None, **_):
        for name, parameter in model.named_parameters():
            parameter.data.copy_(self.shadow[name])


class AveragingTrainer(trainer.SupernetTrainer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.add_callback(Averaged(0.98))


class AnchoredTrainer(trainer.SupernetTrainer):
    """The full network counts four times at every step: what it knows holds the shared weights."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        layers = self.geometry.layers

        def weighed(settings, done, signal, scales):
            loss, of_each = distillation_loss(settings, done, signal, scales)
            whole = [own for own in done if own.width == 1 and len(own.hidden_states) == layers + 1]
            return (loss + 3 * distillation_loss(settings, whole, signal, scales)[0] if whole else loss), of_each

        distillation_loss, trainer.distillation_loss = trainer.distillation_loss, weighed
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            trainer.distillation_loss = distillation_loss


class LiveTeacher(Teacher):
    """The full width is taught by the width stage's full network, every narrower one by what the network of its own
    width at full depth says now (the sandwich rule's inplace distillation, Yu & Huang 2019, a width at a time)."""

    def signal(self, batch, settings, subnet):
        frozen = self.network
        if subnet != full(frozen.geometry):
            self.network = self.live
        try:
            return super().signal(batch, settings, subnet)
        finally:
            self.network = frozen


class InplaceTrainer(trainer.SupernetTrainer):
    def __init__(self, supernet, teacher, stage, task, settings, *args, **options):
        live = LiveTeacher(teacher.network, task.kind, teacher.matching)
        live.live = supernet
        own = replace(stage, teacher_of=lambda subnet, geometry: _imitated(subnet, geometry, stage))
        super().__init__(supernet, live, own, task, settings, *args, **options)


def _imitated(subnet, geometry, stage):
    """A narrow network at full depth has nobody of its own width to learn from but itself: it keeps the full one."""
    above = stage.teacher_of(subnet, geometry)
    return full(geometry) if above == subnet else above


def depth(**training):
    return {f"stages.depth.training.{key}": value for key, value in training.items()}


def width(**training):
    return {f"stages.width.training.{key}": value for key, value in training.items()}


# name -> (overrides of the recipe, the trainer of the depth stage)
PLAIN = trainer.SupernetTrainer
VARIANTS = {
    "base": ({}, PLAIN),
    "random(3)": ({"grid.sampler": "random(3)"}, PLAIN),
    "half width, random(3)": (width(num_train_epochs=0.5) | depth(num_train_epochs=2.5) | {"grid.sampler": "random(3)"},
                              PLAIN),
    "half width": (width(num_train_epochs=0.5) | depth(num_train_epochs=2.5), PLAIN),
    # as long as 3 + 3 epochs: --width-epochs 3 --depth-epochs 3
    "width 1, depth 4": (width(num_train_epochs=1) | depth(num_train_epochs=4), PLAIN),
    "width 1, depth 4, depth x2": (
        width(num_train_epochs=1) | depth(num_train_epochs=4, learning_rate=2 * RATE), PLAIN),
    "depth 10": (depth(num_train_epochs=10), PLAIN),
    "depth 20": (depth(num_train_epochs=20), PLAIN),
    "depth 63": (depth(num_train_epochs=63), PLAIN),  # of --rows 500 1,000 steps
    "depth x2": (depth(learning_rate=2 * RATE), PLAIN),
    "depth x2, in place": (depth(learning_rate=2 * RATE), InplaceTrainer),
    "depth x2, averaged": (depth(learning_rate=2 * RATE), AveragingTrainer),
    "depth x2, cosine": (depth(learning_rate=2 * RATE, lr_scheduler_type="cosine"), PLAIN),
    "half width, depth x2": (width(num_train_epochs=0.5) | depth(learning_rate=2 * RATE, num_train_epochs=2.5), PLAIN),
    "depth x2, full network x4": (depth(learning_rate=2 * RATE), AnchoredTrainer),
    "depth x2, 2 epochs more": (depth(learning_rate=2 * RATE, num_train_epochs=4), PLAIN),
    "depth x2, logits x3": (depth(learning_rate=2 * RATE) | {"stages.depth.distillation.weights.logits": 3}, PLAIN),
    "depth x4": (depth(learning_rate=4 * RATE), PLAIN),
    "depth x2, batch 16": (depth(learning_rate=2 * RATE, per_device_train_batch_size=16), PLAIN),
    "width x2, depth x2": (width(learning_rate=2 * RATE) | depth(learning_rate=2 * RATE), PLAIN),
    "depth x2, sandwich(3)": (depth(learning_rate=2 * RATE) | {"grid.sampler": "sandwich(3)"}, PLAIN),
    "depth x2, warm-up": (depth(learning_rate=2 * RATE, warmup_steps=0.1), PLAIN),
    "depth x2, CKD to the end": (depth(learning_rate=2 * RATE) | {"distillation.schedule": "constant"}, PLAIN),
}


# All twelve sizes of the default grid, and the same time spent on three a step: how many more epochs that makes is what
# `training.py --compare` measured of a stage's steps.
TWELVE = {"grid.widths": [1.0, 0.75, 0.5, 0.25], "grid.depths": [1.0, 0.75, 0.5]}
VARIANTS |= {
    "12 sizes, all": (TWELVE | {"grid.sampler": "all"} | width(num_train_epochs=3) | depth(num_train_epochs=3), PLAIN),
    "12 sizes, sandwich(1) as long": (TWELVE | width(num_train_epochs=4) | depth(num_train_epochs=7.4), PLAIN),
}


def widths_key(overrides):
    """Names the width stage of a variant, by what its overrides change there."""
    own = {key: value for key, value in overrides.items() if not key.startswith("stages.depth.")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]


def trained(task, variant, seed, options):
    overrides, kind = VARIANTS[variant]
    base = recipe_of("minilm", task, options, options.output / "none", {"finetune": RATE, "width": RATE, "depth": RATE})

    def recipe(place):
        content = {**base.content, "output_dir": str(place)}
        return make_recipe(apply_overrides(content, [f"{key}={json.dumps(value)}" for key, value in overrides.items()]))

    teacher = options.output / "teachers" / f"{task}-{seed}"
    if not (teacher / "teacher").is_dir():
        stages.finetune(recipe_of("minilm", task, options, teacher, {"finetune": RATE}), RunMode())
    parent = options.output / "widths" / f"{task}-{seed}-{widths_key(overrides)}"
    start = time.monotonic()
    if not (parent / "width").is_dir():
        shutil.rmtree(parent, ignore_errors=True)
        shutil.copytree(teacher, parent)
        stages.train_width(recipe(parent), RunMode())
        (parent / "seconds.json").write_text(json.dumps(time.monotonic() - start))
    place = options.output / "runs" / f"{task}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(parent, place)
    start, stages.SupernetTrainer = time.monotonic(), kind
    try:
        stages.train_depth(recipe(place), RunMode())
    finally:
        stages.SupernetTrainer = PLAIN
    about = json.loads((place / "depth" / "metrics.json").read_text())
    rows = {(row["width"], row["depth"]): {**row["metrics"], **row["fidelity"]} for row in about["subnetworks"]}
    shutil.rmtree(place)
    seconds = [json.loads((parent / "seconds.json").read_text()), time.monotonic() - start]
    return {"teacher": about["teacher"]["metrics"], "seconds": [round(s) for s in seconds],
            "sizes": {f"{w:g}x{d:g}": rows[w, d] for w, d in SIZES}}  # fmt: skip


def show(options):
    runs = [json.loads(file.read_text()) for file in sorted(options.output.glob("*.json"))]
    for task in sorted({run["task"] for run in runs}):
        mine = [run for run in runs if run["task"] == task]
        metric = next(iter(mine[0]["result"]["teacher"]))
        teacher = statistics.fmean(run["result"]["teacher"][metric] for run in mine)
        sizes = list(mine[0]["result"]["sizes"])
        table = Table(
            "variant", *sizes, "mean", "seconds", title=f"{task}: {metric} (teacher {teacher:.4f}), KL or RMSE"
        )
        for variant in [name for name in VARIANTS if any(run["variant"] == name for run in mine)]:
            own = [run["result"] for run in mine if run["variant"] == variant]
            cells = [_mean(own, size, metric) for size in sizes]
            means = [statistics.fmean(column) for column in zip(*cells, strict=True)]
            seconds = " + ".join(f"{statistics.fmean(s):.0f}" for s in zip(*(r["seconds"] for r in own), strict=True))
            table.add_row(variant, *(f"{m:.4f} / {f:.4f}" for m, f in [*cells, means]), f"{seconds} ({len(own)})")
        console.print(table)


def _mean(results, size, metric):
    rows = [result["sizes"][size] for result in results]
    fidelity = "kl" if "kl" in rows[0] else "rmse"
    return [statistics.fmean(row[key] for row in rows) for key in (metric, fidelity)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sst2", "stsb", "mrpc", "emotions"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--width-epochs", type=float, default=1)
    parser.add_argument("--depth-epochs", type=float, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/steps"))
    parser.add_argument("--show", action="store_true", help="print the tables only")
    options = parser.parse_args()
    wanted = [(task, variant, seed) for seed in options.seeds for variant in options.variants for task in options.tasks]
    for task, variant, seed in [] if options.show else wanted:
        options.seed = seed
        file = options.output / f"{task}-{variant.replace(' ', '_').replace('/', '')}-{seed}.json"
        if not file.is_file():
            found = {"task": task, "variant": variant, "seed": seed, "rows": options.rows,
                     "result": trained(task, variant, seed, options)}  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
            console.print(f"{task}, {variant}, {seed}: {found['result']['seconds']} s")
    show(options)


if __name__ == "__main__":
    main()
