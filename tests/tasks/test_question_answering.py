"""Question answering: from SQuAD's files to a student that answers, over contexts longer than a window."""

import gzip
import importlib.util
import json
import math
import random
import re
import shutil
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import GOOD, PLAIN, tiny_batch, tiny_config, tiny_model, tiny_tokenizer, write_recipe
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForQuestionAnswering

import dynackd
from dynackd.cli.command_line import main
from dynackd.data.sources import resolve_source
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.measure.evaluation import joined
from dynackd.students.loading import load_student
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.question_answering import LENGTHS, QUESTION_ANSWERING, real
from dynackd.tasks.spans import (
    Spans,
    best_of,
    best_spans,
    best_windows,
    least_nothing,
    located,
    normalised,
    overlap,
    tokens_of,
)
from dynackd.tasks.task import compute_metrics, resolve_task
from dynackd.tasks.tokens import tokenize
from dynackd.tasks.windows import ENDS, ROW, STARTS

TASK = {"kind": "question_answering"}


def question_row(rng):
    """What is good in the context is the answer."""
    before, after = (rng.choices(PLAIN, k=rng.randrange(0, 14)) for _ in range(2))
    answer = " ".join(rng.choices(GOOD, k=rng.randrange(1, 3)))
    context = " ".join([*before, answer, *after])
    return {"question": "what is it", "context": context,
            "answers": [{"text": answer, "answer_start": context.index(answer)}]}


def squad(rows):
    """The rows in SQuAD's layout, two to an article."""
    paragraphs = [
        {"context": row["context"], "qas": [{"id": str(i), "question": row["question"], "answers": row["answers"]}]}
        for i, row in enumerate(rows)
    ]
    articles = [{"title": "t", "paragraphs": paragraphs[i : i + 2]} for i in range(0, len(paragraphs), 2)]
    return {"version": "1.1", "data": articles}


def rows_of(count, seed):
    rng = random.Random(seed)
    return [question_row(rng) for _ in range(count)]


