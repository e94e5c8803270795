"""The `training` of a recipe: fields of `transformers.TrainingArguments`, each checked before anything is loaded.

    resolve_training(defaults, sections, measured)    # stage -> fields; refuses what fails on every machine
    check_machine(fields)                             # and what fails on this one: packages, devices

Left alone, most of the mistakes here end in a traceback after the model is loaded or after hours of training, or
train something else without a word. To refuse another field is one line in a table.
"""

import dataclasses
import enum
import math
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.debug_utils import DebugOption
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_reporting_integration_callbacks

from dynackd.errors import UserError, listed, one_of, reason_of, refuse_unknown_keys, shown
from dynackd.training.trainer import UNSUPPORTED_ARGUMENTS, UNSUPPORTED_OPTIMIZERS

FIELDS = {known.name: known for known in dataclasses.fields(TrainingArguments) if known.init}
HINTS = typing.get_type_hints(TrainingArguments)
FINETUNE = "finetune"
LARGEST = 2**63 - 1

# --- what each field must be -----------------------------------------------------------------------------------------

Check = tuple[Callable[[Any], bool], str]


def _at_least(least: int, most: int = LARGEST) -> Check:
    expected = f"a whole number of {least} or more" if most == LARGEST else f"a whole number from {least} to {most:,}"
    return lambda value: least <= value <= most, expected


ABOVE_0: Check = (lambda value: value > 0, "a number above 0")
FROM_0: Check = (lambda value: value >= 0, "a number from 0")
BELOW_1: Check = (lambda value: 0 <= value < 1, "a number from 0 to below 1")
# As transformers reads them: below 1 a share of all steps, from 1 on a number of steps.
STEPS: Check = (
    lambda value: value > 0 and (value < 1 or value == int(value)),
    "a whole number of steps, or a share of them above 0 and below 1",
)
SEED = _at_least(0, 2**32 - 1)

RANGES: dict[str, Check] = {
    "per_device_train_batch_size": _at_least(1),
    "per_device_eval_batch_size": _at_least(1),
    "num_train_epochs": (lambda value: 0 < value <= 1e6, "a number above 0, at most 1,000,000"),
    "max_steps": (lambda value: value == -1 or value >= 1, "a whole number of 1 or more, or -1 to go by epochs"),
    "learning_rate": ABOVE_0,
    "warmup_steps": (
        lambda value: 0 <= value < 1 or value == int(value) >= 1,
        "a whole number of steps, or a share of them from 0 to below 1",
    ),
    "weight_decay": FROM_0,
    "adam_beta1": BELOW_1,
    "adam_beta2": BELOW_1,
    "adam_epsilon": FROM_0,
    "gradient_accumulation_steps": _at_least(1),
    "max_grad_norm": (lambda value: value >= 0, "a number from 0, where 0 clips nothing"),
    "label_smoothing_factor": BELOW_1,
    "neftune_noise_alpha": ABOVE_0,
    "torch_empty_cache_steps": _at_least(1),
    "logging_steps": STEPS,
    "eval_steps": STEPS,
    "save_steps": STEPS,
    "eval_delay": FROM_0,
    "eval_accumulation_steps": _at_least(1),
    "save_total_limit": (lambda value: value >= 1, "a whole number of 1 or more, or null to keep all checkpoints"),
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": _at_least(0),
    "dataloader_prefetch_factor": _at_least(1),
    "ddp_bucket_cap_mb": _at_least(1),
    "ddp_timeout": _at_least(1),
}

# Names that a field may hold, where neither its type nor its metadata says so.
CHOICES: dict[str, Sequence[str]] = {
    "include_num_input_tokens_seen": ("all", "non_padding", "no"),
    "debug": ("", *(option.value for option in DebugOption)),
    "report_to": ("none", "all", *INTEGRATION_TO_CALLBACK),
    "torch_compile_backend": [backend.value.lower() for backend in DynamoBackend if backend != DynamoBackend.NO],
    "torch_compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
}

# --- what is refused -------------------------------------------------------------------------------------------------

RESUME = "a run resumed from a checkpoint would not end at the same weights"
NO_HUB = "dynackd uploads nothing; upload a finished directory with the command hf upload"
FEEDS = "dynackd makes the batches and names their columns itself"
MEASURES = "dynackd measures by the task's metrics, on every row"
NO_SHARDS = "what is saved would be a part of the weights; several processes work with torchrun alone"
SCRIPTS = "it is for transformers' example scripts; here the command says what is done"

