"""A lock for values that are copied and pickled."""

from __future__ import annotations

import threading


class Lock:
    """A re-entrant lock. A deep copy and an unpickled one are new locks; `threading.RLock` refuses both."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()
