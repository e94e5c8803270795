"""Labels and outputs: which label is which output is read, said or refused, never silently guessed."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_recipe, tiny_tokenizer, write_recipe, write_rows
from sklearn.metrics import cohen_kappa_score

from dynackd.cli.command_line import main
from dynackd.data.labels import LabelMap, label_map
from dynackd.data.model_labels import ModelLabels, labels_of, model_labels
from dynackd.data.rows import held_out_rows
from dynackd.data.sources import resolve_source
from dynackd.data.wanted_labels import wanted_labels
from dynackd.errors import UserError
from dynackd.supernet.checkpoints import load_model
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.doubts import (
    HARDLY,
    confusion_of,
    doubt_of_classes,
    doubt_of_little,
    doubt_of_sameness,
    doubt_of_values,
)
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.metrics import METRICS
from dynackd.tasks.multi_label import MULTI_LABEL
from dynackd.tasks.regression import REGRESSION
from dynackd.tasks.task import compute_metrics, resolve_task
from dynackd.tasks.token_classification import TOKEN_CLASSIFICATION
from dynackd.training import stages
from dynackd.training.augment import augment
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import RunMode

FRESH = RunMode()
OWN = {"kind": "classification", "text": "sentence", "label": "label"}
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")


# --- what a config says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"0": "pos", "1": "neg"}}, ("pos", "neg")),
        ({"id2label": {"0": "pos", "1": "neg"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ("pos", "neg")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"neg": 1, "pos": 0}}, ("pos", "neg")),
        ({"label2id": {"a": 1, "b": 0, "c": 2}}, ("b", "a", "c")),
        ({"id2label": {"0": "pos", "2": "neg"}}, ("pos", "LABEL_1", "neg")),
        ({"id2label": {"0": "pos", "2": "neg"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ("pos", "LABEL_1", "neg")),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"A": 0, "alpha": 0, "b": 1}}, ("a", "b")),
        ({"id2label": {"0": 1, "1": 2}}, ("1", "2")),
    ],
)
def test_both_maps_of_a_config_are_read_and_names_belong_to_output_numbers(config, names):
    assert model_labels(config).names == names


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"id2label": {"0": "pos", "1": "neg"}, "label2id": {"neg": 0, "pos": 1}},
            "here: id2label calls output 0 'pos', but label2id calls it 'neg'; make the two agree",
        ),
        (
            {"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 2},
            "here: num_labels is 2, but the labels name 3 outputs (a, b, c); make the two agree",
        ),
        ({"id2label": ["a", "b"]}, "here: id2label must map output numbers to names, not ['a', 'b']"),
        (
            {"id2label": {"a": 0, "b": 1}},
            "here: id2label gives 'a' as the number of an output; they are counted from 0",
        ),
        (
            {"id2label": {"9999999999": "a"}},
            "here: id2label gives '9999999999' as the number of an output; they are counted from 0",
        ),
        (
            {"label2id": {"a": 0, "b": 0, "c": 1}},
            "here: label2id has 2 names for output 0 (a, b), and id2label none; name it there",
        ),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(config, sentence):
    with pytest.raises(UserError) as error:
        model_labels(config, "here")
    assert str(error.value) == sentence


def saved(directory, num_labels=2, **changes):
    """A teacher with random weights, its config.json changed by hand."""
    tiny_model(num_labels=num_labels).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    for key in ("id2label", "label2id"):
        config.pop(key, None)
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


def test_a_loaded_model_has_as_many_outputs_as_its_weights_and_both_maps_agree(tmp_path):
    gaps = load_model(str(saved(tmp_path / "gaps", 3, id2label={"0": "pos", "2": "neg"})))
    assert gaps.config.id2label == {0: "pos", 1: "LABEL_1", 2: "neg"}
    assert gaps.config.label2id == {"pos": 0, "LABEL_1": 1, "neg": 2}
    alone = load_model(str(saved(tmp_path / "alone", 3, label2id={"x": 2, "y": 1, "z": 0})))
    assert labels_of(alone.config).names == ("z", "y", "x")
    with pytest.raises(UserError, match=r"config.json names 2 outputs \(a, b\), but the weights have 3$"):
        load_model(str(saved(tmp_path / "two", 3, id2label={"0": "a", "1": "b"})))


# --- where the two meet ----------------------------------------------------------------------------------------------


def meet(keys, model=None, declared=None, wanted=None):
    own = None if model is None else ModelLabels(tuple(model))
    return label_map(Counter(keys), "rows", declared, own, wanted and wanted_labels(wanted)[0])


@pytest.mark.parametrize(
    ("keys", "model", "sentence"),
    [
        (
            ["neg", "pos"],
            ["LABEL_0", "LABEL_1"],
            "rows: nothing says which of the labels neg, pos is which of the model's outputs (LABEL_0, LABEL_1); say "
            "so in the recipe, task.labels: {neg: 0, pos: 1} or another order",
        ),
        (
            ["1", "2", "3", "4"],
            STARS,
            "rows: the labels 1, 2, 3, 4 may be the numbers in the names of the model's outputs, or count these from 0 "
            "(1 star, 2 stars, 3 stars, 4 stars, 5 stars); say which in the recipe, task.labels: {1: 0, 2: 1, 3: 2, "
            "4: 3} or {1: 1, 2: 2, 3: 3, 4: 4}",
        ),
        (
            ["1", "2", "3", "4"],
            [f"LABEL_{i}" for i in range(5)],
            "rows: the labels 1, 2, 3, 4 may count the model's outputs from 1, or from 0 (LABEL_0, LABEL_1, LABEL_2, "
            "LABEL_3, LABEL_4); say which in the recipe, task.labels: {1: 0, 2: 1, 3: 2, 4: 3} or {1: 1, 2: 2, 3: 3, "
            "4: 4}",
        ),
        (
            ["1", "2", "3", "4", "5"],
            STARS,
            "rows: label 5 does not fit the model, whose 5 outputs are numbered 0 to 4 (1 star, 2 stars, 3 stars, 4 "
            "stars, 5 stars); say which is which in task.labels: {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}, if that is what they "
            "mean",
        ),
        (
            ["0", "1"],
            ["class 1", "class 0"],
            "rows: the labels 0, 1 may be the numbers in the names of the model's outputs, or count these from 0 "
            "(class 1, class 0); say which in the recipe, task.labels: {0: 1, 1: 0} or {0: 0, 1: 1}",
        ),
        (
            ["bad", "positive"],
            ["negative", "positive"],
            "rows: the labels bad, positive are not the model's, which are negative, positive; say which is which in "
            "the recipe, task.labels: {bad: NAME, positive: positive} with the model's NAME for each",
        ),
    ],
)
def test_what_could_be_matched_in_two_ways_is_refused_with_the_map_to_write(keys, model, sentence):
    with pytest.raises(UserError) as error:
        meet(keys, model)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("keys", "model", "wanted", "ids", "how"),
    [
        (["neg", "pos"], ["LABEL_0", "LABEL_1"], {"neg": 1, "pos": 0}, [1, 0], "as task.labels says"),
        (["neg", "pos"], ["LABEL_0", "LABEL_1"], ["pos", "neg"], [1, 0], "as task.labels says"),
        (["0", "1"], ["LABEL_0", "LABEL_1"], ["pos", "neg"], [0, 1], "as task.labels says"),
        (["bad", "awful", "good"], ["NEG", "POS"], {"bad": "NEG", "awful": "neg", "good": "POS"}, [0, 0, 1], None),
        (["1", "2", "3"], STARS, {1: 0, 2: 1, 3: 2}, [0, 1, 2], None),
        (["1", "2"], STARS, {"1": "1 star", "2": "2 stars"}, [0, 1], None),
        (["0", "1", "2", "3", "4"], STARS, None, [0, 1, 2, 3, 4], "by number"),
        (["1", "2"], ["class 0", "class 1", "class 2"], None, [1, 2], "by number"),
        (["pos", "neg"], ["POS", "NEG"], None, [0, 1], "by name, ignoring case; set task.labels to say otherwise"),
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], None, [1, 0], "by name"),
        (["b", "a"], None, None, [1, 0], "in alphabetical order; set task.labels to say otherwise"),
        (["b", "a"], None, {"b": 0, "a": 1}, [0, 1], "as task.labels says"),
        (["x", "y", "z"], None, {"x": "good", "y": "bad", "z": "good"}, [0, 1, 0], None),
    ],
)
def test_labels_meet_outputs(keys, model, wanted, ids, how):
    mapping = meet(keys, model, wanted_labels(wanted)[1] if wanted else None, wanted)
    assert [mapping.find(key) for key in keys] == ids
    assert mapping.how == (how or mapping.how)
    # What augment writes for a class is read back as that class.
    assert [mapping.find(written) for written in mapping.written] == list(range(len(mapping.names)))


def test_the_line_that_is_printed_names_label_id_and_output():
    mapping = meet(["neg", "pos"], ["LABEL_0", "LABEL_1"], None, {"neg": 1, "pos": 0})
    assert mapping.told(["neg", "pos"]) == (
        "labels: 'pos' -> 0 (LABEL_0), 'neg' -> 1 (LABEL_1), as task.labels says"
    )


def test_what_the_model_was_trained_on_counts_before_any_guess():
    own = ModelLabels(("LABEL_0", "LABEL_1", "LABEL_2"), written={"0": 0, "1": 1, "2": 2})
    mapping = label_map(Counter("12"), "rows", None, own)
    assert ([mapping.find(key) for key in "12"], mapping.how) == ([1, 2], "as the model was trained")


def test_words_that_differ_in_case_only_are_no_two_classes_by_themselves():
    with pytest.raises(UserError, match=r"'Login' \(1 rows\) and 'login' \(2 rows\) differ in case only"):
        meet(["login", "Login", "login", "logout"])
    mapping = meet(["login", "Login", "logout"], None, None, {"login": 0, "Login": 0, "logout": 1})
    assert mapping.find("Login") == mapping.find("login") == 0


# --- the same label in several files ---------------------------------------------------------------------------------


def write(path, rows):
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return str(path)


def load(tmp_path, train, validation, model=None, task=OWN):
    source = resolve_source({
        "train": write(tmp_path / "t.tsv", [(f"t{i}", label) for i, label in enumerate(train)]),
        "validation": write(tmp_path / "v.tsv", [(f"v{i}", label) for i, label in enumerate(validation)]),
    })
    own = None if model is None else ModelLabels(tuple(model))
    data = load_task_data(resolve_task(task), source, model=own)
    return data, data.validation[""]["label"][:]


def test_a_validation_row_may_have_a_class_that_the_model_knows_and_the_training_rows_lack(tmp_path):
    assert load(tmp_path, ["help", "logout"], ["login"], ["help", "login", "logout"])[1] == [1]


def test_one_file_may_write_numbers_and_the_other_names_of_a_model_that_names_its_classes(tmp_path):
    names = ["ham", "spam"]
    assert load(tmp_path, ["spam", "ham"], ["1", "0"], names)[1] == [1, 0]
    assert load(tmp_path, ["0", "1"], ["spam", "ham"], names)[1] == [1, 0]
    with pytest.raises(UserError) as error:
        load(tmp_path, ["ham", "spam"], ["ham", "1"])
    assert str(error.value) == (
        f"{tmp_path}/v.tsv, data row 2, column 'label': label '1' is none of the known labels (ham, spam); correct it, "
        "or say which class it is, task.labels: {1: CLASS, ham: 0, spam: 1}"
    )
    task = {**OWN, "labels": {"ham": 0, "spam": 1, 0: 0, 1: 1}}
    assert load(tmp_path, ["ham", "spam"], ["spam", "1"], None, task)[1] == [1, 1]


def test_another_case_in_another_file_is_the_same_class_and_told(tmp_path):
    data, ids = load(tmp_path, ["login", "logout"], ["Logout", "LOGIN"])
    assert ids == [1, 0]
    assert "'Logout' -> 1 (logout)" in data.notes[-1]


def test_a_validation_share_has_every_class_and_leaves_each_one_row_in_training():
    classes = np.array([0] * 60 + [1] * 30 + [2] * 9 + [3] * 1)
    for seed in range(20):
        held_out = held_out_rows(classes, 0.2, seed)
        assert np.array_equal(np.bincount(classes[held_out], minlength=4), [12, 6, 2, 0])
        assert sorted(set(held_out)) == list(held_out)
    assert np.array_equal(held_out, held_out_rows(classes, 0.2, 19))
    assert not np.array_equal(held_out, held_out_rows(classes, 0.2, 18))
    assert len(held_out_rows(np.zeros(7), 0.5, 0)) == 4
    assert len(held_out_rows(np.arange(5), 0.5, 0)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_one_row_stays_in_training_whatever_the_seed(tmp_path, seed):
    rows = write(tmp_path / "t.tsv", [(f"t{i}", "rare" if i == 7 else "ab"[i % 2]) for i in range(21)])
    source = resolve_source({"train": rows, "validation_share": 0.3, "seed": seed})
    data = load_task_data(resolve_task(OWN), source)
    assert data.label_names == ("a", "b", "rare")
    assert data.train["label"][:].count(2) == 1
    assert len(data.validation[""]) == 6


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_f1_is_binary_or_macro_by_the_tasks_classes_alone():
    task = resolve_task({**OWN, "metrics": ["f1", "f1_macro"]})
    references = np.array([0, 0, 1, 1])
    labels = {"labels": references}
    predictions = np.array([0, 1, 1, 1])  # F1 of class 0 2/3, of class 1 4/5; class 2 neither there nor found
    of_three = compute_metrics(task, {"logits": np.eye(3)[predictions]}, labels)
    assert of_three == pytest.approx({"f1": (2 / 3 + 4 / 5 + 1) / 3, "f1_macro": (2 / 3 + 4 / 5 + 1) / 3})
    of_two = compute_metrics(task, {"logits": np.eye(2)[predictions]}, labels)
    assert of_two == pytest.approx({"f1": 4 / 5, "f1_macro": (2 / 3 + 4 / 5) / 2})
    # One row too many for class 2: its F1 is 0.
    found = compute_metrics(task, {"logits": np.eye(3)[[0, 2, 1, 1]]}, labels)
    assert found["f1_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert METRICS["f1_macro"](references, references, 3) == 1


# --- the teacher's own answers ---------------------------------------------------------------------------------------


def answers(right, rows, classes, turn=lambda label: label, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    guesses = np.where(rng.random(rows) < right, labels, rng.integers(classes, size=rows))
    return confusion_of(labels, np.array([turn(int(guess)) for guess in guesses]), classes)


def told(names):
    return LabelMap(tuple(names), {name: i for i, name in enumerate(names)}, written=tuple(names))


@pytest.mark.parametrize(
    ("classes", "turn"),
    [(2, lambda i: 1 - i), (3, lambda i: (i + 1) % 3), (3, lambda i: 2 - i), (5, lambda i: min(i + 1, 4))],
    ids=["swapped", "turned", "two of three swapped", "off by one"],
)
def test_a_teacher_whose_classes_are_numbered_otherwise_is_found(classes, turn):
    names = [f"c{i}" for i in range(classes)]
    found = doubt_of_classes(answers(0.8, 512, classes, turn), told(names))
    assert found.certain
    assert doubt_of_classes(answers(0.8, 512, classes), told(names)) is None


def test_the_confusion_is_shown_with_the_map_that_fits():
    found = doubt_of_classes(np.array([[3, 97], [90, 10]]), told(["neg", "pos"]))
    assert found.told == (
        "the teacher gives 13 of 200 rows the class that the data say (6%; at random 50%): 'neg' is called pos 97 "
        "times, neg 3 times; 'pos' is called neg 90 times, pos 10 times; its answers fit task.labels: {neg: 1, pos: "
        "0}; set task.labels, name another teacher, or task.check_teacher: false if it is meant so"
    )
    assert not doubt_of_classes(np.array([[1, 19], [18, 2]]), told(["neg", "pos"])).certain  # 40 rows


@pytest.mark.parametrize("seed", range(200))
def test_chance_is_no_error(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 7))
    shares = rng.dirichlet(np.ones(classes))
    rows = int(rng.integers(50, 512))
    labels = rng.choice(classes, rows, p=shares)
    confusion = confusion_of(labels, rng.choice(classes, rows, p=shares), classes)
    found = doubt_of_classes(confusion, told([str(i) for i in range(classes)]))
    assert found is None or not found.certain


def test_a_regressions_teacher_that_falls_where_the_data_rise_is_found():
    values = np.random.default_rng(0).normal(size=100)
    assert doubt_of_values(-values, values).certain
    assert doubt_of_values(values, values) is None
    assert doubt_of_values(np.random.default_rng(1).normal(size=100), values) is None
    assert doubt_of_values(np.zeros(100), values) is None


def test_a_teacher_that_is_blind_to_the_rows_is_told():
    rng = np.random.default_rng(0)
    blind = np.array([-2.3, -2.9, -3.3]) + rng.normal(size=(100, 3)) * 1e-3
    doubt = doubt_of_sameness({"logits": blind})
    assert "nearly the same outputs for every row" in doubt.told
    assert not doubt.certain, "it may be meant so"
    seeing = blind.copy()
    seeing[:, 1] += rng.normal(size=100)
    assert doubt_of_sameness({"logits": seeing}) is None
    assert doubt_of_sameness({"logits": blind[:40]}) is None, "too few rows to say so"
    assert doubt_of_sameness({"start": blind, "end": seeing}) is None


def test_a_teacher_of_one_answer_for_all_rows_is_told():
    """Its outputs differ from row to row, and its metric is the share of the largest class."""
    logits = np.stack([np.ones(100), np.linspace(-0.9, 0.9, 100)], -1)
    labels, names = np.arange(100) % 2, told(("bad", "good"))
    doubt = CLASSIFICATION.doubt({"logits": logits}, {"labels": labels}, names)
    assert doubt.told.startswith("the teacher answers each of 100 rows with 'bad': it has learned no more than")
    assert not doubt.certain, "rows may be as uneven"
    logits[7, 1] = 1.1
    assert "answers each of" not in CLASSIFICATION.doubt({"logits": logits}, {"labels": labels}, names).told
    logits[7, 1] = 0
    assert CLASSIFICATION.doubt({"logits": logits}, {"labels": 0 * labels}, names) is None, "the data say so"
    few = {"logits": logits[:40]}, {"labels": labels[:40]}
    assert CLASSIFICATION.doubt(*few, names) is None, "too few rows to say so"
    words = TOKEN_CLASSIFICATION.doubt({"logits": logits}, {"labels": labels}, names)
    assert "answers each of 100 words with 'bad'" in words.told


def dealt(confusion):
    """(logits, labels) of a teacher of this confusion."""
    cells = [(label, answer) for (label, answer), count in np.ndenumerate(confusion) for _ in range(count)]
    labels, answers = np.array(cells).T
    return {"logits": np.eye(len(confusion))[answers] + 0.01 * np.arange(len(cells))[:, None]}, {"labels": labels}


def test_a_teacher_that_is_hardly_more_right_than_by_chance_is_told():
    """The first is MiniLM's of MRPC after 345 steps: .694 where .684 are of one class."""
    names = told(("no", "yes"))
    for kind, counted in ((CLASSIFICATION, "rows"), (TOKEN_CLASSIFICATION, "words")):
        doubt = kind.doubt(*dealt([[17, 112], [13, 266]]), names)
        assert doubt.told.startswith(
            f"the teacher gives 283 of 408 {counted} the class that the data say (69%), where its answers dealt out at "
            "random would do so of 66%: it has hardly learned the task")
        assert not doubt.certain, "some tasks are as hard"
        assert kind.doubt(*dealt([[50, 79], [33, 246]]), names) is None
        assert kind.doubt(*dealt([[99, 1], [0, 0]]), names) is None, "the rows are of one class"
    assert CLASSIFICATION.doubt(*dealt([[4, 6], [4, 486]]), names) is None, "of few rows of a class some are found"
    assert CLASSIFICATION.doubt(*dealt([[2, 13], [1, 32]]), names) is None, "too few rows to say so"


