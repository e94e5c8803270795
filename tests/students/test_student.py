"""Students in PyTorch: what people do with a model works on them, and a hostile directory does nothing."""

import ast
import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import tiny_batch, tiny_model, tiny_tokenizer, uneven_student
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

import dynackd
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.errors import UserError
from dynackd.families.table import family_of
from dynackd.grid import Grid
from dynackd.students.cutting import cut
from dynackd.students.loading import load_student
from dynackd.students.stock import stock_heads, stock_model
from dynackd.students.travel import CODE_FILE, code_of
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Origin, Supernet

SPEC = SubnetSpec(0.75, 0.5)


@pytest.fixture
def supernet(family):
    grid = Grid((1.0, 0.75, 0.5), (1.0, 0.5))
    return Supernet(tiny_model(family, num_labels=3), grid, Origin("depth", "some/teacher")).eval()


@pytest.fixture
def student(supernet):
    return cut(supernet, supernet.resolve(SPEC))


@pytest.fixture
def directory(student, tmp_path):
    student.save_pretrained(tmp_path / "student")
    tiny_tokenizer().save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def logits(model):
    with torch.no_grad():
        return model(**tiny_batch()).logits


# --- what people do with a model -------------------------------------------------------------------------------------


def test_the_auto_classes_and_the_pipeline_load_it_bit_for_bit(student, directory):
    loaded = AutoModelForSequenceClassification.from_pretrained(directory)
    assert type(loaded) is type(student)
    assert torch.equal(logits(loaded), logits(student))
    inputs = AutoTokenizer.from_pretrained(directory)("a fine film", return_tensors="pt")
    with torch.no_grad():
        expected = student(**inputs).logits.softmax(-1).max().item()
    (result,) = pipeline("text-classification", str(directory))("a fine film")
    assert result["score"] == pytest.approx(expected, abs=1e-6)


def test_the_config_carries_what_the_student_is(family, directory):
    config = AutoConfig.from_pretrained(directory)
    assert config.model_type == f"dynackd-{family}"
    # Hidden 32 over the teacher's 4 heads, not over the 3 that are left; EuroBERT's 4 are groups of two.
    assert config.head_size == (4 if family == "eurobert" else 8)
    assert (config.layer_heads, config.layer_neurons, config.kept_layers) == ([3, 3], [30, 30], [1, 3])
    assert getattr(config, family_of(config).layers_key) == 2
    assert config.dynackd == {"width": 0.75, "depth": 0.5, "teacher": "some/teacher", "teacher_sha256": None}
    assert config.num_labels == 3


def test_saving_loading_and_saving_again_changes_no_byte(directory, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(directory).save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_loaded_student_is_fine_tuned_with_the_stock_trainer(directory, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    before = logits(model.eval())
    rows = [{"input_ids": [2, 5, 6, 3], "attention_mask": [1] * 4, "labels": i % 3} for i in range(8)]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tiny_tokenizer())
    trainer.train()
    trainer.save_model(str(tmp_path / "tuned"))
    tuned, _ = load_student(tmp_path / "tuned")
    assert torch.equal(logits(tuned), logits(model.eval()))
    assert not torch.equal(logits(tuned), before)
    assert tuned.config.layer_heads == [3, 3]


def test_push_to_hub_uploads_what_loads_again(student, tmp_path, monkeypatch):
    import transformers.utils.hub as hub

    def upload(self, folder, repo_id, *args, **kwargs):
        shutil.copytree(folder, tmp_path / "hub", dirs_exist_ok=True)

    class Api:
        def create_repo(self, repo_id, **kwargs):
            return type("Repo", (), {"repo_id": repo_id})

    monkeypatch.setattr(hub, "hf_api", Api)
    card = type("Card", (), {"save": lambda self, path: None})()
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *arguments, **options: card)
    monkeypatch.setattr(hub.PushToHubMixin, "_upload_modified_files", upload)
    student.push_to_hub("me/student")
    tiny_tokenizer().push_to_hub("me/student")
    assert {file.name for file in (tmp_path / "hub").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }
    assert torch.equal(logits(load_student(tmp_path / "hub")[0]), logits(student))


