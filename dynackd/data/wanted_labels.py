"""What a recipe says of the labels of its data: `task.labels`."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynackd.data.model_labels import ModelLabels
from dynackd.data.rows import label_key
from dynackd.errors import UserError, listed, nearest

Wanted = Mapping[str, int | str]  # what stands in the data -> class id, or class name


def wanted_labels(value: Any) -> tuple[dict[str, int | str], tuple[str, ...] | None]:
    """A recipe's `task.labels`: (label in the data -> class id or name, the names in order where it is a list).

    Raises UserError for what is neither a map nor a list of names.
    """
    if isinstance(value, list):
        names = [_wanted_key(name) for name in value]
        if len(set(names)) < len(names):
            raise UserError(f"task.labels names '{next(n for n in names if names.count(n) > 1)}' twice")
        _two_classes(len(names))
        numbers = {} if any(name.isdecimal() for name in names) else {str(i): i for i in range(len(names))}
        return {**numbers, **{name: i for i, name in enumerate(names)}}, tuple(names)
    if not isinstance(value, Mapping):
        raise UserError(f"task.labels: expected a map such as {{negative: 0, positive: 1}}, or a list of names in the "
                        f"order of the class ids, got {value!r}")
    wanted: dict[str, int | str] = {}
    for key, target in value.items():
        if isinstance(target, bool) or not isinstance(target, int | str) or target == "":
            raise UserError(f"task.labels: '{key}' is given {target!r}; give it the number or the name of a class")
        if _wanted_key(key) in wanted:
            raise UserError(f"task.labels names '{_wanted_key(key)}' twice")
        wanted[_wanted_key(key)] = target
    _two_classes(len(set(wanted.values())))
    return wanted, None


def _wanted_key(key: Any) -> str:
    if not isinstance(key, str | int | float) or label_key(key) == "":
        raise UserError(f"task.labels: {key!r} is no label that could stand in the data")
    return label_key(key)


def _two_classes(count: int) -> None:
    if count < 2:
        raise UserError(f"task.labels: a classification needs two classes or more, got {count}")


def resolve_wanted(wanted: Wanted, declared: Sequence[str] | None, model: ModelLabels | None
                   ) -> tuple[tuple[str, ...], dict[str, int]]:
    """(names of the classes, label in the data -> class id) by a recipe's `task.labels`.

    The classes are the model's; those of a model without names of its own, and of a head that is still to be made, are
    called as the task declares, and if it does not, the map itself makes a new head's. Raises UserError for a class
    that there is not.
    """
    names: Sequence[str] | None = None if model is None else model.names
    if declared and (model is None or (model.generic and len(declared) == len(model.names))):
        names = declared
    if names is None:
        names, wanted = _made_by(wanted)
    ids = {}
    for key, target in wanted.items():
        if isinstance(target, str):
            ids[key] = _id_of(target, names, f"task.labels: '{key}' is given")
        elif 0 <= target < len(names):
            ids[key] = target
        else:
            raise UserError(f"task.labels: '{key}' is given class {target}, but the model has {len(names)} outputs, "
                            f"numbered 0 to {len(names) - 1} ({listed(names)})")
    return tuple(names), ids


def _made_by(wanted: Wanted) -> tuple[tuple[str, ...], Wanted]:
    """The classes of a head that is still to be made, and the map by ids."""
    targets = list(dict.fromkeys(wanted.values()))
    if all(isinstance(target, str) for target in targets):
        return tuple(map(str, targets)), {key: targets.index(target) for key, target in wanted.items()}
    if not all(isinstance(target, int) for target in targets):
        raise UserError("task.labels gives numbers to some labels and names to others; without a model that names its "
                        "classes, give all of them numbers or all of them names")
    if sorted(targets, key=int) != list(range(len(targets))):
        raise UserError(f"task.labels: the class ids {listed(sorted(map(str, targets)))} must run from 0 to "
                        f"{len(targets) - 1}")
    return tuple(next(key for key, target in wanted.items() if target == i) for i in range(len(targets))), wanted


def _id_of(name: str, names: Sequence[str], what: str) -> int:
    """The output of that name, if need be ignoring case."""
    exact = [i for i, other in enumerate(names) if other == name]
    found = exact or [i for i, other in enumerate(names) if other.casefold() == name.casefold()]
    if len(found) > 1:
        raise UserError(f"{what} '{name}', but the model calls {len(found)} of its outputs that "
                        f"({listed(list(map(str, found)))}); give the number instead")
    if not found:
        raise UserError(f"{what} '{name}', which is none of the model's classes ({listed(names)})"
                        f"{nearest(name, names)}")
    return found[0]
