"""The report of a run: what it tells, what it leaves out, and where it is written."""

import copy
import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
from made_run import EVIL, IMPORTANCE, evaluation, measured, student, write_run, write_whole_run

from dynackd.errors import UserError
from dynackd.report import picture
from dynackd.report.axes import Axis, Point, Series
from dynackd.report.charts import chart_data, importance
from dynackd.report.html import write_report
from dynackd.report.judging import Judge, judge_of, row_of
from dynackd.report.reading import place_of, read_run
from dynackd.report.searches import search_table, searched_axes
from dynackd.report.tables import grid_table, hidden_table, leaving_table, student_table
from dynackd.report.tradeoff import counted_axes, latency_axes
from dynackd.report.words import lead, missing, recommended
from dynackd.system.places import manifest_of, mark, write_json


@pytest.fixture
def whole(tmp_path):
    return write_whole_run(tmp_path / "run")


def told(directory):
    """The first paragraph."""
    results = read_run(directory)
    judge = judge_of(results)
    return " ".join(lead(results, judge, latency_axes(results, judge)))


def test_sizes_of_several_hidden_sizes_are_told_apart(tmp_path):
    evaluated = evaluation()
    small = [{**row, "hidden": 0.5, "flops": row["flops"] // 2, "metrics": {"accuracy": 0.795}, "parameters": 900}
             for row in evaluated["subnetworks"]]  # fmt: skip
    run = write_run(tmp_path / "run", {**evaluated, "subnetworks": [*evaluated["subnetworks"], *small]})
    results = read_run(run)
    judge = judge_of(results)
    axes = counted_axes(results, judge)
    names = [series.name for series in axes[0].series]
    assert names == ["depth 1", "depth 0.5", "depth 1, hidden 0.5", "depth 0.5, hidden 0.5", "teacher"]
    looks = {look["name"]: look for look in chart_data(results, judge, axes)["heat"]["looks"]}
    assert looks["accuracy"]["values"] == [[0.70, 0.78], [0.796, 0.80]]
    assert looks["accuracy, hidden 0.5"]["values"] == [[0.795, 0.795], [0.795, 0.795]]
    table = grid_table(results, judge)
    assert [name for name, _ in table.columns][:3] == ["width", "depth", "hidden"]
    assert [row[2].text for row in table.rows] == ["1"] * 4 + ["0.5"] * 4 + ["–"]
    assert "width 0.5 at depth 0.5 and hidden 0.5" in " ".join(lead(results, judge, axes))
    export = missing(results, judge, axes, "run")["students"].command
    assert "--width 0.5 --depth 0.5 --hidden 0.5 --int8 --output run/students/0.5x0.5x0.5" in export


# --- where it is written ---------------------------------------------------------------------------------------------


def test_a_report_lies_in_the_run_with_its_pictures(tmp_path):
    run = write_run(tmp_path / "run")
    page = write_report(run)
    assert page == run / "report.html"
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "report.svg").read_text().startswith("<?xml")
    assert "The smallest that keeps 99% of the teacher&#39;s accuracy is width 0.5 at depth 1" in page.read_text()


@pytest.mark.parametrize("name", ["mine.html", "mine.png", "mine.svg"])
def test_another_file_is_never_replaced_and_a_report_is(tmp_path, name):
    run, mine = write_run(tmp_path / "run"), tmp_path / name
    mine.write_text("mine")
    with pytest.raises(UserError, match=f"{name} is a file already, and no report"):
        write_report(run, tmp_path / "mine.html")
    assert [path.name for path in tmp_path.iterdir() if path != run] == [name]
    assert mine.read_text() == "mine"
    for _ in range(2):
        write_report(run, Path(tmp_path / "told.html"))


def test_a_report_in_a_directory_of_ours_belongs_to_it(tmp_path):
    # Else --overwrite would refuse to replace the stage, for the sake of a file that we wrote.
    depth = write_run(tmp_path / "run") / "depth"
    mark(depth, "a supernet of the depth stage", ["metrics.json"])
    write_report(depth)
    manifest = manifest_of(depth)
    assert manifest.what == "a supernet of the depth stage"
    assert all(manifest.has(name) for name in ("metrics.json", "report.html", "report.png", "report.svg"))


