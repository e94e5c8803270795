"""The speed-up as a share of the FLOP ratio, by hand, and FLOPs of whatever directory."""

import json

import pytest
from conftest import tiny_model, tiny_tokenizer

from dynackd.deploy.export import ExportOptions, export_student
from dynackd.grid import Grid
from dynackd.measure.shares import share, with_shares
from dynackd.report.terminal import benchmark_table
from dynackd.subnet import SubnetSpec
from dynackd.supernet.cost import FlopCounter
from dynackd.supernet.network import Supernet


def row(path, p50, length=128, runtime="onnxruntime", precision="fp32", threads=1):
    return {
        **{"path": str(path), "runtime": runtime, "provider": "cpu", "threads": threads, "batch_size": 1},
        **{"length": length, "precision": precision, "latency_ms": {"p50": p50, "p90": p50, "p99": p50}},
        **{"throughput_per_s": 1e3 / p50, "peak_memory_mb": 100.0, "round_medians_ms": {"p25": p50, "p75": p50}},
    }


def test_the_share_is_the_speed_up_over_the_flop_ratio():
    reference = {"latency_ms": {"p50": 12.0}, "flops": 1000}
    # 12 / 4 = 3 times as fast with 1000 / 250 = 4 times fewer FLOPs: three quarters of what could be had.
    found = share({"latency_ms": {"p50": 4.0}, "flops": 250}, reference)
    assert found == {"speed_up": 3.0, "flop_ratio": 4.0, "share_of_flop_ratio": 0.75}
    assert share({"latency_ms": {"p50": 4.0}}, reference) == {"speed_up": 3.0}
    assert share(reference, None) == {}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("shares")
    net = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5)))
    net.model.save_pretrained(place / "teacher")
    tiny_tokenizer().save_pretrained(place / "teacher")
    for name, options in (("student", ExportOptions()), ("stock", ExportOptions(compat=True))):
        export_student(net, tiny_tokenizer(), SubnetSpec(0.5, 0.5), place / name, options=options)
    counter = FlopCounter(net)
    flops = {
        (size, length): counter.count(net.resolve(SubnetSpec(size, size)), length)
        for size in (1.0, 0.5) for length in (16, 48)
    }  # fmt: skip
    return place, flops


def test_a_students_file_is_not_compared_with_itself(models, monkeypatch):
    """`cd teacher; dynackd benchmark . ../student --files`: the current directory is above every relative path."""
    place, _ = models
    monkeypatch.chdir(place / "teacher")
    quantized = "../student/onnx/model_quantized.onnx"
    rows = [row(".", 8.0, 16), row("../student", 2.0, 16), row(quantized, 1.0, 16, precision="int8")]
    found = {own["path"]: own for own in with_shares({"rows": rows}, ".")["rows"]}
    assert found["../student"]["speed_up"] == 4.0
    assert "speed_up" not in found[quantized]
    monkeypatch.chdir(place)
    rows = [row("teacher/onnx/model.onnx", 8.0, 16), row("student", 2.0, 16)]
    assert with_shares({"rows": rows}, "teacher")["rows"][1]["speed_up"] == 4.0


def test_flops_are_those_of_the_sliced_network_at_each_length(models):
    place, flops = models
    paths = [place / "teacher", place / "student", place / "student" / "onnx" / "model.onnx"]
    rows = [row(path, 1.0, length) for path in paths for length in (16, 48)]
    found = with_shares({"rows": rows}, str(paths[0]))["rows"]
    assert [one["flops"] for one in found] == [flops[size, length] for size in (1.0, 0.5, 0.5) for length in (16, 48)]
    assert flops[1.0, 48] > 3 * flops[1.0, 16]  # attention grows with the square


def test_a_padded_checkpoint_costs_more_in_torch_than_its_onnx_file(models):
    place, flops = models
    rows = [row(place / "stock", 1.0, length, runtime) for length in (48, 16) for runtime in ("torch", "onnxruntime")]
    padded, sliced, _, unknown = with_shares({"rows": rows}, "elsewhere")["rows"]
    assert sliced["flops"] == flops[0.5, 48]
    assert padded["flops"] > sliced["flops"]
    assert "flops" not in unknown  # export.json tells one length alone


def test_each_row_is_compared_with_the_same_runtime_precision_threads_and_length(models, tmp_path):
    place, flops = models
    teacher, student = place / "teacher", place / "student"
    small = teacher / "onnx" / "model_quantized.onnx"  # of the first model's directory
    alone = tmp_path / "foreign.onnx"
    alone.touch()
    rows = [
        row(teacher, 8.0, 48), row(teacher, 3.0, 16), row(teacher, 20.0, 48, "torch"), row(small, 4.0, 48,
        precision="int8"), row(student, 2.0, 48), row(student, 1.0, 16), row(student, 4.0, 48, "torch"),
        row(student / "onnx" / "model_quantized.onnx", 1.0, 48, precision="int8"), row(student, 2.0, 48, threads=2),
        row(alone, 2.0, 48),
    ]  # fmt: skip
    found = with_shares({"rows": rows}, str(teacher))["rows"]
    at_48, at_16 = (flops[1.0, length] / flops[0.5, length] for length in (48, 16))
    expected = [4 / at_48, 3 / at_16, 5 / at_48, 4 / at_48]
    assert [one["share_of_flop_ratio"] for one in found[4:8]] == pytest.approx(expected)
    assert "speed_up" not in found[8]  # no reference on two threads
    assert found[9]["speed_up"] == 4.0
    assert "share_of_flop_ratio" not in found[9]


def test_the_table_tells_the_share_of_all_but_the_first_model(models):
    place, _ = models
    rows = [row(place / "teacher", 8.0, 48), row(place / "student", 2.0, 48)]
    result = with_shares({"machine": "here", "rows": rows}, str(place / "teacher"))
    table = benchmark_table(result)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["share"] == ["", f"{result['rows'][1]['share_of_flop_ratio']:.0%}"]
    assert (cells["MB"], cells["spread"]) == (["100", "100"], ["0%", "0%"])
    assert json.loads(json.dumps(result)) == result
