"""The `training` of a recipe: fields of `transformers.TrainingArguments`, each checked before anything is loaded.

    checked(Training, {"learning_rate": 3e-5}, "training")    # each field's name, type and range
    check_training(stages, measured)                          # what they cannot do together

What fails on this machine alone is checked in `machine.py`. Left alone, most of the mistakes here end in a traceback
after the model is loaded or after hours of training, or train something else without a word. To refuse another field is
one line in a table.
"""

import dataclasses
import enum
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from accelerate.utils import DynamoBackend
from pydantic import Field, create_model
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from dynackd.errors import UserError, listed, shown
from dynackd.system.settings import Among, Number, Settings, Whole, refused
from dynackd.training.trainer import UNSUPPORTED_ARGUMENTS, UNSUPPORTED_OPTIMIZERS

FIELDS = {known.name: known for known in dataclasses.fields(TrainingArguments) if known.init}
HINTS = typing.get_type_hints(TrainingArguments)
FINETUNE = "finetune"

# What a recipe gets where it is silent, beside a learning rate that depends on the encoder (`rates.py`) and epochs that
# depend on the rows (`lengths.py`). A checkpoint at every tenth of the way, so that a killed run loses little.
TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "length",
    "save_steps": 0.1,
    "save_total_limit": 2,
    "logging_steps": 0.02,
    "report_to": "none",
    "ddp_find_unused_parameters": False,
    "dataloader_pin_memory": False,
}

Fields = Mapping[str, Any]  # of one stage


def _by_name(names: Mapping[str, Any]) -> dict[str, Any]:
    """field -> its value, of a table whose keys are several fields each."""
    return {name: value for several, value in names.items() for name in several.split()}


# --- what each field must be, where the library's own type says too little -------------------------------------------

Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]
Above0 = Annotated[Number, Field(gt=0)]
# As transformers reads them: below 1 a share of all steps, from 1 on a number of steps.
Steps = Annotated[Number, Field(gt=0, lt=1)] | Count


def _one_of(names: Iterable[str]) -> Any:
    known = list(names)
    return Annotated[str, Among(lambda: known)]


TYPES: dict[str, Any] = _by_name({
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps ddp_timeout": Count,
    "torch_empty_cache_steps eval_accumulation_steps save_total_limit": Count | None,
    "dataloader_prefetch_factor ddp_bucket_cap_mb": Count | None,
    "dataloader_num_workers": Annotated[Whole, Field(ge=0)],
    "seed": Seed,
    "data_seed": Seed | None,
    "max_steps": Count | Literal[-1],
    "num_train_epochs": Annotated[Number, Field(gt=0, le=1_000_000)],
    "learning_rate": Above0,
    "neftune_noise_alpha": Above0 | None,
    "weight_decay adam_epsilon max_grad_norm eval_delay": Annotated[Number, Field(ge=0)],
    "adam_beta1 adam_beta2 label_smoothing_factor": Annotated[Number, Field(ge=0, lt=1)],
    "logging_steps save_steps": Steps,
    "eval_steps": Steps | None,
    "warmup_steps": Annotated[Number, Field(ge=0, lt=1)] | Count,
    "include_num_input_tokens_seen": bool | _one_of(["all", "non_padding", "no"]),
    "report_to": _one_of(["none", "all", *INTEGRATION_TO_CALLBACK]) | list[_one_of(INTEGRATION_TO_CALLBACK)],  # type: ignore[misc]
    "torch_compile_backend": _one_of(b.value.lower() for b in DynamoBackend if b != DynamoBackend.NO) | None,
    "torch_compile_mode": _one_of(
        ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]) | None,
})  # fmt: skip

# --- what is refused -------------------------------------------------------------------------------------------------

RESUME = "a run resumed from a checkpoint would not end at the same weights"
NO_HUB = "dynackd uploads nothing; upload a finished directory with the command hf upload"

