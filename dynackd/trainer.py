"""Training all sub-networks at once, on `transformers.Trainer`: its arguments, callbacks, logging, mixed precision,
checkpoints and resume are the user's too."""

import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from dynackd.errors import UserError, shown
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
    def parse(cls, text: Any) -> "SubnetSampler":
        """From a recipe's `all` or `sandwich(2)`; `UserError` otherwise."""
        found = re.fullmatch(r"(all)|(sandwich)\(([0-9]{1,4})\)", text) if isinstance(text, str) else None
        if found is None:
            raise UserError(f"grid.sampler {shown(text)} is unknown; it is all, or sandwich(2)")
        return cls(str(found[1] or found[2]), int(found[3] or 0))

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

    def __init__(self, model: nn.Module, args: TrainingArguments, **options: Any) -> None:
        one_device(args)
        super().__init__(model, args, **options)
        # Classifiers take **kwargs, from which the Trainer concludes that they normalise the loss by the items in all
        # processes' batches; they do not, and loss and gradients would come out times the number of processes.
        self.model_accepts_loss_kwargs = False

    def _get_dataloader(self, *args: Any, **options: Any) -> Any:
        """As the stock Trainer's, but `dataloader_drop_last` is for training: a metric counts every row."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and options.get("is_training", False)
        try:
            return super()._get_dataloader(*args, **options)
        finally:
            self.args.dataloader_drop_last = drop_last

    def train(self, *args: Any, **options: Any) -> Any:
        """As the stock Trainer's; `UserError` where no step would be made."""
        check_steps(len(cast(Dataset, self.train_dataset)), self.args)
        return super().train(*args, **options)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As the stock Trainer's; a warm-up that never ends is told."""
        if self.args.get_warmup_steps(num_training_steps) >= num_training_steps > 1:
            warnings.warn(
                f"training.warmup_steps {self.args.warmup_steps:g} is no less than the {num_training_steps:,} steps of "
                f"this training: the learning rate never reaches {self.args.learning_rate:g}",
                stacklevel=2,
            )
        return super().create_scheduler(num_training_steps, optimizer)

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


def one_device(args: TrainingArguments) -> int:
    """Let one process use one device, and return how many it would have used.

    Where there are several, the stock Trainer wraps the model in `nn.DataParallel`, which cannot carry a supernet's
    outputs and gives a stock model larger batches than the recipe says.
    """
    count = args.n_gpu
    if count > 1:
        args._n_gpu = 1
    return count


def check_steps(rows: int, args: TrainingArguments) -> None:
    """Refuse (`UserError`) a training in which no step would be made: `dataloader_drop_last` drops the only batch."""
    together = args.per_device_train_batch_size * args.world_size
    if args.train_sampling_strategy == "batch_rebalance":
        together *= args.gradient_accumulation_steps  # it drops what does not fill a whole step
    if rows == 0 or (args.dataloader_drop_last and rows < together):
        raise UserError(
            f"nothing would be trained: the {rows:,} training rows do not fill one batch of {together:,} "
            f"(per_device_train_batch_size {args.per_device_train_batch_size:,}, processes {args.world_size}), and "
            "training.dataloader_drop_last drops what is not full; lower the batch size or remove it"
        )


def set_dropout(model: nn.Module, rate: float | None) -> None:
    """Give every dropout in the model this rate, for training alone: the config keeps its own. None: change nothing."""
    for module in model.modules():
        if rate is not None and isinstance(module, nn.Dropout):
            module.p = rate


def _common(layers: tuple[int, ...], others: tuple[int, ...]) -> int:
    """How many first layers two sub-networks of one width share; at least one is left to run."""
    same = (mine == theirs for mine, theirs in zip(layers[:-1], others, strict=False))
    return sum(takewhile(bool, same))


def metric_names(specs: Sequence[SubnetSpec], names: Sequence[str]) -> list[str]:
    """What `SupernetTrainer.evaluate` calls each metric of each sub-network, without its prefix: `w0.5_d1_accuracy`."""
    return [f"w{spec.width:g}_d{spec.depth:g}_{name}" for spec in specs for name in names]


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
        super().__init__(supernet, args, **options)
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
            f"{metric_key_prefix}_{metric_names([spec], [name])[0]}": value
            for spec, row in zip(self.specs, rows, strict=True)
            for name, value in row.items()
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
