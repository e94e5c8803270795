"""The rows of a recipe as tokens, and what a user is told of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset, concatenate_datasets
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dynackd.measure.evaluation import Batches, batches_by, batches_of
from dynackd.measure.teacher_check import SAMPLE_ROWS
from dynackd.report.terminal import console
from dynackd.tasks.alignment import read_by_both
from dynackd.tasks.common_words import NUMBERS, Collator
from dynackd.tasks.loading import TaskData
from dynackd.tasks.tokens import tokenize, unknown
from dynackd.training.recipe import Recipe

FEW_COMMON = 0.5  # share of the model's tokens in words that the teacher has too, below which the user is warned


@dataclass(frozen=True)
class OtherReader:
    """Of a teacher that reads other tokens: its tokenizer, how many tokens it takes, and whether it teaches the stage,
    or is only compared with."""

    tokenizer: PreTrainedTokenizerBase
    positions: int
    teaches: bool


@dataclass(frozen=True)
class TheirRows:
    """The rows of a task where the teacher reads other tokens than the model, cut at `max_length` of its own.

    train: the training rows as both read them, and sample: some of them as the teacher alone does; none where it does
    not teach. validation: by suffix, the validation rows as the teacher reads them, in the model's order; both: as both
    do, where there is an output for each token to be compared.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    validation: Mapping[str, Dataset] = field(default_factory=dict)
    both: Mapping[str, Dataset] = field(default_factory=dict)
    train: Dataset | None = None
    sample: Dataset | None = None


@dataclass(frozen=True)
class Rows:
    """A task's rows as the data hold them and as tokens, at most `max_length`: the training rows, which are none where
    they were not loaded, and the validation rows by suffix. theirs: where the teacher reads other tokens."""

    data: TaskData
    train: Dataset
    validation: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    theirs: TheirRows | None = None

    @property
    def taught(self) -> Dataset:
        """The training rows as a stage's model and teacher read them."""
        return self.theirs.train if self.theirs and self.theirs.train is not None else self.train

    def for_teacher(self, texts: Dataset, tokens: Dataset) -> Dataset:
        """Other training rows as both read them: with what the teacher reads, where that is something else."""
        return tokens if self.taught is self.train else self.with_theirs(texts, tokens)

    def with_theirs(self, texts: Dataset, tokens: Dataset) -> Dataset:
        """Rows as a teacher that reads other tokens reads them, beside the model's tokens of them."""
        assert self.theirs is not None
        limits = (self.max_length, self.theirs.max_length)
        shared = read_by_both(texts, self.data.task, self.tokenizer, self.theirs.tokenizer, *limits)
        return concatenate_datasets([tokens, shared], axis=1)

    def sample(self) -> tuple[Dataset, PreTrainedTokenizerBase]:
        """Training rows as the stage's teacher reads them, and its tokenizer."""
        if self.theirs is None or self.theirs.sample is None:
            return self.train, self.tokenizer
        return self.theirs.sample, self.theirs.tokenizer

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """What makes batches, of both sides' tokens where rows have them."""
        kind = self.data.task.kind
        own = kind.collator(self.tokenizer)
        return own if self.theirs is None else Collator(own, kind.collator(self.theirs.tokenizer))

    def batches(self, batch_size: int) -> dict[str, Batches]:
        """Of the validation rows, by suffix."""
        kind, found = self.data.task.kind, {}
        for suffix, rows in self.validation.items():
            own = batches_of(rows, kind, self.tokenizer, batch_size)
            if self.theirs is None:
                found[suffix] = Batches(own, own)
                continue
            theirs = batches_of(self.theirs.validation[suffix], kind, self.theirs.tokenizer, batch_size)
            both = self.theirs.both.get(suffix)
            found[suffix] = Batches(own, theirs, both and batches_by(both, self.collator(), batch_size))
        return found


def warn_of_unknown(tokens: Dataset, tokenizer: PreTrainedTokenizerBase, split: str) -> None:
    """Tell the user when the tokenizer knows little of the texts."""
    if (report := unknown(tokens, tokenizer, split)) is not None:
        console.print(f"warning: {report}")


def tokenized(
    data: TaskData,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    positions: int,
    other: OtherReader | None = None,
) -> Rows:
    """The rows as tokens for a model of so many positions; truncation is told to the user. other: the teacher, where
    that reads other tokens."""

    def tokens(dataset: Dataset, split: str) -> Dataset:
        encoded, report = tokenize(dataset, data.task, tokenizer, recipe.data.max_length, split, positions)
        if report is not None:
            console.print(f"note: {report}")
        warn_of_unknown(encoded, tokenizer, split)
        return encoded

    for note in data.notes:
        console.print(f"note: {note}", markup=False)
    train = tokens(data.train, "training") if data.train is not None else Dataset.from_dict({})
    validation = {suffix: tokens(rows, f"validation{suffix}") for suffix, rows in data.validation.items()}
    rows = Rows(data, train, validation, tokenizer, recipe.data.max_length)
    return rows if other is None else _read_again(rows, recipe.data.seed, other)


def _read_again(rows: Rows, seed: int, other: OtherReader) -> Rows:
    """The rows with those that the teacher reads."""
    data, task = rows.data, rows.data.task
    length = min(rows.max_length, other.positions)
    rows = replace(rows, theirs=TheirRows(other.tokenizer, length))

    def alone(dataset: Dataset, split: str) -> Dataset:
        encoded, report = tokenize(dataset, task, other.tokenizer, length, split, other.positions)
        if report is not None:
            console.print(f"note: as the teacher reads them, {report}")
        warn_of_unknown(encoded, other.tokenizer, split)
        return encoded

    def in_order(suffix: str, dataset: Dataset) -> Dataset:
        own = rows.validation[suffix]["length"][:]  # by which batches are made
        return alone(dataset, f"validation{suffix}").remove_columns("length").add_column("length", own)

    validation = {suffix: in_order(suffix, dataset) for suffix, dataset in data.validation.items()}
    compared = {suffix: rows.with_theirs(dataset, rows.validation[suffix])
                for suffix, dataset in data.validation.items() if task.kind.placed}
    theirs = TheirRows(other.tokenizer, length, validation, compared)
    if not other.teaches or data.train is None:
        return replace(rows, theirs=theirs)
    train = rows.with_theirs(data.train, rows.train)
    _tell_of_common_words(train)
    some = data.train.shuffle(seed=seed).select(range(min(SAMPLE_ROWS, len(data.train))))
    sample, _ = tokenize(some, task, other.tokenizer, length, "training", other.positions)
    return replace(rows, theirs=replace(theirs, train=train, sample=sample))


def _tell_of_common_words(train: Dataset) -> None:
    """What the relations will be between."""
    numbers = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in train.data.column(NUMBERS).chunks]
    share = sum(int((some >= 0).sum()) for some in numbers) / max(1, sum(map(len, numbers)))
    console.print(
        f"{'warning' if share < FEW_COMMON else 'note'}: the teacher reads other tokens, so words that both have are "
        f"compared; {share:.1%} of the model's tokens of the training texts are pieces of such"
    )
