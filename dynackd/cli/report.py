"""The command that tells: report."""

import argparse
from pathlib import Path

from dynackd.cli.arguments import path


def add_report(parser: argparse.ArgumentParser) -> None:
    what = "a run's directory, or a single supernet's or student's (default: .)"
    parser.add_argument("directory", type=path, nargs="?", default=Path(), metavar="RUN", help=what)
    also = "students, and tables of benchmark --json, that do not lie in the run's directory"
    parser.add_argument("--also", type=path, nargs="+", default=[], metavar="PATH", help=also)
    output = "the HTML file; the picture gets its name with .png and .svg (default: RUN/report.html)"
    parser.add_argument("--output", type=path, metavar="FILE", help=output)
    metric = "by which the sizes are compared (default: the task's main one)"
    parser.add_argument("--metric", metavar="NAME", help=metric)


def report(options: argparse.Namespace) -> None:
    from dynackd.report.html import write_report
    from dynackd.report.terminal import say

    say(f"report: {write_report(options.directory, options.output, options.metric, options.also)}")
