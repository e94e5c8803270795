"""`dynackd augment`: the training rows of a recipe with new ones beside them, which the teacher labels.

The result is `<output_dir>/augmented`: `train.jsonl`, `augment.json` and, where the recipe's validation rows are not a
file already, `validation.jsonl`. Labels matter to the cross-entropy term alone; the other terms ask the teacher itself.
With `training.bf16` the models here run in bf16 too.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dynackd.data.model_labels import ModelLabels, labels_of
from dynackd.data.origins import Record, model_record, public_name, resolve_model, rows_record
from dynackd.data.sources import DataSource
from dynackd.data.words import Row, Slot, Slots, masked_slots, neighbour_slots, new_rows
from dynackd.errors import UserError, a, listed
from dynackd.families.table import max_positions
from dynackd.measure.evaluation import batches_of, longest_first, predict, this_device
from dynackd.measure.teacher_check import SAMPLE_ROWS
from dynackd.report.terminal import console, progress
from dynackd.supernet.checkpoints import load_masked_lm, load_tokenizer
from dynackd.supernet.network import Supernet
from dynackd.system.places import new_directory, read_json, write_json
from dynackd.tasks.loading import TaskData, load_task_data
from dynackd.tasks.tokens import tokenize
from dynackd.training.lineage import record_of, refuse_changed_content, refuse_changed_recipe, write_record
from dynackd.training.recipe import Recipe
from dynackd.training.rows import warn_of_unknown
from dynackd.training.runs import RESULTS, RunMode, alone, begin, claim, drop
from dynackd.training.teachers import check_teacher, load_teacher, refuse_other_teacher, teacher_of

AUGMENTED = "augmented"
BATCH_SIZE = 64
PART_TEXTS, PART_ROWS = 512, 4096  # of which a part consists that a killed run need not do again
Labelled = tuple[Row, Any]  # a row's texts, and its class id or value


class Kept:
    """What the models said so far, part by part in a file, for a run that is killed and resumed."""

    def __init__(self, recipe: Recipe, record: Record, directory: Path, mode: RunMode) -> None:
        self.recipe, self.record, self.directory, self.mode = recipe, record, directory, mode
        self.begun = mode.resume and any(directory.glob("*.json"))  # then the recipe beside them is whole, too
        self.before_s = 0.0  # of the parts that were made before
        if self.begun:
            refuse_changed_content(record, directory)

    def parts(self, name: str, items: Sequence[Any], size: int, make: Callable[[Sequence[Any]], Any]) -> Iterator[Any]:
        """What `make` gives, in JSON's types, of each `size` items; a part is known by what its items are."""
        if not self.begun:
            begin(self.recipe, self.record, self.directory)
            self.begun = self.mode.interruption.resumable = True
        for part in (items[i : i + size] for i in range(0, len(items), size)):
            file = self.directory / f"{name}-{hashlib.sha256(json.dumps(part).encode()).hexdigest()[:32]}.json"
            if file.is_file():
                found = read_json(file)
                self.before_s += found.get("seconds", 0.0)
            else:
                start = time.monotonic()
                found = {name: make(part), "seconds": round(time.monotonic() - start, 3)}
                write_json(file, found)
            yield found[name]

    def drop(self) -> None:
        drop(self.directory)


