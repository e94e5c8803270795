"""Other people's models and tokenizers: what is harmless is made so, what would be another model is refused."""

import json
from pathlib import Path

import pytest
import torch
from conftest import VOCABULARY, tiny_batch, tiny_config, tiny_model, tiny_recipe, tiny_tokenizer, write_recipe
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, processors
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from dynackd.cli.command_line import main
from dynackd.errors import UserError
from dynackd.families.table import family_of, layer_list, layer_list_name, max_positions
from dynackd.measure.runtimes import RUNTIMES, Case
from dynackd.onnx.graphs import Shape, example_batch
from dynackd.subnet import FULL
from dynackd.supernet.checkpoints import fit_tokenizer, load_config, load_masked_lm, load_model, load_tokenizer
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.tasks.tokens import unknown

HARMLESS = {
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": False,
    "chunk_size_feed_forward": 2,
    "gradient_checkpointing": True,
    "torchscript": True,
    "torch_dtype": "float16",
    "dtype": "float16",
    "attn_implementation": "flash_attention_2",
    "_attn_implementation": "flash_attention_2",
    "experts_implementation": "eager",
    "tie_last_hidden_states": False,
    "use_cache": True,
}
FOREIGN = {
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "is_decoder": True,
    "is_encoder_decoder": True,
    "add_cross_attention": True,
    "pruned_heads": {"0": [1]},
    "per_layer_config": {"0": {"num_attention_heads": 2}},
    "auto_map": {"AutoModelForSequenceClassification": "modeling.Own"},
    "position_embedding_type": "relative_key",
}


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def add_weights(directory, **weights):
    file = directory / "model.safetensors"
    save_file({**load_file(file), **{name: torch.ones(2) for name in weights}}, file, {"format": "pt"})


def run_all(recipe, directory, between=lambda result: None):
    """Every command that a recipe goes through; `between` may meddle with each result."""
    steps = [part for key in ("training.max_steps=2", "training.save_strategy='no'") for part in ("--set", key)]
    for command, result in (("finetune", "teacher"), ("train-width", "width"), ("train-depth", "depth")):
        assert main([command, str(recipe), *steps]) == 0
        between(directory / "run" / result)
    student = directory / "student"
    size = ["--width", "0.5", "--depth", "0.5"]
    assert main(["export", str(directory / "run" / "depth"), *size, "--output", str(student), "--validation"]) == 0
    for runtime, file in (("torch", student), ("onnxruntime", student / "onnx" / "model.onnx")):
        RUNTIMES[runtime].open(Case(str(file), runtime, "cpu", 1, 2, 5))(2, 5)()
    return student


# --- config.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", HARMLESS)
def test_a_flag_of_the_config_changes_neither_the_model_nor_what_is_saved_of_it(flag, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "flagged")
    edit(tmp_path / "flagged" / "config.json", **{flag: HARMLESS[flag]})
    for place in ("plain", "flagged"):
        loaded = load_model(str(tmp_path / place)).eval()
        output = loaded(**tiny_batch(length=9))
        assert output.keys() == {"logits"}
        assert output.logits.dtype == torch.float32
        torch.testing.assert_close(output.logits, model(**tiny_batch(length=9)).logits, atol=1e-6, rtol=0)
        assert not loaded.is_activation_checkpointing
        loaded.save_pretrained(tmp_path / f"{place} again")
    again = [(tmp_path / f"{place} again" / "config.json").read_text() for place in ("plain", "flagged")]
    assert again[0] == again[1]


