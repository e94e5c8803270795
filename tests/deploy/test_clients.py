"""Real clients run an exported student: what comes out of each is what the torch student says.

`client` tests need npm, OpenVINO or the real data, and skip with a reason where these cannot be had.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from onnx.reference import ReferenceEvaluator
from trained_tokenizers import TEXTS as TRAINED_ON
from trained_tokenizers import byte_level_bpe, in_transformers, unigram, word_piece
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import dynackd  # noqa: F401  (registers the students)
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.texts import read_texts
from dynackd.deploy.vocabulary import Wish
from dynackd.grid import Grid
from dynackd.onnx.graphs import Fixed, Shape, example_batch
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Supernet, load_supernet

CLIENTS = Path(__file__).parents[1] / "clients"
SHARED = Path(__file__).parents[3] / "shared"
SENTENCES = SHARED / "data" / "glue" / "sst2" / "validation.tsv"
REAL_SUPERNET = Path(__file__).parents[2] / "runs" / "sst2" / "width"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ONNXRUNTIME_NODE_INSTALL": "skip"}
TEXTS = ["a fine film", "the book was very dull and cold", "one warm day", "NA"]
SPEC = SubnetSpec(0.5, 0.5)


def supernet_of(family="bert"):
    return Supernet(tiny_model(family), Grid((1.0, 0.5), (1.0, 0.5))).eval()


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A tiny BERT student with all its files."""
    place = tmp_path_factory.mktemp("clients") / "student"
    options = ExportOptions(variants=("int8", "fp16"), with_code=True)
    export_student(supernet_of(), tiny_tokenizer(), SPEC, place, options=options)
    return place


def expected(directory, texts):
    """The torch student's logits [rows, labels], a text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        rows = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in texts]
    return torch.stack(rows).numpy()


def run(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- ONNX Runtime alone ----------------------------------------------------------------------------------------------

ONNXRUNTIME_ALONE = """
import json, sys
import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

directory = sys.argv[1]
tokenizer = Tokenizer.from_file(directory + "/tokenizer.json")
session = InferenceSession(directory + "/onnx/model.onnx")
rows = []
for text in json.loads(sys.argv[2]):
    encoded = tokenizer.encode(text)
    values = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    feed = {node.name: np.array([values[node.name]]) for node in session.get_inputs()}
    rows.append(session.run(["logits"], feed)[0][0].tolist())
assert not {"torch", "transformers", "dynackd"} & set(sys.modules), "too much was imported"
print(json.dumps(rows))
"""


def test_onnxruntime_and_tokenizers_suffice(family, tmp_path):
    export_student(supernet_of(family), tiny_tokenizer(), SPEC, tmp_path / "student")
    texts = [*TEXTS, "very " * 100]  # longer than the model takes: tokenizer.json cuts it
    rows = json.loads(run(ONNXRUNTIME_ALONE, tmp_path / "student", json.dumps(texts)))
    np.testing.assert_allclose(rows, expected(tmp_path / "student", texts), atol=1e-5)


def test_a_fixed_length_is_filled_up_by_tokenizer_json(tmp_path):
    options = ExportOptions(fixed=Fixed(None, 16))
    export_student(supernet_of(), tiny_tokenizer(), SPEC, tmp_path / "student", options=options)
    rows = json.loads(run(ONNXRUNTIME_ALONE, tmp_path / "student", json.dumps(TEXTS)))
    np.testing.assert_allclose(rows, expected(tmp_path / "student", TEXTS), atol=1e-5)


# --- the reference evaluator and OpenVINO ----------------------------------------------------------------------------


def test_the_onnx_reference_evaluator_computes_the_same(student):
    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    evaluator = ReferenceEvaluator(onnx.load(student / "onnx" / "model.onnx"))
    for shape in (Shape(1, 7), Shape(3, 9, "left"), Shape(3, 9, "middle")):
        batch = example_batch(shape, ["input_ids", "attention_mask"], model)
        (logits,) = evaluator.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(**batch).logits.numpy(), atol=1e-5)


OPENVINO = """
import json, sys
import numpy as np
import openvino

