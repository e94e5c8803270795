"""How the labels of a data set meet the outputs of a model.

    model = model_labels(json.loads(config_json))                          # what its outputs are called
    mapping = label_map({"neg": 40, "pos": 60}, "train.tsv", model=model)  # label -> class id, or one sentence why not

A model's outputs have names (`ModelLabels`), data write labels as they like (`label_key`), and a recipe may say which
is which (`task.labels`). Everything here is pure and works on the distinct labels, not on rows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import yaml

from dynackd.errors import UserError, listed, nearest

PROBLEM_TYPES: dict[str, Any] = {"classification": "single_label_classification", "regression": "regression"}
MULTI_LABEL = "multi_label_classification"
WRITTEN_KEY = "dynackd_labels"  # of a config: how the data that dynackd trained the model on write its classes
MOST_OUTPUTS = 1_000_000
MOST_SHOWN = 12
GUESSED = "set task.labels to say otherwise"

Wanted = Mapping[str, int | str]  # a recipe's task.labels: what stands in the data -> class id, or class name


def label_key(value: Any) -> str:
    """Labels are compared as text: 1, "1", 1.0 and "1.0" are the same class, and True is "True"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


# --- what a model's outputs are called -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelLabels:
    """`names[i]` is what the model calls its output i, LABEL_i where nobody named it.

    problem_type: as in the config, None where that is silent. written: label in the data -> class id, as in the data
    that dynackd trained the model on; empty for any other model.
    """

    names: tuple[str, ...]
    problem_type: str | None = None
    written: Mapping[str, int] = field(default_factory=dict)

    @property
    def generic(self) -> bool:
        """Whether all names are the placeholders that transformers makes up."""
        return self.names == _placeholders(len(self.names))


def labels_of(config: Any) -> ModelLabels:
    """The labels of a loaded model's config. Raises UserError as `model_labels`."""
    keys = ("id2label", "label2id", "problem_type", WRITTEN_KEY)
    return model_labels({key: getattr(config, key, None) for key in keys})


def model_labels(config: Mapping[str, Any], where: str = "the model's config.json") -> ModelLabels:
    """The labels that the content of a config.json gives its outputs, by `id2label` and `label2id` both.

    One of the two may be missing, or be transformers' placeholders; then the other counts. Names belong to output
    numbers, so that {0: pos, 2: neg} are three outputs. Raises UserError where the two, or `num_labels`, disagree.
    """
    ours = _by_id(config.get("id2label") or {}, where)
    theirs = _by_label(config.get("label2id") or {}, where)
    names = _agreed(ours, theirs, where)
    count, said = max(names, default=-1) + 1, config.get("num_labels")
    if isinstance(said, int) and not _made_up(names) and said != count:
        raise UserError(f"{where}: num_labels is {said}, but the labels name {count} outputs "
                        f"({listed([names[i] for i in sorted(names)])}); make the two agree")
    count = said if isinstance(said, int) and _made_up(names) else count or 2  # 2 is what transformers takes
    all_names = tuple(names.get(i, name) for i, name in enumerate(_placeholders(count)))
    return ModelLabels(all_names, config.get("problem_type"), dict(config.get(WRITTEN_KEY) or {}))


def _placeholders(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(count))


def _made_up(names: Mapping[int, str]) -> bool:
    return all(name == f"LABEL_{i}" for i, name in names.items())


def _by_id(id2label: Any, where: str) -> dict[int, str]:
    if not isinstance(id2label, Mapping):
        raise UserError(f"{where}: id2label must map output numbers to names, not {id2label!r}")
    return {_output(key, "id2label", where): str(name) for key, name in id2label.items()}


def _by_label(label2id: Any, where: str) -> dict[int, list[str]]:
    if not isinstance(label2id, Mapping):
        raise UserError(f"{where}: label2id must map names to output numbers, not {label2id!r}")
    names: dict[int, list[str]] = {}
    for name, value in label2id.items():
        names.setdefault(_output(value, "label2id", where), []).append(str(name))
    return names


