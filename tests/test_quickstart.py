"""The quickstart exports and measures sizes of its own grid, whatever that is, and is checked before it begins."""

import json

import pytest
from conftest import tiny_recipe, write_rows

from dynackd import quickstart as module
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.quickstart import exported_sizes, quickstart
from dynackd.subnet import SubnetSpec
from dynackd.training.runs import RunMode


@pytest.mark.parametrize(
    ("grid", "sizes"),
    [
        (Grid((1.0, 0.5, 0.25), (1.0, 0.75, 0.5)), [(0.5, 0.75), (0.25, 0.5)]),
        (Grid((1.0, 0.5), (1.0, 0.75, 0.5)), [(0.5, 1.0), (0.5, 0.5)]),
        (Grid((1.0, 0.75, 0.5, 0.25), (1.0,)), [(0.5, 1.0), (0.25, 1.0)]),
        (Grid((1.0, 0.5), (1.0,)), [(0.5, 1.0)]),
        (Grid((1.0,), (1.0,)), [(1.0, 1.0)]),
    ],
)
def test_the_exported_sizes_are_a_middle_one_and_the_smallest_of_the_grid(grid, sizes):
    chosen = exported_sizes(grid)
    assert chosen == [SubnetSpec(*size) for size in sizes]
    assert set(chosen) <= set(grid.specs())


def fake_benchmark(paths, runtimes, lengths, **options):
    row = {"runtime": "torch", "provider": "cpu", "threads": 1, "batch_size": 1, "length": lengths[0],
           "latency_ms": {"p50": 1.0, "p90": 1.0, "p99": 1.0}, "throughput_per_s": 1000.0}  # fmt: skip
    return {"machine": "none", "rows": [{"path": path, **row} for path in paths]}


def texts(directory, *_counts):
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(directory / "train.tsv", 24, 1)
    write_rows(directory / "validation.tsv", 16, 2)


@pytest.mark.parametrize(
    ("widths", "depths", "students"),
    [("[0.5, 1.0]", "[0.5, 0.75, 1.0]", ["w0.5-d1", "w0.5-d0.5"]), ("[1.0]", "[1.0]", ["w1-d1"])],
)
def test_a_quickstart_with_a_grid_of_ones_own_comes_to_its_end(tmp_path, monkeypatch, widths, depths, students, capsys):
    monkeypatch.setattr(module, "benchmark", fake_benchmark)
    monkeypatch.setattr(module, "write_docstring_dataset", texts)
    model = tiny_recipe(tmp_path)["model"]
    settings = [f"model={model}", f"grid.widths={widths}", f"grid.depths={depths}", "training.max_steps=2",
                "data.max_length=20", "task.metrics=[f1]"]  # fmt: skip
    output = tmp_path / "quick"
    result = quickstart(output, RunMode(), settings)
    assert capsys.readouterr().out.count("MFLOPs") == 2, "one table of the width stage, one of the depth stage"
    assert sorted(path.name for path in (output / "students").iterdir()) == sorted(students)
    assert [point["label"] for point in result["points"]] == ["teacher", *students]
    assert result["latency"]["rows"][0]["length"] == 20
    assert json.loads((output / "summary.json").read_text())["points"] == result["points"]
    for name in students:
        assert json.loads((output / "students" / name / "export.json").read_text())["metrics"]["student"]["f1"] >= 0


@pytest.mark.parametrize(
    "setting", ["output_dir=elsewhere", "teacher=x", "grid.widths=[0.5]", "task.kind=nonsense", "training.max_steps=0",
                "training.optim=adamw_8bit"]
)  # fmt: skip
def test_a_quickstart_is_checked_before_anything_is_written(tmp_path, setting):
    with pytest.raises(UserError):
        quickstart(tmp_path / "quick", RunMode(), [f"model={tmp_path}", setting])
    assert not (tmp_path / "quick").exists()
