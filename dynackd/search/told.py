"""What a person sees of a search."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table

from dynackd.search.choosing import bound_of, told
from dynackd.search.settings import COSTS


def front_table(found: Mapping[str, Any]) -> Table:
    """The front, cheapest first, and below it the best of the same share everywhere and the full network."""
    setting, metric = found["setting"], found["metric"]["name"]
    runtime = f"{setting['runtime']}{' int8' * setting['int8']}{' cuda' * (setting['device'] == 'cuda')}"
    shape = f"{setting['batch_size']}x{setting['length']} tokens, threads: {setting['threads']}"
    caption = f"{found['machine']}; heads and neurons of each layer, - where it is left out; distance: to the full network"
    table = Table(title=f"{runtime}, {shape}", caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("heads")
    table.add_column("neurons")
    for column in ("ms", "M params", "MB", "MFLOPs", "distance", metric):
        table.add_column(column, justify="right", no_wrap=True)
    choice = found["choice"]
    layers = len(found["full"]["layers"])
    for row in found["front"]:
        table.add_row("best" if row["subnet"] == choice["subnet"] else "", *_cells(row, layers))
    table.add_section()
    for name in ("grid", "full"):
        if found[name]:
            table.add_row(name, *_cells(found[name], layers))
    return table


def _cells(row: Mapping[str, Any], layers: int) -> list[str]:
    kept = {own["index"]: own for own in row["subnet"]["layers"]}
    profile = [" ".join(str(kept[i][what]) if i in kept else "-" for i in range(layers)) for what in ("heads", "neurons")]
    return [
        *profile,
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
    yield f"choice: {_costs(choice, found)}, {metric} {choice['metric']:.4f}{_validation(choice)}"
    if grid and grid["subnet"] == choice["subnet"]:
        yield "  it is of the same share everywhere: no other was found that is better within this budget"
    elif grid:
        yield (
            f"grid: the best of the same share everywhere within this budget (width {grid['width']:g}, depth "
            f"{grid['depth']:g}): {_costs(grid, found)}, {metric} {grid['metric']:.4f}{_validation(grid)}"
        )
    else:
        yield "grid: no sub-network of the same share everywhere meets this budget"
    yield f"full: {_costs(full, found)}, {metric} {full['metric']:.4f}{_validation(full)}"
    rows, called = found["rows"], found["rows"]["called"]
    yield (
        f"judged on {rows['search']:,} {called} (search) and {rows['choice']:,} others (choice), {rows['told']}; "
        f"{found['evaluated']:,} sub-networks evaluated"
    )
    if model := found["latency_model"]:
        yield (
            f"latency model: off by {model['median_error']:.1%} in the median and {model['worst_error']:.1%} at worst "
            f"on {model['unseen']} sub-networks that it was not fitted to ({model['fitted']} were)"
        )


def _costs(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What it costs of what the budget bounds, and how long it takes."""
    bounded = {COSTS[name]: most for name, most in found["budget"].items() if name in COSTS}
    shown = ["latency_ms", *(name for name in bounded if name != "latency_ms")]
    return ", ".join(
        told(name, row[name]) + (f" ({bound_of(name)} {bounded[name]:g})" if name in bounded else "") for name in shown
    )


def _validation(row: Mapping[str, Any]) -> str:
    known = ", ".join(f"{name} {value:.4f}" for name, value in row["validation"].items())
    return f"; on the validation rows {known}" if known else ""
