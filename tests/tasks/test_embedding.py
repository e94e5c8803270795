"""Embedding: which rows become which inputs, what is learned and measured, how a model pools, and the whole way on a
tiny model."""

import dataclasses
import json
import math
import random

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, PLAIN, randomise, tiny_batch, tiny_config, tiny_recipe, tiny_tokenizer, write_recipe
from transformers import AutoModel, AutoModelForMaskedLM

from dynackd.cli.command_line import main
from dynackd.data.sources import resolve_source
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.subnet import SubnetSpec
from dynackd.supernet.checkpoints import load_model, load_model_config
from dynackd.supernet.importance import gradient_importance
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system.places import read_json, write_files
from dynackd.tasks.embedding import EMBEDDING, POOLING_KEY
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.pooling import Pooling, pooling_of
from dynackd.tasks.task import compute_fidelity, compute_metrics, resolve_task
from dynackd.tasks.tokens import tokenize

PAIRS = {"kind": "embedding", "pair": ["one", "other"], "score": "near"}


# --- rows ------------------------------------------------------------------------------------------------------------


def load(tmp_path, task, train, validation, **source):
    files = {}
    for split, (name, text) in {"train": train, "validation": validation}.items():
        (tmp_path / f"{split}-{name}").write_text(text, encoding="utf-8")
        files[split] = str(tmp_path / f"{split}-{name}")
    return load_task_data(resolve_task(task), resolve_source({**files, **source}))


SCORED = ("rows.tsv", "one\tother\tnear\na fine film\ta film\t4.5\ncold day\tthe book\t0\n")


def test_plain_lines_train_and_scored_pairs_validate(tmp_path):
    task = {**PAIRS, "text": "text"}
    data = load(tmp_path, task, ("lines.txt", "a fine film\n\n  a very dull book \n"), SCORED)
    tokenizer = tiny_tokenizer()
    train, _ = tokenize(data.train, data.task, tokenizer, 12)
    validation, report = tokenize(data.validation[""], data.task, tokenizer, 12, "validation")
    texts = [tokenizer.decode(ids) for ids in train["input_ids"]]
    assert texts == ["<s> a fine film </s>", "<s> a very dull book </s>"]
    assert train["row"][:] == [0, 1]
    assert "scores" not in train.column_names
    texts = [tokenizer.decode(ids) for ids in validation["input_ids"]]
    assert texts == ["<s> a fine film </s>", "<s> a film </s>", "<s> cold day </s>", "<s> the book </s>"]
    assert validation["row"][:] == [0, 0, 1, 1]
    assert validation["scores"][:] == [4.5, 4.5, 0, 0]
    assert "became 4" in str(report)


def test_texts_that_belong_together_train_without_scores_beside_scored_pairs(tmp_path):
    task = {**PAIRS, "text": ["question", "answer"]}
    data = load(tmp_path, task, ("rows.csv", "question,answer\nis it fine,a fine film\n"), SCORED)
    train, _ = tokenize(data.train, data.task, tiny_tokenizer(), 12)
    assert (train["row"][:], train.column_names.count("scores")) == ([0, 0], 0)
    assert data.task.kind.can_finetune(data.task)
    assert not resolve_task({"kind": "embedding", "text": "text"}).kind.can_finetune(data.task)


def test_pairs_alone_train_and_validate(tmp_path):
    data = load(tmp_path, PAIRS, SCORED, SCORED)
    train, _ = tokenize(data.train, data.task, tiny_tokenizer(), 12)
    assert train["scores"][:] == [4.5, 4.5, 0, 0]
    with pytest.raises(UserError, match="no column 'sentence'; the columns are text"):
        load(tmp_path, {"kind": "embedding", "text": "sentence"}, ("a.txt", "a"), ("a.txt", "a"))


def test_validation_rows_that_are_cut_off_training_rows_are_no_other_pairs(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("a fine film\n" * 8)
    source = resolve_source({"train": str(file), "validation_share": 0.25})
    with pytest.raises(UserError, match=r"give data.validation instead of validation_share, or remove task.pair"):
        load_task_data(resolve_task({**PAIRS, "text": "text"}), source)


# --- how a model pools -----------------------------------------------------------------------------------------------

STATES = torch.tensor([[[1.0, 2], [3, 4], [5, 6]], [[7, 8], [9, 1], [0, 3]]])
MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])


