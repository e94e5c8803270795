"""Which sub-networks train at a step. Add a sampler: one function, one line."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynackd.errors import UserError, shown
from dynackd.subnet import Subnet


def sample_all(subnets: list[Subnet], _count: int, _rng: random.Random) -> list[Subnet]:
    """Every sub-network at every step, as both papers do."""
    return subnets


def sample_sandwich(subnets: list[Subnet], count: int, rng: random.Random) -> list[Subnet]:
    """The largest, the smallest and `count` random ones between (Yu and Huang 2019, "sandwich rule")."""
    if len(subnets) <= 2:
        return subnets
    largest, *between, smallest = subnets
    return [largest, *rng.sample(between, min(count, len(between))), smallest]


SAMPLERS: dict[str, Callable[[list[Subnet], int, random.Random], list[Subnet]]] = {
    "all": sample_all,
    "sandwich": sample_sandwich,
}


@dataclass(frozen=True)
class SubnetSampler:
    """Which sub-networks train at a step: `all`, or `sandwich(k)`."""

    name: str = "all"
    count: int = 0

    @classmethod
    def parse(cls, text: Any) -> "SubnetSampler":
        """From a recipe's `all` or `sandwich(2)`; `UserError` otherwise."""
        found = re.fullmatch(r"(all)|(sandwich)\(([0-9]{1,4})\)", text) if isinstance(text, str) else None
        if found is None:
            raise UserError(f"grid.sampler {shown(text)} is unknown; it is all, or sandwich(2)")
        return cls(str(found[1] or found[2]), int(found[3] or 0))

    def sample(self, subnets: list[Subnet], seed: int, step: int) -> list[Subnet]:
        """The sub-networks of this step, the same on every process and after every resume; `subnets` largest first."""
        return SAMPLERS[self.name](subnets, self.count, random.Random(f"{seed}/{step}"))


