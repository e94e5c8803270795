"""The size that a command is about: a width, a depth and a hidden size, or a file."""

import argparse
from functools import partial
from typing import Any, NamedTuple

from dynackd.cli.arguments import path
from dynackd.errors import UserError


def add_size(parser: argparse.ArgumentParser) -> None:
    for name, what in (("width", "heads and neurons"), ("depth", "layers"), ("hidden", "the hidden size")):
        text = f"share of {what} to keep, such as 0.5 or 2/3 (default: 1.0)"
        parser.add_argument(f"--{name}", type=partial(_share, name), metavar="X", help=text)
    parser.add_argument(
        "--spec",
        type=path,
        metavar="FILE",
        help='a JSON file with the heads and neurons of each kept layer, in the place of width, depth and hidden: '
        '{"layers": [{"index": 0, "heads": 6, "neurons": 768}, ...]}',
    )


def _share(name: str, text: str) -> float:
    from dynackd.grid import multiplier

    return multiplier(name, text)


class Size(NamedTuple):
    """`which` is a `SubnetSpec` or a `Subnet`; `name` is for a directory: `w0.5-d0.75`, `w0.5-d0.75-h0.5`, the name of
    the file, or that of the polished supernet."""

    which: Any
    name: str


def size_of(options: argparse.Namespace) -> Size:
    """What is asked of `options.supernet`; of one that was polished its one sub-network. Raises `UserError`."""
    from dynackd.families.table import geometry_of
    from dynackd.grid import read_subnet
    from dynackd.subnet import SubnetSpec
    from dynackd.supernet.network import check_supernet, only_of

    shares = {name: getattr(options, name) for name in ("width", "depth", "hidden")}
    given, file = any(shares.values()), options.spec
    if file and given:
        raise UserError("--spec names every layer; give it alone, without --width, --depth and --hidden")
    config = check_supernet(options.supernet)
    if only := only_of(config):
        if file or given:
            raise UserError(
                f"{options.supernet} is good for one sub-network, which was polished; leave out --width, --depth, "
                "--hidden and --spec, or name the supernet that it came from"
            )
        return Size(_named(config, only), options.supernet.resolve().name)
    if file:
        subnet = read_subnet(file, geometry_of(config))
        _check_hidden(options.supernet, config, subnet.hidden < geometry_of(config).hidden)
        return Size(subnet, file.stem)
    spec = SubnetSpec(*(share or 1.0 for share in shares.values()))
    _check_hidden(options.supernet, config, spec.hidden < 1)
    return Size(spec, "-".join(f"{name[0]}{share:g}" for name, share in spec.to_dict().items()))


def _check_hidden(supernet: Any, config: Any, cut: bool) -> None:
    """Refuse (UserError) to cut hidden dimensions that stand in no order."""
    from dynackd.supernet.network import CONFIG_KEY

    if cut and "hidden_order" not in getattr(config, CONFIG_KEY):
        raise UserError(
            f"{supernet} has its full hidden size alone, since its recipe's grid.hidden had no smaller one; train it "
            "with one, or leave hidden out"
        )


def _named(config: Any, only: Any) -> Any:
    """The name of a sub-network, or itself where each layer has sizes of its own."""
    from dynackd.families.table import geometry_of
    from dynackd.grid import Grid
    from dynackd.supernet.network import CONFIG_KEY

    return Grid(**getattr(config, CONFIG_KEY)["grid"]).trained(only, geometry_of(config)) or only
