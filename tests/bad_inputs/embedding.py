"""Texts, pairs, scores and poolings that do not go together."""

import json
from pathlib import Path

from bad_inputs import Bad

ROW = {"one": "a fine film", "other": "a dull book", "near": 0.5}


def embedded(what: str, sentence: str, task: str, command: str = "train-width", files: dict[str, object] | None = None,
             **changes: object) -> Bad:  # fmt: skip
    """A good pair and one with changes, an encoder with further files beside it; the sentence of the fault."""
    text = "".join(json.dumps(row) + "\n" for row in (ROW, {**ROW, **changes}))

    def change(directory: Path) -> None:
        (directory / "t.jsonl").write_text(text)
        for name, content in (files or {}).items():
            (directory / "encoder" / name).parent.mkdir(exist_ok=True)
            (directory / "encoder" / name).write_text(json.dumps(content))
        recipe = (directory / "fresh.yaml").read_text()
        old = "task:\n  kind: classification\n  label: label\n  text: sentence\n"
        assert old in recipe
        recipe = recipe.replace(old, f"task: {{kind: embedding{task}}}\n")
        for split in ("train", "validation"):
            recipe = recipe.replace(f"{directory}/{split}.tsv", f"{directory}/t.jsonl")
        (directory / "fresh.yaml").write_text(recipe)

    return Bad(what, f"{command} {{d}}/fresh.yaml", sentence, change)


PAIR = ", pair: [one, other], score: near"
MODULES = [{"type": "sentence_transformers.models.Transformer", "path": ""},
           {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]  # fmt: skip
DENSE = [*MODULES, {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]

CASES = [
    embedded("neither a text nor a pair", "{d}/fresh.yaml: task: 'text' is missing; an embedding needs the column of "
             "its texts, or a pair of columns", ""),
    embedded("a pair of one", "{d}/fresh.yaml: task.pair: expected two different columns other than the score's, got "
             "['one']", ", pair: [one]"),
    embedded("a score without a pair", "{d}/fresh.yaml: task.score: it is about scored pairs; give 'pair' and 'score', "
             "or remove it", ", text: one, score: near"),
    embedded("a score in words", "{d}/t.jsonl, data row 2, column 'near': expected a number, got 'high'", PAIR,
             near="high"),
    embedded("single texts to fine-tune with", "task: an embedder learns from pairs (task.text: [one, other]); an "
             "embedder is its own teacher: run train-width", ", text: one", "finetune"),
    embedded("relations that count less than nothing", "{d}/fresh.yaml: task.similarities must be a number from 0, "
             "not -1", ", text: one, similarities: -1"),
    embedded("a module that is not followed", "{d}/encoder ends in a module Dense, and dynackd follows an embedder of "
             "Transformer, Pooling, Normalize alone; name another teacher", PAIR, files={"modules.json": DENSE}),
    embedded("a pooling that is not followed", "{d}/encoder pools by max, and dynackd follows mean or cls alone; name "
             "another teacher", PAIR,
             files={"modules.json": MODULES, "1_Pooling/config.json": {"pooling_mode_max_tokens": True}}),
    embedded("another pooling than the model's", "task.pooling: cls, but a vector of {d}/encoder is the mean over its "
             "real tokens, not normalised; remove it", PAIR + ", pooling: cls",
             files={"modules.json": MODULES, "1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}),
]
