"""The grid, evaluated: task metrics and costs of every sub-network, and the teacher's row."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from dynackd.subnet import Subnet
from dynackd.supernet.cost import FlopCounter, count_parameters
from dynackd.supernet.network import Supernet
from dynackd.tasks.common_words import read_both
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.parts import Arrays, Tensors
from dynackd.tasks.task import compute_fidelity, compute_metrics, main_metric


@dataclass(frozen=True)
class Batches:
    """Batches of the same rows in the same order: as the model reads them and as its teacher does, and as both do where
    they read other tokens and there is an output for each token to be compared."""

    own: DataLoader
    theirs: DataLoader
    both: DataLoader | None = None

    def __len__(self) -> int:
        """How many are evaluated, of all sub-networks or of the teacher."""
        return len(self.own) + len(self.theirs) + (len(self.both) if self.both is not None else 0)


def longest_first(dataset: Dataset) -> np.ndarray:
    """The order in which `batches_of` gives the rows."""
    return np.argsort(np.asarray(dataset["length"][:]), kind="stable")[::-1]


def batches_of(dataset: Dataset, kind: Kind, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> DataLoader:
    """Batches of a tokenised data set, rows of like length together, padded to the longest of each batch."""
    return batches_by(dataset, kind.collator(tokenizer), batch_size)


def batches_by(dataset: Dataset, collator: Callable[[list[dict[str, Any]]], Any], batch_size: int) -> DataLoader:
    """The same by a collator."""
    ordered = dataset.select(longest_first(dataset)).remove_columns("length")
    return DataLoader(ordered, batch_size, collate_fn=collator)


def joined(parts: Iterable[Arrays]) -> dict[str, np.ndarray]:
    """The arrays of all parts, joined by name along the first axis."""
    every = list(parts)
    return {name: np.concatenate([part[name] for part in every]) for name in every[0]}


@dataclass(frozen=True)
class View:
    """How a batch is looked at. batch: what labels and places are taken of; inputs: what a network reads of it;
    outputs: what is made of what it gives."""

    batch: Tensors
    inputs: dict[str, Tensor]
    outputs: Callable[[Tensors], Tensors] = lambda outputs: outputs


def as_tokens(kind: Kind, batch: Tensors) -> View:
    """Tokens, as a model reads and gives them."""
    return View(batch, kind.split(batch)[0])


def as_own_words(kind: Kind, batch: Tensors) -> View:
    """The words that a teacher which reads other tokens has, too, as the model gives them."""
    own, common = read_both(batch)
    assert common is not None
    return View(kind.batch_in_words(own, common), kind.split(own)[0], partial(kind.in_words, places=common.own))


def as_their_words(kind: Kind, batch: Tensors) -> View:
    """The same, as the teacher reads and gives them."""
    own, common = read_both(batch)
    assert common is not None
    return View(kind.batch_in_words(own, common), dict(common.inputs), partial(kind.in_words, places=common.theirs))


@torch.no_grad()
def predict(
    supernet: Supernet,
    subnets: Sequence[Subnet],
    kind: Kind,
    batches: Iterable[dict[str, Tensor]],
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    on_batch: Callable[[], None] = lambda: None,
    view: Callable[[Kind, Tensors], View] = as_tokens,
) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """(outputs by name of each sub-network, labels by name, if there are any) over all batches, as the kind makes them
    `flat`; `gather` joins several processes."""
    was_training = supernet.training
    supernet.eval()
    device = next(supernet.parameters()).device
    outputs: list[list[dict[str, np.ndarray]]] = [[] for _ in subnets]
    known: list[dict[str, np.ndarray]] = []

    def arrays(tensors: Tensors, mask: np.ndarray) -> dict[str, np.ndarray]:
        return kind.flat({name: gather(tensor).cpu().numpy() for name, tensor in tensors.items()}, mask)

    for batch in batches:
        seen = view(kind, {name: tensor.to(device) for name, tensor in batch.items()})
        mask = gather(kind.places(seen.batch)).cpu().numpy()
        known.append(arrays(kind.split(seen.batch)[1], mask))
        for index, subnet in enumerate(subnets):
            given = kind.read(supernet(subnet, **seen.inputs).outputs, seen.inputs, supernet.model.config)
            read = seen.outputs(given)
            outputs[index].append(arrays({name: read[name].float() for name in kind.judged}, mask))
        on_batch()
    supernet.train(was_training)
    return [joined(parts) for parts in outputs], joined(known)


def subnet_metrics(
    supernet: Supernet,
    subnets: Sequence[Subnet],
    task: Task,
    batches: dict[str, Iterable[dict[str, Tensor]]],
    **options: Any,
) -> list[dict[str, float]]:
    """The task's metrics of every sub-network; `batches` by the suffix of the metrics' names (MNLI has two sets)."""
    metrics: list[dict[str, float]] = [{} for _ in subnets]
    for suffix, loader in batches.items():
        found, labels = predict(supernet, subnets, task.kind, loader, **options)
        for row, outputs in zip(metrics, found, strict=True):
            row.update(compute_metrics(task, outputs, labels, suffix))
    return metrics


def subnet_row(supernet: Supernet, subnet: Subnet, flops: FlopCounter, length: int) -> dict[str, Any]:
    """What a sub-network is and costs, without metrics."""
    heads, neurons = subnet.sizes
    differ = len(supernet.grid.hidden) > 1 or subnet.hidden < supernet.geometry.hidden
    hidden = {"hidden_size": subnet.hidden} if differ else {}
    return {
        "heads": heads,
        "neurons": neurons,
        **hidden,
        "layers": list(subnet.indices),
        "parameters": count_parameters(supernet, subnet),
        "flops": flops.count(subnet, length),
    }


def evaluate_grid(
    supernet: Supernet,
    teacher: Supernet,
    task: Task,
    batches: Mapping[str, Batches],
    length: int,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The content of `evaluate --json`: every sub-network's geometry, cost at `length` tokens, metrics and fidelity to
    the teacher, and the teacher's geometry, cost and metrics."""
    subnets, whole = supernet.subnets, teacher.whole
    every = list(subnets.values())
    teacher_metrics: dict[str, float] = {}
    rows: list[dict[str, dict[str, float]]] = [{"metrics": {}, "fidelity": {}} for _ in subnets]
    for suffix, loaders in batches.items():
        (expected,), labels = predict(teacher, [whole], task.kind, loaders.theirs, on_batch=on_batch)
        teacher_metrics |= compute_metrics(task, expected, labels, suffix)
        found, labels = predict(supernet, every, task.kind, loaders.own, on_batch=on_batch)
        for row, outputs in zip(rows, found, strict=True):
            row["metrics"] |= compute_metrics(task, outputs, labels, suffix)
        if loaders.both is not None:
            (expected,), labels = predict(teacher, [whole], task.kind, loaders.both, view=as_their_words)
            found, _ = predict(supernet, every, task.kind, loaders.both, on_batch=on_batch, view=as_own_words)
        for row, outputs in zip(rows, found, strict=True):
            row["fidelity"] |= compute_fidelity(task, outputs, expected, labels, suffix)
    flops = FlopCounter(supernet)
    return {
        "task": task.name,
        "length": length,
        "main_metric": main_metric(task),
        "lower_is_better": sorted(task.kind.lower_is_better),
        "teacher": {
            "parameters": count_parameters(teacher, whole),
            "flops": FlopCounter(teacher).count(whole, length),
            "metrics": teacher_metrics,
        },
        "subnetworks": [
            {**spec.to_dict(), **subnet_row(supernet, subnet, flops, length), **row}
            for (spec, subnet), row in zip(subnets.items(), rows, strict=True)
        ],
    }


def this_device() -> torch.device:
    """The accelerator, or the CPU where there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
