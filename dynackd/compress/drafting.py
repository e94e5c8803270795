"""The recipe, from a model and a file of rows: what was guessed, and what is decided by looking at the rows."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from dynackd.compress.guess import guess_task
from dynackd.compress.request import Request
from dynackd.compress.teaching import OtherTeacher
from dynackd.data.model_labels import labels_of
from dynackd.data.origins import is_place
from dynackd.data.sources import OTHERS
from dynackd.errors import UserError
from dynackd.families.table import geometry_of, max_positions
from dynackd.supernet.checkpoints import load_model_config
from dynackd.tasks.kind import Kind
from dynackd.tasks.loading import TaskData, load_task_data, taken
from dynackd.tasks.tokens import tokenize
from dynackd.training.recipe import Recipe, apply_overrides, load_recipe, make_recipe
from dynackd.training.teachers import say_the_same

MOST_TOKENS, STEP_OF_TOKENS, OF_ROWS = 128, 8, 0.99  # where texts are cut: this share of the rows stays whole
LOOKED_AT = 2000  # rows whose lengths are looked at
HELD_OUT, FEWEST, MOST, MOST_SHARE = 0.1, 200, 2000, 0.2  # share of the rows to validate on, rows, and their share


# Of the training rows, the share and the most that the search is left to judge by, if that makes `TOO_FEW` or more.
LEFT_SHARE, LEFT, TOO_FEW = 0.1, 1280, 500
UNIFORM = "uniform"  # of `distill/matching.py`: what a teacher of another depth needs


@dataclass
class Draft:
    """A recipe while it is made. decided: what is to be told of it, in lines; comments: for its keys."""

    recipe: Recipe
    decided: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)

    def set(self, changes: Mapping[str, Any]) -> None:
        """`changes`: a key such as `data.max_length` -> its value."""
        content = copy.deepcopy(dict(self.recipe.content))
        for name, value in changes.items():
            *parents, last = name.split(".")
            place = content
            for parent in parents:
                place[parent] = dict(place.get(parent) or {})
                place = place[parent]
            place[last] = value
        self.recipe = replace(make_recipe(content), file=self.recipe.file)

    def decide(self, key: str, value: Any, why: str) -> None:
        """Set a key, for a reason that is told and written above its section."""
        self.set({key: value})
        self.decided.append(why)
        section = key.partition(".")[0]
        self.comments[section] = "\n".join(filter(None, [self.comments.get(section), why]))

    def says(self, key: str) -> bool:
        """Whether the recipe says a key of a section, such as `data.max_length`."""
        section, _, name = key.partition(".")
        return name in (self.recipe.content.get(section) or {})


def first_draft(request: Request, output: Path, config: PreTrainedConfig) -> Draft:
    """The recipe that is named, or one that is guessed from the rows and the config of the model."""
    if request.is_recipe:
        place = f"output_dir={json.dumps(str(output), ensure_ascii=False)}"  # a text in JSON's quotes is one in YAML's
        return Draft(load_recipe(Path(request.model), [*request.overrides, place]))
    assert request.data is not None
    guess = guess_task(request.data, request.said, config, (config.architectures or [""])[0])
    models = {"model": request.model, "teacher": request.teacher}
    files = {"validation": request.validation, OTHERS: list(request.unlabelled)}
    content = {
        **{key: str(Path(own).expanduser()) if is_place(own) else own for key, own in models.items() if own},
        "task": dict(guess.task),
        "data": {"train": request.data, **{key: own for key, own in files.items() if own}},
        "output_dir": str(output),
    }
    try:
        draft = Draft(make_recipe(apply_overrides(content, request.overrides)))
    except UserError as error:
        raise UserError(f"--set: {error}" if request.overrides else str(error)) from error
    told = f"{Path(request.data).name} is read as {guess}"
    draft.decided.append(told)
    draft.comments["task"] = f"{told}.\nWhat is meant otherwise: --kind, --text and --label, or change it here."
    return draft


def hold_out(draft: Draft) -> None:
    """Where no rows to validate on are named, a part of the training rows becomes such."""
    data = draft.recipe.data
    if data.hub or data.validation or data.validation_share:
        return
    loaded = load_task_data(draft.recipe.task, data, ("train",))
    assert loaded.train is not None
    rows, alike = len(loaded.train), ", of every label alike" if loaded.labels is not None else ""
    share = min(MOST_SHARE, max(min(HELD_OUT, MOST / rows), FEWEST / rows))
    share = math.ceil(share * 1000) / 1000
    draft.decide(
        "data.validation_share",
        share,
        f"no --validation, so {share:.1%} of the {rows:,} rows are held out to validate on{alike} (seed {data.seed})",
    )


def leave_rows(draft: Draft, data: TaskData) -> TaskData:
    """Of many rows some are not trained on: what a size keeps of the full network's metric is too much on rows that
    both know. A recipe that the user wrote stays as it is."""
    assert data.train is not None
    rows, source = len(data.train), draft.recipe.data
    left = min(LEFT, int(LEFT_SHARE * rows))
    if draft.recipe.file or source.train_rows is not None or left < TOO_FEW:
        return data
    why = f"{left:,} of the {rows:,} training rows are not trained on: sizes are judged by them"
    draft.decide("data.train_rows", rows - left, why)
    return replace(data, train=data.train.select(taken(rows, rows - left, source.seed)[0]))


def teacher_or_not(recipe: Recipe, source: str, config: PreTrainedConfig) -> tuple[bool, TaskData]:
    """(whether the model must be fine-tuned before it can teach, the rows with the labels that fit it). A model whose
    head has as many outputs as the rows have labels is the teacher, and one whose labels do not fit is refused. A bare
    encoder is an embedder's teacher only where no rows tell which texts are near."""
    kind, task, splits = recipe.task.kind, recipe.task, ("train", "validation")
    ready = kind.can_teach(config, source) or (kind.has_head("") and not kind.can_finetune(task))
    if recipe.teacher is not None:
        _refuse_headless(recipe.teacher, config, kind)
    if recipe.teacher is not None or ready:
        own = labels_of(load_model_config(source))
        try:
            return False, load_task_data(task, recipe.data, splits, own)
        except UserError:
            data = load_task_data(task, recipe.data, splits)
            if recipe.teacher is not None or len(data.label_names) == len(own.names):
                raise
            return True, data
    return True, load_task_data(task, recipe.data, splits)