model = openvino.compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
batches = json.loads(sys.argv[2])
print(json.dumps([model({k: np.array(v) for k, v in batch.items()})["logits"].tolist() for batch in batches]))
"""


@pytest.mark.client
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install "
                    "'dynackd[clients]'")
def test_openvino_reads_the_same_file(student):
    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    shapes = (Shape(1, 7), Shape(3, 9), Shape(3, 9, "left"), Shape(3, 9, "middle"))
    batches = [example_batch(shape, ["input_ids", "attention_mask"], model) for shape in shapes]
    told = json.dumps([{name: tensor.tolist() for name, tensor in batch.items()} for batch in batches])
    results = json.loads(run(OPENVINO, student / "onnx" / "model.onnx", told))
    for logits, batch in zip(results, batches, strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(**batch).logits.numpy(), atol=1e-4)


# --- transformers.js -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def node():
    """The command that runs the clients' script."""
    if not shutil.which("node"):
        pytest.skip("Node.js is not installed")
    if not (CLIENTS / "node_modules" / "@huggingface" / "transformers").is_dir():
        pytest.skip("transformers.js is not installed: npm install --ignore-scripts in tests/clients")
    return ["node", str(CLIENTS / "classify.mjs")]


def javascript(node, directory, dtype, texts):
    done = subprocess.run(
        [*node, str(directory), dtype, "bert"], input=json.dumps(texts), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_scores(results, logits, directory, tolerance):
    config = json.loads((directory / "config.json").read_text())
    id2label = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers leaves these unsaid
    for result, row in zip(results, logits, strict=True):
        assert result["label"] == id2label[str(row.argmax())]
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        assert result["score"] == pytest.approx(probabilities.max(), abs=tolerance)


@pytest.mark.client
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2)])
def test_transformers_js_gives_the_same_labels_and_scores(node, student, dtype, tolerance):
    check_scores(javascript(node, student, dtype, TEXTS), expected(student, TEXTS), student, tolerance)


@pytest.mark.client
def test_transformers_js_runs_the_8_bit_file(node, student):
    assert len(javascript(node, student, "q8", TEXTS)) == len(TEXTS)


@pytest.mark.client
@pytest.mark.parametrize("make", [word_piece, byte_level_bpe, unigram], ids=lambda make: make.__name__)
def test_transformers_js_reads_a_smaller_vocabulary(node, make, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TRAINED_ON[:100]))
    wish = Wish(read_texts(str(tmp_path / "texts.txt"), None, None, None), coverage=0.8)
    tokenizer = in_transformers(make)
    net = Supernet(tiny_model(vocab_size=len(tokenizer)), Grid((1.0, 0.5), (1.0, 0.5))).eval()
    about = export_student(net, tokenizer, SPEC, tmp_path / "student", options=ExportOptions(vocabulary=wish))
    assert about["vocabulary"]["size"] < len(tokenizer) * 0.8
    texts = [*TRAINED_ON[100:120], "una <url> nu", "漢 é"]
    check_scores(javascript(node, tmp_path / "student", "fp32", texts), expected(tmp_path / "student", texts),
                 tmp_path / "student", 1e-3)  # fmt: skip


@pytest.mark.client
@pytest.mark.real
@pytest.mark.skipif(not (SENTENCES.is_file() and (REAL_SUPERNET / "config.json").is_file()),
                    reason="needs ../shared/data/glue/sst2 and runs/sst2/width")
