"""Places that commands write: whose they are, who works there, and that nothing in them is ever half-written.

Every directory that dynackd makes carries a manifest, `.dynackd.json`: what it is and which files dynackd wrote in it.
Only such a directory is ever replaced or deleted, and only while it holds nothing else.
"""

import errno
import glob
import json
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout

from dynackd.errors import UserError
from dynackd.version import __version__

MANIFEST = ".dynackd.json"
LOCK = ".dynackd.lock"
UNFINISHED = "unfinished"
LOCK_PATIENCE_S = 0.2  # a holder that just ends is no holder


def at_home(text: str) -> str:
    """A path as a user writes it, `~` and `~name` replaced by that home directory; a hub name comes back as it is."""
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = expanded.partition("/")[0]
        raise UserError(f"{text!r}: there is no user {user[1:]!r} here; write ./{text} for a place of that name")
    if "\0" in expanded:
        raise UserError(f"{text!r} holds a null character, which no path can")
    return expanded


# --- one file --------------------------------------------------------------------------------------------------------


def read_json(file: Path) -> Any:
    """The content of a JSON file; `UserError` where it is missing or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}") from error
    except IsADirectoryError as error:
        inside = next(iter(sorted(file.glob("*.json"))), None)
        raise UserError(f"{file} is a directory; name a file{f' in it, such as {inside}' if inside else ''}") from error
    except (OSError, ValueError) as error:
        what = "is damaged" if file.suffix in (".json", "") else "is no JSON"
        raise UserError(f"{file} {what}: {error}") from error


def write_json(file: Path, content: Any) -> None:
    """Write JSON in one rename; `UserError` where it cannot be written."""
    with new_file(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_files(directory: Path, contents: Mapping[str, Any]) -> None:
    """Write JSON files: their paths in the directory -> their contents."""
    for name, content in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(directory / name, content)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A path to write to that takes the place of `file` when the block ends well, and vanishes otherwise. What is no
    plain file, such as /dev/stdout, is written to as it is; a link stays one. `UserError` where nothing can be
    written."""
    target = Path(os.path.realpath(file))
    with writing(file):
        if target.exists() and not target.is_file():
            yield target
            return
        with _made(target.parent):
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            try:
                yield temporary
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)


def refuse_json(file: Path, key: str) -> None:
    """`UserError` where `--json FILE` cannot be written, or would replace anything but an earlier table that has `key`.
    Called before the work whose result goes there."""
    if file.is_dir():
        raise UserError(f"--json {file} is a directory; name a file in it, such as {file / 'table.json'}")
    if file.is_file():
        parent = manifest_of(file.parent)
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict) or key not in table or (parent and parent.has(file.name)):
            raise UserError(f"--json {file} is a file already, and no table that this command wrote; name another file")
        return
    with writing(file), _made(file.parent):
        if not file.exists():  # a device is there, and not tried
            tempfile.TemporaryFile(dir=file.parent).close()


# --- what cannot be written ------------------------------------------------------------------------------------------

# What a disk or a path answers, not a network and not a bug.
DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENXIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY, errno.EXDEV, errno.EMFILE),
    *(errno.ENOENT, errno.EINVAL, errno.ENOTEMPTY, errno.ESTALE),
}


def disk_trouble(error: BaseException) -> str | None:
    """What a file system answered, such as "No space left on device", whichever library met it, with the file where it
    is known; None for an error of another kind."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in DISK_ERRORS:
            return os.strerror(found.errno) + (f" ({found.filename})" if found.filename else "")
        if number := re.search(r"os error (\d+)\)", str(found)):  # safetensors and tokenizers, which are in Rust
            return os.strerror(int(number[1]))
        if re.search(r"PytorchStreamWriter|inline_container|iostream error", str(found)):
            return "torch could not write its file, as on a full disk"
        found = found.__cause__ or found.__context__
    return None


@contextmanager
def writing(place: Path, advice: str = "") -> Iterator[None]:
    """Turn a file system's answer while `place` is written into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (trouble := disk_trouble(error)) is None:
            raise
        raise UserError(f"{place} could not be written: {trouble}{advice}") from error


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """The directory and its parents, made where they are missing; those that are empty after the block go again."""
    missing = []
    for place in (directory, *directory.parents):
        if place.is_dir():
            break
        if os.path.lexists(place):
            raise UserError(f"{directory} cannot be made: {place} is no directory")
        missing.append(place)
    try:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in missing:
            with suppress(OSError):  # it holds something, or never came to be
                place.rmdir()


