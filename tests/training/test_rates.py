"""The default learning rates, and the word on a training that was too short."""

import itertools
import json
import math

import pytest
from conftest import tiny_recipe

from dynackd.subnet import SubnetSpec
from dynackd.training import stages
from dynackd.training.polish import polish
from dynackd.training.rates import LARGEST_RATE, RATE_AT_768, default_learning_rate, still_falling
from dynackd.training.recipe import make_recipe
from dynackd.training.resumable import ResumableTrainer
from dynackd.training.runs import RunMode


@pytest.mark.parametrize("stage", RATE_AT_768)
def test_a_smaller_encoder_never_gets_a_smaller_rate_and_no_rate_leaves_its_bounds(stage):
    rates = [default_learning_rate(stage, hidden) for hidden in (1024, 768, 512, 384, 256, 128, 32)]
    assert rates == sorted(rates)
    assert default_learning_rate(stage, 768) == RATE_AT_768[stage]
    assert rates[-1] <= LARGEST_RATE
    assert all(left < right or right == LARGEST_RATE for left, right in itertools.pairwise(rates))


def curve(start, end, half_life, count=36):
    """An exponential fall from start to end, `half_life` in shares of the training."""
    return [end + (start - end) * 0.5 ** (i / count / half_life) for i in range(count)]


@pytest.mark.parametrize(
    ("losses", "falling"),
    [
        (curve(3.0, 0.4, 0.5), True),  # MiniLM at too small a rate: half of the way after half of the training
        (curve(0.7, 0.35, 0.08), False),  # levelled out
        (curve(0.7, 0.01, 0.1), False),  # learnt by heart: there is nothing left
        ([0.69] * 36, False),
        ([0.6 + 0.1 * (-1) ** i for i in range(36)], False),  # noise alone
        (curve(3.0, 0.4, 0.5, 11), False),  # too few to tell
        ([*curve(3.0, 0.4, 0.5)[:-1], math.nan], False),
    ],
)
def test_only_a_loss_that_still_falls_fast_is_told(losses, falling):
    assert (still_falling(losses) is not None) == falling


def test_what_is_told_are_the_losses_before_the_last_third_and_at_the_end():
    before, end = still_falling([6.0] * 2 + [5.0] * 4 + [4.0] * 2 + [3.0] * 2 + [2.0] * 2)
    assert (before, end) == (4.0, 2.0)


def test_a_recipe_without_a_rate_trains_at_the_default_and_says_so(tmp_path, capsys):
    content = tiny_recipe(tmp_path)
    del content["training"]["learning_rate"]
    content["training"] |= {"max_steps": 4, "logging_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0}
    recipe = make_recipe(content)
    directories = [stages.finetune(recipe, RunMode()), stages.train_width(recipe, RunMode())]
    directories.append(stages.train_depth(recipe, RunMode()))
    directories.append(polish(directories[-1], SubnetSpec(0.5, 0.5), "small", recipe, RunMode()))
    printed = " ".join(capsys.readouterr().out.split())
    for stage, directory in zip(("finetune", "width", "depth", "polish"), directories, strict=True):
        rate = default_learning_rate(stage, 32)
        log = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
        assert {row["learning_rate"] for row in log if "learning_rate" in row} == {rate}
    assert "learning rate 0.0003, the default of this stage for hidden size 32" in printed


@pytest.mark.parametrize("half_life", [0.5, 0.05])
def test_a_training_that_was_too_short_is_told_and_one_that_levelled_out_is_not(
    tmp_path, capsys, monkeypatch, half_life
):
    content = tiny_recipe(tmp_path)
    content["training"] |= {"max_steps": 36, "logging_steps": 1, "save_strategy": "no"}
    losses, log = iter(curve(3.0, 0.4, half_life)), ResumableTrainer.log

    def as_planned(self, logs, *arguments, **options):
        log(self, logs | ({"loss": next(losses)} if "loss" in logs else {}), *arguments, **options)

    monkeypatch.setattr(ResumableTrainer, "log", as_planned)
    stages.finetune(make_recipe(content), RunMode())
    told = "the training loss was still falling fast at the end" in " ".join(capsys.readouterr().out.split())
    assert told == (half_life == 0.5)