@pytest.mark.parametrize("kept", [60, 63, 66, 90])
def test_hardly_is_what_cohens_kappa_says(kept):
    confusion = np.array([[kept, 100 - kept, 0], [30, 60, 10], [40, 20, 40]])
    labels, answers = np.array([cell for cell, n in np.ndenumerate(confusion) for _ in range(n)]).T
    assert (doubt_of_little(confusion) is None) == (cohen_kappa_score(labels, answers) >= HARDLY)
    few = np.array([[kept, 100 - kept], [kept - 12, 112 - kept]])
    labels, answers = np.array([cell for cell, n in np.ndenumerate(few) for _ in range(n)]).T
    assert doubt_of_little(few) is not None
    assert cohen_kappa_score(labels, answers) < HARDLY


def test_a_regressions_teacher_that_hardly_follows_the_data_is_told():
    rng = np.random.default_rng(0)
    labels, noise = rng.normal(size=(2, 200))

    def doubt(values, labels=labels):
        return REGRESSION.doubt({"logits": values[:, None]}, {"labels": labels}, None)

    found = doubt(noise + 0.15 * labels)
    assert found.told.startswith("the teacher's values hardly follow the data's (Pearson's correlation 0.")
    assert "on 200 rows): it has hardly learned the task" in found.told
    assert not found.certain
    assert doubt(noise + 0.5 * labels) is None
    assert doubt((noise + 0.15 * labels)[:40], labels[:40]) is None, "too few rows to say so"
    assert doubt(np.zeros(200)) is None


