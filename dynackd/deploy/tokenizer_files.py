"""The tokenizer of a student directory: written so that every client gives the network the tokens that it was measured
with, and compared with the tokenizer of the training before anything is kept."""

import copy
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dynackd.errors import UserError
from dynackd.supernet.checkpoints import set_attribute

Texts = tuple[str, ...]  # one text, or the two of a pair

_SAMPLES = (
    "",
    " ",
    "a fine film",
    "A Fine FILM, isn't it? (100 % of £5)",
    "naïve café\u0301 — “so” …",
    "Ελληνικά, русский, עברית, العربية, हिन्दी",
    "中文与日本語の文章、한국어",
    "a tab\tand\r\nlines \u200b\u00a0 🙂👩‍👩‍👧",
    "[SEP] </s> <s> [MASK] [UNK]",
    "x" * 300,
    "so the words go on, and the last of them matter most " * 200,
)
# Singles and pairs of several scripts, empty ones and ones that are longer than any limit.
SAMPLES: tuple[Texts, ...] = (*((text,) for text in _SAMPLES), *zip(_SAMPLES, reversed(_SAMPLES), strict=True))


def check_max_length(
    limit: int, positions: int, tokenizer: PreTrainedTokenizerBase, option: str = "--max-length"
) -> None:
    """`UserError` for a limit in tokens that is beyond the model's positions, or that only special tokens fit."""
    if limit > positions:
        raise UserError(f"{option} {limit} is beyond the {positions} tokens that the model takes")
    least = tokenizer.num_special_tokens_to_add(pair=False) + 1
    if limit < least:
        raise UserError(f"{option} {limit} leaves no room for a text; it takes {least} or more")


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, limit: int, fixed: int | None, directory: Path
) -> PreTrainedTokenizerBase:
    """Write the tokenizer: cut at `limit` tokens on the side of the training, padded to a `fixed` length only.

    transformers sets cutting and padding anew at every call, would save whatever the last one was, and forgets sides
    that were set later than at loading; a client that reads tokenizer.json alone takes them from there.
    """
    tokenizer = copy.deepcopy(tokenizer)
    own = {"model_max_length": limit, "model_input_names": list(tokenizer.model_input_names)}
    sides = {name: getattr(tokenizer, name) for name in ("truncation_side", "padding_side")}
    for name, value in (own | sides).items():
        set_attribute(tokenizer, name, value)
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(limit, direction=tokenizer.truncation_side)
    backend.no_padding()
    if fixed:
        pad = {"pad_id": tokenizer.pad_token_id, "pad_token": str(tokenizer.pad_token)}
        backend.enable_padding(direction=tokenizer.padding_side, length=fixed, **pad)
    tokenizer.save_pretrained(directory)
    return tokenizer


def check_saved_tokenizer(
    tokenizer: PreTrainedTokenizerBase, limit: int, directory: Path, rows: Sequence[Texts] = ()
) -> None:
    """`UserError` where, for a row or a sample, a client of the directory would get other tokens than the training's
    tokenizer gives, cut at `limit`. The clients: transformers, and tokenizer.json alone."""
    saved = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    alone = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for texts in (*SAMPLES, *rows):
        batch = [[text] for text in texts]  # as in the training; called with "" for a second text, it would see no pair
        right = _tokens(tokenizer(*batch, truncation=True, max_length=limit, return_token_type_ids=True))
        encoding = alone.encode(texts[0], texts[1] if len(texts) > 1 else None)
        real = [i for i, mask in enumerate(encoding.attention_mask) if mask]
        clients = {
            "transformers": _tokens(saved(*batch, truncation=True, return_token_type_ids=True)),
            "tokenizer.json": ([encoding.ids[i] for i in real], [encoding.type_ids[i] for i in real]),
        }
        for client, found in clients.items():
            if found != right:
                what = f"turns {texts[0][:40]!r} into {_first_difference(found, right)} as in the training"
                raise UserError(f"the saved tokenizer, read by {client}, {what}; nothing was written")


def _tokens(encoded: Any) -> tuple[list[int], list[int]]:
    return list(encoded["input_ids"][0]), list(encoded["token_type_ids"][0])


def _first_difference(found: tuple[list[int], list[int]], right: tuple[list[int], list[int]]) -> str:
    if len(found[0]) != len(right[0]):
        return f"{len(found[0])} tokens, not {len(right[0])}"
    pairs = enumerate(zip_longest(zip(*found, strict=True), zip(*right, strict=True)))
    place, (mine, theirs) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    return f"(id, type) {mine} at place {place}, not {theirs}"
