"""The sub-networks that are trained: the grid of a recipe, and what its shares, or a file, resolve to."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from dynackd.errors import UserError, refuse_unknown_keys, shown
from dynackd.subnet import Geometry, Layer, Subnet, SubnetSpec
from dynackd.system.places import read_json
from dynackd.system.settings import Among, Whole, section


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


def keep_ends(kept: int, total: int) -> tuple[int, ...]:
    """The first and the last layer, and the others at even distances between; of one layer the last."""
    if kept == 1:
        return (total - 1,)
    return tuple(int(Fraction(i * (total - 1), kept - 1) + Fraction(1, 2)) for i in range(kept))


def keep_important(kept: int, total: int, order: Sequence[int]) -> tuple[int, ...]:
    """The layers that leave last by an order that was measured, which loses as little as it can at each."""
    return tuple(sorted(order[total - kept :]))


# One with an `order` goes by the layers in the order in which they leave, which is measured for each supernet.
KEPT_LAYER_RULES: dict[str, Callable[..., tuple[int, ...]]] = {
    "last": keep_last,
    "ends": keep_ends,
    "importance": keep_important,
    "dynabert-code": keep_dynabert_code,
}


def hidden_size(share: float, total: int) -> int:
    """So many of `total` hidden dimensions, a multiple of 8 where there are as many, rounded half up; all for 1."""
    if share == 1 or total < 8:
        return round_half_up(share, total)
    eights = Fraction(share).limit_denominator(1_000_000) * total / 8
    return min(total, 8 * max(1, int(eights + Fraction(1, 2))))


def resolve(
    spec: SubnetSpec, geometry: Geometry, kept_layers: str = "last", layer_order: Sequence[int] | None = None
) -> Subnet:
    """What `spec` keeps of an encoder of this `geometry`, the layers chosen by the rule named `kept_layers`, and by the
    order in which they leave where that rule needs one."""
    heads = round_half_up(spec.width, geometry.heads)
    # Neurons follow the heads, so that the FFN of a width that was rounded is rounded by the same share.
    neurons = max(1, int(Fraction(geometry.neurons * heads, geometry.heads) + Fraction(1, 2)))
    kept = _kept(round_half_up(spec.depth, geometry.layers), geometry.layers, kept_layers, layer_order)
    layers = tuple(Layer(index, heads, neurons) for index in kept)
    return Subnet(layers, hidden_size(spec.hidden, geometry.hidden))


def _kept(kept: int, total: int, rule: str, order: Sequence[int] | None) -> tuple[int, ...]:
    if not _by_order(rule):
        return KEPT_LAYER_RULES[rule](kept, total)
    if kept == total:  # no order says more, and none is known before the width stage
        return tuple(range(total))
    if order is None:
        raise UserError(
            f"which {kept} of {total} layers the rule {rule!r} keeps (grid.kept_layers) is not known yet: the order in "
            "which they leave is measured at the end of dynackd train-width"
        )
    if len(order) != total:
        raise UserError(f"grid.layer_order {shown(list(order))} is of {len(order)} layers, the network has {total}")
    return KEPT_LAYER_RULES[rule](kept, total, order)


def _by_order(rule: str) -> bool:
    return "order" in inspect.signature(KEPT_LAYER_RULES[rule]).parameters


def _every_layer_once(order: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if order is not None and sorted(order) != list(range(len(order))):
        raise ValueError(f"{shown(list(order))} is no order of layers, each of them once, counted from 0")
    return order


def _from_the_full(values: tuple[float, ...]) -> tuple[float, ...]:
    """A grid's widths, depths or hidden sizes, sorted from large to small; ValueError for an empty or repeated list, or
    one without the full network (it is the largest sub-network, and the one that synchronises several processes)."""
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
    """The widths x depths x hidden sizes that are trained, each sorted from large to small, and the rule that picks the
    layers.

    layer_order: the layers in the order in which they leave, the one that is missed least first, where the rule goes by
    that; it is no part of a recipe but of a trained supernet. Raises `UserError` for anything else.
    """

    widths: Shares = Field(default=(1.0, 0.75, 0.5, 0.25), description="Shares of heads and neurons that are trained")
    depths: Shares = Field(default=(1.0, 0.75, 0.5), description="Shares of layers that are trained")
    kept_layers: Annotated[str, Among(lambda: KEPT_LAYER_RULES)] = Field(
        default="last",
        description="Which layers a depth keeps: last (the rule of DynaBERT's paper), ends (the first, the last and "
        "evenly between), importance (those that are missed most, as train-width measures it on training rows), or "
        "dynabert-code (the rule of its code)",
    )
    layer_order: Annotated[tuple[Whole, ...] | None, AfterValidator(_every_layer_once)] = None
    hidden: Shares = Field(
        default=(1.0,), description="Shares of the hidden size that are trained, beside the full one in the depth stage"
    )

    def specs(self) -> list[SubnetSpec]:
        """All sub-networks, the largest first."""
        return [
            SubnetSpec(width, depth, hidden)
            for hidden in self.hidden
            for depth in self.depths
            for width in self.widths
        ]

    def resolve(self, spec: SubnetSpec, geometry: Geometry) -> Subnet:
        """What `spec` keeps under this grid's rule for layers. Raises `UserError` where that needs an order which is
        not known yet."""
        return resolve(spec, geometry, self.kept_layers, self.layer_order)

    @property
    def by_order(self) -> bool:
        """Whether its rule goes by the order in which layers leave."""
        return _by_order(self.kept_layers)

    @property
    def awaits_order(self) -> bool:
        """Whether which layers it keeps is not known yet."""
        return self.by_order and self.layer_order is None and min(self.depths) < 1

    def ordered(self, order: Sequence[int] | None) -> "Grid":
        """With this order of the layers, where its rule goes by one."""
        return replace(self, layer_order=tuple(order)) if self.by_order and order is not None else self

    def supposed(self, geometry: Geometry) -> "Grid":
        """With any order of the layers where its rule goes by one: for how many sizes there are and what they cost,
        before an order is measured."""
        return self if self.layer_order else self.ordered(range(geometry.layers))

    def subnets(self, geometry: Geometry) -> dict[SubnetSpec, Subnet]:
        """All sub-networks by their names, the largest first. Raises `UserError` where two are the same network."""
        found: dict[Subnet, SubnetSpec] = {}
        for spec in self.specs():
            subnet = self.resolve(spec, geometry)
            if (other := found.setdefault(subnet, spec)) != spec:
                hidden = f" and {subnet.hidden} of {geometry.hidden} hidden dimensions" if len(self.hidden) > 1 else ""
                raise UserError(
                    f"the grid's ({other}) and ({spec}) are the same network here, {subnet.layers[0].heads} of "
                    f"{geometry.heads} heads and {len(subnet.layers)} of {geometry.layers} layers{hidden}; drop one of "
                    f"them ({' '.join(f'--set {key}={own}' for key, own in self.distinct(geometry).items())})"
                )
        return {spec: subnet for subnet, spec in found.items()}

    def distinct(self, geometry: Geometry) -> dict[str, list[float]]:
        """The keys of a recipe that change where shares that come to the same as a larger one are left out."""
        sizes: dict[str, tuple[Shares, Callable[[float], int]]] = {
            "grid.widths": (self.widths, lambda share: round_half_up(share, geometry.heads)),
            "grid.depths": (self.depths, lambda share: round_half_up(share, geometry.layers)),
            "grid.hidden": (self.hidden, lambda share: hidden_size(share, geometry.hidden)),
        }
        found = {}
        for key, (shares, size) in sizes.items():
            first = {size(share): share for share in reversed(shares)}  # of the same size the largest stays
            if len(first) < len(shares):
                found[key] = sorted(first.values(), reverse=True)
        return found

    def trained(self, subnet: Subnet, geometry: Geometry) -> SubnetSpec | None:
        """The grid's name for a sub-network (width .49 of 12 heads is width .5), or None where it is none of them."""
        return next((spec for spec, own in self.subnets(geometry).items() if own == subnet), None)

    def nearest(self, spec: SubnetSpec) -> SubnetSpec:
        """The trained sub-network closest to `spec`."""

        def distance(other: SubnetSpec) -> tuple[float, float]:
            own, asked = (other.width, other.depth, other.hidden), (spec.width, spec.depth, spec.hidden)
            return sum(abs(mine - theirs) for mine, theirs in zip(own, asked, strict=True)), -other.width

        return min(self.specs(), key=distance)

    def to_dict(self) -> dict[str, Any]:
        """What `Grid(**content)` reads again; the hidden sizes are named where there are several."""
        own = {"widths": list(self.widths), "depths": list(self.depths), "kept_layers": self.kept_layers}
        hidden = {"hidden": list(self.hidden)} if len(self.hidden) > 1 else {}
        return {**own, **hidden, **({"layer_order": list(self.layer_order)} if self.layer_order else {})}


