"""The benchmarks of embedders and rerankers: their own metrics by hand, equal texts for all, nothing done twice."""

import gzip
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, PLAIN, randomise, tiny_batch, tiny_config, tiny_recipe, tiny_tokenizer
from transformers import AutoModel

from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system.places import read_json, write_files
from dynackd.tasks.pooling import Pooling

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import embedders
import front_tables
import fronts
from make_sentences import sentences


def test_retrieval_is_what_it_is_by_hand():
    documents = np.eye(4)
    # Places of the right one: 1; 2; 2, since a document that is as near counts before it.
    queries = np.array([[1, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 0.7, 0.7]])
    found = embedders.retrieval(queries, documents, np.array([0, 1, 2]), "mixed ")
    assert found == {"mixed recall@1": pytest.approx(1 / 3), "mixed mrr@10": pytest.approx((1 + 1 / 2 + 1 / 2) / 3)}


def test_a_place_beyond_the_tenth_counts_nothing():
    near = np.linspace(1, 0, 12)
    documents = np.stack([near, np.sqrt(1 - near**2)], 1)
    found = embedders.retrieval(np.array([[1.0, 0.0]] * 2), documents, np.array([9, 10]))
    assert found == {"recall@1": 0.0, "mrr@10": pytest.approx((1 / 10 + 0) / 2)}


def test_vectors_come_back_in_the_texts_own_order_and_of_length_1():
    def model(batch):
        lengths = batch["attention_mask"].sum(1)
        return {"sentence_embedding": np.stack([lengths, 2 * lengths], 1).astype(float) * batch["input_ids"][:, 1:2]}

    texts = ["a fine cold book", "film", "very dull film", *["the book"] * 20]
    tokenizer = tiny_tokenizer()
    found = embedders.encode(model, tokenizer, texts)
    assert found == pytest.approx(np.tile([1 / 5**0.5, 2 / 5**0.5], (23, 1)))
    first_words = [tokenizer(text)["input_ids"][1] for text in texts]
    raw = embedders.encode(lambda batch: {"sentence_embedding": np.eye(64)[batch["input_ids"][:, 1]]}, tokenizer, texts)
    assert raw.argmax(1).tolist() == first_words


def test_no_sentence_of_a_validation_row_is_trained_on(tmp_path):
    for task, name, text in [
        ("stsb", "train", "sentence1\tsentence2\tlabel\none\ttwo\t1\ntwo\tthree\t2\n"),
        ("stsb", "validation", "sentence1\tsentence2\tlabel\ntwo\tfour\t1\n"),
        ("sst2", "train", "sentence\tlabel\nfour\t1\nfive\t0\none\t0\n"),
        ("qnli", "validation", "question\tsentence\tlabel\nfive\tsix\t1\n"),
    ]:
        (tmp_path / task).mkdir(exist_ok=True)
        (tmp_path / task / f"{name}.tsv").write_text(text, encoding="utf-8")
    assert sorted(sentences(tmp_path)) == ["one", "three"]


def test_paragraphs_stand_once_and_every_question_knows_its_own(tmp_path):
    paragraph = {"context": "One. ", "qas": [{"question": "a? "}, {"question": "b?"}]}
    articles = [{"paragraphs": [paragraph, {"context": "Two.", "qas": [{"question": "c?"}]}]},
                {"paragraphs": [{"context": "One.", "qas": [{"question": "d?"}]}]}]  # fmt: skip
    file = tmp_path / "squad.json.gz"
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        json.dump({"data": articles}, lines)
    assert embedders.squad(file) == (["One.", "Two."], ["a?", "b?", "c?", "d?"], [0, 0, 1, 0])


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_step_that_is_done_is_not_done_again_and_one_that_failed_is(tmp_path):
    calls = []

    def work():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return 7

    with pytest.raises(KeyboardInterrupt):
        fronts.step(tmp_path / "run", "train", work)
    for _ in range(2):
        fronts.step(tmp_path / "run", "train", work)
    fronts.step(tmp_path / "run", "more", lambda: 5)
    assert len(calls) == 2
    assert fronts.cost_of(tmp_path / "run")["seen"] == 12


def test_results_of_two_budgets_do_not_meet_in_one_directory(tmp_path):
    fronts.same_budget(tmp_path / "out", {"sentences": 10})
    fronts.same_budget(tmp_path / "out", {"sentences": 10})
    with pytest.raises(UserError, match="results with sentences 10; give another --output"):
        fronts.same_budget(tmp_path / "out", {"sentences": 20})


def point(method, size, ms, values):
    files = {name: {"ndcg@10": values, "mb": [1.0]} for name in fronts.FILES}
    p50_ms = {name: {"16 tokens": ms} for name in fronts.FILES}
    return fronts.Point(method, size, "shape", 1, files, p50_ms)


def test_a_rival_meets_the_best_that_is_as_fast_and_a_size_trained_alone_the_same_size():
    ours = [point("ours", "1 x 1", 4.0, [0.9]), point("ours", "0.5 x 1", 2.0, [0.7, 0.9]),
            point("ours", "0.25 x 1", 1.0, [0.6])]  # fmt: skip

    def less(other):
        return front_tables._less(other, ours, "fp32", "16 tokens", "ndcg@10")

    assert less(point("rival", "3 layers", 2.5, [0.7, 0.7])) == "+0.1000 (+0.7) 0.5 x 1"
    assert less(point("rival", "3 layers", 0.5, [0.7])) == ""
    assert less(point("alone", "0.25 x 1", 2.5, [0.5])) == "+0.1000 0.25 x 1"


