"""In which order the training rows come: by the seed and the epoch alone."""

from collections.abc import Iterator, Sequence

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
