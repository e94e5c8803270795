"""NSGA-II over the sizes of every layer, by pymoo, with steps of our own: whoever is too dear is made smaller before it
is evaluated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.config import Config
from pymoo.core.duplicate import ElementwiseDuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UX

from dynackd.search.costs import Cost
from dynackd.search.space import GENES, Space
from dynackd.subnet import Subnet

Config.warnings["not_compiled"] = False  # pure Python does for some hundred rows
POPULATION = 24
FILLED = 0.5  # share of the new ones that grow until they fill the budget, where most of the best lie
TRIES = 400  # steps to fit one
HIDDEN = 0.1  # share of the steps that change the hidden size, which costs as much as many others
MISSES = 4  # steps that are too dear, or lead nowhere, after which one counts as grown
MOST_IDLE = 5  # generations that bring nothing new before a space counts as known


class Fitter:
    """Makes rows of genes fit a budget: the most of some costs."""

    def __init__(self, space: Space, costs: Mapping[str, Cost], bounds: Mapping[str, float]) -> None:
        self.space, self.costs, self.bounds = space, costs, bounds

    def fits(self, subnet: Subnet) -> bool:
        return all(self.costs[name](subnet) <= most for name, most in self.bounds.items())

    def fitted(self, genes: np.ndarray, grow: bool, rng: np.random.Generator) -> np.ndarray:
        """The genes, smaller by steps drawn at random until they fit; or, to `grow`, larger as long as they do."""
        genes = self._with_a_layer(genes, rng)
        for _ in range(TRIES):
            if self.fits(self.space.subnet(genes)):
                break
            genes = self._step(genes, -1, rng)
        else:
            return self.space.genes(self.space.smallest)
        misses = 0
        while grow and self.bounds and misses < MISSES:
            larger = self._step(genes, 1, rng)
            if (larger != genes).any() and self.fits(self.space.subnet(larger)):
                genes = larger
            else:
                misses += 1
        return genes

    def _step(self, genes: np.ndarray, by: int, rng: np.random.Generator) -> np.ndarray:
        """One gene of a kept layer moved by a step or two; a layer that has nothing left to lose is dropped. Of several
        hidden sizes now and then the next."""
        genes, kept, sizes = genes.copy(), np.flatnonzero(genes[self.space.kept]), self.space.hidden_sizes
        if len(sizes) > 1 and rng.random() < HIDDEN:
            genes[-1] = np.clip(genes[-1] + by, 0, len(sizes) - 1)
            return genes
        layer = GENES * rng.choice(kept)
        gene = layer + rng.integers(1, GENES)
        low, high = self.space.lowest[gene], self.space.highest[gene]
        if by < 0 and len(kept) > 1 and (genes[gene] == low or rng.random() < 0.02):
            genes[layer] = 0
        else:
            genes[gene] = np.clip(genes[gene] + by * rng.integers(1, 3), low, high)
        return genes

    def _with_a_layer(self, genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        genes = genes.astype(int).copy()
        if not genes[self.space.kept].any():
            genes[GENES * rng.integers(self.space.geometry.layers)] = 1
        return genes


class _Fit(Repair):
    def __init__(self, fitter: Fitter) -> None:
        super().__init__()
        self.fitter = fitter

    def _do(self, problem: Any, X: np.ndarray, random_state: Any = None, **_: Any) -> np.ndarray:  # noqa: N803
        return np.array([self.fitter.fitted(row, random_state.random() < FILLED, random_state) for row in X])


class _Steps(Mutation):
    """A layer comes or goes, its heads or neurons or the hidden size move by some steps: about two genes of a row."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def _do(self, problem: Any, X: np.ndarray, random_state: Any = None, **_: Any) -> np.ndarray:  # noqa: N803
        low, high = self.space.lowest, self.space.highest
        reach = np.maximum(1, np.rint((high - low) / 4)).astype(int)
        moved = random_state.integers(-reach, reach + 1, size=X.shape)
        kept = self.space.kept
        moved[:, kept] = 1 - 2 * X[:, kept].astype(int)  # there or not
        chosen = random_state.random(X.shape) < 2 / X.shape[1]
        return np.clip(X + np.where(chosen, moved, 0), low, high).astype(int)


class _SameSubnet(ElementwiseDuplicateElimination):
    """What a dropped layer would have makes no other sub-network."""

    def __init__(self, space: Space) -> None:
        super().__init__(lambda one, other: space.subnet(one.X) == space.subnet(other.X))


class _Trade(Problem):
    """Two aims, both the smaller the better: the loss, and the cost that the front is drawn over."""

    def __init__(self, space: Space, loss: Callable[[Sequence[Subnet]], Sequence[float]], cost: Cost) -> None:
        super().__init__(n_var=len(space.lowest), n_obj=2, xl=space.lowest, xu=space.highest, vtype=int)
        self.space, self.loss, self.cost = space, loss, cost

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: Any, **__: Any) -> None:
        subnets = [self.space.subnet(row) for row in x]
        out["F"] = np.column_stack([self.loss(subnets), [self.cost(subnet) for subnet in subnets]])


def optimise(
    space: Space,
    start: Sequence[Subnet],
    loss: Callable[[Sequence[Subnet]], Sequence[float]],
    axis: Cost,
    fitter: Fitter,
    evaluations: int,
    seed: int,
) -> list[Subnet]:
    """So many different sub-networks that fit, in the order in which their losses were asked for: those to `start`
    with, then generations of ever better ones; fewer where the space has no more."""
    first = _first(space, start, fitter, min(evaluations, POPULATION), seed)[:evaluations]
    asked = dict.fromkeys(first)
    problem, population = _Trade(space, loss, axis), Population.new(X=np.array([space.genes(own) for own in first]))
    Evaluator().eval(problem, population)  # so that the algorithm takes them as they are
    algorithm = NSGA2(
        pop_size=max(POPULATION, len(first)),
        n_offsprings=POPULATION,
        sampling=population,
        crossover=UX(),
        mutation=_Steps(space),
        repair=_Fit(fitter),
        eliminate_duplicates=_SameSubnet(space),
    )
    algorithm.setup(problem, termination=NoTermination(), seed=seed)
    algorithm.tell(infills=algorithm.ask())
    idle = 0
    while len(asked) < evaluations and idle < MOST_IDLE and (new := algorithm.ask()) is not None and len(new):
        before, new = len(asked), new[: evaluations - len(asked)]
        asked |= dict.fromkeys([space.subnet(own.X) for own in new])
        idle = 0 if len(asked) > before else idle + 1
        algorithm.evaluator.eval(problem, new)
        algorithm.tell(infills=new)
    return list(asked)


def _first(space: Space, start: Sequence[Subnet], fitter: Fitter, least: int, seed: int) -> list[Subnet]:
    """Those of `start` that fit, and others drawn at random until there are enough."""
    rng = np.random.default_rng(seed)
    known = dict.fromkeys(subnet for subnet in start if fitter.fits(subnet))
    for _ in range(50 * least):  # a tiny space has no more
        if len(known) >= least:
            break
        genes = rng.integers(space.lowest, space.highest + 1)
        known[space.subnet(fitter.fitted(genes, True, rng))] = None
    return list(known)
