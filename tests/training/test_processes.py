"""Several processes give what one gives; what is killed, interrupted or out of space goes on; what is not a number or
does not fit in memory stops in one sentence."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, SeedableRandomSampler, skip_first_batches
from conftest import tiny_model, tiny_recipe, trained_to_width, write_recipe, write_rows
from safetensors.torch import load_file
from test_stages import kill
from torch.utils.data import BatchSampler

from dynackd.cli.command_line import main
from dynackd.distill.settings import DistillationSettings
from dynackd.distill.signals import Student, TeacherSignal, distillation_loss, term_counts
from dynackd.distill.teacher import Teacher
from dynackd.distill.terms import TERMS
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.subnet import FULL, SubnetSpec
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system import processes
from dynackd.system.interruption import Interrupted, Interruption
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.training import evaluating, stages
from dynackd.training.order import EpochLengthSampler, MixedSampler, Mixture, TogetherSampler
from dynackd.training.recipe import make_recipe
from dynackd.training.resumable import ResumableTrainer, tell_epoch
from dynackd.training.runs import RunMode
from dynackd.training.trainer import SupernetTrainer

FRESH = RunMode()
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the processes that are started here: with other threads the last digits differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "dynackd"]


# --- a batch in parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["pairs", "rows"])
@pytest.mark.parametrize("window", [5, None])
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(average, window):
    # In float64, since the angles of nearly equal words alone are good to 1e-4 in float32.
    torch.manual_seed(0)
    net, teacher = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5))), Supernet(tiny_model(seed=1))
    net.double().eval(), teacher.double()
    lengths = torch.tensor([14, 3, 5, 7, 2, 9, 4, 13])
    ids, mask = torch.randint(4, 20, (8, 14)), (torch.arange(14)[None] < lengths[:, None]).long()
    terms = [name for name in TERMS if name != "hidden_projected_mse"]  # whose matrices the trainer brings
    settings = DistillationSettings(weights=dict.fromkeys(terms, 1.0), average=average, window=window)
    totals = term_counts(settings, CLASSIFICATION, {"attention_mask": mask})

    def loss(rows, scales=None):
        length = int(lengths[rows].max())
        batch = {"input_ids": ids[rows, :length], "attention_mask": mask[rows, :length]}
        with torch.no_grad():
            output = teacher(FULL, **batch)
        known = {**batch, "labels": torch.arange(8)[rows] % 2}
        signal = TeacherSignal(settings, CLASSIFICATION, output.outputs, output.hidden_states, known)
        students = []
        for spec, layers in ((FULL, (0, 1, 2, 3)), (SubnetSpec(0.5, 0.5), (1, 3))):
            own = net(spec, **batch)
            students.append(Student(own.outputs, own.hidden_states, layers, spec.width))
        return distillation_loss(settings, students, signal, scales)[0]

    whole = loss(slice(0, 8))
    whole.backward()
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    parts = []
    for rows in (slice(0, 1), slice(1, 3), slice(3, 8)):
        counts = term_counts(settings, CLASSIFICATION, {"attention_mask": mask[rows]})
        parts.append(loss(rows, {name: counts[name] / totals[name] for name in counts}))
        parts[-1].backward()
    assert sum(map(float, map(torch.Tensor.detach, parts))) == pytest.approx(float(whole.detach()), rel=1e-8)
    for name, parameter in net.named_parameters():
        if name in grads:
            torch.testing.assert_close(parameter.grad, grads[name], atol=1e-7, rtol=1e-7)


def together(*words):
    """What two processes print, each a `dynackd` with these words."""
    done = subprocess.run([*LAUNCHER, *words], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def unlike(first, second):
    """The difference of two checkpoints' weights, as a share of their size."""
    apart = sum((first[name] - second[name]).double().square().sum() for name in first)
    return float((apart / sum(first[name].double().square().sum() for name in first)).sqrt())


