"""The result in words: the page's first paragraph, its figures, and what is missing with the command that adds it."""

from collections.abc import Sequence
from dataclasses import dataclass

from dynackd.report.judging import Judge, name_of_metric, number, part
from dynackd.report.reading import Facts, Results
from dynackd.report.tradeoff import Axis, Point

SHARES = (0.99, 0.98, 0.95, 0.9)  # of the teacher's metric that a size may be told to keep


@dataclass(frozen=True)
class Figure:
    """One number in large type, and what it is."""

    value: str
    what: str


def lead(results: Results, judge: Judge, axes: Sequence[Axis]) -> list[str]:
    """A few sentences that tell the result."""
    sentences = [_of_the_grid(results, judge)]
    measured = next((axis for axis in axes if axis.measured), None)
    if measured:
        sentences.append(_of_the_fastest(measured, judge))
    return [sentence for sentence in sentences if sentence] or [_of_what_is_there(results)]


def _of_the_grid(results: Results, judge: Judge) -> str:
    """The smallest trained size that keeps nearly all of the teacher's metric."""
    if results.judged is None:
        return ""
    evaluation = results.judged.evaluation
    rows = evaluation["subnetworks"]
    count = f"{len(rows)} sizes" if len(rows) != 1 else "one size"
    begun = f"This {results.judged.name} stage trained {count} at once"
    if judge.teacher is None or not (best := smallest_good(rows, judge)):
        return f"{begun}."
    share, row = best
    name, value = name_of_metric(judge.metric), judge.of(row)
    told = f"{begun}. Width {row['width']:g} at depth {row['depth']:g} is the smallest that "
    told += f"keeps {share:.0%} of the teacher's {name} ({value:.3f}, the teacher has {judge.teacher:.3f})"
    return f"{told}, {_cost(row, evaluation)}."


def smallest_good(rows: Sequence[Facts], judge: Judge) -> tuple[float, Facts] | None:
    """(share of the teacher's metric that is promised, row) of the cheapest row that keeps it, by the largest promise
    that any row keeps."""
    shares = [(judge.share(judge.of(row)), row) for row in rows]
    for promise in SHARES:
        kept = [row for share, row in shares if share is not None and share >= promise]
        if kept:
            return promise, min(kept, key=lambda row: (row.get("flops", 0), row.get("parameters", 0)))
    known = [(share, row) for share, row in shares if share is not None]
    return max(known, key=lambda own: own[0], default=None)


def _cost(row: Facts, evaluation: Facts) -> str:
    whole = part(evaluation, "teacher")
    told = []
    for key, what in (("flops", "FLOPs"), ("parameters", "parameters")):
        own, all_of_it = number(row.get(key)), number(whole.get(key))
        if own and all_of_it:
            told.append(f"{own / all_of_it:.0%} of its {what}")
    return "with " + " and ".join(told) if told else "at its own cost"


def _of_the_fastest(axis: Axis, judge: Judge) -> str:
    """The fastest measured file of a student, and what it keeps."""
    found = [(point, series.name) for series in axis.series for point in series.points]
    students = [own for own in found if not own[0].is_teacher]
    teachers = [own for own in found if own[0].is_teacher]
    (point, series), (whole, where) = min(students, key=_x), min(teachers, key=_x, default=(None, ""))
    told = f"The fastest file measured, {point.label} in {series}, takes {point.x:.2g} ms"
    if whole is not None:
        told += f" where the teacher takes {whole.x:.2g} ms in {where}, {whole.x / point.x:.1f} times as long"
    share = judge.share(point.y)
    if share is not None:
        told += f", and keeps {share:.0%} of its {name_of_metric(judge.metric)}"
    return f"{told} ({axis.name})."


def _x(own: tuple[Point, str]) -> float:
    return own[0].x


def _of_what_is_there(results: Results) -> str:
    names = [own.name + ("" if own.finished else " (not finished)") for own in results.trainings]
    names += [own.place for own in results.students]
    return f"Here lie {' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)}."


@dataclass(frozen=True)
class Missing:
    """What a section lacks, in a sentence, and the command that adds it ("" where there is none)."""

    sentence: str
    command: str = ""


def missing(results: Results, axes: Sequence[Axis], run: str) -> dict[str, Missing]:
    """Section -> what it lacks."""
    found = {}
    if not any(axis.measured for axis in axes):
        student = results.students[0].place if results.students else "student"
        found["latency"] = Missing(
            "No latency of a student was measured, so the picture counts instead. This adds it:",
            f"dynackd benchmark {run}/teacher {run}/{student} --length 64 --json {run}/latency.json",
        )
    if not results.students:
        supernet = f"{run}/{results.judged.name if results.judged else 'depth'}"
        command = f"dynackd export {supernet} --width 0.5 --depth 0.75 --int8 --output {run}/student"
        found["students"] = Missing("No size has been cut out yet. This makes one:", command)
    if results.judged is None:
        found["grid"] = Missing("No sizes were trained here. This trains all widths:", "dynackd train-width RECIPE")
    elif results.judged.name == "width":
        found["grid"] = Missing("These are the widths alone. This adds depths:", "dynackd train-depth RECIPE")
    if not any(own.importance for own in results.trainings):
        found["importance"] = Missing(
            "The importance of heads and neurons is not kept here: the width stage is not, or an earlier version ran "
            "it. This computes it, and trains the stage, again:",
            "dynackd train-width RECIPE --overwrite",
        )
    if not results.trained:
        found["training"] = Missing("No training's log lies here.")
    return found


def figures(results: Results, judge: Judge, axes: Sequence[Axis]) -> list[Figure]:
    """The few numbers that stand in large type."""
    found = []
    if judge.teacher is not None:
        found.append(Figure(f"{judge.teacher:.3f}", f"{name_of_metric(judge.metric)} of the teacher"))
    if results.judged is not None:
        found.append(Figure(str(len(results.judged.evaluation["subnetworks"])), "sizes from one training"))
    measured = next((axis for axis in axes if axis.measured), None)
    if measured:
        points = [point for series in measured.series for point in series.points]
        fastest = min(point.x for point in points if not point.is_teacher)
        teacher = min((point.x for point in points if point.is_teacher), default=None)
        found.append(Figure(f"{fastest:.2g} ms", f"fastest student ({measured.name})"))
        if teacher is not None:
            found.append(Figure(f"{teacher / fastest:.1f}×", "as fast as the teacher's fastest"))
    sizes = [
        facts.get("size_bytes", 0)
        for student in results.students
        for name, facts in part(student.about, "files").items()
        if name.endswith(".onnx")
    ]
    if sizes:
        found.append(Figure(f"{min(sizes) / 1e6:.1f} MB", "smallest ONNX file"))
    return found
