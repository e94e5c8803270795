"""The command line."""

from dynackd.cli.command_line import main

__all__ = ["main"]
