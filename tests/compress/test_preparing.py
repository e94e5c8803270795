"""Of every kind of task the recipe is made and its cost is measured before anything is trained."""

import json
import random
import re
import time
from pathlib import Path

import pytest
from conftest import GOOD, PLAIN, tiny_model, tiny_recipe
from datasets import Dataset

from dynackd.compress import calibrate, drafting, preparing
from dynackd.compress.calibrate import Timing
from dynackd.compress.effort import TIMED_S
from dynackd.compress.guess import Said
from dynackd.compress.plan import LEAST_STEPS
from dynackd.compress.preparing import prepare
from dynackd.compress.request import Request
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.search.settings import Budget
from dynackd.subnet import SubnetSpec
from dynackd.supernet.cost import count_parameters
from dynackd.supernet.network import Supernet
from dynackd.system.places import write_files
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.pooling import Pooling
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.samplers import SubnetSampler

RNG = random.Random(0)
EPOCH = ("training.per_device_train_batch_size=8", "training.num_train_epochs=1")
QUICK = ("training.per_device_train_batch_size=8", "grid.widths=[0.5, 1.0]", "grid.depths=[0.5, 1.0]")


def text(words=6):
    return " ".join(RNG.choices(PLAIN + GOOD, k=words))


def tagged(row):
    words = RNG.choices(PLAIN + GOOD, k=5 + row % 3)
    return {"tokens": words, "tags": ["B-x" if word in GOOD else "O" for word in words]}


def question(_):
    context = text(12)
    return {"question": text(4), "context": context, "answers": {"text": [context.split()[0]], "answer_start": [0]}}


ROWS = {
    "regression": lambda row: {"text": text(), "price": RNG.random()},
    "multi_label": lambda row: {"text": text(), "tags": RNG.sample(["a", "b", "c"], row % 3)},
    "token_classification": tagged,
    "question_answering": question,
    "ranking": lambda row: {"query": text(4), "passages": [text(), text(), text()], "relevance": [1, 0, 0]},
    "embedding": lambda row: {"text1": text(), "text2": text(), "score": RNG.random()},
    "plain": lambda row: {"text": text()},
}


def prepared(directory, kind, **asked):
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps(ROWS[kind](row)) + "\n" for row in range(40)))
    request = Request(tiny_recipe(directory)["model"], str(file), said=Said(kind), **{"overrides": QUICK, **asked})
    return prepare(request, directory / "out", time.monotonic())


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_every_kind_are_planned_and_the_recipe_is_a_valid_one(tmp_path, kind):
    found = prepared(tmp_path, kind)
    stages = {own.stage: own for own in found.plan.stages}
    assert found.finetunes == (kind != "plain"), "an encoder is its own teacher there"
    assert list(stages) == [*(["finetune"] if found.finetunes else []), "width", "depth", "polish"]
    assert all(own.step_s > 0 for own in stages.values())
    assert (found.rows, found.validation_rows) == (32, 8)
    content = found.recipe.content
    assert make_recipe(content).stages == found.recipe.stages
    assert content["task"]["kind"] == kind
    assert content["data"]["validation_share"] == 0.2


@pytest.mark.parametrize("says", ["modules.json", "teacher", "texts alone"])
def test_what_is_an_embedder_already_is_the_teacher(tmp_path, says, monkeypatch):
    """A bare encoder is made one by the pairs, but not where it says how it pools, is named as the teacher, or nothing
    says which texts are near."""
    model = Path(tiny_recipe(tmp_path)["model"])
    asked = {}
    if says == "modules.json":
        write_files(model, Pooling().files(32))
    elif says == "teacher":
        asked = {"teacher": str(model)}
    else:
        monkeypatch.setitem(ROWS, "embedding", ROWS["plain"])
    assert not prepared(tmp_path, "embedding", **asked).finetunes


