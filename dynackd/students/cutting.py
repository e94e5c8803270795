"""Cutting a student out of the supernet's weights."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from dynackd.families.family import FULL_HIDDEN_KEY, HIDDEN, Slice, outer_slices, slices
from dynackd.families.table import family_of, layer_list, layer_list_name
from dynackd.students.classes import POOLER_KEY, auto_class_of, config_class, model_class, register, takes_pooler
from dynackd.subnet import Subnet
from dynackd.supernet.network import CONFIG_KEY, Supernet


@torch.no_grad()
def cut(supernet: Supernet, subnet: Subnet) -> PreTrainedModel:
    """The student: the sub-network as a model of its own, in evaluation mode, that saves and loads like any other. Its
    hidden dimensions stand in the order in which its teacher has them."""
    stock, name = supernet.model, supernet.model.config.model_type
    register(name)
    made = model_class(name, auto_class_of(type(stock).__name__, name))
    with torch.device("meta"):
        student = made(_student_config(supernet, subnet))
    student.load_state_dict(_weights(supernet, subnet), strict=True, assign=True)
    # Buffers that no state dict holds (position ids) are still on the meta device.
    buffers = dict(stock.named_buffers())
    for full_name, buffer in list(student.named_buffers()):
        if buffer.is_meta:
            path, _, leaf = full_name.rpartition(".")
            student.get_submodule(path).register_buffer(leaf, buffers[full_name].clone(), persistent=False)
    return student.eval()


def _weights(supernet: Supernet, subnet: Subnet) -> dict[str, Tensor]:
    """The student's weights, by its own names."""
    model, geometry, family = supernet.model, supernet.geometry, family_of(supernet.model.config)
    order = supernet.hidden_order or range(geometry.hidden)
    hidden = sorted(range(subnet.hidden), key=order.__getitem__)

    def taken(piece: Slice) -> Tensor:
        tensor = piece.tensor
        for part in piece.parts:
            units = hidden if part.unit == HIDDEN else range(part.kept)
            places = torch.tensor(part.positions(units), device=tensor.device)
            tensor = tensor.index_select(part.dim, places)
        return tensor

    layers, found = layer_list_name(model), dict[str, Tensor]()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for place, own in enumerate(subnet.layers):
        module = layer_list(model)[own.index]
        before, after = f"{layers}.{own.index}.", f"{layers}.{place}."
        found |= {after + key.removeprefix(before): state[key] for key in state if key.startswith(before)}
        for piece in slices(module, own, subnet.hidden, family, geometry):
            found[f"{after}{piece.path}.{piece.name}"] = taken(piece)
    found |= {key: tensor for key, tensor in state.items() if not key.startswith(f"{layers}.")}
    for piece in outer_slices(model, subnet.most_heads, subnet.hidden, family, geometry):
        found[f"{piece.path}.{piece.name}"] = taken(piece)
    return found


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
    if subnet.hidden < geometry.hidden:
        values[FULL_HIDDEN_KEY], values[family.hidden_key] = geometry.hidden, subnet.hidden
        if family.rotary:  # else it would be taken for hidden size / heads
            values[family.head_size_key or "head_dim"] = geometry.head_size
    made: Any = config_class(stock.model_type)
    config = made(
        **values,
        head_size=geometry.head_size,
        full_layers=geometry.layers,
        layer_heads=[layer.heads for layer in subnet.layers],
        layer_neurons=[layer.neurons for layer in subnet.layers],
        kept_layers=list(subnet.indices),
    )
    setattr(config, CONFIG_KEY, {**subnet.shares(geometry).to_dict(), **supernet.origin.public_teacher()})
    if takes_pooler(type(supernet.model)) and getattr(supernet.model, "pooler", None) is None:
        setattr(config, POOLER_KEY, False)
    return config
