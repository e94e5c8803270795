"""Token classification: a row is a list of words with a tag for each, as for names in a text or parts of speech.

A word's tag is that of its first piece. Its other pieces are neither learned from, by label or by teacher, nor judged:
the teacher itself was trained on first pieces, so that what it says elsewhere nobody has checked, and a long word
counts as much as a short one. A client should therefore read first pieces (`aggregation_strategy="first"`).
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from pydantic import Field
from scipy.special import log_softmax
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForTokenClassification

from dynackd.data.labels import LabelMap, label_map
from dynackd.data.model_labels import ModelLabels
from dynackd.data.rows import Column, Rows, read_class
from dynackd.data.wanted_labels import resolve_wanted, wanted_labels
from dynackd.errors import UserError, listed
from dynackd.system.settings import Settings
from dynackd.tasks.common_words import CommonWords, Places
from dynackd.tasks.doubts import Doubt, confusion_of, doubt_of_classes, doubt_of_little, doubt_of_one_answer
from dynackd.tasks.entities import OUTSIDE, Tagged, marks_entities
from dynackd.tasks.guessing import CERTAIN, Guess, Sample, some_of
from dynackd.tasks.kind import RESERVED_COLUMNS, Kind, Task
from dynackd.tasks.losses import cross_entropy, soft_cross_entropy
from dynackd.tasks.parts import Arrays, ClassScore, Labels, Output, Reading, Tensors

NO_TAG = -100  # the label of a piece that is no word's first
# Steps of a tokenizer that put one space before a text that has none there.
SPACED = [{"type": "Prepend", "prepend": " "},
          {"type": "Replace", "pattern": {"Regex": "\\A  "}, "content": " "}]  # fmt: skip
# A column of the inputs that says of each of a row's words, in order, whether it has a piece: KEPT, or CUT + its tag's
# id. 0 and less is padding. Without it the words that a cut leaves out would be left out of the metrics, too.
WORDS, KEPT, CUT = "words_kept", 1, 2
EXAMPLE = "Ada Lovelace lived in London"
TAG_NAMES = ("tags", "ner_tags", "labels", "label")
ROWS = "words_of_rows"  # how many words each row has, once the rows of all batches are joined


class TaggedTask(Settings):
    """Words with a tag each."""

    kind: Literal["token_classification"] = Field(description="A tag for each word")
    words: str = Field(description="The column with the list of words, such as tokens")
    tags: str = Field(description="The column with the list of tags, such as ner_tags")
    metrics: str | list[Literal["f1", "precision", "recall", "f1_macro", "accuracy"]] | None = Field(
        default=None, description="What is measured, the main one first; by default f1, precision, recall, accuracy"
    )
    labels: list[str] | dict[str, int | str] | None = Field(
        default=None, description="The tags in the order of their ids, or tag in the data: id or name"
    )
    check_teacher: bool = Field(
        default=True,
        description="Whether the teacher is tried on rows: an error if worse than chance, a warning if hardly better",
    )


class Collator:
    """Makes a batch of rows, filled up to the longest of them."""

    def __init__(self, tokenizer: Any) -> None:
        self.inputs = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=NO_TAG)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = dict(self.inputs([{k: v for k, v in row.items() if k != WORDS} for row in rows]))
        if WORDS in rows[0]:
            batch[WORDS] = pad_sequence([torch.tensor(row[WORDS]) for row in rows], batch_first=True)
        return batch


class TokenClassification(Kind):
    """A row is a list of words with a list of tags; the output is `logits` [rows, length, tags]."""

    name = "token_classification"
    auto_class = "AutoModelForTokenClassification"
    outputs = (Output("logits", ("batch", "length", "tags")),)
    noun = "tagger"
    rows_needed = "a list of words and a list of as many tags"
    section = TaggedTask
    task_keys = ("kind", "words", "tags", "metrics", "labels", "check_teacher")
    needed_keys = ("kind", "words", "tags")
    metrics = ("f1", "precision", "recall", "f1_macro", "accuracy")
    default_metrics = ("f1", "precision", "recall", "accuracy")
    of_lines = False
    label_columns = ("labels", WORDS)
    # transformers' own loss of a batch in which the tokenizer leaves nothing of any word is no number.
    stock_labels: tuple[str, ...] = ()
    pipeline_tag = pipeline = js_pipeline = "token-classification"
    js_options = ", { aggregation_strategy: 'simple' }"
    pipeline_options = ', aggregation_strategy="first"'
    example = EXAMPLE
    reading = Reading(
        imports=("import json", "from pathlib import Path", ""),
        lines=f"""text = "{EXAMPLE}"
