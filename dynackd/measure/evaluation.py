"""The grid, evaluated: task metrics and costs of every sub-network, and the teacher's row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from dynackd.subnet import Subnet
from dynackd.supernet.cost import FlopCounter, count_parameters
from dynackd.supernet.network import Supernet
from dynackd.tasks.task import Task, compute_fidelity, compute_metrics

Predictions = tuple[list[np.ndarray], np.ndarray]


def batches_of(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> DataLoader:
    """Batches of a tokenised data set, rows of like length together, padded to the longest of each batch."""
    by_length = np.argsort(np.asarray(dataset["length"][:]), kind="stable")[::-1]
    ordered = dataset.select(by_length).remove_columns("length")
    return DataLoader(ordered, batch_size, collate_fn=DataCollatorWithPadding(tokenizer))


@torch.no_grad()
def predict(
    supernet: Supernet,
    subnets: Sequence[Subnet],
    batches: Iterable[dict[str, Tensor]],
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    on_batch: Callable[[], None] = lambda: None,
) -> Predictions:
    """(logits [rows, labels] of each sub-network, labels [rows]) over all batches; `gather` joins several processes."""
    was_training = supernet.training
    supernet.eval()
    device = next(supernet.parameters()).device
    logits: list[list[np.ndarray]] = [[] for _ in subnets]
    labels: list[np.ndarray] = []
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        labels.append(gather(inputs.pop("labels")).cpu().numpy())
        for index, subnet in enumerate(subnets):
            logits[index].append(gather(supernet(subnet, **inputs).outputs["logits"].float()).cpu().numpy())
        on_batch()
    supernet.train(was_training)
    return [np.concatenate(parts) for parts in logits], np.concatenate(labels)


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
        logits, labels = predict(supernet, subnets, loader, **options)
        for row, outputs in zip(metrics, logits, strict=True):
            row.update(compute_metrics(task, outputs, labels, suffix))
    return metrics


def subnet_row(supernet: Supernet, subnet: Subnet, flops: FlopCounter, length: int) -> dict[str, Any]:
    """What a sub-network is and costs, without metrics."""
    heads, neurons = subnet.sizes
    return {
        "heads": heads,
        "neurons": neurons,
        "layers": list(subnet.indices),
        "parameters": count_parameters(supernet, subnet),
        "flops": flops.count(subnet, length),
    }


def evaluate_grid(
    supernet: Supernet,
    teacher: Supernet,
    task: Task,
    batches: dict[str, DataLoader],
    length: int,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The content of `evaluate --json`: every sub-network's geometry, cost at `length` tokens, metrics and fidelity to
    the teacher, and the teacher's geometry, cost and metrics."""
    subnets, whole = supernet.subnets, teacher.whole
    teacher_metrics: dict[str, float] = {}
    rows: list[dict[str, dict[str, float]]] = [{"metrics": {}, "fidelity": {}} for _ in subnets]
    for suffix, loader in batches.items():
        (expected,), labels = predict(teacher, [whole], loader, on_batch=on_batch)
        teacher_metrics |= compute_metrics(task, expected, labels, suffix)
        found, _ = predict(supernet, list(subnets.values()), loader, on_batch=on_batch)
        for row, logits in zip(rows, found, strict=True):
            row["metrics"] |= compute_metrics(task, logits, labels, suffix)
            row["fidelity"] |= compute_fidelity(task, logits, expected, suffix)
    flops = FlopCounter(supernet)
    return {
        "task": task.name,
        "length": length,
        "teacher": {
            "parameters": count_parameters(teacher, whole),
            "flops": FlopCounter(teacher).count(whole, length),
            "metrics": teacher_metrics,
        },
        "subnetworks": [
            {"width": spec.width, "depth": spec.depth, **subnet_row(supernet, subnet, flops, length), **row}
            for (spec, subnet), row in zip(subnets.items(), rows, strict=True)
        ],
    }
