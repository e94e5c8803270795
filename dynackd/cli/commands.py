"""The table of commands."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

from dynackd.cli import compress, export, measure, polish, report, search, train
from dynackd.cli.arguments import add_nothing, add_recipe


@dataclass(frozen=True)
class Command:
    """What a command says of itself, its arguments and what it does."""

    help: str
    example: str
    add: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]
    resumable: bool = False  # it has --resume
    kept: bool = False  # it goes on by itself from what an interrupted one has kept
    shared: bool = False  # several processes can share it; otherwise it is one process's work


COMMANDS = {
    "compress": Command(
        "make a model as small as a budget asks, from a file of rows to a student, in one go",
        "dynackd compress google-bert/bert-base-uncased --data train.csv --max-latency-ms 5 --max-minutes 60",
        compress.add_compress,
        compress.compress,
        resumable=True,
    ),
    "quickstart": Command(
        "run everything once, from a pretrained encoder to exported students, without a download",
        "dynackd quickstart",
        train.add_quickstart,
        train.quickstart,
        resumable=True,
    ),
    "finetune": Command(
        "fine-tune a bare encoder, to be the teacher",
        "dynackd finetune recipes/glue/sst2.yaml --set training.learning_rate=3e-5",
        add_recipe,
        train.finetune,
        resumable=True,
        shared=True,
    ),
    "augment": Command(
        "make more training rows by replacing words, and label them with the teacher",
        "dynackd augment recipes/glue/sst2.yaml --set augmentation.copies=20",
        add_recipe,
        train.augment,
        resumable=True,
    ),
    "train-general": Command(
        "train all sizes of an encoder on plain text, from which the supernets of tasks may start",
        "dynackd train-general recipes/general/minilm.yaml",
        add_recipe,
        train.train_general,
        resumable=True,
        shared=True,
    ),
    "train-width": Command(
        "rewire the teacher and train all widths of the supernet",
        "dynackd train-width recipes/glue/sst2.yaml",
        add_recipe,
        train.train_width,
        resumable=True,
        shared=True,
    ),
    "train-depth": Command(
        "train all widths and depths, each taught by the width stage's network of its width",
        "dynackd train-depth recipes/glue/sst2.yaml",
        add_recipe,
        train.train_depth,
        resumable=True,
        shared=True,
    ),
    "evaluate": Command(
        "evaluate every sub-network of a supernet, and its teacher",
        "dynackd evaluate runs/sst2/depth --json evaluation.json",
        measure.add_evaluate,
        measure.evaluate,
    ),
    "search": Command(
        "find the best sub-network for a budget, each layer with sizes of its own",
        "dynackd search runs/sst2/depth --max-latency-ms 5 --length 64 --threads 2",
        search.add_search,
        search.search,
        kept=True,
    ),
    "polish": Command(
        "train one sub-network of a supernet on alone",
        "dynackd polish runs/sst2/depth --width 0.5 --depth 0.5",
        polish.add_polish,
        polish.polish,
        resumable=True,
        shared=True,
    ),
    "export": Command(
        "slice one size out of a supernet, as a torch and an ONNX model",
        "dynackd export runs/sst2/depth --width 0.5 --depth 0.75 --int8 --output student",
        export.add_export,
        export.export,
    ),
    "benchmark": Command(
        "measure the latency of students and teachers",
        "dynackd benchmark runs/sst2/teacher student --length 32 128 --json benchmark.json",
        measure.add_benchmark,
        measure.benchmark,
    ),
    "report": Command(
        "write one HTML page about a run: quality against cost, the sizes, the training",
        "dynackd report runs/sst2",
        report.add_report,
        report.report,
    ),
    "schema": Command(
        "print the JSON Schema of a recipe, by which an editor completes and checks one",
        "dynackd schema > recipe.schema.json",
        add_nothing,
        train.schema,
    ),
}
