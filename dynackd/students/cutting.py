"""Cutting a student out of the supernet's weights, with torch-pruning."""

import copy
from typing import Any

import torch
import torch_pruning
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from dynackd.families.family import set_heads, shared_slices, slices
from dynackd.families.table import family_of, geometry_of, layer_list
from dynackd.students.classes import POOLER_KEY, auto_class_of, config_class, model_class, takes_pooler
from dynackd.subnet import Subnet
from dynackd.supernet.network import CONFIG_KEY, Supernet

_PRUNE = {
    0: torch_pruning.prune_linear_out_channels,
    1: torch_pruning.prune_linear_in_channels,
}


def slice_model(model: PreTrainedModel, subnet: Subnet) -> PreTrainedModel:
    """A copy of `model` without the layers, heads and neurons that `subnet` leaves out.

    Its config still describes `model`; `cut` gives it one of its own.
    """
    sliced = copy.deepcopy(model)
    family, geometry = family_of(model.config), geometry_of(model.config)
    parent_path, _, name = family.layers.rpartition(".")
    kept = nn.ModuleList([layer_list(sliced)[index] for index in subnet.indices])
    setattr(sliced.base_model.get_submodule(parent_path), name, kept)
    for module, layer in zip(kept, subnet.layers, strict=True):
        for path, weight, _, part in list(slices(module, layer, family, geometry)):
            removed = part.positions(range(part.kept, part.total))
            if removed and weight == "weight":  # the bias goes with it
                _PRUNE[part.dim](module.get_submodule(path), removed)
        set_heads(module, layer.heads, subnet.most_heads, family, geometry)
    for path, _, _, part in list(shared_slices(sliced.base_model, subnet.most_heads, family, geometry)):
        if removed := part.positions(range(part.kept, part.total)):
            torch_pruning.prune_embedding_out_channels(sliced.base_model.get_submodule(path), removed)
    return sliced


def cut(supernet: Supernet, subnet: Subnet) -> PreTrainedModel:
    """The student: the sub-network as a model of its own, in evaluation mode, that saves and loads like any other."""
    stock = supernet.model
    sliced, name = slice_model(stock, subnet), stock.config.model_type
    made = model_class(name, auto_class_of(type(stock).__name__, name))
    with torch.device("meta"):
        student = made(_student_config(supernet, subnet))
    student.load_state_dict(sliced.state_dict(), strict=True, assign=True)
    # Buffers that no state dict holds (position ids) are still on the meta device.
    buffers = dict(sliced.named_buffers())
    for full_name, buffer in list(student.named_buffers()):
        if buffer.is_meta:
            path, _, leaf = full_name.rpartition(".")
            student.get_submodule(path).register_buffer(leaf, buffers[full_name].clone(), persistent=False)
    return student.eval()


def _student_config(supernet: Supernet, subnet: Subnet) -> PreTrainedConfig:
    """The supernet's config, with what was kept in it."""
    stock, geometry = supernet.model.config, supernet.geometry
    values = {
        key: value
        for key, value in stock.to_dict().items()
        if key not in {"model_type", "architectures", "transformers_version", CONFIG_KEY}
    }
    family = family_of(stock)
    values[family.layers_key] = len(subnet.layers)
    for key in family.layer_keys:
        values[key] = [values[key][index] for index in subnet.indices]
    made: Any = config_class(stock.model_type)
    config = made(
        **values,
        head_size=geometry.head_size,
        full_layers=geometry.layers,
        layer_heads=[layer.heads for layer in subnet.layers],
        layer_neurons=[layer.neurons for layer in subnet.layers],
        kept_layers=list(subnet.indices),
    )
    share = {"width": subnet.width(geometry), "depth": len(subnet.layers) / geometry.layers}
    setattr(config, CONFIG_KEY, {**share, **supernet.origin.public_teacher()})
    if takes_pooler(type(supernet.model)) and getattr(supernet.model, "pooler", None) is None:
        setattr(config, POOLER_KEY, False)
    return config
