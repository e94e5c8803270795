"""Rows without labels: read, mixed in by their share, never a label read of them, the same after a resume."""

import json
import random
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from accelerate.data_loader import BatchSamplerShard
from conftest import BAD, GOOD, PLAIN, cut_short, randomise, tiny_config, tiny_recipe, tiny_tokenizer
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

from dynackd.data.sources import resolve_source
from dynackd.distill.relations import RELATION_TERMS
from dynackd.distill.settings import DistillationSettings
from dynackd.distill.signals import Student, distillation_loss, term_counts
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.subnet import Subnet, SubnetSpec, full
from dynackd.supernet.network import Supernet
from dynackd.system.places import read_json
from dynackd.tasks.kind import LABELLED
from dynackd.tasks.kinds import KIND_KEY
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.task import resolve_task
from dynackd.tasks.tokens import tokenize
from dynackd.tasks.unlabelled import mixed, read_unlabelled, tokenize_unlabelled
from dynackd.training import stages
from dynackd.training.mixing import mixed_in
from dynackd.training.order import MixedSampler, Mixture, others_an_epoch
from dynackd.training.polish import polish
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.rows import Rows
from dynackd.training.runs import RunMode
from dynackd.training.teachers import refuse_other_result
from dynackd.training.trainer import SupernetTrainer

FRESH = RunMode()


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def words(seed, count):
    rng = random.Random(seed)
    return [rng.choices(GOOD + BAD + PLAIN, k=rng.randrange(3, 8)) for _ in range(count)]


def texts(seed, count):
    return [" ".join(own) for own in words(seed, count)]


def pairs(seed, count):
    return list(zip(texts(seed, count), texts(seed + 50, count), strict=True))


ANSWERS = {"text": ["fine"], "answer_start": [2]}
# Of each kind: a recipe's task, rows with labels, rows without any.
KINDS = {
    "classification": (
        {"kind": "classification", "text": "s", "label": "y"},
        [{"s": text, "y": i % 2} for i, text in enumerate(texts(1, 6))],
        [{"s": text} for text in texts(2, 5)],
    ),
    "pairs": (
        {"kind": "classification", "text": ["s", "t"], "label": "y"},
        [{"s": s, "t": t, "y": i % 2} for i, (s, t) in enumerate(pairs(1, 6))],
        [{"s": s, "t": t} for s, t in pairs(2, 5)],
    ),
    "regression": (
        {"kind": "regression", "text": "s", "label": "y"},
        [{"s": text, "y": i / 2} for i, text in enumerate(texts(1, 6))],
        [{"s": text} for text in texts(2, 5)],
    ),
    "multi_label": (
        {"kind": "multi_label", "text": "s", "label": "y"},
        [{"s": text, "y": [["a"], ["b", "c"], []][i % 3]} for i, text in enumerate(texts(1, 6))],
        [{"s": text} for text in texts(2, 5)],
    ),
    "columns of labels": (
        {"kind": "multi_label", "text": "s", "label": ["a", "b"]},
        [{"s": text, "a": i % 2, "b": 1} for i, text in enumerate(texts(1, 6))],
        [{"s": text} for text in texts(2, 5)],
    ),
    "token_classification": (
        {"kind": "token_classification", "words": "w", "tags": "y"},
        [{"w": own, "y": ["O", "B-a", "I-a"][:2] + ["O"] * (len(own) - 2)} for own in words(1, 6)],
        [{"w": own} for own in words(2, 5)],
    ),
    "question_answering": (
        {"kind": "question_answering"},
        [{"question": "one", "context": f"a fine {text}", "answers": ANSWERS} for text in texts(1, 6)],
        [{"question": "two", "context": text} for text in texts(2, 5)],
    ),
    "ranking": (
        {"kind": "ranking", "query": "q", "passages": "p", "relevance": "y"},
        [{"q": text, "p": texts(i, 3), "y": [1, 0, 0]} for i, text in enumerate(texts(1, 6))],
        [{"q": text, "p": texts(i, 2)} for i, text in enumerate(texts(2, 5))],
    ),
    "positives": (
        {"kind": "ranking", "query": "q", "positive": "p", "negative": "n"},
        [{"q": text, "p": texts(i, 1), "n": texts(i + 9, 2)} for i, text in enumerate(texts(1, 6))],
        [{"q": text, "p": texts(i, 1), "n": texts(i + 9, 1)} for i, text in enumerate(texts(2, 5))],
    ),
    "embedding": (
        {"kind": "embedding", "pair": ["s", "t"], "score": "y"},
        [{"s": s, "t": t, "y": i / 6} for i, (s, t) in enumerate(pairs(1, 6))],
        [{"s": s, "t": t} for s, t in pairs(2, 5)],
    ),
    "plain": (
        {"kind": "plain", "text": "s"},
        [{"s": text} for text in texts(1, 6)],
        [{"s": text} for text in texts(2, 5)],
    ),
}


