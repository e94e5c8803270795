"""The size that was chosen is trained on alone, and taken where that made it better."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynackd.compress.state import POLISH, POLISHED, POLISHED_NAME
from dynackd.measure.evaluation import batches_of, predict
from dynackd.report.terminal import console, progress
from dynackd.search.held_out import hold_out
from dynackd.search.quality import INPUTS
from dynackd.search.settings import Effort
from dynackd.subnet import Subnet
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json, write_json
from dynackd.tasks.task import compute_fidelity, compute_metrics, main_metric
from dynackd.training.polish import polish
from dynackd.training.recipe import Recipe
from dynackd.training.runs import RunMode, drop


def polished(recipe: Recipe, found: Mapping[str, Any], effort: Effort, mode: RunMode) -> dict[str, Any]:
    """Polish what a search chose, and compare it with the supernet's own on the rows by which the search chose.

    Returns the content of polish.json: "used", whether the polished weights are better or as good, and "metric",
    "before", "after" and "rows"; of the full network only "used": nobody is left from whom it could learn.
    """
    output, subnet = recipe.output_dir, Subnet.from_dict(found["choice"]["subnet"])
    if (output / POLISH).is_file():
        about: dict[str, Any] = read_json(output / POLISH)
        return about
    parent, directory = output / "depth", output / POLISHED
    supernet, _ = load_supernet(parent)
    if subnet == supernet.whole:
        console.print("the full network is what the teacher is already; passed over")
        about = {"used": False}
    else:
        if not directory.is_dir():
            named = supernet.trained(subnet) or subnet
            polish(parent, named, POLISHED_NAME, recipe, dataclasses.replace(mode, overwrite=False))
        drop(output / f"{POLISHED}-checkpoints")  # of a run that was killed while it cleared up
        about = _compared(recipe, parent, directory, subnet, effort)
        console.print(
            f"{about['metric']} {about['before']:.4f} -> {about['after']:.4f} on {about['rows']:,} rows to choose by: "
            + ("the polished weights are taken" if about["used"] else "polishing did not help; the supernet's stay")
        )
    write_json(output / POLISH, about)
    return about


def source_of(recipe: Recipe, about: Mapping[str, Any]) -> Path:
    """The supernet directory that the student is cut from."""
    return recipe.output_dir / (POLISHED if about["used"] else "depth")


def _compared(recipe: Recipe, parent: Path, directory: Path, subnet: Subnet, effort: Effort) -> dict[str, Any]:
    """The task's main metric before and after; where rows have no labels, how closely the full network is followed."""
    (supernet, tokenizer), (after, _) = load_supernet(parent), load_supernet(directory)
    held_out = hold_out(parent, recipe, supernet, tokenizer, effort.rows, effort.seed)
    rows, task = held_out.choice, held_out.task
    with progress("comparing it with what the supernet held"):
        (expected, own), labels = predict(
            supernet, [supernet.whole, subnet], task.kind, batches_of(rows, task.kind, tokenizer, INPUTS)
        )
        (other,), _ = predict(after, [subnet], task.kind, batches_of(rows, task.kind, tokenizer, INPUTS))
    values = [
        compute_metrics(task, outputs, labels) or compute_fidelity(task, outputs, expected, labels)
        for outputs in (own, other)
    ]
    name = main_metric(task) if main_metric(task) in values[0] else next(iter(values[0]))
    before, now = (own[name] for own in values)
    better = now <= before if name in task.kind.lower_is_better else now >= before
    return {"used": bool(better), "metric": name, "before": before, "after": now, "rows": len(rows)}
