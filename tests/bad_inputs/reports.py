"""Reports: of nothing, to a place that is taken, by a metric that is not there."""

from pathlib import Path

from bad_inputs import Bad


def of_nothing(directory: Path) -> None:
    (directory / "photos").mkdir()


CASES = [
    Bad(
        "a report of a directory that is not there",
        "report {d}/runs",
        "{d}/runs is no directory; name a run's, such as runs/reviews",
    ),
    Bad(
        "a report of a directory without results",
        "report {d}/photos",
        "{d}/photos holds no results of dynackd; name a run's directory (with teacher, width, depth or students in "
        "it), a supernet's or a student's",
        of_nothing,
    ),
    Bad(
        "a report of a bare encoder",
        "report {d}/encoder",
        "{d}/encoder holds no results of dynackd; name a run's directory (with teacher, width, depth or students in "
        "it), a supernet's or a student's",
    ),
    Bad(
        "a report to a file that is no page",
        "report {d}/run --output {d}/report.pdf",
        "--output {d}/report.pdf must end in .html; the picture gets its name with .png and .svg",
    ),
    Bad(
        "a report over a page of the user's",
        "report {d}/run --output {d}/mine.html",
        "--output: {d}/mine.html is a file already, and no report; name another file",
        lambda d: (d / "mine.html").write_text("mine\n"),
    ),
    Bad(
        "a report whose picture would replace one of the user's",
        "report {d}/run --output {d}/mine.html",
        "--output: {d}/mine.svg is a file already, and no report; name another file",
        lambda d: (d / "mine.svg").write_text("mine\n"),
    ),
    Bad(
        "a report that is to tell of a folder that is no student",
        "report {d}/run --also {d}/encoder",
        "--also: {d}/encoder is neither a student nor a table of benchmark --json",
    ),
    Bad(
        "a report by a metric that the run has not",
        "report {d}/run --metric acuracy",
        "--metric: 'acuracy' is unknown, did you mean 'accuracy'? known: accuracy",
    ),
]
