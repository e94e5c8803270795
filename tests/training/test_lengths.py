"""How long a stage trains where a recipe says nothing."""

import json

import pytest
import torch
from conftest import tiny_recipe
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from dynackd.subnet import SubnetSpec
from dynackd.training import lengths, stages
from dynackd.training.lengths import FEWEST_EPOCHS, MOST_EPOCHS, STEPS, default_epochs, epoch_steps
from dynackd.training.polish import polish
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import RunMode


@pytest.mark.parametrize("stage", STEPS)
def test_few_rows_are_read_more_often_but_not_without_end(stage):
    steps = STEPS[stage]
    assert default_epochs(stage, steps) == FEWEST_EPOCHS
    assert default_epochs(stage, 10_000) == FEWEST_EPOCHS
    assert default_epochs(stage, steps // 4) == 4
    assert default_epochs(stage, steps // 10 + 1) == 10  # the last epoch is whole
    assert default_epochs(stage, 1) == MOST_EPOCHS


def test_fine_tuning_of_mrpc_is_not_over_before_it_learns():
    """115 steps an epoch: after three its teacher said little more than the larger class (benchmarks/RESULTS.md)."""
    assert default_epochs("finetune", 115) * 115 >= 900


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("inputs", [8, 16, 17, 45])
def test_steps_are_counted_as_the_trainer_makes_them(tmp_path, drop, parts, inputs):
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=parts,
                                  dataloader_drop_last=drop, use_cpu=True)  # fmt: skip
    rows = DataLoader(range(inputs), batch_size=8, drop_last=drop)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=range(inputs))
    steps = trainer.set_initial_training_values(arguments, rows)[1]
    assert epoch_steps(arguments, inputs) == steps


def trained(directory):
    """(steps, epochs) that a stage's log ends with."""
    last = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()][-1]
    return last["step"], last["epoch"]


def test_every_stage_of_a_recipe_that_says_nothing_has_the_steps_that_few_rows_need(tmp_path, capsys, monkeypatch):
    """48 rows are six steps, and twice as many beside rows without labels."""
    monkeypatch.setattr(lengths, "STEPS", {"finetune": 24, "width": 6, "depth": 60, "polish": 48})
    content = tiny_recipe(tmp_path)
    del content["training"]["num_train_epochs"]
    recipe = make_recipe(content)
    directories = [stages.finetune(recipe, RunMode()), stages.train_width(recipe, RunMode())]
    directories.append(stages.train_depth(recipe, RunMode()))
    directories.append(polish(directories[-1], SubnetSpec(0.5, 0.5), "small", recipe, RunMode()))
    assert [trained(own) for own in directories] == [(24, 4), (18, 3), (60, 10), (48, 8)]
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 epochs of 6 steps, the default of this stage for so few rows (training.num_train_epochs)" in printed
    assert "3 epochs of" not in printed
    (tmp_path / "others.txt").write_text("\n".join(f"a film number {row}" for row in range(100)))
    content["data"] |= {"unlabelled": f"{tmp_path}/others.txt", "unlabelled_share": 0.5}
    mixed = stages.train_depth(make_recipe(content), RunMode(overwrite=True))
    assert trained(mixed) == (60, 5)


@pytest.mark.parametrize("said", [{"num_train_epochs": 2}, {"max_steps": 12}, {"num_train_epochs": 2, "max_steps": -1}])
def test_what_a_recipe_says_of_its_length_holds(tmp_path, capsys, said):
    content = tiny_recipe(tmp_path)
    del content["training"]["num_train_epochs"]
    content["stages"] = {"finetune": {"training": said}}
    assert trained(stages.finetune(make_recipe(content), RunMode())) == (12, 2)
    assert "the default of this stage for so few rows" not in " ".join(capsys.readouterr().out.split())


def test_steps_without_a_number_are_none(tmp_path, monkeypatch):
    """max_steps -1 is the library's way to say that epochs count."""
    monkeypatch.setattr(lengths, "STEPS", {"finetune": 24})
    content = tiny_recipe(tmp_path)
    del content["training"]["num_train_epochs"]
    content["training"] |= {"max_steps": -1}
    assert trained(stages.finetune(make_recipe(content), RunMode())) == (24, 4)
