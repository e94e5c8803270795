"""The report of a run: what it tells, what it leaves out, and where it is written."""

from pathlib import Path

import pytest

from dynackd.errors import UserError
from dynackd.report.html import write_report
from dynackd.system.places import write_json

SIZES = [(1.0, 1.0, 4, 40), (0.5, 1.0, 2, 20), (1.0, 0.5, 4, 40), (0.5, 0.5, 2, 20)]
SCORES = [0.80, 0.796, 0.78, 0.70]  # of a teacher with 0.8
COSTS = [1000, 500, 510, 250]


def evaluation(**changes):
    """The table of a depth stage: (0.5, 1) keeps 99.5 % of the teacher's accuracy, (1, 0.5) 97.5 %."""
    rows = [
        {
            **{"width": width, "depth": depth, "heads": heads, "neurons": neurons},
            **{"layers": [0, 1, 2, 3] if depth == 1 else [1, 3], "parameters": 2000 + cost, "flops": cost * 1000},
            **{"metrics": {"accuracy": score}, "fidelity": {"agreement": score + 0.1, "kl": 1 - score}},
        }
        for (width, depth, heads, neurons), score, cost in zip(SIZES, SCORES, COSTS, strict=True)
    ]
    teacher = {"parameters": 3000, "flops": 1_000_000, "metrics": {"accuracy": 0.8}}
    return {"task": "custom", "length": 16, "teacher": teacher, "subnetworks": rows, **changes}


def write_run(directory, evaluated=None):
    """A run with a depth stage and nothing else."""
    (directory / "depth").mkdir(parents=True)
    write_json(directory / "depth" / "metrics.json", {**(evaluated or evaluation()), "train_seconds": 90.0})
    return directory


def test_a_report_lies_in_the_run_with_its_pictures(tmp_path):
    run = write_run(tmp_path / "run")
    page = write_report(run)
    assert page == run / "report.html"
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "report.svg").read_text().startswith("<?xml")
    told = "The smallest that keeps 99% of the teacher&#39;s accuracy is width 0.5 at depth 1: 0.796 of 0.800"
    assert told in page.read_text()


def test_another_file_is_never_replaced_and_a_report_is(tmp_path):
    run, mine = write_run(tmp_path / "run"), tmp_path / "mine.html"
    mine.write_text("mine")
    with pytest.raises(UserError, match="is a file already, and no report"):
        write_report(run, mine)
    assert mine.read_text() == "mine"
    for _ in range(2):
        write_report(run, Path(tmp_path / "told.html"))
