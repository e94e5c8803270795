"""In which order the training rows come: by the seed and the epoch alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochLengthSampler(LengthGroupedSampler):
    """Length grouping whose order depends on the seed and the epoch alone, so that a run resumed in a later epoch
    sees the same batches as an unbroken one (the stock sampler draws from the global generator)."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        return super().__iter__()


class TogetherSampler(Sampler[int]):
    """Rows that belong together, one behind the other; the groups in an order that depends on the seed and the epoch
    alone. groups: what each row belongs to. lengths: where given, groups of like length come near one another."""

    def __init__(self, groups: Sequence[int], seed: int, batch_size: int, lengths: Sequence[int] | None = None) -> None:
        self.rows, self.seed, self.epoch = len(groups), seed, 0
        _, numbers = np.unique(np.asarray(groups), return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        self.members = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        together = max(1, batch_size * len(self.members) // max(1, self.rows))
        longest = None if lengths is None else [max(lengths[row] for row in group) for group in self.members]
        self.by_length = None if longest is None else EpochLengthSampler(together, longest, seed)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        if self.by_length is not None:
            self.by_length.set_epoch(self.epoch)
            order = list(self.by_length)
        else:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order = torch.randperm(len(self.members), generator=generator).tolist()
        return (int(row) for group in order for row in self.members[group])


@dataclass(frozen=True)
class Mixture:
    """Which inputs an epoch has, where rows without labels are mixed in: all `labelled` ones, and beside them
    `others_an_epoch` of the `others`, which stand behind them. Those come in passes over all of them, each in another
    order, and an epoch goes on where the one before ended: none comes again before each of them came once."""

    labelled: int
    others: int
    others_an_epoch: int

    def __len__(self) -> int:
        return self.labelled + self.others_an_epoch

    def rows(self, epoch: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
        """The places of an epoch's inputs [labelled + others_an_epoch], from 0. groups [labelled + others]: what each
        belongs to, where inputs that belong together come together; the end of an epoch may part some."""
        first, found = epoch * self.others_an_epoch, [np.arange(self.labelled)]
        numbers = np.arange(self.others) if groups is None else groups[self.labelled :]
        _, group = np.unique(numbers, return_inverse=True)
        left = self.others_an_epoch
        while left > 0:
            turn, start = divmod(first, self.others)
            rank = np.random.default_rng([seed, turn]).permutation(group.max() + 1)
            some = np.argsort(rank[group], kind="stable")[start : start + left]
            found.append(self.labelled + some)
            first, left = first + len(some), left - len(some)
        return np.concatenate(found)


def others_an_epoch(labelled: int, share: float) -> int:
    """How many inputs without labels are `share` of an epoch's inputs beside so many that have some."""
    return max(1, round(labelled * share / (1 - share)))


class MixedSampler(Sampler[int]):
    """An epoch's inputs of a mixture, in random order. groups, lengths: as `TogetherSampler` takes them."""

    def __init__(
        self,
        mixture: Mixture,
        seed: int,
        batch_size: int,
        groups: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.mixture, self.seed, self.batch_size, self.epoch = mixture, seed, batch_size, 0
        self.groups = None if groups is None else np.asarray(groups)
        self.lengths = None if lengths is None else np.asarray(lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.mixture)

    def __iter__(self) -> Iterator[int]:
        rows = self.mixture.rows(self.epoch, self.seed, self.groups)
        groups = range(len(rows)) if self.groups is None else self.groups[rows].tolist()
        lengths = None if self.lengths is None else self.lengths[rows].tolist()
        order = TogetherSampler(groups, self.seed, self.batch_size, lengths)
        order.set_epoch(self.epoch)
        return (int(rows[place]) for place in order)
