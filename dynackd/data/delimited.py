"""csv and tsv files, as data sets have them and as offices write them."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TextIO

from dynackd.data.tables import Table, open_text, refuse_missing_columns
from dynackd.errors import UserError

# Characters of one cell. Python's csv stops at 131,072; without any limit an open quote takes in the rest of a file.
CELL_LIMIT = 2**26
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
Quoting = Literal[0, 3]
QUOTED: Quoting = csv.QUOTE_MINIMAL
PLAIN: Quoting = csv.QUOTE_NONE


def read_csv(path: Path, wanted: Sequence[str]) -> Table:
    """Columns separated by commas; by semicolons or tabs where these give the columns wanted and commas do not."""
    return _read(path, wanted, ",")


def read_tsv(path: Path, wanted: Sequence[str]) -> Table:
    """Columns separated by tabs; by commas or semicolons where these give the columns wanted and tabs do not."""
    return _read(path, wanted, "\t")


def csv_header(path: Path) -> list[str]:
    """The names of the columns."""
    return _names(path, ",")


def tsv_header(path: Path) -> list[str]:
    """The names of the columns."""
    return _names(path, "\t")


def _names(path: Path, usual: str) -> list[str]:
    with _long_cells():
        headers = {separator: _header(path, separator) for separator in SEPARATORS}
        return headers[_separator(headers, (), usual)]


def _read(path: Path, wanted: Sequence[str], usual: str) -> Table:
    """Every cell as the text that stands there: "NA", "007" and "1.0" stay what they are. Blank lines are skipped.

    Python's own reader, because pandas and `datasets` take a first column for an index when rows are longer than the
    header, guess types chunk by chunk, and fill short rows.
    """
    with _long_cells():
        headers = {separator: _header(path, separator) for separator in SEPARATORS}
        separator = _separator(headers, wanted, usual)
        header = headers[separator]
        refuse_missing_columns(str(path), wanted, header)
        quoting = _tab_quoting(path, len(header)) if separator == "\t" else QUOTED
    notes = []
    if separator != usual:
        notes.append(f"{path}: read with {SEPARATORS[separator]} between the columns")
    if separator == "\t" and quoting == QUOTED:
        notes.append(f'{path}: read with cells in quotes, as pandas and spreadsheets write them ("" is one quote)')
    return Table(str(path), _rows(path, separator, quoting, header, wanted), notes=tuple(notes))


def _separator(headers: dict[str, list[str]], wanted: Sequence[str], usual: str) -> str:
    """The separator that gives all columns wanted, the usual one first; else one that gives more than one column."""
    order = sorted(headers, key=lambda separator: separator != usual)
    fitting = [separator for separator in order if wanted and set(wanted) <= set(headers[separator])]
    several = [separator for separator in order if len(headers[separator]) > 1]
    return [*fitting, *several, usual][0]


def _header(path: Path, separator: str) -> list[str]:
    for quoting in (QUOTED, PLAIN):
        try:
            return next(_records(path, separator, quoting), (0, 0, []))[2]
        except UserError:  # a quote that only seems to open a cell
            continue
    return []


def _rows(
    path: Path, separator: str, quoting: Quoting, header: Sequence[str], wanted: Sequence[str]
) -> Iterator[list[Any]]:
    places = [header.index(name) for name in wanted] if header else []
    with _long_cells():
        for begin, end, cells in islice(_records(path, separator, quoting), 1, None):
            if len(cells) != len(header):
                lines = f"line {begin}" if begin == end else f"lines {begin} to {end}"
                raise UserError(
                    f"{path}, {lines}: {len(cells)} fields, but the header has {len(header)} ({', '.join(header)})"
                )
            # An empty cell, or one of blanks, is the only way in which these formats can say "missing".
            yield [cells[place] if cells[place].strip() else None for place in places]


def _records(path: Path, separator: str, quoting: Quoting) -> Iterator[tuple[int, int, list[str]]]:
    """(first line, last line, cells) of every record that is not blank, the header first."""
    with open_text(path) as file:
        first = next(_lines(path, file), "")
        named = re.fullmatch(r'"?sep=(.)"?\s*', first, re.DOTALL)  # what Excel writes, and reads, before the header
        if named and named[1] != separator:
            return
        above = 1 if named else 0
        lines = _lines(path, file, above + 1) if named else chain([first], _lines(path, file, 2))
        records = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
        while True:
            begin = above + records.line_num + 1
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(f"{path}, line {begin}: {_said(error, above + records.line_num)}") from error
            if any(cells):
                yield begin, above + records.line_num, cells


def _lines(path: Path, file: TextIO, first: int = 1) -> Iterator[str]:
    for number, line in enumerate(file, start=first):
        if "\0" in line:
            raise UserError(f"{path}, line {number}: a null byte, which no text file holds; the file is damaged")
        yield line


def _said(error: csv.Error, line: int) -> str:
    """What Python's csv means."""
    if "unexpected end of data" in str(error):
        return "a quote opens a cell here and is never closed"
    if "field limit" in str(error):
        return f"a cell of more than {CELL_LIMIT:,} characters; a quote that opens it is not closed"
    return f'the quotes do not fit, up to line {line} ({error}); a quote inside a quoted cell is written twice ("")'


