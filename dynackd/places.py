"""Writing files and directories so that none is ever half-written."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynackd.errors import UserError


def read_json(file: Path) -> Any:
    """The content of a JSON file; `UserError` where it is missing or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from error


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON to a temporary place, then rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)


@contextmanager
def new_directory(directory: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory that takes the place of `directory` when the block ends well, and vanishes otherwise.

    `UserError` where `directory` already holds something and `overwrite` is not set; what it held is lost only after
    the new content is complete.
    """
    directory = Path(directory)
    refuse_existing(directory, overwrite)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".tmp", dir=directory.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private
        yield temporary
        old = temporary.with_suffix(".old")
        if directory.exists():
            directory.replace(old)
        temporary.replace(directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(directory: Path, overwrite: bool) -> None:
    """`UserError` where `directory` holds something and `overwrite` is not set."""
    if directory.is_file():
        raise UserError(f"{directory} is a file; the output must be a directory")
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise UserError(f"{directory} already holds a finished result; add --overwrite to replace it")
