"""What a file's rows are is guessed where it is plain, and asked for, with the option that decides, where it is not."""

import json
import random
from types import SimpleNamespace

import pytest

from dynackd.compress.guess import Said, guess_task
from dynackd.data.readers import look_into
from dynackd.errors import UserError
from dynackd.tasks.kind import Kind
from dynackd.tasks.regression import REGRESSION
from dynackd.tasks.task import resolve_task

WORDS = ["red", "green", "blue", "warm", "cold", "old", "new", "long"]
CLASSIFIER = SimpleNamespace(num_labels=2, problem_type=None)


def text(rng, words=6):
    return " ".join(rng.choices(WORDS, k=words))


def rows_of(columns, count=60):
    """`columns`: name -> what makes a value of the row's number and a generator."""
    rng = random.Random(1)
    return [{name: make(row, rng) for name, make in columns.items()} for row in range(count)]


def written(directory, rows, name="rows.jsonl"):
    file = directory / name
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        sign = {".csv": ",", ".tsv": "\t"}[file.suffix]
        lines = [sign.join(rows[0]), *(sign.join(map(str, row.values())) for row in rows)]
        file.write_text("\n".join(lines) + "\n")
    return str(file)


def a_text(_, rng):
    return text(rng)


def one_of(*values):
    return lambda row, _: values[row % len(values)]


def an_answer(row, rng):
    return {"text": ["red"], "answer_start": [row]}


TEXT = {"text": a_text}
KINDS = {
    "classification": (TEXT | {"verdict": one_of("good", "bad")}, {"text": "text", "label": "verdict"}),
    "ids beside": (
        TEXT | {"verdict": one_of("good", "bad"), "forum_id": one_of(3, 7, 9), "n": lambda row, _: row},
        {"kind": "classification", "text": "text", "label": "verdict"},
    ),
    "class ids": (TEXT | {"y": one_of(0, 1, 2)}, {"kind": "classification", "text": "text", "label": "y"}),
    "pairs": (
        {"premise": a_text, "hypothesis": a_text, "label": one_of("yes", "no")},
        {"kind": "classification", "text": ["premise", "hypothesis"], "label": "label"},
    ),
    "regression": (TEXT | {"price": lambda row, rng: rng.random() * 5}, {"text": "text", "label": "price"}),
    "multi_label": (
        TEXT | {"tags": lambda row, rng: rng.sample(["a", "b", "c"], row % 3)},
        {"text": "text", "label": "tags"},
    ),
    "flags": (
        TEXT | {name: one_of(0, 1, 0, *[1] * count) for count, name in enumerate("abc")},
        {"kind": "multi_label", "text": "text", "label": ["a", "b", "c"]},
    ),
    "token_classification": (
        {"words": lambda row, rng: rng.choices(WORDS, k=row % 5 + 2), "ner": lambda row, _: ["O", "B"] * 3},
        {"words": "words", "tags": "ner"},
    ),
    "question_answering": (
        {"id": lambda row, _: f"q{row}", "title": one_of("x", "y"), "question": a_text, "context": a_text,
         "answers": an_answer},
        {"question": "question", "context": "context", "answers": "answers"},
    ),
    "anchors": (
        {"anchor": a_text, "positive": a_text},
        {"kind": "embedding", "text": ["anchor", "positive"]},
    ),
    "ranking": (
        {"query": a_text, "passages": lambda _, rng: [text(rng), text(rng)], "relevance": lambda *_: [1, 0]},
        {"query": "query", "passages": "passages", "relevance": "relevance"},
    ),
}  # fmt: skip


def columns_of(name):
    columns, task = KINDS[name]
    rows = rows_of(columns)
    if name == "token_classification":
        rows = [{**row, "ner": [rng_tag(place) for place in range(len(row["words"]))]} for row in rows]
    return rows, {"kind": name, **task}


def rng_tag(place):
    return "B-x" if place == 1 else "O"


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_each_kind_are_known_by_their_looks_and_the_task_is_one_that_a_recipe_takes(tmp_path, name):
    rows, task = columns_of(name)
    found = guess_task(written(tmp_path, rows), Said(), CLASSIFIER, "BertModel")
    assert found.task == task
    assert resolve_task(found.task).kind.name == task["kind"]


def name_of(columns):
    return "rows.jsonl" if "spans" in columns else "rows.tsv" if "topics" in columns else "rows.csv"


