"""Sub-networks as they really are: exported, weighed and timed on this machine."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from dynackd.errors import UserError
from dynackd.measure.latency import measure
from dynackd.measure.runtimes import RUNTIMES, Case
from dynackd.onnx.graphs import ONNX_FILE, export_onnx, input_names
from dynackd.onnx.quantize import VARIANTS
from dynackd.search.settings import Setting
from dynackd.students.cutting import cut
from dynackd.subnet import Subnet
from dynackd.supernet.network import Supernet

GROUP = 8  # sub-networks that take turns, beside the reference
LEAST_RUNS, MOST_RUNS, RUNS_MS = 20, 200, 500.0  # of each, about so long in all


@dataclass(frozen=True)
class Measured:
    """A sub-network's file in bytes, the median of its latency in ms, and that of the reference which took turns with
    it; None where it was not timed."""

    subnet: Subnet
    size_bytes: int
    latency_ms: float | None = None
    reference_ms: float | None = None


class Workshop:
    """Exports sub-networks as a setting has them, and measures them; `length` in tokens.

    Groups take turns one after another, and in each of them the full network, so that what the machine did meanwhile
    can be told from what the sub-networks differ in.
    """

    def __init__(self, supernet: Supernet, tokenizer: PreTrainedTokenizerBase, setting: Setting, length: int) -> None:
        self.supernet, self.tokenizer, self.setting, self.length = supernet, tokenizer, setting, length
        self._reference_ms = 0.0

    def export(self, subnet: Subnet, directory: Path) -> tuple[Path, int]:
        """What the runtime reads of a sub-network, written into an empty directory, and the size of its weights' file
        in bytes."""
        student = cut(self.supernet, subnet)
        if self.setting.runtime == "torch":
            student.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)
            return directory, sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        file = directory / ONNX_FILE
        export_onnx(student, input_names(student, self.tokenizer), file)
        if self.setting.int8:
            smaller = directory / VARIANTS["int8"].file
            VARIANTS["int8"].write(file, smaller)
            file.unlink()
            file = smaller
        return file, file.stat().st_size

    def weigh(self, subnets: Sequence[Subnet]) -> Iterator[list[Measured]]:
        """The sizes of their files, one by one."""
        for subnet in subnets:
            with tempfile.TemporaryDirectory() as place:
                yield [Measured(subnet, self.export(subnet, Path(place))[1])]

    def time(self, subnets: Sequence[Subnet]) -> Iterator[list[Measured]]:
        """Their sizes and latencies, a group at a time."""
        for begin in range(0, len(subnets), GROUP):
            with tempfile.TemporaryDirectory() as place:
                yield self._time(subnets[begin : begin + GROUP], Path(place))

    def _time(self, group: Sequence[Subnet], place: Path) -> list[Measured]:
        cases, sizes = [], []
        for index, subnet in enumerate([self.supernet.whole, *group]):
            (place / str(index)).mkdir()
            path, size = self.export(subnet, place / str(index))
            cases.append(self._case(path))
            sizes.append(size)
        usual_ms = self._reference_ms or _p50(measure(cases[:1], LEAST_RUNS, 3)[0])
        runs = int(np.clip(RUNS_MS / usual_ms, LEAST_RUNS, MOST_RUNS))
        self._reference_ms, *latencies_ms = map(_p50, measure(cases, runs, max(3, runs // 10)))
        known = zip(group, sizes[1:], latencies_ms, strict=True)
        return [Measured(subnet, size, own, self._reference_ms) for subnet, size, own in known]

    def _case(self, path: Path) -> Case:
        own = self.setting
        return Case(str(path), own.runtime, own.device, own.threads, own.batch_size, self.length)


def _p50(row: dict[str, Any]) -> float:
    return float(row["latency_ms"]["p50"])


def check_device(setting: Setting) -> None:
    """Refuse (`UserError`) a device that the runtime cannot use here."""
    if setting.device not in (here := RUNTIMES[setting.runtime].providers()):
        raise UserError(f"--device {setting.device}: {setting.runtime} has none here; it is one of {', '.join(here)}")


def usual_reference_ms(found: Sequence[Measured]) -> float | None:
    """The full network's latency beside the median of these, where any was timed."""
    known = [own.reference_ms for own in found if own.reference_ms]
    return float(np.median(known)) if known else None


def steady_ms(own: Measured, usual_ms: float | None) -> float:
    """Its latency as if the machine had been as fast as when the full network took so long."""
    assert own.latency_ms is not None
    assert own.reference_ms is not None
    return own.latency_ms * (usual_ms or own.reference_ms) / own.reference_ms
