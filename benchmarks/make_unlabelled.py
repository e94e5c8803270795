"""Rows without labels for GLUE's small tasks: the texts of the other sets and of SQuAD's paragraphs.

    python benchmarks/make_unlabelled.py ../shared/data runs/unlabelled

makes a file a task, cola.jsonl of `sentence`, and mrpc.jsonl, rte.jsonl and stsb.jsonl of `sentence1` and `sentence2`;
and text.txt, a sentence a line, for a general stage.

Sentences are those of the other sets' training rows (of SST-2's phrases the ones that end as a sentence does), of
QNLI's rows and of SQuAD's training paragraphs. Pairs are the other sets' own pairs, and sentences that follow one
another in a paragraph of SQuAD or in CoLA, whose neighbours say nearly the same. A row with a sentence of the task's
own validation rows is left out: STS-B holds some of MRPC's. text.txt has the sentences of all sets and GoEmotions'
training comments, and none of any set's validation rows but QNLI's.
"""

import argparse
import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from make_rerank import sentence_spans
from make_sentences import texts

SINGLE, PAIRS = ("cola", "sst2"), {"mrpc": ("sentence1", "sentence2"), "rte": ("sentence1", "sentence2"),
                                   "stsb": ("sentence1", "sentence2"), "qnli": ("question", "sentence")}
TASKS = {"cola": ("sentence",), **{name: PAIRS[name] for name in ("mrpc", "rte", "stsb")}}
Row = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a directory with glue/TASK/train.tsv and squad/train-partial.json.gz")
    parser.add_argument("output", type=Path, help="the directory of the files")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for task, columns in TASKS.items():
        made = pairs(options.data, task) if len(columns) == 2 else sentences(options.data, task)
        held_out = set(texts(options.data / "glue" / task / "validation.tsv"))
        rows = [row for row in dict.fromkeys(made) if not held_out & set(row)]
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        file = options.output / f"{task}.jsonl"
        file.write_text("".join(lines), encoding="utf-8")
        print(f"{file}: {len(rows):,} rows")
    file = options.output / "text.txt"
    kept = text(options.data)
    file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    print(f"{file}: {len(kept):,} sentences")


def text(data: Path) -> list[str]:
    """Each sentence once."""
    held_out = {one for name in (*SINGLE, *TASKS) for one in texts(data / "glue" / name / "validation.tsv")}
    comments = (data / "goemotions" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    said = (" ".join(json.loads(line)["text"].split()) for line in comments)
    every = dict.fromkeys([*(own for (own,) in sentences(data, "")), *said])
    return [one for one in every if one and one not in held_out]


def sentences(data: Path, task: str) -> Iterator[Row]:
    """Every sentence of the other sets."""
    for name in (*SINGLE, *PAIRS):
        some = texts(file_of(data, name)) if name != task else iter(())
        yield from ((text,) for text in some if name != "sst2" or text.endswith((".", "!", "?")))
    yield from ((text,) for paragraph in paragraphs(data) for text in paragraph)


def pairs(data: Path, task: str) -> Iterator[Row]:
    """The pairs of the other sets, and neighbours."""
    for name, columns in PAIRS.items():
        if name != task:
            with file_of(data, name).open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                    yield tuple(row[column].strip() for column in columns)
    for some in [texts(file_of(data, "cola")), *paragraphs(data)]:
        yield from pairwise(some)


def file_of(data: Path, name: str) -> Path:
    """QNLI is here with its validation rows alone, which are no other task's."""
    return data / "glue" / name / ("validation.tsv" if name == "qnli" else "train.tsv")


def paragraphs(data: Path) -> Iterator[Iterable[str]]:
    """The sentences of each paragraph of SQuAD's training articles, once."""
    with gzip.open(data / "squad" / "train-partial.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    contexts = dict.fromkeys(own["context"] for article in articles for own in article["paragraphs"])
    for text in contexts:
        yield [" ".join(text[begin:end].split()) for begin, end in sentence_spans(text)]


if __name__ == "__main__":
    main()
