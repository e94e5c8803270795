"""Reading rows out of files and of data sets on the hub. A file format is one function and one line in `READERS`."""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import constants, get_session
from huggingface_hub.file_download import repo_folder_name

from dynackd.data.conll import conll_header, read_conll
from dynackd.data.delimited import csv_header, read_csv, read_tsv, tsv_header
from dynackd.data.json_rows import json_header, read_json
from dynackd.data.tables import ABSENT, Table, field_of, open_text, refuse_missing_columns, undecodable
from dynackd.errors import UserError, first_line
from dynackd.system.places import at_home

ROWS_AT_ONCE = 256
PACKED = (".json", ".jsonl")  # that are read as .gz too
TEXT_COLUMN = "text"  # of a file of plain text
SPREADSHEETS = (".xlsx", ".xls", ".ods")

Reader = Callable[[Path, Sequence[str]], Table]


def read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    """A column wanted may be a dotted name: `review.body` is the field `body` of the struct `review`."""
    file = pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    heads = _heads(str(path), file.schema_arrow, wanted)
    features = Features.from_arrow_schema(pa.schema([file.schema_arrow.field(name) for name in heads],
                                                    file.schema_arrow.metadata))
    return _table(str(path), file.iter_batches(ROWS_AT_ONCE, columns=heads), features, wanted)


def parquet_header(path: Path) -> list[str]:
    """The names of the columns, and of the fields inside of structs."""
    schema = pq.read_schema(path)
    return [*schema.names, *(f"{field.name}.{name}" for field in schema for name in _fields(field.type))]


def read_text(path: Path, wanted: Sequence[str]) -> Table:
    """One text a line, in a column `text`; lines without any are passed over."""
    refuse_missing_columns(str(path), wanted, [TEXT_COLUMN])

    def rows() -> Iterator[Sequence[Any]]:
        with open_text(path) as file:
            yield from ((text,) for line in file if (text := line.strip()))

    return Table(str(path), rows())


READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_json,
    ".parquet": read_parquet,
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), read_conll),
    ".txt": read_text,
}

# The names of a file's columns, where these can be found; a format without them is read by names that a user gives.
HEADERS: dict[str, Callable[[Path], list[str]]] = {
    ".csv": csv_header,
    ".tsv": tsv_header,
    ".json": json_header,
    ".jsonl": json_header,
    ".parquet": parquet_header,
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), conll_header),
    ".txt": lambda _: [TEXT_COLUMN],
}


def _heads(where: str, schema: pa.Schema, wanted: Sequence[str]) -> list[str]:
    """The columns in which the columns and fields wanted are. Raises UserError for one that is not there."""
    names = [*schema.names, *(f"{field.name}.{inner}" for field in schema for inner in _fields(field.type))]
    refuse_missing_columns(where, wanted, names)
    return list(dict.fromkeys(name if name in schema.names else name.partition(".")[0] for name in wanted))


