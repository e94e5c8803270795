"""What a kind of task sees of a file when it says whether the rows could be its own, and what it then says.

    seen = Sample("train.csv", look_into("train.csv", 5000), text=("review",))
    KINDS["classification"].guess(seen)    # [Guess({"kind": "classification", "text": "review", ...}, ...)]
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

from dynackd.data.rows import label_key

# Columns that people call the label, and pairs of columns whose texts they mean together. Letters in lower case.
LABEL_NAMES = ("label", "labels", "target", "class", "y")
PAIR_NAMES = [
    {"premise", "hypothesis"}, {"question", "sentence"}, {"question", "answer"}, {"question", "context"},
    {"query", "passage"}, {"query", "document"}, {"anchor", "positive"},
]  # fmt: skip
MOST_CLASSES = 1000
ROWS_OF_A_CLASS = 5  # that a class has in the mean, or the column is no label
IF_ASKED, LIKELY, CERTAIN = 0, 1, 2
TEXT_WORDS = 2  # a text has as many in the mean, or letters beyond ASCII, which need no blanks
ID_NAME = re.compile(r"(.*[ _.-])?(id|idx|index)", re.IGNORECASE)
NUMBERED = re.compile(r"(.*?)[ _.-]?(?:1|2|a|b)", re.IGNORECASE)  # text1 and text2, sentence_a and sentence_b


@dataclass(frozen=True)
class Seen:
    """A column: its values in the rows that were looked at, those that are missing left out."""

    name: str
    values: Sequence[Any]

    def all_are(self, *kinds: type) -> bool:
        return bool(self.values) and all(isinstance(value, kinds) for value in self.values)

    @cached_property
    def keys(self) -> Sequence[str]:
        """The values as labels are compared; none where they are no plain values."""
        return [label_key(value) for value in self.values] if self.all_are(str, int, float) else []

    @cached_property
    def distinct(self) -> Sequence[str]:
        """The different values, sorted; numbers by size."""
        found = set(self.keys)
        return sorted(found, key=float) if self.numbers else sorted(found)

    @cached_property
    def numbers(self) -> Sequence[float]:
        """The values as numbers; none where one of them is no number."""
        try:
            found = [float(key) for key in self.keys]
        except ValueError:
            return []
        return found if all(map(math.isfinite, found)) else []

    @property
    def whole(self) -> bool:
        """Whether all are whole numbers."""
        return bool(self.numbers) and all(number.is_integer() for number in self.numbers)

    @property
    def names_rows(self) -> bool:
        """Whether it only says which row it is: numbers them, or is called an id."""
        numbers = self.whole and len(self.distinct) == len(self.values) > 2
        return numbers or ID_NAME.fullmatch(self.name) is not None

    @property
    def counts_from_0(self) -> bool:
        """Whether the values are 0, 1, 2 and so on without a gap, as class ids are."""
        return self.whole and list(self.distinct) == [str(number) for number in range(len(self.distinct))]

    @property
    def is_flag(self) -> bool:
        """Whether each value is 0 or 1."""
        return self.whole and set(self.distinct) <= {"0", "1"}

    @property
    def is_label(self) -> bool:
        """Whether few values come again and again."""
        return 2 <= len(self.distinct) <= min(MOST_CLASSES, max(2, len(self.values) // ROWS_OF_A_CLASS))

    @cached_property
    def is_text(self) -> bool:
        """Whether the values are texts of several words."""
        if not self.all_are(str) or self.numbers or self.is_label:
            return False
        joined = " ".join(self.values)
        letters = sum(character.isalpha() for character in joined)
        foreign = sum(ord(character) > 0x2E7F for character in joined)  # of scripts without blanks
        words = len(joined.split()) / len(self.values)
        return 2 * letters > len(joined) and (words >= TEXT_WORDS or 2 * foreign > letters)

    @cached_property
    def parts(self) -> "Seen":
        """What the lists hold, one behind the other; nothing where the values are no lists."""
        return Seen(self.name, [part for value in self.values for part in value] if self.all_are(list) else [])

    @cached_property
    def lengths(self) -> Sequence[int]:
        """How long each list is; none where the values are no lists."""
        return [len(value) for value in self.values] if self.all_are(list) else []


@dataclass(frozen=True)
class Guess:
    """A way to read a file: a recipe's `task`, the columns that it takes as `--text` and `--label` name them, and what
    speaks for it. strength: IF_ASKED where it is meant only if the user says so, since such rows could be anything;
    CERTAIN where nothing else looks like that."""

    task: Mapping[str, Any]
    text: tuple[str, ...]
    label: tuple[str, ...] = ()
    told: str = ""
    strength: int = LIKELY

    def __str__(self) -> str:
        label = f", label {_quoted(self.label)}" if self.label else ""
        return f"{self.task['kind']} (text {_quoted(self.text)}{label}{f': {self.told}' if self.told else ''})"


@dataclass(frozen=True)
class Sample:
    """The first rows of a file by column, and what the user says of its columns: `text` and `label`, each empty where
    nothing is said. told: whether the user names the kind, too, so that a kind takes what it would not look for."""

    where: str
    rows: Mapping[str, Sequence[Any]]
    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    told: bool = False
    columns: Mapping[str, Seen] = field(init=False)

    def __post_init__(self) -> None:
        seen = {name: Seen(name, [own for own in some if not _missing(own)]) for name, some in self.rows.items()}
        object.__setattr__(self, "columns", seen)

    def __getitem__(self, name: str) -> Seen:
        return self.columns[name]

    @property
    def others(self) -> list[Seen]:
        """The columns that hold something and that the user says nothing of."""
        return [own for name, own in self.columns.items() if own.values and name not in (*self.text, *self.label)]

    @property
    def flags(self) -> tuple[str, ...]:
        """Three or more columns of 0 and 1, where none of them is called a label: one for each of a row's labels."""
        found = tuple(own.name for own in self.others if own.is_flag)
        return found if len(found) > 2 and not any(name.lower() in LABEL_NAMES for name in found) else ()

    def texts(self) -> list[tuple[str, ...]]:
        """The columns of a row's text, one or two, in every way in which they could be meant."""
        if self.text:
            return [self.text]
        names = [own.name for own in self.others if own.is_text]
        alone: list[tuple[str, ...]] = [(name,) for name in names]
        pairs: list[tuple[str, ...]] = list(combinations(names, 2))
        meant = [pair for pair in pairs if is_pair(*pair)]
        return meant or [*alone, *(pairs if len(pairs) == 1 else [])]

    def labels(self, fits: Callable[[Seen], bool]) -> list[Seen]:
        """The columns of a row's label for which `fits` holds, in every way in which one could be meant."""
        if self.label:
            return [own for own in map(self.__getitem__, self.label) if len(self.label) == 1 and fits(own)]
        named = [own for own in self.others if own.name.lower() in LABEL_NAMES]
        some = named if len(named) == 1 else self.others
        return [own for own in some if fits(own) and own.name not in self.flags and not own.names_rows]

    def readings(self, fits: Callable[[Seen], bool]) -> Iterator[tuple[tuple[str, ...], Seen]]:
        """(columns of the text, column of the label) of rows that have both."""
        return ((text, label) for label in self.labels(fits) for text in self.texts() if label.name not in text)


def as_written(names: Sequence[str]) -> Any:
    """Columns as a recipe's `task.text` has them."""
    return names[0] if len(names) == 1 else list(names)


def is_pair(one: str, two: str) -> bool:
    """Whether two columns' names say that their texts belong together."""
    stems = [NUMBERED.fullmatch(name) for name in (one, two)]
    numbered = all(stems) and len({match[1] for match in stems if match}) == 1
    return numbered or {one.lower(), two.lower()} in PAIR_NAMES


def some_of(values: Sequence[str]) -> str:
    """How many different values there are, and the first of them."""
    return f"{len(values):,} values, {', '.join(values[:3])}, ..." if len(values) > 4 else ", ".join(values)


def _missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