def batch_of(tmp_path, name):
    """(task, its batch of rows with labels and rows without, the same of those with labels alone)."""
    written, labelled, others = KINDS[name]
    source = resolve_source({
        "train": write_jsonl(tmp_path / "train.jsonl", labelled), "validation_share": 0.2, "max_length": 24,
        "unlabelled": write_jsonl(tmp_path / "others.jsonl", others),
    })  # fmt: skip
    data = load_task_data(resolve_task(written), replace(source, validation_share=None), ("train", "unlabelled"))
    tokenizer = tiny_tokenizer()
    train, _ = tokenize(data.train, data.task, tokenizer, 24)
    more = tokenize_unlabelled(data.unlabelled, data.task, tokenizer, 24, train, len(data.train))
    rows = mixed(train, more)
    columns = [*tokenizer.model_input_names, *data.task.kind.label_columns, LABELLED]
    rows = rows.select_columns([name for name in columns if name in rows.column_names])
    collate = data.task.kind.collator(tokenizer)
    return data.task, collate([*rows]), collate([row for row in rows if row[LABELLED]])


def signal_of(task, batch, weights, seed=1):
    """The loss of one sub-network against another model, and the gradient of its weights."""
    kind = task.kind
    auto = getattr(transformers, kind.auto_class)
    count = len(kind.output_names(task.label_names or ()))
    nets = []
    for own in (0, seed):
        config = tiny_config("bert", count, problem_type=kind.problem_type, **{KIND_KEY: kind.name})
        options = {} if kind.pooler else {"add_pooling_layer": False}
        nets.append(Supernet(randomise(auto.from_config(config, **options), own).eval(), Grid((1.0, 0.5), (1.0,))))
    student, teacher = nets
    settings = DistillationSettings(weights=weights)
    told = Teacher(teacher, kind).signal(batch, settings, full(teacher.geometry))
    inputs, _ = kind.split(batch)
    small: Subnet = min(student.subnets.values(), key=lambda subnet: subnet.sizes)
    out = student(small, **inputs)
    outputs = kind.read(out.outputs, inputs, student.model.config)
    layers = tuple(range(4))
    loss, (terms,) = distillation_loss(settings, [Student(outputs, out.hidden_states, layers)], told)
    loss.backward()
    grads = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    return terms, grads


def poisoned(task, batch):
    """The batch with other labels where there are none."""
    changed = dict(batch)
    without = batch[LABELLED] == 0
    for name in set(task.kind.stock_labels or task.kind.label_columns) - {task.kind.together}:
        if name in batch and name != LABELLED:
            own = batch[name].clone()
            if name == "labels" and own.ndim == 2 and not own.is_floating_point():
                own[without] = torch.where(own[without] >= 0, 1, own[without])  # which pieces are first ones stays
            else:
                own[without] = own[without] + 1
            changed[name] = own
    return changed


@pytest.mark.parametrize("name", KINDS)
def test_of_a_mixed_batch_every_term_learns_and_no_label_of_rows_without_is_read(tmp_path, name):
    task, batch, alone = batch_of(tmp_path, name)
    assert 0 < int(batch[LABELLED].sum()) < len(batch[LABELLED])
    learns = bool(task.kind.label_columns) and name != "plain"
    weights = dict.fromkeys(["logits", "hidden_mse", *RELATION_TERMS, *(["ce"] if learns else [])], 1.0)
    terms, grads = signal_of(task, batch, weights)
    assert all(torch.isfinite(value) for value in terms.values())
    if not learns:
        return
    others, other_grads = signal_of(task, poisoned(task, batch), weights)
    assert others == terms
    assert all(map(torch.equal, grads, other_grads))
    (expected, _) = signal_of(task, alone, {"ce": 1.0})
    torch.testing.assert_close(terms["ce"], expected["ce"], rtol=1e-4, atol=1e-5)
    assert float(terms["ce"]) != 0
    counts = term_counts(DistillationSettings(weights={"ce": 1.0}), task.kind, batch)
    assert counts == term_counts(DistillationSettings(weights={"ce": 1.0}), task.kind, alone)


