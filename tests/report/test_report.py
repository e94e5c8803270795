"""Tables that say what was measured, and a plot that is a picture."""

import pytest
from rich.console import Console

from dynackd.report.terminal import benchmark_table, grid_table, layer_ranges, machine_name, short_names


def printed(table, width=120):
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    return console.export_text()


@pytest.mark.parametrize(
    ("layers", "text"),
    [([0, 1, 2, 3, 4, 5], "0-5"), ([1, 3, 5], "1 3 5"), ([0, 1, 3], "0 1 3"), ([0, 1, 2, 4], "0-2 4")]
)
def test_layers_are_told_briefly(layers, text):
    assert layer_ranges(layers) == text


def test_the_grids_table_has_every_row_and_the_teachers():
    row = {"width": 0.5, "depth": 0.75, "heads": 6, "neurons": 768, "layers": [0, 1, 3], "parameters": 17_400_000}
    content = {
        "task": "sst2",
        "length": 64,
        "teacher": {"parameters": 22_700_000, "flops": 1.4e9, "metrics": {"accuracy": 0.89}},
        "subnetworks": [{**row, "flops": 7.0e8, "metrics": {"accuracy": 0.87}}],
    }
    text = printed(grid_table(content))
    for word in ("0.75", "768", "0 1 3", "17.40", "700.0", "0.8700", "teacher", "22.70", "1,400.0", "0.8900"):
        assert word in text


def test_the_grids_table_of_twelve_layers_fits_a_terminal_of_80_columns():
    row = {"parameters": 33_360_000, "flops": 5.7e9, "metrics": {"matthews_correlation": 0.3727}}
    spec = {"width": 0.75, "depth": 0.75, "heads": 12, "neurons": 3072, "layers": [0, 1, 3, 4, 5, 7, 8, 9, 11]}
    content = {"task": "cola", "length": 128, "teacher": row, "subnetworks": [spec | row]}
    words = printed(grid_table(content), width=80).split()
    for word in ("0.75", "12", "3072", "0", "3-5", "7-9", "11", "33.36", "5,700.0", "0.3727", "correlation"):
        assert word in words


def test_the_benchmarks_ratio_is_to_the_first_row_of_the_same_shape():
    def row(path, length, p50):
        return {
            **{"path": path, "runtime": "torch", "provider": "cpu", "threads": 1, "batch_size": 1, "length": length},
            **{"latency_ms": {"p50": p50, "p90": p50, "p99": p50}, "throughput_per_s": 1e3 / p50},
        }

    rows = [row("a", 8, 10.0), row("a", 16, 40.0), row("b", 8, 5.0), row("b", 16, 10.0)]
    text = printed(benchmark_table({"machine": "here", "rows": rows}))
    assert [line.split()[-1] for line in text.splitlines() if " torch " in line] == ["1.00", "1.00", "0.50", "0.25"]


def test_paths_lose_what_they_share():
    assert short_names(["runs/a/teacher", "runs/a/students/w0.5"]) == ["teacher", "students/w0.5"]
    assert short_names(["model.onnx"]) == ["model.onnx"]


def test_the_machine_is_named():
    assert "cores" in machine_name()
