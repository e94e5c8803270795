"""The contract of a kind of task. A kind is one file beside this one with one object in it, and a line in `KINDS`.

Whatever differs between kinds is answered by this object: how a recipe's `task` and the rows are read, what the model
is, what it gives, how that is learned, judged and told. Nothing outside asks for a kind by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Encoding
from torch import Tensor
from transformers import DataCollatorWithPadding

from dynackd.data.labels import LabelMap
from dynackd.data.model_labels import ModelLabels, told_outputs
from dynackd.data.rows import Column, Rows
from dynackd.data.sources import Place
from dynackd.errors import UserError, a, names_of, one_of, refuse_unknown_keys
from dynackd.system.settings import Settings
from dynackd.tasks.common_words import CommonWords, Places
from dynackd.tasks.doubts import Doubt
from dynackd.tasks.guessing import Guess, Sample
from dynackd.tasks.parts import Arrays, ClassScore, Labels, Output, Reading, Tensors

RESERVED_COLUMNS = ("label", "labels", "length", "row")  # the names that our own columns take
LABELLED = "labelled"  # a column of inputs, 0 where what stands for labels means nothing (`data.unlabelled`)
OWN_TASK = "a task of your own"

class Kind(ABC):
    """What a task is: override what differs. `outputs` are [rows, ...] tensors or arrays by name throughout."""

    name: str  # in a recipe, `task.kind`
    # --- the model
    auto_class = "AutoModelForSequenceClassification"  # of transformers
    problem_type: Any = None  # of its config
    head: tuple[str, ...] = ("classifier",)  # how the path of its output layer begins
    outputs: tuple[Output, ...] = (Output("logits", ("batch", "labels")),)
    pooler = True  # whether the head reads what the encoder's pooler gives, where there is one
    noun = "model"  # what it is called
    rows_needed = "a text, or two, and a label"  # what each of its rows holds
    row_noun, input_noun = "rows", "inputs"  # what its rows are called, and what these become where they become several
    # --- a recipe's `task`
    section: type[Settings] | None = None  # how it is written, for the JSON Schema, where that is no text and label
    task_keys: tuple[str, ...] = ("kind", "text", "label", "metrics", "labels", "check_teacher")
    needed_keys: tuple[str, ...] = ("kind", "text", "label")
    metrics: tuple[str, ...] = ()  # that it can be judged by
    default_metrics: tuple[str, ...] = ()  # the first is the main one
    lower_is_better: frozenset[str] = frozenset()
    refused_training: Mapping[str, str] = {}  # fields of `training` that make no sense for it -> why
    not_finetuned = "has no labels to fine-tune with; name a fine-tuned model under 'teacher'"  # where it cannot be
    of_lines = True  # whether a text alone, a line of a file, can be a row without a label, or half of one of two texts
    augmentable = False  # whether a row's texts may be changed by `dynackd augment`
    # --- the columns of a batch that are no inputs of the model
    label_columns: tuple[str, ...] = ("labels",)
    stock_labels: tuple[str, ...] = ("labels",)  # of these, what a Hugging Face model makes its own loss of, if any
    names_outputs = True  # whether its outputs are classes, which their names tell apart
    compares_sizes = True  # whether `output_loss` tells anything where the teacher's hidden size is another
    one_tokenizer = ""  # why a teacher must read the same tokens as the model, where it must
    together: str | None = None  # of these, the one whose equal values are rows that are trained in one batch
    # --- the model card
    pipeline_tag = "text-classification"
    example = "a fine film"  # a text that the snippets give to the model
    example_pair: str | None = None  # the second text, where the model reads two
    pipeline: str | None = None  # of transformers, that runs it
    pipeline_options = ""  # what else is to be said to it, as in `, top_k=None`
    js_pipeline: str | None = None  # of transformers.js
    js_options = ""  # what else a call of it is given, as in `, { top_k: null }`
    reading = Reading()  # of the plain arrays that a runtime gives
    clients: Mapping[str, Callable[[Mapping[str, Any]], str]] = {}  # title -> snippet, beside or instead of the usual

    # ------------------------------------------------------------------------------------------- a recipe's `task`

    def task(self, value: Mapping[str, Any]) -> "Task":
        """A recipe's `task` without `labels` and `check_teacher`. Raises UserError."""
        self.check_keys(value)
        text, label = names_of("task.text", value["text"]), value["label"]
        if not isinstance(label, str):
            raise UserError(f"task.label: expected one column name, got {label!r}")
        if len(text) > 2 or len(set(text)) < len(text) or label in text:
            raise UserError(f"task.text: expected one or two different columns other than the label's, got {text}")
        if clash := [column for column in text if column in RESERVED_COLUMNS]:
            raise UserError(f"task.text: rename the column '{clash[0]}'; dynackd makes a column of that name itself")
        return Task("custom", tuple(text), label, self, self.chosen_metrics(value))

    def check_keys(self, value: Mapping[str, Any]) -> None:
        """Refuse (UserError) keys of a recipe's `task` that are unknown, and a lack of those that are needed."""
        refuse_unknown_keys("task", value, self.task_keys)
        for key in self.needed_keys:
            if not value.get(key):
                needed = f"{', '.join(self.needed_keys[:-1])} and {self.needed_keys[-1]}"
                raise UserError(f"task: '{key}' is missing; {OWN_TASK} needs {needed}")

    def chosen_metrics(self, value: Mapping[str, Any]) -> tuple[str, ...]:
        """The metrics that a recipe's `task` names, or the default ones. Raises UserError."""
        names = names_of("task.metrics", value.get("metrics") or list(self.default_metrics))
        return tuple(one_of(f"task.metrics of {a(self.name)} task", name, self.metrics) for name in names)

    def with_labels(self, task: "Task", labels: Any) -> "Task":
        """The task with a recipe's `task.labels`. Raises UserError."""
        raise UserError(f"task.labels: {a(self.name)} has no classes; remove it")

    def can_finetune(self, task: "Task") -> bool:
        """Whether rows hold what a bare encoder could be fine-tuned with."""
        return self.label_column(task) is not None

    def guess(self, sample: Sample) -> list[Guess]:
        """Every way in which the rows of a file, of which nobody says what they are, could be of this kind."""
        return []

    # ---------------------------------------------------------------------------------------------------- the rows

    def of_split(self, task: "Task", split: str) -> "Task":
        """The task as the rows of a split ("train", "validation", ...) are read, where these have other columns."""
        return task

    def columns(self, task: "Task") -> list[Column]:
        """The columns of a row but its label's, which are kept on disk under their own names."""
        return [Column(name) for name in task.text_columns]

    def label_column(self, task: "Task") -> Column | None:
        """The column of a row's label, if rows have one."""
        return None

    def without_labels(self, task: "Task") -> "Task":
        """The task as rows without labels are read, where `columns` has more than texts."""
        return task

    def placeholders(self, task: "Task", batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """What stands for labels, by their columns, beside rows that have none, in a batch with others. Unread."""
        rows = len(next(iter(batch.values())))
        return {"label": [0] * rows} if self.label_column(self.of_split(task, "train")) is not None else {}

    def gathered(self, task: "Task", rows: Rows) -> Rows:
        """The rows of a split as they are used: a row that stands in several lines or columns of a file made one."""
        return rows

    def labels(self, task: "Task", raw: Mapping[str, Rows], model: ModelLabels | None) -> Labels:
        """The rows' labels as numbers, the training rows' first; model: the outputs of a trained model, None for a
        head still to be made. Raises UserError for labels that do not fit."""
        return Labels({split: rows.labels.tolist() for split, rows in raw.items()})

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """A number for each row; rows of like number are held out for validation in equal shares."""
        return np.zeros(len(labels))

    def written(self, task: "Task", label: Any, names: LabelMap | None) -> dict[str, Any]:
        """A row's label as its data write it, by column."""
        return {task.label_column: label}

    # --------------------------------------------------------------------------------------------------- the model

    def settled(self, config: Any, directory: Path) -> Mapping[str, Any]:
        """What the config of a model in `directory`, or of that name on the hub, must say of outputs, as a pooling."""
        return {}

    def files(self, config: Any) -> Mapping[str, Any]:
        """JSON files that stand beside a model of this config for its clients: path -> content."""
        return {}

    def facts(self, config: Any) -> Mapping[str, Any]:
        """What export.json, and so the model card, says beside the usual of a model of this config."""
        return {}

    def check_model(self, task: "Task", model: ModelLabels | None) -> None:
        """Refuse (UserError) a trained model whose outputs are of another kind; None: the head is still to be made."""
        if model is not None and model.problem_type not in (None, self.problem_type):
            told = f"the model's problem_type is {model.problem_type}"
            raise UserError(f"task '{task.name}' is {a(self.name)}, but {told}")

    def made(self, architecture: str, config: Any) -> bool:
        """Whether a model of this class name ("BertForSequenceClassification") and config is of this kind."""
        return self.has_head(architecture) and getattr(config, "problem_type", None) in (None, self.problem_type)

    def has_head(self, architecture: str) -> bool:
        """Whether a model of this class has a head for such tasks, whatever its outputs."""
        return architecture.endswith(self.auto_class.removeprefix("AutoModel"))

    def can_teach(self, config: Any, source: str) -> bool:
        """Whether a model says that it is one for such tasks, and not only what such a model is made of."""
        return self.has_head((config.architectures or [""])[0])

    def output_names(self, label_names: Sequence[str]) -> tuple[str, ...]:
        """What a model's outputs are called."""
        return tuple(label_names) or ("LABEL_0",)

    def head_fits(self, source: str, before: ModelLabels, names: Sequence[str]) -> tuple[bool, str]:
        """(whether the head of the model at `source` is one of the outputs `names`, what to tell of it)."""
        same = [name.casefold() for name in before.names] == [name.casefold() for name in names]
        has = f"{source} has a head of {told_outputs(before.names)}"
        if same and before.problem_type in (None, self.problem_type):
            return True, f"{has} already; its training goes on"
        return False, f"{has}; a new one of {told_outputs(names)} is made"

    def first_bias(self, labels: Sequence[Any]) -> Sequence[float] | None:
        """Where the biases of a new output layer begin, by the training rows' labels; None: at 0."""
        return None

    # ------------------------------------------------------------------------------------------------ rows as inputs

    def fit_tokenizer(self, tokenizer: Any) -> Any:
        """The tokenizer, changed to what the rows need; so it is saved beside what is trained."""
        return tokenizer

    def encode(self, task: "Task", tokenizer: Any, batch: Mapping[str, list[Any]], **options: Any) -> Any:
        """The tokenizer's model inputs of some rows; `options` are the tokenizer's."""
        return tokenizer(*(batch[name] for name in task.text_columns), **options)

    def features(self, task: "Task", tokenizer: Any, batch: Mapping[str, list[Any]], max_length: int) -> dict[str, Any]:
        """The model's inputs of some rows, cut to `max_length` tokens, and their labels where the rows have any.

        A row may become several inputs: `batch["row"]` holds the rows' numbers, from 0, for a label column that says
        which row an input is of. The kind sees to it that the values of `together` are those of a split.
        """
        encoded = self.encode(task, tokenizer, batch, truncation=True, max_length=max_length)
        return {**encoded, **({"labels": batch["label"]} if "label" in batch else {})}

    def lost(self, tokens: Dataset, max_length: int) -> str:
        """What of the rows the inputs `tokens`, cut at `max_length`, do not hold, for the user; "" for nothing."""
        return ""

    def least_tokens(self, task: "Task", tokenizer: Any) -> int:
        """The fewest tokens in which a row has room."""
        texts = len(task.text_columns)
        return int(tokenizer.num_special_tokens_to_add(pair=texts == 2)) + texts

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """What makes a batch of tensors of some rows' features."""
        return DataCollatorWithPadding(tokenizer)

    def texts_of(self, encoding: Encoding) -> Sequence[int | None]:
        """The text that each token of an input is a piece of, None of special ones; offsets count from its start."""
        return encoding.sequence_ids

    def split(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A batch's inputs of the model, and its labels."""
        labels = {name: batch[name] for name in (*self.label_columns, LABELLED) if name in batch}
        return {name: value for name, value in batch.items() if name not in labels}, labels

    # -------------------------------------------------------------------------------------------------- the outputs

    @property
    def judged(self) -> list[str]:
        """The names of the outputs that metrics and fidelity are about."""
        return [output.name for output in self.outputs if output.judged]

    def read(self, fields: Any, batch: Tensors, config: Any) -> dict[str, Tensor]:
        """The outputs, in the order of `self.outputs`, from the fields of the Hugging Face output of a model of this
        config."""
        return {output.name: fields[output.name] for output in self.outputs}

    def places(self, batch: Mapping[str, Any]) -> Any:
        """Which tokens of a batch, inputs and labels, count where an output has a place for each: those that are no
        padding. [batch, length], of tensors or arrays as the batch is."""
        return batch["attention_mask"]

    @property
    def placed(self) -> bool:
        """Whether any of those has a place for each token."""
        return any("length" in output.axes for output in self.outputs if output.judged)

    def flat(self, arrays: Arrays, mask: np.ndarray) -> dict[str, np.ndarray]:
        """A batch's outputs or labels so that batches of any length can be joined along the first axis: of what has a
        place for each token, those of `places` alone, [tokens, ...]. mask [batch, length]."""
        if not self.placed:
            return dict(arrays)
        real = mask.astype(bool)
        return {name: array[real] if array.shape[:2] == mask.shape else array for name, array in arrays.items()}

    def of_rows(self, outputs: Arrays) -> Arrays:
        """`flat` outputs to be compared where rows became other tokens: those of tokens put together for each row."""
        return outputs

    # ------------------------------------------------------------------------------------------------------ learning

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """The loss against the labels, a mean over `label_count`."""
        raise UserError(f"the distillation term 'ce' needs labels, and {a(self.name)} has none")

    @abstractmethod
    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """How far the outputs are from the teacher's, a mean over `output_count`."""

    def loss_of_any_size(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """`output_loss`, or one that is as large for outputs of another hidden size, so that both can be compared."""
        return self.output_loss(outputs, teacher, batch, temperature)

    def in_words(self, outputs: Tensors, places: Places) -> Tensors:
        """What is compared where a teacher reads other tokens: of an output of each token means of words' pieces."""
        judged = [output for output in self.outputs if output.judged]
        return {o.name: places.mean(outputs[o.name]) if "length" in o.axes else outputs[o.name] for o in judged}

    def batch_in_words(self, batch: Tensors, words: CommonWords) -> Tensors:
        """The batch that belongs to those outputs."""
        return {"attention_mask": words.mask} if self.placed else batch

    def label_count(self, batch: Tensors) -> Any:
        """What `label_loss` is a mean over: rows."""
        return len(batch["attention_mask"])

    def output_count(self, batch: Tensors) -> Any:
        """What `output_loss` is a mean over: rows."""
        return len(batch["attention_mask"])

    def importance_loss(self, model: Any, batch: Tensors) -> Tensor:
        """The loss by whose change a head or neuron of a Hugging Face model is judged: the one that it is fine-tuned
        with, against the model's own answers where the batch has no labels."""
        inputs, labels = self.split(batch)
        if not set(self.label_columns) <= set(labels):
            with torch.no_grad():
                labels |= self.own_labels(self.read(model(**inputs), inputs, model.config))
        return self.model_loss(model, {**inputs, **labels})[0]

    def model_loss(self, model: Any, batch: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss that a Hugging Face model is fine-tuned with, and its outputs: transformers' own where the model
        makes one of `stock_labels`, else `label_loss`."""
        inputs, labels = self.split(batch)
        fields = model(**inputs, **{name: labels[name] for name in self.stock_labels})
        outputs = self.read(fields, inputs, getattr(model, "module", model).config)  # which several processes wrap
        return (fields.loss if self.stock_labels else self.label_loss(outputs, batch)), outputs

    def own_labels(self, outputs: Tensors) -> dict[str, Tensor]:
        """The labels of a batch as its outputs would have them."""
        answers = self.answers({name: output.float().cpu().numpy() for name, output in outputs.items()})
        return {"labels": torch.as_tensor(answers).to(next(iter(outputs.values())).device)}

    # ------------------------------------------------------------------------------------------------------- judging

    @abstractmethod
    def answers(self, outputs: Arrays) -> np.ndarray:
        """The labels that a model itself gives, one for each row."""

    @abstractmethod
    def measure(self, task: "Task", outputs: Arrays, labels: Arrays) -> dict[str, float]:
        """The task's metrics."""

    def per_class(self, task: "Task", outputs: Arrays, labels: Arrays) -> dict[str, ClassScore]:
        """How well each class that the labels have is found, by its name, more being better; none without classes."""
        return {}

    @abstractmethod
    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """How closely outputs follow the teacher's, whoever is right."""

    def compared(self, outputs: Arrays, teacher: Arrays, labels: Arrays) -> dict[str, float]:
        """`fidelity`, where that needs the label columns too, such as which inputs are of one row."""
        return self.fidelity(outputs, teacher)

    def same_answers(self, ours: Arrays, theirs: Arrays) -> np.ndarray | None:
        """Whether two models give the same label, for each row; None where outputs are no labels."""
        return None

    def unlabelled_drop(self, ours: Arrays, theirs: Arrays) -> float | None:
        """How far a smaller file's outputs are from the float32 file's, from 0, for rows without labels to measure a
        drop of the metric on; None where that is not defined, and then nothing is refused for it."""
        return None

    def drop(self, metric: str, before: float, after: float) -> float:
        """By how much a metric got worse, in its own unit."""
        return after - before if metric in self.lower_is_better else before - after

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        """What a teacher's own outputs on labelled rows say against it."""
        return None

    def relabelled(self, names: Sequence[str], before: Sequence[Any], after: Sequence[Any]) -> dict[str, Any]:
        """What `dynackd augment` tells of the labels of new rows, `before` those of the rows that they came from."""
        return {}


@dataclass(frozen=True)
class Task:
    """What is read and what counts: one or two text columns, a label column, a kind and its metrics.

    `label_names` is in the order of the class ids. `metrics[0]` is the main one. `validation_splits` maps the suffix
    of the metrics' names to the split on the hub. `class_order` is set by `load_task_data` when a model orders the
    classes of a declared task differently: `class_order[model's id]` is the task's own id, in which metrics count.
    `labels` is the recipe's map from what stands in the data to class ids or names. `check_teacher`: whether it is
    tried on rows. `rows` are the validation rows as read, by suffix, `judged` those that `Kind.measure` is about.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    kind: Kind
    metrics: tuple[str, ...]
    label_names: tuple[str, ...] | None = None
    hub: Place | None = None
    train_split: str = "train"
    validation_splits: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    class_order: tuple[int, ...] | None = None
    labels: Mapping[str, int | str] | None = None
    check_teacher: bool = True
    rows: Mapping[str, Dataset] = field(default_factory=dict, compare=False, repr=False)
    judged: Dataset | None = field(default=None, compare=False, repr=False)
