"""A model's answer to one question, for Python: transformers has no pipeline for that any more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import LARGE_INTEGER

from dynackd.errors import UserError
from dynackd.tasks.question_answering import QUESTION_ANSWERING
from dynackd.tasks.spans import MOST_TOKENS, OUTSIDE, best_spans
from dynackd.tasks.windows import ENDS, STARTS, Collator, windows_of

USUAL_LENGTH = 512  # where a tokenizer names none


@dataclass(frozen=True)
class Answer:
    """An answer's `text`, which is `context[start:end]`, and how likely it is in its window, 0 to 1. Without an answer
    the text is empty, and start and end are 0."""

    text: str
    start: int
    end: int
    probability: float


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    question: str,
    context: str,
    *,
    unanswerable: bool = False,
    max_length: int | None = None,
    stride: int | None = None,
    max_answer_tokens: int = MOST_TOKENS,
    batch_size: int = 16,
) -> Answer:
    """The span of a context, however long, that answers a question best.

    model: a Hugging Face model for question answering. unanswerable: whether "no answer" is one, for models that have
    learned it. max_length: tokens of the windows in which a long context is read, by default as many as the tokenizer
    says, or 512; stride: those that windows share, by default a third. Raises UserError for a question that is too
    long, numbers that are none, and a model of another kind.
    """
    numbers = {"max_length": (max_length, 1), "stride": (stride, 0), "max_answer_tokens": (max_answer_tokens, 1)}
    _refuse_unlike(model, max_length, {**numbers, "batch_size": (batch_size, 1)})
    told = tokenizer.model_max_length
    length = max_length or (told if told < LARGE_INTEGER else USUAL_LENGTH)
    windows = windows_of(tokenizer, [question.strip()], [context], length, stride)
    names, collate = list(tokenizer.model_input_names), Collator(tokenizer)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(windows[name] for name in names), strict=True)]
    logits: list[list[np.ndarray]] = []  # of each window, of its own length: starts, ends
    for batch in (collate(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)):
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        read = QUESTION_ANSWERING.read(model(**inputs), inputs, model.config)
        arrays = zip(*(output.double().cpu().numpy() for output in read.values()), batch["attention_mask"], strict=True)
        logits += [[own[mask.numpy() != 0] for own in (starts, ends)] for starts, ends, mask in arrays]
    found = [best_spans(s[None], e[None], own[None] != OUTSIDE, max_answer_tokens)
             for (s, e), own in zip(logits, windows[STARTS], strict=True)]
    best = int(np.argmax([spans.score[0] for spans in found]))
    least = int(np.argmin([spans.nothing[0] for spans in found]))
    score = found[best].score[0]
    if not np.isfinite(score) or (unanswerable and found[least].nothing[0] > score):
        return Answer("", 0, 0, _probability(logits[least], 0, 0))
    first, last = int(found[best].first[0]), int(found[best].last[0])
    start, end = int(windows[STARTS][best][first]), int(windows[ENDS][best][last])
    return Answer(context[start:end], start, end, _probability(logits[best], first, last))


def _refuse_unlike(model: Any, max_length: int | None, numbers: Mapping[str, tuple[int | None, int]]) -> None:
    """numbers: an argument's name -> what was given, and the least that it may be."""
    other = isinstance(model, PreTrainedModel) and not QUESTION_ANSWERING.has_head(type(model).__name__)
    if other or not hasattr(model, "device"):
        raise UserError(f"answer takes a Hugging Face model for question answering, not a {type(model).__name__}")
    for name, (given, least) in numbers.items():
        if given is not None and given < least:
            raise UserError(f"{name} is {given}; it must be {least} or more")
    most = getattr(model.config, "max_position_embeddings", None)
    if max_length is not None and most is not None and max_length > most:
        raise UserError(f"max_length is {max_length}; the model takes {most} tokens")


def _probability(logits: list[np.ndarray], first: int, last: int) -> float:
    """Of a span of a window, both ends by themselves."""
    start, end = (log_softmax(own) for own in logits)
    return float(np.exp(start[first] + end[last]))