def test_the_same_run_gives_the_same_files(whole, tmp_path):
    pages = [write_report(whole, tmp_path / name / "report.html") for name in ("a", "b")]
    for suffix in (".html", ".svg", ".png"):
        first, second = (page.with_suffix(suffix).read_bytes() for page in pages)
        assert first == second


def test_a_name_of_many_signs_is_a_name(tmp_path):
    run = write_run(tmp_path / "$\\frac{1 $ {{ 7 * 7 }} <i>")
    text = write_report(run).read_text()
    assert "<h1>$\\frac{1 $ {{ 7 * 7 }} &lt;i&gt;</h1>" in text
    assert "$\\frac{1 $ {{ 7 * 7 }} &lt;i&gt;: accuracy" in (run / "report.svg").read_text()


def test_the_page_is_one_file_of_a_few_megabytes_that_names_no_other_place(whole):
    page = write_report(whole)
    assert page.stat().st_size < 3_000_000
    text = re.sub(r'<script type="text/plain" id="library">.*?</script>', "", page.read_text(), flags=re.DOTALL)
    assert not re.findall(r"""\b(?:src|srcset|url|@import)\s*[=(]|https?://|//[a-z]+\.[a-z]+/""", text)
    assert set(re.findall(r'href="([^"]*)"', text)) <= {
        *("#main", "#tradeoff", "#grid", "#students", "#training", "#importance", "#made")
    }


def test_what_a_run_holds_is_escaped_everywhere(whole):
    text = write_report(whole).read_text()
    assert EVIL not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in text  # the class, in its table
    assert text.count("<script") == text.count("</script>") == 4  # data, colours, library, and the page's own


# --- the result in words ---------------------------------------------------------------------------------------------


def test_the_first_paragraph_tells_the_smallest_good_size_and_the_fastest_file(whole):
    assert told(whole) == (
        "4 sizes came out of one training. The smallest that keeps 99% of the teacher's accuracy is width 0.5 at depth "
        "1: 0.796 of 0.800 on 24 validation rows, with 50% of its FLOPs and 83% of its parameters. The fastest "
        "measured file, 0.5 × 0.5 in ONNX Runtime, int8, takes 1 ms where the teacher takes 8 ms at its fastest, in "
        "ONNX Runtime: 8.0 times as long; it keeps 87% of its accuracy (16 tokens, batch 1, 1 thread)."
    )


@pytest.mark.parametrize(
    ("scores", "promise", "size"),
    [
        ([0.8, 0.8, 0.8, 0.795], 0.99, (0.5, 0.5)),
        ([0.8, 0.77, 0.785, 0.7], 0.98, (1.0, 0.5)),  # the full size is no answer
        ([0.8, 0.795, 0.795, 0.7], 0.99, (0.5, 1.0)),
        ([0.74, 0.73, 0.7, 0.2], 0.9, (0.5, 1.0)),
        ([0.4, 0.6, 0.5, 0.2], 0.6 / 0.8, (0.5, 1.0)),  # none is good: the best
    ],
)
def test_the_size_that_is_recommended_is_the_cheapest_that_keeps_the_largest_promise(tmp_path, scores, promise, size):
    results = read_run(write_run(tmp_path / "run", evaluation(scores=scores)))
    found, row = recommended(results, judge_of(results))
    assert found == pytest.approx(promise)
    assert (row["width"], row["depth"]) == size


def test_a_much_cheaper_size_that_keeps_less_is_told_too(tmp_path):
    run = write_run(tmp_path / "run", evaluation(scores=[0.8, 0.8, 0.8, 0.73]))
    assert "90% are kept by width 0.5 at depth 0.5 (0.730), with 25% of its FLOPs" in told(run)
    run = write_run(tmp_path / "worse", evaluation(scores=[0.8, 0.8, 0.8, 0.71]))
    assert "are kept by" not in told(run)


def test_of_an_error_less_is_better(tmp_path):
    results = read_run(write_run(tmp_path / "run", evaluation("mse", [0.5, 0.505, 0.8, 1.0], teacher=0.5)))
    judge = judge_of(results)
    assert judge.share(1.0) == 0.5
    assert recommended(results, judge)[1]["width"] == 0.5


