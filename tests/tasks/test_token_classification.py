"""Token classification: words with tags, from column files and lists to a student that tags them."""

import importlib.util
import json
import random
import re
import subprocess
import sys

import onnx
import pytest
import torch
from conftest import BAD, GOOD, PLAIN, VOCABULARY, tiny_config, write_recipe
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedTokenizerFast, pipeline

from dynackd.cli.command_line import main
from dynackd.students.loading import load_student
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json

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


def test_a_tagger_is_exported_compared_judged_by_type_and_loaded_again(road):
    out = road / "student"
    arguments = ["--width", "0.5", "--depth", "0.5", "--int8", "--fp16", "--max-drop", "1", "--max-drop-per-class", "1"]
    assert main(["export", str(road / "run" / "depth"), *arguments, "--output", str(out)]) == 0
    about = read_json(out / "export.json")
    assert about["parity_max_abs_diff"] < 1e-4
    files = about["files"]
    assert files["onnx/model.onnx"]["metrics"] == pytest.approx(about["metrics"]["student"])
    evaluated = read_json(road / "run" / "depth" / "metrics.json")["subnetworks"]
    (same,) = [row for row in evaluated if (row["width"], row["depth"]) == (0.5, 0.5)]
    assert files["onnx/model.onnx"]["metrics"] == pytest.approx(same["metrics"])
    for name in ("onnx/model_quantized.onnx", "onnx/model_fp16.onnx"):
        assert set(files[name]["class_drops"]) == {"praise", "blame"}
        assert 0 <= files[name]["agreement"] <= 1
    (output,) = onnx.load(out / "onnx" / "model.onnx").graph.output
    axes = [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim]
    assert (output.name, axes) == ("logits", ["batch_size", "sequence_length", 4])
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["finely film", "a very dull book is cold"], padding=True, return_tensors="pt")
    spec = next(spec for spec in supernet.grid.specs() if (spec.width, spec.depth) == (0.5, 0.5))
    with torch.no_grad():
        expected = supernet.eval()(spec, **batch).outputs["logits"]
        for model in (AutoModelForTokenClassification.from_pretrained(out).eval(), load_student(out)[0]):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=0)
    found = pipeline("token-classification", str(out), aggregation_strategy="first")("finely film")
    assert [(own["entity_group"], own["start"], own["end"]) for own in found] == [("praise", 0, len("finely"))]


def test_the_snippets_of_a_taggers_card_run_as_they_stand(road):
    """They may need the student of the test before."""
    card = (road / "student" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "A smaller tagger" in card
    codes = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(codes) == 3
    for code in codes:
        if "openvino" not in code or importlib.util.find_spec("openvino"):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=road, check=False)
            assert done.returncode == 0, done.stderr
            assert "InferenceSession" not in code or re.search(r"^London (O|[BI]-\w+)$|<unk> ", done.stdout, re.M)


def test_a_taggers_rows_are_not_augmented(road, capsys):
    assert main(["augment", str(road / "recipe.yaml")]) == 2
    assert "the words of a token_classification's rows cannot be replaced" in capsys.readouterr().err
