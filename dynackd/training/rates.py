"""The learning rate of a recipe that names none, and whether a training was long enough."""

import math
import statistics
from collections.abc import Sequence

# stage -> learning rate at hidden size 768, where 2e-5 to 5e-5 are everyone's. Small encoders want larger steps: it
# grows with the square of how much smaller they are, up to LARGEST_RATE. What is measured: benchmarks/RESULTS.md,
# "Learning rates" and "How long fine-tuning takes".
RATE_AT_768 = {"finetune": 2.5e-5, "width": 5e-5, "depth": 5e-5, "polish": 5e-5, "general": 5e-5}
LARGEST_RATE = 3e-4  # the largest of those that BERT's small models were fine-tuned with (Turc et al. 2019)
FEWEST_LOSSES = 12


def default_learning_rate(stage: str, hidden_size: int) -> float:
    """The learning rate of a stage, two digits of it, for an encoder of this hidden size."""
    rate = min(RATE_AT_768[stage] * (768 / hidden_size) ** 2, LARGEST_RATE)
    return float(f"{rate:.1e}")


def still_falling(losses: Sequence[float]) -> tuple[float, float] | None:
    """(loss before the last third, loss at the end), each the mean over a sixth of a training's logged losses, where
    the training ended too early; else None.

    That is where the loss fell by a fifth or more in the last third, by more than twice the standard error of the two
    means. A loss that came down to a tenth has little left to give; of fewer than `FEWEST_LOSSES` nothing is said.
    """
    if len(losses) < FEWEST_LOSSES or not all(map(math.isfinite, losses)):
        return None
    size = len(losses) // 6
    before, last = losses[-3 * size : -2 * size], losses[-size:]
    start, middle, end = map(statistics.fmean, (losses[:size], before, last))
    error = math.sqrt((statistics.variance(before) + statistics.variance(last)) / size)
    falling = middle - end > max(0.2 * middle, 2 * error)
    return (middle, end) if falling and 10 * end > start else None
