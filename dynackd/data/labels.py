"""How the labels of a data set meet the outputs of a model.

    mapping = label_map({"neg": 40, "pos": 60}, "train.tsv", model=model)  # label -> class id, or one sentence why not

A model's outputs have names (`ModelLabels`), data write labels as they like (`label_key`), and a recipe may say which
is which (`task.labels`). Everything here is pure and works on the distinct labels, not on rows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import yaml

from dynackd.data.model_labels import ModelLabels, placeholders
from dynackd.data.wanted_labels import Wanted, resolve_wanted
from dynackd.errors import UserError, listed, nearest

MOST_SHOWN = 12
GUESSED = "set task.labels to say otherwise"


@dataclass(frozen=True)
class LabelMap:
    """`names[id]` is a class's name; `ids` maps what may stand in the data, as text, to the class id.

    how: by which rule the two met. written: how the data write each class, in the order of the ids. order: `order[id]`
    is the place in the task's own names, None where it is the id itself.
    """

    names: tuple[str, ...]
    ids: Mapping[str, int]
    how: str = ""
    written: tuple[str, ...] = ()
    order: tuple[int, ...] | None = None

    @cached_property
    def _folded(self) -> dict[str, set[int]]:
        folded: dict[str, set[int]] = {}
        for key, i in self.ids.items():
            folded.setdefault(key.casefold(), set()).add(i)
        return folded

    def find(self, key: str) -> int | None:
        """The class id of a label, if need be ignoring case; None for one that is not known."""
        found = self._folded.get(key.casefold(), set())
        return self.ids.get(key, next(iter(found)) if len(found) == 1 else None)

    def told(self, keys: Iterable[str]) -> str:
        """The line that says which of these labels is which class, and by what rule."""
        met = sorted((i, key) for key in set(keys) if (i := self.find(key)) is not None)
        pairs = [f"'{key}' -> {i}" + (f" ({self.names[i]})" if self.names[i] != key else "") for i, key in met]
        return f"labels: {listed(pairs)}, {self.how}"

    def unknown(self, key: str) -> str:
        """What is to be said of a label that is not known."""
        example = flow({key: "CLASS", **{written: i for i, written in enumerate(self.written)}})
        return (f"label '{key}' is none of the known labels ({listed(self.written)}); correct it, or say which class "
                f"it is, task.labels: {example}")


def label_map(found: Mapping[str, int], where: str, declared: Sequence[str] | None = None,
              model: ModelLabels | None = None, wanted: Wanted | None = None, first: str | None = None) -> LabelMap:
    """How the labels of a data set become class ids.

    found: the labels of the training rows, as text, and how many rows have each. declared: the task's own names in
    order. model: the outputs of a trained model, whose ids these then are; None for a head still to be made. wanted:
    the recipe's `task.labels`. first: the label that is class 0, if it is there, of a head whose order is ours to
    choose. Raises UserError where labels and model do not fit, or could be matched in two ways. The first of these
    rules that applies is taken:

    - what the recipe says;
    - what dynackd trained the model on;
    - declared names: the data may hold the names, or whole numbers that index them;
    - whole numbers: they are the ids, and must run from 0 without a gap (with a model: be less than its outputs);
    - a model with names of its own (not LABEL_0, LABEL_1): names are matched, if need be ignoring case;
    - any other text, for a head still to be made: the ids follow the sorted names.
    """
    numbers = not declared and all(re.fullmatch(r"\d+", key) for key in found)
    if wanted:
        mapping = _as_wanted(found, where, declared, model, wanted)
    elif model is None:
        mapping = _new_head(found, where, declared, numbers, first)
    elif model.written and found.keys() <= model.written.keys():
        mapping = LabelMap(model.names, _known(model.names, model.written), "as the model was trained")
    elif numbers and not set(found) <= set(model.names):
        mapping = _numbered_by_model(found, where, model)
    elif model.generic and not set(found) <= set(model.names):
        mapping = _in_declared_order(found, where, declared, model.names)
    else:
        mapping = _matched(_named(found, declared), where, model.names)
    return replace(mapping, written=_written(mapping, found), order=_order(mapping, declared))


def _known(names: Sequence[str], ids: Mapping[str, int]) -> dict[str, int]:
    """The labels, and beside them the names of all classes: other files may hold a class that these rows lack."""
    taken = {key.casefold() for key in ids}
    free = {name: i for i, name in enumerate(names) if names.count(name) == 1 and name.casefold() not in taken}
    return {**ids, **free}


def _as_wanted(found: Mapping[str, int], where: str, declared: Sequence[str] | None, model: ModelLabels | None,
               wanted: Wanted) -> LabelMap:
    names, ids = resolve_wanted(wanted, declared, model)
    mapping = LabelMap(names, ids)
    if missing := [key for key in sorted(found) if mapping.find(key) is None]:
        hint = "; in YAML, yes, no, on and off want quotes" if {"True", "False"} & ids.keys() else ""
        raise UserError(f"{where}: the label '{missing[0]}' ({found[missing[0]]:,} rows) is not in task.labels, which "
                        f"has {listed(list(ids))}{nearest(missing[0], ids)}{hint}")
    return LabelMap(names, _known(names, ids), "as task.labels says")


def _new_head(found: Mapping[str, int], where: str, declared: Sequence[str] | None, numbers: bool,
              first: str | None) -> LabelMap:
    if numbers:
        return _numbered(found, where)
    if declared:
        return replace(_named(found, declared), how="in the task's order")
    _refuse_other_case(found, where)
    ahead = [first] if first is not None and first in found else []
    how = f"{''.join(f'{name} first, then ' for name in ahead)}in alphabetical order; {GUESSED}"
    names = (*ahead, *sorted(found.keys() - ahead))
    return LabelMap(names, {name: i for i, name in enumerate(names)}, how)


def _refuse_other_case(found: Mapping[str, int], where: str) -> None:
    seen: dict[str, str] = {}
    for key in sorted(found):
        other = seen.setdefault(key.casefold(), key)
        if other != key:
            raise UserError(f"{where}: the labels '{other}' ({found[other]:,} rows) and '{key}' ({found[key]:,} rows) "
                            f"differ in case only; write one of them, or say in task.labels which class each is")


def _named(found: Mapping[str, int], declared: Sequence[str] | None) -> LabelMap:
    names = tuple(declared or sorted(found))
    indices = {str(i): i for i in range(len(names))} if declared else {}
    return LabelMap(names, indices | {name: i for i, name in enumerate(names)})


def _numbered(found: Mapping[str, int], where: str) -> LabelMap:
    keys = sorted(found, key=int)
    if int(keys[-1]) >= len(keys):
        raise UserError(f"{where}: labels {listed(keys)} leave gaps; whole numbers must run from 0 to {len(keys) - 1}, "
                        f"or write task.labels: {flow({key: i for i, key in enumerate(keys)})}")
    return LabelMap(placeholders(len(keys)), {str(i): i for i in range(len(keys))}, "by number")


def _numbered_by_model(found: Mapping[str, int], where: str, model: ModelLabels) -> LabelMap:
    """Numbers are the ids of the model's classes, unless they could as well be the numbers in its names ("1 star"), or
    count from 1."""
    keys, names = sorted(found, key=int), model.names
    by_id = {key: int(key) for key in keys}
    in_names = {} if model.generic else {number: i for i, number in enumerate(_numbers_in(names))}
    by_name = {key: in_names[key] for key in keys if key in in_names}
    other, what = {}, ""
    if len(by_name) == len(keys):
        if by_name != by_id:
            other, what = by_name, "be the numbers in the names of the model's outputs, or count these from 0"
    elif int(keys[0]) > 0 and int(keys[-1]) <= len(names):
        other = {key: int(key) - 1 for key in keys}
        what = "count the model's outputs from 1, or from 0"
    if int(keys[-1]) >= len(names):
        hint = f": {flow(other)}, if that is what they mean" if other else ""
        raise UserError(f"{where}: label {keys[-1]} does not fit the model, whose {len(names)} outputs are numbered 0 "
                        f"to {len(names) - 1} ({listed(names)}); say which is which in task.labels{hint}")
    if other:
        raise UserError(f"{where}: the labels {listed(keys)} may {what} ({listed(names)}); say which in the recipe, "
                        f"task.labels: {flow(other)} or {flow(by_id)}")
    return LabelMap(tuple(names), _known(names, {str(i): i for i in range(len(names))}), "by number")


def _numbers_in(names: Sequence[str]) -> list[str]:
    """The one whole number in each name, as text; empty where a name has none or more, or two names share one."""
    found = [re.findall(r"\d+", name) for name in names]
    if any(len(numbers) != 1 for numbers in found):
        return []
    numbers = [str(int(number)) for (number,) in found]
    return numbers if len(set(numbers)) == len(numbers) else []


def _in_declared_order(found: Mapping[str, int], where: str, declared: Sequence[str] | None, names: Sequence[str]
                       ) -> LabelMap:
    """A model without names of its own: the order of a declared task's names is taken, any other would be a guess."""
    own = _named(found, declared)
    if len(own.names) != len(names):
        raise UserError(f"{where}: {len(own.names)} labels ({listed(own.names)}) do not fit the model, which has "
                        f"{len(names)} outputs ({listed(names)})"
                        + ("" if declared else "; say which is which in task.labels"))
    if not declared:
        raise UserError(f"{where}: nothing says which of the labels {listed(own.names)} is which of the model's "
                        f"outputs ({listed(names)}); say so in the recipe, task.labels: {flow(own.ids)} or another "
                        f"order")
    return replace(own, how=f"in the task's order; {GUESSED}")


