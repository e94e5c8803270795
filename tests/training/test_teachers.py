"""A teacher beside the model: another depth, hidden size and family, imitated by relations."""

import json
import shutil

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model, tiny_recipe, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from dynackd.cli.command_line import main
from dynackd.distill.settings import SIGNALS, DistillationSettings
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.embedding import EMBEDDING
from dynackd.tasks.plain import PLAIN
from dynackd.tasks.question_answering import QUESTION_ANSWERING
from dynackd.tasks.ranking import RANKING
from dynackd.tasks.regression import REGRESSION
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import finetune, train_depth, train_width
from dynackd.training.teachers import load_pair, say_the_same, start_of, teacher_of

WIDE = {"num_hidden_layers": 6, "hidden_size": 48}
OTHER = {"signal": "ckd", "matching": "uniform"}


def saved(model, place):
    model.save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return str(place)


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose model is fine-tuned already, with a teacher of another shape and family."""
    torch.manual_seed(0)
    teacher = AutoModelForSequenceClassification.from_config(tiny_config("electra", **WIDE))
    content = tiny_recipe(tmp_path)
    content["model"] = saved(tiny_model(), tmp_path / "model")
    content["teacher"] = saved(teacher, tmp_path / "teacher")
    content["task"] = {**content["task"], "check_teacher": False}
    return content


def test_a_teacher_of_another_shape_is_imitated_by_a_supernet_that_starts_from_the_model(recipe, tmp_path):
    recipe = make_recipe({**recipe, "distillation": OTHER})
    width, depth = train_width(recipe, RunMode()), train_depth(recipe, RunMode())
    for place in (width, depth):
        supernet, _ = load_supernet(place)
        assert (supernet.geometry.layers, supernet.geometry.hidden) == (4, 32)
        assert supernet.origin.teacher == str(tmp_path / "teacher")
        table = json.loads((place / "metrics.json").read_text())
        teacher = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher")
        assert table["teacher"]["parameters"] == sum(p.numel() for p in teacher.parameters())
    record = json.loads((width / "origin.json").read_text())
    assert (record["teacher"]["name"], record["model"]["name"]) == ("teacher", "model")
    logged = [json.loads(line) for line in (width / "log.jsonl").read_text().splitlines()]
    terms = {name for row in logged for name in row if name.startswith("loss_")}
    assert {"loss_wr_pair", "loss_wr_triple", "loss_ltr_pair", "loss_ltr_triple", "loss_logits"} == terms
    # Both stand beside each other in the commands that follow, too.
    assert main(["evaluate", str(depth), "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["teacher"] == table["teacher"]
    assert main(["export", str(depth), "--width", "0.5", "--validation", "--output", str(tmp_path / "student")]) == 0
    assert set(json.loads((tmp_path / "student" / "export.json").read_text())["metrics"]) >= {"student", "teacher"}


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"signal": "ckd"}, "the teacher has 6 layers and the model 4"),
        (
            {"signal": "ckd+mse", "matching": "uniform"},
            "hidden size is 48 and the model's 32.*set distillation.signal to ckd",
        ),
        (
            {"weights": {"hidden_mse": 1}, "matching": "uniform"},
            "hidden size is 48 and the model's 32.*set distillation.signal to ckd",
        ),
    ],
)
def test_what_two_shapes_cannot_share_is_refused_before_any_data_are_read(recipe, distillation, message):
    recipe = {**recipe, "distillation": distillation, "data": {"train": "none.tsv", "validation": "none.tsv"}}
    with pytest.raises(UserError, match=message):
        train_width(make_recipe(recipe), RunMode())


def test_a_recipe_that_names_no_signal_compares_relations_alone_where_sizes_differ(recipe, capsys):
    recipe = make_recipe({**recipe, "distillation": {"matching": "uniform", "weights": {"wr_pair": 7}}})
    settings = load_pair(recipe, recipe.teacher, recipe.model).settings.distillation
    assert settings.weights == {**SIGNALS["ckd"]["width"]["weights"], "wr_pair": 7}
    assert (settings.matching, settings.schedule) == ("uniform", "linear")
    assert "hidden size is 48 and the model's 32: relations are compared, states are not" in told(capsys)
    # The depth stage, whose teacher is of the model's own size, keeps what it had.
    assert "hidden_mse" in recipe.stages["depth"].distillation.weights


def told(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_a_bare_model_of_another_shape_than_its_teacher_wants_a_head_first(recipe, tmp_path):
    recipe = {**recipe, "model": str(tmp_path / "encoder"), "distillation": OTHER}
    with pytest.raises(UserError, match=r"bare encoder of another shape than the teacher .*; run dynackd finetune"):
        train_width(make_recipe(recipe), RunMode())


def test_a_bare_model_of_its_teachers_shape_starts_from_the_teacher(recipe, tmp_path):
    teacher = saved(tiny_model(seed=3), tmp_path / "alike")
    recipe = {**recipe, "model": str(tmp_path / "encoder"), "teacher": teacher}
    record = json.loads((train_width(make_recipe(recipe), RunMode()) / "origin.json").read_text())
    assert record["teacher"]["name"] == "alike"
    assert "model" not in record


def test_a_teacher_with_other_outputs_is_refused(recipe, tmp_path):
    outputs = saved(tiny_model(seed=1, id2label={0: "b", 1: "a"}, label2id={"b": 0, "a": 1}), tmp_path / "outputs")
    message = r"the outputs of .* are LABEL_0, LABEL_1, the teacher's b, a; they must be the same"
    with pytest.raises(UserError, match=message):
        train_width(make_recipe({**recipe, "teacher": outputs}), RunMode())


def test_finetune_numbers_the_classes_as_a_teacher_that_the_recipe_names(recipe, tmp_path):
    """Its result was refused by train-width, hours later, where the teacher had them in another order."""
    place = saved(tiny_model(seed=1, id2label={0: "up", 1: "down"}, label2id={"up": 0, "down": 1}), tmp_path / "named")
    rows = [line.split("\t") for line in (tmp_path / "train.tsv").read_text().splitlines()]
    named = {"1": "up", "0": "down", "label": "label"}
    (tmp_path / "train.tsv").write_text("".join(f"{text}\t{named[label]}\n" for text, label in rows))
    (tmp_path / "validation.tsv").write_text((tmp_path / "train.tsv").read_text())
    recipe = make_recipe({**recipe, "model": str(tmp_path / "encoder"), "teacher": place})
    config = json.loads((finetune(recipe, RunMode()) / "config.json").read_text())
    assert config["id2label"] == {"0": "up", "1": "down"}, "alphabetically down is the first"
    assert train_width(recipe, RunMode()).is_dir()


def test_finetune_goes_by_nobody_where_the_recipe_names_its_own_result(recipe, tmp_path):
    own = make_recipe({**recipe, "model": str(tmp_path / "encoder"), "teacher": f"{recipe['output_dir']}/teacher"})
    assert finetune(own, RunMode()).name == "teacher"


@pytest.mark.parametrize(("kind", "ours", "theirs", "same"), [
    (CLASSIFICATION, ["no", "yes"], ["No", "YES"], True),
    (CLASSIFICATION, ["no", "yes"], ["yes", "no"], False),
    (REGRESSION, ["LABEL_0"], ["score"], True),
    (REGRESSION, ["LABEL_0"], ["LABEL_0", "LABEL_1"], False),
    (RANKING, ["LABEL_0"], ["relevant"], True),
    (QUESTION_ANSWERING, ["LABEL_0", "LABEL_1"], ["START", "END"], True),
    (EMBEDDING, ["LABEL_0", "LABEL_1"], ["LABEL_0"], True),  # left over from who knows what
    (PLAIN, ["LABEL_0", "LABEL_1"], ["LABEL_0"], True),
])  # fmt: skip
def test_two_modelssay_the_same_by_what_their_kind_makes_of_their_outputs(kind, ours, theirs, same):
    assert say_the_same(kind, ours, theirs) == same


def test_what_finetune_made_is_where_a_supernet_starts_whatever_head_its_model_had(recipe, tmp_path):
    """A model of other classes gets a new head there, and an embedder has none to go by."""
    saved(tiny_model(num_labels=4), tmp_path / "four")
    own = make_recipe({**recipe, "model": str(tmp_path / "four")})
    finetuned = finetune(own, RunMode())
    assert start_of(own, teacher_of(own)) == str(finetuned)
    shutil.rmtree(finetuned)
    assert start_of(own, teacher_of(own)) == str(tmp_path / "four"), "nothing else is there"


def test_the_signal_is_that_of_the_sub_network_that_is_asked():
    network = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0,)))
    teacher, batch = Teacher(network, CLASSIFICATION), tiny_batch()
    settings = DistillationSettings(weights={"logits": 1.0})
    for spec in (SubnetSpec(), SubnetSpec(0.5)):
        signal = teacher.signal({**batch, "labels": torch.zeros(4, dtype=torch.long)}, settings, network.resolve(spec))
        with torch.no_grad():
            assert torch.equal(signal.outputs["logits"], network.eval()(spec, **batch).outputs["logits"])
