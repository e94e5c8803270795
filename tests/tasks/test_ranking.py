"""Ranking: how queries and passages are read, what is learned and measured, the whole way on a tiny model, and
sentence-transformers' CrossEncoder."""

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import GOOD, PLAIN, randomise, tiny_config, tiny_model, tiny_recipe, tiny_tokenizer, write_recipe
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

from dynackd.cli.command_line import main
from dynackd.data.model_labels import ModelLabels
from dynackd.data.sources import resolve_source
from dynackd.errors import UserError
from dynackd.students.loading import load_student
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.kinds import kind_of
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.ranking import GROUP, RANKING, query_divergence, rank_correlation, rank_metrics
from dynackd.tasks.task import compute_fidelity, compute_metrics, resolve_task
from dynackd.tasks.tokens import tokenize
from dynackd.training.finetuner import FineTuner

LISTS = {"kind": "ranking", "query": "q", "passages": "texts", "relevance": "grades"}
PAIRS = {"kind": "ranking", "query": "q", "positive": "good", "negative": "bad"}
FLAT = {"kind": "ranking", "query": "q", "passage": "text", "relevance": "grade"}


def load(tmp_path, task, name, text, model=None, **source):
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = resolve_source({"train": str(tmp_path / name), "validation": str(tmp_path / name), **source})
    return load_task_data(resolve_task(task), source, model=model)


# --- rows ------------------------------------------------------------------------------------------------------------

AS_LISTS = """{"q": "x", "texts": ["a", "b", "c"], "grades": [0, 1, 0]}
{"q": "y", "texts": ["d", "a"], "grades": [1, 0.0]}
"""
AS_PAIRS = """{"q": "x", "good": "b", "bad": ["a", "c"]}
{"q": "y", "good": ["d"], "bad": "a"}
"""
AS_FLAT = "q,text,grade\nx,a,0\ny,d,1\nx,b,1\nx,c,0\ny,a,0\n"


@pytest.mark.parametrize(("task", "name", "text"), [
    (LISTS, "rows.jsonl", AS_LISTS), (PAIRS, "rows.jsonl", AS_PAIRS), (FLAT, "rows.csv", AS_FLAT),
], ids=["lists", "positive and negative", "flat"])  # fmt: skip
def test_a_query_has_the_same_passages_however_the_file_writes_them(tmp_path, task, name, text):
    data = load(tmp_path, task, name, text)
    found = [dict(zip(row["passages"], row["label"], strict=True)) for row in data.train]
    assert data.train["query"][:] == ["x", "y"]
    assert found == [{"a": 0, "b": 1, "c": 0}, {"d": 1, "a": 0}]


def test_each_passage_is_an_input_beside_its_query_and_knows_it(tmp_path):
    text = '{"q": "fine day", "texts": ["a film", "a very dull film"], "grades": [3, 0]}\n' \
           '{"q": "NA", "texts": ["book"], "grades": [1.5]}\n'  # fmt: skip
    data = load(tmp_path, LISTS, "rows.jsonl", text)
    assert "relevance is divided by 3, the largest" in data.notes[0]
    assert "1 of 2 validation queries have passages of one relevance alone; the metrics leave them out" in data.notes[0]
    tokenizer = tiny_tokenizer()
    tokens, report = tokenize(data.train, data.task, tokenizer, 8)
    texts = [tokenizer.decode(ids) for ids in tokens["input_ids"]]
    assert texts == [
        "<s> fine day </s> a film </s>", "<s> fine day </s> a very dull </s>", "<s> NA </s> book </s>",
    ]  # fmt: skip
    assert tokens["labels"][:] == [1.0, 0.0, 0.5]
    assert tokens[GROUP][:] == [0, 0, 1]
    assert str(report) == ("2 queries of the training rows became 3 pairs of at most 8 tokens; 1 of them fill these, "
                           "and what was longer is cut")


def test_only_the_passage_is_cut_unless_the_query_takes_more_than_half():
    task, tokenizer = resolve_task(LISTS), tiny_tokenizer()

    def texts(query, passage):
        batch = {"query": [query], "passages": [[passage]], "row": [0]}
        return tokenizer.decode(RANKING.features(task, tokenizer, batch, 9)["input_ids"][0])

    assert texts("fine day", " ".join(PLAIN)) == "<s> fine day </s> a the film book </s>"
    assert texts(" ".join(PLAIN), " ".join(GOOD)) == "<s> a the film </s> fine great lovely </s>"


