"""The page's tables, as cells with what they sort by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynackd.report.judging import Judge, Score, exported_score, name_of_metric, number, part, score_of
from dynackd.report.reading import Facts, Measured, Results, Student
from dynackd.report.terminal import layer_ranges
from dynackd.report.tradeoff import in_words, label_of, series_name, setting_of

WHEN = ("before", "after")  # rewiring


@dataclass(frozen=True)
class Cell:
    """What is shown, and what a column is sorted by: a number, the text, or nothing (last in either direction)."""

    text: str
    key: float | str | None


@dataclass(frozen=True)
class Table:
    """A caption that names it, columns as (name, whether of numbers) and rows of cells."""

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]


def text(value: Any) -> Cell:
    return Cell(str(value), str(value))


def figure(value: Any, form: str = "{:g}", scale: float = 1) -> Cell:
    """A number in this form; a dash where there is none."""
    own = number(value)
    return Cell("–", None) if own is None else Cell(form.format(own / scale).replace("-", "−"), own / scale)


def titled(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """Columns whose cells are all numbers are marked as such."""
    of_numbers = [not any(isinstance(row[place].key, str) for row in rows) for place in range(len(columns))]
    return Table(caption, tuple(zip(columns, of_numbers, strict=True)), tuple(tuple(row) for row in rows))


def grid_table(results: Results, judge: Judge) -> Table | None:
    """Every trained sub-network, the teacher last."""
    if results.judged is None:
        return None
    evaluation = results.judged.evaluation
    rows, whole = evaluation["subnetworks"], part(evaluation, "teacher")
    metrics = list(part(whole, "metrics"))
    fidelities = list(part(rows[0], "fidelity"))
    metrics.sort(key=lambda name: name != judge.metric)
    hidden = any("hidden" in row for row in rows)
    columns = ["width", "depth", *(["hidden"] * hidden), *map(name_of_metric, metrics[:1])]
    columns += ["share"] if judge.teacher is not None else []
    columns += ["M params", "MFLOPs", *map(name_of_metric, metrics[1:]), *map(name_of_metric, fidelities)]
    columns += ["heads", "neurons", "layers"]
    found = [_grid_row({"hidden": 1.0, **row} if hidden else row, metrics, fidelities, judge) for row in rows]
    if metrics:
        _, *cells = _grid_row({"hidden": None, **whole} if hidden else whole, metrics, fidelities, judge)
        found.append([Cell("teacher", None), *cells])
    caption = f"FLOPs are of a row of {evaluation.get('length')} tokens; share: of the teacher's "
    return titled(f"Sizes of the {results.judged.name} stage. {caption}{name_of_metric(judge.metric)}.", columns, found)


def _grid_row(row: Facts, metrics: Sequence[str], fidelities: Sequence[str], judge: Judge) -> list[Cell]:
    layers = row.get("layers", "")
    scores = [figure(part(row, "metrics").get(name), "{:.4f}") for name in metrics]
    cells = [*(figure(row.get(axis)) for axis in ("width", "depth", "hidden") if axis in row or axis != "hidden")]
    cells += scores[:1]
    cells += [figure(judge.share(judge.of(row)), "{:.1%}")] if judge.teacher is not None else []
    cells += [figure(row.get("parameters"), "{:,.2f}", 1e6), figure(row.get("flops"), "{:,.1f}", 1e6), *scores[1:]]
    cells += [figure(part(row, "fidelity").get(name), "{:.4f}") for name in fidelities]
    cells += [sizes(row.get("heads")), sizes(row.get("neurons"))]
    return [*cells, text(layer_ranges(layers) if isinstance(layers, list) else layers)]


def sizes(value: Any) -> Cell:
    """One number for all layers, or a list of them."""
    if isinstance(value, list):
        return Cell(" ".join(map(str, value)), float(sum(value)))
    return figure(value)


def student_table(results: Results, judge: Judge) -> Table | None:
    """Every file of every student, those that were refused too."""
    rows = [row for student in results.students for row in _file_rows(student, judge, results)]
    columns = ["student", "file", name_of_metric(judge.metric), "share", "drop", "differs from torch", "MB"]
    columns += ["M params", "width × depth", "verdict"]
    caption = f"Students and their files. Share: of the teacher's {name_of_metric(judge.metric)}; drop: against the "
    return titled(caption + "float32 graph, on the validation rows.", columns, rows) if rows else None


def _file_rows(student: Student, judge: Judge, results: Results) -> list[list[Cell]]:
    about = student.about
    tail = [figure(about.get("parameters"), "{:,.2f}", 1e6), text(label_of(student))]
    rows = []
    for name, facts in part(about, "files").items():
        if name.endswith((".onnx", ".safetensors")):
            onnx = name.endswith(".onnx")
            score = score_of(student, name if onnx else "", judge, results)
            size = figure(facts.get("size_bytes"), "{:,.1f}", 1e6)
            cells = [text(student.place), text(name), *_file_cells(facts, score), size]
            rows.append([*cells, *tail, text("written")])
    for name, facts in part(about, "refused").items():
        score = exported_score(number(part(facts, "metrics").get(judge.metric)), student, judge, results)
        cells = [text(student.place), text(name), *_file_cells(facts, score), figure(None)]
        rows.append([*cells, *tail, text(f"refused: {facts.get('reason', '')}")])
    return rows


def _file_cells(facts: Facts, score: Score) -> list[Cell]:
    share, drop = figure(score.share, "{:.1%}"), figure(facts.get("drop"), "{:+.4f}")
    return [figure(score.value, "{:.4f}"), share, drop, figure(facts.get("max_abs_diff"), "{:.1e}")]


def class_tables(results: Results) -> list[Table]:
    """Of every file that was judged class by class: by how much each class's own score got worse."""
    tables = []
    for student in results.students:
        for name, facts in part(student.about, "files").items():
            drops = part(facts, "class_drops")
            rows = [[text(label), figure(own.get("count"), "{:,.0f}"), figure(own.get("drop"), "{:+.4f}")]
                    for label, own in drops.items()]
            if rows:
                caption = f"{student.place}, {name}: what each class's own score loses"
                tables.append(titled(caption, ["class", "rows", "drop"], rows))
    return tables


