"""`export --vocabulary`: a student with fewer words gives what it gave before wherever a text is the same tokens."""

import copy
import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
import transformers
from conftest import SPECIAL, VOCABULARY, tiny_model, tiny_recipe, tiny_tokenizer, write_recipe, write_rows
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from trained_tokenizers import KINDS, PHRASES, TEXTS, byte_level_bpe, in_transformers, trained, unigram, word_piece
from trained_tokenizers import SPECIAL as SPECIAL_TOKENS
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

import dynackd.deploy.vocabulary
from dynackd.cli.command_line import main
from dynackd.data.model_labels import labels_of
from dynackd.data.sources import resolve_source
from dynackd.deploy.card import compared_told
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.gates import Gates
from dynackd.deploy.texts import read_texts
from dynackd.deploy.tokenizer_cut import choose
from dynackd.deploy.tokenizer_cut import cut as cut_json
from dynackd.deploy.validation import load_validation, torch_predictor
from dynackd.deploy.vocabulary import Reader, Wish, cut_embeddings, cut_tokenizer, with_fewer_words
from dynackd.errors import UserError
from dynackd.families.table import max_positions
from dynackd.grid import Grid
from dynackd.measure.evaluation import longest_first
from dynackd.students.cutting import cut
from dynackd.students.loading import load_student
from dynackd.subnet import SubnetSpec
from dynackd.supernet.network import Origin, Supernet
from dynackd.tasks.task import resolve_task
from dynackd.tasks.tokens import id_of_unknown

SPEC = SubnetSpec(0.5, 0.5)
KEPT = ["fine", "great", "awful", "dull", "a", "film", "is"]  # in the order of their ids
LINES = [f"a {adjective} film" for adjective in KEPT[:4]] * 6 + ["a film is fine"] * 4
TASK = {"kind": "classification", "text": "sentence", "label": "label"}


def supernet_of(family="bert", **changes):
    return Supernet(tiny_model(family, **changes), Grid((1.0, 0.5), (1.0, 0.5))).eval()


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(LINES) + "\n")
    return read_texts(str(tmp_path / "texts.txt"), None, None, None)


def exported(net, place, texts, tokenizer=None, validation=None, wish=None, **options):
    options = ExportOptions(vocabulary=Wish(texts, **(wish or {"coverage": 1.0})), **options)
    return export_student(net, tokenizer or tiny_tokenizer(), SPEC, place, options=options, validation=validation)


def logits(model, tokenizer, text):
    """Of a copy, whose weights lie in memory as those of any other copy: where they lie decides the last digit."""
    with torch.no_grad():
        return copy.deepcopy(model)(**tokenizer(text, return_tensors="pt")).logits


def test_the_student_of_every_family_gives_the_same_with_fewer_words(family, texts, tmp_path):
    net = supernet_of(family)
    about = exported(net, tmp_path / "s", texts, variants=("int8",))
    small, tokenizer = load_student(tmp_path / "s")
    assert tokenizer.convert_ids_to_tokens(range(11)) == [*SPECIAL, *KEPT]
    assert small.config.vocab_size == small.get_input_embeddings().num_embeddings == 11
    whole = cut(net, net.resolve(SPEC))
    for text in set(LINES):
        assert torch.equal(logits(small, tokenizer, text), logits(whole, tiny_tokenizer(), text))
    assert about["parity_max_abs_diff"] <= 1e-5
    assert about["parameters"] == sum(own.numel() for own in small.parameters())
    assert about["parameters"] == sum(own.numel() for own in whole.parameters()) - 16 * small.get_input_embeddings(
    ).embedding_dim  # fmt: skip
    assert max_positions(small.config) == max_positions(whole.config)
    assert about["vocabulary"]["held_out"] == {
        "texts": 2, "differ": 0.0, "tokens_before": 5.0, "tokens_after": 5.0, "compared": 2,
    }  # fmt: skip


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_student_with_a_tokenizer_of_every_model_reads_as_before(make, tmp_path):
    """By transformers and by tokenizer.json alone."""
    (tmp_path / "texts.txt").write_text("\n".join(PHRASES[:200]))
    tokenizer = in_transformers(make)
    net = supernet_of(vocab_size=len(tokenizer))
    own = read_texts(str(tmp_path / "texts.txt"), None, None, None)
    words = exported(net, tmp_path / "s", own, tokenizer, wish={"coverage": 0.9})["vocabulary"]
    assert words["size"] < len(tokenizer) * 0.9
    assert 0 < words["held_out"]["differ"] < 1
    assert 0.9 <= words["coverage"] < 1
    small, loaded = load_student(tmp_path / "s")
    alone, whole, same = Tokenizer.from_file(str(tmp_path / "s" / "tokenizer.json")), cut(net, net.resolve(SPEC)), 0
    for text in PHRASES[200:300]:
        assert alone.encode(text).ids == loaded(text)["input_ids"]
        if alone.encode(text).tokens == tokenizer.tokenize(text, add_special_tokens=True):
            assert torch.equal(logits(small, loaded, text), logits(whole, tokenizer, text))
            same += 1
    assert same > 20


