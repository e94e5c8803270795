"""What came out, as summary.json has it."""

from collections.abc import Mapping
from typing import Any

from dynackd.compress.request import Request
from dynackd.compress.state import STUDENT
from dynackd.onnx.graphs import ONNX_FILE
from dynackd.onnx.quantize import VARIANTS
from dynackd.system.places import read_json
from dynackd.tasks.task import main_metric
from dynackd.training.recipe import Recipe

INT8_FILE = VARIANTS["int8"].file


def make_summary(
    request: Request,
    recipe: Recipe,
    found: Mapping[str, Any],
    polish: Mapping[str, Any],
    about: Mapping[str, Any],
    table: Mapping[str, Any],
    seconds: Mapping[str, int],
) -> dict[str, Any]:
    """What was chosen, and what it costs and loses. found: the search's result; polish: polish.json; about:
    export.json; table: of the benchmark; seconds: "planned", and "taken" by this call alone, where a run was gone on
    with."""
    evaluation = read_json(recipe.output_dir / "depth" / "metrics.json")
    metric = main_metric(recipe.task)
    metrics, files = about.get("metrics", {}), about["files"]
    teacher, student = metrics.get("teacher", {}), metrics.get("student", {})
    if not student:  # rows without labels: how closely it follows its teacher
        student = metrics.get("fidelity", {})
        metric = next(iter(student), metric)
    ms = {_who(row["path"]): row["latency_ms"]["p50"] for row in table["rows"]}
    parameters = evaluation["teacher"]["parameters"]
    int8 = files.get(INT8_FILE)
    return {
        "metric": metric,
        "rows": metrics.get("rows"),
        "teacher": {
            "parameters": parameters,
            "size_mb": round(4 * parameters / 1e6, 2),
            "latency_ms": ms.get("teacher"),
            "metrics": teacher,
        },
        "student": {
            "path": STUDENT,
            **{key: about.get(key) for key in ("width", "depth", "heads", "neurons", "layers", "parameters")},
            "size_mb": round(files[ONNX_FILE]["size_bytes"] / 1e6, 2),
            "latency_ms": ms.get(STUDENT),
            "chosen_at_ms": found["choice"].get("latency_ms"),
            "metrics": student,
        },
        "int8": None if int8 is None else {
            "path": f"{STUDENT}/{INT8_FILE}",
            "size_mb": round(int8["size_bytes"] / 1e6, 2),
            "latency_ms": ms.get(INT8_FILE),
            "metrics": int8.get("metrics", {}),
        },
        "asked": request.to_dict(),
        "budget": found["budget"],
        "setting": {**request.setting.to_dict(), "length": request.setting.length or recipe.data.max_length},
        "machine": table["machine"],
        "polish": dict(polish),
        "seconds": dict(seconds),
    }  # fmt: skip


def _who(path: str) -> str:
    """Of what a row of the benchmark is: the teacher, the student or its smaller file."""
    if path == f"{STUDENT}/{INT8_FILE}":
        return INT8_FILE
    return STUDENT if path == STUDENT else "teacher"  # which may be anywhere, called anything