def test_subsets_and_shares_are_of_whole_queries(tmp_path):
    text = "q,text,grade\n" + "".join(f"q{i % 10},p{i},{i % 3}\n" for i in range(50))
    (tmp_path / "rows.csv").write_text(text)
    source = resolve_source({"train": str(tmp_path / "rows.csv"), "validation_share": 0.3, "train_rows": 4})
    data = load_task_data(resolve_task(FLAT), source)
    assert (len(data.train), len(data.validation[""])) == (4, 3)
    assert all(len(row["passages"]) == 5 for rows in (data.train, data.validation[""]) for row in rows)


@pytest.mark.parametrize("task", [PAIRS, LISTS])
def test_rows_of_one_query_are_one_query_so_that_none_is_trained_on_and_held_out(tmp_path, task):
    """As files of triplets have it, a query in many rows."""
    rows = [{"q": f"q{i % 10}", "good": f"g{i % 10}", "bad": f"b{i}", "texts": [f"g{i % 10}", f"b{i}"],
             "grades": [1, 0]} for i in range(50)]
    data = load(tmp_path, task, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert data.train[3] == {"query": "q3", "passages": ["g3", "b3", "b13", "b23", "b33", "b43"],
                             "label": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]}
    source = resolve_source({"train": str(tmp_path / "rows.jsonl"), "validation_share": 0.3})
    shared = load_task_data(resolve_task(task), source)
    sides = [set(own["query"]) for own in (shared.train, shared.validation[""])]
    assert (len(sides[0]), len(sides[1]), sides[0] & sides[1]) == (7, 3, set())