@pytest.mark.parametrize(("mode", "expected"), [("mean", [[2.0, 3], [4.5, 2]]), ("cls", [[1.0, 2], [9, 1]])])
def test_real_tokens_alone_are_pooled(mode, expected):
    found = Pooling(mode, normalize=False).of(STATES, MASK)
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(Pooling(mode).of(STATES, MASK), torch.nn.functional.normalize(torch.tensor(expected)))
    library = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    theirs = library.Pooling(2, pooling_mode=mode)({"token_embeddings": STATES, "attention_mask": MASK})
    torch.testing.assert_close(found, theirs["sentence_embedding"])


def beside(directory, *modules, pooling=None, about=None):
    """sentence-transformers' files, as versions up to 5 or from 6 on write them."""
    files = {"modules.json": [{"type": f"sentence_transformers.models.{name}", "path": f"{i}_{name}"}
                              for i, name in enumerate(modules)]}  # fmt: skip
    files |= {"1_Pooling/config.json": pooling} if pooling else {}
    write_files(directory, {**files, **({"config_sentence_transformers.json": about} if about else {})})
    return str(directory)


def test_pooling_is_what_the_files_beside_a_model_say(tmp_path):
    assert pooling_of(str(tmp_path)) is None
    old = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    assert pooling_of(beside(tmp_path, "Transformer", "Pooling", pooling=old)) == Pooling("cls", normalize=False)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    new = {"embedding_dimension": 32, "pooling_mode": "mean"}
    source = beside(tmp_path, "Transformer", "Pooling", "Normalize", pooling=new, about=prompts)
    assert pooling_of(source) == Pooling("mean", True, {"query": "query: "}, "query")


@pytest.mark.parametrize("how", [Pooling(), Pooling("cls", False, {"q": "query: "}, "q")])
def test_what_is_written_for_clients_is_read_again(tmp_path, how):
    write_files(tmp_path, how.files(32))
    assert pooling_of(str(tmp_path)) == how


@pytest.mark.parametrize(("modules", "pooling", "sentence"), [
    (("Transformer", "Pooling", "Dense"), {"pooling_mode": "mean"}, "ends in a module Dense, and dynackd follows"),
    (("Transformer",), None, "names no Pooling; name a model that gives one vector for a text"),
    (("Transformer", "Pooling"), {"pooling_mode": "max"}, "pools by max, and dynackd follows mean or cls alone"),
    (("Transformer", "Pooling"), {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
     "pools by mean and cls, and dynackd follows mean or cls alone"),
])  # fmt: skip
def test_a_pooling_that_cannot_be_followed_is_refused(tmp_path, modules, pooling, sentence):
    with pytest.raises(UserError, match=sentence):
        pooling_of(beside(tmp_path, *modules, pooling=pooling))


def test_the_recipe_says_it_where_no_file_does_and_may_not_say_something_else(tmp_path, capsys):
    kind = resolve_task({"kind": "embedding", "text": "text", "pooling": "cls", "normalize": False}).kind
    settled = kind.settled(tiny_config("bert"), tmp_path)
    assert settled == {POOLING_KEY: Pooling("cls", normalize=False).to_dict()}
    told = " ".join(capsys.readouterr().out.split())
    assert "taken is its first token's, not normalised" in told
    beside(tmp_path, "Transformer", "Pooling", "Normalize", pooling={"pooling_mode": "mean"})
    with pytest.raises(UserError, match=r"task.pooling: cls, but a vector of .* is the mean over its real tokens"):
        kind.settled(tiny_config("bert"), tmp_path)


# --- which models are embedders --------------------------------------------------------------------------------------


@pytest.fixture
def without_pooler(tmp_path):
    """An encoder whose checkpoint holds no pooler, as many embedders' do."""
    model = randomise(AutoModel.from_config(tiny_config("bert"), add_pooling_layer=False))
    model.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_pooler_that_nothing_reads_is_neither_demanded_nor_drawn_at_random(without_pooler, tmp_path):
    model = load_model(str(without_pooler), kind=EMBEDDING)
    assert model.pooler is None
    for name, options in (("own", ExportOptions()), ("code", ExportOptions(with_code=True))):
        net = Supernet(model, Grid((1.0, 0.5), (1.0, 0.5)))
        export_student(net, tiny_tokenizer(), SubnetSpec(0.5, 0.5), tmp_path / name, options=options)
        student, info = AutoModel.from_pretrained(tmp_path / name, output_loading_info=True)
        assert student.pooler is None
        assert not any(info.values())
        if name == "code":
            assert "add_pooling_layer" in (tmp_path / "code" / "modeling_dynackd.py").read_text()
    export_student(net, tiny_tokenizer(), SubnetSpec(0.5, 0.5), tmp_path / "stock", options=ExportOptions(compat=True))
    stock, info = AutoModel.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not any(info.values()), "transformers would report a stock model's pooler as drawn at random"
    assert not stock.pooler.dense.weight.any()


def test_an_encoder_with_a_head_of_another_task_is_an_embedder_without_it(tmp_path):
    lm = randomise(AutoModelForMaskedLM.from_config(tiny_config("bert")))
    lm.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), load_model_config(str(tmp_path)), EMBEDDING)
    batch = tiny_batch()
    with torch.no_grad():
        expected = lm.eval().bert(**batch).last_hidden_state
        found = EMBEDDING.read(model.eval()(**batch), batch, model.config)
    torch.testing.assert_close(found["last_hidden_state"], expected)
    assert found["sentence_embedding"].shape == (4, 32)


