"""The result in words: the page's first paragraph, its figures, and what is missing with the command that adds it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynackd.report.axes import Axis, Point
from dynackd.report.judging import Judge, name_of_metric, number, part, row_of
from dynackd.report.reading import Facts, Results

SHARES = (0.99, 0.98, 0.95, 0.9)  # of the teacher's metric that a size may be told to keep
MUCH_LESS = 0.6  # of the FLOPs of the size that is recommended: what makes a worse one worth telling


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
    rows = results.judged.evaluation["subnetworks"]
    begun = f"{len(rows)} sizes came out of one training." if len(rows) > 1 else "One size was trained."
    if judge.of_fidelity:
        values = [(value, row) for row in rows if (value := judge.of(row)) is not None]
        if not values:
            return begun
        (least, smallest), (most, largest) = (function(values, key=lambda own: own[0]) for function in (min, max))
        told = f"They follow the teacher with {name_of_metric(judge.metric)} from {least:.3f} ({_size(smallest)}) to "
        return f"{begun} {told}{most:.3f} ({_size(largest)})."
    best = recommended(results, judge)
    if best is None or judge.teacher is None:
        return begun
    promise, row = best
    of_teacher = f"of the teacher's {name_of_metric(judge.metric)}"
    told = f"The smallest that keeps {promise:.0%} {of_teacher} is {_size(row)}" if promise in SHARES else (
        f"The best of the smaller ones, {_size(row)}, keeps {promise:.0%} {of_teacher}"
    )
    told = f"{begun} {told}: {judge.of(row):.3f} of {judge.teacher:.3f}{_on_rows(results)}, {_cost(row, results)}."
    cheaper = _cheapest(results, judge, SHARES[-1])
    if cheaper is None or promise not in SHARES or _flops(cheaper) > MUCH_LESS * _flops(row):
        return told
    return f"{told} {SHARES[-1]:.0%} are kept by {_size(cheaper)} ({judge.of(cheaper):.3f}), {_cost(cheaper, results)}."


def recommended(results: Results, judge: Judge) -> tuple[float, Facts] | None:
    """(share of the teacher's metric that is promised, row) of the cheapest trained size that keeps it, by the largest
    promise of `SHARES` that any keeps; of the best where none keeps even the least. The full size is none of them."""
    for promise in SHARES:
        if (row := _cheapest(results, judge, promise)) is not None:
            return promise, row
    return max(_shares(results, judge), key=lambda own: own[0], default=None)


def _cheapest(results: Results, judge: Judge, promise: float) -> Facts | None:
    kept = [row for share, row in _shares(results, judge) if share >= promise]
    return min(kept, key=lambda row: (_flops(row), row.get("parameters", 0)), default=None)


def _shares(results: Results, judge: Judge) -> list[tuple[float, Facts]]:
    """(share of the teacher's metric, row) of every trained size that costs less than the largest."""
    rows = results.judged.evaluation["subnetworks"] if results.judged else []
    most = max(map(_flops, rows), default=0.0)
    smaller = [row for row in rows if _flops(row) < most] or rows
    return [(share, row) for row in smaller if (share := judge.share(judge.of(row))) is not None]


def _flops(row: Facts) -> float:
    return number(row.get("flops")) or 0.0


def _size(row: Facts) -> str:
    hidden = f" and hidden {row['hidden']:g}" if "hidden" in row else ""
    return f"width {row.get('width', 0):g} at depth {row.get('depth', 0):g}{hidden}"


def _on_rows(results: Results) -> str:
    rows = part(results.judged.origin, "validation").get("rows") if results.judged else None
    return f" on {rows:,} validation rows" if isinstance(rows, int) else ""


def _cost(row: Facts, results: Results) -> str:
    whole = part(results.judged.evaluation if results.judged else {}, "teacher")
    told = []
    for key, what in (("flops", "FLOPs"), ("parameters", "parameters")):
        own, all_of_it = number(row.get(key)), number(whole.get(key))
        if own and all_of_it:
            told.append(f"{own / all_of_it:.0%} of its {what}")
    return "with " + " and ".join(told) if told else "at its own cost"


def _of_the_fastest(axis: Axis, judge: Judge) -> str:
    """The fastest measured file of a student that keeps most of the teacher's metric, else the fastest at all."""
    found = [(point, series.name) for series in axis.series for point in series.points]
    students = [own for own in found if not own[0].is_teacher]
    teachers = [own for own in found if own[0].is_teacher]
    for promise in SHARES:
        kept = [own for own in students if (own[0].share or 0) >= promise]
        if kept:
            break
    point, series = min(kept or students, key=_x)
    begun = f"The fastest measured file that keeps {promise:.0%}" if kept else "The fastest measured file"
    told = f"{begun}, {point.label} in {series}, takes {point.x:.2g} ms"
    if teachers:
        whole, where = min(teachers, key=_x)
        told += f" where the teacher takes {whole.x:.2g} ms at its fastest, in {where}: {whole.x / point.x:.1f} times "
        told += "as long"
    if point.share is not None and not kept:
        told += f"; it keeps {point.share:.0%} of its {name_of_metric(judge.metric)}"
    return f"{told} ({axis.name.removeprefix('latency at ')})."


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


def _command(*words: str | Path) -> str:
    """As it can be pasted."""
    return shlex.join(["dynackd", *map(str, words)])


def missing(results: Results, judge: Judge, axes: Sequence[Axis], run: str) -> dict[str, Missing]:
    """Section -> what it lacks. run: its directory, as commands are to name it."""
    name = results.judged.name if results.judged else "depth"
    home = Path(run)
    if home.resolve().name == name:  # a report may be of one stage's directory
        home = home.parent if home.name == name else home / ".."
    found, supernet = {}, str(home / name)
    if not any(axis.measured for axis in axes):
        student = results.students[0].place if results.students else "student"
        found["latency"] = Missing(
            "No latency of a student was measured, so the picture counts instead. This adds it:",
            _command("benchmark", home / "teacher", home / student, "--length", "64", "--json", home / "latency.json"),
        )
    best = recommended(results, judge)
    row = best[1] if best else {}
    if not any(row_of(own, results) is row for own in results.students) and (row or not results.students):
        shares = {"width": row.get("width", 0.5), "depth": row.get("depth", 0.75)}
        shares |= {"hidden": row["hidden"]} if "hidden" in row else {}
        size = [word for axis, share in shares.items() for word in (f"--{axis}", f"{share:g}")]
        place = home / "students" / "x".join(f"{share:g}" for share in shares.values())
        command = _command("export", supernet, *size, "--int8", "--output", place)
        which = "The size that the first paragraph names" if row else "No size"
        found["students"] = Missing(f"{which} has {'not been' if row else 'been'} cut out yet. This makes it:", command)
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
        where = measured.name.removeprefix("latency at ")
        found.append(Figure(f"{fastest:.2g} ms", f"fastest student ({where})"))
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
