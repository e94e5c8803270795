"""How a general supernet, which knows an encoder's sizes but no task, and a fine-tuned teacher become one supernet.

A general supernet is what `train-general` makes of a bare encoder: its heads and neurons, and hidden dimensions where
it has smaller hidden sizes, stand in an order of their own (`orders.json`), and its weights were trained on from there.
The result has that order, so that it is not rewired again.
Add a way: one function, one line in `JOINS`.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dynackd.data.origins import local_model, resolve_model
from dynackd.errors import UserError
from dynackd.families.family import HEAD, HIDDEN, NEURON
from dynackd.grid import Grid
from dynackd.report.reading import IMPORTANCE_FILE
from dynackd.supernet.checkpoints import load_model
from dynackd.supernet.importance import Orders, reorder
from dynackd.supernet.network import CONFIG_KEY, Origin, Supernet, check_supernet, load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.kinds import kind_of

GENERAL = "general"  # the stage that such a supernet says it is of
ORDERS_FILE = "orders.json"  # unit -> the old places of each layer's units in their new order
FARTHEST = 0.5  # from the encoder that fine-tuning may have moved a teacher's weights, as a share of their size

Weights = dict[str, Tensor]  # of an encoder, by name; all those of a model are given in the same order of its units


def difference(general: Weights, encoder: Weights, teacher: Weights) -> Weights:
    """The teacher's weights and what the general stage changed. Where that changed nothing, the full network is the
    teacher itself, to the last bit. Raises `UserError` for a teacher that was not fine-tuned from this encoder."""
    size = sum(float(own.square().sum()) for own in encoder.values())
    moved = (sum(float((teacher[name] - own).square().sum()) for name, own in encoder.items()) / size) ** 0.5
    if not moved < FARTHEST:
        raise UserError(
            "join: difference adds what the general stage changed to a teacher that was fine-tuned from the same "
            f"encoder, but this one's weights differ from that by {moved:.0%} of their size; name another teacher, or "
            "write join: head"
        )
    return {name: teacher[name] + (own - encoder[name]) for name, own in general.items()}


def head(general: Weights, encoder: Weights, teacher: Weights) -> Weights:
    """The general supernet's weights; of the teacher only its head stays, which learns on."""
    del encoder, teacher
    return general


JOINS: dict[str, Callable[[Weights, Weights, Weights], Weights]] = {"difference": difference, "head": head}
JOIN = "difference"


def general_place(model: str) -> Path | None:
    """The directory of a model that is a general supernet; None for any other model."""
    place = local_model(model)
    if place is None or not (place / "config.json").is_file():
        return None
    about = read_json(place / "config.json")
    about = about.get(CONFIG_KEY) if isinstance(about, dict) else None
    return place if isinstance(about, dict) and about.get("stage") == GENERAL else None


def origin_of(place: Path) -> Origin:
    """Where a supernet comes from; the teacher of a general one is the encoder."""
    try:
        return Origin.from_dict(getattr(check_supernet(place), CONFIG_KEY), place)
    except (KeyError, TypeError) as error:
        raise UserError(f"{place}/config.json is damaged: its {CONFIG_KEY!r} part lacks {error}") from error


def order_files(place: Path) -> dict[str, Any]:
    """What a general supernet's directory says of its rewiring, by file; supernets made of it are in the same order."""
    return {name: read_json(place / name) for name in (IMPORTANCE_FILE, ORDERS_FILE) if (place / name).is_file()}


def in_hidden_order(place: Path) -> bool:
    """Whether the hidden dimensions of a general supernet stand in the order of their importance."""
    return bool(getattr(check_supernet(place), CONFIG_KEY).get("hidden_order"))


@torch.no_grad()
def join(place: Path, encoder: str, teacher: PreTrainedModel, how: str) -> Supernet:
    """A full network with the teacher's head and outputs, in the order of the general supernet in `place`, whose
    encoder it was. how: a name in `JOINS`. Raises `UserError` for a teacher of another shape, and a damaged order."""
    general, _ = load_supernet(place)
    config = general.model.config
    bare, joined = load_model(resolve_model(encoder), kind=kind_of(config)), copy.deepcopy(teacher)
    if unlike := _unlike(general.model, joined):
        raise UserError(
            f"the teacher ({joined.config.model_type}) is of another shape than the general supernet {place} "
            f"({config.model_type}): {unlike}; name a teacher that was fine-tuned from {encoder}"
        )
    orders = _orders(place, general)
    for model in (bare, joined):
        reorder(model, orders)
    found = JOINS[how](*(_weights(model, general.model) for model in (general.model, bare, joined)))
    for name, own in _weights(joined, general.model).items():
        own.copy_(found[name])
    return Supernet(joined, Grid((1.0,), (1.0,)), hidden_order=general.hidden_order)


def _orders(place: Path, general: Supernet) -> Orders:
    """What `orders.json` says; `UserError` where that is no order of the heads and neurons of all layers, or another
    one of the hidden dimensions than the supernet's."""
    file, sizes = place / ORDERS_FILE, general.geometry
    found: Any = read_json(file) if file.is_file() else None
    wanted = {HEAD: (sizes.heads, sizes.layers), NEURON: (sizes.neurons, sizes.layers)}
    wanted |= {HIDDEN: (sizes.hidden, 1)} if general.hidden_order else {}
    try:
        whole = all([sorted(own) for own in found[unit]] == [[*range(count)]] * orders
                    for unit, (count, orders) in wanted.items())  # fmt: skip
        whole = whole and (HIDDEN not in wanted or tuple(found[HIDDEN][0]) == general.hidden_order)
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{file} is missing or damaged, without which {place} cannot meet a teacher; train it again")
    return {unit: found[unit] for unit in wanted}


def _weights(model: PreTrainedModel, like: PreTrainedModel) -> Weights:
    """The weights of a model's encoder that another's encoder has too."""
    own = model.base_model.state_dict()
    return {name: own[name] for name in like.base_model.state_dict()}


def _unlike(general: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """In what the encoders of two models differ, in words; "" where they do not."""
    own, theirs = general.base_model.state_dict(), teacher.base_model.state_dict()
    for name, tensor in own.items():
        if name not in theirs:
            return f"it has no {name}"
        if theirs[name].shape != tensor.shape:
            return f"its {name} is {[*theirs[name].shape]}, not {[*tensor.shape]}"
    return ""
