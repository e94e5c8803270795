"""A student directory's tokenizer gives every client the tokens that the network was trained and measured with."""

import json

import pytest
from conftest import tiny_model, tiny_tokenizer, write_rows
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer

import dynackd.deploy.export
from dynackd.data.sources import resolve_source
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.tokenizer_files import SAMPLES, check_saved_tokenizer, save_tokenizer
from dynackd.deploy.validation import load_validation
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.onnx.graphs import Fixed
from dynackd.subnet import SubnetSpec
from dynackd.supernet.checkpoints import load_tokenizer
from dynackd.supernet.network import Supernet
from dynackd.tasks.task import resolve_task

SPEC = SubnetSpec(0.5, 0.5)
LONG = "a the film book day was is very quite and one two"  # ids 14 to 25


@pytest.fixture
def net():
    return Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5))).eval()


def loaded(directory, **changes):
    """The tiny tokenizer as a user's directory gives it, with changes in its tokenizer_config.json."""
    tiny_tokenizer().save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return load_tokenizer(str(directory), tiny_model().config)


def tokens_of_all_clients(directory, *texts):
    """Ids from transformers and from tokenizer.json alone, without padding."""
    encoding = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(*texts)
    alone = [i for i, mask in zip(encoding.ids, encoding.attention_mask, strict=True) if mask]
    return [AutoTokenizer.from_pretrained(directory)(*texts, truncation=True)["input_ids"], alone]


@pytest.mark.parametrize(("side", "kept"), [("left", [23, 24, 25]), ("right", [14, 15, 16])])
@pytest.mark.parametrize("fixed", [None, 8])
def test_every_client_cuts_where_and_on_the_side_that_the_training_did(net, tmp_path, side, kept, fixed):
    tokenizer = loaded(tmp_path / "own", truncation_side=side)
    options = ExportOptions(max_length=5, fixed=Fixed(length=fixed))
    tokenizer("what the last call set", truncation=True, max_length=3, padding="max_length")
    about = export_student(net, tokenizer, SPEC, tmp_path / "student", options=options)
    assert tokens_of_all_clients(tmp_path / "student", LONG) == [[2, *kept, 3]] * 2
    assert (about["max_length"], about["truncation_side"], about["max_positions"]) == (5, side, 48)
    assert f"Texts are cut at 5 tokens, on the {side}." in (tmp_path / "student" / "README.md").read_text()
    padded = Tokenizer.from_file(str(tmp_path / "student" / "tokenizer.json")).encode("a film").ids
    assert padded == [2, 14, 16, 3] + [0] * (4 if fixed else 0)


def test_a_side_that_was_set_in_memory_is_saved(net, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.truncation_side = "left"
    export_student(net, tokenizer, SPEC, tmp_path / "student", options=ExportOptions(max_length=4))
    assert tokens_of_all_clients(tmp_path / "student", LONG) == [[2, 24, 25, 3]] * 2
    pair = tokenizer([LONG], ["a"], truncation=True, max_length=5)["input_ids"][0]
    export_student(net, tokenizer, SPEC, tmp_path / "pairs", options=ExportOptions(max_length=5))
    assert tokens_of_all_clients(tmp_path / "pairs", LONG, "a") == [pair] * 2


def test_without_a_word_about_the_training_the_limit_is_the_models(net, tmp_path):
    about = export_student(net, tiny_tokenizer(), SPEC, tmp_path / "a")
    assert about["max_length"] == 48
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    assert export_student(net, tokenizer, SPEC, tmp_path / "b")["max_length"] == 48
    tokenizer.model_max_length = 9
    assert export_student(net, tokenizer, SPEC, tmp_path / "c")["max_length"] == 9


def test_another_limit_than_the_trainings_is_said(net, tmp_path):
    facts = {"trained_max_length": 16}
    for limit, words in ((16, ", as in the training."), (32, "; in the training they were at 16.")):
        place = tmp_path / str(limit)
        export_student(net, tiny_tokenizer(), SPEC, place, facts=facts, options=ExportOptions(max_length=limit))
        assert f"Texts are cut at {limit} tokens, on the right{words}" in (place / "README.md").read_text()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda content: content["truncation"].update(direction="Left"), "read by tokenizer.json"),
        (lambda content: content["truncation"].update(max_length=7), "read by tokenizer.json"),
        (lambda content: content["post_processor"].update(single=content["post_processor"]["single"][1:]), "turns ''"),
        (lambda content: content["model"]["vocab"].update({"a": 5, "fine": 14}), r"\(5, 0\) at place 1, not \(14, 0\)"),
    ],
)
def test_a_saved_tokenizer_with_other_tokens_is_refused_and_nothing_kept(net, tmp_path, monkeypatch, harm, reason):
    def save(tokenizer, limit, fixed, directory):
        save_tokenizer(tokenizer, limit, fixed, directory)
        file = directory / "tokenizer.json"
        content = json.loads(file.read_text())
        harm(content)
        file.write_text(json.dumps(content))

    monkeypatch.setattr(dynackd.deploy.export, "save_tokenizer", save)
    with pytest.raises(UserError, match=rf"{reason}.* as in the training; nothing was written"):
        export_student(net, tiny_tokenizer(), SPEC, tmp_path / "student", options=ExportOptions(max_length=6))
    assert list(tmp_path.iterdir()) == []


def test_the_rows_of_the_validation_are_compared_too(net, tmp_path):
    write_rows(tmp_path / "v.tsv", 20, 2)
    task = resolve_task({"kind": "classification", "text": "sentence", "label": "label"})
    source = resolve_source({"validation": str(tmp_path / "v.tsv"), "max_length": 16}, task.hub)
    tokenizer = tiny_tokenizer()
    validation = load_validation(task, source, net.model, tokenizer)
    assert len(validation.texts) == 20
    assert all(isinstance(text, str) for (text,) in validation.texts)
    save_tokenizer(tokenizer, 16, None, tmp_path / "saved")
    file = tmp_path / "saved" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["quite"], content["model"]["vocab"]["very"] = 21, 22
    file.write_text(json.dumps(content))
    assert not any("quite" in text or "very" in text for texts in SAMPLES for text in texts)
    check_saved_tokenizer(tokenizer, 16, tmp_path / "saved")
    with pytest.raises(UserError, match="nothing was written"):
        check_saved_tokenizer(tokenizer, 16, tmp_path / "saved", validation.texts)


def test_what_a_normalizer_does_reaches_every_client(net, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    export_student(net, tokenizer, SPEC, tmp_path / "student")
    assert tokens_of_all_clients(tmp_path / "student", "A FILM") == [[2, 14, 16, 3]] * 2
