"""The main picture as PNG and SVG: the same points, series and colours as the page's first chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynackd.report.charts import LIGHT
from dynackd.report.judging import Judge, name_of_metric
from dynackd.report.tradeoff import Axis, Series
from dynackd.system.places import new_file

MARKERS = "os^PXhvp"
ABOUT = {"png": {"Software": "dynackd report"}, "svg": {"Creator": "dynackd report", "Date": None}}
INK, MUTED, LINE = "#1d2329", "#5b6670", "#dfe3e6"


def write_pictures(axes: Sequence[Axis], judge: Judge, name: str, page: Path) -> list[Path]:
    """The first axis beside the page, as PNG and SVG; nothing where there is no axis."""
    if not axes:
        return []
    # Imported here: it takes a second, and only this function needs it. The canvas needs no screen.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dynackd", "font.size": 10.5}):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), axes[0], judge, name)
        for kind, about in ABOUT.items():
            file = page.with_suffix(f".{kind}")
            with new_file(file) as temporary:
                figure.savefig(temporary, format=kind, dpi=120, metadata=about)
            written.append(file)
    return written


def _draw(axes: Any, axis: Axis, judge: Judge, name: str) -> None:
    if judge.teacher is not None:
        axes.axhline(judge.teacher, color=MUTED, linewidth=1, linestyle="--", zorder=1)
    for index, series in enumerate(axis.series):
        _draw_series(axes, series, LIGHT[index % len(LIGHT)], MARKERS[index % len(MARKERS)])
    if axis.logarithmic:
        axes.set_xscale("log")
        _plain_ticks(axes)
    else:
        axes.set_xlim(left=0)
    axes.margins(y=0.15)
    metric = name_of_metric(judge.metric)
    axes.set_xlabel(axis.title, color=MUTED)
    axes.set_ylabel(metric, color=MUTED)
    title = f"{name}: {metric} against {'latency' if axis.measured else axis.name}"
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    axes.tick_params(colors=MUTED)
    axes.legend(frameon=False, fontsize=9.5)


def _draw_series(axes: Any, series: Series, colour: str, marker: str) -> None:
    if series.joined:
        axes.plot([own.x for own in series.points], [own.y for own in series.points], color=colour, linewidth=1.2)
    for place, own in enumerate(series.points):
        shape, size = ("*", 190) if own.is_teacher else (marker, 60)
        label = series.name if place == len(series.points) - 1 else None
        axes.scatter(own.x, own.y, s=size, marker=shape, color=colour, edgecolors="white", label=label, zorder=3)
        beside = {"textcoords": "offset points", "xytext": (0, 8), "ha": "center"}
        axes.annotate(own.label, (own.x, own.y), fontsize=9, color=MUTED, **beside)


def _plain_ticks(axes: Any) -> None:
    """1, 2, 5, 10 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