# --- learning --------------------------------------------------------------------------------------------------------


def slow_relations(ours, theirs, temperature):
    """Σ p·log(p / q) of each vector's neighbours, one after the other."""
    total = 0.0
    for i in range(len(ours)):
        others = [j for j in range(len(ours)) if j != i]
        rows = [
            torch.stack([v[i] @ v[j] / (v[i].norm() * v[j].norm()) / (0.05 * temperature) for j in others]).softmax(0)
            for v in (theirs, ours)
        ]
        total = total + (rows[0] * (rows[0] / rows[1]).log()).sum()
    return total / len(ours)


@pytest.mark.parametrize(("size", "weight", "share"), [(6, 1.0, 1.0), (6, 0.25, 0.25), (6, 0.0, 0.0), (9, 0.25, 1.0)])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_output_loss_is_its_slow_twin(size, weight, share, temperature):
    """The texts' cosines with one another count as the task says, and 1 where there is nothing else to learn from."""
    kind = dataclasses.replace(EMBEDDING, similarities=weight)
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(5, size, generator=generator, dtype=torch.float64)
    expected = share * slow_relations(ours, theirs, temperature)
    if size == 6:
        apart = [1 - torch.cosine_similarity(a, b, dim=0) for a, b in zip(ours, theirs, strict=True)]
        expected = expected + 10 * sum(apart) / 5
    loss = kind.output_loss({"sentence_embedding": ours}, {"sentence_embedding": theirs}, {}, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(value, ours, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_a_recipe_says_how_much_the_texts_relations_count():
    assert resolve_task({"kind": "embedding", "text": "text", "similarities": 0.5}).kind.similarities == 0.5
    assert resolve_task({"kind": "embedding", "text": "text"}).kind == dataclasses.replace(EMBEDDING, text=("text",))


def test_the_output_loss_is_0_for_the_teachers_own_vectors_of_any_length_and_number():
    vectors = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    for some in (vectors, vectors[:1]):
        loss = EMBEDDING.output_loss({"sentence_embedding": 3 * some}, {"sentence_embedding": some}, {}, 1.0)
        assert abs(float(loss)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        loss = EMBEDDING.output_loss({"sentence_embedding": vectors}, {"sentence_embedding": vectors}, {}, 1.0)
    assert loss.dtype == torch.float32
    assert abs(float(loss)) < 1e-5


def test_the_second_text_of_a_pair_is_to_be_nearer_than_those_of_others():
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([4, 9, 4, 2, 9, 7])  # in any order; of 2 and 7 one text is missing
    loss = EMBEDDING.label_loss({"sentence_embedding": vectors}, {"row": rows})
    near = torch.cosine_similarity(vectors[[0, 1]][:, None], vectors[[2, 4]], dim=-1) / 0.05
    torch.testing.assert_close(loss, -near.log_softmax(-1).diagonal().mean())
    assert EMBEDDING.label_count({"row": rows}) == 2
    assert float(EMBEDDING.label_loss({"sentence_embedding": vectors[:1]}, {"row": rows[:1]})) == 0


def test_scored_pairs_are_to_be_as_near_as_their_scores_say_in_order():
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = {"row": torch.tensor([0, 0, 1, 1, 2, 2]), "scores": torch.tensor([2.0, 2, 5, 5, 2, 2])}
    near = [float(torch.cosine_similarity(vectors[i], vectors[i + 1], dim=0)) / 0.05 for i in (0, 2, 4)]
    # Only the second pair is to be nearer than the two others.
    expected = sum(math.log(1 + extra) for extra in (math.exp(near[0] - near[1]), 0, math.exp(near[2] - near[1]))) / 3
    loss = EMBEDDING.label_loss({"sentence_embedding": vectors}, batch)
    assert float(loss) == pytest.approx(expected)
    scaled = {**batch, "scores": batch["scores"] * 100 - 7}
    assert float(EMBEDDING.label_loss({"sentence_embedding": vectors}, scaled)) == pytest.approx(expected)


def test_heads_are_told_apart_without_labels():
    config = tiny_config("bert", dynackd_kind="embedding", dynackd_pooling=Pooling().to_dict())
    model = randomise(AutoModel.from_config(config)).eval()
    found = gradient_importance(model, [{**tiny_batch(), "row": torch.arange(4)}])
    for scores in (found.heads, found.neurons):
        assert (scores > 0).all()
        assert len(scores.flatten().unique()) == scores.numel()


# --- judging ---------------------------------------------------------------------------------------------------------


def test_metrics_are_what_they_are_by_hand():
    task = resolve_task(PAIRS)
    # Cosines of the rows 3, 1, 8 and 5: 1, 0, -1 and 0.6.
    vectors = np.array([[2.0, 0], [1, 0], [0, 3], [0, 1], [4, 0], [0, -2], [5, 0], [3, 4]])
    labels = {"row": np.array([3, 1, 1, 8, 3, 8, 5, 5]), "scores": np.array([5.0, 0, 0, 1, 5, 1, 3, 3])}
    near, scores = np.array([1, 0, -1, 0.6]), np.array([5.0, 0, 1, 3])
    expected = {"spearmanr": 1 - 6 * 2 / (4 * 15), "pearson": np.corrcoef(near, scores)[0, 1]}
    assert compute_metrics(task, {"sentence_embedding": vectors}, labels) == pytest.approx(expected)
    assert compute_metrics(task, {"sentence_embedding": vectors}, {"row": labels["row"]}) == {}


def test_fidelity_is_what_it_is_by_hand():
    task = resolve_task(PAIRS)
    ours, theirs = np.array([[1.0, 0], [0, 2], [3, 4]]), np.array([[1.0, 0], [1, 0], [4, 3]])
    found = compute_fidelity(task, {"sentence_embedding": ours}, {"sentence_embedding": theirs}, {})
    similarities = np.corrcoef([0, 0.6, 0.8], [1, 0.8, 0.8])[0, 1]
    assert found == pytest.approx({"cosine": (1 + 0 + 0.96) / 3, "similarities": similarities})
    longer = np.concatenate([theirs, np.ones((3, 1))], 1)
    found = compute_fidelity(task, {"sentence_embedding": ours}, {"sentence_embedding": longer}, {})
    assert set(found) == {"similarities"}
    assert EMBEDDING.unlabelled_drop({"sentence_embedding": ours}, {"sentence_embedding": theirs}) == pytest.approx(
        1 - 1.96 / 3
    )


# --- the whole way ---------------------------------------------------------------------------------------------------


def a_text(rng, words):
    return " ".join([*rng.choices(words, k=2), *rng.choices(PLAIN, k=rng.randrange(1, 4))])


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """An embedder, which is its own teacher, from lines of text and scored pairs to a supernet."""
    directory, rng = tmp_path_factory.mktemp("embedding"), random.Random(0)
    torch.manual_seed(0)
    # Without random biases, which would make all texts alike.
    model = AutoModel.from_config(tiny_config("bert", initializer_range=0.1), add_pooling_layer=False)
    model.save_pretrained(directory / "encoder")
    tiny_tokenizer().save_pretrained(directory / "encoder")
    beside(directory / "encoder", "Transformer", "Pooling", "Normalize", pooling={"pooling_mode": "mean"})
    lines = [a_text(rng, rng.choice((GOOD, BAD))) for _ in range(48)]
    (directory / "train.txt").write_text("\n".join(lines))
    rows = []
    for _ in range(24):
        one, other = rng.choice((GOOD, BAD)), rng.choice((GOOD, BAD))
        rows.append({"one": a_text(rng, one), "other": a_text(rng, other), "near": float(one is other)})
    (directory / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "task": {**PAIRS, "text": "text"},
        "data": {"train": f"{directory}/train.txt", "validation": f"{directory}/validation.jsonl", "max_length": 12},
    }
    path = str(write_recipe(directory, tiny_recipe(directory, **content)))
    for command in ("train-width", "train-depth"):
        assert main([command, path]) == 0
    return directory


def logged(directory):
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def test_an_embedder_is_its_own_teacher_and_is_judged_by_spearman_and_its_vectors(road):
    assert main(["evaluate", str(road / "run" / "depth"), "--json", str(road / "e.json")]) == 0
    evaluation = read_json(road / "e.json")
    assert list(evaluation["teacher"]["metrics"]) == ["spearmanr", "pearson"]
    assert [set(row["fidelity"]) for row in evaluation["subnetworks"]] == [{"cosine", "similarities"}] * 4
    assert max(row["fidelity"]["cosine"] for row in evaluation["subnetworks"]) > 0.9
    losses = [row for row in logged(road / "run" / "width") if "loss_logits" in row]
    assert {"loss_logits", "loss_wr_pair"} <= set(losses[0])
    assert read_json(road / "run" / "depth" / "config.json")[POOLING_KEY]["mode"] == "mean"


def test_a_student_gives_the_supernets_vectors_and_is_gated_by_spearman(road):
    out = road / "student"
    size = ["--width", "0.5", "--depth", "0.5", "--output", str(out)]
    assert main(["export", str(road / "run" / "depth"), *size, "--int8", "--fp16", "--max-drop", "1"]) == 0
    about = read_json(out / "export.json")
    assert (about["pooling"], about["normalize"]) == ("mean", True)
    assert about["parity_max_abs_diff"] < 1e-4
    facts = about["files"]["onnx/model_quantized.onnx"]
    assert facts["drop"] == pytest.approx(about["metrics"]["student"]["spearmanr"] - facts["metrics"]["spearmanr"])
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["fine film", "a very dull book is cold"], padding=True, return_tensors="pt")
    student = AutoModel.from_pretrained(out).eval()
    with torch.no_grad():
        spec = next(spec for spec in supernet.grid.specs() if (spec.width, spec.depth) == (0.5, 0.5))
        ours = EMBEDDING.read(supernet.eval()(spec, **batch).outputs, batch, supernet.model.config)
        theirs = EMBEDDING.read(student(**batch), batch, student.config)
    for name, expected in ours.items():
        torch.testing.assert_close(theirs[name], expected, atol=1e-6, rtol=0)


def test_without_scores_fidelity_alone_is_told_and_gates(road, tmp_path, capsys):
    content = {
        "model": str(road / "encoder"),
        "task": {"kind": "embedding", "text": "text"},
        "data": {"train": f"{road}/train.txt", "validation_share": 0.25, "max_length": 12},
        "training": {"max_steps": 2, "use_cpu": True, "learning_rate": 1e-3},
        "output_dir": str(tmp_path / "run"),
    }
    path = str(write_recipe(tmp_path, tiny_recipe(road, **content)))
    assert main(["finetune", path]) == 2
    assert "an embedder is its own teacher" in capsys.readouterr().err
    assert main(["train-width", path]) == 0
    assert "cosine" in capsys.readouterr().out
    size = ["--width", "0.5", "--depth", "1"]
    assert main(["export", str(tmp_path / "run" / "width"), *size, "--int8", "--output", str(tmp_path / "wide"),
                 "--max-drop", "1"]) == 0  # fmt: skip
    drop = read_json(tmp_path / "wide" / "export.json")["files"]["onnx/model_quantized.onnx"]["drop"]
    assert 0 < drop < 1
    assert main(["export", str(tmp_path / "run" / "width"), *size, "--int8", "--output", str(tmp_path / "narrow"),
                 "--max-drop", "0"]) == 2  # fmt: skip
    assert "of fidelity, more than --max-drop 0" in capsys.readouterr().err


def test_an_encoder_becomes_an_embedder_by_pairs(road, tmp_path):
    rng = random.Random(3)
    for name, count in (("train", 64), ("validation", 32)):
        pairs = [rng.choice((GOOD, BAD)) for _ in range(count)]
        rows = [{"one": a_text(rng, words), "other": a_text(rng, words)} for words in pairs]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model": str(road / "encoder"),
        "task": {**PAIRS, "text": ["one", "other"]},
        "data": {"train": f"{tmp_path}/train.jsonl", "validation": f"{road}/validation.jsonl", "max_length": 12},
        "training": {"per_device_train_batch_size": 32, "num_train_epochs": 30, "learning_rate": 2e-3, "use_cpu": True},
        "output_dir": str(tmp_path / "run"),
    }
    path = str(write_recipe(tmp_path, tiny_recipe(road, **content)))
    assert main(["finetune", path]) == 0
    losses = [row["loss"] for row in logged(tmp_path / "run" / "teacher") if "loss" in row]
    assert losses[-1] < losses[0]
    metrics = read_json(tmp_path / "run" / "teacher" / "metrics.json")["metrics"]
    before = read_json(road / "run" / "width" / "metrics.json")["teacher"]["metrics"]
    assert metrics["spearmanr"] > before["spearmanr"] + 0.1
    assert pooling_of(str(tmp_path / "run" / "teacher")) == Pooling()


def test_an_embedder_of_another_size_teaches_by_the_texts_relations(road, tmp_path):
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "initializer_range": 0.3}
    teacher = AutoModel.from_config(tiny_config("bert", **sizes), add_pooling_layer=False)
    teacher.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    content = {
        **read_recipe(road), "teacher": str(tmp_path / "teacher"), "output_dir": str(tmp_path / "run"),
        "distillation": {"signal": "ckd", "matching": "uniform"},
        "training": {"max_steps": 2, "use_cpu": True, "learning_rate": 1e-3},
    }  # fmt: skip
    path = str(write_recipe(tmp_path, content))
    assert main(["train-width", path]) == 0
    about = read_json(tmp_path / "run" / "width" / "metrics.json")
    assert [set(row["fidelity"]) for row in about["subnetworks"]] == [{"similarities"}] * 2
    assert any(row.get("loss_logits", 0) > 0 for row in logged(tmp_path / "run" / "width"))


