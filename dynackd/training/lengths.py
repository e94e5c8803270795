"""How long a stage trains where nobody says."""

import math

# Three epochs, or of few rows as many as make so many steps, up to MOST_EPOCHS (benchmarks/RESULTS.md, "How long the
# depth stage takes"). What the depth stage trains begins furthest from what it learns from.
FEWEST_EPOCHS, MOST_EPOCHS = 3, 20
STEPS = {"finetune": 300, "width": 300, "depth": 1000, "polish": 300, "general": 300}


def default_epochs(stage: str, epoch_steps: int) -> int:
    """The epochs of a stage whose epochs have so many steps."""
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS[stage] / epoch_steps)))
