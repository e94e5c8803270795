"""The relations that CKD distils: what they are made of, how student and teacher are compared, and the gradient.

Everything that CKD measures is a relation between *points* of one hidden space: the words of a sentence at one layer
(WR), or one word at all matched layers (LTR). So there are two ways to arrange the hidden states into groups of
points, and two kinds of relation over a group, which make the four terms:

                             pair_wise: cosines (or distances)      triple_wise: angles
    words of a layer         wr_pair                                wr_triple
    layers of a word         ltr_pair                               ltr_triple

Each relation follows from the Gram matrix G of a group, whose size does not depend on the hidden size. With the squared
distances D²_ij = G_ii + G_jj − 2·G_ij the angle at j is cos∠(i, j, k) = (D²_ij + D²_jk − D²_ik) / (2·d_ij·d_jk), so no
difference vector is ever made. The subtractions cancel digits, which is why everything from the Gram matrices on is in
float64, whatever the dtype of the hidden states and whatever autocast says. With the cosines of triples in float32
instead, the terms took 10 % less time, and the error of nearly parallel vectors exceeded the naive evaluation's.

One module because each relation's value, its comparison and its gradient are one piece of mathematics over the same
chunks: a change of one without the others is a wrong gradient, and side by side they are read and tested together.

Shapes: B sentences, K matched layers (the embedding output counts as one), L words, H hidden size. A group holds P
points: P = L, K groups a sentence for WR; P = K, L groups a sentence for LTR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Vectors of one chunk of sentences, in elements, for each thread: large enough to keep it busy, small enough to
# stay in its cache and for the allocator to reuse the memory (from 32 MiB on glibc fetches fresh pages every time).
CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
# Below this share of the largest squared norm of its group, a squared distance from the Gram matrix may have lost more
# than half its digits, and is computed again from the difference itself.
CLOSE = 1e-8


@dataclass(frozen=True)
class How:
    """How a relation is made and compared; see `DistillationSettings`. window: None where all triples count."""

    window: int | None = None
    distance: str = "cos"
    average: str = "pairs"
    divergence: str = "mse"


# ---------------------------------------------------------------------------------------------------- points


@dataclass(frozen=True)
class Points:
    """Groups of P points as the relations see them: what is left of the hidden states.

    gram: inner products, squared_distances: both [B, groups, P, P]. pairs: where both points are real and differ, bool,
    [B, 1 or groups, P, P]; squared_distances is 0 elsewhere.
    """

    gram: Tensor
    squared_distances: Tensor
    pairs: Tensor

    def select(self, places: Sequence[int]) -> Points:
        """The same groups with only the points at these places."""
        at = index(places)
        return Points(*(x[..., at, :][..., at] for x in (self.gram, self.squared_distances, self.pairs)))


def index(places: Sequence[int]) -> slice | list[int]:
    """Index of these places: a slice, which copies nothing, where they follow one another."""
    span = range(places[0], places[-1] + 1)
    return slice(span.start, span.stop) if list(places) == list(span) else list(places)


@dataclass(frozen=True)
class Arrangement:
    """How vectors [K, b, L, H] make groups of points. All but `real` return views.

    groups(vectors): [b, groups, P, H]. flat(vectors): the same as [b·groups, P, H], in whichever order needs no copy.
    nest(gram, b): what belongs to `flat`, [b·groups, P, P], back as [b, groups, P, P]. real(mask [b, L], K): which
    points are words and no padding, [b, groups, P]. windowed: the points have an order, and of their triples only those
    within the window count. many_small: groups of few points, whose matrices have the groups innermost in memory, since
    rows so short would be slow.
    """

    windowed: bool
    many_small: bool
    groups: Callable[[Tensor], Tensor]
    flat: Callable[[Tensor], Tensor]
    nest: Callable[[Tensor, int], Tensor]
    real: Callable[[Tensor, int], Tensor]


# WR: a group is a layer of a sentence, its points are the words.
WORDS = Arrangement(
    windowed=True,
    many_small=False,
    groups=lambda vectors: vectors.transpose(0, 1),
    flat=lambda vectors: vectors.flatten(0, 1),
    nest=lambda gram, batch: gram.unflatten(0, (-1, batch)).transpose(0, 1),
    real=lambda mask, layer_count: mask.bool()[:, None, :].expand(-1, layer_count, -1),
)
# LTR: a group is a word, its points are the layers.
LAYERS = Arrangement(
    windowed=False,
    many_small=True,
    groups=lambda vectors: vectors.permute(1, 2, 0, 3),
    flat=lambda vectors: vectors.flatten(1, 2).transpose(0, 1),
    nest=lambda gram, batch: gram.unflatten(0, (batch, -1)),
    real=lambda mask, layer_count: mask.bool()[:, :, None].expand(-1, -1, layer_count),
)


def _chunks(parts: Sequence[Tensor], mask: Tensor, blocks: int = 1) -> Iterator[tuple[slice, Tensor]]:
    """Chunk by chunk of the sentences: their rows in the batch, and their vectors, valid until the next chunk.

    parts: hidden states [B, k, L, H] whose layers follow one another: one tensor of all layers, or one tensor a layer.
    blocks: into how many the words' layers fall; on a CPU several take at least two threads' size, not to be too small.
    """
    layers, sizes = sum(part.shape[1] for part in parts), parts[0].shape[2:]
    limit = CHUNK_ELEMENTS.get(mask.device.type, CHUNK_ELEMENTS["cuda"])
    limit *= max(min(torch.get_num_threads(), 4), min(blocks, 2)) if mask.device.type == "cpu" else 1
    step = max(1, min(len(mask), limit // max(1, layers * sizes.numel())))
    memory = parts[0].new_empty(layers * step * sizes.numel(), dtype=_wide(mask))  # once: fresh pages are slow
    for start in range(0, max(1, len(mask)), step):
        rows = slice(start, start + step)
        yield rows, _vectors(parts, mask[rows], rows, _first(memory, (layers, len(mask[rows]), *sizes)))


def _wide(mask: Tensor) -> torch.dtype:
    return torch.float32 if mask.device.type == "mps" else torch.float64  # mps has no float64


def _first(memory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As much of flat memory as the shape needs."""
    return memory[: torch.Size(shape).numel()].view(shape)


