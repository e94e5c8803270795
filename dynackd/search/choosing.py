"""The choice: of the best by their losses, the one with the best metric that meets the budget as it was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynackd.errors import UserError
from dynackd.search.costs import Cost
from dynackd.search.quality import Lead, Metric
from dynackd.search.settings import COSTS, Budget, option
from dynackd.search.space import Space
from dynackd.subnet import Subnet

BEST = 6  # of the lowest losses that are exported, timed and judged by the metric
EVEN = 3  # of the same share everywhere
SHOWN = 6  # of the front, beside those
ROUNDS = 4  # of sub-networks that are timed before it is given up
ALONG = 10  # of the front where the budget bounds no cost
OF_WORDS = ("parameters", "size_mb")  # most of which the embeddings of words have, in each size of a hidden size
WRITTEN = {
    "latency_ms": "{:.2f} ms",
    "parameters": "{:,.0f} parameters",
    "size_mb": "{:.2f} MB",
    "flops": "{:,.0f} FLOPs",
}


@dataclass(frozen=True)
class Candidate:
    """A sub-network as it was judged and measured."""

    subnet: Subnet
    loss: float
    metric: float
    latency_ms: float
    size_mb: float


class Timing(NamedTuple):
    """What is measured of an exported sub-network, and the full network's latency beside it."""

    latency_ms: float
    size_mb: float
    full_ms: float


@dataclass(frozen=True)
class Chosen:
    """What a search found. searched: the best where layers differ, and how far it leads over the grid's best; front: of
    those that are within the bounds as measured, ascending in cost, the choice among them."""

    choice: Candidate
    grid: Candidate | None
    full: Candidate
    searched: Candidate | None
    lead: Lead | None
    front: list[Candidate]

    def named(self) -> dict[str, Candidate | None]:
        return {"choice": self.choice, "grid": self.grid, "full": self.full, "searched": self.searched}

    @property
    def reported(self) -> list[Subnet]:
        """The sub-networks that validation rows report on."""
        return list(dict.fromkeys(own.subnet for own in self.named().values() if own))


