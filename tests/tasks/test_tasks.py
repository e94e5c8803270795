"""Data, labels, tokens and metrics: what stands in a file is what a model sees, and every fault is named."""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dynackd.data.labels import label_map
from dynackd.data.model_labels import ModelLabels
from dynackd.data.sources import resolve_source
from dynackd.errors import UserError
from dynackd.tasks.glue import TASKS
from dynackd.tasks.kind import Task
from dynackd.tasks.loading import TaskData, load_task_data
from dynackd.tasks.metrics import METRICS
from dynackd.tasks.task import compute_fidelity, compute_metrics, resolve_task
from dynackd.tasks.tokens import tokenize

SHARED = Path(__file__).parents[3] / "shared" / "data" / "glue"
OWN = {"kind": "classification", "text": "text", "label": "class"}
ROWS = [{"text": "NA", "class": "pear"}, {"text": '"an odd one', "class": "apple"}, {"text": "007", "class": "pear"},
        {"text": "null, and void", "class": "fig"}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """The rows in the format that the file's name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".json", ".jsonl"):
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, cells)) + "\n" for cells in [rows[0], *(r.values() for r in rows)]))
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return str(path)


def load(train: str, task: Any = OWN, model: str | None = None, **options: Any) -> TaskData:
    source = resolve_source({"train": train, "validation": train, **options})
    names = None if model is None else ModelLabels(tuple(model.split()))
    return load_task_data(resolve_task(task), source, model=names)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., str]:
    return lambda rows, name="rows.jsonl": write(tmp_path / name, rows)


# --- tasks and metrics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "columns", "labels", "metrics"), [
    ("sst2", "sentence", "negative positive", "accuracy"),
    ("cola", "sentence", "unacceptable acceptable", "matthews_correlation"),
    ("mrpc", "sentence1 sentence2", "not_equivalent equivalent", "accuracy f1"),
    ("qqp", "question1 question2", "not_duplicate duplicate", "accuracy f1"),
    ("mnli", "premise hypothesis", "entailment neutral contradiction", "accuracy"),
    ("qnli", "question sentence", "entailment not_entailment", "accuracy"),
    ("rte", "sentence1 sentence2", "entailment not_entailment", "accuracy"),
    ("stsb", "sentence1 sentence2", "", "pearson spearmanr"),
])
def test_glue_tasks_are_those_of_the_hub(name: str, columns: str, labels: str, metrics: str) -> None:
    task = resolve_task(name)
    assert task.text_columns == tuple(columns.split())
    assert (task.label_names or ()) == tuple(labels.split())
    assert task.metrics == tuple(metrics.split())
    assert (task.name, task.label_column, task.hub) == (name, "label", ("nyu-mll/glue", name))
    assert task.kind.name == ("classification" if labels else "regression")


def test_metrics_against_hand_computed_values() -> None:
    predictions, references = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])  # 2 TP, 1 TN, 1 FP, 1 FN
    assert METRICS["accuracy"](predictions, references, 2) == pytest.approx(3 / 5)
    assert METRICS["f1"](predictions, references, 2) == pytest.approx(4 / 6)
    assert METRICS["f1_macro"](predictions, references, 2) == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert METRICS["matthews_correlation"](predictions, references, 2) == pytest.approx((2 * 1 - 1) / math.sqrt(36))
    many, truth = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])
    assert METRICS["f1"](many, truth, 3) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)  # more than two classes: macro
    x, y = np.array([1.0, 2.0, 3.0, 9.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert METRICS["spearmanr"](x, y, 1) == pytest.approx(0.8)
    assert METRICS["pearson"](x, y, 1) == pytest.approx(11.5 / math.sqrt(38.75 * 5))
    assert METRICS["mse"](x, y, 1) == pytest.approx(27 / 4)


@pytest.mark.parametrize("name", METRICS)
def test_constant_predictions_give_a_finite_number(name: str) -> None:
    assert math.isfinite(METRICS[name](np.zeros(4), np.array([0.0, 1.0, 0.0, 1.0]), 2))
    assert math.isfinite(METRICS[name](np.zeros(1), np.ones(1), 2))


def test_compute_metrics() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 2.0]])
    labels = {"labels": np.array([0, 1, 1, 1])}
    assert compute_metrics(TASKS["sst2"], {"logits": logits}, labels, "_mm") == {"accuracy_mm": 0.75}
    assert compute_metrics(TASKS["sst2"], {"logits": logits}, {}) == {}, "rows without labels have no metrics"
    values = {"logits": np.array([[1.0], [2.0], [4.0]], np.float32)}
    result = compute_metrics(TASKS["stsb"], values, {"labels": np.array([1.0, 2.0, 4.0])})
    assert result == {"pearson": pytest.approx(1.0), "spearmanr": pytest.approx(1.0)}
    with pytest.raises(UserError, match="diverged"):
        compute_metrics(TASKS["sst2"], {"logits": logits * math.nan}, labels)


def test_fidelity_is_to_the_teacher_whoever_is_right() -> None:
    student, teacher = np.array([[1.0, 1.0], [3.0, 0.0]]), np.array([[0.0, math.log(3)], [3.0, 0.0]])
    result = compute_fidelity(TASKS["sst2"], {"logits": student}, {"logits": teacher}, {}, "_mm")
    # The first row: p = (1/4, 3/4) against q = (1/2, 1/2); argmax of a tie is the first class. The second is equal.
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert result == {"agreement_mm": 0.5, "kl_mm": pytest.approx(kl / 2)}
    student, teacher = np.array([[1.0], [2.0]]), np.array([[1.0], [5.0]])
    values = compute_fidelity(TASKS["stsb"], {"logits": student}, {"logits": teacher}, {})
    assert values == {"rmse": pytest.approx(math.sqrt(4.5))}


@pytest.mark.parametrize(("value", "message"), [
    ("sst3", "did you mean 'sst2'"),
    ({**OWN, "lable": "x"}, "unknown key 'task.lable', did you mean 'label'"),
    ({**OWN, "kind": "regresion"}, "did you mean 'regression'"),
    ({**OWN, "metrics": ["acuracy"]}, "did you mean 'accuracy'"),
    ({**OWN, "metrics": ["pearson"]}, "of a classification task: 'pearson' is unknown"),
    ({"kind": "regression", "text": "a"}, "'label' is missing"),
    ({**OWN, "text": ["a", "b", "c"]}, "one or two different columns"),
    ({**OWN, "text": "length"}, "rename the column 'length'"),
    (7, "expected a name or a mapping"),
])
def test_task_mistakes(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_task(value)


# --- sources ---------------------------------------------------------------------------------------------------------


def test_hub_names() -> None:
    assert resolve_source("glue/sst2").hub == ("nyu-mll/glue", "sst2")
    assert resolve_source("nyu-mll/glue/mnli").hub == ("nyu-mll/glue", "mnli")
    assert resolve_source("owner/name").hub == ("owner/name", None)
    assert resolve_source({"hub": "owner/name/config", "train_rows": 5}).hub == ("owner/name", "config")
    assert resolve_source({"train_rows": 5}, TASKS["rte"].hub).hub == ("nyu-mll/glue", "rte")


@pytest.mark.parametrize(("value", "message"), [
    ({"train": "a.csv", "validaton": "b.csv"}, "unknown key 'data.validaton', did you mean 'validation'"),
    ({"train": "a.csv", "train_rows": 0}, "data.train_rows must be a whole number of 1 or more, or null, not 0"),
    ({"train": "a.csv", "validation_share": 1}, "validation_share must be a number above 0 to below 1, or null, not 1"),
    ({"train": "a.csv", "validation": "b.csv", "validation_share": 0.1}, "not both"),
    ({"train": 3}, "data.train must be a text, or null, not 3"),
    ("glue/sst3", "did you mean 'sst2'"),
    ("a/b/c/d", "no hub name"),
    ("rows.csv", "is a file"),
    (None, "give train"),
])
def test_source_mistakes(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_source(value)


def test_hub_splits_and_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNLI is read from its three splits, and the hub's class ids go to the ids of a model with another order."""
    asked = []

    def hub(path: str, config: str, split: str) -> datasets.Dataset:
        asked.append((path, config, split))
        names = ["entailment", "neutral", "contradiction"]
        features = datasets.Features({"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"),
                                      "label": datasets.ClassLabel(names=names), "idx": datasets.Value("int32")})
        return datasets.Dataset.from_dict({"premise": list("abc"), "hypothesis": list("xyz"), "label": [0, 1, 2],
                                           "idx": [0, 1, 2]}, features)

    monkeypatch.setattr("dynackd.data.readers.check_hub_answers", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    data = load_task_data(TASKS["mnli"], resolve_source(None, TASKS["mnli"].hub),
                          model=ModelLabels(("CONTRADICTION", "entailment", "neutral")))
    assert asked == [("nyu-mll/glue", "mnli", s) for s in ("train", "validation_matched", "validation_mismatched")]
    assert set(data.validation) == {"", "_mm"}
    assert data.train is not None
    assert data.train["label"][:] == [1, 2, 0]
    assert data.label_names == ("CONTRADICTION", "entailment", "neutral")


def test_hub_failure_names_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr("dynackd.data.readers.check_hub_answers", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"^nyu-mll/glue/sst2, split train: .*Couldn't reach the Hub\).*local files"):
        load_task_data(TASKS["sst2"], resolve_source("glue/sst2"))


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet"])
def test_every_format_gives_the_same_rows(table: Callable[..., str], name: str) -> None:
    data = load(table(ROWS, name))
    assert data.train is not None
    assert data.train["text"][:] == ["NA", '"an odd one', "007", "null, and void"]  # NA, quotes and zeros stay
    assert data.train["label"][:] == [2, 0, 2, 1]
    assert data.label_names == ("apple", "fig", "pear")
    assert data.train.column_names == ["text", "label"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.tsv", "text\tclass\nok\tx\none\ttwo\tthree\n", r"a\.tsv, line 3: 3 fields, but the header has 2"),
    ("a.tsv", "text\tclass\nok\tx\nshort\n", r"line 3: 1 fields"),
    ("a.csv", 'text,class\nok,x\n"never closed,y\n', "line 3: a quote opens a cell here and is never closed"),
    ("a.csv", b"text,class\n\xff\xfe,x\n", "line 2: byte 0xff is not UTF-8"),
    ("a.csv", "text,class\n", "the data set is empty"),
    ("a.csv", "", "the data set is empty"),
    ("a.json", "[]", "the data set is empty"),
    ("a.csv", "text,text\na,b\n", "names a column twice"),
    ("a.csv", "txt,class\na,b\n", "no column 'text', did you mean 'txt'.; the columns are txt, class"),
    ("a.csv", "text,class\na,x\n,y\n", r"data row 2, column 'text': the text is missing"),
    ("a.csv", "text,class\na,x\nb,\nc,\n", r"data row 2, column 'class': the label is missing \(and 1 more\)"),
    ("a.jsonl", '{"text": "a", "class": 1}\n{"text": null, "class": 0}\n', "data row 2, column 'text'"),
    ("a.jsonl", '{"text": NaN, "class": 1}\n', "data row 1, column 'text'"),
    ("a.jsonl", '{"text": ["a"], "class": 1}\n', "expected a text, got a list"),
    ("a.jsonl", '{"text": "a", "class": 1}\n{"text": \n', "line 2: not valid JSON"),
    ("a.json", "[1]", "data row 1: expected an object"),
    ("a.json", "[{", "line 1: not valid JSON"),
    ("a.parquet", b"PAR1 cut", "damaged, or no parquet file"),
    ("a.docx", "x", r"unknown kind of file '.docx'; known: .csv, .tsv"),
    ("a.txt", "x", r"no column 'class'; the columns are text"),
    ("a.csv", "text,class\na,x\nb,x\n", "needs two labels or more, got only x"),
    ("a.csv", "text,class\na,1\nb,3\n", "labels 1, 3 leave gaps"),
])
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        load(str(path))


