"""How large the file of any sub-network is, from some that were written."""

from collections.abc import Callable, Sequence

import numpy as np

from dynackd.search.timing import Measured
from dynackd.subnet import Subnet

ENOUGH = 8  # files from which the sizes of all others follow


def size_model(found: Sequence[Measured]) -> Callable[[Subnet], float]:
    """Megabytes (10^6 bytes). Weights are so many bytes for each layer, head and neuron, and a graph's text so many for
    each layer: exact but for the digits of names and lengths."""
    features = np.array([_features(own.subnet) for own in found], dtype=float)
    scales = features.max(0)
    sizes = np.array([own.size_bytes for own in found], dtype=float)
    numbers, *_ = np.linalg.lstsq(features / scales, sizes, rcond=None)
    return lambda subnet: float(np.dot(_features(subnet) / scales, numbers)) / 1e6


def _features(subnet: Subnet) -> np.ndarray:
    layers = subnet.layers
    sums = (sum(own.heads for own in layers), sum(own.neurons for own in layers))
    return np.array([1, len(layers), *sums, subnet.most_heads], dtype=float)
