"""The distillation terms against their slow twins, at their edges, and as the trainer calls them."""

import gc
import itertools
import weakref
from dataclasses import replace

import distill_reference as reference
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynackd.distill import ckd, relations
from dynackd.distill import terms as distill
from dynackd.distill.settings import SIGNALS, DistillationSettings
from dynackd.distill.signals import Student, TeacherSignal, distillation_loss
from dynackd.errors import UserError
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.regression import REGRESSION

TERMS = ("wr_pair", "wr_triple", "ltr_pair", "ltr_triple")
OPTIONS = {
    "wr_pair": [{"distance": d, "average": a} for d in ("cos", "l2") for a in ("pairs", "rows")],
    "wr_triple": [
        *({"window": w} for w in (3, 5, 7, 21, None)),
        *({"window": w, "divergence": d} for w in (5, None) for d in ("l1", "smooth_l1")),
    ],
    "ltr_pair": [{"distance": d, "average": a} for d in ("cos", "l2") for a in ("pairs", "rows")],
    "ltr_triple": [{"divergence": d} for d in ("mse", "l1", "smooth_l1")],
}
CASES = [(name, options) for name in TERMS for options in OPTIONS[name]]
MASKS = {
    "no padding": [[1] * 7, [1] * 7],
    "right": [[1] * 7, [1, 1, 1, 1, 0, 0, 0]],
    "left": [[0, 0, 0, 1, 1, 1, 1], [1] * 7],
    "holes": [[1, 0, 1, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1, 1]],
    "one word, none": [[0, 0, 1, 0, 0, 0, 0], [0] * 7],
}
HOLES = torch.tensor(MASKS["holes"])


def hidden(seed=0, size=5, layers=4, batch=2, length=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, layers, length, size, generator=generator, dtype=torch.float64).to(dtype)


def with_gradient(function, student, *arguments, **options):
    student = student.detach().requires_grad_()
    value = function(student, *arguments, **options)
    if not value.requires_grad:
        return value, torch.zeros_like(student)
    return value.detach(), torch.autograd.grad(value, student)[0]


# ---------------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_value_and_gradient_equal_the_twins(name, options, mask):
    mask = torch.tensor(mask)
    if name == "wr_triple" and not mask.sum():
        pytest.skip("nothing to compare")
    student, teacher = hidden(0), hidden(1, size=6)
    value, gradient = with_gradient(getattr(ckd, name), student, teacher, mask, **options)
    expected, expected_gradient = with_gradient(
        lambda *a, **o: torch.as_tensor(getattr(reference, name)(*a, **o), dtype=torch.float64),
        student, teacher, mask, **options,
    )  # fmt: skip
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)
    if int(mask.sum()) > 6:
        assert value > 0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradcheck(name, options):
    teacher, mask = hidden(1, length=4, layers=3, size=3), torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]])
    student = hidden(0, length=4, layers=3, size=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: getattr(ckd, name)(s, teacher, mask, **options), student)


@pytest.mark.parametrize("window", [3, 5, 7, 9, 21, None])
def test_every_triple_of_three_real_words_in_the_window_counts_once(window):
    """The authors' code counts clamped edge words twice and looks at the mask of the centre only."""
    how = relations.How(window)
    expected = 0
    for row in HOLES.tolist():
        for i, j, k in itertools.permutations(range(7), 3):
            near = window is None or max(abs(i - j), abs(k - j)) <= window // 2
            expected += i < k and near and bool(row[i] and row[j] and row[k])
    real = relations.WORDS.real(HOLES, 3)
    assert int(relations._count_triples(real, how)) == 3 * expected > 0


@pytest.mark.parametrize("chunk_elements", [1, 300, 10**9])
@pytest.mark.parametrize("name", TERMS)
def test_the_size_of_a_chunk_changes_nothing(name, chunk_elements, monkeypatch):
    student, teacher, mask = hidden(0, batch=3), hidden(1, batch=3), torch.ones(3, 7)
    expected = with_gradient(getattr(ckd, name), student, teacher, mask)
    monkeypatch.setitem(relations.CHUNK_ELEMENTS, "cpu", chunk_elements)
    torch.testing.assert_close(with_gradient(getattr(ckd, name), student, teacher, mask), expected)


# ------------------------------------------------------------------------------------------------- what must not matter