def recipe_in(directory, **changes):
    return {
        "model": str(directory / "encoder"),
        "task": TASK,
        "data": {"train": f"{directory}/train.json.gz", "validation": f"{directory}/validation.jsonl",
                 "max_length": 16},
        "grid": {"widths": [0.5, 1.0], "depths": [0.5, 1.0]},
        "importance": {"rows": 16},
        "distillation": {"weights": {"ce": 0.5}},
        "training": {"per_device_train_batch_size": 8, "num_train_epochs": 6, "learning_rate": 1e-2, "use_cpu": True},
        "stages": {stage: {"training": {"num_train_epochs": 4}} for stage in ("width", "depth")},
        "output_dir": str(directory / "run"),
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """From an encoder and SQuAD's files to a supernet."""
    directory = tmp_path_factory.mktemp("squad")
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert")).save_pretrained(directory / "encoder")
    tiny_tokenizer().save_pretrained(directory / "encoder")
    with gzip.open(directory / "train.json.gz", "wt") as file:
        json.dump(squad(rows_of(80, 1)), file)
    lines = (json.dumps(row) + "\n" for row in rows_of(32, 2))
    (directory / "validation.jsonl").write_text("".join(lines))
    path = str(write_recipe(directory, recipe_in(directory)))
    for command in ("finetune", "train-width", "train-depth"):
        assert main([command, path]) == 0
    return directory


def test_questions_are_trained_and_judged_by_their_texts(road, capsys):
    teacher = read_json(road / "run" / "teacher" / "metrics.json")["metrics"]
    assert teacher["f1"] > 0.8, "the teacher has learned nothing"
    assert main(["evaluate", str(road / "run" / "depth"), "--json", str(road / "e.json")]) == 0
    assert re.search(r"note: 32 questions of the validation rows became \d\d windows", capsys.readouterr().out)
    evaluation = read_json(road / "e.json")
    assert evaluation["teacher"]["metrics"] == pytest.approx(teacher)
    assert [set(row["fidelity"]) for row in evaluation["subnetworks"]] == [{"agreement", "kl"}] * 4


# --- the rows --------------------------------------------------------------------------------------------------------


def data_of(directory, rows, task=None, length=16, write=None):
    """(what is loaded of these rows, their windows)."""
    file = directory / "rows.jsonl"
    if write is None:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file = write(rows)
    source = resolve_source({"train": str(file), "validation": str(file), "max_length": length})
    data = load_task_data(resolve_task({**TASK, **(task or {})}), source)
    return data, tokenize(data.train, data.task, tiny_tokenizer(), length)[0]


CONTEXT = "a film was quite fine and very warm one day"  # 10 tokens
ROW_OF = {"question": "what", "context": CONTEXT, "answers": [{"text": "very warm", "answer_start": 26}]}


def in_squads_layout(directory, suffix):
    def write(rows):
        text = json.dumps(squad(rows), indent=1 if suffix == ".json" else None).encode()
        file = directory / f"s{suffix}"
        file.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
        return file

    return write


def in_parquet(directory, of_lists):
    def write(rows):
        answers = [{key: [one[key] for one in row["answers"]] for key in ("text", "answer_start")} if of_lists
                   else row["answers"] for row in rows]
        table = {name: [row[name] for row in rows] for name in ("question", "context")}
        pq.write_table(pa.table({**table, "answers": answers}), directory / "t.parquet")
        return directory / "t.parquet"

    return write


def test_every_layout_gives_the_same_windows(tmp_path):
    rows = rows_of(9, 3)
    _, expected = data_of(tmp_path, rows)
    hub = [{**row, "answers": {k: [one[k] for one in row["answers"]] for k in ("text", "answer_start")}}
           for row in rows]
    writers = [in_squads_layout(tmp_path, ".json"), in_squads_layout(tmp_path, ".json.gz"),
               in_parquet(tmp_path, True), in_parquet(tmp_path, False)]
    for found in (data_of(tmp_path, hub)[1], *(data_of(tmp_path, rows, write=own)[1] for own in writers)):
        assert found.to_dict() == expected.to_dict()


def test_a_long_context_becomes_windows_of_which_only_those_with_the_whole_answer_point_to_it(tmp_path):
    # <s> what </s> and </s> leave 4 of 8 tokens; windows share 2: tokens 0-3, 2-5, 4-7, 6-9 of the context.
    _, tokens = data_of(tmp_path, [ROW_OF, {**ROW_OF, "answers": [{"text": "and very", "answer_start": 22}]}],
                        {"stride": 2}, 8)
    assert tokens[ROW] == [0, 0, 0, 0, 1, 1, 1, 1]
    words = CONTEXT.split()
    places = list(zip(tokens["start_positions"], tokens["end_positions"], strict=True))
    assert places[:4] == [(0, 0), (0, 0), (5, 6), (3, 4)], "very warm are the tokens 6 and 7"
    assert places[4:] == [(0, 0), (0, 0), (4, 5), (0, 0)], "and very are the tokens 5 and 6: no other holds both"
    for window, first in enumerate((0, 2, 4, 6)):
        starts, ends = tokens[STARTS][window], tokens[ENDS][window]
        seen = [CONTEXT[start:end] if start >= 0 else None for start, end in zip(starts, ends, strict=True)]
        assert seen == [None, None, None, *words[first : first + 4], None]


def test_answers_that_fit_into_no_window_are_told(tmp_path):
    long = {**ROW_OF, "answers": [{"text": "fine and very warm one", "answer_start": 17}]}  # 5 tokens
    data, _ = data_of(tmp_path, [ROW_OF, long, long], {"stride": 2}, 8)
    _, report = tokenize(data.train, data.task, tiny_tokenizer(), 8)
    assert str(report) == ("3 questions of the training rows became 12 windows of at most 8 tokens; 2 questions have "
                           "no answer that lies in a window as a whole")


def test_windows_share_a_third_of_the_length_unless_it_is_said(tmp_path):
    row = {**ROW_OF, "context": " ".join([CONTEXT] * 3)}
    _, usual = data_of(tmp_path, [row], length=18)
    _, own = data_of(tmp_path, [row], {"stride": 6}, 18)
    _, other = data_of(tmp_path, [row], {"stride": 12}, 18)
    assert usual.to_dict() == own.to_dict()
    assert len(other) > len(own)


@pytest.mark.parametrize(("text", "start", "expected"), [
    ("fine", 2, (2, 6)), (" fine ", 1, (2, 6)), ("fine", 1, (2, 6)), ("fine", 3, None), ("film", 2, None),
    ("a", 0, (0, 1)), ("film", 7, (7, 11)), ("films", 7, None), ("fine", -9, None), ("", 2, None), ("a", 99, None),
])  # fmt: skip
def test_an_answer_is_where_it_says_or_behind_blanks(text, start, expected):
    assert located("a fine film", text, start) == expected


def test_the_tokens_of_an_answer_are_those_that_hold_its_characters():
    starts, ends = np.array([-1, 0, 4, 6, 11, -1]), np.array([-1, 3, 6, 10, 14, -1])
    assert tokens_of((4, 10), starts, ends) == (2, 3)
    assert tokens_of((5, 7), starts, ends) == (2, 3), "inside of tokens"
    assert tokens_of((3, 6), starts, ends) == (2, 2), "from the blank before"
    assert tokens_of((12, 15), starts, ends) is None, "beyond the window"
    assert tokens_of((0, 1), starts, ends) == (1, 1)
    assert tokens_of((0, 1), np.full(3, -1), np.full(3, -1)) is None


# --- what is chosen, and how right it is -----------------------------------------------------------------------------


def slow_span(start, end, inside, most):
    found = [(start[i] + end[j], i, j) for i in range(len(start)) for j in range(i, min(i + most, len(start)))
             if inside[i] and inside[j]]
    return max(found, key=lambda own: own[0]) if found else (-math.inf, 0, 0)


@pytest.mark.parametrize("most", [1, 3, 30])
def test_the_best_span_is_that_of_a_search_through_all(most):
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 50, 17)) * 3
    inside = np.zeros((50, 17), bool)
    for row in inside:
        first, last = np.sort(rng.integers(1, 17, 2))
        row[first:last] = True
    spans = best_spans(start, end, inside, most)
    assert not inside[~inside.any(1)].any()
    assert (~inside.any(1)).any(), "no window without a context is tried"
    for row in range(50):
        score, first, last = slow_span(start[row], end[row], inside[row], most)
        assert spans.score[row] == score
        if np.isfinite(score):
            assert (spans.first[row], spans.last[row]) == (first, last)
        assert spans.nothing[row] == start[row, 0] + end[row, 0]


