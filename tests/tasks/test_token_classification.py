"""Token classification: words with tags, from column files and lists to a student that tags them."""

import importlib.util
import json
import random
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import BAD, GOOD, PLAIN, VOCABULARY, tiny_config, write_recipe
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from dynackd.cli.command_line import main
from dynackd.data.model_labels import ModelLabels
from dynackd.data.sources import resolve_source
from dynackd.errors import UserError
from dynackd.measure.evaluation import batches_of
from dynackd.students.loading import load_student
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.task import resolve_task
from dynackd.tasks.token_classification import TOKEN_CLASSIFICATION as TOKENS
from dynackd.tasks.tokens import tokenize

TASK = {"kind": "token_classification", "words": "tokens", "tags": "tags"}


PIECES = [*VOCABULARY, "##ly", "##er"]


def piece_tokenizer():
    """BERT's kind of tokenizer, in which "finely" is the pieces "fine" and "##ly"."""
    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        model_max_length=48,
        model_input_names=["input_ids", "attention_mask"],
    )


def tagged(rng):
    """Words of which a good one begins praise, which goes on in a bad one behind it, and any other bad one is blame."""
    words = rng.choices(GOOD + BAD + PLAIN, k=rng.randrange(2, 9))
    tags = []
    for i, word in enumerate(words):
        inside = word in BAD and i > 0 and words[i - 1] in GOOD
        tags.append("B-praise" if word in GOOD else "I-praise" if inside else "B-blame" if word in BAD else "O")
    return [word + rng.choice(["", "", "ly", "erly"]) for word in words], tags


def write_lines(file, rows, seed):
    rng = random.Random(seed)
    with file.open("w") as out:
        for _ in range(rows):
            words, tags = tagged(rng)
            out.write(json.dumps({"tokens": words, "tags": tags}) + "\n")


def write_columns(file, rows, seed):
    rng = random.Random(seed)
    with file.open("w") as out:
        out.write("-DOCSTART- -X- O\n\n")
        for _ in range(rows):
            out.writelines(f"{word} POS {tag}\n" for word, tag in zip(*tagged(rng), strict=True))
            out.write("\n")