@pytest.mark.parametrize(
    ("size", "widths", "depths"),
    [({"num_hidden_layers": 2}, [1, 0.75, 0.5, 0.25], [1, 0.5]),
     ({"num_hidden_layers": 3}, [1, 0.75, 0.5, 0.25], [1, 0.75]),
     ({"num_attention_heads": 2}, [1, 0.5], [1, 0.75, 0.5])],
)  # fmt: skip
def test_of_a_small_encoder_the_usual_grid_has_each_size_once(tmp_path, size, widths, depths):
    """Models of two or three layers were refused for a grid that nobody had written."""
    encoder = tmp_path / "encoder"
    model = Path(tiny_recipe(tmp_path)["model"])
    assert model == encoder
    tiny_model(**size).base_model.save_pretrained(encoder)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(ROWS["regression"](row)) + "\n" for row in range(40)))
    few = ("training.per_device_train_batch_size=8",)
    found = prepare(Request(str(encoder), str(file), overrides=few), tmp_path / "out", time.monotonic())
    assert (list(found.recipe.grid.widths), list(found.recipe.grid.depths)) == (widths, depths)
    assert any("there are no more sizes" in line for line in found.decided)
    said = (*few, "grid.widths=[1, 0.75, 0.5]", "grid.depths=[1, 0.75, 0.5]")
    with pytest.raises(UserError, match=r"are the same network here, .*; drop one of them \(--set grid\.\w+=\[1\.0, "):
        prepare(Request(str(encoder), str(file), overrides=said), tmp_path / "out", time.monotonic())


def test_too_few_different_texts_are_told_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="two or more training rows with texts that validation rows lack"):
        prepared(tmp_path, "regression", validation=str(tmp_path / "rows.jsonl"))


def test_only_labels_are_held_out_alike(tmp_path):
    assert "of every label alike" not in " ".join(prepared(tmp_path, "ranking").decided)
    (tmp_path / "b").mkdir()
    assert "of every label alike" in " ".join(prepared(tmp_path / "b", "multi_label").decided)


def test_a_hidden_size_that_stays_whole_is_not_made_smaller_for_a_budget(tmp_path):
    """The groups of this convolution hold certain hidden dimensions each; the usual widths and depths can do it."""
    model = Path(tiny_recipe(tmp_path)["model"])
    tiny_model("deberta-v2", conv_groups=2).base_model.save_pretrained(model)
    net = Supernet(tiny_model("deberta-v2", conv_groups=2, num_labels=1), Grid((1.0, 0.5), (1.0, 0.5)))
    least = count_parameters(net, net.resolve(SubnetSpec(0.5, 0.5)))
    found = prepared(tmp_path, "regression", budget=Budget(max_params=least + 50))
    assert found.recipe.grid.hidden == (1.0,)


def test_what_a_user_sets_is_kept(tmp_path):
    said = (*QUICK, "training.num_train_epochs=2", "data.max_length=24", "data.validation_share=0.5")
    found = prepared(tmp_path, "regression", overrides=said)
    assert [own.epochs for own in found.plan.stages] == [2, 2, 2, 2]
    assert found.recipe.data.max_length == 24
    assert found.rows == 20
    assert "stages" not in found.recipe.content, "nothing was decided there"
    few = prepared(tmp_path, "regression", overrides=(*QUICK, "training.max_steps=-1", "data.validation_share=0.5"))
    assert [own.epochs for own in few.plan.stages] == [20] * 4, "the library's way to say that epochs count"


def test_rows_without_labels_make_the_stages_of_the_supernet_as_much_longer(tmp_path):
    (tmp_path / "others.txt").write_text("\n".join(text() for _ in range(9)))
    alone = {own.stage: own.steps for own in prepared(tmp_path, "regression", overrides=EPOCH).plan.stages}
    found = prepared(tmp_path, "regression", overrides=EPOCH, unlabelled=(str(tmp_path / "others.txt"),))
    assert found.recipe.data.unlabelled_files == (str(tmp_path / "others.txt"),)
    assert {own.stage: own.steps for own in found.plan.stages} == {
        "finetune": alone["finetune"], "width": 2 * alone["width"], "depth": 2 * alone["depth"],
        "polish": 2 * alone["polish"]}  # fmt: skip
    (tmp_path / "others.txt").write_text("")
    with pytest.raises(UserError, match=r"others\.txt: the data set is empty"):
        prepared(tmp_path, "regression", unlabelled=(str(tmp_path / "others.txt"),))


