"""What `dynackd search` found: sub-networks whose layers have sizes of their own, in the picture and in a table."""

from collections.abc import Iterator

from dynackd.report.axes import Axis, Point, Series, metric_told
from dynackd.report.judging import Judge, name_of_metric, number, part
from dynackd.report.reading import Facts, Results, Search
from dynackd.report.tables import Cell, Table, figure, sizes, text, titled

COSTS = {
    # axis of search.json -> name, unit, how many of it make one
    "latency_ms": ("latency", "ms", 1.0),
    "parameters": ("parameters", "M", 1e6),
    "flops": ("FLOPs", "MFLOPs", 1e6),
    "size_mb": ("size", "MB", 1.0),
}
NAMED = {"choice": "chosen", "grid": "best of the grid", "full": "full network"}


def searched_axes(results: Results, judge: Judge) -> list[Axis]:
    """An axis for each search, with the metric on the rows on which it chose: its front is judged on no others."""
    return [axis for search in results.searches for axis in _axis(search, judge)]


def _axis(search: Search, judge: Judge) -> Iterator[Axis]:
    key = str(search.about.get("axis"))
    if key not in COSTS or part(search.about, "metric").get("name") != judge.metric:
        return
    name, unit, scale = COSTS[key]
    groups = {"front": _front(search.about)} | {told: [part(search.about, own)] for own, told in NAMED.items()}
    series = []
    for told, rows in groups.items():
        points = [point for row in rows for point in _point(row, key, unit, scale, judge, told)]
        if points:
            series.append(Series(told, tuple(sorted(points, key=lambda point: point.x)), joined=told == "front"))
    if series:
        title = f"{name} in {unit} of what the search found, on rows of its own{_setting(search.about)}"
        yield Axis(search.place, title, unit, tuple(series), own_rows=True)


def _point(row: Facts, key: str, unit: str, scale: float, judge: Judge, told: str) -> Iterator[Point]:
    x, y, judged = number(row.get(key)), number(row.get("metric")), number(part(row, "validation").get(judge.metric))
    if x and y is not None:
        lines = [told, f"{judge.metric} {y:.4f} on rows of its own"]
        if judged is not None:
            lines.append(f"on the validation rows: {metric_told(judged, judge, judge.share(judged))}")
        lines += [f"{x / scale:.3g} {unit}", f"heads {sizes(row.get('heads')).text}"]
        lines += [f"hidden {share:g}"] if (share := number(row.get("hidden"))) and share < 1 else []
        lines += [f"neurons {sizes(row.get('neurons')).text}", f"layers {sizes(row.get('layers')).text}"]
        yield Point(x / scale, y, "" if told == "front" else told, tuple(lines))


def _front(about: Facts) -> list[Facts]:
    rows = about.get("front")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _setting(about: Facts) -> str:
    """Where a search looked for the fastest."""
    own = part(about, "setting")
    if not own:
        return ""
    told = f", {own.get('runtime')}{' int8' if own.get('int8') else ''}, {own.get('length')} tokens, batch "
    return told + f"{own.get('batch_size')}, {own.get('threads')} thread(s); {about.get('machine', '')}"


def search_table(search: Search, judge: Judge) -> Table | None:
    """What was chosen, what it is compared with, and the front."""
    found = [(told, part(search.about, own)) for own, told in NAMED.items()]
    every = [(told, row) for told, row in [*found, *(("front", row) for row in _front(search.about))] if row]
    cut = ["hidden"] if any((number(row.get("hidden")) or 1.0) < 1 for _, row in every) else []
    rows = [[*_row(told, row, judge), *(figure(row.get(name), "{:g}") for name in cut)] for told, row in every]
    metric = name_of_metric(str(part(search.about, "metric").get("name", "metric")))
    columns = ["network", f"{metric}, own rows", f"{name_of_metric(judge.metric)}, validation", "ms", "M params"]
    columns += ["MFLOPs", "MB", "layers", "heads", "neurons", *cut]
    asked = ", ".join(f"{name} {value:g}" for name, value in part(search.about, "budget").items() if number(value))
    caption = f"{search.place}, asked for {asked or 'the best'}{_setting(search.about)}"
    return titled(caption, columns, rows) if rows else None


def _row(told: str, row: Facts, judge: Judge) -> list[Cell]:
    cells = [text(told), figure(row.get("metric"), "{:.4f}")]
    cells += [figure(part(row, "validation").get(judge.metric), "{:.4f}"), figure(row.get("latency_ms"), "{:.2f}")]
    cells += [figure(row.get("parameters"), "{:,.2f}", 1e6), figure(row.get("flops"), "{:,.1f}", 1e6)]
    cells += [figure(row.get("size_mb"), "{:,.1f}")]
    return [*cells, *(sizes(row.get(name)) for name in ("layers", "heads", "neurons"))]
