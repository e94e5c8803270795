"""The road end to end on tiny data: the loss falls, a killed run resumes, nothing is half-written."""

import json
import logging
import shutil

import pytest
import torch
from conftest import tiny_recipe, trained_to_width
from safetensors.torch import load_file

from dynackd.errors import UserError
from dynackd.subnet import FULL, SubnetSpec
from dynackd.supernet.network import load_supernet
from dynackd.system.places import manifest_of
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.training import runs, stages
from dynackd.training.evaluating import evaluate
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.teachers import load_teacher
from dynackd.training.trainer import SupernetTrainer

FRESH = RunMode()


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A teacher, a width stage and a depth stage, run once; tests copy it before they change it."""
    directory = tmp_path_factory.mktemp("road")
    stages.train_depth(trained_to_width(directory), FRESH)
    return directory


def copy_of(road, tmp_path, *without):
    """A recipe whose output directory holds what `road` made, but for some stages."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    for name in without:
        shutil.rmtree(tmp_path / "run" / name)
    return make_recipe(tiny_recipe(tmp_path))


def metrics_of(directory):
    return json.loads((directory / "metrics.json").read_text())


def test_each_stage_leaves_what_the_next_one_and_a_person_need(road):
    for stage in ("teacher", "width", "depth"):
        names = {path.name for path in (road / "run" / stage).iterdir()}
        assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
        assert names >= {"recipe.yaml", "metrics.json", "origin.json"}
        assert not (road / "run" / f"{stage}-checkpoints").exists()
        load_recipe(road / "run" / stage / "recipe.yaml")
    about = json.loads((road / "run" / "depth" / "config.json").read_text())["dynackd"]
    assert about["stage"] == "depth"
    assert about["grid"] == {"widths": [1.0, 0.5], "depths": [1.0, 0.5], "kept_layers": "last"}
    assert (about["teacher"], about["parent"]) == ("../teacher", "../width")
    assert not list((road / "run").glob(".*")), "a temporary place was left behind"


@pytest.mark.parametrize("stage", ["width", "depth"])
def test_the_loss_of_both_stages_falls_and_every_term_is_logged(road, stage):
    lines = (road / "run" / stage / "log.jsonl").read_text().splitlines()
    log = [row for row in map(json.loads, lines) if "loss" in row]
    first, last = log[0], log[-1]
    assert last["loss"] < first["loss"]
    assert {"loss_logits", "loss_wr_pair", "loss_wr_triple", "loss_ltr_pair", "loss_ltr_triple"} <= set(last)


def test_the_evaluation_in_the_result_covers_the_grid(road):
    content = metrics_of(road / "run" / "depth")
    assert {(row["width"], row["depth"]) for row in content["subnetworks"]} == {(1, 1), (0.5, 1), (1, 0.5), (0.5, 0.5)}
    small = content["subnetworks"][-1]
    assert (small["heads"], small["neurons"], small["layers"]) == (2, 20, [1, 3])
    assert small["parameters"] < content["teacher"]["parameters"]
    assert small["flops"] < content["teacher"]["flops"] / 3
    assert 0 <= small["metrics"]["accuracy"] <= 1


