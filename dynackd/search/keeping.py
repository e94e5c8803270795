"""What a search keeps beside its result, so that one that was killed goes on, and the next one need not measure again.

Every file's name holds a hash of all that its content depends on: what has changed is never taken for the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynackd.errors import UserError
from dynackd.search.timing import Measured
from dynackd.subnet import Subnet
from dynackd.system.places import holds, manifest_of, mark, writing

WHAT = "a search's measurements"
FILES = ("sampled-*.jsonl", "weighed-*.jsonl", "timed-*.jsonl", "evaluated-*.jsonl")


def kept_directory(output: Path) -> Path:
    """The directory of what is kept for a search whose result goes to `output`, made where it is missing."""
    directory = output.parent / f"{output.name}-kept"
    manifest = manifest_of(directory) if directory.is_dir() else None
    if holds(directory) and (manifest is None or manifest.what != WHAT):
        raise UserError(f"{directory} holds what no search wrote, and stays; name another --output")
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if manifest is None:
            mark(directory, WHAT, FILES)
    return directory


class Lines:
    """A file of JSON lines that grows: each is whole on the disk before the next is begun; one that a kill cut short is
    passed over."""

    def __init__(self, directory: Path, name: str, depends_on: Mapping[str, Any], anew: bool = False) -> None:
        text = json.dumps(depends_on, sort_keys=True)
        self.file = directory / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
        if anew:
            self.file.unlink(missing_ok=True)
        if not self.file.exists():
            self.add({"depends_on": depends_on})

    def read(self) -> list[dict[str, Any]]:
        """All lines but the first, which is for people."""
        found = []
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [content for content in found if isinstance(content, dict) and "depends_on" not in content]

    def add(self, *contents: Mapping[str, Any]) -> None:
        """Write lines, all of them or none as far as the disk allows."""
        with writing(self.file), self.file.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # of a line that was cut short
                    file.write(b"\n")
            file.write("".join(json.dumps(content) + "\n" for content in contents).encode())


def read_measured(lines: Lines) -> list[Measured]:
    """The sub-networks that were measured."""
    found = []
    for content in lines.read():
        references_ms = content.get("references_ms")
        own = {"subnet": Subnet.from_dict(content["subnet"]), "references_ms": references_ms and tuple(references_ms)}
        found.append(Measured(**content | own))
    return found


def read_losses(lines: Lines) -> dict[Subnet, float]:
    """The loss of every sub-network that was evaluated."""
    return {Subnet.from_dict(content["subnet"]): float(content["loss"]) for content in lines.read()}


def add_loss(lines: Lines, subnet: Subnet, loss: float) -> None:
    lines.add({"subnet": subnet.to_dict(), "loss": loss})


def add_measured(lines: Lines, found: list[Measured]) -> None:
    lines.add(*({**asdict(own), "subnet": own.subnet.to_dict()} for own in found))
