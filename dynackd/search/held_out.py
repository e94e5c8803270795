"""The rows by which a search judges: two parts of the training rows that have no text in common with one another or
with the validation rows, and that the supernet has not trained on where there are such."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dynackd.data.model_labels import labels_of
from dynackd.data.origins import Record, read_origin, rows_record
from dynackd.data.sources import OTHERS
from dynackd.errors import UserError
from dynackd.families.table import max_positions
from dynackd.report.terminal import console
from dynackd.supernet.network import Supernet
from dynackd.tasks.copies import alike, copies_of
from dynackd.tasks.kind import Task
from dynackd.tasks.loading import TaskData, load_task_data, taken
from dynackd.tasks.tokens import tokenize
from dynackd.tasks.unlabelled import read_unlabelled
from dynackd.training.recipe import Recipe

CHOICE = 4  # times as many rows for the choice, where a few sub-networks are judged, as for the search
BLOCKS, BLOCK = 8, 16  # parts of the rows of the choice, by which its error is known, of at least so many rows each
FEWEST = 64  # rows that the supernet has not trained on; fewer tell too little, and others are taken
# Whether the supernet has trained on the rows -> how that is told.
TRAINED = {
    False: "training rows that the supernet has not seen, beyond data.train_rows",
    True: "rows that the supernet has trained on: of those that data.train holds too few others are left",
    None: "rows of data.train; whether the supernet has trained on them is not known, since it was trained on others "
    "than this recipe names",
}

TOO_FEW = "data.train: a search needs two or more training rows with texts that validation rows lack"

@dataclass(frozen=True)
class HeldOut:
    """Tokenised rows to compare candidates on (`search`) and to choose among the best (`choice`), which `task`, the
    task of the choice, knows the texts of; `places` of both among all training rows.

    blocks: the rows of the choice once more in parts, each with a task that knows its texts; none where they are few.
    trained_on: whether the supernet has trained on them; None where that cannot be told. validation: by suffix, with
    the task of those rows; none where they are not to be had.
    """

    search: Dataset
    choice: Dataset
    task: Task
    blocks: Sequence[tuple[Dataset, Task]]
    trained_on: bool | None
    places: Mapping[str, np.ndarray]
    validation: Mapping[str, Dataset]
    validation_task: Task

    def to_dict(self) -> dict[str, Any]:
        kind = self.task.kind
        return {
            "search": len(self.places["search"]),
            "choice": len(self.places["choice"]),
            "search_inputs": len(self.search),
            "choice_inputs": len(self.choice),
            "called": kind.row_noun,
            "trained_on": self.trained_on,
            "told": TRAINED[self.trained_on],
            "validation": sum(map(len, self.validation.values())),
        }


def hold_out(
    directory: Path, recipe: Recipe, supernet: Supernet, tokenizer: PreTrainedTokenizerBase, rows: int, seed: int
) -> HeldOut:
    """At most `rows` rows for the search and `CHOICE` times as many for the choice, and fewer where a row becomes
    several inputs. Raises `UserError`."""
    data = _load(recipe, supernet)
    train = data.train
    assert train is not None
    used, left = taken(len(train), recipe.data.train_rows, recipe.data.seed)
    before = read_origin(directory)
    same = _is(before.get("training"), train.select(used))
    taboo = {text for some in data.validation.values() for text in _texts(some)}
    if same and before.get(OTHERS):
        others = _unlabelled(data.task, recipe)
        same = others is not None and _is(before[OTHERS], others)
        if same and others is not None:
            left = left[~np.isin(left, _imitated(train, others, data.task))]
    unseen = _without(train, left, taboo | set(_texts(train.select(used)))) if same else np.arange(0)
    trained_on = len(unseen) < 2 * FEWEST if same else None
    pool = unseen
    if trained_on is not False:
        order = np.random.default_rng(seed).permutation(used if same else np.arange(len(train)))
        pool = _without(train, order, taboo)
    if len(pool) < 2:
        raise UserError(TOO_FEW)
    encode = _encoder(data.task, recipe, supernet, tokenizer)
    parts, tokens = {}, {}
    for part, wanted in (("search", min(rows, max(1, len(pool) // 2))), ("choice", CHOICE * rows)):
        parts[part], tokens[part] = _part(train, pool[:wanted], encode)
        pool = pool[len(parts[part]) :]
    validation = {suffix: encode(some) for suffix, some in data.validation.items()}

    def knows(places: np.ndarray) -> Task:
        return dataclasses.replace(data.task, rows={"": train.select(places)})

    blocks = [(encode(train.select(some)), knows(some)) for some in _blocks(parts["choice"])]
    task = knows(parts["choice"])
    return HeldOut(tokens["search"], tokens["choice"], task, blocks, trained_on, parts, validation, data.task)


def _is(before: Record | None, rows: Dataset) -> bool:
    """Whether these are the rows of a record."""
    return before is not None and before.get("sha256") == rows_record(rows)["sha256"]


def _unlabelled(task: Task, recipe: Recipe) -> Dataset | None:
    """The rows without labels, on which the supernet imitated its teacher; None where they are not to be had."""
    try:
        return read_unlabelled(task, recipe.data)
    except UserError as error:
        console.print(f"note: {error}", markup=False)
        return None


def _imitated(train: Dataset, others: Dataset, task: Task) -> np.ndarray:
    """The places of training rows whose texts are among those without labels."""
    return copies_of(train, alike(others, train, task.text_columns[0]), ("label", task.label_column))


def refuse_too_few(data: TaskData) -> None:
    """`UserError` where a search would find no rows to judge by, before anything is trained."""
    assert data.train is not None
    taboo = {text for some in data.validation.values() for text in _texts(some)}
    found = set()
    for text in _texts(data.train):
        if text not in taboo:
            found.add(text)
        if len(found) == 2:
            return
    raise UserError(TOO_FEW)


def _blocks(places: np.ndarray) -> Sequence[np.ndarray]:
    return np.array_split(places, BLOCKS) if len(places) >= BLOCKS * BLOCK else []


def _load(recipe: Recipe, supernet: Supernet) -> TaskData:
    """All training rows, and the validation rows if they are to be had."""
    source, labels = dataclasses.replace(recipe.data, train_rows=None), labels_of(supernet.model.config)
    try:
        return load_task_data(recipe.task, source, ("train", "validation"), model=labels)
    except UserError as error:
        first = error
    try:
        data = load_task_data(recipe.task, source, ("train",), model=labels)
    except UserError as error:
        raise UserError(f"a search needs training rows to judge by: {error} (--set data.train=FILE)") from error
    console.print(f"note: no validation rows to report on: {first}")
    return data


def _texts(rows: Dataset) -> Iterator[str]:
    """What stands in the rows, but their labels."""
    columns = [name for name in rows.column_names if name != "label"]
    for batch in rows.select_columns(columns).iter(1000):
        for values in zip(*(batch[name] for name in columns), strict=True):
            yield json.dumps(values)


def _without(rows: Dataset, places: np.ndarray, taboo: Iterable[str]) -> np.ndarray:
    """The places whose texts are not taboo and come for the first time."""
    seen, kept = set(taboo), []
    for place, text in zip(places.tolist(), _texts(rows.select(places)), strict=True):
        if text not in seen:
            seen.add(text)
            kept.append(place)
    return np.asarray(kept, dtype=int)


def _part(train: Dataset, places: np.ndarray, encode: Any) -> tuple[np.ndarray, Dataset]:
    """As many of the rows as become about so many inputs, and these."""
    tokens = encode(train.select(places))
    if len(tokens) <= 2 * len(places):
        return places, tokens
    fewer = places[: max(2, len(places) ** 2 // len(tokens))]
    return fewer, encode(train.select(fewer))


def _encoder(task: Task, recipe: Recipe, supernet: Supernet, tokenizer: PreTrainedTokenizerBase) -> Any:
    positions = max_positions(supernet.model.config)

    def encode(rows: Dataset) -> Dataset:
        return tokenize(rows, task, tokenizer, recipe.data.max_length, "held-out", positions)[0]

    return encode
