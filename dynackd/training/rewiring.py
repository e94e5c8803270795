"""What a recipe's training rows say of the parts of a supernet: which heads and neurons come first, which layers stay.
"""

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from dynackd.errors import UserError
from dynackd.families.family import HEAD, HIDDEN, NEURON, POOLED
from dynackd.grid import Grid
from dynackd.measure.evaluation import batches_of
from dynackd.report.reading import IMPORTANCE_FILE
from dynackd.report.terminal import console, progress
from dynackd.subnet import Geometry, SubnetSpec
from dynackd.supernet.importance import IMPORTANCE, Importance, rewire
from dynackd.supernet.joining import ORDERS_FILE, order_files
from dynackd.supernet.layer_order import order_by_removal
from dynackd.supernet.network import Supernet
from dynackd.supernet.rewired import rewiring_record
from dynackd.system.places import read_json, write_json
from dynackd.training.recipe import Recipe
from dynackd.training.rows import Rows

ORDER_ROWS = 256  # by which layers are ordered, at most: each is removed beside each smaller set of the others


def rewire_by_importance(supernet: Supernet, recipe: Recipe, rows: Rows) -> dict[str, Any]:
    """Order heads and neurons, and where the grid has fewer of them hidden dimensions, by importance on a sample of the
    training rows. Returns the files that are kept of it."""
    importance, count = _importance(supernet, recipe, rows)
    units = (HEAD, NEURON, HIDDEN, POOLED) if min(recipe.grid.hidden) < 1 else (HEAD, NEURON)
    orders = rewire(supernet.model, importance, units)
    supernet.hidden_order = tuple(orders[HIDDEN][0]) if HIDDEN in orders else None
    about = {"score": recipe.importance, "rows": count, **rewiring_record(importance, orders)}
    return {IMPORTANCE_FILE: about, ORDERS_FILE: orders}


def _importance(supernet: Supernet, recipe: Recipe, rows: Rows) -> tuple[Importance, int]:
    """On a sample of the training rows, and how many these are."""
    batches, count = _sample(rows, recipe, recipe.importance_rows)
    device = next(supernet.parameters()).device
    with progress(f"importance on {count:,} training rows", len(batches)) as told:

        def on_device() -> Any:
            for batch in batches:
                yield {name: tensor.to(device) for name, tensor in batch.items()}
                told(advance=1)

        return IMPORTANCE[recipe.importance](supernet.model, on_device()), count


def order_as_in(place: Path, supernet: Supernet, recipe: Recipe, rows: Rows) -> dict[str, Any]:
    """A supernet that began as the general one in `place` is in its order. Of what that has not, the dimensions between
    the layers of a task's head, the order is found where hidden dimensions have one. Returns the files kept of it."""
    kept = order_files(place)
    if supernet.hidden_order:  # whatever the grid has: the depth stage may have smaller sizes of the same width stage
        importance, _ = _importance(supernet, recipe, rows)
        orders = rewire(supernet.model, importance, (POOLED,))
        kept[ORDERS_FILE] = {**kept[ORDERS_FILE], **orders}
        if told := kept.get(IMPORTANCE_FILE):
            if not isinstance(told, dict) or not isinstance(told.get("hidden"), dict):
                raise UserError(f"{place / IMPORTANCE_FILE} is damaged: it says nothing of hidden dimensions")
            kept[IMPORTANCE_FILE] = {**told, "hidden": {**told["hidden"], "pooled": orders[POOLED][0]}}
    return kept


def order_in(checkpoints: Path) -> tuple[int, ...] | None:
    """The order of the hidden dimensions that an unfinished run has kept; None where they stand as they did."""
    file = checkpoints / ORDERS_FILE
    orders = read_json(file).get(HIDDEN) if file.is_file() else None
    return tuple(orders[0]) if orders else None


def order_layers(supernet: Supernet, recipe: Recipe, rows: Rows, record: Path | None) -> None:
    """Give the supernet's grid the order in which layers leave, as a sample of the training rows has it, and tell which
    layers the recipe's depths keep by it. record: the file of `rewire_by_importance`, to which it is added."""
    batches, count = _sample(rows, recipe, min(ORDER_ROWS, recipe.importance_rows))
    removals, widths = supernet.geometry.layers - 1, supernet.grid.widths
    with progress(f"order of the layers on {count:,} training rows", removals) as told:
        found = order_by_removal(supernet, rows.data.task.kind, batches, widths, lambda: told(advance=1))
    supernet.grid = supernet.grid.ordered(found.order)
    console.print(_told(recipe.grid.ordered(found.order), supernet.geometry))
    if record is not None and record.is_file():
        layers = {"rows": count, "widths": list(widths), **found.to_dict()}
        write_json(record, {**read_json(record), "layers": layers})


def _told(grid: Grid, geometry: Geometry) -> str:
    """`"layers leave in the order 2, 1, 3, 0, 4 (grid.kept_layers), 5 stays; depth 0.5 keeps 0, 4, 5"`."""
    *leaving, last = map(str, grid.layer_order or ())
    kept = [
        f"depth {depth:g} keeps {', '.join(map(str, grid.resolve(SubnetSpec(1.0, depth), geometry).indices))}"
        for depth in grid.depths
        if depth < 1
    ]
    return "; ".join([f"layers leave in the order {', '.join(leaving)} (grid.kept_layers), {last} stays", *kept])


def _sample(rows: Rows, recipe: Recipe, count: int) -> tuple[DataLoader, int]:
    """Batches of at most so many of the training rows, the same for a seed, and how many they are."""
    some = rows.train.shuffle(seed=recipe.data.seed).select(range(min(count, len(rows.train))))
    return batches_of(some, rows.data.task.kind, rows.tokenizer, 32), len(some)
