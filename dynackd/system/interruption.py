"""Ctrl-C and SIGTERM. While a training holds them they are a wish that it asks for after each step; otherwise, and when
they come again, an exception at once, so that whatever is half-written vanishes on the way out."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
# Within this time a signal is the same one again: the terminal sends Ctrl-C to torchrun's processes, and so does
# torchrun.
AGAIN_SECONDS = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal came. `number`: which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruption:
    """What came, and what becomes of it. Does nothing before `installed`, which the command line alone does.

    number: the signal that came, or None. resumable: whether there is a run that --resume can go on with; whoever
    writes it says so.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.resumable = False
        self._held = False
        self._came = 0.0

    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catches the signals for the length of the block; outside the main thread Python cannot, and nothing is. One
        that is ignored, as Ctrl-C is of a command in the background of a script, stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in NAMES if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the length of the block a first signal is only noted; it is raised when the block ends well."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.number is not None:
            raise Interrupted(self.number)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is not None and now - self._came < AGAIN_SECONDS:
            return
        first = self.number is None
        self.number, self._came = number, now
        if not (self._held and first):
            raise Interrupted(number)
        if number == signal.SIGINT and os.environ.get("LOCAL_RANK", "0") == "0":
            # Not print, which may be at work right now.
            os.write(2, b"\ndynackd: stopping after this step; a second Ctrl-C stops at once\n")
