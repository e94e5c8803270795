"""Training all sub-networks at once, on `transformers.Trainer`: its arguments, callbacks, logging, mixed precision,
checkpoints and resume are the user's too."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from dynackd.distill.projection import TERM as PROJECTED
from dynackd.distill.projection import Projection
from dynackd.distill.settings import DistillationSettings
from dynackd.distill.signals import Student, distillation_loss, term_counts
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.grid import Grid
from dynackd.measure.evaluation import subnet_metrics
from dynackd.subnet import Geometry, Subnet, SubnetSpec, full
from dynackd.supernet.network import Supernet
from dynackd.tasks.common_words import is_shared, read_both
from dynackd.tasks.kind import LABELLED, Task
from dynackd.training.resumable import REAL_ROWS, ResumableTrainer
from dynackd.training.samplers import SubnetSampler


@dataclass(frozen=True)
class Stage:
    """One stage: which sub-networks of the grid it trains, and which sub-network of the teacher each learns from."""

    name: str
    grid_of: Callable[[Grid], Grid]
    teacher_of: Callable[[Subnet, Geometry], Subnet]


def _of_its_width(subnet: Subnet, geometry: Geometry) -> Subnet:
    return replace(subnet.at_full_depth(geometry), hidden=geometry.hidden)


# DynaBERT §2.1.2 and §2.2: all widths learn from the fine-tuned model; then all widths x depths, and hidden sizes, each
# from the width stage's network of the same width at full depth and hidden size.
WIDTH_STAGE = Stage(
    "width", lambda grid: replace(grid, depths=(1.0,), hidden=(1.0,)), lambda _, geometry: full(geometry)
)
DEPTH_STAGE = Stage("depth", lambda grid: grid, _of_its_width)
# Of an encoder, before any task: all widths x depths, each from the whole encoder.
GENERAL_STAGE = Stage("general", lambda grid: grid, lambda _, geometry: full(geometry))
# One sub-network of either, which learns from the fine-tuned model once more.
POLISH_STAGE = Stage("polish", lambda grid: grid, lambda _, geometry: full(geometry))
SUPERNET_STAGES = (WIDTH_STAGE, DEPTH_STAGE, POLISH_STAGE, GENERAL_STAGE)


# TrainingArguments that a supernet's training cannot honour, and why.
UNSUPPORTED_ARGUMENTS = {
    "gradient_checkpointing": "the recomputed layers would run at full width",
    "activation_checkpointing": "the recomputed layers would run at full width",
    "label_smoothing_factor": "labels enter through the distillation weight 'ce'",
    "load_best_model_at_end": "a supernet has no single best checkpoint",
    "neftune_noise_alpha": "teacher and student would see different embeddings",
    "torch_compile": "each width, depth and length would be compiled anew",
    "torch_compile_backend": "each width, depth and length would be compiled anew",
    "torch_compile_mode": "each width, depth and length would be compiled anew",
    "torch_empty_cache_steps": "its step is not the stock one, which empties the cache",
    "ddp_static_graph": "each step runs other sub-networks",
    "deepspeed": "sub-networks share weights that it would split",
    "fsdp": "sub-networks share weights that it would split",
}
INSIDE_BACKWARD = "it changes the weights inside the backward pass, of which a step has several"
AVERAGED = "what is measured and saved would not be its averaged weights"
# Optimizers that its training cannot honour, and why.
UNSUPPORTED_OPTIMIZERS = {
    "lomo": INSIDE_BACKWARD,
    "adalomo": INSIDE_BACKWARD,
    "galore_adamw_layerwise": INSIDE_BACKWARD,
    "galore_adamw_8bit_layerwise": INSIDE_BACKWARD,
    "galore_adafactor_layerwise": INSIDE_BACKWARD,
    "apollo_adamw_layerwise": INSIDE_BACKWARD,
    "schedule_free_radam": AVERAGED,
    "schedule_free_adamw": AVERAGED,
    "schedule_free_sgd": AVERAGED,
}


def check_arguments(args: TrainingArguments) -> None:
    """Refuse (`UserError`) training arguments that a supernet's training cannot honour."""
    for name, why in UNSUPPORTED_ARGUMENTS.items():
        if getattr(args, name, None):
            raise UserError(f"training.{name} is not possible for a supernet: {why}; remove it")
    optimizer = str(getattr(args.optim, "value", args.optim))
    if reason := UNSUPPORTED_OPTIMIZERS.get(optimizer):
        raise UserError(f"training.optim: {optimizer} is not possible for a supernet: {reason}; take another")


def refuse_several(args: TrainingArguments) -> None:
    """Refuse (`UserError`) what a step computes beside the supernet where several processes train together."""
    if args.world_size > 1:
        raise UserError(f"the distillation term '{PROJECTED}' is not possible with several processes; start one alone")


def _common(subnet: Subnet, other: Subnet) -> int:
    """How many first layers two sub-networks of one hidden size share; at least one is left to run."""
    same = (mine == theirs for mine, theirs in zip(subnet.layers[:-1], other.layers, strict=False))
    return sum(takewhile(bool, same))


