"""How good sub-networks are: how far their outputs are from the full network's, and the task's metric."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dynackd.measure.evaluation import batches_of, predict
from dynackd.search.held_out import HeldOut
from dynackd.search.keeping import Lines, add_loss, read_losses
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.network import Supernet
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.task import compute_fidelity, compute_metrics, main_metric

INPUTS = 32  # at a time
TEMPERATURE = 1.0
CLEAR = 2  # standard errors of a lead; it is that of the best of several, which one alone would let through too often
Batch = dict[str, Tensor]


def whole_batches(rows: Dataset, kind: Kind, tokenizer: PreTrainedTokenizerBase) -> list[Batch]:
    """Batches of about 32 inputs of like length; those that the kind wants together are in one batch."""
    lengths = np.asarray(rows["length"][:])
    group = np.asarray(rows[kind.together][:]) if kind.together else np.arange(len(rows))
    _, group = np.unique(group, return_inverse=True)
    longest = np.zeros(group.max() + 1, dtype=int)
    np.maximum.at(longest, group, lengths)
    order = np.lexsort((group, -longest[group]))
    collate, batches, members = kind.collator(tokenizer), [], list[int]()
    encoded = rows.remove_columns("length")
    for place, index in enumerate(order):
        members.append(int(index))
        last = place + 1 == len(order) or group[order[place + 1]] != group[index]
        if last and (len(members) >= INPUTS or place + 1 == len(order)):
            batches.append(collate([encoded[member] for member in members]))
            members = []
    return batches


class Judge:
    """Compares sub-networks of a supernet on the rows of the search, and keeps in a file what it found.

    A loss is the kind's `output_loss` of a sub-network's outputs against the full network's, a mean over all rows: it
    moves with every row, where a metric moves only with those on which an answer changes. Where there are smaller
    hidden sizes it is `loss_of_any_size`.
    """

    def __init__(self, supernet: Supernet, kind: Kind, batches: Sequence[Batch], lines: Lines) -> None:
        self.supernet, self.kind, self.lines = supernet.eval(), kind, lines
        device = next(supernet.parameters()).device
        self.batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
        self.known = read_losses(lines)
        self.compare = kind.loss_of_any_size if min(supernet.grid.hidden) < 1 else kind.output_loss
        self.expected: list[dict[str, Tensor]] = []

    def losses(self, subnets: Sequence[Subnet]) -> list[float]:
        """The losses of sub-networks, those that are not known evaluated and written down one by one."""
        for subnet in subnets:
            if subnet not in self.known:
                self.known[subnet] = self._loss(subnet)
                add_loss(self.lines, subnet, self.known[subnet])
        return [self.known[subnet] for subnet in subnets]

    @torch.inference_mode()
    def _loss(self, subnet: Subnet) -> float:
        if not self.expected:
            self.expected = [self._outputs(self.supernet.whole, batch) for batch in self.batches]
        total = count = 0.0
        for batch, expected in zip(self.batches, self.expected, strict=True):
            own = float(self.kind.output_count(batch))
            total += own * float(self.compare(self._outputs(subnet, batch), expected, batch, TEMPERATURE))
            count += own
        return total / max(count, 1.0)

    def _outputs(self, subnet: Subnet, batch: Batch) -> dict[str, Tensor]:
        inputs, _ = self.kind.split(batch)
        return self.kind.read(self.supernet(subnet, **inputs).outputs, inputs, self.supernet.model.config)


class Lead(NamedTuple):
    """By how much one sub-network is better than another by the metric, in the mean over parts of the rows, and the
    standard error of that mean; infinite where the rows are too few to tell."""

    mean: float
    error: float

    @property
    def clear(self) -> bool:
        return self.mean > CLEAR * self.error

    def to_dict(self) -> dict[str, Any]:
        known = float(self.error) if np.isfinite(self.error) else None
        return {"lead": self.mean, "lead_error": known, "clear": self.clear}


class Metric:
    """The number by which the best are chosen: the task's main metric on the rows of the choice, or, where rows have no
    labels to measure with, the first number of how closely the full network is followed that every hidden size has."""

    def __init__(self, supernet: Supernet, held_out: HeldOut, tokenizer: PreTrainedTokenizerBase) -> None:
        self._supernet, self._held_out, self._tokenizer = supernet, held_out, tokenizer
        task = held_out.task
        expected, labels = self._predict(supernet.whole, held_out.choice)
        self._by_labels = main_metric(task) in compute_metrics(task, expected, labels)
        self.name = main_metric(task) if self._by_labels else self._fidelity(expected, labels)
        self.lower_is_better = self.name in task.kind.lower_is_better

    def _fidelity(self, expected: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> str:
        narrow = self._supernet.resolve(SubnetSpec(hidden=min(self._supernet.grid.hidden)))
        outputs, _ = self._predict(narrow, self._held_out.choice)
        return next(iter(compute_fidelity(self._held_out.task, outputs, expected, labels)))

    def of(self, subnet: Subnet) -> float:
        """Of a sub-network."""
        return self._on(subnet, self._held_out.choice, self._held_out.task)

    def lead(self, own: Subnet, other: Subnet) -> Lead:
        """Of one sub-network before another."""
        blocks = self._held_out.blocks
        values = np.asarray([[self._on(subnet, *block) for block in blocks] for subnet in (own, other)])
        leads = np.subtract(*values) * (-1 if self.lower_is_better else 1)
        leads = leads[np.isfinite(leads)]  # of a correlation where all values are alike there is none
        if len(leads) < max(2, len(blocks) // 2):
            return Lead(0.0, np.inf)
        return Lead(float(leads.mean()), float(leads.std(ddof=1) / np.sqrt(len(leads))))

    def _on(self, subnet: Subnet, rows: Dataset, task: Task) -> float:
        outputs, labels = self._predict(subnet, rows)
        if self._by_labels:
            return compute_metrics(task, outputs, labels)[self.name]
        expected, _ = self._predict(self._supernet.whole, rows)
        return compute_fidelity(task, outputs, expected, labels)[self.name]

    def reaches(self, value: float, least: float | None) -> bool:
        """Whether a value is as good as it must be."""
        return least is None or (value <= least if self.lower_is_better else value >= least)

    def rank(self, value: float) -> float:
        """A number that is the smaller the better."""
        return value if self.lower_is_better else -value

    def _predict(self, subnet: Subnet, rows: Dataset) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        kind = self._held_out.task.kind
        (outputs,), labels = predict(self._supernet, [subnet], kind, batches_of(rows, kind, self._tokenizer, INPUTS))
        return outputs, labels