def test_truncated_parquet(table: Callable[..., str]) -> None:
    path = Path(table(ROWS * 50, "a.parquet"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged, or no parquet file"):
        load(str(path))


def test_missing_files(tmp_path: Path, table: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"absent\.csv: no such file"):
        load(str(tmp_path / "absent.csv"))
    with pytest.raises(UserError, match=r"data\.validation is missing.*validation_share"):
        load_task_data(resolve_task(OWN), resolve_source({"train": table(ROWS)}))


def test_numbers_in_a_text_column_are_their_text(table: Callable[..., str]) -> None:
    data = load(table([{"text": 7, "class": True}, {"text": 2.5, "class": False}]))
    assert data.train is not None
    assert data.train["text"][:] == ["7", "2.5"]
    assert data.label_names == ("False", "True")


def test_regression_labels_must_be_numbers(table: Callable[..., str]) -> None:
    task = {**OWN, "kind": "regression"}
    data = load(table([{"text": "a", "class": "2.5"}, {"text": "b", "class": "1e1"}], "a.csv"), task)
    assert data.train is not None
    assert data.train["label"][:] == [2.5, 10.0]
    assert (data.label_names, data.task.metrics) == ((), ("pearson", "spearmanr"))
    with pytest.raises(UserError, match="data row 2, column 'class': expected a number, got 'high'"):
        load(table([{"text": "a", "class": "1"}, {"text": "b", "class": "high"}], "b.csv"), task)


def test_subsets_depend_on_the_seed_alone(table: Callable[..., str]) -> None:
    path = table([{"text": f"t{i}", "class": i % 3} for i in range(60)])
    first, again, other = (load(path, train_rows=10, validation_rows=5, seed=s) for s in (1, 1, 2))
    texts = [data.train["text"][:] for data in (first, again, other) if data.train is not None]
    assert len(texts[0]) == 10
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] != [f"t{i}" for i in range(10)]
    assert len(first.validation[""]) == 5
    assert first.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_validation_share_cuts_disjoint_rows(table: Callable[..., str]) -> None:
    source = resolve_source({"train": table([{"text": f"t{i}", "class": i % 2} for i in range(40)]),
                             "validation_share": 0.25})
    data = load_task_data(resolve_task(OWN), source)
    assert data.train is not None
    train, validation = set(data.train["text"]), set(data.validation[""]["text"])
    assert (len(train), len(validation), train & validation) == (30, 10, set())
    alone = load_task_data(resolve_task(OWN), source, splits=("validation",))
    assert alone.train is None
    assert set(alone.validation[""]["text"]) == validation


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "declared", "model", "names", "ids"), [
    ("b a b", None, None, "a b", [1, 0, 1]),  # words: sorted
    ("1 0 2", None, None, "LABEL_0 LABEL_1 LABEL_2", [1, 0, 2]),  # whole numbers are ids
    ("1 0", "no yes", None, "no yes", [1, 0]),  # ... that index a declared task's names
    ("yes no", "no yes", None, "no yes", [1, 0]),
    ("Yes No", "No Yes", "YES no", "YES no", [0, 1]),  # a model's own order, ignoring case
    ("1 0", "no yes", "yes no", "yes no", [0, 1]),
    ("1 0", "no yes", "LABEL_0 LABEL_1", "no yes", [1, 0]),  # placeholders say nothing of the order
    ("0 1", None, "x y z", "x y z", [0, 1]),  # whole numbers are the model's ids
    ("1 3", None, "1 2 3", "1 2 3", [0, 2]),  # unless they are its names
    ("b", None, "a b c", "a b c", [1]),  # a class may be absent from the data
])
def test_labels_become_ids(keys: str, declared: str | None, model: str | None, names: str, ids: list[int]) -> None:
    own = model and ModelLabels(tuple(model.split()))
    mapping = label_map(Counter(keys.split()), "here", declared and declared.split(), own)
    assert mapping.names == tuple(names.split())
    assert [mapping.ids[key] for key in keys.split()] == ids


