"""What is kept of a rewiring: which head and how much of the neurons' importance stood where, before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynackd.families.family import HEAD, HIDDEN, NEURON, POOLED
from dynackd.supernet.importance import Importance

POINTS = 65  # of a curve over a layer's neurons, whatever their number, so that the record stays small
DIGITS = 5


def rewiring_record(importance: Importance, orders: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Any]:
    """The content of `importance.json`, but for how it was estimated.

    heads: `scores` [layers, heads] in the original order, and `order`: which of them stands first, second, ... now.
    neurons: at `shares` of a layer's neurons [points], which share of its importance its first ones held `before` and
    hold `after` [layers, points]. hidden, where its dimensions were ordered: `scores` [hidden] in the original order,
    `order`: which of them stands first, second, ... now, and the same of those that are `pooled`.
    """
    order = torch.tensor(orders[NEURON])
    return {
        "format": 1,
        "heads": {"scores": _rounded(importance.heads), "order": [list(own) for own in orders[HEAD]]},
        "neurons": {
            "count": order.shape[1],
            "shares": _rounded(torch.linspace(0, 1, POINTS)),
            "before": _rounded(_held(importance.neurons)),
            "after": _rounded(_held(importance.neurons.gather(1, order))),
        },
        **({"hidden": _hidden_record(importance, orders)} if HIDDEN in orders else {}),
    }


def _hidden_record(importance: Importance, orders: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Any]:
    assert importance.hidden is not None
    return {
        "scores": _rounded(importance.hidden),
        "order": list(orders[HIDDEN][0]),
        "pooled": list(orders[POOLED][0]),
    }


def _held(scores: Tensor) -> Tensor:
    """The share of each layer's scores that its first ones hold [layers, points], linear between two neurons."""
    sums = torch.nn.functional.pad(scores.double().cumsum(1), (1, 0))  # [layers, 1 + neurons]
    shares = sums / sums[:, -1:].clamp_min(torch.finfo(torch.double).tiny)
    places = torch.linspace(0, scores.shape[1], POINTS, dtype=torch.double)
    below = places.floor().long().clamp_max(scores.shape[1] - 1)
    return torch.lerp(shares[:, below], shares[:, below + 1], places - below)


def _rounded(values: Tensor) -> Any:
    """As lists, each number to a few digits."""
    return [_rounded(own) if own.dim() else float(f"{float(own):.{DIGITS}g}") for own in values]
