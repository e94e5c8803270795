"""Multi-label classification: how labels are read, what is learned and measured, and the whole way on a tiny model."""

import json
import math
import random
import re

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, PLAIN, tiny_batch, tiny_config, tiny_model, tiny_recipe, tiny_tokenizer, write_recipe
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from dynackd.cli.command_line import main
from dynackd.data.labels import LabelMap
from dynackd.data.model_labels import ModelLabels
from dynackd.data.sources import resolve_source
from dynackd.errors import UserError
from dynackd.students.loading import load_student
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.kinds import kind_of
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.multi_label import MULTI_LABEL
from dynackd.tasks.task import compute_fidelity, compute_metrics, resolve_task
from dynackd.tasks.tokens import tokenize

NAMES = ("blame", "length", "praise")
LISTS = {"kind": "multi_label", "text": "text", "label": "labels"}
FLAGS = {"kind": "multi_label", "text": "text", "label": list(NAMES)}
GENERIC = ModelLabels(("LABEL_0", "LABEL_1", "LABEL_2"), "multi_label_classification")


def rows_of(count, seed):
    """Rows of a text with a label for each sort of word in it, none included."""
    rng = random.Random(seed)
    for _ in range(count):
        words = rng.choices(GOOD + BAD + PLAIN, k=rng.randrange(1, 5))
        own = {"praise": set(words) & set(GOOD), "blame": set(words) & set(BAD), "length": len(words) > 2}
        yield {"text": " ".join(words), "labels": [name for name, has in own.items() if has]}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load(tmp_path, task, name, text, model=None, **source):
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = resolve_source({"train": str(tmp_path / name), "validation": str(tmp_path / name), **source})
    return load_task_data(resolve_task(task), source, model=model)


# --- rows ------------------------------------------------------------------------------------------------------------

AS_LISTS = """{"text": "a", "labels": ["praise", "blame"]}
{"text": "b", "labels": []}
{"text": "c", "labels": null}
{"text": "d", "labels": ["length", "length"]}
"""
AS_TEXTS = "text,labels\na,praise | blame\nb,\nc, \nd,length\n"
AS_FLAGS = "text,blame,length,praise\na,1,0,1\nb,0,0,0\nc,false,False,0\nd,0,true,0\n"