def test_rows_without_labels_are_told_by_how_closely_they_follow(tmp_path):
    content = evaluation()
    content["teacher"]["metrics"] = {}
    for row, cosine in zip(content["subnetworks"], (0.97, 0.95, 0.9, 0.8), strict=True):
        row |= {"metrics": {}, "fidelity": {"cosine": cosine}}
    run = write_run(tmp_path / "run", content)
    assert "They follow the teacher with cosine from 0.800 (width 0.5 at depth 0.5) to 0.970" in told(run)
    write_report(run)


def test_what_is_missing_is_told_with_the_command_that_adds_it(tmp_path):
    results = read_run(write_run(tmp_path / "run"))
    judge = judge_of(results)
    lacks = missing(results, judge, counted_axes(results, judge), "runs/a")
    assert set(lacks) == {"latency", "students", "importance", "training"}
    assert lacks["latency"].command.startswith("dynackd benchmark runs/a/teacher runs/a/student ")
    assert lacks["students"].command.startswith("dynackd export runs/a/depth --width 0.5 --depth 1 --int8 ")
    assert lacks["students"].command.endswith(" --output runs/a/students/0.5x1")
    of_a_stage = missing(results, judge, counted_axes(results, judge), "my runs/a/depth")
    assert "dynackd export 'my runs/a/depth' --width" in of_a_stage["students"].command, "it can be pasted"
    assert of_a_stage["latency"].command.startswith("dynackd benchmark 'my runs/a/teacher' 'my runs/a/student' ")


def test_nothing_is_missing_of_a_whole_run_but_the_size_that_was_told(whole):
    results = read_run(whole)
    judge = judge_of(results)
    assert set(missing(results, judge, latency_axes(results, judge), "run")) == {"students"}


# --- the picture's points --------------------------------------------------------------------------------------------


def points_of(axis):
    return {(series.name, point.label): (point.x, point.y) for series in axis.series for point in series.points}


def test_every_measured_file_stands_at_its_latency_and_its_own_score(whole):
    results = read_run(whole)
    (axis,) = latency_axes(results, judge_of(results))
    assert points_of(axis) == {
        ("torch", "0.5 × 0.5"): (5.0, 0.70),
        ("torch", "teacher"): (20.0, 0.8),
        ("ONNX Runtime", "0.5 × 0.5"): (2.0, 0.70),
        ("ONNX Runtime", "teacher"): (8.0, 0.8),
        ("ONNX Runtime, int8", "0.5 × 0.5"): (1.0, 0.696),
    }
    int8 = next(series for series in axis.series if series.name.endswith("int8")).points[0]
    assert "8.0 times as fast as the teacher in ONNX Runtime" in int8.told
    assert "2.5 MB" in int8.told


def test_each_shape_and_number_of_threads_has_an_axis_of_its_own(whole):
    content = json.loads((whole / "latency.json").read_text())
    content["rows"] += [measured("students/half", 9.0, threads=2), measured("students/half", 30.0, length=64)]
    content["rows"] += [measured("somebody/elses", 30.0, length=128)]  # of no score: in the table alone
    write_json(whole / "latency.json", content)
    results = read_run(whole)
    assert [axis.name for axis in latency_axes(results, judge_of(results))] == [
        "latency at 16 tokens, batch 1, 1 thread",
        "latency at 16 tokens, batch 1, 2 threads",
        "latency at 64 tokens, batch 1, 1 thread",
    ]


def test_students_and_benchmarks_that_lie_elsewhere_can_be_named(whole, tmp_path):
    (whole / "students" / "half").rename(tmp_path / "student")
    rows = [measured("runs/run/teacher", 8.0), measured("student", 2.0)]
    (whole / "latency.json").unlink()
    write_json(tmp_path / "benchmark.json", {"machine": "a machine", "rows": rows})
    assert not latency_axes(read_run(whole), judge_of(read_run(whole)))
    results = read_run(whole, [tmp_path / "student", tmp_path / "benchmark.json"])
    (axis,) = latency_axes(results, judge_of(results))
    assert points_of(axis) == {("ONNX Runtime", "0.5 × 0.5"): (2.0, 0.70), ("ONNX Runtime", "teacher"): (8.0, 0.8)}


def elsewhere(directory, accuracy, p50):
    """A student of another run, as `export --measure` leaves it."""
    about = student(parameters=2250)
    about["files"]["onnx/model.onnx"]["metrics"] = {"accuracy": accuracy}
    row = {"path": "student", "runtime": "onnxruntime", "provider": "cpu", "batch_size": 1, "length": 32, "p50_ms": p50}
    directory.mkdir(parents=True)
    write_json(directory / "export.json", {**about, "latency": {"machine": "a machine", "threads": 1, "rows": [row]}})
    return directory