CLASSES = {
    "BertTokenizer": (word_piece, {}),
    "DistilBertTokenizer": (word_piece, {}),
    "RobertaTokenizer": (byte_level_bpe, {"merges"}),
    "XLMRobertaTokenizer": (unigram, {}),
    "CamembertTokenizer": (unigram, {}),
    "DebertaV2Tokenizer": (unigram, {}),
}
NAMED = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL_TOKENS, strict=True))


@pytest.mark.parametrize("name", CLASSES)
def test_tokenizer_classes_that_transformers_builds_itself_follow(name, tmp_path):
    """From the words of tokenizer.json and nothing else of it."""
    make, more = CLASSES[name]
    model = json.loads(trained(make).to_str())["model"]
    vocab = [tuple(own) for own in model["vocab"]] if isinstance(model["vocab"], list) else model["vocab"]
    merges = {"merges": [tuple(pair) for pair in model["merges"]]} if more else {}
    made = getattr(transformers, name)(vocab=vocab, **merges, **NAMED, bos_token="[CLS]", eos_token="[SEP]")
    made.add_tokens(["<url>"])
    made.save_pretrained(tmp_path / "whole")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    counts = [0] * len(tokenizer)
    for ids in tokenizer(PHRASES[:100], add_special_tokens=False)["input_ids"]:
        for number in ids:
            counts[number] += 1
    small, order = cut_tokenizer(tokenizer, choose(content, counts, tokenizer.all_special_ids, coverage=0.8))
    assert type(small) is type(tokenizer) is getattr(transformers, name)
    assert len(order) == len(small) < len(tokenizer)
    same = 0
    for text in [*PHRASES, "una <url> nu", "漢 é"]:
        before, after = tokenizer(text, text), small(text, text)
        if set(before["input_ids"]) <= set(order):
            assert [order[number] for number in after["input_ids"]] == before["input_ids"]
            assert after.get("token_type_ids") == before.get("token_type_ids")
            same += 1
    assert same > 40


@pytest.mark.parametrize("graph", ["plain", "fused"])
def test_the_sizes_with_all_words_are_those_of_an_export_with_all_words(graph, texts, tmp_path):
    net, variants = supernet_of(), ("int8", "fp16")
    small = exported(net, tmp_path / "small", texts, variants=variants, graph=graph)["files"]
    options = ExportOptions(variants=variants, graph=graph)
    whole = export_student(net, tiny_tokenizer(), SPEC, tmp_path / "whole", options=options)["files"]
    for name in ("onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_fp16.onnx"):
        assert small[name]["size_bytes"] < whole[name]["size_bytes"]
        assert abs(small[name]["whole_size_bytes"] - whole[name]["size_bytes"]) < 300
    tables = onnx.load(tmp_path / "small" / "onnx" / "model.onnx").graph.initializer
    assert [len(onnx.numpy_helper.to_array(own)) for own in tables if "word_embeddings" in own.name] == [11]


