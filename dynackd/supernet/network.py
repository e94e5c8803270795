"""The supernet: one set of weights that holds all sub-networks, and runs the one it is asked for."""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from dynackd.data.origins import is_place, local_model, located, portable, public_name, weights_sha256
from dynackd.errors import UserError
from dynackd.families.family import Family, Slice, outer_slices, set_heads, slices
from dynackd.families.table import FAMILY_KEY, family_of, geometry_of, layer_list, layer_list_name
from dynackd.grid import Grid, check_subnet
from dynackd.subnet import FULL, Geometry, Layer, Subnet, SubnetSpec, full
from dynackd.supernet.checkpoints import load_config, load_model, load_tokenizer

CONFIG_KEY = "dynackd"


@dataclass(frozen=True)
class SubnetOutput:
    """What a sub-network returns: its `outputs` by name, such as `logits` [batch, labels], and one of `hidden_states`
    [batch, length, hidden] per kept layer, after the embedding output at index 0."""

    outputs: dict[str, Tensor]
    hidden_states: tuple[Tensor, ...]


@dataclass(frozen=True)
class Origin:
    """Where a supernet comes from: the stage that trained it, its teacher and its parent (directories or names), and
    the SHA-256 of their weights."""

    stage: str = "untrained"
    teacher: str | None = None
    parent: str | None = None
    teacher_sha256: str | None = None
    parent_sha256: str | None = None

    def to_dict(self, directory: Path) -> dict[str, str | None]:
        """What a file in `directory` says: directories relative to that, so that both can be moved."""
        places = {name: place for name in ("teacher", "parent") if (place := getattr(self, name)) and is_place(place)}
        return {**asdict(self), **{name: portable(place, directory) for name, place in places.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], directory: Path) -> "Origin":
        """The inverse, with absolute directories. Raises `KeyError` for what is missing, but for hashes."""

        def place(name: str | None) -> str | None:
            return located(name, directory) if name and name.startswith(".") else name

        hashes = (content.get(name) for name in ("teacher_sha256", "parent_sha256"))
        return cls(content["stage"], place(content["teacher"]), place(content["parent"]), *hashes)

    def public_teacher(self) -> dict[str, str | None]:
        """What a student tells the world of its teacher: its name and its weights' hash, no directories."""
        name = public_name(self.teacher) if self.teacher else None
        return {"teacher": name, "teacher_sha256": self.teacher_sha256}

    def teacher_here(self) -> str | None:
        """The directory of the teacher, if it is on this machine and holds the very weights."""
        place = local_model(self.teacher) if self.teacher else None
        if place is None or self.teacher_sha256 not in (None, weights_sha256(str(place))):
            return None
        return str(place)


