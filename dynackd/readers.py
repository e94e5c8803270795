"""Reading rows out of files and of data sets on the hub. A file format is one function and one line in `READERS`."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset

from dynackd.errors import UserError, first_line

Columns = dict[str, list[Any]]  # column name -> one value per row


@dataclass(frozen=True)
class Rows:
    """What was read: `where` names it in messages, `class_names` are those that the file declares, by column."""

    where: str
    columns: Columns
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


Reader = Callable[[Path, Sequence[str]], Rows]


def _read_delimited(path: Path, **dialect: Any) -> Rows:
    """Every cell as the text that stands there: "NA", "007" and "1.0" stay what they are. Blank lines are skipped.

    Python's own reader, because pandas and `datasets` take a first column for an index when rows are longer than the
    header, guess types chunk by chunk, and fill short rows.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True, **dialect)
        header = next(lines, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}: the header names a column twice: {', '.join(header)}")
        rows = []
        for cells in lines:
            if cells and len(cells) != len(header):
                raise UserError(f"{path}, line {lines.line_num}: {len(cells)} fields, but the header has "
                                f"{len(header)} ({', '.join(header)})")
            if cells:
                rows.append(cells)
    # An empty cell is the only way in which these formats can say "missing".
    return Rows(str(path), {name: [row[i] or None for row in rows] for i, name in enumerate(header)})


def _read_csv(path: Path, wanted: Sequence[str]) -> Rows:
    return _read_delimited(path, delimiter=",")


def _read_tsv(path: Path, wanted: Sequence[str]) -> Rows:
    return _read_delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_json(path: Path, wanted: Sequence[str]) -> Rows:
    """JSON lines, or one list of objects."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error.msg}); expected one object per line, "
                                f"or a list of objects") from error
    if bad := [i for i, row in enumerate(rows, start=1) if not isinstance(row, dict)]:
        raise UserError(f"{path}, data row {bad[0]}: expected an object such as {{\"sentence\": ..., \"label\": ...}}")
    names = {name: None for row in rows for name in row}
    return Rows(str(path), {name: [row.get(name) for row in rows] for name in names})


def _read_parquet(path: Path, wanted: Sequence[str]) -> Rows:
    names = pq.read_schema(path).names
    table = pq.read_table(path, columns=[name for name in wanted if name in names])
    return _rows(str(path), Dataset(table), names, table.column_names)


READERS: dict[str, Reader] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}


def _rows(where: str, dataset: Dataset, names: Sequence[str], wanted: Sequence[str]) -> Rows:
    """Only the columns wanted hold values. Class ids become their names, and the hub's -1 ("no label") None."""
    columns: Columns = {name: [] for name in names}
    class_names = {}
    for name in wanted:
        columns[name], feature = dataset[name][:], dataset.features[name]
        if isinstance(feature, ClassLabel):
            class_names[name] = feature.names
            columns[name] = [None if v is None or v < 0 else feature.names[v] for v in columns[name]]
    return Rows(where, columns, class_names)


def read_file(name: str, wanted: Sequence[str]) -> Rows:
    """Raises UserError when the file is missing, damaged or of no known kind."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: unknown kind of file '{path.suffix}'; known: {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return READERS[path.suffix.lower()](path, wanted)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:  # ValueError: bad UTF-8 and bad JSON too
        raise UserError(f"{path}: damaged, or no {path.suffix[1:]} file ({first_line(error)})") from error


def read_hub(place: tuple[str, str | None], split: str, wanted: Sequence[str]) -> Rows:
    """One split of a data set on the hub, or of its copy in the local cache. Raises UserError."""
    path, config = place
    where = f"{path}{f'/{config}' if config else ''}, split {split}"
    try:
        dataset = datasets.load_dataset(path, config, split=split)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise UserError(f"{where}: could not be loaded from the Hugging Face hub ({first_line(error)}); without it, "
                        f"give local files: data: {{train: train.tsv, validation: validation.tsv}}") from error
    names = dataset.column_names
    return _rows(where, dataset, names, [name for name in wanted if name in names])
