"""The general stage: all sizes of an encoder on plain text, and the supernet of a task that starts from them."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PLAIN, cut_short, tiny_config, tiny_recipe, tiny_tokenizer, write_recipe, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from dynackd.cli.command_line import main
from dynackd.compress.preparing import prepare
from dynackd.compress.request import Request
from dynackd.errors import UserError
from dynackd.subnet import SubnetSpec
from dynackd.supernet.joining import ORDERS_FILE
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json, write_json
from dynackd.training import stages
from dynackd.training.lineage import refuse_changed_content
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.teachers import load_pair, models_of, start_of, teacher_of

FRESH = RunMode()


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """An encoder's general supernet, by the command, and the recipe of a task that names it."""
    directory, rng = tmp_path_factory.mktemp("general"), random.Random(0)
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", initializer_range=0.1)).save_pretrained(directory / "encoder")
    tiny_tokenizer().save_pretrained(directory / "encoder")
    (directory / "text.txt").write_text("\n".join(" ".join(rng.choices(PLAIN, k=6)) for _ in range(48)))
    content = tiny_recipe(directory)
    write_rows(directory / "train.tsv", 48, 1)
    write_rows(directory / "validation.tsv", 24, 2)
    assert main(["train-general", plain_recipe(directory, "plain", content["training"])]) == 0
    return directory


def plain_recipe(directory, output, training, **changes):
    """The file of a recipe for the general stage."""
    content = {
        **tiny_recipe(directory), "task": {"kind": "plain", "text": "text"}, "output_dir": str(directory / output),
        "model": str(directory / "encoder"), "training": training,
        "data": {"train": f"{directory}/text.txt", "validation_share": 0.25, "max_length": 12}, **changes,
    }  # fmt: skip
    return str(write_recipe(directory, content))


def of_task(road, output, **changes):
    return make_recipe(
        {**tiny_recipe(road), "model": str(road / "plain" / "general"), "output_dir": str(road / output), **changes}
    )


def test_the_general_stage_trains_all_sizes_from_the_whole_encoder(road):
    place = road / "plain" / "general"
    supernet, _ = load_supernet(place)
    assert set(supernet.subnets) == {SubnetSpec(w, d) for w in (0.5, 1.0) for d in (0.5, 1.0)}
    about = read_json(place / "config.json")["dynackd"]
    assert (about["stage"], about["teacher"], about["parent"]) == ("general", "../../encoder", "../../encoder")
    log = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0]
    record = read_json(place / "importance.json")
    assert read_json(place / ORDERS_FILE)["head"] == record["heads"]["order"]
    assert supernet.model.pooler is None, "nothing would have trained it"


@pytest.mark.parametrize("join", ["difference", "head"])
def test_a_task_starts_from_it_in_its_order_with_a_teacher_of_the_same_encoder(road, monkeypatch, join):
    recipe = of_task(road, join, join=join)
    teacher = stages.finetune(recipe, FRESH)
    made_from = read_json(teacher / "origin.json")["model"]
    assert made_from["path"] == "../../encoder", "the encoder is fine-tuned, not the general supernet"
    pair = load_pair(recipe, teacher_of(recipe), start_of(recipe, teacher_of(recipe)))
    monkeypatch.setattr(stages, "rewire_by_importance", lambda *_: pytest.fail("it was rewired against its order"))
    width = stages.train_width(recipe, FRESH)
    for name in ("importance.json", ORDERS_FILE):
        assert (width / name).read_bytes() == (road / "plain" / "general" / name).read_bytes()
    about = read_json(width / "config.json")["dynackd"]
    assert (about["teacher"], about["parent"]) == ("../teacher", "../../plain/general")
    started, trained = pair.start.model.state_dict(), load_file(width / "model.safetensors")
    moved = sum(float((trained[name] - own).square().sum()) for name, own in started.items() if name in trained)
    assert 0 < moved < 0.2 * sum(float(own.square().sum()) for own in started.values()), "it began elsewhere"
    depth = stages.train_depth(recipe, FRESH)
    assert read_json(depth / "origin.json")["supernet"]["name"] == "general"


