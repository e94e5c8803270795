"""What a recipe's training rows say of the units of a supernet: which heads and neurons come first."""

from typing import Any

from dynackd.measure.evaluation import batches_of
from dynackd.report.terminal import progress
from dynackd.supernet.importance import IMPORTANCE, rewire
from dynackd.supernet.network import Supernet
from dynackd.supernet.rewired import rewiring_record
from dynackd.training.recipe import Recipe
from dynackd.training.rows import Rows


def rewire_by_importance(supernet: Supernet, recipe: Recipe, rows: Rows) -> dict[str, Any]:
    """Order heads and neurons by importance on a sample of the training rows. Returns what is kept of it."""
    some = rows.train.shuffle(seed=recipe.data.seed).select(range(min(recipe.importance_rows, len(rows.train))))
    batches = batches_of(some, rows.data.task.kind, rows.tokenizer, 32)
    device = next(supernet.parameters()).device
    with progress(f"importance on {len(some):,} training rows", len(batches)) as told:

        def on_device() -> Any:
            for batch in batches:
                yield {name: tensor.to(device) for name, tensor in batch.items()}
                told(advance=1)

        importance = IMPORTANCE[recipe.importance](supernet.model, on_device())
    orders = rewire(supernet.model, importance)
    return {"score": recipe.importance, "rows": len(some), **rewiring_record(importance, orders)}
