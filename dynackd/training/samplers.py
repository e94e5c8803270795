"""Which sub-networks train at a step. Add a sampler: one function, one line."""

import inspect
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynackd.errors import UserError, shown
from dynackd.subnet import Layer, Subnet


def sample_all(subnets: list[Subnet], _rng: random.Random) -> list[Subnet]:
    """Every sub-network at every step, as both papers do."""
    return subnets


def sample_sandwich(subnets: list[Subnet], rng: random.Random, count: int) -> list[Subnet]:
    """The largest, the smallest and `count` random ones between (Yu and Huang 2019, "sandwich rule")."""
    if len(subnets) <= 2:
        return subnets
    largest, *between, smallest = subnets
    return [largest, *rng.sample(between, min(count, len(between))), smallest]


def sample_random(subnets: list[Subnet], rng: random.Random, count: int) -> list[Subnet]:
    """`count` of them, each as likely as any other: the largest, which begins as good as its teacher, is not trained at
    every step."""
    chosen = set(rng.sample(range(len(subnets)), min(count, len(subnets))))
    return [subnet for place, subnet in enumerate(subnets) if place in chosen]


def sample_mixed(subnets: list[Subnet], rng: random.Random, count: int) -> list[Subnet]:
    """The largest, the smallest and `count` mixtures of all: as many layers as one of them has, but any, each with the
    heads of one and the neurons of another, and the hidden size of one (what a search beyond the grid chooses from).
    Of one alone, whose layers may have different sizes, there is no mixture."""
    if len(subnets) == 1:
        return subnets
    mixtures = [_mixture(subnets, rng) for _ in range(count)]
    # A mixture may be another or one of the ends, and these may be one; each trains once.
    return list(dict.fromkeys([subnets[0], *mixtures, subnets[-1]]))


def _mixture(subnets: list[Subnet], rng: random.Random) -> Subnet:
    kept = sorted(rng.sample(subnets[0].indices, len(rng.choice(subnets).layers)))
    widths = [[own.layers[0] for own in rng.choices(subnets, k=2)] for _ in kept]
    layers = (Layer(index, one.heads, other.neurons) for index, (one, other) in zip(kept, widths, strict=True))
    sizes = sorted({own.hidden for own in subnets})  # of one nothing is drawn, which would change all that follows
    return Subnet(tuple(layers), sizes[0] if len(sizes) == 1 else rng.choice(sizes))


# name -> those of a step; one with a `count` is written `name(2)`.
SAMPLERS: dict[str, Callable[..., list[Subnet]]] = {
    "all": sample_all,
    "sandwich": sample_sandwich,
    "random": sample_random,
    "mixed": sample_mixed,
}


LEAST = {"random": 1}  # of a count, where 0 would leave nothing to train


@dataclass(frozen=True)
class SubnetSampler:
    """Which sub-networks train at a step: a name in `SAMPLERS`, and its count where it takes one."""

    name: str = "all"
    counts: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: Any) -> "SubnetSampler":
        """From a recipe's `all`, `sandwich(2)`, `random(2)` or `mixed(2)`; `UserError` otherwise."""
        written = {name: "(2)" * ("count" in inspect.signature(own).parameters) for name, own in SAMPLERS.items()}
        found = re.fullmatch(r"(\w+)(?:\(([0-9]{1,4})\))?", text) if isinstance(text, str) else None
        if found is None or found[1] not in SAMPLERS or bool(found[2]) != bool(written[found[1]]):
            known = ", or ".join(name + count for name, count in written.items())
            raise UserError(f"grid.sampler {shown(text)} is unknown; it is {known}")
        if found[2] and int(found[2]) < LEAST.get(found[1], 0):
            raise UserError(f"grid.sampler {text} would train nothing; it is {found[1]}(1) or more")
        return cls(found[1], (int(found[2]),) if found[2] else ())

    def sample(self, subnets: list[Subnet], seed: int, step: int) -> list[Subnet]:
        """The sub-networks of this step, the same on every process and after every resume; `subnets` largest first."""
        return SAMPLERS[self.name](subnets, random.Random(f"{seed}/{step}"), *self.counts)