# --- code that travels -----------------------------------------------------------------------------------------------

WITHOUT_DYNACKD = """
import sys
sys.modules["dynackd"] = None  # an import of it fails
import torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
batch = torch.load(sys.argv[2])
torch.save(model(**batch).logits.detach(), sys.argv[3])
model.save_pretrained(sys.argv[4])
"""


def test_the_code_that_travels_imports_torch_transformers_and_pythons_own_only(student):
    imported = set()
    for node in ast.walk(ast.parse(code_of(student))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"collections.abc", "contextlib", "torch", "transformers", "typing"}


def test_a_student_with_its_code_loads_without_dynackd_and_is_saved_with_it(supernet, student, tmp_path):
    place = tmp_path / "student"
    about = export_student(supernet, tiny_tokenizer(), SPEC, place, options=ExportOptions(with_code=True))
    assert about["with_code"] == CODE_FILE
    torch.save(tiny_batch(), tmp_path / "batch")
    files = [place, tmp_path / "batch", tmp_path / "logits", tmp_path / "again"]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_DYNACKD, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits"), logits(student))
    assert (tmp_path / "again" / CODE_FILE).read_text() == (place / CODE_FILE).read_text()


def test_with_dynackd_the_code_that_travels_is_never_run(supernet, student, tmp_path):
    place = tmp_path / "student"
    export_student(supernet, tiny_tokenizer(), SPEC, place, options=ExportOptions(with_code=True))
    (place / CODE_FILE).write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    for model in (
        load_student(place)[0],
        AutoModelForSequenceClassification.from_pretrained(place),
        AutoModelForSequenceClassification.from_pretrained(place, trust_remote_code=True),  # ours is the local code
    ):
        assert torch.equal(logits(model), logits(student))
    assert not (tmp_path / "pwned").exists()
    model.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())


# --- stock checkpoints -----------------------------------------------------------------------------------------------


def test_a_compat_export_is_a_stock_checkpoint_of_the_same_function(family, supernet, tmp_path):
    # ModernBERT's stock checkpoints hold the first layer, or none.
    spec = SubnetSpec(0.75, 1.0) if family == "modernbert" else SPEC
    student = cut(supernet, supernet.resolve(spec))
    about = export_student(supernet, tiny_tokenizer(), spec, tmp_path / "s", options=ExportOptions(compat=True))
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["model_type"] == family
    assert not [key for key in config if key.startswith("dynackd") or key in {"layer_heads", "head_size"}]
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s", output_loading_info=True)
    assert type(loaded).__module__.startswith("transformers.")
    assert not info["missing_keys"] | info["unexpected_keys"]
    torch.testing.assert_close(logits(loaded), logits(student), atol=1e-6, rtol=0)
    # What it costs is told, and true.
    assert about["compat"]["parameters"] == sum(p.numel() for p in loaded.parameters()) > about["parameters"]
    loaded.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded(input_ids=torch.ones(1, about["flops"]["length"], dtype=torch.long))
    assert about["compat"]["flops"] == counter.get_total_flops() > about["flops"]["student"]


@pytest.mark.parametrize("heads", [(2, 2, 2, 2), (1, 3, 2, 4), (3, 3, 3, 3), (1, 1, 1, 1), (1, 2, 1, 2)])
def test_padding_is_exact_for_every_number_of_heads_alike_or_not(family, heads):
    student = uneven_student(family, heads)
    torch.testing.assert_close(logits(stock_model(student)), logits(student), atol=1e-5, rtol=0)


def test_the_heads_of_a_stock_checkpoint_divide_its_hidden_size():
    assert [stock_heads(384, 32, heads) for heads in (1, 3, 6, 9, 12)] == [1, 3, 6, 12, 12]
    with pytest.raises(UserError, match="no stock checkpoint can hold 13 heads of size 32"):
        stock_heads(384, 32, 13)
    with pytest.raises(UserError, match="exclude each other"):
        ExportOptions(compat=True, with_code=True)


