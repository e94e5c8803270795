"""What a sub-network costs: parameters and floating-point operations, counted from the rule of slicing."""

import copy
from collections.abc import Callable
from typing import cast

import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from dynackd.families.family import outer_slices, slices
from dynackd.families.table import family_of, layer_list
from dynackd.subnet import Subnet
from dynackd.supernet.checkpoints import without_pooler
from dynackd.supernet.network import Supernet
from dynackd.tasks.kinds import kind_of


def count_parameters(supernet: Supernet, subnet: Subnet) -> int:
    """All parameters of the sub-network, embeddings and task head included."""
    layers, geometry, family = layer_list(supernet.model), supernet.geometry, family_of(supernet.model.config)
    pieces = list(outer_slices(supernet.model, subnet.most_heads, subnet.hidden, family, geometry))
    count = _count(supernet.model) - _count(layers)
    for own in subnet.layers:
        pieces += slices(layers[own.index], own, subnet.hidden, family, geometry)
        count += _count(layers[own.index])
    return count - sum(piece.tensor.numel() - piece.view().numel() for piece in pieces)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class FlopCounter:
    """Counts one sequence's forward pass of any sub-network, on a copy of the supernet that holds no data."""

    def __init__(self, supernet: Supernet) -> None:
        model = cast(PreTrainedModel, cast(nn.Module, copy.deepcopy(supernet.model)).to("meta"))
        self._supernet = Supernet(_countable(model), supernet.grid)

    def count(self, subnet: Subnet, length: int) -> int:
        """Floating-point operations of the matrix products (a multiply and an add are two) at this length in tokens."""
        return _flops(lambda ids: self._supernet(subnet, input_ids=ids), length)


class ModelFlops:
    """The same of a whole model or sliced student, of which no more than the config is needed."""

    def __init__(self, config: PreTrainedConfig) -> None:
        kind = kind_of(config)
        auto = getattr(transformers, kind.auto_class)
        options = {} if kind.pooler else without_pooler(auto, config)
        with torch.device("meta"):
            self._model = _countable(auto.from_config(copy.deepcopy(config), **options).eval())

    def count(self, length: int) -> int:
        """See `FlopCounter.count`."""
        return _flops(lambda ids: self._model(input_ids=ids), length)


def _countable(model: PreTrainedModel) -> PreTrainedModel:
    """A model on the meta device as torch's counter can run it. Changes it in place."""
    # The counter knows plain matrix products; sdpa's kernels differ from device to device.
    model.set_attn_implementation("eager")
    # Some models look for forgotten padding among the ids, and these hold no numbers to look at. (Not by setattr:
    # some configs let nobody take the padding away.)
    vars(model.config)["pad_token_id"] = None
    # The counter fails where a module is given a weight that wants a gradient, as DeBERTa's layers are.
    model.requires_grad_(False)
    return model


def _flops(run: Callable[[torch.Tensor], object], length: int) -> int:
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(ids)
    return counter.get_total_flops()
