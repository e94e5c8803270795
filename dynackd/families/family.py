"""The one rule of slicing: which rows and columns of which weights belong to a sub-network, per model family.

Training, importance, rewiring, physical slicing, counting, saving and export all read this page and nothing else, so
they cannot disagree. To add a family, add one entry to `FAMILIES`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from dynackd.errors import UserError
from dynackd.subnet import Geometry, ResolvedSubnet

HEAD = "head"
NEURON = "neuron"


@dataclass(frozen=True)
class SlicedLinear:
    """One linear layer inside a Transformer layer, one of whose dimensions counts heads or neurons.

    `dim` 0: the unit indexes rows (output features, the bias too); 1: columns (input features). `parts` is how many
    equal blocks are stacked along that dimension (3 for a fused query-key-value, 2 for the two halves of a GLU); each
    block is sliced alike.
    """

    path: str
    unit: str
    dim: int
    parts: int = 1

    def positions(self, units: Sequence[int], geometry: Geometry) -> list[int]:
        """The indices along `dim` that belong to these heads or neurons, in their order."""
        size, total = _unit_size(self.unit, geometry), unit_totals(geometry)[self.unit]
        return [
            part * total * size + unit * size + offset
            for part in range(self.parts)
            for unit in units
            for offset in range(size)
        ]

    def prefix(self, tensor: Tensor, units: int, geometry: Geometry, dim: int) -> Tensor:
        """The first `units` heads or neurons of a weight or bias along `dim`: a view when `parts` is 1."""
        length = units * _unit_size(self.unit, geometry)
        if self.parts == 1:
            return tensor.narrow(dim, 0, length)
        return tensor.unflatten(dim, (self.parts, -1)).narrow(dim + 1, 0, length).flatten(dim, dim + 1)


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its layers and its sliced linear layers.

    `layers` is the path of the layer list from the base model; `head_count` the paths, from a layer, of attributes
    that hold the number of heads (some models reshape by them, so they must follow the width); the `*_key`s are the
    names in the model's config; `positions_follow_padding` that positions start behind the number of the padding token,
    so that no token can use the position embeddings up to there.
    """

    layers: str
    query: SlicedLinear
    attention_output: SlicedLinear
    ffn_in: SlicedLinear
    ffn_out: SlicedLinear
    more: tuple[SlicedLinear, ...] = ()
    head_count: tuple[str, ...] = ()
    neurons_key: str = "intermediate_size"
    heads_key: str = "num_attention_heads"
    layers_key: str = "num_hidden_layers"
    hidden_key: str = "hidden_size"
    positions_follow_padding: bool = False

    @property
    def linears(self) -> tuple[SlicedLinear, ...]:
        """All sliced linear layers of one Transformer layer."""
        return (self.query, *self.more, self.attention_output, self.ffn_in, self.ffn_out)


_BERT = Family(
    layers="encoder.layer",
    query=SlicedLinear("attention.self.query", HEAD, 0),
    more=(SlicedLinear("attention.self.key", HEAD, 0), SlicedLinear("attention.self.value", HEAD, 0)),
    attention_output=SlicedLinear("attention.output.dense", HEAD, 1),
    ffn_in=SlicedLinear("intermediate.dense", NEURON, 0),
    ffn_out=SlicedLinear("output.dense", NEURON, 1),
    head_count=("attention.self.num_attention_heads",),
)

_DISTILBERT = Family(
    layers="transformer.layer",
    query=SlicedLinear("attention.q_lin", HEAD, 0),
    more=(SlicedLinear("attention.k_lin", HEAD, 0), SlicedLinear("attention.v_lin", HEAD, 0)),
    attention_output=SlicedLinear("attention.out_lin", HEAD, 1),
    ffn_in=SlicedLinear("ffn.lin1", NEURON, 0),
    ffn_out=SlicedLinear("ffn.lin2", NEURON, 1),
    head_count=("attention.n_heads",),
    neurons_key="hidden_dim",
    heads_key="n_heads",
    layers_key="n_layers",
    hidden_key="dim",
)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": replace(_BERT, positions_follow_padding=True),
    "electra": _BERT,
    "distilbert": _DISTILBERT,
}