@pytest.mark.parametrize(("task", "name", "text"), [
    (LISTS, "rows.jsonl", AS_LISTS),
    ({**LISTS, "separator": "|"}, "rows.csv", AS_TEXTS),
    (FLAGS, "rows.csv", AS_FLAGS),
], ids=["lists", "texts", "columns"])  # fmt: skip
def test_labels_are_the_same_however_the_file_writes_them(tmp_path, task, name, text):
    data = load(tmp_path, task, name, text)
    assert data.label_names == NAMES
    assert data.train["label"][:] == [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert data.train.column_names == ["text", "label"]
    tokens, _ = tokenize(data.train, data.task, tiny_tokenizer(), 16)
    assert tokens["labels"][0] == [1.0, 0.0, 1.0]


def test_columns_keep_their_order_and_meet_a_models_names(tmp_path):
    task = {**FLAGS, "label": ["praise", "length", "blame"]}
    assert load(tmp_path, task, "rows.csv", AS_FLAGS).label_names == ("praise", "length", "blame")
    model = ModelLabels(("Length", "Blame", "Praise", "other"), "multi_label_classification")
    data = load(tmp_path, task, "rows.csv", AS_FLAGS, model)
    assert data.label_names == model.names
    assert data.train["label"][:] == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_task_labels_say_which_output_is_which(tmp_path):
    task = {**LISTS, "labels": {"praise": 0, "blame": 2, "length": 1}}
    data = load(tmp_path, task, "rows.jsonl", AS_LISTS, GENERIC)
    assert data.train["label"][0] == [1, 0, 1]
    assert data.train["label"][3] == [0, 1, 0]


def test_a_share_that_is_held_out_has_of_every_label(tmp_path):
    rows = [{"text": "a", "labels": ["praise", "rare"] if i % 20 == 0 else ["praise"] * (i % 2)} for i in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = resolve_source({"train": str(tmp_path / "rows.jsonl"), "validation_share": 0.2})
    data = load_task_data(resolve_task(LISTS), source)
    place = data.label_names.index("rare")
    assert sum(row[place] for row in data.validation[""]["label"]) == 2
    assert sum(row[place] for row in data.train["label"]) == 8


@pytest.mark.parametrize(("task", "name", "text", "sentence"), [
    (LISTS, "rows.csv", AS_TEXTS,
     "data row 1, column 'labels': expected a list of labels, got the text 'praise | blame'; say in task.separator "
     "what stands between its labels"),
    ({**LISTS, "separator": "|"}, "rows.csv", "text,labels\na,x||y\n",
     "data row 1, column 'labels': expected names of labels, but one of 'x||y' is ''"),
    (LISTS, "rows.jsonl", '{"text": "a", "labels": [["x"]]}\n',
     "data row 1, column 'labels': expected names of labels, but one of [['x']] is ['x']"),
    (LISTS, "rows.jsonl", '{"text": "a", "labels": 3}\n',
     "data row 1, column 'labels': expected a list of labels, got a int"),
    (LISTS, "rows.jsonl", '{"text": "a", "labels": []}\n', "column 'labels': no row has a label, so there is nothing"),
    (LISTS, "rows.jsonl", '{"text": "a", "labels": ["x"]}\n',
     "column 'labels': a multi_label task needs two labels or more, got only x; whether a row has the one or not is a "
     "classification"),
    (FLAGS, "rows.csv", "text,blame,length,praise\na,1,0,2\n", "data row 1, column 'praise': expected 0 or 1, got '2'"),
    (FLAGS, "rows.csv", "text,blame,length,praise\na,1,0,\n", "data row 1, column 'praise': the 0 or 1 is missing"),
])  # fmt: skip
def test_a_fault_in_the_rows_is_one_sentence(tmp_path, task, name, text, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        load(tmp_path, task, name, text)


def test_a_label_that_only_the_validation_rows_have_is_told_with_its_row(tmp_path):
    (tmp_path / "train.jsonl").write_text(AS_LISTS)
    (tmp_path / "dev.jsonl").write_text('{"text": "a", "labels": []}\n{"text": "b", "labels": ["praise", "new"]}\n')
    source = resolve_source({"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "dev.jsonl")})
    with pytest.raises(UserError, match=r"dev.jsonl, data row 2, column 'labels': label 'new' is none of the known"):
        load_task_data(resolve_task(LISTS), source)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"label": ["blame"]}, "task.label: expected the column of the labels, or two or more different columns of 0 and"),
    ({"label": ["blame", "blame"]}, "task.label: expected the column of the labels, or two or more different columns"),
    ({"label": ["blame", "text"]}, "task.label: 'text' is the column of a text already"),
    ({"label": ["blame", "praise"], "separator": ","}, "task.separator: columns of 0 and 1 have none; remove it"),
    ({"separator": 3}, "task.separator: expected a text such as '|', got 3"),
    ({"metrics": "accuracy"}, "task.metrics of a multi_label task"),
    ({"metric": "map"}, "unknown key 'task.metric'"),
])
def test_a_fault_in_the_task_is_one_sentence(change, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        resolve_task({**LISTS, **change})


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "problem_type"), [
    ("multi_label", "single_label_classification"), ("classification", "multi_label_classification"),
    ("regression", "multi_label_classification"), ("multi_label", "regression"),
])
def test_a_model_of_another_kind_is_refused(kind, problem_type):
    task = resolve_task({"kind": kind, "text": "text", "label": "labels"})
    with pytest.raises(UserError, match=f"is a {kind}, but the model's problem_type is {problem_type}$"):
        task.kind.check_model(task, ModelLabels(("a", "b"), problem_type))


def test_a_models_kind_is_multi_label_where_its_config_says_so():
    assert kind_of(tiny_model(num_labels=3, problem_type="multi_label_classification").config) is MULTI_LABEL
    assert kind_of(tiny_model(num_labels=3).config) is not MULTI_LABEL