# Refused in every stage, with the reason, unless the value is the library's own default, which asks for nothing.
REFUSED: dict[str, str] = {
    "output_dir": "it is set by dynackd; use output_dir, at the top of the recipe, instead",
    "resume_from_checkpoint": "it is set by dynackd; use --resume instead",
    "local_rank": "it is set by torchrun",
    "do_train": SCRIPTS,
    "do_eval": SCRIPTS,
    "do_predict": SCRIPTS,
    "save_only_model": "checkpoints are for --resume, which needs the optimizer's state too; for none at all write "
    'save_strategy: "no"',
    "ignore_data_skip": RESUME,
    "dataloader_in_order": RESUME,
    "auto_find_batch_size": f"it begins again with smaller batches on weights that are partly trained, and {RESUME}; "
    "lower per_device_train_batch_size",
    "accelerator_config": f"it changes which process gets which rows, and {RESUME}",
    "enable_jit_checkpoint": "dynackd writes its checkpoints itself; save_steps says how often",
    "push_to_hub": NO_HUB,
    "hub_token": f"{NO_HUB}, and the token would stand in the recipe beside the results",
    "hub_private_repo": NO_HUB,
    "hub_model_id": NO_HUB,
    "hub_strategy": NO_HUB,
    "hub_always_push": NO_HUB,
    "hub_revision": NO_HUB,
    "deepspeed": NO_SHARDS,
    "fsdp": NO_SHARDS,
    "fsdp_config": NO_SHARDS,
    "parallelism_config": NO_SHARDS,
    "remove_unused_columns": FEEDS,
    "label_names": FEEDS,
    "length_column_name": FEEDS,
    "prediction_loss_only": MEASURES,
    "eval_do_concat_batches": MEASURES,
    "eval_use_gather_object": MEASURES,
    "batch_eval_metrics": MEASURES,
    "include_for_metrics": MEASURES,
    "bf16_full_eval": "the weights that are saved would be rounded to 16 bits; bf16 works",
    "fp16_full_eval": "the weights that are saved would be rounded to 16 bits; fp16 works",
    "use_liger_kernel": "Liger has kernels for decoders alone",
    "liger_kernel_config": "Liger has kernels for decoders alone",
    "use_cache": "it is for decoders, which generate text",
    "average_tokens_across_devices": "it is for losses that are counted by tokens; here they are means over rows",
    "debug": "its hooks fail on encoders; dynackd stops at a loss that is no number",
}

# Names from older transformers or other tools -> what is written instead.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "group_by_length": "train_sampling_strategy: group_by_length, which is the default",
    "warmup_ratio": "warmup_steps, where a number below 1 is a share of all steps",
    "no_cuda": "use_cpu: true",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
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

Fields = Mapping[str, Any]


def _says(name: str, *values: Any) -> Callable[[Fields], bool]:
    return lambda fields: fields.get(name, _default(name)) in values


def _workers(fields: Fields) -> bool:
    return fields.get("dataloader_num_workers", 0) > 0


def _checkpoints_layers(fields: Fields) -> bool:
    return bool(fields.get("activation_checkpointing") or fields.get("gradient_checkpointing"))


def _low_rank(fields: Fields) -> bool:
    return str(fields.get("optim")).startswith(("galore", "apollo"))


def _reads_arguments(fields: Fields) -> bool:
    """Whether the optimiser looks at `optim_args` at all; the usual ones take their own fields, such as adam_beta1."""
    return fields.get("optim", "adamw_torch") not in ("adamw_torch", "adamw_torch_fused", "adafactor")


def _tells_trackio(fields: Fields) -> bool:
    return "trackio" in names_in(fields.get("report_to", "none"))


def _logs_or_evaluates_by_steps(fields: Fields) -> bool:
    return _says("logging_strategy", "steps")(fields) or _says("eval_strategy", "steps")(fields)


def _evaluates(fields: Fields) -> bool:
    return _says("eval_strategy", "steps", "epoch")(fields)


def _followers(fields: Fields) -> list[str]:
    """The fields that make a stage follow one of its metrics."""
    follows = {
        "load_best_model_at_end": bool(fields.get("load_best_model_at_end")),
        "save_strategy": fields.get("save_strategy") == "best",
        "lr_scheduler_type": fields.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"),
    }
    return [name for name, does in follows.items() if does]


def _follows(fields: Fields) -> bool:
    return bool(_followers(fields))