def latency_table(results: Results) -> Table | None:
    """Every measured latency; how many times as fast as the teacher is told in the same runtime and setting."""
    teachers = {(own.runtime, setting_of(own)): own.p50 for own in results.measured if own.place == "teacher"}
    rows = [_latency_row(own, teachers.get((own.runtime, setting_of(own)))) for own in results.measured]
    columns = ["model", "runtime", "at", "p50 ms", "p90 ms", "times as fast", "machine"]
    return titled("Latencies", columns, rows) if rows else None


def _latency_row(own: Measured, teacher: float | None) -> list[Cell]:
    cells = [text(own.place), text(series_name(own)), text(in_words(setting_of(own)))]
    cells += [figure(own.p50, "{:.2f}"), figure(own.p90, "{:.2f}"), figure(teacher and teacher / own.p50, "{:.1f}")]
    return [*cells, text(own.machine)]


def kept_table(importance: Facts | None) -> Table | None:
    """What each width keeps of the importance of heads and of neurons, with the order as it was and as it is."""
    if not importance or not importance["cuts"]:
        return None
    columns = ["width", *(name for unit in ("heads", "neurons") for name in (unit, "held before", "held after"))]
    rows = [
        [figure(cut["width"]), *_kept(cut, "heads"), *_kept(cut, "neurons")]
        for cut in importance["cuts"]
    ]
    caption = "What each width keeps, and which share of the importance that holds, in the order before and after "
    return titled(caption + "rewiring; the mean over layers.", columns, rows)


def hidden_table(importance: Facts | None) -> Table | None:
    """What each hidden size keeps of the importance of hidden dimensions, with the order as it was and as it is."""
    if not importance or not importance["hidden_cuts"]:
        return None
    rows = [
        [figure(cut["hidden"]), figure(cut["dimensions"]), *(figure(cut[when], "{:.0%}") for when in WHEN)]
        for cut in importance["hidden_cuts"]
    ]
    caption = "What each hidden size keeps, and which share of the hidden dimensions' importance that holds, in the "
    caption += "order before and after rewiring."
    return titled(caption, ["hidden", "dimensions", "held before", "held after"], rows)


def leaving_table(importance: Facts | None) -> Table | None:
    """In which order layers leave, and how far what is left is from the full network's outputs."""
    if not importance or not importance["leaving"]:
        return None
    none = Cell("none", None)
    rows = [
        [figure(gone), none if own["layer"] is None else figure(own["layer"]), figure(own["loss"], "{:.4f}")]
        for gone, own in enumerate(importance["leaving"])
    ]
    caption = "Which layer leaves next (grid.kept_layers), and how far the outputs of what is left are from the full "
    caption += "network's, before any depth was trained."
    return titled(caption, ["layers gone", "the last to leave", "loss"], rows)


def _kept(cut: Facts, unit: str) -> list[Cell]:
    return [figure(cut[unit]), *(figure(cut[f"{unit}_{when}"], "{:.0%}") for when in WHEN)]
