"""Reading files as people have them: separators, quotes, encodings, layouts, faults with their row, flat memory."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import tiny_tokenizer

from dynackd.data import json_rows, readers
from dynackd.data.rows import Column, checked_rows, read_class
from dynackd.data.sources import resolve_source
from dynackd.errors import UserError
from dynackd.system.disk import on_disk
from dynackd.tasks.glue import TASKS
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.task import resolve_task
from dynackd.tasks.tokens import tokenize
from dynackd.training.recipe import apply_overrides

SHARED = Path(__file__).parents[3] / "shared" / "data"
TASK = {"kind": "classification", "text": "text", "label": "class"}
TEXTS = ['He said "hi"', "a\ttab, a comma; a semicolon", "two\nlines", "'ok'", 'ends "here"', "plain"]
FRAME = pd.DataFrame({"text": TEXTS, "class": ["b", "a", "b", "a", "b", "a"]})


def load(path, task=TASK, splits=("train",), **options):
    return load_task_data(resolve_task(task), resolve_source({"train": str(path), **options}), splits)


def texts(path, **options):
    return load(path, **options).train["text"][:]


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- separators and quotes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.tsv", ";")])
def test_another_separator_is_recognised_and_told(tmp_path, name, separator):
    FRAME.to_csv(tmp_path / name, sep=separator, index=False)
    data = load(tmp_path / name)
    assert data.train["text"][:] == TEXTS
    named = {";": "semicolons", ",": "commas", "\t": "tabs"}[separator]
    assert f"{tmp_path / name}: read with {named} between the columns" in data.notes


def test_the_usual_separator_is_not_told(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv")
    assert data.train["text"][:] == TEXTS
    assert not any("read with" in note for note in data.notes)


def test_the_line_that_excel_writes_above_the_header_names_the_separator(tmp_path):
    path = write(tmp_path / "a.csv", "sep=;\r\ntext;class\r\none, two;x\r\nthree;y\r\n;\r\n")
    assert texts(path) == ["one, two", "three"]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_tsv_from_pandas_gives_back_what_was_written(tmp_path, quoting):
    FRAME.to_csv(tmp_path / "a.tsv", sep="\t", index=False, quoting=quoting)
    data = load(tmp_path / "a.tsv")
    assert data.train["text"][:] == TEXTS
    assert any("cells in quotes" in note for note in data.notes)


@pytest.mark.parametrize("cells", [
    ['"Hi."', "plain, with a comma", "x"],  # GLUE: quotes that belong to the text
    ['"He said ""hi"""', '5" pipe', '"open'],  # quotes that open or close nothing: this is no quoted file
    ['"never closed', "x", "y"],
    ['"open', 'close"', "y"],
])
def test_quotes_of_a_plain_tsv_stay(tmp_path, cells):
    path = write(tmp_path / "a.tsv", "text\tclass\n" + "".join(f"{cell}\t{i % 2}\n" for i, cell in enumerate(cells)))
    assert texts(path) == cells


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not in ../shared/data")
@pytest.mark.parametrize("path", sorted(SHARED.glob("glue/*/*.tsv")), ids=lambda path: f"{path.parts[-2]}-{path.stem}")
def test_glue_files_are_read_cell_by_cell_as_they_stand(path):
    task = TASKS[path.parent.name]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    table = readers.read_file(str(path), [*task.text_columns, "label"])
    assert list(map(list, table.rows)) == [[row[name] for name in (*task.text_columns, "label")] for row in rows]
    assert table.notes == ()


def test_long_cells_are_read_and_the_limit_of_the_process_stays(tmp_path):
    long = "word " * 2_000_000  # 10 MB
    before = csv.field_size_limit()
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(tmp_path / name, f"text{separator}class\n{long}{separator}x\nshort{separator}y\n")
        assert texts(path) == [long, "short"]
    lines = write(tmp_path / "a.jsonl", f'{{"text": "{long}", "class": 0}}\n{{"text": "b", "class": 1}}')
    assert texts(lines) == [long, "b"]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbftext,class\na,x\nb,y\n",
    "text,class\na,x\nb,y\n".encode("utf-16"),
    b"text,class\r\na,x\r\nb,y",
    b"\n\ntext,class,,\na,x,,\n,,,\n\nb,y,,\n",
])
def test_marks_line_ends_and_blank_rows(tmp_path, content):
    assert texts(write(tmp_path / "a.csv", content)) == ["a", "b"]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.tsv", "\t")])