def test_its_sizes_are_nearer_to_the_teacher_from_the_start_than_those_of_the_teacher_rewired(road):
    """What the general stage is for; (.5, .5) of neither was trained on the task."""
    recipe = of_task(road, "near")
    stages.finetune(recipe, FRESH)
    pair = load_pair(recipe, teacher_of(recipe), start_of(recipe, teacher_of(recipe)))
    ids = torch.randint(4, 24, (64, 8), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        whole = pair.teacher.eval()(SubnetSpec(1.0, 1.0), **batch).hidden_states[-1]
        small = [net.eval()(SubnetSpec(0.5, 0.5), **batch).hidden_states[-1] for net in (pair.start, pair.teacher)]
    errors = [float((own - whole).square().mean()) for own in small]
    assert errors[0] < errors[1]


def test_a_result_that_began_from_another_general_supernet_is_refused(road):
    recipe = of_task(road, "other")
    stages.finetune(recipe, FRESH)
    stages.train_width(recipe, FRESH)
    shutil.copytree(road / "plain" / "general", road / "plain2" / "general")
    weights = road / "plain2" / "general" / "model.safetensors"
    save_file({name: own * 1.01 for name, own in load_file(weights).items()}, weights, {"format": "pt"})
    other = of_task(road, "other", model=str(road / "plain2" / "general"))
    with pytest.raises(UserError, match="the supernet general has other weights"):
        stages.train_depth(other, FRESH)


def test_another_way_to_join_behind_the_width_stage_is_refused(road, tmp_path):
    """It decides which weights the width stage began with."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    stages.finetune(of_task(tmp_path, "joined"), FRESH)
    stages.train_width(of_task(tmp_path, "joined", join="difference"), FRESH)
    with pytest.raises(UserError, match="made from something else than the recipe names: join was difference, is head"):
        stages.train_depth(of_task(tmp_path, "joined", join="head"), FRESH)
    stages.train_depth(of_task(tmp_path, "joined"), FRESH)  # difference is the default


def test_layers_by_importance_are_refused_before_anything_is_read(road, tmp_path):
    """Their order would be measured only behind a width stage, which there is not."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    (tmp_path / "text.txt").unlink()
    training = tiny_recipe(tmp_path)["training"]
    grid = {"widths": [0.5, 1.0], "depths": [0.5, 1.0], "kept_layers": "importance"}
    recipe = load_recipe(Path(plain_recipe(tmp_path, "other", training, grid=grid)))
    with pytest.raises(UserError, match=r"^grid.kept_layers: importance goes by an order .* take last or ends"):
        stages.train_general(recipe, FRESH)


def test_a_recipe_that_leaves_out_the_general_supernet_behind_the_width_stage_is_refused(road, tmp_path):
    recipe = of_task(road, "left")
    stages.finetune(recipe, FRESH)
    stages.train_width(recipe, FRESH)
    plain, place = of_task(road, "left", model=str(road / "encoder")), road / "left" / "width"
    other = "it began as the supernet general, and would begin as the teacher teacher now"
    with pytest.raises(UserError, match=other):
        stages.train_depth(plain, FRESH)
    # A run that was cut short keeps such a record beside its checkpoints.
    shutil.copy(place / "origin.json", tmp_path)
    refuse_changed_content(models_of(recipe, place), tmp_path)
    with pytest.raises(UserError, match=other):
        refuse_changed_content(models_of(plain, place), tmp_path)


def test_an_encoder_that_is_gone_is_told(road, tmp_path):
    shutil.copytree(road / "plain" / "general", tmp_path / "a" / "general")
    gone = r"the encoder of .*general is not at .* any more; put that back, or run dynackd train-general anew"
    with pytest.raises(UserError, match=gone):  # no command has a --teacher for it
        stages.finetune(of_task(road, "gone", model=str(tmp_path / "a" / "general")), FRESH)


def test_a_general_supernet_that_is_gone_behind_the_width_stage_is_told(road, tmp_path):
    """The teacher was said to be made from something else, and the advice led nowhere."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    recipe = of_task(tmp_path, "moved")
    stages.finetune(recipe, FRESH)
    stages.train_width(recipe, FRESH)
    shutil.move(tmp_path / "plain", tmp_path / "elsewhere")
    gone = r"general: no such directory, but .*width started from the general supernet there; put it back, or correct"
    for named in ({}, {"teacher": str(tmp_path / "moved" / "teacher")}):
        with pytest.raises(UserError, match=gone):
            stages.train_depth(of_task(tmp_path, "moved", **named), FRESH)
    stages.train_depth(of_task(tmp_path, "moved", model=str(tmp_path / "elsewhere" / "general")), FRESH)


def test_compress_refuses_a_general_supernet_beside_a_teacher_of_another_shape(road, tmp_path):
    teacher = AutoModelForSequenceClassification.from_config(tiny_config("electra", hidden_size=48))
    teacher.save_pretrained(tmp_path / "wide")
    tiny_tokenizer().save_pretrained(tmp_path / "wide")
    content = {**tiny_recipe(road), "model": str(road / "plain" / "general"), "teacher": str(tmp_path / "wide")}
    file = write_recipe(tmp_path, {**content, "output_dir": str(tmp_path / "out")})
    message = r"general has another shape than its teacher .*wide, and a general supernet meets only a teacher that was"
    with pytest.raises(UserError, match=message):
        prepare(Request(str(file)), tmp_path / "out", 0.0)


# --- smaller hidden sizes ---------------------------------------------------------------------------------------------

SIZES = {"widths": [0.5, 1.0], "depths": [0.5, 1.0], "hidden": [0.5, 1.0]}


def test_half_of_the_hidden_size_goes_through_the_general_stage_and_that_of_a_task(road, tmp_path):
    still = {**tiny_recipe(road)["training"], "max_steps": 1, "learning_rate": 1e-12}
    assert main(["train-general", plain_recipe(road, "narrow", still, grid=SIZES)]) == 0
    place = road / "narrow" / "general"
    general, _ = load_supernet(place)
    assert general.hidden_order == tuple(read_json(place / ORDERS_FILE)["hidden"][0]) != tuple(range(32))
    assert {subnet.hidden for subnet in general.subnets.values()} == {32, 16}

    content = {"model": str(place), "training": still, "stages": {"finetune": {"dropout": 0.0}}}
    # Smaller sizes may be asked for behind the width stage, which trains the full hidden size alone.
    first, recipe = (of_task(road, "narrow-task", grid=own, **content) for own in ({**SIZES, "hidden": [1.0]}, SIZES))
    stages.finetune(first, FRESH)
    width, depth = load_supernet(stages.train_width(first, FRESH)), load_supernet(stages.train_depth(recipe, FRESH))
    assert width[0].hidden_order == depth[0].hidden_order == general.hidden_order
    orders, before = (read_json(own / ORDERS_FILE) for own in (road / "narrow-task" / "width", place))
    assert {unit for unit in orders if orders[unit] != before[unit]} == {"pooled"}, "which a general supernet has not"
    record = read_json(road / "narrow-task" / "width" / "importance.json")["hidden"]
    assert (record["order"], record["pooled"]) == (before["hidden"][0], orders["pooled"][0])
    # Nothing was trained: the full network is the teacher, and a pooled dimension stands where the record says.
    rows = read_json(road / "narrow-task" / "depth" / "metrics.json")["subnetworks"]
    assert rows[0]["fidelity"]["kl"] < 1e-6
    teacher = load_file(road / "narrow-task" / "teacher" / "model.safetensors")["classifier.weight"]
    torch.testing.assert_close(depth[0].model.classifier.weight, teacher[:, orders["pooled"][0]], atol=1e-5, rtol=0)

    size = ["--width", "0.5", "--depth", "0.5", "--hidden", "0.5", "--output", str(tmp_path / "student")]
    assert main(["export", str(road / "narrow-task" / "depth"), *size]) == 0
    assert read_json(tmp_path / "student" / "config.json")["hidden_size"] == 16


def test_smaller_hidden_sizes_from_a_general_supernet_without_any_are_refused(road):
    recipe = of_task(road, "refused", grid=SIZES)
    stages.finetune(recipe, FRESH)
    with pytest.raises(UserError, match=r"grid.hidden: .*general do not stand in the order .* train-general with them"):
        stages.train_width(recipe, FRESH)
    assert not (road / "refused" / "width-checkpoints").exists()


@pytest.mark.parametrize("record", [[1], {"score": "gradient"}, {"hidden": [0]}])
def test_a_damaged_record_of_importance_is_told(road, tmp_path, record):
    still = {**tiny_recipe(road)["training"], "max_steps": 1}
    place = tmp_path / "general"
    if not (road / "damaged" / "general").is_dir():
        assert main(["train-general", plain_recipe(road, "damaged", still, grid=SIZES)]) == 0
    shutil.copytree(road / "damaged" / "general", place)
    write_json(place / "importance.json", record)
    about = read_json(place / "config.json")
    about["dynackd"] |= dict.fromkeys(("teacher", "parent"), str(road / "encoder"))
    write_json(place / "config.json", about)
    recipe = of_task(road, "damaged-task", model=str(place), grid=SIZES, training=still)
    if not (road / "damaged-task" / "teacher").is_dir():
        stages.finetune(recipe, FRESH)
    with pytest.raises(UserError, match=r"importance.json is damaged"):
        stages.train_width(recipe, RunMode(overwrite=True))


def test_an_interrupted_task_keeps_the_order_of_its_general_supernet(road, monkeypatch):
    still = {**tiny_recipe(road)["training"], "max_steps": 2}
    assert main(["train-general", plain_recipe(road, "cut", still, grid=SIZES)]) == 0
    (road / "cut" / "general" / "importance.json").unlink()  # the picture's; what holds is the other file
    recipe = of_task(road, "cut-task", model=str(road / "cut" / "general"), grid=SIZES, training=still)
    stages.finetune(recipe, FRESH)
    cut_short(monkeypatch, stages.train_width, recipe)
    width, _ = load_supernet(stages.train_width(recipe, RunMode(resume=True)))
    assert width.hidden_order == load_supernet(road / "cut" / "general")[0].hidden_order


# --- killed, and in several processes ---------------------------------------------------------------------------------

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "dynackd"]


def weights_of(directory):
    return load_file(directory / "general" / "model.safetensors")


def test_a_general_run_killed_for_good_resumes_to_the_very_same_weights(road):
    recipe = plain_recipe(road, "killed", {**tiny_recipe(road)["training"], "save_steps": 1})
    command = [sys.executable, "-m", "dynackd", "train-general", recipe]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and not (road / "killed" / "general-checkpoints" / "checkpoint-2").exists():
            time.sleep(0.001)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not (road / "killed" / "general").exists()
    assert main(["train-general", recipe, "--resume"]) == 0
    resumed, unbroken = weights_of(road / "killed"), weights_of(road / "plain")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_train_a_general_supernet_as_one_does(road):
    # 36 rows in batches of 8, the last of 4: 8 at once, or 4 in each process, the last 4 and none.
    training = {**tiny_recipe(road)["training"], "optim": "sgd", "learning_rate": 1e-2, "num_train_epochs": 1}
    assert main(["train-general", plain_recipe(road, "alone", training)]) == 0
    recipe = plain_recipe(road, "together", {**training, "per_device_train_batch_size": 4})
    done = subprocess.run(
        [*LAUNCHER, "train-general", recipe], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone, together = weights_of(road / "alone"), weights_of(road / "together")
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 1e-5
