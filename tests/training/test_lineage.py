"""What results record of where they come from: a mismatch is refused before any training, and nothing that a user did
not change is; a run that was moved, renamed or copied works and says the same; no result names this machine."""

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from conftest import tiny_model, tiny_recipe, tiny_tokenizer, write_recipe, write_rows
from datasets import Dataset
from safetensors.torch import load_file, save_file

from dynackd.cli.command_line import main
from dynackd.data.origins import located, portable, rows_record, weights_sha256
from dynackd.errors import UserError
from dynackd.training import stages
from dynackd.training.augment import augment, overrides
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.resumable import ResumableTrainer
from dynackd.training.runs import RunMode
from dynackd.training.teachers import refuse_other_result
from dynackd.training.trainer import SupernetTrainer

FRESH, AGAIN, RESUME = RunMode(), RunMode(overwrite=True), RunMode(resume=True)


def relative_recipe(directory):
    """As a person writes it: every path relative to the working directory."""
    content = tiny_recipe(directory)
    data = {**content["data"], "train": "train.tsv", "validation": "validation.tsv"}
    training = {**content["training"], "num_train_epochs": 1}
    return {**content, "model": "./encoder", "data": data, "output_dir": "run", "training": training}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A working directory with data, an encoder, a recipe and everything that a run makes."""
    directory = tmp_path_factory.mktemp("origins") / "work"
    directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        path = str(write_recipe(directory, relative_recipe(directory)))
        for command in ("finetune", "train-width", "train-depth"):
            assert main([command, path]) == 0
    return directory


@pytest.fixture
def copied(work, tmp_path, monkeypatch):
    """A copy of it as the working directory."""
    shutil.copytree(work, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def scale(weights, factor=1.01):
    save_file({name: tensor * factor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})


def killed(monkeypatch, command, recipe, stop=3):
    """Run a stage that dies at a step."""
    whole = SupernetTrainer.training_step

    def dies(self, *arguments, **options):
        if self.state.global_step == stop:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SupernetTrainer, "training_step", dies)
        with pytest.raises(KeyboardInterrupt):
            command(recipe, AGAIN)


@pytest.fixture
def no_training(monkeypatch):
    def train(*_arguments, **_options):
        raise AssertionError("a stage trained")

    monkeypatch.setattr(ResumableTrainer, "train", train)
    monkeypatch.setattr(SupernetTrainer, "train", train)


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_each_result_records_what_it_was_made_from_by_content(work):
    names = ("teacher", "width", "depth")
    read = {name: json.loads((work / "run" / name / "origin.json").read_text()) for name in names}
    hashes = {
        name: hashlib.sha256((work / place / "model.safetensors").read_bytes()).hexdigest()
        for name, place in (("encoder", "encoder"), ("teacher", "run/teacher"), ("width", "run/width"))
    }
    assert read["teacher"]["model"]["sha256"] == hashes["encoder"]
    assert read["width"]["teacher"]["sha256"] == read["depth"]["teacher"]["sha256"] == hashes["teacher"]
    assert read["depth"]["parent"]["sha256"] == hashes["width"]
    config = json.loads((work / "run" / "depth" / "config.json").read_text())["dynackd"]
    assert (config["teacher"], config["teacher_sha256"]) == ("../teacher", hashes["teacher"])
    assert (config["parent"], config["parent_sha256"]) == ("../width", hashes["width"])
    rows = [line.rsplit("\t", 1) for line in (work / "train.tsv").read_text().splitlines()[1:]]
    lines = "".join(json.dumps([text, int(label)]) + "\n" for text, label in rows)
    for record in read.values():
        assert record["training"] == {"rows": 48, "sha256": hashlib.sha256(lines.encode()).hexdigest()}
        assert record["max_length"] == 16


def test_a_fingerprint_of_rows_is_of_texts_and_labels_in_order_however_they_are_stored():
    rows = {"text": [f"row {i}" for i in range(2500)], "label": [i % 3 for i in range(2500)]}
    whole = rows_record(Dataset.from_dict(rows))
    parts = Dataset.from_dict({key: values[::-1] for key, values in rows.items()}).select(range(2499, -1, -1))
    assert rows_record(parts) == whole
    others = [
        {**rows, "label": [*rows["label"][:-1], 2 - rows["label"][-1] or 1]},
        {**rows, "text": ["row 0 ", *rows["text"][1:]]},
        {key: [values[1], values[0], *values[2:]] for key, values in rows.items()},
        {key: values[:-1] for key, values in rows.items()},
    ]
    assert all(rows_record(Dataset.from_dict(other))["sha256"] != whole["sha256"] for other in others)


# --- what is refused: (what changed) x (command) ---------------------------------------------------------------------


def other_model(directory):
    shutil.copytree(directory / "encoder", directory / "better")
    scale(directory / "better" / "model.safetensors")
    return {"model": "./better"}


def other_weights_under_the_same_name(directory):
    scale(directory / "encoder" / "model.safetensors")
    return {}


def other_rows(directory):
    write_rows(directory / "train.tsv", 40, 7)
    return {}


def other_order(directory):
    header, first, *rest = (directory / "train.tsv").read_text().splitlines(keepends=True)
    (directory / "train.tsv").write_text("".join([header, *rest, first]))
    return {}


def other_labels(directory):
    text = (directory / "train.tsv").read_text()
    (directory / "train.tsv").write_text(text.replace("\t0", "\t2").replace("\t1", "\t0").replace("\t2", "\t1"))
    return {}


def fewer_rows(directory):
    return {"data": {**relative_recipe(directory)["data"], "train_rows": 40}}


def other_length(directory):
    return {"data": {**relative_recipe(directory)["data"], "max_length": 12}}


def teacher_again(directory):
    scale(directory / "run" / "teacher" / "model.safetensors")
    return {}


def teacher_named(directory):
    shutil.copytree(directory / "run" / "teacher", directory / "own")
    scale(directory / "own" / "model.safetensors")
    return {"teacher": "./own"}


MODEL = r"run/teacher was made from .*the model was encoder, is better; run dynackd finetune with --overwrite, or --set"
WEIGHTS = r"run/teacher was made from .*the model encoder has other weights; run dynackd finetune"
ROWS = r"run/teacher was made from .*the training rows were 48, are 40; run dynackd finetune with --overwrite, or --set"
SAME_COUNT = r"run/teacher was made from .*the 48 training rows are others or in another order; run dynackd finetune"
LENGTH = r"run/teacher was made from .*max_length was 16, is 12; run dynackd finetune"
WIDTH = r"run/width was made from .*the teacher {}; run dynackd train-width with --overwrite, or undo the change"
CHANGES = [
    (other_model, MODEL, MODEL),
    (other_weights_under_the_same_name, WEIGHTS, WEIGHTS),
    (other_rows, ROWS, ROWS),
    (other_order, SAME_COUNT, SAME_COUNT),
    (other_labels, SAME_COUNT, SAME_COUNT),
    (fewer_rows, ROWS, ROWS),
    (other_length, LENGTH, LENGTH),
    (teacher_again, None, WIDTH.format("teacher has other weights")),
    (teacher_named, None, WIDTH.format("was teacher, is own")),
]
PAIRS = [
    (change, command, message)
    for change, width, depth in CHANGES
    for command, message in (("train_width", width), ("augment", width), ("train_depth", depth))
    if message is not None
]


@pytest.mark.parametrize(
    ("change", "command", "message"), PAIRS, ids=[f"{change.__name__}-{command}" for change, command, _ in PAIRS]
)
def test_a_result_made_from_something_else_is_refused_before_any_training(
    copied, no_training, change, command, message
):
    recipe = make_recipe({**relative_recipe(copied), **change(copied)})
    run = augment if command == "augment" else getattr(stages, command)
    with pytest.raises(UserError, match=message) as error:
        run(recipe, AGAIN)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [other_rows, other_order, other_length, fewer_rows])
def test_with_its_teacher_named_only_the_width_stage_speaks_against_other_data(copied, no_training, change):
    content = {**relative_recipe(copied), **change(copied), "teacher": "run/teacher"}
    with pytest.raises(AssertionError, match="a stage trained"):  # the way out that the sentence names
        stages.train_width(make_recipe(content), AGAIN)
    with pytest.raises(UserError, match=r"run/width was made from .*; run dynackd train-width with"):
        stages.train_depth(make_recipe(content), AGAIN)


@pytest.mark.parametrize("change", [change for change, *_ in CHANGES])
def test_a_finished_stage_is_passed_over_only_if_it_fits(copied, change):
    names = ("teacher", "width", "depth")
    for name in names:
        refuse_other_result(make_recipe(relative_recipe(copied)), name)
    changed = make_recipe({**relative_recipe(copied), **change(copied)})
    refused = []
    for name in names:
        try:
            refuse_other_result(changed, name)
        except UserError as error:
            refused.append((name, str(error)))
    assert refused, "the quickstart would pass over them all"


# --- what is not refused ---------------------------------------------------------------------------------------------


def nothing(directory):
    return {}


def renamed_files(directory):
    (directory / "train.tsv").rename(directory / "rows.tsv")
    (directory / "encoder").rename(directory / "renamed")
    data = {**relative_recipe(directory)["data"], "train": str(directory / "rows.tsv")}
    return {"data": data, "model": str(directory / "renamed")}


def another_format(directory):
    header, *rows = (directory / "train.tsv").read_text().splitlines()
    (directory / "train.jsonl").write_text(
        "".join(json.dumps(dict(zip(header.split("\t"), row.split("\t"), strict=True))) + "\n" for row in rows)
    )
    return {"data": {**relative_recipe(directory)["data"], "train": "train.jsonl"}}


def windows_lines(directory):
    (directory / "train.tsv").write_bytes((directory / "train.tsv").read_bytes().replace(b"\n", b"\r\n"))
    return {}


def encoder_gone(directory):
    shutil.rmtree(directory / "encoder")
    return {}


def other_training(directory):
    training = {**relative_recipe(directory)["training"], "logging_steps": 1, "learning_rate": 1e-4}
    return {"training": training, "importance": {"rows": 8}, "distillation": {"signal": "logits"}}


def other_validation(directory):
    write_rows(directory / "validation.tsv", 20, 9)
    return {}


def moved_output(directory):
    (directory / "run").rename(directory / "renamed-run")
    return {"output_dir": "renamed-run"}


SAME = [nothing, renamed_files, another_format, windows_lines, encoder_gone, other_training, other_validation]


@pytest.mark.parametrize("change", [*SAME, moved_output])
@pytest.mark.parametrize("command", ["train_width", "train_depth"])
def test_what_decides_nothing_of_a_result_makes_it_no_stranger(copied, no_training, change, command):
    recipe = make_recipe({**relative_recipe(copied), **change(copied)})
    with pytest.raises(AssertionError, match="a stage trained"):
        getattr(stages, command)(recipe, AGAIN)


def test_augmented_rows_count_as_those_that_they_were_made_from_until_they_are_edited(copied, no_training):
    recipe = make_recipe({**relative_recipe(copied), "augmentation": {"copies": 2}})
    directory, _ = augment(recipe, FRESH)
    path = write_recipe(copied, relative_recipe(copied))
    trained = load_recipe(path, overrides(recipe))
    for command in (stages.train_width, stages.train_depth):
        with pytest.raises(AssertionError, match="a stage trained"):
            command(trained, AGAIN)
    lines = (directory / "train.jsonl").read_text().splitlines(keepends=True)
    (directory / "train.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"run/teacher was made from .* the training rows were 48, are"):
        stages.train_width(trained, AGAIN)


# --- resume ----------------------------------------------------------------------------------------------------------

REFUSED_AT_RESUME = [
    (other_weights_under_the_same_name, "the model encoder has other weights"),
    (other_rows, "the training rows were 48, are 40"),
    (other_order, "the 48 training rows are others or in another order"),
    (other_labels, "the 48 training rows are others or in another order"),
    (other_validation, "the validation rows were 24, are 20"),
    (teacher_again, "the teacher teacher has other weights"),
    (other_length, r"the recipe has changed since .* \(in data\)"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_AT_RESUME, ids=[c.__name__ for c, _ in REFUSED_AT_RESUME])
def test_a_run_resumes_only_with_the_very_same_models_and_rows(copied, monkeypatch, change, message):
    killed(monkeypatch, stages.train_width, make_recipe(relative_recipe(copied)))
    shutil.rmtree(copied / "run" / "width", ignore_errors=True)
    changed = make_recipe({**relative_recipe(copied), **change(copied)})
    with pytest.raises(UserError, match=message):
        stages.train_width(changed, RESUME)


def test_a_run_resumes_from_elsewhere_with_its_files_renamed_and_ends_at_the_same_weights(
    work, copied, monkeypatch, tmp_path
):
    killed(monkeypatch, stages.train_depth, make_recipe(relative_recipe(copied)))
    shutil.rmtree(copied / "run" / "depth")
    moved = tmp_path / "elsewhere"
    copied.rename(moved)
    (moved / "run").rename(moved / "renamed")
    (moved / "train.tsv").rename(moved / "rows.tsv")
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    content = relative_recipe(moved)
    data = {**content["data"], "train": "../elsewhere/rows.tsv", "validation": str(moved / "validation.tsv")}
    places = {"model": "../elsewhere/encoder", "data": data, "output_dir": "../elsewhere/renamed"}
    stages.train_depth(make_recipe({**content, **places}), RESUME)
    unbroken = (work / "run" / "depth" / "model.safetensors").read_bytes()
    assert (moved / "renamed" / "depth" / "model.safetensors").read_bytes() == unbroken


def test_augmentation_resumes_only_with_the_very_same_teacher(copied, monkeypatch):
    recipe = make_recipe({**relative_recipe(copied), "augmentation": {"copies": 2}})
    monkeypatch.setattr("dynackd.training.augment.new_directory", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        augment(recipe, FRESH)
    scale(copied / "run" / "teacher" / "model.safetensors")
    with pytest.raises(UserError, match="augmented-checkpoints began: the teacher teacher has other weights"):
        augment(recipe, RESUME)


# --- moved runs ------------------------------------------------------------------------------------------------------


def whole_directory(directory, place):
    directory.rename(place / "renamed")
    return place / "renamed" / "run"


def run_renamed(directory, place):
    (directory / "run").rename(directory / "other")
    return directory / "other"


def run_deeper_and_the_data_where_they_were(directory, place):
    (directory / "archive" / "2026").mkdir(parents=True)
    (directory / "run").rename(directory / "archive" / "2026" / "run")
    return directory / "archive" / "2026" / "run"


def run_copied_and_the_original_deleted(directory, place):
    (directory / "copies").mkdir()
    shutil.copytree(directory / "run", directory / "copies" / "run")
    shutil.rmtree(directory / "run")
    return directory / "copies" / "run"


MOVES = [whole_directory, run_renamed, run_deeper_and_the_data_where_they_were, run_copied_and_the_original_deleted]


@pytest.mark.parametrize("move", MOVES)
def test_a_moved_run_gives_the_same_numbers_from_any_directory(copied, tmp_path, monkeypatch, move):
    stored = json.loads((copied / "run" / "depth" / "metrics.json").read_text())
    run = move(copied, tmp_path)
    (tmp_path / "far" / "away").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "far" / "away")
    table = tmp_path / "table.json"
    assert main(["evaluate", str(run / "depth"), "--json", str(table)]) == 0
    evaluation = json.loads(table.read_text())
    assert (evaluation["subnetworks"], evaluation["teacher"]) == (stored["subnetworks"], stored["teacher"])
    before = (run / "depth" / "model.safetensors").read_bytes()
    assert main(["train-depth", str(run / "width" / "recipe.yaml"), "--overwrite"]) == 0
    assert (run / "depth" / "model.safetensors").read_bytes() == before


def test_a_moved_run_exports_and_is_measured(copied, tmp_path, monkeypatch):
    run = whole_directory(copied, tmp_path)
    monkeypatch.chdir(tmp_path)
    size = ["--width", "0.5", "--depth", "0.5", "--validation"]
    assert main(["export", str(run / "depth"), *size, "--output", "student"]) == 0
    about = json.loads((tmp_path / "student" / "export.json").read_text())
    teacher = json.loads((run / "depth" / "metrics.json").read_text())["teacher"]["metrics"]
    assert about["metrics"]["teacher"] == pytest.approx(teacher)
    assert (about["teacher"], about["teacher_sha256"]) == ("teacher", weights_sha256(str(run / "teacher")))
    options = ["--runtime", "onnxruntime", "--repeats", "1", "--warmup", "1", "--length", "8"]
    assert main(["benchmark", "student", *options]) == 0


def test_a_teacher_with_other_weights_is_never_compared_with_in_silence(copied, capsys):
    scale(copied / "run" / "teacher" / "model.safetensors")
    assert main(["evaluate", "run/depth"]) == 2
    assert "has other weights than the teacher of run/depth had; name the right one" in capsys.readouterr().err
    assert main(["evaluate", "run/depth", "--teacher", "run/teacher"]) == 0
    assert "note: run/teacher has other weights" in capsys.readouterr().out
    size = ["--width", "0.5", "--depth", "0.5", "--validation", "--output", "student"]
    assert main(["export", "run/depth", *size]) == 0
    assert "teacher" not in json.loads(Path("student/export.json").read_text())["metrics"]


def test_other_validation_rows_than_those_of_the_stored_table_are_told(copied, capsys):
    assert main(["evaluate", "run/depth"]) == 0
    assert "validation rows are not those" not in capsys.readouterr().out
    write_rows(copied / "validation.tsv", 20, 9)
    assert main(["evaluate", "run/depth"]) == 0
    assert "note: these validation rows are not those of run/depth/metrics.json" in capsys.readouterr().out


def test_a_package_need_not_be_installed_for_what_was_made_from_it(copied):
    for name in ("teacher", "width", "depth"):
        file = copied / "run" / name / "recipe.yaml"
        content = {**yaml.safe_load(file.read_text()), "model": "package:no_such_package/model"}
        file.write_text(yaml.safe_dump(content))
    origin = copied / "run" / "teacher" / "origin.json"
    content = json.loads(origin.read_text())
    content["model"] = {"name": "package:no_such_package/model", "sha256": content["model"]["sha256"]}
    origin.write_text(json.dumps(content))
    assert main(["evaluate", "run/depth"]) == 0
    assert main(["export", "run/depth", "--width", "0.5", "--depth", "0.5", "--output", "student"]) == 0
    assert main(["train-depth", "run/width/recipe.yaml", "--overwrite"]) == 0


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_portable_path_is_found_again_through_links_and_from_any_directory(tmp_path, monkeypatch):
    (tmp_path / "disk" / "run" / "depth").mkdir(parents=True)
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "train.tsv").touch()
    (tmp_path / "home" / "run").symlink_to(tmp_path / "disk" / "run")
    monkeypatch.chdir(tmp_path / "home")
    text = portable("data/train.tsv", Path("run/depth"))
    assert text.startswith("../")
    assert str(tmp_path) not in text
    monkeypatch.chdir("/")
    for place in (tmp_path / "home" / "run" / "depth", tmp_path / "disk" / "run" / "depth"):
        assert os.path.samefile(located(text, place), tmp_path / "home" / "data" / "train.tsv")


def test_a_users_recipe_may_name_places_relative_to_itself(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"paths": "recipe", **relative_recipe(work), "model": "encoder"}
    (work / "own.yaml").write_text(yaml.safe_dump(content))
    recipe = load_recipe(work / "own.yaml", ["data.validation=here.tsv", "teacher=some/hub-name"])
    assert recipe.model == str(work / "encoder")
    assert (recipe.data.train, recipe.data.validation) == (str(work / "train.tsv"), "here.tsv")
    assert (recipe.output_dir, recipe.teacher) == (work / "run", "some/hub-name")
    (work / "own.yaml").write_text(yaml.safe_dump({**content, "model": "google-bert/bert-base-uncased"}))
    assert load_recipe(work / "own.yaml").model == "google-bert/bert-base-uncased"
    (work / "own.yaml").unlink()


# --- what the world is told ------------------------------------------------------------------------------------------


def test_no_result_names_this_machine(copied, tmp_path):
    recipe = str(copied / "recipe.yaml")
    size = ["--width", "0.5", "--depth", "0.5"]
    for name, options in {
        "small": ["--int8", "--fp16", "--max-drop", "1"],
        "compat": ["--compat"],
        "code": ["--with-code"],
        "dynamo": ["--graph", "dynamo"],
        "fused": ["--graph", "fused"],
    }.items():
        output = str(copied / "students" / name)
        code = main(["export", str(copied / "run" / "depth"), *size, *options, "--output", output])
        assert code == 0 or name == "small", "a file may be left out, but all else must be there"
    assert main(["augment", recipe, "--set", "augmentation.copies=2"]) == 0
    files = [file for place in ("run", "students") for file in (copied / place).rglob("*") if file.is_file()]
    assert len(files) > 60
    package = Path(stages.__file__).parents[1]
    words = [str(tmp_path), str(copied.parent.parent), str(Path.home()) + "/", str(package), "site-packages"]
    words += [socket.gethostname()] if len(socket.gethostname()) > 6 else []
    for file in files:
        content = file.read_bytes()
        assert not [word for word in words if word.encode() in content], file


def test_a_teacher_on_the_hub_is_named_as_it_is_there(copied, monkeypatch):
    from dynackd.grid import Grid
    from dynackd.supernet.network import Origin, Supernet, load_supernet

    net = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0,)), Origin("width", "owner/name", None, "0" * 64))
    net.save(copied / "net", tiny_tokenizer())
    about = json.loads((copied / "net" / "config.json").read_text())["dynackd"]
    assert (about["teacher"], about["teacher_sha256"]) == ("owner/name", "0" * 64)
    monkeypatch.chdir("/")
    assert load_supernet(copied / "net")[0].origin == net.origin
