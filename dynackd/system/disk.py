"""Rows that lie in a temporary file, memory-mapped, so that memory does not grow with the data."""

import atexit
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from dynackd.errors import UserError


def on_disk(make: Callable[[Path], Dataset]) -> Dataset:
    """The data set that `make` writes to the path that it is given.

    The file goes when this data set does, while others that were made from it go on reading it, as POSIX allows; its
    directory, where `datasets` may put what it derives from the rows, goes when the process ends. Both lie where TMPDIR
    says, or in HF_DATASETS_CACHE where that is set.
    """
    place = os.environ.get("HF_DATASETS_CACHE")
    if place is not None:
        if Path(place).is_file():
            raise UserError(f"HF_DATASETS_CACHE names {place}, which is a file; name a directory")
        Path(place).mkdir(parents=True, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="dynackd-", dir=place)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    file = Path(directory) / "rows.arrow"
    try:
        dataset = make(file)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    weakref.finalize(dataset, _remove, file, os.getpid())
    return dataset


def _remove(file: Path, owner: int) -> None:
    """The file, and its directory if nothing else is there; a forked worker of a data loader leaves its parent's."""
    if os.getpid() == owner:
        with suppress(OSError):
            file.unlink()
            file.parent.rmdir()


def written(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Dataset:
    """The batches as a data set on disk."""

    def write(path: Path) -> Dataset:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
            for batch in batches:
                out.write_batch(batch)
        return Dataset.from_file(str(path))

    return on_disk(write)
