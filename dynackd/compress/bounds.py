"""Bounds of what can be counted or weighed before anything is trained."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from dynackd.compress.drafting import Draft
from dynackd.compress.effort import EFFORTS, SHARE, search_s
from dynackd.compress.request import Request
from dynackd.errors import UserError
from dynackd.families.table import family_of
from dynackd.grid import hidden_size, resolve
from dynackd.search.choosing import OF_WORDS, bound_of, refuse_impossible, told
from dynackd.search.costs import Cost
from dynackd.search.space import Space
from dynackd.search.timing import Workshop
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.cost import FlopCounter, count_parameters
from dynackd.supernet.network import Supernet
from dynackd.tasks.kind import Kind

# The shares of the hidden size that are trained where a bound asks for smaller ones, and how many sizes at a step then.
SMALLER, SAMPLER = (1.0, 0.75, 0.5), "sandwich(2)"
HALVED = (1.0, 0.5)  # those for which there is time where three cannot be searched
# From about here down a smaller hidden size is nearer to the teacher than fewer heads, neurons and layers
# (benchmarks/RESULTS.md, "The space of three dials").
FROM_HERE = SubnetSpec(width=0.5, depth=0.75)


def meet_bounds(
    request: Request, draft: Draft, network: Supernet, tokenizer: PreTrainedTokenizerBase, export_s: float
) -> None:
    """Train smaller hidden sizes, too, where a bound is below half of the width at three quarters of the depth.
    export_s: of an export, by which it is seen whether there is time to search them.

    `UserError` for a bound that no size can meet: nothing is trained for it.
    """
    costs = _costs(request, draft, network, tokenizer)
    _narrow(request, draft, network, costs, export_s)
    sizes = network.geometry
    space = Space(sizes, tuple({hidden_size(share, sizes.hidden) for share in draft.recipe.grid.hidden}))
    refuse_impossible(request.budget, costs, space)


def _costs(
    request: Request, draft: Draft, network: Supernet, tokenizer: PreTrainedTokenizerBase
) -> Mapping[str, Cost]:
    length = request.setting.length or draft.recipe.data.max_length

    def weighed(subnet: Subnet) -> float:
        with tempfile.TemporaryDirectory(prefix="dynackd-") as scratch:
            return Workshop(network, tokenizer, request.setting, length).export(subnet, Path(scratch))[1] / 1e6

    return {
        "parameters": lambda subnet: count_parameters(network, subnet),
        "flops": lambda subnet: FlopCounter(network).count(subnet, length),
        "size_mb": weighed,
    }


def _narrow(
    request: Request, draft: Draft, network: Supernet, costs: Mapping[str, Cost], export_s: float
) -> None:
    """Embeddings of words are most of a small network, and only a smaller hidden size makes them smaller. Where the
    hidden states themselves are what is asked for, how long these are is for the user to say. Where the time is short
    there is but half of it, and that only where nothing else meets the bounds."""
    recipe, sizes = draft.recipe, network.geometry
    config = network.model.config
    whole = _gives_hidden(recipe.task.kind) or family_of(config).why_whole(config)
    if recipe.file or draft.says("grid.hidden") or whole:
        return
    smallest = list(recipe.grid.supposed(sizes).subnets(sizes).values())[-1]
    narrowest = replace(smallest, hidden=hidden_size(min(SMALLER), sizes.hidden))
    bounds = {name: most for name, most in request.budget.bounds.items() if name in OF_WORDS}
    here = {name: costs[name](resolve(FROM_HERE, sizes)) for name in bounds}
    beyond = [name for name, most in bounds.items() if here[name] > most]
    if not beyond or any(costs[name](narrowest) > most for name, most in bounds.items()):
        return
    needed = any(costs[name](smallest) > most for name, most in bounds.items())
    # Of a small hidden size two shares may be the same.
    shares = {hidden_size(share, sizes.hidden): share for share in _searchable(request, export_s, needed)}
    if not shares:
        return
    below = [f"{bound_of(name)} {bounds[name]:,.10g} is below the {told(name, here[name])}" for name in beyond]
    size = "half of the width and three quarters of the depth"
    what = f"{' and '.join(below)} of {size}: smaller hidden sizes are trained, too (grid.hidden)"
    try:
        draft.decide("grid.hidden", [*shares.values()], what)
    except UserError:  # a signal that would have nothing to compare there
        return
    if not draft.says("grid.sampler"):
        draft.set({"grid.sampler": SAMPLER})


def _searchable(request: Request, export_s: float, needed: bool) -> Sequence[float]:
    """The shares of the hidden size that there is time to search: at least half where nothing else meets the bounds."""
    seconds = search_s(EFFORTS[-1], 0.0, export_s, len(SMALLER))
    if request.max_minutes is None or seconds <= SHARE * 60 * request.max_minutes:
        return SMALLER
    return HALVED if needed else ()


def _gives_hidden(kind: Kind) -> bool:
    return any("hidden" in output.axes for output in kind.outputs if output.judged)