def test_steps_are_timed_on_rows_without_labels_too_which_may_be_longer(tmp_path, monkeypatch):
    """Eight rows of a few tokens and three times as many of the most: of the four middle batches three are long."""
    lengths, unit_s = {}, calibrate._unit_s
    monkeypatch.setattr(calibrate, "_unit_s", lambda *given: lengths.update({given[5].name: given[4]["length"][:]})
                        or unit_s(*given))  # fmt: skip
    (tmp_path / "others.txt").write_text("\n".join(text(30) for _ in range(200)))
    share = ("data.unlabelled_share=0.75", "data.max_length=16", *QUICK)
    found = prepared(tmp_path, "regression", overrides=share, unlabelled=(str(tmp_path / "others.txt"),))
    assert found.plan.stages[0].stage == "finetune"
    for stage in ("width", "depth"):
        assert len(lengths[stage]) == 5 * 8
        assert sum(length == 16 for length in lengths[stage]) == 4 * 8
    prepared(tmp_path, "regression", overrides=share[1:])
    assert max(lengths["width"]) < 16


def test_hidden_sizes_take_time_of_the_stages_and_of_the_search(tmp_path, monkeypatch):
    """At a unit a pass: widths 1 and .5, depths 1 and .5, each learning from its width's network at the full hidden
    size; of half the hidden size all is half as much, but for that teacher."""
    monkeypatch.setattr(calibrate, "_unit_s", lambda *_: 1.0)
    monkeypatch.setattr(preparing, "_export_s", lambda *_: 1.0)  # else a busy moment weighs more than a hidden size
    said = (*QUICK, "grid.sampler=all")
    one, two = (prepared(tmp_path, "regression", overrides=said + more) for more in ((), ("grid.hidden=[0.5, 1.0]",)))
    step_s = [{own.stage: own.step_s for own in found.plan.stages} for found in (one, two)]
    assert step_s[0]["width"] == step_s[1]["width"]
    learned = 3 * (1 + 0.5) * (1 + 0.5)  # the last layers of four begin further up, so that nothing is in common
    assert step_s[0]["depth"] == learned + 1.5
    assert step_s[1]["depth"] == learned * 1.5 + 1.5
    assert two.plan.other_s - one.plan.other_s > 0.5 * one.effort.samples * TIMED_S
    assert two.recipe.grid.hidden == (1.0, 0.5)


@pytest.mark.parametrize("bound", ["max_params", "max_size_mb", "max_flops"])
def test_a_bound_that_no_size_can_meet_is_told_before_anything_is_trained(tmp_path, bound):
    """Each bound lies between the smallest of the full hidden size and that of half of it."""
    smallest = []
    for more in ((), ("grid.hidden=[0.5, 1.0]",)):
        with pytest.raises(UserError, match="less than the smallest sub-network has") as told:
            prepared(tmp_path, "regression", overrides=QUICK + more, budget=Budget(**{bound: 1e-9}))
        smallest.append(float(re.search(r"comes to ([\d.,]+)", str(told.value))[1].replace(",", "")))
        assert ("grid.hidden" in str(told.value)) == (not more and bound != "max_flops")
    assert smallest[1] < smallest[0]
    between = Budget(**{bound: sum(smallest) / 2})
    prepared(tmp_path, "regression", overrides=(*QUICK, "grid.hidden=[0.5, 1.0]"), budget=between)
    with pytest.raises(UserError, match="less than the smallest sub-network has"):
        prepared(tmp_path, "regression", overrides=(*QUICK, "grid.hidden=[1.0]"), budget=between)


def smallest_of(found, hidden=1.0):
    """The parameters of the smallest width and depth of a recipe."""
    return size_of(found, min(found.recipe.grid.widths), min(found.recipe.grid.depths), hidden)


def size_of(found, *shares):
    """The parameters of a size."""
    recipe = found.recipe
    data = load_task_data(recipe.task, recipe.data)
    network = preparing._network(recipe.model, recipe, data, recipe.task.kind.can_finetune(recipe.task))
    return count_parameters(network, recipe.grid.resolve(SubnetSpec(*shares), network.geometry))


