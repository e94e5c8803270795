"""One sub-network is trained on alone, from the supernet's weights, and nothing else is cut from the result."""

import json
import shutil

import pytest
import torch
from conftest import tiny_recipe, trained_to_width
from safetensors.torch import load_file

from dynackd.cli import main
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.report.reading import read_run
from dynackd.search.searching import search
from dynackd.search.settings import Budget
from dynackd.students.loading import load_student
from dynackd.subnet import Layer, Subnet, SubnetSpec
from dynackd.supernet.network import load_supernet
from dynackd.training import polish as polishing
from dynackd.training import stages
from dynackd.training.polish import polish
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.trainer import SupernetTrainer

FRESH, SMALL, NAME = RunMode(), SubnetSpec(0.5, 0.5), "w0.5-d0.5"


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A run with both stages and one polished sub-network; tests copy it before they change it."""
    directory = tmp_path_factory.mktemp("polish")
    recipe = trained_to_width(directory)
    stages.train_depth(recipe, FRESH)
    polish(recipe.output_dir / "depth", SMALL, NAME, recipe, FRESH)
    return directory


def copy_of(road, tmp_path):
    """A recipe whose output directory holds both stages."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run" / f"polished-{NAME}")
    return make_recipe(tiny_recipe(tmp_path))


def kl_of(road, stage):
    rows = json.loads((road / "run" / stage / "metrics.json").read_text())["subnetworks"]
    return next(row["fidelity"]["kl"] for row in rows if (row["width"], row["depth"]) == (0.5, 0.5))


def test_the_sub_network_comes_nearer_to_the_fine_tuned_teacher(road):
    assert kl_of(road, f"polished-{NAME}") < kl_of(road, "depth")
    about = json.loads((road / "run" / f"polished-{NAME}" / "config.json").read_text())["dynackd"]
    assert (about["stage"], about["parent"], about["teacher"]) == ("polish", "../depth", "../teacher")


def test_only_that_sub_network_is_trained_and_evaluated(road):
    before, _ = load_supernet(road / "run" / "depth")
    after, _ = load_supernet(road / "run" / f"polished-{NAME}")
    assert after.only == before.resolve(SMALL)
    assert after.subnets == {SMALL: after.only}
    assert [after.trained(own) for own in (after.only, after.whole)] == [SMALL, None]
    old, new = before.model.state_dict(), after.model.state_dict()
    left_out = [name for name in old if ".layer.0." in name or ".layer.2." in name]
    assert left_out
    assert all(torch.equal(old[name], new[name]) for name in left_out)
    weight = "bert.encoder.layer.1.intermediate.dense.weight"
    kept, moved = after.only.layers[0].neurons, (old[weight] - new[weight]).abs().amax(1)
    assert moved[kept:].max() < 1e-3 < moved[:kept].max(), "what is cut off only decays"


def test_it_learns_from_the_whole_fine_tuned_model(road, tmp_path, monkeypatch):
    recipe, asked = copy_of(road, tmp_path), []
    signal = Teacher.signal
    monkeypatch.setattr(
        Teacher, "signal", lambda self, whole, settings, subnet: asked.append((self.network, subnet)) or signal(
            self, whole, settings, subnet)
    )  # fmt: skip
    polish(recipe.output_dir / "depth", SMALL, NAME, recipe, FRESH)
    teacher = load_file(tmp_path / "run" / "teacher" / "model.safetensors")
    for network, subnet in asked:
        assert subnet == network.whole
        weights = network.model.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in teacher.items())