def test_a_teacher_that_finds_the_same_labels_in_all_rows_is_told():
    none, names = np.linspace(-3, -1, 300).reshape(100, 3), told(("joy", "fear", "anger"))
    labels = np.eye(3, dtype=int)[np.arange(100) % 3]

    def doubt(logits, labels=labels):
        return MULTI_LABEL.doubt({"logits": logits}, {"labels": labels}, names)

    assert doubt(none).told.startswith("the teacher answers each of 100 rows with no label: it has learned")
    assert "no label" in doubt(none, 1 - labels).told, "with two labels each, which tell of no other order"
    both = np.abs(none) * (1, -1, 1)
    assert "with joy, anger: it has" in doubt(both).told
    both[0, 1] = 1
    assert "answers each of" not in doubt(both).told


@pytest.mark.parametrize("checked", [True, False])
def test_finetune_tells_of_a_teacher_that_answers_all_rows_alike(checked, tmp_path, capsys):
    """At once, not only when the next stage begins."""
    content = tiny_recipe(tmp_path)
    write_rows(tmp_path / "validation.tsv", 60, 1)
    content["task"] = OWN | {"check_teacher": checked}
    content["training"] |= {"learning_rate": 1e-9, "max_steps": 1}
    stages.finetune(make_recipe(content), FRESH)
    assert ("the teacher answers each of 60 rows with" in " ".join(capsys.readouterr().out.split())) == checked


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A random teacher whose task is what it says itself, so that it is always right; the data say zero and one."""
    directory = tmp_path_factory.mktemp("labels")
    content = tiny_recipe(directory)
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with torch.no_grad():
        for name, rows in (("train", 96), ("validation", 24)):
            write_rows(directory / f"{name}.tsv", rows, len(name))
            texts = [line.split("\t")[0] for line in (directory / f"{name}.tsv").read_text().splitlines()[1:]]
            logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
            gap = logits[:, 1] - logits[:, 0]
            middle = gap.median() if name == "train" else 0
            model.classifier.bias[1] -= middle  # as many training rows of one class as of the other
            labels = [("zero", "one")[value > middle] for value in gap]
            write(directory / f"{name}.tsv", zip(texts, labels, strict=True))
    model.save_pretrained(directory / "teacher")
    tokenizer.save_pretrained(directory / "teacher")
    return directory, content


def teacher_named(road, tmp_path, **maps):
    """A copy of the road's teacher whose config.json names its outputs so, and the recipe that takes it."""
    directory, content = road
    shutil.copytree(directory / "teacher", tmp_path / "teacher")
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(config | maps))
    training = {**content["training"], "num_train_epochs": 1}
    changes = {"teacher": str(tmp_path / "teacher"), "output_dir": str(tmp_path / "run"), "training": training}
    return {**content, **changes, "augmentation": {"copies": 2, "candidates": 3}}


