"""A teacher of another shape than the model that is made smaller: what is planned, and what is refused before hours."""

import json
import time

import pytest
from conftest import tiny_config, tiny_model, tiny_recipe, tiny_tokenizer
from test_preparing import QUICK, ROWS
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from dynackd.compress import preparing, teaching
from dynackd.compress.guess import Said
from dynackd.compress.preparing import prepare
from dynackd.compress.request import Request
from dynackd.errors import UserError

UNTRIED = (*QUICK, "task.check_teacher=false")


def saved(model, place):
    model.save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return str(place)


def wide(auto=AutoModelForSequenceClassification, **changes):
    return auto.from_config(tiny_config("electra", **{"num_hidden_layers": 6, "hidden_size": 48, **changes}))


def classified(row):
    text = ROWS["plain"](row)["text"]
    return {"text": text, "label": ["bad", "good"][row % 2]}


def prepared(directory, kind, teacher, model=None, overrides=UNTRIED):
    file = directory / "rows.jsonl"
    row_of = {**ROWS, "classification": classified}[kind]
    file.write_text("".join(json.dumps(row_of(row)) + "\n" for row in range(40)))
    model = model or tiny_recipe(directory)["model"]
    request = Request(model, str(file), said=Said(kind), overrides=overrides, teacher=teacher)
    return prepare(request, directory / "out", time.monotonic())


def test_a_model_whose_outputs_are_the_teachers_is_what_the_supernet_starts_from(tmp_path):
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    model, teacher = saved(tiny_model(**names), tmp_path / "own"), saved(wide(**names), tmp_path / "wide")
    found = prepared(tmp_path, "classification", teacher, model)
    assert not found.finetunes
    assert "own (bert: 4 layers, 4 heads, hidden size 32" in found.model
    assert "it is what is made smaller\n" in found.model
    other = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    assert prepared(tmp_path, "classification", teacher, saved(tiny_model(**other), tmp_path / "other")).finetunes


def test_layers_match_as_the_recipe_says_and_by_depth_only_where_depths_differ(tmp_path):
    teacher = saved(wide(num_labels=1), tmp_path / "wide")
    found = prepared(tmp_path, "regression", teacher)
    assert found.recipe.stages["width"].distillation.matching == "uniform"
    assert any("the teacher has 6 layers and the model 4" in line for line in found.decided)
    said = prepared(tmp_path, "regression", teacher, overrides=(*UNTRIED, "distillation.matching=last"))
    assert said.recipe.stages["width"].distillation.matching == "last"
    alike = saved(wide(num_labels=1, num_hidden_layers=4), tmp_path / "alike")
    assert prepared(tmp_path, "regression", alike).recipe.stages["width"].distillation.matching == "own"


def test_a_teacher_of_the_same_shape_is_what_the_supernet_starts_from(tmp_path):
    teacher = saved(tiny_model(num_labels=1), tmp_path / "same")
    found = prepared(tmp_path, "regression", teacher)
    assert not found.finetunes
    assert "same (bert: 4 layers" in found.model
    assert found.model.endswith("it is the teacher as it is")


def test_a_plain_encoder_learns_from_another_encoder(tmp_path):
    assert not prepared(tmp_path, "plain", saved(wide(AutoModel), tmp_path / "wide"), overrides=QUICK).finetunes


def test_what_the_teacher_takes_is_planned_where_it_teaches(tmp_path, monkeypatch):
    """The depth stage learns from the width stage's networks."""
    teacher = saved(wide(num_labels=1), tmp_path / "wide")
    monkeypatch.setattr(preparing, "try_teacher", lambda *_: 5.0)
    found = prepared(tmp_path, "regression", teacher)
    steps = {own.stage: own.step_s for own in found.plan.stages}
    assert min(steps["width"], steps["polish"]) > 5.0 * 8
    assert max(steps["finetune"], steps["depth"]) < 5.0
    assert found.plan.other_s > 4 * 5.0 * (8 + 32), "it is tried and evaluated by every stage"


@pytest.mark.parametrize(
    ("kind", "teacher", "sentence"),
    [("classification", lambda: wide(num_labels=3), "3"),
     ("regression", lambda: wide(num_labels=2), "2"),
     ("classification", lambda: wide(AutoModel), "the teacher .*wide is no fine-tuned classifier .ElectraModel.; name"),
     ("classification", lambda: tiny_model().bert, "the teacher .*wide is no fine-tuned classifier .BertModel.; name")],
)  # fmt: skip
def test_a_teacher_that_says_something_else_is_told_before_anything_is_trained(tmp_path, kind, teacher, sentence):
    with pytest.raises(UserError, match=sentence):
        prepared(tmp_path, kind, saved(teacher(), tmp_path / "wide"))


def test_a_teacher_that_knows_nothing_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    """The stage that it teaches comes after the model was fine-tuned for hours."""
    seen = []
    monkeypatch.setattr(teaching, "check_teacher", lambda *given: seen.append(given))
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    prepared(tmp_path, "classification", saved(wide(**names), tmp_path / "wide"))
    (teacher, data, rows, _, _), = seen
    assert teacher.geometry.hidden == 48
    assert data.label_names == ("good", "bad")
    assert len(rows) == 32


def test_a_teacher_of_questions_with_other_tokens_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    teacher = saved(wide(AutoModelForQuestionAnswering), tmp_path / "wide")
    monkeypatch.setattr("dynackd.training.teachers.read_alike", lambda *_: False)
    with pytest.raises(UserError, match="reads other tokens than the model"):
        prepared(tmp_path, "question_answering", teacher, overrides=QUICK)


@pytest.mark.parametrize(
    ("override", "way"), [("model=x", "the MODEL"), ("teacher=x", "--teacher"), ("data.train=x", "--data"),
                          ("output_dir=x", "--output")]
)  # fmt: skip
def test_what_an_argument_says_is_not_said_by_set_too(override, way):
    """The plan was made for the argument, and another model or file was trained on."""
    with pytest.raises(UserError, match=f"--set {override[:-2]}: without a recipe {way} says that"):
        Request("m", "rows.csv", overrides=(override,))
