"""Data: what is read, how labels become class ids, and how texts become tokens.

    source = resolve_source({"train": "train.tsv", "validation": "dev.tsv", "train_rows": 10_000}, task)
    data = load_task_data(task, source, label2id=model.config.label2id)
    train, cut = tokenize(data.train, data.task, tokenizer, source.max_length)

A new file format is one function and one line in `READERS`.
"""

import csv
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

from dynackd.errors import UserError, nearest, refuse_unknown_keys
from dynackd.tasks import GLUE, Task

GLUE_CONFIGS = ("ax", "cola", "mnli", "mnli_matched", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb",
                "wnli")


# --- where data comes from -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSource:
    """Where the rows come from and how many of them are used.

    `hub` is (path, config) and `train`, `validation`, `validation_mm` are then split names (None: the task's own);
    without `hub` they are file paths. `train_rows` and `validation_rows` take at most that many rows, a shuffled
    subset that depends on `seed` alone. `validation_share` cuts the validation rows off the training rows.
    `max_length` is in tokens.
    """

    hub: tuple[str, str | None] | None = None
    train: str | None = None
    validation: str | None = None
    validation_mm: str | None = None
    validation_share: float | None = None
    max_length: int = 128
    train_rows: int | None = None
    validation_rows: int | None = None
    seed: int = 42


def resolve_source(value: str | Mapping[str, Any] | None, task: Task | None = None) -> DataSource:
    """The `data` of a recipe: a hub name ("glue/sst2", "owner/name", "owner/name/config") or a mapping with
    `DataSource`'s fields; where it names no place, the task's own place on the hub is taken. Raises UserError.
    """
    if isinstance(value, str):
        if Path(value).suffix.lower() in READERS:
            raise UserError(f"data: '{value}' is a file; write {{train: {value}, validation: ...}}")
        value = {"hub": value}
    if not isinstance(value, Mapping | None):
        raise UserError(f"data: expected a hub name or a mapping, got {value!r}")
    refuse_unknown_keys("data", value or {}, list(SOURCE_CHECKS))
    fields = {key: v for key, v in (value or {}).items() if v is not None}
    for key, v in fields.items():
        holds, expected = SOURCE_CHECKS[key]
        if not holds(v):
            raise UserError(f"data.{key}: expected {expected}, got {v!r}")
    if "validation" in fields and "validation_share" in fields:
        raise UserError("data: give either validation or validation_share, not both")
    if "hub" in fields:
        return DataSource(**{**fields, "hub": _hub_place(fields["hub"])})
    if "train" in fields or "validation" in fields:
        return DataSource(**fields)
    if task is None or task.hub is None:
        raise UserError("data: give train: and validation: files, or hub: the name of a data set on the hub")
    return DataSource(**fields, hub=task.hub)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# What each key of `data` must hold, and how that is said.
SOURCE_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hub": (_is_name, "a name such as glue/sst2 or owner/name"),
    "train": (_is_name, "the path of a file (with hub: the name of a split)"),
    "validation": (_is_name, "the path of a file (with hub: the name of a split)"),
    "validation_mm": (_is_name, "the path of a file (with hub: the name of a split)"),
    "validation_share": (lambda v: isinstance(v, float) and 0 < v < 1, "a number between 0 and 1"),
    "max_length": (_is_count, "a whole number of 1 or more"),
    "train_rows": (_is_count, "a whole number of 1 or more"),
    "validation_rows": (_is_count, "a whole number of 1 or more"),
    "seed": (lambda v: v == 0 or _is_count(v), "a whole number of 0 or more"),
}


def _hub_place(name: str) -> tuple[str, str | None]:
    parts = name.split("/")
    if not all(parts) or len(parts) > 3:
        raise UserError(f"data: '{name}' is no hub name; write glue/sst2, owner/name or owner/name/config")
    if parts[0] == "glue" or name.startswith(GLUE + "/"):
        if parts[-1] not in GLUE_CONFIGS:
            raise UserError(f"data: GLUE has no '{parts[-1]}'{nearest(parts[-1], list(GLUE_CONFIGS))}; "
                            f"known: {', '.join(GLUE_CONFIGS)}")
        return GLUE, parts[-1]
    return "/".join(parts[:2]), (parts[2] if len(parts) == 3 else None)


