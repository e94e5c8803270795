"""Every family with every kind of task, end to end on a tiny random model; and the table of docs/families.md.

A cell: rows are read and become inputs; a width-stage step is trained; importance rewires; a (0.5, 0.5) student is
exported, which compares ONNX with torch at every sort of padding, and loaded again by its Auto class, where it gives
what the supernet gives. `WRITE_TABLES=1 pytest tests/test_cells.py` writes the table anew.
"""

import json
import math
import os
import random
from pathlib import Path

import pytest
import torch
import transformers
from conftest import BAD, CONFIGS, GOOD, PLAIN, randomise, tiny_batch, tiny_config, tiny_tokenizer
from transformers import TrainingArguments

from dynackd.data.sources import resolve_source
from dynackd.deploy.export import export_student
from dynackd.deploy.validation import Validation
from dynackd.distill.settings import DistillationSettings
from dynackd.distill.teacher import Teacher
from dynackd.families.table import max_positions
from dynackd.grid import Grid
from dynackd.measure.evaluation import batches_of, subnet_metrics
from dynackd.subnet import SubnetSpec
from dynackd.supernet.checkpoints import name_outputs
from dynackd.supernet.importance import gradient_importance, rewire
from dynackd.supernet.layer_order import order_by_removal
from dynackd.supernet.network import Supernet
from dynackd.tasks.kinds import KIND_KEY, KINDS
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.task import resolve_task
from dynackd.tasks.tokens import tokenize
from dynackd.training.trainer import WIDTH_STAGE, SupernetTrainer

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
SMALL = SubnetSpec(0.5, 0.5)
HEAD, FOOT = "<!-- written by tests/test_cells.py -->", "<!-- end -->"
# (family, kind) -> the recipe of a real run, whose figures stand at its head.
REAL = {
    ("bert", "classification"): "recipes/glue/sst2.yaml",
    ("bert", "regression"): "recipes/glue/stsb.yaml",
    ("bert", "token_classification"): "recipes/wnut17.yaml",
    ("bert", "multi_label"): "recipes/goemotions.yaml",
    ("bert", "ranking"): "recipes/ranking/squad-rerank.yaml",
    ("bert", "question_answering"): "recipes/squad.yaml",
    ("bert", "embedding"): "recipes/embedding/embed-minilm.yaml",
    ("mpnet", "classification"): "recipes/glue/sst2-mpnet.yaml",
}


def words(rng, most=7):
    return rng.choices(GOOD + BAD + PLAIN, k=rng.randrange(1, most))


def text(rng):
    return " ".join(words(rng))


def a_class(rng):
    return {"text": text(rng), "label": rng.choice(["no", "yes"])}


def a_number(rng):
    return {"text": text(rng), "label": rng.random()}


def tagged_words(rng):
    some = words(rng)
    return {"tokens": some, "tags": ["B-X" if word in GOOD else "I-X" if word in BAD else "O" for word in some]}


def a_question(rng):
    context = words(rng, 30)
    answer = rng.choice(context)
    answers = {"text": [answer], "answer_start": [" ".join(context).index(answer)]}
    return {"question": "is it fine", "context": " ".join(context), "answers": answers}


def some_labels(rng):
    return {"text": text(rng), "labels": rng.sample(["a", "b", "c"], rng.randrange(4))}


def some_passages(rng):
    return {"query": text(rng), "passages": [text(rng), text(rng), text(rng)], "relevance": [0, 1, 0]}


def a_pair(rng):
    return {"one": text(rng), "other": text(rng), "score": rng.random()}


# kind -> a recipe's `task`, and a row of its data
ROWS = {
    "classification": ({"text": "text", "label": "label"}, a_class),
    "regression": ({"text": "text", "label": "label"}, a_number),
    "token_classification": ({"words": "tokens", "tags": "tags"}, tagged_words),
    "question_answering": ({}, a_question),
    "multi_label": ({"text": "text", "label": "labels"}, some_labels),
    "ranking": ({"passages": "passages", "relevance": "relevance"}, some_passages),
    "plain": ({"text": "text"}, lambda rng: {"text": text(rng)}),
    "embedding": ({"pair": ["one", "other"], "score": "score"}, a_pair),
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind_rows(request, tmp_path_factory):
    return rows_of(request.param, tmp_path_factory.mktemp("rows"))


def rows_of(name, directory):
    """(kind, its data, their inputs) of 16 rows."""
    (task, row), rng = ROWS[name], random.Random(0)
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps(row(rng)) + "\n" for _ in range(16)), encoding="utf-8")
    source = resolve_source({"train": str(file), "validation": str(file), "max_length": 24})
    data = load_task_data(resolve_task({"kind": name, **task}), source)
    tokenizer = tiny_tokenizer()
    inputs = {split: tokenize(some, data.task, tokenizer, 24, split)[0]
              for split, some in (("training", data.train), ("validation", data.validation[""]))}
    return KINDS[name], data, inputs


