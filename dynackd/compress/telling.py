"""What the user is told before, between and after."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from dynackd.compress.preparing import Prepared
from dynackd.compress.request import Request
from dynackd.compress.state import STUDENT
from dynackd.report.terminal import console, layer_ranges, say, show
from dynackd.search.settings import COSTS, option

FEW_STEPS = 100  # in which no model learns a task
TITLES = {"finetune": "fine-tuning the model", "width": "training all widths", "depth": "training widths and depths",
          "polish": "polishing the chosen size"}  # fmt: skip


def tell_plan(request: Request, prepared: Prepared) -> None:
    """What will be done, and what it will cost."""
    console.print(prepared.model)
    for line in prepared.decided:
        console.print(line)
    grid, plan = prepared.recipe.grid, prepared.plan
    widths, depths = (", ".join(f"{share:g}" for share in shares) for shares in (grid.widths, grid.depths))
    console.print(f"{len(grid.specs())} sizes are trained: widths {widths} x depths {depths}; sampler {plan.sampler}")
    show(plan_table(prepared))
    first = plan.stages[0]
    if plan.changed and first.steps < FEW_STEPS:
        console.print(f"note: {first.steps} steps of {TITLES[first.stage]} are few; with more time expect more of it")
    console.print(f"then wanted: {wanted(request, prepared.recipe.data.max_length)}")


def wanted(request: Request, longest: int) -> str:
    """What the student must be; longest: the tokens of the longest rows."""
    budget = request.budget
    parts = [f"{option(name)} {value:g}" for name, value in budget.to_dict().items() if name in COSTS]
    parts += [f"--min-metric {budget.min_metric:g}"] if budget.min_metric is not None else []
    parts += [f"{budget.keep:.0%} of the full network's metric kept"] if budget.keep is not None else []
    parts = parts if budget.bounds else [f"the fastest with {parts[0]}"]
    setting = request.setting
    where = f"{setting.runtime}, {setting.threads} thread{'s' * (setting.threads > 1)}, batch {setting.batch_size}"
    return f"{', '.join(parts)} (latency in {where}, {setting.length or longest} tokens)"


def plan_table(prepared: Prepared) -> Table:
    plan = prepared.plan
    table = Table(title="What it will take here", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("step", "rows", "epochs", "steps", "s a step", "rate", "minutes"):
        table.add_column(name, justify="left" if name == "step" else "right", no_wrap=True)
    for own in plan.stages:
        table.add_row(
            TITLES[own.stage],
            f"{prepared.rows:,}",
            f"{own.epochs:.3g}",
            f"{own.steps:,}",
            f"{own.step_s:.3g}",
            f"{prepared.rates[own.stage]:g}",
            minutes(own.seconds),
        )
    rest = (f"{prepared.validation_rows:,}", "", "", "", "", minutes(plan.other_s))
    table.add_row("evaluating, searching, exporting", *rest)
    table.add_section()
    table.add_row("in all", "", "", "", "", "", minutes(plan.seconds))
    return table


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def tell_result(summary: Mapping[str, Any], output: Path, report: Path, gone_on: bool) -> None:
    """One paragraph: what was chosen, what it costs and loses, where it lies and how it is loaded. gone_on: whether an
    earlier call did a part of it, whose time nobody kept."""
    student, teacher, int8, metric = summary["student"], summary["teacher"], summary["int8"], summary["metric"]
    layers = f"layers {layer_ranges(student['layers'])} (counted from 0), heads {_each(student['heads'])}, neurons "
    parts = [
        f"chosen: {layers}{_each(student['neurons'])}: {student['parameters'] / 1e6:.1f} M parameters instead of "
        f"{teacher['parameters'] / 1e6:.1f} M",
        f"{metric} {_number(student, metric)}" + (
            f" instead of {_number(teacher, metric)}" if metric in teacher["metrics"] else ""
        ) + f" {str(summary['rows'] or '').lower()}".rstrip(),
        f"{student['latency_ms']:.2f} ms instead of {teacher['latency_ms']:.2f} ms ({_where(summary['setting'])})",
        f"{student['size_mb']:.1f} MB instead of {teacher['size_mb']:.1f} MB",
    ]  # fmt: skip
    if int8:
        ms = f"{int8['latency_ms']:.2f} ms, " if int8["latency_ms"] else ""
        found = f" and {metric} {_number(int8, metric)}" if metric in int8["metrics"] else ""
        parts.append(f"as int8 {ms}{int8['size_mb']:.1f} MB{found}")
    console.print("; ".join(parts))
    most = summary["budget"].get("max_latency_ms")
    if most and student["latency_ms"] > most and student["chosen_at_ms"]:
        console.print(
            f"note: that is above --max-latency-ms {most:g}; it was chosen at {student['chosen_at_ms']:.2f} ms, so the "
            f"machine may have been busy: dynackd benchmark {output / STUDENT} measures again"
        )
    place, seconds = output / STUDENT, summary["seconds"]
    whole = f"{minutes(seconds['planned'])} were planned"
    if gone_on:
        say(f"this call took {minutes(seconds['taken'])} minutes; {whole} for it and the calls before it")
    else:
        say(f"it took {minutes(seconds['taken'])} minutes; {whole}")
    say(f'student: {place}    model, tokenizer = dynackd.load_student("{place}")    more: {place / "README.md"}')
    say(f"report: {report}")


def _each(sizes: int | list[int]) -> str:
    """One number for all layers, or one for each."""
    return ", ".join(map(str, sizes)) if isinstance(sizes, list) else f"{sizes} in each"


def _number(of: Mapping[str, Any], metric: str) -> str:
    return f"{of['metrics'][metric]:.4f}" if metric in of["metrics"] else "unknown"


def _where(setting: Mapping[str, Any]) -> str:
    threads = f"{setting['threads']} thread{'s' * (setting['threads'] > 1)}"
    return f"{setting['runtime']}, {threads}, {setting['length']} tokens, batch {setting['batch_size']}"
