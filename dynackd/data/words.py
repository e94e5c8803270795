"""Word replacement: copies of training rows in which some words are others, as TinyBERT, DynaBERT and CKD train on.

    slots = neighbour_slots(texts, tokenizer, embeddings, settings)    # or masked_slots: text -> what may change in it
    for origin, row in new_rows(rows, slots, settings, held_out): ...

Algorithm 1 of TinyBERT (Jiao et al. 2020): a word is replaced with probability p by one of its M candidates, which are
what a masked language model expects in its place. Without such a model they are the nearest words in the encoder's own
embedding matrix, instead of the paper's GloVe: those that are one piece of its vocabulary. Function words, negations
among them, stay as they are. Of a pair one text changes at a time, as in the authors' code.

Tried and dropped: neighbours of a word of several pieces by the mean of its pieces, which are those of its first piece
("barbarossa": bar, bars, menu). The language model gets one mask for such a word; without it the word stays.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple, TypeVar

import torch
from pydantic import Field
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynackd.system.settings import Number, Whole, section

# Letters only, two or more; not what follows an apostrophe ('s, 'll), stands before 't, or belongs to markup or a tag.
WORD = re.compile(r"(?<![\w'’@#&<])[^\W\d_]{2,}(?!\w)(?!['’]t\b)")
UNSPACED = ("CJK ", "HIRAGANA", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")  # scripts without blanks
STOP_WORDS = ENGLISH_STOP_WORDS | {"did", "does", "doing", "having", "just", "shall", "till", "unless", "yes"}
MASKED_SHARE = 0.15  # of a text's words at a time, as the language models were trained
SPARE = 16  # candidates beyond those asked for, because some are the word itself
TRIES = 5  # draws for each copy: a draw may change nothing, or give what is there already


@section("augmentation")
class AugmentationSettings:
    """How new rows are made of the training rows."""

    masked_lm: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Path or hub name of a masked language model; null takes neighbours in the teacher's embeddings",
    )
    copies: Whole = Field(default=10, ge=1, description="How many new rows are made of each row")
    probability: Number = Field(default=0.4, gt=0, le=1, description="Chance that a word is replaced")
    candidates: Whole = Field(default=15, ge=1, description="How many words there are to take its place")
    seed: Whole = Field(default=42, ge=0, description="Seed of the draws")


class Slot(NamedTuple):
    """A word of a text that may be replaced, and by what; `candidates` is never empty."""

    start: int
    end: int
    candidates: list[str]


Row = tuple[str, ...]  # the texts of a row, one for each text column
Slots = dict[str, list[Slot]]  # text -> its words that may be replaced
T = TypeVar("T")


def replaceable(text: str) -> list[tuple[int, int]]:
    """(start, end) of the words that carry meaning; acronyms have no neighbours worth the name (MG: pills)."""
    shouted = text.isupper()
    found = ((match.group(), match.span()) for match in WORD.finditer(text))
    return [span for word, span in found if word.casefold() not in STOP_WORDS and (shouted or not word.isupper())
            and _is_whole(text, *span)]


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether letters are a word: no part of one, which goes on with a mark such as a vowel sign or an accent, and in a
    script that has blanks between words."""
    around = text[max(start - 1, 0) : start] + text[end : end + 1]
    marked = any(unicodedata.category(sign).startswith("M") for sign in around)
    return not marked and not any(unicodedata.name(sign, "").startswith(UNSPACED) for sign in text[start:end])


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """word -> id of the vocabulary's pieces that are a whole word which carries meaning, for any kind of pieces."""
    special = set(tokenizer.all_special_ids)
    pieces = {i: tokenizer.convert_tokens_to_string([piece]).strip() for piece, i in tokenizer.get_vocab().items()}
    plain = {i: word for i, word in sorted(pieces.items()) if i not in special and replaceable(word)}
    words = [(i, word) for i, word in plain.items() if word.isalpha()]
    # A piece of RoBERTa's that only continues a word looks like one; after a space it is another piece.
    encoded = tokenizer([f" {word}" for _, word in words], add_special_tokens=False)["input_ids"] if words else []
    return {word: i for (i, word), ids in zip(words, encoded, strict=True) if list(ids) == [i]}


def neighbour_slots(
    texts: Collection[str], tokenizer: PreTrainedTokenizerBase, embeddings: Tensor, settings: AugmentationSettings
) -> Slots:
    """Candidates by the cosine of the word embeddings `[vocabulary, hidden]`, the same wherever the word stands."""
    known = whole_words(tokenizer)
    places = {text: replaceable(text) for text in texts}
    forms = {text[start:end]: "" for text, spans in places.items() for start, end in spans}
    for word in forms:
        forms[word] = next((form for form in (word, word.lower()) if form in known), "")
    near = _nearest({form for form in forms.values() if form}, known, embeddings, settings.candidates + SPARE)
    chosen = {word: _choice(word, near.get(form, []), settings.candidates) for word, form in forms.items()}
    return {
        text: [Slot(start, end, chosen[text[start:end]]) for start, end in spans if chosen[text[start:end]]]
        for text, spans in places.items()
    }


