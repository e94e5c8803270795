"""Plain text without a task: an encoder without a head, which a smaller one follows state by state."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from dynackd.data.model_labels import ModelLabels
from dynackd.errors import UserError, names_of
from dynackd.system.settings import Settings, checked
from dynackd.tasks.guessing import IF_ASKED, Guess, Sample, as_written
from dynackd.tasks.kind import RESERVED_COLUMNS, Kind, Task
from dynackd.tasks.losses import cosines, signed_sum, unit
from dynackd.tasks.metrics import pearson
from dynackd.tasks.parts import Arrays, Output, Tensors

STATES = "last_hidden_state"
KEPT_TOKENS = 16  # of each row, by whose states a sub-network is judged
EPSILON = 1e-12  # where all pairs are alike nothing can be told


class PlainTask(Settings):
    """Texts without labels."""

    kind: Literal["plain"] = Field(description="An encoder without a head, which learns from its teacher alone")
    text: str | list[str] = Field(description="The column of the texts, or two that are read as a pair")


class Plain(Kind):
    """A row is one or two texts; the output is `last_hidden_state` [rows, length, hidden]."""

    name = "plain"
    auto_class = "AutoModel"
    head = ()
    pooler = False
    compares_sizes = False  # its outputs are hidden states
    outputs = (Output(STATES, ("batch", "length", "hidden")),)
    noun = "encoder"
    rows_needed = "a text, or two, and no label"
    section = PlainTask
    task_keys = tuple(PlainTask.model_fields)
    label_columns = stock_labels = ()
    not_finetuned = "has no labels to fine-tune with; it is its own teacher: run train-width"
    pipeline_tag = pipeline = js_pipeline = "feature-extraction"

    def task(self, value: Mapping[str, Any]) -> Task:
        text = names_of("task.text", checked(PlainTask, value, "task").text)
        if len(text) > 2 or len(set(text)) < len(text):
            raise UserError(f"task.text: expected one or two different columns, got {text}")
        if clash := [column for column in text if column in RESERVED_COLUMNS]:
            raise UserError(f"task.text: rename the column '{clash[0]}'; dynackd makes a column of that name itself")
        return Task("custom", tuple(text), "", self, ())

    def guess(self, sample: Sample) -> list[Guess]:
        """Any texts could be meant, so that they are only if the user says so."""
        texts = [] if sample.label else sample.texts()
        return [Guess({"kind": self.name, "text": as_written(text)}, text, strength=IF_ASKED) for text in texts]

    # --------------------------------------------------------------------------------------------------- the model

    def check_model(self, task: Task, model: ModelLabels | None) -> None:
        """Any encoder will do, whatever its head was for."""

    def made(self, architecture: str, config: Any) -> bool:
        return architecture.endswith("Model")  # BertModel, MPNetModel: what transformers writes of a bare encoder

    def has_head(self, architecture: str) -> bool:
        return True  # an encoder is all that it takes

    # ------------------------------------------------------------------------------------------------------ learning

    def output_loss(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """1 - cosine to the teacher's state, mean over real tokens; 0 where its states have another size, of which the
        relations alone tell."""
        ours, theirs = outputs[STATES], teacher[STATES]
        if ours.shape != theirs.shape:
            return ours.sum() * 0
        real = batch["attention_mask"].bool()
        return (1 - cosines(ours[real], theirs[real])).mean()

    def loss_of_any_size(self, outputs: Tensors, teacher: Tensors, batch: Tensors, temperature: float) -> Tensor:
        """1 - the correlation of the cosines between the real tokens of each text with the teacher's (CKD's pair-wise
        word relations), over all texts of the batch."""
        real = batch["attention_mask"].bool()
        pairs = (real[:, :, None] & real[:, None]).triu(1)
        near = [(states @ states.mT)[pairs] for states in (unit(outputs[STATES]), unit(teacher[STATES]))]
        ours, theirs = (own - own.mean() for own in near)
        return 1 - (ours * theirs).sum() / (ours.norm() * theirs.norm()).clamp_min(EPSILON)

    def output_count(self, batch: Tensors) -> Any:
        return batch["attention_mask"].sum()

    def importance_loss(self, model: Any, batch: Tensors) -> Tensor:
        """How far the states of real tokens move."""
        inputs, _ = self.split(batch)
        return signed_sum(self.read(model(**inputs), inputs, model.config)[STATES][inputs["attention_mask"].bool()])

    # ------------------------------------------------------------------------------------------------------- judging

    def flat(self, arrays: Arrays, mask: np.ndarray) -> dict[str, np.ndarray]:
        """The states of at most 16 real tokens of a row, evenly spaced, [rows, 16, hidden], zeros where a row has
        fewer: all states of all rows and sizes would not fit into memory."""
        return {name: np.stack([_some(row, own) for row, own in zip(array, mask, strict=True)])
                for name, array in arrays.items()}

    def of_rows(self, outputs: Arrays) -> Arrays:
        """The sum of a row's states, and nothing behind it: only its direction is looked at."""
        sums = outputs[STATES].sum(1, keepdims=True)
        return {STATES: np.pad(sums, [(0, 0), (0, KEPT_TOKENS - 1), (0, 0)])}

    def answers(self, outputs: Arrays) -> np.ndarray:
        return outputs[STATES]

    def measure(self, task: Task, outputs: Arrays, labels: Arrays) -> dict[str, float]:
        return {}

    def fidelity(self, outputs: Arrays, teacher: Arrays) -> dict[str, float]:
        """`cosine`, the mean over tokens to the teacher's states where these are as long; `relations`, the correlation
        of the cosines between the tokens of each text (CKD's pair-wise word relations) with the teacher's."""
        ours, theirs = (_units(some[STATES]) for some in (outputs, teacher))
        real = np.asarray(theirs.any(-1))
        pairs = real[:, :, None] & real[:, None] & np.triu(np.ones((KEPT_TOKENS,) * 2, bool), k=1)
        near = [(states @ states.swapaxes(1, 2))[pairs] for states in (ours, theirs)]
        same = {"cosine": float((ours * theirs).sum(-1)[real].mean())} if ours.shape == theirs.shape else {}
        return same | ({"relations": pearson(near[0], near[1], 1)} if pairs.any() else {})

    def unlabelled_drop(self, ours: Arrays, theirs: Arrays) -> float:
        """1 - the mean cosine."""
        return 1 - self.fidelity(ours, theirs)["cosine"]


def _some(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Evenly spaced real tokens of a row [length, hidden], filled up with zeros -> [16, hidden]."""
    real = np.flatnonzero(mask)
    places = real[np.linspace(0, len(real) - 1, min(KEPT_TOKENS, len(real))).astype(int)]
    return np.pad(states[places], [(0, KEPT_TOKENS - len(places)), (0, 0)])


def _units(states: np.ndarray) -> np.ndarray:
    states = states.astype(np.float64)
    return states / np.maximum(np.linalg.norm(states, axis=-1, keepdims=True), 1e-12)


PLAIN = Plain()