@pytest.mark.parametrize(("stage", "run", "stop"), [("width", "train_width", 9), ("depth", "train_depth", 5)])
def test_a_killed_run_resumes_to_the_very_same_weights(road, tmp_path, monkeypatch, caplog, stage, run, stop):
    # 48 rows in batches of 8 for 2 epochs are 12 steps, with a checkpoint at each second one; 9 is in the 2nd epoch.
    recipe = copy_of(road, tmp_path, stage)
    whole = SupernetTrainer.training_step

    def killed(self, *arguments, **options):
        if self.state.global_step == stop:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(SupernetTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        getattr(stages, run)(recipe, FRESH)
    assert not (tmp_path / "run" / stage).exists()
    monkeypatch.setattr(SupernetTrainer, "training_step", whole)
    with pytest.raises(UserError, match="unfinished run; add --resume"):
        getattr(stages, run)(recipe, FRESH)
    with caplog.at_level("WARNING", logger="transformers.trainer_utils"):
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        getattr(stages, run)(recipe, RunMode(resume=True))
    assert "do not match the ones" not in caplog.text, "logging_steps as a share and as steps are the same"
    unbroken = load_file(road / "run" / stage / "model.safetensors")
    resumed = load_file(tmp_path / "run" / stage / "model.safetensors")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert importance_of(tmp_path / "run" / stage) == importance_of(road / "run" / stage)


def importance_of(directory):
    """What a stage kept of its rewiring, if it rewired."""
    file = directory / "importance.json"
    return file.read_text() if file.is_file() else None


def test_the_width_stage_keeps_the_importance_that_it_rewired_by(road):
    record = json.loads(importance_of(road / "run" / "width"))
    assert (record["score"], record["rows"]) == ("gradient", 16)
    for scores, order in zip(record["heads"]["scores"], record["heads"]["order"], strict=True):
        assert [scores[head] for head in order] == sorted(scores, reverse=True)
    assert manifest_of(road / "run" / "width").has("importance.json")
    assert importance_of(road / "run" / "depth") is None


def kill(recipe, monkeypatch, stop):
    """A width stage that dies at a step."""

    def killed(self, *arguments, **options):
        if self.state.global_step == stop:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    whole = SupernetTrainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(SupernetTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            stages.train_width(recipe, FRESH)
    return sorted((recipe.output_dir / "width-checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))


def test_a_checkpoint_cut_off_while_written_is_passed_over(road, tmp_path, monkeypatch):
    recipe = copy_of(road, tmp_path, "width", "depth")
    last = kill(recipe, monkeypatch, 9)[-1]
    (last / "trainer_state.json").unlink()
    assert runs.last_checkpoint(last.parent) != last
    stages.train_width(recipe, RunMode(resume=True))
    unbroken = load_file(road / "run" / "width" / "model.safetensors")
    resumed = load_file(tmp_path / "run" / "width" / "model.safetensors")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_named_and_left_alone(road, tmp_path, monkeypatch, name):
    recipe = copy_of(road, tmp_path, "width", "depth")
    damaged = kill(recipe, monkeypatch, 5)[-1] / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(UserError, match=f"{name} is damaged.*delete .*checkpoint-4 to resume from the one before"):
        stages.train_width(recipe, RunMode(resume=True))
    assert damaged.exists()


def test_a_recipe_that_changed_cannot_resume(road, tmp_path, monkeypatch):
    recipe = copy_of(road, tmp_path, "width", "depth")
    kill(recipe, monkeypatch, 5)
    changed = make_recipe({**recipe.content, "importance": {"rows": 8}})
    with pytest.raises(UserError, match=r"recipe has changed .* \(in importance\)"):
        stages.train_width(changed, RunMode(resume=True))


def test_a_finished_run_is_kept_unless_overwritten(road, tmp_path):
    recipe = copy_of(road, tmp_path)
    before = (tmp_path / "run" / "width" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="already holds a finished result; add --overwrite"):
        stages.train_width(recipe, FRESH)
    with pytest.raises(UserError, match="finished run, nothing is left to resume"):
        stages.train_width(recipe, RunMode(resume=True))
    assert (tmp_path / "run" / "width" / "model.safetensors").read_bytes() == before
    stages.train_width(recipe, RunMode(overwrite=True))
    assert (tmp_path / "run" / "width" / "model.safetensors").read_bytes() == before  # same seed, same result


def test_overwriting_keeps_the_old_result_until_the_new_one_is_whole(road, tmp_path, monkeypatch):
    recipe = copy_of(road, tmp_path)

    def fails(*_arguments, **_options):
        raise RuntimeError("disk full")

    monkeypatch.setattr(stages, "write_json", fails)
    with pytest.raises(RuntimeError, match="disk full"):
        stages.train_width(recipe, RunMode(overwrite=True))
    load_supernet(tmp_path / "run" / "width")
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("name", ["width", "depth"])
def test_a_run_killed_while_it_clears_up_after_its_result_is_a_finished_one(road, tmp_path, monkeypatch, name):
    recipe = copy_of(road, tmp_path, name)
    train = {"width": stages.train_width, "depth": stages.train_depth}[name]
    checkpoints = tmp_path / "run" / f"{name}-checkpoints"

    def killed(directory):
        if directory == checkpoints and (tmp_path / "run" / name).is_dir():
            (next(directory.glob("checkpoint-*")) / "optimizer.pt").write_bytes(b"")  # half of it is gone
            raise KeyboardInterrupt
        return remove(directory)

    remove = runs.remove
    with monkeypatch.context() as patch:
        patch.setattr(runs, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, FRESH)
    result = (tmp_path / "run" / name / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="finished run, nothing is left to resume"):
        train(recipe, RunMode(resume=True))
    assert not checkpoints.exists()
    assert (tmp_path / "run" / name / "model.safetensors").read_bytes() == result


def test_train_width_needs_a_fine_tuned_teacher(road, tmp_path):
    recipe = copy_of(road, tmp_path, "teacher", "width", "depth")
    with pytest.raises(UserError, match=r"bare encoder .* run dynackd finetune"):
        stages.train_width(recipe, FRESH)


def test_train_depth_needs_the_width_stage_of_the_same_widths(road, tmp_path):
    recipe = copy_of(road, tmp_path, "depth")
    other = make_recipe({**recipe.content, "grid": {"widths": [0.25, 1.0], "depths": [0.5, 1.0]}})
    with pytest.raises(UserError, match=r"trained at widths \[1.0, 0.5\].*recipe asks for \[1.0, 0.25\]"):
        stages.train_depth(other, FRESH)
    shutil.rmtree(tmp_path / "run" / "width")
    with pytest.raises(UserError, match="run dynackd train-width with this recipe first"):
        stages.train_depth(recipe, FRESH)


def test_labels_that_are_not_the_models_are_refused(road, tmp_path):
    recipe = copy_of(road, tmp_path, "width", "depth")
    rows = (tmp_path / "train.tsv").read_text().replace("\t1", "\t2")
    (tmp_path / "train.tsv").write_text(rows)
    with pytest.raises(UserError, match="label"):
        stages.train_width(recipe, FRESH)


@pytest.mark.parametrize("damage", ["truncated", "missing tensor", "pickle only", "no grid"])
def test_a_damaged_supernet_is_refused_in_one_sentence(road, tmp_path, damage):
    copy_of(road, tmp_path)
    place = tmp_path / "run" / "depth"
    weights, config = place / "model.safetensors", place / "config.json"

    def truncate():
        weights.write_bytes(weights.read_bytes()[:1000])

    def lose_a_tensor():
        from safetensors.torch import save_file

        tensors = load_file(weights)
        tensors.pop("bert.encoder.layer.1.intermediate.dense.bias")
        save_file(tensors, weights, {"format": "pt"})

    def pickle_only():
        torch.save(load_file(weights), place / "pytorch_model.bin")
        weights.unlink()

    def no_grid():
        content = json.loads(config.read_text())
        del content["dynackd"]["grid"]
        config.write_text(json.dumps(content))

    {"truncated": truncate, "missing tensor": lose_a_tensor, "pickle only": pickle_only, "no grid": no_grid}[damage]()
    with pytest.raises(UserError, match=r"damaged|missing|no other format") as error:
        load_supernet(place)
    assert "\n" not in str(error.value)


def test_evaluate_repeats_what_the_stage_measured(road, tmp_path):
    recipe = copy_of(road, tmp_path)
    place = tmp_path / "run" / "depth"
    evaluation = evaluate(place, recipe, recipe.data.max_length)
    stored = metrics_of(place)
    assert evaluation["subnetworks"] == stored["subnetworks"]
    assert evaluation["teacher"] == stored["teacher"]


def test_training_moves_the_small_networks_towards_the_teacher(road):
    depth, _ = load_supernet(road / "run" / "depth")
    width, _ = load_supernet(road / "run" / "width")
    teacher = load_teacher(str(road / "run" / "teacher"), CLASSIFICATION)
    ids = torch.randint(4, 20, (64, 8), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = teacher(FULL, **batch).outputs["logits"]
        spec = SubnetSpec(0.5, 0.5)
        before, after = (net.eval()(spec, **batch).outputs["logits"] - expected for net in (width, depth))
    assert after.square().mean() < before.square().mean()


def test_after_a_training_in_bf16_the_sizes_are_evaluated_as_they_are_saved(road, tmp_path):
    recipe = copy_of(road, tmp_path, "depth")
    recipe = make_recipe({**recipe.content, "training": {**recipe.content["training"], "bf16": True}})
    stages.train_depth(recipe, FRESH)
    told = metrics_of(tmp_path / "run" / "depth")["subnetworks"]
    again = evaluate(tmp_path / "run" / "depth", recipe, None)["subnetworks"]
    for own, other in zip(told, again, strict=True):
        assert own["fidelity"] == pytest.approx(other["fidelity"], rel=1e-5)
