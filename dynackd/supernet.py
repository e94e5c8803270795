"""The supernet: one set of weights that holds all sub-networks, and runs the one it is asked for."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from dynackd.checkpoints import load_classifier, load_config, load_tokenizer
from dynackd.errors import UserError
from dynackd.families import FAMILY_KEY, family_of, geometry_of, layer_list, subnet_parameters
from dynackd.spec import FULL, Geometry, Grid, ResolvedSubnet, SubnetSpec

CONFIG_KEY = "dynackd"
# From the base model, in every family; ELECTRA may project the embeddings to the hidden size.
EMBEDDINGS = ("embeddings", "embeddings_project")


@dataclass(frozen=True)
class SubnetOutput:
    """What a sub-network returns: `logits` [batch, labels] and one `hidden_states` [batch, length, hidden] per kept
    layer, after the embedding output at index 0."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]


@dataclass(frozen=True)
class Origin:
    """Where a supernet comes from: the stage that trained it, its teacher's and its parent's directories."""

    stage: str = "untrained"
    teacher: str | None = None
    parent: str | None = None


class Supernet(nn.Module):
    """A Hugging Face encoder whose heads and neurons are ordered by importance, run at any `SubnetSpec`.

    The weights are the model's own. Which sub-network runs is an argument of `forward`: its weights are views of the
    first heads and neurons, put in place by `torch.func.functional_call` for the length of one call.
    """

    def __init__(self, model: PreTrainedModel, grid: Grid | None = None, origin: Origin | None = None) -> None:
        super().__init__()
        family_of(model.config)
        self.model = model
        self.grid = grid or Grid()
        self.origin = origin or Origin()
        self.grid.check(self.geometry)
        # transformers hooks the layers on first use, and only those in the list then: a first call at half depth
        # would lose the hidden states of the other layers for good.
        maybe_install_capturing_hooks(cast(PreTrainedModel, model.base_model))

    @property
    def geometry(self) -> Geometry:
        """Sizes of the full network."""
        return geometry_of(self.model.config)

    def resolve(self, spec: SubnetSpec) -> ResolvedSubnet:
        """What `spec` keeps of this supernet."""
        return self.grid.resolve(spec, self.geometry)

    def embed(self, **batch: Tensor) -> Tensor:
        """The embedding output, [batch, length, hidden], which is the first hidden state of every sub-network."""
        embeddings, *projections = _embedding_layers(self.model).values()
        known = inspect.signature(embeddings.forward).parameters
        output = embeddings(**{name: tensor for name, tensor in batch.items() if name in known})
        for projection in projections:
            output = projection(output)
        return cast(Tensor, output)

    def forward(self, spec: SubnetSpec = FULL, below: Sequence[Tensor] = (), **batch: Tensor) -> SubnetOutput:
        """Run the sub-network `spec` on a tokenised batch (`input_ids` [batch, length], `attention_mask`, ...).

        below: its first hidden states where they are known: the embedding output (`embed`), and those of its first
        layers, which another sub-network of the same width may have too. Only what comes after them is run.
        """
        resolved = self.resolve(spec)
        above = replace(resolved, layers=resolved.layers[max(0, len(below) - 1) :])
        full_width = resolved.heads == self.geometry.heads and resolved.neurons == self.geometry.neurons
        weights = {} if full_width else subnet_parameters(self.model, above)
        arguments = {**batch, "output_hidden_states": True, "return_dict": True}
        with _kept_layers(self.model, above), _embedded(self.model, below):
            output = functional_call(self.model, weights, (), arguments)
        hidden_states = (*below[:-1], *output.hidden_states)
        if len(hidden_states) != len(resolved.layers) + 1:
            raise RuntimeError(f"{len(hidden_states)} hidden states for {len(resolved.layers)} layers")
        return SubnetOutput(output.logits, hidden_states)

    def frozen_copy(self) -> "Supernet":
        """A copy in evaluation mode that takes no gradients, to be a teacher."""
        return copy.deepcopy(self).eval().requires_grad_(False)

    def save(self, directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write `config.json`, `model.safetensors` and the tokenizer; stock transformers loads the full network."""
        config = self.model.config
        setattr(
            config,
            CONFIG_KEY,
            {
                "format": 1,
                "family": config.model_type,
                "stage": self.origin.stage,
                "teacher": self.origin.teacher,
                "parent": self.origin.parent,
                "grid": self.grid.to_dict(),
            },
        )
        self.model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


@contextmanager
def _kept_layers(model: PreTrainedModel, resolved: ResolvedSubnet) -> Iterator[None]:
    """For the length of the block, the layer list holds the kept layers only, with their number of heads."""
    family = family_of(model.config)
    parent_path, _, name = family.layers.rpartition(".")
    parent = model.base_model.get_submodule(parent_path)
    layers = layer_list(model)
    kept = [layers[index] for index in resolved.layers]
    holders = [
        (layer.get_submodule(path), attribute)
        for layer in kept
        for path, _, attribute in (head_count.rpartition(".") for head_count in family.head_count)
    ]
    before = [getattr(holder, attribute) for holder, attribute in holders]
    try:
        setattr(parent, name, nn.ModuleList(kept))
        for holder, attribute in holders:
            setattr(holder, attribute, resolved.heads)
        yield
    finally:
        setattr(parent, name, layers)
        for (holder, attribute), heads in zip(holders, before, strict=True):
            setattr(holder, attribute, heads)


class _Given(nn.Module):
    """Stands in for a layer whose output is known."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_args: Any, **_kwargs: Any) -> Tensor:
        return self.output


def _embedding_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    return {name: getattr(model.base_model, name) for name in EMBEDDINGS if hasattr(model.base_model, name)}


@contextmanager
def _embedded(model: PreTrainedModel, below: Sequence[Tensor]) -> Iterator[None]:
    """For the length of the block, what feeds the layers is the last of `below`, where there is any."""
    before = _embedding_layers(model)
    try:
        for name in before if below else ():
            setattr(model.base_model, name, _Given(below[-1]))
        yield
    finally:
        for name, layer in before.items():
            setattr(model.base_model, name, layer)


def check_supernet(directory: Path) -> PreTrainedConfig:
    """The config of a supernet directory; `UserError` where the directory is none."""
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory} is no supernet directory: it holds no config.json")
    config = load_config(str(directory))
    if not isinstance(getattr(config, CONFIG_KEY, None), dict) or hasattr(config, FAMILY_KEY):
        raise UserError(
            f"{directory} is a plain {config.model_type} checkpoint, not a supernet; make one with dynackd train-width"
        )
    return config


def load_supernet(directory: Path) -> tuple[Supernet, PreTrainedTokenizerBase]:
    """A supernet and its tokenizer; `UserError` where the directory is no supernet or is damaged."""
    config = check_supernet(directory)
    about = getattr(config, CONFIG_KEY)
    try:
        grid = Grid(**about["grid"])
        known = {key: about[key] for key in ("stage", "teacher", "parent")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{directory}/config.json is damaged: its {CONFIG_KEY!r} part lacks {error}") from error
    model = load_classifier(str(directory), config)
    return Supernet(model, grid, Origin(**known)), load_tokenizer(str(directory))

