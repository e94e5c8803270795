"""Contextual knowledge distillation (CKD) and the other signals that a sub-network learns from.

Paper: Park, Kim and Yang, "Distilling Linguistic Context for Language Model Compression", EMNLP 2021, pages 364-378:
its word relations (WR) and layer-transforming relations (LTR), each pair-wise and triple-wise, and their losses.

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

Shapes: B sentences, K matched layers (the embedding output counts as one), L words, H hidden size. A group holds P
points: P = L, K groups a sentence for WR; P = K, L groups a sentence for LTR.

To add a relation term: one `Relation` (relate, compare, count) and a line in `RELATION_TERMS`; any other term: one
function and a line in `OUTPUT_TERMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynackd.errors import UserError, nearest

# Vectors of one chunk of sentences, in elements: large enough to keep the cores busy, small enough to
# stay in cache and for the allocator to reuse the memory (from 32 MiB on glibc fetches fresh pages every time).
CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
# Below this share of the largest squared norm of its group, a squared distance from the Gram matrix may have lost more
# than half its digits, and is computed again from the difference itself.
CLOSE = 1e-8


# ---------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class DistillationSettings:
    """What a sub-network learns from: the weight of each term, and the options of the terms.

    weights: term name -> weight; a term that is absent or has weight 0 is not computed at all.
    temperature: of the `logits` term, which is multiplied by its square.
    window: odd number of words centred on j in which the i and k of `wr_triple` lie; None for all words.
    distance: the relation of a pair, a name in PAIR_RELATIONS.
    average: what the sum over pairs is divided by, a name in AVERAGES.
    divergence: between the angles of student and teacher, a name in DIVERGENCES.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: SIGNALS["ckd"])
    temperature: float = 1.0
    window: int | None = 21
    distance: str = "cos"
    average: str = "pairs"
    divergence: str = "mse"

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            _check_name("distillation term", name, list(TERMS))
            if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise UserError(f"the weight of distillation term '{name}' is {weight!r}; it must be a number from 0")
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < float("inf"):
            raise UserError(f"the distillation temperature is {self.temperature!r}; it must be a number above 0")
        if self.window is not None and not (isinstance(self.window, int) and self.window >= 3 and self.window % 2 == 1):
            raise UserError(f"the distillation window is {self.window!r}; it must be an odd number from 3, or none")
        _check_name("distance", self.distance, list(PAIR_RELATIONS))
        _check_name("average", self.average, list(AVERAGES))
        _check_name("divergence", self.divergence, list(DIVERGENCES))

    def active(self, names: Mapping[str, Any]) -> list[str]:
        """The names that have a weight, in the order of `names`."""
        return [name for name in names if self.weights.get(name, 0) > 0]


