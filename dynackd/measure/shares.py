"""How much of the FLOPs that a smaller model saves is saved in time: the speed-up as a share of the FLOP ratio."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dynackd.errors import UserError
from dynackd.measure.runtimes import RUNTIMES, model_directory
from dynackd.measure.sources import encoder_directory
from dynackd.supernet.checkpoints import load_config
from dynackd.supernet.cost import ModelFlops
from dynackd.system.places import read_json

Row = Mapping[str, Any]


def with_shares(result: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """The result of `benchmark` with these in each row, as far as they are known:

    "flops": of one text of that length. "speed_up": the reference row's p50 / this row's. "flop_ratio": the reference
    row's FLOPs / this row's. "share_of_flop_ratio": speed_up / flop_ratio. The reference row is that of the path
    `reference`, or of an ONNX file inside it, with the same runtime, precision, device, threads, batch size and length.
    """
    count = _counter(result["rows"])
    rows = [{**row, **({"flops": flops} if (flops := count(row)) else {})} for row in result["rows"]]
    references: dict[tuple[Any, ...], Row] = {}
    home = Path(reference).resolve()
    for row in rows:
        own = Path(row["path"]).resolve()
        if own == home or (own.suffix == ".onnx" and home in (own.parent, own.parent.parent)):
            references.setdefault(_like(row), row)
    rows = [{**row, **share(row, references.get(_like(row)))} for row in rows]
    return {**result, "reference": reference, "rows": rows}


def _like(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("runtime", "precision", "provider", "threads", "batch_size", "length"))


def share(row: Row, reference: Row | None) -> dict[str, float]:
    """What a row gains over its reference row."""
    if reference is None:
        return {}
    speed_up = reference["latency_ms"]["p50"] / row["latency_ms"]["p50"]
    if "flops" not in row or "flops" not in reference:
        return {"speed_up": speed_up}
    flop_ratio = reference["flops"] / row["flops"]
    return {"speed_up": speed_up, "flop_ratio": flop_ratio, "share_of_flop_ratio": speed_up / flop_ratio}


# --- FLOPs -----------------------------------------------------------------------------------------------------------


def _counter(rows: Sequence[Row]) -> Callable[[Row], int | None]:
    """(row) -> FLOPs, where they are known; every model and length counted once."""
    models: dict[str, Callable[[int], int | None]] = {}

    def count(row: Row) -> int | None:
        directory = _directory(row["path"])
        if directory is None:
            return None
        onnx = RUNTIMES[row["runtime"]].reads_onnx
        key = f"{directory} {onnx}"
        if key not in models:
            models[key] = cache(_flops_of(directory, onnx))
        return models[key](row["length"])

    return count


def _directory(path: str) -> Path | None:
    return encoder_directory(Path(path)) if Path(path).is_dir() else model_directory(path)


def _flops_of(directory: Path, onnx: bool) -> Callable[[int], int | None]:
    """(length) -> FLOPs of the torch model or of the ONNX files in a directory, None where they are not known."""
    about = read_json(directory / "export.json") if (directory / "export.json").is_file() else {}
    if onnx and about.get("compat"):  # the stock checkpoint is padded, its ONNX files are not
        known = about["flops"]
        return lambda length: known["student"] if known["length"] == length else None
    try:
        return ModelFlops(load_config(str(directory))).count
    except UserError:
        return lambda length: None
