"""The one exception that stands for a user's mistake, and the checks that raise it everywhere alike."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class UserError(Exception):
    """A mistake of the user's, told in one sentence: what is wrong, where, and what would be right.

    The command line prints the sentence without a traceback and exits with 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"` when a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def refuse_unknown_keys(where: str, content: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse (`UserError`) a key of the mapping at `where` that is not known, with the nearest known one."""
    known = list(known)
    for key in content:
        if key not in known:
            full = f"{where}.{key}" if where else str(key)
            raise UserError(f"unknown key '{full}'{nearest(str(key), known) or '; known: ' + listed(known, 40)}")


def one_of(where: str, value: Any, known: Iterable[str]) -> str:
    """The value, a known name; `UserError` with the nearest and all known names otherwise."""
    known = list(known)
    if value not in known:
        text = value if isinstance(value, str) else shown(value)
        raise UserError(f"{where}: '{text}' is unknown{nearest(text, known) or ';'} known: {', '.join(known)}")
    return str(value)


def names_of(where: str, value: Any) -> list[str]:
    """One name or a list of names as a list; `UserError` otherwise."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: expected a name or a list of names, got {value!r}")
    return list(names)


def listed(names: Sequence[str], most: int = 12) -> str:
    """The names with commas between, the first `most` of a long list and how many there are."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def reason_of(error: Exception) -> str:
    """The first line of what an error says."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return text.splitlines()[0] if text else f"{type(error).__name__} without a message"


def first_line(error: Exception) -> str:
    """The error's type and the first line of what it says."""
    return f"{type(error).__name__}: {reason_of(error)}"


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 120, 120, 60


def shown(value: Any) -> str:
    """A value as a recipe writes it, with the middle left out where it is long."""
    known = {None: "null", True: "true", False: "false"}
    return known[value] if value is None or isinstance(value, bool) else _SHORT.repr(value)


def a(noun: str) -> str:
    """The noun with its article: "a tagger", "an embedder"."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def out_of_memory(error: BaseException) -> bool:
    """Whether this is Python's, or torch's on a CPU or an accelerator, for memory that is not there."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )
