"""What a person sees of a search."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table

from dynackd.report.terminal import layer_ranges
from dynackd.search.choosing import bound_of, told
from dynackd.search.settings import COSTS


def front_table(found: Mapping[str, Any]) -> Table:
    """The front, cheapest first, and below it the best of the same share everywhere and the full network."""
    setting, metric = found["setting"], found["metric"]["name"]
    runtime = f"{setting['runtime']}{' int8' * setting['int8']}{' cuda' * (setting['device'] == 'cuda')}"
    shape = f"{setting['batch_size']}x{setting['length']} tokens, threads: {setting['threads']}"
    caption = f"{found['machine']}; heads and neurons of all layers together; distance: to the full network"
    table = Table(title=f"{runtime}, {shape}", caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    hidden = ["hidden"] if any(map(_hidden, found["front"])) else []
    for column in (*hidden, "heads", "neurons", "ms", "M params", "MB", "MFLOPs", "distance", metric):
        table.add_column(column, justify="right", no_wrap=True)
    choice = found["choice"]
    for row in found["front"]:
        table.add_row("best" if row["subnet"] == choice["subnet"] else "", *_cells(row, bool(hidden)))
    table.add_section()
    for name in ("grid", "full"):
        if found[name]:
            table.add_row(name, *_cells(found[name], bool(hidden)))
    return table


def _cells(row: Mapping[str, Any], hidden: bool) -> list[str]:
    layers = row["subnet"]["layers"]
    return [
        layer_ranges(row["layers"]),
        *([str(row["subnet"]["hidden"])] if hidden else []),
        *(f"{sum(own[what] for own in layers):,}" for what in ("heads", "neurons")),
        f"{row['latency_ms']:.2f}",
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['size_mb']:.1f}",
        f"{row['flops'] / 1e6:,.0f}",
        f"{row['loss']:.4f}",
        f"{row['metric']:.4f}",
    ]


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """What was chosen, what that is compared with, and how far both are to be trusted."""
    choice, grid, full, metric = found["choice"], found["grid"], found["full"], found["metric"]["name"]
    yield f"best: {_costs(choice, found)}, {metric} {choice['metric']:.4f}{_validation(choice)}"
    if not grid:
        yield "grid: no sub-network of the same share everywhere meets this budget"
    elif grid["subnet"] == choice["subnet"]:
        yield from _why_even(found)
    else:
        yield f"  heads, neurons: {_profile(choice)}"
        size = f"width {grid['width']:g}, depth {grid['depth']:g}{_hidden(grid)}"
        yield (
            f"grid: the best of the same share everywhere within this budget ({size}): {_costs(grid, found)}, {metric} "
            f"{grid['metric']:.4f}{_validation(grid)}"
        )
    yield f"full: {told('latency_ms', full['latency_ms'])}, {metric} {full['metric']:.4f}{_validation(full)}"
    rows, called = found["rows"], found["rows"]["called"]
    yield (
        f"{found['evaluated']:,} sub-networks were compared on {rows['search']:,} {called}, and the best of them on "
        f"{rows['choice']:,} others: {rows['told']}"
    )
    if found["setting"]["int8"]:
        yield "metrics are those of the float32 weights: export --int8 says what the int8 file loses"
    if model := found["latency_model"]:
        yield _model("latency model", model)
        for hidden, own in model.get("smaller", {}).items():
            yield _model(f"at hidden size {hidden}", own)


def _model(name: str, model: Mapping[str, Any]) -> str:
    return (
        f"{name}: off by {model['median_error']:.1%} in the median and {model['worst_error']:.1%} at worst on "
        f"{model['unseen']} sub-networks that it was not fitted to ({model['fitted']} were)"
    )


def _hidden(row: Mapping[str, Any]) -> str:
    share = row.get("hidden", 1.0)  # a search of an earlier version has none
    return f", hidden {share:g}" if share < 1 else ""


def _why_even(found: Mapping[str, Any]) -> Iterator[str]:
    """Why the choice is of the same share everywhere."""
    searched, metric = found["searched"], found["metric"]["name"]
    if not searched:
        yield "  of the same share everywhere: no other that was looked at is better within this budget"
        return
    error = searched["lead_error"]
    ahead = f"is ahead by {searched['lead']:.4f} ± {error:.4f}" if error is not None else "was seen on few rows"
    yield (
        f"  of the same share everywhere: the best other ({_costs(searched, found)}, {metric} {searched['metric']:.4f}"
        f"{_validation(searched)}) {ahead}, which is not clear"
    )
    yield f"  its heads, neurons: {_profile(searched)}"


def _profile(row: Mapping[str, Any]) -> str:
    """The hidden size where it is cut, and each kept layer's heads and neurons."""
    hidden = [f"hidden size {row['subnet']['hidden']}"] if _hidden(row) else []
    layers = row["subnet"]["layers"]
    return "; ".join([*hidden, *(f"layer {own['index']}: {own['heads']}, {own['neurons']}" for own in layers)])


def _costs(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What it costs of what the budget bounds, and how long it takes."""
    bounded = {COSTS[name]: most for name, most in found["budget"].items() if name in COSTS}
    shown = ["latency_ms", *(name for name in bounded if name != "latency_ms")]
    limits = {name: f" ({bound_of(name)} {most:,.10g})" for name, most in bounded.items()}
    return ", ".join(told(name, row[name]) + limits.get(name, "") for name in shown)


def _validation(row: Mapping[str, Any]) -> str:
    known = ", ".join(f"{name} {value:.4f}" for name, value in row["validation"].items())
    return f"; on the validation rows {known}" if known else ""