@contextmanager
def _long_cells() -> Iterator[None]:
    """Python's limit, which holds for the whole process, is raised inside."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, CELL_LIMIT))
    try:
        yield
    finally:
        csv.field_size_limit(before)


# --- quotes in tab-separated files -----------------------------------------------------------------------------------
# pandas and spreadsheets quote a cell that holds a tab, a line end or a quote, and write a quote inside it twice; GLUE
# and most data sets quote nothing, so that quotes stand anywhere. The file itself says which of the two it is.


@dataclass
class _Quotes:
    """What the cells say, each line and cell as it stands between tabs."""

    rows: int = 0
    fits: bool = True  # every line has as many cells as the header
    doubled: int = 0  # the first line with a cell such as "He said ""hi"""
    loose: int = 0  # the first line with a quote inside or at one end of a cell alone
    whole: Counter[int] = field(default_factory=Counter)  # column -> cells in quotes
    needless: bool = False  # a cell in quotes without comma or quote inside, which a spreadsheet would not quote
    bare_comma: bool = False  # a comma outside of quotes, where a spreadsheet would quote


def _tab_quoting(path: Path, width: int) -> Quoting:
    """QUOTED or PLAIN, by the evidence in the file. Raises UserError where it speaks for both."""
    with open_text(path) as file:
        if not any('"' in line for line in _lines(path, file)):
            return PLAIN
        file.seek(0)
        seen = _quotes(file, width)
    readable = _fits_quoted(path, width)
    if not readable or not seen.fits:
        return QUOTED if readable or (seen.doubled and not seen.loose) else PLAIN
    if seen.doubled and seen.loose:
        raise UserError(
            f"{path}: line {seen.doubled} has a cell in quotes with quotes written twice inside, but line "
            f"{seen.loose} a quote that opens or closes nothing, so whether quotes are part of the texts is unclear; "
            f"write the file as json lines"
        )
    spreadsheet = bool(seen.whole) and not seen.needless and not seen.bare_comma
    columns = any(count == seen.rows for count in seen.whole.values())
    return QUOTED if not seen.loose and (seen.doubled or spreadsheet or columns) else PLAIN


def _quotes(file: TextIO, width: int) -> _Quotes:
    seen = _Quotes()
    for number, line in enumerate(file, start=1):
        cells = line.rstrip("\r\n").split("\t")
        if not any(cells):
            continue
        seen.rows += number > 1
        seen.fits &= len(cells) == width
        for column, cell in enumerate(cells if '"' in line or "," in line else []):
            inside = cell[1:-1]
            if '"' not in cell:
                seen.bare_comma |= "," in cell
            elif len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in inside.replace('""', ""):
                seen.loose = seen.loose or number
            else:
                seen.whole[column] += number > 1
                seen.doubled = seen.doubled or (number if '"' in inside else 0)
                seen.needless |= "," not in inside and '"' not in inside
    return seen


def _fits_quoted(path: Path, width: int) -> bool:
    try:
        return all(len(cells) == width for _, _, cells in _records(path, "\t", QUOTED))
    except UserError:
        return False
