"""A student as a plain stock checkpoint, which transformers loads without dynackd, at the price of padding.

Stock models know one number of heads for all layers, and split the hidden size among them. Heads are therefore padded
with zeros up to hidden size / heads, and layers that have fewer heads or neurons than others get ones of zeros:
exactly the same function. Query, key, value and output are then as large as the teacher's; the neurons and the layers
that were cut away stay away.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from dynackd.errors import UserError
from dynackd.families.family import FAMILY_KEY, HEAD, SlicedLinear, family_of, geometry_of, layer_list, sliced_tensors

STUDENT_KEYS = ("layer_heads", "layer_neurons", "kept_layers", "head_size", FAMILY_KEY)


def stock_heads(hidden: int, head_size: int, heads: int) -> int:
    """The fewest heads, `heads` or more, that divide the hidden size into parts of `head_size` or more.

    6 heads of 32 in 384 stay 6 (of 64); 9 become 12 (of 32), the last three all zeros. `UserError` where there is no
    such number: a stock model cannot hold more than hidden size / head size heads.
    """
    for count in range(heads, hidden // head_size + 1):
        if hidden % count == 0:
            return count
    raise UserError(
        f"no stock checkpoint can hold {heads} heads of size {head_size}: it splits the hidden size {hidden} evenly "
        f"among its heads; export without --compat"
    )


@torch.no_grad()
def stock_model(student: PreTrainedModel) -> PreTrainedModel:
    """The stock model, in evaluation mode, that computes what the student does. Raises `UserError`."""
    config, family = student.config, family_of(student.config)
    geometry = geometry_of(config)
    hidden, size = getattr(config, family.hidden_key), geometry.head_size
    heads = stock_heads(hidden, size, max(config.layer_heads))
    stock = AutoModelForSequenceClassification.from_config(_stock_config(student, heads))
    state = dict(student.state_dict())
    padded_size = hidden // heads
    names = {id(module): name for name, module in student.named_modules()}
    for index, layer in enumerate(layer_list(student)):
        for linear in family.linears:
            prefix = names[id(layer.get_submodule(linear.path))]
            units = config.layer_heads[index] if linear.unit == HEAD else config.layer_neurons[index]
            target = layer_list(stock)[index].get_submodule(linear.path)
            assert isinstance(target, nn.Linear)
            for name, tensor, dim in sliced_tensors(layer, linear):
                length = (target.out_features, target.in_features)[dim]
                new_size = padded_size if linear.unit == HEAD else 1
                scale = sqrt(padded_size / size) if linear is family.query else 1.0
                state[f"{prefix}.{name}"] = _padded(tensor, dim, linear, units, new_size, length) * scale
    stock.load_state_dict(state, strict=True)
    return stock.eval()


def _padded(tensor: Tensor, dim: int, linear: SlicedLinear, units: int, size: int, length: int) -> Tensor:
    """`units` heads or neurons along `dim`, each filled up with zeros to `size`, all of a part to its share of
    `length`."""
    parts = tensor.unflatten(dim, (linear.parts, units, -1)).movedim((dim, dim + 1, dim + 2), (0, 1, 2))
    result = parts.new_zeros(linear.parts, length // linear.parts // size, size, *parts.shape[3:])
    result[:, :units, : parts.shape[2]] = parts
    return result.movedim((0, 1, 2), (dim, dim + 1, dim + 2)).flatten(dim, dim + 2).contiguous()


def _stock_config(student: PreTrainedModel, heads: int) -> Any:
    config, family = student.config, family_of(student.config)
    values = {
        key: value
        for key, value in config.to_dict().items()
        if key not in {*STUDENT_KEYS, "model_type", "architectures", "transformers_version", "dynackd", "auto_map"}
    }
    values[family.heads_key] = heads
    values[family.neurons_key] = max(config.layer_neurons)
    return AutoConfig.for_model(getattr(config, FAMILY_KEY), **values)
