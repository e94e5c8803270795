"""Rows for a reranker out of SQuAD: a question, the sentences of its paragraph, and which of them holds the answer.

    python benchmarks/make_rerank.py ../shared/data/squad/train-partial.json.gz runs/squad-rerank/train.jsonl
    python benchmarks/make_rerank.py ../shared/data/squad/dev-xquad-en.json.gz runs/squad-rerank/validation.jsonl

A sentence ends behind `.`, `!` or `?` (and a closing quote or bracket) before a blank and a capital, a digit or an
opening quote; not behind an initial or one of a few abbreviations. Left out: questions whose answer lies in two
sentences, and paragraphs of one sentence.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

END = re.compile(r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[]*[A-Z0-9])")
NO_END = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|No|vs|c|ca|e\.g|i\.e|U\.S|Gen|Col|Capt|Prof|Rev|Mt|Ft))\.$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squad", type=Path, help="a file of SQuAD's layout, packed or not")
    parser.add_argument("output", type=Path, help="the .jsonl file")
    options = parser.parse_args()
    made = read(options.squad)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in made]
    options.output.write_text("".join(lines), encoding="utf-8")
    sentences = sum(len(row["sentences"]) for row in made)
    print(f"{options.output}: {len(made):,} questions with {sentences:,} sentences")


def read(squad: Path) -> list[dict[str, Any]]:
    """The rows of a file of SQuAD's layout, packed or not."""
    packed = squad.suffix == ".gz"
    with gzip.open(squad, "rt", encoding="utf-8") if packed else squad.open(encoding="utf-8") as file:
        return list(rows(json.load(file)["data"]))


def rows(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each question whose answer lies in one of several sentences."""
    for paragraph in (own for article in articles for own in article["paragraphs"]):
        spans = sentence_spans(paragraph["context"])
        if len(spans) < 2:
            continue
        texts = [paragraph["context"][begin:end] for begin, end in spans]
        for asked in paragraph["qas"]:
            answer = asked["answers"][0]
            first, behind = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            holds = [int(begin <= first and behind <= end) for begin, end in spans]
            if sum(holds) == 1:
                yield {"question": asked["question"].strip(), "sentences": texts, "relevance": holds}


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(first character, the one behind the last) of each sentence."""
    ends = [found.end() for found in END.finditer(text) if not NO_END.search(text[: found.start() + 1])]
    pieces = pairwise([0, *ends, len(text)])
    spans = [(end - len(text[begin:end].lstrip()), begin + len(text[begin:end].rstrip())) for begin, end in pieces]
    return [(begin, end) for begin, end in spans if end > begin]


if __name__ == "__main__":
    main()
