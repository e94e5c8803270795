"""What every reader gives, a table whose rows pass by once, and how a text file is opened."""

import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TextIO, cast

from dynackd.errors import UserError, listed, nearest

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


ABSENT: Final = object()  # a field that an object does not have


@dataclass(frozen=True)
class Table:
    """Rows of a file or of a data set on the hub, each the values of the columns that were asked for, in that order.

    rows: passes once, never whole in memory; may raise UserError with the row. where: names the table in messages.
    class_names: those that the file declares, by column. notes: what the reader decided, for the user to know.
    """

    where: str
    rows: Iterator[Sequence[Any]]
    class_names: dict[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def refuse_missing_columns(where: str, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Raises UserError for the first column wanted that is not there, or is there twice. No names: nothing is known."""
    for name in wanted:
        if names and name not in names:
            raise UserError(
                f"{where}: no column '{name}'{nearest(name, names)}; the columns are {listed([*map(str, names)])}"
            )
        if names.count(name) > 1:
            raise UserError(f"{where}: the header names a column twice: {', '.join(names)}")


def field_of(row: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by a dotted name inside of other fields; ABSENT where there is none."""
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    inner = row.get(head)
    return field_of(inner, rest) if dot and isinstance(inner, Mapping) else ABSENT


def field_names(row: Mapping[str, Any]) -> list[str]:
    """The names of the fields, those of an object in a field by their dotted names."""
    names: list[str] = []
    for name, value in row.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) and value else [name]
    return names


def open_bytes(path: Path) -> IO[bytes]:
    """The file's content, that of a .gz file unpacked."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def encoding_of(path: Path) -> str:
    """The encoding that a text file's byte order mark names, else UTF-8. 8-bit encodings are never guessed."""
    with open_bytes(path) as file:
        start = file.read(4)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start[:2]:
        order = "UTF-16LE" if start[1:2] == b"\0" else "UTF-16BE"
        raise UserError(
            f"{path}: seems to be {order} without a byte order mark; convert it: "
            f"iconv -f {order} -t UTF-8 '{path}' > new{path.suffix}"
        )
    return "utf-8"


def open_text(path: Path) -> TextIO:
    """The file as text, line ends as they are."""
    encoding = encoding_of(path)
    return io.TextIOWrapper(open_bytes(path), encoding, newline="")


def undecodable(path: Path) -> str:
    """What to do about a file that is not in the encoding that it seems to be in, as one sentence."""
    encoding = encoding_of(path)
    if not encoding.startswith("utf-8"):
        return f"{path}: the byte order mark says {encoding.upper()}, but the rest is not; the file is damaged"
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return (
                    f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; the file is damaged, or in "
                    f"an 8-bit encoding such as latin-1 or cp1252: iconv -f CP1252 -t UTF-8 '{path}' > new{path.suffix}"
                )
    return f"{path}: not UTF-8"
