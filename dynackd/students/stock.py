"""A student as a plain stock checkpoint, which transformers loads without dynackd, at the price of padding.

Stock models know one number of heads for all layers, and split the hidden size among them. Heads are therefore padded
with zeros up to hidden size / heads, and layers that have fewer heads or neurons than others get ones of zeros:
exactly the same function. Query, key, value and output are then as large as the teacher's; the neurons and the layers
that were cut away stay away. Where the config can say the head size, heads need not be padded. The hidden size is never
padded, since norms take their mean and variance over all of it: a smaller one must have room for the heads as it is.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from dynackd.errors import UserError
from dynackd.families.family import FULL_HIDDEN_KEY, HEAD, NEURON, Slice, outer_slices, slices
from dynackd.families.table import FAMILY_KEY, family_of, geometry_of, layer_list, layer_list_name
from dynackd.students.classes import POOLER_KEY, auto_class_of
from dynackd.subnet import Layer

STUDENT_KEYS = ("layer_heads", "layer_neurons", "kept_layers", "head_size", FULL_HIDDEN_KEY, FAMILY_KEY, POOLER_KEY)


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
    config, family, geometry = student.config, family_of(student.config), geometry_of(student.config)
    heads = max(config.layer_heads)
    if family.head_size_key:
        heads = stock_heads(geometry.hidden // family.queries(config), 1, heads)
    elif family.rotary and geometry.hidden % geometry.head_size == 0:  # hidden size / heads must stay the head size
        heads = stock_heads(geometry.hidden, geometry.head_size, max(heads, geometry.hidden // geometry.head_size))
    elif family.rotary:
        raise UserError(
            f"no stock checkpoint can hold heads of size {geometry.head_size} beside a hidden size of "
            f"{geometry.hidden}, which is no multiple of it; export without --compat"
        )
    else:
        heads = stock_heads(geometry.hidden, geometry.head_size, heads)
    auto = auto_class_of(type(student).__name__, getattr(config, FAMILY_KEY))
    stock = getattr(transformers, auto).from_config(_stock_config(student, heads))
    stock_geometry, state = geometry_of(stock.config), dict(student.state_dict())
    scale = sqrt(stock_geometry.head_size / geometry.head_size)  # scores are divided by the root of the larger size
    for index, (module, padded) in enumerate(zip(layer_list(student), layer_list(stock), strict=True)):
        layer = Layer(index, config.layer_heads[index], config.layer_neurons[index])
        own = replace(geometry, heads=layer.heads, neurons=layer.neurons)
        pieces = _with_units(slices(module, layer, geometry.hidden, family, own))
        rooms = _with_units(slices(padded, layer, geometry.hidden, family, stock_geometry))
        for piece, room in zip(pieces, rooms, strict=True):
            factor = scale if piece.path in (family.query, family.position_query) else 1.0
            state[f"{layer_list_name(stock)}.{index}.{piece.path}.{piece.name}"] = _padded(piece, room) * factor
    widest = max(config.layer_heads)
    biases = (
        _with_units(outer_slices(model, widest, geometry.hidden, family, own))
        for model, own in ((student, replace(geometry, heads=widest)), (stock, stock_geometry))
    )
    for piece, room in zip(*biases, strict=True):
        state[f"{piece.path}.{piece.name}"] = _padded(piece, room)
    if getattr(config, POOLER_KEY, True) is False:  # the stock model has one, which nothing reads
        unread = {name: torch.zeros_like(own) for name, own in stock.state_dict().items() if name.startswith("pooler.")}
        state = {**unread, **state}
    if different := sorted(state.keys() ^ stock.state_dict().keys()):
        if not different[0].startswith(layer_list_name(stock)):
            raise UserError(
                f"no stock checkpoint can hold the hidden size {geometry.hidden}: {different[0]!r} would not be in one "
                "of the two; export without --compat"
            )
        raise UserError(
            f"no stock checkpoint holds the layers {', '.join(map(str, config.kept_layers))} alone: a "
            f"{getattr(config, FAMILY_KEY)}'s layers depend on their place; export without --compat"
        )
    stock.load_state_dict(state, strict=True)
    return stock.eval()


def _with_units(pieces: Iterable[Slice]) -> list[Slice]:
    """Those that are of heads or neurons; all others are as large in the stock model."""
    return [piece for piece in pieces if any(part.unit in (HEAD, NEURON) for part in piece.parts)]


def _padded(piece: Slice, room: Slice) -> Tensor:
    """A student's tensor in one of the stock model's size, zeros around it."""
    filled = piece.tensor
    for part, larger in zip(piece.parts, room.parts, strict=True):
        blocks = part.blocks(filled)
        missing = (larger.size - part.size, larger.total - part.total)
        trailing = [0, 0] * (blocks.dim() - part.dim - 3)
        filled = F.pad(blocks, [*trailing, 0, missing[0], 0, missing[1]]).flatten(part.dim, part.dim + 2)
    return filled


def _stock_config(student: PreTrainedModel, heads: int) -> Any:
    config, family = student.config, family_of(student.config)
    values = {
        key: value
        for key, value in config.to_dict().items()
        if key not in {*STUDENT_KEYS, "model_type", "architectures", "transformers_version", "dynackd", "auto_map"}
    }
    values[family.heads_key] = heads
    if family.query_heads_key:
        values[family.query_heads_key] = heads * family.queries(config)
    if family.head_size_key:
        values[family.head_size_key] = config.head_size
    values[family.neurons_key] = max(config.layer_neurons)
    for key in family.hidden_copies:
        if values.get(key) == config.full_hidden:
            values[key] = geometry_of(config).hidden
    for key in family.head_size_copies:
        if key in values:
            values[key] = geometry_of(config).hidden // heads
    return AutoConfig.for_model(getattr(config, FAMILY_KEY), **values)
