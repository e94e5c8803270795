"""The rows of a recipe as tokens, and what a user is told of them."""

from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dynackd.report.terminal import console
from dynackd.tasks.loading import TaskData
from dynackd.tasks.tokens import tokenize, unknown
from dynackd.training.recipe import Recipe


@dataclass(frozen=True)
class Rows:
    """A task's rows as the data hold them and as tokens: the training rows, which are none where they were not loaded,
    and the validation rows by suffix."""

    data: TaskData
    train: Dataset
    validation: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase


def warn_of_unknown(tokens: Dataset, tokenizer: PreTrainedTokenizerBase, split: str) -> None:
    """Tell the user when the tokenizer knows little of the texts."""
    if (report := unknown(tokens, tokenizer, split)) is not None:
        console.print(f"warning: {report}")


def tokenized(data: TaskData, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, positions: int) -> Rows:
    """The rows as tokens for a model of so many positions; truncation is told to the user."""

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
    return Rows(data, train, validation, tokenizer)
