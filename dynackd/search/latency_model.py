"""What latency depends on, learned from sub-networks that were measured here.

    latency = base + for each kept layer: layer + a * steps(heads) + b * steps(neurons)
            + c * (weights of all layers that are more than a cache holds)

`steps(n)` is n rounded up to a whole number of steps, which kernels take: a matrix product works on blocks of columns,
and threads share out whole heads. At few rows a weight is used once for each time that it is fetched, so that those
beyond the processor's cache cost more; without that term small MiniLMs at 64 tokens came out too dear and large ones
too cheap. The steps, the cache's size and the numbers are found together, each only where it helps; no number is below
0, so that more never costs less. How far a model is off on sub-networks that it has not seen every search tells.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from dynackd.subnet import Subnet

HEAD_STEPS = (1, 2, 4)
NEURON_STEPS = (1, 64, 128, 256)
CACHES = 12  # sizes of a cache that are tried, between the fewest and the most weights that were measured
FOLDS = 24  # most parts of the measured sub-networks, each of which is once left out to choose the steps and the cache
HELPS = 0.5  # what is found must bring the squared error below this share of what it is without


class Weights(NamedTuple):
    """How many weights a head and a neuron of a layer have."""

    head: float
    neuron: float


NO_WEIGHTS = Weights(0.0, 0.0)


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of a forward pass: `base`, and of each kept layer `layer`, `head` for each of its heads and `neuron`
    for each of its neurons, both rounded up to steps; `beyond` for each million of the layers' weights beyond the
    `cache`, in millions, None where there is none to be seen."""

    base: float
    layer: float
    head: float
    neuron: float
    beyond: float = 0.0
    head_step: int = 1
    neuron_step: int = 1
    cache: float | None = None
    weights: Weights = NO_WEIGHTS

    def __call__(self, subnet: Subnet) -> float:
        numbers = (self.base, self.layer, self.head, self.neuron, self.beyond)
        return float(np.dot(self.features(subnet), numbers))

    def features(self, subnet: Subnet) -> tuple[float, float, float, float, float]:
        """What each number is multiplied with."""
        heads = sum(-(-own.heads // self.head_step) * self.head_step for own in subnet.layers)
        neurons = sum(-(-own.neurons // self.neuron_step) * self.neuron_step for own in subnet.layers)
        beyond = max(0.0, millions(subnet, self.weights) - self.cache) if self.cache is not None else 0.0
        return 1.0, len(subnet.layers), heads, neurons, beyond

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"weights": self.weights._asdict()}


def millions(subnet: Subnet, weights: Weights) -> float:
    """The weights of its layers, in millions."""
    return sum(own.heads * weights.head + own.neurons * weights.neuron for own in subnet.layers) / 1e6


@dataclass(frozen=True)
class Fit:
    """A latency model and how far it was off, as shares of what was measured: on sub-networks that it has not seen, and
    on those that it was fitted to."""

    model: LatencyModel
    fitted: int
    unseen: int
    median_error: float
    worst_error: float
    fitted_median_error: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "model": self.model.to_dict()}


def fit(
    subnets: Sequence[Subnet], latencies_ms: Sequence[float], unseen: int, weights: Weights = NO_WEIGHTS
) -> Fit:
    """The model of all but every so-many-th sub-network, `unseen` of them, which tell its error."""
    held = set(np.linspace(0, len(subnets) - 1, unseen + 2).round().astype(int)[1:-1].tolist())
    fitted = [index for index in range(len(subnets)) if index not in held]

    def of(indices: Iterable[int]) -> tuple[list[Subnet], np.ndarray]:
        chosen = list(indices)
        return [subnets[index] for index in chosen], np.asarray([latencies_ms[index] for index in chosen])

    model = _best(*of(fitted), weights)
    errors, own = _errors(model, *of(sorted(held))), _errors(model, *of(fitted))
    return Fit(model, len(fitted), len(held), float(np.median(errors)), float(errors.max()), float(np.median(own)))


def _errors(model: Callable[[Subnet], float], subnets: Sequence[Subnet], latencies_ms: np.ndarray) -> np.ndarray:
    """Shares by which the model is off."""
    return np.abs(np.asarray([model(subnet) for subnet in subnets]) / latencies_ms - 1)


def _best(subnets: Sequence[Subnet], latencies_ms: np.ndarray, weights: Weights) -> LatencyModel:
    """The model that tells best what it was not fitted to: first a cache, then steps, where they help."""
    sizes = [millions(subnet, weights) for subnet in subnets]
    shape = LatencyModel(0.0, 0.0, 0.0, 0.0, weights=weights)
    if len(subnets) < 2:  # of one layer of one head: none can be left out
        return _solved(shape, subnets, latencies_ms)
    changes: list[dict[str, Any]]
    caches = np.linspace(min(sizes), max(sizes), CACHES + 2)[1:-1].tolist() if max(sizes) > min(sizes) else []
    steps = [{"head_step": head, "neuron_step": neuron} for head, neuron in product(HEAD_STEPS, NEURON_STEPS)]
    for changes in ([{"cache": cache} for cache in caches], steps):
        found = {_left_out(own, subnets, latencies_ms): own for own in (replace(shape, **change) for change in changes)}
        if found and min(found) < HELPS * _left_out(shape, subnets, latencies_ms):
            shape = found[min(found)]
    return _solved(shape, subnets, latencies_ms)


def _left_out(shape: LatencyModel, subnets: Sequence[Subnet], latencies_ms: np.ndarray) -> float:
    """The mean squared error of models of this shape on what each of them was not fitted to."""
    part, errors = np.arange(len(subnets)) % FOLDS, []
    for fold in range(min(FOLDS, len(subnets))):
        inside, outside = np.flatnonzero(part != fold).tolist(), np.flatnonzero(part == fold).tolist()
        model = _solved(shape, [subnets[index] for index in inside], latencies_ms[inside])
        errors.append(_errors(model, [subnets[index] for index in outside], latencies_ms[outside]))
    return float(np.square(np.concatenate(errors)).mean())


def _solved(shape: LatencyModel, subnets: Sequence[Subnet], latencies_ms: np.ndarray) -> LatencyModel:
    """The shape with numbers: least squares of the relative errors, no number below 0."""
    features = np.asarray([shape.features(subnet) for subnet in subnets])
    scales = np.maximum(features.max(0), 1e-9)  # thousands of neurons beside one base
    numbers, _ = nnls(features / scales / latencies_ms[:, None], np.ones(len(subnets)))
    base, layer, head, neuron, beyond = (float(number) for number in numbers / scales)
    return replace(shape, base=base, layer=layer, head=head, neuron=neuron, beyond=beyond)