def test_a_killed_run_resumes_to_the_very_same_weights(road, tmp_path, monkeypatch):
    recipe, whole = copy_of(road, tmp_path), SupernetTrainer.training_step

    def killed(self, *arguments, **options):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(SupernetTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        polish(recipe.output_dir / "depth", SMALL, NAME, recipe, FRESH)
    monkeypatch.setattr(SupernetTrainer, "training_step", whole)
    with pytest.raises(UserError, match=r"something has changed since the run .* began: layers was"):
        polish(recipe.output_dir / "depth", SubnetSpec(1.0, 0.5), NAME, recipe, RunMode(resume=True))
    result = polish(recipe.output_dir / "depth", SMALL, NAME, recipe, RunMode(resume=True))
    unbroken = load_file(road / "run" / result.name / "model.safetensors")
    resumed = load_file(result / "model.safetensors")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_a_sub_network_of_uneven_layers_is_named_by_its_file_and_exported(road, tmp_path, capsys):
    recipe = copy_of(road, tmp_path)
    uneven = Subnet((Layer(0, 1, 30), Layer(3, 4, 10)), 32)
    file = tmp_path / "best.json"
    file.write_text(json.dumps(uneven.to_dict()))
    assert main(["polish", str(tmp_path / "run" / "depth"), "--spec", str(file)]) == 0
    place = recipe.output_dir / "polished-best"
    supernet, _ = load_supernet(place)
    assert supernet.only == uneven
    assert f"next: dynackd export {place}" in capsys.readouterr().out.replace("\n", "")
    assert main(["export", str(place), "--output", str(tmp_path / "student")]) == 0
    assert "was not trained" not in capsys.readouterr().out
    model, tokenizer = load_student(tmp_path / "student")
    batch = tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = supernet.eval()(uneven, **batch).outputs["logits"]
        assert torch.allclose(model(**batch).logits, expected, atol=1e-5)


def test_nothing_else_is_cut_polished_or_searched_from_it(road, tmp_path, capsys):
    place = road / "run" / f"polished-{NAME}"
    assert main(["export", str(place), "--width", "0.5", "--output", str(tmp_path / "s")]) == 2
    assert "is good for one sub-network, which was polished; leave out --width" in capsys.readouterr().err
    assert main(["polish", str(place)]) == 2
    assert "was polished already; name the supernet that it came from" in capsys.readouterr().err
    with pytest.raises(UserError, match="good for one sub-network, which was polished; search what that came from"):
        search(place, Budget(max_params=1e6), output=tmp_path / "s")


def test_a_parent_that_no_longer_fits_is_made_anew_by_its_own_command(road, tmp_path):
    recipe = copy_of(road, tmp_path)
    for stage in ("width", "depth"):
        origin = tmp_path / "run" / stage / "origin.json"
        origin.write_text(json.dumps(json.loads(origin.read_text()) | {"max_length": 99}))
        with pytest.raises(UserError, match=f"max_length was 99, is 16; run dynackd train-{stage} with --overwrite"):
            polish(tmp_path / "run" / stage, SMALL, NAME, recipe, FRESH)


def test_a_report_still_shows_all_sizes(road):
    results = read_run(road / "run")
    assert results.judged.name == "depth"
    assert results.training(f"polished-{NAME}").log


def test_the_recipe_says_how_it_is_trained(road, tmp_path):
    copy_of(road, tmp_path)
    stage = "stages.polish.training"
    changes = [f"{stage}.num_train_epochs=1", f"{stage}.learning_rate=0.125"]
    command = ["polish", str(tmp_path / "run" / "depth"), "--width", "1/2", "--depth", "0.5"]
    assert main([*command, *(part for change in changes for part in ("--set", change))]) == 0
    place = tmp_path / "run" / f"polished-{NAME}"
    written = load_recipe(place / "recipe.yaml").stages["polish"].training
    assert (written["num_train_epochs"], written["learning_rate"]) == (1, 0.125)
    rates = [row["learning_rate"] for row in map(json.loads, (place / "log.jsonl").read_text().splitlines()) if
             "learning_rate" in row]  # fmt: skip
    assert 0.05 < max(rates) <= 0.125


def test_layers_that_are_cut_off_want_no_gradient(road, tmp_path, monkeypatch):
    """Several processes would wait for it for ever."""
    recipe, seen = copy_of(road, tmp_path), []
    monkeypatch.setattr(polishing, "train_stage", lambda run, record, stage, supernet, *_: seen.append(supernet))
    polish(recipe.output_dir / "depth", SMALL, NAME, recipe, FRESH)
    wants = [any(own.requires_grad for own in layer.parameters()) for layer in seen[0].model.bert.encoder.layer]
    assert wants == [index in seen[0].only.indices for index in range(4)]
