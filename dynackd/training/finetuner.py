"""Fine-tuning a plain model for a kind of task, on the stock Trainer."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from dynackd.tasks.kind import Kind
from dynackd.training.resumable import REAL_ROWS, ROWS, ResumableTrainer

Predicted = tuple[Tensor | None, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]


class FineTuner(ResumableTrainer):
    """Trains a Hugging Face model with its kind's loss, and predicts its kind's outputs and label columns, each a tuple
    in the kind's order."""

    def __init__(self, model: PreTrainedModel, kind: Kind, args: TrainingArguments, **options: Any) -> None:
        tokenizer = cast(PreTrainedTokenizerBase, options["processing_class"])
        collator = kind.collator(tokenizer)
        super().__init__(model, args, together=kind.together, data_collator=collator, **options)
        self.kind = kind
        self._signature_columns: Any = [*tokenizer.model_input_names, *kind.label_columns]

    def _counts(self, batch: Mapping[str, Any]) -> dict[str, int]:
        rows = {name: tensor[: batch.get(REAL_ROWS)] for name, tensor in batch.items() if name != REAL_ROWS}
        return {ROWS: int(self.kind.label_count(rows))}

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As the stock Trainer's, which may smooth labels, where the model itself makes a loss of these."""
        if self.kind.stock_labels:
            others = set(self.kind.label_columns) - set(self.kind.stock_labels)
            own = {name: value for name, value in inputs.items() if name not in others}
            return super().compute_loss(model, own, return_outputs, num_items_in_batch)
        scales = self._scales(inputs, num_items_in_batch)
        loss, outputs = self.kind.model_loss(model, {k: v for k, v in inputs.items() if k != REAL_ROWS})
        loss = loss if scales is None else loss * scales[ROWS]
        return (loss, outputs) if return_outputs else loss

    def prediction_step(  # type: ignore[override]
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Predicted:
        """(loss, outputs, label columns) of a batch."""
        batch = cast(dict[str, Tensor], self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, fields = cast(tuple[Tensor, Any], self.compute_loss(model, batch, return_outputs=True))
            if prediction_loss_only:
                return loss.detach(), None, None
            config = self.accelerator.unwrap_model(model).config
            outputs = self.kind.read(fields, batch, config) if self.kind.stock_labels else fields
        labels = self.kind.split(batch)[1]
        return loss.detach(), tuple(outputs[name] for name in self.kind.judged), tuple(labels.values())
