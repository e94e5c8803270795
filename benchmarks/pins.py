"""Whether a change left every number as it was: tiny two-stage runs through the command line, bit for bit.

    git worktree add /tmp/before REVISION && cp benchmarks/pins.py /tmp/before/benchmarks
    python /tmp/before/benchmarks/pins.py before.json
    python benchmarks/pins.py after.json --like before.json

Eight runs of `finetune`, `train-width`, `train-depth`, `evaluate` and `export`: four families, a sampler, a rule for
layers, a regression, gradient accumulation. Kept are each logged number, the weights and the ONNX file by SHA-256, the
metrics, costs and parity. About a minute a run; one thread, on which the last digit depends.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # this tree's, whichever is installed
from conftest import BAD, GOOD, PLAIN, tiny_model, tiny_recipe, write_recipe  # noqa: E402

TRAINING = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-3, "use_cpu": True}
DEPTHS = [0.5, 0.75, 1.0]
# run -> (family, what its recipe says otherwise)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in ("bert", "roberta", "electra", "distilbert")},
    "sandwich": ("bert", {"grid": {"widths": [0.25, 0.5, 1.0], "depths": DEPTHS, "sampler": "sandwich(2)"},
                          "distillation": {"width_power": 1, "signal": "ckd"}}),
    "code-rule": ("bert", {"grid": {"widths": [0.25, 0.5, 1.0], "depths": DEPTHS, "kept_layers": "dynabert-code"},
                           "distillation": {"weights": {"ce": 0.5}}, "importance": {"score": "magnitude"}}),
    "regression": ("bert", {"task": {"kind": "regression", "text": "sentence", "label": "label"}}),
    "accumulate": ("bert", {"training": {**TRAINING, "gradient_accumulation_steps": 2, "eval_strategy": "epoch"}}),
}  # fmt: skip
TIMES = ("runtime", "per_second", "seconds")
EXPORTED = ("parameters", "flops", "parity_max_abs_diff", "metrics", "heads", "neurons", "layers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="where the numbers go, as JSON")
    parser.add_argument("--like", type=Path, metavar="FILE", help="print every number that is another there")
    options = parser.parse_args()
    found = {}
    for name, (family, changes) in RUNS.items():
        with tempfile.TemporaryDirectory() as directory:
            found[name] = json.loads(json.dumps(numbers(Path(directory), family, changes)))
        options.file.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(name, found[name]["depth"]["weights"][:16], found[name]["onnx"][:16], flush=True)
    if options.like:
        others = list(differences(json.loads(options.like.read_text(encoding="utf-8")), found))
        print(*others, f"{len(found)} runs, {len(others)} differences", sep="\n")
        sys.exit(bool(others))


def numbers(directory: Path, family: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of one run."""
    content = tiny_recipe(directory, **changes)
    tiny_model(family).base_model.save_pretrained(directory / "encoder")
    if "task" in changes:
        write_numbers(directory / "train.tsv", 48, 1)
        write_numbers(directory / "validation.tsv", 24, 2)
    recipe, run, student = write_recipe(directory, content), directory / "run", directory / "student"
    for command in ("finetune", "train-width", "train-depth"):
        dynackd(command, recipe)
    dynackd("evaluate", run / "depth", "--json", directory / "e.json", "--length", 16)
    dynackd("export", run / "depth", "--width", 0.5, "--depth", 0.5, "--output", student, "--int8", "--max-drop", 9)
    exported = read(student / "export.json")
    int8 = {key: value for key, value in exported["files"]["onnx/model_quantized.onnx"].items() if key != "size_bytes"}
    return {
        **{stage: of_stage(run / stage) for stage in ("teacher", "width", "depth")},
        "evaluate": read(directory / "e.json"),
        "export": {**{key: exported[key] for key in EXPORTED}, "int8": int8, "weights": weights(student)},
        "onnx": hashlib.sha256((student / "onnx" / "model.onnx").read_bytes()).hexdigest(),
    }


def of_stage(directory: Path) -> dict[str, Any]:
    """What a stage logged, measured and trained, but for times."""
    measured, file = read(directory / "metrics.json"), directory / "log.jsonl"
    # Up to d3efc4c the log stood in metrics.json.
    logged = measured.pop("log", None) or map(json.loads, file.read_text(encoding="utf-8").splitlines())
    rows = [without_times(row) for row in logged]
    return {"log": rows, "weights": weights(directory), **without_times(measured)}


def without_times(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if not any(word in name for word in TIMES)}


def weights(directory: Path) -> str:
    """SHA-256 of the names and values of a checkpoint's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(directory / "model.safetensors").items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_numbers(file: Path, rows: int, seed: int) -> None:
    """Texts with the number of their good words less that of their bad ones."""
    rng, lines = random.Random(seed), ["sentence\tlabel"]
    for _ in range(rows):
        words = rng.choices(GOOD + BAD + PLAIN, k=rng.randrange(2, 9))
        lines.append(f"{' '.join(words)}\t{sum((word in GOOD) - (word in BAD) for word in words)}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def dynackd(*words: Any) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dynackd", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Each place where two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from differences(before.get(key), now.get(key), f"{path}/{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{path}/{place}")
    elif before != now:
        yield f"{path}: {before} -> {now}"


if __name__ == "__main__":
    main()
