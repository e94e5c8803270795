"""JSON lines, JSON files of one list of objects, and pandas' other layouts and SQuAD's where they are not too large."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TextIO, cast

from dynackd.data.tables import ABSENT, Table, field_names, field_of, open_text, refuse_missing_columns
from dynackd.errors import UserError

CHUNK = 2**20  # characters of a list that are read at once
HEADER_ROWS = 1000  # in which every field is expected to stand once
WHOLE_LIMIT_MB = 64  # of a file that is one object, which is held whole, in several times its size
LINES = "df.to_json(path, orient='records', lines=True)"


def read_json(path: Path, wanted: Sequence[str]) -> Table:
    """A column wanted may be a dotted name: `review.body` is the field `body` of the object `review`."""
    return Table(str(path), _cells(path, _objects(path, wanted), wanted))


def json_header(path: Path) -> list[str]:
    """The names of all fields of the first rows, those inside an object by their dotted names too."""
    names = dict[str, None]()
    for row in islice(_objects(path, ()), HEADER_ROWS):
        if isinstance(row, dict):
            names |= dict.fromkeys([*row, *field_names(row)])
    return list(names)


def _cells(path: Path, objects: Iterable[Any], wanted: Sequence[str]) -> Iterator[list[Any]]:
    absent, names = set(wanted), dict[str, None]()
    for number, row in enumerate(objects, start=1):
        if not isinstance(row, dict):
            hint = f"; from pandas: {LINES}" if isinstance(row, list) else ""
            example = '{"sentence": ..., "label": ...}'
            raise UserError(f"{path}, data row {number}: expected an object such as {example}{hint}")
        values = [field_of(row, name) for name in wanted]
        if absent:
            names |= dict.fromkeys(field_names(row))
            absent -= {name for name, value in zip(wanted, values, strict=True) if value is not ABSENT}
        yield [None if value is ABSENT else value for value in values]
    refuse_missing_columns(str(path), [name for name in wanted if name in absent], list(names))


def _objects(path: Path, wanted: Sequence[str]) -> Iterator[Any]:
    """What should be the file's rows, one after the other."""
    with open_text(path) as file:
        first = _first_line(path, file)
        if first.lstrip().startswith("["):
            file.seek(0)
            yield from _list_items(path, file)
            return
        whole = _whole_object(path, file, first)
        rows = None if whole is None else _rows_of_layout(whole, wanted, lines=".jsonl" in path.name.lower())
        file.seek(0)
        yield from _line_objects(path, file) if rows is None else rows


def _first_line(path: Path, file: TextIO) -> str:
    """The first line that is not blank, or the beginning of a long list."""
    limit = WHOLE_LIMIT_MB * 2**20
    while line := file.readline(CHUNK):
        if line.strip():
            if not line.lstrip().startswith("[") and not line.endswith("\n"):
                line += file.readline(limit)
                if len(line) >= limit:
                    raise UserError(
                        f"{path}: begins with one object of more than {WHOLE_LIMIT_MB} MB, which is not a row; write "
                        f"one row per line (from pandas: {LINES})"
                    )
            return line
    return ""


def _line_objects(path: Path, file: TextIO) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number}: not valid JSON ({_reason(error)}); expected one object per line, or a "
                    f"list of objects"
                ) from error


def _list_items(path: Path, file: TextIO) -> Iterator[Any]:
    """The items of a list, read piece by piece."""
    text, place, line, whole = "", 0, 1, False  # text[place:] is still to be taken; `line` is that of text[0]
    before = "["
    while True:
        try:
            mark = _MARK.match(text, place)
            if mark is None or mark[1] not in before:
                raise json.JSONDecodeError(f"expected {' or '.join(before)}", text, place)
            if mark[1] == "]" or (before == "[" and text[mark.end() : mark.end() + 1] == "]"):
                break
            item, end = _DECODER.raw_decode(text, mark.end())
        except (ValueError, RecursionError) as error:
            at = getattr(error, "pos", place)
            # Of a text that is cut off anywhere the error stands at its end, or at the beginning of a string.
            cut = at >= len(text.rstrip()) - 16 or "Unterminated string" in str(error)
            if whole or not cut:
                raise UserError(
                    f"{path}, line {line + text.count(chr(10), 0, at)}: not valid JSON ({_reason(error)}); expected a "
                    f"list of objects"
                ) from error
            more = file.read(max(CHUNK, len(text) - place))
            line += text.count("\n", 0, place)
            text, place, whole = text[place:] + more, 0, not more
            continue
        yield item
        place, before = end, ",]"
    rest = text[mark.end() :].lstrip().removeprefix("]" if mark[1] == "[" else "")
    if rest.strip() or any(part.strip() for part in iter(lambda: file.read(CHUNK), "")):
        raise UserError(f"{path}: there is more after the end of the list; expected one list of objects")


_MARK = re.compile(r"\s*([\[,\]])\s*")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return content


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return getattr(error, "msg", str(error).partition(";")[0])