@alone
def augment(recipe: Recipe, mode: RunMode) -> tuple[Path, dict[str, Any]]:
    """Make and label new rows (see `words.py`). Returns their directory and the content of its `augment.json`."""
    settings, start = recipe.augmentation, time.monotonic()
    if not recipe.task.kind.augmentable:
        raise UserError(f"task: the words of {a(recipe.task.kind.name)}'s rows cannot be replaced; train on the rows "
                        f"that there are")
    directory, unfinished = claim(recipe, AUGMENTED, mode)
    if mode.resume and any(unfinished.glob("*.json")):
        refuse_changed_recipe(recipe, unfinished)
    if settings.masked_lm is not None:
        resolve_model(settings.masked_lm)  # a missing package is told before anything is loaded
    source = teacher_of(recipe)
    device = this_device()
    teacher = load_teacher(source, recipe.task.kind).to(device)
    tokenizer = load_tokenizer(resolve_model(source), teacher.model.config, recipe.task.kind)
    # No new row may be a validation row, and not only one of those that this recipe evaluates on.
    everything = dataclasses.replace(recipe.data, validation_rows=None)
    names = labels_of(teacher.model.config)
    data = load_task_data(recipe.task, everything, model=names)
    for note in data.notes:
        console.print(f"note: {note}", markup=False)
    assert data.train is not None
    models = {"teacher": source, **({"masked_lm": settings.masked_lm} if settings.masked_lm else {})}
    record = record_of(recipe, data, {key: model_record(name, directory) for key, name in models.items()})
    refuse_other_teacher(recipe, record)
    kept = Kept(recipe, record, unfinished, mode)
    some = data.train.shuffle(seed=recipe.data.seed).select(range(min(SAMPLE_ROWS, len(data.train))))
    positions = max_positions(teacher.model.config)
    sample, _ = tokenize(some, data.task, tokenizer, recipe.data.max_length, "training", positions)
    check_teacher(teacher, data, sample, tokenizer, recipe.data.seed)
    originals = _labelled(data, data.train)
    held_out = {suffix: _labelled(data, rows) for suffix, rows in data.validation.items()}
    rows = [texts for texts, _ in originals]
    bf16 = bool(recipe.stages["width"].training.get("bf16"))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        slots = _slots({text for row in rows for text in row}, recipe, teacher, tokenizer, kept)
        made = list(new_rows(rows, slots, settings, [texts for some in held_out.values() for texts, _ in some]))
        if not made:
            kept.drop()
            raise UserError(f"no word of the {len(rows):,} training rows can be replaced; there is nothing to augment")
        labels = _teacher_labels(teacher, tokenizer, data, [row for _, row in made], recipe.data.max_length, kept)
    about: dict[str, Any] = {
        "task": data.task.name,
        **{key: public_name(name) for key, name in models.items()},
        **{key: value for key, value in dataclasses.asdict(settings).items() if key != "masked_lm"},
        "rows": {"original": len(rows), "new": len(made)},
    }
    about |= data.task.kind.relabelled(data.label_names, [originals[origin][1] for origin, _ in made], labels)
    train = [*originals, *zip((row for _, row in made), labels, strict=True)]
    with new_directory(directory, RESULTS[AUGMENTED], mode.overwrite or mode.resume) as temporary:
        _write(temporary / "train.jsonl", data, train)
        for suffix, some in {} if _has_files(recipe.data) else held_out.items():
            _write(temporary / f"validation{suffix}.jsonl", data, some)
        back = _read_back(temporary / "train.jsonl", recipe, data, train, names)
        augmented = {"augmented": rows_record(back)}
        write_record(temporary, recipe, {**record, **augmented}, directory)
        seconds = kept.before_s + time.monotonic() - start
        write_json(temporary / "augment.json", {**about, "seconds": round(seconds, 1)})
    kept.drop()
    return directory, about


def overrides(recipe: Recipe) -> list[str]:
    """What `--set` must say for a recipe to train on its augmented rows and be judged by the same rows as before."""
    directory = recipe.output_dir / AUGMENTED
    files = sorted(directory.glob("validation*.jsonl"))
    return _overrides(recipe.data, directory, [file.stem.removeprefix("validation") for file in files])


def _labelled(data: TaskData, rows: Dataset) -> list[Labelled]:
    texts = zip(*(rows[name][:] for name in data.task.text_columns), strict=True)
    return list(zip(texts, rows["label"][:], strict=True))