@pytest.mark.parametrize("garbage", [0.0, 7.0, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("name", TERMS)
def test_padding_changes_neither_value_nor_gradient(name, garbage):
    padded = (HOLES == 0)[:, None, :, None]
    student, teacher = hidden(0), hidden(1)
    expected = with_gradient(getattr(ckd, name), student, teacher, HOLES)
    student, teacher = student.masked_fill(padded, garbage), teacher.masked_fill(padded, -garbage)
    value, gradient = with_gradient(getattr(ckd, name), student, teacher, HOLES)
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1])
    assert not gradient.masked_select(padded).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_zero_when_the_student_equals_the_teacher(name, options, dtype):
    states = hidden(dtype=dtype)
    value, gradient = with_gradient(getattr(ckd, name), states, states, HOLES, **options)
    assert value == 0
    assert gradient.abs().max() < 1e-7


def rotation(size, seed):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double())[0]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, 8),
    layers=st.integers(1, 4),
    scale=st.floats(1e-3, 1e3),
    window=st.sampled_from([3, 5, None]),
)
def test_rotating_and_scaling_either_hidden_space_changes_nothing(seed, length, layers, scale, window):
    student, teacher = (hidden(seed + i, layers=layers, length=length) for i in (0, 1))
    mask = torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) < 0.8
    turned_student, turned_teacher = scale * student @ rotation(5, seed), teacher @ rotation(5, seed + 1) / scale
    for name in TERMS:
        options = {"window": window} if name == "wr_triple" else {}
        term = getattr(ckd, name)
        expected = term(student, teacher, mask, **options)
        torch.testing.assert_close(term(turned_student, teacher, mask, **options), expected, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(term(student, turned_teacher, mask, **options), expected, rtol=1e-8, atol=1e-12)
    for name in ("wr_pair", "ltr_pair"):
        term, turned = getattr(ckd, name), student @ rotation(5, seed)
        expected = term(student, teacher, mask, distance="l2")
        torch.testing.assert_close(term(turned, teacher, mask, distance="l2"), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["wr_triple", "ltr_triple"])
def test_a_common_offset_changes_no_angle(name):
    student, teacher = hidden(0), hidden(1)
    expected = with_gradient(getattr(ckd, name), student, teacher, HOLES)
    moved = with_gradient(getattr(ckd, name), student + 100, teacher - 100, HOLES)
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------------------------------------- edges


def degenerate():
    states = hidden(0, dtype=torch.float32)
    repeated, identical = states.clone(), states.clone()
    repeated[:, :, 1:4] = repeated[:, :, :1]
    identical[:, 1:] = identical[:, :1]
    return {
        "repeated words": repeated,
        "identical layers": identical,
        "all equal": torch.ones_like(states),
        "all zero": torch.zeros_like(states),
        "one layer": states[:, :1],
        "one word": states[:, :, :1],
        "two words": states[:, :, :2],
        "fp16 extremes": (states.sign() * 65504).half(),
        "fp16 tiny": (states * 6e-8).half(),
        "bf16": states.bfloat16(),
        "bf16 extremes": (states.sign() * 3e38).bfloat16(),
        "float32 tiny": states * 1e-30,
    }


@pytest.mark.parametrize("padding", ["none", "some", "all"])
@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize(("name", "options"), [*CASES[:2], CASES[4], CASES[8], *((n, {}) for n in TERMS)])
def test_degenerate_input_gives_finite_values_and_gradients(name, options, case, padding):
    student = degenerate()[case]
    teacher = hidden(1, layers=student.shape[1], length=student.shape[2], dtype=student.dtype)
    mask = torch.ones(2, student.shape[2])
    mask[: {"none": 0, "some": 1, "all": 2}[padding]] = 0
    if options.get("distance") == "l2" and "extremes" in case:
        pytest.skip("the squared error of distances beyond float32 is infinite")
    for first, second in ((student, teacher), (teacher, student)):
        value, gradient = with_gradient(getattr(ckd, name), first, second, mask, **options)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert gradient.dtype == first.dtype
        if "tiny" not in case:  # the true gradient with respect to tiny hidden states does not fit their dtype
            assert torch.isfinite(gradient).all()
        if padding == "all":
            assert value == 0
            assert not gradient.any()


def test_repeated_words_have_no_length_and_other_words_their_angles():
    """Two equal words: angles with a zero side are 0 on that side, all other angles are as the twin says."""
    student, teacher = hidden(0, dtype=torch.float32), hidden(1)
    student[:, :, 2] = student[:, :, 4]
    mask = torch.ones(2, 7)
    for name in ("wr_triple", "ltr_triple"):
        expected = getattr(reference, name)(student.double(), teacher, mask)
        torch.testing.assert_close(getattr(ckd, name)(student.double(), teacher, mask), expected)


def nearly(kind):
    """float32 hidden states that make a difference vector or a cosine lose its digits."""
    states = hidden(3, size=16, length=6, layers=3)
    noise = hidden(4, size=16, length=6, layers=3)
    states = {
        "random": states,
        "offset": states + 100,
        "nearly equal, 1e-2": states[:, :, :1] + 1e-2 * noise,
        "nearly equal, 1e-4": states[:, :, :1] + 1e-4 * noise,
        "nearly equal, 1e-6": states[:, :, :1] + 1e-6 * noise,
        "two clusters": torch.cat([states[:, :, :1] + 1e-5 * noise[:, :, :3], states[:, :, 3:]], 2),
        "layers nearly equal": states[:, :1] + 1e-5 * noise,
        "nearly parallel": states[:, :, :1] * torch.arange(1, 7).view(1, 1, 6, 1) + 1e-4 * noise,
        "large and small": states * torch.logspace(-3, 3, 6).view(1, 1, 6, 1),
    }[kind]
    return states.float()


KINDS = [
    *("random", "offset", "nearly equal, 1e-2", "nearly equal, 1e-4", "nearly equal, 1e-6"),
    *("two clusters", "layers nearly equal", "nearly parallel", "large and small"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in TERMS), ("wr_pair", {"distance": "l2"}), ("ltr_pair", {"distance": "l2"})],
)
def test_float32_error_is_at_most_the_naive_one(name, options, kind):
    """Tolerance relative to the rounding error of the plain evaluation in float32, both against float64."""
    student, teacher, mask = nearly(kind), hidden(1, size=16, length=6, layers=3).float(), HOLES[:, 1:]
    twin = getattr(reference, name)
    truth, true_gradient = with_gradient(twin, student.double(), teacher.double(), mask, **options)
    naive, naive_gradient = with_gradient(twin, student, teacher, mask, **options)
    value, gradient = with_gradient(getattr(ckd, name), student, teacher, mask, **options)
    scale, size = truth.abs(), true_gradient.norm()
    assert (value - truth).abs() <= (naive - truth).abs() + 3e-7 * scale
    assert (gradient - true_gradient).norm() <= (naive_gradient - true_gradient).norm() + 3e-7 * size


