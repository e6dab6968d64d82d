"""Ctrl-C and SIGTERM in work whose parts are kept: it stops where nothing is lost, and says what is kept."""

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
        number: number of the signal.
    """

    def __init__(self, kept: str, number: int = signal.SIGINT) -> None:
        super().__init__(kept)
        self.number = number


class StopRequests:
    """Signals that were noted.

    Attributes:
        number: number of the first one, None if there was none.
    """

    number: int | None = None
    _at_once = False
    _pressed = math.inf

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, which can be interrupted anywhere, raise a second Ctrl-C at once."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def note(self, number: int, _: object) -> None:
        """Handle a signal: note it, or raise a second Ctrl-C where that is allowed."""
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._at_once and now > self._pressed + ONE_PRESS:
                raise KeyboardInterrupt
            self._pressed = min(now, self._pressed)
        self.number = self.number or number


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Within the block, note SIGINT and SIGTERM instead of stopping at once.

    The earlier handlers are restored at the end. If the block ends without an exception, they get the signal that was
    noted. Signals that are ignored stay ignored. Only the main thread has handlers: in others nothing is noted.
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
    """Within the block, an interrupt gets a text that says what is kept, unless it has one."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(kept) from None
