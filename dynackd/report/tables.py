"""The page's tables, as cells with what they sort by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynackd.report.judging import Judge, name_of_metric, number, part, score_of
from dynackd.report.reading import Facts, Measured, Results, Student
from dynackd.report.terminal import layer_ranges
from dynackd.report.tradeoff import in_words, label_of, series_name, setting_of


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
    columns = ["width", "depth", "heads", "neurons", "layers", "M params", "MFLOPs"]
    columns += [name_of_metric(name) for name in metrics] + (["share"] if judge.teacher is not None else [])
    columns += [name_of_metric(name) for name in fidelities]
    found = [_grid_row(row, metrics, fidelities, judge) for row in rows]
    if metrics:
        teacher = {**whole, "width": None, "depth": None, "heads": "", "neurons": "", "layers": "teacher"}
        found.append(_grid_row(teacher, metrics, fidelities, judge))
    caption = f"Sub-networks of the {results.judged.name} stage; FLOPs at {evaluation.get('length')} tokens; share of "
    return titled(caption + f"the teacher's {name_of_metric(judge.metric)}", columns, found)


def _grid_row(row: Facts, metrics: Sequence[str], fidelities: Sequence[str], judge: Judge) -> list[Cell]:
    layers = row.get("layers", "")
    cells = [figure(row.get("width")), figure(row.get("depth")), _sizes(row.get("heads")), _sizes(row.get("neurons"))]
    cells += [text(layer_ranges(layers) if isinstance(layers, list) else layers)]
    cells += [figure(row.get("parameters"), "{:,.2f}", 1e6), figure(row.get("flops"), "{:,.1f}", 1e6)]
    cells += [figure(part(row, "metrics").get(name), "{:.4f}") for name in metrics]
    cells += [figure(judge.share(judge.of(row)), "{:.1%}")] if judge.teacher is not None else []
    return cells + [figure(part(row, "fidelity").get(name), "{:.4f}") for name in fidelities]


def _sizes(value: Any) -> Cell:
    """One number for all layers, or a list of them."""
    if isinstance(value, list):
        return Cell(" ".join(map(str, value)), float(sum(value)))
    return figure(value)


def student_table(results: Results, judge: Judge) -> Table | None:
    """Every file of every student, those that were refused too."""
    rows = [row for student in results.students for row in _file_rows(student, judge, results)]
    columns = ["student", "size", "M params", "file", "MB", "differs from torch", name_of_metric(judge.metric)]
    columns += ["share", "drop by the file", "verdict"]
    return titled("Students and their files", columns, rows) if rows else None


def _file_rows(student: Student, judge: Judge, results: Results) -> list[list[Cell]]:
    about = student.about
    head = [text(student.place), text(label_of(student)), figure(about.get("parameters"), "{:,.2f}", 1e6)]
    rows = []
    for name, facts in part(about, "files").items():
        if name.endswith((".onnx", ".safetensors")):
            onnx = name.endswith(".onnx")
            score = score_of(student, name if onnx else "", judge, results)
            size = figure(facts.get("size_bytes"), "{:,.1f}", 1e6)
            rows.append([*head, text(name), size, *_file_cells(facts, score, judge), text("written")])
    for name, facts in part(about, "refused").items():
        score = number(part(facts, "metrics").get(judge.metric))
        told = f"refused: {facts.get('reason', '')}"
        rows.append([*head, text(name), figure(None), *_file_cells(facts, score, judge), text(told)])
    return rows


def _file_cells(facts: Facts, score: float | None, judge: Judge) -> list[Cell]:
    differs = figure(facts.get("max_abs_diff"), "{:.1e}")
    share, drop = figure(judge.share(score), "{:.1%}"), figure(facts.get("drop"), "{:+.4f}")
    return [differs, figure(score, "{:.4f}"), share, drop]


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
    columns = ["model", "runtime", "setting", "p50 ms", "p90 ms", "times as fast", "machine"]
    return titled("Latencies", columns, rows) if rows else None


def _latency_row(own: Measured, teacher: float | None) -> list[Cell]:
    cells = [text(own.place), text(series_name(own)), text(in_words(setting_of(own)))]
    cells += [figure(own.p50, "{:.2f}"), figure(own.p90, "{:.2f}"), figure(teacher and teacher / own.p50, "{:.1f}")]
    return [*cells, text(own.machine)]


def kept_table(importance: Facts | None) -> Table | None:
    """What each width keeps of the importance of heads and of neurons, with the order as it was and as it is."""
    if not importance or not importance["cuts"]:
        return None
    columns = ["width", "heads", "of heads' importance, before", "after", "neurons", "of neurons' importance, before"]
    rows = [
        [figure(cut["width"]), *_kept(cut, "heads"), *_kept(cut, "neurons")]
        for cut in importance["cuts"]
    ]
    return titled("What each width keeps, in the mean over layers", [*columns, "after"], rows)


def _kept(cut: Facts, unit: str) -> list[Cell]:
    return [figure(cut[unit]), *(figure(cut[f"{unit}_{when}"], "{:.0%}") for when in ("before", "after"))]