@pytest.mark.parametrize("name", TERMS)
def test_autocast_changes_nothing(name):
    student, teacher, mask = hidden(0, dtype=torch.float32), hidden(1, dtype=torch.float32), torch.ones(2, 7)
    expected = with_gradient(getattr(ckd, name), student, teacher, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = with_gradient(getattr(ckd, name), student, teacher, mask)
    assert torch.equal(value[0], expected[0])
    assert torch.equal(value[1], expected[1])


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("window", [21, None])
def test_nothing_larger_than_the_input_is_made(window):
    """No tensor of batch x layers x length x window x hidden, nor of batch x layers x length³."""
    student, teacher = (hidden(i, size=64, length=48, layers=3, dtype=torch.float32) for i in (0, 1))
    with LargestTensor() as seen:
        with_gradient(ckd.wr_triple, student, teacher, torch.ones(2, 48), window=window)
        with_gradient(ckd.ltr_triple, student, teacher, torch.ones(2, 48))
    assert 0 < seen.largest <= 48 / 64 * 6 * student.numel()


@pytest.mark.parametrize("name", TERMS)
def test_shapes_that_do_not_match_are_refused(name):
    with pytest.raises(UserError, match=r"the student's are \(2, 4, 7, 5\), the teacher's \(2, 3, 7, 5\)"):
        getattr(ckd, name)(hidden(0), hidden(0, layers=3), torch.ones(2, 7))
    with pytest.raises(UserError, match=r"the mask is \(2, 6\)"):
        getattr(ckd, name)(hidden(0), hidden(0), torch.ones(2, 6))


# ---------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"wr_pairs": 1.0}}, "did you mean 'wr_pair'"),
        ({"weights": {"wr_pair": -1.0}}, "distillation.weights.wr_pair must be a number from 0, not -1.0"),
        ({"weights": {"wr_pair": "much"}}, "must be a number from 0, not 'much'"),
        ({"weights": {"ce": float("nan")}}, "must be a number from 0, not nan"),
        ({"temperature": 0}, "distillation.temperature must be a number above 0, not 0"),
        ({"temperature": "hot"}, "must be a number above 0, not 'hot'"),
        ({"window": 20}, "must be an odd number from 3, or null, not 20"),
        ({"window": 1}, "or null, not 1"),
        ({"window": 5.0}, "or null, not 5.0"),
        ({"distance": "cosine"}, "distillation.distance: 'cosine' is unknown, did you mean 'cos'"),
        ({"average": "mean"}, "distillation.average: 'mean' is unknown"),
        ({"divergence": "mae"}, "distillation.divergence: 'mae' is unknown"),
        ({"width_power": -1}, "distillation.width_power must be a number from 0, not -1"),
        ({"schedule": "linar"}, "distillation.schedule: 'linar' is unknown, did you mean 'linear'"),
    ],
)
def test_bad_settings_are_told_in_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        DistillationSettings(**options)