def recipe_in(directory, **changes):
    return {
        "model": str(directory / "encoder"),
        "task": TASK,
        "data": {"train": f"{directory}/train.conll", "validation": f"{directory}/validation.jsonl", "max_length": 16},
        "grid": {"widths": [0.5, 1.0], "depths": [0.5, 1.0]},
        "importance": {"rows": 16},
        "distillation": {"weights": {"ce": 0.5}},
        "training": {"per_device_train_batch_size": 8, "num_train_epochs": 6, "learning_rate": 1e-2, "use_cpu": True},
        "output_dir": str(directory / "run"),
        **changes,
    }


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A tagger from an encoder to a supernet."""
    directory = tmp_path_factory.mktemp("tagger")
    torch.manual_seed(0)
    config = tiny_config("bert", initializer_range=0.1, vocab_size=len(PIECES))
    AutoModel.from_config(config).save_pretrained(directory / "encoder")
    piece_tokenizer().save_pretrained(directory / "encoder")
    write_columns(directory / "train.conll", 64, 1)
    write_lines(directory / "validation.jsonl", 32, 2)
    path = str(write_recipe(directory, recipe_in(directory)))
    for command in ("finetune", "train-width", "train-depth"):
        assert main([command, path]) == 0
    return directory


def test_a_tagger_is_trained_and_evaluated(road, capsys):
    teacher = read_json(road / "run" / "teacher" / "metrics.json")["metrics"]
    assert list(teacher) == ["f1", "precision", "recall", "accuracy"]
    assert teacher["f1"] > 0.6, "the teacher has learned nothing"
    config = read_json(road / "run" / "teacher" / "config.json")
    assert list(config["id2label"].values()) == ["O", "B-blame", "B-praise", "I-praise"]
    assert main(["evaluate", str(road / "run" / "depth"), "--json", str(road / "e.json")]) == 0
    evaluation = read_json(road / "e.json")
    assert evaluation["teacher"]["metrics"] == pytest.approx(teacher)
    assert [set(row["fidelity"]) for row in evaluation["subnetworks"]] == [{"agreement", "kl"}] * 4
    assert max(row["fidelity"]["agreement"] for row in evaluation["subnetworks"]) > 0.8


@pytest.fixture(scope="module")
def student(road):
    """The tagger at half the width and depth, with its smaller files."""
    arguments = ["--width", "0.5", "--depth", "0.5", "--int8", "--fp16", "--max-drop", "1", "--max-drop-per-class", "1"]
    assert main(["export", str(road / "run" / "depth"), *arguments, "--output", str(road / "student")]) == 0
    return road / "student"


def test_a_tagger_is_exported_compared_judged_by_type_and_loaded_again(road, student):
    about = read_json(student / "export.json")
    assert about["parity_max_abs_diff"] < 1e-4
    files = about["files"]
    assert files["onnx/model.onnx"]["metrics"] == pytest.approx(about["metrics"]["student"])
    evaluated = read_json(road / "run" / "depth" / "metrics.json")["subnetworks"]
    (same,) = [row for row in evaluated if (row["width"], row["depth"]) == (0.5, 0.5)]
    assert files["onnx/model.onnx"]["metrics"] == pytest.approx(same["metrics"])
    for name in ("onnx/model_quantized.onnx", "onnx/model_fp16.onnx"):
        assert set(files[name]["class_drops"]) == {"praise", "blame"}
        assert 0 <= files[name]["agreement"] <= 1
    (output,) = onnx.load(student / "onnx" / "model.onnx").graph.output
    axes = [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim]
    assert (output.name, axes) == ("logits", ["batch_size", "sequence_length", 4])
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["finely film", "a very dull book is cold"], padding=True, return_tensors="pt")
    spec = next(spec for spec in supernet.grid.specs() if (spec.width, spec.depth) == (0.5, 0.5))
    with torch.no_grad():
        expected = supernet.eval()(spec, **batch).outputs["logits"]
        for model in (AutoModelForTokenClassification.from_pretrained(student).eval(), load_student(student)[0]):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=0)
    found = pipeline("token-classification", str(student), aggregation_strategy="first")("finely film")
    assert [(own["entity_group"], own["start"], own["end"]) for own in found] == [("praise", 0, len("finely"))]


def test_the_snippets_of_a_taggers_card_run_as_they_stand(student):
    card = (student / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "A smaller tagger" in card
    codes = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(codes) == 3
    for code in codes:
        if "openvino" not in code or importlib.util.find_spec("openvino"):
            command = [sys.executable, "-c", code.replace("Ada Lovelace lived in London", "very finely film")]
            done = subprocess.run(command, capture_output=True, text=True, cwd=student.parent, check=False)
            assert done.returncode == 0, done.stderr
            tags = ["very O", "finely B-praise", "film O"]
            assert "InferenceSession" not in code or done.stdout.splitlines() == tags


def test_a_taggers_rows_are_not_augmented(road, capsys):
    assert main(["augment", str(road / "recipe.yaml")]) == 2
    assert "the words of a token_classification's rows cannot be replaced" in capsys.readouterr().err


# --- rows ------------------------------------------------------------------------------------------------------------


def loaded(directory, rows, model=None, **task):
    """The data of (words, tags) rows, each a text."""
    lines = [json.dumps({"tokens": words.split(" "), "tags": tags.split()}) for words, tags in rows]
    (directory / "rows.jsonl").write_text("\n".join(lines))
    source = resolve_source({"train": f"{directory}/rows.jsonl", "validation": f"{directory}/rows.jsonl"})
    return load_task_data(resolve_task({**TASK, **task}), source, model=model)


ROWS_OF_TAGS = [("finely film was coldly", "B-a O O B-b"), ("dull", "I-a")]


def test_a_word_has_its_tag_on_its_first_piece(tmp_path):
    data = loaded(tmp_path, ROWS_OF_TAGS)
    assert data.label_names == ("O", "B-a", "B-b", "I-a")
    tokens, report = tokenize(data.train, data.task, piece_tokenizer(), 16)
    assert report is None
    assert tokens["labels"][:] == [[-100, 1, -100, 0, 0, 2, -100, -100], [-100, 3, -100]]
    assert tokens["words_kept"][:] == [[1, 1, 1, 1], [1]]


def test_a_batch_is_filled_up_and_what_is_no_word_counts_nowhere(tmp_path):
    data = loaded(tmp_path, ROWS_OF_TAGS)
    tokens, _ = tokenize(data.train, data.task, piece_tokenizer(), 16)
    (batch,) = batches_of(tokens, TOKENS, piece_tokenizer(), 2)
    assert batch["labels"].shape == batch["input_ids"].shape == (2, 8)
    assert batch["words_kept"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert (TOKENS.label_count(batch), TOKENS.output_count(batch)) == (5, 5)
    logits = torch.randn(2, 8, 4)
    words = [(0, 1), (0, 3), (0, 4), (0, 5), (1, 1)]
    mine = torch.stack([logits[place] for place in words])
    expected = torch.nn.functional.cross_entropy(mine, torch.tensor([1, 0, 0, 2, 3]))
    torch.testing.assert_close(TOKENS.label_loss({"logits": logits}, batch), expected)
    teacher = torch.randn(2, 8, 4)
    soft = torch.stack([teacher[place] for place in words]).softmax(-1)
    loss = TOKENS.output_loss({"logits": logits}, {"logits": teacher}, batch, 1.0)
    torch.testing.assert_close(loss, -(soft * mine.log_softmax(-1)).sum(-1).mean())
    mask = TOKENS.places({name: tensor.numpy() for name, tensor in batch.items()})
    torch.testing.assert_close(torch.from_numpy(TOKENS.flat({"logits": logits.numpy()}, mask)["logits"]), mine)


def test_a_batch_of_which_the_tokenizer_leaves_no_word_is_0_and_no_nan(tmp_path):
    """Such as one of a zero-width space alone, which BERT's normaliser drops."""
    logits = torch.randn(1, 2, 4, requires_grad=True)
    batch = {"attention_mask": torch.ones(1, 2), "labels": torch.full((1, 2), -100), "words_kept": torch.zeros(1, 1)}
    for loss in (TOKENS.label_loss({"logits": logits}, batch),
                 TOKENS.output_loss({"logits": logits}, {"logits": logits.detach() + 1}, batch, 1.0)):
        assert float(loss.detach()) == 0
        loss.backward()
    assert not logits.grad.any()
    assert not TOKENS.stock_labels, "transformers' own loss of it is no number"


