"""How a stock model becomes a student: built at the full depth, then cut to the layers and sizes that its config lists.

Its text travels with a student on request (`travel.py`), with the text of the one function that it imports.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from dynackd.families.family import first_heads


@contextmanager
def full_depth(config: Any, family: Mapping[str, Any]) -> Iterator[None]:
    """The config with as many layers as the network that the student was cut from: some depend on their place."""
    kept = {key: getattr(config, key) for key in (family["layers_key"], *family["layer_keys"])}
    if kept[family["layers_key"]] != len(config.kept_layers):
        raise ValueError(f"the config has {kept[family['layers_key']]} layers and lists {len(config.kept_layers)}")
    setattr(config, family["layers_key"], config.full_layers)
    for key in family["layer_keys"]:
        full = [kept[key][0]] * config.full_layers  # whatever stands for a layer that is not kept
        for index, value in zip(config.kept_layers, kept[key], strict=True):
            full[index] = value
        setattr(config, key, full)
    try:
        yield
    finally:
        for key, value in kept.items():
            setattr(config, key, value)


def shrink(model: Any, config: Any, family: Mapping[str, Any]) -> None:
    """Keep of a model just built the layers that `config` lists, and of each as many heads and neurons."""
    parent, _, name = family["layers"].rpartition(".")
    holder = model.base_model.get_submodule(parent)
    layers = nn.ModuleList([getattr(holder, name)[index] for index in config.kept_layers])
    setattr(holder, name, layers)
    totals = {"head": getattr(config, family["heads_key"]), "neuron": getattr(config, family["neurons_key"])}
    for layer, heads, neurons in zip(layers, config.layer_heads, config.layer_neurons, strict=True):
        kept = {"head": heads, "neuron": neurons}
        for path, unit, dim, optional in family["linears"]:
            place, _, name = path.rpartition(".")
            if optional and not hasattr(layer.get_submodule(place), name):
                continue
            old: Any = layer.get_submodule(path)
            sizes = [old.out_features, old.in_features]
            sizes[dim] = sizes[dim] * kept[unit] // totals[unit]
            new = nn.Linear(sizes[1], sizes[0], old.bias is not None, old.weight.device, old.weight.dtype)
            layer.set_submodule(path, new)
        values = dict.fromkeys(family["head_count"], heads)
        values |= dict.fromkeys(family["head_width"], heads * config.head_size)
        for path, value in values.items():
            place, _, attribute = path.rpartition(".")
            setattr(layer.get_submodule(place), attribute, value)
    widest = max(config.layer_heads)
    for path, reader, argument in family["shared"]:
        table: Any = model.base_model.get_submodule(path)
        options = {"device": table.weight.device, "dtype": table.weight.dtype}
        model.base_model.set_submodule(path, nn.Embedding(table.num_embeddings, widest, **options))
        for layer, heads in zip(layers, config.layer_heads, strict=True):
            if heads < widest:
                layer.get_submodule(reader).register_forward_pre_hook(first_heads(argument, heads), with_kwargs=True)