def test_a_row_is_judged_by_its_best_window_and_no_answer_by_its_least():
    """Any window may hold the answer, so that nothing is there only where nothing is in each."""
    none, score, nothing = np.zeros(5, int), np.array([1.0, 5.0, -np.inf, 2.0, 3.0]), np.array([4.0, 2, 3, 9, 8])
    spans = Spans(none, none, score, nothing)
    rows = np.array([7, 3, 7, 3, 7])
    assert best_windows(spans, rows) == {3: 1, 7: 4}
    assert least_nothing(spans, rows) == {3: 2.0, 7: 3.0}


def squad_script(text, answers):
    """(exact match, F1) as evaluate-v2.0.py has them, written anew."""

    def plain(own):
        own = "".join(char for char in own.lower() if char not in set(string.punctuation))
        return [word for word in own.split() if word not in ("a", "an", "the")]

    def one(gold):
        ours, theirs = plain(text), plain(gold)
        common = sum((Counter(ours) & Counter(theirs)).values())
        if not ours or not theirs:
            return float(ours == theirs), float(ours == theirs)
        if not common:
            return 0.0, 0.0
        precision, recall = common / len(ours), common / len(theirs)
        return float(ours == theirs), 2 * precision * recall / (precision + recall)

    golds = [gold for gold in answers if plain(gold)] or [""]
    return tuple(max(values) for values in zip(*map(one, golds), strict=True))


def test_exact_match_and_f1_are_those_of_squads_script():
    assert normalised("The  U.S.A.'s an Apple,\n theatre!") == "usas apple theatre"
    assert overlap("the fine film", "a fine day") == 0.5, "one word of two, both ways"
    assert overlap("fine fine film", "fine day book") == pytest.approx(1 / 3)
    assert overlap("", "fine") == 0
    rng = random.Random(0)
    words = ["the", "The", "a", "fine", "Fine,", "film", "-", "day.", "A.", "an"]
    for _ in range(300):
        text, *golds = (" ".join(rng.choices(words, k=rng.randrange(4))) for _ in range(rng.randrange(1, 4)))
        found = best_of("exact_match", text, golds), best_of("f1", text, golds)
        assert found == pytest.approx(squad_script(text, golds))