def test_students_of_the_same_name_are_told_apart(tmp_path):
    """By default every run calls them alike; the one's latency once stood at the other's accuracy."""
    also = [elsewhere(tmp_path / "a" / "student", 0.7, 5.0), elsewhere(tmp_path / "b" / "student", 0.6, 1.0)]
    results = read_run(write_run(tmp_path / "run"), also)
    assert [own.place for own in results.students] == ["a/student", "b/student"]
    (axis,) = latency_axes(results, judge_of(results))
    assert {(point.x, point.y) for own in axis.series for point in own.points} == {(5.0, 0.7), (1.0, 0.6)}


def test_a_row_that_may_be_of_either_student_is_of_none(tmp_path):
    also = [elsewhere(tmp_path / "a" / "student", 0.7, 5.0), elsewhere(tmp_path / "b" / "student", 0.6, 1.0)]
    write_json(tmp_path / "bench.json", {"rows": [measured("student", 9.0), measured("./x/b/student", 8.0)]})
    results = read_run(write_run(tmp_path / "run"), [*also, tmp_path / "bench.json"])
    found = [(own.place, own.p50) for own in results.measured if own.length == 16]
    assert found == [("student", 9.0), ("b/student", 8.0)]
    axes = latency_axes(results, judge_of(results))
    assert not any(point.x == 9.0 for axis in axes for own in axis.series for point in own.points)


@pytest.mark.parametrize("path", ["runs/b/students/half", "b/students/half", "/home/b/students/half"])
def test_a_benchmark_of_another_runs_student_is_that_ones(whole, tmp_path, path):
    (whole / "latency.json").unlink()
    other = elsewhere(tmp_path / "b" / "students" / "half", 0.75, 3.0)
    write_json(tmp_path / "bench.json", {"rows": [measured(path, 9.0), measured("run/students/half", 2.0)]})
    results = read_run(whole, [other, tmp_path / "bench.json"])
    found = {(own.place, own.p50) for own in results.measured if own.length == 16}
    assert found == {("b/students/half", 9.0), ("students/half", 2.0)}


def test_a_student_that_is_named_twice_is_told_once(whole, tmp_path):
    other = elsewhere(tmp_path / "b" / "mine", 0.75, 3.0)
    assert [own.place for own in read_run(whole, [other, other]).students] == ["students/half", "mine"]
    assert [own.place for own in read_run(whole, [whole / "students" / "half"]).students] == ["students/half"]


@pytest.mark.parametrize("others", ["runs/other", "../other", "/elsewhere/other"])
@pytest.mark.parametrize("ours", ["runs/run", ""])
def test_another_runs_rows_in_the_same_table_are_not_this_runs(whole, others, ours):
    rows = [measured(f"{others}/teacher", 100.0), measured(f"{others}/students/half", 0.1)]
    rows += [measured(f"{ours}/teacher".lstrip("/"), 8.0), measured(f"{ours}/students/half".lstrip("/"), 2.0)]
    write_json(whole / "latency.json", {"machine": "a machine", "rows": rows})
    found = {(own.place, own.p50) for own in read_run(whole).measured if own.length == 16}
    foreign = {(f"{others}/teacher", 100.0), (f"{others}/students/half", 0.1)}
    assert found == {("teacher", 8.0), ("students/half", 2.0), *foreign}


def test_a_teacher_from_where_the_run_lay_before_is_its_own(whole):
    rows = [measured("/elsewhere/before/teacher", 8.0), measured("students/half", 2.0)]
    write_json(whole / "latency.json", {"machine": "a machine", "rows": rows})
    assert {own.place for own in read_run(whole).measured if own.length == 16} == {"teacher", "students/half"}


def test_of_a_stage_alone_the_rows_of_its_run_are_known(whole):
    rows = [measured("runs/run/depth", 8.0), measured("runs/other/depth", 1.0)]
    write_json(whole / "depth" / "latency.json", {"rows": rows})
    assert {(own.place, own.p50) for own in read_run(whole / "depth").measured} == {
        ("depth", 8.0), ("runs/other/depth", 1.0)}  # fmt: skip