# --- one object that holds all rows ----------------------------------------------------------------------------------


def _whole_object(path: Path, file: TextIO, first: str) -> dict[str, Any] | None:
    """The object that is all that the file holds, on one line or on several; None where it is no such file."""
    try:
        content = _DECODER.decode(first)
        if any(line.strip() for line in iter(lambda: file.readline(CHUNK), "")):
            return None
    except (ValueError, RecursionError):
        file.seek(0)
        text = file.read(WHOLE_LIMIT_MB * 2**20 + 1)
        if len(text) > WHOLE_LIMIT_MB * 2**20:
            return None
        try:
            content = _DECODER.decode(text)
        except (ValueError, RecursionError):
            return None
    return content if isinstance(content, dict) else None


def _rows_of_layout(content: Mapping[str, Any], wanted: Sequence[str], lines: bool) -> Iterator[Any] | None:
    """The rows, if the object is one of `LAYOUTS`; None for an object that is a row itself. lines: the file is
    said to have a row on each line, so that an object of lists is a row of lists, such as words and their tags. No
    columns wanted: they are still to be found, and what all of them would be is taken for them."""
    wanted = wanted or _columns_of_layout(content)
    for name, (fits, rows) in LAYOUTS.items():
        if fits(content, wanted) and not (lines and name == "lists"):
            return rows(content)
    return None


def _columns_of_layout(content: Mapping[str, Any]) -> Sequence[str]:
    """The names of the columns, if the object is one of `LAYOUTS` that have them as keys: of {column: values}, or of
    {row: {column: value}}, whose rows pandas numbers. One that is a row, or holds SQuAD's, gives a name that it
    lacks."""
    first = next(iter(content.values()), None)
    if _is_split(content, ()) or _is_table(content, ()):
        return ()
    if isinstance(first, dict) and all(name.isdecimal() for name in content):
        return list(first)
    columns = all(isinstance(value, type(first)) for value in content.values()) and isinstance(first, dict | list)
    return list(content) if columns and not _is_squad(content, ()) else [""]


def _all_are(kind: type) -> Callable[[Mapping[str, Any], Sequence[str]], bool]:
    return lambda content, wanted: all(isinstance(content.get(name), kind) for name in wanted)


def _holds_rows(content: Mapping[str, Any], wanted: Sequence[str]) -> bool:
    return all(isinstance(row, dict) and set(wanted) <= set(row) for row in content.values())


def _is_split(content: Mapping[str, Any], wanted: Sequence[str]) -> bool:
    names, rows = content.get("columns"), content.get("data")
    fits = isinstance(names, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    return fits and all(name in cast(list[Any], names) for name in wanted)


def _is_table(content: Mapping[str, Any], wanted: Sequence[str]) -> bool:
    return "schema" in content and isinstance(content.get("data"), list)


def _is_squad(content: Mapping[str, Any], wanted: Sequence[str]) -> bool:
    articles = _mappings(content.get("data"))
    paragraphs = [_mappings(article.get("paragraphs")) for article in articles or []]
    inner = [_mappings(paragraph.get("qas")) for some in paragraphs for paragraph in some or []]
    return bool(articles) and all(some is not None for some in (*paragraphs, *inner))


def _mappings(value: Any) -> list[Mapping[str, Any]] | None:
    """A list of objects; None for anything else."""
    return value if isinstance(value, list) and all(isinstance(one, dict) for one in value) else None


def _questions(content: Mapping[str, Any]) -> Iterator[Any]:
    """A row for each question, with the `context` of its paragraph and the `title` of its article."""
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            above = {"title": article.get("title"), "context": paragraph.get("context")}
            yield from ({**above, **question} for question in paragraph["qas"])


def _by_row(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Columns of {row: value}; a row that one of them lacks has None there."""
    columns = {name: column for name, column in columns.items() if isinstance(column, dict)}
    index = dict.fromkeys(key for column in columns.values() for key in column)
    return ({name: column.get(key) for name, column in columns.items()} for key in index)


def _row_dicts(names: Iterable[str], rows: Iterable[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(names, row, strict=False)) for row in rows)


def _from_lists(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = {name: values for name, values in content.items() if isinstance(values, list)}
    return _row_dicts(list(lists), zip_longest(*lists.values()))


# The values of to_json's `orient`, what `Dataset.to_dict` gives, and SQuAD's: how each is recognised, and its rows.
LAYOUTS: dict[str, tuple[Callable[..., bool], Callable[[Mapping[str, Any]], Iterator[Any]]]] = {
    "split": (_is_split, lambda content: _row_dicts(content["columns"], content["data"])),
    "table": (_is_table, lambda content: iter(content["data"])),
    "columns": (_all_are(dict), _by_row),
    "lists": (_all_are(list), _from_lists),
    "squad": (_is_squad, _questions),
    "index": (_holds_rows, lambda content: iter(content.values())),
}
