"""What a person sees: tables and the machine's name."""

import os
import platform
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

LEAST_TEXT = 8  # characters of a column that may take several lines
LONGEST_HEAD = 12  # characters of a metric's name on one line
# Without markup: a path with brackets in it is printed as it is.
console = Console(highlight=False, markup=False)


def say(text: str) -> None:
    """A line that is never wrapped, so that it can be copied, from the first process only."""
    if not console.quiet:
        print(text, flush=True)


def show(table: Table) -> None:
    """Print a table with every number whole: where the terminal is too narrow for that, its lines are longer."""
    fixed = [column for column in table.columns if column.no_wrap]
    for column in fixed:
        texts = [line for cell in (column.header, *column.cells) for line in str(cell).splitlines()]
        column.min_width = max(map(len, texts), default=0)
    needed = sum(column.min_width or LEAST_TEXT for column in table.columns) + 2 * len(table.columns)
    table.width = needed if needed > console.width else None
    console.print(table, crop=False)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A progress bar with the time gone and the time to go, and `columns` before these."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),  # what the others leave
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
    )


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar for the length of the block, which calls what it gets with `advance=` or `completed=`, and with
    `total=` where that becomes known."""
    with progress_bar() as bar:
        yield partial(bar.update, bar.add_task(title, total=total))


@contextmanager
def progress_of_steps() -> Iterator[Callable[[str, int, int], None]]:
    """What shows the progress of one thing after another, each with a bar and a time to go of its own: calls with what
    is done now, how many of it are done, and of how many."""
    with ExitStack() as stack:
        now: dict[str, Any] = {}

        def told(what: str, done: int, total: int) -> None:
            if now.get("what") != what:
                stack.close()
                now["what"], now["bar"] = what, stack.enter_context(progress(what, total))
            now["bar"](completed=done, total=total)

        yield told


def machine_name() -> str:
    """Processor, number of usable cores and system, for the head of every measurement."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor}, {cores} cores, {platform.system()} {platform.machine()}"


def grid_table(evaluation: Mapping[str, Any]) -> Table:
    """The table of `evaluate`: one row for each sub-network, the teacher last; rows without labels, which have no
    metrics, are judged by how closely they follow it."""
    names = list(evaluation["teacher"]["metrics"] or evaluation["subnetworks"][0]["fidelity"])
    title = f"{evaluation['task']}, FLOPs at {evaluation['length']} tokens"
    # A table that fits 80 columns with 12 layers and the longest metric: without lines, a long name on several lines.
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    hidden = any("hidden" in row for row in evaluation["subnetworks"])
    for column in ("width", "depth", *(["hidden"] * hidden), "heads", "neurons", "layers", "M params", "MFLOPs"):
        table.add_column(column, justify="left" if column == "layers" else "right", no_wrap=column != "layers")
    for name in names:
        head = [part for word in name.split("_") for part in textwrap.wrap(word, LONGEST_HEAD)]
        table.add_column("\n".join(head), justify="right", no_wrap=True)
    for row in evaluation["subnetworks"]:
        table.add_row(
            f"{row['width']:g}",
            f"{row['depth']:g}",
            *([f"{row.get('hidden', 1):g}"] * hidden),
            str(row["heads"]),
            str(row["neurons"]),
            layer_ranges(row["layers"]),
            *_costs_and_metrics(row, names),
        )
    table.add_section()
    table.add_row("teacher", "", "", "", "", *([""] * hidden), *_costs_and_metrics(evaluation["teacher"], names))
    return table