def test_a_new_heads_names_and_how_the_data_write_them_are_kept(road, tmp_path):
    training = {**road[1]["training"], "max_steps": 1}
    task = {**OWN, "labels": {"zero": 0, "one": 1}}
    stages.finetune(make_recipe({**road[1], "task": task, "training": training, "output_dir": str(tmp_path)}), FRESH)
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["id2label"] == {"0": "zero", "1": "one"}
    assert config["label2id"] == {"zero": 0, "one": 1}
    assert config["dynackd_labels"] == {"zero": 0, "one": 1}


@pytest.mark.parametrize("command", [stages.train_width, augment], ids=["train-width", "augment"])
def test_labels_that_meet_the_outputs_the_wrong_way_round_are_an_error_before_any_training(road, tmp_path, command):
    content = teacher_named(road, tmp_path, id2label={0: "one", 1: "zero"})
    recipe = make_recipe({**content, "task": OWN})
    with pytest.raises(UserError, match=r"of 96 rows .*'one' is called zero .* its answers fit task.labels: .*check_t"):
        command(recipe, FRESH)
    assert not (tmp_path / "run" / "width").exists()
    assert not (tmp_path / "run" / "augmented").exists()


def test_the_error_can_be_passed_over_by_the_key_that_it_names(road, tmp_path, capsys):
    content = teacher_named(road, tmp_path, id2label={0: "one", 1: "zero"})
    stages.train_width(make_recipe({**content, "task": {**OWN, "check_teacher": False}}), FRESH)
    assert (tmp_path / "run" / "width" / "metrics.json").is_file()
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: labels: 'one' -> 0, 'zero' -> 1, by name" in printed
    assert main(["evaluate", str(tmp_path / "run" / "width")]) == 0
    assert "warning: the teacher" not in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run" / "width"), "--set", "task.check_teacher=true"]) == 0
    assert "warning: the teacher gives 0 of 24 rows the class" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("maps", "task"),
    [
        ({"id2label": {0: "zero", 1: "one"}}, {}),
        ({"id2label": {0: "Zero", 1: "ONE"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, {}),
        ({}, {"labels": {"zero": 0, "one": 1}}),
        ({"label2id": {"no": 0, "yes": 1}}, {"labels": {"zero": "no", "one": "yes"}}),
        ({"id2label": {0: "no", 1: "yes"}}, {"labels": ["zero", "one"]}),
    ],
    ids=["names", "id2label beside generic label2id", "map to numbers", "map to names of label2id alone", "list"],
)
def test_augment_writes_the_teachers_class_however_the_labels_met(road, tmp_path, maps, task):
    """In 588 of 588 rows it was the other class: id2label was never read."""
    content = teacher_named(road, tmp_path, **maps)
    directory, about = augment(make_recipe({**content, "task": {**OWN, **task}}), FRESH)
    rows = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    new = rows[about["rows"]["original"] :]
    teacher, tokenizer = load_model(str(tmp_path / "teacher")), tiny_tokenizer()
    with torch.no_grad():
        for row in new[::9]:
            answer = int(teacher(**tokenizer(row["sentence"], return_tensors="pt")).logits.argmax())
            assert row["label"] == ("zero", "one")[answer]


def test_word_labels_never_meet_placeholders_by_the_alphabet(road, tmp_path):
    """'one' would have become class 0, which the teacher calls what 'zero' means."""
    content = teacher_named(road, tmp_path)
    with pytest.raises(UserError, match=r"nothing says which .* task.labels: \{one: 0, zero: 1\} or another order"):
        stages.train_width(make_recipe({**content, "task": OWN}), FRESH)


# --- a head of other classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "names", "kept", "sentence"),
    [
        ("a b c", ("x", "y"), False, "m has a head of 3 classes (a, b, c); a new one of 2 classes (x, y) is made"),
        ("a b", ("b", "a"), False, "m has a head of 2 classes (a, b); a new one of 2 classes (b, a) is made"),
        ("a b", ("A", "b"), True, "m has a head of 2 classes (a, b) already; its training goes on"),
        ("x", ("LABEL_0", "LABEL_1"), False, "m has a head of 1 output; a new one of 2 classes (LABEL_0, LABEL_1) is "
                                             "made"),
    ],
)
def test_what_becomes_of_a_head_is_said(before, names, kept, sentence):
    assert CLASSIFICATION.head_fits("m", ModelLabels(tuple(before.split())), names) == (kept, sentence)


