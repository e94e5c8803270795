"""What a sub-network costs: parameters and floating-point operations, counted from the rule of slicing."""

import copy
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from dynackd.families.family import layer_list, layer_list_name, subnet_parameters
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Supernet


def count_parameters(supernet: Supernet, spec: SubnetSpec) -> int:
    """All parameters of the sub-network, embeddings and task head included."""
    model, resolved = supernet.model, supernet.resolve(spec)
    prefix = layer_list_name(model) + "."
    outside = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(prefix))
    sliced = subnet_parameters(model, resolved)
    inside = sum(
        sliced.get(f"{prefix}{position}.{name}", parameter).numel()
        for position, index in enumerate(resolved.layers)
        for name, parameter in layer_list(model)[index].named_parameters()
    )
    return outside + inside


class FlopCounter:
    """Counts one sequence's forward pass of any sub-network, on a copy of the supernet that holds no data."""

    def __init__(self, supernet: Supernet) -> None:
        model = cast(PreTrainedModel, cast(nn.Module, copy.deepcopy(supernet.model)).to("meta"))
        # The counter knows plain matrix products; sdpa's kernels differ from device to device.
        model.set_attn_implementation("eager")
        self._supernet = Supernet(model, supernet.grid)

    def count(self, spec: SubnetSpec, length: int) -> int:
        """Floating-point operations of the matrix products (a multiply and an add are two) at this length in tokens."""
        ids = torch.zeros(1, length, dtype=torch.long, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self._supernet(spec, input_ids=ids)
        return counter.get_total_flops()
