"""Which layers of a teacher a student's layers learn from."""

import pytest

from dynackd.distill.matching import MATCHINGS
from dynackd.errors import UserError
from dynackd.subnet import Geometry, Layer, Subnet


def geometry(layers):
    return Geometry(layers, 4, 8, 40, 32)


def matched(rule, kept, full, teacher):
    student = Subnet(tuple(Layer(index, 4, 40) for index in kept), 32)
    return MATCHINGS[rule](student, geometry(full), geometry(teacher))


@pytest.mark.parametrize(
    ("rule", "kept", "full", "teacher", "expected"),
    [
        ("own", (1, 3), 4, 4, (1, 3)),
        ("uniform", (0, 1, 2, 3, 4, 5), 6, 12, (1, 3, 5, 7, 9, 11)),
        ("uniform", (1, 3, 5), 6, 12, (3, 7, 11)),
        ("uniform", (0, 1, 2, 3), 4, 6, (1, 2, 4, 5)),  # 1.5, 3, 4.5, 6 of 6 layers
        ("uniform", (0, 1, 2, 3), 4, 2, (0, 0, 1, 1)),
        ("last", (1, 3), 4, 6, (4, 5)),
        ("last", (0, 1, 2), 3, 2, (0, 0, 1)),
    ],
)
def test_each_layer_learns_from_the_one_that_the_rule_names(rule, kept, full, teacher, expected):
    assert matched(rule, kept, full, teacher) == expected


def test_a_teacher_of_another_depth_has_no_layer_of_the_students_own():
    with pytest.raises(UserError, match=r"has 12 layers and the model 6.*set distillation.matching to uniform or last"):
        matched("own", (1, 3), 6, 12)
