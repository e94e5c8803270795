"""Every mistake in `tests/bad_inputs/` ends in its one sentence and exit code 2, and leaves every file as it was."""

import re
import shutil

import pytest
from bad_inputs import all_cases
from conftest import tiny_recipe, write_recipe

from dynackd.cli.command_line import main

CASES = all_cases()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What `bad_inputs/__init__.py` promises."""
    directory = tmp_path_factory.mktemp("world")
    content = tiny_recipe(directory)
    recipe = str(write_recipe(directory, content))
    for command in ("finetune", "train-width", "train-depth"):
        assert main([command, recipe, "--set", "training.num_train_epochs=1"]) == 0
    size = ["--width", "0.5", "--depth", "0.5", "--output", str(directory / "student")]
    assert main(["export", str(directory / "run" / "depth"), *size]) == 0
    return directory


def files(directory):
    """Content of every file, so that a change of any is seen."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def pattern(sentence, directory):
    whole = re.escape(f"dynackd: {sentence}\n".replace("{d}", str(directory)))
    return whole.replace(re.escape("..."), "[^\n]+")


@pytest.mark.parametrize(("area", "case"), CASES, ids=[f"{area}: {case.name}" for area, case in CASES])
def test_a_mistake_is_one_whole_sentence_and_changes_nothing(world, tmp_path, capsys, monkeypatch, area, case):
    directory = tmp_path / "d"
    shutil.copytree(world, directory)
    recipe = (directory / "recipe.yaml").read_text().replace(str(world), str(directory))
    (directory / "recipe.yaml").write_text(recipe)
    (directory / "fresh.yaml").write_text(recipe.replace(f"{directory}/run", f"{directory}/fresh"))
    monkeypatch.chdir(directory)
    case.change(directory)
    before = files(directory)
    capsys.readouterr()
    code = main([argument.replace("{d}", str(directory)) for argument in case.arguments.split()])
    printed = capsys.readouterr()
    assert code == 2, printed
    assert re.fullmatch(pattern(case.sentence, directory), printed.err), printed.err
    assert "Traceback" not in printed.out
    after = files(directory)
    assert after.keys() == before.keys()
    assert after == before


def test_the_table_is_as_long_as_promised():
    assert len(CASES) >= 100
    assert len({(area, case.name) for area, case in CASES}) == len(CASES)
