"""Physical slicing: the sub-network cut out of the supernet's weights, with torch-pruning."""

import copy

import torch_pruning
from torch import nn
from transformers import PreTrainedModel

from dynackd.families.family import family_of, geometry_of, layer_list, unit_counts, unit_totals
from dynackd.subnet import ResolvedSubnet

_PRUNE = {
    0: torch_pruning.prune_linear_out_channels,
    1: torch_pruning.prune_linear_in_channels,
}


def slice_model(model: PreTrainedModel, resolved: ResolvedSubnet) -> PreTrainedModel:
    """A copy of `model` without the layers, heads and neurons that `resolved` leaves out.

    Its config still describes `model`; `dynackd.students.student` gives it one of its own.
    """
    sliced = copy.deepcopy(model)
    family, geometry = family_of(model.config), geometry_of(model.config)
    counts, totals = unit_counts(resolved), unit_totals(geometry)
    parent_path, _, name = family.layers.rpartition(".")
    layers = nn.ModuleList([layer_list(sliced)[index] for index in resolved.layers])
    setattr(sliced.base_model.get_submodule(parent_path), name, layers)
    for layer in layers:
        for linear in family.linears:
            removed = linear.positions(range(counts[linear.unit], totals[linear.unit]), geometry)
            if removed:
                _PRUNE[linear.dim](layer.get_submodule(linear.path), removed)
        for path in family.head_count:
            holder, _, attribute = path.rpartition(".")
            setattr(layer.get_submodule(holder), attribute, resolved.heads)
    return sliced
