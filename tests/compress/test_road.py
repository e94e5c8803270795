"""The whole road on tiny models: what is chosen is written down, whole, and found again after a kill anywhere."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_config, tiny_recipe, tiny_tokenizer, write_rows
from transformers import AutoModelForSequenceClassification

from dynackd.cli.command_line import main
from dynackd.compress import choosing, polishing, road
from dynackd.compress.guess import Said
from dynackd.compress.request import Request
from dynackd.compress.state import forget_choice
from dynackd.compress.summary import _who
from dynackd.compress.telling import tell_result
from dynackd.errors import UserError
from dynackd.search.settings import Budget, Effort, Setting
from dynackd.students.loading import load_student
from dynackd.supernet.network import load_supernet
from dynackd.system.places import new_directory, write_json
from dynackd.training.recipe import load_recipe
from dynackd.training.runs import RunMode

QUICK = ("training.max_steps=2", "training.per_device_train_batch_size=8", "grid.widths=[0.5, 1.0]",
         "grid.depths=[0.5, 1.0]", "importance.rows=16", "training.use_cpu=true")  # fmt: skip


def fake_search(directory, budget, setting, effort, recipe, output, overwrite, on_progress):
    """The smallest size of the grid, which has more than 10 parameters."""
    if budget.max_params == 10:
        raise UserError("--max-params 10 is less than the smallest sub-network has")
    on_progress("looking", 1, 1)
    supernet, _ = load_supernet(directory)
    smallest = list(supernet.subnets.values())[-1]
    found = {"choice": {"subnet": smallest.to_dict()}, "budget": budget.to_dict(),
             "setting": setting.to_dict() | {"length": setting.length or recipe.data.max_length}}  # fmt: skip
    with new_directory(output, "a search's result", overwrite) as temporary:
        write_json(temporary / "best.json", smallest.to_dict())
        write_json(temporary / "search.json", found)
    return found


def fake_benchmark(paths, runtimes, threads, batch_sizes, lengths, repeats, warmup, on_round):
    row = {"runtime": runtimes[0], "provider": "cpu", "threads": threads, "batch_size": 1, "length": lengths[0],
           "latency_ms": {"p50": 1.0, "p90": 1.0, "p99": 1.0}, "throughput_per_s": 1000.0}  # fmt: skip
    return {"machine": "none", "rows": [{"path": path, **row} for path in paths]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(choosing, "search", fake_search)
    monkeypatch.setattr(choosing, "benchmark", fake_benchmark)


def asked(directory, **changes):
    """A request for a bare encoder and a csv file in `directory`."""
    model = tiny_recipe(directory)["model"]
    data = directory / "reviews.csv"
    if not data.exists():
        write_rows(data, 60, 3)
        lines = data.read_text().splitlines()
        named = {"1": "good", "0": "bad", "label": "verdict"}
        rows = [line.split("\t") for line in lines]
        data.write_text("".join(f'"{text}";{named[label]}\n' for text, label in rows))
    fields = {"budget": Budget(max_latency_ms=5.0), "output": directory / "out", "overrides": QUICK, **changes}
    return Request(model, str(data), **fields)


def content_of(directory):
    """What every file holds, but for what tells of times and places of a run."""
    passed = ("report.", "log.jsonl", "metrics.json", "compress.json", "summary.json", "export.json", "README.md")
    return {
        file.relative_to(directory).as_posix(): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not file.name.startswith(passed) and file.suffix not in (".yaml",)
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A directory in which one has run through, and what it printed."""
    directory = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "search", fake_search)
        patch.setattr(choosing, "benchmark", fake_benchmark)
        summary = road.compress(asked(directory), RunMode())
    return directory, summary


