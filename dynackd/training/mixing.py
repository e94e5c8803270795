"""Rows without labels (`data.unlabelled`) mixed into a stage of the supernet."""

import math

import numpy as np
from datasets import Dataset
from transformers import TrainingArguments

from dynackd.report.terminal import console
from dynackd.tasks.loading import taken
from dynackd.tasks.unlabelled import mixed, tokenize_unlabelled
from dynackd.training.lengths import epoch_steps
from dynackd.training.order import Mixture, others_an_epoch
from dynackd.training.rows import Rows, warn_of_unknown
from dynackd.training.runs import Run


def mixed_in(run: Run, rows: Rows) -> tuple[Dataset, Mixture | None]:
    """The training inputs of a stage, and which of them an epoch has: where there are rows without labels, those with
    labels come once each and the others beside them, as many as their share says.

    Only as many of the others as the stage will use are tokenised, chosen by `data.seed`: so many rows as become these
    inputs, judged by what the rows with labels become.
    """
    texts, source, data = rows.data.unlabelled, run.recipe.data, rows.data
    if texts is None:
        return rows.taught, None
    assert data.train is not None
    wanted = others_of(run, rows)
    most = wanted * _epochs(run.arguments, len(rows.train) + wanted)
    task, each = data.task, max(1.0, len(rows.train) / len(data.train))
    count = math.ceil(most / each)
    while True:
        used_texts = texts.select(np.sort(taken(len(texts), count, source.seed)[0]))
        tokens = tokenize_unlabelled(used_texts, task, rows.tokenizer, source.max_length, rows.train, len(data.train))
        if len(tokens) >= most or count >= len(texts):
            break
        count = math.ceil(1.1 * count * most / max(1, len(tokens)))  # these become fewer inputs than labelled rows do
    warn_of_unknown(tokens, rows.tokenizer, "unlabelled")
    used = "" if len(used_texts) == len(texts) else f", of which {len(used_texts):,} are used"
    console.print(
        f"note: {len(texts):,} rows without labels{used}; {wanted:,} beside the {len(rows.train):,} "
        f"{task.kind.input_noun} with labels in an epoch" + _told(tokens, wanted, source.max_length)
    )
    return mixed(rows.taught, rows.for_teacher(used_texts, tokens)), Mixture(len(rows.train), len(tokens), wanted)


def others_of(run: Run, rows: Rows) -> int:
    """The inputs without labels of an epoch."""
    return 0 if rows.data.unlabelled is None else others_an_epoch(len(rows.train), run.recipe.data.unlabelled_share)


def _epochs(arguments: TrainingArguments, inputs: int) -> int:
    """How many epochs, the last one perhaps in part, of so many inputs the training has."""
    if arguments.max_steps <= 0:
        return math.ceil(arguments.num_train_epochs)
    return math.ceil(arguments.max_steps / epoch_steps(arguments, inputs))


def _told(tokens: Dataset, wanted: int, max_length: int) -> str:
    full = int((np.asarray(tokens["length"][:]) == max_length).sum())
    cut = f"; {full:,} fill {max_length} tokens, and what was longer is cut" if full else ""
    often = f", so that each comes about {wanted / len(tokens):.1f} times" if wanted > len(tokens) else ""
    return often + cut
