"""A teacher that reads other tokens: what is compared, whoever reads what, in every kind of task."""

import json
import random
from itertools import pairwise

import pytest
import torch
from conftest import PLAIN as WORDS
from conftest import VOCABULARY, tiny_batch, tiny_config, tiny_model, tiny_recipe, tiny_tokenizer, write_recipe
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from dynackd.cli.command_line import main
from dynackd.data.sources import resolve_source
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.alignment import read_by_both
from dynackd.tasks.common_words import NUMBERS, THEIRS, Collator
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.task import resolve_task
from dynackd.tasks.tokens import tokenize

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz",
          *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), "fi", "##lm", "the", "wa"]  # fmt: skip
RELATIONS = {"wr_pair": 1.0, "wr_triple": 1.0, "ltr_pair": 1.0, "ltr_triple": 1.0}


def piece_tokenizer():
    """Lower-casing pieces and single letters, two special tokens between the texts of a pair."""
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=48, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def saved(model, tokenizer, place):
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def other_config(**changes):
    return tiny_config("electra", num_hidden_layers=6, hidden_size=48, vocab_size=len(PIECES), initializer_range=0.1,
                       **changes)


# --- the road ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose model is fine-tuned already, with a teacher of another shape that reads other tokens."""
    torch.manual_seed(0)
    teacher = AutoModelForSequenceClassification.from_config(other_config())
    content = tiny_recipe(tmp_path)
    content["model"] = saved(tiny_model(), tiny_tokenizer(), tmp_path / "model")
    content["teacher"] = saved(teacher, piece_tokenizer(), tmp_path / "teacher")
    content["task"] = {**content["task"], "check_teacher": False}
    content["distillation"] = {"matching": "uniform"}
    return content


