"""The main picture as PNG and SVG: the same points, series and colours as the page's first chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynackd.report.axes import Axis, Series
from dynackd.report.charts import LIGHT
from dynackd.report.judging import Judge, name_of_metric
from dynackd.system.places import new_file

MARKERS = "os^PXhvp"
ABOUT: dict[str, dict[str, Any]] = {
    "png": {"Software": "dynackd report"},
    "svg": {"Creator": "dynackd report", "Date": None},
}
INK, MUTED, LINE = "#1d2329", "#5b6670", "#dfe3e6"
# Where a label may stand, from its point in points of the page: below, above, right, left.
PLACES = ((0, -17, "center"), (0, 8, "center"), (9, -4, "left"), (-9, -4, "right"))
POINT = 10  # pixels that a point takes
TEACHER = "teacher"
FEW = 4  # measured sizes; so few tell too little alone


def write_pictures(axes: Sequence[Axis], judge: Judge, name: str, page: Path) -> list[Path]:
    """The first axis beside the page, as PNG and SVG, and the first that is counted next to it where few sizes were
    measured; nothing where there is no axis."""
    if not axes:
        return []
    # Imported here: it takes a second, and only this function needs it. The canvas needs no screen.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown, written = _panels(axes), []
    # Texts stay texts, and a $ in a name is no formula.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "dynackd", "text.parse_math": False, "font.size": 10.5}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.6 if len(shown) > 1 else 8, 4.2), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{name}: {_title(shown, judge)}", x=0.01, ha="left", fontsize=12, color=INK)
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for panel, axis in zip(panels, shown, strict=True):
            _draw(panel, axis, judge)
        figure.canvas.draw()  # places everything
        for panel in panels:
            _place_labels(panel)
        panels[0].set_ylabel(name_of_metric(judge.metric), color=MUTED)
        for kind, about in ABOUT.items():
            file = page.with_suffix(f".{kind}")
            with new_file(file) as temporary:
                figure.savefig(temporary, format=kind, dpi=120, metadata={**about, "Description": _description(shown)})
            written.append(file)
    return written


def _panels(axes: Sequence[Axis]) -> list[Axis]:
    first = axes[0]
    labels = {point.label for series in first.series for point in series.points if not point.is_teacher}
    counted = [axis for axis in axes if axis.name == "FLOPs"]
    return [first, *counted[:1]] if first.measured and len(labels) < FEW else [first]


def _description(shown: Sequence[Axis]) -> str:
    """The points in words, for who cannot see them and for who wants to check them."""
    told = []
    for axis in shown:
        for series in axis.series:
            points = ", ".join(f"{own.label} {own.x:.4g} {axis.unit} {own.y:.4f}" for own in series.points)
            told.append(f"{axis.name}, {series.name}: {points}")
    return "; ".join(told)


def _title(shown: Sequence[Axis], judge: Judge) -> str:
    costs = ["latency" if axis.measured else axis.name for axis in shown]
    return f"{name_of_metric(judge.metric)} against {' and '.join(costs)} of sizes from one training"


def _draw(panel: Any, axis: Axis, judge: Judge) -> None:
    if judge.teacher is not None and not axis.own_rows:
        panel.axhline(judge.teacher, color=MUTED, linewidth=1, linestyle="--", zorder=1)
    for index, series in enumerate(axis.series):
        above = index % 2 == 0  # as on the page, so that fewer labels meet
        _draw_series(panel, series, LIGHT[index % len(LIGHT)], MARKERS[index % len(MARKERS)], above)
    if axis.logarithmic:
        panel.set_xscale("log")
        _plain_ticks(panel)
    else:
        panel.set_xlim(left=0)
    panel.margins(x=0.08, y=0.15)
    panel.set_xlabel(axis.title.replace("; ", "\n"), color=MUTED, fontsize=9.5)
    panel.grid(color=LINE, linewidth=0.8)
    panel.set_axisbelow(True)
    for spine in panel.spines.values():
        spine.set_color(LINE)
    panel.tick_params(colors=MUTED)
    panel.legend(frameon=False, fontsize=9.5, labelcolor=INK)


def _draw_series(panel: Any, series: Series, colour: str, marker: str, above: bool) -> None:
    if series.joined:
        panel.plot([own.x for own in series.points], [own.y for own in series.points], color=colour, linewidth=1.2)
    for place, own in enumerate(series.points):
        shape, size = ("*", 190) if own.is_teacher else (marker, 60)
        label = series.name if place == 0 else None
        panel.scatter(own.x, own.y, s=size, marker=shape, color=colour, edgecolors="white", label=label, zorder=3)
        beside = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": colour}
        place_of_label = (0, 8 if above and not own.is_teacher else -17)
        panel.annotate(own.label, (own.x, own.y), xytext=place_of_label, **beside)


def _place_labels(panel: Any) -> None:
    """Each label where it meets no point and no label before it, the teachers' first; one with no such place is left
    out: the page, and the picture's description, tell them all."""
    from matplotlib.transforms import Bbox

    points = [panel.transData.transform(spot) for drawn in panel.collections for spot in drawn.get_offsets()]
    taken = [Bbox.from_bounds(x - POINT / 2, y - POINT / 2, POINT, POINT) for x, y in points]
    legend = panel.get_legend()
    taken += [legend.get_window_extent()] if legend else []
    for label in sorted(panel.texts, key=lambda own: own.get_text() != TEACHER):
        tried = [(*label.xyann, label.get_horizontalalignment()), *PLACES]
        for x, y, aligned in tried:
            label.xyann = (x, y)
            label.set_horizontalalignment(aligned)
            own = label.get_window_extent()
            inside = panel.bbox.containsx(own.x0) and panel.bbox.containsx(own.x1)
            if inside and not any(own.overlaps(other) for other in taken):
                taken.append(own)
                break
        else:
            label.remove()


def _plain_ticks(panel: Any) -> None:
    """1, 2, 5, 10 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
