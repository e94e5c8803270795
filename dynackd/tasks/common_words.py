"""A batch of texts as two tokenizers read them, the model's own and its teacher's, and the words that both share.

Beside its own columns such a batch has the teacher's inputs under names that begin with "teacher_", and on both sides
`word_numbers` [batch, length]: of each token the word that it is a piece of, from 0 in each row, -1 for a piece of
none. What the words are is decided in `alignment.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynackd.tasks.losses import wide

THEIRS = "teacher_"  # how the columns begin that a teacher reads
NUMBERS = "word_numbers"
NO_WORD = -1
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Places:
    """Where the words stand in one encoding: numbers [batch, length] as in the columns, of words below `count`."""

    numbers: Tensor
    count: int

    @cached_property
    def pieces(self) -> Tensor:
        """Whether a token is a piece of a word, [batch, count, length]."""
        return self.numbers[:, None] == torch.arange(self.count, device=self.numbers.device)[:, None]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over each word's pieces: [batch, length, size] -> [batch, count, size], float32 or better; 0 where a
        row has fewer words."""
        values = wide(values).masked_fill((self.numbers == NO_WORD)[..., None], 0)  # no product: NaN may be there
        shares = self.pieces.to(values.dtype)
        with torch.autocast(values.device.type, enabled=False):
            return (shares / shares.sum(-1, keepdim=True).clamp(min=1)) @ values

    def first(self, values: Tensor) -> Tensor:
        """What stands at each word's first piece: [batch, length, ...] -> [batch, count, ...]; at the first token where
        a row has fewer words."""
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, self.pieces.to(torch.uint8).argmax(-1)]


@dataclass(frozen=True)
class CommonWords:
    """The words of a batch that both sides have, and the teacher's inputs. Every word has a piece on either side."""

    own: Places
    theirs: Places
    inputs: Mapping[str, Tensor]

    @cached_property
    def mask(self) -> Tensor:
        """1 where a row has a word, [batch, count]."""
        most = self.own.numbers.amax(1, keepdim=True)
        return (torch.arange(self.own.count, device=most.device) <= most).long()


def read_both(batch: Mapping[str, Any]) -> tuple[dict[str, Any], CommonWords | None]:
    """A batch without what the teacher reads, and that; None where both read the same."""
    if NUMBERS not in batch:
        return dict(batch), None
    own = {name: value for name, value in batch.items() if not is_shared(name)}
    theirs = {name.removeprefix(THEIRS): value for name, value in batch.items() if name.startswith(THEIRS)}
    count = max(1, int(batch[NUMBERS].max()) + 1)
    return own, CommonWords(Places(batch[NUMBERS], count), Places(theirs.pop(NUMBERS), count), theirs)


def is_shared(column: str) -> bool:
    """Whether a column is there for what two encodings share."""
    return column == NUMBERS or column.startswith(THEIRS)


class Collator:
    """Makes batches of rows as both sides read them, by the collator of each; `own` alone makes those of other rows."""

    def __init__(self, own: Callable[[Rows], dict[str, Tensor]], theirs: Callable[[Rows], dict[str, Tensor]]) -> None:
        self.own, self.theirs = own, theirs

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        batch = dict(self.own([{k: v for k, v in row.items() if not is_shared(k)} for row in rows]))
        if NUMBERS not in rows[0]:
            return batch
        theirs = [{k.removeprefix(THEIRS): v for k, v in row.items() if k.startswith(THEIRS)} for row in rows]
        numbers = [[torch.as_tensor(row.pop(NUMBERS)) for row in theirs]]
        numbers.append([torch.as_tensor(row[NUMBERS]) for row in rows])
        batch |= {THEIRS + name: value for name, value in self.theirs(theirs).items()}
        for name, some in zip((THEIRS + NUMBERS, NUMBERS), numbers, strict=True):
            batch[name] = pad_sequence(some, True, NO_WORD)
        return batch
