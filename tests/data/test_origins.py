"""The command line beside `test_lineage.py`: the ways out, a recipe beside a result, what a student tells the world."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import tiny_recipe, write_recipe
from safetensors.torch import load_file, save_file

from dynackd.cli.command_line import main
from dynackd.data.origins import located, portable, public_name

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
        assert main(["export", "run/depth", "--width", "0.5", "--depth", "0.5", "--output", "student"]) == 0
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


def one_word(project):
    file = project / "train.tsv"
    header, first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([header, first.replace("\t", " day\t"), *rest]) + "\n")


def test_the_first_way_out_leads_out(project):
    one_word(project)
    for command in STAGES:
        assert main([command, "recipe.yaml", "--overwrite"]) == 0


def test_evaluating_with_another_teacher_is_refused_unless_it_is_named(project, capsys):
    other_weights("run/teacher")
    assert main(["evaluate", "run/depth"]) == 2
    assert "other weights" in capsys.readouterr().err
    assert main(["evaluate", "run/depth", "--teacher", "run/teacher"]) == 0
    assert "other weights" in " ".join(capsys.readouterr().out.split())


# --- moved -----------------------------------------------------------------------------------------------------------


def test_a_recipe_beside_a_result_can_be_run_from_anywhere(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(project / "run" / "depth")
    assert main(["train-depth", str(project / "run" / "width" / "recipe.yaml")]) == 0
    assert (project / "run" / "depth" / "model.safetensors").is_file()


def test_rows_that_stayed_behind_are_asked_for_by_the_setting_that_helps(project, tmp_path, capsys):
    (project / "validation.tsv").unlink()
    assert main(["evaluate", "run/depth"]) == 2
    assert "validation.tsv; name it with --set data.validation=FILE" in capsys.readouterr().err


# --- told to the world -----------------------------------------------------------------------------------------------


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