# --- hostile directories ---------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def edit_config(directory, **changes):
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**content, **changes}))


def edit_weights(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def query(tensors):
    return next(name for name in tensors if "query.weight" in name)


def truncated(directory):
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[: len(content) // 2])


def pickled(directory):
    (directory / "model.safetensors").unlink()
    with open(directory / "pytorch_model.bin", "wb") as file:
        pickle.dump(Bomb(directory / "pwned"), file)


def disguised_pickle(directory):
    with open(directory / "model.safetensors", "wb") as file:
        pickle.dump(Bomb(directory / "pwned"), file)


def outside(name):
    def change(directory):
        elsewhere = directory.parent / f"elsewhere-{name}"
        (directory / name).rename(elsewhere)
        (directory / name).symlink_to(elsewhere)

    return change


# name -> (what was done to the directory, what the sentence says, what plain AutoModel does: an error or "loads")
HOSTILE = {
    "no config": (lambda d: (d / "config.json").unlink(), "holds no config.json", "error"),
    "no tokenizer": (lambda d: (d / "tokenizer_config.json").unlink(), "holds no tokenizer_config.json", "loads"),
    "config cut off": (lambda d: (d / "config.json").write_text("{"), "config.json is damaged", "error"),
    "config of a list": (lambda d: (d / "config.json").write_text("[]"), "model type None", "error"),
    "deep config": (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json", "error"),
    "foreign model": (lambda d: edit_config(d, model_type="gpt2"), "of model type 'gpt2'", "loads"),
    "stock model": (lambda d: edit_config(d, model_type="bert"), "but a stock model, for transformers alone", "error"),
    "another family": (lambda d: edit_config(d, model_type="dynackd-distilbert"), "and family 'bert'", "loads"),
    "truncated": (truncated, "is damaged or truncated", "error"),
    "missing tensor": (lambda d: edit_weights(d, lambda t: t.pop(query(t))), "lacks 'bert.encoder", "loads"),
    "wrong shape": (
        lambda d: edit_weights(d, lambda t: t.update({query(t): t[query(t)][:8]})), "is of shape [8, 32]", "error",
    ),
    "extra tensor": (
        lambda d: edit_weights(d, lambda t: t.update(more=torch.ones(1))), "holds 'more', which no such", "loads",
    ),
    "integer weights": (
        lambda d: edit_weights(d, lambda t: t.update({query(t): t[query(t)].long()})), "is of type I64", "loads",
    ),
    "pickle": (pickled, "holds no model.safetensors (weights in other formats can run code", "error"),
    "disguised pickle": (disguised_pickle, "is damaged or truncated", "error"),
    "absurd heads": (lambda d: edit_config(d, layer_heads=[10**9] * 2), "layer_heads holds 1000000000", "error"),
    "no heads": (lambda d: edit_config(d, layer_heads=[0, 3]), "layer_heads holds 0", "error"),
    "negative neurons": (lambda d: edit_config(d, layer_neurons=[-1, 3]), "layer_neurons holds -1", "error"),
    "heads of text": (lambda d: edit_config(d, layer_heads=["3", "3"]), "layer_heads holds '3'", "error"),
    "heads missing": (lambda d: edit_config(d, layer_heads=None), "layer_heads must list one number", "error"),
    "too few heads": (lambda d: edit_config(d, layer_heads=[3]), "layer_heads must list one number", "error"),
    "billion layers": (lambda d: edit_config(d, num_hidden_layers=10**9), "must list one number", "skip"),
    "huge hidden": (lambda d: edit_config(d, hidden_size=2**40, head_size=2**38), "describes no model", "skip"),
    "large hidden": (lambda d: edit_config(d, hidden_size=2**20, head_size=2**18), "is of shape", "skip"),
    "zero heads": (lambda d: edit_config(d, num_attention_heads=0), "not understood", "error"),
    "uneven hidden": (lambda d: edit_config(d, num_attention_heads=5), "hidden size 32 over 5 heads", "error"),
    "false head size": (lambda d: edit_config(d, head_size=9), "head_size 9", "loads"),
    "unknown activation": (lambda d: edit_config(d, hidden_act="evil"), "describes no model", "error"),
    "link to weights": (outside("model.safetensors"), "model.safetensors is a link to", "loads"),
    "link to vocabulary": (outside("tokenizer.json"), "tokenizer.json is a link to", "loads"),
    "link to config": (outside("config.json"), "config.json is a link to", "loads"),
    "adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), "another model's weights", "loads"),
    "quantisation": (
        lambda d: edit_config(d, quantization_config={"quant_method": "gptq"}), "'quantization_config'", "skip",
    ),
    "kernel": (lambda d: edit_config(d, attn_implementation="evil/kernel"), "'attn_implementation'", "skip"),
    "hidden kernel": (lambda d: edit_config(d, _attn_implementation="evil/kernel"), "'_attn_implementation'", "skip"),
    "tokenizer code": (
        lambda d: (d / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Python"}}'),
        "its tokenizer cannot be read", "loads",
    ),
}


@pytest.fixture
def bert_directory(tmp_path):
    net = Supernet(tiny_model("bert", num_labels=3), Grid((1.0, 0.75), (1.0, 0.5)))
    cut(net, net.resolve(SPEC)).save_pretrained(tmp_path / "student")
    tiny_tokenizer().save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def test_an_intact_student_loads(directory, student):
    model, tokenizer = load_student(directory)
    assert torch.equal(logits(model), logits(student))
    assert not model.training
    assert tokenizer("a fine film")["input_ids"][0] == 2
    assert dynackd.load_student is load_student


def test_the_hubs_cache_of_links_to_its_own_blobs_is_accepted(bert_directory, tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in bert_directory.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    load_student(snapshot)


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_directory_is_refused_in_one_sentence_and_runs_nothing(bert_directory, name):
    change, message, _ = HOSTILE[name]
    change(bert_directory)
    with pytest.raises(UserError) as refusal:
        load_student(bert_directory)
    assert message in str(refusal.value)
    assert str(bert_directory) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (bert_directory / "pwned").exists()


@pytest.mark.parametrize("name", [name for name, (_, _, outcome) in HOSTILE.items() if outcome != "skip"])
def test_what_plain_transformers_makes_of_a_hostile_directory(bert_directory, name):
    """Why `load_student` exists. Nothing is executed either way, but some directories load without an error: missing
    weights are replaced by random ones, another architecture gets none of them, links are followed. (Skipped are those
    that take the machine's memory, or ask for packages that are not installed.)"""
    change, _, outcome = HOSTILE[name]
    change(bert_directory)
    try:
        AutoModelForSequenceClassification.from_pretrained(bert_directory)
        result = "loads"
    except Exception:  # of many kinds
        result = "error"
    assert result == outcome
    assert not (bert_directory / "pwned").exists()


def test_a_tokenizers_own_code_is_not_run(bert_directory):
    (bert_directory / "evil.py").write_text(f"open({str(bert_directory / 'pwned')!r}, 'w')\nclass Evil: pass\n")
    file = bert_directory / "tokenizer_config.json"
    content = json.loads(file.read_text())
    for changes in ({}, {"tokenizer_class": "Evil"}):
        file.write_text(json.dumps({**content, **changes, "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}))
        with contextlib.suppress(UserError):
            load_student(bert_directory)
        assert not (bert_directory / "pwned").exists()


def test_what_is_no_directory_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no student directory"):
        load_student(tmp_path / "nothing")


def test_a_supernet_is_told_to_be_one(tmp_path):
    Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5))).save(tmp_path / "depth", tiny_tokenizer())
    with pytest.raises(UserError, match=r"depth is no student of .*, but a supernet, for dynackd.load_supernet"):
        load_student(tmp_path / "depth")
