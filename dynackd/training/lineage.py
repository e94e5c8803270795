"""What a recipe's results were made from, and whether that is what the recipe names now.

A stage writes its record into its unfinished run and into its result; the next stage, `--resume` and `compress`
compare theirs with it before they train. A changed learning rate makes no result a stranger; other rows, another
model, teacher, task or length do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynackd.data.origins import ORIGIN_FILE, Record, differences, original_rows, read_origin, rows_record
from dynackd.data.sources import OTHERS
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.system.places import write_json
from dynackd.system.yamltext import read_yaml
from dynackd.tasks.loading import TaskData
from dynackd.training.recipe import Recipe, with_places
from dynackd.version import __version__

# What a result must have in common with the recipe whose next stage uses it.
SUPERNET = "supernet"  # the general one that a supernet began as
MODELS = ("model", "teacher", SUPERNET)
JOINED = "join"  # how it and the teacher met
INHERITED = (*MODELS, JOINED, "kind", "max_length", "training")


def record_of(
    recipe: Recipe, data: TaskData, models: Mapping[str, Record], grid: Grid | None = None
) -> dict[str, Any]:
    """The content of a result's `origin.json`; `models` are records of the models that it is made from, by what each is
    to it ("model", "teacher", "parent")."""
    record: dict[str, Any] = {"format": 1, "dynackd": __version__, **models}
    record |= {"kind": data.task.kind.name, "max_length": recipe.data.max_length, "labels": list(data.label_names)}
    if SUPERNET in models:
        record[JOINED] = recipe.join
    if grid is not None:
        record["grid"] = grid.to_dict()
    if data.train is not None:
        record["training"] = rows_record(data.train)
        record |= _augmentation_of(recipe, record["training"])
    if data.unlabelled is not None:
        record[OTHERS] = rows_record(data.unlabelled)
    record |= {f"validation{suffix}": rows_record(rows) for suffix, rows in data.validation.items()}
    return record


def _augmentation_of(recipe: Recipe, training: Record) -> dict[str, Any]:
    """Which rows the training rows were made from, if they are those that `dynackd augment` wrote."""
    if recipe.data.hub is not None or recipe.data.train is None:
        return {}
    about = read_origin(Path(recipe.data.train).expanduser().parent)
    ours = about.get("augmented", {}).get("sha256") == training["sha256"]
    return {"augmented_from": about["training"]} if ours else {}


def write_record(directory: Path, recipe: Recipe, record: Record, home: Path) -> None:
    """`recipe.yaml` and `origin.json` into `directory`, which is, or will be, at `home`."""
    (directory / "recipe.yaml").write_text(recipe.to_yaml(home), encoding="utf-8")
    write_json(directory / ORIGIN_FILE, record)


def refuse_other(directory: Path, now: Record, keys: Sequence[str], advice: str) -> None:
    """`UserError` where the result in `directory` was made from something else than `now` says; rows that dynackd
    augmented count as those that they were made from."""
    before = read_origin(directory)
    changed = differences(original_rows(before), original_rows(now), keys)
    changed += [other] if OTHERS in keys and (other := _other_rows(before, now)) else []
    if changed:
        what = ", ".join(changed)
        raise UserError(f"{directory} was made from something else than the recipe names: {what}; {advice}")


def refuse_other_models(directory: Path, now: Record, advice: str) -> None:
    """`UserError` where the supernet in `directory` has another teacher than `now` says, or began as another model."""
    refuse_other(directory, now, MODELS, advice)
    if other := _other_start(read_origin(directory), now):
        raise UserError(f"{directory} was made from something else than the recipe names: {other}; {advice}")


def _other_start(before: Record, now: Record) -> str:
    """In words, where only one of two supernets' records names a model beside the teacher, or a general supernet, as
    what it began as; the other began as its teacher."""
    starts = [
        next((key for key in (SUPERNET, "model") if record.get(key)), "teacher") if record.get("teacher") else ""
        for record in (before, now)
    ]
    if starts[0] == starts[1] or not all(starts):
        return ""
    was, now_is = (f"the {key} {record[key]['name']}" for key, record in zip(starts, (before, now), strict=True))
    return f"it began as {was}, and would begin as {now_is} now"


def _other_rows(before: Record, now: Record) -> str:
    """In words, where only one of two records has rows without labels; what tells of no rows at all tells nothing."""
    has = [record.get(OTHERS) is not None for record in (before, now)]
    if has[0] == has[1] or not all(record.get("training") for record in (before, now)):
        return ""
    return f"data.{OTHERS} was {'named, and is not' if has[0] else 'not named, and is'} now"


def refuse_changed_recipe(recipe: Recipe, checkpoints: Path) -> None:
    """A resumed run must follow the recipe that it began with, or its result is neither's. Where things lie does not
    count: what lies there does (`refuse_changed_content`)."""
    before = _without_places(read_yaml((checkpoints / "recipe.yaml").read_text(encoding="utf-8")))
    now = _without_places(recipe.content)
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise UserError(
            f"the recipe has changed since the run in {checkpoints} began (in {', '.join(changed)}); undo that to "
            "resume, or begin again with --overwrite"
        )


def refuse_changed_content(now: Record, checkpoints: Path) -> None:
    """A resumed run must go on with the very models and rows that it began with."""
    before = read_origin(checkpoints)
    changed = differences(before, now, [key for key in before if key not in ("format", "dynackd")])
    changed += [*filter(None, (_other_start(before, now), _other_rows(before, now)))]
    if changed:
        raise UserError(
            f"something has changed since the run in {checkpoints} began: {', '.join(changed)}; undo that to resume, "
            "or begin again with --overwrite"
        )


def _without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's mapping without what names files, models and data sets, and without what is empty."""
    result = with_places(content, lambda name: None, lambda name: None)
    data = result.get("data")
    result |= {"paths": None, "data": {**data, "hub": None} if isinstance(data, dict) else None}
    for key in ("data", "augmentation"):
        if isinstance(result.get(key), dict):
            result[key] = {name: value for name, value in result[key].items() if value is not None}
    return {key: value for key, value in result.items() if value not in (None, {})}