def _nearest(words: Collection[str], known: Mapping[str, int], embeddings: Tensor, count: int) -> dict[str, list[str]]:
    """The words of `known` nearest to each of `words`, nearest first; the word itself is one of them."""
    names, rows = list(known), {word: row for row, word in enumerate(known)}
    vectors = embeddings.detach().float()[list(known.values())]
    vectors = F.normalize(vectors - vectors.mean(0, keepdim=True), dim=-1)
    near: dict[str, list[str]] = {}
    for part in _parts(sorted(words), 512):
        cosines = vectors[[rows[word] for word in part]] @ vectors.T
        best = cosines.topk(min(count, len(names))).indices.tolist()
        near |= {word: [names[i] for i in row] for word, row in zip(part, best, strict=True)}
    return near


@torch.no_grad()
def masked_slots(
    texts: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    settings: AugmentationSettings,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    batch_size: int = 16,
) -> Slots:
    """Candidates as the masked language model expects them in each place; `on_batch` is told (texts done, of how many).

    Some words of a text are masked together, far from each other, at most `MASKED_SHARE` of them.
    """
    mask, known = str(tokenizer.mask_token), whole_words(tokenizer)
    names, ids = list(known), torch.tensor(list(known.values()), dtype=torch.long, device=model.device)
    length = min(tokenizer.model_max_length, model.config.max_position_embeddings - 2)  # RoBERTa reserves two
    queries: list[tuple[str, list[tuple[int, int]], str]] = []
    for text in texts:
        spans = replaceable(text) if names and mask not in text else []
        groups = -(-len(spans) // max(1, round(MASKED_SHARE * len(text.split()))))
        queries += [(text, spans[i::groups], _masked(text, spans[i::groups], mask)) for i in range(groups)]
    queries.sort(key=lambda query: len(query[2]), reverse=True)
    slots: Slots = {text: [] for text in texts}
    for done, part in enumerate(_parts(queries, batch_size), start=1):
        batch = tokenizer(
            [query[2] for query in part], truncation=True, max_length=length, padding=True, return_tensors="pt"
        ).to(model.device)
        masked = batch["input_ids"] == tokenizer.mask_token_id
        best = model(**batch).logits[masked][:, ids].topk(min(settings.candidates + SPARE, len(names))).indices.tolist()
        for (text, spans, _), count in zip(part, masked.sum(-1).tolist(), strict=True):
            rows, best = best[:count], best[count:]  # fewer rows than spans where the text was cut
            for (start, end), row in zip(spans, rows, strict=False):
                if choice := _choice(text[start:end], [names[i] for i in row], settings.candidates):
                    slots[text].append(Slot(start, end, choice))
        on_batch(min(done * batch_size, len(queries)), len(queries))
    return {text: sorted(found) for text, found in slots.items()}


def new_rows(
    rows: Sequence[Row], slots: Slots, settings: AugmentationSettings, held_out: Collection[Row] = ()
) -> Iterator[tuple[int, Row]]:
    """(index of the row that it comes from, new row), `copies` of each where the candidates suffice.

    None equals a row, another new row or a text of `held_out`, whatever the case and spacing.
    """
    rng = random.Random(settings.seed)
    seen = {tuple(map(_key, row)) for row in rows}
    held_out_texts = {_key(text) for row in held_out for text in row}
    for origin, row in enumerate(rows):
        columns = [column for column, text in enumerate(row) if slots[text]]
        made = 0
        for _ in range(TRIES * settings.copies if columns else 0):
            column = rng.choice(columns)
            text = _rewritten(row[column], slots[row[column]], settings.probability, rng)
            new = (*row[:column], text, *row[column + 1 :])
            key = tuple(map(_key, new))
            if key in seen or key[column] in held_out_texts:
                continue
            seen.add(key)
            yield origin, new
            made += 1
            if made == settings.copies:
                break


def _rewritten(text: str, slots: Sequence[Slot], probability: float, rng: random.Random) -> str:
    for start, end, candidates in reversed(slots):  # from the end, so that the places before it still hold
        if rng.random() < probability:
            text = text[:start] + rng.choice(candidates) + text[end:]
    return text


def _masked(text: str, spans: Sequence[tuple[int, int]], mask: str) -> str:
    for start, end in reversed(spans):
        text = text[:start] + mask + text[end:]
    return text


def _choice(word: str, candidates: Sequence[str], count: int) -> list[str]:
    """The first `count` different candidates other than the word, written as it is: Pope, film."""
    capital = word[0].isupper()
    written = [c.upper() if word.isupper() else c[0].upper() + c[1:] if capital else c for c in candidates]
    return list(dict.fromkeys(c for c in written if c.casefold() != word.casefold()))[:count]


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))
