"""Training all sub-networks at once, on `transformers.Trainer`: its arguments, callbacks, logging, mixed precision,
checkpoints and resume are the user's too."""

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from dynackd.distill import DistillationSettings, Student, TeacherSignal, distillation_loss
from dynackd.errors import UserError
from dynackd.evaluation import subnet_metrics
from dynackd.spec import FULL, Grid, SubnetSpec
from dynackd.supernet import Supernet
from dynackd.tasks import Task


@dataclass(frozen=True)
class Stage:
    """One stage: which sub-networks of the grid it trains, and which sub-network of the teacher each learns from."""

    name: str
    grid_of: Callable[[Grid], Grid]
    teacher_spec: Callable[[SubnetSpec], SubnetSpec]


# DynaBERT §2.1.2 and §2.2: all widths learn from the fine-tuned model; then all widths x depths, each from the width
# stage's network of the same width at full depth.
WIDTH_STAGE = Stage("width", lambda grid: replace(grid, depths=(1.0,)), lambda spec: FULL)
DEPTH_STAGE = Stage("depth", lambda grid: grid, lambda spec: SubnetSpec(spec.width, 1.0))


def sample_all(specs: list[SubnetSpec], _count: int, _rng: random.Random) -> list[SubnetSpec]:
    """Every sub-network at every step, as both papers do."""
    return specs


def sample_sandwich(specs: list[SubnetSpec], count: int, rng: random.Random) -> list[SubnetSpec]:
    """The largest, the smallest and `count` random ones between (Yu and Huang 2019, "sandwich rule")."""
    if len(specs) <= 2:
        return specs
    largest, *between, smallest = specs
    return [largest, *rng.sample(between, min(count, len(between))), smallest]


SAMPLERS: dict[str, Callable[[list[SubnetSpec], int, random.Random], list[SubnetSpec]]] = {
    "all": sample_all,
    "sandwich": sample_sandwich,
}


@dataclass(frozen=True)
class SubnetSampler:
    """Which sub-networks train at a step: `all`, or `sandwich(k)`."""

    name: str = "all"
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "SubnetSampler":
        """From a recipe's `all` or `sandwich(2)`; `UserError` otherwise."""
        name, bracket, rest = str(text).partition("(")
        count = rest.removesuffix(")")
        if name not in SAMPLERS or bool(bracket) != (name == "sandwich") or (bracket and not count.isdigit()):
            raise UserError(f"grid.sampler {text!r} is unknown; it is all, or sandwich(2)")
        return cls(name, int(count or 0))

    def sample(self, specs: list[SubnetSpec], seed: int, step: int) -> list[SubnetSpec]:
        """The sub-networks of this step, the same on every process and after every resume; `specs` largest first."""
        return SAMPLERS[self.name](specs, self.count, random.Random(f"{seed}/{step}"))


class _EpochLengthSampler(LengthGroupedSampler):
    """Length grouping whose order depends on the seed and the epoch alone, so that a run resumed in a later epoch
    sees the same batches as an unbroken one (the stock sampler draws from the global generator)."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        return super().__iter__()


class ResumableTrainer(Trainer):
    """The stock Trainer with data that a resumed run sees in the same order, also when grouped by length."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Classifiers take **kwargs, from which the Trainer concludes that they normalise the loss by the items in all
        # processes' batches; they do not, and loss and gradients would come out times the number of processes.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # The data set that is passed in has lost its length column already.
        lengths = cast(Dataset, self.train_dataset)[self.args.length_column_name][:]
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return _EpochLengthSampler(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths, seed)


# TrainingArguments that a supernet's training cannot honour, and why.
UNSUPPORTED_ARGUMENTS = {
    "gradient_checkpointing": "the recomputed layers would run at full width",
    "activation_checkpointing": "the recomputed layers would run at full width",
    "label_smoothing_factor": "labels enter through the distillation weight 'ce'",
    "load_best_model_at_end": "a supernet has no single best checkpoint",
    "neftune_noise_alpha": "teacher and student would see different embeddings",
    "torch_compile": "each width, depth and length would be compiled anew",
    "deepspeed": "sub-networks share weights that it would split",
    "fsdp": "sub-networks share weights that it would split",
}


def check_arguments(args: TrainingArguments) -> None:
    """Refuse (`UserError`) training arguments that a supernet's training cannot honour."""
    for name, reason in UNSUPPORTED_ARGUMENTS.items():
        if getattr(args, name, None):
            raise UserError(f"training.{name} is not possible for a supernet: {reason}; remove it")


def set_dropout(model: nn.Module, rate: float | None) -> None:
    """Give every dropout in the model this rate, for training alone: the config keeps its own. None: change nothing."""
    for module in model.modules():
        if rate is not None and isinstance(module, nn.Dropout):
            module.p = rate


def _common(layers: tuple[int, ...], others: tuple[int, ...]) -> int:
    """How many first layers two sub-networks of one width share; at least one is left to run."""
    same = (mine == theirs for mine, theirs in zip(layers[:-1], others, strict=False))
    return sum(takewhile(bool, same))


