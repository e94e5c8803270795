"""Which heads, neurons and hidden dimensions matter, and the rewiring that puts them first. Add a score: one function,
one line."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from dynackd.errors import UserError
from dynackd.families.family import HEAD, HIDDEN, NEURON, POOLED, Slice, outer_slices, slices
from dynackd.families.table import family_of, geometry_of, layer_list
from dynackd.subnet import full
from dynackd.supernet.network import Supernet
from dynackd.tasks.kinds import kind_of


@dataclass(frozen=True)
class Importance:
    """Scores, larger is more important: `heads` [layers, heads], `neurons` [layers, neurons], and for all layers alike
    `hidden` and `pooled` [hidden] (None where nobody asks for these).

    What is pooled, between the layers of a task's head, has as many dimensions as the hidden states, and other ones.
    """

    heads: Tensor
    neurons: Tensor
    hidden: Tensor | None = None
    pooled: Tensor | None = None


Batches = Iterable[dict[str, Tensor]]
# unit -> the old places of its units in their new order: of HEAD and NEURON for each layer, else for all as one
Orders = dict[str, list[list[int]]]


def gradient_importance(model: PreTrainedModel, batches: Batches) -> Importance:
    """First-order change of the task loss when a unit is removed, absolute per batch, summed over batches.

    Head: |dL/dm_h| for a mask m_h = 1 on the head's output (Michel et al. 2019; Voita et al. 2019). Neuron:
    |Σ w·dL/dw| over its incoming row, bias and outgoing column (Molchanov et al. 2019). DynaBERT, §2.1.1; their code
    never clears the gradients between batches, here they are.

    Hidden dimension: |dL/dm_d| for a mask m_d = 1 wherever a layer, or what stands behind the last, reads the residual
    stream, which is |Σ x·dL/dx| over all tokens and these places: the criterion of Molchanov et al. 2017 for a feature
    map ("Pruning Convolutional Neural Networks for Resource Efficient Inference", eq. 8), as a head's is. Pooled: as a
    neuron's.
    """
    geometry, layers = geometry_of(model.config), layer_list(model)
    heads = torch.zeros(geometry.layers, geometry.heads)
    neurons = torch.zeros(geometry.layers, geometry.neurons)
    hidden, pooled = torch.zeros(geometry.hidden), torch.zeros(geometry.hidden)
    kind, was_training = kind_of(model.config, type(model).__name__), model.training
    model.eval()
    for batch in batches:
        model.zero_grad(set_to_none=True)
        masks = [torch.ones(geometry.heads, device=model.device, requires_grad=True) for _ in layers]
        with ExitStack() as stack:
            for layer, mask in zip(layers, masks, strict=True):
                stack.callback(_gate_heads(model, layer, mask).remove)
            stream = stack.enter_context(_residual_stream(layers))
            kind.importance_loss(model, batch).backward()
        for index, (own, mask) in enumerate(zip(_whole_layers(model), masks, strict=True)):
            assert mask.grad is not None
            heads[index] += mask.grad.abs().cpu()
            neurons[index] += _unit_sums(own, NEURON, _taylor).abs().cpu()
        reads = [(x.detach() * x.grad).flatten(0, -2).sum(0) for x in stream if x.grad is not None]
        hidden += torch.stack(reads).sum(0).abs().cpu()
        pooled += _pooled_sums(model, _taylor).abs().cpu()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return Importance(heads, neurons, hidden, pooled)


def magnitude_importance(model: PreTrainedModel, batches: Batches) -> Importance:
    """The squared size of a unit's weights, a baseline that needs no data (`batches` is not read)."""
    del batches
    heads, neurons = (
        torch.stack([_unit_sums(layer, unit, torch.square) for layer in _whole_layers(model)]).cpu()
        for unit in (HEAD, NEURON)
    )
    every = [*chain(*_whole_layers(model)), *_whole_outside(model)]
    hidden = _unit_sums(every, HIDDEN, torch.square).cpu()
    return Importance(heads, neurons, hidden, _pooled_sums(model, torch.square).cpu())


IMPORTANCE: dict[str, Callable[[PreTrainedModel, Batches], Importance]] = {
    "gradient": gradient_importance,
    "magnitude": magnitude_importance,
}


@torch.no_grad()
def rewire(model: PreTrainedModel, importance: Importance, units: Sequence[str] = (HEAD, NEURON)) -> Orders:
    """Permute these units in place, most important first: heads and neurons of every layer, and hidden and pooled
    dimensions of the whole model. The output does not change, but for the order of hidden states that it is itself.
    Returns the orders (see `orders_of`)."""
    orders = {unit: order for unit, order in orders_of(model, importance).items() if unit in units}
    reorder(model, orders)
    return orders