@dataclass
class Chooser:
    """Chooses among sub-networks whose losses are known.

    axis: the cost that the front is drawn over. timed: (ms, MB, ms of the full network) of exported sub-networks.
    """

    budget: Budget
    axis: str
    costs: Mapping[str, Cost]
    losses: Mapping[Subnet, float]
    metric: Metric
    timed: Callable[[Sequence[Subnet]], list[tuple[float, float, float]]]
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None
    known: dict[Subnet, Candidate] = field(default_factory=dict)
    least: float | None = None  # of the metric, once the full network's is known

    def choose(self, asked: Sequence[Subnet], even: Sequence[Subnet], whole: Subnet) -> Chosen:
        """Of the sub-networks `asked`, some of which are of the same share everywhere. Raises `UserError`.

        Within a bound one whose layers differ is chosen where it is clearly better than the best of these: the best of
        many is partly luck, and none of them was trained as it is.
        """
        self._judge([whole])
        self.least = self._least_metric(self.known[whole].metric)
        front = self._front(asked)
        bounded = bool(self.budget.bounds)
        order = self._by_loss if bounded else self._along
        self._fit([order(asked), order(even)], [BEST if bounded else ALONG, EVEN if bounded else ALONG])
        if bounded and not self._best([own for own in even if own in self.known]):
            self._fit([order(even)], [EVEN])
        self._judge(self._thinned(front, SHOWN))
        if not bounded:
            self._come_closer(front)
        if (choice := self._best(list(self.known))) is None:
            raise UserError(self._why_none())
        grid = self._best([own for own in even if own in self.known])
        searched = choice if grid and grid.subnet != choice.subnet else None
        lead = self.metric.lead(searched.subnet, grid.subnet) if bounded and searched and grid else None
        if grid and lead and not lead.clear:
            choice = grid
        within = [own for own in asked if own in self.known and self._within(self.known[own])]
        kept = set(self._front(within)) | {choice.subnet}
        drawn = sorted(kept, key=lambda own: self.costs[self.axis](own))
        return Chosen(choice, grid, self.known[whole], searched, lead, [self.known[own] for own in drawn])

    def _least_metric(self, of_whole: float) -> float | None:
        """What the metric must reach, where anything is asked of it; of_whole: the full network's."""
        keep = self.budget.keep
        if keep is None or of_whole <= 0:  # of a correlation the wrong way round there is no share
            return self.budget.min_metric if keep is None else of_whole
        return of_whole / keep if self.metric.lower_is_better else of_whole * keep

    # ------------------------------------------------------------------------------------------------------- orders

    def _front(self, subnets: Sequence[Subnet]) -> list[Subnet]:
        """Those than which no other is both cheaper and nearer to the full network, ascending in cost."""
        cost, found = self.costs[self.axis], list[Subnet]()
        for own in sorted(subnets, key=lambda own: (cost(own), self.losses.get(own, 0.0))):
            if not found or self.losses[own] < self.losses[found[-1]]:
                found.append(own)
        return found

    def _by_loss(self, subnets: Sequence[Subnet]) -> list[Subnet]:
        return sorted(subnets, key=lambda own: self.losses[own])

    def _along(self, subnets: Sequence[Subnet]) -> list[Subnet]:
        """The front from the cheapest on, thinned at first and what lies between afterwards."""
        front = self._front(subnets)
        first = self._thinned(front, ALONG)
        return [*first, *(own for own in front if own not in set(first))]

    @staticmethod
    def _thinned(subnets: Sequence[Subnet], most: int) -> list[Subnet]:
        """At most so many, at equal distances, the first and the last among them."""
        if len(subnets) <= most:
            return list(subnets)
        return [subnets[round(place * (len(subnets) - 1) / (most - 1))] for place in range(most)]

    # ------------------------------------------------------------------------------------------------------ judging

    def _judge(self, subnets: Sequence[Subnet]) -> None:
        """Export, time and judge those that are not known."""
        new = [own for own in dict.fromkeys(subnets) if own not in self.known]
        timings = [Timing(*own) for own in self.timed(new)]
        for place, (own, timing) in enumerate(zip(new, timings, strict=True)):
            self.on_progress("judging the best", place, len(new))
            value = self.metric.of(own)
            self.known[own] = Candidate(own, self.losses.get(own, 0.0), value, timing.latency_ms, timing.size_mb)
        if new:
            self.on_progress("judging the best", len(new), len(new))

    def _costs(self, own: Candidate) -> dict[str, float]:
        """What a candidate costs as it was measured and counted."""
        counted = {name: self.costs[name](own.subnet) for name in ("parameters", "flops")}
        return counted | {"latency_ms": own.latency_ms, "size_mb": own.size_mb}

    def _meets(self, own: Candidate) -> bool:
        return self._within(own) and self.metric.reaches(own.metric, self.least)

    def _within(self, own: Candidate) -> bool:
        costs = self._costs(own)
        return all(costs[name] <= most for name, most in self.budget.bounds.items())

    def _best(self, subnets: Sequence[Subnet]) -> Candidate | None:
        """The best of those that were measured and meet the budget: by the metric, or, where no cost is bounded, by
        what they cost."""
        met = [own for own in map(self.known.__getitem__, subnets) if self._meets(own)]
        if self.budget.bounds:
            return min(met, key=lambda own: (self.metric.rank(own.metric), own.loss), default=None)
        return min(met, key=lambda own: own.latency_ms, default=None)

    def _fit(self, orders: Sequence[Sequence[Subnet]], counts: Sequence[int]) -> None:
        """Judge the first of all `orders`, so many of each; where none meets the budget as measured, the next, which by
        then are those that the models, set right by what was measured, expect to fit."""
        every = [own for order in orders for own in order]
        for _ in range(ROUNDS):
            wanted = []
            for order, count in zip(orders, counts, strict=True):
                wanted += [own for own in order if own not in self.known and self._expected(own)][:count]
            self._judge(wanted)
            if not wanted or self._best([own for own in every if own in self.known]):
                return

    def _come_closer(self, front: Sequence[Subnet]) -> None:
        """Judge what lies on the front between the cheapest that meets the budget and the next cheaper one that was
        judged, halving what is between them."""
        for _ in range(ROUNDS):
            if (best := self._best(list(self.known))) is None:
                return
            cost = self.costs[self.axis]
            cheaper = [own for own in front if cost(own) < cost(best.subnet)]
            judged = [place for place, own in enumerate(cheaper) if own in self.known]
            between = cheaper[judged[-1] + 1 if judged else 0 :]
            if not between:
                return
            self._judge([between[len(between) // 2]])

    def _expected(self, subnet: Subnet) -> bool:
        """Whether the models, set right by the median of what was measured, expect it to fit."""
        for name, most in self.budget.bounds.items():
            off = [self._costs(own)[name] / max(1e-9, self.costs[name](own.subnet)) for own in self.known.values()]
            if self.costs[name](subnet) * (sorted(off)[len(off) // 2] if off else 1.0) > most * (0.98 if off else 1.0):
                return False
        return True

    def _why_none(self) -> str:
        """What comes closest, in one sentence."""
        tried = list(self.known.values())
        within = [own for own in tried if self._within(own)]
        least = self.least
        if least is not None and (within or not self.budget.bounds):
            best = min(within or tried, key=lambda own: self.metric.rank(own.metric))
            inside = " within the budget" if self.budget.bounds else ""
            reaches = f"reaches --min-metric {least:g}"
            if self.budget.keep is not None:
                reaches = f"keeps {self.budget.keep:.0%} of the full network's {self.metric.name} ({least:.4f})"
            return (
                f"no sub-network{inside} {reaches}: the best of {len(tried)} that were judged has "
                f"{self.metric.name} {best.metric:.4f}"
            )
        closest = min(tried, key=lambda own: self._excess(own))
        name, most = max(self.budget.bounds.items(), key=lambda bound: self._costs(closest)[bound[0]] / bound[1])
        return (
            f"no sub-network meets the budget as measured: of {len(tried)} that were exported the closest has "
            f"{told(name, self._costs(closest)[name])}, and {bound_of(name)} is {most:,.10g}"
        )

    def _excess(self, own: Candidate) -> float:
        return max(self._costs(own)[name] / most for name, most in self.budget.bounds.items())


def bound_of(cost: str) -> str:
    """The option that bounds a cost."""
    return option(next(name for name, own in COSTS.items() if own == cost))


def told(cost: str, value: Any) -> str:
    """A cost with its unit."""
    return WRITTEN[cost].format(value)


def refuse_impossible(budget: Budget, costs: Mapping[str, Cost], space: Space) -> None:
    """`UserError` where even the smallest sub-network exceeds a bound."""
    several = len(space.hidden_sizes) > 1
    smallest_hidden = f" at hidden size {space.hidden_sizes[0]}" if several else ""
    for name, most in budget.bounds.items():
        if name in costs and (least := costs[name](space.smallest)) > most:
            raise UserError(
                f"{bound_of(name)} {most:,.10g} is less than the smallest sub-network has: one layer of one head and "
                f"{space.neurons[0]:,} neurons{smallest_hidden} comes to {told(name, least)}"
                + ("" if several or name not in OF_WORDS else "; one of a smaller hidden size (grid.hidden) has less")
            )