def test_all_flags_together_go_through_every_command_and_none_reaches_the_student(tmp_path):
    content = tiny_recipe(tmp_path)
    flags = {name: value for name, value in HARMLESS.items() if "attn" not in name}  # with attentions it is refused

    def meddle(result):
        edit(result / "config.json", **flags)

    meddle(tmp_path / "encoder")
    student = run_all(write_recipe(tmp_path, content), tmp_path, meddle)
    config = json.loads((student / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert not {flag for flag in flags.keys() - {"dtype", "use_cache"} if config.get(flag)}


@pytest.mark.parametrize("key", FOREIGN)
def test_a_config_of_another_kind_of_model_is_refused_by_the_key(key, tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    edit(tmp_path / "m" / "config.json", **{key: FOREIGN[key]})
    with pytest.raises(UserError, match=f"{tmp_path}/m cannot be used: its config.json has '{key}'"):
        load_model(str(tmp_path / "m"))


def test_absolute_positions_may_be_named(tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    edit(tmp_path / "m" / "config.json", position_embedding_type="absolute", pruned_heads={}, is_decoder=False)
    assert load_model(str(tmp_path / "m")).config.num_hidden_layers == 4


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "{layers}.0.attention.self.distance_embedding.weight",
        "{layers}.7.output.dense.weight",
        "{base}.embeddings.rotary.weight",
        "{base}.invertible_adapters.weight",
        "projection.weight",
        "classifier_2.weight",
    ],
)
def test_a_weight_that_the_model_would_not_use_is_named_and_refused(family, name, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "m")
    name = name.format(base=model.base_model_prefix, layers=layer_list_name(model))
    add_weights(tmp_path / "m", **{name: 1})
    with pytest.raises(UserError, match=f"holds 1 weights for which a {family} .* the first is '{name}'"):
        load_model(str(tmp_path / "m"))


def test_more_layers_than_the_config_says_are_refused_with_and_without_a_head(family, tmp_path):
    config = tiny_config(family)
    tiny_model(family).save_pretrained(tmp_path / "m")
    tiny_model(family).base_model.save_pretrained(tmp_path / "bare")
    own = family_of(config)
    changes = {own.layers_key: 2} | {key: getattr(config, key)[:2] for key in own.layer_keys}
    count = sum(1 for layer in layer_list(tiny_model(family))[2:] for _ in layer.parameters())
    for place, new_head in (("m", False), ("bare", True)):
        edit(tmp_path / place / "config.json", **changes)
        with pytest.raises(UserError, match=rf"holds {count} weights .* no place, the first is '\S*layers?\.2\."):
            load_model(str(tmp_path / place), new_head=new_head)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "mlm")
    edit(tmp_path / "mlm" / "config.json", **changes)
    with pytest.raises(UserError, match=r"the first is '\S*layers?\.2\."):
        load_masked_lm(str(tmp_path / "mlm"))


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining])
def test_a_bare_encoder_may_bring_the_head_of_its_pretraining(family, auto, tmp_path):
    config = tiny_config(family)
    if type(config) not in auto._model_mapping:
        pytest.skip("transformers has no such class")
    source = auto.from_config(config)
    source.save_pretrained(tmp_path / "m")
    model = load_model(str(tmp_path / "m"), new_head=True)
    for name, weight in source.base_model.state_dict().items():
        if "pooler" not in name:
            assert torch.equal(model.base_model.state_dict()[name], weight)


def test_counters_that_older_libraries_stored_are_no_weights(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "m")
    base = model.base_model_prefix
    add_weights(tmp_path / "m", **{f"{base}.embeddings.position_ids": 1, f"{base}.embeddings.token_type_ids": 1})
    assert torch.equal(load_model(str(tmp_path / "m")).eval()(**tiny_batch()).logits, model(**tiny_batch()).logits)


def test_an_adapter_is_not_taken_for_a_model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="is an adapter to another model; merge the two"):
        load_model(str(tmp_path / "m"))


# --- tokenizers ------------------------------------------------------------------------------------------------------


def moved_padding(place):
    """A tokenizer whose padding token has another id: every id from there on moves up by one."""
    tokenizer = tiny_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    words = [word for word in VOCABULARY if word != "<pad>"]
    words.insert(place, "<pad>")
    ids = {word: i for i, word in enumerate(words)}
    content["model"]["vocab"] = ids
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    for name, token in content["post_processor"]["special_tokens"].items():
        token["ids"] = [ids[name]]
    return type(tokenizer.backend_tokenizer).from_str(json.dumps(content))