def test_a_batch_without_any_label_has_no_cross_entropy_and_learns_the_rest(tmp_path):
    task, batch, _ = batch_of(tmp_path, "classification")
    rows = batch[LABELLED] == 0
    some = {name: tensor[rows] for name, tensor in batch.items()}
    terms, grads = signal_of(task, some, {"ce": 1.0, "logits": 1.0})
    _, without = signal_of(task, some, {"logits": 1.0})
    assert float(terms["ce"]) == 0
    assert all(map(torch.equal, grads, without))


# --- files ------------------------------------------------------------------------------------------------------------

PAIR = resolve_task({"kind": "classification", "text": ["s", "t"], "label": "y"})


def read(task, *files):
    return read_unlabelled(task, resolve_source({"train": "train.csv", "unlabelled": list(map(str, files))}))


def test_of_plain_text_each_line_is_paired_with_the_next(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n three \n")
    write_jsonl(tmp_path / "b.jsonl", [{"text": "four"}, {"text": "five"}])
    write_jsonl(tmp_path / "c.jsonl", [{"t": "y", "s": "x", "text": "z"}])
    found = read(PAIR, *(tmp_path / name for name in ("a.txt", "b.jsonl", "c.jsonl")))
    assert list(zip(found["s"], found["t"], strict=True)) == [
        ("one", "two"), ("two", "three"), ("four", "five"), ("x", "y")]  # fmt: skip
    alone = read(resolve_task({"kind": "plain", "text": "s"}), tmp_path / "a.txt")
    assert alone["s"][:] == ["one", "two", "three"]


def test_the_pairs_are_still_right_beyond_a_block_of_rows_and_after_a_choice(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"text {i}" for i in range(2500)))
    found = read(PAIR, tmp_path / "a.txt").select([0, 998, 999, 1000, 2498])
    assert list(zip(found["s"], found["t"], strict=True)) == [
        (f"text {i}", f"text {i + 1}") for i in (0, 998, 999, 1000, 2498)]  # fmt: skip


def test_a_file_is_read_into_no_memory(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{'many words ' * 20}{i}\n" for i in range(40_000)))
    before = pa.total_allocated_bytes()
    found = read(PAIR, tmp_path / "a.txt")
    assert len(found) == 39_999
    assert pa.total_allocated_bytes() - before < (tmp_path / "a.txt").stat().st_size / 5


@pytest.mark.parametrize("name", ["token_classification", "question_answering", "ranking"])
def test_a_kind_whose_rows_are_no_plain_texts_says_which_columns_it_needs(tmp_path, name):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"a.txt has no column '\w+'; rows without labels of .*; the columns are text$"):
        read(resolve_task(KINDS[name][0]), tmp_path / "a.txt")


# --- which rows an epoch has ------------------------------------------------------------------------------------------


def test_an_epoch_has_all_rows_with_labels_and_the_share_of_others():
    assert [others_an_epoch(100, share) for share in (0.5, 0.75, 0.2, 0.001)] == [100, 300, 25, 1]
    mixture = Mixture(labelled=10, others=25, others_an_epoch=10)
    epochs = [mixture.rows(epoch, seed=3).tolist() for epoch in range(5)]
    assert all(sorted(own[:10]) == list(range(10)) for own in epochs)
    assert all(len(own) == len(mixture) == 20 for own in epochs)
    others = [row for own in epochs for row in own[10:]]
    assert sorted(others[:25]) == sorted(others[25:]) == list(range(10, 35)), "each once before any comes again"
    assert others[:25] != others[25:], "a pass has an order of its own"
    assert mixture.rows(2, seed=3).tolist() == epochs[2] != mixture.rows(2, seed=4).tolist()


