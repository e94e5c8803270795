"""Which heads and neurons matter, and the rewiring that puts them first. Add a score: one function, one line."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from dynackd.families.family import HEAD, NEURON, Slice, shared_slices, slices
from dynackd.families.table import family_of, geometry_of, layer_list
from dynackd.subnet import full
from dynackd.tasks.kinds import kind_of


@dataclass(frozen=True)
class Importance:
    """Scores, larger is more important: `heads` [layers, heads], `neurons` [layers, neurons]."""

    heads: Tensor
    neurons: Tensor


Batches = Iterable[dict[str, Tensor]]
Orders = dict[str, list[list[int]]]  # unit (HEAD, NEURON) -> the old places of each layer's units in their new order


def gradient_importance(model: PreTrainedModel, batches: Batches) -> Importance:
    """First-order change of the task loss when a unit is removed, absolute per batch, summed over batches.

    Head: |dL/dm_h| for a mask m_h = 1 on the head's output (Michel et al. 2019; Voita et al. 2019). Neuron:
    |Σ w·dL/dw| over its incoming row, bias and outgoing column (Molchanov et al. 2019). DynaBERT, §2.1.1; their code
    never clears the gradients between batches, here they are.
    """
    geometry, layers = geometry_of(model.config), layer_list(model)
    heads = torch.zeros(geometry.layers, geometry.heads)
    neurons = torch.zeros(geometry.layers, geometry.neurons)
    kind, was_training = kind_of(model.config, type(model).__name__), model.training
    model.eval()
    for batch in batches:
        model.zero_grad(set_to_none=True)
        masks = [torch.ones(geometry.heads, device=model.device, requires_grad=True) for _ in layers]
        with ExitStack() as stack:
            for layer, mask in zip(layers, masks, strict=True):
                stack.callback(_gate_heads(model, layer, mask).remove)
            kind.importance_loss(model, batch).backward()
        for index, (own, mask) in enumerate(zip(_whole_layers(model), masks, strict=True)):
            assert mask.grad is not None
            heads[index] += mask.grad.abs().cpu()
            neurons[index] += _unit_sums(own, NEURON, _taylor).abs().cpu()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return Importance(heads, neurons)


def magnitude_importance(model: PreTrainedModel, batches: Batches) -> Importance:
    """The squared size of a unit's weights, a baseline that needs no data (`batches` is not read)."""
    del batches
    heads, neurons = (
        torch.stack([_unit_sums(layer, unit, torch.square) for layer in _whole_layers(model)]).cpu()
        for unit in (HEAD, NEURON)
    )
    return Importance(heads, neurons)


IMPORTANCE: dict[str, Callable[[PreTrainedModel, Batches], Importance]] = {
    "gradient": gradient_importance,
    "magnitude": magnitude_importance,
}


@torch.no_grad()
def rewire(model: PreTrainedModel, importance: Importance) -> Orders:
    """Permute the heads and neurons of every layer in place, most important first. The output does not change. Returns
    the orders (see `orders_of`)."""
    family, geometry, orders = family_of(model.config), geometry_of(model.config), orders_of(model, importance)
    layers = [*enumerate(_whole_layers(model)), (0, shared_slices(model.base_model, geometry.heads, family, geometry))]
    for index, own in layers:
        for _, _, tensor, part in own:
            order = torch.tensor(part.positions(orders[part.unit][index]), device=tensor.device)
            tensor.copy_(tensor.index_select(part.dim, order))
    return orders


def orders_of(model: PreTrainedModel, importance: Importance) -> Orders:
    """Which head and neuron comes first, second, ... in every layer.

    Where the layers share a bias, its columns are the heads of all of them: the order of the heads is then one, by the
    sum of their scores over the layers.
    """
    shared = bool(family_of(model.config).shared)
    heads = importance.heads.sum(0).expand_as(importance.heads) if shared else importance.heads
    return {
        # Stable, so that equal scores keep their order and a second rewiring changes nothing.
        unit: torch.argsort(scores, dim=1, descending=True, stable=True).tolist()
        for unit, scores in ((HEAD, heads), (NEURON, importance.neurons))
    }


def _whole_layers(model: PreTrainedModel) -> list[list[Slice]]:
    """The sliced tensors of every layer, each as a whole."""
    family, geometry = family_of(model.config), geometry_of(model.config)
    layers = full(geometry).layers
    return [
        list(slices(module, own, family, geometry)) for module, own in zip(layer_list(model), layers, strict=True)
    ]


def _gate_heads(model: PreTrainedModel, layer: nn.Module, mask: Tensor) -> RemovableHandle:
    """Multiply each head's output by its mask. `head_mask=` is silently ignored by transformers 5."""
    output = layer.get_submodule(family_of(model.config).attention_output)

    def gate(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        (context,) = inputs  # [batch, length, heads * head_size]
        return (context.unflatten(-1, (mask.numel(), -1)) * mask[:, None]).flatten(-2)

    return output.register_forward_pre_hook(gate)


def _taylor(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight * weight.grad


@torch.no_grad()
def _unit_sums(layer: list[Slice], unit: str, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ function(w) over all weights and biases that belong to each head or neuron of one layer [units]."""
    sums = [
        part.blocks(function(tensor)).movedim(part.dim + 1, 0).flatten(1).sum(1)
        for _, _, tensor, part in layer
        if part.unit == unit
    ]
    return sum(sums[1:], torch.zeros_like(sums[0]) + sums[0])
