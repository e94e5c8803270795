"""What results were made from is recorded and compared, and nothing in them depends on where this machine keeps it."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny_model, tiny_recipe, tiny_tokenizer, write_recipe
from safetensors.torch import load_file, save_file

from dynackd import stages
from dynackd.cli import main
from dynackd.origins import located, portable, public_name
from dynackd.recipe import load_recipe
from dynackd.stages import RunMode
from dynackd.trainer import SupernetTrainer

STAGES = ("finetune", "train-width", "train-depth")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """All three stages, their results in `run`, with paths that are relative to the directory."""
    directory = tmp_path_factory.mktemp("origin") / "project"
    directory.mkdir()
    content = tiny_recipe(directory)
    content["training"] |= {"num_train_epochs": 1}
    content |= {"model": "encoder", "output_dir": "run"}
    content["data"] |= {"train": "train.tsv", "validation": "validation.tsv"}
    write_recipe(directory, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for command in STAGES:
            assert main([command, "recipe.yaml"]) == 0
        size = ["--width", "0.5", "--depth", "0.5"]
        assert main(["export", "run/depth", *size, "--with-code", "--int8", "--fp16", "--output", "student"]) == 0
        assert main(["export", "run/depth", *size, "--compat", "--graph", "dynamo", "--output", "stock"]) == 0
    return directory


@pytest.fixture
def project(road, tmp_path, monkeypatch):
    """A copy of all of it, which is the working directory."""
    place = tmp_path / "project"
    shutil.copytree(road, place)
    monkeypatch.chdir(place)
    return place


# --- made from something else ----------------------------------------------------------------------------------------


def other_weights(directory):
    file = Path(directory) / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 1e-3}, file, {"format": "pt"})


def other_encoder(project):
    tiny_model(seed=5).bert.save_pretrained(project / "better")
    tiny_tokenizer().save_pretrained(project / "better")


def one_word(project):
    file = project / "train.tsv"
    header, first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([header, first.replace("\t", " day\t"), *rest]) + "\n")


def other_order(project):
    file = project / "train.tsv"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(rows)]) + "\n")


def one_row_less(project):
    file = project / "train.tsv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")


def other_file_name(project):
    (project / "train.tsv").rename(project / "renamed.tsv")


def moved_encoder(project):
    (project / "encoder").rename(project / "elsewhere")


def nothing(project):
    pass


REFUSED = [
    ("train-width", other_encoder, "model=better", "the model was encoder, is better"),
    ("train-width", lambda project: other_weights("encoder"), "", "the model encoder has other weights"),
    ("train-width", one_word, "", "the 48 training rows are others or in another order"),
    ("train-width", other_order, "", "the 48 training rows are others or in another order"),
    ("train-width", one_row_less, "", "the training rows were 48, are 47"),
    ("train-width", nothing, "data.train_rows=20", "the training rows were 48, are 20"),
    ("train-width", nothing, "data.max_length=12", "max_length was 16, is 12"),
    ("train-depth", other_encoder, "model=better", "the model was encoder, is better"),
    ("train-depth", lambda project: other_weights("run/teacher"), "", "the teacher teacher has other weights"),
    ("train-depth", one_word, "", "the 48 training rows are others or in another order"),
    ("train-depth", one_row_less, "", "the training rows were 48, are 47"),
    ("train-depth", nothing, "data.max_length=12", "max_length was 16, is 12"),
]
LATER = {"train-width": ("width", "depth"), "train-depth": ("depth",)}


def run(command, *settings, options=()):
    changes = [part for setting in settings if setting for part in ("--set", setting)]
    return main([command, "recipe.yaml", *changes, *options])


@pytest.mark.parametrize(("command", "change", "setting", "message"), REFUSED)
def test_a_stage_refuses_what_was_made_from_something_else_and_names_the_ways_out(
    project, capsys, command, change, setting, message
):
    for name in LATER[command]:
        shutil.rmtree(project / "run" / name)
    change(project)
    capsys.readouterr()
    assert run(command, setting) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "--overwrite" in printed
    assert printed.count(", or ") == 1, "two ways out"
    assert not (project / "run" / LATER[command][0]).exists()


PASSES = [
    ("train-width", nothing, "training.learning_rate=2e-3"),
    ("train-width", other_file_name, "data.train=renamed.tsv"),
    ("train-width", moved_encoder, "model=elsewhere"),
    ("train-width", other_encoder, "teacher=run/teacher"),
    ("train-depth", nothing, "training.logging_steps=1"),
    ("train-depth", other_file_name, "data.train=renamed.tsv"),
]


@pytest.mark.parametrize(("command", "change", "setting"), PASSES)
def test_what_makes_no_result_a_stranger_is_let_through(project, command, change, setting):
    for name in LATER[command]:
        shutil.rmtree(project / "run" / name)
    change(project)
    assert run(command, setting) == 0


def test_the_first_way_out_leads_out(project):
    one_word(project)
    for command in STAGES:
        assert run(command, options=["--overwrite"]) == 0


@pytest.fixture
def unfinished(project, monkeypatch):
    """A width stage that died after half of its steps."""
    for name in LATER["train-width"]:
        shutil.rmtree(project / "run" / name)
    step = SupernetTrainer.training_step

    def killed(self, *arguments, **options):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SupernetTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            stages.train_width(load_recipe(Path("recipe.yaml")), RunMode())
    return project


@pytest.mark.parametrize("change", [one_word, other_order, lambda project: other_weights("run/teacher")])
def test_resuming_on_other_rows_or_with_another_teacher_is_refused(unfinished, capsys, change):
    change(unfinished)
    capsys.readouterr()
    assert run("train-width", options=["--resume"]) == 2
    assert not (unfinished / "run" / "width").exists()
    assert "undo" in capsys.readouterr().err.replace("or --set teacher", "undo")


def test_an_unfinished_run_that_was_moved_with_its_project_resumes_to_the_very_same_weights(
    unfinished, road, monkeypatch
):
    moved = unfinished.rename(unfinished.with_name("moved"))
    monkeypatch.chdir(moved.parent)
    changes = ["model=moved/encoder", "output_dir=moved/run", "data.train=moved/train.tsv"]
    options = [part for change in [*changes, "data.validation=moved/validation.tsv"] for part in ("--set", change)]
    assert main(["train-width", "moved/recipe.yaml", "--resume", *options]) == 0
    weights = [load_file(place / "run" / "width" / "model.safetensors") for place in (road, moved)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_evaluating_with_another_teacher_is_refused_unless_it_is_named(project, capsys):
    other_weights("run/teacher")
    assert main(["evaluate", "run/depth"]) == 2
    assert "other weights" in capsys.readouterr().err
    assert main(["evaluate", "run/depth", "--teacher", "run/teacher"]) == 0
    assert "other weights" in " ".join(capsys.readouterr().out.split())


# --- moved -----------------------------------------------------------------------------------------------------------


def all_renamed(project):
    return project.rename(project.with_name("other name")) / "run"


def run_renamed(project):
    return (project / "run").rename(project / "other run")


def run_copied_away(project):
    away = project.parent / "deep" / "down"
    shutil.copytree(project / "run", away / "run")
    for name in ("train.tsv", "validation.tsv"):
        (project / name).rename(away / name)
    shutil.rmtree(project)
    return away / "run"


@pytest.mark.parametrize("move", [all_renamed, run_renamed, run_copied_away])
def test_a_moved_run_is_evaluated_and_exported_from_anywhere_to_the_same_numbers(project, tmp_path, monkeypatch, move):
    before = json.loads((project / "run" / "depth" / "metrics.json").read_text())
    (tmp_path / "somewhere").mkdir()
    monkeypatch.chdir(tmp_path / "somewhere")
    moved = move(project)
    assert main(["evaluate", str(moved / "depth"), "--json", "table.json"]) == 0
    table = json.loads(Path("table.json").read_text())
    assert table["subnetworks"] == before["subnetworks"]
    assert table["teacher"] == before["teacher"]
    export = ["export", str(moved / "depth"), "--width", "0.5", "--depth", "0.5", "--validation"]
    assert main([*export, "--output", "student"]) == 0
    about = json.loads(Path("student/export.json").read_text())
    assert about["metrics"]["teacher"] == before["teacher"]["metrics"]


def test_the_next_stage_goes_on_in_a_renamed_project(project, monkeypatch):
    shutil.rmtree(project / "run" / "depth")
    moved = project.rename(project.with_name("renamed"))
    monkeypatch.chdir(moved)
    assert run("train-depth") == 0


def test_a_recipe_beside_a_result_can_be_run_from_anywhere(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(project / "run" / "depth")
    assert main(["train-depth", str(project / "run" / "width" / "recipe.yaml")]) == 0
    assert (project / "run" / "depth" / "model.safetensors").is_file()


def test_rows_that_stayed_behind_are_asked_for_by_the_setting_that_helps(project, tmp_path, capsys):
    (project / "validation.tsv").unlink()
    assert main(["evaluate", "run/depth"]) == 2
    assert "validation.tsv; name it with --set data.validation=FILE" in capsys.readouterr().err


def test_a_package_need_not_be_installed_to_evaluate_what_was_made_from_it(project):
    for name in ("teacher", "width", "depth"):
        file = project / "run" / name / "recipe.yaml"
        content = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**content, "model": "package:no_such_package/model"}))
    assert main(["evaluate", "run/depth"]) == 0
    assert main(["export", "run/depth", "--width", "0.5", "--validation", "--output", "again"]) == 0


# --- told to the world -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", ["run", "student", "stock"])
def test_no_file_tells_of_this_machine(road, made):
    secrets = [str(road.parent), str(Path.home()) + "/", os.path.dirname(stages.__file__)]
    secrets += [socket.gethostname()] if len(socket.gethostname()) > 8 else []
    files = [file for file in (road / made).rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, (file, secret)


def test_a_student_names_its_teacher_by_name_and_hash_alone(road):
    about = json.loads((road / "student" / "export.json").read_text())
    config = json.loads((road / "student" / "config.json").read_text())
    origin = json.loads((road / "run" / "width" / "origin.json").read_text())
    assert about["teacher"] == config["dynackd"]["teacher"] == "teacher"
    assert about["teacher_sha256"] == config["dynackd"]["teacher_sha256"] == origin["teacher"]["sha256"]


def test_places_are_told_relative_to_the_file_that_tells_them(tmp_path):
    assert portable(tmp_path / "run" / "teacher", tmp_path / "run" / "depth") == "../teacher"
    assert portable(tmp_path / "run" / "depth" / "x", tmp_path / "run" / "depth") == "./x"
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    assert located("../teacher", tmp_path / "run" / "depth") == str(tmp_path / "run" / "teacher")
    assert public_name("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert public_name(str(tmp_path / "run" / "teacher")) == "teacher"
