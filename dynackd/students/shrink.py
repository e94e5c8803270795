"""How a stock model becomes a student: built at the full depth, then cut to the layers and sizes that its config lists.

Its text travels with a student on request (`travel.py`), with the text of the functions that it imports.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from dynackd.families.family import first_heads, head_dims


@contextmanager
def full_hidden(config: Any, family: Mapping[str, Any]) -> Iterator[None]:
    """The config with the hidden size of the network that the student was cut from, which its heads together have."""
    kept = getattr(config, family["hidden_key"])
    setattr(config, family["hidden_key"], getattr(config, "full_hidden", None) or kept)
    try:
        yield
    finally:
        setattr(config, family["hidden_key"], kept)


@contextmanager
def full_size(config: Any, family: Mapping[str, Any]) -> Iterator[None]:
    """The config with its full hidden size, and as many layers as the network that the student was cut from: some
    depend on their place."""
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
        with full_hidden(config, family):
            yield
    finally:
        for key, value in kept.items():
            setattr(config, key, value)


def shrink(model: Any, config: Any, family: Mapping[str, Any]) -> None:
    """Keep of a model just built the layers that `config` lists, of each as many heads and neurons, and everywhere as
    many hidden dimensions."""
    parent, _, name = family["layers"].rpartition(".")
    holder = model.base_model.get_submodule(parent)
    layers = nn.ModuleList([getattr(holder, name)[index] for index in config.kept_layers])
    setattr(holder, name, layers)
    heads, neurons = getattr(config, family["heads_key"]), getattr(config, family["neurons_key"])
    hidden = getattr(config, family["hidden_key"])
    whole = config.full_hidden or hidden
    for layer, own_heads, own_neurons in zip(layers, config.layer_heads, config.layer_neurons, strict=True):
        kept = {"head": (own_heads, heads), "neuron": (own_neurons, neurons)}
        for path, unit, dim, _ in family["linears"]:
            cut(layer, path, {dim: kept[unit], 1 - dim: (hidden, whole)})
        for path in family["norms"]:
            cut(layer, path, {0: (hidden, whole)})
        values = dict.fromkeys(family["head_count"], own_heads)
        values |= dict.fromkeys(family["head_width"], own_heads * config.head_size)
        for path, value in values.items():
            place, _, attribute = path.rpartition(".")
            setattr(layer.get_submodule(place), attribute, value)
    outside = [*family["hidden"], *(head_dims(model) if family["hidden"] and hidden < whole else ())]
    for path, dims in outside if hidden < whole else ():
        root = model.base_model if (path, dims) in family["hidden"] else model
        cut(root, path, dict.fromkeys(dims, (hidden, whole)), whole)
    widest = max(config.layer_heads)
    for path, reader, argument in family["shared"]:
        cut(model.base_model, path, {1: (widest, heads)})
        for layer, own_heads in zip(layers, config.layer_heads, strict=True):
            if own_heads < widest:
                hook = first_heads(argument, own_heads)
                layer.get_submodule(reader).register_forward_pre_hook(hook, with_kwargs=True)


def cut(root: Any, path: str, kept: Mapping[int, tuple[int, int]], only: int | None = None) -> None:
    """Cut the module at `path`, if there is one: of each dimension of its weight (kept, of so many) alike parts; with
    `only`, of dimensions of this size."""
    for name in path.split("."):
        root = getattr(root, name, None)
    for name, dims in (("weight", kept), ("bias", {0: kept[0]} if 0 in kept else {})):
        before = getattr(root, name, None)
        if before is None:
            continue
        after = before.detach()
        for dim, (own, total) in dims.items():
            size = after.shape[dim]
            if only in (None, size):
                after = after.narrow(dim, 0, size * own // total)
        if after.shape != before.shape:
            setattr(root, name, nn.Parameter(after.clone(), before.requires_grad))
    weight = getattr(root, "weight", None)
    shape = () if weight is None else tuple(weight.shape)
    if isinstance(root, nn.Linear):
        root.out_features, root.in_features = shape
    elif isinstance(root, nn.LayerNorm):
        root.normalized_shape = shape
    elif isinstance(root, nn.Embedding):
        root.embedding_dim = shape[1]
    elif isinstance(root, nn.Conv1d):
        root.out_channels, root.in_channels = shape[:2]