@pytest.mark.parametrize("stage", ["width", "depth"])
@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_is_valid(name, stage):
    assert DistillationSettings(**SIGNALS[name][stage]).active(distill.TERMS)


def test_a_schedule_changes_the_means_and_leaves_the_goals():
    weights = {"logits": 2.0, "ce": 3.0, "wr_pair": 8.0, "hidden_mse": 4.0}
    linear = DistillationSettings(weights=weights, schedule="linear")
    assert linear.at(0.0).weights == weights
    assert linear.at(0.75).weights == {"logits": 2.0, "ce": 3.0, "wr_pair": 2.0, "hidden_mse": 1.0}
    assert DistillationSettings(weights=weights).at(0.75).weights == weights


# ------------------------------------------------------------------------------------------------- the trainer's side


def states(seed, count, size=5):
    return list(hidden(seed, size=size, layers=count, dtype=torch.float32).unbind(1))


def logits(seed, classes=3):
    return torch.randn(2, classes, generator=torch.Generator().manual_seed(seed))


def signal_of(settings, logits, hidden_states, mask, kind=CLASSIFICATION, **labels):
    return TeacherSignal(settings, kind, {"logits": logits}, hidden_states, {"attention_mask": mask, **labels})


def loss_of_one(settings, logits, hidden_states, teacher, layers):
    """The loss and the terms of one student."""
    total, (terms,) = distillation_loss(settings, [Student({"logits": logits}, hidden_states, layers)], teacher)
    return total, terms


ALL = dict.fromkeys(distill.RELATION_TERMS, 1.0) | {"logits": 1.0}


@pytest.mark.parametrize("layers", [(0, 1, 2, 3, 4, 5), (1, 3, 5), (0, 5), (4,)])
def test_each_layer_is_matched_with_the_one_that_it_came_from(layers):
    settings, teacher_states, student_states = (
        DistillationSettings(weights=ALL),
        states(0, 7, 6),
        states(1, 1 + len(layers)),
    )
    teacher = signal_of(settings, logits(0), teacher_states, HOLES)
    total, losses = loss_of_one(settings, logits(1), student_states, teacher, layers)
    matched = torch.stack([teacher_states[0], *(teacher_states[1 + i] for i in layers)], 1)
    for name in TERMS:
        assert losses[name] == getattr(ckd, name)(torch.stack(student_states, 1), matched, HOLES)
    assert list(losses) == ["logits", *TERMS]
    torch.testing.assert_close(total, sum(losses.values()))
    with pytest.raises(UserError, match="of the student do not match"):
        loss_of_one(settings, logits(1), student_states[1:], teacher, layers)
    with pytest.raises(UserError, match="of a teacher with 6 layers"):
        loss_of_one(settings, logits(1), student_states, teacher, (*layers[1:], 6))


def test_gradients_are_weighted_and_reach_every_hidden_state_of_the_student():
    weights = dict(zip(TERMS, (1.0, 20.0, 0.3, 7.0), strict=True))
    settings, layers = DistillationSettings(weights=weights), (1, 3)
    teacher = signal_of(settings, logits(0), states(0, 5), HOLES)
    student = [h.requires_grad_() for h in states(1, 3)]
    loss_of_one(settings, logits(1), student, teacher, layers)[0].backward()
    stacked = torch.stack([h.detach() for h in student], 1).requires_grad_()
    matched = torch.stack([states(0, 5)[i] for i in (0, 2, 4)], 1)
    sum(weights[name] * getattr(ckd, name)(stacked, matched, HOLES) for name in TERMS).backward()
    torch.testing.assert_close(torch.stack([h.grad for h in student], 1), stacked.grad)


