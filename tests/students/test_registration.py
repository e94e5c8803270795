"""`import dynackd` costs nothing, and transformers loads students after it whatever was imported first."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import tiny_model, tiny_tokenizer

import dynackd
from dynackd.grid import Grid
from dynackd.students.cutting import cut
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Origin, Supernet

LOADED = """
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
print(type(model).__name__, type(model.config).__name__, model.config.layer_heads)
"""
# Each is a process of its own; the last two import transformers' modules while others of them are half-made.
ORDERS = {
    "dynackd first": "import dynackd; from transformers import AutoModelForSequenceClassification",
    "transformers first": "from transformers import AutoModelForSequenceClassification; import dynackd",
    "transformers first, but not its Auto classes": "import transformers, dynackd\n"
    "from transformers import AutoModelForSequenceClassification",
    "a tokenizer before the model": "import dynackd; from transformers import AutoTokenizer\n"
    "AutoTokenizer.from_pretrained(sys.argv[1]); from transformers import AutoModelForSequenceClassification",
    "a model's own module first": "import dynackd, transformers.models.bert.modeling_bert\n"
    "from transformers import AutoModelForSequenceClassification",
    "dynackd's own modules first": "import dynackd.training.stages\n"
    "from transformers import AutoModelForSequenceClassification",
}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    place = tmp_path_factory.mktemp("registration") / "student"
    supernet = Supernet(tiny_model(), Grid(), Origin("depth", "some/teacher"))
    cut(supernet, supernet.resolve(SubnetSpec(0.5, 0.5))).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def run(code, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", f"import sys\n{code}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_student_loads_by_an_auto_class_whatever_is_imported_first(student):
    with ThreadPoolExecutor(2) as pool:
        told = dict(zip(ORDERS, pool.map(lambda code: run(code + LOADED, student), ORDERS.values()), strict=True))
    expected = "DynackdBertForSequenceClassification DynackdBertConfig [2, 2]\n"
    assert told == dict.fromkeys(ORDERS, expected)


def test_after_load_student_and_cut_the_other_auto_classes_still_know_students(student):
    """The config was registered then, and with it the stand-in gone that registers the models of other heads."""
    code = (
        "import dynackd, torch\n"
        "from transformers import AutoModel, AutoModelForTokenClassification\n"
        "model, _ = dynackd.load_student(sys.argv[1])\n"
        "for auto in (AutoModel, AutoModelForTokenClassification):\n"
        "    print(type(auto.from_config(model.config)).__name__)"
    )
    assert run(code, student) == "DynackdBertModel\nDynackdBertForTokenClassification\n"
    code = (
        "import dynackd\n"
        "from transformers import AutoModelForQuestionAnswering, BertConfig, BertForSequenceClassification\n"
        "from dynackd.students.cutting import cut\n"
        "net = dynackd.Supernet(BertForSequenceClassification(BertConfig(vocab_size=27, hidden_size=32, "
        "num_hidden_layers=4, num_attention_heads=4, intermediate_size=40)), dynackd.Grid())\n"
        "config = cut(net, net.resolve(dynackd.SubnetSpec(0.5, 0.5))).config\n"
        "print(type(AutoModelForQuestionAnswering.from_config(config)).__name__)"
    )
    assert run(code) == "DynackdBertForQuestionAnswering\n"


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = "import dynackd, json; dynackd.SubnetSpec(0.5, 0.5); dir(dynackd); print(json.dumps(sorted(sys.modules)))"
    assert not {"torch", "transformers", "numpy", "datasets", "onnx"} & set(json.loads(run(code)))


def test_every_public_name_is_there_and_no_other():
    for name in dynackd.__all__:
        assert getattr(dynackd, name) is not None
        assert name in dir(dynackd)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dynackd.nonsense  # noqa: B018
