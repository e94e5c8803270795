"""Queries, passages and relevances that do not go together."""

import json
from pathlib import Path

from bad_inputs import Bad

GOOD = {"query": "what", "texts": ["a fine film", "a dull book"], "grades": [1, 0], "other": "a cold day"}
LISTS = ", passages: texts, relevance: grades"


def ranked(what: str, sentence: str, task: str = LISTS, **changes: object) -> Bad:
    """A good row and one with changes; the sentence of the second one's fault."""
    text = "".join(json.dumps(row) + "\n" for row in (GOOD, {**GOOD, **changes}))

    def change(directory: Path) -> None:
        (directory / "t.jsonl").write_text(text)
        recipe = (directory / "fresh.yaml").read_text()
        old = "task:\n  kind: classification\n  label: label\n  text: sentence\n"
        assert old in recipe
        recipe = recipe.replace(old, f"task: {{kind: ranking{task}}}\n")
        for split in ("train", "validation"):
            recipe = recipe.replace(f"{directory}/{split}.tsv", f"{directory}/t.jsonl")
        (directory / "fresh.yaml").write_text(recipe)

    return Bad(what, "finetune {d}/fresh.yaml", sentence, change)


ROW = "{d}/t.jsonl, data row 2"
WAYS = ("{d}/fresh.yaml: task: name the columns of the passages in one way, passages (a list a row), passage (one a "
        "row) or positive and negative; got ")  # fmt: skip

CASES = [
    ranked("fewer numbers than passages", ROW + ": 2 passages in column 'texts', but 1 numbers in column 'grades'; "
           "each passage needs one", grades=[1]),
    ranked("a query without passages", ROW + ": the query has no passage; drop the row", texts=[], grades=[]),
    ranked("a relevance below 0", ROW + ", column 'grades': a relevance must be 0 or more, got -1", grades=[1, -1]),
    ranked("a relevance in words", ROW + ", column 'grades': expected a number, got 'high'", grades=[1, "high"]),
    ranked("a passage that is no text", ROW + ", column 'texts': expected texts, but passage 2 is None",
           texts=["a", None]),
    ranked("one text for a list", ROW + ", column 'texts': expected a list of passages, got a str", texts="a"),
    ranked("another column of passages", "{d}/t.jsonl: no column 'passages'; the columns are query, texts, grades, "
           "other", ", passages: passages, relevance: grades"),
    ranked("no passages", WAYS + "none", ", relevance: grades"),
    ranked("passages in two ways", WAYS + "passages and passage", LISTS + ", passage: other"),
    ranked("positive passages alone", WAYS + "positive", ", positive: other"),
    ranked("passages without relevance", "task: a reranker has no labels to fine-tune with; name a fine-tuned model "
           "under 'teacher'", ", passages: texts"),
    Bad(
        "a classifier for a reranker",
        "train-width {d}/fresh.yaml --set teacher={d}/run/teacher --set data.train_rows=null",
        "task 'custom' is a ranking, but the model's problem_type is single_label_classification",
        ranked("", "").change,
    ),
]  # fmt: skip