# --- losses ----------------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_label_loss_is_transformers_own_and_wide_in_half_precision():
    model, batch = tiny_model(num_labels=3, problem_type="multi_label_classification"), tiny_batch()
    labels = torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    expected = model(**batch, labels=labels)
    logits, known = {"logits": expected.logits}, {**batch, "labels": labels}
    torch.testing.assert_close(MULTI_LABEL.label_loss(logits, known), expected.loss)
    assert MULTI_LABEL.label_loss({"logits": expected.logits.bfloat16()}, known).dtype == torch.float32
    torch.testing.assert_close(MULTI_LABEL.importance_loss(model, known), expected.loss)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_output_loss_is_its_slow_twin(temperature):
    rng = np.random.default_rng(0)
    ours, theirs = 3 * rng.standard_normal((2, 5, 4))
    total = 0.0
    for s, t in zip(ours.ravel(), theirs.ravel(), strict=True):
        p, q = sigmoid(t / temperature), sigmoid(s / temperature)
        total += -(p * np.log(q) + (1 - p) * np.log(1 - q))
    student = torch.tensor(ours, requires_grad=True)
    loss = MULTI_LABEL.output_loss({"logits": student}, {"logits": torch.tensor(theirs)}, {}, temperature)
    assert loss.item() == pytest.approx(temperature**2 * total / ours.size, rel=1e-12)
    loss.backward()
    slope = temperature * (sigmoid(ours / temperature) - sigmoid(theirs / temperature)) / ours.size
    np.testing.assert_allclose(student.grad, slope, rtol=1e-10)


def test_importance_without_labels_takes_the_models_own_decisions():
    model, batch = tiny_model(num_labels=3, problem_type="multi_label_classification"), tiny_batch()
    logits = model(**batch).logits.detach()
    assert 0 < (logits > 0).float().mean() < 1
    expected = model(**batch, labels=(logits > 0).float()).loss
    torch.testing.assert_close(MULTI_LABEL.importance_loss(model, batch), expected)


# --- judging ---------------------------------------------------------------------------------------------------------

LOGITS = {"logits": np.array([[2.0, -1, -1, -2], [1, 2, -3, -2], [-1, -2, -1, -2], [-2, 1, 2, -2]])}
KNOWN = {"labels": np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])}


def test_metrics_are_what_they_are_by_hand():
    task = resolve_task({**LISTS, "metrics": ["f1_micro", "f1_macro", "map", "subset_accuracy"]})
    # Right 3, given 5, there 4. By label: 2·1/(2+2), 1, 0 of one given, 1 for nothing given and nothing there. Average
    # precision: (1 + 2/3)/2 of a, 1 of b; c and d have no row.
    expected = {"f1_micro": 6 / 9, "f1_macro": (0.5 + 1 + 0 + 1) / 4, "map": (5 / 6 + 1) / 2, "subset_accuracy": 0.25}
    assert compute_metrics(task, LOGITS, KNOWN) == pytest.approx(expected)


def test_metrics_of_rows_without_a_label():
    task = resolve_task({**LISTS, "metrics": ["f1_micro", "f1_macro", "map", "subset_accuracy"]})
    none = {"labels": np.zeros((4, 4))}
    nothing = {"logits": np.full((4, 4), -1.0)}
    best = {"f1_micro": 1.0, "f1_macro": 1.0, "map": 0.0, "subset_accuracy": 1.0}
    assert compute_metrics(task, nothing, none) == best
    assert compute_metrics(task, {"logits": -nothing["logits"]}, none) == dict.fromkeys(best, 0.0)


def test_each_labels_f1_and_count():
    task = resolve_task(LISTS)
    found = MULTI_LABEL.per_class(task, LOGITS, KNOWN)
    assert {name: (own.score, own.count) for name, own in found.items()} == {"0": (0.5, 2), "1": (1.0, 2)}