names = json.loads(Path("{{name}}/config.json").read_text())["id2label"]
for word in sorted({{word for word in encoded.word_ids if word is not None}}):
    start, end = encoded.word_to_chars(word)
    print(text[start:end], names[str(outputs[0][encoded.word_ids.index(word)].argmax())])""",
    )

    def task(self, value: Mapping[str, Any]) -> Task:
        self.check_keys(value)
        words, tags = value["words"], value["tags"]
        for key, name in (("words", words), ("tags", tags)):
            if not isinstance(name, str):
                raise UserError(f"task.{key}: expected one column name, got {name!r}")
        if words == tags:
            raise UserError(f"task.tags: expected another column than that of the words, got {tags!r}")
        if words in (*RESERVED_COLUMNS, WORDS):
            raise UserError(f"task.words: rename the column '{words}'; dynackd makes a column of that name itself")
        return Task("custom", (words,), tags, self, self.chosen_metrics(value))

    def guess(self, sample: Sample) -> list[Guess]:
        """A list of words and a list of as many tags, of which there are few different ones."""
        named = [sample[name] for name in (*sample.text[:1], *sample.label[:1])]
        if len(sample.text) > 1 or len(sample.label) > 1 or not all(own.parts.keys for own in named):
            return []
        lists = [own for own in sample.others if own.parts.keys]
        words = named[:1] if sample.text else [own for own in lists if own.parts.all_are(str) and not own.parts.is_text]
        tags = named[-1:] if sample.label else [own for own in lists if own.parts.is_label]
        usual = [own for own in tags if own.name in TAG_NAMES]
        pairs = [(one, two) for one in words for two in (usual if len(usual) == 1 else tags)
                 if one.name != two.name and one.lengths == two.lengths
                 and (sample.told or len(two.parts.distinct) < len(one.parts.distinct))]
        pairs = [(one, two) for one, two in pairs if not one.parts.is_label or len(words) == 1] or pairs
        return [Guess({"kind": self.name, "words": one.name, "tags": two.name}, (one.name,), (two.name,),
                      some_of(two.parts.distinct), CERTAIN) for one, two in pairs]

    def with_labels(self, task: Task, labels: Any) -> Task:
        wanted, names = wanted_labels(labels)
        return dataclasses.replace(task, labels=wanted, label_names=names or task.label_names)

    # ---------------------------------------------------------------------------------------------------- the rows

    def columns(self, task: Task) -> list[Column]:
        return [Column(task.text_columns[0], "list of words", _read_words, pa.list_(pa.string()), (list,))]

    def label_column(self, task: Task) -> Column:
        return Column(task.label_column, "list of tags", _read_tags, pa.list_(pa.string()), (list,))

    def placeholders(self, task: Task, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """A tag for each word: which pieces are first ones is read, whatever their tag."""
        return {"label": [[0] * len(words) for words in batch[task.text_columns[0]]]}

    def labels(self, task: Task, raw: Mapping[str, Rows], model: ModelLabels | None) -> Labels:
        for rows in raw.values():
            _check_lengths(rows, task)
        column, first = task.label_column, next(iter(raw.values()))
        where, declared = f"{first.where}, column '{column}'", task.label_names or first.class_names
        found = Counter(chain.from_iterable(first.labels))
        names = label_map(found, where, declared, model, task.labels, OUTSIDE)
        if len(names.names) < 2:
            raise UserError(f"{where}: a token classification needs two tags or more, got only {listed(names.names)}")
        ids = {split: _tag_ids(rows, names, column) for split, rows in raw.items()}
        told = names.told(chain.from_iterable(chain.from_iterable(rows.labels) for rows in raw.values()))
        return Labels(ids, names, f"{told}; {_counted(names.names)}")

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """By each row's rarest tag, so that none is held out as a whole."""
        counts = Counter(chain.from_iterable(map(set, labels)))
        rarest = [min(row, key=lambda tag: (counts[tag], tag), default="") for row in labels]  # no tags are told later
        return np.unique(rarest, return_inverse=True)[1]

    def check_model(self, task: Task, model: ModelLabels | None) -> None:
        super().check_model(task, model)
        if task.labels:
            resolve_wanted(task.labels, task.label_names, model)

    # ------------------------------------------------------------------------------------------------ rows as inputs

    def fit_tokenizer(self, tokenizer: Any) -> Any:
        """A byte-level tokenizer, RoBERTa's or ModernBERT's, marks a word by the space before it. Words that are given
        one by one have none, and would each look like the rest of the word before; so it puts one there: where it cuts
        a word first, as Llama's, before that, or each of the pieces would get one."""
        backend = tokenizer.backend_tokenizer
        content = json.loads(backend.to_str())
        steps = [content["pre_tokenizer"], *((content["pre_tokenizer"] or {}).get("pretokenizers") or [])]
        found = [place for place, step in enumerate(steps) if step and step.get("add_prefix_space") is False]
        if found and found[0] > 1:
            own = content["normalizer"]
            if not own or own.get("normalizers", [])[:2] != SPACED:  # as it is once it was saved
                content["normalizer"] = {"type": "Sequence", "normalizers": SPACED + ([own] if own else [])}
                backend.normalizer = Tokenizer.from_str(json.dumps(content)).normalizer
        elif found:
            steps[found[0]]["add_prefix_space"] = True
            backend.pre_tokenizer = Tokenizer.from_str(json.dumps(content)).pre_tokenizer
            tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True  # for whoever loads it again
        return tokenizer

    def encode(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], **options: Any) -> Any:
        return tokenizer(batch[task.text_columns[0]], is_split_into_words=True, **options)

    def features(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], max_length: int) -> dict[str, Any]:
        encoded = self.encode(task, tokenizer, batch, truncation=True, max_length=max_length)
        if "label" not in batch:
            return dict(encoded)
        aligned = [_aligned(encoded.word_ids(row), tags) for row, tags in enumerate(batch["label"])]
        return {**encoded, "labels": [labels for labels, _ in aligned], WORDS: [words for _, words in aligned]}

    def lost(self, tokens: Dataset, max_length: int) -> str:
        if WORDS not in tokens.column_names:
            return ""
        counts = [sum(word >= CUT for word in words) for words in tokens[WORDS]]
        words, rows = sum(counts), sum(count > 0 for count in counts)
        told = f"{words:,} word{'s' * (words > 1)} of {rows:,} row{'s' * (rows > 1)} {'are' if words > 1 else 'is'}"
        return f"{told} not seen by the model and counted as tagged O" if rows else ""

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        return Collator(tokenizer)

    def texts_of(self, encoding: Encoding) -> Sequence[int | None]:
        """Each word is a text of its own."""
        return encoding.word_ids

    # -------------------------------------------------------------------------------------------------- the outputs

    def places(self, batch: Mapping[str, Any]) -> Any:
        """The first pieces of words, as far as labels say which these are."""
        return batch["labels"] != NO_TAG if "labels" in batch else batch["attention_mask"] != 0

    def flat(self, arrays: Arrays, mask: np.ndarray) -> dict[str, np.ndarray]:
        flat = super().flat({name: array for name, array in arrays.items() if name != WORDS}, mask)
        if WORDS in arrays:
            real = arrays[WORDS] > 0
            flat |= {WORDS: arrays[WORDS][real], ROWS: real.sum(1)}
        return flat

    # ------------------------------------------------------------------------------------------------------ learning

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """The mean over words; 0 where the tokenizer leaves nothing of any, of which transformers' own is no number."""
        if not (batch["labels"] != NO_TAG).any():
            return outputs["logits"].sum() * 0
        return cross_entropy(outputs["logits"], batch["labels"])

    def label_count(self, batch: Tensors) -> Any:
        return (batch["labels"] != NO_TAG).sum()

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        words = self.places(batch)
        if not words.any():
            return outputs["logits"].sum() * 0
        return soft_cross_entropy(outputs["logits"][words], teacher["logits"][words], temperature)

    def output_count(self, batch: Tensors) -> Any:
        return self.places(batch).sum()

    def in_words(self, outputs: Tensors, places: Places) -> Tensors:
        """Of the first piece of each."""
        return {"logits": places.first(outputs["logits"])}

    def batch_in_words(self, batch: Tensors, words: CommonWords) -> Tensors:
        """Of the words that begin a tagged one."""
        return {"attention_mask": words.mask * words.own.first(self.places(batch))}

    # ------------------------------------------------------------------------------------------------------- judging

    def answers(self, outputs: Arrays) -> np.ndarray:
        return outputs["logits"].argmax(-1)

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        found = self._tagged(task, outputs, labels).scores()
        return {name: found[name] for name in task.metrics}

    def per_class(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, ClassScore]:
        return self._tagged(task, outputs, labels).per_class()

    def _tagged(self, task: Task, outputs: Arrays, labels: Arrays) -> Tagged:
        """All words of all rows; those that the model does not see got no tag."""
        words = labels[WORDS]
        gold, predicted, kept = words - CUT, np.full(len(words), -1), words == KEPT
        gold[kept], predicted[kept] = labels["labels"], self.answers(outputs)
        assert task.label_names is not None
        return Tagged(task.label_names, gold, predicted, labels[ROWS])

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`agreement`, the share of words with the teacher's tag, and `kl`, the mean over words of KL(teacher ‖
        student) in nats."""
        ours, theirs = (log_softmax(some["logits"].astype(np.float64), axis=-1) for some in (outputs, teacher))
        same = self.answers(outputs) == self.answers(teacher)
        return {"agreement": float(same.mean()), "kl": float((np.exp(theirs) * (theirs - ours)).sum(-1).mean())}

    def same_answers(self, ours: Arrays, theirs: Arrays) -> np.ndarray:
        return np.equal(self.answers(ours), self.answers(theirs))

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        assert names is not None
        answers, known = self.answers(outputs), labels["labels"]
        confusion = confusion_of(known, answers, len(names.names))
        one = doubt_of_one_answer(answers, known, lambda own: f"'{names.names[own]}'", "words")
        return doubt_of_classes(confusion, names, "words") or one or doubt_of_little(confusion, "words")


def _read_words(value: list[Any]) -> list[str]:
    """A row's words. ValueError says what is wrong."""
    if not value:
        raise ValueError("the list of words is empty; drop the row")
    for place, word in enumerate(value, start=1):
        if not isinstance(word, str | int | float):
            raise ValueError(f"expected texts, but word {place} is {word!r}")
        str(word).encode()
    return [str(word) for word in value]


