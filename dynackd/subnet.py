"""The one dial: the `SubnetSpec` that a person types, and the `Subnet` that it resolves to, which is all that is passed
down."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dynackd.errors import UserError, shown


@dataclass(frozen=True, order=True)
class SubnetSpec:
    """A sub-network: the share of heads and FFN neurons kept in every layer, the share of layers kept, and the share of
    the hidden size kept everywhere.

    Raises `UserError` for a multiplier outside (0, 1].
    """

    width: float = 1.0
    depth: float = 1.0
    hidden: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "hidden"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise UserError(f"{name} {shown(value)} is outside (0, 1]")

    def __str__(self) -> str:
        return ", ".join(f"{name} {share:g}" for name, share in self.to_dict().items())

    def to_dict(self) -> dict[str, float]:
        """Its shares by name, that of the hidden size where it is cut."""
        return {"width": self.width, "depth": self.depth, **({"hidden": self.hidden} if self.hidden < 1 else {})}


FULL = SubnetSpec()


@dataclass(frozen=True)
class Geometry:
    """The sizes of a full encoder: what every layer has, and the hidden size."""

    layers: int
    heads: int
    head_size: int
    neurons: int
    hidden: int


@dataclass(frozen=True, order=True)
class Layer:
    """A kept layer: its 0-based place in the full network, and how many of its first heads and neurons are kept."""

    index: int
    heads: int
    neurons: int


@dataclass(frozen=True, order=True)
class Subnet:
    """A sub-network in whole layers, heads, neurons and hidden dimensions: the only thing that is passed down."""

    layers: tuple[Layer, ...]
    hidden: int

    @property
    def indices(self) -> tuple[int, ...]:
        """The places of its layers in the full network."""
        return tuple(layer.index for layer in self.layers)

    @property
    def most_heads(self) -> int:
        """The heads of its widest layer."""
        return max((layer.heads for layer in self.layers), default=0)

    def __str__(self) -> str:
        layers = ", ".join(f"{own.index} ({own.heads} heads, {own.neurons} neurons)" for own in self.layers)
        return f"hidden size {self.hidden}, layers {layers}"

    @property
    def sizes(self) -> tuple[int | list[int], int | list[int]]:
        """(heads, neurons) of each layer: one number where all layers have as many, else a list."""
        columns = ([layer.heads for layer in self.layers], [layer.neurons for layer in self.layers])
        heads, neurons = (column[0] if len(set(column)) == 1 else column for column in columns)
        return heads, neurons

    def width(self, geometry: Geometry) -> float:
        """The share of heads that its layers keep, in the mean."""
        return sum(layer.heads for layer in self.layers) / (len(self.layers) * geometry.heads)

    def shares(self, geometry: Geometry) -> SubnetSpec:
        """The shares of heads, in the mean, of layers and of the hidden size that it keeps."""
        return SubnetSpec(self.width(geometry), len(self.layers) / geometry.layers, self.hidden / geometry.hidden)

    def at_full_depth(self, geometry: Geometry) -> "Subnet":
        """With all layers; those that it lacks are as wide as the next one that it has, else as its last."""
        kept = list(self.layers)
        wide = [next((own for own in kept if own.index >= index), kept[-1]) for index in range(geometry.layers)]
        return Subnet(tuple(Layer(i, own.heads, own.neurons) for i, own in enumerate(wide)), self.hidden)

    def to_dict(self) -> dict[str, Any]:
        """What a file that is read by `read_subnet` holds."""
        return {"layers": [asdict(layer) for layer in self.layers], "hidden": self.hidden}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Subnet":
        """The inverse of `to_dict`, of what dynackd itself wrote; `grid.read_subnet` checks a file of anyone's."""
        return cls(tuple(Layer(**layer) for layer in content["layers"]), content["hidden"])


def full(geometry: Geometry) -> Subnet:
    """The full network."""
    return Subnet(tuple(Layer(i, geometry.heads, geometry.neurons) for i in range(geometry.layers)), geometry.hidden)


def describe(spec: SubnetSpec, subnet: Subnet, geometry: Geometry) -> str:
    """`"width 0.3 -> 4 of 12 heads, 512 of 1536 neurons; depth 0.5 -> 3 of 6 layers (1, 3, 5)"`, layers 0-based, and
    where it is cut `"; hidden 0.5 -> 192 of 384"`."""
    layers = ", ".join(map(str, subnet.indices))
    hidden = f"; hidden {spec.hidden:g} -> {subnet.hidden} of {geometry.hidden}" if spec.hidden < 1 else ""
    return (
        f"width {spec.width:g} -> {subnet.layers[0].heads} of {geometry.heads} heads, "
        f"{subnet.layers[0].neurons} of {geometry.neurons} neurons; depth {spec.depth:g} -> "
        f"{len(subnet.layers)} of {geometry.layers} layers ({layers}){hidden}"
    )


def describe_layers(subnet: Subnet, geometry: Geometry) -> str:
    """`"3 of 6 layers, heads of 12 and neurons of 1536 in each: 1 (4, 512), 3 (12, 768), 5 (1, 64)"`."""
    layers = ", ".join(f"{own.index} ({own.heads}, {own.neurons})" for own in subnet.layers)
    hidden = f"hidden size {subnet.hidden} of {geometry.hidden}, " if subnet.hidden < geometry.hidden else ""
    return (
        f"{hidden}{len(subnet.layers)} of {geometry.layers} layers, heads of {geometry.heads} and neurons of "
        f"{geometry.neurons} in each: {layers}"
    )