def test_what_is_kept_is_of_the_teacher_on_the_same_rows(whole):
    """An export may be judged on rows of its own (`--set data.validation=FILE`), where the teacher scores otherwise."""
    metrics = {"rows": "On 500 validation rows", "student": {"accuracy": 0.6}, "teacher": {"accuracy": 0.6}}
    about = student(metrics=metrics)
    for facts in about["files"].values():
        facts["metrics"] = {"accuracy": 0.6}
    write_json(whole / "students" / "half" / "export.json", about)
    results = read_run(whole)
    judge = judge_of(results)
    assert shares_of(results, judge) == {"100.0%"}
    assert "keeps 99%, 0.5 × 0.5" in lead(results, judge, latency_axes(results, judge))[1]
    del about["metrics"]["teacher"]
    write_json(whole / "students" / "half" / "export.json", about)
    assert shares_of(read_run(whole), judge) == {"–"}  # of other rows than the run's teacher, as far as one knows
    about["metrics"]["rows"] = "On 24 validation rows"
    write_json(whole / "students" / "half" / "export.json", about)
    assert shares_of(read_run(whole), judge) == {"75.0%"}


def shares_of(results, judge):
    """The shares of the teacher's metric of the files that were written."""
    rows = student_table(results, judge).rows
    return {row[3].text for row in rows if row[-1].text == "written"}


def test_a_student_of_fewer_words_is_of_its_size(whole):
    about = student(width=0.5, depth=1.0, layers=[0, 1, 2, 3], parameters=1800, vocabulary={"size": 10})
    write_json(whole / "students" / "half" / "export.json", about)
    results = read_run(whole)
    assert row_of(results.students[0], results) is results.judged.evaluation["subnetworks"][1]
    assert "students" not in missing(results, judge_of(results), [], str(whole))
    write_json(whole / "students" / "half" / "export.json", {**about, "hidden": 0.5})
    assert row_of(read_run(whole).students[0], results) is None


def test_a_long_log_keeps_every_sort_of_row_and_the_last(whole):
    rows = [{name: 1 / step, "step": step} for step in range(1, 5001) for name in ("loss", "eval_loss")]
    (whole / "depth" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_run(whole).training("depth").log
    for name in ("loss", "eval_loss"):
        steps = [row["step"] for row in log if name in row]
        assert steps[-1] == 5000
        assert 1000 <= len(steps) <= 2001


@pytest.mark.parametrize("run", [".", "../depth"])
def test_from_inside_a_stage_commands_name_the_run_above_it(whole, monkeypatch, run):
    monkeypatch.chdir(whole / "depth")
    (whole / "students" / "half" / "export.json").unlink()
    (whole / "latency.json").unlink()
    results = read_run(Path(run))
    command = missing(results, judge_of(results), [], run)["students"].command
    words = command.split()
    assert Path(words[2]).resolve() == whole / "depth"
    assert Path(words[-1]).resolve().is_relative_to(whole / "students")


def test_results_without_a_finite_fidelity_are_told_all_the_same(tmp_path):
    without = evaluation()
    without["teacher"]["metrics"] = {}
    for row in without["subnetworks"]:
        row |= {"metrics": {}, "fidelity": {"kl": float("nan")}}
    assert "4 sizes came out of one training." in write_report(write_run(tmp_path / "run", without)).read_text()


def test_a_polished_network_that_is_none_of_the_grid_is_told(tmp_path):
    one = evaluation()
    one["subnetworks"] = [{key: own for key, own in one["subnetworks"][1].items() if key not in ("width", "depth")}]
    assert "one sub-network" in write_report(write_run(tmp_path / "run", one)).read_text()


@pytest.mark.parametrize("path", ["../../../my-model", "/models/my-model"])
def test_a_teacher_in_a_directory_of_one_part_is_known(whole, path):
    shutil.rmtree(whole / "teacher")
    write_json(whole / "depth" / "origin.json", {"teacher": {"name": "my-model", "path": path, "sha256": "ab"}})
    write_json(whole / "latency.json", {"rows": [measured(path.replace("../../..", ".."), 9.0)]})
    assert [(own.place, own.p50) for own in read_run(whole).measured if own.length == 16] == [("teacher", 9.0)]


def test_what_export_measured_is_shown_too(tmp_path):
    run = write_run(tmp_path / "run")
    rows = [{"path": path, "runtime": "onnxruntime", "provider": "cpu", "batch_size": 1, "length": 32, "p50_ms": p50}
            for path, p50 in (("teacher", 9.0), ("student", 3.0), ("onnx/model_quantized.onnx", 1.5))]
    (run / "student").mkdir()
    latency = {"machine": "a machine", "threads": 1, "rows": rows}
    write_json(run / "student" / "export.json", student(latency=latency))
    results = read_run(run)
    (axis,) = latency_axes(results, judge_of(results))
    assert points_of(axis)["ONNX Runtime, int8", "0.5 × 0.5"] == (1.5, 0.696)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/elsewhere/run/students/half", ("students/half", "")),
        ("students/half/onnx/model_quantized.onnx", ("students/half", "onnx/model_quantized.onnx")),
        ("./teacher", ("teacher", "")),
        ("C:\\runs\\run\\teacher", ("teacher", "")),
        ("/teacher/of/another/student", ("/teacher/of/another/student", "")),
        ("other/model.onnx", ("other/model.onnx", "")),
    ],
)
def test_a_path_of_a_benchmark_is_found_again_wherever_it_was_measured(path, place):
    names = {name: name for name in ("teacher", "students/half", "half")}
    assert place_of(path, names)[:2] == place


