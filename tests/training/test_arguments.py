"""Fields of TrainingArguments: what fails late, does nothing or trains something else is refused before anything is
loaded, wherever in the recipe it stands."""

import dataclasses

import pytest
from accelerate.state import PartialState
from conftest import tiny_recipe
from transformers import TrainingArguments

from dynackd.errors import UserError
from dynackd.training.arguments import FIELDS, HINTS, NEEDS, REFUSED, RENAMED, TYPES, TrainingFields
from dynackd.training.machine import check_machine
from dynackd.training.recipe import make_recipe
from dynackd.training.trainer import UNSUPPORTED_ARGUMENTS, UNSUPPORTED_OPTIMIZERS


def refused(tmp_path, **changes):
    """The sentence with which a recipe is refused, before there is a model or data."""
    content = {**tiny_recipe(tmp_path), "model": "no/such-model", "data": {"train": "no.tsv", "validation": "no.tsv"}}
    with pytest.raises(UserError) as error:
        make_recipe({**content, **changes}).check_machine()
    assert "\n" not in str(error.value)
    return str(error.value)


WHOLE = [
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_steps", "seed",
    "data_seed", "dataloader_num_workers", "save_total_limit", "eval_accumulation_steps", "torch_empty_cache_steps",
    "ddp_bucket_cap_mb", "ddp_timeout", "dataloader_prefetch_factor",
]  # fmt: skip
NAMES = ["include_num_input_tokens_seen", "report_to", "torch_compile_backend", "torch_compile_mode"]
NUMBERS = [name for name in TYPES if name not in (*WHOLE, *NAMES)]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_out_of_its_range_is_refused(tmp_path, name):
    least = {"seed": -1, "data_seed": -1, "dataloader_num_workers": -1}.get(name, 0)
    for value in (least, -2, 2**70):
        assert refused(tmp_path, training={name: value}).startswith(f"training.{name} ")
    for value in (True, 1.5, "1", [1]):
        assert f"training.{name} must be a whole number" in refused(tmp_path, training={name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_range_is_refused(tmp_path, name):
    for value in (-1, -0.5, float("nan"), float("inf")):
        assert refused(tmp_path, training={name: value}).startswith(f"training.{name} must be")
    for value in (True, "1", [1]):
        assert f"training.{name} must be a number" in refused(tmp_path, training={name: value})


@pytest.mark.parametrize("name", ["learning_rate", "num_train_epochs", "save_steps", "logging_steps", "eval_steps"])
def test_zero_where_nothing_would_be_trained_or_told_is_refused(tmp_path, name):
    assert refused(tmp_path, training={name: 0}).startswith(f"training.{name} must be")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_field_that_cannot_be_honoured_is_refused_with_the_reason(tmp_path, name):
    value = {bool: True, int: 3, str: "x"}.get(type(FIELDS[name].default), {"x": 1})
    value = False if FIELDS[name].default is True else value
    sentence = refused(tmp_path, stages={"depth": {"training": {name: value}}})
    assert sentence == f"stages.depth.training.{name} is not possible: {REFUSED[name]}; remove it"


@pytest.mark.parametrize("name", [n for n in FIELDS if HINTS[n] is bool and n not in REFUSED])
def test_a_switch_is_true_or_false_and_no_other_word(tmp_path, name):
    for value in ("yes", "no", "on", "off", 1, None):
        assert f"training.{name} must be true or false, not" in refused(tmp_path, training={name: value})


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("save_strategy", "no, steps, epoch, best"),
        ("eval_strategy", "no, steps, epoch"),
        ("logging_strategy", "no, steps, epoch"),
        ("lr_scheduler_type", "linear, cosine"),
        ("optim", "adamw_torch, "),
        ("log_level", "detail, debug"),
        ("log_level_replica", "detail, debug"),
        ("train_sampling_strategy", "random, sequential"),
        ("include_num_input_tokens_seen", "all, non_padding, no"),
        ("report_to", "none, all, azure_ml"),
        ("ddp_backend", "nccl, gloo"),
        ("dataloader_multiprocessing_context", "fork, spawn"),
        ("torch_compile_mode", "default, "),
        ("torch_compile_backend", "eager, "),
    ],
)
def test_a_name_that_there_is_not_is_told_with_those_that_there_are(tmp_path, name, known):
    sentence = refused(tmp_path, stages={"finetune": {"training": {name: "rubbish"}}})
    assert sentence.startswith(f"stages.finetune.training.{name}: 'rubbish' is unknown")
    assert f"known: {known}" in sentence


