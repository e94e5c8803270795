"""What the outputs of a classifier are called: the labels that a config.json gives them.

    model = model_labels(json.loads(config_json))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynackd.errors import UserError, listed

WRITTEN_KEY = "dynackd_labels"  # of a config: how the data that dynackd trained the model on write its classes
MOST_OUTPUTS = 1_000_000


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
        return self.names == placeholders(len(self.names))


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
    all_names = tuple(names.get(i, name) for i, name in enumerate(placeholders(count)))
    return ModelLabels(all_names, config.get("problem_type"), dict(config.get(WRITTEN_KEY) or {}))


def placeholders(count: int) -> tuple[str, ...]:
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


def told_outputs(names: Sequence[str]) -> str:
    """How a head's outputs are told."""
    return f"{len(names)} classes ({listed(names)})" if len(names) > 1 else "1 output"