def metric_names(specs: Sequence[SubnetSpec], names: Sequence[str]) -> list[str]:
    """What `SupernetTrainer.evaluate` calls each metric of each sub-network, without its prefix: `w0.5_d1_accuracy`, or
    `w0.5_d1_h0.5_accuracy`."""
    sizes = ["_".join(f"{axis[0]}{share:g}" for axis, share in spec.to_dict().items()) for spec in specs]
    return [f"{size}_{name}" for size in sizes for name in names]


class SupernetTrainer(ResumableTrainer):
    """Trains the sub-networks of one stage together: for each batch every sampled sub-network runs forward and
    backward, the gradients accumulate in the shared weights, and one optimiser step follows.

    The loss is the mean over sub-networks of the distillation total; each term is logged under its name.
    """

    def __init__(
        self,
        supernet: Supernet,
        teacher: Teacher,
        stage: Stage,
        task: Task,
        settings: DistillationSettings,
        args: TrainingArguments,
        sampler: SubnetSampler | None = None,
        **options: Any,
    ) -> None:
        check_arguments(args)
        sizes = (supernet.geometry.hidden, teacher.network.geometry.hidden)
        self.projection = Projection(*sizes, args.seed) if settings.active({PROJECTED: 0}) else None
        if self.projection is not None:
            refuse_several(args)
            supernet.add_module(PROJECTED, self.projection)  # so it is optimised, and in checkpoints
        super().__init__(supernet, args, together=task.kind.together, **options)
        self.stage, self.task, self.settings = stage, task, settings
        self.sampler = sampler or SubnetSampler()
        self.names = {subnet: spec for spec, subnet in supernet.subnets.items()}
        self.geometry, self.teacher, self.config = supernet.geometry, teacher, supernet.model.config
        self.teacher.network.to(args.device)
        # The supernet's forward takes **batch, from which the Trainer cannot tell which columns are inputs.
        tokenizer = cast(PreTrainedTokenizerBase, self.processing_class)
        both = [name for name in getattr(self.train_dataset, "column_names", ()) if is_shared(name)]
        self._set_signature_columns([*tokenizer.model_input_names, *task.kind.label_columns, LABELLED, *both])
        self._terms: dict[str, Tensor] = {}
        self._terms_counts: dict[str, int] = {}

    def _set_signature_columns(self, names: list[str]) -> None:
        self._signature_columns: Any = names

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock Trainer's; on a CPU the attention is plain meanwhile: backward through the fused kernel takes up
        to twice the time there, in bf16 above all."""
        networks = (self.teacher.network, cast(Supernet, self.model)) if self.args.device.type == "cpu" else ()
        models = [network.model for network in networks]
        before = [model.config._attn_implementation for model in models]
        for model in models:
            model.set_attn_implementation("eager")
        try:
            return super().train(*args, **kwargs)
        finally:
            for model, name in zip(models, before, strict=True):
                model.set_attn_implementation(name)
            if self.projection is not None:
                delattr(self.accelerator.unwrap_model(self.model), PROJECTED)

    def _counts(self, batch: Mapping[str, Any]) -> dict[str, int]:
        rows = {name: tensor[: batch.get(REAL_ROWS)] for name, tensor in batch.items() if name != REAL_ROWS}
        return term_counts(self.settings, self.task.kind, rows)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        model.train()
        batch = inputs
        scales = self._scales(batch, num_items_in_batch)
        whole = self._prepare_inputs({name: value for name, value in batch.items() if name != REAL_ROWS})
        inputs, _ = self.task.kind.split(read_both(whole)[0])
        subnets = self.sampler.sample(list(self.names), self.args.seed, self.state.global_step)
        scale = 1 / (len(subnets) * self.current_gradient_accumulation_steps)
        bunches, terms = self._bunches(subnets), list[tuple[str, str, Tensor]]()
        embedded = {size: self._embedded(model, inputs, size) for size in {subnet.hidden for subnet in subnets}}
        lasts = {bunch[0].hidden: bunch for bunch in bunches}
        whole_last = any(len(subnet.layers) == self.geometry.layers for subnet in bunches[-1])
        total = torch.zeros((), device=self.args.device)
        settings = self.settings.at(self.state.global_step / max(1, self.state.max_steps))
        for imitated, group in groupby(bunches, key=lambda bunch: self._imitated(bunch[0])):
            with self.compute_loss_context_manager():
                signal = self.teacher.signal(whole, settings, imitated)
            for bunch in group:
                whole_graph, leaf = embedded[bunch[0].hidden]
                state = whole_graph if bunch is lasts[bunch[0].hidden] else leaf
                synchronises = whole_last and bunch is bunches[-1]
                with nullcontext() if synchronises else self.accelerator.no_sync(model):
                    done = self._run(model, bunch, state, inputs)
                    with self.compute_loss_context_manager():
                        loss, of_each = distillation_loss(settings, done, signal, scales)
                    loss = loss * scale
                    self.accelerator.backward(loss)
                total += loss.detach()
                names = [f"({self.names.get(subnet, subnet)})" for subnet in bunch]
                terms += [(name, *term) for name, own in zip(names, of_each, strict=True) for term in own.items()]
        if not whole_last:
            self._synchronise(model)
        self._check_loss(total, batch, terms)
        for _, name, value in terms:
            value = value if scales is None else value * scales[name]
            self._terms[name] = self._terms.get(name, torch.zeros((), device=value.device)) + value
            self._terms_counts[name] = self._terms_counts.get(name, 0) + 1
        return total

    def _embedded(self, model: nn.Module, inputs: dict[str, Tensor], hidden: int) -> tuple[Tensor, Tensor]:
        """(the first hidden state of all sub-networks of this hidden size, the same as a leaf).

        The embedding layer runs once for all of them, and once backward, with the gradient of all: the last takes the
        first, the others the leaf."""
        with self.compute_loss_context_manager():
            embedded = self.accelerator.unwrap_model(model).embed(hidden, **inputs)
        leaf = embedded.detach().requires_grad_()
        embedded.register_hook(lambda grad: grad if leaf.grad is None else grad + leaf.grad)
        return embedded, leaf

    def _imitated(self, subnet: Subnet) -> Subnet:
        """The sub-network of the teacher that this one learns from."""
        return self.stage.teacher_of(subnet, self.teacher.network.geometry)

    def _bunches(self, subnets: list[Subnet]) -> list[list[Subnet]]:
        """The sub-networks of a step, those with the same teacher, hidden size and first layer together, the deepest
        first; the bunch of the full network, where it is among them, comes last, since it alone touches every weight
        and so synchronises processes."""

        def bunch_of(subnet: Subnet) -> Any:
            return self._imitated(subnet), subnet.hidden, -subnet.layers[0].index, subnet.layers[0]

        ordered = sorted(subnets, key=lambda subnet: (bunch_of(subnet), -len(subnet.layers)))
        return [list(bunch) for _, bunch in groupby(ordered, key=bunch_of)]

    def _synchronise(self, model: nn.Module) -> None:
        """The mean gradients of all processes, after a step whose last bunch does not touch every weight: DDP would
        wait for the others. All processes train the same sub-networks, so the same weights have none."""
        if self.args.world_size > 1 and self.accelerator.sync_gradients:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad = cast(Tensor, self.accelerator.reduce(parameter.grad, "mean"))

    def _run(
        self, model: nn.Module, bunch: list[Subnet], embedded: Tensor, inputs: dict[str, Tensor]
    ) -> list[Student]:
        """The sub-networks of a bunch, which share the first layers that they have in common."""
        done: list[Student] = []
        for subnet in bunch:
            shared, states = max(
                ((_common(subnet, other), own.hidden_states) for other, own in zip(bunch, done, strict=False)),
                default=(0, (embedded,)),
                key=lambda item: item[0],
            )
            with self.compute_loss_context_manager():
                output = model(subnet, below=states[: shared + 1], **inputs)
                outputs = self.task.kind.read(output.outputs, inputs, self.config)
            matched = self.teacher.matched(subnet, self.geometry)
            states = output.hidden_states
            projected = self.projection(states) if self.projection is not None else ()
            done.append(Student(outputs, states, matched, subnet.width(self.geometry), projected))
        return done

    def _gathered(self, tensor: Tensor) -> Tensor:
        """A tensor of all processes, whose batches may differ in length."""
        if tensor.ndim > 1:
            tensor = cast(Tensor, self.accelerator.pad_across_processes(tensor, dim=1))
        return cast(Tensor, self.accelerator.gather_for_metrics(tensor))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The mean of each unweighted term since the last log goes beside the loss."""
        if "loss" in logs and self._terms:
            sums = self.accelerator.reduce(torch.stack(list(self._terms.values())), "mean")
            for name, value in zip(self._terms, cast(Tensor, sums).tolist(), strict=True):
                logs[f"loss_{name}"] = round(value / self._terms_counts[name], 6)
            self._terms, self._terms_counts = {}, {}
        super().log(logs, *args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The task's metrics of every sub-network, as `eval_w0.5_d0.75_accuracy`."""
        datasets = eval_dataset if eval_dataset is not None else self.eval_dataset
        datasets = datasets if isinstance(datasets, dict) else {"": datasets}
        batches = {suffix: self.get_eval_dataloader(dataset) for suffix, dataset in datasets.items()}
        rows = subnet_metrics(
            self.accelerator.unwrap_model(self.model),
            list(self.names),
            self.task,
            dict(batches),
            gather=self._gathered,
        )
        metrics = {
            f"{metric_key_prefix}_{metric_names([spec], [name])[0]}": value
            for spec, row in zip(self.names.values(), rows, strict=True)
            for name, value in row.items()
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
