"""How well tags of words are found: entities where the tags say where one begins and ends, else the words themselves.

    tagged = Tagged(("O", "B-PER"), gold, predicted, rows)
    tagged.scores()        # {"precision": ..., "recall": ..., "f1": ..., "f1_macro": ..., "accuracy": ...}
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from sklearn import metrics as skm

from dynackd.tasks.parts import ClassScore

OUTSIDE = "O"  # the tag of a word that belongs to no entity
# What begins a tag, as BIO, IOB1, IOBES, BILOU and BMEW have it -> as conlleval and so seqeval know it. A tag may be
# that alone, where there is one type of entity.
PREFIXES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
TAG = re.compile(r"([BIMELSUW])(-.+)?", re.IGNORECASE)
NAMELESS = {"_": "entity"}  # seqeval's name for the type where tags name none -> ours


def is_outside(name: str) -> bool:
    """Whether a tag is that of a word which belongs to no entity."""
    return name.upper() == OUTSIDE


def marks_entities(names: Sequence[str]) -> bool:
    """Whether these tags say where an entity begins and ends: all but O are such a letter with a type behind it, or all
    are such a letter alone."""
    found = [TAG.fullmatch(name) for name in names if not is_outside(name)]
    parts = [(match[1].upper(), bool(match[2])) for match in found if match]
    typed = {has_type for _, has_type in parts}
    return len(parts) == len(found) and len(typed) == 1 and bool({"B", "I"} & {letter for letter, _ in parts})


@dataclass(frozen=True)
class Tagged:
    """Words with the tags that they should have and that they got.

    names: of the tags, by id. gold, predicted [words]: tag ids, -1 for a word that got none, which counts as O. rows:
    how many words each row has.
    """

    names: Sequence[str]
    gold: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray

    def scores(self) -> dict[str, float]:
        """`precision`, `recall` and `f1` of entities, all types together, as conlleval counts them: one is found where
        its first word, its last word and its type are right. `f1_macro`: the mean F1 of the types that the words should
        have. `accuracy`: of the words. Of tags that mark no entities, words with another tag than O are found or not.
        """
        precision, recall, f1, _ = self._counted("micro")
        types = self.per_class().values()
        return {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "f1_macro": float(np.mean([own.score for own in types])) if types else 0.0,
            "accuracy": float((self.gold == self._predicted).mean()),
        }

    def per_class(self) -> dict[str, ClassScore]:
        """The F1 of each type of entity that the words should have, with how many there are; else of each tag."""
        _, _, f1, count = self._counted(None)
        named = zip(self._types, f1, count, strict=True)
        return {name: ClassScore(float(score), int(number)) for name, score, number in named if number}

    @cached_property
    def _predicted(self) -> np.ndarray:
        outside = next((i for i, name in enumerate(self.names) if is_outside(name)), -1)
        return np.where(self.predicted < 0, outside, self.predicted)

    @cached_property
    def _entities(self) -> tuple[list[list[str]], list[list[str]]] | None:
        """The tags of each row as seqeval knows them, those that should be and those that are; None where tags mark no
        entities."""
        if not marks_entities(self.names):
            return None
        known = np.array([_as_conlleval(name) for name in (*self.names, OUTSIDE)], object)  # the last is id -1
        ends = np.cumsum(self.rows)[:-1]
        gold, predicted = ([list(row) for row in np.split(known[ids], ends)] for ids in (self.gold, self._predicted))
        return gold, predicted

    @cached_property
    def _types(self) -> list[str]:
        """What is counted, in order."""
        if self._entities is None:
            return [name for name in self.names if not is_outside(name)]
        names = sorted({name for tags in self._entities for name, _, _ in get_entities(tags)})
        return [NAMELESS.get(name, name) for name in names]

    def _counted(self, average: str | None) -> Any:
        """Precision, recall, F1 and support, of all or of each of `_types`."""
        if self._entities is not None:
            return precision_recall_fscore_support(*self._entities, average=average, zero_division=0)
        ids = [i for i, name in enumerate(self.names) if not is_outside(name)]
        options: Any = {"labels": ids, "average": average, "zero_division": 0.0}
        return skm.precision_recall_fscore_support(self.gold, self._predicted, **options)


def _as_conlleval(name: str) -> str:
    return OUTSIDE if is_outside(name) else PREFIXES[name[0].upper()] + name[1:]