def layer_ranges(layers: Sequence[int]) -> str:
    """`[0, 1, 2, 3, 5]` as `"0-3 5"`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs)


def _costs_and_metrics(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    costs = [f"{row['parameters'] / 1e6:,.2f}", f"{row['flops'] / 1e6:,.1f}"]
    judged = row["metrics"] or row.get("fidelity", {})
    return costs + [f"{judged[name]:.4f}" if name in judged else "" for name in names]


Row = Mapping[str, Any]


def benchmark_tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """A table of `benchmark` for each number of threads."""
    for threads in dict.fromkeys(row["threads"] for row in result["rows"]):
        yield benchmark_table({**result, "rows": [row for row in result["rows"] if row["threads"] == threads]})


def benchmark_table(result: Mapping[str, Any]) -> Table:
    """The table of `benchmark`: one row for each model, runtime, batch size and length. Of its columns those are shown
    for which there is something to tell."""
    rows = result["rows"]
    columns: dict[str, list[str]] = {
        "shape": [f"{row['batch_size']}x{row['length']}" for row in rows],
        "p50": [f"{row['latency_ms']['p50']:.1f}" for row in rows],
        "spread": [_spread(row) for row in rows],
        "per s": [f"{row['throughput_per_s']:,.0f}" for row in rows],
        "MB": [f"{row['peak_memory_mb']:,.0f}" if "peak_memory_mb" in row else "" for row in rows],
        "ratio": [f"{ratio:.2f}" for ratio in _ratios(rows)],
        "share": _shares(rows, result.get("reference")),
    }
    columns = {title: texts for title, texts in columns.items() if any(texts)}
    threads = sorted({row["threads"] for row in rows})
    caption = [result["machine"], f"threads: {', '.join(map(str, threads))}", "shape: batch x tokens"]
    caption += [text for title, text in _CAPTIONS.items() if title in columns]
    table = Table(title="Latency in ms", caption="; ".join(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("runtime", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    names = _model_names([row["path"] for row in rows], [row.get("precision", "") for row in rows])
    for row, name, *texts in zip(rows, names, *columns.values(), strict=True):
        special = [value for value in (row.get("precision"), row["provider"]) if value not in (None, "fp32", "cpu")]
        table.add_row(name, " ".join([row["runtime"], *special]), *texts)
    return table


_CAPTIONS = {
    "spread": "spread: of the rounds' medians, quartile to quartile, / p50",
    "MB": "MB: the process at its peak, loading included",
    "ratio": "ratio: p50 / the first row's of that shape",
    "share": "share: (first model's p50 / p50) / (its FLOPs / FLOPs), in the same runtime and precision",
}


def _model_names(paths: Sequence[str], precisions: Sequence[str]) -> list[str]:
    """Short names of models. A file in the folder `onnx` of a model is called as the model where its precision says
    which one it is."""
    models = [re.sub(r"(?<=.)/onnx/[^/]+\.onnx$", "", path) for path in paths]
    files: dict[tuple[str, str], set[str]] = {}
    for model, precision, path in zip(models, precisions, paths, strict=True):
        files.setdefault((model, precision), set()).add(path)
    plain = [
        model if precision and len(files[model, precision]) == 1 else path
        for model, precision, path in zip(models, precisions, paths, strict=True)
    ]
    return short_names(plain)


def _spread(row: Row) -> str:
    rounds = row.get("round_medians_ms")
    return f"{(rounds['p75'] - rounds['p25']) / row['latency_ms']['p50']:.0%}" if rounds else ""


def _ratios(rows: Sequence[Row]) -> Iterator[float]:
    """Each row's p50 over that of the first row with as many threads, rows and tokens."""
    first: dict[tuple[int, int, int], float] = {}
    for row in rows:
        p50 = row["latency_ms"]["p50"]
        yield p50 / first.setdefault((row["threads"], row["batch_size"], row["length"]), p50)


def _shares(rows: Sequence[Row], reference: str | None) -> list[str]:
    """The share of the FLOP ratio of each row but the reference's own."""
    known = [row.get("share_of_flop_ratio") if row["path"] != reference else None for row in rows]
    return ["" if share is None else f"{share:.0%}" for share in known]


def short_names(paths: Sequence[str]) -> list[str]:
    """The paths without the directories that all of them share."""
    parents = [Path(path).absolute().parent for path in paths]
    shared = os.path.commonpath(parents) if parents else ""
    return [os.path.relpath(Path(path).absolute(), shared) for path in paths]