def outputs_of(kind, data, tokens, start, end):
    """Logits [tokens] of joined windows, and their labels, as the evaluation joins them."""
    tokenizer, parts = tiny_tokenizer(), []
    columns = [name for name in tokens.column_names if name != "length"]
    for i in range(0, len(tokens), 2):  # batches of two, padded
        rows = [{name: tokens[j][name] for name in columns} for j in range(i, min(i + 2, len(tokens)))]
        inputs, labels = kind.split(kind.collator(tokenizer)(rows))
        mask = inputs["attention_mask"].numpy()
        logits = {"start_logits": start(inputs, labels), "end_logits": end(inputs, labels)}
        parts.append((kind.flat(logits, mask), kind.flat({k: v.numpy() for k, v in labels.items()}, mask)))
    return [joined([part[i] for part in parts]) for i in (0, 1)]


def test_the_metrics_of_a_set_by_hand(tmp_path):
    """Two questions in three windows and one: the first is answered in its second window, "quite fine", which is half
    of what is right; the second rightly."""
    golds = [{"text": "fine and", "answer_start": 17}, {"text": "warm", "answer_start": 31}]
    rows = [{**ROW_OF, "answers": golds}, {"question": "what", "context": "a book", "answers":
            [{"text": "a book", "answer_start": 0}]}]  # fmt: skip
    data, tokens = data_of(tmp_path, rows, {"stride": 2}, 8)
    assert tokens[ROW] == [0, 0, 0, 0, 1]
    chosen = {(0, 1): (4, 5, 3.0), (0, 0): (3, 3, 1.0), (1, 4): (3, 4, 1.0)}  # (row, window) -> first, last, logit

    def logits(which):
        count = iter(range(len(tokens)))

        def of(inputs, labels):
            array = np.zeros(inputs["input_ids"].shape, np.float32)
            array[:, 0] = 9.0  # no answer, which is not asked for
            array[inputs["attention_mask"].numpy() == 0] = 99.0  # padding
            for own, row in zip(array, labels[ROW].tolist(), strict=True):
                first, last, logit = chosen.get((row, next(count)), (3, 3, 0.0))
                own[first if which == 0 else last] = logit
            return array

        return of

    outputs, labels = outputs_of(QUESTION_ANSWERING, data, tokens, logits(0), logits(1))
    about = data.task
    # "quite fine" against "fine and": 2 * 1 / 4.
    assert compute_metrics(about, outputs, labels) == {"f1": 0.75, "exact_match": 0.5}
    data, _ = data_of(tmp_path, rows, {"stride": 2, "unanswerable": True}, 8)
    assert compute_metrics(data.task, outputs, labels) == {"f1": 0.0, "exact_match": 0.0}, "no answer is likelier"


def test_no_answer_is_right_where_there_is_none(tmp_path):
    rows = [{**ROW_OF, "answers": []}, ROW_OF]
    data, tokens = data_of(tmp_path, rows, {"unanswerable": True}, 24)
    assert tokens["start_positions"] == [0, 9]

    def place(inputs, labels):
        array = np.zeros(inputs["input_ids"].shape, np.float32)
        array[0, 0] = array[1, 9] = 1.0
        return array

    outputs, labels = outputs_of(QUESTION_ANSWERING, data, tokens, place, place)
    # Nothing is found where nothing is; "very" is one of the two words of "very warm": F1 2/3.
    assert compute_metrics(data.task, outputs, labels) == {"f1": pytest.approx(5 / 6), "exact_match": 0.5}


# --- learning --------------------------------------------------------------------------------------------------------


def batch_of(seed=0):
    """Logits of a student and a teacher [4, 9] and a batch with padding on the right, on the left and in the middle."""
    batch, generator = tiny_batch(), torch.Generator().manual_seed(seed)
    student, teacher = ({name: torch.randn(4, 9, generator=generator, dtype=torch.float64) * 3
                         for name in ("start_logits", "end_logits")} for _ in range(2))  # fmt: skip
    places = {"start_positions": torch.tensor([1, 2, 3, 0]), "end_positions": torch.tensor([4, 5, 8, 0])}
    return student, teacher, {**batch, **places}


