"""What latency depends on, learned from sub-networks that were measured here.

    latency = base + for each kept layer: layer + a * steps(heads) + b * steps(neurons)

`steps(n)` is n rounded up to a whole number of steps, which kernels take: a matrix product works on blocks of columns,
and threads share out whole heads. The widths of the steps and the four numbers are found together; no number is below
0, so that more never costs less.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import nnls

from dynackd.subnet import Subnet

HEAD_STEPS = (1, 2, 4)
NEURON_STEPS = (1, 64, 128, 256)
FOLDS = 5  # parts of the measured sub-networks, each of which is once left out to choose the steps


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of a forward pass: `base`, and of each kept layer `layer`, `head` for each of its heads and `neuron`
    for each of its neurons, both rounded up to steps."""

    base: float
    layer: float
    head: float
    neuron: float
    head_step: int = 1
    neuron_step: int = 1

    def __call__(self, subnet: Subnet) -> float:
        features = _features(subnet, self.head_step, self.neuron_step)
        return float(np.dot(features, (self.base, self.layer, self.head, self.neuron)))

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


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


def _features(subnet: Subnet, head_step: int, neuron_step: int) -> tuple[float, float, float, float]:
    heads = sum(-(-own.heads // head_step) * head_step for own in subnet.layers)
    neurons = sum(-(-own.neurons // neuron_step) * neuron_step for own in subnet.layers)
    return 1.0, len(subnet.layers), heads, neurons


def fit(subnets: Sequence[Subnet], latencies_ms: Sequence[float], unseen: int) -> Fit:
    """The model of all but every so-many-th sub-network, `unseen` of them, which tell its error."""
    held = set(np.linspace(0, len(subnets) - 1, unseen + 2).round().astype(int)[1:-1].tolist())
    fitted = [index for index in range(len(subnets)) if index not in held]

    def of(indices: Iterable[int]) -> tuple[list[Subnet], np.ndarray]:
        chosen = list(indices)
        return [subnets[index] for index in chosen], np.asarray([latencies_ms[index] for index in chosen])

    model = _best(*of(fitted))
    errors, own = _errors(model, *of(sorted(held))), _errors(model, *of(fitted))
    return Fit(model, len(fitted), len(held), float(np.median(errors)), float(errors.max()), float(np.median(own)))


def _errors(model: Callable[[Subnet], float], subnets: Sequence[Subnet], latencies_ms: np.ndarray) -> np.ndarray:
    """Shares by which the model is off."""
    return np.abs(np.asarray([model(subnet) for subnet in subnets]) / latencies_ms - 1)


def _best(subnets: Sequence[Subnet], latencies_ms: np.ndarray) -> LatencyModel:
    """The model with the steps that tell best what they were not fitted to; without steps where these do not help."""
    part = np.arange(len(subnets)) % FOLDS

    def left_out(steps: tuple[int, int]) -> float:
        errors = []
        for fold in range(min(FOLDS, len(subnets))):
            inside, outside = np.flatnonzero(part != fold).tolist(), np.flatnonzero(part == fold).tolist()
            model = _solved([subnets[index] for index in inside], latencies_ms[inside], *steps)
            errors.append(_errors(model, [subnets[index] for index in outside], latencies_ms[outside]))
        return float(np.square(np.concatenate(errors)).mean())

    plain = left_out((1, 1))
    found = {steps: left_out(steps) for steps in product(HEAD_STEPS, NEURON_STEPS)}
    best = min(found, key=lambda steps: found[steps])
    return _solved(subnets, latencies_ms, *(best if found[best] < 0.8 * plain else (1, 1)))


def _solved(subnets: Sequence[Subnet], latencies_ms: np.ndarray, head_step: int, neuron_step: int) -> LatencyModel:
    """Least squares of the relative errors, no number below 0."""
    features = np.asarray([_features(subnet, head_step, neuron_step) for subnet in subnets])
    scales = features.max(0)  # thousands of neurons beside one base
    numbers, _ = nnls(features / scales / latencies_ms[:, None], np.ones(len(subnets)))
    base, layer, head, neuron = (float(number) for number in numbers / scales)
    return LatencyModel(base, layer, head, neuron, head_step, neuron_step)
