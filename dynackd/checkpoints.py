"""Reading checkpoints with care."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from dynackd.errors import UserError
from dynackd.families import family_of


def load_config(path: str) -> PreTrainedConfig:
    """The config of a local directory or hub model, of a supported family; `UserError` otherwise."""
    with _told(path, "config"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    family_of(config)
    return config


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model."""
    with _told(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def load_classifier(path: str, config: PreTrainedConfig | None = None, new_head: bool = False) -> PreTrainedModel:
    """A sequence classifier in float32, from safetensors only, every weight of it accounted for.

    `new_head` lets weights outside the layers and the embeddings (pooler, classifier) start at random, for
    fine-tuning a bare encoder. `UserError` for a missing, damaged, foreign or incomplete checkpoint.
    """
    config = config or load_config(path)
    model, info = _load(AutoModelForSequenceClassification, path, config)
    # from_pretrained re-initialises what it does not find, without an error.
    missing = sorted(name for name in info["missing_keys"] if not (new_head and _is_head(name)))
    if missing or info["mismatched_keys"]:
        first = missing[0] if missing else info["mismatched_keys"][0][0]
        count = len(missing) + len(info["mismatched_keys"])
        raise UserError(
            f"{path} is no complete {config.model_type} classifier: {count} weights are missing or of another shape, "
            f"the first is {first!r}"
        )
    return model


def load_masked_lm(path: str) -> PreTrainedModel:
    """A masked language model of any architecture in float32, from safetensors only; `UserError` for another model."""
    with _told(path, "config"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    model, info = _load(AutoModelForMaskedLM, path, config)
    if info["missing_keys"] or info["mismatched_keys"]:
        first = next(iter(sorted(info["missing_keys"]) or (key[0] for key in info["mismatched_keys"])))
        raise UserError(
            f"{path} is no masked language model: its head or other weights are missing, the first is {first!r}; name "
            "one such as google-bert/bert-base-uncased"
        )
    return model.eval()


def _load(auto: Any, path: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model in float32 and what the library says of its weights."""
    _check_safetensors(path)
    with _told(path, "weights"):
        return auto.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )


def _is_head(name: str) -> bool:
    return "layer." not in name and "embeddings" not in name


def _check_safetensors(path: str) -> None:
    """Refuse a local checkpoint that is not whole safetensors; a hub name passes."""
    if not os.path.isdir(path):
        return
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
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        where = "directory" if os.path.isdir(path) else "name on the hub, and no such directory exists here"
        raise UserError(f"could not load the {what} of {path!r} ({where}): {lines[0]}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