def layer_order(directory):
    """In which order layers leave, as a supernet has it, and as it was measured."""
    order = load_supernet(directory)[0].grid.layer_order
    assert json.loads((directory / "importance.json").read_text())["layers"]["order"] == list(order)
    return order


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_and_accumulated_steps_train_as_one(tmp_path):
    # 53 rows of different lengths in batches of 8, the last of 5: 8 at once, or 4 in each of two processes, the last 4
    # and 1, or 1 and none. The default signal: logits, CKD and the hidden states' MSE.
    content = tiny_recipe(tmp_path)
    write_rows(tmp_path / "train.tsv", 53, 1)
    config = tmp_path / "encoder" / "config.json"
    config.write_text(config.read_text().replace('dropout_prob": 0.1', 'dropout_prob": 0.0'))
    content["training"] |= {"optim": "sgd", "learning_rate": 1e-2, "num_train_epochs": 1, "logging_steps": 1}
    content["grid"] = {"widths": [0.5, 1.0], "depths": [0.5, 1.0], "hidden": [0.5, 1.0], "kept_layers": "importance"}
    names = {"teacher": "finetune", "width": "train-width", "depth": "train-depth"}
    for command in names.values():
        assert main([command, str(write_recipe(tmp_path, content))]) == 0
    alone = {name: load_file(tmp_path / "run" / name / "model.safetensors") for name in names}
    order = layer_order(tmp_path / "run" / "width")
    content["training"]["per_device_train_batch_size"] = 4
    recipe = str(write_recipe(tmp_path, content))
    # The depth stage first, then the width stage, each from what one process trained.
    for name, command in reversed(names.items()):
        told = together(command, recipe, "--overwrite")
        assert told.count("results: ") == 1, "only the first process tells"
        assert told.count(" of 7 steps, ") == 7
        assert unlike(alone[name], load_file(tmp_path / "run" / name / "model.safetensors")) < 1e-5
    assert layer_order(tmp_path / "run" / "width") == order
    accumulated = ["--overwrite", "--set", "training.gradient_accumulation_steps=2"]
    for name, command in names.items():
        assert main([command, recipe, *accumulated]) == 0
        assert unlike(alone[name], load_file(tmp_path / "run" / name / "model.safetensors")) < 1e-4


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_take_other_rows_without_labels_and_train_as_one(tmp_path):
    # 13 rows with labels and 13 of the 40 others, in batches of 8, the last of 2. Each process has a share of `ce`.
    content = tiny_recipe(tmp_path, grid={"widths": [0.5, 1.0], "depths": [1.0]})
    write_rows(tmp_path / "train.tsv", 13, 1)
    write_rows(tmp_path / "others.tsv", 40, 3)
    content["data"]["unlabelled"] = str(tmp_path / "others.tsv")
    content["distillation"] = {"weights": {"ce": 1.0}}
    content["training"] |= {"optim": "sgd", "learning_rate": 1e-2, "num_train_epochs": 2}
    weights = tmp_path / "run" / "width" / "model.safetensors"
    for command in ("finetune", "train-width"):
        assert main([command, str(write_recipe(tmp_path, content))]) == 0
    alone = load_file(weights)
    content["training"]["per_device_train_batch_size"] = 4
    together("train-width", str(write_recipe(tmp_path, content)), "--overwrite")
    assert unlike(alone, load_file(weights)) < 1e-5


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_train_as_one_where_no_network_of_a_step_has_all_layers(road, tmp_path):
    """DDP's own reduction needs every weight's gradient; by `random(1)` half of the steps lack some layers'."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    content = tiny_recipe(tmp_path)
    content["grid"]["sampler"] = "random(1)"
    content["training"] |= {"optim": "sgd", "learning_rate": 1e-2, "gradient_accumulation_steps": 2}
    weights = tmp_path / "run" / "depth" / "model.safetensors"
    assert main(["train-depth", str(write_recipe(tmp_path, content))]) == 0
    alone = load_file(weights)
    content["training"]["per_device_train_batch_size"] = 4
    together("train-depth", str(write_recipe(tmp_path, content)), "--overwrite")
    assert unlike(alone, load_file(weights)) < 1e-5


# --- killed, interrupted ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    directory = tmp_path_factory.mktemp("road")
    trained_to_width(directory)
    return directory


def begun(road, tmp_path, **training):
    """A recipe whose output directory holds a teacher, and what the width stage gave that was not interrupted."""
    shutil.copytree(road, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run" / "width")
    content = tiny_recipe(tmp_path)
    content["training"] |= training
    return content, load_file(road / "run" / "width" / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def hidden(directory):
    return list(directory.rglob(".*.tmp"))


@pytest.fixture
def heard():
    """The signals as a shell leaves them, whatever started the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_ignored(heard):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `nohup dynackd ... &`
    interruption = Interruption()
    with interruption.installed():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert not interruption.asked()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.parametrize(("number", "code", "name"), [(15, 143, "SIGTERM"), (2, 130, "Ctrl-C")])