def read_recipe(road):
    import yaml

    return yaml.safe_load((road / "recipe.yaml").read_text())


def test_a_search_compares_how_texts_lie_to_one_another_alone_where_hidden_sizes_differ():
    """With the angle to the teacher's vectors a size that has one would seem further away than a smaller one."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(5, 4, generator=generator) for _ in range(2))
    kind = EMBEDDING
    one, other = {"sentence_embedding": ours}, {"sentence_embedding": theirs}
    found = kind.loss_of_any_size(one, other, {}, 1.0)
    assert 0 < float(found) < float(kind.output_loss(one, other, {}, 1.0))
    wider = {"sentence_embedding": torch.nn.functional.pad(theirs, (0, 3))}
    torch.testing.assert_close(kind.loss_of_any_size(one, wider, {}, 1.0), found)
    torch.testing.assert_close(kind.output_loss(one, wider, {}, 1.0), found)


def test_the_similarities_look_at_texts_of_all_lengths():
    """Rows come by their lengths, so that the first 2,000 are the longest ones."""
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=(3000, 8))
    ours = theirs.copy()
    ours[2000:] = rng.normal(size=(1000, 8))
    found = EMBEDDING.fidelity({"sentence_embedding": ours}, {"sentence_embedding": theirs})
    assert 0.3 < found["similarities"] < 0.7


def test_of_pairs_too_it_is_told_how_many_texts_were_cut(tmp_path):
    rows = [{"a": " ".join(["film"] * 30), "b": "a day", "s": 1.0}] * 10
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = resolve_task({"kind": "embedding", "pair": ["a", "b"], "score": "s"})
    source = resolve_source({"train": str(tmp_path / "rows.jsonl"), "validation": str(tmp_path / "rows.jsonl")})
    data = load_task_data(task, source)
    _, told = tokenize(data.train, data.task, tiny_tokenizer(), 8)
    assert "10 of them fill these, and what was longer is cut" in str(told)