@pytest.mark.parametrize("blank", ["", "   ", "\u00a0 "])
def test_a_cell_of_blanks_is_a_missing_text(tmp_path, name, separator, blank):
    """Three of four empty mails were told, and the one of blanks was trained on."""
    path = write(tmp_path / name, f"text{separator}class\na b{separator}x\n{blank}{separator}y\n")
    with pytest.raises(UserError, match="data row 2, column 'text': the text is missing"):
        load(path)


# --- json ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orient", ["records", "lines", "columns", "split", "table", "index"])
def test_every_layout_of_pandas_that_names_its_columns(tmp_path, orient):
    options = {"orient": "records", "lines": True} if orient == "lines" else {"orient": orient}
    FRAME.to_json(tmp_path / "a.json", **options)
    assert texts(tmp_path / "a.json") == TEXTS


def test_columns_of_a_json_object_are_matched_by_row_and_a_short_one_is_refused(tmp_path):
    content = {"text": {"0": "a", "1": "b"}, "class": {"1": "x", "0": "y"}, "version": 1}
    data = load(write(tmp_path / "a.json", json.dumps(content)))
    assert list(zip(data.train["text"], data.train["label"], strict=True)) == [("a", 1), ("b", 0)]
    for short in ({**content, "class": {"0": "y"}}, {"text": ["a", "b"], "class": ["x"], "version": 1}):
        with pytest.raises(UserError, match="data row 2, column 'class': the label is missing"):
            load(write(tmp_path / "a.json", json.dumps(short)))


def test_json_over_many_lines_and_a_list_longer_than_a_piece(tmp_path, monkeypatch):
    other = {"a": [1, 2.5e3, None, "]"]}
    rows = [{"text": text * 5, "class": i % 2, "other": other} for i, text in enumerate(TEXTS * 9)]
    expected = [row["text"] for row in rows]
    for size in (1, 7, 64, 2**20):
        monkeypatch.setattr(json_rows, "CHUNK", size)
        assert texts(write(tmp_path / "a.json", json.dumps(rows, indent=1))) == expected
    assert texts(write(tmp_path / "a.json", json.dumps({"text": expected, "class": [0, 1] * 27}, indent=2))) == expected


def test_a_dotted_name_is_a_field_inside_a_field(tmp_path):
    rows = [{"review": {"body": t, "by": {"age": i}}, "class": i % 2} for i, t in enumerate(TEXTS)]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        data = load(tmp_path / name, {**TASK, "text": ["review.body", "review.by.age"]})
        assert data.train["review.body"][:] == TEXTS
        assert data.train["review.by.age"][:] == list("012345")


def test_huge_integers_are_texts_and_labels_like_any_other(tmp_path):
    huge = 10**40
    path = write(tmp_path / "a.jsonl", f'{{"text": {huge}, "class": {huge}}}\n{{"text": "b", "class": "x"}}\n')
    data = load(path)
    assert data.train["text"][:] == [str(huge), "b"]
    assert data.label_names == (str(huge), "x")


# --- rows and their numbers ------------------------------------------------------------------------------------------


def test_a_label_is_told_with_its_row_in_the_file_also_where_validation_rows_are_cut_off(tmp_path):
    content = "".join(f"t{i},{'ab'[i % 2] if i != 17 else ''}\n" for i in range(40))
    path = write(tmp_path / "a.csv", "text,class\n" + content)
    with pytest.raises(UserError, match="data row 18, column 'class': the label is missing"):
        load(path, validation_share=0.3, splits=("train", "validation"), train_rows=5)


def test_rows_keep_their_numbers_when_some_are_selected(tmp_path):
    path = write(tmp_path / "a.csv", "text,class\n" + "".join(f"t{i},{i % 2}\n" for i in range(10)))
    rows = load_rows(path).select(np.array([3, 5, 9])).select(np.array([1, 2]))
    assert [rows.number(place) for place in (0, 1)] == [6, 10]
    labelled = rows.labelled([7, 8])
    assert labelled["text"][:] == ["t5", "t9"]
    assert labelled["label"][:] == [7, 8]


