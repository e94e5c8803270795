"""Multi-label classification: one or two texts, any number of several labels, none included."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from scipy.special import expit, log_expit
from sklearn import metrics as skm
from torch import Tensor

from dynackd.data.labels import LabelMap, label_map
from dynackd.data.model_labels import ModelLabels
from dynackd.data.rows import Column, Rows, read_class
from dynackd.data.wanted_labels import resolve_wanted, wanted_labels
from dynackd.errors import UserError, listed
from dynackd.system.settings import Settings
from dynackd.tasks.doubts import Doubt, confusion_of, doubt_of_classes, doubt_of_few_found, doubt_of_one_answer
from dynackd.tasks.guessing import Guess, Sample, Seen, as_written, some_of
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.losses import binary_cross_entropy, soft_binary_cross_entropy
from dynackd.tasks.parts import Arrays, ClassScore, Labels, Tensors

SEPARATORS, MOST_WORDS = ("|", ";", ","), 3  # between labels in a text, and the words of a label there
FLAGS = {"0": False, "1": True, "false": False, "true": True}  # what a column of one label may hold


class MultiLabelSection(Settings):
    """A task of your own whose rows have any number of labels."""

    kind: Literal["multi_label"] = Field(description="Any number of labels a row")
    text: str | list[str] = Field(description="The column of the text, or the two columns of a pair")
    label: str | list[str] = Field(
        description="The column with the list of a row's labels, or a column of 0 and 1 for each label"
    )
    separator: str | None = Field(
        default=None, description="What stands between the labels where their column holds texts, such as | or ,"
    )
    metrics: str | list[Literal["f1_micro", "f1_macro", "map", "subset_accuracy"]] | None = Field(
        default=None, description="What is measured, the main one first; by default f1_micro, f1_macro, map"
    )
    labels: list[str] | dict[str, int | str] | None = Field(
        default=None, description="The labels in the order of the model's outputs, or label in the data: id or name"
    )
    check_teacher: bool = Field(
        default=True,
        description="Whether the teacher is tried on rows: an error if worse than chance, a warning if hardly better",
    )


@dataclass(frozen=True)
class MultiLabelTask(Task):
    """flags: the columns of 0 and 1, one for each label, instead of `label_column`. separator: what stands between the
    labels of a text."""

    flags: tuple[str, ...] = ()
    separator: str | None = None


def f1_micro(scores: np.ndarray, labels: np.ndarray) -> float:
    """F1 of all decisions together, a label given where its probability is above 0.5; 1 where there is nothing to find
    and nothing is found."""
    return float(skm.f1_score(labels, scores > 0, average="micro", zero_division=1.0))


def f1_macro(scores: np.ndarray, labels: np.ndarray) -> float:
    """F1 averaged without weights over all labels; 1 for a label that no row has and none is given, as in
    `metrics.f1_macro`."""
    return float(skm.f1_score(labels, scores > 0, average="macro", zero_division=1.0))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The average precision of the rows in the order of a label's scores, averaged over the labels that any row has; 0
    where no row has one. It depends on no threshold."""
    found = [
        skm.average_precision_score(known, own) for own, known in zip(scores.T, labels.T, strict=True) if known.any()
    ]
    return float(np.mean(found)) if found else 0.0