def test_every_file_of_a_directory_names_the_new_ids(texts, tmp_path):
    """The special tokens stand behind all others here, so that all of their ids change."""
    words = [*VOCABULARY[4:], "</s>", "<unk>", "<s>", "<pad>"]
    content = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    ids = {word: number for number, word in enumerate(words)}
    content["model"]["vocab"] = ids
    for own in content["added_tokens"]:
        own["id"] = ids[own["content"]]
    for name, own in content["post_processor"]["special_tokens"].items():
        own["ids"] = [ids[name]]
    tiny_tokenizer().save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "own")
    net = supernet_of(pad_token_id=26, bos_token_id=25, eos_token_id=[23], sep_token_id=300)
    about = exported(net, tmp_path / "s", texts, tokenizer, with_code=True)
    assert about["vocabulary"]["size"] == 11
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    named = {key: value for key, value in config.items() if key.endswith("_token_id")}
    assert named == {"pad_token_id": 10, "bos_token_id": 9, "eos_token_id": [7], "sep_token_id": None}
    assert config["vocab_size"] == 11
    alone = Tokenizer.from_file(str(tmp_path / "s" / "tokenizer.json"))
    assert alone.encode("a fine book").ids == [9, 4, 0, 8, 7]
    assert alone.get_vocab() == {word: n for n, word in enumerate([*KEPT, "</s>", "<unk>", "<s>", "<pad>"])}
    assert AutoTokenizer.from_pretrained(tmp_path / "s").pad_token_id == 10
    written = json.loads((tmp_path / "s" / "tokenizer_config.json").read_text())
    assert all(int(number) < 11 for number in written.get("added_tokens_decoder", {}))
    assert {file.name for file in (tmp_path / "s").iterdir() if "token" in file.name or "vocab" in file.name} == {
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    with_code = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s", trust_remote_code=True)
    whole = cut(net, net.resolve(SPEC))
    assert torch.equal(logits(with_code, AutoTokenizer.from_pretrained(tmp_path / "s"), "a dull film"),
                       logits(whole, tokenizer, "a dull film"))  # fmt: skip


def test_files_that_hold_ids_or_words_beside_tokenizer_json_follow_or_go(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer()
    save = type(tokenizer).save_pretrained

    def save_more(self, directory, **options):
        save(self, directory, **options)
        (directory / "vocab.txt").write_text("\n".join(VOCABULARY))
        file = directory / "tokenizer_config.json"
        decoder = {"26": {"content": "NA", "special": True}, "3": {"content": "</s>", "special": True}}
        file.write_text(json.dumps({**json.loads(file.read_text()), "added_tokens_decoder": decoder}))

    monkeypatch.setattr(type(tokenizer), "save_pretrained", save_more)
    small, order = cut_tokenizer(tokenizer, {0, 1, 2, 3, 9, 26})
    monkeypatch.undo()
    assert order == [0, 1, 2, 3, 9, 26]
    assert small.get_vocab() == {**dict(zip(SPECIAL, range(4), strict=True)), VOCABULARY[9]: 4, "NA": 5}
    assert all(number < 6 for number in small.init_kwargs.get("added_tokens_decoder", {}))
    small.save_pretrained(tmp_path / "s")
    assert {file.name for file in (tmp_path / "s").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_a_stock_checkpoint_has_the_smaller_vocabulary_too(texts, tmp_path):
    net = supernet_of("roberta")
    exported(net, tmp_path / "s", texts, compat=True)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").eval()
    assert stock.config.model_type == "roberta"
    assert stock.config.vocab_size == 11
    found = logits(stock, AutoTokenizer.from_pretrained(tmp_path / "s"), "a dull film")
    torch.testing.assert_close(found, logits(cut(net, net.resolve(SPEC)), tiny_tokenizer(), "a dull film"), atol=1e-5,
                               rtol=0)  # fmt: skip


@pytest.mark.parametrize(("family", "pad"), [("roberta", 8), ("mpnet", 1)])
def test_positions_that_are_counted_from_the_padding_stay(family, pad, texts, tmp_path):
    """All tokens up to the padding keep their ids: a RoBERTa begins to count there, an MPNet at 1 in any case."""
    model = tiny_model(family, pad_token_id=pad, max_position_embeddings=49 + pad)
    net, tokenizer = Supernet(model, Grid((1.0, 0.5), (1.0, 0.5))).eval(), tiny_tokenizer()
    tokenizer.pad_token = VOCABULARY[pad]
    exported(net, tmp_path / "s", texts, tokenizer)
    small, mine = load_student(tmp_path / "s")
    assert mine.pad_token_id == pad
    assert list(VOCABULARY[: pad + 1]) == mine.convert_ids_to_tokens(range(pad + 1))
    whole, rows = cut(net, net.resolve(SPEC)), ["a dull film", "a film is great"]
    outputs = []
    for own, reader in ((small, mine), (whole, tokenizer)):
        with torch.no_grad():
            outputs.append(own(**reader(rows, padding=True, return_tensors="pt")).logits)
    assert torch.equal(*outputs)


def test_rows_of_the_embeddings_that_no_token_has_are_dropped(texts, tmp_path):
    """Tables are often filled up to a multiple of 64."""
    net = supernet_of(vocab_size=64)
    about = exported(net, tmp_path / "s", texts)
    assert (about["vocabulary"]["rows"], about["vocabulary"]["tokens"], about["vocabulary"]["size"]) == (64, 27, 11)
    assert load_student(tmp_path / "s")[0].config.vocab_size == 11


def test_a_tokenizer_that_is_read_as_another_than_was_written_is_refused(monkeypatch):
    honest = AutoTokenizer.from_pretrained

    def read(place, **options):
        found = honest(place, **options)
        found.add_tokens(["more"])
        return found

    monkeypatch.setattr(dynackd.deploy.vocabulary.AutoTokenizer, "from_pretrained", read)
    with pytest.raises(UserError, match=r"transformers reads the smaller tokenizer.json of a"):
        cut_tokenizer(tiny_tokenizer(), {0, 1, 2, 3, 9})


def test_what_changes_an_output_of_the_same_tokens_is_refused(texts, tmp_path, monkeypatch):
    def harmed(student, order, tokenizer):
        small = cut_embeddings(student, order, tokenizer)
        with torch.no_grad():
            small.get_input_embeddings().weight.add_(1e-3)
        return small

    monkeypatch.setattr(dynackd.deploy.vocabulary, "cut_embeddings", harmed)
    with pytest.raises(UserError, match=r"the same tokens give other logits with fewer words, .*; nothing was"):
        exported(supernet_of(), tmp_path / "s", texts)
    assert not (tmp_path / "s").exists()


def test_an_unknown_token_whose_id_a_tokenizers_class_makes_up_is_refused(tmp_path):
    """XLMRobertaTokenizer takes the fourth token of a Unigram for the unknown one, whatever tokenizer.json says."""
    model = json.loads(trained(unigram).to_str())["model"]
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL_TOKENS, strict=True))
    special = [own for own in map(tuple, model["vocab"]) if own[0] in SPECIAL_TOKENS and own[0] != "[UNK]"]
    rest = [own for own in map(tuple, model["vocab"]) if own[0] not in SPECIAL_TOKENS]
    vocab = [*special, *rest[:40], ("[UNK]", -1.0), *rest[40:]]
    made = transformers.DebertaV2Tokenizer(vocab=vocab, **names, bos_token="[CLS]", eos_token="[SEP]", unk_id=43)
    made.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.unk_token_id == 43
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = choose(content, range(len(tokenizer)), size=len(tokenizer) - 60)
    small, order = cut_tokenizer(tokenizer, kept)
    unknown = order.index(43)
    assert unknown != 43
    assert small.unk_token_id == unknown
    assert small("\u6f22")["input_ids"].count(unknown) == 1, "a character that it does not know"


@pytest.mark.parametrize("change", [
    lambda content: content["model"].update(unk_token="fine"),
    lambda content: content["post_processor"]["special_tokens"]["<s>"].update(ids=[3]),
])  # fmt: skip
def test_what_a_class_reads_as_another_model_is_refused(monkeypatch, change):
    """The vocabulary alone may be the same."""
    honest = AutoTokenizer.from_pretrained

    def read(place, **options):
        found = honest(place, **options)
        content = json.loads(found.backend_tokenizer.to_str())
        change(content)
        found._tokenizer = Tokenizer.from_str(json.dumps(content))
        return found

    monkeypatch.setattr(dynackd.deploy.vocabulary.AutoTokenizer, "from_pretrained", read)
    with pytest.raises(UserError, match=r"transformers reads the smaller tokenizer.json of a"):
        cut_tokenizer(tiny_tokenizer(), {0, 1, 2, 3, 9})


@pytest.mark.parametrize(("family", "key"), [("eurobert", "mask_token_id"), ("nomic_bert", "pad_token_id"),
                                             ("bert", "cls_token_id"), ("bert", "decoder_start_token_id")])  # fmt: skip
def test_an_id_of_a_config_that_no_token_has_follows_the_tokenizer(family, key, texts, tmp_path):
    """EuroBERT's is 128002 and may not be None: a tokenizer of one's own met a traceback."""
    net = supernet_of(family, vocab_size=64, **{key: 40})
    exported(net, tmp_path / "s", texts)
    small, tokenizer = load_student(tmp_path / "s")
    wanted = {"cls_token_id": tokenizer.cls_token_id, "decoder_start_token_id": None}.get(key, tokenizer.pad_token_id)
    assert getattr(small.config, key) == wanted


def named_from(first, unknown="<unk>", **names):
    """Words numbered from `first`, as a whole tokenizer of transformers."""
    words = ["<pad>", "<unk>", "<s>", "</s>", *VOCABULARY[4:]]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words, start=first)}, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", first + 2), ("</s>", first + 3)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", cls_token="<s>", sep_token="</s>", model_max_length=40,
        model_input_names=["input_ids", "attention_mask"], **names,
    )  # fmt: skip


