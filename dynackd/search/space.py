"""The sub-networks that a search looks at, as rows of whole numbers."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from dynackd.grid import Grid
from dynackd.subnet import Geometry, Layer, Subnet, SubnetSpec

GENES = 3  # of a layer: whether it is kept, its heads, and its step in `Space.neurons`
STEPS_PER_HEAD = 2  # steps of neurons in a head's share of them


@dataclass(frozen=True)
class Space:
    """Any layers, each with as many of its first heads as it likes, and of its first neurons in steps of half a head's
    share, which hold all sizes of the same share everywhere. The hidden size is the full network's.

    A sub-network is a row of genes [layers * 3]: of each layer of the full network, one behind the other, whether it is
    kept (0 or 1), its heads (1 to all) and its place in `neurons` (from 0). What a layer that is not kept would have
    stays there, for when it comes back.
    """

    geometry: Geometry

    @cached_property
    def neurons(self) -> tuple[int, ...]:
        """The numbers of neurons that a layer may keep, ascending."""
        total, steps = self.geometry.neurons, STEPS_PER_HEAD * self.geometry.heads
        # Rounded as `grid.resolve` rounds.
        kept = {max(1, int(Fraction(total * step, steps) + Fraction(1, 2))) for step in range(1, steps + 1)}
        return tuple(sorted(kept))

    @cached_property
    def lowest(self) -> np.ndarray:
        """The least of each gene."""
        return np.tile([0, 1, 0], self.geometry.layers)

    @cached_property
    def highest(self) -> np.ndarray:
        """The most of each gene."""
        return np.tile([1, self.geometry.heads, len(self.neurons) - 1], self.geometry.layers)

    def subnet(self, genes: Sequence[int] | np.ndarray) -> Subnet:
        """The sub-network of a row of genes, which keeps at least one layer."""
        rows, neurons = np.asarray(genes, dtype=int).reshape(-1, GENES), self.neurons
        kept = [Layer(index, int(heads), neurons[step]) for index, (kept, heads, step) in enumerate(rows) if kept]
        return Subnet(tuple(kept), self.geometry.hidden)

    def genes(self, subnet: Subnet) -> np.ndarray:
        """The row of a sub-network of this space; a layer that it lacks would have the sizes of the next that it has,
        else of its last."""
        wide, steps = subnet.at_full_depth(self.geometry), {count: step for step, count in enumerate(self.neurons)}
        rows = [(own.index in subnet.indices, own.heads, steps[own.neurons]) for own in wide.layers]
        return np.asarray(rows, dtype=int).reshape(-1)

    def even(self, grid: Grid | None = None) -> Iterator[Subnet]:
        """Every size of the same share in all layers, its layers by the grid's rule: the smallest first."""
        grid = grid or Grid()
        for depth in range(1, self.geometry.layers + 1):
            for heads in range(1, self.geometry.heads + 1):
                spec = SubnetSpec(heads / self.geometry.heads, depth / self.geometry.layers)
                yield grid.resolve(spec, self.geometry)

    @property
    def smallest(self) -> Subnet:
        """One layer, the last, with the least of everything."""
        return Subnet((Layer(self.geometry.layers - 1, 1, self.neurons[0]),), self.geometry.hidden)

    def sample(self, count: int, seed: int) -> list[Subnet]:
        """Different sub-networks to measure: of all depths in turn, around sizes that are drawn for each, so that they
        spread from small to large as single layers drawn at random, whose sums are all alike, would not."""
        rng, found = random.Random(f"sizes/{seed}"), dict[Subnet, None]()
        depths = list(range(1, self.geometry.layers + 1))
        for turn in range(20 * count):  # a tiny space has fewer than asked for
            if turn % len(depths) == 0:
                rng.shuffle(depths)
            found[self._around(rng, depths[turn % len(depths)])] = None
            if len(found) == count:
                break
        return list(found)

    def _around(self, rng: random.Random, depth: int) -> Subnet:
        """A sub-network of so many layers whose heads and whose neurons lie around a size of their own."""
        levels, neurons = (rng.random(), rng.random()), self.neurons

        def near(level: float, most: int) -> int:
            return round(min(1.0, max(0.0, level + rng.uniform(-0.3, 0.3))) * most)

        kept = sorted(rng.sample(range(self.geometry.layers), depth))
        return Subnet(
            tuple(
                Layer(index, 1 + near(levels[0], self.geometry.heads - 1), neurons[near(levels[1], len(neurons) - 1)])
                for index in kept
            ),
            self.geometry.hidden,
        )