def _slots(
    texts: Collection[str], recipe: Recipe, teacher: Supernet, tokenizer: PreTrainedTokenizerBase, kept: Kept
) -> Slots:
    """What may change in each text, by the recipe's masked language model or else by the teacher's embeddings."""
    settings = recipe.augmentation
    if settings.masked_lm is None:
        embeddings = teacher.model.get_input_embeddings()
        assert isinstance(embeddings, torch.nn.Embedding)
        return neighbour_slots(sorted(texts), tokenizer, embeddings.weight.cpu(), settings)
    source = resolve_model(settings.masked_lm)
    model = load_masked_lm(source)
    own = load_tokenizer(source, model.config)
    if own.mask_token is None:
        raise UserError(f"augmentation.masked_lm: the tokenizer of {settings.masked_lm} has no mask token")
    model.to(next(teacher.parameters()).device)  # type: ignore[arg-type]
    ordered = sorted(texts, key=lambda text: (-len(text), text))  # the longest first: an ETA that only gets better
    slots: Slots = {}
    with progress("the language model's candidates", len(ordered)) as told:

        def candidates(part: Sequence[str]) -> Slots:
            def at(done: int, total: int) -> None:
                told(completed=len(slots) + len(part) * done / total)

            return masked_slots(part, own, model, settings, at)

        for found in kept.parts("candidates", ordered, PART_TEXTS, candidates):
            slots |= {text: [Slot(*slot) for slot in some] for text, some in found.items()}
            told(completed=len(slots))
    return slots


def _teacher_labels(
    teacher: Supernet,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    rows: Sequence[Row],
    max_length: int,
    kept: Kept,
) -> list[Any]:
    """The teacher's answer for each row, such as a class id."""
    labels: list[Any] = []
    kind = data.task.kind
    with progress(f"the teacher labels {len(rows):,} new rows", len(rows)) as told:

        def label(part: Sequence[Row]) -> list[Any]:
            columns = dict(zip(data.task.text_columns, map(list, zip(*part, strict=True)), strict=True))
            dataset, positions = Dataset.from_dict(columns), max_positions(teacher.model.config)
            tokens, _ = tokenize(dataset, data.task, tokenizer, max_length, "new", positions)
            if not labels:  # told once
                warn_of_unknown(tokens, tokenizer, "new")
            batches = batches_of(tokens, kind, tokenizer, BATCH_SIZE)
            (outputs,), _ = predict(teacher, [teacher.whole], kind, batches, on_batch=partial(told, advance=BATCH_SIZE))
            if not all(np.isfinite(array).all() for array in outputs.values()):
                raise UserError("the teacher's outputs are not finite numbers, so it cannot label anything")
            return list(kind.answers(outputs)[np.argsort(longest_first(tokens))].tolist())

        for some in kept.parts("labels", rows, PART_ROWS, label):
            labels += some
            told(completed=len(labels))
    return labels


def _write(file: Path, data: TaskData, rows: Sequence[Labelled]) -> None:
    """JSON lines, which hold any text; labels as the original data write them, so that files can be mixed."""
    with file.open("w", encoding="utf-8") as out:
        for texts, label in rows:
            row: dict[str, Any] = dict(zip(data.task.text_columns, texts, strict=True))
            row |= data.task.kind.written(data.task, label, data.labels)
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _read_back(
    file: Path, recipe: Recipe, data: TaskData, rows: Sequence[Labelled], names: ModelLabels
) -> Dataset:
    """What the stages will read from the file, which must be what was meant, class by class."""
    back = load_task_data(recipe.task, DataSource(train=str(file)), ("train",), model=names).train
    if back is None or _labelled(data, back) != list(rows):
        written = listed(data.labels.written) if data.labels else f"of {a(data.task.kind.name)}"
        raise UserError(f"the labels {written} would be read as others from a file; say which is which in task.labels")
    return back


def _has_files(source: DataSource) -> bool:
    """Whether the validation rows are files of the user's, which stay as they are."""
    return source.hub is None and source.validation_share is None


def _overrides(source: DataSource, directory: Path, suffixes: Sequence[str]) -> list[str]:
    result = [f"data.train={directory / 'train.jsonl'}"]
    if source.train_rows is not None:
        result.append("data.train_rows=null")
    if not _has_files(source):
        result += [f"data.{key}=null" for key in ("hub", "validation_share") if getattr(source, key) is not None]
        result += [f"data.validation{suffix}={directory}/validation{suffix}.jsonl" for suffix in suffixes]
    return result
