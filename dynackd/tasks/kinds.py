"""The kinds of task that there are, and which one a model is of. A new kind is one file beside this one and one line.
"""

from typing import Any

from dynackd.errors import UserError
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.embedding import EMBEDDING
from dynackd.tasks.kind import Kind
from dynackd.tasks.multi_label import MULTI_LABEL
from dynackd.tasks.plain import PLAIN
from dynackd.tasks.question_answering import QUESTION_ANSWERING
from dynackd.tasks.ranking import RANKING
from dynackd.tasks.regression import REGRESSION
from dynackd.tasks.token_classification import TOKEN_CLASSIFICATION

KINDS: dict[str, Kind] = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
    "question_answering": QUESTION_ANSWERING,
    "token_classification": TOKEN_CLASSIFICATION,
    "multi_label": MULTI_LABEL,
    "ranking": RANKING,
    "embedding": EMBEDDING,
    "plain": PLAIN,
}

KIND_KEY = "dynackd_kind"  # of a config: the kind of task that dynackd trained the model for


def kind_of(config: Any, architecture: str | None = None) -> Kind:
    """The kind of task of a model with this Hugging Face config: the one that dynackd trained it for, else the first
    one that fits its class, which is `architecture` or the config's own, and its outputs.

    A classification where none fits: what is then loaded as one is refused by what it lacks. Raises UserError for a
    kind that there is not.
    """
    known = getattr(config, KIND_KEY, None)
    if known is not None and known not in KINDS:
        raise UserError(f"the config says {KIND_KEY} {known!r}, which is none of {', '.join(KINDS)}")
    if known is not None:
        return KINDS[known]
    named = architecture or (getattr(config, "architectures", None) or [CLASSIFICATION.auto_class])[0]
    return next((kind for kind in KINDS.values() if kind.made(named, config)), CLASSIFICATION)