def _read_tags(value: list[Any]) -> tuple[str, ...]:
    """A row's tags. ValueError says what is wrong."""
    for place, tag in enumerate(value, start=1):
        if not isinstance(tag, str | int | float) or tag == "":
            raise ValueError(f"expected a tag for each word, but that of word {place} is {tag!r}")
    return tuple(map(read_class, value))


def _check_lengths(rows: Rows, task: Task) -> None:
    """Every word must have one tag."""
    words = pc.list_value_length(rows.texts.data.column(task.text_columns[0])).to_numpy()
    words = words if rows.index is None else words[rows.index]
    tags = np.fromiter(map(len, rows.labels), int, len(rows.labels))
    for place in np.flatnonzero(words != tags)[:1]:
        raise UserError(
            f"{rows.where}, data row {rows.number(int(place))}: {words[place]} words in column "
            f"'{task.text_columns[0]}', but {tags[place]} tags in column '{task.label_column}'; each word needs one tag"
        )


def _tag_ids(rows: Rows, names: LabelMap, column: str) -> list[list[int]]:
    ids = {tag: names.find(tag) for tag in dict.fromkeys(chain.from_iterable(rows.labels))}
    for unknown in (tag for tag, found in ids.items() if found is None):
        place = next(place for place, tags in enumerate(rows.labels) if unknown in tags)
        word = rows.labels[place].index(unknown) + 1
        where = f"{rows.where}, data row {rows.number(place)}, column '{column}', word {word}"
        raise UserError(f"{where}: {names.unknown(unknown)}")
    return [[found for tag in tags if (found := ids[tag]) is not None] for tags in rows.labels]


def _counted(names: Sequence[str]) -> str:
    """What the metrics count, in words."""
    if marks_entities(names):
        return "the metrics count entities"
    return "the metrics count words, not entities, since these tags are not such as B-X, I-X and O"


def _aligned(word_ids: Sequence[int | None], tags: Sequence[int]) -> tuple[list[int], list[int]]:
    """(label of each piece, whether each word has one). word_ids: the word of each piece, None for special tokens."""
    labels, before = [], None
    for word in word_ids:
        labels.append(NO_TAG if word is None or word == before else tags[word])
        before = word
    seen = set(word_ids)
    return labels, [KEPT if word in seen else CUT + tag for word, tag in enumerate(tags)]


TOKEN_CLASSIFICATION = TokenClassification()