def test_transformers_js_agrees_on_50_real_sentences(node, tmp_path):
    supernet, tokenizer = load_supernet(REAL_SUPERNET)
    export_student(supernet, tokenizer, SubnetSpec(0.5, 1.0), tmp_path / "student")
    texts = [line.split("\t")[0] for line in SENTENCES.read_text(encoding="utf-8").splitlines()[1:51]]
    results = javascript(node, tmp_path / "student", "fp32", texts)
    check_scores(results, expected(tmp_path / "student", texts), tmp_path / "student", 1e-3)
    rows = json.loads(run(ONNXRUNTIME_ALONE, tmp_path / "student", json.dumps(texts)))
    np.testing.assert_allclose(rows, expected(tmp_path / "student", texts), atol=1e-4)


# --- the card's own words --------------------------------------------------------------------------------------------

NEEDS = {"import openvino": "openvino"}


def snippets(directory, language):
    return re.findall(rf"```{language}\n(.*?)```", (directory / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_snippets_of_the_model_card_run_as_they_stand(student):
    codes = snippets(student, "python")
    assert len(codes) == 4
    for code in codes:
        if all(word not in code or importlib.util.find_spec(package) for word, package in NEEDS.items()):
            trusted = "trust_remote_code" in code
            blocked = "import sys; sys.modules['dynackd'] = None\n" if trusted else ""
            assert run(blocked + code, cwd=student.parent).strip()


def test_the_card_of_a_stock_checkpoint_loads_it_without_dynackd(tmp_path):
    options = ExportOptions(compat=True, fixed=Fixed(2, 16))
    export_student(supernet_of(), tiny_tokenizer(), SPEC, tmp_path / "student", options=options)
    code, onnxruntime_code, *_ = snippets(tmp_path / "student", "python")
    assert "label" in run("import sys; sys.modules['dynackd'] = None\n" + code, cwd=tmp_path)
    assert run(onnxruntime_code, cwd=tmp_path).strip()
    assert not snippets(tmp_path / "student", "js")


def javascript_card(directory, place):
    """What the card's snippet prints, run in `place`."""
    (code,) = snippets(directory, "js")
    (place / "node_modules").symlink_to(CLIENTS / "node_modules")
    # A program tells transformers.js where its models lie and that none comes from elsewhere.
    local = "import { env } from '@huggingface/transformers';\nenv.allowRemoteModels = false;\n"
    where = f"env.localModelPath = {json.dumps(str(directory.parent))};\n"
    (place / "card.mjs").write_text(local + where + code)
    done = subprocess.run(["node", "card.mjs"], cwd=place, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.client
def test_the_javascript_snippet_of_the_model_card_runs_as_it_stands(node, student, tmp_path):
    assert "label" in javascript_card(student, tmp_path)


def student_of_kind(directory, **config):
    net = Supernet(tiny_model(**config), Grid((1.0, 0.5), (1.0, 0.5))).eval()
    export_student(net, tiny_tokenizer(), SPEC, directory)
    return directory


@pytest.mark.client
def test_transformers_js_gives_the_probability_of_each_of_several_labels(node, tmp_path):
    config = {"num_labels": 3, "problem_type": "multi_label_classification", "dynackd_kind": "multi_label"}
    directory = student_of_kind(tmp_path / "student", **config)
    printed = javascript_card(directory, tmp_path)
    found = dict(re.findall(r"label: '(\w+)', score: ([\d.e-]+)", printed))
    probabilities = 1 / (1 + np.exp(-expected(directory, ["a fine film"])[0]))
    assert [float(found[f"LABEL_{i}"]) for i in range(3)] == pytest.approx(probabilities.tolist(), abs=1e-3)


@pytest.mark.client
def test_transformers_js_gives_the_scores_of_a_reranker(node, tmp_path):
    directory = student_of_kind(tmp_path / "student", num_labels=1, dynackd_kind="ranking")
    found = [float(number) for number in re.findall(r"-?\d+\.\d+", javascript_card(directory, tmp_path))]
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    pairs = [["how was the film"] * 2, ["a fine film", "a cold day"]]
    batch = AutoTokenizer.from_pretrained(directory)(*pairs, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert found == pytest.approx(model(**batch).logits[:, 0].tolist(), abs=1e-4)
