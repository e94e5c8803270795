"""The command line as a user meets it: what it prints, what it writes, and one sentence for a mistake."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from conftest import tiny_model, tiny_recipe, tiny_tokenizer, write_recipe

import dynackd
from dynackd.cli.command_line import main
from dynackd.cli.commands import COMMANDS
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.onnx import choices, graphs, quantize
from dynackd.supernet.network import Origin, Supernet
from dynackd.system.interruption import Interrupted
from dynackd.training.recipe import load_recipe


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """The README's road through the command line, on tiny data."""
    directory = tmp_path_factory.mktemp("cli")
    recipe = str(write_recipe(directory))
    for command in ("finetune", "train-width", "train-depth"):
        assert main([command, recipe, "--set", "training.num_train_epochs=1"]) == 0
    student = ["--width", "0.5", "--depth", "0.5", "--output", str(directory / "student")]
    assert main(["export", str(directory / "run" / "depth"), *student]) == 0
    return directory


def fails(capsys, *arguments):
    """The one sentence that a mistake prints."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("dynackd: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out
    return captured.err


def test_evaluate_prints_the_grid_and_writes_the_json_that_is_promised(road, capsys):
    assert main(["evaluate", str(road / "run" / "depth"), "--length", "32", "--json", str(road / "e.json")]) == 0
    printed = capsys.readouterr().out
    for word in ("width", "depth", "heads", "neurons", "layers", "MFLOPs", "accuracy", "teacher"):
        assert word in printed
    content = json.loads((road / "e.json").read_text())
    assert set(content) == {"task", "length", "main_metric", "lower_is_better", "teacher", "subnetworks"}
    assert (content["length"], content["main_metric"], content["lower_is_better"]) == (32, "accuracy", [])
    assert set(content["teacher"]) == {"parameters", "flops", "metrics"}
    keys = {"width", "depth", "heads", "neurons", "layers", "parameters", "flops", "metrics", "fidelity"}
    assert len(content["subnetworks"]) == 4
    assert all(set(row) == keys for row in content["subnetworks"])


def test_benchmark_takes_a_bare_encoder_of_an_installed_package_as_recipes_do(tmp_path, monkeypatch, capsys):
    package = tmp_path / "package_with_weights"
    tiny_model().base_model.save_pretrained(package / "model")
    tiny_tokenizer().save_pretrained(package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    few = ["--length", "8", "--repeats", "10", "--warmup", "1", "--json", str(tmp_path / "b.json")]
    assert main(["benchmark", "package:package_with_weights/model", *few]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [(row["path"], row["runtime"]) for row in rows] == [
        (str(package / "model"), "torch"), (str(package / "model"), "onnxruntime"),
    ]  # fmt: skip


def test_benchmark_writes_the_json_that_is_promised(road, capsys):
    paths = [str(road / "run" / "teacher"), str(road / "student"), str(road / "student" / "onnx" / "model.onnx")]
    sizes = ["--length", "8", "--batch-size", "1", "2", "--repeats", "10", "--warmup", "1"]
    assert main(["benchmark", *paths, *sizes, "--json", str(road / "b.json")]) == 0
    assert "p50" in capsys.readouterr().out
    content = json.loads((road / "b.json").read_text())
    assert content["machine"]
    rows = content["rows"]
    # The teacher in torch and in ONNX Runtime (exported on the way), the student in both, the file in one.
    assert [(row["path"], row["runtime"]) for row in rows if row["batch_size"] == 1] == [
        *((path, runtime) for path in paths[:2] for runtime in ("torch", "onnxruntime")),
        (paths[2], "onnxruntime"),
    ]
    for row in rows:
        assert set(row) >= {"path", "runtime", "provider", "threads", "batch_size", "length", "throughput_per_s"}
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["threads"] == 1
        assert row["repeats"] == 10


def test_rows_that_are_named_with_set_are_measured_and_told(road, capsys, tmp_path):
    """And not the figures of the training, which are of other rows."""
    place = tmp_path / "depth"
    shutil.copytree(road / "run" / "depth", place)
    content = json.loads((place / "metrics.json").read_text())
    for row in content["subnetworks"]:
        row["metrics"]["accuracy"] = 0.98765
    (place / "metrics.json").write_text(json.dumps(content))
    command = ["export", str(place), "--width", "0.5", "--depth", "0.5", "--output", str(tmp_path / "s")]
    assert main([*command, "--set", f"data.validation={road}/validation.tsv"]) == 0
    metrics = json.loads((tmp_path / "s" / "export.json").read_text())["metrics"]
    assert metrics["rows"] == "On 24 validation rows"
    assert metrics["student"]["accuracy"] != 0.98765
    assert main([*command, "--overwrite"]) == 0
    assert json.loads((tmp_path / "s" / "export.json").read_text())["metrics"]["student"]["accuracy"] == 0.98765


def test_a_signal_that_an_import_swallows_is_still_a_signal(monkeypatch, capsys, tmp_path):
    """A module that is being initialised makes an ImportError of it."""
    def stopped(_):
        try:
            raise Interrupted(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("dynackd.cli.command_line._run", lambda typed, _: stopped(typed))
    assert main(["benchmark", "x"]) == 130
    assert "stopped by Ctrl-C" in capsys.readouterr().err


def test_export_takes_the_current_directory_and_places_the_student_beside_it(road, capsys, monkeypatch):
    monkeypatch.chdir(road / "run" / "depth")
    assert main(["export", "--width", "0.5", "--depth", "0.5"]) == 0
    assert (road / "run" / "students" / "w0.5-d0.5" / "export.json").is_file()
    assert "width 0.5 -> 2 of 4 heads" in capsys.readouterr().out


def test_exporting_an_untrained_size_warns_with_the_nearest_trained_one(road, capsys, tmp_path):
    arguments = ["--width", "0.75", "--depth", "0.5", "--output", str(tmp_path / "s")]
    assert main(["export", str(road / "run" / "depth"), *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(width 0.75, depth 0.5) was not trained; the nearest trained one is (width 1, depth 0.5)" in printed


@pytest.mark.parametrize("size", [("0.49", "0.5"), ("0.5000001", "0.54"), ("1/2", "2/4")])
def test_a_size_that_is_a_trained_network_is_exported_as_one_with_its_metrics(road, capsys, tmp_path, size):
    command = ["export", str(road / "run" / "depth"), "--width", size[0], "--depth", size[1]]
    assert main([*command, "--output", str(tmp_path / "s")]) == 0
    printed = capsys.readouterr().out
    assert "was not trained" not in printed
    assert ("the same network as (width 0.5, depth 0.5), which was trained" in printed) == (size[0] != "1/2")
    rows = json.loads((road / "run" / "depth" / "metrics.json").read_text())["subnetworks"]
    (row,) = [row for row in rows if (row["width"], row["depth"]) == (0.5, 0.5)]
    assert json.loads((tmp_path / "s" / "export.json").read_text())["metrics"]["student"] == row["metrics"]
    assert "not validated" not in (tmp_path / "s" / "README.md").read_text()


def test_rows_to_validate_on_take_the_place_of_a_share(road, capsys, tmp_path):
    """Every run of compress is made with a share; the advice `--set data.validation=FILE` was refused there."""
    place = tmp_path / "run" / "depth"
    shutil.copytree(road / "run" / "depth", place)
    file = place / "recipe.yaml"
    content = yaml.safe_load(file.read_text())
    content["data"] |= {"validation_share": 0.25, "validation": None}
    file.write_text(yaml.safe_dump(content))
    rows = f"data.validation={road}/validation.tsv"
    assert load_recipe(file, [rows]).data.validation_share is None
    assert load_recipe(file, [rows, "data.validation=null"]).data.validation_share == 0.25
    with pytest.raises(UserError, match="either validation or validation_share, not both"):
        load_recipe(file, [rows, "data.validation_share=0.5"])
    assert load_recipe(road / "run" / "depth" / "recipe.yaml", ["data.validation_share=0.5"]).data.validation is None
    command = ["export", str(place), "--width", "0.5", "--depth", "0.5", "--output", str(tmp_path / "s")]
    command.append("--validation")
    assert main([*command, "--set", rows]) == 0
    gone = "--overwrite --set data.train=/no/rows.tsv"
    assert "(--set data.train=FILE, or --no-validation)" in fails(capsys, *command, *gone.split())


def test_each_stage_says_where_its_results_lie_and_what_comes_next(road, capsys, tmp_path):
    recipe = str(write_recipe(tmp_path))
    assert main(["finetune", recipe, "--set", "training.num_train_epochs=1"]) == 0
    printed = capsys.readouterr().out
    assert f"results: {tmp_path / 'run' / 'teacher'}" in printed
    assert f"next: dynackd train-width {recipe}" in printed


def test_truncation_is_told(road, capsys, tmp_path):
    recipe = str(write_recipe(tmp_path))
    assert main(["finetune", recipe, "--set", "data.max_length=6", "--set", "training.max_steps=1"]) == 0
    assert "training texts were longer than 6 tokens and were cut" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example: dynackd {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["trian-width"], "invalid choice: 'trian-width'"),
        (["export", "{run}/depth", "--widht", "0.5"], "export: unknown option --widht, did you mean '--width'?"),
        (["export", "{run}/depth", "--width", "wide"], "width 'wide' is no number; write a share such as 0.66 or 2/3"),
        (["export", "{run}/depth", "--width", "1.5"], "width 1.5 is outside (0, 1]"),
        (["export", "{run}/depth", "--depth", "0"], "depth 0.0 is outside (0, 1]"),
        (["export", "{run}/teacher", "--width", "0.5"], "plain bert checkpoint, not a supernet"),
        (["export", "{run}/nothing"], "no supernet directory"),
        (["export", "{run}/../student"], "is a student that was cut already; name the supernet that it came from"),
        (["export", "{run}/depth", "--output", "{run}/../student"], "add --overwrite"),
        (["evaluate", "{run}/teacher"], "plain bert checkpoint, not a supernet"),
        (["evaluate", "{run}/depth", "--length", "0"], "--length is 0; it must be 1 or more"),
        (["evaluate", "{run}/depth", "--teacher", "/no/such"], "'/no/such'"),
        (["evaluate", "{run}/depth", "--set", "data.validation=/no/rows.tsv"], "/no/rows.tsv"),
        (["evaluate", "{run}/depth", "--set", "grid.widths=[0.3,1.0]"],
         "--set grid.widths=[0.3,1.0]: grid says how the supernet was trained, and dynackd evaluate does not read it"),
        (["evaluate", "{run}/depth", "--set", "distillation.signal=ckd"], "dynackd evaluate does not read it"),
        (["search", "{run}/depth", "--max-latency-ms", "5", "--set", "grid.widths=[1.0]"], "search does not read it"),
        (["export", "{run}/depth", "--set", "training.seed=1"], "dynackd export does not read it"),
        (["evaluate", "{run}/depth", "--set", "teacher={run}/teacher"], "dynackd evaluate does not read it"),
        (["polish", "{run}/depth", "--set", "output_dir={run}/new"], "dynackd polish does not read it"),
        (["polish", "{run}/depth", "--width", "0.5", "--set", "grid.widths=[1.0]"], "dynackd polish does not read it"),
        (["export", "{run}", "--width", "0.5"], "holds no config.json; did you mean {run}/depth?"),
        (["export", "{run}/depth", "--spec", "{recipe}"], "recipe.yaml is no JSON"),
        (["benchmark", "{run}/nothing"], "neither a model directory nor an .onnx file"),
        (["benchmark", "{run}/../student", "--runtime", "tensorrt"], "the runtime 'tensorrt' is unknown"),
        (["benchmark", "{run}/../student", "--threads", "0"], "--threads is 0"),
        (["train-width", "{run}/nothing.yaml"], "there is no recipe"),
        (["train-width", "{recipe}"], "add --overwrite"),
        (["train-width", "{recipe}", "--resume", "--overwrite"], "exclude each other"),
        (["train-width", "{recipe}", "--set", "nonsense"], "not of the form key.key=value"),
        (["train-width", "{recipe}", "--set", "gird.widths=[1.0]"], "did you mean 'grid'"),
        (["train-width", "{recipe}", "--overwrite", "--set", "training.fp16=maybe"], "training"),
        (["finetune", "{recipe}", "--set", "output_dir={run}/new", "--set", "model=/no/model"], "/no/model"),
        (["finetune", "{recipe}", "--set", "output_dir={run}/new", "--set", "data.train=/no.tsv"], "/no.tsv"),
        (["finetune", "{recipe}", "--set", "output_dir={run}/new", "--set", "task.text=titel"], "no column 'titel'"),
        (["finetune", "{recipe}", "--set", "output_dir={run}/new", "--set", "data.max_length=4000"], "4000"),
        (["train-width", "{recipe}", "--overwrite", "--set", "training.torch_compile=true"], "torch_compile"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(road, capsys, tmp_path, arguments, message):
    places = {"run": road / "run", "recipe": road / "recipe.yaml"}
    before = {path: path.stat().st_mtime_ns for path in (road / "run").rglob("*") if path.is_file()}
    told = message.format(**places) if "{run}" in message else message
    assert told in fails(capsys, *(argument.format(**places) for argument in arguments))
    assert {path: path.stat().st_mtime_ns for path in (road / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("sentence\tlabel\n", "empty"),
        ("sentence\tlabel\na fine film\t1\n\t0\n", "train.tsv"),
    ],
)
def test_bad_rows_are_told_with_their_file_and_nothing_is_written(capsys, tmp_path, rows, message):
    content = tiny_recipe(tmp_path)
    (tmp_path / "train.tsv").write_text(rows)
    assert message in fails(capsys, "finetune", write_recipe(tmp_path, content))
    assert not (tmp_path / "run").exists()


def test_an_unsupported_architecture_lists_the_supported_ones(capsys, tmp_path):
    content = tiny_recipe(tmp_path)
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "'gpt2' is not supported; dynackd knows bert" in fails(capsys, "finetune", write_recipe(tmp_path, content))


def test_a_student_is_no_teacher(road, capsys, tmp_path):
    content = tiny_recipe(tmp_path, teacher=str(road / "student"))
    assert "sliced student already" in fails(capsys, "train-width", write_recipe(tmp_path, content))


def test_a_supernet_that_lies_under_another_name_can_be_given_its_teacher(road, capsys, tmp_path):
    net = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0,)), Origin("width", str(tmp_path / "gone")))
    net.save(tmp_path / "net", tiny_tokenizer())
    recipe = load_recipe(road / "run" / "depth" / "recipe.yaml")
    (tmp_path / "net" / "recipe.yaml").write_text(recipe.to_yaml(tmp_path / "net"))
    assert str(tmp_path / "gone") in fails(capsys, "evaluate", tmp_path / "net")
    assert main(["evaluate", str(tmp_path / "net"), "--teacher", str(road / "run" / "teacher")]) == 0


def test_the_command_that_is_installed_is_there():
    setup = ConfigParser(interpolation=None)
    setup.read(Path(dynackd.__file__).parents[1] / "setup.cfg")
    name, _, target = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = target.partition(":")
    assert (name, getattr(importlib.import_module(module), function)) == ("dynackd", main)


def test_the_installed_command_exits_with_2_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "dynackd", "train-width", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert done.stderr == f"dynackd: there is no recipe {tmp_path / 'none.yaml'}\n"


@pytest.mark.parametrize(
    ("arguments", "way_on"),
    [
        ("train-width {recipe}", " before there was anything to keep; begin again with: dynackd train-width {recipe}"),
        ("train-width {recipe} --resume", "; go on with: dynackd train-width {recipe} --resume"),
        ("augment {recipe}", " before there was anything to keep; begin again with: dynackd augment {recipe}"),
        ("evaluate {recipe}", "; nothing was written"),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(tmp_path, monkeypatch, capsys, arguments, way_on):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("dynackd.training.recipe.load_recipe", interrupt)
    monkeypatch.setattr("dynackd.supernet.network.check_supernet", interrupt)
    recipe = write_recipe(tmp_path)
    assert main([word.format(recipe=recipe) for word in arguments.split()]) == 130
    assert capsys.readouterr().err == f"dynackd: stopped by Ctrl-C{way_on.format(recipe=recipe)}\n"


@pytest.mark.parametrize("typed", ["--help", "--version", "nonsense", "export --help", "finetune", "export --wdth 1"])
def test_help_and_a_mistyped_command_wait_for_no_heavy_import(typed):
    code = (
        "import atexit, sys\n"
        "from dynackd.__main__ import main\n"
        "heavy = {'torch', 'transformers', 'numpy', 'onnx', 'pydantic', 'rich'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules)))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *typed.split()], capture_output=True, text=True)
    assert done.returncode == (0 if typed.startswith("--") or "--help" in typed else 2)
    assert done.stdout.endswith("set()\n")


def test_export_offers_every_graph_and_smaller_file_that_there_is():
    assert tuple(graphs.GRAPHS) == choices.GRAPHS
    assert tuple(quantize.VARIANTS) == tuple(choices.VARIANTS)
