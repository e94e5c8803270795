"""Which layers of a teacher each layer of a student learns from. Add a rule: one function, one line."""

from collections.abc import Callable

from dynackd.errors import UserError
from dynackd.subnet import Geometry, Subnet


def own_layers(student: Subnet, full: Geometry, teacher: Geometry) -> tuple[int, ...]:
    """The layers that the student's came from; `UserError` for a teacher of another depth than its full network."""
    if full.layers != teacher.layers:
        raise UserError(
            f"the teacher has {teacher.layers} layers and the model {full.layers}, so no layer is the other's own; set "
            "distillation.matching to uniform or last"
        )
    return student.indices


def uniform_layers(student: Subnet, full: Geometry, teacher: Geometry) -> tuple[int, ...]:
    """For layer i of k that the student has, the teacher's at the same relative depth, i/k, rounded half up; the last
    for the last (TinyBERT's uniform strategy, Jiao et al., 2020, where that divides evenly)."""
    kept = len(student.layers)
    return tuple(max(0, (2 * i * teacher.layers + kept) // (2 * kept) - 1) for i in range(1, kept + 1))


def last_layers(student: Subnet, full: Geometry, teacher: Geometry) -> tuple[int, ...]:
    """The teacher's last layers, one for each of the student's; where it has fewer, its first stands for several."""
    before = teacher.layers - len(student.layers)
    return tuple(max(0, before + i) for i in range(len(student.layers)))


# name -> the 0-based layers of a teacher that a student's match, by the sizes of the student's full network and of the
# teacher.
MATCHINGS: dict[str, Callable[[Subnet, Geometry, Geometry], tuple[int, ...]]] = {
    "own": own_layers,
    "uniform": uniform_layers,
    "last": last_layers,
}