def test_a_csv_file_and_an_encoder_become_a_student_that_loads_and_a_report(unbroken):
    directory, summary = unbroken
    output = directory / "out"
    model, tokenizer = load_student(output / summary["student"]["path"])
    model(**tokenizer("a fine film", return_tensors="pt"))
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert sum(own.numel() for own in model.parameters()) == summary["student"]["parameters"]
    assert summary["student"]["parameters"] < summary["teacher"]["parameters"]
    assert summary["metric"] == "accuracy"
    assert 0 <= summary["student"]["metrics"]["accuracy"] <= 1
    assert summary["budget"] == {"max_latency_ms": 5.0}
    assert (output / "report.html").is_file()
    assert (output / "report.png").is_file()
    assert json.loads((output / "summary.json").read_text()) == summary


def test_the_recipe_that_is_written_says_what_was_decided_and_gives_the_same_again(unbroken):
    output, other = unbroken[0] / "out", unbroken[0] / "again"
    text = (output / "recipe.yaml").read_text()
    assert "# reviews.csv is read as classification (text 'sentence', label 'verdict': bad, good)." in text
    assert "20.0% of the 60 rows are held out" in text
    recipe = load_recipe(output / "recipe.yaml")
    assert recipe.data.max_length == 16
    again = Request(str(output / "recipe.yaml"), budget=Budget(max_latency_ms=5.0), output=other)
    road.compress(again, RunMode())
    assert content_of(other) == content_of(output)
    assert load_recipe(other / "recipe.yaml").stages == recipe.stages


def test_a_smaller_hidden_size_goes_the_whole_road(tmp_path):
    given = asked(tmp_path, overrides=(*QUICK, "grid.hidden=[0.5, 1.0]"))
    summary = road.compress(given, RunMode())
    model, _ = load_student(tmp_path / "out" / summary["student"]["path"])
    teacher, _ = load_supernet(tmp_path / "out" / "depth")
    assert model.config.hidden_size == teacher.geometry.hidden // 2
    assert sum(own.numel() for own in model.parameters()) == summary["student"]["parameters"]
    assert (tmp_path / "out" / "report.html").is_file()


def polish_of(output):
    return json.loads((output / "polish.json").read_text())


def test_the_student_has_the_weights_of_the_polished_size_where_that_is_better(unbroken):
    output, about = unbroken[0] / "out", unbroken[1]["polish"]
    assert about == polish_of(output)
    assert (about["metric"], about["used"]) == ("accuracy", about["after"] >= about["before"])
    sources = {used: load_supernet(output / name)[0] for used, name in ((True, "polished-chosen"), (False, "depth"))}
    own = load_student(output / "student")[0].state_dict()["classifier.weight"]
    same = {used: torch.equal(own, source.model.state_dict()["classifier.weight"]) for used, source in sources.items()}
    assert same == {about["used"]: True, not about["used"]: False}


@pytest.mark.parametrize(("before", "after", "used"), [(0.5, 0.6, True), (0.5, 0.5, True), (0.6, 0.5, False)])
def test_polishing_is_used_only_where_it_helps(unbroken, tmp_path, monkeypatch, before, after, used):
    output = tmp_path / "out"
    shutil.copytree(unbroken[0] / "out", output)
    shutil.copy(unbroken[0] / "reviews.csv", tmp_path)
    (output / "polish.json").unlink()
    recipe = dataclasses.replace(load_recipe(output / "recipe.yaml"), output_dir=output)
    values = iter([before, after])
    monkeypatch.setattr(polishing, "compute_metrics", lambda *_: {"accuracy": next(values)})
    found = json.loads((output / "search" / "search.json").read_text())
    about = polishing.polished(recipe, found, Effort(), RunMode())
    assert about == polish_of(output)
    assert about["used"] == used
    assert polishing.source_of(recipe, about) == output / ("polished-chosen" if used else "depth")


def test_the_full_network_is_not_polished(unbroken, tmp_path, monkeypatch):
    output = tmp_path / "out"
    shutil.copytree(unbroken[0] / "out" / "depth", output / "depth")
    recipe = dataclasses.replace(load_recipe(output / "depth" / "recipe.yaml"), output_dir=output)
    monkeypatch.delattr(polishing, "polish")
    found = {"choice": {"subnet": load_supernet(output / "depth")[0].whole.to_dict()}}
    assert polishing.polished(recipe, found, Effort(), RunMode()) == {"used": False} == polish_of(output)


