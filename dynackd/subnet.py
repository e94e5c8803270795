"""The one dial: `SubnetSpec(width, depth)`, what it resolves to, and the grid of those that are trained."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from dynackd.errors import UserError, shown
from dynackd.system.settings import Among, section


@dataclass(frozen=True, order=True)
class SubnetSpec:
    """A sub-network: the share of heads and FFN neurons kept in every layer, and the share of layers kept.

    Raises `UserError` for a multiplier outside (0, 1].
    """

    width: float = 1.0
    depth: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise UserError(f"{name} {shown(value)} is outside (0, 1]")

    def __str__(self) -> str:
        return f"width {self.width:g}, depth {self.depth:g}"


FULL = SubnetSpec(1.0, 1.0)


def share_of(value: Any) -> float:
    """A share as people write it, a number or a text such as `0.5` or `2/3`; ValueError for anything else."""
    number = value
    if isinstance(value, str):
        above, slash, below = value.partition("/")
        try:
            number = float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{shown(value)} is no number; write a share such as 0.66 or 2/3")
    if not 0 < number <= 1:
        raise ValueError(f"{shown(number)} is outside (0, 1]")
    return float(number)


def multiplier(where: str, value: Any) -> float:
    """`share_of` the value; `UserError` that names `where`."""
    try:
        return share_of(value)
    except ValueError as error:
        raise UserError(f"{where} {error}") from error


@dataclass(frozen=True)
class Geometry:
    """The sizes of an encoder that a `SubnetSpec` is applied to."""

    layers: int
    heads: int
    head_size: int
    neurons: int


@dataclass(frozen=True)
class ResolvedSubnet:
    """What a `SubnetSpec` means for one geometry, in whole heads, neurons and layers (0-based kept indices)."""

    spec: SubnetSpec
    heads: int
    neurons: int
    layers: tuple[int, ...]

    @property
    def network(self) -> tuple[int, int, tuple[int, ...]]:
        """The network itself: two specs with the same value here are the same sub-network."""
        return self.heads, self.neurons, self.layers


def round_half_up(multiplier: float, total: int) -> int:
    """`max(1, floor(multiplier * total + 0.5))`, exact in what was written: decimals, and fractions such as 11/24
    (DynaBERT's code rounds half to even)."""
    # The float product 0.29 * 50 is 14.499999999999998 and would round down; the nearest simple fraction is 29/100.
    return max(1, int(Fraction(multiplier).limit_denominator(1_000_000) * total + Fraction(1, 2)))


def keep_last(kept: int, total: int) -> tuple[int, ...]:
    """Layers `(i * total) // kept`, i = 1..kept (1-based): DynaBERT's paper, §2.2; always keeps the last layer."""
    return tuple((i * total) // kept - 1 for i in range(1, kept + 1))


def keep_dynabert_code(kept: int, total: int) -> tuple[int, ...]:
    """Layers `((i - 1) * total) // kept + 1` (1-based): what the authors' code does; loses the last layer."""
    return tuple(((i - 1) * total) // kept for i in range(1, kept + 1))


KEPT_LAYER_RULES: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "last": keep_last,
    "dynabert-code": keep_dynabert_code,
}


def resolve(spec: SubnetSpec, geometry: Geometry, kept_layers: str = "last") -> ResolvedSubnet:
    """What `spec` keeps of an encoder of this `geometry`, the layers chosen by the rule named `kept_layers`."""
    heads = round_half_up(spec.width, geometry.heads)
    # Neurons follow the heads, so that the FFN of a width that was rounded is rounded by the same share.
    neurons = max(1, int(Fraction(geometry.neurons * heads, geometry.heads) + Fraction(1, 2)))
    kept = round_half_up(spec.depth, geometry.layers)
    return ResolvedSubnet(spec, heads, neurons, KEPT_LAYER_RULES[kept_layers](kept, geometry.layers))


def _from_the_full(values: tuple[float, ...]) -> tuple[float, ...]:
    """A grid's widths or depths, sorted from large to small; ValueError for an empty or repeated list, or one without
    the full network (it is the largest sub-network, and the one that synchronises several processes)."""
    if not values:
        raise ValueError("is empty; it needs at least 1.0")
    if len(set(values)) < len(values):
        raise ValueError(f"{shown(list(values))} holds a value twice")
    if max(values) != 1:
        raise ValueError(f"{shown(list(values))} lacks 1.0, the full network")
    return tuple(sorted(values, reverse=True))


WRITTEN_SHARE = Annotated[float, Field(gt=0, le=1)] | Annotated[str, Field(pattern=r"^\s*[0-9.]+\s*(/\s*[0-9.]+\s*)?$")]
Share = Annotated[float, BeforeValidator(share_of, json_schema_input_type=WRITTEN_SHARE)]
Shares = Annotated[tuple[Share, ...], AfterValidator(_from_the_full)]


@section("grid")
class Grid:
    """The widths x depths that are trained, each sorted from large to small, and the rule that picks the layers.

    Raises `UserError` for anything else.
    """

    widths: Shares = Field(default=(1.0, 0.75, 0.5, 0.25), description="Shares of heads and neurons that are trained")
    depths: Shares = Field(default=(1.0, 0.75, 0.5), description="Shares of layers that are trained")
    kept_layers: Annotated[str, Among(lambda: KEPT_LAYER_RULES)] = Field(
        default="last", description="Which layers a depth keeps: the rule of DynaBERT's paper or that of its code"
    )

    def specs(self) -> list[SubnetSpec]:
        """All sub-networks, the largest first."""
        return [SubnetSpec(width, depth) for depth in self.depths for width in self.widths]

    def resolve(self, spec: SubnetSpec, geometry: Geometry) -> ResolvedSubnet:
        """What `spec` keeps under this grid's rule for layers."""
        return resolve(spec, geometry, self.kept_layers)

    def check(self, geometry: Geometry) -> None:
        """Refuse (`UserError`) two entries that resolve to the same network of this geometry."""
        seen: dict[tuple[int, int, tuple[int, ...]], SubnetSpec] = {}
        for spec in self.specs():
            resolved = self.resolve(spec, geometry)
            if (other := seen.setdefault(resolved.network, spec)) != spec:
                raise UserError(
                    f"the grid's ({other}) and ({spec}) are the same network here, {resolved.heads} of "
                    f"{geometry.heads} heads and {len(resolved.layers)} of {geometry.layers} layers; drop one of them"
                )

    def trained(self, spec: SubnetSpec, geometry: Geometry) -> SubnetSpec | None:
        """The grid's name for the network that `spec` is of this geometry (width .49 of 12 heads is width .5), or None
        where it is none of the grid's."""
        network = self.resolve(spec, geometry).network
        return next((own for own in self.specs() if self.resolve(own, geometry).network == network), None)

    def nearest(self, spec: SubnetSpec) -> SubnetSpec:
        """The trained sub-network closest to `spec`."""
        return min(self.specs(), key=lambda s: (abs(s.width - spec.width) + abs(s.depth - spec.depth), -s.width))

    def to_dict(self) -> dict[str, Any]:
        return {"widths": list(self.widths), "depths": list(self.depths), "kept_layers": self.kept_layers}


def describe(resolved: ResolvedSubnet, geometry: Geometry) -> str:
    """`"width 0.3 -> 4 of 12 heads, 512 of 1536 neurons; depth 0.5 -> 3 of 6 layers (1, 3, 5)"`, layers 0-based."""
    layers = ", ".join(map(str, resolved.layers))
    return (
        f"width {resolved.spec.width:g} -> {resolved.heads} of {geometry.heads} heads, "
        f"{resolved.neurons} of {geometry.neurons} neurons; depth {resolved.spec.depth:g} -> "
        f"{len(resolved.layers)} of {geometry.layers} layers ({layers})"
    )
