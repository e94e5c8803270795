"""Nothing that is not dynackd's is deleted, nobody works where another does, and what cannot be written leaves
nothing behind. The sentences are in `bad_inputs/places.py`."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_recipe, write_recipe
from rich.console import Console
from safetensors.torch import load_file

from dynackd.cli.command_line import main
from dynackd.deploy.export import export_student
from dynackd.errors import UserError
from dynackd.report import terminal as report
from dynackd.report.terminal import benchmark_table, grid_table
from dynackd.students.loading import load_student
from dynackd.subnet import FULL
from dynackd.supernet.network import load_supernet
from dynackd.system import places
from dynackd.system.places import (
    LOCK,
    MANIFEST,
    manifest_of,
    mark,
    new_directory,
    occupied,
    occupied_run,
    remove,
    write_json,
)
from dynackd.training import stages, teachers
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import CHECKPOINT_FILES, CHECKPOINTS, RunMode, drop
from dynackd.training.trainer import SupernetTrainer

ONE_EPOCH = ["--set", "training.num_train_epochs=1"]
SMALL = ["--width", "0.5", "--depth", "0.5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All three stages and a student."""
    directory = tmp_path_factory.mktemp("made")
    recipe = str(write_recipe(directory, tiny_recipe(directory)))
    for command in ("finetune", "train-width", "train-depth"):
        assert main([command, recipe, *ONE_EPOCH]) == 0
    assert main(["export", str(directory / "run" / "depth"), *SMALL, "--output", str(directory / "student")]) == 0
    return directory