def _matched(own: LabelMap, where: str, names: Sequence[str]) -> LabelMap:
    model = LabelMap(tuple(names), _known(names, {}))
    to_model = {name: model.find(name) for name in own.names}
    if None in to_model.values():
        some = {name: "NAME" if i is None else names[i] for name, i in to_model.items()}
        raise UserError(f"{where}: the labels {listed(own.names)} are not the model's, which are {listed(names)}; say "
                        f"which is which in the recipe, task.labels: {flow(some)} with the model's NAME for each")
    ids = {key: i for key, place in own.ids.items() if (i := to_model[own.names[place]]) is not None}
    # Another file may write the classes' numbers, if these can mean nothing else.
    plain = [str(i) for i in range(len(names))]
    numbers = {} if any(key.isdecimal() for key in ids) or _numbers_in(names) not in ([], plain) else plain
    exact = all(name in names for name in own.names)
    return LabelMap(tuple(names), {number: i for i, number in enumerate(numbers)} | _known(names, ids),
                    "by name" if exact else f"by name, ignoring case; {GUESSED}")


def _written(mapping: LabelMap, found: Mapping[str, int]) -> tuple[str, ...]:
    """How the data write each class: as most of its rows do, else as these rows would (a number or a word)."""
    numbers = all(key.isdecimal() for key in found)
    best: dict[int, tuple[Any, str]] = {}
    for key, i in [*mapping.ids.items(), *((key, mapping.find(key)) for key in found)]:
        rank = (found.get(key, 0), key.isdecimal() == numbers, key == mapping.names[i or 0])
        if i is not None and (i not in best or rank > best[i][0]):
            best[i] = rank, key
    return tuple(best[i][1] if i in best else name for i, name in enumerate(mapping.names))


def _order(mapping: LabelMap, declared: Sequence[str] | None) -> tuple[int, ...] | None:
    """The declared place of each class id, where that is another and all classes have one."""
    if not declared:
        return None
    ids = [mapping.find(name) for name in declared]
    if sorted(i for i in ids if i is not None) != list(range(len(mapping.names))) or len(ids) != len(mapping.names):
        return None
    order = tuple(ids.index(i) for i in range(len(ids)))
    return order if order != tuple(range(len(order))) else None


def flow(content: Mapping[str, Any]) -> str:
    """A map as a line of YAML that can be pasted."""
    plain = {int(key) if key.isdecimal() and str(int(key)) == key else key: v for key, v in content.items()}
    shown = dict(list(plain.items())[:MOST_SHOWN])
    text = yaml.safe_dump(shown, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()
    return text if len(shown) == len(plain) else text.removesuffix("}") + ", ...}"