class SupernetTrainer(ResumableTrainer):
    """Trains the sub-networks of one stage together: for each batch every sampled sub-network runs forward and
    backward, the gradients accumulate in the shared weights, and one optimiser step follows.

    The loss is the mean over sub-networks of the distillation total; each term is logged under its name.
    """

    def __init__(
        self,
        supernet: Supernet,
        teacher: Supernet,
        stage: Stage,
        task: Task,
        settings: DistillationSettings,
        args: TrainingArguments,
        sampler: SubnetSampler | None = None,
        **options: Any,
    ) -> None:
        check_arguments(args)
        super().__init__(model=supernet, args=args, **options)
        self.stage, self.task, self.settings = stage, task, settings
        self.sampler = sampler or SubnetSampler()
        self.specs = supernet.grid.specs()
        self.teacher = teacher.frozen_copy().to(args.device)
        # The supernet's forward takes **batch, from which the Trainer cannot tell which columns are inputs.
        tokenizer = cast(PreTrainedTokenizerBase, self.processing_class)
        self._set_signature_columns([*tokenizer.model_input_names, "labels"])
        self._terms: dict[str, Tensor] = {}
        self._terms_count = 0

    def _set_signature_columns(self, names: list[str]) -> None:
        self._signature_columns: Any = names

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock Trainer's; on a CPU the attention is plain meanwhile: backward through the fused kernel takes up
        to twice the time there, in bf16 above all."""
        models = [net.model for net in (self.teacher, cast(Supernet, self.model)) if self.args.device.type == "cpu"]
        before = [model.config._attn_implementation for model in models]
        for model in models:
            model.set_attn_implementation("eager")
        try:
            return super().train(*args, **kwargs)
        finally:
            for model, name in zip(models, before, strict=True):
                model.set_attn_implementation(name)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        specs = self.sampler.sample(self.specs, self.args.seed, self.state.global_step)
        scale = 1 / (len(specs) * self.current_gradient_accumulation_steps)
        # The embedding layer is not sliced: it runs once, and once backward, with the gradient of all sub-networks.
        supernet = self.accelerator.unwrap_model(model)
        with self.compute_loss_context_manager():
            embedded = supernet.embed(**inputs)
        leaf = embedded.detach().requires_grad_()
        embedded.register_hook(lambda grad: grad if leaf.grad is None else grad + leaf.grad)
        total = torch.zeros((), device=self.args.device)
        settings = self.settings.at(self.state.global_step / max(1, self.state.max_steps))
        bunches = self._bunches(supernet, specs)
        for teacher_spec, group in groupby(bunches, key=lambda bunch: self.stage.teacher_spec(bunch[0])):
            signal = self._teacher_signal(teacher_spec, inputs, settings)
            for bunch in group:
                last = bunch is bunches[-1]
                with nullcontext() if last else self.accelerator.no_sync(model):
                    loss = self._bunch_loss(model, bunch, signal, embedded if last else leaf, inputs, labels) * scale
                    self.accelerator.backward(loss)
                total += loss.detach()
        return total

    def _bunches(self, supernet: Supernet, specs: list[SubnetSpec]) -> list[list[SubnetSpec]]:
        """The sub-networks of a step, those with the same width and first layer together, the deepest first; the bunch
        of the full network comes last, since it alone touches every weight and so synchronises processes."""

        def bunch_of(spec: SubnetSpec) -> tuple[float, int, float]:
            return self.stage.teacher_spec(spec).width, -supernet.resolve(spec).layers[0], spec.width

        ordered = sorted(specs, key=lambda spec: (bunch_of(spec), -spec.depth))
        return [list(bunch) for _, bunch in groupby(ordered, key=bunch_of)]

    def _bunch_loss(
        self,
        model: nn.Module,
        bunch: list[SubnetSpec],
        signal: TeacherSignal,
        embedded: Tensor,
        inputs: dict[str, Tensor],
        labels: Tensor,
    ) -> Tensor:
        """The sum over the sub-networks of a bunch, which share the first layers that they have in common."""
        done: list[Student] = []
        for spec in bunch:
            layers = self.teacher.resolve(spec).layers
            shared, states = max(
                ((_common(layers, other.layers), other.hidden_states) for other in done),
                default=(0, (embedded,)),
                key=lambda item: item[0],
            )
            with self.compute_loss_context_manager():
                output = model(spec, below=states[: shared + 1], **inputs)
            done.append(Student(output.logits, output.hidden_states, layers, spec.width))
        with self.compute_loss_context_manager():
            loss, terms = distillation_loss(signal.settings, done, signal, labels)
        for name, value in ((name, value) for own in terms for name, value in own.items()):
            self._terms[name] = self._terms.get(name, torch.zeros((), device=value.device)) + value
        self._terms_count += len(done)
        return loss

    def _teacher_signal(
        self, teacher_spec: SubnetSpec, inputs: dict[str, Tensor], settings: DistillationSettings
    ) -> TeacherSignal:
        with torch.no_grad(), self.compute_loss_context_manager():
            output = self.teacher(teacher_spec, **inputs)
        regression = self.task.kind == "regression"
        return TeacherSignal(settings, output.logits, output.hidden_states, inputs["attention_mask"], regression)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The mean of each unweighted term since the last log goes beside the loss."""
        if "loss" in logs and self._terms_count:
            for name, value in self._terms.items():
                logs[f"loss_{name}"] = round(float(value) / self._terms_count, 6)
            self._terms, self._terms_count = {}, 0
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
            self.specs,
            self.task,
            dict(batches),
            gather=self.accelerator.gather_for_metrics,
        )
        metrics = {
            f"{metric_key_prefix}_w{spec.width:g}_d{spec.depth:g}_{name}": value
            for spec, row in zip(self.specs, rows, strict=True)
            for name, value in row.items()
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
