"""Clients run an exported embedder: sentence-transformers gives our vectors, with and without dynackd, and the snippets
of the model card run as they stand."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import randomise, tiny_config, tiny_tokenizer
from transformers import AutoModel

from dynackd.deploy.export import ExportOptions, export_student
from dynackd.grid import Grid
from dynackd.onnx.graphs import Fixed, OnnxModel
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Supernet
from dynackd.tasks.embedding import EMBEDDING, POOLING_KEY
from dynackd.tasks.pooling import Pooling

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
TEXTS = ["a fine film", "the book was very dull and cold", "NA", "very " * 100]
SPEC = SubnetSpec(0.5, 0.5)
NEEDS = {"import openvino": "openvino", "sentence_transformers": "sentence_transformers"}
BLOCKED = "import sys; sys.modules['dynackd'] = None\n"
WAYS = {
    "dynackd": (ExportOptions(variants=("int8",)), "import dynackd\n", {}),
    "stock": (ExportOptions(compat=True), BLOCKED, {}),
    "code": (ExportOptions(with_code=True), BLOCKED, {"trust_remote_code": True}),
}
ENCODE = """
import json, sys
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu", **json.loads(sys.argv[2]))
print(json.dumps(model.encode(json.loads(sys.argv[3])).tolist()))
"""


def exported(directory, pooling, options):
    """A tiny BERT student with its files, of an encoder that has no pooler."""
    config = tiny_config("bert", dynackd_kind="embedding", **{POOLING_KEY: pooling.to_dict()})
    model = randomise(AutoModel.from_config(config, add_pooling_layer=False)).eval()
    export_student(Supernet(model, Grid((1.0, 0.5), (1.0, 0.5))), tiny_tokenizer(), SPEC, directory, options=options)
    return directory


def run(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, **options)
    assert done.returncode == 0, done.stderr
    return done


def vectors_of(directory):
    """The ONNX file's vectors, a text at a time."""
    graph, tokenizer, rows = OnnxModel(directory / "onnx" / "model.onnx", EMBEDDING), tiny_tokenizer(), []
    for text in TEXTS:
        rows.append(graph(dict(tokenizer([text], truncation=True, return_tensors="np")))["sentence_embedding"][0])
    return np.stack(rows)


@pytest.mark.client
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not "
                    "installed: pip install 'dynackd[clients]'")
@pytest.mark.parametrize("way", list(WAYS))
def test_sentence_transformers_gives_our_vectors(tmp_path, way):
    options, first, arguments = WAYS[way]
    pooling = Pooling("cls", normalize=False) if way == "code" else Pooling()
    student = exported(tmp_path / "student", pooling, options)
    done = run(first + ENCODE, student, json.dumps(arguments), json.dumps(TEXTS))
    np.testing.assert_allclose(json.loads(done.stdout), vectors_of(student), atol=1e-5)
    assert "newly initialized" not in done.stderr


def snippets(directory, language):
    return re.findall(rf"```{language}\n(.*?)```", (directory / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.client
@pytest.mark.parametrize("way", ["code", "stock"])
def test_the_python_snippets_of_the_card_run_as_they_stand(tmp_path, way):
    student = exported(tmp_path / "student", Pooling(), WAYS[way][0])
    codes = snippets(student, "python")
    assert len(codes) == {"code": 6, "stock": 4}[way]
    codes = [code for code in codes if all(word not in code or importlib.util.find_spec(package)
                                           for word, package in NEEDS.items())]  # fmt: skip
    for registers in (True, False):
        some = [code for code in codes if ("import dynackd" in code) == registers]
        if some:  # in one process: to begin takes longer than to run
            printed = run(("" if registers else BLOCKED) + "\nprint('---')\n".join(some), cwd=tmp_path).stdout
            parts = printed.split("---\n")
            assert len(parts) == len(some)
            for code, part in zip(some, parts, strict=True):
                assert re.search(r"1\.0+[,\]]", part) if "similarity" in code else part.strip()


def test_the_lines_without_libraries_print_the_vector(tmp_path):
    student = exported(tmp_path / "student", Pooling(), WAYS["stock"][0])
    (code,) = [code for code in snippets(student, "python") if "onnxruntime" in code]
    numbers = [float(number) for number in re.findall(r"-?\d\.\d+(?:e-\d+)?", run(code, cwd=tmp_path).stdout)]
    np.testing.assert_allclose(numbers, vectors_of(student)[0], atol=1e-5)


def test_a_fixed_graph_has_no_javascript_snippet_and_a_free_one_says_how_it_pools(tmp_path):
    student = exported(tmp_path / "free", Pooling("cls", normalize=False), ExportOptions())
    (code,) = snippets(student, "js")
    assert "{ pooling: 'cls', normalize: false }" in code
    student = exported(tmp_path / "fixed", Pooling(), ExportOptions(fixed=Fixed(None, 16)))
    assert not snippets(student, "js")


def test_token_states_are_there_for_clients_that_pool_themselves(tmp_path):
    student = exported(tmp_path / "student", Pooling(), ExportOptions())
    batch = dict(tiny_tokenizer()(TEXTS[:2], padding=True, return_tensors="np"))
    found = OnnxModel(student / "onnx" / "model.onnx", EMBEDDING)(batch)
    mask = batch["attention_mask"][..., None]
    pooled = (found["last_hidden_state"] * mask).sum(1) / mask.sum(1)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(found["sentence_embedding"], pooled, atol=1e-5)
