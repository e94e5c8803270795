"""A student directory: the sliced torch model and its ONNX graph, written only if the two agree."""

import copy
import inspect
import logging
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynackd.checkpoints import new_directory, write_json
from dynackd.cost import count_parameters
from dynackd.errors import UserError
from dynackd.families import max_positions
from dynackd.spec import SubnetSpec
from dynackd.student import cut
from dynackd.supernet import Supernet

OPSET = 17
MAX_ABS_DIFF = 1e-4
INPUT_ORDER = ("input_ids", "attention_mask", "token_type_ids")
ONNX_FILE = "onnx/model.onnx"


@dataclass(frozen=True)
class Shape:
    """One shape at which ONNX is compared with torch; `padding` says which places of the later rows are padding."""

    batch_size: int
    length: int
    padding: str = "right"


class _Logits(nn.Module):
    """The model as a function of positional tensors, which is what the exporter traces."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokenizer's outputs that the model reads, in the order in which the graph takes them."""
    accepted = inspect.signature(model.forward).parameters
    return [name for name in INPUT_ORDER if name in tokenizer.model_input_names and name in accepted]


def max_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input in tokens that both the model and the tokenizer take."""
    return min(max_positions(model.config), tokenizer.model_max_length)


def export_onnx(model: PreTrainedModel, names: list[str], file: Path) -> None:
    """Write the ONNX graph of a classifier with dynamic batch and length, and check it with `onnx.checker`.

    torch's tracing exporter over eager attention: it is ten times as fast as the dynamo one, its graphs run as fast or
    faster in ONNX Runtime, and both agree with torch to 1e-6.
    """
    traced = copy.deepcopy(model).eval()
    traced.set_attn_implementation("eager")
    # Batch 2, length 3: sizes of 1 could be traced as constants.
    example = tuple(torch.ones(2, 3, dtype=torch.long) for _ in names)
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in names} | {"logits": {0: "batch_size"}}
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Tracer and deprecation warnings; whether the graph is right is decided by the comparison.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(traced, names),
            example,
            str(file),
            input_names=names,
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(file), full_check=True)


def parity_shapes(longest: int) -> list[Shape]:
    """Batch 1 and more; length 1, 7, 128 and the maximum; padding on the right, on the left and in the middle."""
    lengths = sorted({1, min(7, longest), min(128, longest), longest})
    shapes = [Shape(batch_size, length) for length in lengths for batch_size in (1, 3)]
    return [*shapes, Shape(3, lengths[1], "left"), Shape(3, lengths[1], "middle")]


def example_batch(shape: Shape, names: list[str], model: PreTrainedModel, seed: int = 0) -> dict[str, Tensor]:
    """A random batch of that shape, row i padded by a further i-th of its length."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    pad = config.pad_token_id or 0
    ids = torch.randint(pad + 1, config.vocab_size, (shape.batch_size, shape.length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, shape.batch_size):
        padded = min(row * shape.length // (shape.batch_size + 1), shape.length - 1)
        start = {"right": shape.length - padded, "left": 0, "middle": 1}[shape.padding]
        mask[row, start : start + padded] = 0
    ids = ids.masked_fill(mask == 0, pad)
    types = torch.zeros_like(ids)
    if getattr(config, "type_vocab_size", 0) > 1:
        types[:, shape.length // 2 :] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: batch[name] for name in names}


@torch.no_grad()
def parity(model: PreTrainedModel, names: list[str], longest: int, file: Path) -> float:
    """The largest absolute difference of the logits between torch and ONNX Runtime (CPU) over `parity_shapes`."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for shape in parity_shapes(longest):
        batch = example_batch(shape, names, model)
        (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
        difference = np.abs(logits - model(**batch).logits.numpy()).max()
        # max() would drop a NaN.
        worst = float(difference) if not difference <= worst else worst
    return worst


def export_student(
    supernet: Supernet,
    tokenizer: PreTrainedTokenizerBase,
    spec: SubnetSpec,
    directory: Path,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Slice `spec` out, write the student directory and return the content of its `export.json`.

    Raises `UserError`, and leaves no file behind, where the ONNX outputs differ from torch's by more than 1e-4.
    """
    resolved = supernet.resolve(spec)
    with new_directory(directory, overwrite) as temporary:
        student = cut(supernet, resolved)
        names, longest = input_names(student, tokenizer), max_length(student, tokenizer)
        student.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        quietly_export(student, names, temporary / ONNX_FILE)
        difference = parity(student, names, longest, temporary / ONNX_FILE)
        if not difference <= MAX_ABS_DIFF:
            raise UserError(
                f"the ONNX graph of ({spec}) differs from the torch student by {difference:.1e}, more than "
                f"{MAX_ABS_DIFF:.0e}; {directory} was not written"
            )
        about = {
            "width": spec.width,
            "depth": spec.depth,
            "heads": resolved.heads,
            "neurons": resolved.neurons,
            "layers": list(resolved.layers),
            "parameters": count_parameters(supernet, spec),
            "parity_max_abs_diff": difference,
            "opset": OPSET,
            "inputs": names,
            "max_length": longest,
            "teacher": supernet.origin.teacher,
            "versions": {name: version(name) for name in ("dynackd", "torch", "transformers", "onnx", "onnxruntime")},
            **(facts or {}),
        }
        (temporary / "README.md").write_text(_model_card(supernet, about), encoding="utf-8")
        about["files"] = {
            str(file.relative_to(temporary)): {"size_bytes": file.stat().st_size}
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        write_json(temporary / "export.json", about)
    return about


def quietly_export(model: PreTrainedModel, names: list[str], file: Path) -> None:
    """Export without the exporter's own log lines."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        export_onnx(model, names, file)
    finally:
        logger.setLevel(level)


def _model_card(supernet: Supernet, about: dict[str, Any]) -> str:
    """A short model card."""
    geometry = supernet.geometry
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [dynackd, onnx]
---
# Student at width {about["width"]:g}, depth {about["depth"]:g}

Cut by dynackd out of a supernet distilled from `{Path(str(about["teacher"])).name}`.

| | student | full |
|---|---|---|
| layers | {len(about["layers"])} (0-based {about["layers"]}) | {geometry.layers} |
| heads per layer | {about["heads"]} of size {geometry.head_size} | {geometry.heads} |
| FFN neurons per layer | {about["neurons"]} | {geometry.neurons} |
| parameters | {about["parameters"]:,} | {sum(p.numel() for p in supernet.model.parameters()):,} |

The ONNX graph `{ONNX_FILE}` (opset {about["opset"]}, inputs {", ".join(about["inputs"])}) differs from the torch
student by at most {about["parity_max_abs_diff"]:.1e}.

```python
import dynackd
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("this directory")
tokenizer = AutoTokenizer.from_pretrained("this directory")
```
"""