def model_of(family, kind, data, directory):
    """A random model of a family for a kind; None where transformers has no such class."""
    config = tiny_config(family)
    auto = getattr(transformers, kind.auto_class)
    if type(config) not in auto._model_mapping:
        return None
    name_outputs(config, kind.output_names(data.label_names))
    config.problem_type = kind.problem_type
    setattr(config, KIND_KEY, kind.name)
    for key, value in kind.settled(config, directory).items():
        setattr(config, key, value)
    return randomise(auto.from_config(config)).eval()


def proven(family, kind, data, inputs, directory):
    """What the cell says: "tiny" where all went well, "-" where transformers has no such model."""
    model = model_of(family, kind, data, directory)
    if model is None:
        return "-"
    tokenizer, net = tiny_tokenizer(), Supernet(model, Grid((1.0, 0.5), (1.0, 0.5)))
    before = [parameter.clone() for parameter in model.parameters()]
    options = {"use_cpu": True, "save_strategy": "no", "report_to": "none", "per_device_train_batch_size": 8}
    arguments = TrainingArguments(str(directory / "run"), max_steps=1, learning_rate=1e-3, **options)
    settings = DistillationSettings(weights={"logits": 1.0, "wr_pair": 1.0, "ltr_pair": 1.0})
    trainer = SupernetTrainer(
        net, Teacher(net, kind), WIDTH_STAGE, data.task, settings, arguments,
        train_dataset=inputs["training"], eval_dataset=inputs["validation"], processing_class=tokenizer,
        data_collator=kind.collator(tokenizer),
    )  # fmt: skip
    trainer.train()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    batches = batches_of(inputs["validation"], kind, tokenizer, 8)
    importance = gradient_importance(model, batches)
    with torch.no_grad():
        full = net.eval()(**tiny_inputs(model)).outputs
        rewire(model, importance)
        for name, tensor in net(**tiny_inputs(model)).outputs.items():
            torch.testing.assert_close(tensor, full[name], atol=1e-5, rtol=1e-5)
    order = order_by_removal(net, kind, batches)
    assert sorted(order.order) == [0, 1, 2, 3]
    assert all(math.isfinite(loss) for loss in (order.before, *order.losses))
    (metrics,) = subnet_metrics(net, [net.resolve(SMALL)], data.task, {"": batches})
    assert set(metrics) <= set(data.task.metrics)
    validation = Validation(data.task, {"": inputs["validation"]}, tokenizer)
    about = export_student(net, tokenizer, SMALL, directory / "student", validation=validation)
    assert about["parity_max_abs_diff"] < 1e-4
    loaded = getattr(transformers, kind.auto_class).from_pretrained(directory / "student").eval()
    batch = tiny_inputs(model)
    with torch.no_grad():
        ours = kind.read(net(SMALL, **batch).outputs, batch, model.config)
        theirs = kind.read(loaded(**batch), batch, loaded.config)
    assert list(ours) == list(theirs) == [output.name for output in kind.outputs]
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-5, rtol=1e-5)
    return "tiny"


def tiny_inputs(model):
    """A batch with padding on the right, on the left and in the middle, as the model takes it."""
    return tiny_batch(length=min(9, max_positions(model.config)))


CELLS = {}


@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_family_and_a_kind_go_together_from_rows_to_a_student_that_loads_again(kind_rows, family, tmp_path):
    kind, data, inputs = kind_rows
    CELLS[family, kind.name] = proven(family, kind, data, inputs, tmp_path)


def table():
    """The table as these tests proved it."""
    lines = [f"| | {' | '.join(f'`{kind}`' for kind in KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for family in CONFIGS:
        keys = [(family, kind) for kind in KINDS]
        cells = [f"[real](../{REAL[key]})" if key in REAL else CELLS[key] for key in keys]
        lines.append(f"| `{family}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_of_families_and_kinds_says_what_was_proven():
    if len(CELLS) < len(CONFIGS) * len(KINDS):
        pytest.skip("needs all cells of this file in one run")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
    assert all((PAGE.parents[1] / recipe).is_file() for recipe in REAL.values())
    assert all(CELLS[cell] == "tiny" for cell in REAL)
    text = f"{before}{HEAD}\n\n{table()}\n\n{FOOT}{rest.partition(FOOT)[2]}"
    if os.environ.get("WRITE_TABLES"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "run WRITE_TABLES=1 pytest tests/test_cells.py"