@pytest.mark.parametrize(
    ("name", "path"),
    [("package:minilm/model", "/usr/lib/python3/site-packages/minilm/model"), ("org/bert", "models/org/bert")],
)
def test_a_teacher_that_is_no_stage_of_the_run_is_known_by_its_name(whole, name, path):
    shutil.rmtree(whole / "teacher")
    write_json(whole / "depth" / "origin.json", {"teacher": {"name": name, "sha256": "ab"}})
    write_json(whole / "latency.json", {"rows": [measured(path, 9.0), measured("students/half", 3.0)]})
    (axis,) = latency_axes(read_run(whole), judge_of(read_run(whole)))
    assert points_of(axis)["ONNX Runtime", "teacher"] == (9.0, 0.8)


def test_the_counted_costs_have_every_size_by_depth_and_the_teacher(whole):
    results = read_run(whole)
    flops, parameters = counted_axes(results, judge_of(results))
    assert points_of(flops)["depth 0.5", "0.5"] == (0.25, 0.70)
    assert points_of(parameters)["teacher", "teacher"] == (0.003, 0.8)
    exported = [point.told[-1] for series in flops.series for point in series.points if "exported" in point.told[-1]]
    assert exported == ["exported: students/half"]


def test_a_search_is_shown_by_its_metric_on_rows_of_its_own_without_the_teachers_line(whole):
    results = read_run(whole)
    (axis,) = searched_axes(results, judge_of(results))
    points = points_of(axis)
    assert points["chosen", "chosen"] == (2.5, pytest.approx(0.80))
    assert points["best of the grid", "best of the grid"] == (2.4, pytest.approx(0.71))
    assert axis.own_rows
    chosen = next(series for series in axis.series if series.name == "chosen").points[0]
    assert "on the validation rows: accuracy 0.7900, 98.8% of the teacher's" in chosen.told
    assert "asked for max_latency_ms 3, onnxruntime, 16 tokens" in write_report(whole).read_text()


def test_a_smaller_hidden_size_that_a_search_found_stands_in_its_table_and_beside_its_point(whole):
    results = read_run(whole)
    (search,), judge = results.searches, judge_of(results)
    assert "hidden" not in [name for name, _ in search_table(search, judge).columns]
    about = copy.deepcopy(search.about)
    for own, share in (("choice", 0.5), ("grid", 1.0), ("full", 1.0)):
        about[own]["hidden"] = share
    cut = dataclasses.replace(search, about=about)
    assert column(search_table(cut, judge), "hidden")[:3] == ["0.5", "1", "1"]
    (axis,) = searched_axes(dataclasses.replace(results, searches=[cut]), judge)
    told = {series.name: series.points[0].told for series in axis.series}
    assert "hidden 0.5" in told["chosen"]
    assert not any("hidden" in line for line in told["best of the grid"])


# --- tables, heat maps, curves ---------------------------------------------------------------------------------------


def column(table, name):
    place = [title for title, _ in table.columns].index(name)
    return [row[place].text for row in table.rows]