def start_or_not(draft: Draft, source: str, config: PreTrainedConfig, other: OtherTeacher) -> tuple[bool, TaskData]:
    """(whether the model must be fine-tuned before it can learn from a teacher of another shape, the rows with the
    labels that fit that). A model whose outputs are the teacher's already is what the supernet starts from."""
    task = draft.recipe.task
    _refuse_headless(other.source, other.config, task.kind)
    data = load_task_data(task, draft.recipe.data, ("train", "validation"), other.labels)
    layers = geometry_of(config).layers, other.geometry.layers
    if layers[0] != layers[1] and not draft.says("distillation.matching"):
        why = f"the teacher has {layers[1]} layers and the model {layers[0]}: they match by their relative depth"
        draft.decide("distillation.matching", UNIFORM, why)
    ready = task.kind.can_teach(config, source) or (task.kind.has_head("") and not task.kind.can_finetune(task))
    same = say_the_same(task.kind, labels_of(load_model_config(source)).names, other.labels.names)
    return not (ready and same), data


def _refuse_headless(teacher: str, config: PreTrainedConfig, kind: Kind) -> None:
    if not kind.has_head(own := (config.architectures or [""])[0]):
        raise UserError(f"the teacher {teacher} is no fine-tuned {kind.noun} ({own or 'nothing'}); name one that is")


def cut_texts(draft: Draft, data: TaskData, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Where a recipe does not say it, texts are cut where nearly all rows are whole: a step costs by the longest."""
    if draft.says("data.max_length"):
        return
    assert data.train is not None
    most = min(MOST_TOKENS, max_positions(config))
    some = data.train.shuffle(seed=draft.recipe.data.seed).select(range(min(LOOKED_AT, len(data.train))))
    lengths = tokenize(some, data.task, tokenizer, most, max_positions=max_positions(config))[0]["length"][:]
    needed = float(np.quantile(np.asarray(lengths), OF_ROWS))
    length = min(most, STEP_OF_TOKENS * math.ceil(needed / STEP_OF_TOKENS))
    whole = float((np.asarray(lengths) < most).mean()) if length == most else OF_ROWS
    draft.decide(
        "data.max_length", length, f"texts are cut at {length} tokens (data.max_length), which leaves {whole:.0%} whole"
    )


def check_grid(draft: Draft, config: PreTrainedConfig) -> None:
    """Sizes of the usual grid that are the same network here, as in an encoder of two layers, are left out; `UserError`
    where a recipe says them."""
    geometry = geometry_of(config)
    for key, shares in draft.recipe.grid.distinct(geometry).items():
        if not draft.says(key):
            of = {"grid.widths": f"{geometry.heads} heads", "grid.depths": f"{geometry.layers} layers"}[key]
            draft.decide(key, shares, f"{key} is {shares}: of {of} there are no more sizes")
    draft.recipe.grid.supposed(geometry).subnets(geometry)