def check_subnet(subnet: Subnet, geometry: Geometry) -> None:
    """`UserError` where a full network of these sizes does not hold this sub-network."""
    most = {"index": geometry.layers - 1, "heads": geometry.heads, "neurons": geometry.neurons}
    sizes = [("hidden", 1, subnet.hidden, geometry.hidden)]
    for layer in subnet.layers:
        sizes += [(f"{name} of layer {layer.index}", name != "index", getattr(layer, name), largest)
                  for name, largest in most.items()]  # fmt: skip
    for what, least, size, largest in sizes:
        if not least <= size <= largest:
            raise UserError(f"the sub-network's {what} is {size}; this network has {int(least)} to {largest}")
    if not subnet.layers or any(later <= earlier for earlier, later in pairwise(subnet.indices)):
        raise UserError(f"the sub-network's layers are {list(subnet.indices)}; name one or more, in ascending order")


def read_subnet(file: Path, geometry: Geometry) -> Subnet:
    """The sub-network of a JSON file, `{"layers": [{"index": 0, "heads": 6, "neurons": 768}, ...]}`, each layer with
    sizes of its own, and where it is less than the full one `"hidden": 192`. Raises `UserError` for what this network
    does not hold."""
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("layers"), list) or not content["layers"]:
        raise UserError(f'{file} must hold {{"layers": [{{"index": 0, "heads": 6, "neurons": 768}}, ...]}}')
    refuse_unknown_keys(str(file), content, ("layers", "hidden"))
    hidden = content.get("hidden", geometry.hidden)
    if type(hidden) is not int or not 1 <= hidden <= geometry.hidden:
        raise UserError(f"{file}: hidden is {shown(hidden)}; it must be a number from 1 to {geometry.hidden}")
    most = {"index": geometry.layers - 1, "heads": geometry.heads, "neurons": geometry.neurons}
    layers = []
    for place, entry in enumerate(content["layers"]):
        where = f"{file}: layers[{place}]"
        if not isinstance(entry, dict) or set(entry) != set(most):
            raise UserError(f"{where} must have the keys {', '.join(most)} and no others, not {shown(entry)}")
        for key, largest in most.items():
            least = 0 if key == "index" else 1
            if type(entry[key]) is not int or not least <= entry[key] <= largest:
                raise UserError(f"{where}.{key} is {shown(entry[key])}; it must be a number from {least} to {largest}")
        layers.append(Layer(**entry))
        if place and layers[-1].index <= layers[-2].index:
            raise UserError(f"{where}.index is {layers[-1].index}; layers keep their order, each index above the last")
    return Subnet(tuple(layers), hidden)