def load_rows(path):
    table = readers.read_file(str(path), ["text", "class"])
    return checked_rows(table, [Column("text")], Column("class", "label", read_class))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", '{"text": "a", "class": 0}\n{"text": "\\ud83d", "class": 1}', "row 2, column 'text': it holds half of"),
    ("a.jsonl", '{"text": "a", "class": "\\udc00"}', r"row 1, column 'class': it holds half of a character"),
    ("a.jsonl", '{"text": 1e999, "class": 1}', r"row 1, column 'text': expected a text, got inf"),
    ("a.jsonl", '{"text": "a", "class": ' + "9" * 5000 + "}", r"line 1: not valid JSON \(Exceeds the limit"),
    ("a.jsonl", "[" * 100_000, r"line 1: not valid JSON"),
    ("a.json", '[{"text": "a", "class": 1},\n {"text": "b" "class": 0}]', r"line 2: not valid JSON"),
    ("a.json", '[{"text": "a", "class": 1}] x', "there is more after the end of the list"),
    ("a.json", '[["a", 1], ["b", 0]]', "data row 1: expected an object .*; from pandas: df.to_json"),
    ("a.jsonl", '{"text": "a", "text": "b", "class": 1}', "line 1: not valid JSON .the key 'text' stands twice"),
    ("a.jsonl", '{"review": {"body": "a"}, "class": 1}', r"no column 'text'; the columns are review.body, class"),
    ("a.json", '{"columns": 3, "data": 5}', r"no column 'text'; the columns are columns, data"),
    ("a.csv", "text,class\n,x\n,y\n", "the column 'text' is empty in all 2 rows"),
    ("a.csv", "text,class\na\0b,x\n", "line 2: a null byte"),
    ("a.csv", "text,class\n".encode("utf-16-le"), "seems to be UTF-16LE without a byte order mark; convert it: iconv"),
    ("a.csv", b"text,class\na,x\ncaf\xe9,y\n", "line 3: byte 0xe9 is not UTF-8; .*latin-1 or cp1252: iconv -f CP1252"),
    ("a.csv", 'text,class\nok,x\n"open,y\nb,x\n"c",y\n', "line 3: the quotes do not fit, up to line 5"),
    ("a.csv", 'text,class\n"a\nb",x,y\n', "lines 2 to 3: 3 fields, but the header has 2"),
    ("a.csv", "txt;class\na;x\n", "no column 'text', did you mean 'txt'.; the columns are txt, class"),
    ("a.tsv", 'text\tclass\n"a ""b"""\tx\n5" pipe\ty\n', "line 2 has a cell in quotes .* but line 3 a quote that"),
    ("a.parquet", b"", "damaged, or no parquet file"),
    ("a.xlsx", b"", "known: .*; save it as csv"),
])
def test_a_fault_is_one_sentence_with_its_place(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_an_empty_string_is_a_text_and_an_empty_cell_is_none(tmp_path):
    rows = load_rows(write(tmp_path / "a.jsonl", '{"text": "", "class": 0}\n{"text": "b", "class": 1}'))
    assert rows.texts["text"][:] == ["", "b"]
    with pytest.raises(UserError, match="row 1, column 'text': the text is missing"):
        load_rows(write(tmp_path / "a.csv", "text,class\n,0\nb,1\n"))


def test_a_decimal_comma_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "text;class\na;3,5\n")
    with pytest.raises(UserError, match=r"data row 1, column 'class': expected a number, got '3,5'; write a point"):
        load(path, {**TASK, "kind": "regression"})


# --- the hub, and overrides of a recipe ------------------------------------------------------------------------------


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch):
    def unreachable():
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(readers, "check_hub_answers", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("must not be tried"))
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"^owner/name, split train: could not be loaded .*Name or service not known"):
        readers.read_hub(("owner/name", None), "train", ["text"])
    assert time.monotonic() - begin < 5


def test_a_data_set_in_the_cache_is_read_without_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "check_hub_answers", lambda: pytest.fail("must not be asked"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "owner___my_name").mkdir()
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **o: datasets.Dataset.from_dict({"text": ["a"], "n": [1]}))
    assert list(readers.read_hub(("owner/MyName", None), "train", ["text"]).rows) == [("a",)]


def test_a_key_set_inside_a_hub_name_keeps_the_name():
    content = apply_overrides({"data": "owner/name"}, ["data.max_length=32"])
    assert content == {"data": {"hub": "owner/name", "max_length": 32}}
    source = resolve_source(content["data"])
    assert (source.hub, source.max_length) == (("owner/name", None), 32)


@pytest.mark.parametrize("override", ["task.label=x", "grid.widths.0=1", "importance.rows.x=1"])
def test_a_key_set_inside_a_text_or_list_is_refused(override):
    content = {"task": "sst2", "grid": {"widths": [1.0]}, "importance": {"rows": 3}}
    with pytest.raises(UserError, match=r"which has no keys; set .* as a whole"):
        apply_overrides(content, [override])