# --- reading ---------------------------------------------------------------------------------------------------------

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


def _read_file(name: str, wanted: Sequence[str]) -> Rows:
    """Raises UserError when the file is missing, damaged or of no known kind."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: unknown kind of file '{path.suffix}'; known: {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return READERS[path.suffix.lower()](path, wanted)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:  # ValueError: bad UTF-8 and bad JSON too
        raise UserError(f"{path}: damaged, or no {path.suffix[1:]} file ({_first_line(error)})") from error


def _read_hub(place: tuple[str, str | None], split: str, wanted: Sequence[str]) -> Rows:
    """One split of a data set on the hub, or of its copy in the local cache. Raises UserError."""
    path, config = place
    where = f"{path}{f'/{config}' if config else ''}, split {split}"
    try:
        dataset = datasets.load_dataset(path, config, split=split)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise UserError(f"{where}: could not be loaded from the Hugging Face hub ({_first_line(error)}); without it, "
                        f"give local files: data: {{train: train.tsv, validation: validation.tsv}}") from error
    names = dataset.column_names
    return _rows(where, dataset, names, [name for name in wanted if name in names])


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelMap:
    """`names[id]` is a class's name; `ids` maps what stands in the data, as text, to the class id."""

    names: tuple[str, ...]
    ids: Mapping[str, int]


def _label_key(value: Any) -> str:
    """Labels are compared as text: 1, "1", 1.0 and "1.0" are the same class, and True is "True"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


def label_map(keys: Sequence[str], where: str, declared: Sequence[str] | None = None,
              model_names: Sequence[str] | None = None) -> LabelMap:
    """How the labels of a data set become class ids.

    keys: the labels of the training rows, as text. declared: the task's own names in order. model_names: the names of
    a trained model in the order of its outputs; then the ids are the model's. Raises UserError when the two disagree.

    - declared names: the data may hold the names, or whole numbers that index them;
    - whole numbers: they are the ids, and must run from 0 without a gap (with a model: be less than its outputs);
    - any other text: the ids follow the sorted names;
    - a model with names of its own (not LABEL_0, LABEL_1): names are matched, if need be ignoring case.
    """
    found = sorted(set(keys))
    numbers = not declared and all(re.fullmatch(r"\d+", key) for key in found)
    if model_names is None:
        return _numbered(found, where) if numbers else _named(found, declared)
    if numbers and not set(found) <= set(model_names):
        return _numbered_by_model(found, where, model_names)
    own = _named(found, declared)
    if not _generic(model_names):
        return _matched(own, where, model_names)
    if len(own.names) != len(model_names):
        raise UserError(f"{where}: {len(own.names)} labels ({_listed(own.names)}) do not fit the model, which has "
                        f"{len(model_names)} outputs ({_listed(model_names)})")
    return own


def _generic(names: Sequence[str]) -> bool:
    """Whether a model's class names are the placeholders that transformers makes up."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def _named(found: Sequence[str], declared: Sequence[str] | None) -> LabelMap:
    names = tuple(declared or found)
    indices = {str(i): i for i in range(len(names))} if declared else {}
    return LabelMap(names, indices | {name: i for i, name in enumerate(names)})


def _numbered(found: Sequence[str], where: str) -> LabelMap:
    count = max(int(key) for key in found) + 1
    if count > len(found):
        raise UserError(f"{where}: labels {_listed(sorted(found, key=int))} leave gaps; whole numbers must run from 0 "
                        f"to {len(found) - 1}, or write the labels as words")
    return LabelMap(tuple(f"LABEL_{i}" for i in range(count)), {str(i): i for i in range(count)})