def test_tokens_do_not_come_to_ids_from_which_a_model_counts_positions(texts, tmp_path):
    """MPNet takes the id 1 for padding; the unknown token came there, and a text with it had other outputs."""
    net = supernet_of("mpnet", vocab_size=28, pad_token_id=1)
    with pytest.raises(UserError, match=r"a mpnet counts positions by the ids up to 1, and no token .* has the id 0"):
        exported(net, tmp_path / "s", texts, named_from(1, unk_token="<unk>"))


def test_what_is_unknown_is_told_where_only_tokenizer_json_names_the_token(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(VOCABULARY[4:]))
    own, net = read_texts(str(tmp_path / "t.txt"), None, None, None), supernet_of()
    abouts = [exported(net, tmp_path / str(n), own, named_from(0, **names), wish={"coverage": 0.5})
              for n, names in enumerate(({"unk_token": "<unk>"}, {}))]  # fmt: skip
    told = [about["vocabulary"]["held_out"] for about in abouts]
    assert told[0] == told[1]
    assert told[0]["unknown"] > 0


def test_the_unknown_token_of_a_unigram_is_known_by_its_number():
    made = Tokenizer.from_str(trained(unigram).to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", model_max_length=40)
    assert tokenizer.unk_token_id is None
    assert id_of_unknown(tokenizer) == made.token_to_id("[UNK]")
    everything = Tokenizer(models.BPE({"a": 0, "[PAD]": 1}, []))
    assert id_of_unknown(PreTrainedTokenizerFast(tokenizer_object=everything, pad_token="[PAD]")) is None


def test_a_token_that_a_template_lists_and_never_uses_is_left_out():
    tokenizer = tiny_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["post_processor"]["special_tokens"]["<x>"] = {"id": "<x>", "ids": [77], "tokens": ["<x>"]}
    kept = choose(content, [0] * 27)
    small, _ = cut_json(content, kept)
    assert set(small["post_processor"]["special_tokens"]) == {"<s>", "</s>"}
    content["post_processor"]["single"].append({"SpecialToken": {"id": "<x>", "type_id": 0}})
    with pytest.raises(UserError, match="names the id 77, which none of its tokens has"):
        cut_json(content, kept)


def test_how_long_texts_differ_is_told_as_far_as_the_student_reads_them(tmp_path):
    """Words behind the cut were counted, beside outputs that were compared without them."""
    (tmp_path / "t.txt").write_text("\n".join(f"a fine film {word}" for word in VOCABULARY[4:] for _ in range(2)))
    own, net = read_texts(str(tmp_path / "t.txt"), None, None, None), supernet_of()
    held = exported(net, tmp_path / "s", own, wish={"coverage": 0.7}, max_length=5)["vocabulary"]["held_out"]
    assert (held["differ"], held["compared"]) == (0.0, 4)
    assert "4 that become the same were run" in (tmp_path / "s" / "README.md").read_text()
    assert compared_told({"compared": 0}) == "none becomes the same, so that nothing could be compared"


# --- the gate --------------------------------------------------------------------------------------------------------


@pytest.fixture
def validation(tmp_path):
    """Rows of which many hold other words than the texts."""
    write_rows(tmp_path / "v.tsv", 60, 2)
    source = resolve_source({"validation": str(tmp_path / "v.tsv"), "max_length": 16})
    return load_validation(resolve_task(TASK), source, supernet_of().model, tiny_tokenizer())


def test_what_the_validation_rows_lose_is_measured_and_told(texts, validation, tmp_path):
    net = supernet_of()
    about = exported(net, tmp_path / "s", texts, validation=validation, gates=Gates(1.0))
    words, metrics = about["vocabulary"], about["vocabulary"]["metrics"]
    assert words["drop"] == pytest.approx(metrics["before"]["accuracy"] - metrics["after"]["accuracy"])
    assert 0 < words["agreement"] < 1
    assert about["metrics"]["student"] == metrics["after"]
    whole = export_student(net, tiny_tokenizer(), SPEC, tmp_path / "whole", validation=validation)
    assert whole["metrics"]["student"] == metrics["before"] != metrics["after"]
    card = (tmp_path / "s" / "README.md").read_text()
    assert "11 of the 27 tokens" in card


def test_a_vocabulary_that_loses_too_much_is_left_out_and_the_rest_is_written(
    texts, validation, tmp_path, monkeypatch
):
    monkeypatch.setattr(type(validation), "drop", lambda self, before, after: 0.5)
    about = exported(supernet_of(), tmp_path / "s", texts, validation=validation)
    assert about["vocabulary"]["refused"] == "it loses 0.5000 of accuracy, more than --max-drop 0.01"
    model, tokenizer = load_student(tmp_path / "s")
    assert len(tokenizer) == model.config.vocab_size == 27
    assert "whole_size_bytes" not in about["files"]["onnx/model.onnx"]
    assert "11 of the 27 tokens" not in (tmp_path / "s" / "README.md").read_text()


def test_the_teacher_reads_the_validation_rows_with_all_words(texts, validation, tmp_path):
    """The labels are the teacher's own answers, so that it is right whenever it reads what it reads by itself."""
    net = supernet_of()
    outputs = validation.outputs(torch_predictor(net.model, validation.task.kind), 8)
    with torch.no_grad():  # as many answers of each class
        net.model.classifier.bias[0] += float(np.median(np.diff(outputs[""]["logits"])))
    net.model.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    net.origin = Origin("depth", str(tmp_path / "teacher"))
    outputs = validation.outputs(torch_predictor(net.model, validation.task.kind), 8)
    answers = validation.task.kind.answers(outputs[""])
    assert len(set(answers)) == 2
    labels = [0] * len(answers)
    for place, answer in zip(longest_first(validation.rows[""]), answers, strict=True):
        labels[place] = int(answer)
    rows = validation.rows[""].remove_columns("labels").add_column("labels", labels)
    raw = validation.task.rows[""].remove_columns("label").add_column("label", labels)
    validation = dataclasses.replace(
        validation, rows={"": rows}, task=dataclasses.replace(validation.task, rows={"": raw})
    )
    about = exported(net, tmp_path / "s", texts, validation=validation, gates=Gates(1.0))
    assert about["metrics"]["teacher"] == {"accuracy": 1.0}
    wrong = validation.read_by(AutoTokenizer.from_pretrained(tmp_path / "s"))
    assert wrong.metrics(wrong.outputs(torch_predictor(net.model, wrong.task.kind), 8))["accuracy"] < 1


def test_rows_are_compared_in_one_order_whatever_they_become(tmp_path):
    """A row of other tokens may be longer or shorter than its neighbours; it stays where it was."""
    lines = [f"{text}\t{row % 2}" for row, text in enumerate(TEXTS[:40])]
    (tmp_path / "v.tsv").write_text("\n".join(["sentence\tlabel", *lines]))
    tokenizer = in_transformers(word_piece)
    model = supernet_of(vocab_size=len(tokenizer)).model
    source = resolve_source({"validation": str(tmp_path / "v.tsv"), "max_length": 48})
    before = load_validation(resolve_task(TASK), source, model, tokenizer)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    small, _ = cut_tokenizer(tokenizer, choose(content, [0] * len(tokenizer), size=110))
    after = before.read_by(small)
    sizes = [[len(ids) for ids in own.rows[""]["input_ids"][:]] for own in (before, after)]
    assert sorted(range(40), key=sizes[0].__getitem__) != sorted(range(40), key=sizes[1].__getitem__)
    assert after.labels[""]["labels"].tolist() == before.labels[""]["labels"].tolist()


# --- texts -----------------------------------------------------------------------------------------------------------


def test_one_text_in_ten_is_held_out_and_not_counted(texts):
    assert (len(texts.rows), len(texts.held_out), len(texts.counted)) == (28, 2, 26)
    assert sorted([*texts.held_out["text"], *texts.counted["text"]]) == sorted(LINES)
    counts, inputs = texts.counts(tiny_tokenizer(), 27)
    assert counts[VOCABULARY.index("film")] == inputs == 26
    assert counts[:4].tolist() == [0, 0, 0, 0]  # no special tokens
    assert counts.sum() == sum(len(text.split()) for text in texts.counted["text"])


def test_few_texts_have_one_held_out(tmp_path):
    (tmp_path / "t.txt").write_text("a film\na book\n\na day\n")
    own = read_texts(str(tmp_path / "t.txt"), None, None, None)
    assert sorted([*own.counted["text"], *own.held_out["text"]]) == ["a book", "a day", "a film"]
    assert len(own.held_out) == 1


@pytest.mark.parametrize("period", [2, 5, 10])
def test_lines_of_one_sort_in_every_tenth_place_are_not_all_that_is_held_out(tmp_path, period):
    """Where a question and "ok" take turns, each tenth line was "ok", and nothing seemed to become other tokens."""
    lines = ["ok" if (row + 1) % period == 0 else f"question {row}" for row in range(400)]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    held = read_texts(str(tmp_path / "t.txt"), None, None, None).held_out["text"]
    assert len(held) == 40
    assert 0 < held.count("ok") < 40


@pytest.mark.parametrize(("kind", "column", "row_of"), [
    ("question_answering", "context", lambda row: {"question": f"what {row}", "context": f"a long passage {row // 5}"}),
    ("ranking", "passages", lambda row: {"query": f"what {row}", "passages": ["ok", f"some long passage {row // 5}"]}),
    ("classification", "other", lambda row: {"sentence": f"no {row}", "other": f"some long premise {row // 5}"}),
])  # fmt: skip
def test_rows_with_one_long_text_are_held_out_together(tmp_path, kind, column, row_of):
    """Of five questions about a passage four were counted, so that the fifth's tokens were all known."""
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row_of(row)) for row in range(100)))
    tasks = {
        "question_answering": {"kind": kind},
        "ranking": {"kind": kind, "query": "query", "passages": "passages", "relevance": "relevance"},
        "classification": {**TASK, "text": ["sentence", "other"]},
    }
    own = read_texts(str(tmp_path / "t.jsonl"), resolve_task(tasks[kind]), resolve_source({"train": "n.tsv"}), None)
    held, counted = ({json.dumps(text) for text in part[column]} for part in (own.held_out, own.counted))
    assert not held & counted
    assert (len(own.held_out), len(held)) == (10, 2)
    assert len(own.counted) == 90


