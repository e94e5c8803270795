"""The size that a command is about: a width and a depth, or a file."""

import argparse
from functools import partial
from typing import Any, NamedTuple

from dynackd.cli.arguments import path
from dynackd.errors import UserError


def add_size(parser: argparse.ArgumentParser) -> None:
    for name, what in (("width", "heads and neurons"), ("depth", "layers")):
        text = f"share of {what} to keep, such as 0.5 or 2/3 (default: 1.0)"
        parser.add_argument(f"--{name}", type=partial(_share, name), metavar="X", help=text)
    parser.add_argument(
        "--spec",
        type=path,
        metavar="FILE",
        help='a JSON file with the heads and neurons of each kept layer, in the place of width and depth: '
        '{"layers": [{"index": 0, "heads": 6, "neurons": 768}, ...]}',
    )


def _share(name: str, text: str) -> float:
    from dynackd.grid import multiplier

    return multiplier(name, text)


class Size(NamedTuple):
    """`which` is a `SubnetSpec` or a `Subnet`; `name` is for a directory: `w0.5-d0.75`, the name of the file, or that
    of the polished supernet."""

    which: Any
    name: str


def size_of(options: argparse.Namespace) -> Size:
    """What is asked of `options.supernet`; of one that was polished its one sub-network. Raises `UserError`."""
    from dynackd.families.table import geometry_of
    from dynackd.grid import read_subnet
    from dynackd.subnet import SubnetSpec
    from dynackd.supernet.network import check_supernet, only_of

    width, depth, file = options.width, options.depth, options.spec
    if file and (width or depth):
        raise UserError("--spec names every layer; give it alone, without --width and --depth")
    config = check_supernet(options.supernet)
    if only := only_of(config):
        if file or width or depth:
            raise UserError(
                f"{options.supernet} is good for one sub-network, which was polished; leave out --width, --depth and "
                "--spec, or name the supernet that it came from"
            )
        return Size(_named(config, only), options.supernet.resolve().name)
    if file:
        return Size(read_subnet(file, geometry_of(config)), file.stem)
    return Size(SubnetSpec(width or 1.0, depth or 1.0), f"w{width or 1:g}-d{depth or 1:g}")


def _named(config: Any, only: Any) -> Any:
    """The name of a sub-network, or itself where each layer has sizes of its own."""
    from dynackd.families.table import geometry_of
    from dynackd.grid import Grid
    from dynackd.supernet.network import CONFIG_KEY

    return Grid(**getattr(config, CONFIG_KEY)["grid"]).trained(only, geometry_of(config)) or only