def test_where_a_bound_is_below_half_the_width_at_most_of_the_depth_smaller_hidden_sizes_are_trained_too(tmp_path):
    """A bound of parameters or megabytes may be below what the embeddings of words leave room for."""
    usual = prepared(tmp_path, "regression")
    half, least = size_of(usual, 0.5, 0.75), smallest_of(usual, 0.5)
    above = prepared(tmp_path, "regression", budget=Budget(max_params=half)).recipe
    assert (above.grid.hidden, above.sampler) == ((1.0,), usual.recipe.sampler)
    found = prepared(tmp_path, "regression", budget=Budget(max_params=half - 1))
    assert found.recipe.grid.hidden == (1.0, 0.75, 0.5)
    assert found.recipe.sampler == SubnetSampler("sandwich", (2,))
    told = f"--max-params {half - 1:,} is below the {half:,} parameters of half of the width and three"
    assert any(line.startswith(told) for line in found.decided)
    assert told in found.comments["grid"]
    assert found.comments["grid"].startswith("The shares of heads")
    assert prepared(tmp_path, "regression", budget=Budget(max_params=least)).recipe.grid.hidden == (1.0, 0.75, 0.5)
    said = (*QUICK, "grid.sampler=random(3)")
    own = prepared(tmp_path, "regression", overrides=said, budget=Budget(max_params=least))
    assert own.recipe.sampler == SubnetSampler("random", (3,))
    # what the narrowest does not reach either is judged by the usual sizes
    large = (*QUICK[:1], "grid.widths=[1.0]", "grid.depths=[1.0]")
    beyond = prepared(tmp_path, "regression", overrides=large, budget=Budget(max_params=least))
    assert beyond.recipe.grid.hidden == (1.0,)


def test_in_a_short_time_hidden_sizes_are_fewer_unless_nothing_else_is_small_enough(tmp_path, monkeypatch):
    """The shortest search of three hidden sizes makes 24 + 3 * 8 exports, here of 1 + 1.5 s, in a quarter of the time:
    eight minutes."""
    monkeypatch.setattr(preparing, "_export_s", lambda *_: 1.0)
    usual = prepared(tmp_path, "regression")
    half, least = size_of(usual, 0.5, 0.75), smallest_of(usual)
    found = {}
    for minutes, most in [(7.9, half - 1), (8.1, half - 1), (7.9, least - 1), (8.1, least - 1)]:
        asked = prepared(tmp_path, "regression", budget=Budget(max_params=most), max_minutes=minutes)
        found[minutes, most] = asked.recipe.grid.hidden
    assert found == {(7.9, half - 1): (1.0,), (8.1, half - 1): (1.0, 0.75, 0.5),
                     (7.9, least - 1): (1.0, 0.5), (8.1, least - 1): (1.0, 0.75, 0.5)}  # fmt: skip


def test_a_smaller_hidden_size_that_a_bound_asks_for_is_planned_at_what_it_costs(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "_unit_s", lambda *_: 1.0)
    least = smallest_of(prepared(tmp_path, "regression"))
    asked = prepared(tmp_path, "regression", budget=Budget(max_params=least - 1))
    named = ("grid.hidden=[0.5, 0.75, 1.0]", "grid.sampler=sandwich(2)")
    said = prepared(tmp_path, "regression", overrides=(*QUICK, *named))
    depth_s = [{own.stage: own.step_s for own in found.plan.stages}["depth"] for found in (asked, said)]
    assert depth_s[0] == depth_s[1]


def test_a_smaller_hidden_size_is_the_users_to_choose_where_it_was_said_or_is_what_is_asked_for(tmp_path):
    usual = prepared(tmp_path, "regression")
    budget = Budget(max_params=smallest_of(usual) - 1)
    for more in ("grid.hidden=[1.0]", "distillation.signal=dynabert"):
        assert prepared(tmp_path, "regression", overrides=(*QUICK, more), budget=budget).recipe.grid.hidden == (1.0,)
    file = tmp_path / "recipe.yaml"
    file.write_text(usual.recipe.to_yaml(tmp_path))
    request = Request(str(file), budget=budget)
    assert prepare(request, tmp_path / "out", time.monotonic()).recipe.grid.hidden == (1.0,)
    vectors = prepared(tmp_path, "embedding")
    less = prepared(tmp_path, "embedding", budget=Budget(max_params=smallest_of(vectors) - 1))
    assert less.recipe.grid.hidden == (1.0,)