def _vectors(parts: Sequence[Tensor], mask: Tensor, rows: slice, vectors: Tensor) -> Tensor:
    """Fills vectors [K, b, L, H] with the sentences `rows` of the hidden states, 0 at padded places."""
    for part, place in zip(parts, _split_layers(vectors, parts), strict=True):
        place.copy_(part[rows].transpose(0, 1))
    padded = (~mask.bool()).flatten().nonzero()[:, 0]
    return vectors.flatten(1, 2).index_fill_(1, padded, 0).view_as(vectors)  # no product: NaN may be there


def _split_layers(vectors: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return vectors.split([part.shape[1] for part in parts])


def _gram(arrangement: Arrangement, vectors: Tensor) -> Tensor:
    """[K, b, L, H] -> the inner products within each group, [b·groups, P, P]."""
    flat = arrangement.flat(vectors)
    return _laid_out(arrangement, flat @ flat.mT)


def _laid_out(arrangement: Arrangement, matrices: Tensor) -> Tensor:
    """Matrices [..., P, P] in the order in memory that the arrangement's have."""
    if not arrangement.many_small:
        return matrices
    return matrices.movedim((-2, -1), (0, 1)).contiguous().movedim((0, 1), (-2, -1))


def _points(arrangement: Arrangement, flat_gram: Tensor, vectors: Tensor, mask: Tensor) -> Points:
    """The points of vectors [K, b, L, H]; their distances are differentiable with respect to the Gram matrix."""
    gram = arrangement.nest(flat_gram, len(mask))
    pairs = _laid_out(arrangement, _pairs(arrangement.real(mask, len(vectors))))
    return Points(gram, _SquaredDistances.apply(gram, arrangement.groups(vectors), pairs), pairs)


def _pairs(real: Tensor) -> Tensor:
    """[B, groups, P] -> where both points are real and differ; one group stands for all where they are alike."""
    if real.stride(1) == 0:
        real = real[:, :1]
    same = torch.eye(real.shape[-1], dtype=torch.bool, device=real.device)
    return real[..., :, None] & real[..., None, :] & ~same


class _SquaredDistances(torch.autograd.Function):
    """The squared distances of `Points`, whose gradient is always that of G_ii + G_jj − 2·G_ij."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor, vectors: Tensor, pairs: Tensor) -> Tensor:
        norms = gram.diagonal(dim1=-2, dim2=-1)
        distances = norms[..., :, None] + norms[..., None, :]
        distances.sub_(gram, alpha=2).masked_fill_(~pairs, 0)
        close = (distances < CLOSE * norms.amax(-1)[..., None, None]).logical_and_(pairs)
        _recompute(distances, vectors, close)
        return distances

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The gradient is 0 where there is no pair, as every relation's is."""
        grad_gram = grad * -2
        grad_gram.diagonal(dim1=-2, dim2=-1).add_(grad.sum(-1)).add_(grad.sum(-2))
        return grad_gram, None, None


def _recompute(distances: Tensor, vectors: Tensor, close: Tensor) -> None:
    """Takes the values at `close` from the differences of the vectors."""
    for batch, group, i, j in (some.unbind(-1) for some in close.nonzero().split(1024)):
        distances[batch, group, i, j] = (vectors[batch, group, i] - vectors[batch, group, j]).square().sum(-1)


# ---------------------------------------------------------------------------------------------------- pairs


def _cosines(points: Points) -> tuple[Tensor, Tensor]:
    """cos(h_i, h_j), 0 for a zero vector, and 1/‖h_i‖: [B, groups, P, P] and [B, groups, P]."""
    norms = points.gram.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(norms > 0, norms, 1).rsqrt()
    return (points.gram * inverse[..., :, None]).mul_(inverse[..., None, :]), inverse


def _log_softmax(cosines: Tensor, pairs: Tensor) -> Tensor:
    """log softmax over j ≠ i, [B, groups, P, P]; next to nothing where i, j is no pair, and finite.

    Cosines need no shift by their largest, and so this keeps the order in memory, which F.log_softmax would not.
    """
    logs = cosines.masked_fill(~pairs, -1e4)
    sums = logs.exp().sum(-1, keepdim=True)
    return logs.sub_(sums.clamp_(min=torch.finfo(sums.dtype).tiny).log_())


def _relate_cosines(points: Points) -> Tensor:
    return _log_softmax(_cosines(points)[0], points.pairs)


def _compare_cosines(points: Points, teacher: Tensor) -> Tensor:
    return _CosineDivergence.apply(points.gram, points, teacher)


class _CosineDivergence(torch.autograd.Function):
    """Σ p·(log p − log q), p the teacher's and q the student's softmax of cosines, and its gradient.

    The derivative with respect to a cosine is q − p; that with respect to a squared norm, −c/2 over the squared norm.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, points: Points, teacher: Tensor) -> Tensor:
        cosines, inverse = _cosines(points)
        student, soft = _log_softmax(cosines, points.pairs), teacher.exp()
        value = (teacher - student).mul_(soft).sum()
        grad = student.exp_().sub_(soft)
        cosines.mul_(grad)
        grad_norms = (cosines.sum(-1) + cosines.sum(-2)).mul_(inverse).mul_(inverse).mul_(-0.5)
        grad.mul_(inverse[..., :, None]).mul_(inverse[..., None, :]).diagonal(dim1=-2, dim2=-1).add_(grad_norms)
        ctx.grad = grad
        return value

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _scaled(ctx, grad_value), None, None


def _scaled(ctx: Any, grad_value: Tensor) -> Tensor:
    """The gradient that a term made in its forward pass, for the one backward pass within `_RelationLosses`."""
    grad, ctx.grad = ctx.grad, None
    return grad.mul_(grad_value)


def _distances(points: Points) -> Tensor:
    """‖h_i − h_j‖ (not squared), [B, groups, P, P]; 0 where i, j is no pair."""
    apart = points.squared_distances > 0
    return torch.where(apart, points.squared_distances, 1).sqrt().masked_fill(~apart, 0)


def _compare_distances(points: Points, teacher: Tensor) -> Tensor:
    return (_distances(points) - teacher).square().sum()


# distance -> (relation of a pair, how the student's points are compared with the teacher's relation)
PAIR_RELATIONS: dict[str, tuple[Callable[[Points], Tensor], Callable[[Points, Tensor], Tensor]]] = {
    "cos": (_relate_cosines, _compare_cosines),
    "l2": (_distances, _compare_distances),
}


def _count_pairs(real: Tensor) -> Tensor:
    count = real.sum(-1)
    return (count * (count - 1)).sum()


def _count_rows(real: Tensor) -> Tensor:
    count = real.sum(-1)
    return (count * (count > 1)).sum()


# average -> what the sum over all pairs is divided by
AVERAGES: dict[str, Callable[[Tensor], Tensor]] = {"pairs": _count_pairs, "rows": _count_rows}


def _relate_pairs(points: Points, how: How) -> Tensor:
    return PAIR_RELATIONS[how.distance][0](points)


def _compare_pairs(points: Points, teacher: Tensor, how: How) -> Tensor:
    return PAIR_RELATIONS[how.distance][1](points, teacher)


def _count_pair_terms(real: Tensor, how: How) -> Tensor:
    return AVERAGES[how.average](real)


# ---------------------------------------------------------------------------------------------------- triples


def _smooth_l1(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, x.square() / 2, x.abs() - 0.5)


# divergence -> (its sum, its derivative over `factor`, factor) over the differences of two cosines; the derivative may
# overwrite them
DIVERGENCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float]] = {
    "mse": (lambda x: x.flatten().dot(x.flatten()), lambda x: x, 2.0),
    "l1": (lambda x: x.abs().sum(), lambda x: x.sign_(), 1.0),
    "smooth_l1": (lambda x: _smooth_l1(x).sum(), lambda x: x.clamp_(-1, 1), 1.0),
}


def _half_window(how: How, point_count: int) -> int:
    """How far i and k may be from j."""
    return point_count - 1 if how.window is None else min(how.window // 2, point_count - 1)


def _relate_triples(points: Points, how: How) -> Tensor:
    """The squared distances that the angles need. Within a window narrower than the points a band: [B, groups, P,
    reach + 1] holds D²(i, i + δ) at [i, δ], else 0."""
    count = points.squared_distances.shape[-1]
    half = _half_window(how, count)
    if half == count - 1:
        return points.squared_distances
    reach = min(2 * half, count - 1)
    return _band(F.pad(points.squared_distances, (0, reach)).contiguous(), reach)


def _band(padded: Tensor, reach: int) -> Tensor:
    """The view [B, groups, P, reach + 1] of the entries (i, i + δ) of a contiguous square with `reach` more columns."""
    batch, groups, count, stride = padded.shape
    strides = (groups * count * stride, count * stride, stride + 1, 1)
    return padded.as_strided((batch, groups, count, reach + 1), strides)


def _compare_triples(points: Points, teacher: Tensor, how: How) -> Tensor:
    return _AngleDivergence.apply(points.squared_distances, points, teacher, how)


class _AngleDivergence(torch.autograd.Function):
    """Σ over triples i < k of f(cos∠(i, j, k) of the student − that of the teacher), and its gradient.

    The gradient is written down by hand and made in the forward pass, one i after the other for all j and k, so that
    nothing of the size of all triples is ever kept. With s = 1/(2·d_ij·d_jk) and c the cosine,

        ∂c/∂D²_ik = −s        ∂c/∂D²_ij = s − c/(2·D²_ij)        ∂c/∂D²_jk = s − c/(2·D²_jk)

    Tried and dropped: the teacher's cosines kept from one sub-network to the next would take at most 13 % off this term
    (3 % off all four), in as much memory as the teacher's hidden states, and nothing off the depth stage, where each
    teacher meets a stack of layers once. Preallocated temporaries gain nothing.
    """

    @staticmethod
    def forward(ctx: Any, distances: Tensor, points: Points, teacher: Tensor, how: How) -> Tensor:
        sum_of, derivative_of, factor = DIVERGENCES[how.divergence]
        angles = _Angles(_relate_triples(points, how), teacher, how)
        value = distances.new_zeros(())
        for i, k, span in angles.places():
            cosines = angles.cosines(i, k, span)
            difference = cosines[0] - cosines[1]
            value += sum_of(difference)
            angles.add_gradient(cosines, derivative_of(difference), i, k, span)
        ctx.grad = angles.gradient(distances.shape).mul_(factor)
        return value

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return _scaled(ctx, grad_value), None, None, None


Place = tuple[Any, ...]


def _place(first: slice, second: slice) -> Place:
    """Index of the last dimensions but one."""
    return ..., first, second, slice(None)


class _Angles:
    """The angles of the student and the teacher, for one i and all centres j and all k behind i at once.

    Takes what `_relate_triples` returns for both. n = B·groups comes last, so that all work is on long contiguous rows.
    sides [2, centres, P, n]: how far i (or k) is from the centre j. Within a window narrower than the points it is
    sides[:, half + t, j] = D²(j, j + t); else sides[:, j, i] = D²(i, j).
    spans: how far i is from k. Within a window spans[:, δ, i] = D²(i, i + δ), else the sides.
    inverses: 1/(√2·d) of the sides, so that the product of two is s; 0 where a point is not real or there is no length.
    roots: d/√2. So the cosine is (roots_k + (D²_ij − D²_ik)·inverses_k)·inverses_i.
    """

    def __init__(self, student: Tensor, teacher: Tensor, how: How) -> None:
        self.groups, (*_, self.count, width) = student.shape[:2], student.shape
        both = student.new_empty(2, width, self.count, *self.groups)
        for place, relation in zip(both, (student, teacher), strict=True):
            place.copy_(relation.permute(3, 2, 0, 1))
        self.spans = both.flatten(3)
        self.half = _half_window(how, self.count)
        self.windowed = self.half < self.count - 1
        self.sides = self._sides() if self.windowed else self.spans
        self.inverses = F.threshold(self.sides, 0, torch.inf).mul_(2).rsqrt_()
        self.roots = self.sides * self.inverses
        self.grad_sides = torch.zeros_like(self.sides)  # of s, and of the logarithm of d
        self.grad_spans = torch.zeros_like(self.spans[0])

    def _sides(self) -> Tensor:
        sides = self.spans.new_zeros(2, 2 * self.half + 1, *self.spans.shape[2:])
        for t in range(1, self.half + 1):
            for place in self._at_distance(sides, t):
                place.copy_(self.spans[:, t, : self.count - t])
        return sides

    def _at_distance(self, sides: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The two places of D²(i, i + t) in windowed `sides`, each [2, P − t, n]: seen from i and from i + t."""
        return sides[:, self.half + t, : self.count - t], sides[:, self.half - t, t:]

    def places(self) -> Iterator[tuple[Place, Place, Place]]:
        """For each i: where `sides` holds it, where those k behind it, and where `spans` what is between them."""
        if not self.windowed:
            all_of = slice(None)
            for i in range(self.count - 1):
                one, behind = slice(i, i + 1), slice(i + 1, None)
                yield _place(all_of, one), _place(all_of, behind), _place(one, behind)
        else:
            reach = self.spans.shape[1] - 1
            for t in (t for t in range(-self.half, self.half) if t):  # i = j + t
                most, at = min(self.half - t, reach), self.half + t
                start, stop = max(0, -t), self.count - max(0, t)
                centres, spans = slice(start, stop), slice(start + t, stop + t)
                of_i, of_k = slice(at, at + 1), slice(at + 1, at + 1 + most)
                yield _place(of_i, centres), _place(of_k, centres), _place(slice(1, most + 1), spans)

    def cosines(self, i: Place, k: Place, span: Place) -> Tensor:
        """cos∠(i, j, k) of student and teacher, 0 where a point is not real or there is no length."""
        cosines = self.sides[i] - self.spans[span]
        torch.addcmul(self.roots[k], self.inverses[k], cosines, out=cosines)
        return cosines.mul_(self.inverses[i])

    def add_gradient(self, cosines: Tensor, slope: Tensor, i: Place, k: Place, span: Place) -> None:
        """Adds the gradient, given that with respect to the student's cosines; overwrites both."""
        torch.mul(cosines[0], slope, out=cosines[1])
        torch.mul(slope.mul_(self.inverses[0][i]), self.inverses[0][k], out=cosines[0])
        self.grad_sides[k].add_(cosines)  # not +=, which would copy the result onto itself
        of_i, of_span = self.grad_sides[i], self.grad_spans[span]
        of_i.add_(cosines.sum_to_size(of_i.shape))
        of_span.sub_(cosines[0].sum_to_size(of_span.shape))

    def gradient(self, shape: torch.Size) -> Tensor:
        """The gradient with respect to the student's squared distances, [B, groups, P, P]."""
        sides = self.grad_sides[0] - self.grad_sides[1].mul_(self.inverses[0]).mul_(self.inverses[0])
        if not self.windowed:
            return self.grad_spans.add_(sides).unflatten(-1, self.groups).permute(2, 3, 1, 0)
        for t in range(1, self.half + 1):
            for place in self._at_distance(sides[None], t):
                self.grad_spans[t, : self.count - t].add_(place[0])
        reach = len(self.grad_spans) - 1
        padded = sides.new_zeros(*shape[:-1], shape[-1] + reach)
        _band(padded, reach).copy_(self.grad_spans.unflatten(-1, self.groups).permute(2, 3, 1, 0))
        return padded[..., : self.count]


def _count_triples(real: Tensor, how: How) -> Tensor:
    """The number of triples (i, j, k), i < k, of three different real points with i and k in the window around j."""
    count, half = real.shape[-1], _half_window(how, real.shape[-1])
    up_to = F.pad(real.long().cumsum(-1), (1, 0))
    centre = torch.arange(count, device=real.device)
    others = up_to[..., (centre + half + 1).clamp(max=count)] - up_to[..., (centre - half).clamp(min=0)] - 1
    return (others * (others - 1) * real).sum() // 2


# ---------------------------------------------------------------------------------------------------- relation terms


@dataclass(frozen=True)
class Relation:
    """A relation term: arrange the hidden states into points, relate the teacher's, compare the student's with that.

    arrangement: WORDS or LAYERS. relate(points, how): the relation, [B, groups, ...], made once a batch for the
    teacher. compare(points, teacher's relation, how): the sum over all relations of how far the student's are from the
    teacher's, differentiable with respect to the points. count(real, how): what that sum is divided by.
    """

    arrangement: Arrangement
    relate: Callable[[Points, How], Tensor]
    compare: Callable[[Points, Tensor, How], Tensor]
    count: Callable[[Tensor, How], Tensor]


RELATION_TERMS: dict[str, Relation] = {
    "wr_pair": Relation(WORDS, _relate_pairs, _compare_pairs, _count_pair_terms),
    "wr_triple": Relation(WORDS, _relate_triples, _compare_triples, _count_triples),
    "ltr_pair": Relation(LAYERS, _relate_pairs, _compare_pairs, _count_pair_terms),
    "ltr_triple": Relation(LAYERS, _relate_triples, _compare_triples, _count_triples),
}


@contextmanager
def plain(device: torch.device) -> Iterator[None]:
    """Without a gradient and without autocast."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def measure(parts: Sequence[Tensor], mask: Tensor, arrangements: Sequence[Arrangement]) -> Iterator[list[Points]]:
    """The points of each arrangement, chunk by chunk; for the teacher, within `plain`."""
    for rows, vectors in _chunks(parts, mask):
        yield [_points(a, _gram(a, vectors), vectors, mask[rows]) for a in arrangements]


def join(arrangement: Arrangement, chunks: Sequence[Tensor]) -> Tensor:
    """Relations of all chunks, [b, groups, P, ...] each -> [B, groups, P, ...]."""
    return _laid_out(arrangement, torch.cat(list(chunks)))


@dataclass(frozen=True)
class Share:
    """One relation term's share of the total. teacher(places): the teacher's relation that the student's hidden states
    at these places are compared with."""

    term: Relation
    how: How
    weight: float
    teacher: Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True, eq=False)
class _Piece:
    """One term of some hidden states, for all students that have them. weight: what its sum counts in the total."""

    name: str
    share: Share
    teacher: Tensor
    students: list[int]
    weight: Tensor


@dataclass(frozen=True)
class _Block:
    """Hidden states whose Gram matrices are made at once, and the terms of each places among them."""

    arrangement: Arrangement
    states: slice
    pieces: dict[tuple[int, ...], list[_Piece]]


def relation_losses(
    parts: Sequence[Tensor],
    mask: Tensor,
    stacks: Sequence[tuple[int, ...]],
    shares: Mapping[str, Share],
    factors: Sequence[float],
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The weighted sum of the relation terms of all students, and each student's terms, unweighted and detached.

    parts: hidden states [B, k, L, H] whose layers follow one another, each once however many students have it; mask
    [B, L]; stacks: the places of each student's hidden states among these layers; factors: what the weights of each
    student's terms are multiplied by.
    """
    rates = {name: _rates(share, mask, stacks) for name, share in shares.items()}

    def piece(name: str, places: tuple[int, ...], students: list[int]) -> _Piece:
        weight = torch.stack([rates[name][n] * factors[n] for n in students]).sum() * shares[name].weight
        return _Piece(name, shares[name], shares[name].teacher(places), students, weight)

    blocks = []
    for arrangement in (WORDS, LAYERS):
        names = [name for name, share in shares.items() if share.term.arrangement is arrangement]
        for owners in _owners(arrangement, stacks) if names else []:
            pieces = {places: [piece(name, places, students) for name in names] for places, students in owners.items()}
            blocks.append(_Block(arrangement, slice(min(chain(*owners)), max(chain(*owners)) + 1), pieces))
    with torch.autocast(mask.device.type, enabled=False):
        total, *sums = _RelationLosses.apply(mask, blocks, *parts)
    dtype = torch.float64 if parts[0].dtype == torch.float64 else torch.float32

    def mean(name: str, n: int) -> Tensor:
        own = [x for p, x in zip(_pieces(blocks), sums, strict=True) if p.name == name and n in p.students]
        return (torch.stack(own).sum() * rates[name][n]).to(dtype)

    return total.to(dtype), [{name: mean(name, n) for name in shares} for n in range(len(stacks))]


def _rates(share: Share, mask: Tensor, stacks: Sequence[tuple[int, ...]]) -> Tensor:
    """What each student's sum is multiplied by to be a mean, [students]."""
    reals = [share.term.arrangement.real(mask, len(stack)) for stack in stacks]
    return torch.stack([share.term.count(real, share.how) for real in reals]).clamp(min=1).to(_wide(mask)).reciprocal()


def _owners(arrangement: Arrangement, stacks: Sequence[tuple[int, ...]]) -> list[dict[tuple[int, ...], list[int]]]:
    """For each block the places that are compared together, and the students that have them.

    Words are compared within a layer, so that neighbouring layers of the same students make a block; layers within
    a student's stack, so that all make one block, of which the stacks are selected.
    """
    if arrangement is LAYERS:
        return [{stack: [n for n, other in enumerate(stacks) if other == stack] for stack in stacks}]
    everywhere = range(max(chain(*stacks)) + 1)
    runs = groupby(everywhere, key=lambda place: [n for n, stack in enumerate(stacks) if place in stack])
    return [{tuple(run): students} for students, run in runs]


def _pieces(blocks: Sequence[_Block]) -> list[_Piece]:
    return [piece for block in blocks for pieces in block.pieces.values() for piece in pieces]


def _word_blocks(blocks: Sequence[tuple[Arrangement, slice]]) -> int:
    return sum(arrangement is WORDS for arrangement, _ in blocks)


class _RelationLosses(torch.autograd.Function):
    """The weighted sum of all pieces, and the sum of each by itself.

    Chunk by chunk: for each block the Gram matrix, its terms, and the gradient of their weighted sum with respect to
    the Gram matrix, which is all that is kept. So the terms are ordinary differentiable functions of `Points`, share
    the Gram matrix, and nothing else outlives its chunk. To make the gradient with respect to the hidden states in the
    forward pass too would save reading them again, but store and scale that gradient, which takes as long.
    """

    @staticmethod
    def forward(ctx: Any, mask: Tensor, blocks: Sequence[_Block], *parts: Tensor) -> tuple[Tensor, ...]:
        sums = {piece: torch.zeros_like(piece.weight) for piece in _pieces(blocks)}
        ctx.blocks, ctx.grads = [(block.arrangement, block.states) for block in blocks], []
        for rows, vectors in _chunks(parts, mask, _word_blocks(ctx.blocks)):
            for block in blocks:
                gram = _gram(block.arrangement, vectors[block.states]).requires_grad_()
                with torch.enable_grad():
                    points = _points(block.arrangement, gram, vectors[block.states], mask[rows])
                    total = gram.new_zeros(())
                    for places, pieces in block.pieces.items():
                        some = points.select(places) if block.arrangement is LAYERS else points
                        for piece in pieces:
                            value = piece.share.term.compare(some, piece.teacher[rows], piece.share.how).to(gram.dtype)
                            total = total + value * piece.weight
                            sums[piece] += value.detach()
                if any(ctx.needs_input_grad):
                    (grad,) = torch.autograd.grad(total, gram)
                    ctx.grads.append(grad + grad.mT)
        ctx.save_for_backward(mask, *parts)
        ctx.mark_non_differentiable(*sums.values())
        return torch.stack([value * piece.weight for piece, value in sums.items()]).sum(), *sums.values()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        mask, *parts = ctx.saved_tensors
        grad_parts, grads, memory = [torch.empty_like(part) for part in parts], iter(ctx.grads), None
        for rows, vectors in _chunks(parts, mask, _word_blocks(ctx.blocks)):
            memory = torch.empty_like(vectors).flatten() if memory is None else memory
            grad_vectors = _first(memory, vectors.shape)
            for arrangement, states in ctx.blocks:
                place, grad_gram = arrangement.flat(grad_vectors[states]), next(grads) * grad_total
                added = arrangement is not ctx.blocks[0][0]  # blocks of one arrangement have no states in common
                torch.baddbmm(place, grad_gram, arrangement.flat(vectors[states]), beta=int(added), out=place)
            for grad_part, grad in zip(grad_parts, _split_layers(grad_vectors, parts), strict=True):
                grad_part[rows] = grad.transpose(0, 1)
        return None, None, *grad_parts