STEPS = [
    *((road.TRAINED, name) for name in ("finetune", "width", "depth")),
    *((road, name) for name in ("searched", "polished", "exported", "benchmarked", "make_summary", "write_report")),
]


class Killed(BaseException):
    """As SIGKILL: nothing runs after it."""


def stopped(monkeypatch, home, name, after):
    """Kills a run before or after a step; returns what lets it pass again."""
    before = home[name] if isinstance(home, dict) else getattr(home, name)
    change = monkeypatch.setitem if isinstance(home, dict) else monkeypatch.setattr

    def killed(*arguments, **options):
        if after:
            before(*arguments, **options)
        raise Killed

    change(home, name, killed)
    return lambda: change(home, name, before)


def test_a_run_that_is_killed_before_and_after_each_step_goes_on_to_the_same_result(unbroken, tmp_path, monkeypatch):
    mode = RunMode()
    for home, name in STEPS:
        for after in (False, True):
            passes = stopped(monkeypatch, home, name, after)
            with pytest.raises(Killed):
                road.compress(asked(tmp_path), mode)
            assert mode.interruption.resumable
            passes()
            with pytest.raises(UserError, match="add --resume to go on with it"):
                road.compress(asked(tmp_path), RunMode())
            mode = RunMode(resume=True)
    road.compress(asked(tmp_path), mode)
    with pytest.raises(UserError, match="holds a finished run"):
        road.compress(asked(tmp_path), mode)
    assert content_of(tmp_path / "out") == content_of(unbroken[0] / "out")


@pytest.mark.parametrize("name", ["mark", "write_recipe"])
def test_a_run_that_is_killed_before_it_has_begun_begins_anew(tmp_path, monkeypatch, name):
    mode = RunMode()
    passes = stopped(monkeypatch, road, name, True)
    with pytest.raises(Killed):
        road.compress(asked(tmp_path), mode)
    assert not mode.interruption.resumable
    passes()
    stopped(monkeypatch, road, "_walk", False)
    for again in (RunMode(), RunMode(resume=True)):
        with pytest.raises(Killed):
            road.compress(asked(tmp_path), again)


def test_another_budget_begins_at_the_choice(unbroken, monkeypatch, capsys):
    request = asked(unbroken[0], budget=Budget(max_params=1e6))
    monkeypatch.setattr(road, "TRAINED", {})  # no stage is run
    summary = road.compress(request, RunMode(resume=True))
    assert summary["budget"] == {"max_params": 1e6}
    told = " ".join(capsys.readouterr().out.split())
    assert "passed over" in told
    assert re.search(r"this call took [0-9.]+ minutes; [0-9.]+ were planned for it and the calls before it", told)
    road.compress(asked(unbroken[0]), RunMode(resume=True))


def test_a_budget_that_cannot_be_met_leaves_the_earlier_choice_whole(unbroken, monkeypatch):
    """A slip of the fingers (`--max-params 10`) once deleted the finished student."""
    output = unbroken[0] / "out"
    before = {file: file.read_bytes() for file in sorted(output.rglob("*")) if file.is_file()}
    monkeypatch.setattr(road, "TRAINED", {})
    with pytest.raises(UserError, match="less than the smallest"):
        road.compress(asked(unbroken[0], budget=Budget(max_params=10)), RunMode(resume=True))
    assert {file: file.read_bytes() for file in sorted(output.rglob("*")) if file.is_file()} == before
    with pytest.raises(UserError, match="holds a finished run"):
        road.compress(asked(unbroken[0]), RunMode(resume=True))


@pytest.mark.parametrize(("name", "after"), [("searched", True), ("forget_student", True), ("exported", False)])
@pytest.mark.parametrize("back", [True, False])
def test_killed_on_the_way_to_another_budget_it_goes_on_to_either(unbroken, monkeypatch, name, after, back):
    directory, other = unbroken[0], Budget(max_params=1e6)
    monkeypatch.setattr(road, "TRAINED", {})
    passes = stopped(monkeypatch, road, name, after)
    with pytest.raises(Killed):
        road.compress(asked(directory, budget=other), RunMode(resume=True))
    passes()
    wanted = asked(directory) if back else asked(directory, budget=other)
    assert road.compress(wanted, RunMode(resume=True))["budget"] == wanted.budget.to_dict()
    assert json.loads((directory / "out" / "search" / "search.json").read_text())["budget"] == wanted.budget.to_dict()
    if not back:
        road.compress(asked(directory), RunMode(resume=True))


