"""What the main picture is made of, whoever draws it."""

from dataclasses import dataclass

from dynackd.report.judging import Judge


@dataclass(frozen=True)
class Point:
    """A network at its cost x and metric y, with a label that stands beside it and lines that a hover tells."""

    x: float
    y: float
    label: str
    told: tuple[str, ...]
    is_teacher: bool = False
    share: float | None = None  # of the teacher's metric


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]
    joined: bool = False  # by a line


@dataclass(frozen=True)
class Axis:
    """One way to look: a cost, in `unit`, and who stands where. measured: on a machine, not counted."""

    name: str
    title: str
    unit: str
    series: tuple[Series, ...]
    measured: bool = False
    own_rows: bool = False  # the metric is of other rows than the teacher's

    @property
    def logarithmic(self) -> bool:
        xs = [point.x for series in self.series for point in series.points]
        return max(xs) > 5 * min(xs)


def metric_told(y: float, judge: Judge, share: float | None) -> str:
    """The metric, and what part of the teacher's it is."""
    return f"{judge.metric} {y:.4f}" + (f", {share:.1%} of the teacher's" if share is not None else "")
