"""What a recipe's training asks of this machine: packages, devices, arguments that only the library can judge."""

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from dynackd.errors import UserError, reason_of
from dynackd.training.arguments import Fields, TrainingFields


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