@pytest.fixture
def road(made, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(made, tmp_path / "d")
    for text in [*(tmp_path / "d" / "run").glob("*/*.json"), tmp_path / "d" / "recipe.yaml"]:
        text.write_text(text.read_text().replace(str(made), str(tmp_path / "d")))
    return tmp_path / "d"


def entries(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("dynackd: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("dynackd: ").removesuffix("\n")


# --- whose a directory is --------------------------------------------------------------------------------------------


def test_every_result_lists_its_own_files_and_nothing_else_of_it_changes(made):
    for place in (*(made / "run").iterdir(), made / "student"):
        assert sorted([*manifest_of(place).files, MANIFEST]) == entries(place)
        assert str(made) not in (place / MANIFEST).read_text()
    load_student(made / "student")
    assert MANIFEST not in json.loads((made / "student" / "export.json").read_text())["files"]


def test_a_student_that_dynackd_wrote_can_be_replaced(road):
    (road / "student" / "README.md").write_text("edited")
    arguments = ["export", str(road / "run" / "depth"), *SMALL, "--output", str(road / "student"), "--overwrite"]
    before = entries(road)
    assert main(arguments) == 0
    assert entries(road) == before
    assert (road / "student" / "README.md").read_text() != "edited"


def test_a_supernet_is_safe_from_an_export_in_python_too(road):
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    before = {name: (road / "run" / "depth" / name).read_bytes() for name in entries(road / "run" / "depth")}
    with pytest.raises(UserError, match="holds a supernet of the depth stage, not a student"):
        export_student(supernet, tokenizer, FULL, road / "run" / "depth", overwrite=True)
    assert {name: (road / "run" / "depth" / name).read_bytes() for name in entries(road / "run" / "depth")} == before


def test_a_link_to_an_output_stays_one_and_its_target_is_replaced(tmp_path):
    with new_directory(tmp_path / "far" / "x", "a thing") as directory:
        (directory / "old").touch()
    (tmp_path / "x").symlink_to("far/x")
    with new_directory(tmp_path / "x", "a thing", overwrite=True) as directory:
        (directory / "new").touch()
    assert (tmp_path / "x").is_symlink()
    assert entries(tmp_path / "far") == [f"x/{MANIFEST}", "x/new"]


def test_deleting_follows_no_link(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "ours").symlink_to(tmp_path / "photos")
    (tmp_path / "x" / "cat.jpg").symlink_to(tmp_path / "photos" / "cat.jpg")
    mark(tmp_path / "x", "a thing", ["ours", "ours/cat.jpg", "cat.jpg"])
    assert remove(tmp_path / "x") == []
    assert entries(tmp_path) == ["photos/cat.jpg"]


def test_what_appears_in_an_output_while_it_is_made_is_kept(tmp_path):
    with new_directory(tmp_path / "x", "a thing") as directory:
        (directory / "old").touch()

    def replace():
        with new_directory(tmp_path / "x", "a thing", overwrite=True) as directory:
            (directory / "new").touch()
            (tmp_path / "x" / "notes.txt").touch()

    with pytest.raises(UserError, match=r"holds notes.txt"):
        replace()
    assert entries(tmp_path) == [f"x/{MANIFEST}", "x/notes.txt", "x/old"]


@pytest.mark.parametrize("name", ["notes.txt", "checkpoint-4/notes.txt", "checkpoint-4/mine/config.json", "runs/a.txt"])
def test_a_file_among_the_checkpoints_outlives_them(tmp_path, capsys, name):
    for own in ("recipe.yaml", "checkpoint-4/model.safetensors", "checkpoint-4/optimizer.pt", "labels-0a1b.json"):
        (tmp_path / "c" / own).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / own).touch()
    mark(tmp_path / "c", CHECKPOINTS, CHECKPOINT_FILES)
    (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "c" / name).touch()
    drop(tmp_path / "c")
    assert entries(tmp_path) == [f"c/{name}"]
    assert f"it holds {name}, which dynackd did not write" in " ".join(capsys.readouterr().out.split())


def test_every_file_that_the_trainer_keeps_is_known(road, monkeypatch):
    shutil.rmtree(road / "run" / "width")
    found = []
    monkeypatch.setattr(stages, "drop", lambda checkpoints: found.extend(places.strangers(checkpoints)))
    assert main(["train-width", str(road / "recipe.yaml"), *ONE_EPOCH]) == 0
    assert list((road / "run" / "width-checkpoints").glob("checkpoint-*/optimizer.pt"))
    assert found == []


def test_what_a_killed_process_left_is_cleared_up_and_a_result_put_back(tmp_path):
    run = tmp_path / "run"
    for name, what in ((".width.aaaaaaaa.old", "a thing"), (".width.bbbbbbbb.tmp", "unfinished")):
        (run / name).mkdir(parents=True)
        (run / name / "model").touch()
        mark(run / name, what, ["model"])
    (run / ".width.cccccccc.tmp").mkdir()  # not ours: it has no manifest
    (run / ".width.cccccccc.tmp" / "mine").touch()
    (run / ".other.bbbbbbbb.tmp").mkdir()
    mark(run / ".other.bbbbbbbb.tmp", "unfinished", [])
    with occupied_run(run, ["width"]):
        pass
    assert entries(run) == [f".other.bbbbbbbb.tmp/{MANIFEST}", ".width.cccccccc.tmp/mine", f"width/{MANIFEST}",
                            "width/model"]


# --- who works there -------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time, types
from pathlib import Path
sys.modules["dynackd"] = types.ModuleType("dynackd")  # without its imports, which take seconds
sys.modules["dynackd"].__path__ = [sys.argv[2]]
from dynackd.system.places import {enter}
with {enter}(Path(sys.argv[1]){more}):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    """Start a real process that occupies a place."""
    running = []

    def start(place, enter="occupied_run", more=", ['width']"):
        package = str(Path(places.__file__).parents[1])
        code = HOLDER.format(enter=enter, more=more)
        process = subprocess.Popen([sys.executable, "-c", code, str(place), package], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "in\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("command", ["finetune", "train-width", "train-depth", "augment"])
def test_a_second_command_in_a_run_is_refused_before_anything_is_loaded(made, holder, capsys, monkeypatch, command):
    first = holder(made / "run")
    for name in ("load_config", "load_model", "load_supernet", "load_task_data"):
        for module in (stages, teachers):
            monkeypatch.setattr(module, name, lambda *_a, **_k: pytest.fail("something was loaded"), raising=False)
    before = entries(made)
    message = refused(capsys, command, made / "recipe.yaml", "--overwrite")
    who = f"process {first.pid} on {socket.gethostname()}"
    assert message == f"{who} is working in {made / 'run'}; let it end, or name another place"
    assert entries(made) == before


def test_one_student_directory_takes_one_export_and_its_neighbour_another(road, holder, capsys):
    first = holder(road / "student", "occupied_output", "")
    export = ["export", road / "run" / "depth", *SMALL, "--output"]
    assert f"process {first.pid} on " in refused(capsys, *export, road / "student", "--overwrite")
    assert main([*map(str, export), str(road / "other")]) == 0


def test_a_student_is_not_put_where_a_run_is_at_work(made, holder, capsys):
    first = holder(made / "run")
    for place in (made / "run", made / "run" / "new"):
        message = refused(capsys, "export", made / "run" / "width", *SMALL[:2], "--output", place)
        assert f"process {first.pid} on {socket.gethostname()} is working in {made / 'run'};" in message


def test_a_killed_process_holds_nothing(road, holder, tmp_path):
    first = holder(road / "run")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (road / "run" / LOCK).is_file()
    assert main(["train-width", str(road / "recipe.yaml"), "--overwrite", *ONE_EPOCH]) == 0
    assert not (road / "run" / LOCK).exists()
    holder(tmp_path / "new").kill()
    assert not places.holds(tmp_path / "new"), "a lock makes a directory full"


def test_the_first_process_of_a_job_stands_for_all(tmp_path, monkeypatch, holder):
    holder(tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    with occupied_run(tmp_path / "run", []):
        pass


def test_a_place_can_be_entered_again_by_who_is_there_and_leaves_no_trace(tmp_path):
    run = tmp_path / "a" / "run"
    with occupied(run, run / LOCK):
        with occupied(run, run / LOCK):
            assert (run / LOCK).is_file()
        assert (run / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []


# --- what cannot be written ------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system of a few bytes; skipped where nobody may."""
    found = []

    def mount(options):
        place = tmp_path / "mount"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
        found.append(place)
        return place

    yield mount
    for place in found:
        subprocess.run(["umount", str(place)], check=True)


def test_a_read_only_disk_is_told_before_anything_is_loaded(made, mounted, capsys, monkeypatch):
    disk = mounted("size=64k,ro")
    for name in ("load_config", "load_supernet", "load_task_data"):
        for module in (stages, teachers):
            monkeypatch.setattr(module, name, lambda *_a, **_k: pytest.fail("something was loaded"), raising=False)
    run = ["--set", f"output_dir={disk}/a/run"]
    told = refused(capsys, "finetune", made / "recipe.yaml", *run)
    assert told == f"{disk}/a/run could not be written: Read-only file system ({disk}/a)"
    told = refused(capsys, "export", made / "run" / "depth", *SMALL, "--output", disk / "student")
    assert told == f"{disk}/student could not be written: Read-only file system ({disk}/.student{LOCK})"
    for command in (["evaluate", made / "run" / "depth"], ["benchmark", made / "student"]):
        told = refused(capsys, *command, "--json", disk / "table.json")
        assert told.startswith(f"{disk}/table.json could not be written: Read-only file system")
    told = refused(capsys, "quickstart", "--output", disk / "q")
    assert told == f"{disk}/q could not be written: Read-only file system ({disk}/q)"


def test_a_full_disk_leaves_no_part_of_a_student(made, mounted, capsys):
    disk = mounted("size=120k")
    told = refused(capsys, "export", made / "run" / "depth", *SMALL, "--output", disk / "new" / "student")
    assert told == f"{disk}/new/student could not be written: No space left on device"
    assert list(disk.iterdir()) == []


def test_a_disk_that_fills_up_in_training_is_told_and_the_run_goes_on_when_there_is_room(road, mounted, capsys):
    shutil.rmtree(road / "run" / "width")
    shutil.rmtree(road / "run" / "depth")
    disk = mounted("size=500k")  # room for a checkpoint or two
    shutil.move(road / "run", disk / "run")
    recipe = [road / "recipe.yaml", "--set", f"output_dir={disk}/run"]
    capsys.readouterr()
    assert main(["train-width", *map(str, recipe)]) == 2
    (told,) = re.findall("dynackd: (.*)\n", capsys.readouterr().err)  # beside a progress bar
    assert re.match(rf"{re.escape(str(disk))}/run/width-checkpoints(/checkpoint-\d+)? could not be written: ", told)
    assert "go on with --resume" in told
    assert not (disk / "run" / LOCK).exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert main(["train-width", *map(str, recipe), "--resume"]) == 0
    assert not places.strangers(disk / "run" / "width")
    assert {path.name for path in (disk / "run").iterdir()} == {"teacher", "width"}


def test_a_table_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "t.json", {"rows": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(UserError, match=r"t.json could not be written: File too large"):
            write_json(tmp_path / "t.json", {"rows": "x" * 10_000})
        with pytest.raises(UserError, match=r"new.json could not be written: File too large"):
            write_json(tmp_path / "a" / "new.json", {"rows": "x" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert entries(tmp_path) == ["t.json"]
    assert not (tmp_path / "a").exists()
    assert json.loads((tmp_path / "t.json").read_text()) == {"rows": 1}


def test_a_table_may_go_to_a_device_and_devices_stay_what_they_are(tmp_path):
    for device in ("/dev/null", "/dev/full"):
        assert stat.S_ISCHR(os.stat(device).st_mode)
        places.refuse_json(Path(device), "rows")
    write_json(Path("/dev/null"), {"rows": 1})
    with pytest.raises(UserError, match=r"^/dev/full could not be written: No space left on device$"):
        write_json(Path("/dev/full"), {"rows": 1})
    assert all(stat.S_ISCHR(os.stat(device).st_mode) for device in ("/dev/null", "/dev/full"))


def test_a_table_replaces_an_earlier_one(made, tmp_path):
    for _ in range(2):
        assert main(["evaluate", str(made / "run" / "depth"), "--json", str(tmp_path / "new" / "t.json")]) == 0
    assert entries(tmp_path / "new") == ["t.json"]


def test_output_that_nobody_reads_is_no_traceback(made, monkeypatch):
    def broken(*_arguments, **_options):
        raise BrokenPipeError(32, "Broken pipe")

    quiet = []
    with monkeypatch.context() as patch:
        patch.setattr("dynackd.report.terminal.show", broken)
        patch.setattr(os, "dup2", lambda _null, descriptor: quiet.append(descriptor))
        assert main(["evaluate", str(made / "run" / "depth")]) == 1
    assert quiet == [sys.stdout.fileno()]


# --- `~` -------------------------------------------------------------------------------------------------------------


def test_a_home_is_found_in_every_path_and_a_resumed_run_there_goes_on(road, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(road))
    monkeypatch.chdir(tmp_path)
    content = make_recipe(tiny_recipe(road)).content
    data = {**content["data"], "train": "~/train.tsv", "validation": "~/validation.tsv"}
    content = {**content, "model": "~/encoder", "teacher": "~/run/teacher", "output_dir": "~/x", "data": data}
    write_recipe(road, content)
    recipe = make_recipe(content)
    assert (recipe.model, recipe.output_dir) == (f"{road}/encoder", road / "x")
    assert main(["train-width", "~/recipe.yaml"]) == 0
    unbroken = load_file(road / "x" / "width" / "model.safetensors")
    shutil.rmtree(road / "x" / "width")
    steps, step = [], SupernetTrainer.training_step

    def counted(self, *arguments, **options):
        steps.append(self.state.global_step)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(SupernetTrainer, "training_step", counted)
    assert main(["train-width", "~/recipe.yaml"]) == 130
    assert main(["train-width", "~/recipe.yaml", "--resume"]) == 0
    assert steps[10] > 0, "the resumed run began again"
    resumed = load_file(road / "x" / "width" / "model.safetensors")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert main(["evaluate", "~/x/width", "--teacher", "~/run/teacher", "--json", "~/t.json"]) == 0
    assert main(["export", "~/x/width", "--width", "0.5", "--output", "~/s"]) == 0
    assert refused(capsys, "benchmark", "~/none") == f"{road}/none is neither a model directory nor an .onnx file"
    assert {"t.json", "s", "x"} <= {path.name for path in road.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["d"], "a directory of the name ~ was made"


def test_a_home_is_found_in_the_other_names_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    recipe = make_recipe(tiny_recipe(tmp_path, teacher="~/t", augmentation={"masked_lm": "~/lm"}, model="owner/name"))
    assert (recipe.teacher, recipe.augmentation.masked_lm, recipe.model) == ("/home/me/t", "/home/me/lm", "owner/name")


# --- what is printed -------------------------------------------------------------------------------------------------


def test_the_next_lines_lead_from_the_first_command_to_the_last_as_they_are(tmp_path, capsys):
    directory = tmp_path / "it's [bold] here"
    directory.mkdir()
    content = tiny_recipe(directory, grid={"widths": [0.25, 1.0], "depths": [1.0]}, output_dir="elsewhere")
    path = directory / "my recipe.yaml"
    write_recipe(directory, content).rename(path)
    output = f"output_dir='{directory}/a run'".replace("it's", "it''s")
    line = shlex.join(["dynackd", "finetune", str(path), "--set", output, *ONE_EPOCH])
    commands = []
    while not line.startswith("dynackd benchmark"):
        commands.append(shlex.split(line)[1])
        capsys.readouterr()
        assert main(shlex.split(line)[1:]) == 0
        printed = capsys.readouterr().out
        assert "was not trained" not in " ".join(printed.split())
        line = next(text.removeprefix("next: ") for text in printed.splitlines() if text.startswith("next: "))
    assert commands == ["finetune", "train-width", "train-depth", "export"]
    load_student(shlex.split(line)[2])


def test_augment_repeats_the_users_overrides_before_its_own(road, capsys):
    capsys.readouterr()
    assert main(["augment", str(road / "recipe.yaml"), "--set", "importance.rows=12"]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if text.startswith("next: "))
    assert shlex.split(line.removeprefix("next: "))[3:] == [
        *("--set", "importance.rows=12"),
        *("--set", f"data.train={road}/run/augmented/train.jsonl"),
    ]


def shown(table, width, monkeypatch, capsys):
    """The words of a table on a terminal, or a pipe, of `width` columns."""
    monkeypatch.setattr(report, "console", Console(width=width, highlight=False, markup=False))
    capsys.readouterr()
    report.show(table)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 40])
def test_a_long_path_shortens_no_number_of_the_benchmark(monkeypatch, capsys, width):
    row = {"provider": "cpu", "threads": 1, "batch_size": 128, "length": 512, "throughput_per_s": 1234.5}
    row |= {"runtime": "onnxruntime", "latency_ms": {"p50": 123456.7, "p90": 135802.4, "p99": 148148.1}}
    row |= {"peak_memory_mb": 12345.6, "precision": "fp32"}
    long = "/runs/" + "bert-base-uncased-finetuned-sst2-english/" * 3
    content = {"machine": "here", "rows": [{**row, "path": long + "a"}, {**row, "path": "/runs/[b]"}]}
    text = shown(benchmark_table(content), width, monkeypatch, capsys)
    for word in ("onnxruntime", "128x512", "123456.7", "1,234", "12,346", "1.00", "[b]"):
        assert word in text.split()
    assert "…" not in text
    if width == 80:
        assert max(map(len, text.splitlines())) <= 80
    first = "".join(line.split()[0] for line in text.splitlines() if line[:1] == " " and line.strip())
    assert "bert-base-uncased-finetuned-sst2-english" in first


@pytest.mark.parametrize("width", [80, 40])
def test_a_long_metric_shortens_no_number_of_the_grid(monkeypatch, capsys, width):
    metrics = {"matthews_correlation": -0.3727, "incomprehensibilities": 0.25}
    costs = {"parameters": 335_141_888, "flops": 77.3e9, "metrics": metrics}
    spec = {"width": 1 / 3, "depth": 2 / 3, "heads": 16, "neurons": 4096, "layers": [0, *range(2, 24, 2)]}
    content = {"task": "a " * 60, "length": 128, "teacher": costs, "subnetworks": [spec | costs]}
    text = shown(grid_table(content), width, monkeypatch, capsys)
    for word in ("0.333333", "0.666667", "16", "4096", "335.14", "77,300.0", "-0.3727", "0.2500", "correlation"):
        assert word in text.split()
    assert "…" not in text


def test_a_run_mode_is_one_of_three():
    with pytest.raises(UserError, match="exclude each other"):
        RunMode(resume=True, overwrite=True)