def saved_encoder(directory, family="bert", tokenizer=None, changes=(), pairs=False, **config):
    """An encoder with a tokenizer, the latter's tokenizer_config.json changed."""
    tiny_model(family, **config).base_model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    tokenizer = tokenizer or tiny_tokenizer().backend_tokenizer
    if pairs:
        special = [(word, tokenizer.token_to_id(word)) for word in ("<s>", "</s>")]
        template = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", special)
        tokenizer.post_processor = template
    tokenizer.save(str(directory / "tokenizer.json"))
    edit(directory / "tokenizer_config.json", **dict(changes))
    return str(directory)


ODD = {
    "no attention mask, padding of id 3 on the left": {
        "tokenizer": moved_padding(3),
        "pad_token_id": 3,
        "changes": {"model_input_names": ["input_ids"], "padding_side": "left"},
    },
    "padding is the last id": {"tokenizer": moved_padding(26), "pad_token_id": 26},
    "a roberta with one token type, pairs, padding of id 3": {
        "family": "roberta",
        "type_vocab_size": 1,
        "pairs": True,
        "tokenizer": moved_padding(3),
        "pad_token_id": 3,
        "max_position_embeddings": 52,
        "changes": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    },
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_tokenizer_goes_through_every_command(name, tmp_path):
    content = tiny_recipe(tmp_path)
    saved_encoder(tmp_path / "encoder", **ODD[name])
    if ODD[name].get("pairs"):
        for split in ("train", "validation"):
            file = tmp_path / f"{split}.tsv"
            head, *rows = file.read_text().splitlines()
            file.write_text("".join(f"{line}\n" for line in [f"{head}\tother", *(f"{row}\ta film" for row in rows)]))
        content["task"]["text"] = ["sentence", "other"]
    about = json.loads((run_all(write_recipe(tmp_path, content), tmp_path) / "export.json").read_text())
    assert about["parity_max_abs_diff"] <= 1e-5
    assert about["inputs"][:2] == ["input_ids", "attention_mask"]
    # What the training cut at, in every place that a client reads.
    assert about["max_length"] == 16
    assert json.loads((tmp_path / "student" / "tokenizer.json").read_text())["truncation"]["max_length"] == 16
    assert AutoTokenizer.from_pretrained(tmp_path / "student").model_max_length == 16
    card = (tmp_path / "student" / "README.md").read_text()
    assert "Texts are cut at 16 tokens, on the right, as in the training." in card


@torch.no_grad()
def test_a_text_has_the_same_result_alone_and_beside_a_longer_one(family, tmp_path):
    path = saved_encoder(tmp_path / "m", family, changes={"padding_side": "left"})
    model = tiny_model(family)
    tokenizer = load_tokenizer(path, model.config)
    texts = ["a fine film", "the day was very cold and one book is quite dull"]
    together = model(**tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)).logits
    alone = model(**tokenizer(texts[:1], return_tensors="pt", return_token_type_ids=False)).logits
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    tokenizer.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["padding_side"] == "right"


def test_the_tokenizer_gives_what_the_model_takes_and_nothing_else(family, tmp_path):
    changes = {"model_input_names": ["input_ids", "token_type_ids"]}
    for types in (1, 2):
        known = {"type_vocab_size": types} if hasattr(tiny_config(family), "type_vocab_size") else {}
        path = saved_encoder(tmp_path / str(types), family, changes=changes, **known)
        names = load_tokenizer(path, load_config(path)).model_input_names
        typed = known == {"type_vocab_size": 2}
        assert names == ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]


def test_roberta_has_as_many_positions_as_its_padding_leaves():
    assert max_positions(tiny_config("roberta", pad_token_id=1, max_position_embeddings=514)) == 512
    assert max_positions(tiny_config("roberta", pad_token_id=3, max_position_embeddings=52)) == 48
    assert max_positions(tiny_config("bert", pad_token_id=3)) == 48