def _numbered_by_model(found: Sequence[str], where: str, model_names: Sequence[str]) -> LabelMap:
    for key in found:
        if int(key) >= len(model_names):
            raise UserError(f"{where}: label {key} does not fit the model, whose {len(model_names)} labels are "
                            f"{_listed(model_names)}")
    return LabelMap(tuple(model_names), {str(i): i for i in range(len(model_names))})


def _matched(own: LabelMap, where: str, model_names: Sequence[str]) -> LabelMap:
    exact = {name: i for i, name in enumerate(model_names)}
    folded = {name.casefold(): i for i, name in enumerate(model_names)}
    to_model = {name: exact.get(name, folded.get(name.casefold(), -1)) for name in own.names}
    if -1 in to_model.values():
        raise UserError(f"{where}: the labels {_listed(own.names)} are not the model's, which are "
                        f"{_listed(model_names)}; rename the labels or give the model's class numbers")
    return LabelMap(tuple(model_names), {key: to_model[own.names[i]] for key, i in own.ids.items()})


# --- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskData:
    """The rows of a task: text columns as named, and "label" (class id, or a float for regression).

    task: the task as resolved with the labels found; hand this one to `compute_metrics`. validation: suffix of the
    metrics' names -> rows; "" is the main one. label_names: in the order of the class ids, empty for regression.
    written_labels: how the data write each class, in the same order.
    """

    task: Task
    train: Dataset | None
    validation: dict[str, Dataset]
    label_names: tuple[str, ...]
    written_labels: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        """Outputs of a model for this task: the classes, or 1 for regression."""
        return len(self.label_names) or 1


def load_task_data(task: Task, source: DataSource, splits: Sequence[str] = ("train", "validation"),
                   label2id: Mapping[str, int] | None = None) -> TaskData:
    """Reads, checks and labels the splits asked for ("train", "validation").

    label2id: that of a trained model, whose ids the labels then get; None for a model whose head is still to be made.
    Classes are those of the training rows (of the first split read when training is not asked for), found before
    `train_rows` takes its subset. Raises UserError for every fault in the data, with file, row and column. Rows are
    counted from 1, the header not counted.
    """
    model_names = None if label2id is None else tuple(sorted(label2id, key=lambda name: label2id[name]))
    _check_outputs(task, model_names)
    raw = _read_splits(task, source, splits)
    labels, names, written = _labels_of(task, raw, model_names)
    built = {split: _build(task, raw[split].columns, labels[split]) for split in raw}
    train = built.pop("train", None)
    if train is not None:
        train = _subset(train, source.train_rows, source.seed)
    validation = {split.removeprefix("validation"): _subset(rows, source.validation_rows, source.seed)
                  for split, rows in built.items()}
    return TaskData(_with_names(task, names), train, validation, names, written)


def _check_outputs(task: Task, model_names: Sequence[str] | None) -> None:
    if model_names is None:
        return
    if task.kind == "regression" and len(model_names) != 1:
        raise UserError(f"task '{task.name}' is a regression and needs a model with 1 output, but the model has "
                        f"{len(model_names)} labels ({_listed(model_names)})")
    if task.kind == "classification" and len(model_names) < 2:
        raise UserError(f"task '{task.name}' is a classification, but the model has 1 output, as for a regression")


def _read_splits(task: Task, source: DataSource, splits: Sequence[str]) -> dict[str, Rows]:
    """The checked rows of "train", "validation" and, where the task has it, "validation_mm"."""
    raw: dict[str, Rows] = {}
    if "train" in splits or source.validation_share is not None:
        raw["train"] = _read_split(task, source, "train", source.train, task.train_split)
    if source.validation_share is not None:
        raw = _cut_off_validation(raw["train"], source.validation_share, source.seed)
    elif "validation" in splits:
        raw["validation"] = _read_split(task, source, "validation", source.validation, task.validation_splits[""])
        for suffix, default in task.validation_splits.items():
            named = source.validation_mm if suffix == "_mm" else None
            if suffix and (named or (source.hub and not source.validation)):
                raw[f"validation{suffix}"] = _read_split(task, source, f"validation{suffix}", named, default)
    return {split: rows for split, rows in raw.items() if split.split("_")[0] in splits}


