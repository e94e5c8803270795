"""What any sub-network costs, at once: sums over its layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dynackd.search.latency_model import Weights
from dynackd.subnet import Geometry, Layer, Subnet, full

Cost = Callable[[Subnet], float]


@dataclass(frozen=True)
class Additive:
    """A count that is a sum over layers, in each so much for being there, for a head and for a neuron; and so much for
    each head of the widest layer, as of a bias that all layers share; at one hidden size. Exact, and a thousand times
    as quick as counting.
    """

    base: int
    layers: tuple[tuple[int, int, int], ...]  # of each layer: for itself, a head, a neuron
    widest: int

    @classmethod
    def of(cls, count: Callable[[Subnet], int], geometry: Geometry, hidden: int | None = None) -> "Additive":
        """Of what `count` counts, from as many sub-networks as it takes. hidden: the hidden size, the full one's where
        none is named."""
        whole = replace(full(geometry), hidden=hidden or geometry.hidden)
        known = count(whole)

        def without(index: int, heads: int = 0, neurons: int = 0) -> Subnet:
            """The full network with so much less in one layer."""
            kept = list(whole.layers)
            kept[index] = Layer(index, geometry.heads - heads, geometry.neurons - neurons)
            return replace(whole, layers=tuple(kept))

        if geometry.layers == 1 or geometry.heads == 1:
            widest, narrow = 0, known
        else:
            narrow = count(replace(whole, layers=tuple(replace(own, heads=geometry.heads - 1) for own in whole.layers)))
        layers = []
        for index in range(geometry.layers):
            head = known - count(without(index, heads=1)) if geometry.heads > 1 else 0
            neuron = known - count(without(index, neurons=1)) if geometry.neurons > 1 else 0
            rest = tuple(own for own in whole.layers if own.index != index)
            layer = known - count(replace(whole, layers=rest)) if rest else 0
            layers.append((layer - head * geometry.heads - neuron * geometry.neurons, head, neuron))
        widest = known - narrow - sum(head for _, head, _ in layers) if narrow != known else 0
        kept = sum(own + head * geometry.heads + neuron * geometry.neurons for own, head, neuron in layers)
        return cls(known - kept - widest * geometry.heads, tuple(layers), widest)

    @property
    def weights(self) -> Weights:
        """What a head and what a neuron counts, in the mean over layers."""
        return Weights(*(sum(layer[place] for layer in self.layers) / len(self.layers) for place in (1, 2)))

    def __call__(self, subnet: Subnet) -> int:
        costs = (self.layers[own.index] for own in subnet.layers)
        sums = (layer + head * own.heads + neuron * own.neurons
                for (layer, head, neuron), own in zip(costs, subnet.layers, strict=True))
        return self.base + self.widest * subnet.most_heads + sum(sums)


@dataclass(frozen=True)
class ByHidden:
    """What a sub-network costs by the law of its own hidden size."""

    laws: Mapping[int, Cost]

    def __call__(self, subnet: Subnet) -> float:
        return self.laws[subnet.hidden](subnet)