def test_few_others_come_again_within_an_epoch():
    rows = Mixture(labelled=9, others=2, others_an_epoch=9).rows(0, seed=0)
    assert sorted(np.bincount(rows[9:] - 9).tolist()) == [4, 5]


def test_one_other_row_beside_many_takes_no_longer_than_many():
    """A file without line breaks is one row: 20,000 passes over it once took seconds."""
    start = time.perf_counter()
    assert (Mixture(labelled=60_000, others=1, others_an_epoch=60_000).rows(0, seed=0)[60_000:] == 60_000).all()
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(("passages", "queries"), [(20, 30), (10, 60), (40, 30)])
def test_of_rows_that_become_several_inputs_only_as_many_are_tokenised_as_are_used(tmp_path, capsys, passages, queries):
    """200 pairs of 10 queries have labels, so that 600 others are used in three epochs, whether a query without labels
    has as many passages, fewer or more."""
    rng = random.Random(0)

    def rows(count, number):
        return [{"q": f"a film {i}", "p": [" ".join(rng.choices(PLAIN, k=3)) for _ in range(number)],
                 "y": [1] + [0] * (number - 1)} for i in range(count)]

    task = resolve_task({"kind": "ranking", "query": "q", "passages": "p", "relevance": "y"})
    train = write_jsonl(tmp_path / "train.jsonl", rows(10, 20))
    source = resolve_source({"train": train, "validation": train, "max_length": 24,
                             "unlabelled": write_jsonl(tmp_path / "others.jsonl", rows(500, passages))})
    data, tokenizer = load_task_data(task, source, ("train", "validation", "unlabelled")), tiny_tokenizer()
    arguments = transformers.TrainingArguments(str(tmp_path), num_train_epochs=3, use_cpu=True)
    run = SimpleNamespace(recipe=SimpleNamespace(data=source), arguments=arguments)
    found, mixture = mixed_in(run, Rows(data, tokenize(data.train, task, tokenizer, 24)[0], {}, tokenizer, 24))
    others = found.filter(lambda row: not row[LABELLED])
    assert mixture == Mixture(200, len(others), 200)
    assert 600 <= len(others) == passages * len(set(others["of_query"]))
    assert queries <= len(set(others["of_query"])) < 1.2 * queries + 2
    assert f"of which {len(set(others['of_query']))} are used; 200 beside the 200 pairs" in (
        " ".join(capsys.readouterr().out.split()))


def test_inputs_that_belong_together_stay_together_in_a_mixture():
    groups = np.repeat(np.arange(20), 3)  # 4 rows with labels, 16 without
    sampler = MixedSampler(Mixture(12, 48, 12), 0, 8, groups, lengths=[5 + i % 7 for i in range(60)])
    for epoch in range(4):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler) == len(set(order)) == 24
        assert [groups[i] for i in order] == np.repeat([groups[i] for i in order[::3]], 3).tolist()
    assert list(sampler) == order, "nothing is drawn from a generator that others use"


def test_several_processes_share_the_rows_of_one():
    sampler = MixedSampler(Mixture(12, 40, 12), 0, 4, lengths=[3] * 52)
    parts = [[*BatchSamplerShard(BatchSampler(sampler, 4, False), 2, i)] for i in (0, 1)]
    whole = [*BatchSampler(sampler, 4, False)]
    assert parts == [whole[::2], whole[1::2]]


# --- the stages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A teacher and what the width stage made of it with other texts beside its rows."""
    directory = tmp_path_factory.mktemp("more")
    recipe = make_recipe(tiny_recipe(directory))
    stages.finetune(recipe, FRESH)
    (directory / "others.txt").write_text("\n".join(texts(5, 300)))
    stages.train_width(recipe_of(directory), FRESH)
    return directory


def recipe_of(directory, output="run", **data):
    content = tiny_recipe(directory, teacher=str(directory / "run" / "teacher"), output_dir=str(directory / output))
    more = {"unlabelled": str(directory / "others.txt"), "unlabelled_share": 0.75, **data}
    content["data"] = {key: value for key, value in {**content["data"], **more}.items() if value is not None}
    content["distillation"] = {"weights": {"ce": 0.5}}
    return make_recipe(content)


