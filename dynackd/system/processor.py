"""What this machine's processor can do."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Instructions that add products of 8-bit numbers in 32 bits, as Linux calls them.
WIDE_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}


def has_vnni() -> bool | None:
    """Whether this x86 processor adds products of 8-bit numbers in 32 bits; None for another processor, or where
    nothing says so."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return None if flags is None else not WIDE_PRODUCTS.isdisjoint(flags)
