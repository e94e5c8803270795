"""The tables and the picture of what `fronts.run` and `fronts.time_shapes` left."""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fronts import FILES, Point, Task, at, best_within, costs_of, points_of, time_shapes
from rich.console import Console
from rich.table import Table

from dynackd.errors import UserError
from dynackd.system.places import read_json

console = Console(width=220)
MARKERS = "osD^vP*X<>"
ORDER = ("teacher", "layers dropped", "Matryoshka2dLoss", "AdaptiveLayerLoss", "dynackd")  # of methods, by their heads


def fronts_main(options: argparse.Namespace, train: Callable[[Any], None], task: Task, own: str) -> int:
    """What the command line of both benchmarks does."""
    torch.set_num_threads(options.threads)
    try:
        if not options.show and not options.time:
            train(options)
        if options.time or options.smoke:
            time_shapes(task, options.output, 10 if options.smoke else 100)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(task, options.output, own, options.markdown)
    if options.picture:
        draw(task, options.output, options.picture, own)
    return 0


def ordered(points: Sequence[Point]) -> list[Point]:
    """The teacher, the others, ours; a method's largest first."""

    def place(point: Point) -> int:
        return next((index for index, head in enumerate(ORDER) if point.method.startswith(head)), len(ORDER))

    return sorted(points, key=lambda point: (place(point), point.method, -point.parameters))


def show(task: Task, output: Path, own: str, as_markdown: bool) -> None:
    """Every size, what the trainings took, and `own` method's best at each latency of the others."""
    points = ordered(points_of(output))
    if (output / "latency.json").is_file():
        about = read_json(output / "latency.json")
        console.print(f"latencies: {about['machine']}, one thread, load {about['load']:.1f} when they were taken")
    compared = (table for mine in (own, f"{own}, polished") for table in against(task, points, mine))
    for table in (sizes(task, points), costs(output), *compared):
        if table.row_count:
            (markdown if as_markdown else console.print)(table)


def markdown(table: Table) -> None:
    """No cell is wrapped, whatever the terminal's width: a row of Markdown is a line."""
    print(f"\n{table.title}:\n")
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    for number, row in enumerate(zip(*columns, strict=True)):
        print(f"| {' | '.join(row)} |")
        if number == 0:
            print(f"|{'---|' * len(row)}")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def _ms(point: Point, precision: str, shape: str) -> str:
    value = point.p50_ms.get(precision, {}).get(shape)
    return "" if value is None else f"{value:.2f}"


def sizes(task: Task, points: Sequence[Point]) -> Table:
    table = Table(title="every size: mean ± standard deviation over seeds; p50 in ms, fp32 / int8")
    shapes = [at(*shape) for shape in task.shapes]
    for column in ("method", "size", "shape", "M", "MB", *shapes, *task.shown, f"int8 {task.main}", "seeds"):
        table.add_column(column)
    for point in points:
        table.add_row(
            point.method, point.size, point.shape, f"{point.parameters / 1e6:.1f}",
            " / ".join(f"{point.mean('mb', name):.0f}" for name in FILES),
            *(" / ".join(_ms(point, name, shape) for name in FILES) for shape in shapes),
            *(spread(point.values(metric)) for metric in task.shown),
            spread(point.values(task.main, "int8")), str(len(point.values(task.main))),
        )  # fmt: skip
    return table


def costs(output: Path) -> Table:
    table = Table(title="training of all sizes together, a mean over seeds; processor: minutes of one core")
    for column in ("method", "sizes", "seeds", "rows read", "minutes", "processor"):
        table.add_column(column)
    for method, cost in costs_of(output).items():
        if cost["seen"]:
            minutes = [f"{cost[key] / 60:.1f}" for key in ("seconds", "cpu_seconds")]
            table.add_row(method, str(cost["sizes"]), str(cost["seeds"]), f"{cost['seen']:,.0f}", *minutes)
    return table


