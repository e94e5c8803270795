"""The sub-networks that a search looks at, as rows of whole numbers."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product

import numpy as np

from dynackd.grid import Grid
from dynackd.subnet import Geometry, Layer, Subnet, SubnetSpec

GENES = 3  # of a layer: whether it is kept, its heads, and its step in `Space.neurons`
STEPS_PER_HEAD = 2  # steps of neurons in a head's share of them


@dataclass(frozen=True)
class Space:
    """Any layers, each with as many of its first heads as it likes, and of its first neurons in steps of half a head's
    share, which hold all sizes of the same share everywhere; at one of the hidden sizes that were trained.

    A sub-network is a row of genes [layers * 3]: of each layer of the full network, one behind the other, whether it is
    kept (0 or 1), its heads (1 to all) and its place in `neurons` (from 0). What a layer that is not kept would have
    stays there, for when it comes back. Where there are several hidden sizes a last gene is the place of its own in
    `hidden_sizes` (from 0).

    hidden: the hidden sizes in dimensions; none means the full network's alone.
    """

    geometry: Geometry
    hidden: tuple[int, ...] = ()

    @cached_property
    def hidden_sizes(self) -> tuple[int, ...]:
        """The hidden sizes, ascending."""
        return tuple(sorted(self.hidden)) or (self.geometry.hidden,)

    @property
    def kept(self) -> slice:
        """Where in a row the genes stand that say whether a layer is kept."""
        return slice(0, GENES * self.geometry.layers, GENES)

    def at(self, hidden: int) -> "Space":
        """What of it has this hidden size."""
        return Space(self.geometry, (hidden,))

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
        return self._row(np.tile([0, 1, 0], self.geometry.layers), 0)

    @cached_property
    def highest(self) -> np.ndarray:
        """The most of each gene."""
        most = np.tile([1, self.geometry.heads, len(self.neurons) - 1], self.geometry.layers)
        return self._row(most, len(self.hidden_sizes) - 1)

    def _row(self, genes: np.ndarray, hidden: int) -> np.ndarray:
        """The genes of layers, with that of the hidden size where there are several."""
        return np.append(genes, hidden) if len(self.hidden_sizes) > 1 else genes

    def subnet(self, genes: Sequence[int] | np.ndarray) -> Subnet:
        """The sub-network of a row of genes, which keeps at least one layer."""
        whole, neurons = np.asarray(genes, dtype=int), self.neurons
        rows = whole[: GENES * self.geometry.layers].reshape(-1, GENES)
        hidden = self.hidden_sizes[whole[-1] if len(self.hidden_sizes) > 1 else 0]
        kept = [Layer(index, int(heads), neurons[step]) for index, (kept, heads, step) in enumerate(rows) if kept]
        return Subnet(tuple(kept), hidden)

    def genes(self, subnet: Subnet) -> np.ndarray:
        """The row of a sub-network of this space; a layer that it lacks would have the sizes of the next that it has,
        else of its last."""
        wide, steps = subnet.at_full_depth(self.geometry), {count: step for step, count in enumerate(self.neurons)}
        rows = [(own.index in subnet.indices, own.heads, steps[own.neurons]) for own in wide.layers]
        return self._row(np.asarray(rows, dtype=int).reshape(-1), self.hidden_sizes.index(subnet.hidden))

    def even(self, grid: Grid | None = None) -> Iterator[Subnet]:
        """Every size of the same share in all layers, its layers by the grid's rule: the smallest first."""
        grid, sizes = grid or Grid(), self.geometry
        for hidden, depth in product(self.hidden_sizes, range(1, sizes.layers + 1)):
            for heads in range(1, sizes.heads + 1):
                spec = SubnetSpec(heads / sizes.heads, depth / sizes.layers)
                yield replace(grid.resolve(spec, sizes), hidden=hidden)

    @property
    def smallest(self) -> Subnet:
        """One layer, the last, with the least of everything."""
        return Subnet((Layer(self.geometry.layers - 1, 1, self.neurons[0]),), self.hidden_sizes[0])

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
        hidden = rng.choice(self.hidden_sizes) if len(self.hidden_sizes) > 1 else self.hidden_sizes[0]
        return Subnet(
            tuple(
                Layer(index, 1 + near(levels[0], self.geometry.heads - 1), neurons[near(levels[1], len(neurons) - 1)])
                for index in kept
            ),
            hidden,
        )
