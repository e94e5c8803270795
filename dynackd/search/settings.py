"""What is asked of a search: the budget, where the sub-network will run, and how long to look."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from dynackd.errors import UserError, one_of, shown

RUNTIMES = ("onnxruntime", "torch")
DEVICES = ("cpu", "cuda")
# What a budget bounds -> the cost of a sub-network that it bounds.
COSTS = {
    "max_latency_ms": "latency_ms",
    "max_params": "parameters",
    "max_size_mb": "size_mb",
    "max_flops": "flops",
}


def option(name: str) -> str:
    """How the command line calls a field."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Budget:
    """What a sub-network may cost at most, and what it must reach. None: any.

    max_latency_ms: the median of a forward pass in the `Setting`; max_params: parameters, embeddings and task head
    included; max_size_mb: the model's file, in 10^6 bytes; max_flops: of one row at the setting's length; min_metric:
    the task's main metric on rows that the search did not see (of one where less is better, its largest value); keep:
    instead, the share of what the full network has on these rows, the same for both, above 0 and at most 1.
    Raises `UserError` where nothing is asked, or what is asked is no positive number.
    """

    max_latency_ms: float | None = None
    max_params: float | None = None
    max_size_mb: float | None = None
    max_flops: float | None = None
    min_metric: float | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if not (asked := self.to_dict()):
            known = ", ".join(option(field.name) for field in fields(self))
            raise UserError(f"a search needs a budget: give one or more of {known}")
        for name, value in asked.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or (name != "min_metric" and not 0 < value < float("inf")):
                raise UserError(f"{option(name)} is {shown(value)}; it must be a number above 0")
        if self.keep is not None and self.keep > 1:
            raise UserError(f"--keep is {shown(self.keep)}; it must be above 0 and at most 1")
        if self.keep is not None and self.min_metric is not None:
            raise UserError("--keep and --min-metric say the same in two ways; give one of them")

    @property
    def bounds(self) -> dict[str, float]:
        """The most of each cost that is bounded, by the cost's name."""
        return {COSTS[name]: value for name, value in self.to_dict().items() if name in COSTS}

    def to_dict(self) -> dict[str, float]:
        """What is asked."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Setting:
    """How the sub-network will run: at how many tokens (None: the recipe's data.max_length), rows and threads, in which
    runtime (float32, or its int8 file in ONNX Runtime) and on which device. Raises `UserError`."""

    length: int | None = None
    batch_size: int = 1
    threads: int = 1
    runtime: str = "onnxruntime"
    int8: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{option(name)} is {value}; it must be 1 or more")
        one_of("--runtime", self.runtime, RUNTIMES)
        one_of("--device", self.device, DEVICES)
        if self.int8 and self.runtime != "onnxruntime":
            raise UserError("--int8 is a file for ONNX Runtime; give it without --runtime torch")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Effort:
    """How long to look: how many sub-networks are evaluated, on how many rows, and how many sizes are measured to learn
    what latency depends on. The same seed, supernet and measurements give the same result; remeasure: whether what was
    measured earlier is measured anew. Raises `UserError`."""

    evaluations: int = 300
    rows: int = 256
    samples: int = 32
    seed: int = 0
    remeasure: bool = False

    def __post_init__(self) -> None:
        for name, least in (("evaluations", 1), ("rows", 8), ("samples", 8), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"{option(name)} is {value}; it must be {least} or more")
