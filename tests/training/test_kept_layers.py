"""Layers kept by importance: the order is measured once, lies with the supernet, and everything that reads it goes by
it."""

import json
import shutil

import pytest
from conftest import tiny_recipe, write_recipe

from dynackd.cli.command_line import main
from dynackd.errors import UserError
from dynackd.search.space import Space
from dynackd.subnet import SubnetSpec
from dynackd.supernet import layer_order
from dynackd.supernet.network import load_supernet
from dynackd.training import evaluating, rewiring, stages
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.trainer import SupernetTrainer

FRESH, RESUME = RunMode(), RunMode(resume=True)
ORDER, HALF = [3, 1, 0, 2], [0, 2]  # so that no rule of places keeps the same layers


def recipe_of(directory, **grid):
    content = tiny_recipe(directory)
    return {**content, "grid": {**content["grid"], "kept_layers": "importance", **grid}}


def fix_order(monkeypatch, order):
    """The order is this one, whatever would be measured."""
    found = layer_order.LayerOrder(tuple(order), (0.1, 0.2, 0.3), 0.05)
    monkeypatch.setattr(rewiring, "order_by_removal", lambda *_: found)


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Both stages, through the command line; tests copy it before they change it."""
    directory = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        fix_order(patch, ORDER)
        path = str(write_recipe(directory, recipe_of(directory)))
        for command in ("finetune", "train-width", "train-depth"):
            assert main([command, path]) == 0
    return directory


def copy_of(road, tmp_path, *without):
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    for name in without:
        shutil.rmtree(tmp_path / "run" / name)
    write_recipe(tmp_path, recipe_of(tmp_path))
    return make_recipe(recipe_of(tmp_path))


def test_the_width_stage_measures_an_order_keeps_it_and_tells_which_layers_stay(road, tmp_path, capsys):
    recipe = copy_of(road, tmp_path, "width", "depth")
    stages.train_width(recipe, FRESH)
    supernet, _ = load_supernet(tmp_path / "run" / "width")
    kept = json.loads((tmp_path / "run" / "width" / "importance.json").read_text())
    order = list(supernet.grid.layer_order)
    assert sorted(order) == [0, 1, 2, 3]
    assert kept["layers"]["order"] == order
    assert (kept["layers"]["rows"], kept["layers"]["widths"], len(kept["layers"]["losses"])) == (16, [1.0, 0.5], 3)
    assert kept["score"] == "gradient", "what the rewiring keeps is still there"
    told = " ".join(capsys.readouterr().out.split())
    half = ", ".join(map(str, sorted(order[2:])))
    first = ", ".join(map(str, order[:3]))
    assert f"layers leave in the order {first} (grid.kept_layers), {order[3]} stays; depth 0.5 keeps {half}" in told


def test_the_order_is_measured_on_the_trained_network_against_its_full_depth(road, tmp_path, monkeypatch):
    recipe, seen = copy_of(road, tmp_path, "width", "depth"), []
    measure = layer_order.order_by_removal

    def watched(supernet, kind, batches, widths, told):
        seen.append((supernet.model.state_dict()["classifier.weight"].clone(), widths, len(list(batches))))
        return measure(supernet, kind, batches, widths, told)

    monkeypatch.setattr(rewiring, "order_by_removal", watched)
    stages.train_width(recipe, FRESH)
    ((weights, widths, count),) = seen
    supernet, _ = load_supernet(tmp_path / "run" / "width")
    assert weights.equal(supernet.model.state_dict()["classifier.weight"])
    assert (widths, count) == ((1.0, 0.5), 1)


def test_every_result_after_it_keeps_these_layers(road, tmp_path):
    recipe = copy_of(road, tmp_path)
    assert main(["polish", str(tmp_path / "run" / "depth"), "--width", "0.5", "--depth", "0.5"]) == 0
    for name in ("width", "depth", "polished-w0.5-d0.5"):
        about = json.loads((recipe.output_dir / name / "config.json").read_text())["dynackd"]
        assert about["grid"]["layer_order"] == ORDER
    for name in ("depth", "polished-w0.5-d0.5"):
        sizes = json.loads((recipe.output_dir / name / "metrics.json").read_text())["subnetworks"]
        assert {tuple(row["layers"]) for row in sizes if row["depth"] == 0.5} == {tuple(HALF)}
    before = json.loads((tmp_path / "run" / "depth" / "metrics.json").read_text())["subnetworks"]
    result = tmp_path / "again.json"
    assert main(["evaluate", str(tmp_path / "run" / "depth"), "--json", str(result)]) == 0
    assert [row["layers"] for row in json.loads(result.read_text())["subnetworks"]] == [row["layers"] for row in before]
    student = tmp_path / "student"
    assert main(["export", str(tmp_path / "run" / "depth"), "--width", "0.5", "--depth", "0.5", "--output",
                 str(student)]) == 0  # fmt: skip
    assert json.loads((student / "config.json").read_text())["kept_layers"] == HALF
    assert main(["report", str(tmp_path / "run")]) == 0


def test_another_rule_than_the_width_stages_is_refused(road, tmp_path):
    copy_of(road, tmp_path, "depth")
    with pytest.raises(UserError, match=r"rule 'importance', the recipe asks for .* with 'last'; make them agree"):
        stages.train_depth(make_recipe(recipe_of(tmp_path, kept_layers="last")), FRESH)


def test_a_depth_stage_does_not_go_on_by_another_order(road, tmp_path, monkeypatch):
    recipe = copy_of(road, tmp_path, "depth")
    whole = SupernetTrainer.training_step

    def killed(self, *arguments, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SupernetTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            stages.train_depth(recipe, FRESH)
    config = tmp_path / "run" / "width" / "config.json"
    content = json.loads(config.read_text())
    content["dynackd"]["grid"]["layer_order"] = ORDER[::-1]
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match="the parent width has another config or tokenizer; undo that to resume"):
        stages.train_depth(recipe, RESUME)


def stop(*_):
    raise KeyboardInterrupt


def test_a_width_stage_killed_after_its_training_measures_the_same_order(road, tmp_path, monkeypatch):
    recipe, record = copy_of(road, tmp_path, "width", "depth"), tmp_path / "run" / "width" / "importance.json"
    stages.train_width(recipe, FRESH)
    unbroken = json.loads(record.read_text())
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "evaluate_grid", stop)
        with pytest.raises(KeyboardInterrupt):
            stages.train_width(recipe, RunMode(overwrite=True))
    stages.train_width(recipe, RESUME)
    assert json.loads(record.read_text()) == unbroken


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1], r"width/config.json is damaged: grid.layer_order \[0, 1\] is of 2 layers, the network has 4"),
        ([0, 1, 1, 2], r"width/config.json is damaged: grid.layer_order \[0, 1, 1, 2\] is no order"),
        (None, r"width/config.json is damaged: which 2 of 4 layers .* is not known yet"),
    ],
)
def test_a_supernet_whose_order_is_damaged_or_gone_is_refused(road, tmp_path, order, message):
    copy_of(road, tmp_path)
    config = tmp_path / "run" / "width" / "config.json"
    content = json.loads(config.read_text())
    content["dynackd"]["grid"] |= {"layer_order": order, "depths": [1.0, 0.5]}
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_supernet(tmp_path / "run" / "width")


def test_a_search_begins_with_these_layers(road):
    supernet, _ = load_supernet(road / "run" / "depth")
    even = set(Space(supernet.geometry).even(supernet.grid))
    assert supernet.resolve(SubnetSpec(0.5, 0.5)) in even
    assert {own.indices for own in even} == {(0, 1, 2, 3), (0, 1, 2), (0, 2), (2,)}
