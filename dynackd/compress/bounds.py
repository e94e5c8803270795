"""Bounds of what can be counted or weighed before anything is trained."""

import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from dynackd.compress.request import Request
from dynackd.grid import hidden_size
from dynackd.search.choosing import refuse_impossible
from dynackd.search.space import Space
from dynackd.search.timing import Workshop
from dynackd.subnet import Subnet
from dynackd.supernet.cost import FlopCounter, count_parameters
from dynackd.supernet.network import Supernet
from dynackd.training.recipe import Recipe


def refuse_hopeless(
    request: Request, recipe: Recipe, network: Supernet, tokenizer: PreTrainedTokenizerBase
) -> None:
    """`UserError` for a bound that no size can meet, where it is counted or weighed: nothing is trained for it."""
    sizes, length = network.geometry, request.setting.length or recipe.data.max_length
    space = Space(sizes, tuple({hidden_size(share, sizes.hidden) for share in recipe.grid.hidden}))

    def weighed(subnet: Subnet) -> float:
        with tempfile.TemporaryDirectory(prefix="dynackd-") as scratch:
            return Workshop(network, tokenizer, request.setting, length).export(subnet, Path(scratch))[1] / 1e6

    costs = {
        "parameters": lambda subnet: count_parameters(network, subnet),
        "flops": lambda subnet: FlopCounter(network).count(subnet, length),
        "size_mb": weighed,
    }
    refuse_impossible(request.budget, costs, space)