class Supernet(nn.Module):
    """A Hugging Face encoder whose heads, neurons and hidden dimensions are ordered by importance, run as any `Subnet`.

    The weights are the model's own. Which sub-network runs is an argument of `forward`: its weights are views of the
    first heads, neurons and hidden dimensions, in modules that are made for one call. The model itself is never
    changed, so that any number of threads may call one supernet.

    subnets: what was trained, by name, the largest first. only: the one sub-network that the weights are good for,
    where that was trained on alone (`polish`). hidden_order: which dimension of the model's hidden states, as they were
    before the rewiring, stands first, second, ...; None where they stand as they did.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grid: Grid | None = None,
        origin: Origin | None = None,
        only: Subnet | None = None,
        hidden_order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.grid = grid or Grid()
        self.origin = origin or Origin()
        self.only = only
        self.hidden_order = None if hidden_order is None else tuple(hidden_order)
        check_hidden(model.config, self.grid)
        self.subnets = self.grid.subnets(self.geometry) if only is None else {self.name(only): only}
        # transformers hooks the layers on first use, and only those in the list then: a first call at half depth
        # would lose the hidden states of the other layers for good.
        maybe_install_capturing_hooks(cast(PreTrainedModel, model.base_model))

    @property
    def geometry(self) -> Geometry:
        """Sizes of the full network."""
        return geometry_of(self.model.config)

    @property
    def whole(self) -> Subnet:
        """The full network."""
        return full(self.geometry)

    def name(self, subnet: Subnet) -> SubnetSpec:
        """What a sub-network is called: the grid's name, else its shares of heads, in the mean, and of layers."""
        return self.grid.trained(subnet, self.geometry) or subnet.shares(self.geometry)

    def trained(self, subnet: Subnet) -> SubnetSpec | None:
        """The name of a sub-network that was trained, None of others."""
        return next((spec for spec, own in self.subnets.items() if own == subnet), None)

    def resolve(self, which: SubnetSpec | Subnet) -> Subnet:
        """What a spec keeps of this supernet; a sub-network comes back as it is. Raises `UserError` for one that is not
        held."""
        if isinstance(which, Subnet):
            check_subnet(which, self.geometry)
            return which
        return self.grid.resolve(which, self.geometry)

    def embed(self, hidden: int | None = None, **batch: Tensor) -> Tensor:
        """The embedding output, [batch, length, hidden], which is the first hidden state of every sub-network of this
        hidden size; None is the full one."""
        size = self.geometry.hidden if hidden is None else hidden
        embeddings, *projections = _embedding_layers(_outside(self.model, self.geometry.heads, size)).values()
        known = inspect.signature(embeddings.forward).parameters
        inputs: dict[str, Tensor | None] = {name: tensor for name, tensor in batch.items() if name in known}
        for argument, name in family_of(self.model.config).embedding_inputs:
            inputs[argument] = batch.get(name)
        output = embeddings(**inputs)
        for projection in projections:
            output = projection(output)
        return cast(Tensor, output)

    def forward(
        self, which: SubnetSpec | Subnet | None = None, below: Sequence[Tensor] = (), **batch: Tensor
    ) -> SubnetOutput:
        """Run a sub-network on a tokenised batch (`input_ids` [batch, length], `attention_mask`, ...); None is the full
        network, or the one that was polished.

        below: its first hidden states where they are known: the embedding output (`embed`), and those of its first
        layers, which another, deeper sub-network may have too. Only what comes after them is run, and the last layer in
        any case: in some models a norm stands behind it, wherever it is.
        """
        subnet = self.resolve(which or self.only or FULL)
        below = below[: len(subnet.layers)]
        above = replace(subnet, layers=subnet.layers[max(0, len(below) - 1) :])
        output = _subnet(self.model, above, below)(**batch, output_hidden_states=True, return_dict=True)
        hidden_states = (*below[:-1], *output.hidden_states)
        if len(hidden_states) != len(subnet.layers) + 1:
            raise RuntimeError(f"{len(hidden_states)} hidden states for {len(subnet.layers)} layers")
        outputs = {name: value for name, value in output.items() if isinstance(value, Tensor) and name != "loss"}
        return SubnetOutput(outputs, hidden_states)

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
                "format": 2,
                "family": config.model_type,
                **self.origin.to_dict(directory),
                "grid": self.grid.to_dict(),
                **({"only": self.only.to_dict()} if self.only else {}),
                **({"hidden_order": list(self.hidden_order)} if self.hidden_order else {}),
            },
        )
        self.model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _shallow(module: nn.Module, paths: Iterable[str]) -> nn.Module:
    """A copy of `module` and of its submodules at `paths` and on the way there, with tables of children and of weights
    of their own; what stands in these is shared with the original: weights, hooks and all other submodules."""
    twin = object.__new__(type(module))
    twin.__dict__ = {**vars(module), "_modules": dict(module._modules), "_parameters": dict(module._parameters)}
    if "forward" in vars(module):  # a library's wrapper
        bound = vars(module)["forward"]
        if not isinstance(bound, MethodType):
            raise RuntimeError(f"the forward of a {type(module).__name__} was replaced by one that is no method of it")
        twin.__dict__["forward"] = MethodType(bound.__func__, twin)
    children: dict[str, list[str]] = {}
    for first, _, rest in (path.partition(".") for path in paths if path):
        children.setdefault(first, []).extend([rest] if rest else [])
    for name, rests in children.items():
        twin._modules[name] = _shallow(getattr(module, name), rests)
    return twin


def _take(twin: nn.Module, pieces: Iterable[Slice]) -> None:
    """Give the modules of a twin the sub-network's weights: views, so that gradients land in the full ones."""
    for piece in pieces:
        module = twin.get_submodule(piece.path)
        weights: dict[str, Any] = module._parameters
        weights[piece.name] = piece.view()
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = (weights[piece.name].shape[0],)


def _narrow(
    module: nn.Module, layer: Layer, hidden: int, widest: int, family: Family, geometry: Geometry
) -> nn.Module:
    """The layer with the first heads, neurons and hidden dimensions of its weights."""
    pieces = [piece for piece in slices(module, layer, hidden, family, geometry) if piece.cut]
    holders = [path.rpartition(".")[0] for path in (*family.head_count, *family.head_width)]
    readers = [bias.reader for bias in family.shared]
    twin = _shallow(module, [*(piece.path for piece in pieces), *holders, *readers])
    for reader in map(twin.get_submodule, readers):  # hooks of its own, for `set_heads`
        reader._forward_pre_hooks = copy.copy(reader._forward_pre_hooks)
        reader._forward_pre_hooks_with_kwargs = copy.copy(reader._forward_pre_hooks_with_kwargs)
    _take(twin, pieces)
    set_heads(twin, layer.heads, widest, family, geometry)
    return twin