@pytest.mark.parametrize("padding", [(0, 3), (2, 0), (2, 3)], ids=["right", "left", "both"])
def test_positions_where_all_is_padding_are_left_out_and_change_nothing(padding):
    settings, layers, length = DistillationSettings(weights=ALL | {"hidden_mse": 1.0}), (1, 3), 7
    everywhere = slice(padding[0], padding[0] + length)

    def run(wide):
        pad = (lambda x, value: F.pad(x, padding, value=value)) if wide else (lambda x, value: x)
        mask = pad(HOLES, 0)
        teacher_states = [pad(h.mT, 9.0).mT for h in states(0, 5)]
        student_states = [pad(h.mT, -9.0).mT.detach().requires_grad_() for h in states(1, 3)]
        teacher = signal_of(settings, logits(0), teacher_states, mask)
        total, terms = loss_of_one(settings, logits(1), student_states, teacher, layers)
        total.backward()
        shapes = {name: teacher.relation(name, (0, 2, 4)).shape for name in TERMS}
        return total.detach(), terms, shapes, torch.stack([h.grad for h in student_states], 1)

    (total, terms, shapes, grads), (wide_total, wide_terms, wide_shapes, wide_grads) = run(False), run(True)
    torch.testing.assert_close(wide_total, total)
    torch.testing.assert_close(wide_terms, terms)
    assert wide_shapes == shapes, "padding was compared"
    torch.testing.assert_close(wide_grads[:, :, everywhere], grads)
    wide_grads[:, :, everywhere] = 0
    assert not wide_grads.any()


def test_the_means_of_narrow_students_count_less_in_value_and_gradient():
    weights = ALL | {"hidden_mse": 1.0}
    settings = DistillationSettings(weights=weights, width_power=2)
    wide, narrow = a_bunch([(0, 1, 3), (1, 3)], 1)
    narrow = replace(narrow, width=0.5)
    teacher = signal_of(settings, logits(0), states(0, 5), HOLES)
    total, terms = distillation_loss(settings, [wide, narrow], teacher)
    means = {name: 0.25 if name != "logits" else 1.0 for name in weights}
    torch.testing.assert_close(total.detach(), sum(terms[0].values()) + sum(means[n] * x for n, x in terms[1].items()))
    alone = [
        distillation_loss(DistillationSettings(weights=own), [student], teacher)[0]
        for own, student in ((weights, wide), (means, narrow))
    ]
    expected = gradients_of(sum(alone), [wide, narrow])
    torch.testing.assert_close(gradients_of(total, [wide, narrow]), expected)


def a_bunch(stacks, seed):
    """Students of one width: hidden states of a stack that begins like an earlier one are the earlier one's there."""
    students, known = [], {}
    for n, layers in enumerate(stacks):
        own = states(seed + n, 1 + len(layers))
        shared = [known.setdefault(layers[:i], h.requires_grad_()) for i, h in enumerate(own)]
        students.append(Student({"logits": logits(seed + n).requires_grad_()}, shared, layers))
    return students


def gradients_of(total, students):
    leaves = {id(x): x for student in students for x in (*student.outputs.values(), *student.hidden_states)}
    return torch.autograd.grad(total, list(leaves.values()))


BUNCHES = {
    "prefix": [(0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 5)],
    "three": [(0, 1, 2, 3, 4), (0, 1, 3, 5), (0, 1, 3, 4), (2,)],
    "embedding alone": [(1, 3, 5), (2, 5)],
    "twice the same": [(0, 1), (0, 1), (0, 2)],
    "nothing but a prefix": [(0, 1, 2), (0, 1)],
}