@pytest.mark.parametrize(("keys", "declared", "model", "message"), [
    ("good bad", None, "negative positive", "labels bad, good are not the model's, which are negative, positive"),
    ("0 1", "negative positive", "entailment neutral", "negative, positive are not the model's"),
    ("0 2", None, "negative positive", "label 2 does not fit the model, whose 2 outputs are numbered 0 to 1"),
    ("a b c", None, "LABEL_0 LABEL_1", r"3 labels \(a, b, c\) do not fit the model, which has 2 outputs"),
])
def test_labels_that_do_not_fit_the_model(keys: str, declared: str | None, model: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        label_map(Counter(keys.split()), "here", declared and declared.split(), ModelLabels(tuple(model.split())))


def test_validation_label_unknown_to_training(table: Callable[..., str]) -> None:
    source = resolve_source({"train": table(ROWS, "a.tsv"),
                             "validation": table([{"text": "t", "class": "plum"}], "b.tsv")})
    with pytest.raises(UserError, match=r"b\.tsv, data row 1, .*'plum' is none of the known labels \(apple, fig, pear"):
        load_task_data(resolve_task(OWN), source)


def test_kind_and_model_outputs_must_agree(table: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="needs a model with 1 output"):
        load(table(ROWS), {**OWN, "kind": "regression"}, model="LABEL_0 LABEL_1")
    with pytest.raises(UserError, match="but the model has 1, as for a regression"):
        load(table(ROWS), model="LABEL_0")


def test_f1_counts_the_tasks_own_positive_class(table: Callable[..., str]) -> None:
    """A model that has MRPC's classes the other way round gets the same F1, of "equivalent"."""
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (1, 1, 1, 0)]
    usual = load(table(rows), "mrpc")
    turned = load(table(rows), "mrpc", model="equivalent not_equivalent")
    logits = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])  # 2 TP, 1 FN, 1 FP
    assert turned.train is not None
    assert turned.train["label"][:] == [0, 0, 0, 1]
    f1 = [compute_metrics(data.task, {"logits": x}, {"labels": np.array(data.validation[""]["label"][:])})["f1"]
          for data, x in ((usual, logits), (turned, logits[:, ::-1]))]
    assert f1 == [pytest.approx(4 / 6)] * 2


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                   sep_token="[SEP]", model_max_length=16,
                                   model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def pairs(*texts: tuple[str, str]) -> tuple[datasets.Dataset, Task]:
    first, second = zip(*texts, strict=True)
    columns = {"sentence1": first, "sentence2": second, "label": [0] * len(texts)}
    return datasets.Dataset.from_dict(columns), TASKS["rte"]