def test_the_grids_table_begins_with_what_counts_and_ends_with_the_teacher(whole):
    results = read_run(whole)
    table = grid_table(results, judge_of(results))
    assert [name for name, _ in table.columns][:4] == ["width", "depth", "accuracy", "share"]
    assert column(table, "share") == ["100.0%", "99.5%", "97.5%", "87.5%", "100.0%"]
    assert column(table, "width")[-1] == "teacher"


def test_a_refused_file_is_told_with_its_reason(whole):
    results = read_run(whole)
    table = student_table(results, judge_of(results))
    assert column(table, "file")[-1] == "onnx/model_fp16.onnx"
    assert column(table, "verdict")[-1] == "refused: it loses 0.2000 of accuracy"
    assert column(table, "drop")[2:] == ["+0.0040", "+0.2000"]


def test_the_heat_maps_show_every_metric_fidelity_and_cost(whole):
    results = read_run(whole)
    heat = chart_data(results, judge_of(results), [])["heat"]
    assert (heat["widths"], heat["depths"]) == (["0.5", "1"], ["0.5", "1"])
    looks = {look["name"]: look for look in heat["looks"]}
    assert list(looks) == [
        *("accuracy", "share of the teacher's accuracy", "fidelity: agreement", "fidelity: KL"),
        *("M parameters", "MFLOPs"),
    ]
    assert looks["accuracy"]["values"] == [[0.70, 0.78], [0.796, 0.80]]
    assert [look["less_is_better"] for look in looks.values()] == [False, False, False, True, True, True]


def test_every_term_of_every_stage_is_drawn(whole):
    results = read_run(whole)
    losses = chart_data(results, judge_of(results), [])["losses"]
    assert [(own["stage"], [term["name"] for term in own["terms"]]) for own in losses] == [
        ("teacher", ["loss"]),
        ("width", ["loss", "logits", "wr pair"]),
        ("depth", ["loss", "logits", "wr pair"]),
    ]
    assert losses[0]["terms"][0]["values"][:2] == [1.0, 0.5]


def test_a_width_keeps_what_its_first_heads_and_neurons_held(whole):
    data = importance(read_run(whole))
    assert data["after"][0] == [0.4, 0.3, 0.2, 0.1]
    half = next(cut for cut in data["cuts"] if cut["width"] == 0.5)
    assert half["heads_before"] == pytest.approx(0.5)
    assert half["heads_after"] == pytest.approx(0.7)
    assert (half["neurons_before"], half["neurons_after"]) == (0.5, 0.9)


def cells(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_a_hidden_size_keeps_what_its_first_dimensions_held_and_layers_leave_in_their_order(whole):
    hidden = {"scores": [1.0, 2.0, 3.0, 4.0], "order": [3, 2, 1, 0], "pooled": [0, 1, 2, 3]}
    layers = {"rows": 16, "widths": [1.0], "order": [2, 0, 1, 3], "losses": [0.1, 0.25, float("nan")], "before": 0.0}
    (whole / "width" / "importance.json").write_text(json.dumps({**IMPORTANCE, "hidden": hidden, "layers": layers}))
    content = evaluation()
    for row, (share, size) in zip(content["subnetworks"], [(1.0, 4), (0.5, 2)], strict=False):
        row |= {"hidden": share, "hidden_size": size}
    write_json(whole / "depth" / "metrics.json", content)
    data = importance(read_run(whole))
    table = hidden_table(data)
    assert cells(table) == [["1", "4", "100%", "100%"], ["0.5", "2", "30%", "70%"]]
    assert all(of_numbers for _, of_numbers in table.columns)
    leaving = [["0", "none", "0.0000"], ["1", "2", "0.1000"], ["2", "0", "0.2500"], ["3", "1", "–"]]
    assert cells(leaving_table(data)) == leaving
    text = write_report(whole).read_text()
    assert "before and after rewiring.</p>" in text
    assert "Which layer leaves next" in text


def test_a_run_of_one_hidden_size_and_a_fixed_rule_for_layers_tells_nothing_of_them(whole):
    data = importance(read_run(whole))
    assert hidden_table(data) is leaving_table(data) is hidden_table(None) is leaving_table(None) is None
    assert "Which layer leaves next" not in write_report(whole).read_text()


# --- what is there, and what is not ----------------------------------------------------------------------------------


def test_another_metric_can_be_asked_for(whole):
    assert "accuracy against" in write_report(whole, metric="accuracy").read_text()
    with pytest.raises(UserError, match="--metric: 'acuracy' is unknown, did you mean 'accuracy'"):
        write_report(whole, metric="acuracy")


@pytest.mark.parametrize("part", ["teacher", "width", "depth", "students", "latency.json", "search"])
def test_a_run_that_lacks_a_part_is_told_without_it(whole, part):
    gone = whole / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert write_report(whole).stat().st_size > 1_000_000


@pytest.mark.parametrize("place", ["teacher", "width", "depth", "students/half"])
def test_a_single_directory_of_a_run_can_be_told(whole, place):
    text = write_report(whole / place).read_text()
    assert f"<h1>{place.rpartition('/')[2]}</h1>" in text


FILES = ["depth/metrics.json", "latency.json", "students/half/export.json", "width/origin.json", "search/search.json"]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"rows": 3, "subnetworks": [], "teacher": 1, "choice": 2}'])
def test_damaged_and_foreign_files_are_left_out(whole, content):
    for file in FILES:
        (whole / file).write_text(content)
    text = write_report(whole).read_text()
    damaged = re.search(r"could not be read: (.*)\.</p>", text)
    told = {"": FILES, "{": FILES, "[1, 2]": set(FILES) - {"latency.json"}}  # a list may be the user's rows
    assert set(damaged[1].split(", ") if damaged else ()) == set(told.get(content, ()))


