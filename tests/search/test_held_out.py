"""Rows of the search, of the choice and of validation have nothing in common, and what is said of them is true."""

import dataclasses

import pytest
from conftest import write_rows
from search_world import made_supernet

from dynackd.data.origins import rows_record
from dynackd.search.held_out import hold_out
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json, write_json
from dynackd.tasks.loading import load_task_data, taken
from dynackd.training.recipe import load_recipe


@pytest.fixture(scope="module")
def supernet_directory(tmp_path_factory):
    """Trained on 100 of 400 rows."""
    return made_supernet(tmp_path_factory.mktemp("supernet"), train_rows=100)


def held(directory, rows=32, seed=0, **data):
    recipe = load_recipe(directory / "recipe.yaml")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data))
    supernet, tokenizer = load_supernet(directory)
    return hold_out(directory, recipe, supernet, tokenizer, rows, seed), recipe


def texts(recipe, places):
    every = load_task_data(recipe.task, dataclasses.replace(recipe.data, train_rows=None), ("train",)).train
    return [every[int(place)]["sentence"] for place in places]


def test_the_rows_are_those_that_the_supernet_has_not_seen(supernet_directory):
    found, recipe = held(supernet_directory)
    trained, _ = taken(400, 100, recipe.data.seed)
    assert found.trained_on is False
    assert not {*found.places["search"], *found.places["choice"]} & set(trained.tolist())
    assert len(found.search) == 32
    assert len(found.choice) == 128


@pytest.mark.parametrize("bounded", [True, False])
def test_no_text_is_in_two_of_search_choice_and_validation(supernet_directory, bounded):
    """Short texts of few words repeat themselves, in a file and between files."""
    found, recipe = held(supernet_directory, **({} if bounded else {"train_rows": None}))
    search, choice = (set(texts(recipe, found.places[part])) for part in ("search", "choice"))
    validation = set(load_task_data(recipe.task, recipe.data, ("validation",)).validation[""]["sentence"])
    every = texts(recipe, range(400))
    assert len(set(every)) < len(every)
    assert set(every) & validation
    assert not search & choice
    assert not (search | choice) & validation
    if bounded:
        trained, _ = taken(400, 100, recipe.data.seed)
        assert not (search | choice) & set(texts(recipe, trained))


def test_a_supernet_that_has_seen_all_rows_is_told_to_have(tmp_path):
    found, _ = held(made_supernet(tmp_path, rows=300))
    assert found.trained_on is True
    assert "has trained on" in found.to_dict()["told"]
    assert len(found.search) == 32


def test_rows_whose_texts_were_imitated_without_labels_are_none_that_the_supernet_has_not_seen(tmp_path, capsys):
    """The rest of one's own texts beside few labels: all rows of a choice were among those that it was trained on."""
    place = made_supernet(tmp_path, train_rows=100, unlabelled=str(tmp_path / "others.tsv"))
    first, *lines = (tmp_path / "train.tsv").read_text().splitlines()
    write(tmp_path / "others.tsv", [first, *lines[150:]], place)
    found, recipe = held(place)
    trained, left = taken(400, 100, recipe.data.seed)
    assert found.trained_on is True, "too few are left"
    assert {*found.places["search"], *found.places["choice"]} <= set(trained.tolist())
    write(tmp_path / "others.tsv", [first, *lines[:150]], place)
    found, _ = held(place)
    assert found.trained_on is False
    seen = {line.split("\t")[0] for line in lines[:150]} | set(texts(recipe, trained))
    assert not seen & {*texts(recipe, found.places["search"]), *texts(recipe, found.places["choice"])}
    order = [spot for spot in left.tolist() if spot in {*found.places["search"].tolist()}]
    assert found.places["search"].tolist() == order, "in random order, not by where they stand in the file"
    (tmp_path / "others.tsv").write_text("\n".join([first, *lines[:140]]) + "\n")
    assert held(place)[0].trained_on is None, "the file is another than the supernet learned from"
    (tmp_path / "others.tsv").unlink()
    assert held(place)[0].trained_on is None
    assert "others.tsv:nosuchfile" in "".join(capsys.readouterr().out.split())


def write(file, lines, place):
    """Rows without labels, and that the supernet imitated its teacher on them."""
    file.write_text("\n".join(lines) + "\n")
    recipe = load_recipe(place / "recipe.yaml")
    rows = rows_record(load_task_data(recipe.task, recipe.data, ("train", "unlabelled")).unlabelled)
    write_json(place / "origin.json", {**read_json(place / "origin.json"), "unlabelled": rows})


def test_of_other_rows_than_the_training_s_nothing_is_claimed(supernet_directory, tmp_path):
    write_rows(tmp_path / "other.tsv", 300, 7)
    found, _ = held(supernet_directory, train=str(tmp_path / "other.tsv"))
    assert found.trained_on is None
    assert "not known" in found.to_dict()["told"]


def test_validation_rows_cut_off_the_training_rows_stay_out(tmp_path):
    place = made_supernet(tmp_path, rows=300, validation=None, validation_share=0.3)
    found, recipe = held(place)
    validation = set(load_task_data(recipe.task, recipe.data, ("validation",)).validation[""]["sentence"])
    train = load_task_data(recipe.task, recipe.data, ("train",)).train["sentence"]
    for part in found.places.values():
        assert not {train[int(place)] for place in part} & validation


def test_a_seed_draws_other_rows_of_those_that_were_trained_on(tmp_path):
    place = made_supernet(tmp_path, rows=300)
    one, same, other = (held(place, seed=seed)[0].places["search"].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_without_validation_rows_there_is_a_note_and_no_report(supernet_directory, capsys):
    found, _ = held(supernet_directory, validation="nowhere.tsv")
    assert not found.validation
    assert "no validation rows to report on" in " ".join(capsys.readouterr().out.split())


def test_the_rows_of_the_choice_come_in_blocks_too(supernet_directory):
    found, recipe = held(supernet_directory)
    assert [len(rows) for rows, _ in found.blocks] == [16] * 8
    words = [text for _, task in found.blocks for text in task.rows[""]["sentence"]]
    assert words == texts(recipe, found.places["choice"])
    few, _ = held(supernet_directory, rows=16)
    assert len(few.choice) == 64
    assert not few.blocks