def accuracy_of(directory, file):
    """A model's accuracy on a file of rows, text by text, as transformers alone has it."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    rows = [line.rsplit("\t", 1) for line in file.read_text().splitlines()[1:]]
    with torch.no_grad():
        found = [int(model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt")).logits.argmax())
                 for text, _ in rows]
    return sum(answer == int(label) for answer, (_, label) in zip(found, rows, strict=True)) / len(rows)


def test_a_teacher_that_reads_other_tokens_teaches_and_is_judged_by_its_own(recipe, tmp_path, capsys):
    path = str(write_recipe(tmp_path, recipe))
    assert main(["train-width", path]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the teacher reads other tokens, so words that both have are compared" in told
    assert "relations are compared, states are not (distillation.signal: ckd)" in told
    assert main(["train-depth", path]) == 0
    expected = accuracy_of(tmp_path / "teacher", tmp_path / "validation.tsv")
    for name in ("width", "depth"):
        place = tmp_path / "run" / name
        table = read_json(place / "metrics.json")
        assert table["teacher"]["metrics"]["accuracy"] == pytest.approx(expected)
        assert all(set(row["fidelity"]) == {"agreement", "kl"} for row in table["subnetworks"])
        _, tokenizer = load_supernet(place)
        assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    logged = [json.loads(line) for line in (tmp_path / "run/width/log.jsonl").read_text().splitlines()]
    assert {name for row in logged for name in row if name.startswith("loss_")} == {
        f"loss_{name}" for name in (*RELATIONS, "logits")
    }
    supernet = str(tmp_path / "run" / "depth")
    assert main(["evaluate", supernet, "--json", str(tmp_path / "e.json")]) == 0
    evaluated = read_json(tmp_path / "e.json")
    assert evaluated["teacher"] == table["teacher"]
    assert [row["fidelity"] for row in evaluated["subnetworks"]] == [row["fidelity"] for row in table["subnetworks"]]
    assert main(["export", supernet, "--width", "0.5", "--validation", "--output", str(tmp_path / "s")]) == 0
    about = read_json(tmp_path / "s" / "export.json")
    assert about["metrics"]["teacher"]["accuracy"] == pytest.approx(expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "s").get_vocab() == tiny_tokenizer().get_vocab()
    assert main(["polish", supernet, "--width", "0.5", "--depth", "0.5"]) == 0


def test_rows_without_labels_are_read_by_both_too(recipe, tmp_path):
    lines = [" ".join(random.Random(n).choices(WORDS, k=4)) for n in range(40)]
    (tmp_path / "more.txt").write_text("\n".join(lines))
    recipe["data"] |= {"unlabelled": f"{tmp_path}/more.txt", "unlabelled_share": 0.5}
    recipe["distillation"] |= {"weights": {"ce": 1}}
    recipe["training"] |= {"max_steps": 4, "logging_steps": 1}
    seen = []

    class Watched(Collator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            seen.extend(batch["labelled"].tolist() if "labelled" in batch else [])
            return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynackd.training.rows.Collator", Watched)
        assert main(["train-width", str(write_recipe(tmp_path, recipe))]) == 0
    assert 0 in seen
    assert 1 in seen


def test_fidelity_compares_the_same_rows(recipe, tmp_path):
    # A teacher that is the model itself in other words: its embeddings are of its own tokens, each a whole word.
    order = [*VOCABULARY[:4], *reversed(VOCABULARY[4:])]
    torch.manual_seed(0)
    model, twin = (AutoModelForSequenceClassification.from_config(tiny_config("bert", initializer_range=0.5)).eval()
                   for _ in range(2))  # fmt: skip
    twin.load_state_dict(model.state_dict())
    recipe["model"] = saved(model, tiny_tokenizer(), tmp_path / "alike")
    with torch.no_grad():
        assert model(**tiny_batch(32)).logits.std(0).min() > 0.1, "one answer for all rows says nothing of their order"
        twin.bert.embeddings.word_embeddings.weight.copy_(
            model.bert.embeddings.word_embeddings.weight[[VOCABULARY.index(word) for word in order]]
        )
    tokenizer = tiny_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"] = {word: n for n, word in enumerate(order)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), pad_token="<pad>", unk_token="<unk>",
        bos_token="<s>", eos_token="</s>", model_max_length=48, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    recipe |= {"teacher": saved(twin, tokenizer, tmp_path / "twin"), "distillation": {"signal": "ckd"}}
    recipe["training"] |= {"max_steps": 1, "learning_rate": 1e-9}
    assert main(["train-width", str(write_recipe(tmp_path, recipe))]) == 0
    full = read_json(tmp_path / "run/width/metrics.json")["subnetworks"][0]
    assert full["fidelity"] == pytest.approx({"agreement": 1, "kl": 0}, abs=1e-4)


def test_accumulated_steps_train_as_one_batch(recipe, tmp_path):
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('dropout_prob": 0.1', 'dropout_prob": 0.0'))
    recipe["training"] |= {"optim": "sgd", "learning_rate": 1e-3, "max_steps": 2}
    weights = []
    for size, parts in ((8, 1), (4, 2)):
        recipe["training"] |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        recipe["output_dir"] = str(tmp_path / f"run-{parts}")
        assert main(["train-width", str(write_recipe(tmp_path, recipe))]) == 0
        weights.append(load_file(tmp_path / f"run-{parts}" / "width" / "model.safetensors"))
    before = load_file(tmp_path / "model" / "model.safetensors")
    for one, other in pairwise(weights):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(before[name], value) for name, value in weights[0].items() if name in before)


def test_states_are_not_compared_between_tokens_that_are_not_the_same(recipe, tmp_path, capsys):
    same_size = AutoModelForSequenceClassification.from_config(tiny_config("bert", vocab_size=len(PIECES)))
    recipe |= {"teacher": saved(same_size, piece_tokenizer(), tmp_path / "same"), "distillation": {"signal": "ckd+mse"}}
    assert main(["train-width", str(write_recipe(tmp_path, recipe))]) == 2
    assert "the teacher reads other tokens than the model, so the distillation term 'hidden_mse'" in (
        capsys.readouterr().err
    )
    recipe["distillation"] = {}
    recipe["training"] |= {"max_steps": 1}
    assert main(["train-width", str(write_recipe(tmp_path, recipe))]) == 0


def test_a_tagger_learns_from_a_teacher_with_other_tokens(tmp_path):
    rng = random.Random(0)
    for name, rows in (("train", 24), ("validation", 12)):
        with (tmp_path / f"{name}.jsonl").open("w") as out:
            for _ in range(rows):
                words = rng.choices(WORDS[:8], k=rng.randrange(2, 7))
                tags = ["B-x" if word == "film" else "O" for word in words]
                out.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    labels = {"id2label": {0: "O", 1: "B-x"}, "label2id": {"O": 0, "B-x": 1}}
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(tiny_config("bert", **labels))
    teacher = AutoModelForTokenClassification.from_config(other_config(**labels))
    content = tiny_recipe(tmp_path)
    content |= {
        "model": saved(model, tiny_tokenizer(), tmp_path / "model"),
        "teacher": saved(teacher, piece_tokenizer(), tmp_path / "teacher"),
        "task": {"kind": "token_classification", "words": "tokens", "tags": "tags", "check_teacher": False},
        "data": {"train": f"{tmp_path}/train.jsonl", "validation": f"{tmp_path}/validation.jsonl", "max_length": 12},
        "distillation": {"matching": "uniform"},
    }
    content["training"] |= {"max_steps": 2}
    assert main(["train-width", str(write_recipe(tmp_path, content))]) == 0
    table = read_json(tmp_path / "run/width/metrics.json")
    assert {"f1", "accuracy"} <= set(table["teacher"]["metrics"])
    assert all(set(row["fidelity"]) == {"agreement", "kl"} for row in table["subnetworks"])


def test_plain_text_learns_from_a_teacher_with_other_tokens_and_another_size(tmp_path):
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=rng.randrange(2, 9))) for _ in range(32)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    torch.manual_seed(0)
    content = tiny_recipe(tmp_path)
    content |= {
        "model": saved(AutoModel.from_config(tiny_config("bert")), tiny_tokenizer(), tmp_path / "model"),
        "teacher": saved(AutoModel.from_config(other_config()), piece_tokenizer(), tmp_path / "teacher"),
        "task": {"kind": "plain", "text": "text"},
        "data": {"train": f"{tmp_path}/train.txt", "validation_share": 0.25, "max_length": 40},
        "distillation": {"matching": "uniform"},
    }
    content["training"] |= {"max_steps": 2}
    assert main(["train-width", str(write_recipe(tmp_path, content))]) == 0
    rows = read_json(tmp_path / "run/width/metrics.json")["subnetworks"]
    assert [set(row["fidelity"]) for row in rows] == [{"relations"}] * 2


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (
            {"kind": "ranking", "query": "q", "passages": "p", "relevance": "r", "check_teacher": False},
            {"q": "the film", "p": ["a fine day", "the book was dull"], "r": [1, 0]},
        ),
        ({"kind": "embedding", "pair": ["a", "b"], "score": "s"}, {"a": "the film", "b": "a dull day", "s": 0.5}),
    ],
)
def test_rows_that_become_several_inputs_are_read_by_both_input_by_input(tmp_path, task, row):
    rows = [{**row, **({"q": f"the film{' film' * i}"} if "q" in row else {})} for i in range(3)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(own) + "\n" for own in rows))
    source = resolve_source({"train": f"{tmp_path}/t.jsonl"})
    data = load_task_data(resolve_task(task), source, ("train",))
    tokens, _ = tokenize(data.train, data.task, tiny_tokenizer(), 16)
    shared = read_by_both(data.train, data.task, tiny_tokenizer(), piece_tokenizer(), 16, 40)
    assert len(tokens) == len(shared) == 6
    for own, theirs, numbers in zip(
        tokens["input_ids"], shared[THEIRS + "input_ids"], zip(shared[NUMBERS], shared[THEIRS + NUMBERS], strict=True),
        strict=True,
    ):  # fmt: skip
        decoded = [tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "").replace("##", "")
                   for tokenizer, ids in ((tiny_tokenizer(), own), (piece_tokenizer(), theirs))]  # fmt: skip
        assert decoded[0] == decoded[1]
        assert numbers[0] == list(range(len(own)))
        assert max(numbers[1]) == len(own) - 1
