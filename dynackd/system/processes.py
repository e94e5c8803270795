"""Several processes that train together, as torchrun starts them: what the environment says, and who speaks."""

import gc
import hashlib
import os
import sys
from collections.abc import Sequence

from dynackd.errors import UserError

# What torchrun tells each process, and torch needs.
RENDEZVOUS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHER = "torchrun --nproc_per_node 2 -m dynackd ..."


def process_count() -> int:
    """How many processes the launcher says there are; 1 without one."""
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdigit() or count == "0":
        raise UserError(f"the environment variable WORLD_SIZE is {count!r}; it must be a number of processes")
    return int(count)


def check_launch() -> None:
    """`UserError` where the environment speaks of several processes but not of how they find one another."""
    missing = [name for name in RENDEZVOUS if name not in os.environ]
    if process_count() > 1 and missing:
        raise UserError(
            f"the environment variable WORLD_SIZE is {process_count()}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set: start several processes with {LAUNCHER}, or unset "
            "WORLD_SIZE for one"
        )


def started_alone_by_accelerate() -> bool:
    """Whether `accelerate launch` started this process and no other, as it does on a CPU whatever --num_processes."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ


def go_alone() -> bool:
    """For work that one process does: whether this is the first, which from here on knows of no others."""
    first = os.environ.get("RANK", "0") == "0"
    for name in RENDEZVOUS:
        os.environ.pop(name, None)
    return first


def launch_command() -> list[str]:
    """The words that start dynackd as it was started."""
    count, here = process_count(), os.environ.get("LOCAL_WORLD_SIZE", "1")
    if count == 1:
        return ["dynackd"]
    machines = [] if here == str(count) else ["--nnodes", str(count // max(1, int(here))), "..."]
    return ["torchrun", *machines, "--nproc_per_node", here, "-m", "dynackd"]


def is_first_to_say(text: str) -> bool:
    """Whether no other process said the same: most mistakes are found by all of them, some by one alone."""
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return True
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return os.environ.get("LOCAL_RANK", "0") == "0"
    from datetime import timedelta

    from torch.distributed import TCPStore

    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    key = f"dynackd/{restart}/{hashlib.sha256(text.encode()).hexdigest()}"
    try:
        port = int(os.environ["MASTER_PORT"])
        store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=timedelta(seconds=5))
        return bool(store.add(key, 1) == 1)
    except (RuntimeError, ValueError, KeyError):
        return True  # torchrun is gone; better twice than not at all


def lost_the_others(error: BaseException) -> bool:
    """Whether this comes of another process's end: what gloo and nccl say then."""
    words = ("connection closed by peer", "connection reset by peer", "broken pipe", "socket timeout", "nccl error")
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    return several and isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def leave() -> None:
    """Under torchrun, leave in order: a process that just exits sometimes aborts."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        gc.collect()  # drops the DDP wrapper, which holds the group
        distributed.destroy_process_group()


def again(typed: Sequence[str], resume: bool) -> list[str]:
    """The words that start a command again, with --resume or as it was."""
    if not resume:
        return [*launch_command(), *typed]
    return [*launch_command(), *(word for word in typed if word not in ("--resume", "--overwrite")), "--resume"]
