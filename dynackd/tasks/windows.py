"""Contexts that are too long, read in windows that overlap, each with the whole question."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding

from dynackd.errors import UserError
from dynackd.tasks.spans import OUTSIDE

STARTS, ENDS = "character_starts", "character_ends"  # of a window's tokens in the context [tokens], OUTSIDE for others
ROW = "of_row"  # of a window: the number of its question, from 0


class Collator:
    """Makes a batch of windows, filled up to the longest of them."""

    def __init__(self, tokenizer: Any) -> None:
        self.inputs = DataCollatorWithPadding(tokenizer)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ragged = [name for name in (STARTS, ENDS) if name in rows[0]]
        batch: dict[str, Tensor] = dict(
            self.inputs([{name: value for name, value in row.items() if name not in ragged} for row in rows])
        )
        for name in ragged:
            batch[name] = pad_sequence([torch.as_tensor(row[name]) for row in rows], True, OUTSIDE)
        return batch


def windows_of(
    tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], max_length: int, stride: int | None = None
) -> dict[str, Any]:
    """The model's inputs of some questions in windows of at most `max_length` tokens, and of each window ROW, the
    place of its question, STARTS and ENDS. stride: the tokens that windows share, by default a third of them.

    Raises UserError for a question that leaves no room for a context.
    """
    shared = max_length // 3 if stride is None else stride
    special = tokenizer.num_special_tokens_to_add(pair=True)
    asked = tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"]
    for question, ids in zip(questions, asked, strict=True):
        room = max_length - special - len(ids)
        if room <= shared:
            raise UserError(f"the question {beginning(question)} takes {len(ids):,} tokens, which leaves "
                            f"{max(room, 0):,} of the {max_length:,} of a window to its context, no more than the "
                            f"{shared:,} that windows share; raise data.max_length or lower task.stride")
    encoded = tokenizer(
        questions, contexts, truncation="only_second", max_length=max_length, stride=shared,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    rows = encoded["overflow_to_sample_mapping"]
    places = [_characters(encoded.sequence_ids(i), offsets) for i, offsets in enumerate(encoded["offset_mapping"])]
    inputs = {name: encoded[name] for name in tokenizer.model_input_names}
    starts, ends = ([place[:, side] for place in places] for side in (0, 1))
    return {**inputs, ROW: [int(row) for row in rows], STARTS: starts, ENDS: ends}


def _characters(sequences: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """(start, end) in the context of each token of a window [tokens, 2]."""
    places = np.array(offsets, np.int32).reshape(-1, 2)
    context = np.array([sequence == 1 for sequence in sequences]) & (places[:, 0] < places[:, 1])
    return np.where(context[:, None], places, OUTSIDE)


def beginning(value: Any) -> str:
    """A value as Python writes it, the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