def against(task: Task, points: Sequence[Point], own: str) -> Iterator[Table]:
    """Each size of the others beside the size of `own` of the same name, else its best that is as fast."""
    ours = [point for point in points if point.method == own]
    for metric in task.compared:
        table = Table(
            title=f"{metric}: the same size of '{own}', or its best that takes no longer, less the other; beside it in "
            "standard deviations (the larger of the two)"
        )
        for column in ("other", "size", metric, *(f"{name}, {at(*s)}" for name in FILES for s in task.shapes)):
            table.add_column(column)
        for point in points:
            if ours and point.method != own:
                cells = [_less(point, ours, name, at(*shape), metric) for name in FILES for shape in task.shapes]
                if any(cells):
                    table.add_row(point.method, point.size, spread(point.values(metric)), *cells)
        yield table


def _less(other: Point, ours: Sequence[Point], precision: str, shape: str, metric: str) -> str:
    budget_ms = other.p50_ms.get(precision, {}).get(shape)
    same = [point for point in ours if point.size == other.size] or ours
    best = best_within(same, budget_ms, precision, shape, metric) if budget_ms is not None else None
    if best is None:
        return ""
    difference = best.mean(metric, precision) - other.mean(metric, precision)
    groups = [values for point in (best, other) if len(values := point.values(metric, precision)) > 1]
    deviation = max(map(statistics.stdev, groups), default=0.0)
    return f"{difference:+.4f}" + (f" ({difference / deviation:+.1f})" if deviation else "") + f" {best.size}"


def draw(task: Task, output: Path, file: Path, own: str) -> None:
    """The fronts: what is compared against the p50 latency of the float32 and int8 files at the longest input, down to
    the least of `own` method."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dynackd"})  # small, and the same every time
    import matplotlib.pyplot as plt

    points, shape, metrics = ordered(points_of(output)), at(*task.shapes[-1]), task.compared
    methods = list(dict.fromkeys(point.method for point in points))
    figure, panels = plt.subplots(
        len(metrics), len(FILES), figsize=(11, 4 * len(metrics)), squeeze=False, sharey="row", layout="constrained"
    )
    for row, metric in zip(panels, metrics, strict=True):
        for panel, precision in zip(row, FILES, strict=True):
            for marker, method in zip(MARKERS, methods, strict=False):
                some = [p for p in points if p.method == method and shape in p.p50_ms.get(precision, {})]
                some.sort(key=lambda point: point.p50_ms[precision][shape])
                _draw_method(panel, some, marker, precision, shape, metric)
            panel.set(xscale="log", xlabel=f"p50 in ms, {precision}, {shape}, one thread")
            panel.grid(alpha=0.3, which="both")
        row[0].set_ylabel(metric)
        row[0].set_ylim(bottom=_floor(points, metric, own))
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    plt.close(figure)


def _floor(points: Sequence[Point], metric: str, own: str) -> float | None:
    """Below this nothing is drawn: what is far worse would leave no room for what is to be told apart."""
    every = [point.mean(metric, name) for point in points for name in FILES]
    ours = [point.mean(metric, name) for point in points if point.method.startswith(own) for name in FILES]
    return min(ours) - 0.25 * (max(every) - min(ours)) if ours else None


def _draw_method(panel, own, marker, precision, shape, metric):
    """The sizes of a method with their deviations; through those that no faster one of it beats goes a line."""
    if not own:
        return
    x = [point.p50_ms[precision][shape] for point in own]
    y = [point.mean(metric, precision) for point in own]
    groups = [point.values(metric, precision) for point in own]
    deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in groups]
    bars = panel.errorbar(x, y, deviations, fmt=marker, markersize=5, capsize=2, label=own[0].method)
    front = [index for index in range(len(own)) if y[index] == max(y[: index + 1])]
    panel.plot([x[i] for i in front], [y[i] for i in front], color=bars.lines[0].get_color(), alpha=0.7)