def slow_loss(logits, targets, mask, temperature=1.0):
    """Mean over rows of the cross entropy with distributions over the real places; all nested lists."""
    total = 0.0
    for row, target, own in zip(logits, targets, mask, strict=True):
        chances = softmax(row, own, temperature)
        total -= sum(t * math.log(chance) for t, chance, use in zip(target, chances, own, strict=True) if use)
    return temperature**2 * total / len(logits)


def softmax(row, mask, temperature):
    exps = [math.exp(value / temperature) if use else 0.0 for value, use in zip(row, mask, strict=True)]
    return [e / sum(exps) for e in exps]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_is_over_the_real_places_of_each_window(temperature):
    student, teacher, batch = batch_of()
    mask = batch["attention_mask"].tolist()
    expected = 0.0
    for name in student:
        soft = [softmax(row, own, temperature) for row, own in zip(teacher[name].tolist(), mask, strict=True)]
        expected += slow_loss(student[name].tolist(), soft, mask, temperature) / 2
    found = QUESTION_ANSWERING.output_loss(student, teacher, batch, temperature)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    own = {name: tensor.clone().requires_grad_() for name, tensor in student.items()}
    QUESTION_ANSWERING.output_loss(own, teacher, batch, temperature).backward()
    for tensor in own.values():
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad[batch["attention_mask"] == 0] == 0).all(), "padding is learned from"
    same = {name: tensor.clone().requires_grad_() for name, tensor in teacher.items()}
    QUESTION_ANSWERING.output_loss(same, teacher, batch, temperature).backward()
    assert max(float(tensor.grad.abs().max()) for tensor in same.values()) < 1e-12


def test_the_label_loss_is_transformers_without_padding_and_sees_none():
    student, _, batch = batch_of()
    mask = batch["attention_mask"].tolist()
    expected = 0.0
    for name, places in (("start_logits", "start_positions"), ("end_logits", "end_positions")):
        sure = F.one_hot(batch[places], 9).tolist()
        expected += slow_loss(student[name].tolist(), sure, mask) / 2
    assert float(QUESTION_ANSWERING.label_loss(student, batch)) == pytest.approx(expected, rel=1e-12)
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(tiny_config("bert")).eval()
    full = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    loss, _ = QUESTION_ANSWERING.model_loss(model, full)
    torch.testing.assert_close(loss, model(**full).loss)


def test_rows_without_answers_are_judged_by_the_teacher_and_give_importance(tmp_path):
    rows = [{key: row[key] for key in ("question", "context")} for row in rows_of(6, 4)]
    data, tokens = data_of(tmp_path, rows, {"answers": None})
    assert set(tokens.column_names) == {"input_ids", "attention_mask", "length"}
    assert not QUESTION_ANSWERING.can_finetune(data.task)
    _, _, batch = batch_of()
    inputs, _ = QUESTION_ANSWERING.split(batch)
    model = AutoModelForQuestionAnswering.from_config(tiny_config("bert")).eval()
    with torch.no_grad():
        logits = model(**inputs)
        # The largest logits at padding, where no answer can be.
        own = [real(some, inputs["attention_mask"]) for some in (logits.start_logits, logits.end_logits)]
    expected = sum(F.cross_entropy(some, some.argmax(-1)) for some in own) / 2
    torch.testing.assert_close(QUESTION_ANSWERING.importance_loss(model, inputs), expected)


def test_fidelity_is_the_share_of_windows_with_the_same_likeliest_places():
    lengths = np.array([2, 3])
    teacher = {"start_logits": np.array([2.0, 0, 1, 2, 3]), "end_logits": np.array([0.0, 1, 3, 2, 1]),
               LENGTHS: lengths}  # fmt: skip
    ours = {**teacher, "end_logits": np.array([0.0, 1, 1, 2, 1])}
    assert QUESTION_ANSWERING.fidelity(teacher, teacher) == {"agreement": 1.0, "kl": 0.0}
    found = QUESTION_ANSWERING.fidelity(ours, teacher)
    assert found["agreement"] == 0.5
    p, q = (np.exp(some) / np.exp(some).sum() for some in (np.array([3.0, 2, 1]), np.array([1.0, 2, 1])))
    assert found["kl"] == pytest.approx(float((p * np.log(p / q)).sum()) / 4), "one of two windows, one of two places"


