"""The four terms of contextual knowledge distillation (CKD) as pure functions of two models' hidden states.

Paper: Park, Kim and Yang, "Distilling Linguistic Context for Language Model Compression", EMNLP 2021, pages 364-378:
its word relations (WR) and layer-transforming relations (LTR), each pair-wise and triple-wise, and their losses. In
training all of them are made together (`signals.py`); the relations, their comparison and gradients are in
`relations.py`.
"""

from typing import Any

from torch import Tensor

from dynackd.distill.relations import RELATION_TERMS, Share, join, measure, plain, relation_losses
from dynackd.distill.settings import DistillationSettings
from dynackd.errors import UserError


def _relation_term(
    name: str, student_hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor, **options: Any
) -> Tensor:
    _check_hidden(student_hidden, teacher_hidden, attention_mask)
    settings, term = DistillationSettings(weights={name: 1.0}, **options), RELATION_TERMS[name]
    how = settings.how(term.arrangement)
    with plain(attention_mask.device):
        chunks = measure([teacher_hidden], attention_mask, [term.arrangement])
        teacher = join(term.arrangement, [term.relate(points, how) for (points,) in chunks])
    stack, share = tuple(range(student_hidden.shape[1])), Share(term, how, 1.0, lambda places: teacher)
    return relation_losses([student_hidden], attention_mask, [stack], {name: share}, [1.0])[0]


def _check_hidden(student_hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (student_hidden, teacher_hidden, attention_mask)]
    student, teacher, mask = shapes
    if len(student) != 4 or student[:3] != teacher[:3] or mask != (student[0], student[2]):
        raise UserError(
            f"hidden states must be [batch, layers, length, hidden] with the same first three sizes and the mask "
            f"[batch, length]; the student's are {student}, the teacher's {teacher}, the mask is {mask}"
        )


def wr_pair(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    attention_mask: Tensor,
    *,
    distance: str = "cos",
    average: str = "pairs",
) -> Tensor:
    """Word relation, pair-wise (CKD, Park, Kim, Yang, EMNLP 2021: WR).

    For each layer and word i the cosines to the other words make a distribution, p_ij = softmax over j ≠ i of
    cos(h_i, h_j), and the loss is KL(teacher ‖ student) = Σ_ij p_ij·(log p_ij − log q_ij), divided by the count that
    `average` names. With distance "l2" it is Σ_ij (‖h_i − h_j‖_student − ‖h_i − h_j‖_teacher)²: distances, not
    their squares. Only pairs of two different real words take part.

    student_hidden [batch, layers, length, hidden_s], teacher_hidden [batch, layers, length, hidden_t], attention_mask
    [batch, length] -> scalar. average "pairs": per ordered pair i ≠ j (the authors divide by the number of pairs with
    the diagonal, so theirs is (n − 1)/n of ours for a sentence of n words); "rows": per word i.
    """
    options = {"distance": distance, "average": average}
    return _relation_term("wr_pair", student_hidden, teacher_hidden, attention_mask, **options)


def wr_triple(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    attention_mask: Tensor,
    *,
    window: int | None = 21,
    divergence: str = "mse",
) -> Tensor:
    """Word relation, triple-wise (CKD, Park, Kim, Yang, EMNLP 2021: WR).

    For each layer the angle at j: cos∠(i, j, k) = <e_ij, e_kj>, e_ij = (h_i − h_j)/‖h_i − h_j‖ (0 for equal vectors),
    for i and k among the `window` words centred on j. The loss is the mean over triples of (student − teacher)². Each
    triple of three different real words counts once: i < k (with both orders the mean would be the same); i = k is
    left out, since its cosine is 1 on both sides and only dilutes the mean. A window is counted in positions, cut off
    at the ends of the sentence; None means all words.

    student_hidden [batch, layers, length, hidden_s], teacher_hidden [batch, layers, length, hidden_t], attention_mask
    [batch, length] -> scalar. divergence: a name in DIVERGENCES.
    """
    options = {"window": window, "divergence": divergence}
    return _relation_term("wr_triple", student_hidden, teacher_hidden, attention_mask, **options)


def ltr_pair(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    attention_mask: Tensor,
    *,
    distance: str = "cos",
    average: str = "pairs",
) -> Tensor:
    """Layer-transforming relation, pair-wise (CKD, Park, Kim, Yang, EMNLP 2021: LTR).

    As `wr_pair`, where the points are the representations of one word at all layers instead of the words of one layer.
    """
    options = {"distance": distance, "average": average}
    return _relation_term("ltr_pair", student_hidden, teacher_hidden, attention_mask, **options)


def ltr_triple(
    student_hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor, *, divergence: str = "mse"
) -> Tensor:
    """Layer-transforming relation, triple-wise (CKD, Park, Kim, Yang, EMNLP 2021: LTR).

    As `wr_triple`, where the points are the representations of one word at all layers, without a window.
    """
    return _relation_term("ltr_triple", student_hidden, teacher_hidden, attention_mask, divergence=divergence)