@pytest.mark.parametrize("chunk_elements", [1, 400, 2**20])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("stacks", BUNCHES.values(), ids=BUNCHES)
def test_a_bunch_is_the_sum_of_its_students(stacks, window, chunk_elements, monkeypatch):
    monkeypatch.setitem(relations.CHUNK_ELEMENTS, "cpu", chunk_elements)
    weights = {"ce": 0.5, "logits": 2.0, "hidden_mse": 0.7, "wr_pair": 1.5, "wr_triple": 20.0, "ltr_pair": 0.3}
    options = DistillationSettings(weights={**weights, "ltr_triple": 7.0}, window=window)
    teacher = signal_of(options, logits(0), states(0, 7), HOLES, labels=torch.tensor([2, 0]))
    students = a_bunch(stacks, seed=1)
    total, terms = distillation_loss(options, students, teacher)
    separate = [distillation_loss(options, [student], teacher) for student in students]
    expected = sum(loss for loss, _ in separate)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(terms, [own for _, (own,) in separate])
    for gradient, wanted in zip(gradients_of(total, students), gradients_of(expected, students), strict=True):
        torch.testing.assert_close(gradient, wanted)
        assert gradient.any()


def test_a_state_that_meets_two_states_of_the_teacher_is_compared_with_each():
    settings, h = DistillationSettings(weights=ALL), [x.requires_grad_() for x in states(1, 3)]
    teacher = signal_of(settings, logits(0), states(0, 5), HOLES)
    students = [Student({"logits": logits(1).requires_grad_()}, h, layers) for layers in ((0, 1), (0, 3))]
    total, _ = distillation_loss(settings, students, teacher)
    expected = sum(distillation_loss(settings, [student], teacher)[0] for student in students)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradients_of(total, students), gradients_of(expected, students))


def test_what_students_share_is_measured_once(monkeypatch):
    seen = []
    gram = relations._gram
    monkeypatch.setattr(relations, "_gram", lambda a, vectors: seen.append((a, len(vectors))) or gram(a, vectors))
    settings = DistillationSettings(weights=ALL)
    teacher = signal_of(settings, logits(0), states(0, 7), HOLES)
    seen.clear()
    distillation_loss(settings, a_bunch(BUNCHES["prefix"], seed=1), teacher)
    assert seen == [*((relations.WORDS, count) for count in (5, 2, 1)), (relations.LAYERS, 8)]


def test_the_teachers_relations_are_made_once_for_all_subnetworks(monkeypatch):
    calls = []
    for name, term in distill.RELATION_TERMS.items():

        def relate(points, how, name=name, term=term):
            calls.append((name, torch.is_grad_enabled()))
            return term.relate(points, how)

        counted = relations.Relation(term.arrangement, relate, term.compare, term.count)
        monkeypatch.setitem(distill.RELATION_TERMS, name, counted)
    settings = DistillationSettings(weights=ALL)
    teacher = signal_of(settings, logits(0), states(0, 5), HOLES)
    for layers in ((0, 1, 2, 3), (1, 3), (1, 3), (0, 1, 2, 3)):
        loss_of_one(settings, logits(1), states(1, 1 + len(layers)), teacher, layers)
    made_for_teacher = [name for name, with_gradient in calls if not with_gradient]
    # words once for all layers, layers once for each of the two stacks
    assert {name: made_for_teacher.count(name) for name in TERMS} == {
        "wr_pair": 1, "wr_triple": 1, "ltr_pair": 2, "ltr_triple": 2,
    }  # fmt: skip


def test_the_teachers_hidden_states_are_not_kept():
    settings, teacher_states = DistillationSettings(weights=ALL), states(0, 5)
    alive = [weakref.ref(h) for h in teacher_states]
    teacher = signal_of(settings, logits(0), teacher_states, HOLES)
    del teacher_states
    gc.collect()
    assert not any(state() is not None for state in alive)
    assert not teacher.hidden_states
    loss_of_one(settings, logits(1), states(1, 3), teacher, (1, 3))


def test_a_term_without_weight_is_not_computed():
    settings = DistillationSettings(weights={"logits": 2.0, "wr_pair": 0.0, "hidden_mse": 0, "ce": 0})
    teacher = signal_of(settings, logits(0), states(0, 5, size=9), HOLES)
    total, losses = loss_of_one(settings, logits(1), states(1, 5), teacher, (0, 1, 2, 3))
    assert list(losses) == ["logits"]
    assert total == 2 * losses["logits"]
    with pytest.raises(UserError, match="no distillation term has a weight"):
        loss_of_one(DistillationSettings(weights={}), logits(1), states(1, 5), teacher, (0, 1, 2, 3))