# --- a student -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(road):
    size = ["--width", "0.5", "--depth", "0.5", "--output", str(road / "student")]
    options = ["--int8", "--fp16", "--max-drop", "1", "--with-code"]
    assert main(["export", str(road / "run" / "depth"), *size, *options]) == 0
    return road / "student"


def test_a_student_is_exported_gated_by_f1_and_loads_again(road, student):
    about = read_json(student / "export.json")
    assert about["parity_max_abs_diff"] < 1e-4
    small = about["files"]["onnx/model_quantized.onnx"]
    full = about["files"]["onnx/model.onnx"]["metrics"]
    assert small["drop"] == pytest.approx(full["f1"] - small["metrics"]["f1"])
    assert full == pytest.approx(about["metrics"]["student"])
    assert full["f1"] > 0.5
    assert about["files"]["onnx/model_fp16.onnx"]["agreement"] > 0.8
    graph = onnx.load(student / "onnx" / "model.onnx").graph
    axes = {o.name: [dim.dim_param for dim in o.type.tensor_type.shape.dim] for o in graph.output}
    assert axes == {name: ["batch_size", "sequence_length"] for name in ("start_logits", "end_logits")}
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["what is it"] * 2, ["a fine film", "a very great and quite cold book"], padding=True,
                      return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        expected = supernet.eval()(dynackd.SubnetSpec(0.5, 0.5), **batch).outputs
        model = AutoModelForQuestionAnswering.from_pretrained(student).eval()
        for name in ("start_logits", "end_logits"):
            torch.testing.assert_close(model(**batch)[name], expected[name], atol=1e-6, rtol=0)
    assert main(["benchmark", str(student), str(student / "onnx" / "model.onnx"), "--length", "8", "--repeats", "2",
                 "--json", str(road / "b.json")]) == 0  # fmt: skip


def test_answer_finds_what_the_metric_finds_in_contexts_of_many_windows(student):
    model, tokenizer = dynackd.load_student(student)
    rows = rows_of(12, 5)
    found = [dynackd.answer(model, tokenizer, row["question"], row["context"], batch_size=2) for row in rows]
    right = [own.text == row["answers"][0]["text"] for own, row in zip(found, rows, strict=True)]
    assert sum(right) > 4, "the student has learned nothing"
    for own, row in zip(found, rows, strict=True):
        assert own.text == row["context"][own.start : own.end]
        assert 0 < own.probability <= 1
        # Slowly: each window by itself.
        encoded = tokenizer(row["question"], row["context"], truncation="only_second", max_length=16, stride=5,
                            return_overflowing_tokens=True, return_offsets_mapping=True)  # fmt: skip
        best = (-math.inf, "")
        for i, ids in enumerate(encoded["input_ids"]):
            with torch.no_grad():
                logits = model(torch.tensor([ids]))
            inside = [sequence == 1 for sequence in encoded.sequence_ids(i)]
            score, first, last = slow_span(*(x[0].tolist() for x in (logits.start_logits, logits.end_logits)), inside,
                                           30)  # fmt: skip
            offsets = encoded["offset_mapping"][i]
            best = max(best, (score, row["context"][offsets[first][0] : offsets[last][1]]))
        assert own.text == best[1]
    assert dynackd.answer(model, tokenizer, "what is it", "").text == ""
    with pytest.raises(UserError, match="no more than the 5 that windows share"):
        dynackd.answer(model, tokenizer, "what " * 20, "a fine film")


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"max_length": 512}, "max_length is 512; the model takes"),
    ({"max_length": 0}, "max_length is 0; it must be 1 or more"),
    ({"stride": -1}, "stride is -1; it must be 0 or more"),
    ({"max_answer_tokens": 0}, "max_answer_tokens is 0; it must be 1 or more"),
    ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
    ({"model": tiny_model()}, "for question answering, not a BertForSequenceClassification"),
    ({"model": Supernet(tiny_model(), Grid())}, "for question answering, not a Supernet"),
])  # fmt: skip
def test_what_answer_cannot_do_is_told_in_one_sentence(student, changes, sentence):
    model, tokenizer = load_student(student)
    with pytest.raises(UserError, match=sentence):
        dynackd.answer(**{"model": model, "tokenizer": tokenizer, "question": "what", "context": "a film", **changes})