# Refused in every stage, with the reason, unless the value is the library's own default, which asks for nothing.
REFUSED: dict[str, str] = _by_name({
    "output_dir": "it is set by dynackd; use output_dir, at the top of the recipe, instead",
    "resume_from_checkpoint": "it is set by dynackd; use --resume instead",
    "local_rank": "it is set by torchrun",
    "do_train do_eval do_predict": "it is for transformers' example scripts; here the command says what is done",
    "save_only_model": "checkpoints are for --resume, which needs the optimizer's state too; for none at all write "
    'save_strategy: "no"',
    "ignore_data_skip dataloader_in_order": RESUME,
    "auto_find_batch_size": f"it begins again with smaller batches on weights that are partly trained, and {RESUME}; "
    "lower per_device_train_batch_size",
    "accelerator_config": f"it changes which process gets which rows, and {RESUME}",
    "enable_jit_checkpoint": "dynackd writes its checkpoints itself; save_steps says how often",
    "push_to_hub hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision": NO_HUB,
    "hub_token": f"{NO_HUB}, and the token would stand in the recipe beside the results",
    "deepspeed fsdp fsdp_config parallelism_config": "what is saved would be a part of the weights; several processes "
    "work with torchrun alone",
    "remove_unused_columns label_names length_column_name": "dynackd makes the batches and names their columns itself",
    "prediction_loss_only eval_do_concat_batches eval_use_gather_object batch_eval_metrics include_for_metrics":
    "dynackd measures by the task's metrics, on every row",
    "bf16_full_eval": "the weights that are saved would be rounded to 16 bits; bf16 works",
    "fp16_full_eval": "the weights that are saved would be rounded to 16 bits; fp16 works",
    "use_liger_kernel liger_kernel_config": "Liger has kernels for decoders alone",
    "use_cache": "it is for decoders, which generate text",
    "average_tokens_across_devices": "it is for losses that are counted by tokens; here they are means over rows",
    "debug": "its hooks fail on encoders; dynackd stops at a loss that is no number",
})  # fmt: skip

# Names from older transformers or other tools -> what is written instead, where no known name is near.
RENAMED = {
    "group_by_length": "train_sampling_strategy: group_by_length, which is the default",
    "warmup_ratio": "warmup_steps, where a number below 1 is a share of all steps",
    "no_cuda": "use_cpu: true",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "overwrite_output_dir": "--overwrite on the command line",
    "save_safetensors": "nothing; dynackd always writes safetensors",
    "adafactor": "optim: adafactor",
    "half_precision_backend": "nothing; bf16: true and fp16: true need no backend",
    "max_seq_length": "data.max_length",
    "max_length": "data.max_length",
    "dropout": "stages.<stage>.dropout",
}

def _followers(fields: Fields) -> list[str]:
    """The fields that make a stage follow one of its metrics."""
    follows = {
        "load_best_model_at_end": fields["load_best_model_at_end"],
        "save_strategy": fields["save_strategy"] == "best",
        "lr_scheduler_type": fields["lr_scheduler_type"] in ("reduce_lr_on_plateau", "greedy"),
    }
    return [name for name, does in follows.items() if does]


@dataclass(frozen=True)
class Need:
    """What must be said beside a field that alone does nothing, and whether a stage's fields, silent ones at their
    defaults, do so."""

    said: str
    met: Callable[[Fields], bool]


EVALUATES = Need("eval_strategy: steps or epoch", lambda f: f["eval_strategy"] != "no")
NEEDS: dict[str, Need] = _by_name({
    "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context": Need(
        "dataloader_num_workers of 1 or more", lambda f: f["dataloader_num_workers"] > 0),
    "eval_steps": Need("eval_strategy: steps", lambda f: f["eval_strategy"] == "steps"),
    "eval_delay": EVALUATES,
    "metric_for_best_model greater_is_better": Need(
        "load_best_model_at_end, save_strategy: best or lr_scheduler_type: reduce_lr_on_plateau",
        lambda f: bool(_followers(f))),
    "save_steps": Need("save_strategy: steps", lambda f: f["save_strategy"] == "steps"),
    "logging_steps": Need(
        "logging_strategy: steps", lambda f: "steps" in (f["logging_strategy"], f["eval_strategy"])),
    # The usual optimisers take their own fields, such as adam_beta1.
    "optim_args": Need(
        "an optimizer as optim that reads it, such as sgd",
        lambda f: f["optim"] not in ("adamw_torch", "adamw_torch_fused", "adafactor")),
    "optim_target_modules": Need(
        "a galore or apollo optimizer as optim", lambda f: f["optim"].startswith(("galore", "apollo"))),
    "activation_checkpointing_kwargs gradient_checkpointing_kwargs": Need(
        "activation_checkpointing: true", lambda f: f["activation_checkpointing"] or f["gradient_checkpointing"]),
    "trackio_space_id trackio_bucket_id trackio_static_space_id": Need(
        "report_to: trackio", lambda f: "trackio" in f["report_to"]),
})  # fmt: skip

# --- the section of a recipe -----------------------------------------------------------------------------------------


DEFAULTS = {name: known.default if known.default_factory is dataclasses.MISSING else known.default_factory()
            for name, known in FIELDS.items()}  # the library's own  # fmt: skip
OWN_WORDS = {
    "learning_rate": "The highest learning rate; where no recipe says it, 1e-4 for finetune at hidden size 384 and "
    "2e-4 for the others, a quarter of these at 768.",
    "num_train_epochs": "Passes over the training rows; where no recipe says it, 3, or more of few rows.",
}