def test_finetune_from_a_classifier_of_other_classes_makes_a_new_head_and_says_so(tmp_path, capsys):
    content = tiny_recipe(tmp_path)
    saved(tmp_path / "three", 3, id2label={"0": "a", "1": "b", "2": "c"})
    saved(tmp_path / "two", 2, id2label={"0": "yes", "1": "no"})
    training = {**content["training"], "max_steps": 1, "learning_rate": 1e-9}
    heads = {}
    for name in ("three", "two"):
        changes = {"model": str(tmp_path / name), "output_dir": str(tmp_path / f"run-{name}"), "training": training}
        assert main(["finetune", str(write_recipe(tmp_path, {**content, **changes}))]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "; a new one of 2 classes (LABEL_0, LABEL_1) is made" in printed
        model = load_model(str(tmp_path / f"run-{name}" / "teacher"))
        heads[name] = model.classifier.weight
        assert model.config.num_labels == 2
    assert heads["two"].std() < 0.1 < load_model(str(tmp_path / "two")).classifier.weight.std()


# --- other kinds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["gradient", "magnitude"])
def test_a_multi_label_teacher_is_refused_whatever_the_importance_score(tmp_path, score):
    teacher = saved(tmp_path / "teacher", problem_type="multi_label_classification")
    content = tiny_recipe(tmp_path, teacher=str(teacher), importance={"score": score})
    for command in (stages.train_width, augment):
        with pytest.raises(UserError, match=r"the model's problem_type is multi_label_classification$"):
            command(make_recipe(content), FRESH)