@pytest.mark.parametrize(
    ("columns", "said", "sentence"),
    [
        (TEXT | {"stars": one_of(1, 2, 3)}, Said(),
         "classification (text 'text', label 'stars': 1, 2, 3) or regression (text 'text', label 'stars': numbers from "
         "1 to 3); --kind decides: --kind classification or --kind regression"),
        (TEXT | {"a": one_of("x", "y"), "b": one_of("u", "v")}, Said(), "--label decides: --label a or --label b"),
        (TEXT | {"body": a_text, "label": one_of("x", "y")}, Said(),
         "--text decides: --text text or --text body or --text text body"),
        ({"text1": a_text, "text2": a_text, "score": lambda row, rng: rng.random()}, Said(), "--kind decides"),
        (TEXT | {"topics": one_of("a", "b", "a|b")}, Said(), "--kind decides"),
        (dict.fromkeys(("anchor", "positive", "negative"), a_text), Said(),
         "--kind decides: --kind ranking or --kind embedding"),
        (TEXT | {"spans": lambda *_: [{"start": 0, "end": 3, "label": "PART"}]}, Said(),
         "the column 'spans' holds spans of a text, which are not read; write a list of words and a list"),
        (TEXT, Said(), "has no column that looks like the label of 'text'; its columns are text: name it with --label, "
         "or say what to learn without labels, --kind embedding or --kind plain"),
        ({"id": lambda row, _: row}, Said(), "nothing says what is to be learned; its columns are id: name them"),
        (TEXT | {"label": one_of("x", "y")}, Said(kind="ranking"), "does not fit --kind ranking, whose rows are"),
        (TEXT | {"label": one_of("x", "y")}, Said(label=("lable",)), "no column 'lable', did you mean 'label'?"),
        (TEXT | {"label": one_of("x", "y")}, Said(kind="classificaton"), "did you mean 'classification'?"),
    ],
)  # fmt: skip
def test_what_could_be_several_things_or_nothing_is_asked_for_in_one_sentence(tmp_path, columns, said, sentence):
    file = written(tmp_path, rows_of(columns), name_of(columns))
    with pytest.raises(UserError) as error:
        guess_task(file, said, CLASSIFIER, "BertModel")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "said", "task"),
    [
        (TEXT | {"stars": one_of(1, 2)}, Said(kind="classification"), {"label": "stars", "labels": {1: 0, 2: 1}}),
        (TEXT | {"stars": one_of(1, 2, 3)}, Said(kind="regression"), {"label": "stars"}),
        (TEXT | {"a": one_of("x", "y"), "b": one_of("u", "v")}, Said(label=("b",)), {"label": "b"}),
        (TEXT | {"body": a_text, "label": one_of("x", "y")}, Said(text=("body", "text")), {"text": ["body", "text"]}),
        (TEXT, Said(kind="plain"), {"kind": "plain", "text": "text"}),
        (TEXT | {"topics": one_of("a", "b", "a|b")}, Said(kind="multi_label"), {"separator": "|"}),
    ],
)
def test_an_option_decides(tmp_path, columns, said, task):
    found = guess_task(written(tmp_path, rows_of(columns), "rows.tsv"), said, CLASSIFIER, "BertModel").task
    assert found.items() >= task.items()
    resolve_task(found)


@pytest.mark.parametrize("stars", [("1.00", "2.00"), ("1e3", "2e3")])
def test_numbers_are_classes_however_they_are_written(tmp_path, stars):
    """1.00 is 1, and what is no whole number as it stands keeps its text."""
    rows = rows_of(TEXT | {"stars": one_of(*stars)})
    found = guess_task(written(tmp_path, rows, "rows.csv"), Said(kind="classification"), CLASSIFIER, "BertModel").task
    assert found["label"] == "stars"
    assert found.get("labels", {}) in ({1: 0, 2: 1}, {})
    resolve_task(found)
    guess_task(written(tmp_path, rows, "rows.csv"), Said(kind="regression"), CLASSIFIER, "BertModel")


def test_a_model_with_a_head_decides_between_kinds(tmp_path):
    file = written(tmp_path, rows_of(TEXT | {"stars": one_of(1, 2, 3)}))
    one_output = SimpleNamespace(num_labels=1, problem_type="regression")
    head = "BertForSequenceClassification"
    assert guess_task(file, Said(), one_output, head).task["kind"] == "regression"
    five = SimpleNamespace(num_labels=5, problem_type=None)
    assert guess_task(file, Said(), five, head).task["kind"] == "classification"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbf;text;label\r\n0;red, old;good\r\n1;new blue;bad\r\n"),
        ("a.csv", b"sep=;\ntext;label\nred, old;good\nnew blue;bad\n"),
        ("a.tsv", b"text\tlabel\nred, old\tgood\nnew blue\tbad\n"),
        ("a.json", b'[{"text": "red, old", "label": "good"}, {"text": "new blue", "label": "bad"}]'),
        ("a.json", b'{"text": {"0": "red, old", "1": "new blue"}, "label": {"0": "good", "1": "bad"}}'),
        ("a.json", b'{"0": {"text": "red, old", "label": "good"}, "1": {"text": "new blue", "label": "bad"}}'),
        ("a.json", b'{"text": ["red, old", "new blue"], "label": ["good", "bad"]}'),
        ("a.json", b'{"columns": ["text", "label"], "data": [["red, old", "good"], ["new blue", "bad"]]}'),
        ("a.jsonl", b'{"text": "red, old"}\n{"text": "new blue", "label": "bad"}\n'),
    ],
)
def test_a_files_columns_are_found_in_every_layout(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = look_into(str(tmp_path / name), 10)
    label = [None, "bad"] if name == "a.jsonl" else ["good", "bad"]
    assert found == {"text": ["red, old", "new blue"], "label": label}


def test_a_files_own_fields_of_objects_and_of_columns_of_words_are_found(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"review": {"body": "red"}, "label": 1}\n')
    found = look_into(str(tmp_path / "a.jsonl"), 10)
    assert found == {"review": [{"body": "red"}], "label": [1], "review.body": ["red"]}
    (tmp_path / "a.conll").write_text("U.N. NNP B-ORG\nsays VBZ O\n")
    assert list(look_into(str(tmp_path / "a.conll"), 10)) == ["tokens", "column_2", "tags"]


def test_a_kind_of_ones_own_that_guesses_nothing_is_told_to_want_a_recipe(tmp_path, monkeypatch):
    """It was said that the columns do not fit, which were those that it reads."""
    monkeypatch.setattr(type(REGRESSION), "guess", Kind.guess)
    file = written(tmp_path, [{"text": "a film", "stars": 3}] * 4)
    with pytest.raises(UserError, match=r"--kind regression: which columns its rows have cannot be guessed; write a"):
        guess_task(str(file), Said("regression"), None, "")