def _read_split(task: Task, source: DataSource, key: str, named: str | None, default: str) -> Rows:
    """named: the path or split that the user gave for `key`; default: the task's split on the hub."""
    wanted = [*task.text_columns, task.label_column]
    if source.hub is None and named is None:
        hint = ", or validation_share: 0.1 to cut it off the training rows" if key == "validation" else ""
        raise UserError(f"data.{key} is missing: give the path of a file{hint}")
    rows = _read_hub(source.hub, named or default, wanted) if source.hub else _read_file(named or "", wanted)
    for name in wanted:
        if rows.columns and name not in rows.columns:
            raise UserError(f"{rows.where}: no column '{name}'{nearest(name, list(rows.columns))}; the columns are "
                            f"{_listed(list(rows.columns))}")
    if not rows.columns or not rows.columns[wanted[0]]:
        raise UserError(f"{rows.where}: the data set is empty; expected the columns {_listed(wanted)} and some rows")
    checked = {name: _checked(rows.columns[name], rows.where, name, name == task.label_column) for name in wanted}
    return dataclasses.replace(rows, columns=checked)


def _checked(values: list[Any], where: str, column: str, is_label: bool) -> list[Any]:
    """The values, texts as str (a number in a text column is its text, as it would be in a csv file)."""
    bad = [i for i, v in enumerate(values, start=1) if _missing(v) or (is_label and str(v).strip() == "")]
    if bad:
        others = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        raise UserError(f"{where}, data row {bad[0]}, column '{column}': the {'label' if is_label else 'text'} is "
                        f"missing{others}; fill it in or drop the row")
    odd = [i for i, v in enumerate(values, start=1) if not isinstance(v, str | int | float)]
    if odd:
        raise UserError(f"{where}, data row {odd[0]}, column '{column}': expected a {'label' if is_label else 'text'}, "
                        f"got a {type(values[odd[0] - 1]).__name__}")
    return values if is_label else [str(v) for v in values]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cut_off_validation(rows: Rows, share: float, seed: int) -> dict[str, Rows]:
    count = len(next(iter(rows.columns.values())))
    order = np.random.default_rng(seed).permutation(count)
    cut = max(1, round(share * count))
    if cut >= count:
        raise UserError(f"{rows.where}: {count} rows are too few to cut off a validation_share of {share}")
    parts = {"train": sorted(order[cut:]), "validation": sorted(order[:cut])}
    return {split: dataclasses.replace(rows, columns={n: [v[i] for i in part] for n, v in rows.columns.items()})
            for split, part in parts.items()}


def _labels_of(task: Task, raw: Mapping[str, Rows], model_names: Sequence[str] | None
               ) -> tuple[dict[str, list[Any]], tuple[str, ...], tuple[str, ...]]:
    """(split -> labels as numbers, names of the classes, how the data write them)."""
    column = task.label_column
    if task.kind == "regression":
        return {split: _numbers(rows.columns[column], rows.where, column) for split, rows in raw.items()}, (), ()
    keys = {split: [_label_key(v) for v in rows.columns[column]] for split, rows in raw.items()}
    first = next(iter(raw))
    where = f"{raw[first].where}, column '{column}'"
    mapping = label_map(keys[first], where, task.label_names or raw[first].class_names.get(column), model_names)
    if len(mapping.names) < 2:
        raise UserError(f"{where}: a classification needs two labels or more, got only {_listed(mapping.names)}")
    ids = {split: _class_ids(keys[split], mapping, rows.where, column) for split, rows in raw.items()}
    # What the rows hold counts before what they might hold: of a task that names its labels, numbers and names.
    written = {i: key for key, i in mapping.ids.items()} | {mapping.ids[key]: key for key in keys[first]}
    return ids, mapping.names, tuple(written.get(i, name) for i, name in enumerate(mapping.names))


