"""How an encoder makes one vector of a text's token states, as sentence-transformers' files beside a model say it.

    how = pooling_of("sentence-transformers/all-MiniLM-L6-v2")    # Pooling("mean", normalize=True), or None
    how.of(states, attention_mask)                                # [batch, hidden]
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers.utils import cached_file

from dynackd.errors import UserError, listed, one_of
from dynackd.system.places import read_json
from dynackd.tasks.losses import wide

MODES = ("mean", "cls")
MODULES, POOLING, SENTENCE = "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"
# sentence-transformers up to version 5 writes a flag for each mode.
FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Pooling:
    """mode: the mean over a text's real tokens, or its first real one ("cls"). normalize: to length 1. prompts: what
    sentence-transformers can put in front of a text, by name, and which of them it does by default."""

    mode: str = "mean"
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None

    def of(self, states: Tensor, mask: Tensor) -> Tensor:
        """Token states [batch, length, hidden], of which `mask` [batch, length] says what is real -> [batch, hidden],
        in float32 or better."""
        states = wide(states)
        if self.mode == "cls":
            first = mask.int().argmax(1)[:, None, None].expand(-1, 1, states.shape[-1])
            vectors = states.gather(1, first)[:, 0]
        else:
            # Shares before the sum: in a 16-bit file the sum of 512 tokens could be too large.
            shares = mask.to(states.dtype) / mask.sum(1, keepdim=True).clamp(min=1).to(states.dtype)
            vectors = (states * shares[..., None]).sum(1)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def to_dict(self) -> dict[str, Any]:
        """What a config says of it."""
        return {**asdict(self), "prompts": dict(self.prompts)}

    def told(self) -> str:
        """In words."""
        mode = "the mean over its real tokens" if self.mode == "mean" else "its first token's"
        return f"{mode}, {'normalised' if self.normalize else 'not normalised'}"

    def files(self, hidden: int) -> dict[str, Any]:
        """The files by which sentence-transformers loads a model of this hidden size: path -> content; with the names
        that its older versions know too."""
        modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
        flags = {flag: mode == self.mode for flag, mode in FLAGS.items()}
        return {
            MODULES: [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
                for i, (name, path) in enumerate(modules[: 2 + self.normalize])
            ],
            POOLING: {"word_embedding_dimension": hidden, **flags, "include_prompt": True},
            "sentence_bert_config.json": {"do_lower_case": False},  # how long a text may be, the tokenizer says
            SENTENCE: {
                "model_type": "SentenceTransformer",
                "prompts": dict(self.prompts),
                "default_prompt_name": self.default_prompt_name,
                "similarity_fn_name": "cosine",
            },
            **({"2_Normalize/config.json": {}} if self.normalize else {}),
        }


def pooling_of(model: str) -> Pooling | None:
    """How the model in this directory, or of this name on the hub, pools; None where no file of sentence-transformers'
    says it, as on the hub without network. Raises UserError for what dynackd cannot follow."""
    modules = _content(model, MODULES)
    if modules is None:
        return None
    try:
        steps = {entry["type"].rpartition(".")[2]: entry["path"] for entry in modules}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{model}/{MODULES} is damaged: it is no list of modules with a type and a path") from error
    known = ("Transformer", "Pooling", "Normalize")
    if others := [name for name in steps if name not in known]:
        raise UserError(f"{model} ends in a module {others[0]}, and dynackd follows an embedder of {listed(known)} "
                        "alone; name another teacher")
    if "Pooling" not in steps:
        raise UserError(f"{model}/{MODULES} names no Pooling; name a model that gives one vector for a text")
    about = _content(model, SENTENCE) or {}
    mode = _mode(model, _content(model, f"{steps['Pooling']}/config.json") or {})
    return Pooling(mode, "Normalize" in steps, about.get("prompts") or {}, about.get("default_prompt_name"))


def _mode(model: str, pooling: Mapping[str, Any]) -> str:
    modes = pooling.get("pooling_mode") or [mode for flag, mode in FLAGS.items() if pooling.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) > 1 or modes[0] not in MODES:
        raise UserError(f"{model} pools by {' and '.join(map(str, modes))}, and dynackd follows {' or '.join(MODES)} "
                        "alone; name another teacher")
    return one_of("pooling_mode", modes[0], MODES)


def _content(model: str, name: str) -> Any:
    """A JSON file beside a model, from the hub's cache or the hub where it is no directory; None where there is none.
    """
    quiet = dict.fromkeys(
        (f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries", "connection_errors")), False
    )
    file = cached_file(model, name, **quiet)
    return read_json(Path(file)) if file else None
