"""The report of a run: one HTML file that needs nothing else and reaches no network, and its main picture as PNG and
SVG.

    write_report(Path("runs/reviews"))     # runs/reviews/report.html, report.png, report.svg
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from dynackd.errors import UserError
from dynackd.report.charts import DARK, LIGHT, chart_data
from dynackd.report.judging import judge_of, name_of_metric
from dynackd.report.making import how_it_was_made
from dynackd.report.picture import write_pictures
from dynackd.report.reading import Results, read_run
from dynackd.report.searches import search_table, searched_axes
from dynackd.report.tables import (
    class_tables,
    grid_table,
    hidden_table,
    kept_table,
    latency_table,
    leaving_table,
    student_table,
)
from dynackd.report.tradeoff import counted_axes, latency_axes
from dynackd.report.words import figures, lead, missing
from dynackd.system.places import manifest_of, mark, new_file, writing

REPORT = "report.html"
PICTURES = (".png", ".svg")
MARK = "dynackd report"  # in each of the three files: what may be replaced


def write_report(
    run: Path, output: Path | None = None, metric: str | None = None, also: Sequence[Path] = ()
) -> Path:
    """Write the report of what lies in `run`: a run's directory, a supernet's or a student's. Returns the HTML file,
    by default `run/report.html`; the pictures get its name with .png and .svg. metric: by which it is told, the task's
    main one by default. also: students and tables of `benchmark --json` that lie elsewhere. `UserError` where nothing
    of ours lies there or what stands at the output is not a report."""
    output = output or run / REPORT
    check_output(output)
    results = read_run(run, also)
    judge = judge_of(results, metric)
    axes = [*latency_axes(results, judge), *searched_axes(results, judge), *counted_axes(results, judge)]
    data = chart_data(results, judge, axes)
    page = render(results, data, {
        "judge": judge,
        "metric": name_of_metric(judge.metric),
        "lead": lead(results, judge, axes),
        "figures": figures(results, judge, axes),
        "missing": missing(results, judge, axes, str(run)),
        "grid": grid_table(results, judge),
        "students": student_table(results, judge),
        "classes": class_tables(results),
        "searches": [table for own in results.searches if (table := search_table(own, judge))],
        "latencies": latency_table(results),
        "kept": kept_table(data["importance"]),
        "hidden_kept": hidden_table(data["importance"]),
        "leaving": leaving_table(data["importance"]),
        "made": how_it_was_made(results),
    })
    with new_file(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    written = [output, *write_pictures(axes, judge, results.name, output)]
    _count_in(output.parent, [file.name for file in written])
    return output


def check_output(output: Path) -> None:
    """`UserError` where a report cannot be written, or would replace what is none."""
    if output.suffix != ".html":
        raise UserError(f"--output {output} must end in .html; the picture gets its name with .png and .svg")
    for file in (output, *(output.with_suffix(suffix) for suffix in PICTURES)):
        if file.is_dir():
            raise UserError(f"--output: {file} is a directory; name another file")
        with writing(file):
            if file.is_file() and MARK.encode() not in file.read_bytes():
                raise UserError(f"--output: {file} is a file already, and no report; name another file")


def _count_in(directory: Path, names: list[str]) -> None:
    """What was written in a directory of ours belongs to it, so that it can still be replaced as a whole."""
    manifest = manifest_of(directory)
    if manifest is not None and (new := [name for name in names if not manifest.has(name)]):
        mark(directory, manifest.what, [*manifest.files, *new])


def render(results: Results, data: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """The page. Every text is escaped; only the page's own script and the library may run, known by their hashes."""
    # Imported here: only this function needs them.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("dynackd.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page, (library, allowed) = files("dynackd.report") / "page", _library()
    script, style = ((page / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    return environment.get_template("page.html.j2").render(
        mark=MARK,
        results=results,
        data=data,
        colours={"light": LIGHT, "dark": DARK},
        script=Markup(script),
        style=Markup(style),
        library=library,
        allowed=f"{_allowed(script)} {allowed}",
        **told,
    )


@cache
def _library() -> tuple[str, str]:
    """Plotly packed to less than half of its size, which the page unpacks, and its hash, which holds for the whole."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    return base64.b64encode(zlib.compress(script.encode("utf-8"), 9)).decode("ascii"), _allowed(script)


def _allowed(script: str) -> str:
    """A script's hash as a Content-Security-Policy has it."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
