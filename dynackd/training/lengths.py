"""How long a stage trains where nobody says."""

import math

from transformers import TrainingArguments

# Three epochs, or of few rows as many as make so many steps, up to MOST_EPOCHS (benchmarks/RESULTS.md, "How long the
# depth stage takes" and "How long fine-tuning takes"). A new head learns nothing at first, and what the depth stage
# trains begins furthest from what it learns from.
FEWEST_EPOCHS, MOST_EPOCHS = 3, 20
STEPS = {"finetune": 1000, "width": 300, "depth": 1000, "polish": 300, "general": 300}


def epoch_steps(arguments: TrainingArguments, inputs: int) -> int:
    """The steps of an epoch of so many inputs, over all processes, as the Trainer counts them."""
    batches = inputs / (arguments.per_device_train_batch_size * arguments.world_size)
    whole = math.floor(batches) if arguments.dataloader_drop_last else math.ceil(batches)
    return max(1, math.ceil(whole / arguments.gradient_accumulation_steps))


def default_epochs(stage: str, steps: int) -> int:
    """The epochs of a stage whose epochs have so many steps each."""
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS[stage] / steps)))
