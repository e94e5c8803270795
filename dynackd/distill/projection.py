"""A learned map of students' hidden states into a teacher's hidden space, for the term `hidden_projected_mse`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynackd.tasks.losses import wide

TERM = "hidden_projected_mse"


class Projection(nn.Module):
    """As TinyBERT has it (Jiao et al. 2020, equations 8 and 9): a matrix for the embedding output and one for all
    layers, without a bias, learned along with the students and of no use after that.

    All sub-networks have the same matrices; of a smaller hidden size they use the first columns.
    """

    def __init__(self, own: int, theirs: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the draws of a training do not depend on whether this is there
            torch.manual_seed(seed)
            self.embedding = nn.Linear(own, theirs, bias=False)
            self.layers = nn.Linear(own, theirs, bias=False)

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """The embedding output and each layer's, [batch, length, own] -> [batch, length, theirs], float32 or better."""
        maps = [self.embedding, *[self.layers] * (len(states) - 1)]
        with torch.autocast(states[0].device.type, enabled=False):
            return [F.linear(wide(h), own.weight[:, : h.shape[-1]].to(wide(h).dtype))
                    for h, own in zip(states, maps, strict=True)]
