"""Latencies are measured in processes of their own, wherever the call stands."""

import signal
import subprocess
import sys

import pytest
from conftest import tiny_model, tiny_tokenizer

import dynackd.measure.latency
from dynackd.errors import UserError
from dynackd.measure.latency import Case, benchmark, measure


@pytest.fixture
def model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_script_without_a_main_guard_is_run_once_and_gets_its_rows(model, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dynackd.measure.latency import benchmark\n"
        f"print('run'); print(len(benchmark([{str(model)!r}], ['torch'], 1, [1], [5], 1, 1)['rows']))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "run\n1\n"), done.stderr


def test_what_cannot_run_is_said_by_its_first_line(model):
    with pytest.raises(UserError, match=rf"{model} cannot run in torch on cpu: \w+: .*"):
        benchmark([str(model)], ["torch"], 1, [1], [49], 1, 1)


def test_a_process_that_is_killed_is_told_of_with_its_signal(monkeypatch, tmp_path):
    killed = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    monkeypatch.setattr(dynackd.measure.latency, "_COMMAND", (sys.executable, "-c", killed))
    with pytest.raises(UserError, match="in torch: its process was killed by signal 9; is there enough memory"):
        measure([Case(str(tmp_path), "torch", "cpu", 1, 1, 5)], 1, 1)


def test_what_a_library_prints_is_no_answer(monkeypatch, tmp_path):
    noisy = "b.RUNNERS['torch'] = lambda case: lambda: os.system('echo noise')"
    code = f"import os, dynackd.measure.latency as b\n{noisy}\nb.serve()"
    monkeypatch.setattr(dynackd.measure.latency, "_COMMAND", (sys.executable, "-c", code))
    (row,) = measure([Case(str(tmp_path), "torch", "cpu", 1, 1, 5)], 1, 1)
    assert row["repeats"] == 10