FOLLOWER = "load_best_model_at_end, save_strategy: best or lr_scheduler_type: reduce_lr_on_plateau"
WORKERS = "dataloader_num_workers of 1 or more"
# A field that does something only beside another: what it needs, and how that is said.
NEEDS: dict[str, tuple[Callable[[Fields], bool], str]] = {
    "dataloader_persistent_workers": (_workers, WORKERS),
    "dataloader_prefetch_factor": (_workers, WORKERS),
    "dataloader_multiprocessing_context": (_workers, WORKERS),
    "eval_steps": (_says("eval_strategy", "steps"), "eval_strategy: steps"),
    "eval_delay": (_evaluates, "eval_strategy: steps or epoch"),
    "metric_for_best_model": (_follows, FOLLOWER),
    "greater_is_better": (_follows, FOLLOWER),
    "save_steps": (_says("save_strategy", "steps"), "save_strategy: steps"),
    "logging_steps": (_logs_or_evaluates_by_steps, "logging_strategy: steps"),
    "optim_args": (_reads_arguments, "an optimizer as optim that reads it, such as sgd"),
    "optim_target_modules": (_low_rank, "a galore or apollo optimizer as optim"),
    "activation_checkpointing_kwargs": (_checkpoints_layers, "activation_checkpointing: true"),
    "gradient_checkpointing_kwargs": (_checkpoints_layers, "activation_checkpointing: true"),
    "trackio_space_id": (_tells_trackio, "report_to: trackio"),
    "trackio_bucket_id": (_tells_trackio, "report_to: trackio"),
    "trackio_static_space_id": (_tells_trackio, "report_to: trackio"),
}


# --- checking a recipe -----------------------------------------------------------------------------------------------

# Where fields stand -> the fields; a later section overrides an earlier one.
Sections = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class TrainingFields:
    """Fields of TrainingArguments, and for those that the recipe gives, the section that they come from."""

    values: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict)

    def where(self, name: str) -> str:
        """The field as a recipe's path, such as `stages.depth.training.max_steps`."""
        return f"{self.places.get(name, 'training')}.{name}"


def resolve_training(
    defaults: Mapping[str, Any], sections: Mapping[str, Sections], measured: Mapping[str, Sequence[str]]
) -> dict[str, TrainingFields]:
    """stage -> its fields, the defaults below. measured: stage -> the metrics that its evaluation gives.

    Raises `UserError`, which names the field and where it stands, for what can be known without a model, data or this
    machine: an unknown field, a value of another type or out of range, what a stage cannot honour or would silently
    ignore.
    """
    for where, values in {where: values for parts in sections.values() for where, values in parts}.items():
        _check_fields(where, values)
    resolved = {
        stage: TrainingFields(
            {**defaults, **{name: value for _, values in parts for name, value in values.items()}},
            {name: where for where, values in parts for name in values},
        )
        for stage, parts in sections.items()
    }
    for stage, fields in resolved.items():
        if stage != FINETUNE:
            _check_supported(stage, fields)
        _check_together(stage, fields, measured[stage])
    _check_needs(resolved)
    return resolved


def _check_fields(where: str, fields: Fields) -> None:
    for name, instead in RENAMED.items():
        if name in fields:
            raise UserError(f"unknown key '{where}.{name}'; write {instead}")
    refuse_unknown_keys(where, fields, list(FIELDS))
    for name, value in fields.items():
        check_field(f"{where}.{name}", name, value)


def check_field(where: str, name: str, value: Any) -> None:
    """Refuse a field that dynackd sets itself or cannot honour, and a value that is not one of the field's."""
    if name in REFUSED and not (type(value) is type(_default(name)) and value == _default(name)):
        raise UserError(f"{where} is not possible: {REFUSED[name]}; remove it")
    _check_type(where, HINTS[name], value)
    if choices := _choices(name):
        for text in names_in(value):
            one_of(where, text, choices)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, not {shown(value)}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"{where} is too large a number: {shown(value)}")
    holds, expected = RANGES.get(name, (lambda _: True, ""))
    if value is not None and not holds(value):
        raise UserError(f"{where} must be {expected}, not {shown(value)}")
    if name == "report_to" and (value is None or ({"none", "all"} & {*names_in(value)} and len(names_in(value)) > 1)):
        raise UserError(f"{where} must be none, all, or a list of other names, not {shown(value)}")


def _default(name: str) -> Any:
    known = FIELDS[name]
    return known.default if known.default_factory is dataclasses.MISSING else known.default_factory()


def names_in(value: Any) -> list[str]:
    """The texts of a value that is a text or a list of texts."""
    return [text for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)]


TYPE_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list of texts",
    dict: "a mapping",
}


def _members(hint: Any) -> list[Any]:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    members = list(typing.get_args(hint)) if union else [hint]
    # A mapping may also be the JSON text of one, or its file's name; a recipe has no need of either.
    mappings = any((typing.get_origin(member) or member) is dict for member in members)
    return [member for member in members if not (mappings and member is str)]


