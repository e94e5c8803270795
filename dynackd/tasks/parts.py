"""What a kind of task is described with: its outputs, its labels, a class's score, how a card reads what it gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dynackd.data.labels import LabelMap

Tensors = Mapping[str, Tensor]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Output:
    """One output of a model: `name` is the field of the Hugging Face output, and the ONNX graph's; `axes` name its
    dimensions, of which "batch" and "length" (in tokens) differ from call to call. judged: whether metrics and fidelity
    are about it; what is not is for clients alone, and never kept for all rows of a data set."""

    name: str
    axes: tuple[str, ...]
    judged: bool = True


@dataclass(frozen=True)
class Labels:
    """What the labels of all splits became: `values` by split, one for each row, `names` how texts became class ids
    (None where there are no classes), `note` what to tell the user of that."""

    values: Mapping[str, Sequence[Any]]
    names: LabelMap | None = None
    note: str = ""


@dataclass(frozen=True)
class ClassScore:
    """How well one class is found, 0 to 1, and how many of it the labels have."""

    score: float
    count: int


@dataclass(frozen=True)
class Reading:
    """Python that prints what a row's outputs mean, for the card's snippets: `lines` after `outputs`, a list of arrays,
    and `encoded`, of the library tokenizers, with their `imports`. {name} stands for the student's directory."""

    lines: str = "print(*outputs)"
    imports: tuple[str, ...] = ()