def test_no_report_of_an_earlier_student_stays_beside_a_new_choice(unbroken, monkeypatch):
    directory = unbroken[0]
    passes = stopped(monkeypatch, road, "exported", False)
    with pytest.raises(Killed):
        road.compress(asked(directory, budget=Budget(max_params=1e6)), RunMode(resume=True))
    assert not list((directory / "out").glob("report.*"))
    passes()
    road.compress(asked(directory), RunMode(resume=True))


def test_rows_that_have_moved_are_told_and_can_be_named(unbroken, tmp_path, monkeypatch):
    request, moved = asked(unbroken[0], budget=Budget(max_params=1e6)), tmp_path / "moved.csv"
    monkeypatch.setattr(road, "TRAINED", {})
    shutil.move(request.data, moved)
    try:
        with pytest.raises(UserError, match=r"no such file; put it back, or say with --data FILE where it is now"):
            road.compress(request, RunMode(resume=True))
        summary = road.compress(dataclasses.replace(request, data=str(moved)), RunMode(resume=True))
        assert summary["budget"] == {"max_params": 1e6}
        assert summary["student"]["metrics"]
        other = tmp_path / "other.csv"
        first, *others = moved.read_text().splitlines(keepends=True)
        other.write_text("".join([first, *reversed(others)]))  # the same rows, of which others are held out
        with pytest.raises(UserError, match="train"):
            road.compress(dataclasses.replace(asked(unbroken[0]), data=str(other)), RunMode(resume=True))
    finally:
        shutil.move(moved, request.data)
    road.compress(asked(unbroken[0]), RunMode(resume=True))


def test_rows_of_a_recipe_that_have_moved_are_named_with_set(unbroken, tmp_path, monkeypatch):
    """--data is refused beside a recipe, whose rows must not be a dead end either."""
    output, moved = unbroken[0] / "out", tmp_path / "moved.csv"
    request = Request(str(output / "recipe.yaml"), budget=Budget(max_params=1e6), output=tmp_path / "again")
    stop = stopped(monkeypatch, road, "exported", False)
    with pytest.raises(Killed):
        road.compress(request, RunMode())
    stop()
    monkeypatch.setattr(road, "TRAINED", {})
    shutil.move(unbroken[0] / "reviews.csv", moved)
    try:
        with pytest.raises(UserError, match=r"no such file; put it back, or say with --set data.train=FILE"):
            road.compress(request, RunMode(resume=True))
        named = dataclasses.replace(request, overrides=(f"data.train={moved}",))
        more = dataclasses.replace(named, overrides=(*named.overrides, "training.seed=3"))
        with pytest.raises(UserError, match="asked for something else: --set"):
            road.compress(more, RunMode(resume=True))
        others = dataclasses.replace(named, overrides=(*named.overrides, f"data.unlabelled={moved}"))
        with pytest.raises(UserError, match=r"asked for something else: it had no data.unlabelled; leave that out"):
            road.compress(others, RunMode(resume=True))
        assert road.compress(named, RunMode(resume=True))["student"]["metrics"]
    finally:
        shutil.move(moved, unbroken[0] / "reviews.csv")


def test_without_a_budget_a_share_of_the_metric_is_kept(unbroken):
    own = asked(directory := unbroken[0])
    request = Request(own.model, own.data, output=own.output, overrides=QUICK)
    summary = road.compress(request, RunMode(resume=True))
    assert summary["budget"] == {"keep": 0.97}
    road.compress(asked(directory), RunMode(resume=True))



