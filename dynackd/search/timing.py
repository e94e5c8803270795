"""Sub-networks as they really are: exported, weighed and timed on this machine."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from dynackd.errors import UserError
from dynackd.grid import resolve
from dynackd.measure.latency import measure
from dynackd.measure.runtimes import RUNTIMES, Case
from dynackd.onnx.graphs import ONNX_FILE, export_onnx, input_names
from dynackd.onnx.quantize import VARIANTS
from dynackd.search.settings import Setting
from dynackd.students.cutting import cut
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.network import Supernet

GROUP = 8  # sub-networks that take turns, beside the references
PARTS = (1.0, 0.5)  # the widths and depths of the references
POLISHED = 10  # times
LEAST_RUNS, MOST_RUNS, RUNS_MS = 20, 200, 500.0  # of each, about so long in all


@dataclass(frozen=True)
class Measured:
    """A sub-network's file in bytes, the median of its latency in ms, and those of the references which took turns with
    it, the full network's first; None where it was not timed."""

    subnet: Subnet
    size_bytes: int
    latency_ms: float | None = None
    references_ms: tuple[float, ...] | None = None


class Workshop:
    """Exports sub-networks as a setting has them, and measures them; `length` in tokens.

    Groups take turns one after another, and in each of them the same few references, so that what the machine did
    meanwhile can be told from what the sub-networks differ in. One reference would not do: each process has its own
    luck with where its weights come to lie, the full network as int8 from 2.6 to 3.3 ms on a quiet machine.
    """

    def __init__(self, supernet: Supernet, tokenizer: PreTrainedTokenizerBase, setting: Setting, length: int) -> None:
        self.supernet, self.tokenizer, self.setting, self.length = supernet, tokenizer, setting, length
        self._full_ms = 0.0

    @cached_property
    def references(self) -> list[Case]:
        """The full network, and halves and quarters of it; written once."""
        place, cases = Path(tempfile.mkdtemp(prefix="dynackd-")), []
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)  # with this object, or at exit
        for number, subnet in enumerate(self.compared):
            (directory := place / str(number)).mkdir()
            cases.append(self._case(self.export(subnet, directory)[0]))
        return cases

    @property
    def compared(self) -> list[Subnet]:
        """The sub-networks of the references."""
        shares = product(PARTS, PARTS)
        return list(dict.fromkeys(resolve(SubnetSpec(*own), self.supernet.geometry) for own in shares))

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
        cases, sizes = list(self.references), []
        for index, subnet in enumerate(group):
            (place / str(index)).mkdir()
            path, size = self.export(subnet, place / str(index))
            cases.append(self._case(path))
            sizes.append(size)
        full_ms = self._full_ms or _p50(measure(cases[:1], LEAST_RUNS, 3)[0])
        runs = int(np.clip(RUNS_MS / full_ms, LEAST_RUNS, MOST_RUNS))
        found = [_p50(row) for row in measure(cases, runs, max(3, runs // 10))]
        references_ms, latencies_ms = tuple(found[: -len(group)]), found[-len(group) :]
        self._full_ms = references_ms[0]
        known = zip(group, sizes, latencies_ms, strict=True)
        return [Measured(subnet, size, own, references_ms) for subnet, size, own in known]

    def _case(self, path: Path) -> Case:
        own = self.setting
        return Case(str(path), own.runtime, own.device, own.threads, own.batch_size, self.length)


def _p50(row: dict[str, Any]) -> float:
    return float(row["latency_ms"]["p50"])


def check_device(setting: Setting) -> None:
    """Refuse (`UserError`) a device that the runtime cannot use here."""
    if setting.device not in (here := RUNTIMES[setting.runtime].providers()):
        raise UserError(f"--device {setting.device}: {setting.runtime} has none here; it is one of {', '.join(here)}")


def usual_references_ms(found: Sequence[Measured]) -> tuple[float, ...] | None:
    """The latencies of the references when the machine was as fast as beside the median of these, where any was timed.

    Tukey's median polish: groups differ in the machine's speed and references in size, and what is left is luck.
    """
    known = np.asarray([own.references_ms for own in found if own.references_ms])
    if not len(known):
        return None
    speeds = np.ones((len(known), 1))
    for _ in range(POLISHED):
        usual_ms = np.median(known / speeds, axis=0)
        speeds = np.median(known / usual_ms, axis=1, keepdims=True)
        speeds /= np.median(speeds)
    return tuple(usual_ms.tolist())


def steady_ms(own: Measured, usual_ms: Sequence[float] | None) -> float:
    """Its latency as if the machine had been as fast as when the references took so long: by the median of them."""
    assert own.latency_ms is not None
    assert own.references_ms is not None
    speeds = np.divide(usual_ms or own.references_ms, own.references_ms)
    return own.latency_ms * float(np.median(speeds))