def _class_ids(keys: Sequence[str], mapping: LabelMap, where: str, column: str) -> list[int]:
    for row, key in enumerate(keys, start=1):
        if key not in mapping.ids:
            raise UserError(f"{where}, data row {row}, column '{column}': label '{key}' is none of the known labels "
                            f"({_listed(mapping.names)})")
    return [mapping.ids[key] for key in keys]


def _numbers(values: Sequence[Any], where: str, column: str) -> list[float]:
    numbers = []
    for row, value in enumerate(values, start=1):
        try:
            numbers.append(float(value))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise UserError(f"{where}, data row {row}, column '{column}': expected a number, got {value!r}")
    return numbers


def _build(task: Task, columns: Columns, labels: list[Any]) -> Dataset:
    kinds = {"classification": "int64", "regression": "float64"}
    features = Features({**{name: Value("string") for name in task.text_columns}, "label": Value(kinds[task.kind])})
    return Dataset.from_dict({**{name: columns[name] for name in task.text_columns}, "label": labels}, features)


def _subset(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    if rows is None or rows >= len(dataset):
        return dataset
    return dataset.select(np.random.default_rng(seed).permutation(len(dataset))[:rows])


def _with_names(task: Task, names: tuple[str, ...]) -> Task:
    if task.kind == "regression":
        return task
    declared = [name.casefold() for name in task.label_names or ()]
    folded = [name.casefold() for name in names]
    order = None
    if declared and folded != declared and sorted(folded) == sorted(declared):
        order = tuple(declared.index(name) for name in folded)
    return dataclasses.replace(task, label_names=names, class_order=order)


# --- tokens ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TruncationReport:
    """How many texts (pairs count as one) were cut to `max_length` tokens, and the longest before the cut."""

    split: str
    rows: int
    cut: int
    longest: int
    max_length: int

    def __str__(self) -> str:
        return (f"{self.cut:,} of {self.rows:,} {self.split} texts were longer than {self.max_length} tokens and were "
                f"cut (longest {self.longest:,})")


def tokenize(dataset: Dataset, task: Task, tokenizer: Any, max_length: int, split: str = "training",
             max_positions: int | None = None) -> tuple[Dataset, TruncationReport | None]:
    """The tokenizer's model inputs, "labels" and "length" (tokens), and a report when texts were cut, else None.

    Pairs lose tokens of the longer text first. No padding here: `DataCollatorWithPadding` pads each batch.
    max_positions: the tokens that the model itself takes (512 for RoBERTa, whose table has 514 rows); by default the
    tokenizer's `model_max_length`. Raises UserError when `max_length` is beyond it or leaves no room for a text.
    """
    limit = max_positions or tokenizer.model_max_length
    if max_length > limit:
        raise UserError(f"data.max_length: {max_length} is more than the {limit} tokens that the model takes")
    least = tokenizer.num_special_tokens_to_add(pair=len(task.text_columns) == 2) + len(task.text_columns)
    if max_length < least:
        raise UserError(f"data.max_length: {max_length} leaves no room for a text; it takes {least} or more")

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(*(batch[name] for name in task.text_columns), truncation=True, max_length=max_length)
        return {**encoded, "labels": batch["label"], "length": [len(ids) for ids in encoded["input_ids"]]}

    with _quiet():
        tokens = dataset.map(encode, batched=True, remove_columns=dataset.column_names)
    return tokens, _truncation(dataset, tokens, task, tokenizer, max_length, split)


def _truncation(dataset: Dataset, tokens: Dataset, task: Task, tokenizer: Any, max_length: int,
                split: str) -> TruncationReport | None:
    full = np.flatnonzero(np.asarray(tokens["length"][:]) == max_length)
    if not len(full):
        return None
    rows = dataset.select(full)
    texts = [rows[name][:] for name in task.text_columns]
    lengths = [len(ids) for ids in tokenizer(*texts, truncation=False, verbose=False)["input_ids"]]
    cut = [length for length in lengths if length > max_length]
    return TruncationReport(split, len(dataset), len(cut), max(cut), max_length) if cut else None


# --- small helpers ---------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets` inside; the user's own setting afterwards."""
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