def test_a_row_without_tags_is_told_where_validation_rows_are_cut_off_too(tmp_path):
    rows = [{"tokens": ["a"], "tags": []}] + [{"tokens": ["a", "film"], "tags": ["O", "B-x"]}] * 20
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = resolve_source({"train": str(tmp_path / "rows.jsonl"), "validation_share": 0.2})
    with pytest.raises(UserError, match=r"1 words .* but 0 tags"):
        load_task_data(resolve_task(TASK), source)


# Entities: a(0-1), b(3), b(4); a(0). Cut at 7 tokens on the right b(4) is lost, three are found and three given; at 6
# on the left the first word of a(0-1) is, of which another entity remains: three are found and four given.
@pytest.mark.parametrize(("side", "length", "f1"), [("right", 7, 6 / 7), ("left", 6, 3 / 4)])
def test_a_word_that_is_cut_off_is_told_and_counts_as_missed(tmp_path, side, length, f1):
    data = loaded(tmp_path, [("finely cold film dull fine", "B-a I-a O B-b B-b"), ("one", "B-a")])
    tokenizer = piece_tokenizer()
    tokenizer.truncation_side = side
    tokens, report = tokenize(data.train, data.task, tokenizer, length)
    assert str(report) == (
        f"1 of 2 training texts were longer than {length} tokens and were cut (longest 8); 1 word of 1 row is not seen "
        "by the model and counted as tagged O"
    )
    (batch,) = batches_of(tokens, TOKENS, tokenizer, 2)
    labels = {name: batch[name].numpy() for name in TOKENS.label_columns}
    mask = TOKENS.places(labels)
    right = np.eye(len(data.label_names))[np.maximum(labels["labels"], 0)]  # the model's tags are the right ones
    found = TOKENS.measure(data.task, TOKENS.flat({"logits": right}, mask), TOKENS.flat(labels, mask))
    assert found["f1"] == pytest.approx(f1)


