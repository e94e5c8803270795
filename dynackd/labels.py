"""How the labels of a data set become class ids."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynackd.errors import UserError, listed


@dataclass(frozen=True)
class LabelMap:
    """`names[id]` is a class's name; `ids` maps what stands in the data, as text, to the class id."""

    names: tuple[str, ...]
    ids: Mapping[str, int]


def label_key(value: Any) -> str:
    """Labels are compared as text: 1, "1", 1.0 and "1.0" are the same class, and True is "True"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


def label_map(keys: Sequence[str], where: str, declared: Sequence[str] | None = None,
              model_names: Sequence[str] | None = None) -> LabelMap:
    """How the labels of a data set become class ids.

    keys: the labels of the training rows, as text. declared: the task's own names in order. model_names: the names of
    a trained model in the order of its outputs; then the ids are the model's. Raises UserError when the two disagree.

    - declared names: the data may hold the names, or whole numbers that index them;
    - whole numbers: they are the ids, and must run from 0 without a gap (with a model: be less than its outputs);
    - any other text: the ids follow the sorted names;
    - a model with names of its own (not LABEL_0, LABEL_1): names are matched, if need be ignoring case.
    """
    found = sorted(set(keys))
    numbers = not declared and all(re.fullmatch(r"\d+", key) for key in found)
    if model_names is None:
        return _numbered(found, where) if numbers else _named(found, declared)
    if numbers and not set(found) <= set(model_names):
        return _numbered_by_model(found, where, model_names)
    own = _named(found, declared)
    if not _generic(model_names):
        return _matched(own, where, model_names)
    if len(own.names) != len(model_names):
        raise UserError(f"{where}: {len(own.names)} labels ({listed(own.names)}) do not fit the model, which has "
                        f"{len(model_names)} outputs ({listed(model_names)})")
    return own


def _generic(names: Sequence[str]) -> bool:
    """Whether a model's class names are the placeholders that transformers makes up."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def _named(found: Sequence[str], declared: Sequence[str] | None) -> LabelMap:
    names = tuple(declared or found)
    indices = {str(i): i for i in range(len(names))} if declared else {}
    return LabelMap(names, indices | {name: i for i, name in enumerate(names)})


def _numbered(found: Sequence[str], where: str) -> LabelMap:
    count = max(int(key) for key in found) + 1
    if count > len(found):
        raise UserError(f"{where}: labels {listed(sorted(found, key=int))} leave gaps; whole numbers must run from 0 "
                        f"to {len(found) - 1}, or write the labels as words")
    return LabelMap(tuple(f"LABEL_{i}" for i in range(count)), {str(i): i for i in range(count)})


def _numbered_by_model(found: Sequence[str], where: str, model_names: Sequence[str]) -> LabelMap:
    for key in found:
        if int(key) >= len(model_names):
            raise UserError(f"{where}: label {key} does not fit the model, whose {len(model_names)} labels are "
                            f"{listed(model_names)}")
    return LabelMap(tuple(model_names), {str(i): i for i in range(len(model_names))})


def _matched(own: LabelMap, where: str, model_names: Sequence[str]) -> LabelMap:
    exact = {name: i for i, name in enumerate(model_names)}
    folded = {name.casefold(): i for i, name in enumerate(model_names)}
    to_model = {name: exact.get(name, folded.get(name.casefold(), -1)) for name in own.names}
    if -1 in to_model.values():
        raise UserError(f"{where}: the labels {listed(own.names)} are not the model's, which are "
                        f"{listed(model_names)}; rename the labels or give the model's class numbers")
    return LabelMap(tuple(model_names), {key: to_model[own.names[i]] for key, i in own.ids.items()})
