"""A student that knows fewer words: the rows of its word embeddings, and its tokenizer.json, without those that some
texts hardly use.

Nothing is learned anew. It is proved on texts that were held out of the counting: those that become the same tokens as
before give exactly the same outputs; of the others it is told how many they are and how much longer. What that costs of
the metric is measured on the validation rows and gated as that of a smaller file is.
"""

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from dynackd.deploy.gates import Gates, class_drops
from dynackd.deploy.texts import Encoded, Texts
from dynackd.deploy.tokenizer_cut import choose, cut, known_ids, model_of
from dynackd.deploy.validation import Validation, torch_predictor
from dynackd.errors import UserError
from dynackd.families.table import family_of
from dynackd.onnx.choices import COVERAGE
from dynackd.onnx.graphs import input_names, kind_of_model
from dynackd.supernet.checkpoints import set_attribute
from dynackd.tasks.kind import Kind
from dynackd.tasks.task import main_metric
from dynackd.tasks.tokens import id_of_unknown

PROVED = 256  # held-out texts whose outputs are compared
ROWS_AT_ONCE = 16
NUMBERS = ("unk_id",)  # what a tokenizer_config.json says by an id
TOKENIZER, TOKENIZER_CONFIG, ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens_decoder"


@dataclass(frozen=True)
class Wish:
    """The texts whose words are kept: so many that they are `coverage` of all tokens of the texts, or `size` tokens."""

    texts: Texts
    coverage: float = COVERAGE
    size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.coverage <= 1:
            raise UserError(f"--coverage {self.coverage:g} is outside (0, 1]")
        if self.size is not None and self.size < 1:
            raise UserError(f"--vocabulary-size is {self.size}; it must be 1 or more")


@dataclass(frozen=True)
class Reader:
    """A student with its tokenizer, and the validation rows as they read them."""

    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    validation: Validation | None = None


