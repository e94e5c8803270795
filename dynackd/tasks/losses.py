"""The losses of which kinds are made, in float32 or better under any autocast."""

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits [..., classes] with class ids [...], of which -100 is none: a mean over the others."""
    return F.cross_entropy(wide(logits).flatten(0, -2), labels.reshape(-1))


def squared_error(values: Tensor, expected: Tensor) -> Tensor:
    """The mean squared error of values that may lack a last axis of 1."""
    values = wide(values)
    return F.mse_loss(values.reshape(-1), expected.reshape(-1).to(values.dtype))


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """−T²·Σ softmax(teacher / T)·log softmax(student / T) of logits [..., classes], mean over all but the last axis.

    The factor T² keeps the size of the gradient independent of T (Hinton, Vinyals, Dean 2015, section 2). The loss is
    not 0 but the teacher's entropy when the student equals the teacher.
    """
    soft = (wide(teacher) / temperature).softmax(-1) * (wide(student) / temperature).log_softmax(-1)
    return -(temperature**2) * soft.sum(-1).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of sigmoid(logits) [rows, labels] with 0 and 1 of the same shape: a mean over rows and labels."""
    logits = wide(logits)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def soft_binary_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """−T²·[p·log σ(student / T) + (1 − p)·log σ(−student / T)] with p = σ(teacher / T): a mean over rows and labels.

    As `soft_cross_entropy`, for labels that do not exclude one another: T² and a least value above 0.
    """
    logits, soft = wide(student) / temperature, (wide(teacher) / temperature).sigmoid()
    return temperature**2 * F.binary_cross_entropy_with_logits(logits, soft.to(logits.dtype))


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Cosines of vectors [..., size], which are broadcast: [...]."""
    return (unit(one) * unit(other)).sum(-1)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., size] at length 1."""
    return F.normalize(wide(vectors), dim=-1)


def signed_sum(output: Tensor) -> Tensor:
    """An output [rows, ...] summed with fixed random signs, a mean over rows.

    Its slope along any change says how far the output moves by that, whichever way and whatever its size: the mean
    square over signs is the squared length of the output's derivative (Hutchinson 1990). What has no labels to be wrong
    about is judged by this.
    """
    signs = torch.randint(2, output.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (wide(output) * signs.to(output.device)).sum() / len(output)