# --- whose a directory is --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """What a directory of ours is, and the files that dynackd wrote in it: relative paths, or patterns of such."""

    what: str
    files: tuple[str, ...]

    def has(self, relative: str) -> bool:
        path, depth = PurePosixPath(relative), relative.count("/")
        return any(path.match(own) for own in (*self.files, MANIFEST, LOCK) if own.count("/") == depth)


def manifest_of(directory: Path) -> Manifest | None:
    """The manifest of a directory that dynackd made, or None."""
    file = directory / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if stat.S_ISREG(file.lstat().st_mode) else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("dynackd"), str):
        return None
    what, files = content.get("what"), content.get("files")
    if not isinstance(what, str) or not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        return None
    return Manifest(what, tuple(files))


def mark(directory: Path, what: str, files: Sequence[str]) -> None:
    """Write the manifest of a directory that dynackd makes."""
    write_json(directory / MANIFEST, {"dynackd": __version__, "what": what, "files": list(files)})


def strangers(directory: Path) -> list[str]:
    """The files and links in `directory`, relative to it, that dynackd did not write."""
    manifest = manifest_of(directory) or Manifest("", ())
    return [name for name in _entries(directory) if not manifest.has(name)]


def _entries(directory: Path) -> list[str]:
    """Every file and link below `directory`, relative to it; no link is followed."""
    found = []
    for place, directories, names in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(place, name))]
        found += [Path(place, name).relative_to(directory).as_posix() for name in [*names, *links]]
    return sorted(found)


def holds(directory: Path) -> bool:
    """Whether `directory` exists and holds anything but a lock."""
    return directory.is_dir() and any(entry.name != LOCK for entry in directory.iterdir())


