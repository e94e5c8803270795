"""Question answering: from SQuAD's files to a student that answers, over contexts longer than a window."""

import gzip
import json
import random
import re

import pytest
import torch
from conftest import GOOD, PLAIN, tiny_config, tiny_tokenizer, write_recipe
from transformers import AutoModel

from dynackd.cli.command_line import main
from dynackd.system.places import read_json

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
        json.dump(squad(rows_of(96, 1)), file)
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
