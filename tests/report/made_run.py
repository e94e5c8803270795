"""Runs made by hand: the files that stages, exports, benchmarks and searches leave, with numbers that a test can check.
"""

import json

from dynackd.system.places import write_json

EVIL = "</script><script>alert(1)</script>"
SIZES = [(1.0, 1.0, 4, 40), (0.5, 1.0, 2, 20), (1.0, 0.5, 4, 40), (0.5, 0.5, 2, 20)]
SCORES = [0.80, 0.796, 0.78, 0.70]  # of a teacher with 0.8
COSTS = [1000, 500, 510, 250]
LAYERS = {1.0: [0, 1, 2, 3], 0.5: [1, 3]}


def evaluation(metric="accuracy", scores=SCORES, teacher=0.8):
    """The table of a depth stage: of the teacher's accuracy (0.5, 1) keeps 99.5 %, (1, 0.5) 97.5 % and (0.5, 0.5)
    87.5 %."""
    rows = [
        {
            **{"width": width, "depth": depth, "heads": heads, "neurons": neurons, "layers": LAYERS[depth]},
            **{"parameters": 2000 + cost, "flops": cost * 1000},
            **{"metrics": {metric: score}, "fidelity": {"agreement": 0.9, "kl": 0.1}},
        }
        for (width, depth, heads, neurons), score, cost in zip(SIZES, scores, COSTS, strict=True)
    ]
    whole = {"parameters": 3000, "flops": 1_000_000, "metrics": {metric: teacher}}
    return {"task": "custom", "length": 16, "main_metric": metric, "teacher": whole, "subnetworks": rows}


def write_run(directory, evaluated=None):
    """A run with a depth stage's table and nothing else."""
    (directory / "depth").mkdir(parents=True)
    write_json(directory / "depth" / "metrics.json", {**(evaluated or evaluation()), "train_seconds": 90.0})
    return directory


def measured(path, p50, runtime="onnxruntime", **changes):
    """A row of `benchmark --json`."""
    row = {"path": path, "runtime": runtime, "provider": "cpu", "threads": 1, "batch_size": 1, "length": 16}
    latencies = {"p50": p50, "p90": 2 * p50, "p99": 3 * p50}
    return {**row, "latency_ms": latencies, "throughput_per_s": 1e3 / p50, "repeats": 10, **changes}


def student(**changes):
    """The export.json of (0.5, 0.5), whose 8-bit file drops 0.004 and whose fp16 file was refused."""
    files = {
        "model.safetensors": {"size_bytes": 9_000_000},
        "onnx/model.onnx": {"size_bytes": 9_100_000, "max_abs_diff": 2e-6, "metrics": {"accuracy": 0.70}},
        "onnx/model_quantized.onnx": {
            **{"size_bytes": 2_500_000, "max_abs_diff": 0.2, "metrics": {"accuracy": 0.696}, "drop": 0.004},
            "class_drops": {EVIL: {"drop": 0.01, "count": 3}, "kind": {"drop": -0.02, "count": 30}},
        },
    }
    return {
        **{"name": "half", "width": 0.5, "depth": 0.5, "heads": 2, "neurons": 20, "layers": [1, 3]},
        **{"parameters": 2250, "kind": "classification", "parity_max_abs_diff": 2e-6, "files": files},
        "metrics": {"rows": "On 24 validation rows", "student": {"accuracy": 0.70}, "teacher": {"accuracy": 0.8}},
        "refused": {"onnx/model_fp16.onnx": {"reason": "it loses 0.2000 of accuracy", "max_abs_diff": 9, "drop": 0.2}},
        "versions": {"dynackd": "0.1.0", "torch": "2.13.0"},
        **{"teacher": "teacher", "teacher_sha256": "ab" * 32},
        **changes,
    }


def write_log(file, terms=()):
    rows = [
        {"loss": 1.0 / step, **{f"loss_{name}": 0.1 / step for name in terms}, "epoch": step / 10, "step": step}
        for step in range(1, 11)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


IMPORTANCE = {
    **{"score": "gradient", "rows": 16, "format": 1},
    "heads": {"scores": [[1.0, 4.0, 2.0, 3.0]] * 4, "order": [[1, 3, 2, 0]] * 4},
    "neurons": {
        **{"count": 40, "shares": [0.0, 0.25, 0.5, 1.0]},
        **{"before": [[0.0, 0.2, 0.5, 1.0]] * 4, "after": [[0.0, 0.6, 0.9, 1.0]] * 4},
    },
}


def found(heads, latency_ms, accuracy):
    """A sub-network in search.json."""
    sizes = {"heads": heads, "neurons": [10 * own for own in heads], "layers": list(range(len(heads)))}
    costs = {"parameters": 2400, "flops": 400_000, "size_mb": 9.6, "latency_ms": latency_ms}
    return {**sizes, **costs, "metric": accuracy + 0.01, "validation": {"accuracy": accuracy}}


SEARCH = {
    **{"choice": found([4, 1, 2, 2], 2.5, 0.79), "grid": found([2, 2], 2.4, 0.70), "full": found([4] * 4, 6.0, 0.8)},
    "front": [found([1, 1], 1.5, 0.65), found([4, 1, 2, 2], 2.5, 0.79)],
    **{"axis": "latency_ms", "metric": {"name": "accuracy"}, "machine": "a machine", "budget": {"max_latency_ms": 3}},
    "setting": {"length": 16, "batch_size": 1, "threads": 1, "runtime": "onnxruntime", "int8": False, "device": "cpu"},
}


def write_whole_run(directory):
    """A run with everything that a report can tell; a label and a recipe in it try to be markup."""
    write_run(directory)
    for stage in ("teacher", "width"):
        (directory / stage).mkdir()
    write_json(directory / "teacher" / "metrics.json", {"metrics": {"accuracy": 0.8}, "train_seconds": 60.0})
    widths = evaluation()
    widths["subnetworks"] = widths["subnetworks"][:2]
    write_json(directory / "width" / "metrics.json", {**widths, "train_seconds": 120.0, "machine": "a machine"})
    write_json(directory / "width" / "importance.json", IMPORTANCE)
    for stage in ("teacher", "width", "depth"):
        write_log(directory / stage / "log.jsonl", () if stage == "teacher" else ("logits", "wr_pair"))
        origin = {"format": 1, "dynackd": "0.1.0", "kind": "classification", "max_length": 16}
        origin |= {"model": {"name": EVIL, "sha256": "cd" * 32}, "validation": {"rows": 24, "sha256": "ef" * 32}}
        write_json(directory / stage / "origin.json", origin)
        (directory / stage / "recipe.yaml").write_text(f"model: {EVIL}\ntask: custom\n")
    (directory / "students" / "half").mkdir(parents=True)
    write_json(directory / "students" / "half" / "export.json", student())
    rows = [measured("/elsewhere/run/teacher", 20.0, "torch"), measured("/elsewhere/run/teacher", 8.0)]
    rows += [measured("students/half", 5.0, "torch"), measured("students/half", 2.0)]
    rows += [measured("students/half/onnx/model_quantized.onnx", 1.0)]
    write_json(directory / "latency.json", {"machine": "a machine", "rows": rows})
    (directory / "search").mkdir()
    write_json(directory / "search" / "search.json", SEARCH)
    return directory
