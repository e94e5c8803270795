"""The whole way with several hidden sizes: trained, evaluated, polished, exported, loaded."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from conftest import cut_short, randomise, tiny_config, tiny_recipe, tiny_tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

from dynackd.cli import main
from dynackd.distill import signals
from dynackd.families.table import geometry_of
from dynackd.grid import Grid
from dynackd.measure.evaluation import this_device
from dynackd.students.loading import load_student
from dynackd.subnet import Geometry, SubnetSpec
from dynackd.supernet.importance import in_order_of
from dynackd.supernet.network import load_supernet
from dynackd.training import stages
from dynackd.training.evaluating import evaluate
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.samplers import SubnetSampler
from dynackd.training.teachers import load_teacher
from dynackd.training.trainer import metric_names

FRESH = RunMode()
GRID = {"widths": [0.5, 1.0], "depths": [0.5, 1.0], "hidden": [0.5, 1.0]}


def trained(directory, **changes):
    recipe = make_recipe(tiny_recipe(directory, **{"grid": GRID, **changes}))
    if recipe.task.kind.can_finetune(recipe.task):
        stages.finetune(recipe, FRESH)
    stages.train_width(recipe, FRESH)
    stages.train_depth(recipe, FRESH)
    return recipe


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hidden")
    trained(directory)
    return directory


def test_the_width_stage_orders_the_hidden_dimensions_and_the_depth_stage_trains_fewer(road):
    width, _ = load_supernet(road / "run" / "width")
    depth, _ = load_supernet(road / "run" / "depth")
    kept = json.loads((road / "run" / "width" / "importance.json").read_text())["hidden"]
    assert width.hidden_order == depth.hidden_order == tuple(kept["order"]) != tuple(range(32))
    assert sorted(kept["order"]) == sorted(kept["pooled"]) == list(range(32))
    assert kept["order"][0] == int(np.argmax(kept["scores"]))
    assert {subnet.hidden for subnet in width.subnets.values()} == {32}
    assert {subnet.hidden for subnet in depth.subnets.values()} == {32, 16}
    moved = depth.model.bert.embeddings.word_embeddings.weight - width.model.bert.embeddings.word_embeddings.weight
    assert moved.abs().max() > 1e-4


def test_every_size_is_told_by_its_hidden_size(road):
    table = json.loads((road / "run" / "depth" / "metrics.json").read_text())
    sizes = [(row["width"], row["depth"], row.get("hidden", 1.0), row["hidden_size"]) for row in table["subnetworks"]]
    assert sizes == [(w, d, h, 32 * h) for h in (1.0, 0.5) for d in (1.0, 0.5) for w in (1.0, 0.5)]
    parameters = [row["parameters"] for row in table["subnetworks"]]
    assert parameters[4] < parameters[0] / 1.5
    assert metric_names([SubnetSpec(0.5, 1.0, 0.5), SubnetSpec(0.5)], ["f1"]) == ["w0.5_d1_h0.5_f1", "w0.5_d1_f1"]


def test_evaluation_gives_what_the_stage_measured_with_the_teacher_from_disk(road):
    """The teacher on disk has its dimensions in their first order, the supernet in another."""
    recipe = load_recipe(road / "run" / "depth" / "recipe.yaml")
    again = evaluate(road / "run" / "depth", recipe, None)
    before = json.loads((road / "run" / "depth" / "metrics.json").read_text())
    for mine, theirs in zip(again["subnetworks"], before["subnetworks"], strict=True):
        assert mine["metrics"] == pytest.approx(theirs["metrics"])
        assert mine["fidelity"] == pytest.approx(theirs["fidelity"], abs=1e-5)


def test_the_first_step_begins_at_the_teacher_in_its_own_order(tmp_path, monkeypatch):
    """Hidden states are compared dimension by dimension: before any step the full network's are the teacher's."""
    seen, loss = [], signals.distillation_loss

    def watched(settings, students, signal, *rest):
        found = loss(settings, students, signal, *rest)
        seen.extend(zip([own.hidden_states[0].shape[-1] for own in students], found[1], strict=True))
        return found

    monkeypatch.setattr("dynackd.training.trainer.distillation_loss", watched)
    training = {**tiny_recipe(tmp_path)["training"], "max_steps": 1, "learning_rate": 1e-12}
    trained(tmp_path, training=training, stages={"finetune": {"dropout": 0.0}})
    widths, depths = seen[:2], seen[2:]  # a step each; in the depth stage the supernet is taught by its own weights
    assert min(float(terms["hidden_mse"]) for _, terms in widths) < 1e-9
    assert {size for size, _ in depths} == {32, 16}
    assert all("hidden_mse" not in terms and "wr_pair" in terms for size, terms in seen if size == 16)


def test_an_interrupted_width_stage_goes_on_with_the_order_that_it_began_with(road, tmp_path, monkeypatch):
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    for stage in ("width", "depth"):
        shutil.rmtree(tmp_path / "run" / stage)
    recipe = make_recipe(tiny_recipe(tmp_path, grid=GRID))
    cut_short(monkeypatch, stages.train_width, recipe)
    stages.train_width(recipe, RunMode(resume=True))
    once, again = (load_supernet(place / "run" / "width")[0] for place in (road, tmp_path))
    assert again.hidden_order == once.hidden_order
    for mine, theirs in zip(again.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_an_exported_student_is_the_sub_network_and_a_stock_checkpoint_where_its_heads_have_room(road, tmp_path):
    size = ["--width", "0.5", "--depth", "0.5", "--hidden", "0.5"]
    supernet, _ = load_supernet(road / "run" / "depth")
    for name, options in (("own", ["--int8", "--max-drop", "1"]), ("stock", ["--compat"])):
        command = ["export", str(road / "run" / "depth"), *size, *options, "--output", str(tmp_path / name)]
        assert main(command) == 0
    student, tokenizer = load_student(tmp_path / "own")
    assert geometry_of(student.config).hidden == 16
    assert student.config.dynackd["hidden"] == 0.5
    batch = tokenizer(["a fine film", "dull"], padding=True, return_tensors="pt")
    expected = supernet(SubnetSpec(0.5, 0.5, 0.5), **batch).outputs["logits"]
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock")
    assert stock.config.model_type == "bert"
    assert stock.config.hidden_size == 16
    for model in (student, stock):
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)
    card = (tmp_path / "own" / "README.md").read_text()
    assert "# Student at width 0.5, depth 0.5, hidden 0.5" in card
    assert "| hidden size | 16 | 32 |" in card
    about = json.loads((tmp_path / "stock" / "export.json").read_text())
    assert (about["hidden"], about["subnet"]["hidden"]) == (0.5, 16)
    assert about["metrics"]["student"], "those that the stage measured"


def test_a_student_whose_heads_have_no_room_in_its_hidden_size_is_no_stock_checkpoint(road, tmp_path, capsys):
    command = ["export", str(road / "run" / "depth"), "--hidden", "0.5", "--compat", "--output", str(tmp_path / "s")]
    assert main(command) == 2
    assert "no stock checkpoint can hold 4 heads of size 8: it splits the hidden size 16" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_small_hidden_size_is_polished_and_exported_by_itself(road, tmp_path):
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    size = ["--width", "0.5", "--depth", "0.5", "--hidden", "0.5"]
    assert main(["polish", str(tmp_path / "run" / "depth"), *size]) == 0
    place = tmp_path / "run" / "polished-w0.5-d0.5-h0.5"
    polished, _ = load_supernet(place)
    assert polished.only.hidden == 16
    assert polished.hidden_order
    assert main(["export", str(place), "--output", str(tmp_path / "student")]) == 0
    assert load_student(tmp_path / "student")[0].config.dynackd["hidden"] == 0.5


def test_a_hidden_size_that_was_not_trained_is_not_told_the_metrics_of_the_full_one(road, tmp_path):
    """The width stage trains the full hidden size alone, and its metrics.json names none."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    known = {}
    for name, hidden in (("full", ()), ("half", ("--hidden", "0.5"))):
        size = ["--width", "0.5", *hidden, "--output", str(tmp_path / name)]
        assert main(["export", str(tmp_path / "run" / "width"), *size]) == 0
        known[name] = json.loads((tmp_path / name / "export.json").read_text()).get("metrics")
    rows = json.loads((tmp_path / "run" / "width" / "metrics.json").read_text())["subnetworks"]
    assert known == {"full": known["full"], "half": None}
    assert known["full"]["student"] == next(row["metrics"] for row in rows if row["width"] == 0.5)


