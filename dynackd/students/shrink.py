"""How a stock model becomes a student: built at the full depth, then cut to the layers and sizes that its config lists.

It imports nothing of dynackd, because its text travels with a student on request (`travel.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def full_depth(config: Any, layers_key: str) -> Iterator[None]:
    """The config with as many layers as the network that the student was cut from: some depend on their place."""
    kept = getattr(config, layers_key)
    if kept != len(config.kept_layers):
        raise ValueError(f"the config has {kept} layers and lists {len(config.kept_layers)}")
    setattr(config, layers_key, config.full_layers)
    try:
        yield
    finally:
        setattr(config, layers_key, kept)


def shrink(model: Any, config: Any, family: Mapping[str, Any]) -> None:
    """Keep of a model just built the layers that `config` lists, and of each as many heads and neurons."""
    parent, _, name = family["layers"].rpartition(".")
    holder = model.base_model.get_submodule(parent)
    layers = nn.ModuleList([getattr(holder, name)[index] for index in config.kept_layers])
    setattr(holder, name, layers)
    totals = {"head": getattr(config, family["heads_key"]), "neuron": getattr(config, family["neurons_key"])}
    for layer, heads, neurons in zip(layers, config.layer_heads, config.layer_neurons, strict=True):
        kept = {"head": heads, "neuron": neurons}
        for path, unit, dim in family["linears"]:
            old: Any = layer.get_submodule(path)
            sizes = [old.out_features, old.in_features]
            sizes[dim] = sizes[dim] * kept[unit] // totals[unit]
            new = nn.Linear(sizes[1], sizes[0], old.bias is not None, old.weight.device, old.weight.dtype)
            layer.set_submodule(path, new)
        for path in family["head_count"]:
            place, _, attribute = path.rpartition(".")
            setattr(layer.get_submodule(place), attribute, heads)
