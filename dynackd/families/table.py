"""Which family an architecture belongs to, and what of a model is asked through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynackd.errors import UserError
from dynackd.families.bert import BERT
from dynackd.families.deberta_v2 import DEBERTA_V2
from dynackd.families.distilbert import DISTILBERT
from dynackd.families.electra import ELECTRA
from dynackd.families.eurobert import EUROBERT
from dynackd.families.family import Family, name_from
from dynackd.families.gte import GTE
from dynackd.families.jina_embeddings_v3 import JINA_EMBEDDINGS_V3
from dynackd.families.modernbert import MODERNBERT
from dynackd.families.mpnet import MPNET
from dynackd.families.roberta import ROBERTA
from dynackd.subnet import Geometry

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# The model_type of a config -> its family.
FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "camembert": ROBERTA,
    "deberta-v2": DEBERTA_V2,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "eurobert": EUROBERT,
    "gte": GTE,
    "jina_embeddings_v3": JINA_EMBEDDINGS_V3,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "nomic_bert": GTE,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}

# Architectures that cannot be sliced -> why.
REFUSED = {
    "albert": "all of its layers are one, so that none has a width of its own",
    "deberta": "the query, key and value of a head lie between those of others in one weight, their biases beside it; "
    "DeBERTa-v2 and -v3 are supported",
}

# A sliced student's config carries the name of its architecture under this key, since its own model_type is another.
FAMILY_KEY = "dynackd_family"


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model's or a sliced student's config; `UserError` that lists the supported ones otherwise."""
    name = getattr(config, FAMILY_KEY, config.model_type)
    if name in REFUSED:
        raise UserError(f"the architecture {name!r} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise UserError(
            f"the architecture {name!r} is not supported; dynackd knows {', '.join(sorted(FAMILIES))}; "
            "docs/extending.md says how to add one"
        )
    return FAMILIES[name]


def geometry_of(config: PreTrainedConfig) -> Geometry:
    """Layers, heads, head size, neurons and hidden size that a config names."""
    return family_of(config).geometry(config)


def max_positions(config: PreTrainedConfig) -> int:
    """The longest sequence that the model has position embeddings for, in tokens."""
    family = family_of(config)
    if family.positions_follow_padding and config.pad_token_id is None:
        raise UserError(f"config.json says no pad_token_id, from which a {config.model_type} counts its positions")
    reserved = config.pad_token_id + 1 if family.positions_follow_padding else family.reserved_positions
    return config.max_position_embeddings - reserved


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """The model's list of Transformer layers."""
    layers: Any = model.base_model.get_submodule(family_of(model.config).layers)
    return layers


def layer_list_name(model: PreTrainedModel) -> str:
    """The dotted name of the layer list from `model`, which may be the base model or carry a task head."""
    return name_from(model, family_of(model.config).layers)
