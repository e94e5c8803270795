"""The search for the best sub-network within a budget."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynackd.errors import UserError
from dynackd.search.settings import Budget, Effort, Setting
from dynackd.training.recipe import Recipe

OnProgress = Callable[[str, int, int], None]  # what is done now, how many of it are done, of how many


def search(
    directory: Path,
    budget: Budget,
    setting: Setting | None = None,
    effort: Effort | None = None,
    recipe: Recipe | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Find the best sub-network of a supernet directory within a budget, and write what was found.

    setting: where it will run, one thread of ONNX Runtime on the CPU by default. recipe: whose rows are looked at, the
    supernet's own `recipe.yaml` by default. output: the directory of `best.json` (for `grid.read_subnet` and `export
    --spec`) and `search.json`, by default `search` beside the supernet. What was measured and evaluated is kept beside
    it, so that a search that was killed goes on where it was.

    Returns the content of `search.json`: "choice", "grid" (the best of the same share everywhere) and "full", each with
    "subnet", "heads", "neurons", "layers", "parameters", "flops", "size_mb", "latency_ms" (as measured), "metric" (on
    rows of its own) and "validation" (metrics by name, where the recipe has such rows); "front", a list of such; and
    "metric", "rows", "latency_model", "budget", "setting", "effort", "machine", "versions", "output" (the directory).
    Raises `UserError` where nothing fits the budget.
    """
    raise UserError("the search is still being written")