def test_pairs_are_cut_longest_first_and_told(
        tokenizer: PreTrainedTokenizerFast, capfd: pytest.CaptureFixture[str]) -> None:
    dataset, task = pairs(("a b c d e f g h i j k l m n o p", "q r"), ("a b c", "d e"), ("a", "b"))
    tokens, report = tokenize(dataset, task, tokenizer, 8)
    assert tokens["length"][:] == [8, 8, 5]
    assert tokens["input_ids"][0] == tokenizer("a b c", "q r")["input_ids"]
    assert tokens["token_type_ids"][0] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert tokens["labels"][:] == [0, 0, 0]
    assert set(tokens.column_names) == {*tokenizer.model_input_names, "labels", "length"}
    assert str(report) == "1 of 3 training texts were longer than 8 tokens and were cut (longest 21)"
    assert capfd.readouterr() == ("", "")  # no progress bar, no warning about the tokenizer's limit


def test_nothing_is_told_when_nothing_was_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenize(*pairs(("a b c", "d e")), tokenizer, 8)[1] is None  # exactly 8 tokens


@pytest.mark.parametrize(("max_length", "positions", "message"), [
    (17, None, "17 is more than the 16 tokens"),
    (13, 12, "13 is more than the 12 tokens"),
    (4, None, "4 leaves no room for a text; it takes 5 or more"),
])
def test_max_length_must_fit(tokenizer: PreTrainedTokenizerFast, max_length: int, positions: int | None,
                             message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokenize(*pairs(("a", "b")), tokenizer, max_length, max_positions=positions)


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real GLUE files are not in ../shared/data")
@pytest.mark.parametrize(("name", "train", "validation"), [
    ("cola", 8551, 1043), ("mrpc", 3668, 408), ("rte", 2490, 277), ("stsb", 5749, 1500), ("sst2", 67349, 872),
])
def test_real_glue_files(name: str, train: int, validation: int) -> None:
    data = load_task_data(TASKS[name], resolve_source({"train": str(SHARED / name / "train.tsv"),
                                                       "validation": str(SHARED / name / "validation.tsv")}))
    assert data.train is not None
    assert (len(data.train), len(data.validation[""])) == (train, validation)
    assert data.label_names == (TASKS[name].label_names or ())


# --- rows on both sides ----------------------------------------------------------------------------------------------


def rows_of(*texts: str, label: str = "pear") -> list[dict[str, str]]:
    return [{"text": "one", "class": "fig"}, *({"text": text, "class": label} for text in texts)]


def sides(tmp_path: Path, train: list[dict[str, str]], validation: list[dict[str, str]], **options: Any) -> TaskData:
    files = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("train", train), ("dev", validation))}
    source = resolve_source({"train": files["train"], "validation": files["dev"], **options})
    return load_task_data(resolve_task(OWN), source)


