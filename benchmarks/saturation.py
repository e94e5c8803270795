"""What an 8-bit file would give on an x86 processor without VNNI, whose products of 8-bit numbers can saturate.

    dynackd export RUN/depth --width 0.5 --depth 0.5 --int8 --int7 --max-drop 9 --output student
    python benchmarks/saturation.py RUN/depth student --rows 300

The instruction (vpmaddubsw) adds two products of an unsigned and a signed 8-bit number in 16 bits. Here every
MatMulInteger of the file is run by numpy, as that instruction does, on rows drawn from the recipe's validation rows,
beside ONNX Runtime on this processor. Slow: about a second a row for MiniLM.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from dynackd.deploy.validation import Validation, load_validation
from dynackd.onnx.graphs import ONNX_FILE, OnnxModel
from dynackd.onnx.quantize import VARIANTS
from dynackd.report.terminal import machine_name
from dynackd.students.loading import load_student
from dynackd.system.processor import has_vnni
from dynackd.tasks.task import main_metric
from dynackd.training.recipe import load_recipe


class MatMulInteger(OpRun):
    """ONNX's operator, two products at a time in 16 bits that saturate."""

    op_domain = ""
    pairs = saturated = 0

    def _run(self, a: Any, b: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> tuple[np.ndarray]:
        rows, columns = a.reshape(-1, a.shape[-1]).astype(np.int32), b.astype(np.int32)
        total = np.zeros((len(rows), columns.shape[1]), np.int32)
        for k in range(0, rows.shape[1], 2):
            pair = rows[:, k : k + 2] @ columns[k : k + 2]
            MatMulInteger.pairs += pair.size
            MatMulInteger.saturated += int((np.abs(pair) > 32767).sum())
            total += np.clip(pair, -32768, 32767)
        of_a = np.int32(0 if a_zero_point is None else a_zero_point.reshape(-1)[0])
        of_b = np.zeros(columns.shape[1], np.int32) if b_zero_point is None else b_zero_point.astype(np.int32)
        of_b = np.broadcast_to(of_b, (columns.shape[1],))
        total = total - of_a * columns.sum(0) - np.outer(rows.sum(1), of_b) + rows.shape[1] * of_a * of_b
        return (total.reshape(*a.shape[:-1], -1).astype(np.int32),)


class Imitated:
    """An ONNX file as a function from a batch to its outputs by name."""

    def __init__(self, file: Path) -> None:
        self.graph = ReferenceEvaluator(onnx.load(str(file)), new_ops=[MatMulInteger])

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = self.graph.run(None, {name: batch[name] for name in self.graph.input_names})
        return dict(zip(self.graph.output_names, arrays, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("supernet", type=Path, metavar="SUPERNET", help="whose recipe names the validation rows")
    parser.add_argument("student", type=Path, metavar="STUDENT", help="exported with --int8, --int7 or both")
    parser.add_argument("--rows", type=int, default=100, help="validation rows (default: 100)")
    options = parser.parse_args()
    validation = some_rows(options.supernet, options.student, options.rows)
    kind, metric = validation.task.kind, main_metric(validation.task)
    reference = validation.outputs(OnnxModel(options.student / ONNX_FILE, kind, 1))
    print(f"{machine_name()}, {'with' if has_vnni() else 'without'} VNNI; {len(validation):,} validation rows")
    print(f"fp32: {metric} {validation.metrics(reference)[metric]:.4f}")
    files = [(name, options.student / VARIANTS[name].file) for name in ("int8", "int7") if name in VARIANTS]
    for name, file in [(name, file) for name, file in files if file.is_file()]:
        here = validation.outputs(OnnxModel(file, kind, 1))
        MatMulInteger.pairs = MatMulInteger.saturated = 0
        there = validation.outputs(Imitated(file))
        moved = max(float(np.abs(here[s][n] - there[s][n]).max()) for s in here for n in here[s])
        print(f"{name}: {metric} {validation.metrics(here)[metric]:.4f} here, {validation.metrics(there)[metric]:.4f} "
              f"saturating; {MatMulInteger.saturated:,} of {MatMulInteger.pairs:,} pairs saturated, an output moved by "
              f"up to {moved:.3f}")  # fmt: skip


def some_rows(supernet: Path, student: Path, count: int) -> Validation:
    recipe, (model, tokenizer) = load_recipe(supernet / "recipe.yaml"), load_student(student)
    whole = load_validation(recipe.task, recipe.data, model, tokenizer)
    rng = np.random.default_rng(0)
    rows = {suffix: own.select(sorted(rng.permutation(len(own))[:count])) for suffix, own in whole.rows.items()}
    return Validation(whole.task, rows, tokenizer)


if __name__ == "__main__":
    sys.exit(main())