@pytest.mark.parametrize("path", ["/data/my #1 file.csv", "/data/a: b.csv", "*.csv", "#1.csv", "C:\\a.csv", "&a b.csv"])
def test_a_path_is_taken_as_it_stands(path):
    content = apply_overrides({}, [f"data.train={path}", f"model={path}", f"output_dir={path}"])
    assert content == {"data": {"train": path}, "model": path, "output_dir": path}


def test_null_and_quotes_keep_their_meaning_for_a_path():
    assert apply_overrides({}, ["data.hub=null", "data.train='a b.csv'"]) == {"data": {"hub": None, "train": "a b.csv"}}


def test_a_file_beside_a_hub_name_is_refused():
    with pytest.raises(UserError, match=r"data.train: 'a.csv' is a file, but data.hub names the data set 'owner/name'"):
        resolve_source(apply_overrides({"data": "owner/name"}, ["data.train=a.csv"])["data"])


# --- memory ----------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from conftest import tiny_tokenizer
from dynackd.tasks.loading import load_task_data
from dynackd.data.sources import resolve_source
from dynackd.tasks.task import resolve_task
from dynackd.tasks.tokens import tokenize

def run(path):
    task = resolve_task({"kind": "classification", "text": "text", "label": "class"})
    data = load_task_data(task, resolve_source({"train": path}), ("train",))
    tokens, cut = tokenize(data.train, data.task, tiny_tokenizer(), 32)
    return data.train, tokens, cut

def held():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmData")) * 1024

*small, large, lines, left = sys.argv[2:]
for path in small:
    run(path)
limit = held() + int(left)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for path in (large, lines):
    rows, tokens, cut = run(path)
    print(len(rows), sum(rows["label"][:]), len(rows[len(rows) - 1]["text"]), tokens[len(tokens) - 1]["length"], cut)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits what a process may hold, as Linux counts it")
def test_memory_stays_flat_on_files_larger_than_the_memory_that_is_left(tmp_path):
    """Reading, labelling and tokenising 64 MB with 32 MB left."""
    count, left, text = 4000, 32_000_000, "supercalifragilistic" * 20 + " " + "x" * 15_600
    line = {"a.tsv": "{}\t{}\n", "a.jsonl": '{{"text": "{}", "class": {}}}\n'}
    for name in line:
        for file, rows in ((f"small{name}", 20), (name, count)):
            with (tmp_path / file).open("w") as out:
                out.write("text\tclass\n" if name == "a.tsv" else "")
                out.writelines(line[name].format(text, i % 2) for i in range(rows))
        assert (tmp_path / name).stat().st_size > 2 * left
    tests = str(Path(__file__).parents[1])
    files = [str(tmp_path / name) for name in ("smalla.tsv", "smalla.jsonl", "a.tsv", "a.jsonl")]
    environment = {**os.environ, "PYTHONPATH": str(Path(tests).parent), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", LIMITED, tests, *files, str(left)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{count} {count // 2} {len(text)} 4 None"] * 2
    assert not list(tmp_path.glob("dynackd-*"))


def test_temporary_files_go_with_the_data_and_on_failure(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    data = load(write(tmp_path / "a.csv", "text,class\na,x\nb,y\n"))
    tokens, _ = tokenize(data.train, data.task, tiny_tokenizer(), 8)
    assert len(list(cache.glob("dynackd-*/rows.arrow"))) == 1  # that of the tokens
    assert data.train["text"][:] == ["a", "b"]
    del tokens
    assert not list(cache.glob("dynackd-*/*"))
    before = list(cache.iterdir())
    with pytest.raises(UserError, match="text is missing"):
        load(write(tmp_path / "b.csv", "text,class\na,x\n,y\n"))
    assert list(cache.iterdir()) == before


def test_rows_can_be_used_after_their_file_is_gone(tmp_path):
    rows = load(write(tmp_path / "a.csv", "text,class\na,x\nb,y\nc,x\n")).train.select([2, 0])
    assert sorted(rows.shuffle(seed=1).with_format("numpy")["text"][:]) == ["a", "c"]
    assert rows.map(lambda row: {"text": row["text"] * 2}, new_fingerprint="x")["text"][:] == ["cc", "aa"]


def test_a_cache_that_is_a_file_is_told(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("mine")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"HF_DATASETS_CACHE names .*cache, which is a file; name a directory"):
        on_disk(lambda _: pytest.fail("nothing is written"))