def _output(value: Any, key: str, where: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < MOST_OUTPUTS:
        raise UserError(f"{where}: {key} gives {value!r} as the number of an output; they are counted from 0")
    return number


def _agreed(ours: dict[int, str], theirs: dict[int, list[str]], where: str) -> dict[int, str]:
    """Output number -> name: `ours` of id2label, `theirs` of label2id, which may know several names for an output."""
    if all(names == [f"LABEL_{i}"] for i, names in theirs.items()):
        return ours or {i: names[0] for i, names in theirs.items()}
    if _made_up(ours):
        ours = {}
    for i, names in sorted(theirs.items()):
        if i in ours and ours[i].casefold() not in [name.casefold() for name in names]:
            raise UserError(f"{where}: id2label calls output {i} '{ours[i]}', but label2id calls it '{names[0]}'; make "
                            f"the two agree")
        if i not in ours and len(names) > 1:
            raise UserError(f"{where}: label2id has {len(names)} names for output {i} ({listed(names)}), and id2label "
                            f"none; name it there")
    return {i: names[0] for i, names in theirs.items()} | ours


def check_outputs(name: str, kind: str, model: ModelLabels) -> None:
    """Refuse (UserError) a model whose outputs are of another kind than the task `name`'s."""
    outputs = len(model.names)
    of_task = f"task '{name}' is a {kind}"
    if model.problem_type == MULTI_LABEL:
        raise UserError(f"{of_task} with one label a row, but the model is a multi-label one (its problem_type is "
                        f"{MULTI_LABEL}), which dynackd does not train yet")
    if model.problem_type not in (None, PROBLEM_TYPES[kind]):
        raise UserError(f"{of_task}, but the model's problem_type is {model.problem_type}")
    if kind == "regression" and outputs != 1:
        raise UserError(f"{of_task} and needs a model with 1 output, but the model has {outputs} "
                        f"({listed(model.names)})")
    if kind == "classification" and outputs < 2:
        raise UserError(f"{of_task} and needs a model with 2 outputs or more, but the model has {outputs}, as for a "
                        f"regression")


def head_fits(source: str, before: ModelLabels, names: Sequence[str], kind: str) -> tuple[bool, str]:
    """(whether the head of the model at `source` is one of the classes `names`, what to tell of it)."""
    same = [name.casefold() for name in before.names] == [name.casefold() for name in names]
    has = f"{source} has a head of {_outputs(before.names)}"
    if same and before.problem_type in (None, PROBLEM_TYPES[kind]):
        return True, f"{has} already; its training goes on"
    return False, f"{has}; a new one of {_outputs(names)} is made"


def _outputs(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({listed(names)})" if len(names) > 1 else "1 output"


# --- what a recipe says ----------------------------------------------------------------------------------------------


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


# --- where the two meet ----------------------------------------------------------------------------------------------


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
              model: ModelLabels | None = None, wanted: Wanted | None = None) -> LabelMap:
    """How the labels of a data set become class ids.

    found: the labels of the training rows, as text, and how many rows have each. declared: the task's own names in
    order. model: the outputs of a trained model, whose ids these then are; None for a head still to be made. wanted:
    the recipe's `task.labels`. Raises UserError where labels and model do not fit, or could be matched in two ways.
    The first of these rules that applies is taken:

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
        mapping = _new_head(found, where, declared, numbers)
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


def _new_head(found: Mapping[str, int], where: str, declared: Sequence[str] | None, numbers: bool) -> LabelMap:
    if numbers:
        return _numbered(found, where)
    if not declared:
        _refuse_other_case(found, where)
    how = "in the task's order" if declared else f"in alphabetical order; {GUESSED}"
    return replace(_named(found, declared), how=how)


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
    return LabelMap(_placeholders(len(keys)), {str(i): i for i in range(len(keys))}, "by number")


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


# --- which rows are held out -----------------------------------------------------------------------------------------


def held_out_rows(classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Sorted numbers of the rows to hold out: of `classes` [rows] about `share` of each class, `share` of all.

    At least one row of every class stays, so that a class of one row is never held out. Rows that are not to be kept
    apart by class have the same number in `classes`. Depends on the seed alone.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(classes))
    _, codes, counts = np.unique(classes[rows], return_inverse=True, return_counts=True)
    exact = counts * share
    quota = np.floor(exact).astype(int)
    left = max(1, round(share * len(classes))) - int(quota.sum())
    # What is left goes to the classes that lack the most, equal ones in an order of the seed's.
    order = rng.permutation(len(counts))
    order = order[np.argsort((quota - exact)[order], kind="stable")]
    open_ = order[(quota < counts - 1)[order]][: max(0, left)]
    quota[open_] += 1
    by_class = np.argsort(codes, kind="stable")
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(rows[by_class[place < np.repeat(quota, counts)]])