def test_a_word_of_which_the_tokenizer_leaves_nothing_is_told_too(tmp_path):
    tokenizer = piece_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    data = loaded(tmp_path, [("fine \u200b film", "B-a I-a O"), ("dull", "O")])
    tokens, report = tokenize(data.train, data.task, tokenizer, 16)
    assert str(report) == "of the training texts 1 word of 1 row is not seen by the model and counted as tagged O"
    names = data.label_names
    assert tokens["labels"][0] == [-100, names.index("B-a"), names.index("O"), -100]
    assert tokens["words_kept"][0] == [1, 2 + names.index("I-a"), 1]


# --- tags and a model's outputs --------------------------------------------------------------------------------------


def test_a_models_own_tags_are_met_by_name_whatever_their_order_and_case(tmp_path):
    model = ModelLabels(("i-a", "b-a", "o", "b-b"))
    data = loaded(tmp_path, ROWS_OF_TAGS, model)
    assert data.train["label"][:] == [[1, 2, 2, 3], [0]]
    assert any("ignoring case; set task.labels to say otherwise; the metrics count entities" in n for n in data.notes)


@pytest.mark.parametrize("labels", [["B-a", "I-a", "O", "B-b"], {"B-a": 0, "I-a": 1, "O": 2, "B-b": 3}])
def test_a_recipe_may_say_the_order_of_the_tags(tmp_path, labels):
    data = loaded(tmp_path, ROWS_OF_TAGS, labels=labels)
    assert data.train["label"][:] == [[0, 2, 2, 3], [1]]
    assert data.label_names == ("B-a", "I-a", "O", "B-b")


def test_numbers_are_tags_that_a_recipe_names(tmp_path):
    rows = [("fine film", "1 0"), ("dull", "2")]
    data = loaded(tmp_path, rows, labels=["O", "B-a", "I-a"])
    assert (data.train["label"][:], data.label_names) == ([[1, 0], [2]], ("O", "B-a", "I-a"))
    told = loaded(tmp_path, rows).notes
    assert any("count words, not entities, since these tags are not such as B-X, I-X and O" in note for note in told)


def test_rows_are_held_out_by_their_rarest_tag():
    rows = np.empty(5, object)
    rows[:] = [("O", "B-a"), ("O",), ("O", "B-b"), ("B-a", "B-b"), ("O", "B-a")]
    strata = TOKENS.strata(rows)
    assert strata[0] == strata[4] != strata[2] == strata[3]  # B-b has fewer rows than B-a, and O has most
    assert len(set(strata)) == 3


