"""What a training shows while it runs, and the file that keeps every number."""

import json
import re

import pytest
from conftest import tiny_recipe, write_recipe
from rich.console import Console
from test_stages import kill

from dynackd.cli.command_line import main
from dynackd.report import terminal
from dynackd.training import loop, progress, stages
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import RunMode

TERMS = {"loss", "loss_logits", "loss_wr_pair", "loss_wr_triple", "loss_ltr_pair", "loss_ltr_triple", "learning_rate"}
TIMES = re.compile(r"train_.*|eval_(runtime|.*_per_second)")


def log_of(directory):
    """The rows of a log without the times, which no two runs share."""
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not TIMES.fullmatch(key)} for line in lines]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A recipe with a teacher and an unbroken width stage."""
    directory = tmp_path_factory.mktemp("taught")
    recipe = make_recipe(tiny_recipe(directory))
    stages.finetune(recipe, RunMode())
    stages.train_width(recipe, RunMode())
    return recipe


def again(recipe, tmp_path, **training):
    """The same from the same teacher, in another place."""
    own = {"output_dir": str(tmp_path / "run"), "teacher": str(recipe.output_dir / "teacher")}
    return make_recipe({**recipe.content, **own, "training": {**recipe.content["training"], **training}})


@pytest.fixture
def in_a_terminal(monkeypatch, capsys):
    shown = Console(force_terminal=True, force_interactive=True, color_system=None, width=160, markup=False)
    for module in (terminal, progress):
        monkeypatch.setattr(module, "console", shown)


def test_a_stage_prints_lines_and_one_table_and_logs_every_term_in_a_file(tmp_path, capsys):
    recipe = str(write_recipe(tmp_path))
    capsys.readouterr()
    assert main(["finetune", recipe, "--set", "training.eval_strategy=epoch"]) == 0
    told = capsys.readouterr()
    assert "after 6 steps: loss 0." in told.out
    assert main(["train-width", recipe]) == 0
    out = capsys.readouterr().out
    for mark in ("{'", "\r", "\x1b", "it/s"):
        assert mark not in told.out + told.err + out
    assert out.count("MFLOPs") == 1
    lines = [line for line in out.splitlines() if line.startswith("width stage: ")]
    assert len(lines) == progress.LINES
    assert re.fullmatch(r"width stage: 12 of 12 steps, loss [0-9.]+, [0-9,]+ examples/s, 0:00:00 to go", lines[-1])
    for stage in ("teacher", "width"):
        rows = log_of(tmp_path / "run" / stage)
        steps = [row["step"] for row in rows if "loss" in row]
        assert steps == list(range(1, 13))
    assert all(set(row) >= TERMS for row in rows if "loss" in row)


def test_a_resumed_log_is_that_of_an_unbroken_run(taught, tmp_path, monkeypatch, capsys):
    recipe = again(taught, tmp_path)
    kill(recipe, monkeypatch, 9)
    unfinished = tmp_path / "run" / "width-checkpoints"
    assert [row["step"] for row in log_of(unfinished)] == list(range(1, 10)), "step 9 is behind the last checkpoint"
    capsys.readouterr()
    followed = []
    monkeypatch.setattr(loop, "say_if_too_short", lambda _: followed.append(log_of(unfinished)))
    stages.train_width(recipe, RunMode(resume=True))
    assert [log_of(tmp_path / "run" / "width")] == followed == [log_of(taught.output_dir / "width")]
    assert "width stage: 9 of 12 steps" in capsys.readouterr().out


@pytest.mark.parametrize("restored", [False, True])
def test_a_resumed_training_took_what_it_took_before_too(taught, tmp_path, monkeypatch, restored):
    """Or the report would tell the minutes of the last part as those of the whole."""
    recipe = again(taught, tmp_path, restore_callback_states_from_checkpoint=restored)
    kill(recipe, monkeypatch, 9)
    file = tmp_path / "run" / "width-checkpoints" / "checkpoint-8" / "trainer_state.json"
    state = json.loads(file.read_text())
    watch = state["stateful_callbacks"]["Stopwatch"]["attributes"]
    assert watch["before_s"] > 0
    watch["before_s"] += 1000
    file.write_text(json.dumps(state))
    stages.train_width(recipe, RunMode(resume=True))
    seconds = json.loads((tmp_path / "run" / "width" / "metrics.json").read_text())["train_seconds"]
    assert watch["before_s"] < seconds < watch["before_s"] + 1000
    assert json.loads((taught.output_dir / "width" / "metrics.json").read_text())["train_seconds"] < 1000


def test_in_a_terminal_one_bar_begins_where_a_resumed_run_does(taught, tmp_path, monkeypatch, in_a_terminal, capsys):
    recipe = again(taught, tmp_path)
    kill(recipe, monkeypatch, 9)
    capsys.readouterr()
    begun = []
    add_task = progress.TrainingProgress.on_train_begin

    def noted(self, *arguments, **options):
        add_task(self, *arguments, **options)
        begun.append(self.bar.tasks[0].completed)

    monkeypatch.setattr(progress.TrainingProgress, "on_train_begin", noted)
    stages.train_width(recipe, RunMode(resume=True))
    out = capsys.readouterr().out
    assert begun == [8]
    assert re.search(r"width stage .*12/12 loss [0-9.]+, [0-9,]+ examples/s", out)
    assert "of 12 steps" not in out


def test_what_tensorboard_got_outlives_the_checkpoints(taught, tmp_path, monkeypatch):
    recipe = again(taught, tmp_path)
    told = loop.say_if_too_short

    def with_events(trainer):
        place = tmp_path / "run" / "width-checkpoints" / "runs" / "Jan01_host"
        place.mkdir(parents=True)
        (place / "events.out.tfevents.1").touch()
        told(trainer)

    monkeypatch.setattr(loop, "say_if_too_short", with_events)
    stages.train_width(recipe, RunMode())
    assert (tmp_path / "run" / "width" / "runs" / "Jan01_host" / "events.out.tfevents.1").is_file()
    assert not (tmp_path / "run" / "width-checkpoints").exists()