def copies(data: TaskData) -> list[str]:
    return [note for note in data.notes if "have the texts of a training row" in note]


def test_validation_rows_that_were_trained_on_are_told(tmp_path: Path) -> None:
    """With another label too. What is measured on them is no measure of new rows."""
    others = [f"validation {i}" for i in range(97)]
    train = [*rows_of("other"), *rows_of("a", "b", "c" * 70, label="fig")]
    data = sides(tmp_path, train, [*rows_of(*others)[1:], *rows_of("c" * 70, "b")[1:], *rows_of()])
    (note,) = copies(data)
    assert note.startswith(f"3 of 100 validation rows have the texts of a training row (the first: '{'c' * 60}...'")
    assert not copies(sides(tmp_path, train, rows_of(*others)[1:]))


def test_a_row_in_a_hundred_is_told_and_less_is_not(tmp_path: Path) -> None:
    train = rows_of("a")
    for others, told in ((99, 1), (100, 0)):
        validation = rows_of(*(f"validation {i}" for i in range(others)))
        assert len(copies(sides(tmp_path, train, validation))) == told


def test_validation_texts_among_those_without_labels_are_told(tmp_path: Path) -> None:
    """What is imitated on them is no measure either."""
    texts = [f"validation {i}" for i in range(40)]
    files = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in (
        ("train", rows_of("other")), ("dev", rows_of(*texts)[1:]), ("more", [{"text": text} for text in texts[:30]]))}
    source = resolve_source({"train": files["train"], "validation": files["dev"], "unlabelled": files["more"]})
    data = load_task_data(resolve_task(OWN), source, ("train", "validation", "unlabelled"))
    (note,) = [note for note in data.notes if "have the texts of" in note]
    assert note.startswith("30 of 40 validation rows have the texts of a row of data.unlabelled (the first: ")