def test_layers_by_importance_are_planned_before_their_order_is_known(tmp_path):
    rule = "grid.kept_layers=importance"
    places, measured = (prepared(tmp_path, "regression", overrides=QUICK + more) for more in ((), (rule,)))
    assert measured.recipe.grid.kept_layers == "importance"
    assert measured.recipe.grid.layer_order is None
    assert len(measured.plan.stages) == len(places.plan.stages)


def test_the_polish_is_planned_at_what_no_choice_exceeds(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "_unit_s", lambda *_: 1.0)
    stages = {own.stage: own for own in prepared(tmp_path, "regression").plan.stages}
    assert stages["polish"].step_s == 4, "forward, backward and the teacher's forward of the full network"


def test_of_many_rows_some_are_left_for_the_search_to_judge_by(tmp_path, monkeypatch):
    monkeypatch.setattr(drafting, "TOO_FEW", 3)
    found = prepared(tmp_path, "regression")
    assert found.rows == found.recipe.data.train_rows == 29, "a tenth of 32"
    assert "3 of the 32 training rows are not trained on: sizes are judged by them" in found.decided
    assert prepared(tmp_path, "regression", overrides=(*QUICK, "data.train_rows=31")).rows == 31, "as the user says"


def test_a_bound_is_written_into_the_recipe_as_the_steps_that_fit(tmp_path, monkeypatch):
    steps = {stage: {"all": 9.0, "sandwich(1)": 5.0} for stage in ("finetune", "width", "depth")}
    monkeypatch.setattr(preparing, "calibrate", lambda *_: Timing(steps, row_s=0.0))
    found = prepared(tmp_path, "regression", overrides=(*QUICK, "grid.sampler=all"), max_minutes=10.0)
    assert 400 < found.plan.seconds <= 600, "80 steps a stage would take 1,200 s"
    assert found.plan.changed == ("sampler sandwich(1) instead of all", "fewer epochs")
    assert found.plan.usual_s > 1200
    assert found.recipe.content["grid"]["sampler"] == "sandwich(1)"
    for own in found.plan.stages:
        epochs = found.recipe.stages[own.stage].training["num_train_epochs"]
        assert epochs == pytest.approx(own.epochs, abs=1e-3)
        assert LEAST_STEPS <= own.steps < 80


def test_a_recipe_takes_the_place_of_a_model_and_its_rows(tmp_path):
    content = tiny_recipe(tmp_path)
    (tmp_path / "r.yaml").write_text(json.dumps(content))
    found = prepare(Request(str(tmp_path / "r.yaml")), Path(content["output_dir"]), time.monotonic())
    written = load_recipe(tmp_path / "r.yaml")
    assert [own.epochs for own in found.plan.stages] == [2, 2, 2, 2]
    assert found.recipe.stages == written.stages
    assert found.recipe.data == written.data
    assert not found.decided


@pytest.mark.parametrize(("said", "taken"), [("group_by_length", "sequential"), ("random", "random")])
def test_steps_are_timed_on_batches_like_those_that_are_trained(tmp_path, said, taken):
    """Of few rows the library groups none, so that rows which come sorted are taken as they come."""
    content = tiny_recipe(tmp_path)
    recipe = make_recipe({**content, "training": {**content["training"], "train_sampling_strategy": said}})
    assert calibrate._arguments(recipe, "width", tmp_path).train_sampling_strategy == taken
    rows = Dataset.from_dict({"length": list(range(400))})
    batches = calibrate._batches(rows, 8, recipe.task)["length"][:]
    assert [sum(batches[begin : begin + 8]) / 8 for begin in range(0, 40, 8)] == pytest.approx(
        [395.5, 346.5, 248.5, 150.5, 52.5], abs=1
    )
