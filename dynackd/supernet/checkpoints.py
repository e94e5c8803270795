"""Reading checkpoints with care."""

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from dynackd.data.model_labels import labels_of, model_labels
from dynackd.errors import UserError, listed
from dynackd.families.family import name_from
from dynackd.families.table import FAMILIES, family_of
from dynackd.tasks.kind import Kind
from dynackd.tasks.kinds import kind_of


def load_config(path: str) -> PreTrainedConfig:
    """The config of a local directory or hub model, of a supported family; `UserError` otherwise."""
    with _told(path, "config"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    family_of(config)
    _refuse_foreign(path, config)
    return neutral(config)


# Keys of a config that say how a model runs or what it returns beside its logits -> as our own calls need them.
_NEUTRAL: dict[str, Any] = {
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "chunk_size_feed_forward": 0,
    "tie_last_hidden_states": None,
    "dtype": None,
    "_attn_implementation": None,
    "_experts_implementation": None,
}
MODELS_OF_RUN = ("teacher", "general")  # what in a run's directory may be meant by a model
_DROPPED = ("gradient_checkpointing", "torchscript", "use_bfloat16", "auto_map")
# Keys that make another model of it than the families are, and why.
_FOREIGN = {
    "quantization_config": "its weights are quantised; name the model that it was before",
    "is_decoder": "a decoder's words see only those before them",
    "is_encoder_decoder": "it has a decoder, too",
    "add_cross_attention": "it reads a second text by cross attention",
    "pruned_heads": "heads were cut out of it in a way that transformers 5 does not read",
    "per_layer_config": "its layers are of different sizes",
    "auto_map": "it comes with code of its own, which dynackd never runs",
}


def neutral(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config without what the model's last owner wanted of its runs (tuples, attentions, chunks, half precision, an
    attention that is not installed); what the model computes stays the same. Changes it in place."""
    for name, value in _NEUTRAL.items():
        setattr(config, name, value)
    for name in _DROPPED:
        vars(config).pop(name, None)
    return config


def load_model_config(path: str) -> PreTrainedConfig:
    """The config of a fine-tuned model, whose `id2label` and `label2id` then name every output and agree.

    transformers alone drops a `label2id` without `id2label`, and counts {0: pos, 2: neg} as two outputs. `UserError`
    where the two disagree.
    """
    with _told(path, "config"):
        content, _ = PreTrainedConfig.get_config_dict(path)
    labels, config = model_labels(content, f"{path}, config.json"), load_config(path)
    name_outputs(config, labels.names)
    return config


def name_outputs(config: PreTrainedConfig, names: Sequence[str]) -> None:
    """Give a model as many outputs as there are names, and each its name."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def _refuse_foreign(path: str, config: PreTrainedConfig) -> None:
    """`UserError` for a config of which transformers would make another model than the one that was trained."""
    values = {**vars(config), "per_layer_config": vars(config).get("_heterogeneity_spec")}
    if family_of(config).ported:
        values.pop("auto_map", None)  # transformers runs code of its own for the same model
    for key, reason in _FOREIGN.items():
        if values.get(key):
            raise UserError(f"{path} cannot be used: its config.json has {key!r}, and {reason}")
    positions = getattr(config, "position_embedding_type", None)
    if positions not in (None, "absolute"):
        raise UserError(
            f"{path} cannot be used: its config.json has 'position_embedding_type' {positions!r}, and transformers 5 "
            f"knows a {config.model_type} with 'absolute' positions alone"
        )


def load_tokenizer(path: str, config: PreTrainedConfig, kind: Kind | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model, fitted to it and to a kind of task, by default the one that the config says;
    `UserError` where it is missing or does not fit."""
    with _told(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    fitted: PreTrainedTokenizerBase = (kind or kind_of(config)).fit_tokenizer(fit_tokenizer(tokenizer, config, path))
    return fitted


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, path: str) -> PreTrainedTokenizerBase:
    """The tokenizer, giving exactly the inputs that the model takes, padding on the right: on the left, absolute
    positions would make a text's result depend on the longest text of its batch. Changes it in place.

    Raises `UserError` for a tokenizer that knows no word, has no fast version or no padding token, or gives ids or
    token types for which the model has no embeddings.
    """
    words, rows = tokenizer.get_vocab(), config.vocab_size
    if not words.keys() - set(tokenizer.all_special_tokens):
        raise UserError(
            f"{path} holds no tokenizer: all that transformers finds there are {len(words)} special tokens, to which "
            "every word would be unknown; put the model's tokenizer.json (or vocab.txt) beside it"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {path} ({type(tokenizer).__name__}) has no fast version, so nothing trained with it "
            "could be exported; name a model with a tokenizer.json"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of {path} has no padding token; name one as pad_token in tokenizer_config.json")
    if (largest := max(words.values())) >= rows:
        raise UserError(
            f"the tokenizer of {path} gives ids up to {largest}, but the model has embeddings for {rows} tokens, 0 to "
            f"{rows - 1}; drop the added tokens, or give the model as many (resize_token_embeddings) and train it"
        )
    _check_padding(tokenizer, config, path)
    set_attribute(tokenizer, "padding_side", "right")
    names = ["input_ids", *(["token_type_ids"] if _takes_types(tokenizer, config, path) else []), "attention_mask"]
    if sorted(names) != sorted(tokenizer.model_input_names):
        set_attribute(tokenizer, "model_input_names", names)
    return tokenizer


def _check_padding(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, path: str) -> None:
    """Refuse a RoBERTa, which counts positions by where its padding is, whose tokenizer pads with something else."""
    counts = config.model_type in FAMILIES and FAMILIES[config.model_type].positions_follow_padding
    if counts and config.pad_token_id != tokenizer.pad_token_id:
        raise UserError(
            f"{path} counts positions from its 'pad_token_id', which is {config.pad_token_id} in config.json, but its "
            f"tokenizer pads with {tokenizer.pad_token_id}; make config.json say what the model was trained with"
        )


def _takes_types(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, path: str) -> bool:
    """Whether the tokenizer gives token types and the model has more than one; `UserError` for one too many."""
    known = getattr(config, "type_vocab_size", 0)
    if known < 2 or "token_type_ids" not in tokenizer.model_input_names:
        return False
    largest = max(tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"])
    if largest >= known:
        raise UserError(
            f"the tokenizer of {path} gives token types up to {largest}, but the model has embeddings for {known}, 0 "
            f"to {known - 1}"
        )
    return True


def set_attribute(tokenizer: PreTrainedTokenizerBase, name: str, value: Any) -> None:
    """An attribute of a tokenizer, also in what it saves: transformers writes what it was made with."""
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value


def load_model(
    path: str, config: PreTrainedConfig | None = None, kind: Kind | None = None, new_head: bool = False
) -> PreTrainedModel:
    """A model for a kind of task, by default the one that its config says, in float32, from safetensors only, every
    weight of it accounted for.

    `new_head` lets weights outside the layers and the embeddings (pooler, classifier) start at random, for
    fine-tuning a bare encoder, or a classifier of other classes. `UserError` for a missing, damaged, foreign or
    incomplete checkpoint.
    """
    config = config or load_model_config(path)
    kind = kind or kind_of(config)
    auto = getattr(transformers, kind.auto_class)
    if type(config) not in auto._model_mapping:
        raise UserError(
            f"{path} can be no {kind.noun}: transformers has no {kind.auto_class} of the architecture "
            f"{config.model_type!r}; docs/families.md says which kinds of task go with it"
        )
    for key, value in kind.settled(config, Path(path)).items():
        setattr(config, key, value)
    options = {} if kind.pooler else without_pooler(auto, config)
    model, info = _load(auto, path, config, **options)
    # from_pretrained re-initialises what it does not find, without an error.
    missing = sorted(name for name in info["missing_keys"] if not (new_head and _is_head(name, model)))
    mismatched = sorted(key for key in info["mismatched_keys"] if not (new_head and key[0].startswith(kind.head)))
    for name, theirs, ours in mismatched:
        if name.startswith(kind.head) and ours[0] == config.num_labels != theirs[0]:
            names = listed(labels_of(config).names)
            raise UserError(f"{path}: config.json names {ours[0]} outputs ({names}), but the weights have {theirs[0]}")
    if missing or mismatched:
        first = missing[0] if missing else mismatched[0][0]
        count = len(missing) + len(mismatched)
        raise UserError(
            f"{path} is no complete {config.model_type} {kind.noun}: {count} weights are missing or of another shape, "
            f"the first is {first!r}"
        )
    _refuse_unused(path, model, info["unexpected_keys"], new_head or not kind.head)
    return model


def without_pooler(auto: Any, config: PreTrainedConfig) -> dict[str, bool]:
    """With what a model of this config is made without the pooler that nothing reads: a checkpoint may not hold it, and
    no step would train it. Nothing for a class that has none, or, as students, knows by itself."""
    made = auto._model_mapping[type(config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(made).parameters else {}


def load_masked_lm(path: str) -> PreTrainedModel:
    """A masked language model of any architecture in float32, from safetensors only; `UserError` for another model."""
    with _told(path, "config"):
        config = neutral(AutoConfig.from_pretrained(path, trust_remote_code=False))
    model, info = _load(AutoModelForMaskedLM, path, config)
    if info["missing_keys"] or info["mismatched_keys"]:
        first = next(iter(sorted(info["missing_keys"]) or (key[0] for key in info["mismatched_keys"])))
        raise UserError(
            f"{path} is no masked language model: its head or other weights are missing, the first is {first!r}; name "
            "one such as google-bert/bert-base-uncased"
        )
    _refuse_unused(path, model, info["unexpected_keys"], new_head=True)
    return model.eval()


def _load(auto: Any, path: str, config: PreTrainedConfig, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model in float32, made with `options`, and what the library says of its weights."""
    _check_safetensors(path)
    with _told(path, "weights"):
        return auto.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told, and refused by the callers
            **options,
        )


def reset_head(model: PreTrainedModel, kind: Kind) -> None:
    """Draw the output layer anew, as for a bare encoder."""
    output = _output_layer(model, kind)
    nn.init.normal_(output.weight, std=model.config.initializer_range)
    nn.init.zeros_(output.bias)


@torch.no_grad()
def begin_head(model: PreTrainedModel, kind: Kind, bias: Sequence[float]) -> None:
    """Let the output layer begin with these biases, one for each output."""
    _output_layer(model, kind).bias.copy_(torch.tensor(bias))


def _output_layer(model: PreTrainedModel, kind: Kind) -> nn.Linear:
    (*_, output) = (module for name, module in model.named_modules() if name.startswith(kind.head))
    assert isinstance(output, nn.Linear)
    return output


def _is_head(name: str, model: PreTrainedModel) -> bool:
    """Whether a weight may be drawn anew for fine-tuning: one outside the encoder, or of its pooler."""
    prefix = name_from(model, "")
    return not name.startswith(prefix) or name.removeprefix(prefix).startswith("pooler.")


# Counters that older libraries stored, and the pooler of a bare encoder, which not every classifier has.
_HARMLESS = re.compile(r"(^|\.)(position_ids|token_type_ids)$|^(\w+\.)?pooler\.dense\.(weight|bias)$")


def _refuse_unused(path: str, model: PreTrainedModel, unexpected: Iterable[str], new_head: bool) -> None:
    """`UserError` for stored weights that the model was made with and does not use, which transformers drops without a
    word: other positions, more layers than the config says, a second head. With `new_head`, heads of other tasks pass.
    """
    prefix = f"{model.base_model_prefix}."

    def in_encoder(name: str) -> bool:
        return name.startswith((prefix, *(f"{own}." for own, _ in model.base_model.named_children())))

    unused = sorted(name for name in unexpected if not _HARMLESS.search(name) and (in_encoder(name) or not new_head))
    if unused:
        raise UserError(
            f"{path} holds {len(unused)} weights for which a {model.config.model_type} of its config.json has no "
            f"place, the first is {unused[0]!r}; without them it would be another model than the one that was trained"
        )


def _check_safetensors(path: str) -> None:
    """Refuse a local checkpoint that is not whole safetensors; a hub name passes."""
    if not os.path.isdir(path):
        return
    if os.path.isfile(os.path.join(path, "adapter_config.json")):
        raise UserError(f"{path} is an adapter to another model; merge the two (merge_and_unload) and save the whole")
    files = sorted(Path(path).glob("*.safetensors"))
    if not files:
        raise UserError(f"{path} holds no *.safetensors file; dynackd loads no other format (pickle can run code)")
    for file in files:
        check_safetensors_file(file)


def check_safetensors_file(file: Path) -> None:
    """Refuse (`UserError`) a truncated or damaged safetensors file."""
    try:
        with safe_open(file, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged or truncated ({error}); copy or train it again") from error


@contextmanager
def _told(path: str, what: str) -> Iterator[None]:
    """Turn the library's errors about a checkpoint into one sentence, and keep its load report off the screen."""
    if not os.path.isdir(path) and (os.path.exists(path) or path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UserError(f"there is no model directory {path!r}")
    if what == "config" and os.path.isdir(path) and not os.path.isfile(os.path.join(path, "config.json")):
        places = (Path(path) / name for name in MODELS_OF_RUN)
        inside = next((own for own in places if (own / "config.json").is_file()), None)
        meant = f"; did you mean {inside}?" if inside else ""
        raise UserError(f"{path} is no model directory: it holds no config.json{meant}")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # whatever the library makes of a foreign file
        message = f"nothing is called {error}" if isinstance(error, KeyError) else str(error)
        lines = [line.strip() for line in message.split("\n\n")[0].splitlines()] or [type(error).__name__]
        reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        where = "directory" if os.path.isdir(path) else "name on the hub, and no such directory exists here"
        raise UserError(f"could not load the {what} of {path!r} ({where}): {reason}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