def test_only_rows_that_are_trained_on_count(tmp_path: Path) -> None:
    train = rows_of(*(f"train {i}" for i in range(99)))
    data = sides(tmp_path, train, rows_of(*(f"train {i}" for i in range(99))), train_rows=20)
    assert copies(data)[0].startswith("20 of 100 validation rows")


def test_copies_that_a_share_puts_on_both_sides_are_told(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", rows_of(*(f"text {i // 2}" for i in range(200))))
    data = load_task_data(resolve_task(OWN), resolve_source({"train": file, "validation_share": 0.25}))
    assert data.train is not None
    both = sum(text in set(data.train["text"][:]) for text in data.validation[""]["text"][:])
    assert copies(data)[0].startswith(f"{both} of {len(data.validation[''])} validation rows")


def test_pairs_are_copies_only_as_a_whole(tmp_path: Path) -> None:
    pairs = [{"a": f"first {i}", "b": f"second {i}", "score": i} for i in range(20)]
    turned = [{**row, "b": f"second {19 - i}"} for i, row in enumerate(pairs)]
    for name, rows in (("train", pairs), ("turned", turned)):
        write(tmp_path / f"{name}.jsonl", rows)
    task = resolve_task({"kind": "regression", "text": ["a", "b"], "label": "score"})

    def notes(validation: str) -> list[str]:
        source = {"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / f"{validation}.jsonl")}
        return copies(load_task_data(task, resolve_source(source)))

    assert not notes("turned")
    assert "'first 0 | second 0'" in notes("train")[0]