def _type(name: str) -> Any:
    """The library's type of a field, without the enumerations' classes."""
    members: Any = typing.get_args(HINTS[name]) or (HINTS[name],)
    enums: list[Any] = [member for member in members if isinstance(member, enum.EnumMeta)]
    choices = [option.value for kind in enums for option in kind] or FIELDS[name].metadata.get("choices")
    if choices:
        return _one_of(choices) | None if type(None) in members else _one_of(choices)
    if any((typing.get_origin(member) or member) is dict for member in members):
        return dict[str, Any] | None  # the library takes the text of one too, or a file's name
    return reduce(or_, members)


def _key(name: str) -> tuple[Any, Any]:
    """What a recipe may say for a field: its type, and its default with the description."""
    if name in REFUSED:
        wanted = refused(f"is not possible: {REFUSED[name]}; remove it", DEFAULTS[name])
        return wanted, Field(default=DEFAULTS[name], description=f"Not possible: {REFUSED[name]}")
    default = None if name in OWN_WORDS else TRAINING_DEFAULTS.get(name, DEFAULTS[name])
    words = OWN_WORDS.get(name) or FIELDS[name].metadata["help"].replace("%%", "%")
    return TYPES.get(name) or _type(name), Field(default=default, description=words)


def _renamed(instead: str) -> tuple[Any, Any]:
    return refused(f"is unknown; write {instead}"), Field(default=None, description=f"Write {instead}")


_KEYS: dict[str, Any] = {name: _key(name) for name in FIELDS} | {old: _renamed(new) for old, new in RENAMED.items()}
Training = create_model("Training", __base__=Settings, __doc__="Fields of transformers.TrainingArguments.", **_KEYS)


# --- the fields of a stage -------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class TrainingFields:
    """Fields of TrainingArguments, and for those that the recipe gives, the section that they come from."""

    values: Fields
    places: Mapping[str, str] = field(default_factory=dict)

    def where(self, name: str) -> str:
        """The field as a recipe's path, such as `stages.depth.training.max_steps`."""
        return f"{self.places.get(name, 'training')}.{name}"

    @property
    def all(self) -> Fields:
        """Those that are not said at the library's defaults."""
        return {**DEFAULTS, **self.values}


def check_training(stages: Mapping[str, TrainingFields], measured: Mapping[str, Sequence[str]]) -> None:
    """Refuse (`UserError`, which names the field and where it stands) what a stage cannot honour, fields that fail
    beside one another and those that would do nothing. stages: stage -> its fields, each of them checked by `Training`.
    measured: stage -> the metrics that its evaluation gives."""
    for stage, fields in stages.items():
        if stage != FINETUNE:
            _check_supported(fields)
        _check_together(stage, fields, measured[stage])
    _check_needs(stages)


def _check_supported(fields: TrainingFields) -> None:
    """A supernet's stages cannot do all that the stock Trainer does."""
    reasons = {name: reason for name, reason in UNSUPPORTED_ARGUMENTS.items() if fields.values.get(name)}
    if (optimizer := fields.values.get("optim")) in UNSUPPORTED_OPTIMIZERS:
        reasons["optim"] = UNSUPPORTED_OPTIMIZERS[str(optimizer)]
    for name, reason in reasons.items():
        where = fields.where(name)
        instead = "" if where.startswith("stages.") else f", or put it under stages.{FINETUNE}.training"
        raise UserError(f"{where} is not possible for a supernet: {reason}; remove it{instead}")


def _check_together(stage: str, fields: TrainingFields, measured: Sequence[str]) -> None:
    """Refuse fields that fail beside one another."""
    known, where = fields.all, fields.where
    if known["fp16"] and known["bf16"]:
        raise UserError(f"{where('fp16')} and {where('bf16')} exclude each other; give one of them")
    metric = (known["metric_for_best_model"] or "loss").removeprefix("eval_")
    for name in _followers(known):
        if not EVALUATES.met(known):
            raise UserError(f"{where(name)}: {shown(known[name])} needs {EVALUATES.said}")
        if metric not in measured:
            raise UserError(
                f"{where(name)}: {shown(known[name])} follows the metric '{metric}', which the stage {stage} does not "
                f"measure; name one of its own as metric_for_best_model: {listed(measured)}"
            )


def _check_needs(stages: Mapping[str, TrainingFields]) -> None:
    """Refuse a field that does nothing in any of the stages that it is given for."""
    for name, need in NEEDS.items():
        given = [fields for fields in stages.values() if name in fields.places]
        asked = [fields for fields in given if fields.values[name] not in (None, False)]
        for where in {fields.where(name) for fields in asked}:
            if not any(need.met(fields.all) for fields in asked if fields.where(name) == where):
                raise UserError(f"{where} does nothing without {need.said}; add that or remove it")