@pytest.mark.parametrize(
    "setting", [{"save_strategy": False}, {"report_to": None}, {"report_to": ["none", "wandb"]}, {"run_name": 3},
                {"lr_scheduler_kwargs": "abc"}, {"report_to": [1]}]
)  # fmt: skip
def test_a_value_of_another_type_is_refused(tmp_path, setting):
    assert f"training.{next(iter(setting))} must be" in refused(tmp_path, training=setting)


def test_a_key_that_is_no_text_is_refused(tmp_path):
    sentence = refused(tmp_path, training={"lr_scheduler_kwargs": {1: 2}})
    assert sentence == "the key training.lr_scheduler_kwargs.1 must be a text; put it in quotes"


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_field_that_does_nothing_alone_is_refused(tmp_path, name):
    values = {"metric_for_best_model": "loss", "dataloader_multiprocessing_context": "spawn", "greater_is_better": True,
              "optim_target_modules": "x", "optim_args": "a=1", "dataloader_persistent_workers": True}  # fmt: skip
    kinds = {"kwargs": {"x": 1}, "id": "x"}
    value = values.get(name, kinds.get(name.rpartition("_")[2], 2))
    training = {name: value, "save_strategy": "epoch", "logging_strategy": "epoch"}
    assert f"training.{name} does nothing without {NEEDS[name].said}" in refused(tmp_path, training=training)


def test_a_field_that_one_of_the_stages_uses_is_no_mistake(tmp_path):
    stages = {"finetune": {"training": {"eval_strategy": "steps"}}}
    recipe = make_recipe(tiny_recipe(tmp_path, training={"eval_steps": 5}, stages=stages))
    assert recipe.stages["finetune"].training["eval_steps"] == 5


@pytest.mark.parametrize("name", sorted(RENAMED))
def test_a_name_of_an_older_library_is_answered_with_todays(tmp_path, name):
    sentence = refused(tmp_path, training={name: 1})
    assert sentence == f"training.{name} is unknown; write {RENAMED[name]}"


@pytest.mark.parametrize("name", sorted(set(UNSUPPORTED_ARGUMENTS) - set(REFUSED)))
def test_what_no_supernet_can_honour_is_told_by_every_command_and_allowed_for_the_teacher(tmp_path, name):
    value = {"label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "torch_empty_cache_steps": 2,
             "torch_compile_backend": "eager", "torch_compile_mode": "default"}.get(name, True)  # fmt: skip
    steps = {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5}
    sentence = refused(tmp_path, training={name: value, **steps})
    assert sentence.startswith(f"training.{name} is not possible for a supernet: {UNSUPPORTED_ARGUMENTS[name]}")
    assert sentence.endswith("or put it under stages.finetune.training")
    make_recipe(tiny_recipe(tmp_path, stages={"finetune": {"training": {name: value, **steps}}}))


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_OPTIMIZERS))
def test_an_optimizer_that_no_supernet_can_honour_is_refused(tmp_path, name):
    assert "training.optim is not possible for a supernet" in refused(tmp_path, training={"optim": name})