def test_a_student_that_is_measured_above_the_budget_is_told_with_what_it_was_chosen_at(unbroken, capsys):
    summary = json.loads((unbroken[0] / "out" / "summary.json").read_text())
    tell_result(summary, Path("out"), Path("r.html"), gone_on=False)
    assert "note:" not in capsys.readouterr().out
    summary["student"] |= {"latency_ms": 7.0, "chosen_at_ms": 4.5}
    tell_result(summary, Path("out"), Path("r.html"), gone_on=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "note: that is above --max-latency-ms 5; it was chosen at 4.50 ms" in told


def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path, monkeypatch, capsys):
    request = asked(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    arguments = [request.model, "--data", request.data, "--max-latency-ms", "5", "--dry-run", "--max-minutes", "60"]
    overrides = [part for override in QUICK for part in ("--set", override)]
    assert main(["compress", *arguments, *overrides]) == 0
    told = capsys.readouterr().out
    for words in ("fine-tuning the model", "training all widths", "in all", "--max-latency-ms 5", "held out"):
        assert words in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_fits_the_labels_is_the_teacher_and_one_with_another_head_is_trained_anew(unbroken, tmp_path):
    from dynackd.compress.preparing import prepare

    teacher = str(unbroken[0] / "out" / "teacher")
    data = asked(tmp_path).data
    request = Request(teacher, data, output=tmp_path / "x", overrides=QUICK)
    assert not prepare(request, tmp_path / "x", 0.0).finetunes
    three = Path(data).read_text().replace("bad\n", "poor\n", 12)
    Path(data).write_text(three)
    assert prepare(request, tmp_path / "x", 0.0).finetunes


def test_a_directory_of_somebody_else_stays(tmp_path):
    request = asked(tmp_path, output=tmp_path)
    for mode in (RunMode(), RunMode(resume=True), RunMode(overwrite=True)):
        with pytest.raises(UserError, match="holds what no dynackd compress wrote"):
            road.compress(request, mode)


def test_a_run_is_gone_on_with_only_as_it_was_asked_for(unbroken):
    request = asked(unbroken[0], said=Said(text=("sentence",)))
    with pytest.raises(UserError, match=r"asked for something else: --text was without it, is \['sentence'\]"):
        road.compress(request, RunMode(resume=True))
    request = asked(unbroken[0], validation=str(unbroken[0] / "reviews.csv"))  # not moved: there were none
    with pytest.raises(UserError, match=r"something else: --validation was not said, is .*reviews.csv"):
        road.compress(request, RunMode(resume=True))
    request = asked(unbroken[0], overrides=(*QUICK, "training.seed=3"))
    with pytest.raises(UserError, match=r"something else: --set was without it, is \['training.seed=3'\]; repeat"):
        road.compress(request, RunMode(resume=True))


@pytest.mark.parametrize("what", ["model", "--data", "--validation", "--unlabelled 1"])
def test_overwriting_never_deletes_what_the_command_reads(tmp_path, monkeypatch, what):
    """`compress runs/train/teacher --data train.csv --overwrite` would: that is where its results go."""
    request, output = asked(tmp_path), tmp_path / "out"
    stopped(monkeypatch, road, "searched", False)
    with pytest.raises(Killed):
        road.compress(request, RunMode())
    teacher = output / "teacher"
    shutil.copy(request.data, teacher / "rows.csv")
    named = {"model": {"model": str(teacher)}, "--data": {"data": str(teacher / "rows.csv")},
             "--validation": {"validation": str(teacher / "rows.csv")},
             "--unlabelled 1": {"unlabelled": (str(teacher / "rows.csv"),)}}[what]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in output.rglob("*"))
    with pytest.raises(UserError, match=f"--overwrite would delete .*teacher, and with it the {what} .* that this com"):
        road.compress(dataclasses.replace(request, **named), RunMode(overwrite=True))
    assert sorted(path for path in output.rglob("*")) == before


