"""Whether a teacher knows the labels: its own answers on labelled rows, compared with what the data say."""

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dynackd.measure.evaluation import batches_of, predict
from dynackd.supernet.network import Supernet
from dynackd.tasks.doubts import Doubt, doubt_of_sameness
from dynackd.tasks.loading import TaskData
from dynackd.tasks.parts import Arrays

SAMPLE_ROWS = 512


def doubt(teacher: Supernet, data: TaskData, rows: Dataset, tokenizer: PreTrainedTokenizerBase, seed: int
          ) -> Doubt | None:
    """What a sample of at most 512 of the tokenised `rows` says against the teacher, or None."""
    sample, kind = _sampled(rows, data.task.kind.together, seed), data.task.kind
    (outputs,), labels = predict(teacher, [teacher.whole], kind, batches_of(sample, kind, tokenizer, 64))
    return doubt_of(outputs, labels, data)


def _sampled(rows: Dataset, together: str | None, seed: int) -> Dataset:
    """At most 512 random rows; where they belong together by a column, such as a query's passages, as many whole groups
    as these hold, or one."""
    if together not in rows.column_names:
        return rows.shuffle(seed=seed).select(range(min(SAMPLE_ROWS, len(rows))))
    _, group, sizes = np.unique(rows[together][:], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen = order[: max(1, int(np.count_nonzero(sizes[order].cumsum() <= SAMPLE_ROWS)))]
    return rows.select(np.flatnonzero(np.isin(group, chosen)))


def doubt_of(outputs: Arrays, labels: Arrays, data: TaskData) -> Doubt | None:
    """What a teacher's flat outputs on some rows say against it; without labels only what they say by themselves."""
    if not all(np.isfinite(array).all() for array in outputs.values()):
        return Doubt("the teacher's outputs are not finite numbers", True)
    return (data.task.kind.doubt(outputs, labels, data.labels) if labels else None) or doubt_of_sameness(outputs)