def test_a_polished_hidden_size_is_told_its_own_metrics_whatever_its_supernet_was_trained_for(tmp_path):
    recipe = make_recipe(tiny_recipe(tmp_path, grid=GRID))
    stages.finetune(recipe, FRESH)
    stages.train_width(recipe, FRESH)
    stages.train_depth(make_recipe({**recipe.content, "grid": {**GRID, "hidden": [1.0]}}), FRESH)
    place = tmp_path / "run" / "polished-w0.5-d0.5-h0.5"
    size = ["--width", "0.5", "--depth", "0.5", "--hidden", "0.5"]
    assert main(["polish", str(tmp_path / "run" / "depth"), *size]) == 0
    (row,) = json.loads((place / "metrics.json").read_text())["subnetworks"]
    assert row["hidden_size"] == 16
    assert main(["export", str(place), "--output", str(tmp_path / "student")]) == 0
    about = json.loads((tmp_path / "student" / "export.json").read_text())
    assert about["metrics"]["student"] == row["metrics"]


def test_an_embedder_keeps_its_vectors_in_the_teachers_order_and_says_how_long_they_are(tmp_path):
    model = randomise(AutoModel.from_config(tiny_config("bert"), add_pooling_layer=False)).eval()
    model.save_pretrained(tmp_path / "embedder")
    tiny_tokenizer().save_pretrained(tmp_path / "embedder")
    task = {"kind": "embedding", "text": "sentence", "pooling": "mean"}
    training = {**tiny_recipe(tmp_path)["training"], "max_steps": 2, "learning_rate": 1e-12}
    content = tiny_recipe(tmp_path, task=task, model=str(tmp_path / "embedder"), grid=GRID, training=training)
    recipe = make_recipe(content)
    stages.train_width(recipe, FRESH)
    stages.train_depth(recipe, FRESH)
    rows = json.loads((tmp_path / "run" / "depth" / "metrics.json").read_text())["subnetworks"]
    assert rows[0]["fidelity"]["cosine"] == pytest.approx(1, abs=1e-6)
    assert "cosine" not in rows[4]["fidelity"], "its vectors are shorter"
    assert rows[4]["fidelity"]["similarities"] > 0
    for name, hidden in (("whole", "1"), ("half", "0.5")):
        command = ["export", str(tmp_path / "run" / "depth"), "--hidden", hidden, "--output", str(tmp_path / name)]
        assert main(command) == 0
    library = pytest.importorskip("sentence_transformers")
    texts = ["a fine film", "dull"]
    whole, half = (library.SentenceTransformer(str(tmp_path / name)).encode(texts) for name in ("whole", "half"))
    teacher = load_teacher(str(tmp_path / "embedder"), recipe.task.kind)
    batch = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = recipe.task.kind.read(model(**batch), batch, teacher.model.config)["sentence_embedding"]
    np.testing.assert_allclose(whole, expected.numpy(), atol=1e-5)
    assert half.shape == (2, 16)
    assert json.loads((tmp_path / "half" / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == 16


def test_files_of_a_recipe_without_smaller_hidden_sizes_say_nothing_of_them(tmp_path):
    content = tiny_recipe(tmp_path, grid={"widths": [0.5, 1.0], "depths": [1.0]})
    recipe = make_recipe(content)
    stages.finetune(recipe, FRESH)
    stages.train_width(recipe, FRESH)
    supernet, _ = load_supernet(tmp_path / "run" / "width")
    assert supernet.hidden_order is None
    teacher = load_teacher(str(tmp_path / "run" / "teacher"), recipe.task.kind).to(this_device())
    before = teacher.model.state_dict()["bert.embeddings.word_embeddings.weight"].clone()
    in_order_of(supernet, teacher)
    assert torch.equal(teacher.model.state_dict()["bert.embeddings.word_embeddings.weight"], before)
    for file in ("config.json", "metrics.json", "origin.json", "importance.json"):
        text = (tmp_path / "run" / "width" / file).read_text()
        assert not [word for word in ('"hidden"', "hidden_order", '"hidden_size": 16') if word in text], file


def test_mixtures_have_any_of_the_hidden_sizes_and_of_one_size_draw_nothing_more():
    geometry, sampler = Geometry(4, 4, 8, 40, 32), SubnetSampler.parse("mixed(3)")
    flat, deep = Grid((1.0, 0.5), (1.0, 0.5)), Grid((1.0, 0.5), (1.0, 0.5), hidden=(1.0, 0.5))
    steps = range(20)
    several = [sampler.sample(list(deep.subnets(geometry).values()), 0, step) for step in steps]
    assert {subnet.hidden for subnets in several for subnet in subnets[1:-1]} == {32, 16}
    assert all((subnets[0].hidden, subnets[-1].hidden) == (32, 16) for subnets in several)
    # What a recipe without smaller hidden sizes trains at a step stays what it was.
    layers = [own.index for own in sampler.sample(list(flat.subnets(geometry).values()), 0, 1)[1].layers]
    rng = random.Random("0/1")
    every = list(flat.subnets(geometry).values())
    assert layers == sorted(rng.sample(every[0].indices, len(rng.choice(every).layers)))