def _check_type(where: str, hint: Any, value: Any) -> None:
    members = _members(hint)
    if any(_fits(value, member) for member in members):
        return
    kinds = [typing.get_origin(member) or member for member in members]
    names = list(dict.fromkeys(TYPE_NAMES[kind] for kind in kinds if kind in TYPE_NAMES))
    if type(None) in members:
        names.append("null")
    raise UserError(f"{where} must be {' or '.join(names)}, not {shown(value)}")


def _fits(value: Any, member: Any) -> bool:
    kind = typing.get_origin(member) or member
    if kind is typing.Literal:
        return value in typing.get_args(member) and type(value) in map(type, typing.get_args(member))
    if kind is float:
        return type(value) in (int, float)
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return type(value) is kind


def _choices(name: str) -> list[str]:
    """The names that a field's type, its metadata or our table allow; none where it is free."""
    enums: list[Any] = [member for member in _members(HINTS[name]) if isinstance(member, enum.EnumMeta)]
    named = [str(option.value) for kind in enums for option in kind]
    return named or list(FIELDS[name].metadata.get("choices") or CHOICES.get(name, ()))


def _check_supported(stage: str, fields: TrainingFields) -> None:
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
    values, where = fields.values, fields.where
    if values.get("fp16") and values.get("bf16"):
        raise UserError(f"{where('fp16')} and {where('bf16')} exclude each other; give one of them")
    metric = (values.get("metric_for_best_model") or "loss").removeprefix("eval_")
    for name in _followers(values):
        if not _evaluates(values):
            raise UserError(f"{where(name)}: {shown(values[name])} needs eval_strategy: steps or epoch")
        if metric not in measured:
            raise UserError(
                f"{where(name)}: {shown(values[name])} follows the metric '{metric}', which the stage {stage} does not "
                f"measure; name one of its own as metric_for_best_model: {listed(measured)}"
            )


def _check_needs(resolved: Mapping[str, TrainingFields]) -> None:
    """Refuse a field that does nothing in any of the stages that it is given for."""
    for name, (met, needed) in NEEDS.items():
        given = [fields for fields in resolved.values() if name in fields.places]
        asked = [fields for fields in given if fields.values[name] not in (None, False)]
        for where in {fields.where(name) for fields in asked}:
            if not any(met(fields.values) for fields in asked if fields.where(name) == where):
                raise UserError(f"{where} does nothing without {needed}; add that or remove it")


# --- checking this machine -------------------------------------------------------------------------------------------


class _Dry(TrainingArguments):
    """TrainingArguments that look at everything and touch no device, so that those of all stages can be tried."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        self._n_gpu, self.distributed_state = 0, None
        return torch.device("cpu")


SCRATCH_STEPS = 1000


def check_machine(fields: TrainingFields) -> None:
    """Refuse (`UserError`, with the library's own reason) what this machine cannot do, or what only the library can
    tell: a package that is not installed, a device that is not there, arguments of the optimiser or the schedule."""
    arguments = _tried("training", lambda: _Dry(output_dir="unused", **with_device(fields.values)))
    callbacks = get_reporting_integration_callbacks(arguments.report_to)
    _tried(fields.where("report_to"), lambda: [make() for make in callbacks])
    optimizer = _tried(fields.where("optim"), lambda: _scratch_optimizer(arguments))
    if optimizer is not None:
        # Without a warm-up, which would put off the first use of the arguments.
        schedule = (arguments.lr_scheduler_type, optimizer, 0, SCRATCH_STEPS, arguments.lr_scheduler_kwargs)
        _tried(fields.where("lr_scheduler_type"), lambda: get_scheduler(*schedule))


def _scratch_optimizer(arguments: TrainingArguments) -> torch.optim.Optimizer | None:
    """The optimiser over a few weights, or None for one that chooses among the modules of the model itself."""
    try:
        make, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    except ValueError as error:
        if "need to pass a" in str(error):
            return None
        raise
    optimizer: torch.optim.Optimizer = make(torch.nn.Linear(2, 2).parameters(), **options)
    return optimizer


def with_device(fields: Fields) -> dict[str, Any]:
    """The fields, and where they do not say so, that a machine without another device trains on its CPU; without that
    the library refuses bf16 there."""
    return {"use_cpu": not torch.accelerator.is_available(), **fields}


def _tried(where: str, make: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again when the stage begins
            return make()
    except Exception as error:  # whatever the library or an integration raises is its reason
        raise UserError(f"{where}: {reason_of(error)}") from error
