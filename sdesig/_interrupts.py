"""Ctrl-C and SIGTERM in work that is kept in part: it stops where nothing is lost, and says what is kept."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ONE_PRESS = 1.0
"""Seconds within which a second SIGINT is the same Ctrl-C: torchrun hands on what the terminal has sent already."""


class Interrupted(KeyboardInterrupt):
    """An interrupt whose text says what is kept.

    Args:
        kept: the text.
        number: of the signal.
    """

    def __init__(self, kept: str, number: int = signal.SIGINT) -> None:
        super().__init__(kept)
        self.number = number


class StopRequests:
    """Signals that came.

    Attributes:
        number: of the first one; None: there was none.
    """

    number: int | None = None
    _at_once = False
    _pressed = math.inf

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a second Ctrl-C be raised within the block, which can be interrupted anywhere."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def note(self, number: int, _: object) -> None:
        """A handler of signals."""
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._at_once and now > self._pressed + ONE_PRESS:
                raise KeyboardInterrupt
            self._pressed = min(now, self._pressed)
        self.number = self.number or number


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Take note of SIGINT and SIGTERM for a while, instead of stopping at once.

    Handlers are those of before at the end. They get the signal that came after the block looked for one, if it ends
    without an exception. A signal that is ignored stays so. Only the main thread has handlers: in others nothing is
    noted.
    """
    requests, before = StopRequests(), {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                before[number] = signal.signal(number, requests.note)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if requests.number is not None:
        signal.raise_signal(requests.number)


@contextmanager
def keeping(kept: str) -> Iterator[None]:
    """Let an interrupt say what is kept, unless it does."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(kept) from None
