"""`transformers.Trainer`, whose results depend neither on how often it was resumed nor on how batches are spread."""

import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dynackd.errors import UserError
from dynackd.system.places import disk_trouble
from dynackd.training.order import EpochLengthSampler, MixedSampler, Mixture, TogetherSampler


class _StopCallback(TrainerCallback):
    """Ends a training that is asked to stop, with a checkpoint of the step just done."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked, self.stopped = asked, False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopped:  # the loop ends an epoch that is cut off, too
            control.should_save = control.should_evaluate = False


# How many first rows of a batch are no repetitions, which fill up the last batch of several processes.
REAL_ROWS = "real_rows"
ROWS = "rows"  # what a plain classifier's loss is a mean over


class ResumableTrainer(Trainer):
    """The stock Trainer whose result depends on the seed and the batch alone: not on how often it was resumed, and but
    for rounding not on how the batch is spread over processes and the steps of gradient accumulation either.

    A loss that is a mean over a batch counts in each part of the batch by the part's share of what it is a mean over.
    stop: asked after each step whether to end there, with a checkpoint. together: the column of the training rows whose
    equal values are rows that come one behind the other; a batch's end may part the last ones. mixture: which of the
    training rows an epoch has; by default all.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        stop: Callable[[], bool] = lambda: False,
        together: str | None = None,
        mixture: Mixture | None = None,
        **options: Any,
    ) -> None:
        one_device(args)
        super().__init__(model, args, **options)
        # Classifiers take **kwargs, from which the Trainer concludes that they normalise the loss by the items in all
        # processes' batches; they do not, and loss and gradients would come out times the number of processes.
        self.model_accepts_loss_kwargs = False
        _check_spread(self.args)
        self._together, self._mixture = together, mixture
        self._stop = _StopCallback(lambda: self._in_any_process(stop()))
        self.add_callback(self._stop)
        for printing in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):  # see `progress.py`
            self.remove_callback(printing)

    @property
    def stopped(self) -> bool:
        """Whether the training ended because it was asked to."""
        return self._stop.stopped

    @property
    def _epoch_rows(self) -> int:
        return len(cast(Dataset, self.train_dataset) if self._mixture is None else self._mixture)

    def _in_any_process(self, flag: bool) -> bool:
        return flag if self.args.world_size == 1 else self._summed([int(flag)])[0] > 0

    def _summed(self, numbers: Sequence[int]) -> list[int]:
        """The sums over all processes, each of which must call this."""
        summed = self.accelerator.reduce(torch.tensor(numbers, device=self.args.device), "sum")
        return cast(list[int], cast(Tensor, summed).tolist())

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
        check_steps(self._epoch_rows, self.args)
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
        # The data set that is passed in has lost its length column already.
        rows, by_length = cast(Dataset, self.train_dataset), self.args.train_sampling_strategy == "group_by_length"
        if not by_length and self._together is None and self._mixture is None:
            return super()._get_train_sampler(train_dataset)
        lengths = rows[self.args.length_column_name][:] if by_length else None
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        groups = rows[self._together][:] if self._together is not None else None
        if self._mixture is not None:
            return MixedSampler(self._mixture, seed, batch_size, groups, lengths)
        if groups is not None:
            return TogetherSampler(groups, seed, batch_size, lengths)
        return EpochLengthSampler(batch_size, cast(list[int], lengths), seed)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """This process's batches of a step, and what each term is a mean over in all batches of all processes; None
        where there is one batch alone."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.world_size > 1:
            batches = [self._real(batch, index) for index, batch in enumerate(batches)]
        elif len(batches) == 1:
            return batches, None
        counts = [self._counts(batch) for batch in batches]
        totals = [sum(own[name] for own in counts) for name in counts[0]]
        if self.args.world_size > 1:
            totals = self._summed(totals)
        return batches, dict(zip(counts[0], totals, strict=True))

    def _real(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Without the rows that only fill up the last batch; one is left to run. index: the batch's within its step."""
        loader = self.callback_handler.train_dataloader
        assert loader is not None
        steps = math.ceil(len(loader) / self.args.gradient_accumulation_steps)
        before = self.state.global_step % steps * self.args.gradient_accumulation_steps + index
        size = len(batch["input_ids"])
        first = (before * self.args.world_size + self.args.process_index) * size
        real = min(max(self._epoch_rows - first, 0), size)
        return {**{name: tensor[: max(real, 1)] for name, tensor in batch.items()}, REAL_ROWS: real}

    def _counts(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """What the loss, or each of its terms, is a mean over."""
        return {ROWS: batch.get(REAL_ROWS, len(batch["input_ids"]))}

    def _scales(self, batch: dict[str, Any], totals: Mapping[str, int] | None) -> dict[str, float] | None:
        """By what each term's mean over this batch must be multiplied, for the mean over batches and processes to be
        that over all of the step; None for 1."""
        if totals is None:
            return None
        parts = self.current_gradient_accumulation_steps * self.args.world_size
        return {name: count * parts / max(totals[name], 1) for name, count in self._counts(batch).items()}

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        scales = self._scales(inputs, num_items_in_batch)
        inputs = {name: value for name, value in inputs.items() if name != REAL_ROWS}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss if scales is None else loss * scales[ROWS]
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check_loss(loss, inputs, [])
        return loss

    def _check_loss(self, loss: Tensor, batch: Mapping[str, Any], terms: Sequence[tuple[str, str, Tensor]]) -> None:
        """`UserError` for a loss that is no finite number; terms: (sub-network, name, value) of its terms."""
        if bool(torch.isfinite(loss)):
            return
        bad = [f"{name} of {net} is {float(value)}" for net, name, value in terms if not torch.isfinite(value)]
        raise UserError(
            f"the loss is {float(loss)} at step {self.state.global_step + 1}"
            + (f" ({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''})" if bad else "")
            + f", in the batch of the rows {self._told(batch)}; nothing was saved of it: lower training.learning_rate"
            " and begin again, or look at these rows"
        )

    def _told(self, batch: Mapping[str, Any]) -> str:
        """The starts of a batch's texts."""
        tokenizer = cast(PreTrainedTokenizerBase, self.processing_class)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"].tolist()]
        starts = [repr(text if len(text) <= 40 else f"{text[:40]}...") for text in texts]
        return ", ".join(starts[:3]) + (f" and {len(starts) - 3} more" if len(starts) > 3 else "")

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # With fp16 too large a gradient is common: the scaler passes over the step and scales the next ones down.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise UserError(
                f"the gradient is {float(norm)} at step {self.state.global_step + 1}, though the loss is a number; "
                "nothing was saved of it: lower training.learning_rate and begin again"
            )
        return norm

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """As the stock Trainer's, which makes a step before it sees that a resumed training is complete already, and
        tells the epoch to no sampler of several processes where it skips batches."""
        tell_epoch(options["train_dataloader"], options["epoch"])
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **options)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the stock Trainer's, of weights that are numbers, and nothing is left of one that cannot be written."""
        step, run = self.state.global_step, Path(str(self.args.output_dir))
        if not all(bool(torch.isfinite(p).all()) for p in cast(nn.Module, self.model).parameters()):
            raise UserError(
                f"the weights are no finite numbers any more after step {step}; they were not saved: lower "
                "training.learning_rate and begin again"
            )
        checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        try:
            super()._save_checkpoint(model, trial)
        except BaseException as error:
            if self.args.should_save:
                shutil.rmtree(checkpoint, ignore_errors=True)
            if (trouble := disk_trouble(error)) is not None:
                raise UserError(
                    f"{checkpoint} could not be written: {trouble}; the checkpoints before it are whole: make room on "
                    "the disk, then go on with --resume"
                ) from error
            raise

    def _save_rng_state(self, output_dir: str) -> None:
        """As the stock Trainer's, and by all processes before the file that makes the checkpoint a whole one."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()


def tell_epoch(loader: Any, epoch: int) -> None:
    """Set the epoch of a data loader's sampler, below however many batch samplers: where several processes resume
    within an epoch these are two, and neither accelerate's loader nor the stock Trainer looks so deep."""
    level = getattr(loader, "batch_sampler", None)
    while level is not None:
        if hasattr(sampler := getattr(level, "sampler", None), "set_epoch"):
            cast(Any, sampler).set_epoch(epoch)
        level = getattr(level, "batch_sampler", None)


def _check_spread(args: TrainingArguments) -> None:
    """Refuse (`UserError`) what lets several processes take other rows than one, or unequally many batches."""
    given = cast(Any, args.accelerator_config)
    usual = not given.split_batches and not given.dispatch_batches and given.even_batches
    if args.world_size > 1 and not usual:
        raise UserError(
            "training.accelerator_config: split_batches, dispatch_batches and even_batches are not possible with "
            "several processes; remove them"
        )
    if args.world_size > 1 and args.train_sampling_strategy == "batch_rebalance":
        raise UserError("training.train_sampling_strategy: batch_rebalance is not possible with several processes")


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