def _check_name(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UserError(f"unknown {what} '{name}'{nearest(name, known) or ', known are ' + ', '.join(known)}")


@dataclass(frozen=True)
class How:
    """How a relation is made. window: None where all triples count."""

    settings: DistillationSettings
    window: int | None


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

    def select(self, points: Tensor) -> Points:
        """The same groups with only the points of these indices."""
        return Points(*(x[..., points, :][..., points] for x in (self.gram, self.squared_distances, self.pairs)))


@dataclass(frozen=True)
class Arrangement:
    """How vectors [K, b, L, H] make groups of points. All but `real` return views.

    groups(vectors): [b, groups, P, H]. flat(vectors): the same as [b·groups, P, H], in whichever order needs no copy.
    nest(gram, b): what belongs to `flat`, [b·groups, P, P], back as [b, groups, P, P]. real(mask [b, L], K): which
    points are words and no padding, [b, groups, P]. windowed: the points have an order, and of their triples only those
    within the window count.
    """

    windowed: bool
    groups: Callable[[Tensor], Tensor]
    flat: Callable[[Tensor], Tensor]
    nest: Callable[[Tensor, int], Tensor]
    real: Callable[[Tensor, int], Tensor]


# WR: a group is a layer of a sentence, its points are the words.
WORDS = Arrangement(
    windowed=True,
    groups=lambda vectors: vectors.transpose(0, 1),
    flat=lambda vectors: vectors.flatten(0, 1),
    nest=lambda gram, batch: gram.unflatten(0, (-1, batch)).transpose(0, 1),
    real=lambda mask, layer_count: mask.bool()[:, None, :].expand(-1, layer_count, -1),
)
# LTR: a group is a word, its points are the layers.
LAYERS = Arrangement(
    windowed=False,
    groups=lambda vectors: vectors.permute(1, 2, 0, 3),
    flat=lambda vectors: vectors.flatten(1, 2).transpose(0, 1),
    nest=lambda gram, batch: gram.unflatten(0, (batch, -1)),
    real=lambda mask, layer_count: mask.bool()[:, :, None].expand(-1, -1, layer_count),
)


def _vectors(parts: Sequence[Tensor], mask: Tensor, rows: slice) -> Tensor:
    """The sentences `rows` of hidden states -> [K, b, L, H] in float64, 0 at padded places.

    parts: tensors [B, k, L, H] whose layers follow one another: one tensor of all layers, or one tensor a layer.
    """
    real, wide = mask[rows].bool(), torch.float32 if mask.device.type == "mps" else torch.float64  # mps has no float64
    shape = (sum(part.shape[1] for part in parts), *real.shape, parts[0].shape[-1])
    vectors = parts[0].new_empty(shape, dtype=wide)
    for part, place in zip(parts, _split_layers(vectors, parts), strict=True):
        place.copy_(part[rows].transpose(0, 1))
    vectors.flatten(1, 2).index_fill_(1, (~real).flatten().nonzero()[:, 0], 0)  # no product: NaN may be there
    return vectors


def _split_layers(vectors: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return vectors.split([part.shape[1] for part in parts])


def _chunks(parts: Sequence[Tensor]) -> list[slice]:
    """Slices of the batch that are small enough to be worked on at once."""
    per_sentence = max(1, sum(part[:1].numel() for part in parts))
    size = max(1, CHUNK_ELEMENTS.get(parts[0].device.type, CHUNK_ELEMENTS["cuda"]) // per_sentence)
    return [slice(start, start + size) for start in range(0, max(1, parts[0].shape[0]), size)]


def _gram(arrangement: Arrangement, vectors: Tensor) -> Tensor:
    """[K, b, L, H] -> the inner products within each group, [b·groups, P, P]."""
    flat = arrangement.flat(vectors)
    return flat @ flat.mT


def _points(arrangement: Arrangement, flat_gram: Tensor, vectors: Tensor, mask: Tensor) -> Points:
    """The points of vectors [K, b, L, H]; their distances are differentiable with respect to the Gram matrix."""
    gram, real = arrangement.nest(flat_gram, len(mask)), arrangement.real(mask, len(vectors))
    norms = gram.diagonal(dim1=-2, dim2=-1)
    pairs = _pairs(real)
    distances = torch.add(norms[..., :, None], gram, alpha=-2).add(norms[..., None, :]).masked_fill(~pairs, 0)
    close = (distances < CLOSE * norms.detach().amax(-1)[..., None, None]) & pairs
    return Points(gram, _recompute(distances, arrangement.groups(vectors), close), pairs)


def _pairs(real: Tensor) -> Tensor:
    """[B, groups, P] -> where both points are real and differ; one group stands for all where they are alike."""
    if real.stride(1) == 0:
        real = real[:, :1]
    same = torch.eye(real.shape[-1], dtype=torch.bool, device=real.device)
    return real[..., :, None] & real[..., None, :] & ~same


def _recompute(distances: Tensor, vectors: Tensor, close: Tensor) -> Tensor:
    """`distances` with the values at `close` taken from the differences of the vectors; the gradient is as before."""
    index = close.nonzero()
    if not len(index):
        return distances
    correction = torch.zeros_like(distances)
    for batch, group, i, j in (some.unbind(-1) for some in index.split(1024)):
        exact = (vectors[batch, group, i] - vectors[batch, group, j]).square().sum(-1)
        correction[batch, group, i, j] = exact - distances.detach()[batch, group, i, j]
    return distances + correction


# ---------------------------------------------------------------------------------------------------- pairs


def _cosine_log_softmax(points: Points, how: How) -> Tensor:
    """log softmax over j ≠ i of cos(h_i, h_j), [B, groups, P, P]; next to nothing where i, j is no pair."""
    norms = points.gram.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(norms > 0, norms, 1).rsqrt()
    cosines = points.gram * (inverse[..., :, None] @ inverse[..., None, :])
    return cosines.masked_fill(~points.pairs, -1e4).log_softmax(-1)  # finite, so that a row without pairs is finite


def _kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ p·(log p − log q), p the teacher's and q the student's distribution."""
    return (teacher.exp() * (teacher - student)).sum()  # half the time of F.kl_div


def _distances(points: Points, how: How) -> Tensor:
    """‖h_i − h_j‖ (not squared), [B, groups, P, P]; 0 where i, j is no pair."""
    apart = points.squared_distances > 0
    return torch.where(apart, points.squared_distances, 1).sqrt().masked_fill(~apart, 0)


def _squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum()


# distance -> (relation of a pair, how the student's is compared with the teacher's)
PAIR_RELATIONS: dict[str, tuple[Callable[[Points, How], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "cos": (_cosine_log_softmax, _kl_divergence),
    "l2": (_distances, _squared_error),
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
    return PAIR_RELATIONS[how.settings.distance][0](points, how)


def _compare_pairs(student: Tensor, teacher: Tensor, how: How) -> Tensor:
    return PAIR_RELATIONS[how.settings.distance][1](student, teacher)


def _count_pair_terms(real: Tensor, how: How) -> Tensor:
    return AVERAGES[how.settings.average](real)


# ---------------------------------------------------------------------------------------------------- triples


def _smooth_l1(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, x.square() / 2, x.abs() - 0.5)


# divergence -> (its sum, its derivative) over the differences of two cosines; the derivative may overwrite them
DIVERGENCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "mse": (lambda x: x.flatten().dot(x.flatten()), lambda x: x.mul_(2)),
    "l1": (lambda x: x.abs().sum(), lambda x: x.sign_()),
    "smooth_l1": (lambda x: _smooth_l1(x).sum(), lambda x: x.clamp_(-1, 1)),
}


def _half_window(how: How, point_count: int) -> int:
    """How far i and k may be from j."""
    return point_count - 1 if how.window is None else min(how.window // 2, point_count - 1)


def _relate_triples(points: Points, how: How) -> Tensor:
    """The squared distances that the angles need: [B, groups, P, reach + 1] holds D²(i, i + δ) at [i, δ], else 0."""
    count = points.gram.shape[-1]
    return _Band.apply(points.squared_distances, min(2 * _half_window(how, count), count - 1))


class _Band(torch.autograd.Function):
    """[B, groups, P, P] -> [B, groups, P, reach + 1], the entries (i, i + δ) at [i, δ], else 0.

    Autograd's own gradient of `as_strided` takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, square: Tensor, reach: int) -> Tensor:
        return _Band.view(F.pad(square, (0, reach)).contiguous(), reach)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        *sizes, count, width = grad.shape
        padded = grad.new_zeros(*sizes, count, count + width - 1)
        _Band.view(padded, width - 1).copy_(grad)
        return padded[..., :count], None

    @staticmethod
    def view(padded: Tensor, reach: int) -> Tensor:
        """The band of a contiguous square that `reach` columns were added to."""
        batch, groups, count, stride = padded.shape
        strides = (groups * count * stride, count * stride, stride + 1, 1)
        return padded.as_strided((batch, groups, count, reach + 1), strides)


def _compare_triples(student: Tensor, teacher: Tensor, how: How) -> Tensor:
    return _AngleDivergence.apply(student, teacher, how)


class _AngleDivergence(torch.autograd.Function):
    """Σ over triples i < k of f(cos∠(i, j, k) of the student − that of the teacher), and its gradient.

    Takes what `_relate_triples` returns for both. The gradient is written down by hand and made in the forward pass,
    one distance δ = k − i after the other, so that nothing of the size of all triples is ever kept. With n the
    numerator D²_ij + D²_jk − D²_ik and s = 1/(2·d_ij·d_jk), the cosine is c = n·s, and

        ∂c/∂D²_ik = −s        ∂c/∂D²_ij = s − c/(2·D²_ij)        ∂c/∂D²_jk = s − c/(2·D²_jk)
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, how: How) -> Tensor:
        sum_of, derivative_of = DIVERGENCES[how.settings.divergence]
        angles = _Angles(torch.stack([student, teacher]), how)
        value = student.new_zeros(())
        grad_sides, grad_logs = torch.zeros_like(angles.sides[0]), torch.zeros_like(angles.sides[0])
        grad_spans = torch.zeros_like(angles.spans[0])
        for delta in range(1, len(grad_spans)):
            (cosine, teacher_cosine), (scale, _) = angles.cosines(delta)
            difference = cosine - teacher_cosine
            value += sum_of(difference)
            slope = derivative_of(difference)
            cosine *= slope
            scale *= slope
            for place in angles.places(delta):
                grad_sides[place].add_(scale)  # not +=, which would copy the result onto itself
                grad_logs[place].add_(cosine)
            grad_spans[delta, : scale.shape[1]].sub_(scale.sum(0))
        grad_sides -= grad_logs.mul_(angles.inverses[0]).mul_(angles.inverses[0])
        ctx.save_for_backward(angles.to_band(grad_sides, grad_spans, student.shape))
        return value

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_value, None, None


class _Angles:
    """The angles over bands of squared distances, for all centres j at once, by the distance δ = k − i.

    bands [2, b, groups, P, reach + 1], the student's and the teacher's; n = b·groups, which comes last so that all work
    is on long contiguous rows.
    spans [2, reach + 1, P, n]: spans[:, δ, i] = D²(i, i + δ), how far i is from k.
    sides [2, centres, P, n]: how far i (or k) is from the centre j. Within a window narrower than the points it is
    sides[:, half + t, i] = D²(i, i + t), the centre counted from i; else sides[:, j, i] = D²(i, j).
    inverses: 1/(√2·d) of the sides, so that the product of two is s; 0 where a point is not real or there is no length.
    """

    def __init__(self, bands: Tensor, how: How) -> None:
        self.spans = bands.flatten(1, 2).permute(0, 3, 2, 1).contiguous()
        *_, self.count, groups = self.spans.shape
        self.half = _half_window(how, self.count)
        self.windowed = self.half < self.count - 1
        centres = 2 * self.half + 1 if self.windowed else self.count
        self.sides = self.spans.new_zeros(2, centres, self.count, groups)
        for t in range(1, self.half + 1):
            for place in self._at_distance(self.sides, t):
                place.copy_(self.spans[:, t, : self.count - t])
        self.inverses = F.threshold(self.sides, 0, torch.inf).mul_(2).rsqrt_()

    def _at_distance(self, sides: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The two places of D²(i, i + t) in `sides`, each [..., P − t, n]: from i to i + t and from i + t to i."""
        if self.windowed:
            return sides[..., self.half + t, : self.count - t, :], sides[..., self.half - t, t:, :]
        return sides.diagonal(-t, -3, -2).mT, sides.diagonal(t, -3, -2).mT

    def places(self, delta: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Where `sides` holds i, and where k = i + δ, for the same centre j, for all i and j."""
        skip = delta if self.windowed else 0
        of_i = ..., slice(skip, None), slice(None, self.count - delta), slice(None)
        of_k = ..., slice(None, self.sides.shape[1] - skip), slice(delta, None), slice(None)
        return of_i, of_k

    def cosines(self, delta: int) -> tuple[Tensor, Tensor]:
        """cos∠(i, j, i + δ) and s for all i and j, both 0 where a point is not real or there is no length."""
        i, k = self.places(delta)
        numerator = self.sides[i] + self.sides[k]
        numerator -= self.spans[:, delta, None, : self.count - delta]
        scale = self.inverses[i] * self.inverses[k]
        return numerator.mul_(scale), scale

    def to_band(self, grad_sides: Tensor, grad_spans: Tensor, shape: torch.Size) -> Tensor:
        """The gradient with respect to the student's band from that with respect to its sides and spans."""
        for t in range(1, self.half + 1):
            for place in self._at_distance(grad_sides, t):
                grad_spans[t, : self.count - t].add_(place)
        return grad_spans.permute(2, 1, 0).reshape(shape)


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
    """A relation term: arrange the hidden states into points, relate them, compare the student's with the teacher's.

    arrangement: WORDS or LAYERS. relate(points, how): the relation, [B, groups, ...], made once a batch for the
    teacher. compare(student, teacher, how): the sum over all relations of how far the two are apart. count(real, how):
    what that sum is divided by.
    """

    arrangement: Arrangement
    relate: Callable[[Points, How], Tensor]
    compare: Callable[[Tensor, Tensor, How], Tensor]
    count: Callable[[Tensor, How], Tensor]


RELATION_TERMS: dict[str, Relation] = {
    "wr_pair": Relation(WORDS, _relate_pairs, _compare_pairs, _count_pair_terms),
    "wr_triple": Relation(WORDS, _relate_triples, _compare_triples, _count_triples),
    "ltr_pair": Relation(LAYERS, _relate_pairs, _compare_pairs, _count_pair_terms),
    "ltr_triple": Relation(LAYERS, _relate_triples, _compare_triples, _count_triples),
}


def _how(settings: DistillationSettings, arrangement: Arrangement) -> How:
    return How(settings, settings.window if arrangement.windowed else None)


def _names(settings: DistillationSettings, arrangement: Arrangement) -> list[str]:
    """The active relation terms of one arrangement."""
    return [name for name in settings.active(RELATION_TERMS) if RELATION_TERMS[name].arrangement is arrangement]


def _measure(parts: Sequence[Tensor], mask: Tensor, arrangements: Sequence[Arrangement]) -> Iterator[list[Points]]:
    """The points of each arrangement, chunk by chunk; for the teacher, within `_plain`."""
    for rows in _chunks(parts):
        vectors = _vectors(parts, mask, rows)
        yield [_points(a, _gram(a, vectors), vectors, mask[rows]) for a in arrangements]


@contextmanager
def _plain(device: torch.device) -> Iterator[None]:
    """Without a gradient and without autocast."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class _RelationSums(torch.autograd.Function):
    """The sums of relation terms over the student's hidden states, as one tensor [terms].

    Chunk by chunk: for each arrangement the Gram matrix, its terms, and the gradient of each term with respect to the
    Gram matrix, which is all that is kept. So the terms are ordinary differentiable functions of `Points`, share the
    Gram matrix, and nothing else outlives its chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, mask: Tensor, sums: Mapping[Arrangement, Sequence[Callable[[Points, slice], Tensor]]], *parts: Tensor
    ) -> Tensor:
        values, ctx.grads, ctx.arrangements = [], [], list(sums)
        for rows in _chunks(parts):
            vectors = _vectors(parts, mask, rows)
            for arrangement, terms in sums.items():
                gram = _gram(arrangement, vectors).requires_grad_()
                with torch.enable_grad():
                    points = _points(arrangement, gram, vectors, mask[rows])
                    results = [term(points, rows) for term in terms]
                if any(ctx.needs_input_grad):
                    ctx.grads.append([torch.autograd.grad(r, gram, retain_graph=True)[0] for r in results])
                values += [result.detach().to(gram.dtype) for result in results]
        ctx.save_for_backward(mask, *parts)
        return torch.stack(values).unflatten(0, (len(_chunks(parts)), -1)).sum(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        mask, *parts = ctx.saved_tensors
        grad_parts, grads = [torch.empty_like(part) for part in parts], iter(ctx.grads)
        for rows in _chunks(parts):
            vectors = _vectors(parts, mask, rows)
            grad_vectors, scales = torch.empty_like(vectors), iter(grad_values)
            for nth, arrangement in enumerate(ctx.arrangements):
                grad_gram = sum(grad * next(scales) for grad in next(grads))
                place, grad = arrangement.flat(grad_vectors), (grad_gram + grad_gram.mT) @ arrangement.flat(vectors)
                place.copy_(grad) if nth == 0 else place.add_(grad)
            for grad_part, grad in zip(grad_parts, _split_layers(grad_vectors, parts), strict=True):
                grad_part[rows] = grad.transpose(0, 1)
        return None, None, *grad_parts


def _relation_losses(
    parts: Sequence[Tensor], teacher: Mapping[str, Tensor], mask: Tensor, settings: DistillationSettings
) -> dict[str, Tensor]:
    """The active relation terms, as means. teacher: the teacher's relation for each of them."""
    by_arrangement = {a: _names(settings, a) for a in (WORDS, LAYERS)}
    by_arrangement = {arrangement: names for arrangement, names in by_arrangement.items() if names}
    names = [name for names in by_arrangement.values() for name in names]
    hows = {name: _how(settings, RELATION_TERMS[name].arrangement) for name in names}

    def summed(name: str) -> Callable[[Points, slice], Tensor]:
        term, how = RELATION_TERMS[name], hows[name]
        return lambda points, rows: term.compare(term.relate(points, how), teacher[name][rows], how)

    with torch.autocast(mask.device.type, enabled=False):
        sums = _RelationSums.apply(mask, {a: [summed(n) for n in names] for a, names in by_arrangement.items()}, *parts)
    return {name: _mean(name, total, hows[name], mask, parts) for name, total in zip(names, sums, strict=True)}


def _mean(name: str, total: Tensor, how: How, mask: Tensor, parts: Sequence[Tensor]) -> Tensor:
    term = RELATION_TERMS[name]
    real = term.arrangement.real(mask, sum(part.shape[1] for part in parts))
    mean = total / term.count(real, how).clamp(min=1)
    return mean if parts[0].dtype == torch.float64 else mean.float()


# ---------------------------------------------------------------------------------------------------- the four terms


def _relation_term(
    name: str, student_hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor, **options: Any
) -> Tensor:
    _check_hidden(student_hidden, teacher_hidden, attention_mask)
    settings, term = DistillationSettings(weights={name: 1.0}, **options), RELATION_TERMS[name]
    how = _how(settings, term.arrangement)
    with _plain(attention_mask.device):
        chunks = _measure([teacher_hidden], attention_mask, [term.arrangement])
        teacher = torch.cat([term.relate(points, how) for (points,) in chunks])
    return _relation_losses([student_hidden], {name: teacher}, attention_mask, settings)[name]


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


# ---------------------------------------------------------------------------------------------------- output terms


@dataclass(frozen=True)
class Outputs:
    """What the terms that are no relations see of one forward pass; regression: the outputs are values, no classes."""

    settings: DistillationSettings
    student_logits: Tensor
    teacher_logits: Tensor
    student_hidden: Sequence[Tensor]
    teacher_hidden: Sequence[Tensor]
    attention_mask: Tensor
    labels: Tensor | None
    regression: bool


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def label_loss(outputs: Outputs) -> Tensor:
    """Cross entropy with the labels; for regression the mean squared error."""
    if outputs.labels is None:
        raise UserError("the distillation term 'ce' needs labels, but the batch has none")
    logits = _wide(outputs.student_logits)
    if outputs.regression:
        return F.mse_loss(logits.reshape(-1), outputs.labels.reshape(-1).to(logits.dtype))
    return F.cross_entropy(logits.flatten(0, -2), outputs.labels.reshape(-1))


def soft_cross_entropy(outputs: Outputs) -> Tensor:
    """−T²·Σ softmax(teacher / T)·log softmax(student / T), mean over the batch; for regression the mean squared error.

    The factor T² keeps the size of the gradient independent of T (Hinton, Vinyals, Dean 2015, section 2). The loss is
    not 0 but the teacher's entropy when the student equals the teacher.
    """
    student, teacher = _wide(outputs.student_logits), _wide(outputs.teacher_logits)
    if outputs.regression:
        return F.mse_loss(student, teacher)
    temperature = outputs.settings.temperature
    soft = (teacher / temperature).softmax(-1) * (student / temperature).log_softmax(-1)
    return -(temperature**2) * soft.sum(-1).mean()


def hidden_mse(outputs: Outputs) -> Tensor:
    """Mean squared error of the hidden states of real words, over layers and components (DynaBERT, section 2.2).

    Needs equal hidden sizes.
    """
    sizes = {h.shape[-1] for h in (*outputs.student_hidden, *outputs.teacher_hidden)}
    if len(sizes) > 1:
        raise UserError(
            f"the distillation term 'hidden_mse' needs equal hidden sizes, but these are {sorted(sizes)}; "
            "the CKD terms (wr_pair, wr_triple, ltr_pair, ltr_triple) have no such limit"
        )
    padded = ~outputs.attention_mask.bool()[..., None]
    pairs = zip(outputs.student_hidden, outputs.teacher_hidden, strict=True)
    total = sum((_wide(s).masked_fill(padded, 0) - _wide(t).masked_fill(padded, 0)).square().sum() for s, t in pairs)
    return total / (outputs.attention_mask.bool().sum() * len(outputs.student_hidden) * sizes.pop()).clamp(min=1)


OUTPUT_TERMS: dict[str, Callable[[Outputs], Tensor]] = {
    "ce": label_loss,
    "logits": soft_cross_entropy,
    "hidden_mse": hidden_mse,
}

TERMS: dict[str, Callable[[Outputs], Tensor] | Relation] = {**OUTPUT_TERMS, **RELATION_TERMS}

# Weights that go together, by name. ckd: all relations alike; the authors' own differ from task to task (their
# distil_config.py), from 0.1 to 100 for pairs and to 1000 for triples. dynabert: its width stage; the depth stage has
# hidden_mse 1.0.
SIGNALS: dict[str, dict[str, float]] = {
    "ckd": {"logits": 1.0, "wr_pair": 10.0, "wr_triple": 10.0, "ltr_pair": 10.0, "ltr_triple": 10.0},
    "dynabert": {"logits": 1.0, "hidden_mse": 0.1},
    "logits": {"logits": 1.0},
}


# --------------------------------------------------------------------------------------------------- the trainer's side


class TeacherSignal:
    """One teacher forward's share of the distillation, shared by all sub-networks of the step.

    The relations are made here, once, and kept instead of the hidden states, which only `hidden_mse` keeps. WR
    relations belong to a layer: those of a sub-network's layers are selected. LTR relations belong to a stack of
    layers: each stack's are made from the Gram matrices at first use and kept.

    logits [batch, classes]; hidden_states: N + 1 tensors [batch, length, hidden_t], the embedding output first;
    attention_mask [batch, length]; regression: the logits are values.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        logits: Tensor,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor,
        regression: bool = False,
    ) -> None:
        self.settings, self.attention_mask, self.regression = settings, attention_mask, regression
        self.logits = logits.detach()
        self.layer_count = len(hidden_states) - 1
        self.hidden_states = [h.detach() for h in hidden_states] if settings.active({"hidden_mse": 0}) else []
        self._relations: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._word_relations: dict[str, Tensor] = {}
        self._layer_points: Points | None = None
        if settings.active(RELATION_TERMS):
            with _plain(attention_mask.device):
                self._measure([h[:, None] for h in hidden_states])

    def _measure(self, parts: Sequence[Tensor]) -> None:
        names, how = _names(self.settings, WORDS), _how(self.settings, WORDS)
        relations, layer_points = [], []
        for words, layers in _measure(parts, self.attention_mask, [WORDS, LAYERS]):
            relations.append([RELATION_TERMS[name].relate(words, how) for name in names])
            layer_points.append(layers)
        self._word_relations = {
            name: torch.cat(made) for name, made in zip(names, zip(*relations, strict=True), strict=True)
        }
        self._layer_points = Points(*(torch.cat([getattr(p, f.name) for p in layer_points]) for f in fields(Points)))

    def relation(self, name: str, layers: tuple[int, ...]) -> Tensor:
        """The teacher's relation for one term and stack of 0-based layers, with the embedding output before them."""
        if (name, layers) not in self._relations:
            with _plain(self.attention_mask.device):
                self._relations[name, layers] = self._relate(name, layers)
        return self._relations[name, layers]

    def _relate(self, name: str, layers: tuple[int, ...]) -> Tensor:
        everything = layers == tuple(range(self.layer_count))
        index = torch.tensor(matched(layers), device=self.attention_mask.device)
        if name in self._word_relations:
            relation = self._word_relations[name]
            return relation if everything else relation.index_select(1, index)
        assert self._layer_points is not None
        points = self._layer_points if everything else self._layer_points.select(index)
        return RELATION_TERMS[name].relate(points, _how(self.settings, LAYERS))


def matched(stack: Sequence[int]) -> list[int]:
    """The teacher's hidden states that a student's match: the embedding output, then the outputs of these layers."""
    return [0, *(layer + 1 for layer in stack)]


def distillation_losses(
    settings: DistillationSettings,
    student_logits: Tensor,
    student_hidden_states: Sequence[Tensor],
    teacher: TeacherSignal,
    layers: tuple[int, ...],
    labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Each active term, unweighted, by name.

    student_hidden_states: len(layers) + 1 tensors [batch, length, hidden_s], the embedding output first. layers:
    0-based indices of the teacher's layers that the student's came from, so that student state 1 + i is matched with
    teacher state 1 + layers[i], and 0 with 0.
    """
    if len(student_hidden_states) != len(layers) + 1 or not set(layers) <= set(range(teacher.layer_count)):
        raise UserError(
            f"{len(student_hidden_states)} hidden states of the student do not match the embedding output and layers "
            f"{list(layers)} of a teacher with {teacher.layer_count} layers"
        )
    teacher_states = [teacher.hidden_states[i] for i in matched(layers)] if teacher.hidden_states else []
    outputs = Outputs(
        settings, student_logits, teacher.logits, student_hidden_states, teacher_states,
        teacher.attention_mask, labels, teacher.regression,
    )  # fmt: skip
    losses = {name: OUTPUT_TERMS[name](outputs) for name in settings.active(OUTPUT_TERMS)}
    if names := settings.active(RELATION_TERMS):
        relations = {name: teacher.relation(name, tuple(layers)) for name in names}
        parts = [h[:, None] for h in student_hidden_states]
        losses |= _relation_losses(parts, relations, teacher.attention_mask, settings)
    return losses


def total_loss(settings: DistillationSettings, losses: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of what `distillation_losses` returned."""
    terms = [settings.weights[name] * loss for name, loss in losses.items()]
    if not terms:
        raise UserError("no distillation term has a weight above 0")
    return torch.stack(terms).sum()
