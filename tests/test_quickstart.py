"""The quickstart is a compress of our own rows, and is checked before anything is written."""

import json

import pytest
from conftest import tiny_recipe, write_rows

from dynackd import quickstart as module
from dynackd.compress import choosing, road
from dynackd.errors import UserError
from dynackd.quickstart import quickstart
from dynackd.supernet.network import load_supernet
from dynackd.system.places import new_directory, write_json
from dynackd.training.runs import RunMode


def fake_search(directory, budget, setting, effort, recipe, output, overwrite, on_progress):
    """The smallest size of the grid."""
    supernet, _ = load_supernet(directory)
    smallest = list(supernet.subnets.values())[-1]
    found = {"choice": {"subnet": smallest.to_dict()}, "budget": budget.to_dict(),
             "setting": setting.to_dict() | {"length": setting.length or recipe.data.max_length}}  # fmt: skip
    with new_directory(output, "a search's result", overwrite) as temporary:
        write_json(temporary / "search.json", found)
    return found


def fake_benchmark(paths, runtimes, lengths, **options):
    row = {"runtime": "onnxruntime", "provider": "cpu", "threads": 1, "batch_size": 1, "length": lengths[0],
           "latency_ms": {"p50": 1.0, "p90": 1.0, "p99": 1.0}, "throughput_per_s": 1000.0}  # fmt: skip
    return {"machine": "none", "rows": [{"path": path, **row} for path in paths]}


def texts(directory, *_counts):
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(directory / "train.tsv", 24, 1)
    write_rows(directory / "validation.tsv", 16, 2)


def test_a_quickstart_comes_to_its_end_and_goes_on_where_it_was_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choosing, "search", fake_search)
    monkeypatch.setattr(choosing, "benchmark", fake_benchmark)
    monkeypatch.setattr(module, "write_docstring_dataset", texts)
    model = tiny_recipe(tmp_path)["model"]
    settings = [f"model={model}", "grid.widths=[0.5, 1.0]", "grid.depths=[0.5, 1.0]", "training.max_steps=2",
                "data.max_length=20", "task.metrics=[f1]"]  # fmt: skip
    output = tmp_path / "quick"
    with monkeypatch.context() as patch:
        patch.setattr(road, "searched", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quickstart(output, RunMode(), settings)
    monkeypatch.setattr(module, "write_docstring_dataset", lambda *_: pytest.fail("the rows are there"))
    capsys.readouterr()
    result = quickstart(output, RunMode(resume=True), settings)
    assert " ".join(capsys.readouterr().out.split()).count("is finished; passed over") == 3
    assert result["metric"] == "f1"
    assert result["setting"]["length"] == 20
    assert result["student"]["metrics"]["f1"] >= 0
    assert json.loads((output / "summary.json").read_text()) == result
    assert (output / "report.png").is_file()
    assert (output / "student" / "export.json").is_file()


@pytest.mark.parametrize(
    "setting", ["output_dir=elsewhere", "teacher=x", "grid.widths=[0.5]", "task.kind=nonsense", "training.max_steps=0",
                "training.optim=adamw_8bit"]
)  # fmt: skip
def test_a_quickstart_is_checked_before_anything_is_written(tmp_path, setting):
    with pytest.raises(UserError):
        quickstart(tmp_path / "quick", RunMode(), [f"model={tmp_path}", setting])
    assert not (tmp_path / "quick").exists()