def one_loss(name, student_logits, teacher_logits, labels=None, kind=CLASSIFICATION, **options):
    settings = DistillationSettings(weights={name: 1.0}, **options)
    known = {} if labels is None else {"labels": labels}
    teacher = signal_of(settings, teacher_logits, states(0, 3), HOLES, kind, **known)
    return loss_of_one(settings, student_logits, states(1, 3), teacher, (0, 1))[0]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logits_are_the_soft_cross_entropy_times_the_squared_temperature(temperature):
    student, teacher = logits(1), logits(0)
    expected = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        p, q = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (t, s))
        expected -= temperature**2 * (p * q.log()).sum() / 2
    torch.testing.assert_close(one_loss("logits", student, teacher, temperature=temperature), expected.float())
    low_precision = one_loss("logits", student.bfloat16(), teacher.bfloat16(), temperature=temperature)
    assert low_precision.dtype == torch.float32


def test_the_gradient_of_the_logits_does_not_shrink_with_the_temperature():
    """Without T² it would be sixteen times smaller at T = 4."""
    student = (logits(1) / 100).requires_grad_()
    sizes = [
        torch.autograd.grad(one_loss("logits", student, logits(0) / 100, temperature=t), student)[0].norm()
        for t in (1.0, 4.0)
    ]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.05, atol=0)


def test_regression_trains_the_head():
    student, teacher, labels = logits(1, 1).requires_grad_(), logits(0, 1), torch.tensor([0.5, -1.0])
    loss = one_loss("logits", student, teacher, kind=REGRESSION)
    torch.testing.assert_close(loss, ((student - teacher) ** 2).mean())
    assert torch.autograd.grad(loss, student)[0].abs().min() > 0
    loss = one_loss("ce", student, teacher, labels=labels, kind=REGRESSION)
    torch.testing.assert_close(loss, ((student[:, 0] - labels) ** 2).mean())


def test_ce_is_the_cross_entropy_with_the_labels():
    student, labels = logits(1), torch.tensor([2, 0])
    expected = -student.log_softmax(-1)[[0, 1], labels].mean()
    torch.testing.assert_close(one_loss("ce", student, logits(0), labels=labels), expected)
    with pytest.raises(UserError, match="needs labels"):
        one_loss("ce", student, logits(0))


def test_hidden_mse_counts_real_words_only():
    settings = DistillationSettings(weights={"hidden_mse": 1.0})
    teacher_states, student_states = states(0, 3), states(1, 2)
    expected = [
        (student_states[s][b, w] - teacher_states[t][b, w]).square()
        for s, t in ((0, 0), (1, 2)) for b in range(2) for w in range(7) if HOLES[b, w]
    ]  # fmt: skip
    for h in (*teacher_states, *student_states):
        h[HOLES == 0] = float("nan")
    student_states, teacher_states = ([h.requires_grad_() for h in each] for each in (student_states, teacher_states))
    teacher = signal_of(settings, logits(0), teacher_states, HOLES)
    loss = loss_of_one(settings, logits(1), student_states, teacher, (1,))[0]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    gradients = torch.autograd.grad(loss, [*student_states, *teacher_states], allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients[:2])
    assert gradients[2:] == (None,) * 3


def test_hidden_mse_needs_equal_hidden_sizes_and_ckd_does_not():
    settings = DistillationSettings(weights={"hidden_mse": 1.0})
    teacher = signal_of(settings, logits(0), states(0, 3, size=6), HOLES)
    with pytest.raises(UserError, match=r"terms hidden_mse need equal hidden sizes.*have no such limit"):
        loss_of_one(settings, logits(1), states(1, 3), teacher, (0, 1))


@pytest.mark.parametrize(("size", "terms"), [(5, {"logits", "wr_pair", "hidden_mse"}), (6, {"logits", "wr_pair"})])
def test_a_student_of_another_hidden_size_learns_by_the_terms_that_can_compare_it(size, terms):
    weights = {"logits": 1.0, "wr_pair": 1.0, "hidden_mse": 1.0}
    settings, teacher_states = DistillationSettings(weights=weights), states(0, 3, size=size)
    teacher = signal_of(settings, logits(0), teacher_states, HOLES)
    total, of_each = loss_of_one(settings, logits(1), states(1, 3), teacher, (0, 1))
    assert set(of_each) == terms
    torch.testing.assert_close(total, sum(of_each.values()))