def _fields(kind: pa.DataType) -> list[str]:
    """The dotted names of all fields of a struct; none of any other type."""
    inner = [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    return [name for field in inner for name in (field.name, *(f"{field.name}.{n}" for n in _fields(field.type)))]


def _table(where: str, batches: Iterable[Any], features: Mapping[str, Any], wanted: Sequence[str]) -> Table:
    """Class ids, alone or in lists, become their names, and the hub's -1 ("no label") None."""
    kinds = {name: getattr(features.get(name), "feature", features.get(name)) for name in wanted}  # of a list's values
    class_names = {name: kind.names for name, kind in kinds.items() if isinstance(kind, ClassLabel)}

    def named(value: Any, names: Sequence[str]) -> Any:
        if isinstance(value, list):
            return [named(one, names) for one in value]
        return None if value is None or value < 0 else names[value]

    def values(batch: Any, name: str) -> list[Any]:
        if name not in batch.schema.names:
            head, _, rest = name.partition(".")
            found = [field_of(row or {}, rest) for row in batch.column(head).to_pylist()]
            return [None if value is ABSENT else value for value in found]
        found = batch.column(name).to_pylist()
        if name in class_names:
            return [named(value, class_names[name]) for value in found]
        return found

    rows = (row for batch in batches for row in zip(*(values(batch, name) for name in wanted), strict=True))
    return Table(where, rows, class_names)


def kind_of_file(path: Path) -> str:
    """By what it is found in `READERS`: how its name ends, `.json` of a `.json.gz`."""
    packed = path.suffix.lower() == ".gz" and Path(path.stem).suffix.lower() in PACKED
    return Path(path.stem if packed else path).suffix.lower()


def read_file(name: str, wanted: Sequence[str]) -> Table:
    """Raises UserError when the file is missing or of no known kind; its rows raise one where it is damaged."""
    path, suffix = _file(name)
    with _told(path):
        table = READERS[suffix](path, wanted)
    return dataclasses.replace(table, rows=_rows_told(path, table.rows))


def columns_of(name: str) -> list[str]:
    """The names of a file's columns, none where its format has none. Raises UserError as `read_file`."""
    path, suffix = _file(name)
    with _told(path):
        return HEADERS[suffix](path) if suffix in HEADERS else []


def look_into(name: str, most: int, wanted: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The first `most` rows of a file, as {column: values}; of all columns that can be found, and of those wanted.
    Passed over are a column without a name (pandas' index) and names that stand twice. Raises UserError as `read_file`.
    """
    found = columns_of(name)
    names = list(dict.fromkeys([*wanted, *(own for own in found if own and found.count(own) == 1)]))
    rows = list(islice(read_file(name, names).rows, most)) if names else []
    return {column: [row[place] for row in rows] for place, column in enumerate(names)}


def _file(name: str) -> tuple[Path, str]:
    """The path of a file and by what it is read."""
    path = Path(at_home(name))
    suffix = kind_of_file(path)
    if path.is_dir():
        raise UserError(f"{path}: a directory, not a file")
    if suffix not in READERS:
        hint = "; save it as csv (UTF-8)" if suffix in SPREADSHEETS else ""
        raise UserError(f"{path}: unknown kind of file '{path.suffix}'; known: {', '.join(READERS)}{hint}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path, suffix


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong in reading is told as a UserError."""
    try:
        yield
    except UnicodeError as error:
        raise UserError(undecodable(path)) from error
    except (OSError, EOFError, zlib.error, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged, or no {path.suffix[1:]} file ({first_line(error)})") from error


def _rows_told(path: Path, rows: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    with _told(path):
        yield from rows


def read_hub(place: tuple[str, str | None], split: str, wanted: Sequence[str]) -> Table:
    """One split of a data set on the hub, or of its copy in the local cache. Raises UserError."""
    path, config = place
    where = f"{path}{f'/{config}' if config else ''}, split {split}"
    try:
        if not _at_hand(path):
            check_hub_answers()
        dataset = datasets.load_dataset(path, config, split=split)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise UserError(f"{where}: could not be loaded from the Hugging Face hub ({first_line(error)}); without it, "
                        f"give local files: data: {{train: train.tsv, validation: validation.tsv}}") from error
    heads = _heads(where, dataset.features.arrow_schema, wanted)
    batches = dataset.select_columns(heads).with_format("arrow").iter(ROWS_AT_ONCE)
    return _table(where, batches, dataset.features, wanted)


def check_hub_answers(seconds: float = 5.0) -> None:
    """Raises whatever the client does when the hub cannot be reached, at once and not after 24 s of its retries."""
    get_session().head(constants.ENDPOINT, timeout=seconds)


def _at_hand(path: str) -> bool:
    """Whether the hub need not be asked: a directory, a copy in one of the caches."""
    owner, _, name = path.rpartition("/")
    prepared = "___".join(part for part in (owner, camelcase_to_snakecase(name)) if part)
    places = [
        Path(path), Path(datasets.config.HF_DATASETS_CACHE, prepared),
        Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=path, repo_type="dataset")),
    ]
    return any(place.exists() for place in places)