def test_a_metric_that_is_followed_must_be_measured(tmp_path):
    follow = {"eval_strategy": "epoch", "lr_scheduler_type": "reduce_lr_on_plateau"}
    assert "metric 'loss', which the stage width does not measure" in refused(tmp_path, training=follow)
    finetune = {"stages": {"finetune": {"training": {**follow, "metric_for_best_model": "acuracy"}}}}
    assert "metric 'acuracy', which the stage finetune does not measure" in refused(tmp_path, **finetune)
    without = {"stages": {"finetune": {"training": {"save_strategy": "best"}}}}
    assert "'best' needs eval_strategy: steps or epoch" in refused(tmp_path, **without)
    make_recipe(tiny_recipe(tmp_path, training={**follow, "metric_for_best_model": "w0.5_d1_accuracy"},
                            stages={"finetune": {"training": {"metric_for_best_model": "eval_accuracy"}}}))  # fmt: skip


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"report_to": "wandb"}, "training.report_to: WandbCallback requires wandb"),
        ({"optim": "adamw_8bit"}, "training.optim: You need to install `bitsandbytes`"),
        ({"optim": "adamw_torch_4bit"}, "training.optim: You need to have `torchao"),
        ({"optim": "galore_adamw"}, "training.optim: You need to install `galore_torch`"),
        ({"optim": "sgd", "optim_args": "momentum"}, "training.optim: not enough values to unpack"),
        ({"optim": "sgd", "optim_args": "momentum=x"}, "training.optim: could not convert string to float"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "training.lr_scheduler_type: One of min_lr or min_lr_rate"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "training.lr_scheduler_type: get_wsd_schedule() missing"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "x"}},
         "training.lr_scheduler_type: could not convert string to float"),
        ({"lr_scheduler_kwargs": {"nonsense": 1}}, "training.lr_scheduler_type: get_linear_schedule_with_warmup() got"),
    ],
)  # fmt: skip
def test_what_this_machine_lacks_is_told_before_anything_is_loaded(tmp_path, training, sentence):
    assert refused(tmp_path, training=training).startswith(sentence)


def test_what_this_machine_lacks_stops_no_command_that_does_not_train(tmp_path):
    make_recipe(tiny_recipe(tmp_path, training={"report_to": "wandb", "optim": "adamw_8bit"}))


def test_a_regression_has_no_labels_to_smooth(tmp_path):
    # LabelSmoother takes a log-softmax over the one output: the loss is 0, and nothing is learned.
    task = {"kind": "regression", "text": "sentence", "label": "label"}
    stages = {"finetune": {"training": {"label_smoothing_factor": 0.1}}}
    sentence = refused(tmp_path, task=task, stages=stages)
    assert sentence.startswith("stages.finetune.training.label_smoothing_factor is not possible for a regression")


def test_two_precisions_exclude_each_other(tmp_path):
    sentence = refused(tmp_path, training={"fp16": True}, stages={"depth": {"training": {"bf16": True}}})
    assert sentence == "training.fp16 and stages.depth.training.bf16 exclude each other; give one of them"


def test_checking_the_machine_touches_no_device_and_no_process_group():
    before = dict(PartialState._shared_state)
    check_machine(TrainingFields({"learning_rate": 1e-3, "report_to": "none"}))
    assert before == PartialState._shared_state


def test_the_defaults_of_the_library_ask_for_nothing(tmp_path):
    own = {"lr_scheduler_type": "linear", "eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no"}
    empty = (None, dataclasses.MISSING)
    defaults = {name: field.default for name, field in FIELDS.items() if field.default not in empty}
    plain = {n: v for n, v in defaults.items() if n not in ("save_steps", "logging_steps", "eval_delay", "debug")}
    make_recipe(tiny_recipe(tmp_path, training={**plain, **own, "optim": "adamw_torch"})).check_machine()


def test_every_name_in_the_tables_is_a_field():
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {*TYPES, *REFUSED, *NEEDS, *UNSUPPORTED_ARGUMENTS} <= known
    assert not set(RENAMED) & known