def test_a_recipe_names_what_is_read_too(tmp_path):
    content = tiny_recipe(tmp_path)
    content |= {"teacher": str(tmp_path / "t")}
    content["data"]["unlabelled"] = [str(tmp_path / "u.txt")]
    (tmp_path / "r.yaml").write_text(json.dumps(content))
    found, data = dict(road.read_by(Request(str(tmp_path / "r.yaml")))), content["data"]
    assert found == {"recipe": str(tmp_path / "r.yaml"), "model": content["model"], "teacher": content["teacher"],
                     "data.train": data["train"], "data.validation": data["validation"],
                     "data.unlabelled 1": data["unlabelled"][0]}  # fmt: skip


def test_another_budget_deletes_nothing_where_something_of_the_users_is(unbroken, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(unbroken[0] / "out", output)
    (output / "student" / "notes.txt").write_text("mine")
    before = content_of(output)
    with pytest.raises(UserError, match=r"student holds notes.txt, which dynackd did not write; move that away first"):
        forget_choice(output)
    assert content_of(output) == before


@pytest.mark.parametrize("place", ["../models/student", "../../student", "elsewhere"])
def test_a_teacher_called_student_is_still_the_teacher(place):
    assert _who(place) == "teacher"
    assert _who("student") == "student"
    assert _who("student/onnx/model_quantized.onnx") == "onnx/model_quantized.onnx"


def test_a_bare_encoder_learns_from_a_teacher_of_another_shape_family_and_order_of_classes(tmp_path, capsys):
    """compress refused every teacher of another shape."""
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    wide = tiny_config("electra", num_hidden_layers=6, hidden_size=48, **names)
    model = AutoModelForSequenceClassification.from_config(wide)
    model.save_pretrained(tmp_path / "wide")
    tiny_tokenizer().save_pretrained(tmp_path / "wide")
    overrides = (*QUICK, "task.check_teacher=false")
    request = asked(tmp_path, teacher=str(tmp_path / "wide"), overrides=overrides)
    summary = road.compress(request, RunMode())
    told, output = " ".join(capsys.readouterr().out.split()), tmp_path / "out"
    assert re.search(r"encoder \(bert: 4 layers.*: no classifier for these rows yet: it is fine-tuned first", told)
    assert re.search(r"wide \(electra: 6 layers, 4 heads, hidden size 48\) is the teacher", told)
    assert load_recipe(output / "recipe.yaml").stages["width"].distillation.matching == "uniform"
    assert summary["teacher"]["parameters"] == sum(own.numel() for own in model.parameters())
    assert summary["teacher"]["metrics"].keys() == summary["student"]["metrics"].keys()
    paths = [row["path"] for row in json.loads((output / "benchmark.json").read_text())["rows"]]
    assert paths[0] == "../wide", "not what the supernet started from"
    student, _ = load_student(output / "student")
    assert student.config.id2label == names["id2label"]
    assert student.config.hidden_size == 32
    record = json.loads((output / "width" / "origin.json").read_text())
    assert (record["teacher"]["name"], record["model"]["name"]) == ("wide", "teacher")
    with pytest.raises(UserError, match=r"--teacher was .*wide.*, is not said"):
        road.compress(asked(tmp_path, overrides=overrides), RunMode(resume=True))
    with pytest.raises(UserError, match="holds a finished run"):
        road.compress(request, RunMode(resume=True))


def test_a_length_beyond_the_model_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match=r"--length 4000 is beyond the 48 tokens that .* takes"):
        road.tell_cost(asked(tmp_path, setting=Setting(length=4000)))


def test_overwriting_begins_anew_and_keeps_what_is_not_ours(tmp_path, monkeypatch):
    request, output = asked(tmp_path), tmp_path / "out"
    stopped(monkeypatch, road, "searched", False)
    with pytest.raises(Killed):
        road.compress(request, RunMode())
    first = content_of(output)
    (output / "width" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"width holds notes.txt, which dynackd did not write"):
        road.compress(request, RunMode(overwrite=True))
    (output / "width" / "notes.txt").unlink()
    assert content_of(output) == first
    (output / "depth" / "origin.json").write_text("{}")
    with pytest.raises(Killed):
        road.compress(request, RunMode(overwrite=True))
    assert content_of(output) == first
