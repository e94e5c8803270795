"""dynackd: train once, cut any size.

Shrinks fine-tuned Transformer encoders: a weight-sharing supernet of all widths and depths, trained with contextual
knowledge distillation (CKD) at every sub-network, out of which fixed-size students are sliced and exported.

Importing the package is light: torch and transformers are imported with the first name that needs them. From then on
`AutoModelForSequenceClassification.from_pretrained(student)` works, whichever of dynackd and transformers comes first.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dynackd.students.registration import register
from dynackd.version import __version__

if TYPE_CHECKING:
    from dynackd.grid import Grid
    from dynackd.students.loading import load_student
    from dynackd.subnet import FULL, Layer, Subnet, SubnetSpec
    from dynackd.supernet.network import Supernet, load_supernet
    from dynackd.tasks.answering import answer

__all__ = [
    "FULL", "Grid", "Layer", "Subnet", "SubnetSpec", "Supernet",
    "__version__", "answer", "load_student", "load_supernet",
]  # fmt: skip

# The module of every name that is imported when it is asked for.
_HOMES = {
    "FULL": "dynackd.subnet",
    "Grid": "dynackd.grid",
    "Layer": "dynackd.subnet",
    "Subnet": "dynackd.subnet",
    "SubnetSpec": "dynackd.subnet",
    "Supernet": "dynackd.supernet.network",
    "answer": "dynackd.tasks.answering",
    "load_student": "dynackd.students.loading",
    "load_supernet": "dynackd.supernet.network",
}

register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dynackd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
