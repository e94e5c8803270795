"""In which order the layers of a supernet leave: by what their absence costs, one after another.

Several layers leave together, and two of which each can be spared alone may stand in for each other. So they are not
ranked once but removed one by one, each time the one without which the outputs stay nearest to the full network's
(greedy backward elimination). A shallower network's layers are then always among a deeper one's, and k layers cost
k(k - 1)/2 evaluations, where all subsets would be 2^k. Of what has no labels: Sajjad et al. 2020 compare fixed places
(top, bottom, alternating) and the change of a layer's vectors, as ShortGPT (Men et al. 2024) does; both are cheaper,
but look at each layer while all others are there, and not at what the task's head makes of the change
(`benchmarks/layers.py` measures one beside this).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dynackd.grid import resolve
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.network import SubnetOutput, Supernet
from dynackd.tasks.kind import Kind

TEMPERATURE = 1.0
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerOrder:
    """The layers (0-based) in the order in which they leave, the last of which stays, and the loss of what is left
    after each has gone [layers - 1]; `before`, of all layers."""

    order: tuple[int, ...]
    losses: tuple[float, ...]
    before: float

    def to_dict(self) -> dict[str, Any]:
        """What `importance.json` says of it."""
        return {"order": list(self.order), "losses": list(self.losses), "before": self.before}


@torch.no_grad()
def order_by_removal(
    supernet: Supernet,
    kind: Kind,
    batches: Iterable[Batch],
    widths: Sequence[float] = (1.0,),
    on_removal: Callable[[], None] = lambda: None,
) -> LayerOrder:
    """Remove the layers one by one, each time the one whose absence costs least, the first of equals.

    The cost is the kind's `output_loss` to the full network's outputs, a mean over the batches and the `widths`; it
    needs no labels. The supernet stays as it is.
    """
    was_training = supernet.training
    supernet.eval()
    judge = _Judge(supernet, kind, batches)
    left = [resolve(SubnetSpec(width), supernet.geometry) for width in widths]
    before, order, losses = judge.loss(left), [], []
    while len(left[0].layers) > 1:
        costs = judge.losses_without_one(left)
        leaves = min(costs, key=lambda index: costs[index] if math.isfinite(costs[index]) else math.inf)
        left = [_without(own, leaves) for own in left]
        order.append(leaves)
        losses.append(costs[leaves])
        on_removal()
    supernet.train(was_training)
    return LayerOrder((*order, *left[0].indices), tuple(losses), before)


def passes(layers: int) -> float:
    """How many forward passes of the full network, of so many layers, it takes per row and width."""
    run = sum(left + left * (left - 1) / 2 for left in range(2, layers + 1))
    return 2 + run / layers


def _without(subnet: Subnet, index: int) -> Subnet:
    return replace(subnet, layers=tuple(own for own in subnet.layers if own.index != index))


class _Judge:
    """How far sub-networks of a supernet are from the full one, in the mean over batches."""

    def __init__(self, supernet: Supernet, kind: Kind, batches: Iterable[Batch]) -> None:
        self.supernet, self.kind, device = supernet, kind, next(supernet.parameters()).device
        self.batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
        self.counts = [float(kind.output_count(batch)) for batch in self.batches]
        self.expected = [self._outputs(self._run(supernet.whole, batch), batch) for batch in self.batches]

    def loss(self, subnets: Sequence[Subnet]) -> float:
        """Of these, in the mean."""
        found = [self._loss(place, self._run(own, batch)) for own in subnets for place, batch in self._numbered]
        return sum(found) / (len(subnets) * sum(self.counts))

    def losses_without_one(self, subnets: Sequence[Subnet]) -> dict[int, float]:
        """For each layer of these, which are the same layers, their mean loss when that one is missing."""
        sums = dict.fromkeys(subnets[0].indices, 0.0)
        for own in subnets:
            for place, batch in self._numbered:
                states = self._run(own, batch).hidden_states
                for position, index in enumerate(own.indices):
                    # What comes before the missing layer is known.
                    found = self._run(_without(own, index), batch, states[: position + 1])
                    sums[index] += self._loss(place, found)
        return {index: total / (len(subnets) * sum(self.counts)) for index, total in sums.items()}

    @property
    def _numbered(self) -> list[tuple[int, Batch]]:
        return list(enumerate(self.batches))

    def _run(self, subnet: Subnet, batch: Batch, below: Sequence[Tensor] = ()) -> SubnetOutput:
        inputs, _ = self.kind.split(batch)
        return self.supernet(subnet, below=below, **inputs)

    def _loss(self, place: int, found: SubnetOutput) -> float:
        """The loss on a batch, times what it is a mean over."""
        batch = self.batches[place]
        outputs = self._outputs(found, batch)
        return self.counts[place] * float(self.kind.output_loss(outputs, self.expected[place], batch, TEMPERATURE))

    def _outputs(self, found: SubnetOutput, batch: Batch) -> dict[str, Tensor]:
        inputs, _ = self.kind.split(batch)
        return self.kind.read(found.outputs, inputs, self.supernet.model.config)