# --- trainings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A recipe for a tiny embedder, which reads 16 of 20 texts, in batches that do not divide them."""
    directory, rng = tmp_path_factory.mktemp("embedder"), random.Random(0)
    model = randomise(AutoModel.from_config(tiny_config("bert"), add_pooling_layer=False)).eval()
    model.save_pretrained(directory / "encoder")
    tiny_tokenizer().save_pretrained(directory / "encoder")
    write_files(directory / "encoder", Pooling("mean", True).files(model.config.hidden_size))
    texts = [" ".join(rng.choices(GOOD + BAD + PLAIN, k=rng.randrange(2, 8))) for _ in range(20)]
    (directory / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    pair = "".join(f"{a}\t{b}\t{i % 3}\n" for i, (a, b) in enumerate(zip(texts[:6], texts[6:12], strict=True)))
    (directory / "pairs.tsv").write_text(f"sentence1\tsentence2\tlabel\n{pair}", encoding="utf-8")
    return tiny_recipe(
        directory,
        model=str(directory / "encoder"),
        task={"kind": "embedding", "text": "text", "pair": ["sentence1", "sentence2"], "score": "label"},
        data={"train": str(directory / "texts.txt"), "validation": str(directory / "pairs.tsv"), "train_rows": 16,
              "max_length": 12},
        training={"per_device_train_batch_size": 6, "num_train_epochs": 1, "learning_rate": 1e-3, "use_cpu": True,
                  "save_strategy": "no"},
        stages={"depth": {"training": {"num_train_epochs": 2}}},
    )  # fmt: skip


def test_a_supernet_and_a_size_alone_read_equally_much(content, tmp_path):
    sizes = fronts.supernet_sizes(content, tmp_path / "ours")
    (name, alone), = fronts.alone(content, SubnetSpec(0.5, 0.5), tmp_path / "alone").items()
    assert list(sizes) == ["1 x 1", "0.5 x 1", "1 x 0.5", "0.5 x 0.5"]
    assert (name, alone.network.only) == ("0.5 x 0.5", sizes[name].network.resolve(SubnetSpec(0.5, 0.5)))
    assert fronts.cost_of(tmp_path / "ours")["seen"] == fronts.cost_of(tmp_path / "alone")["seen"] == 3 * 16


def test_a_polished_size_has_the_supernet_and_its_own_training_behind_it(content, tmp_path):
    more = {**content, "stages": {**content["stages"], "polish": {"training": {"num_train_epochs": 1}}}}
    models = fronts.polished(more, [SubnetSpec(0.5, 1), SubnetSpec(0.5, 0.5)], tmp_path)
    before, _ = load_supernet(tmp_path / "depth")
    assert fronts.cost_of(tmp_path)["seen"] == (1 + 2 + 1 + 1) * 16
    for name, model in models.items():
        assert model.network.only == before.resolve(SubnetSpec(*map(float, name.split(" x "))))
        assert not torch.equal(*(net.model.state_dict()["encoder.layer.1.attention.output.dense.weight"]
                                 for net in (before, model.network)))  # fmt: skip


def test_a_size_alone_begins_at_the_teacher_itself(content, tmp_path):
    fronts.alone(content, SubnetSpec(0.5, 0.5), tmp_path)
    start, _ = load_supernet(tmp_path / "width")
    teacher = Supernet(AutoModel.from_pretrained(content["model"], add_pooling_layer=False), Grid((1.0,), (1.0,)))
    polished, _ = load_supernet(tmp_path / "polished-alone")
    batch = tiny_batch()
    with torch.no_grad():
        states = [net.eval()(**batch).outputs["last_hidden_state"] for net in (start, teacher, polished)]
    torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states[0], states[2], atol=1e-3)


@pytest.mark.client
def test_dropped_layers_learn_from_the_same_texts_as_often(content, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="the extra 'benchmarks' is not installed")
    read = []
    monkeypatch.setattr(embedders, "MODEL", content["model"])
    monkeypatch.setattr(embedders, "content_of", lambda _options, _seed: content)
    before = embedders.training_texts
    monkeypatch.setattr(embedders, "training_texts", lambda own: read.extend(before(own)) or read)
    options = SimpleNamespace(drop_rate=1e-3, drop_epochs=None)
    (name, model), = embedders.dropped(1, options, 0, tmp_path).items()
    assert (name, model.network.geometry.layers) == ("1 layers", 1)
    assert fronts.cost_of(tmp_path)["seen"] == 3 * len(read) == 48
    lines = Path(content["data"]["train"]).read_text(encoding="utf-8").splitlines()
    assert set(read) < set(lines)


def test_every_size_is_judged_by_both_of_its_files_and_not_again(content, tmp_path):
    model = embedders.plain(content["model"])
    judged = []

    def judge(file):
        judged.append(file.name)
        return {"spearman": 0.5}

    training = fronts.Training("teacher", "teacher", lambda _seed, place: fronts.step(place, "s", lambda: 3)
                               or {"whole": model})  # fmt: skip
    task = fronts.Task("spearman", ("spearman",), ("spearman",), judge, ((1, 16),))
    for _ in range(2):
        fronts.run([training], [0], task, tmp_path)
    assert judged == ["model.onnx", "model_quantized.onnx"]
    (found,) = fronts.points_of(tmp_path)
    geometry = model.network.geometry
    assert found.shape == f"{geometry.layers} layers, {geometry.heads} heads, {geometry.neurons} neurons"
    assert (tmp_path / "timed" / found.shape / "onnx" / "model_quantized.onnx").is_file()
    assert read_json(tmp_path / "results" / "teacher-0.json")["cost"]["seen"] == 3
    assert not (tmp_path / "work" / "teacher-0").exists()
