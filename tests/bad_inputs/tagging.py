"""Tagged words that cannot be what they are said to be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bad_inputs import Bad

FINE = [{"tokens": ["a", "b"], "tags": ["B-x", "O"]}]
KIND = {"kind": "token_classification", "words": "tokens", "tags": "tags"}


def tagging(train: Any, validation: Any = FINE, name: str = "t.jsonl", **task: Any) -> Callable[[Path], object]:
    """fresh.yaml as a recipe of tagged words: training rows as objects, or the text of a file `name`."""

    def change(directory: Path) -> None:
        recipe = directory / "fresh.yaml"
        content = yaml.safe_load(recipe.read_text())
        for file, rows in ((name, train), ("v.jsonl", validation)):
            lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            (directory / file).write_text(lines)
        content["data"] |= {"train": f"{directory}/{name}", "validation": f"{directory}/v.jsonl"}
        content["task"] = {key: value for key, value in {**KIND, **task}.items() if value is not None}
        recipe.write_text(yaml.safe_dump(content))

    return change


def bad(what: str, sentence: str, train: Any = FINE, *others: Any, **task: Any) -> Bad:
    return Bad(what, "finetune {d}/fresh.yaml", sentence, tagging(train, *others, **task))


def row(words: Any, tags: Any) -> dict[str, Any]:
    return {"tokens": words, "tags": tags}


CASES = [
    bad("more words than tags",
        "{d}/t.jsonl, data row 2: 3 words in column 'tokens', but 2 tags in column 'tags'; each word needs one tag",
        [*FINE, row(["a", "b", "c"], ["O", "O"])]),
    bad("a row without words",
        "{d}/t.jsonl, data row 2, column 'tokens': the list of words is empty; drop the row", [*FINE, row([], [])]),
    bad("a text for the words", "{d}/t.jsonl, data row 1, column 'tokens': expected a list of words, got a str",
        [row("a b", ["O", "O"])]),
    bad("a word that is none", "{d}/t.jsonl, data row 1, column 'tokens': expected texts, but word 2 is None",
        [row(["a", None], ["O", "O"])]),
    bad("a word without its tag",
        "{d}/t.jsonl, data row 1, column 'tags': expected a tag for each word, but that of word 1 is None",
        [row(["a", "b"], [None, "O"])]),
    bad("a tag that the training rows lack",
        "{d}/v.jsonl, data row 2, column 'tags', word 2: label 'I-x' is none of the known labels (O, B-x); correct it, "
        "or say which class it is, task.labels: {I-x: CLASS, O: 0, B-x: 1}",
        FINE, [*FINE, row(["a", "b"], ["B-x", "I-x"])]),
    bad("one tag alone",
        "{d}/t.jsonl, column 'tags': a token classification needs two tags or more, got only O", [row(["a"], ["O"])]),
    bad("a column file with a line that is short",
        "{d}/t.conll, line 3: 1 column, but the first line has 2, separated by blanks", "a O\nb B-x\nc\n", FINE,
        "t.conll"),
    bad("no column of tags", "{d}/fresh.yaml: task: 'tags' is missing; a task of your own needs kind, words and tags",
        tags=None),
    bad("one column for both",
        "{d}/fresh.yaml: task.tags: expected another column than that of the words, got 'tokens'", tags="tokens"),
    bad("two columns of words", "{d}/fresh.yaml: task.words: expected one column name, got ['a', 'b']",
        words=["a", "b"]),
    bad("a metric of texts",
        "{d}/fresh.yaml: task.metrics of a token_classification task: 'matthews_correlation' is unknown; known: "
        "f1, precision, recall, f1_macro, accuracy", metrics=["matthews_correlation"]),
    Bad("a drop that is none", "export {d}/run/depth --max-drop-per-class -0.1",
        "--max-drop-per-class is -0.1; it must be 0 or more"),
]