@pytest.mark.parametrize("file", FILES)
def test_one_foreign_file_does_no_harm_to_the_others(whole, file):
    (whole / file).write_text('{"subnetworks": [{}], "teacher": {}, "rows": [{"path": "x"}], "choice": {"a": 1}}')
    results = read_run(whole)
    judge = judge_of(results)
    axes = [*latency_axes(results, judge), *searched_axes(results, judge), *counted_axes(results, judge)]
    assert lead(results, judge, axes)
    assert grid_table(results, judge) is not None
    chart_data(results, judge, axes)


def test_a_training_that_goes_on_is_told_as_such(whole):
    (whole / "depth").rename(whole / "depth-checkpoints")
    (whole / "depth-checkpoints" / "metrics.json").unlink()
    with (whole / "depth-checkpoints" / "log.jsonl").open("a") as log:
        log.write('{"loss": 0.')  # a line that is being written
    results = read_run(whole)
    assert [(own.name, own.finished) for own in results.trainings][-1] == ("depth", False)
    assert results.judged.name == "width"
    write_report(whole)


def test_a_run_of_an_older_version_has_no_importance_and_names_no_main_metric(whole):
    (whole / "width" / "importance.json").unlink()
    content = evaluation()
    del content["main_metric"]
    write_json(whole / "depth" / "metrics.json", content)
    assert judge_of(read_run(whole)).metric == "accuracy"
    text = write_report(whole).read_text()
    assert "dynackd train-width RECIPE --overwrite" in text


def test_values_that_are_no_numbers_are_gaps(whole):
    content = evaluation(scores=[float("nan"), 0.796, None, 0.7])
    (whole / "depth" / "metrics.json").write_text(json.dumps(content))
    write_json(whole / "width" / "importance.json", {**IMPORTANCE, "heads": 3})
    text = write_report(whole).read_text()
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert "NaN" not in data
    json.loads(data)


def test_the_pictures_labels_meet_no_point_and_no_other_label(monkeypatch, tmp_path):
    placed, place_labels = [], picture._place_labels

    def place(panel):
        before = len(panel.texts)
        place_labels(panel)
        placed.append((before, panel))

    monkeypatch.setattr(picture, "_place_labels", place)
    points = [Point(1 + 0.02 * step, 0.5 + 0.001 * (step % 3), f"0.{step} × 1", ()) for step in range(12)]
    points.append(Point(1.1, 0.5005, "teacher", (), is_teacher=True))
    axis = Axis("latency", "latency in ms", "ms", (Series("torch", tuple(points)),))
    picture.write_pictures([axis], Judge("accuracy", None, frozenset()), "crowded", tmp_path / "page.html")
    ((before, panel),) = placed
    boxes = [label.get_window_extent() for label in panel.texts]
    assert before == 13 > len(boxes) >= 3
    assert "teacher" in [label.get_text() for label in panel.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    spots = panel.transData.transform([(own.x, own.y) for own in points])
    assert not any(box.contains(*spot) for box in boxes for spot in spots)