def test_no_answer_may_win_where_it_is_asked_for():
    class Sure(torch.nn.Module):
        """A model that points to the first token of every window, and a little to the fifth."""

        config, device = None, torch.device("cpu")

        def forward(self, input_ids, attention_mask):
            logits = torch.zeros(input_ids.shape)
            logits[:, 0], logits[:, 4] = 2.0, 1.0
            return {"start_logits": logits, "end_logits": logits}

    tokenizer = tiny_tokenizer()
    assert dynackd.answer(Sure(), tokenizer, "what", "a fine film").text == "fine"
    tokenizer.model_max_length = int(1e30)  # as transformers says where a tokenizer names none
    assert dynackd.answer(Sure(), tokenizer, "what", "a fine film").text == "fine"
    none = dynackd.answer(Sure(), tokenizer, "what", "a fine film", unanswerable=True)
    assert (none.text, none.start, none.end) == ("", 0, 0)
    # 7 tokens: <s> what </s> a fine film </s>
    assert none.probability == pytest.approx((math.exp(2) / (math.exp(2) + math.e + 5)) ** 2)


def test_no_answer_must_be_the_likeliest_in_every_window():
    class Reader(torch.nn.Module):
        """A model that points to `great` where it sees that, and more strongly to the first token where it does not."""

        config, device = None, torch.device("cpu")

        def forward(self, input_ids, attention_mask):
            logits = 3.0 * (input_ids == tiny_tokenizer().get_vocab()["great"])
            logits[:, 0] = torch.where(logits.any(1), 1.0, 9.0)
            return {"start_logits": logits, "end_logits": logits}

    context = "a film was great and " + "a very cold day and " * 4
    for unanswerable in (False, True):
        found = dynackd.answer(Reader(), tiny_tokenizer(), "what", context, unanswerable=unanswerable, max_length=12)
        assert found.text == "great"


def snippets(directory, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (directory / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def printed(codes, place):
    """What each program prints, those that do not import dynackd in a process that cannot."""
    if importlib.util.find_spec("openvino") is None:
        codes = [code for code in codes if "openvino" not in code]
    ours, alone = ([code for code in codes if ("import dynackd" in code) is own] for own in (True, False))
    found = []
    for before, some in (("", ours), ("import sys; sys.modules['dynackd'] = None", alone)):
        if not some:
            continue
        program = "\n".join([before, *(f"exec({code!r}, {{}})" for code in some)])
        done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True, input="")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == len(some), done.stdout
        found += done.stdout.splitlines()
    return found


def test_every_python_snippet_of_the_card_gives_the_same_answer(student):
    assert "pipeline_tag: question-answering" in (student / "README.md").read_text()
    codes = snippets(student)
    assert len(codes) == 5
    answers = printed(codes, student.parent)
    assert len(set(answers)) == 1, answers
    assert answers[0]


def test_a_stock_checkpoint_of_fixed_sizes_answers_without_dynackd(road, tmp_path):
    size = ["--width", "0.5", "--depth", "0.5", "--output", str(tmp_path / "s"), "--compat"]
    fixed = ["--static-batch", "2", "--static-length", "16"]
    assert main(["export", str(road / "run" / "depth"), *size, *fixed]) == 0
    codes = snippets(tmp_path / "s")
    assert not any("import dynackd" in code for code in codes)
    assert len(set(printed(codes, tmp_path))) == 1
    assert not snippets(tmp_path / "s", "js")


@pytest.mark.client
def test_the_javascript_snippet_of_the_card_gives_the_same_answer(student, tmp_path):
    clients = Path(__file__).parents[1] / "clients"
    if not shutil.which("node") or not (clients / "node_modules" / "@huggingface" / "transformers").is_dir():
        pytest.skip("transformers.js is not installed: npm install --ignore-scripts in tests/clients")
    (code,) = snippets(student, "js")
    (tmp_path / "node_modules").symlink_to(clients / "node_modules")
    local = "import { env } from '@huggingface/transformers';\nenv.allowRemoteModels = false;\n"
    place = f"env.localModelPath = {json.dumps(str(student.parent))};\n"
    (tmp_path / "card.mjs").write_text(local + place + code)
    done = subprocess.run(["node", "card.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (expected,) = printed(snippets(student)[:1], student.parent)
    assert re.search(r"answer: '(.*)'", done.stdout)[1] == expected
