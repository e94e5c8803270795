"""The main picture's points: how good each size is against what it costs, drawn by the page and by the PNG and SVG."""

from collections.abc import Iterable, Sequence

from dynackd.report.axes import Axis, Point, Series, metric_told
from dynackd.report.judging import Judge, Score, number, part, row_of, score_of
from dynackd.report.reading import Facts, Measured, Results, Student

RUNTIMES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
FILES = {"quantized": "int8"}  # transformers.js's names of files -> ours


# --- measured --------------------------------------------------------------------------------------------------------


Setting = tuple[str, int | None, int, int, str]  # provider, threads, batch size, tokens, machine


def setting_of(own: Measured) -> Setting:
    return own.provider, own.threads, own.batch_size, own.length, own.machine


def in_words(setting: Setting) -> str:
    provider, threads, batch_size, length, _ = setting
    told = f"{length} tokens, batch {batch_size}"
    if provider != "cpu":
        return f"{told}, {provider}"
    return told + (f", {threads} thread{'s' if threads != 1 else ''}" if threads else "")


def latency_axes(results: Results, judge: Judge) -> list[Axis]:
    """One for each shape, number of threads, device and machine at which a student was measured."""
    axes = []
    for setting in dict.fromkeys(map(setting_of, results.measured)):
        rows = [own for own in results.measured if setting_of(own) == setting]
        series = list(_measured_series(rows, results, judge))
        students = any(not point.is_teacher for own in series for point in own.points)
        if students:
            title = f"latency in ms, median, at {in_words(setting)}" + (f"; {setting[4]}" if setting[4] else "")
            name = f"latency at {in_words(setting)}"
            axes.append(Axis(name, title, "ms", tuple(series), measured=True))
    return axes


def _measured_series(rows: Sequence[Measured], results: Results, judge: Judge) -> Iterable[Series]:
    references = {own.runtime: own.p50 for own in reversed(rows) if own.place == "teacher"}
    names = [series_name(own) for own in rows]
    for name in dict.fromkeys(names):
        points = []
        of_it = [own for own, named in zip(rows, names, strict=True) if named == name]
        for own in sorted(of_it, key=lambda own: own.place == "teacher"):  # its sign is no legend's
            score = Score(judge.teacher, None) if own.place == "teacher" else _score(own, results, judge)
            if score.value is not None:
                points.append(_measured_point(own, score.value, score.share, name, references, results, judge))
        if points:
            yield Series(name, tuple(points))


def series_name(own: Measured) -> str:
    """The runtime and what kind of file it read."""
    stem = own.file.rpartition("/")[2].removesuffix(".onnx").removeprefix("model").removeprefix("_")
    return RUNTIMES.get(own.runtime, own.runtime) + (f", {FILES.get(stem, stem)}" if stem else "")


def _score(own: Measured, results: Results, judge: Judge) -> Score:
    student = next((one for one in results.students if one.place == own.place), None)
    return score_of(student, own.file, judge, results) if student else Score(None, None)


def _measured_point(
    own: Measured,
    y: float,
    share: float | None,
    series: str,
    references: dict[str, float],
    results: Results,
    judge: Judge,
) -> Point:
    is_teacher = own.place == "teacher"
    student = next((one for one in results.students if one.place == own.place), None)
    label = "teacher" if student is None else label_of(student)
    told = [f"{own.place}: {label}" if student and label != own.place else label, series]
    told += [metric_told(y, judge, share), f"{own.p50:.3g} ms" + (f", p90 {own.p90:.3g}" if own.p90 else "")]
    reference = references.get(own.runtime)
    if reference and not is_teacher:
        runtime = RUNTIMES.get(own.runtime, own.runtime)
        told.append(f"{reference / own.p50:.1f} times as fast as the teacher in {runtime}")
    size = number(part(part(student.about, "files"), own.file or "onnx/model.onnx").get("size_bytes")) if student else 0
    if size and own.runtime != "torch":
        told.append(f"{size / 1e6:.1f} MB")
    return Point(own.p50, y, label, tuple(told), is_teacher, share)


def label_of(student: Student) -> str:
    """`0.5 x 0.75` for a student of the grid, `0.5 x 0.75 x 0.5` where its hidden size is cut, its name for another."""
    width, depth = student.about.get("width"), student.about.get("depth")
    if number(width) is None or number(depth) is None:
        return student.place.rpartition("/")[2]
    hidden = number(student.about.get("hidden"))
    return f"{width:g} × {depth:g}" + (f" × {hidden:g}" if hidden is not None else "")


# --- counted ---------------------------------------------------------------------------------------------------------


def counted_axes(results: Results, judge: Judge) -> list[Axis]:
    """The FLOPs and parameters of all trained sub-networks."""
    if results.judged is None:
        return []
    evaluation = results.judged.evaluation
    found = []
    for key, name, title, unit in (
        ("flops", "FLOPs", f"MFLOPs of a row of {evaluation.get('length')} tokens", "MFLOPs"),
        ("parameters", "parameters", "parameters in millions, the vocabulary's included", "M"),
    ):
        series = tuple(_grid_series(evaluation, key, 1e6, unit, judge, results))
        if series:
            found.append(Axis(name, f"{title}; the numbers are widths", unit, series))
    return found


def _grid_series(
    evaluation: Facts, key: str, scale: float, unit: str, judge: Judge, results: Results
) -> Iterable[Series]:
    rows = evaluation["subnetworks"]
    for depth, hidden in dict.fromkeys((row.get("depth"), row.get("hidden", 1)) for row in rows):
        points, cut = [], f", hidden {hidden:g}" if hidden < 1 else ""
        for row in (own for own in rows if (own.get("depth"), own.get("hidden", 1)) == (depth, hidden)):
            x, y = number(row.get(key)), judge.of(row)
            if x and y is not None:
                told = [_of_grid(row) + cut, metric_told(y, judge, judge.share(y))]
                told += [f"{x / scale:,.1f} {unit}", *_share_told(x, evaluation, key), *_exported(row, results)]
                points.append(Point(x / scale, y, f"{row.get('width', 0):g}", tuple(told)))
        if points:
            yield Series(_depth(depth) + cut, tuple(points), joined=True)
    x = number(part(evaluation, "teacher").get(key))
    if x and judge.teacher is not None:
        told = ["teacher", metric_told(judge.teacher, judge, None), f"{x / scale:,.1f} {unit}"]
        yield Series("teacher", (Point(x / scale, judge.teacher, "teacher", tuple(told), is_teacher=True),))


def _of_grid(row: Facts) -> str:
    """Width and depth; a sub-network that was polished need not be one of the grid."""
    known = [f"{name} {own:g}" for name in ("width", "depth") if (own := number(row.get(name))) is not None]
    return ", ".join(known) or "one sub-network"


def _depth(depth: float | None) -> str:
    return "one sub-network" if depth is None else f"depth {depth:g}"


def _share_told(x: float, evaluation: Facts, key: str) -> list[str]:
    whole = number(part(evaluation, "teacher").get(key))
    return [f"{x / whole:.0%} of the teacher's"] if whole else []


def _exported(row: Facts, results: Results) -> list[str]:
    places = [own.place for own in results.students if row_of(own, results) is row]
    return [f"exported: {', '.join(places)}"] if places else []
