"""Data files as they go wrong, and what a recipe says of them on the command line."""

from collections.abc import Callable
from pathlib import Path

from bad_inputs import Bad

FINETUNE = "finetune {d}/fresh.yaml --set data.train={d}/"
HEADER = "sentence,label\n"


def holds(name: str, content: str | bytes) -> Callable[[Path], object]:
    """The file `name` with that content."""
    return lambda directory: (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)


def bad(what: str, name: str, content: str | bytes, sentence: str) -> Bad:
    """A training file `name` with that content; the sentence begins with its path."""
    return Bad(what, FINETUNE + name, f"{{d}}/{name}{sentence}", holds(name, content))


CASES = [
    bad("latin-1", "t.csv", HEADER.encode() + b"fine,1\ncaf\xe9,0\n",
        ", line 3: byte 0xe9 is not UTF-8; the file is damaged, or in an 8-bit encoding such as latin-1 or cp1252: "
        "iconv -f CP1252 -t UTF-8 '{d}/t.csv' > new.csv"),
    bad("UTF-16 without its mark", "t.csv", HEADER.encode("utf-16-le"),
        ": seems to be UTF-16LE without a byte order mark; convert it: iconv -f UTF-16LE -t UTF-8 '{d}/t.csv' > "
        "new.csv"),
    bad("null bytes", "t.csv", HEADER + "fine,1\n\0\0\0\0",
        ", line 3: a null byte, which no text file holds; the file is damaged"),
    bad("a quote that is never closed", "t.csv", HEADER + 'fine,1\n"bad,0\nmore,1\n',
        ", line 3: a quote opens a cell here and is never closed"),
    bad("a comma in a text", "t.csv", HEADER + "fine, really,1\n",
        ", line 2: 3 fields, but the header has 2 (sentence, label)"),
    bad("another column name, semicolons", "t.csv", "sentences;label\nfine;1\n",
        ": no column 'sentence', did you mean 'sentences'?; the columns are sentences, label"),
    bad("the header twice the same name", "t.csv", "sentence,label,sentence\nfine,1,fine\n",
        ": the header names a column twice: sentence, label, sentence"),
    bad("nothing at all", "t.csv", "", ": the data set is empty; expected the columns sentence, label and some rows"),
    bad("an empty column", "t.csv", HEADER + ",1\n,0\n",
        ": the column 'sentence' is empty in all 2 rows; it is where the text of each row should be"),
    bad("one empty cell", "t.csv", HEADER + "fine,1\n\n,0\n",
        ", data row 2, column 'sentence': the text is missing; fill it in or drop the row"),
    bad("quotes of two kinds", "t.tsv", 'sentence\tlabel\n"a ""b"""\t1\n5" pipe\t0\n',
        ": line 2 has a cell in quotes with quotes written twice inside, but line 3 a quote that opens or closes "
        "nothing, so whether quotes are part of the texts is unclear; write the file as json lines"),
    bad("half a character", "t.jsonl", '{"sentence": "fine", "label": 1}\n{"sentence": "\\ud83d", "label": 0}\n',
        r", data row 2, column 'sentence': it holds half of a character ('\ud83d', a lone surrogate); repair it or "
        "drop the row"),
    bad("a number beyond all", "t.jsonl", '{"sentence": 1e999, "label": 1}\n',
        ", data row 1, column 'sentence': expected a text, got inf, which no number that can be held is"),
    bad("an integer of 5,000 digits", "t.jsonl", '{"sentence": "fine", "label": ' + "9" * 5000 + "}\n",
        ", line 1: not valid JSON (Exceeds the limit (4300 digits) for integer string conversion: value has 5000 "
        "digits); expected one object per line, or a list of objects"),
    bad("a list cut off", "t.json", '[{"sentence": "fine", "label": 1},\n{"sentence": "ba',
        ", line 2: not valid JSON (Unterminated string starting at); expected a list of objects"),
    bad("lists for rows", "t.json", '[["fine", 1], ["bad", 0]]',
        ', data row 1: expected an object such as {"sentence": ..., "label": ...}; from pandas: df.to_json(path, '
        "orient='records', lines=True)"),
    bad("an object for a text", "t.jsonl", '{"sentence": {"body": "fine"}, "label": 1}\n',
        ", data row 1, column 'sentence': expected a text, got an object; name a field of it, such as "
        "'sentence.body'"),
    bad("a parquet file cut off", "t.parquet", b"PAR1 and no more", ": damaged, or no parquet file (...)"),
    bad("a spreadsheet", "t.xlsx", b"PK",
        ": unknown kind of file '.xlsx'; known: .csv, .tsv, .json, .jsonl, .parquet, .conll, .iob, "
        ".iob2, .bio, .txt; save it as csv (UTF-8)"),
    Bad("a directory for a file", FINETUNE + "t.csv", "{d}/t.csv: a directory, not a file",
        lambda directory: (directory / "t.csv").mkdir()),
    Bad("a file beside a hub name", "finetune {d}/fresh.yaml --set data=owner/name --set data.train=t.csv",
        "{d}/fresh.yaml: data.train: 't.csv' is a file, but data.hub names the data set 'owner/name'; for files alone "
        "set data.hub to null"),
    Bad("a key inside a number", "finetune {d}/fresh.yaml --set data.max_length.x=3",
        "{d}/fresh.yaml: --set 'data.max_length.x=3': data.max_length is 16, which has no keys; set data.max_length as "
        "a whole"),
]