def with_fewer_words(whole: Reader, wish: Wish, limit: int, gates: Gates) -> tuple[Reader, dict[str, Any]]:
    """The reader with the vocabulary that is wished for, and what export.json says of it.

    Where it loses more than the gates allow, or makes more tokens of a validation row than fit, the reader as it was,
    and why under "refused". limit: tokens at which texts are cut. Raises `UserError` where a text that becomes the same
    tokens gives other outputs.
    """
    content = json.loads(whole.tokenizer.backend_tokenizer.to_str())
    rows = whole.student.config.vocab_size
    counts, counted = wish.texts.counts(whole.tokenizer, rows)
    stays = {*_ids_of(whole.student.config), *whole.tokenizer.all_special_ids, *_tied(whole.student)}
    kept = choose(content, counts.tolist(), stays, coverage=wish.coverage, size=wish.size)
    tokenizer, order = cut_tokenizer(whole.tokenizer, kept)
    _refuse_moved_positions(whole.student, order)
    small = Reader(cut_embeddings(whole.student, order, tokenizer), tokenizer)
    facts: dict[str, Any] = {
        "size": len(order),
        "tokens": len(known_ids(content)),
        "rows": rows,
        "wish": {"size": wish.size} if wish.size is not None else {"coverage": wish.coverage},
        "stays": model_of(content).staying,
        "texts": Path(wish.texts.where).name,
        "counted": counted,
        "coverage": float(counts[order].sum() / max(1, counts.sum())),
        "held_out": _held_out(whole, small, order, wish.texts, limit),
    }
    if whole.validation is None:
        return small, facts
    try:
        small = Reader(small.student, small.tokenizer, whole.validation.read_by(tokenizer))
    except UserError as error:  # such as a question that is no longer shorter than its window
        return whole, {**facts, "refused": f"a larger one is needed to read the validation rows ({error})"}
    facts |= _loss(whole, small)
    metric = main_metric(whole.validation.task) if facts["metrics"]["after"] else "fidelity"
    reason = gates.refusal({**facts, "max_abs_diff": 0.0}, metric)
    return (small, facts) if reason is None else (whole, {**facts, "refused": reason})


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def cut_tokenizer(
    tokenizer: PreTrainedTokenizerBase, kept: set[int]
) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The tokenizer with the tokens of these ids alone, read again from its files, and the old id of each new one."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        tokenizer.save_pretrained(place)
        content, order = cut(json.loads((place / TOKENIZER).read_text(encoding="utf-8")), kept)
        new = {old: number for number, old in enumerate(order)}
        (place / TOKENIZER).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        config = json.loads((place / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
        config.pop(ADDED, None)  # by their old ids; tokenizer.json says all of it
        config |= {key: new[number] for key, number in config.items() if key in NUMBERS and number in new}
        (place / TOKENIZER_CONFIG).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        for file in place.iterdir():  # such as vocab.txt: they would say something else
            if file.name not in (TOKENIZER, TOKENIZER_CONFIG):
                file.unlink()
        small = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    for side in ("truncation_side", "padding_side"):  # as they are now; files say what they were at loading
        set_attribute(small, side, getattr(tokenizer, side))
    wanted = {token: new[old] for token, old in tokenizer.get_vocab().items() if old in new}
    if small.get_vocab() != wanted or not _read_alike(content, json.loads(small.backend_tokenizer.to_str())):
        raise UserError(
            f"--vocabulary: transformers reads the smaller tokenizer.json of a {type(tokenizer).__name__} as another "
            "one than was written; the student can only be exported with its whole vocabulary"
        )
    return small, order


def _read_alike(written: Mapping[str, Any], read: Mapping[str, Any]) -> bool:
    """Whether all but the vocabulary that decides which ids a text has is as it was written: some tokenizers' classes
    make it anew as they load. They may add special tokens that the model has."""
    ours, theirs = ({key: own for key, own in some["model"].items() if key != "vocab"} for some in (written, read))
    added, found = ({own["content"]: own["id"] for own in some["added_tokens"]} for some in (written, read))
    return ours == theirs and written["post_processor"] == read["post_processor"] and added.items() <= found.items()


# --- the model -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def cut_embeddings(
    student: PreTrainedModel, order: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """A copy of the student with these rows of its word embeddings alone, in this order, in evaluation mode; tokenizer:
    the one with these tokens alone."""
    new = {old: number for number, old in enumerate(order)}
    config: Any = copy.deepcopy(student.config)
    for key, ids in _id_keys(config).items():
        mapped = [new[number] for number in ids if number in new]
        many = isinstance(getattr(config, key), list)
        if many or mapped:
            setattr(config, key, mapped if many else mapped[0])
        else:
            _name_nothing(config, key, tokenizer)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    config.vocab_size = len(order)
    table: Any = student.get_input_embeddings()
    (name,) = (name for name, own in student.named_parameters() if own is table.weight)
    state = {**student.state_dict(), name: table.weight[list(order)]}
    made: Any = type(student)
    small: PreTrainedModel = made(config)
    small.load_state_dict(state, strict=True)
    return small.eval()


def _name_nothing(config: Any, key: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """An id that no token has named a row that no text reads. In its place stands the tokenizer's own of that role, or
    none; the padding's, where a config must have one."""
    try:
        setattr(config, key, getattr(tokenizer, key, None))
    except StrictDataclassFieldValidationError:
        setattr(config, key, tokenizer.pad_token_id)


def _id_keys(config: Any) -> dict[str, list[int]]:
    """The keys of a config that name tokens, with their ids."""
    named = {key: value for key, value in config.to_dict().items() if key.endswith("_token_id")}
    found = {key: value if isinstance(value, list) else [value] for key, value in named.items()}
    return {key: ids for key, ids in found.items() if all(isinstance(number, int) for number in ids)}


def _ids_of(config: Any) -> set[int]:
    return {number for ids in _id_keys(config).values() for number in ids}


def _tied(student: PreTrainedModel) -> range:
    """The ids from which a model counts its positions, up to that of the padding: these tokens keep them."""
    family, config = family_of(student.config), student.config
    return range(config.pad_token_id + 1 if family.positions_follow_padding else family.reserved_positions)


def _refuse_moved_positions(student: PreTrainedModel, order: Sequence[int]) -> None:
    """`UserError` where another token would come to an id from which the model counts its positions, since the
    tokenizer has none of that id."""
    if moved := [number for number in _tied(student) if list(order[number : number + 1]) != [number]]:
        family = student.config.model_type.removeprefix("dynackd-")
        raise UserError(
            f"--vocabulary: a {family} counts positions by the ids up to {_tied(student)[-1]}, and "
            f"no token of its tokenizer has the id {moved[0]}; the student can only be exported with its whole "
            "vocabulary"
        )


# --- the proof -------------------------------------------------------------------------------------------------------


def _held_out(whole: Reader, small: Reader, order: Sequence[int], texts: Texts, limit: int) -> dict[str, Any]:
    """How the held-out texts are read with the smaller vocabulary: the share of those that become other tokens, and of
    those in which more is unknown, both as they are cut at `limit`; and the tokens of a whole text before and after.
    Raises `UserError` where the same tokens give other outputs."""
    old = np.asarray(order)
    lengths, inputs, differ, unknown = np.zeros(2, np.int64), 0, [], 0
    for before, after in _read_by_both(whole, small, texts):
        for mine, theirs in zip(after["input_ids"], before["input_ids"], strict=True):
            lengths += (len(theirs), len(mine))
            inputs += 1
    unknown_ids = [-1 if (own := id_of_unknown(reader.tokenizer)) is None else own for reader in (small, whole)]
    for before, after in _read_by_both(whole, small, texts, truncation=True, max_length=limit):
        for mine, theirs in zip(after["input_ids"], before["input_ids"], strict=True):
            differ.append(not _same(mine, theirs, old))
            unknown += mine.count(unknown_ids[0]) > theirs.count(unknown_ids[1])
    compared = _prove(whole, small, old, texts, limit)
    before_mean, after_mean = (float(total / inputs) for total in lengths)
    return {
        "texts": len(differ),
        "differ": float(np.mean(differ)),
        "tokens_before": before_mean,
        "tokens_after": after_mean,
        **({"unknown": unknown / len(differ)} if unknown else {}),
        "compared": compared,
    }


def _read_by_both(whole: Reader, small: Reader, texts: Texts, **options: Any) -> Iterator[tuple[Encoded, Encoded]]:
    """The held-out texts as both read them, some at once."""
    rows = texts.held_out
    return zip(*(texts.tokens(rows, reader.tokenizer, **options) for reader in (whole, small)), strict=True)


def _same(ids: Sequence[int], before: Sequence[int], old: np.ndarray) -> bool:
    """Whether new ids are those of before, whose numbers they had."""
    return len(ids) == len(before) and old[np.asarray(ids, int)].tolist() == list(before)


def _prove(whole: Reader, small: Reader, old: np.ndarray, texts: Texts, limit: int) -> int:
    """Compare the outputs of held-out texts that become the same tokens; returns how many were compared."""
    names, kind = input_names(whole.student, whole.tokenizer), kind_of_model(whole.student)
    compared = 0
    for before, after in _read_by_both(whole, small, texts, truncation=True, max_length=limit):
        same = [place for place, ids in enumerate(after["input_ids"]) if _same(ids, before["input_ids"][place], old)]
        for begin in range(0, len(same), ROWS_AT_ONCE):
            places = same[begin : begin + ROWS_AT_ONCE]
            found = _outputs(small, kind, names, after, places)
            for name, wanted in _outputs(whole, kind, names, before, places).items():
                if not torch.equal(found[name], wanted):
                    raise UserError(
                        f"--vocabulary: the same tokens give other {name} with fewer words, by up to "
                        f"{float((found[name] - wanted).abs().max()):.1e}; nothing was written"
                    )
            compared += len(places)
            if compared >= PROVED:
                return compared
    return compared


@torch.no_grad()
def _outputs(
    reader: Reader, kind: Kind, names: Sequence[str], rows: Encoded, places: Sequence[int]
) -> dict[str, Tensor]:
    chosen = {name: [rows[name][place] for place in places] for name in names if name in rows}
    batch = reader.tokenizer.pad(chosen, return_tensors="pt")
    inputs = {name: batch[name] for name in names}
    return kind.read(reader.student(**inputs), inputs, reader.student.config)


def _loss(whole: Reader, small: Reader) -> dict[str, Any]:
    """What the validation rows lose."""
    assert whole.validation is not None
    assert small.validation is not None
    kind = whole.validation.task.kind
    before = whole.validation.outputs(torch_predictor(whole.student, kind), ROWS_AT_ONCE)
    after = small.validation.outputs(torch_predictor(small.student, kind), ROWS_AT_ONCE)
    metrics = {"before": whole.validation.metrics(before), "after": small.validation.metrics(after)}
    ours, theirs = whole.validation.of_rows(after), whole.validation.of_rows(before)
    if metrics["after"]:
        drop: float | None = whole.validation.drop(metrics["before"], metrics["after"])
    else:
        drop = whole.validation.unlabelled_drop(ours, theirs)
    classes = class_drops(whole.validation.per_class(before), small.validation.per_class(after))
    found: Mapping[str, Any] = {"drop": drop, "class_drops": classes}
    return {
        "metrics": metrics,
        **{key: value for key, value in found.items() if value not in (None, {})},
        **whole.validation.agreement(ours, theirs),
    }
