"""The one rule of slicing: which rows and columns of which weights belong to a sub-network.

Training, importance, rewiring, physical slicing, counting, export and stock checkpoints all go through `slices` and
nothing else, so they cannot disagree. A family is one `Family` in a file of its own here, and a line in `table.py`.
Nothing here imports torch, so that `import dynackd` can tell transformers which students there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dynackd.subnet import Geometry, Layer

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

# What a dimension of a weight counts. Hidden: the numbers of a token's state, which all layers read and write. Pooled:
# those between the layers of a task's head, as many, which nothing else reads.
HEAD, NEURON, HIDDEN, POOLED = "head", "neuron", "hidden", "pooled"
# Of a student's config whose hidden size was cut: what it was before.
FULL_HIDDEN_KEY = "full_hidden"


@dataclass(frozen=True)
class SlicedLinear:
    """A linear layer inside a Transformer layer, at `path`, and what a dimension of its weight counts; the other one
    counts hidden dimensions.

    unit: heads or neurons. dim 0: they index rows (output features, the bias too); 1: columns (input features). parts:
    how many equal blocks stand one behind the other along it (3 for a fused query-key-value, 2 for the two halves of a
    GLU); each is sliced alike. optional: some models of the family have none there.
    """

    path: str
    unit: str
    dim: int
    parts: int = 1
    optional: bool = False


@dataclass(frozen=True)
class SharedBias:
    """An embedding [rows, heads] that all layers read: what it gives is added to the attention scores of each.

    Its columns are the heads of every layer, so that one order of the heads must do for all layers, and a sub-network
    keeps as many as its widest layer has. path: from the base model. reader: the module, from a layer, that is given
    the bias [batch, heads, length, length] by the keyword `argument`; in a narrower layer it takes the first heads.
    """

    path: str
    reader: str
    argument: str


@dataclass(frozen=True)
class Sized:
    """A module outside of the layers, at `path` from the base model, and which dimensions of its weight count hidden
    ones, as far as a model has it and they are as many; where 0 does, the bias follows."""

    path: str
    dims: tuple[int, ...]


def rows(*paths: str) -> tuple[Sized, ...]:
    """Norms, and what projects to the hidden size."""
    return tuple(Sized(path, (0,)) for path in paths)


def columns(*paths: str) -> tuple[Sized, ...]:
    """Embeddings [rows, hidden]."""
    return tuple(Sized(path, (1,)) for path in paths)


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its layers and its sliced linear layers, and how its config calls its sizes.

    layers: the path of the layer list from the base model. query: the path of the linear layer whose outputs are
    divided by √head size; attention_output: of the one that reads the heads. head_count: paths, from a layer, of
    attributes that hold the number of heads (some models reshape by them, so they must follow the width); head_width:
    of those that hold heads * head size. norms: paths of a layer's norms, as far as it has them; hidden: what else has
    a hidden dimension, but for the task's head (`head_dims`): nothing for a family whose hidden size cannot be cut.
    hidden_whole_if: keys of a config whose value, if it is above 1, makes that impossible, each with the reason.
    position_query: a linear layer like `query`, over relative positions. shared: the biases that all layers read.
    embeddings: what makes the first hidden state, one after the other, as far as a model has it; embedding_inputs: its
    arguments that are called otherwise than in a batch, each with the batch's name. first_layer_only: modules, from the
    base model, that the encoder runs behind the first layer that it has. layer_keys: lists in a config with an entry
    for each layer. query_heads_key: where a config counts query heads, of which several may share a key and a value;
    `heads_key` then counts these, and a head is such a group. head_size_key: where a config may say the head size, else
    it is hidden size / heads; head_size_copies: where it may repeat that quotient; hidden_copies: where it may repeat
    the hidden size. rotary: positions turn pairs of the numbers of a head, so that heads cannot be padded to another
    size. positions_follow_padding: positions start behind the number of the padding token, so that no token can use the
    position embeddings up to there; reserved_positions: so many at the start are never used. ported: models were
    published with code of their own before transformers had the architecture, and may still name it.
    """

    layers: str
    linears: tuple[SlicedLinear, ...]
    query: str
    attention_output: str
    head_count: tuple[str, ...] = ()
    head_width: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    hidden: tuple[Sized, ...] = ()
    hidden_whole_if: tuple[tuple[str, str], ...] = ()
    position_query: str | None = None
    shared: tuple[SharedBias, ...] = ()
    embeddings: tuple[str, ...] = ("embeddings",)
    embedding_inputs: tuple[tuple[str, str], ...] = ()
    first_layer_only: tuple[str, ...] = ()
    layers_key: str = "num_hidden_layers"
    heads_key: str = "num_attention_heads"
    neurons_key: str = "intermediate_size"
    hidden_key: str = "hidden_size"
    layer_keys: tuple[str, ...] = ()
    query_heads_key: str | None = None
    head_size_key: str | None = None
    head_size_copies: tuple[str, ...] = ()
    hidden_copies: tuple[str, ...] = ()
    rotary: bool = False
    positions_follow_padding: bool = False
    reserved_positions: int = 0
    ported: bool = False

    def geometry(self, config: PreTrainedConfig) -> Geometry:
        """The sizes that a config names. A student's hidden size may be smaller than its heads together."""
        keys = (self.layers_key, self.heads_key, self.neurons_key, self.hidden_key)
        layers, heads, neurons, hidden = (getattr(config, key) for key in keys)
        head_size = getattr(config, self.head_size_key, None) if self.head_size_key else None
        whole = getattr(config, FULL_HIDDEN_KEY, None) or hidden
        return Geometry(layers, heads, head_size or whole // heads, neurons, hidden)

    def why_whole(self, config: PreTrainedConfig) -> str:
        """Why a model of this config can only have its full hidden size; "" where it can have less."""
        if not self.hidden:
            return "nobody has written down yet which of its weights hold hidden dimensions"
        return next((reason for key, reason in self.hidden_whole_if if (getattr(config, key, None) or 0) > 1), "")

    def queries(self, config: PreTrainedConfig) -> int:
        """How many query heads share a key and a value."""
        return getattr(config, self.query_heads_key) // getattr(config, self.heads_key) if self.query_heads_key else 1


class Part(NamedTuple):
    """What of one dimension of a tensor belongs to a sub-network: of each of `parts` equal blocks, each of `total`
    units of `size` numbers, the first `kept` units."""

    dim: int
    unit: str
    parts: int
    total: int
    size: int
    kept: int

    def positions(self, units: Sequence[int]) -> list[int]:
        """The indices along the dimension of these units, in their order."""
        starts = [part * self.total + unit for part in range(self.parts) for unit in units]
        return [start * self.size + offset for start in starts for offset in range(self.size)]

    def blocks(self, tensor: Tensor) -> Tensor:
        """A view of the tensor with the dimension as three: [..., parts, total, size, ...]."""
        return tensor.unflatten(self.dim, (self.parts, self.total, self.size))

    def of(self, tensor: Tensor) -> Tensor:
        """The kept part of the tensor: a view where there is one block."""
        if self.parts == 1:
            return tensor.narrow(self.dim, 0, self.kept * self.size)
        return self.blocks(tensor).narrow(self.dim + 1, 0, self.kept).flatten(self.dim, self.dim + 2)


class Slice(NamedTuple):
    """A weight or bias and, of each dimension that is sliced, the part that belongs to a sub-network."""

    path: str
    name: str
    tensor: Tensor
    parts: tuple[Part, ...]

    @property
    def cut(self) -> bool:
        """Whether the sub-network lacks anything of it."""
        return any(part.kept < part.total for part in self.parts)

    def view(self) -> Tensor:
        """The sub-network's tensor; gradients land in the full one."""
        tensor = self.tensor
        for part in self.parts:
            tensor = part.of(tensor) if part.kept < part.total else tensor
        return tensor


def slices(module: nn.Module, layer: Layer, hidden: int, family: Family, geometry: Geometry) -> Iterator[Slice]:
    """Every sliced tensor of a Transformer layer `module` of this `geometry`, with what `layer` keeps of it in a
    sub-network of this hidden size."""
    units = {HEAD: (geometry.heads, layer.heads), NEURON: (geometry.neurons, layer.neurons)}
    for linear in linears_of(module, family):
        weights: Any = module.get_submodule(linear.path)
        total, kept = units[linear.unit]
        # Where several query heads share a key and a value, a head has more rows of the one than of the other.
        size = weights.weight.shape[linear.dim] // (linear.parts * total)
        own = Part(linear.dim, linear.unit, linear.parts, total, size, kept)
        other = Part(1 - linear.dim, HIDDEN, 1, geometry.hidden, 1, hidden)
        yield Slice(linear.path, "weight", weights.weight, (own, other))
        if weights.bias is not None:
            yield Slice(linear.path, "bias", weights.bias, (other if linear.dim else own,))
    for path in family.norms:
        yield from _sized(module, path, {0: HIDDEN}, hidden, geometry)


def outer_slices(
    model: PreTrainedModel, heads: int, hidden: int, family: Family, geometry: Geometry
) -> Iterator[Slice]:
    """Every sliced tensor outside of the layers, by its path from the model, with what is kept beside layers of at most
    `heads` heads in a sub-network of this hidden size."""
    for bias in family.shared:
        weights: Any = model.base_model.get_submodule(bias.path)
        part = Part(1, HEAD, 1, geometry.heads, 1, heads)
        yield Slice(name_from(model, bias.path), "weight", weights.weight, (part,))
    for own in family.hidden:
        yield from _sized(model, name_from(model, own.path), dict.fromkeys(own.dims, HIDDEN), hidden, geometry)
    for path, dims in head_dims(model) if family.hidden else ():
        yield from _sized(model, path, dims, hidden, geometry)


def _sized(root: nn.Module, path: str, dims: Mapping[int, str], hidden: int, geometry: Geometry) -> Iterator[Slice]:
    """The weight and bias of the module at `path`, if there is one, with what is kept of these hidden dimensions."""
    module = at(root, path)
    for name, along in (("weight", dims), ("bias", {0: dims[0]} if 0 in dims else {})):
        tensor = getattr(module, name, None)
        if tensor is not None:
            parts = [
                Part(dim, unit, 1, geometry.hidden, 1, hidden)
                for dim, unit in along.items()
                if tensor.shape[dim] == geometry.hidden  # else it counts something else, as ELECTRA's embeddings may
            ]
            if parts:
                yield Slice(path, name, tensor, tuple(parts))


def at(root: nn.Module, path: str) -> Any:
    """The module at a dotted path, None where there is none."""
    for name in path.split("."):
        root = getattr(root, name, None)  # type: ignore[assignment]
    return root


def name_from(model: PreTrainedModel, path: str) -> str:
    """The dotted name from `model`, which may be the base model or carry a task head, of a path from the base model."""
    return path if model.base_model is model else f"{model.base_model_prefix}.{path}"


def head_dims(model: Any) -> list[tuple[str, dict[int, str]]]:
    """The weights of a task's head, by their paths from the model, and what their dimensions count.

    They stand one behind the other: the first reads hidden states, those behind it what it gives, and the last one's
    rows are the outputs. The base model's pooler is the first, where it has one.
    """
    base, inner, found = model.base_model, "hidden", []
    prefix = "" if base is model else f"{model.base_model_prefix}."
    if getattr(getattr(base, "pooler", None), "dense", None) is not None:
        found.append((f"{prefix}pooler.dense", {0: "pooled", 1: inner}))
        inner = "pooled"
    parts = [(name, child) for name, child in model.named_children() if prefix and child is not base]
    outside = [
        (f"{name}.{path}" if path else name, module)
        for name, child in parts
        for path, module in child.named_modules()
        if getattr(module, "weight", None) is not None
    ]
    linears = [path for path, module in outside if hasattr(module, "in_features")]
    for path, _ in outside:
        if path not in linears:  # a norm
            found.append((path, {0: inner}))
        elif path == linears[-1]:
            found.append((path, {1: inner}))
        else:
            found.append((path, {0: "pooled", 1: inner}))
            inner = "pooled"
    return found


def linears_of(module: nn.Module, family: Family) -> Iterator[SlicedLinear]:
    """The sliced linear layers that this Transformer layer has."""
    for linear in family.linears:
        holder, _, name = linear.path.rpartition(".")
        if not linear.optional or hasattr(module.get_submodule(holder), name):
            yield linear


def set_heads(module: nn.Module, heads: int, widest: int, family: Family, geometry: Geometry) -> None:
    """Tell a Transformer layer that it has this many heads, beside layers that have up to `widest`."""
    values = dict.fromkeys(family.head_count, heads) | dict.fromkeys(family.head_width, heads * geometry.head_size)
    for path, value in values.items():
        holder, _, attribute = path.rpartition(".")
        setattr(module.get_submodule(holder), attribute, value)
    if heads < widest:
        for bias in family.shared:
            hook = first_heads(bias.argument, heads)
            module.get_submodule(bias.reader).register_forward_pre_hook(hook, with_kwargs=True)


def first_heads(argument: str, heads: int) -> Any:
    """A forward pre-hook: the module takes the first heads of a bias [batch, heads, length, length] for all layers."""

    def take(_module: Any, inputs: Any, named: Any) -> tuple[Any, dict[str, Any]]:
        return inputs, {**named, argument: named[argument][:, :heads]}

    return take