def subset_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of which every label is right."""
    return float(((scores > 0) == labels).all(-1).mean())


# Each takes logits and 0 or 1, [rows, labels].
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
    "map": mean_average_precision,
    "subset_accuracy": subset_accuracy,
}


class MultiLabel(Kind):
    """A row is one or two texts with any number of labels; the output is `logits` [rows, labels], of which each label's
    sigmoid is its probability. A row's label is a list of 0 and 1, [labels]."""

    name = "multi_label"
    problem_type = "multi_label_classification"
    noun = "multi-label classifier"
    rows_needed = "a text, or two, and a list of labels or a column of 0 and 1 for each label"
    section = MultiLabelSection
    task_keys = ("kind", "text", "label", "separator", "metrics", "labels", "check_teacher")
    metrics = tuple(METRICS)
    default_metrics = ("f1_micro", "f1_macro", "map")
    refused_training: Mapping[str, str] = {"label_smoothing_factor": "it smooths one label a row"}
    augmentable = True
    stock_labels = ()
    pipeline = js_pipeline = "text-classification"  # both take a sigmoid, by the config's problem_type
    pipeline_options = ", top_k=None"
    js_options = ", { top_k: null }"

    # ------------------------------------------------------------------------------------------- a recipe's `task`

    def task(self, value: Mapping[str, Any]) -> Task:
        label, separator = value.get("label"), value.get("separator")
        flags = tuple(label) if isinstance(label, list) else ()
        if isinstance(label, list) and (len(set(flags)) < max(2, len(label)) or not all(map(_is_name, label))):
            raise UserError(f"task.label: expected the column of the labels, or two or more different columns of 0 and "
                            f"1, got {label}")
        task = super().task({**value, "label": flags[0]} if flags else value)
        if clash := [name for name in flags if name in task.text_columns]:
            raise UserError(f"task.label: '{clash[0]}' is the column of a text already")
        if separator is not None and flags:
            raise UserError("task.separator: columns of 0 and 1 have none; remove it")
        if separator is not None and not _is_name(separator):
            raise UserError(f"task.separator: expected a text such as '|', got {separator!r}")
        return MultiLabelTask(**{**vars(task), "label_column": "" if flags else task.label_column},
                              flags=flags, separator=separator)

    def with_labels(self, task: Task, labels: Any) -> Task:
        wanted, names = wanted_labels(labels)
        return dataclasses.replace(task, labels=wanted, label_names=names or task.label_names)

    def guess(self, sample: Sample) -> list[Guess]:
        """Lists of few different labels, texts with a sign between such, or three or more columns of 0 and 1."""
        flags = sample.label if len(sample.label) > 1 else sample.flags
        if flags and all(sample[name].is_flag for name in flags):
            told = f"{len(flags)} columns of 0 and 1"
            return [Guess({"kind": self.name, "text": as_written(text), "label": list(flags)}, text, flags, told)
                    for text in sample.texts()]

        def made(text: tuple[str, ...], label: Seen) -> Guess:
            sign = separator_of(label)
            task = {"kind": self.name, "text": as_written(text), "label": label.name}
            task |= {"separator": sign} if sign else {}
            names = [part for value in label.values for part in value.split(sign)] if sign else label.parts.values
            return Guess(task, text, (label.name,), f"any of {some_of(Seen('', names).distinct)}")

        fits = [(text, label) for text, label in sample.readings(lambda _: True)
                if _holds_lists(label, sample.told) or separator_of(label) is not None]
        return [made(text, label) for text, label in fits]

    # ---------------------------------------------------------------------------------------------------- the rows

    def columns(self, task: Task) -> list[Column]:
        assert isinstance(task, MultiLabelTask)
        return [*super().columns(task), *(Column(name, "0 or 1", _flag, pa.bool_()) for name in task.flags)]

    def label_column(self, task: Task) -> Column | None:
        assert isinstance(task, MultiLabelTask)
        if task.flags:
            return None
        separator = task.separator

        def read(value: Any) -> tuple[str, ...]:
            return _names(value, separator)

        return Column(task.label_column, "list of labels", read, pa.list_(pa.string()), (list, str), may_lack=True)

    def can_finetune(self, task: Task) -> bool:
        return True

    def without_labels(self, task: Task) -> Task:
        assert isinstance(task, MultiLabelTask)
        return dataclasses.replace(task, flags=())

    def placeholders(self, task: Task, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        return {"label": [[0] * len(task.label_names or ())] * len(batch[task.text_columns[0]])}

    def gathered(self, task: Task, rows: Rows) -> Rows:
        """With a row's labels in one column, whatever stands in the file."""
        assert isinstance(task, MultiLabelTask)
        if not task.flags:
            return rows
        flags = np.stack([rows.texts.data.column(name).to_numpy() for name in task.flags], 1)
        labels = np.fromiter((tuple(name for name, own in zip(task.flags, row, strict=True) if own) for row in flags),
                             object, len(flags))
        return dataclasses.replace(rows, texts=rows.texts.select_columns(list(task.text_columns)), labels=labels)

    def labels(self, task: Task, raw: Mapping[str, Rows], model: ModelLabels | None) -> Labels:
        assert isinstance(task, MultiLabelTask)
        first = next(iter(raw.values()))
        where = f"{first.where}, {_where(task)}"
        found = Counter(chain.from_iterable(first.labels))
        if not found and model is None:
            raise UserError(f"{where}: no row has a label, so there is nothing to learn")
        declared = task.label_names or task.flags or first.class_names
        names = label_map(found, where, declared, model, task.labels)
        if len(names.names) < 2:
            raise UserError(f"{where}: a multi_label task needs two labels or more, got only {listed(names.names)}; "
                            f"whether a row has the one or not is a classification")
        told = names.told(chain.from_iterable(chain.from_iterable(rows.labels) for rows in raw.values()))
        return Labels({split: _hot(rows, names, _where(task)) for split, rows in raw.items()}, names, told)

    def first_bias(self, labels: Sequence[Any]) -> Sequence[float]:
        """The log-odds of each label's share of the rows: most labels are rare, and from even odds a training spends
        hundreds of steps on no more than that (Lin et al. 2017, section 4.1)."""
        share = (np.asarray(labels, dtype=np.float64).sum(0) + 0.5) / (len(labels) + 1)
        return [float(odds) for odds in np.log(share / (1 - share))]

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """By each row's rarest label, so that none is held out as a whole."""
        counts = Counter(chain.from_iterable(labels))
        rarest = [min(own, key=lambda name: (counts[name], name), default="") for own in labels]
        return np.unique(rarest, return_inverse=True)[1]

    def written(self, task: Task, label: Sequence[int], names: LabelMap | None) -> dict[str, Any]:
        assert isinstance(task, MultiLabelTask)
        assert names is not None
        own = [written for written, has in zip(names.written, label, strict=True) if has]
        return {name: int(name in own) for name in task.flags} or {task.label_column: own}

    # --------------------------------------------------------------------------------------------------- the model

    def settled(self, config: Any, directory: Path) -> Mapping[str, Any]:
        """What makes the pipelines of transformers and transformers.js take a sigmoid, where the model is silent."""
        return {} if config.problem_type else {"problem_type": self.problem_type}

    def check_model(self, task: Task, model: ModelLabels | None) -> None:
        super().check_model(task, model)
        if model is not None and len(model.names) < 2:
            raise UserError(f"task '{task.name}' is a multi_label and needs a model with 2 outputs or more, but the "
                            f"model has {len(model.names)}")
        if task.labels:
            resolve_wanted(task.labels, task.label_names, model)

    def made(self, architecture: str, config: Any) -> bool:
        return super().made(architecture, config) and config.problem_type == self.problem_type

    def features(self, task: Task, tokenizer: Any, batch: Mapping[str, list[Any]], max_length: int) -> dict[str, Any]:
        features = super().features(task, tokenizer, batch, max_length)
        return {**features, **({"labels": [[float(x) for x in row] for row in batch["label"]]}
                               if "label" in batch else {})}

    # ------------------------------------------------------------------------------------------------------ learning

    def label_loss(self, outputs: Tensors, batch: Tensors) -> Tensor:
        return binary_cross_entropy(outputs["logits"], batch["labels"])

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        return soft_binary_cross_entropy(outputs["logits"], teacher["logits"], temperature)

    # ------------------------------------------------------------------------------------------------------- judging

    def answers(self, outputs: Arrays) -> np.ndarray:
        """0 or 1 for each label: whether its probability is above 0.5."""
        return (outputs["logits"] > 0).astype(np.int64)

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        known = labels["labels"] > 0.5
        return {name: METRICS[name](outputs["logits"], known) for name in task.metrics}

    def per_class(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, ClassScore]:
        """The F1 of each label that a row has."""
        known, names = labels["labels"] > 0.5, task.label_names or ()
        scores = skm.f1_score(known, self.answers(outputs), average=None, zero_division=0.0)
        return {names[i] if names else str(i): ClassScore(float(scores[i]), int(count))
                for i, count in enumerate(known.sum(0)) if count}

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`agreement`, the share of a row's labels on which the teacher decides likewise, and `kl`, the mean over rows
        and labels of KL(teacher ‖ student) of having a label or not, in nats."""
        ours, theirs = (some["logits"].astype(np.float64) for some in (outputs, teacher))
        parts = [expit(sign * theirs) * (log_expit(sign * theirs) - log_expit(sign * ours)) for sign in (1, -1)]
        return {"agreement": float(((ours > 0) == (theirs > 0)).mean()), "kl": float(sum(parts).mean())}

    def same_answers(self, ours: Arrays, theirs: Arrays) -> np.ndarray:
        """For each row and label."""
        return np.equal(self.answers(ours), self.answers(theirs))

    def doubt(self, outputs: Arrays, labels: Arrays, names: LabelMap | None) -> Doubt | None:
        """By the rows with one label: it is compared with the output that stands out most from its own mean."""
        assert names is not None
        answers, known = self.answers(outputs), labels["labels"] > 0.5

        def named(own: np.ndarray) -> str:
            return listed([names.names[i] for i in np.flatnonzero(own)]) if own.any() else "no label"

        one = doubt_of_one_answer(answers, known, named) or doubt_of_few_found(answers, known)
        alone = known.sum(-1) == 1
        if not alone.any():
            return one
        above = (outputs["logits"] - outputs["logits"].mean(0))[alone]
        confusion = confusion_of(known[alone].argmax(-1), above.argmax(-1), known.shape[-1])
        return doubt_of_classes(confusion, names) or one

    def relabelled(self, names: Sequence[str], before: Sequence[Any], after: Sequence[Any]) -> dict[str, Any]:
        changed = sum(list(old) != list(new) for old, new in zip(before, after, strict=True))
        counts = np.sum(after, 0).tolist()
        return {"new_labels": dict(zip(names, counts, strict=True)), "label_changed": round(changed / len(after), 4)}


def _holds_lists(label: Seen, told: bool) -> bool:
    """Whether the values are lists of labels: of few words that come again, unless the user says that they are."""
    labels = label.parts
    return bool(labels.keys) and (told or (labels.is_label and not labels.is_text))


def separator_of(label: Seen) -> str | None:
    """What stands between the labels of a text, if any sign does: what is between two of them comes again alone or
    between others, and each is of few words."""
    if not label.all_are(str):
        return None
    for sign in SEPARATORS:
        split = [value.split(sign) for value in label.values]
        parts = {part.strip() for some in split for part in some}
        several = sum(len(some) > 1 for some in split)
        if 50 * several > len(split) and len(parts) < len(label.distinct) and max(map(_words, parts)) <= MOST_WORDS:
            return sign
    return None


def _words(text: str) -> int:
    return len(text.split())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _where(task: MultiLabelTask) -> str:
    """The labels' column or columns, in messages."""
    return f"columns {listed(task.flags)}" if task.flags else f"column '{task.label_column}'"


def _flag(value: Any) -> bool:
    """Whether a row has the label of a column. ValueError says what is wrong."""
    key = read_class(value).lower()
    if key not in FLAGS:
        raise ValueError(f"expected 0 or 1, got {value!r}")
    return FLAGS[key]


def _names(value: Any, separator: str | None) -> tuple[str, ...]:
    """A row's labels, each once. ValueError says what is wrong."""
    if isinstance(value, str) and value.strip() and separator is None:
        raise ValueError(f"expected a list of labels, got the text {value!r}; say in task.separator what stands "
                         f"between its labels")
    if not isinstance(value, list | str):
        return ()  # no value is no label
    some = value if isinstance(value, list) else value.split(separator) if value.strip() else []
    for one in some:
        if not isinstance(one, str | int | float) or read_class(one) == "":
            raise ValueError(f"expected names of labels, but one of {value!r} is {one!r}")
    return tuple(dict.fromkeys(map(read_class, some)))


def _hot(rows: Rows, names: LabelMap, where: str) -> pa.Array:
    """For each row a list of 0 and 1, [labels]."""
    seen = dict.fromkeys(chain.from_iterable(rows.labels))
    ids = {name: found for name in seen if (found := names.find(name)) is not None}
    for unknown in (name for name in seen if name not in ids):
        place = next(place for place, own in enumerate(rows.labels) if unknown in own)
        raise UserError(f"{rows.where}, data row {rows.number(place)}, {where}: {names.unknown(unknown)}")
    hot = np.zeros((len(rows.labels), len(names.names)), np.int8)
    for row, own in enumerate(rows.labels):
        hot[row, [ids[name] for name in own]] = 1
    return pa.FixedSizeListArray.from_arrays(pa.array(hot.reshape(-1)), len(names.names))


MULTI_LABEL = MultiLabel()