# A sliced student's config carries the name of its family under this key, since its own model_type is another.
FAMILY_KEY = "dynackd_family"


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model's or a sliced student's config; `UserError` that lists the supported ones otherwise."""
    name = getattr(config, FAMILY_KEY, config.model_type)
    if name not in FAMILIES:
        raise UserError(f"the architecture {name!r} is not supported; dynackd knows {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def max_positions(config: PreTrainedConfig) -> int:
    """The longest sequence that the model has position embeddings for, in tokens."""
    reserved = config.pad_token_id + 1 if family_of(config).positions_follow_padding else 0
    return config.max_position_embeddings - reserved


def geometry_of(config: PreTrainedConfig) -> Geometry:
    """Layers, heads, head size and neurons of an unsliced model."""
    family = family_of(config)
    heads = getattr(config, family.heads_key)
    return Geometry(
        layers=getattr(config, family.layers_key),
        heads=heads,
        head_size=getattr(config, family.hidden_key) // heads,
        neurons=getattr(config, family.neurons_key),
    )


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """The model's list of Transformer layers."""
    layers = model.base_model.get_submodule(family_of(model.config).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def layer_list_name(model: PreTrainedModel) -> str:
    """The dotted name of the layer list from `model`, which may be the base model or carry a task head."""
    path = family_of(model.config).layers
    return path if model.base_model is model else f"{model.base_model_prefix}.{path}"


def unit_counts(resolved: ResolvedSubnet) -> dict[str, int]:
    """How many heads and neurons every layer of a sub-network has."""
    return {HEAD: resolved.heads, NEURON: resolved.neurons}


def unit_totals(geometry: Geometry) -> dict[str, int]:
    """How many heads and neurons every layer of the full network has."""
    return {HEAD: geometry.heads, NEURON: geometry.neurons}


def subnet_parameters(model: PreTrainedModel, resolved: ResolvedSubnet) -> dict[str, Tensor]:
    """The sub-network's share of the sliced weights and biases, as views (gradients land in the full weights).

    The names are those of the model *after* the layers that are not kept were taken out of its layer list. Weights
    that are not sliced are not in the result.
    """
    family, geometry, counts = family_of(model.config), geometry_of(model.config), unit_counts(resolved)
    prefix, layers = layer_list_name(model), layer_list(model)
    return {
        f"{prefix}.{position}.{linear.path}.{name}": linear.prefix(tensor, counts[linear.unit], geometry, dim)
        for position, index in enumerate(resolved.layers)
        for linear in family.linears
        for name, tensor, dim in sliced_tensors(layers[index], linear)
    }


def sliced_tensors(layer: nn.Module, linear: SlicedLinear) -> Iterator[tuple[str, Tensor, int]]:
    """(name, tensor, dim) of the weight, and of the bias where the rows are sliced, of one linear layer."""
    module = layer.get_submodule(linear.path)
    assert isinstance(module, nn.Linear)
    yield "weight", module.weight, linear.dim
    if linear.dim == 0 and module.bias is not None:
        yield "bias", module.bias, 0


@torch.no_grad()
def permute_units(layer: nn.Module, unit: str, order: Sequence[int], family: Family, geometry: Geometry) -> None:
    """Reorder the heads or neurons of one layer in place; the layer computes the same function as before."""
    for linear in (linear for linear in family.linears if linear.unit == unit):
        index = torch.tensor(linear.positions(order, geometry))
        for _, tensor, dim in sliced_tensors(layer, linear):
            tensor.copy_(tensor.index_select(dim, index.to(tensor.device)))


def _unit_size(unit: str, geometry: Geometry) -> int:
    return {HEAD: geometry.head_size, NEURON: 1}[unit]