def test_a_signal_saves_the_step_and_says_how_to_go_on(heard, road, tmp_path, number, code, name, monkeypatch, capsys):
    content, unbroken = begun(road, tmp_path, save_steps=5)
    recipe = str(write_recipe(tmp_path, content))
    whole = SupernetTrainer.training_step

    def signalled(self, *arguments, **options):
        if self.state.global_step == 7:  # no multiple of save_steps
            os.kill(os.getpid(), number)
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SupernetTrainer, "training_step", signalled)
        assert main(["train-width", recipe]) == code
    told = capsys.readouterr().err
    assert told.endswith(f"dynackd: stopped by {name}; go on with: dynackd train-width {recipe} --resume\n")
    assert (tmp_path / "run" / "width-checkpoints" / "checkpoint-8" / "trainer_state.json").is_file()
    assert not hidden(tmp_path / "run")
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler), "the handlers are gone again"
    content["training"]["save_steps"] = 5
    assert main(["train-width", recipe, "--resume"]) == 0
    assert same(load_file(tmp_path / "run" / "width" / "model.safetensors"), unbroken)


def test_a_second_signal_stops_at_once_but_not_the_same_one_again():
    interruption, seen = Interruption(), []

    def training():
        with interruption.held():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # torchrun's, beside the terminal's
            seen.append("goes on")
            interruption._came -= 2
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append("never here")

    with interruption.installed(), pytest.raises(Interrupted):
        training()
    assert seen == ["goes on"]


def test_importing_the_library_installs_no_handler():
    code = "import signal, dynackd.training.stages; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "True\n"


def test_a_run_killed_for_good_resumes_to_the_very_same_weights(road, tmp_path):
    content, unbroken = begun(road, tmp_path, save_steps=1)
    recipe, place = str(write_recipe(tmp_path, content)), tmp_path / "run" / "width-checkpoints"
    command = [sys.executable, "-m", "dynackd", "train-width", recipe]
    for steps in (2, 7):
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None and not (place / f"checkpoint-{steps}").exists():
                time.sleep(0.001)  # so that it dies while it writes that one
            run.send_signal(signal.SIGKILL)
        assert run.returncode == -signal.SIGKILL
        command = [*command, "--resume"][:6]
    assert main(["train-width", recipe, "--resume"]) == 0
    assert same(load_file(tmp_path / "run" / "width" / "model.safetensors"), unbroken)


def test_a_run_killed_after_its_last_step_makes_no_further_one(road, tmp_path, monkeypatch):
    # 7 steps end within the second epoch of 6 each.
    content, _ = begun(road, tmp_path, max_steps=7)
    recipe = make_recipe(content)
    stages.train_width(recipe, FRESH)
    unbroken = load_file(tmp_path / "run" / "width" / "model.safetensors")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "evaluate_grid", killed)
        with pytest.raises(KeyboardInterrupt):
            stages.train_width(recipe, RunMode(overwrite=True))
    stages.train_width(recipe, RunMode(resume=True))
    assert same(load_file(tmp_path / "run" / "width" / "model.safetensors"), unbroken)