def watched(monkeypatch):
    """The batches of what is trained from now on."""
    batches, whole = [], SupernetTrainer.training_step

    def step(self, model, inputs, *rest):
        batches.append(inputs)
        return whole(self, model, inputs, *rest)

    monkeypatch.setattr(SupernetTrainer, "training_step", step)
    return batches


def test_three_quarters_of_what_a_stage_sees_has_no_label(road, monkeypatch, capsys):
    batches = watched(monkeypatch)
    stages.train_width(recipe_of(road, "seen"), FRESH)
    told = " ".join(capsys.readouterr().out.split())
    assert "note: 300 rows without labels, of which 288 are used; 144 beside the 48 inputs with labels" in told
    flags = torch.cat([batch[LABELLED] for batch in batches])
    assert len(batches) == 2 * 24, "48 rows with labels and 144 without, in batches of 8, twice"
    for epoch in flags.chunk(2):
        assert (int(epoch.sum()), len(epoch)) == (48, 192)
    seen = {tuple(ids[ids > 0].tolist()) for batch in batches for ids in batch["input_ids"][batch[LABELLED] == 0]}
    expected = {tuple(ids) for ids in tiny_tokenizer()(texts(5, 300), truncation=True, max_length=16)["input_ids"]}
    assert seen < expected
    assert len(seen) > 280
    record = read_json(road / "seen" / "width" / "origin.json")
    assert record["unlabelled"]["rows"] == 300
    again = load_recipe(road / "seen" / "width" / "recipe.yaml")
    assert again.data.unlabelled_files == (str(road / "others.txt"),), "the recipe beside a result finds the file"


def test_a_stage_that_was_killed_resumes_to_the_same_weights(road, monkeypatch):
    recipe, whole = recipe_of(road, "killed"), SupernetTrainer.training_step

    def killed(self, *arguments, **options):
        if self.state.global_step == 31:  # in the second epoch of 24 steps
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SupernetTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            stages.train_width(recipe, FRESH)
    (road / "fewer.txt").write_text("\n".join(texts(5, 299)))
    with pytest.raises(UserError, match="the unlabelled rows were 300, are 299"):
        stages.train_width(recipe_of(road, "killed", unlabelled=str(road / "fewer.txt")), RunMode(resume=True))
    stages.train_width(recipe, RunMode(resume=True))
    unbroken, resumed = (load_file(road / name / "width" / "model.safetensors") for name in ("run", "killed"))
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_a_stage_that_began_without_others_is_not_resumed_with_them(road, monkeypatch):
    """Order, length and rates changed in mid-run, and the record told of rows that half of it had not seen."""
    recipe = recipe_of(road, "without", unlabelled=None, unlabelled_share=None)
    others = recipe_of(road, "without", unlabelled_share=None)
    cut_short(monkeypatch, stages.train_width, recipe)
    with pytest.raises(UserError, match=r"data.unlabelled was not named, and is now; undo that to resume"):
        stages.train_width(others, RunMode(resume=True))
    assert stages.train_width(recipe, RunMode(resume=True)).is_dir()
    with pytest.raises(UserError, match=r"data.unlabelled was not named, and is now; run dynackd train-width"):
        refuse_other_result(others, "width")
    refuse_other_result(recipe, "width")
    with monkeypatch.context() as patch:
        cut_short(patch, lambda recipe, _: stages.train_width(recipe, RunMode(overwrite=True)), others)
    with pytest.raises(UserError, match=r"data.unlabelled was named, and is not now; undo that to resume"):
        stages.train_width(recipe, RunMode(resume=True))


def test_the_depth_stage_and_polish_mix_too_and_polish_may_do_so_alone(road, monkeypatch):
    batches = watched(monkeypatch)
    recipe = recipe_of(road)
    stages.train_depth(recipe, FRESH)
    assert sum(int((batch[LABELLED] == 0).sum()) for batch in batches) == 2 * 144
    batches.clear()
    polish(road / "run" / "depth", SubnetSpec(0.5, 0.5), "small", recipe, FRESH)
    assert sum(int((batch[LABELLED] == 0).sum()) for batch in batches) == 2 * 144
    batches.clear()
    plain = recipe_of(road, unlabelled=None, unlabelled_share=None)
    polish(road / "run" / "depth", SubnetSpec(0.5, 0.5), "alone", plain, FRESH)
    assert not any(LABELLED in batch for batch in batches)
