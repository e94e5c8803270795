"""Question answering: a row is a question and a context, and the answer a span of the context (SQuAD).

A context that is too long is read in windows that overlap, each with the whole question; the answer of a question is
the best span of all its windows. Where the answer does not lie in a window, that points to its first token; so does
every window of a question without an answer (SQuAD 2.0), where `task.unanswerable` lets there be such.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from pydantic import Field
from scipy.special import log_softmax
from torch import Tensor

from dynackd.data.labels import LabelMap
from dynackd.data.model_labels import ModelLabels, placeholders
from dynackd.data.rows import Column, Rows
from dynackd.errors import UserError
from dynackd.system.settings import Settings, Whole, checked
from dynackd.tasks.answer_clients import ANSWER_CLIENTS, CONTEXT, QUESTION, READING
from dynackd.tasks.doubts import Doubt, doubt_of_places
from dynackd.tasks.guessing import CERTAIN, Guess, Sample
from dynackd.tasks.kind import RESERVED_COLUMNS, Kind, Task
from dynackd.tasks.losses import cross_entropy, soft_cross_entropy, wide
from dynackd.tasks.parts import Arrays, Labels, Output, Tensors
from dynackd.tasks.spans import (
    MOST_TOKENS,
    OUTSIDE,
    Spans,
    best_of,
    best_spans,
    best_windows,
    least_nothing,
    located,
    padded,
    tokens_of,
)
from dynackd.tasks.windows import ENDS, ROW, STARTS, Collator, beginning, windows_of

POSITIONS = ("start_positions", "end_positions")  # of a window: the tokens of the answer
LENGTHS = "window_lengths"  # of the windows whose tokens were joined, once they are `flat`
NOWHERE = -1e30  # a logit where there is no token: its probability is 0 to the last bit
STRUCT = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))])
Name = Annotated[str, Field(min_length=1)]
ONE = '{"text": "Paris", "answer_start": 23}'
EXAMPLE = '{"text": ["Paris"], "answer_start": [23]}'


class QuestionAnsweringTask(Settings):
    """Questions about contexts."""

    kind: Literal["question_answering"] = Field(description="The answer is a span of the context")
    question: Name = Field(default="question", description="The column of the question")
    context: Name = Field(default="context", description="The column of the text that it is about")
    answers: Name | None = Field(
        default="answers",
        description="The column of the answers, each a text and where it begins; null where there are none to learn or "
        "to be judged by",
    )
    stride: Whole | None = Field(
        default=None, ge=0, description="Tokens that the windows of a long context share; a third of data.max_length"
    )
    unanswerable: bool = Field(default=False, description="Whether a question may have no answer, as in SQuAD 2.0")
    max_answer_tokens: Whole = Field(default=MOST_TOKENS, ge=1, description="The longest answer that is considered")
    metrics: str | list[Literal["f1", "exact_match"]] | None = Field(
        default=None, description="What is measured, the main one first; by default f1, exact_match"
    )


@dataclass(frozen=True)
class Questions(Task):
    """`text_columns` are the question's and the context's, `label_column` is that of the answers, or empty."""

    stride: int | None = None
    unanswerable: bool = False
    max_answer_tokens: int = MOST_TOKENS


class QuestionAnswering(Kind):
    """A row is a question with its context; inputs are windows, outputs `start_logits` and `end_logits` [windows,
    length]."""

    name = "question_answering"
    names_outputs = False
    auto_class, head = "AutoModelForQuestionAnswering", ("qa_outputs",)
    outputs = (Output("start_logits", ("batch", "length")), Output("end_logits", ("batch", "length")))
    noun, input_noun, row_noun, of_lines = "answerer of questions", "windows", "questions", False
    rows_needed = "a question, a context and the answers with the places where they begin"
    section = QuestionAnsweringTask
    task_keys = tuple(QuestionAnsweringTask.model_fields)
    metrics = default_metrics = ("f1", "exact_match")
    refused_training: Mapping[str, str] = {"label_smoothing_factor": "the places of a window are no classes"}
    label_columns = (*POSITIONS, ROW, STARTS, ENDS)
    one_tokenizer = "the windows of a long context are cut by tokens"
    # transformers' own loss lets padding share in the softmax, so that a window's loss depends on its batch.
    stock_labels: tuple[str, ...] = ()
    pipeline_tag = js_pipeline = "question-answering"
    example, example_pair = QUESTION, CONTEXT
    reading, clients = READING, ANSWER_CLIENTS

    # ------------------------------------------------------------------------------------------- a recipe's `task`

    def guess(self, sample: Sample) -> list[Guess]:
        """A column of answers that say where they begin, beside a question and its context."""
        texts = sample.text or tuple(name for name in ("question", "context") if name in sample.columns)
        answers = [sample[name] for name in sample.label] or sample.others
        found = [own for own in answers if own.values and all(map(_says_where, own.values))]
        if len(texts) != 2 or len(found) != 1 or len(sample.label) > 1:
            return []
        task: dict[str, Any] = {"kind": self.name, "question": texts[0], "context": texts[1], "answers": found[0].name}
        if any(not _texts_of(value) for value in found[0].values):
            task["unanswerable"] = True
        return [Guess(task, texts, (found[0].name,), "answers with their places", CERTAIN)]

    def task(self, value: Mapping[str, Any]) -> Task:
        written = checked(QuestionAnsweringTask, dict(value), "task")
        texts = (written.question, written.context)
        every = [name for name in (*texts, written.answers) if name is not None]
        if len(set(every)) < len(every):
            raise UserError(f"task: question, context and answers must be different columns, got {', '.join(every)}")
        if clash := [column for column in every if column in (*RESERVED_COLUMNS, *self.label_columns)]:
            raise UserError(f"task: rename the column '{clash[0]}'; dynackd makes a column of that name itself")
        return Questions(
            "custom", texts, written.answers or "", self, self.chosen_metrics(value),
            stride=written.stride, unanswerable=written.unanswerable, max_answer_tokens=written.max_answer_tokens,
        )  # fmt: skip

    def can_finetune(self, task: Task) -> bool:
        return bool(task.label_column)

    # ---------------------------------------------------------------------------------------------------- the rows

    def columns(self, task: Task) -> list[Column]:
        """The answers are kept on disk with the texts: they are texts, too."""
        question, context = task.text_columns
        texts = [Column(question, "question", lambda value: str(value).strip()), Column(context)]
        answers = Column(task.label_column, "list of answers", _read_answers, STRUCT, (dict, list))
        return texts + ([answers] if task.label_column else [])

    def without_labels(self, task: Task) -> Task:
        return dataclasses.replace(task, label_column="")

    def placeholders(self, task: Task, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        nothing: list[Any] = [{"text": [], "answer_start": []}] * len(batch[task.text_columns[0]])
        return {task.label_column: nothing} if task.label_column else {}

    def labels(self, task: Task, raw: Mapping[str, Rows], model: ModelLabels | None) -> Labels:
        if task.label_column:
            for rows in raw.values():
                _check_answers(rows, _questions(task))
        return super().labels(task, raw, model)

    # --------------------------------------------------------------------------------------------------- the model

    def output_names(self, label_names: Sequence[str]) -> tuple[str, ...]:
        """A start and an end, which transformers calls so."""
        return placeholders(2)

    def head_fits(self, source: str, before: ModelLabels, names: Sequence[str]) -> tuple[bool, str]:
        return True, f"{source} has a head for answers already; its training goes on"

    # ------------------------------------------------------------------------------------------------ rows as inputs

    def features(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], max_length: int) -> dict[str, Any]:
        about = _questions(task)
        questions, contexts = (batch[name] for name in task.text_columns)
        encoded = windows_of(tokenizer, questions, contexts, max_length, about.stride)
        rows, starts, ends = encoded.pop(ROW), encoded.pop(STARTS), encoded.pop(ENDS)
        if not task.label_column:
            return encoded
        places = [_place(context, answers) for context, answers in zip(contexts, batch[task.label_column], strict=True)]
        found = [(place and tokens_of(place, *window)) or (0, 0)
                 for place, *window in zip((places[row] for row in rows), starts, ends, strict=True)]
        positions = dict(zip(POSITIONS, map(list, zip(*found, strict=True)), strict=True))
        return {**encoded, **positions, ROW: [batch["row"][row] for row in rows], STARTS: starts, ENDS: ends}

    def lost(self, tokens: Dataset, max_length: int) -> str:
        if ROW not in tokens.column_names:
            return ""
        rows, ends = np.array(tokens[ROW][:]), np.array(tokens[POSITIONS[1]][:])
        count = len(np.unique(rows)) - len(np.unique(rows[ends > 0]))
        return f"{count:,} questions have no answer that lies in a window as a whole" if count else ""

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        return Collator(tokenizer)

    # -------------------------------------------------------------------------------------------------- the outputs

    def flat(self, arrays: Arrays, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Of what has a place for each token, the real ones, and of how many tokens each window is."""
        flat = super().flat(arrays, mask)
        return {**flat, LENGTHS: (mask != 0).sum(1)} if flat else flat

    # ------------------------------------------------------------------------------------------------------ learning

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """The mean of the cross entropies of start and end, over the places of a window that are no padding."""
        start, end = (real(outputs[output.name], batch["attention_mask"]) for output in self.outputs)
        return (cross_entropy(start, batch[POSITIONS[0]]) + cross_entropy(end, batch[POSITIONS[1]])) / 2

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """The mean of the soft cross entropies of start and end, over the places that are no padding."""
        mask, names = batch["attention_mask"], [output.name for output in self.outputs]
        losses = [soft_cross_entropy(real(outputs[n], mask), real(teacher[n], mask), temperature) for n in names]
        return torch.stack(losses).mean()

    def importance_loss(self, model: Any, batch: Tensors) -> Tensor:
        if set(POSITIONS) <= set(batch):
            return super().importance_loss(model, batch)
        outputs = self.read(model(**batch), batch, model.config)
        masked = {name: real(output.detach(), batch["attention_mask"]) for name, output in outputs.items()}
        return self.label_loss(outputs, {**batch, **self.own_labels(masked)})

    def own_labels(self, outputs: Tensors) -> dict[str, Tensor]:
        return dict(zip(POSITIONS, (outputs[output.name].argmax(-1) for output in self.outputs), strict=True))

    # ------------------------------------------------------------------------------------------------------- judging

    def answers(self, outputs: Arrays) -> np.ndarray:
        """The likeliest start and end [windows, 2] of joined windows, each by itself, wherever they lie."""
        matrices = (padded(outputs[output.name], outputs[LENGTHS], NOWHERE) for output in self.outputs)
        return np.stack([matrix.argmax(-1) for matrix in matrices], -1)

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        assert task.judged is not None, "answers are judged by their texts"
        texts = self.texts(task, outputs, labels)
        golds = [answers["text"] for answers in task.judged[task.label_column]]
        found = {name: [best_of(name, texts[row], golds[row]) for row in texts] for name in task.metrics}
        return {name: float(np.mean(values)) for name, values in found.items()}

    def texts(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[int, str]:
        """What the outputs answer to each row of `task.judged`, by its number; "" where no answer is likelier."""
        assert task.judged is not None
        about, starts, ends = _questions(task), labels[STARTS], labels[ENDS]
        spans = self._spans(outputs, labels, about.max_answer_tokens)
        nothing = least_nothing(spans, labels[ROW]) if about.unanswerable else {}
        offsets = np.cumsum(labels[LENGTHS]) - labels[LENGTHS]
        windows, contexts = best_windows(spans, labels[ROW]), task.judged[task.text_columns[1]]
        answered = {row: window for row, window in windows.items()
                    if spans.score[window] >= nothing.get(row, -np.inf) and np.isfinite(spans.score[window])}
        first, last = ({row: offsets[w] + tokens[w] for row, w in answered.items()} for tokens in
                       (spans.first, spans.last))
        return {row: contexts[row][starts[first[row]] : ends[last[row]]] if row in answered else "" for row in windows}

    def _spans(self, outputs: Arrays, labels: Arrays, most: int) -> Spans:
        lengths = outputs[LENGTHS]
        start, end = (padded(outputs[output.name], lengths, NOWHERE) for output in self.outputs)
        return best_spans(start, end, padded(labels[STARTS], labels[LENGTHS], OUTSIDE) >= 0, most)

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`agreement`, the share of windows with the teacher's likeliest start and end, and `kl`, the mean over all
        starts and ends of KL(teacher ‖ student) in nats."""
        divergences = []
        for output in self.outputs:
            ours, theirs = (
                log_softmax(padded(some[output.name].astype(np.float64), some[LENGTHS], NOWHERE), axis=-1)
                for some in (outputs, teacher)
            )
            divergences.append((np.exp(theirs) * (theirs - ours)).sum(-1).mean())
        same = self.same_answers(outputs, teacher)
        return {"agreement": float(same.mean()), "kl": float(np.mean(divergences))}

    def same_answers(self, ours: Arrays, theirs: Arrays) -> np.ndarray:
        return (self.answers(ours) == self.answers(theirs)).all(-1)

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        """By the best spans of the context: of a window's padding nothing was learned, so its logits are anything."""
        if not set(POSITIONS) <= set(labels):
            return None
        spans = self._spans(outputs, labels, MOST_TOKENS)
        answers, places = np.stack([spans.first, spans.last], -1), np.stack([labels[name] for name in POSITIONS], -1)
        return doubt_of_places(answers, places)


def _questions(task: Task) -> Questions:
    assert isinstance(task, Questions)
    return task


def real(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits [windows, length] of which padding has no share in a softmax; in float32 or better."""
    return wide(logits).masked_fill(mask == 0, NOWHERE)


# --- reading answers -------------------------------------------------------------------------------------------------


def _read_answers(value: Any) -> dict[str, list[Any]]:
    """Answers as texts and starts, from an object of two lists or a list of objects. ValueError says what is wrong."""
    if isinstance(value, list):
        if not all(isinstance(one, Mapping) for one in value):
            raise ValueError(f"expected objects such as {ONE}, got {beginning(value)}")
        value = {key: [one.get(key) for one in value] for key in ("text", "answer_start")}
    texts, starts = value.get("text"), value.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ValueError(f"expected as many texts as starts, such as {EXAMPLE}, got {beginning(value)}")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            raise ValueError(f"expected texts and whole numbers, such as {EXAMPLE}, got "
                             f"{beginning(text)} and {beginning(start)}")
        text.encode()
    return {"text": texts, "answer_start": starts}


def _check_answers(rows: Rows, task: Questions) -> None:
    """Refuse (UserError) answers that do not stand where they say, and questions without any."""
    known = rows.texts if rows.index is None else rows.texts.select(rows.index)
    for place, (context, answers) in enumerate(_pairs(known, task)):
        where = f"{rows.where}, data row {rows.number(place)}, column '{task.label_column}'"
        if not answers["text"] and not task.unanswerable:
            raise UserError(f"{where}: the question has no answer; where that may be, say task.unanswerable: true")
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            if located(context, text, start) is None:
                there = context[max(start, 0) : max(start, 0) + len(text)]
                raise UserError(f"{where}: the answer {beginning(text)} is not at character {start:,} of the context, "
                                f"where {beginning(there)} stands; characters are counted from 0")


def _pairs(rows: Any, task: Task) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row's context and answers."""
    for batch in rows.iter(1000):
        yield from zip(batch[task.text_columns[1]], batch[task.label_column], strict=True)


def _place(context: str, answers: Mapping[str, Sequence[Any]]) -> tuple[int, int] | None:
    """The characters of the first answer, which is learned."""
    every = zip(answers["text"], answers["answer_start"], strict=True)
    return next((located(context, text, start) for text, start in every), None)


def _says_where(value: Any) -> bool:
    """Whether a cell holds answers with the places where they begin: an object, or a list of such."""
    some = value if isinstance(value, list) else [value]
    return all(isinstance(one, dict) and {"text", "answer_start"} <= set(one) for one in some)


def _texts_of(value: Any) -> bool:
    """Whether there is an answer."""
    return bool(value if isinstance(value, list) else value["text"])


QUESTION_ANSWERING = QuestionAnswering()
