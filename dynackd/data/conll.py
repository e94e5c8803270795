"""Column files, as data sets of tagged words have them: one word a line, an empty line between sentences.

    U.N.         NNP  I-NP  B-ORG
    official     NN   I-NP  O
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dynackd.data.tables import Table, open_text, refuse_missing_columns
from dynackd.errors import UserError

WORDS, TAGS = "tokens", "tags"  # what the first and the last column are called
DOCUMENT = "-DOCSTART-"  # the word of a line that begins a document and is no sentence
# Where a sentence begins: "# id 1b2c", "# sent_id = 3". A word "#" has a tag behind it.
COMMENT = re.compile(r"#\s+(id\b|\S+\s*=)")


def read_conll(path: Path, wanted: Sequence[str]) -> Table:
    """Each row a sentence, each value the list of a column's cells: `tokens` of the first column, `tags` of the last,
    `column_2` and so on of those between. Cells are separated by tabs where the first line has one, else by blanks."""
    names, tabs = _header(path)
    if not names:
        return Table(str(path), iter(()))
    refuse_missing_columns(str(path), wanted, names)
    return Table(str(path), _sentences(path, [names.index(name) for name in wanted], len(names), tabs))


def conll_header(path: Path) -> list[str]:
    """The names of the columns."""
    return _header(path)[0]


def _header(path: Path) -> tuple[list[str], bool]:
    """The names of the columns, and whether tabs separate them; no names where there is no word."""
    with open_text(path) as file:
        first = next(_lines(path, file), None)
    if first is None:
        return [], False
    count, tabs = len(_cells(first[1], "\t" in first[1])), "\t" in first[1]
    if count < 2:
        raise UserError(f"{path}, line {first[0]}: one column; expected a word and, behind a tab or blanks, its tag")
    return [WORDS, *(f"column_{i}" for i in range(2, count)), TAGS], tabs


def _sentences(path: Path, places: Sequence[int], count: int, tabs: bool) -> Iterator[list[Any]]:
    with open_text(path) as file:
        words: list[list[str]] = []
        for number, line in chain(_lines(path, file), [(0, "")]):
            if line:
                cells = _cells(line, tabs)
                if len(cells) != count:
                    what = f"{len(cells)} column{'s' * (len(cells) > 1)}, but the first line has {count}"
                    raise UserError(f"{path}, line {number}: {what}, separated by {'tabs' if tabs else 'blanks'}")
                words.append(cells)
            elif words:
                yield [[cells[place] for cells in words] for place in places]
                words = []


def _lines(path: Path, file: Any) -> Iterator[tuple[int, str]]:
    """(number, line) of the words, and of empty lines after them. A line that begins a document is an empty one."""
    inside = False
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise UserError(f"{path}, line {number}: a null byte, which no text file holds; the file is damaged")
        line = line.strip("\r\n")
        if not line.strip() or line.split()[0] == DOCUMENT:
            if inside:
                yield number, ""
            inside = False
        elif inside or not COMMENT.match(line):
            inside = True
            yield number, line


def _cells(line: str, tabs: bool) -> list[str]:
    return [cell.strip() for cell in line.split("\t")] if tabs else re.split(r"[ \t]+", line.strip(" \t"))
