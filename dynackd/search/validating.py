"""What the validation rows say of what was found; they have no part in the finding."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from dynackd.measure.evaluation import batches_of, predict
from dynackd.search.held_out import HeldOut
from dynackd.search.quality import INPUTS
from dynackd.subnet import Subnet
from dynackd.supernet.network import Supernet
from dynackd.tasks.task import compute_fidelity, compute_metrics


def validated(
    supernet: Supernet, held_out: HeldOut, tokenizer: PreTrainedTokenizerBase, subnets: Sequence[Subnet]
) -> dict[Subnet, dict[str, float]]:
    """The metrics of each on the validation rows, by name; where these have no labels, how closely each follows the
    full network."""
    found: dict[Subnet, dict[str, float]] = {subnet: {} for subnet in subnets}
    task = held_out.validation_task
    for suffix, rows in held_out.validation.items():
        (expected, *outputs), labels = predict(
            supernet, [supernet.whole, *subnets], task.kind, batches_of(rows, task.kind, tokenizer, INPUTS)
        )
        for subnet, own in zip(subnets, outputs, strict=True):
            metrics = compute_metrics(task, own, labels, suffix)
            found[subnet] |= metrics or compute_fidelity(task, own, expected, labels, suffix)
    return found