@torch.no_grad()
def reorder(model: PreTrainedModel, orders: Orders) -> None:
    """Permute units in place."""
    for index, own in [*enumerate(_whole_layers(model)), (0, _whole_outside(model))]:
        for piece in own:
            for part in piece.parts:
                if part.unit in orders:
                    of_layer = orders[part.unit][index if part.unit in (HEAD, NEURON) else 0]
                    places = torch.tensor(part.positions(of_layer), device=piece.tensor.device)
                    piece.tensor.copy_(piece.tensor.index_select(part.dim, places))


def in_order_of(supernet: Supernet, teacher: Supernet) -> Supernet:
    """The teacher with its hidden dimensions where the supernet has them, in place: those of one are then compared with
    the same of the other. One of another hidden size stays as it is."""
    order = supernet.hidden_order
    if order and not teacher.hidden_order and teacher.geometry.hidden == supernet.geometry.hidden:
        if reason := family_of(teacher.model.config).why_whole(teacher.model.config):
            raise UserError(f"the hidden dimensions of the teacher cannot be put in another order, because {reason}")
        reorder(teacher.model, {HIDDEN: [list(order)]})
        teacher.hidden_order = order
    return teacher


def orders_of(model: PreTrainedModel, importance: Importance) -> Orders:
    """Which head and neuron comes first, second, ... in every layer, and which hidden and pooled dimension in all.

    Where the layers share a bias, its columns are the heads of all of them: the order of the heads is then one, by the
    sum of their scores over the layers.
    """
    shared = bool(family_of(model.config).shared)
    heads = importance.heads.sum(0).expand_as(importance.heads) if shared else importance.heads
    every = {HEAD: heads, NEURON: importance.neurons}
    every |= {unit: own[None] for unit, own in ((HIDDEN, importance.hidden), (POOLED, importance.pooled))
              if own is not None}
    # Stable, so that equal scores keep their order and a second rewiring changes nothing.
    return {
        unit: torch.argsort(scores, dim=1, descending=True, stable=True).tolist() for unit, scores in every.items()
    }


def _whole_layers(model: PreTrainedModel) -> list[list[Slice]]:
    """The sliced tensors of every layer, each as a whole."""
    family, geometry = family_of(model.config), geometry_of(model.config)
    layers = full(geometry).layers
    return [
        list(slices(module, own, geometry.hidden, family, geometry))
        for module, own in zip(layer_list(model), layers, strict=True)
    ]


def _whole_outside(model: PreTrainedModel) -> list[Slice]:
    """The sliced tensors outside of the layers, each as a whole."""
    geometry = geometry_of(model.config)
    return list(outer_slices(model, geometry.heads, geometry.hidden, family_of(model.config), geometry))


@contextmanager
def _residual_stream(layers: nn.ModuleList) -> Iterator[list[Tensor]]:
    """The hidden states [batch, length, hidden] that each layer reads, and what the last gives, in the order of a
    forward pass inside; they keep their gradients."""
    stream: list[Tensor] = []

    def note(state: Tensor) -> None:
        if state.requires_grad:  # a kind may ask the model for its own labels first
            state.retain_grad()
            stream.append(state)

    def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        note(inputs[0] if inputs else named["hidden_states"])

    def behind(_: nn.Module, _inputs: Any, output: Any) -> None:
        note(output if isinstance(output, Tensor) else output[0])

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles.append(layers[-1].register_forward_hook(behind))
    try:
        yield stream
    finally:
        for handle in handles:
            handle.remove()


def _gate_heads(model: PreTrainedModel, layer: nn.Module, mask: Tensor) -> RemovableHandle:
    """Multiply each head's output by its mask. `head_mask=` is silently ignored by transformers 5."""
    output = layer.get_submodule(family_of(model.config).attention_output)

    def gate(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        (context,) = inputs  # [batch, length, heads * head_size]
        return (context.unflatten(-1, (mask.numel(), -1)) * mask[:, None]).flatten(-2)

    return output.register_forward_pre_hook(gate)


def _taylor(weight: Tensor) -> Tensor:
    # Without a gradient: of a pooler that no head reads.
    return torch.zeros_like(weight) if weight.grad is None else weight * weight.grad


def _pooled_sums(model: PreTrainedModel, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ function(w) over all weights and biases that belong to each pooled dimension [hidden]; zeros without any."""
    pooled = [piece for piece in _whole_outside(model) if any(part.unit == POOLED for part in piece.parts)]
    return _unit_sums(pooled, POOLED, function) if pooled else torch.zeros(geometry_of(model.config).hidden)


@torch.no_grad()
def _unit_sums(pieces: list[Slice], unit: str, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ function(w) over all weights and biases that belong to each unit [units]."""
    sums = [
        part.blocks(function(piece.tensor)).movedim(part.dim + 1, 0).flatten(1).sum(1)
        for piece in pieces
        for part in piece.parts
        if part.unit == unit
    ]
    return sum(sums[1:], torch.zeros_like(sums[0]) + sums[0])