def _outside(model: PreTrainedModel, widest: int, hidden: int) -> PreTrainedModel:
    """The model with what stands outside of its layers as a sub-network of this hidden size has it, beside layers of at
    most `widest` heads; with a list of layers and tables of embeddings of its own."""
    family, geometry = family_of(model.config), geometry_of(model.config)
    pieces = [piece for piece in outer_slices(model, widest, hidden, family, geometry) if piece.cut]
    twin = _shallow(model, [layer_list_name(model), *(piece.path for piece in pieces)])
    _take(twin, pieces)
    return cast(PreTrainedModel, twin)


class _Given(nn.Module):
    """Stands in for a layer whose output is known."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_args: Any, **_kwargs: Any) -> Tensor:
        return self.output


def _embedding_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    names = family_of(model.config).embeddings
    return {name: getattr(model.base_model, name) for name in names if hasattr(model.base_model, name)}


def _subnet(model: PreTrainedModel, subnet: Subnet, below: Sequence[Tensor]) -> nn.Module:
    """The model with these layers, heads, neurons and hidden dimensions alone, fed with the last of `below` where there
    is any.

    Made anew for every call, of modules of its own wherever it differs, so that nothing is changed that another
    thread, or a call inside this one, could see. It takes a millisecond or two for 12 layers, as the swapping of
    weights by `torch.func.functional_call` does.
    """
    family, geometry, layers = family_of(model.config), geometry_of(model.config), layer_list(model)
    widest, whole = subnet.most_heads, (geometry.heads, geometry.neurons, geometry.hidden)
    twin = _outside(model, widest, subnet.hidden)
    twin.get_submodule(layer_list_name(model))._modules = {
        str(position): layers[own.index]
        if (own.heads, own.neurons, subnet.hidden) == whole
        else _narrow(layers[own.index], own, subnet.hidden, widest, family, geometry)
        for position, own in enumerate(subnet.layers)
    }
    for name in _embedding_layers(model) if below else ():
        twin.base_model._modules[name] = _Given(below[-1])
    for module in family.first_layer_only if len(below) > 1 else ():
        holder, _, name = module.rpartition(".")
        twin.base_model.get_submodule(holder)._modules[name] = None
    return twin


def check_hidden(config: PreTrainedConfig, grid: Grid) -> None:
    """Refuse (`UserError`) a grid with smaller hidden sizes than such a model can have."""
    if min(grid.hidden) < 1 and (reason := family_of(config).why_whole(config)):
        raise UserError(f"grid.hidden: the hidden size of a {config.model_type} stays whole here, because {reason}")


def check_supernet(directory: str | Path) -> PreTrainedConfig:
    """The config of a supernet directory; `UserError` where the directory is none."""
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        inside = [directory / name for name in ("depth", "width") if (directory / name / "config.json").is_file()]
        meant = f"; did you mean {inside[0]}?" if inside else ""
        raise UserError(f"{directory} is no supernet directory: it holds no config.json{meant}")
    config = load_config(str(directory))
    if hasattr(config, FAMILY_KEY):
        raise UserError(f"{directory} is a student that was cut already; name the supernet that it came from")
    if not isinstance(getattr(config, CONFIG_KEY, None), dict):
        raise UserError(
            f"{directory} is a plain {config.model_type} checkpoint, not a supernet; make one with dynackd train-width"
        )
    return config


def only_of(config: PreTrainedConfig) -> Subnet | None:
    """The one sub-network of a supernet that was polished."""
    only = getattr(config, CONFIG_KEY).get("only")
    return Subnet.from_dict(only) if only else None


def load_supernet(directory: str | Path) -> tuple[Supernet, PreTrainedTokenizerBase]:
    """A supernet and its tokenizer; `UserError` where the directory is no supernet or is damaged."""
    directory = Path(directory)
    config = check_supernet(directory)
    about = getattr(config, CONFIG_KEY)
    try:
        grid, origin = Grid(**about["grid"]), Origin.from_dict(about, directory)
        grid.subnets(geometry_of(config))
        only, hidden_order = only_of(config), about.get("hidden_order")
    except (KeyError, TypeError) as error:
        raise UserError(f"{directory}/config.json is damaged: its {CONFIG_KEY!r} part lacks {error}") from error
    except UserError as error:
        raise UserError(f"{directory}/config.json is damaged: {error}") from error
    model = load_model(str(directory), config)
    return Supernet(model, grid, origin, only, hidden_order), load_tokenizer(str(directory), config)

