"""Searches."""

from bad_inputs import Bad


def _no_training_rows(directory):
    (directory / "train.tsv").unlink()


SEARCH = "search {d}/run/depth"
CASES = [
    Bad(
        "no budget",
        SEARCH,
        "a search needs a budget: give one or more of --max-latency-ms, --max-params, --max-size-mb, --max-flops, "
        "--min-metric, --keep",
    ),
    Bad("a budget below 0", f"{SEARCH} --max-latency-ms 0", "--max-latency-ms is 0.0; it must be a number above 0"),
    Bad(
        "a budget that is no number",
        f"{SEARCH} --max-params ten",
        "'ten' is no number; write one such as 5, 0.5, 10M or 1.2G",
    ),
    Bad(
        "a budget below the smallest",
        f"{SEARCH} --max-params 10",
        "--max-params 10 is less than the smallest sub-network has: one layer of one head and 5 neurons comes to ... "
        "parameters; one of a smaller hidden size (grid.hidden) has less",
    ),
    Bad(
        "no such runtime",
        f"{SEARCH} --max-params 1M --runtime onnx",
        "--runtime: 'onnx' is unknown; known: onnxruntime, torch",
    ),
    Bad(
        "int8 in torch",
        f"{SEARCH} --max-params 1M --runtime torch --int8",
        "--int8 is a file for ONNX Runtime; give it without --runtime torch",
    ),
    Bad(
        "a length beyond the model's",
        f"{SEARCH} --max-params 1M --length 900",
        "--length 900 is beyond the 48 tokens that {d}/run/depth takes",
    ),
    Bad(
        "no such device",
        f"{SEARCH} --max-params 1M --device tpu",
        "--device: 'tpu' is unknown, did you mean 'cpu'? known: cpu, cuda",
    ),
    Bad("no threads", f"{SEARCH} --max-params 1M --threads 0", "--threads is 0; it must be 1 or more"),
    Bad("too few rows", f"{SEARCH} --max-params 1M --rows 2", "--rows is 2; it must be 8 or more"),
    Bad(
        "no supernet",
        "search {d}/run/teacher --max-params 1M",
        "{d}/run/teacher is a plain bert checkpoint, not a supernet; make one with dynackd train-width",
    ),
    Bad(
        "the output holds the supernet",
        f"{SEARCH} --max-params 1M --output {{d}}/run",
        "{d}/run holds ...",
    ),
    Bad(
        "the training rows are gone",
        f"{SEARCH} --max-params 1M",
        "a search needs training rows to judge by: {d}/train.tsv: no such file (--set data.train=FILE)",
        _no_training_rows,
    ),
]
