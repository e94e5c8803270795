"""A tokenizer.json with fewer tokens. Only its JSON is read and written here, as the library tokenizers has it.

What tokenises into kept tokens alone does so as before, piece by piece: WordPiece takes the longest token that fits,
which is still there (where a word was unknown because its longest piece led nowhere, it may be known without that
piece); Unigram the best path, which is; BPE the first merge of its list that applies, which is there with all that it
is made of. A model of tokens is one class and a line in `MODELS`, a post-processor one function and a line in
`POST_PROCESSORS`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dynackd.errors import UserError, one_of

Content = Mapping[str, Any]  # of a tokenizer.json, or of a part of it
SPELT = "single characters, special tokens"  # what stays where a word that is left out can be spelt
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token that stands for a byte which is in no other


class WordLevel:
    """The model of a tokenizer.json: a token is a word, and one that is left out is unknown."""

    staying = "special tokens"  # what stays in any case, in words

    def __init__(self, model: Content) -> None:
        self.model = model
        self.tokens = self._tokens()  # id -> token
        self.ids = {token: number for number, token in self.tokens.items()}

    def _tokens(self) -> dict[int, str]:
        return {number: token for token, number in self.model["vocab"].items()}

    def stays(self) -> set[int]:
        """The ids of the tokens without which another text than before could not be told."""
        unknown = self.model["unk_token"]
        return {self.ids[unknown]} if unknown in self.ids else set()

    def parts(self, number: int) -> set[int]:
        """The ids of the tokens that a text runs through before this one, and its own."""
        return {number}

    def cut(self, numbers: Sequence[int]) -> Content:
        """The model with these tokens alone, numbered in this order."""
        return {**self.model, "vocab": {self.tokens[number]: new for new, number in enumerate(numbers)}}


class WordPiece(WordLevel):
    """The longest token that begins a word, then the longest that goes on, marked by a prefix.

    Single characters stay, at the beginning and inside of a word: a word of which one is missing is unknown as a whole,
    as in a vocabulary that never had them all.
    """

    staying = SPELT

    def stays(self) -> set[int]:
        prefix = self.model["continuing_subword_prefix"]
        return super().stays() | {n for n, token in self.tokens.items() if len(token.removeprefix(prefix)) == 1}


class BPE(WordLevel):
    """Symbols, which are bytes or characters, of which pairs are merged, the first in the list of merges first."""

    staying = SPELT

    def __init__(self, model: Content) -> None:
        super().__init__(model)
        self.prefix, self.suffix = model["continuing_subword_prefix"] or "", model["end_of_word_suffix"] or ""
        self.ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}

    def stays(self) -> set[int]:
        """Every single symbol, and what stands for bytes."""
        single = {n for n, token in self.tokens.items() if len(self._symbols(token)) == 1}
        return super().stays() | single | _bytes(self.tokens)

    def parts(self, number: int) -> set[int]:
        """The tokens that the merges run through until this one is there.

        A token may be the result of several merges, of which the list's order, and not that of the results, says which
        is used: so they are run. What no merges lead to, such as an added token, is made of nothing else.
        """
        symbols = self._symbols(self.tokens[number])
        found = set(symbols)
        while len(symbols) > 1:
            ranked = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self.ranks]
            if not ranked:
                return {number}
            at = min(ranked)[1]
            symbols[at : at + 2] = [self._merged(symbols[at], symbols[at + 1])]
            found.add(symbols[at])
        known = {self.ids[symbol] for symbol in found if symbol in self.ids}
        return known if symbols == [self.tokens[number]] else {number}

    def cut(self, numbers: Sequence[int]) -> Content:
        kept = {self.tokens[number] for number in numbers}
        merges = [pair for pair in self.model["merges"] if kept.issuperset({*pair, self._merged(*pair)})]
        return {**super().cut(numbers), "merges": merges}

    def _merged(self, left: str, right: str) -> str:
        return left + right[len(self.prefix) :]

    def _symbols(self, token: str) -> list[str]:
        """What a token is before any merge: its characters, with the marks of their place in a word."""
        inside = bool(self.prefix) and token.startswith(self.prefix)
        last = self.suffix if self.suffix and token.endswith(self.suffix) else ""
        characters = token.removeprefix(self.prefix if inside else "").removesuffix(last)
        symbols = [(self.prefix if inside or at else "") + own for at, own in enumerate(characters)]
        return [*symbols[:-1], symbols[-1] + last] if symbols else [token]


class Unigram(WordLevel):
    """Of all ways to cut a text into tokens the one with the largest sum of their scores."""

    staying = SPELT

    def _tokens(self) -> dict[int, str]:
        return dict(enumerate(token for token, _ in self.model["vocab"]))

    def stays(self) -> set[int]:
        """Every single character, what stands for bytes, and the token of the least score: a character that is unknown
        scores so much less than that one, and this decides where it is cut off from its neighbours."""
        scores = [score for _, score in self.model["vocab"]]
        single = {n for n, token in self.tokens.items() if len(token) == 1}
        unknown = {self.model["unk_id"]} - {None}
        return unknown | single | _bytes(self.tokens) | {scores.index(min(scores))}

    def cut(self, numbers: Sequence[int]) -> Content:
        unknown = self.model["unk_id"]
        kept = {"vocab": [self.model["vocab"][number] for number in numbers]}
        return {**self.model, **kept, "unk_id": None if unknown is None else numbers.index(unknown)}


MODELS: dict[str, type[WordLevel]] = {"BPE": BPE, "Unigram": Unigram, "WordLevel": WordLevel, "WordPiece": WordPiece}


def model_of(content: Content) -> WordLevel:
    """The model of a tokenizer.json. Raises `UserError` for one that is not known."""
    model = content["model"]
    return MODELS[one_of("the model of the tokenizer.json", model["type"], MODELS)](model)


def _bytes(tokens: Mapping[int, str]) -> set[int]:
    return {number for number, token in tokens.items() if BYTE.fullmatch(token)}


# --- what adds tokens by their ids -----------------------------------------------------------------------------------

Renumber = Callable[[int], int]


def _template(processor: Content, new: Renumber) -> Content:
    """With the tokens alone that it puts somewhere: others may be anything."""
    used = {part["SpecialToken"]["id"] for key in ("single", "pair") for part in processor[key]
            if "SpecialToken" in part}  # fmt: skip
    tokens = {name: {**own, "ids": [new(number) for number in own["ids"]]}
              for name, own in processor["special_tokens"].items() if name in used}  # fmt: skip
    return {**processor, "special_tokens": tokens}


def _ends(processor: Content, new: Renumber) -> Content:
    return {**processor, **{key: [processor[key][0], new(processor[key][1])] for key in ("sep", "cls")}}


def _sequence(processor: Content, new: Renumber) -> Content:
    return {**processor, "processors": [_renumbered(own, new) for own in processor["processors"]]}


POST_PROCESSORS: dict[str, Callable[[Content, Renumber], Content]] = {
    "BertProcessing": _ends,
    "ByteLevel": lambda processor, _: processor,  # it adds none
    "RobertaProcessing": _ends,
    "Sequence": _sequence,
    "TemplateProcessing": _template,
}


def _renumbered(processor: Content, new: Renumber) -> Content:
    """A post-processor with other ids."""
    name = one_of("the post-processor of the tokenizer.json", processor["type"], POST_PROCESSORS)
    return POST_PROCESSORS[name](processor, new)


def _named(content: Content) -> set[int]:
    """The ids that a tokenizer.json names outside of its model: added tokens, those that are put around a text, and the
    padding."""
    found = {own["id"] for own in content["added_tokens"]}

    def note(number: int) -> int:
        found.add(number)
        return number

    if content["post_processor"]:
        _renumbered(content["post_processor"], note)
    return found | ({content["padding"]["pad_id"]} if content["padding"] else set())


# --- cutting ---------------------------------------------------------------------------------------------------------


def known_ids(content: Content) -> set[int]:
    """Every id that a token has."""
    return {*model_of(content).tokens, *(own["id"] for own in content["added_tokens"])}


def choose(
    content: Content, counts: Sequence[int], more: Iterable[int] = (), *, coverage: float = 1.0, size: int | None = None
) -> set[int]:
    """The ids of the tokens that are kept.

    First all that must stay (the model's `stays`, added tokens, those of the post-processor and the padding, and
    `more`), then the most frequent, equally frequent ones in the order of their ids, each with what it is made of;
    until the kept tokens make up `coverage` of all occurrences, or, where `size` is given, as long as they are at most
    so many. counts: how often each id occurs in the texts. Raises `UserError` where more than `size` must stay.
    """
    model = model_of(content)
    known = known_ids(content)
    kept = {*model.stays(), *_named(content), *more} & known
    kept = kept.union(*(model.parts(number) for number in kept & model.tokens.keys()))
    if size is not None and not len(kept) <= size <= len(known):
        least = f"{len(kept):,} of the tokenizer's {len(known):,} tokens must stay ({model.staying})"
        raise UserError(f"--vocabulary-size is {size:,}; {least}: give a number from {len(kept)} to {len(known)}")
    wanted, covered = coverage * sum(counts), sum(counts[number] for number in kept)
    for number in sorted(model.tokens.keys() - kept, key=lambda own: (-counts[own], own)):
        if len(kept) >= size if size is not None else covered >= wanted:
            break
        fresh = model.parts(number) - kept
        if size is None or len(kept) + len(fresh) <= size:
            kept |= fresh
            covered += sum(counts[own] for own in fresh)
    return kept


def cut(content: Content, kept: set[int]) -> tuple[Content, list[int]]:
    """A tokenizer.json with the tokens of these ids alone, and the old id of each new one.

    They keep their order, but for added tokens that the model does not hold: the library numbers these behind it. Added
    tokens must all be kept.
    """
    model = model_of(content)
    inside = sorted(kept & model.tokens.keys())
    order = [*inside, *sorted(kept - model.tokens.keys())]
    new = {old: number for number, old in enumerate(order)}
    if odd := sorted(_named(content) - new.keys()):
        raise UserError(f"--vocabulary: the tokenizer.json names the id {odd[0]}, which none of its tokens has")
    added = sorted(({**own, "id": new[own["id"]]} for own in content["added_tokens"]), key=lambda own: own["id"])
    changed: dict[str, Any] = {"added_tokens": added, "model": model.cut(inside)}
    if content["post_processor"]:
        changed["post_processor"] = _renumbered(content["post_processor"], new.__getitem__)
    if content["padding"]:
        changed["padding"] = {**content["padding"], "pad_id": new[content["padding"]["pad_id"]]}
    return {**content, **changed}, order