def test_fidelity_counts_decisions_and_their_divergence():
    ours, theirs = np.array([[1.0, -1], [2, 1]]), np.array([[1.0, 1], [2, -3]])
    found = compute_fidelity(resolve_task(LISTS), {"logits": ours}, {"logits": theirs}, {})
    p, q = sigmoid(theirs), sigmoid(ours)
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert found == pytest.approx({"agreement": 0.5, "kl": kl})
    same = compute_fidelity(resolve_task(LISTS), {"logits": ours}, {"logits": ours}, {})
    assert same == {"agreement": 1.0, "kl": 0.0}
    large = np.array([[800.0, -800]])
    assert np.isfinite(MULTI_LABEL.fidelity({"logits": large}, {"logits": -large})["kl"])


def doubt_of(numbering, base):
    """What is said of a teacher that knows the labels, its outputs numbered and raised so."""
    rng = np.random.default_rng(0)
    labels = np.eye(3)[rng.integers(0, 3, 200)] * rng.integers(0, 2, 200)[:, None]
    labels[:20] = 1
    logits = 4 * labels[:, numbering] + rng.standard_normal((200, 3)) + np.asarray(base)
    names = LabelMap(NAMES, {name: i for i, name in enumerate(NAMES)}, "by name", NAMES)
    return MULTI_LABEL.doubt({"logits": logits}, {"labels": labels}, names)


@pytest.mark.parametrize("base", [(0, 0, 0), (-9, 9, 0)])
def test_a_teacher_whose_labels_are_numbered_otherwise_is_in_doubt(base):
    right = doubt_of([0, 1, 2], base)  # raised so, it finds one label everywhere and another nowhere, which is told
    assert right is None if base == (0, 0, 0) else "task.labels" not in right.told and not right.certain
    found = doubt_of([1, 2, 0], base)
    assert found.certain
    assert "task.labels: {blame: 2, length: 0, praise: 1}" in found.told


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    directory = tmp_path_factory.mktemp("multi")
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", initializer_range=0.1)).save_pretrained(directory / "encoder")
    tiny_tokenizer().save_pretrained(directory / "encoder")
    write_jsonl(directory / "train.jsonl", rows_of(96, 1))
    write_jsonl(directory / "validation.jsonl", rows_of(48, 2))
    content = {
        "task": LISTS,
        "data": {"train": f"{directory}/train.jsonl", "validation": f"{directory}/validation.jsonl", "max_length": 12},
        "distillation": {"weights": {"ce": 0.5}},
        "training": {"per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 5e-3, "use_cpu": True},
        "stages": {"finetune": {"dropout": 0.0, "training": {"num_train_epochs": 8}}},
    }
    path = str(write_recipe(directory, tiny_recipe(directory, **content)))
    for command in ("finetune", "train-width", "train-depth"):
        assert main([command, path]) == 0
    return directory


def test_it_is_trained_evaluated_and_judged_by_its_own_metrics(road):
    teacher = read_json(road / "run" / "teacher" / "metrics.json")["metrics"]
    assert teacher["map"] > 0.8, "the teacher has learned nothing"
    assert main(["evaluate", str(road / "run" / "depth"), "--json", str(road / "e.json")]) == 0
    evaluation = read_json(road / "e.json")
    assert evaluation["teacher"]["metrics"] == pytest.approx(teacher)
    assert [set(row["fidelity"]) for row in evaluation["subnetworks"]] == [{"agreement", "kl"}] * 4
    assert max(row["fidelity"]["agreement"] for row in evaluation["subnetworks"]) > 0.8
    log = [json.loads(line) for line in (road / "run" / "depth" / "log.jsonl").read_text().splitlines()]
    assert {"loss_ce", "loss_logits"} <= set(log[0])


def test_it_is_exported_and_its_pipeline_gives_the_probability_of_each_label(road):
    out = road / "student"
    arguments = ["--width", "0.5", "--depth", "0.5", "--int8", "--max-drop", "1", "--output", str(out)]
    assert main(["export", str(road / "run" / "depth"), *arguments, "--max-drop-per-class", "1"]) == 0
    about = read_json(out / "export.json")
    assert about["parity_max_abs_diff"] < 1e-4
    facts = about["files"]["onnx/model_quantized.onnx"]
    assert set(facts["class_drops"]) == set(NAMES)
    assert 0 <= facts["agreement"] <= 1
    card = (out / "README.md").read_text()
    assert 'pipeline("text-classification", "student", top_k=None)' in card
    assert "run('a fine film', { top_k: null })" in card
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["fine film", "a very dull book is cold"], padding=True, return_tensors="pt")
    spec = next(spec for spec in supernet.grid.specs() if (spec.width, spec.depth) == (0.5, 0.5))
    with torch.no_grad():
        expected = supernet.eval()(spec, **batch).outputs["logits"]
        for model in (AutoModelForSequenceClassification.from_pretrained(out).eval(), load_student(out)[0]):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=0)
    (found,) = pipeline("text-classification", str(out), top_k=None)("fine film")
    scores = {one["label"]: one["score"] for one in found}
    assert scores == pytest.approx(dict(zip(NAMES, expected[0].sigmoid().tolist(), strict=True)), abs=1e-6)


