"""The four CKD terms written straight from their formulas, one word after the other: slow, readable, in any dtype.

Run in float64 they are the truth that `terms.py` is held to; run in float32 they are the naive evaluation whose
error it may not exceed. hidden states [batch, layers, length, hidden], mask [batch, length], as in `terms.py`.
"""

import torch

DIVERGENCES = {
    "mse": lambda x: x * x,
    "l1": lambda x: abs(x),
    "smooth_l1": lambda x: x * x / 2 if abs(x) < 1 else abs(x) - 0.5,
}


def unit(vector):
    """vector / ‖vector‖, or 0 for the zero vector."""
    return vector / vector.norm() if bool((vector != 0).any()) else torch.zeros_like(vector)


def angle(i, j, k):
    """cos∠(i, j, k) = <e_ij, e_kj>."""
    return unit(i - j) @ unit(k - j)


def word_groups(student, teacher, mask):
    """(student points, teacher points, indices of the real ones): the words of each layer."""
    for b in range(student.shape[0]):
        real = [w for w in range(student.shape[2]) if mask[b, w]]
        for layer in range(student.shape[1]):
            yield student[b, layer], teacher[b, layer], real


def layer_groups(student, teacher, mask):
    """(student points, teacher points, indices): the layers of each real word."""
    for b in range(student.shape[0]):
        for word in range(student.shape[2]):
            if mask[b, word]:
                yield student[b, :, word], teacher[b, :, word], list(range(student.shape[1]))


def _log_softmax_of_cosines(points, i, others):
    return torch.stack([unit(points[i]) @ unit(points[j]) for j in others]).log_softmax(0)


def _kl(student, teacher, i, others):
    log_q, log_p = (_log_softmax_of_cosines(points, i, others) for points in (student, teacher))
    return (log_p.exp() * (log_p - log_q)).sum()


def _squared_error_of_distances(student, teacher, i, others):
    # The norm of a zero vector has no gradient; equal points are left at 0.
    def distance(points, j):
        return (points[i] - points[j]).norm() if bool((points[i] != points[j]).any()) else points.new_zeros(())

    return sum((distance(student, j) - distance(teacher, j)) ** 2 for j in others)


ROWS = {"cos": _kl, "l2": _squared_error_of_distances}


def pair(groups, distance, average):
    total, pairs, rows = 0, 0, 0
    for student, teacher, real in groups:
        for i in real:
            others = [j for j in real if j != i]
            if others:
                total = total + ROWS[distance](student, teacher, i, others)
                pairs, rows = pairs + len(others), rows + 1
    return total / max(1, {"pairs": pairs, "rows": rows}[average])


def triple(groups, window, divergence):
    """Both orders of i and k are visited, which changes no mean."""
    total, count = 0, 0
    for student, teacher, real in groups:
        for j in real:
            around = [i for i in real if i != j and (window is None or abs(i - j) <= window // 2)]
            for i in around:
                for k in around:
                    if i != k:
                        difference = angle(student[i], student[j], student[k]) - angle(
                            teacher[i], teacher[j], teacher[k]
                        )
                        total, count = total + DIVERGENCES[divergence](difference), count + 1
    return total / max(1, count)


def wr_pair(student, teacher, mask, distance="cos", average="pairs"):
    return pair(word_groups(student, teacher, mask), distance, average)


def wr_triple(student, teacher, mask, window=21, divergence="mse"):
    return triple(word_groups(student, teacher, mask), window, divergence)


def ltr_pair(student, teacher, mask, distance="cos", average="pairs"):
    return pair(layer_groups(student, teacher, mask), distance, average)


def ltr_triple(student, teacher, mask, divergence="mse"):
    return triple(layer_groups(student, teacher, mask), None, divergence)
