"""Latencies are measured in processes of their own, wherever the call stands; what cannot be measured is told."""

import json
import signal
import subprocess
import sys

import pytest
from conftest import tiny_model, tiny_tokenizer

import dynackd.measure.latency
from dynackd.cli.command_line import main
from dynackd.errors import UserError
from dynackd.measure import runtimes
from dynackd.measure.latency import Case, benchmark, measure
from dynackd.onnx.graphs import Fixed, export_onnx


@pytest.fixture
def model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def child(monkeypatch, code):
    """Let the process of every model run this."""
    monkeypatch.setattr(dynackd.measure.latency, "_COMMAND", (sys.executable, "-c", code))


def imitated(run):
    """The code of a process in which torch runs `run`, of a shape."""
    runtime = f"Runtime(lambda case: lambda batch_size, length: {run}, False, lambda: ['cpu'])"
    return (
        "import os, time, sys\nfrom dynackd.measure.runtimes import RUNTIMES, Runtime\n"
        f"from dynackd.measure.worker import serve\nRUNTIMES['torch'] = {runtime}\nserve()"
    )


def torch_case(length=5, batch_size=1, threads=1):
    return Case("model", "torch", "cpu", threads, batch_size, length)


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
        measure([Case(str(model), "torch", "cpu", 1, 1, 49)], 1, 1)


def test_a_process_that_is_killed_is_told_of_with_its_signal(monkeypatch):
    child(monkeypatch, f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(UserError, match="in torch: its process was killed by signal 9; is there enough memory"):
        measure([torch_case()], 1, 1)


def test_what_a_library_prints_is_no_answer(monkeypatch):
    child(monkeypatch, imitated("lambda: os.system('echo noise')"))
    (row,) = measure([torch_case()], 1, 1)
    assert row["repeats"] == 10


def test_the_peak_of_memory_is_the_childs_own_and_grows_with_the_shape(monkeypatch):
    mine = bytearray(300_000_000)  # what `ru_maxrss` of a child would count
    mine[::4096] = b"x" * len(mine[::4096])
    child(monkeypatch, imitated("lambda: b'x' * (length * 1_000_000)"))
    rows = measure([torch_case(100), torch_case(5)], 1, 1)
    large, small = (row["peak_memory_mb"] for row in rows)
    assert 5 < small < 100
    assert 80 < large - small < 110


def test_what_takes_long_at_the_first_run_is_not_timed(monkeypatch):
    child(monkeypatch, imitated("lambda seen=[]: seen or (time.sleep(.5), seen.append(1))"))
    (row,) = measure([torch_case()], 10, 0)
    assert row["latency_ms"]["p99"] < 100


def test_the_spread_is_between_the_quartiles_of_the_rounds_medians():
    rounds = [[value, value, 1000.0] for value in range(1, 6)]
    row = dynackd.measure.latency._row(torch_case(batch_size=4), rounds, 1.0)
    assert row["round_medians_ms"] == {"p25": 2.0, "p75": 4.0}
    assert row["latency_ms"]["p50"] == 4.0  # of 1 1 2 2 3 3 4 4 5 5 and five times 1000
    assert row["throughput_per_s"] == round(4 / (5030 / 15) * 1e3, 1)


def test_every_number_of_threads_has_its_rows(model):
    result = benchmark([str(model)], ["onnxruntime"], [1, 2], [1, 3], [5, 8], 1, 1)
    shapes = [(row["threads"], row["length"], row["batch_size"]) for row in result["rows"]]
    assert shapes == [(threads, length, batch) for threads in (1, 2) for length in (5, 8) for batch in (1, 3)]
    assert result["left_out"] == []


def test_lengths_beyond_the_models_positions_are_left_out_and_told(model, capsys, tmp_path):
    few = ["--repeats", "1", "--warmup", "1", "--runtime", "onnxruntime", "--json", str(tmp_path / "b.json")]
    assert main(["benchmark", str(model), "--length", "8", "49", "64", *few]) == 0
    told = f"{model} takes at most 48 tokens: length 49, 64 was left out"
    assert told in capsys.readouterr().out
    content = json.loads((tmp_path / "b.json").read_text())
    assert [row["length"] for row in content["rows"]] == [8]
    assert content["left_out"] == [told]
    with pytest.raises(UserError, match="takes at most 48 tokens: length 49 was left out"):
        benchmark([str(model)], ["onnxruntime"], 1, [1], [49], 1, 1)


def test_a_graph_of_fixed_sizes_is_measured_at_its_own(model, tmp_path):
    export_onnx(tiny_model(), ["input_ids", "attention_mask"], tmp_path / "f.onnx", Fixed(2, 12))
    result = benchmark([str(tmp_path / "f.onnx")], ["onnxruntime"], 1, [1, 8], [5, 64], 1, 1)
    assert [(row["batch_size"], row["length"]) for row in result["rows"]] == [(2, 12)]
    (told,) = result["left_out"]
    assert told.endswith("f.onnx is made for batch size 2 and length 12 alone, and was measured at that")


def test_every_onnx_file_of_a_directory_is_measured_when_asked_for(model, tmp_path):
    names = ["input_ids", "attention_mask"]
    for name in ("model", "model_fp16", "model_O3"):
        export_onnx(tiny_model(), names, model / "onnx" / f"{name}.onnx")
    few = ["--length", "5", "--repeats", "1", "--runtime", "onnxruntime", "--json", str(tmp_path / "b.json")]
    assert main(["benchmark", str(model), "--files", *few]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [(row["path"].removeprefix(str(model)), row["precision"]) for row in rows] == [
        ("", "fp32"), ("/onnx/model_O3.onnx", "fp32"), ("/onnx/model_fp16.onnx", "fp16"),
    ]  # fmt: skip


def test_a_runtime_that_is_not_here_is_told_in_one_sentence(monkeypatch, model):
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^openvino is not installed; pip install openvino, or leave openvino out"):
        benchmark([str(model)], ["torch", "openvino"], 1, [1], [5], 1, 1)
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: None)
    monkeypatch.setenv("CXX", "clang")
    with pytest.raises(UserError, match=r"^torch.compile needs a C\+\+ compiler, and none is here \(looked for clang"):
        benchmark([str(model)], ["torch-compile"], 1, [1], [5], 1, 1)


@pytest.mark.client
def test_openvino_measures_an_onnx_file(model):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    (row,) = benchmark([str(model)], ["openvino"], 1, [2], [5], 1, 1)["rows"]
    assert (row["runtime"], row["path"]) == ("openvino", str(model))
    assert row["latency_ms"]["p50"] > 0


def test_torch_compile_measures_a_model(model):
    if reason := runtimes.RUNTIMES["torch-compile"].missing():
        pytest.skip(reason)
    (row,) = benchmark([str(model)], ["torch-compile"], 1, [1], [5], 1, 1)["rows"]
    assert row["runtime"] == "torch-compile"
    assert row["latency_ms"]["p99"] < 1000


def test_a_row_that_would_take_too_long_is_run_less_often_and_says_so(monkeypatch):
    child(monkeypatch, imitated("lambda: time.sleep(.02 * (length == 9))"))
    slow, fast = dynackd.measure.latency.measure_possible([torch_case(9), torch_case(5)], 20, 1, seconds=0.1)
    assert 3 <= slow["repeats"] <= 5
    assert fast["repeats"] == 20