def test_new_rows_get_the_teachers_labels(road, tmp_path):
    recipe = str(road / "recipe.yaml")
    assert main(["augment", recipe, "--set", "augmentation.copies=1"]) == 0
    rows = [json.loads(line) for line in (road / "run" / "augmented" / "train.jsonl").read_text().splitlines()]
    assert len(rows) > 96
    assert all(set(row["labels"]) <= set(NAMES) for row in rows)
    told = read_json(road / "run" / "augmented" / "augment.json")
    assert told["new_labels"] == {name: sum(name in row["labels"] for row in rows[96:]) for name in NAMES}


def test_augmented_rows_of_columns_are_columns_again(tmp_path):
    task = resolve_task(FLAGS)
    names = LabelMap(NAMES, {name: i for i, name in enumerate(NAMES)}, "by name", NAMES)
    assert MULTI_LABEL.written(task, [1, 0, 1], names) == {"blame": 1, "length": 0, "praise": 1}


def test_a_silent_teacher_becomes_a_student_whose_pipeline_takes_a_sigmoid(road, tmp_path):
    teacher = AutoModelForSequenceClassification.from_pretrained(road / "run" / "teacher")
    teacher.config.problem_type, teacher.config.dynackd_kind = None, None
    teacher.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    changes = [f"teacher={tmp_path}/teacher", f"output_dir={tmp_path}/run", "training.max_steps=1"]
    sets = [part for change in changes for part in ("--set", change)]
    assert main(["train-width", str(road / "recipe.yaml"), *sets]) == 0
    config = read_json(tmp_path / "run" / "width" / "config.json")
    assert config["problem_type"] == "multi_label_classification"


def test_a_new_head_begins_at_how_frequent_each_label_is(road, tmp_path):
    """From even odds a training of rare labels spends its first steps on that alone."""
    found = MULTI_LABEL.first_bias([[1, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 0]])
    assert found == pytest.approx([math.log(4.5 / 0.5), math.log(0.5 / 4.5), math.log(1.5 / 3.5)])
    still = ["--set", "stages.finetune.training={max_steps: 1, learning_rate: 1e-12}"]
    path = str(road / "recipe.yaml")
    assert main(["finetune", path, *still, "--set", f"output_dir={tmp_path}/new"]) == 0
    made = AutoModelForSequenceClassification.from_pretrained(tmp_path / "new" / "teacher")
    rows = [json.loads(line)["labels"] for line in (road / "train.jsonl").read_text().splitlines()]
    share = [(sum(name in own for own in rows) + 0.5) / (len(rows) + 1) for name in made.config.label2id]
    assert made.classifier.bias.tolist() == pytest.approx([math.log(s / (1 - s)) for s in share], abs=1e-5)
    old = ["--set", f"model={road}/run/teacher", "--set", f"output_dir={tmp_path}/old"]
    assert main(["finetune", path, *still, *old]) == 0
    before, after = (AutoModelForSequenceClassification.from_pretrained(place / "teacher").classifier.bias
                     for place in (road / "run", tmp_path / "old"))  # fmt: skip
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