def test_rows_that_all_have_one_long_text_are_held_out_one_by_one(tmp_path):
    rows = [{"question": f"what {row}", "context": "the only passage that there is"} for row in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = resolve_task({"kind": "question_answering"})
    own = read_texts(str(tmp_path / "t.jsonl"), task, resolve_source({"train": "n.tsv"}), None)
    assert (len(own.held_out), len(own.counted)) == (4, 36)


def test_the_training_texts_are_those_without_labels_too(tmp_path):
    """The words of half of what the sub-networks are trained on were left out."""
    (tmp_path / "t.tsv").write_text("sentence\tlabel\n" + "".join(f"a fine film\t{n % 2}\n" for n in range(20)))
    (tmp_path / "u.txt").write_text("the dull book\n" * 50)
    data = {"train": str(tmp_path / "t.tsv"), "validation": str(tmp_path / "t.tsv")}
    data["unlabelled"] = str(tmp_path / "u.txt")
    own = read_texts("train", resolve_task(TASK), resolve_source(data), labels_of(tiny_model().config))
    assert len(own.rows) == 70
    counts, inputs = own.counts(tiny_tokenizer(), 27)
    assert inputs == 63
    assert counts[VOCABULARY.index("dull")] > 40


def test_rows_of_other_files_are_read_as_the_task_reads_them(tmp_path):
    task = resolve_task({**TASK, "text": ["one", "other"]})
    rows = [{"one": "a", "other": "film"}, {"one": "the", "other": "book"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = read_texts(str(tmp_path / "t.jsonl"), task, resolve_source({"train": "none.tsv"}), None)
    (encoded,) = own.tokens(own.rows, tiny_tokenizer())
    assert encoded["input_ids"] == [[2, 14, 3, 16, 3], [2, 15, 3, 17, 3]]


@pytest.mark.parametrize(("task", "row"), [
    ({"kind": "multi_label", "text": "s", "label": ["good", "bad"]}, {"s": "a film"}),
    ({"kind": "multi_label", "text": "s", "label": "y"}, {"s": "a film"}),
    ({"kind": "ranking", "query": "s", "passages": "p", "relevance": "y"}, {"s": "a film", "p": ["the book", "a day"]}),
    ({"kind": "token_classification", "words": "w", "tags": "y"}, {"w": ["a", "film"]}),
    ({"kind": "question_answering"}, {"question": "a", "context": "film"}),
    ({"kind": "embedding", "pair": ["s", "t"], "score": "y"}, {"s": "a film", "t": "the book"}),
])  # fmt: skip
def test_rows_of_other_files_need_no_labels(tmp_path, task, row):
    other = {**row, "s": "a day"} if "s" in row else row  # rows of one query would be one
    (tmp_path / "t.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(other)}")
    own = read_texts(str(tmp_path / "t.jsonl"), resolve_task(task), resolve_source({"train": "none.tsv"}), None)
    assert len(own.rows) == 2
    (encoded,) = own.tokens(own.rows, tiny_tokenizer())
    assert {2, 14} <= set(np.ravel(encoded["input_ids"][0])), "[CLS] and a"


def test_a_share_that_tokenises_differently_is_counted_by_hand(tmp_path):
    """Of 20 texts two are held out; one of these has words that the counted ones have not."""
    (tmp_path / "t.txt").write_text("\n".join(map(str, range(20))))
    last = read_texts(str(tmp_path / "t.txt"), None, None, None).held_out["text"][1]
    words = ["a film", "the book"] * 10
    words[int(last)] = "very dull and cold"
    (tmp_path / "t.txt").write_text("\n".join(words))
    own = read_texts(str(tmp_path / "t.txt"), None, None, None)
    net = supernet_of()
    reader = Reader(cut(net, net.resolve(SPEC)), tiny_tokenizer())
    small, facts = with_fewer_words(reader, Wish(own, coverage=1.0), 48, Gates())
    assert facts["held_out"] == {
        "texts": 2, "differ": 0.5, "unknown": 0.5, "tokens_before": 5.0, "tokens_after": 5.0, "compared": 1,
    }  # fmt: skip
    assert set(small.tokenizer.get_vocab()) == {*SPECIAL, "a", "film", "the", "book"}
    assert small.student.config.vocab_size == facts["size"] == 8
    assert facts["coverage"] == 1.0


# --- kinds -----------------------------------------------------------------------------------------------------------

SOME = ["fine", "great", "warm", "a", "the", "is", "was", "dull", "cold"]
ROWS = [{"words": [own, "film"], "tags": ["O", "B-X"], "text": f"{own} {more} film", "other": "a day", "score": n / 9,
         "query": own + " film" * (n // 9), "passages": ["a film", f"{own} {more} book"], "relevance": [0, 1],
         "labels": ["u"] if n % 2 else [],
         "answers": {"text": [own], "answer_start": [0]}}
        for n, (own, more) in enumerate((own, SOME[(n + step) % 9]) for step in (1, 2, 4) for n, own in enumerate(SOME))
        ]  # fmt: skip
OF_KIND = {
    "multi_label": {"text": "text", "label": "labels", "labels": ["u", "v"]},
    "regression": {"text": ["text", "other"], "label": "score"},
    "ranking": {"relevance": "relevance", "passages": "passages"},
    "token_classification": {"words": "words", "tags": "tags"},
    "question_answering": {"question": "other", "context": "text"},
    "embedding": {"text": "text", "pair": ["text", "other"], "score": "score"},
    "plain": {"text": "text"},
}


@pytest.mark.parametrize("kind", OF_KIND)
def test_every_kind_of_task_has_its_vocabulary_cut_and_gated(kind, tmp_path):
    directory = tmp_path / kind
    directory.mkdir()
    (directory / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    content = tiny_recipe(directory)
    rows = str(directory / "rows.jsonl")
    content |= {"task": {"kind": kind, **OF_KIND[kind]}, "data": {"train": rows, "validation": rows, "max_length": 16}}
    recipe = str(write_recipe(directory, content))
    steps = ["--set", "training.max_steps=1"]
    learned = [] if kind in ("plain", "embedding") else ["finetune"]
    for command in (*learned, "train-width"):
        assert main([command, recipe, *steps]) == 0
    size = ["--width", "0.5", "--output", str(directory / "s"), "--max-drop", "9"]
    assert main(["export", str(directory / "run" / "width"), *size, "--vocabulary", "train", "--int8"]) == 0
    about = json.loads((directory / "s" / "export.json").read_text())
    assert 8 < about["vocabulary"]["size"] < 27
    assert about["vocabulary"]["held_out"]["compared"] > 0
    assert "drop" in about["vocabulary"]
    assert "drop" in about["files"]["onnx/model_quantized.onnx"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vocabulary")
    net = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5)), Origin("depth", None))
    content = tiny_recipe(directory)
    net.save(directory / "depth", tiny_tokenizer())
    write_recipe(directory / "depth", {**content, "output_dir": str(directory)})
    (directory / "texts.txt").write_text("\n".join(LINES))
    return directory


def export(road, place, *arguments):
    sizes = ["--width", "0.5", "--depth", "0.5", "--output", str(place)]
    return main(["export", str(road / "depth"), *sizes, *map(str, arguments)])


def test_the_command_tells_what_is_kept_and_lost(road, tmp_path, capsys):
    texts = road / "texts.txt"
    assert export(road, tmp_path / "s", "--vocabulary", texts, "--coverage", "1", "--max-drop", "1", "--int8") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "vocabulary: 11 of 27 tokens, which are 100.00% of those of 26 texts" in printed
    assert "of 2 held-out texts 0.0% become other tokens, 5.00 a text instead of 5.00" in printed
    assert "with all words)" in printed
    about = json.loads((tmp_path / "s" / "export.json").read_text())
    assert about["vocabulary"]["wish"] == {"coverage": 1.0}
    assert about["vocabulary"]["texts"] == "texts.txt"


def test_the_command_says_that_a_vocabulary_was_left_out_and_exits_with_2(road, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dynackd.deploy.validation.Validation.drop", lambda self, before, after: 0.5)
    assert export(road, tmp_path / "s", "--vocabulary", road / "texts.txt") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"the smaller vocabulary was left out of {tmp_path / 's'}: it loses 0.5000 of accuracy" in error
    assert "the student there has all words" in error
    assert json.loads((tmp_path / "s" / "config.json").read_text())["vocab_size"] == 27


def test_the_command_tells_of_all_that_was_left_out(road, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dynackd.deploy.validation.Validation.drop", lambda self, before, after: 0.00002)
    files = ("--int8", "--fp16", "--vocabulary", road / "texts.txt", "--max-drop", "0")
    assert export(road, tmp_path / "s", *files) == 2
    error = " ".join(capsys.readouterr().err.split())
    for what in ("the smaller vocabulary", "onnx/model_quantized.onnx", "onnx/model_fp16.onnx"):
        reason = "it loses 2.0e-05 of accuracy, more than --max-drop 0;"
        assert f"{what} was left out of {tmp_path / 's'}: {reason}" in error


def test_validation_rows_that_fit_no_more_leave_the_vocabulary_out(texts, validation, tmp_path, monkeypatch):
    """As a question does whose tokens leave a window no room for its context."""

    def read_by(self, tokenizer):
        raise UserError("the question takes 16 tokens")

    monkeypatch.setattr(type(validation), "read_by", read_by)
    about = exported(supernet_of(), tmp_path / "s", texts, validation=validation)
    wanted = "a larger one is needed to read the validation rows (the question takes 16 tokens)"
    assert about["vocabulary"]["refused"] == wanted
    assert len(load_student(tmp_path / "s")[1]) == 27


def test_what_a_word_level_tokenizer_cannot_spell_is_told_as_unknown(tmp_path):
    """Every tenth text is held out, and the second of these has a word that no counted text has."""
    rows = ["fine film"] * 19 + ["fine day"]
    (tmp_path / "rows.txt").write_text("\n".join(rows))
    own = read_texts(str(tmp_path / "rows.txt"), None, None, None)
    words = exported(supernet_of(), tmp_path / "s", own)["vocabulary"]
    assert words["held_out"]["unknown"] == words["held_out"]["differ"] == 0.5
    card = (tmp_path / "s" / "README.md").read_text()
    assert "the full network: special tokens, and those" in card
    assert "In 50.0% more is unknown than before" in card


def test_a_size_is_kept_to(road, tmp_path):
    assert export(road, tmp_path / "s", "--vocabulary", "train", "--vocabulary-size", 9, "--no-validation") == 0
    about = json.loads((tmp_path / "s" / "export.json").read_text())
    assert about["vocabulary"]["size"] == 9
    assert "drop" not in about["vocabulary"]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "s")) == 9


def test_export_twice_gives_the_same_bytes(road, tmp_path):
    for name in ("a", "b"):
        assert export(road, tmp_path / name, "--vocabulary", "train", "--coverage", "0.9", "--no-validation") == 0
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