def test_a_teacher_whose_tags_are_numbered_otherwise_is_refused_and_a_weak_one_is_not(tmp_path):
    data = loaded(tmp_path, ROWS_OF_TAGS)
    labels = np.array([0] * 300 + [1] * 40 + [2] * 40 + [3] * 40)
    moved = TOKENS.doubt({"logits": np.eye(4)[[1, 2, 3, 0]][labels]}, {"labels": labels}, data.labels)
    assert moved.certain
    assert "the teacher gives 0 of 420 words the class that the data say" in moved.told
    weak = TOKENS.doubt({"logits": np.eye(4)[np.zeros(420, int)]}, {"labels": labels}, data.labels)
    assert not weak.certain
    assert "the teacher answers each of 420 words with 'O': it has learned" in weak.told


# --- byte-level tokenizers -------------------------------------------------------------------------------------------


def byte_tokenizer(**options):
    """RoBERTa's kind of tokenizer, in which a word is marked by the space before it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<pad>", "<unk>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" fine film", "fine film"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **options)


def test_words_are_read_by_a_byte_level_tokenizer_as_in_a_text_also_after_saving(tmp_path):
    right = byte_tokenizer()(" fine film")["input_ids"]
    assert byte_tokenizer()(["fine", "film"], is_split_into_words=True)["input_ids"] != right
    fitted = TOKENS.fit_tokenizer(byte_tokenizer())
    fitted.save_pretrained(tmp_path)
    for tokenizer in (fitted, AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer(["fine", "film"], is_split_into_words=True)["input_ids"] == right
        assert tokenizer("fine film")["input_ids"] == right  # what a client gives it
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("fine film").ids == right


LLAMA = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def test_only_the_first_piece_of_a_word_that_is_cut_first_gets_a_space_also_after_saving(tmp_path):
    """As Llama's tokenizer and EuroBERT's, which split a text by a pattern and then spell it in bytes."""
    words = ["don", "'t", "U", ".N", ",", "fine"]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *words, *(f"\u0120{word}" for word in words)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    read = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    fitted = TOKENS.fit_tokenizer(read)
    fitted.save_pretrained(tmp_path)
    again = TOKENS.fit_tokenizer(AutoTokenizer.from_pretrained(tmp_path))
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str() == again.backend_tokenizer.to_str()
    for tokenizer in (fitted, again):
        given = tokenizer(["fine", "don't", "U.N", ","], is_split_into_words=True, return_offsets_mapping=True)
        assert given.tokens() == ["\u0120fine", "\u0120don", "'t", "\u0120U", ".N", "\u0120,"]
        assert given.word_ids() == [0, 1, 1, 2, 2, 3]
        assert given["offset_mapping"] == [(0, 4), (0, 3), (3, 5), (0, 1), (1, 3), (0, 1)]
        for text in ("fine don't", " fine don't"):
            assert tokenizer(text).tokens() == ["\u0120fine", "\u0120don", "'t"]


def test_roberta_is_trained_and_exported_with_its_spaces(tmp_path):
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(model_max_length=48, model_input_names=["input_ids", "attention_mask"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    AutoModel.from_config(tiny_config("roberta", vocab_size=len(tokenizer))).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    write_columns(tmp_path / "train.conll", 8, 1)
    write_lines(tmp_path / "validation.jsonl", 8, 1)
    training = {"per_device_train_batch_size": 4, "max_steps": 1, "use_cpu": True}
    content = recipe_in(tmp_path, training=training, grid={"widths": [0.5, 1.0], "depths": [1.0]})
    content["data"]["max_length"] = 48
    path = str(write_recipe(tmp_path, content))
    for command in ("finetune", "train-width"):
        assert main([command, path]) == 0
    size = ["--width", "0.5", "--output", str(tmp_path / "student"), "--compat"]
    assert main(["export", str(tmp_path / "run" / "width"), *size]) == 0
    for place in ("run/teacher", "run/width", "student"):
        saved = AutoTokenizer.from_pretrained(tmp_path / place)
        assert saved(["fine", "film"], is_split_into_words=True)["input_ids"] == saved("fine film")["input_ids"]
        assert saved("fine film")["input_ids"] == saved(" fine film")["input_ids"]