def test_of_a_passage_that_two_rows_judge_the_better_word_counts(tmp_path):
    rows = [{"q": "x", "texts": ["a", "b"], "grades": [0, 2]}, {"q": "y", "texts": ["a"], "grades": [1]},
            {"q": "x", "texts": ["b", "a"], "grades": [1, 3]}]  # fmt: skip
    data = load(tmp_path, LISTS, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert data.train[:] == {"query": ["x", "y"], "passages": [["a", "b"], ["a"]], "label": [[1.0, 2 / 3], [1 / 3]]}
    wrong = json.dumps(rows[0]) + "\n" + json.dumps(rows[1]) + '\n{"q": "x", "texts": ["b"], "grades": [1, 3]}\n'
    with pytest.raises(UserError, match="data row 3: 1 passages in column 'texts', but 2 numbers"):
        load(tmp_path, LISTS, "wrong.jsonl", wrong)


def test_passages_without_relevance_are_rows_too(tmp_path):
    task = {key: value for key, value in LISTS.items() if key != "relevance"}
    data = load(tmp_path, task, "rows.jsonl", '{"q": "x", "texts": ["a", "b"]}\n')
    tokens, _ = tokenize(data.train, data.task, tiny_tokenizer(), 16)
    assert "label" not in data.train.column_names
    assert "labels" not in tokens.column_names
    assert tokens[GROUP][:] == [0, 0]
    assert not RANKING.can_finetune(data.task)
    outputs = {"logits": np.array([[1.0], [2.0]])}
    assert compute_metrics(data.task, outputs, {GROUP: np.array([0, 0])}) == {}


@pytest.mark.parametrize(("task", "name", "text", "sentence"), [
    (LISTS, "rows.jsonl", '{"q": "x", "texts": ["a", "b"], "grades": [1]}\n',
     "data row 1: 2 passages in column 'texts', but 1 numbers in column 'grades'; each passage needs one"),
    (LISTS, "rows.jsonl", '{"q": "x", "texts": ["a"], "grades": [1]}\n{"q": "x", "texts": [], "grades": []}\n',
     "data row 2: the query has no passage; drop the row"),
    (LISTS, "rows.jsonl", '{"q": "x", "texts": ["a", " "], "grades": [1, 0]}\n',
     "data row 1, column 'texts': expected texts, but passage 2 is ' '"),
    (LISTS, "rows.jsonl", '{"q": "x", "texts": ["a", "b"], "grades": [1, -1]}\n',
     "data row 1, column 'grades': a relevance must be 0 or more, got -1"),
    (LISTS, "rows.jsonl", '{"q": "x", "texts": ["a", "b"], "grades": [1, null]}\n',
     "data row 1, column 'grades': expected numbers, but that of passage 2 is None"),
    (LISTS, "rows.jsonl", '{"q": "x", "texts": "a", "grades": [1]}\n',
     "data row 1, column 'texts': expected a list of passages, got a str"),
    (LISTS, "rows.jsonl", '{"q": "x", "texts": ["a", "b"], "grades": [1, 1]}\n',
     "no query has passages of different relevance, so that no order is better than another"),
    (PAIRS, "rows.jsonl", '{"q": "x", "good": null, "bad": []}\n',
     "data row 1: the query has no passage; drop the row"),
    (FLAT, "rows.csv", "q,text,grade\nx,a,1\nx,b,high\n", "data row 2, column 'grade': expected a number, got 'high'"),
    (FLAT, "rows.csv", "q,text,grade\nx,a,1\n,b,0\n", "data row 2, column 'q': the query is missing"),
])  # fmt: skip
def test_a_fault_in_the_rows_is_one_sentence(tmp_path, task, name, text, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        load(tmp_path, task, name, text)


@pytest.mark.parametrize(("task", "sentence"), [
    ({"query": "q"}, "task: name the columns of the passages in one way, passages (a list a row), passage (one a row) "
     "or positive and negative; got none"),
    ({"passages": "a", "passage": "b"}, "or positive and negative; got passages and passage"),
    ({"positive": "a"}, "or positive and negative; got positive"),
    ({"passages": "a", "negative": "b"}, "or positive and negative; got passages and negative"),
    ({"positive": "a", "negative": "b", "relevance": "c"},
     "task.relevance: passages that are positive or negative have one already; remove it"),
    ({"passages": "a", "relevance": "a"},
     "task: query, passages and relevance must be different columns, got query, a, a"),
    ({"passages": "a", "metrics": "accuracy"}, "task.metrics"),
    ({"passages": "a", "labels": {"a": 0, "b": 1}}, "task.labels: a ranking has no classes; remove it"),
    ({"passsages": "a"}, "unknown key 'task.passsages', did you mean 'passages'?"),
])  # fmt: skip
def test_a_fault_in_the_task_is_one_sentence(task, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        resolve_task({"kind": "ranking", **task})


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_teacher_has_one_output_and_may_be_a_regression():
    task = resolve_task(LISTS)
    for problem_type in (None, "regression"):
        RANKING.check_model(task, ModelLabels(("LABEL_0",), problem_type))
    with pytest.raises(UserError, match=r"needs a model with 1 output, the score, but the model has 2 \(no, yes\)"):
        RANKING.check_model(task, ModelLabels(("no", "yes")))
    with pytest.raises(UserError, match="the model's problem_type is multi_label_classification"):
        RANKING.check_model(task, ModelLabels(("LABEL_0",), "multi_label_classification"))


def test_a_model_says_that_it_ranks():
    assert kind_of(tiny_model(num_labels=1, dynackd_kind="ranking").config) is RANKING
    assert kind_of(tiny_model(num_labels=1).config) is not RANKING


# --- losses ----------------------------------------------------------------------------------------------------------

QUERIES = torch.tensor([4, 4, 9, 4, 9, 2])


def slow_divergence(ours, theirs, group, temperature):
    """The mean over pairs of KL(teacher ‖ student) over the passages of the pair's query."""
    total = 0.0
    for own in group.tolist():
        members = [i for i, other in enumerate(group.tolist()) if other == own]
        p = (theirs[members] / temperature).softmax(0)
        q = (ours[members] / temperature).softmax(0)
        total = total + sum(p[i] * (p[i].log() - q[i].log()) for i in range(len(members)))
    return total / len(group)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_output_loss_is_its_slow_twin(temperature):
    torch.manual_seed(0)
    ours, theirs = 3 * torch.randn(2, 6, 1, dtype=torch.float64)
    ours.requires_grad_()
    loss = RANKING.output_loss({"logits": ours}, {"logits": theirs}, {GROUP: QUERIES}, temperature)
    slow = slow_divergence(ours[:, 0], theirs[:, 0], QUERIES, temperature)
    expected = ((ours - theirs) ** 2).mean() + temperature**2 * slow
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(value, ours)[0] for value in (loss, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_the_divergence_is_0_for_scores_that_differ_by_a_number_for_each_query():
    scores = torch.randn(6, generator=torch.Generator().manual_seed(0))
    same = query_divergence(scores + 7.0 * QUERIES, scores, QUERIES, 1.0)
    assert abs(float(same)) < 1e-5
    assert float(query_divergence(scores + torch.arange(6), scores, QUERIES, 1.0)) > 0.1
    huge = query_divergence(1e4 * scores, scores, QUERIES, 1.0)
    assert torch.isfinite(huge)
    assert query_divergence(scores.bfloat16(), scores, QUERIES, 1.0).dtype == torch.float32


def test_the_label_loss_is_cross_entropy_with_the_relevance():
    logits, relevance = torch.tensor([[0.5], [-2.0], [3.0]]), torch.tensor([1.0, 0.0, 0.25])
    p = logits[:, 0].sigmoid()
    expected = -(relevance * p.log() + (1 - relevance) * (1 - p).log()).mean()
    torch.testing.assert_close(RANKING.label_loss({"logits": logits}, {"labels": relevance}), expected)


def test_importance_without_relevance_has_a_slope():
    model = tiny_model(num_labels=1)
    batch = tiny_tokenizer()(["fine day"] * 3, ["a film", "dull", "NA book"], padding=True, return_tensors="pt")
    loss = RANKING.importance_loss(model, {**batch, GROUP: torch.zeros(3)})
    loss.backward()
    assert model.classifier.weight.grad.abs().max() > 1e-3


# --- judging ---------------------------------------------------------------------------------------------------------


def test_metrics_are_what_they_are_by_hand():
    # Query 5, best score first: relevance 0, 1, 0, 1. Query 3: 2, 0, 1.
    scores = np.array([4.0, 9, 3, 8, 2, 7, 1])
    relevance = np.array([0.0, 2, 1, 0, 0, 1, 1])
    group = np.array([5, 3, 5, 3, 5, 3, 5])
    log = np.log2
    ndcg = ((1 / log(3) + 1 / log(5)) / (1 + 1 / log(3)), (2 + 1 / log(4)) / (2 + 1 / log(3)))
    expected = {"ndcg@10": np.mean(ndcg), "mrr@10": (1 / 2 + 1) / 2, "map": ((1 / 2 + 2 / 4) / 2 + (1 + 2 / 3) / 2) / 2}
    assert rank_metrics(scores, relevance, group) == pytest.approx(expected)
    task = resolve_task({**LISTS, "metrics": "map"})
    labels = {"labels": relevance, GROUP: group}
    assert compute_metrics(task, {"logits": scores[:, None]}, labels) == pytest.approx({"map": expected["map"]})


def test_only_the_first_ten_places_count():
    scores, relevance, group = -np.arange(12.0), np.zeros(12), np.zeros(12, int)
    relevance[10] = 1
    found = rank_metrics(scores, relevance, group)
    assert (found["ndcg@10"], found["mrr@10"]) == (0.0, 0.0)
    assert found["map"] == pytest.approx(1 / 11)


def test_a_model_that_tells_nothing_apart_gets_the_least_in_any_order_of_the_rows():
    relevance, group = np.array([1.0, 0, 0, 1, 0]), np.array([0, 0, 0, 1, 1])
    constant, worst = np.zeros(5), -relevance
    for order in (np.arange(5), np.arange(5)[::-1]):
        found = rank_metrics(constant[order], relevance[order], group[order])
        assert found == rank_metrics(worst, relevance, group)
        assert found["mrr@10"] == pytest.approx((1 / 3 + 1 / 2) / 2)
        assert max(found.values()) < 0.7


def test_queries_without_an_order_are_left_out():
    scores, relevance, group = np.array([2.0, 1, 5, 3, 4]), np.array([0.0, 1, 0, 0, 1]), np.array([0, 0, 1, 1, 2])
    assert rank_metrics(scores, relevance, group) == rank_metrics(scores[:2], relevance[:2], group[:2])
    assert rank_metrics(scores[2:], relevance[2:], group[2:]) == {"ndcg@10": 0.0, "mrr@10": 0.0, "map": 0.0}


def test_fidelity_is_by_query():
    ours, theirs = np.array([1.0, 2, 3, 9, 8, 0]), np.array([10.0, 20, 15, 1, 5, 0])
    group = np.array([0, 0, 0, 1, 1, 2])
    assert rank_correlation(ours, theirs, group) == pytest.approx((0.5 - 1) / 2)
    assert rank_correlation(ours, 0 * theirs, group) == 0.0
    labels = {GROUP: group}
    found = compute_fidelity(resolve_task(LISTS), {"logits": ours[:, None]}, {"logits": ours[:, None] + 3}, labels)
    assert found == pytest.approx({"spearman": 1.0, "rmse": 3.0})


def test_a_teacher_whose_scores_fall_where_relevance_rises_is_in_doubt():
    rng = np.random.default_rng(0)
    relevance = rng.integers(0, 2, 200).astype(float)
    logits = 2 * relevance + rng.standard_normal(200)
    labels = {"labels": relevance, GROUP: np.arange(200) // 5}
    assert RANKING.doubt({"logits": logits[:, None]}, labels, None) is None
    assert RANKING.doubt({"logits": -logits[:, None]}, labels, None).certain


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_the_passages_of_a_query_are_trained_in_one_batch(tmp_path, strategy):
    rows = [{"q": f"{word} day", "texts": [f"{word} " * n for n in (1, 2, 3)], "grades": [1, 0, 0]} for word in PLAIN]
    data = load(tmp_path, LISTS, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    tokens, _ = tokenize(data.train, data.task, tiny_tokenizer(), 16)
    arguments = TrainingArguments(
        str(tmp_path / "run"), use_cpu=True, per_device_train_batch_size=6, report_to="none",
        train_sampling_strategy=strategy,
    )  # fmt: skip
    trainer = FineTuner(tiny_model(num_labels=1), RANKING, arguments, train_dataset=tokens,
                        processing_class=tiny_tokenizer())  # fmt: skip
    batches = [batch[GROUP].tolist() for batch in trainer.get_train_dataloader()]
    assert sorted(chain.from_iterable(batches)) == sorted(tokens[GROUP][:])
    assert all(set(Counter(batch).values()) == {3} for batch in batches)


# --- the whole way ---------------------------------------------------------------------------------------------------


def rows_of(count, seed):
    """A query asks for a word; the passages that hold it are relevant."""
    rng = random.Random(seed)
    for _ in range(count):
        word, *others = rng.sample(GOOD, 4)
        passages = [f"{rng.choice(PLAIN)} {own} {rng.choice(PLAIN)}" for own in (word, *others[: rng.randrange(1, 4)])]
        rng.shuffle(passages)
        yield {"q": word, "texts": passages, "grades": [int(word in passage.split()) for passage in passages]}


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ranking")
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", initializer_range=0.1)).save_pretrained(directory / "encoder")
    tiny_tokenizer().save_pretrained(directory / "encoder")
    for name, count, seed in (("train", 64, 1), ("validation", 24, 2)):
        text = "".join(json.dumps(row) + "\n" for row in rows_of(count, seed))
        (directory / f"{name}.jsonl").write_text(text)
    content = {
        "task": LISTS,
        "data": {"train": f"{directory}/train.jsonl", "validation": f"{directory}/validation.jsonl", "max_length": 12},
        "distillation": {"weights": {"ce": 0.5}},
        "training": {"per_device_train_batch_size": 16, "num_train_epochs": 2, "learning_rate": 5e-3, "use_cpu": True},
        "stages": {"finetune": {"dropout": 0.0, "training": {"num_train_epochs": 20}}},
    }
    path = str(write_recipe(directory, tiny_recipe(directory, **content)))
    for command in ("finetune", "train-width", "train-depth"):
        assert main([command, path]) == 0
    return directory


SIZE = ["--width", "0.5", "--depth", "0.5"]


@pytest.fixture(scope="module")
def student(road):
    out = road / "student"
    arguments = [*SIZE, "--int8", "--max-drop", "1", "--with-code", "--output", str(out)]
    assert main(["export", str(road / "run" / "depth"), *arguments]) == 0
    return out


def test_it_is_trained_evaluated_and_judged_by_its_own_metrics(road):
    teacher = read_json(road / "run" / "teacher" / "metrics.json")["metrics"]
    assert teacher["ndcg@10"] > 0.9, "the teacher has learned nothing"
    assert main(["evaluate", str(road / "run" / "depth"), "--json", str(road / "e.json")]) == 0
    evaluation = read_json(road / "e.json")
    assert evaluation["teacher"]["metrics"] == pytest.approx(teacher)
    assert [set(row["fidelity"]) for row in evaluation["subnetworks"]] == [{"spearman", "rmse"}] * 4
    assert max(row["fidelity"]["spearman"] for row in evaluation["subnetworks"]) > 0.6
    log = [json.loads(line) for line in (road / "run" / "depth" / "log.jsonl").read_text().splitlines()]
    assert {"loss_ce", "loss_logits"} <= set(log[0])


def test_it_is_exported_and_gives_the_supernets_scores(road, student):
    about = read_json(student / "export.json")
    assert about["parity_max_abs_diff"] < 1e-4
    facts = about["files"]["onnx/model_quantized.onnx"]
    assert set(facts["metrics"]) == {"ndcg@10", "mrr@10", "map"}
    assert "agreement" not in facts, "scores are no labels"
    card = (student / "README.md").read_text()
    assert "pipeline_tag: text-ranking" in card
    assert "A smaller reranker" in card
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["fine", "fine"], ["a very dull book", "fine day"], padding=True, return_tensors="pt")
    spec = next(spec for spec in supernet.grid.specs() if (spec.width, spec.depth) == (0.5, 0.5))
    with torch.no_grad():
        expected = supernet.eval()(spec, **batch).outputs["logits"]
        assert expected.shape == (2, 1)
        for model in (AutoModelForSequenceClassification.from_pretrained(student).eval(), load_student(student)[0]):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=0)


def test_passages_without_relevance_train_by_the_teacher_alone(road, tmp_path, capsys):
    (tmp_path / "plain.jsonl").write_text('{"q": "fine", "texts": ["fine day", "dull"]}\n' * 8)
    path = str(write_recipe(tmp_path, tiny_recipe(
        tmp_path, model=str(road / "run" / "teacher"), teacher=str(road / "run" / "teacher"),
        task={"kind": "ranking", "query": "q", "passages": "texts"},
        data={"train": f"{tmp_path}/plain.jsonl", "validation": f"{tmp_path}/plain.jsonl", "max_length": 12},
    )))  # fmt: skip
    assert main(["train-width", path]) == 0
    about = read_json(tmp_path / "run" / "width" / "metrics.json")
    assert [set(row["fidelity"]) for row in about["subnetworks"]] == [{"spearman", "rmse"}] * 2
    assert main(["finetune", path]) == 2
    assert "a reranker has no labels to fine-tune with" in capsys.readouterr().err


# --- clients ---------------------------------------------------------------------------------------------------------

PASSAGES = ["fine day", "a very dull book", "fine", "NA " * 30]
CROSS_ENCODER = """
import json, sys
{first}
import torch
from sentence_transformers import CrossEncoder

model = CrossEncoder(sys.argv[1], device="cpu")
pairs = [("fine", passage) for passage in json.loads(sys.argv[2])]
print(json.dumps({{
    "scores": model.predict(pairs, activation_fn=torch.nn.Identity()).tolist(),
    "usual": model.predict(pairs).tolist(),
    "order": [found["corpus_id"] for found in model.rank("fine", [passage for _, passage in pairs])],
}}))
"""


def cross_encoder(directory, first):
    """What CrossEncoder gives in a process of its own; its scores by itself, and behind its own function."""
    pytest.importorskip("sentence_transformers")
    command = [sys.executable, "-c", CROSS_ENCODER.format(first=first), str(directory), json.dumps(PASSAGES)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cross_encoder_here(directory):
    """The same in this process, which knows the students."""
    model = pytest.importorskip("sentence_transformers").CrossEncoder(str(directory), device="cpu")
    pairs = [("fine", passage) for passage in PASSAGES]
    return {
        "scores": model.predict(pairs, activation_fn=torch.nn.Identity()),
        "usual": model.predict(pairs),
        "order": [found["corpus_id"] for found in model.rank("fine", PASSAGES)],
    }


def scores_of(directory):
    """A pair at a time, as torch gives them."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        found = [model(**tokenizer("fine", text, truncation=True, return_tensors="pt")).logits for text in PASSAGES]
    return torch.cat(found)[:, 0].numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.client
@pytest.mark.parametrize("which", ["student", "stock", "teacher"])
def test_cross_encoder_gives_our_scores_and_order(road, student, which):
    if which == "stock":
        directory = road / "stock"
        arguments = ["--width", "0.5", "--depth", "1", "--compat", "--output", str(directory)]
        assert main(["export", str(road / "run" / "depth"), *arguments]) == 0
        found = cross_encoder(directory, "sys.modules['dynackd'] = None")
    elif which == "student":
        directory, found = student, cross_encoder(student, "import dynackd")
    else:
        directory = road / "run" / "teacher"
        found = cross_encoder_here(directory)
    expected = scores_of(directory)
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    np.testing.assert_allclose(found["usual"], sigmoid(expected), atol=1e-5)
    assert found["order"] == np.argsort(-expected).tolist()


@pytest.mark.client
@pytest.mark.parametrize("saved_by", ["transformers", "sentence-transformers"])
def test_a_student_of_a_cross_encoder_has_its_teachers_function(road, tmp_path, saved_by):
    """One whose scores are left as they are, saved by whichever library, is a teacher as it lies there."""
    library = pytest.importorskip("sentence_transformers")
    model = randomise(AutoModelForSequenceClassification.from_config(tiny_config("bert", num_labels=1)))
    function = {"activation_fn": "torch.nn.modules.linear.Identity"}
    model.config.sentence_transformers = function if saved_by == "transformers" else None
    model.save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    teacher = tmp_path / "plain"
    if saved_by == "sentence-transformers":
        content = read_json(teacher / "config.json")
        content.pop("sentence_transformers", None)
        (teacher / "config.json").write_text(json.dumps(content))
        teacher = tmp_path / "teacher"
        theirs = library.CrossEncoder(str(tmp_path / "plain"), activation_fn=torch.nn.Identity())
        theirs.save_pretrained(str(teacher))
    sets = [f"teacher={teacher}", f"model={teacher}", f"output_dir={tmp_path}/run", "training.max_steps=1",
            "task.check_teacher=false"]  # fmt: skip
    assert main(["train-width", str(road / "recipe.yaml"), *(part for own in sets for part in ("--set", own))]) == 0
    arguments = ["--width", "0.5", "--depth", "1", "--output", str(tmp_path / "student")]
    assert main(["export", str(tmp_path / "run" / "width"), *arguments]) == 0
    found = cross_encoder_here(tmp_path / "student")
    assert found["usual"].tolist() == found["scores"].tolist()
    np.testing.assert_allclose(found["scores"], scores_of(tmp_path / "student"), atol=1e-5)


@pytest.mark.client
def test_the_python_snippets_of_the_card_run_as_they_stand(student, monkeypatch, capsys):
    monkeypatch.chdir(student.parent)
    codes = re.findall(r"```python\n(.*?)```", (student / "README.md").read_text(), re.DOTALL)
    assert len(codes) == 5
    for code in codes:
        needed = re.findall(r"^(?:import|from) (openvino|sentence_transformers)", code, re.MULTILINE)
        if "trust_remote_code" in code:
            blocked = f"import sys; sys.modules['dynackd'] = None\n{code}"
            run = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            assert run.stdout.strip()
        elif all(map(importlib.util.find_spec, needed)):
            exec(compile(code, "README.md", "exec"), {})
            assert capsys.readouterr().out.strip()