def test_a_run_of_two_processes_is_not_resumed_by_one(road, tmp_path, monkeypatch):
    content, _ = begun(road, tmp_path)
    recipe = make_recipe(content)
    last = kill(recipe, monkeypatch, 5)[-1]
    (last / "rng_state.pth").rename(last / "rng_state_0.pth")
    shutil.copy(last / "rng_state_0.pth", last / "rng_state_1.pth")
    with pytest.raises(UserError, match=r"was trained by 2 processes, these are 1: start 2 .*--nproc_per_node 2"):
        stages.train_width(recipe, RunMode(resume=True))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("sampler", [
    lambda: EpochLengthSampler(2, [1] * 24, 0),
    lambda: TogetherSampler(list(range(24)), 0, 2),
    lambda: MixedSampler(Mixture(12, 60, 12), 0, 2),
    lambda: SeedableRandomSampler(range(24), data_seed=0),
])  # fmt: skip
def test_an_epoch_that_is_resumed_within_goes_on_with_its_own_rows(sampler, count):
    """However many processes share it: each has batches of batches, and what skips the first ones lies around these."""

    def batches(epoch, skipped=0):
        shard = BatchSamplerShard(BatchSampler(sampler(), 2, drop_last=False), count, count - 1)
        loader = DataLoaderShard(list(range(72)), batch_sampler=shard, collate_fn=list)
        tell_epoch(loader, epoch)
        loader = skip_first_batches(loader, skipped) if skipped else loader
        loader.set_epoch(epoch)  # as the stock Trainer
        return list(loader)

    assert batches(3, skipped=2) == batches(3)[2:] != batches(0)[2:]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_stopped_in_a_later_epoch_resume_to_the_very_same_weights(road, tmp_path):
    content, _ = begun(road, tmp_path, save_steps=8, num_train_epochs=8, per_device_train_batch_size=4)
    recipe, run = str(write_recipe(tmp_path, content)), tmp_path / "run"
    together("train-width", recipe)
    unbroken = load_file(run / "width" / "model.safetensors")
    with subprocess.Popen([*LAUNCHER, "train-width", recipe, "--overwrite"], env=ENVIRONMENT,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as again:
        while again.poll() is None and not (run / "width-checkpoints" / "checkpoint-8").exists():
            time.sleep(0.001)
        again.send_signal(signal.SIGTERM)  # which the launcher passes on
    stopped = max(int(place.name.split("-")[1]) for place in (run / "width-checkpoints").glob("checkpoint-*"))
    assert 8 <= stopped < 48
    together("train-width", recipe, "--resume")
    assert same(load_file(run / "width" / "model.safetensors"), unbroken)


# --- what cannot go on ------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_at_a_checkpoint_loses_none_that_is_whole(road, tmp_path):
    content, unbroken = begun(road, tmp_path, save_steps=2, save_total_limit=1)
    recipe, place = str(write_recipe(tmp_path, content)), tmp_path / "run" / "width-checkpoints"
    code = f"""
import resource, sys
from dynackd.cli.command_line import main
from dynackd.training.resumable import ResumableTrainer
save = ResumableTrainer._save_checkpoint
def full(self, *arguments):
    if self.state.global_step == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    save(self, *arguments)
ResumableTrainer._save_checkpoint = full
sys.exit(main(["train-width", {recipe!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith(f"dynackd: {place / 'checkpoint-6'} could not be written: "), last
    assert last.endswith("; the checkpoints before it are whole: make room on the disk, then go on with --resume")
    assert [path.name for path in place.glob("checkpoint-*")] == ["checkpoint-4"]
    assert main(["train-width", recipe, "--resume"]) == 0
    assert same(load_file(tmp_path / "run" / "width" / "model.safetensors"), unbroken)


def test_a_loss_that_is_no_number_names_the_batch_and_saves_nothing_of_it(road, tmp_path, monkeypatch, capsys):
    content, _ = begun(road, tmp_path, save_steps=1)
    whole, step = Teacher.signal, itertools.count()  # all widths learn from one signal a step

    def broken(self, *arguments):
        signal = whole(self, *arguments)
        if next(step) == 3:
            signal.outputs["logits"][0, 0] = float("nan")
        return signal

    monkeypatch.setattr(Teacher, "signal", broken)
    assert main(["train-width", str(write_recipe(tmp_path, content))]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("dynackd: the loss is nan at step 4 (logits of (width 0.5, depth 1) is nan, ")
    assert "in the batch of the rows '" in told
    assert told.endswith("nothing was saved of it: lower training.learning_rate and begin again, or look at these rows")
    assert max(int(p.name[11:]) for p in (tmp_path / "run" / "width-checkpoints").glob("checkpoint-*")) == 3


def test_a_gradient_that_is_no_number_stops_too(road, tmp_path, monkeypatch):
    content, _ = begun(road, tmp_path)
    whole = SupernetTrainer.training_step

    def broken(self, *arguments):
        loss = whole(self, *arguments)
        next(self.model.parameters()).grad[0] = float("inf")
        return loss

    monkeypatch.setattr(SupernetTrainer, "training_step", broken)
    with pytest.raises(UserError, match=r"the gradient is .* at step 1, though the loss is a number"):
        stages.train_width(make_recipe(content), FRESH)


def test_weights_that_are_no_numbers_are_never_saved(road, tmp_path, monkeypatch):
    content, _ = begun(road, tmp_path, save_steps=2)
    whole = ResumableTrainer._get_grad_norm

    def broken(self, model, grad_norm=None):
        if self.state.global_step == 1:  # behind the check, as an optimiser that overflows
            next(model.parameters()).data[0] = float("inf")
        return whole(self, model, grad_norm)

    monkeypatch.setattr(ResumableTrainer, "_get_grad_norm", broken)
    with pytest.raises(UserError, match="weights are no finite numbers any more after step 2; they were not saved"):
        stages.train_width(make_recipe(content), FRESH)
    assert not list((tmp_path / "run" / "width-checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize(("sampler", "fewer"), [("all", "or grid.sampler=sandwich(1), "), ("sandwich(1)", "")])
def test_too_little_memory_says_what_to_lower(sampler, fewer, road, tmp_path, monkeypatch, capsys):
    """Three sizes a step are the default, and no advice to who has them."""
    content, _ = begun(road, tmp_path)
    content["grid"]["sampler"] = sampler
    monkeypatch.setattr(SupernetTrainer, "training_step", lambda *_: torch.empty(2**60))  # torch's own error
    assert main(["train-width", str(write_recipe(tmp_path, content))]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "dynackd: out of memory in a training step of 8 rows: add --set training.per_device_train_batch_size=4 --set "
        "training.gradient_accumulation_steps=2 (the same result in smaller parts), or lower data.max_length, "
        f"{fewer}and begin again with --overwrite"
    )


# --- what the launcher says -------------------------------------------------------------------------------------------


def test_work_of_one_process_is_done_by_the_first_alone(monkeypatch, capsys):
    for name in processes.RENDEZVOUS:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "nowhere"]) == 0
    assert capsys.readouterr().err == ""


def test_a_mistake_that_all_processes_find_is_told_once(tmp_path):
    done = subprocess.run(
        [*LAUNCHER, "train-width", str(tmp_path / "none.yaml")],
        capture_output=True, text=True, timeout=100, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.stderr.count("dynackd: there is no recipe") == 1


def test_accelerate_that_started_one_process_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    main(["train-width", str(tmp_path / "none.yaml")])
    assert "note: accelerate launch started one process; for several use torchrun" in capsys.readouterr().out


def test_the_way_on_names_the_launcher_and_quotes(monkeypatch):
    assert processes.again(["train-width", "a b.yaml", "--overwrite"], True) == [
        *("dynackd", "train-width", "a b.yaml", "--resume")
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.again(["train-width"], True)[:5] == ["torchrun", "--nproc_per_node", "2", "-m", "dynackd"]