def remove(directory: Path) -> list[str]:
    """Delete what dynackd wrote in a directory of its own, links as links and the manifest last. Returns the files
    that are not dynackd's: they stay."""
    if not directory.is_dir():
        return []
    left = strangers(directory)
    if manifest_of(directory) is None:
        return left
    for name in _entries(directory):
        if name not in left and name != MANIFEST:
            (directory / name).unlink(missing_ok=True)
    (directory / MANIFEST).unlink()
    for place, _, _ in os.walk(directory, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(place)
    return left


def refuse_existing(
    directory: Path, what: str, overwrite: bool, inputs: Mapping[str, str | Path | None] = MappingProxyType({})
) -> None:
    """`UserError` where a new `what` may not take the place of `directory`: it holds something and `overwrite` is not
    set, it is no earlier `what` of dynackd's, holds a file that dynackd did not write, or one of the command's
    `inputs` (name -> path), or is where the user stands."""
    place = Path(os.path.realpath(directory))
    if place.is_file():
        raise UserError(f"{directory} is a file; the output must be a directory")
    if not place.is_dir():
        return
    if place == Path.cwd() or place in Path.cwd().parents:
        raise UserError(f"{directory} is the working directory or holds it, and cannot be replaced; name another one")
    if os.path.ismount(place):
        raise UserError(f"{directory} is a mount point, which cannot be replaced; name a directory in it")
    if not holds(place):
        return
    for name, source in inputs.items():
        own = Path(os.path.realpath(source)) if source else None
        if own and own.exists() and (own == place or place in own.parents):
            raise UserError(f"{directory} holds the {name} {source} that this command reads; name another output")
    manifest, left = manifest_of(place), strangers(place)
    if manifest is None:
        example = f" (such as {left[0]})" if left else ""
        raise UserError(f"{directory} holds what dynackd did not write{example} and stays; name another directory")
    if manifest.what != what:
        raise UserError(f"{directory} holds {manifest.what}, not {what}, and stays; name another directory")
    if not overwrite:
        raise UserError(f"{directory} already holds a finished result; add --overwrite to replace it")
    if left:
        raise UserError(f"{directory} holds {left[0]}, which dynackd did not write; move that away first")


@contextmanager
def new_directory(directory: Path, what: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory that takes the place of `directory` when the block ends well, and vanishes otherwise.

    `UserError` where `directory` may not be replaced (see `refuse_existing`), or cannot be written; what it held is
    lost only after the new content is complete.
    """
    refuse_existing(directory, what, overwrite)
    place = Path(os.path.realpath(directory))  # a link to it stays a link
    with writing(directory), _made(place.parent):
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".tmp", dir=place.parent))
        try:
            temporary.chmod(0o755)  # mkdtemp makes it private
            mark(temporary, UNFINISHED, ())
            yield temporary
            mark(temporary, what, [name for name in _entries(temporary) if name != MANIFEST])
            refuse_existing(directory, what, overwrite)  # hours may have passed
            _take_place(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, place: Path) -> None:
    if not holds(place):
        temporary.replace(place)  # of nothing, or of an empty directory
        return
    old = temporary.with_suffix(".old")
    place.replace(old)
    try:
        temporary.replace(place)
    except BaseException:
        old.replace(place)
        raise
    remove(old)


def recover(directory: Path) -> None:
    """Clear up what a process left that was killed while it made or replaced `directory`. The caller has its lock."""
    place = Path(os.path.realpath(directory))
    hidden = f".{glob.escape(place.name)}.????????"
    for old in place.parent.glob(f"{hidden}.old"):
        if manifest_of(old) is not None and not place.exists():
            old.replace(place)
        remove(old)
    for temporary in place.parent.glob(f"{hidden}.tmp"):
        if manifest_of(temporary) is not None:  # unfinished, or finished but not in its place
            shutil.rmtree(temporary)


# --- who works in a directory ----------------------------------------------------------------------------------------


@contextmanager
def occupied(place: Path, lock: Path) -> Iterator[None]:
    """Keep other processes out of `place` for the length of the block, by the file `lock`, which a process that dies
    gives up; a process may enter again what it occupies. `UserError` that names who is there, or why nothing can be
    written. Of a job of several processes the first one stands for all.
    """
    if os.environ.get("RANK", "0") != "0":  # torchrun's
        yield
        return
    with _made(lock.parent):
        held = FileLock(lock, timeout=LOCK_PATIENCE_S, is_singleton=True)
        with writing(place):
            try:
                held.acquire()
            except Timeout as error:
                raise UserError(f"{_holder(lock)} is working in {place}; let it end, or name another place") from error
        outermost = held.lock_counter == 1
        try:
            if outermost:
                who = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv[1:2])}
                with writing(place):
                    lock.write_text(json.dumps(who), encoding="utf-8")
            yield
        finally:
            if outermost:
                lock.unlink(missing_ok=True)  # while it is held, so that no other has it open and locked
            held.release()


@contextmanager
def occupied_run(output_dir: Path, names: Sequence[str]) -> Iterator[None]:
    """A run's directory for this process alone, after clearing up what a killed one left of its results `names`."""
    with occupied(output_dir, output_dir / LOCK):
        for name in names if os.environ.get("RANK", "0") == "0" else ():
            recover(output_dir / name)
        yield


@contextmanager
def occupied_output(directory: Path) -> Iterator[None]:
    """One output directory, which need not exist, for this process alone, and not inside a run where another works."""
    place = Path(os.path.realpath(directory))
    with writing(directory):
        runs = [lock for lock in (place / LOCK, place.parent / LOCK) if lock.is_file()]
    with ExitStack() as stack:
        stack.enter_context(occupied(directory, place.parent / f".{place.name}{LOCK}"))
        for lock in runs:
            stack.enter_context(occupied(lock.parent, lock))
        recover(place)
        yield


def _holder(lock: Path) -> str:
    try:
        who = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {int(who['pid'])} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
