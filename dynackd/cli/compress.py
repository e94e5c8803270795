"""`dynackd compress`."""

import argparse
from typing import Any

from dynackd.cli.arguments import add_mode, add_set, path, run_mode
from dynackd.cli.budget import add_budget, budget_of


def add_compress(parser: argparse.ArgumentParser) -> None:
    model = "a fine-tuned model or a bare encoder (directory, hub name, package:NAME/PATH), or a recipe"
    parser.add_argument("model", metavar="MODEL", help=model)
    teacher = "a fine-tuned model to learn from, of any size and family (default: the model itself)"
    parser.add_argument("--teacher", metavar="MODEL", help=teacher)
    rows = "the rows to train on: csv, tsv, json, jsonl, parquet, conll or txt"
    parser.add_argument("--data", metavar="FILE", help=rows)
    validation = "rows to validate on (default: a part of the rows is held out)"
    parser.add_argument("--validation", metavar="FILE", help=validation)
    others = "rows without labels, which the teacher labels: files with the columns of the texts, or a text a line"
    parser.add_argument("--unlabelled", nargs="+", default=[], metavar="FILE", help=others)
    columns = "the column of the {}, or several (default: guessed, and told)"
    parser.add_argument("--text", nargs="+", default=[], metavar="COLUMN", help=columns.format("text"))
    parser.add_argument("--label", nargs="+", default=[], metavar="COLUMN", help=columns.format("label"))
    parser.add_argument("--kind", metavar="KIND", help="what the rows are, such as classification (default: guessed)")
    add_budget(parser, "what the student must meet (default: --keep 0.97)")
    length = "tokens at which latency is measured (default: data.max_length)"
    parser.add_argument("--length", type=int, metavar="N", help=length)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the student (default: 1)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="rows at a time (default: 1)")
    minutes = "how long all may take: fewer sub-networks a step, then fewer epochs, then fewer rows"
    parser.add_argument("--max-minutes", type=float, metavar="N", help=minutes)
    output = "where results go (default: runs/NAME-OF-THE-DATA)"
    parser.add_argument("--output", type=path, metavar="DIR", help=output)
    parser.add_argument("--dry-run", action="store_true", help="tell what it will take, and stop")
    add_set(parser)
    add_mode(parser)


def compress(options: argparse.Namespace) -> None:
    from dynackd.compress.road import compress, tell_cost

    request, mode = _request(options), run_mode(options)
    if options.dry_run:
        tell_cost(request)
    else:
        compress(request, mode)


def _request(options: argparse.Namespace) -> Any:
    from dynackd.compress.guess import Said
    from dynackd.compress.request import KEEP, Request
    from dynackd.search.settings import Budget, Setting
    from dynackd.system.places import at_home

    budget = budget_of(options)
    return Request(
        model=options.model,
        data=options.data and at_home(options.data),
        validation=options.validation and at_home(options.validation),
        said=Said(options.kind, tuple(options.text), tuple(options.label)),
        budget=Budget(**(budget if any(value is not None for value in budget.values()) else {"keep": KEEP})),
        setting=Setting(options.length, options.batch_size, options.threads),
        max_minutes=options.max_minutes,
        output=options.output,
        overrides=tuple(options.set),
        unlabelled=tuple(map(at_home, options.unlabelled)),
        teacher=options.teacher,
    )