@pytest.mark.parametrize("pad", [None, 0, 3, 26])
def test_example_batches_hold_every_word_but_the_padding(pad):
    model = tiny_model(pad_token_id=pad)
    ids = example_batch(Shape(8, 48), ["input_ids"], model)["input_ids"]
    mask = example_batch(Shape(8, 48), ["attention_mask"], model)["attention_mask"].bool()
    assert set(ids[mask].tolist()) == set(range(27)) - {pad or 0}
    assert (ids[~mask] == (pad or 0)).all()


def test_a_model_without_a_tokenizer_is_refused_whatever_lies_there(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "m")
    own = f"could not load the tokenizer of '{tmp_path}/m'"  # what transformers makes no empty tokenizer for
    sentence = rf"{tmp_path}/m holds no tokenizer: all that transformers finds there are \d special tokens|{own}"
    with pytest.raises(UserError, match=sentence):
        load_tokenizer(str(tmp_path / "m"), model.config)
    (tmp_path / "m" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(UserError, match=sentence):
        load_tokenizer(str(tmp_path / "m"), model.config)


def test_token_types_beyond_the_embeddings_are_refused_with_both_numbers(tmp_path):
    tokenizer, config = tiny_tokenizer(), tiny_config("bert")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", "<s> $A $B:2", special_tokens=[("<s>", 2)]
    )
    with pytest.raises(UserError, match="gives token types up to 2, but the model has embeddings for 2, 0 to 1"):
        fit_tokenizer(tokenizer, config, "m")


def test_a_masked_language_model_may_return_tuples(tmp_path):
    AutoModelForMaskedLM.from_config(tiny_config("bert")).save_pretrained(tmp_path / "m")
    edit(tmp_path / "m" / "config.json", return_dict=False, output_attentions=True)
    assert load_masked_lm(str(tmp_path / "m"))(**tiny_batch()).keys() == {"logits"}


def test_what_is_neutral_for_us_is_neutral_for_stock_transformers(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "m")
    edit(tmp_path / "m" / "config.json", return_dict=False)
    load_model(str(tmp_path / "m")).save_pretrained(tmp_path / "n")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "n")
    assert torch.equal(loaded(**tiny_batch()).logits, model(**tiny_batch()).logits)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_supernet_is_loaded_from_a_text_or_a_path(kind, tmp_path):
    supernet = Supernet(tiny_model()).eval()
    supernet.save(tmp_path / "net", tiny_tokenizer())
    loaded, _ = load_supernet(kind(tmp_path / "net"))
    assert torch.equal(
        loaded.eval()(FULL, **tiny_batch()).outputs["logits"], supernet(FULL, **tiny_batch()).outputs["logits"]
    )
    with pytest.raises(UserError, match=r"is no supernet directory: it holds no config\.json"):
        load_supernet(kind(tmp_path / "nothing"))


def test_texts_of_unknown_words_are_told_of_in_every_command_that_reads_them(tmp_path, capsys):
    content = tiny_recipe(tmp_path)
    for split in ("train", "validation"):
        file = tmp_path / f"{split}.tsv"
        head, *rows = file.read_text().splitlines()
        strange = [f"strange words of another language\t{row[-1]}" for row in rows]
        file.write_text("\n".join([head, *strange]) + "\n")
    run_all(write_recipe(tmp_path, content), tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    for split, commands in (("training", 3), ("validation", 4)):
        sentence = f"warning: 100% of the tokens of the {split} texts are unknown to the tokenizer"
        assert printed.count(sentence) == commands


def test_half_of_the_words_may_be_unknown():
    tokenizer = tiny_tokenizer()
    for text, told in (("a film", False), ("a strange", False), ("a strange word", True), ("", False)):
        tokens = Dataset.from_dict(dict(tokenizer([text])))
        assert (unknown(tokens, tokenizer) is not None) == told
    tokens = Dataset.from_dict({"input_ids": [[2, 1, 3]]})
    tokenizer.unk_token = None
    assert unknown(tokens, tokenizer), "tokenizer.json still names it"
    everything = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2, "d": 3}, [])))
    assert unknown(tokens, everything) is None
