"""Progress of work that takes a while: a bar on a terminal, elsewhere a line a minute, all on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

from sdesig import _processes as processes

MINUTE = 60.0


class ProgressLines:
    """What `tqdm` is on a terminal, in lines: the first after a minute, the next ones a minute apart at least.

    Work of less than a minute says nothing. A part that takes longer than a minute is told when it has ended. Work
    that has said something says at last that it is done.

    Args:
        parts: what is iterated over.
        name, unit: of the work and of one of its parts.
        total: number of the parts, with those that were done before.
        initial: number of the parts that were done before.
        file: where the lines go.
        clock: seconds from some time on.
    """

    def __init__(
        self,
        parts: Iterable[Any],
        name: str,
        unit: str,
        total: int,
        initial: int,
        file: TextIO,
        clock: Callable[[], float],
    ) -> None:
        self._parts, self._name, self._unit, self._total = parts, name, unit, total
        self._first = self._done = initial
        self._file, self._clock = file, clock
        self._started = self._said = clock()
        self._note = ""

    def __iter__(self) -> Iterator[Any]:
        with self:
            for part in self._parts:
                yield part
                self.update()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._said > self._started and self._done == self._total:
            self._say(self._clock())

    def update(self, n: int = 1) -> None:
        """Count n more parts, and say a line if it is time and they are not the last."""
        self._done += n
        now = self._clock()
        if now - self._said >= MINUTE and self._done < self._total:
            self._say(now)

    def set_postfix_str(self, note: str, _: bool = True) -> None:
        """What the next line ends with."""
        self._note = note

    def _say(self, now: float) -> None:
        self._said, took = now, now - self._started
        here = self._done - self._first
        words = [f"{self._name}: {self._done} of {self._total} {self._unit}s", f"{tqdm.format_interval(took)} so far"]
        if self._done < self._total and here > 0:
            words.append(f"{tqdm.format_interval(took / here * (self._total - self._done))} left")
        print(", ".join([*words, *filter(None, [self._note])]), file=self._file, flush=True)


def progress_bar(
    parts: Collection[Any] = (),
    *,
    name: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    shown: bool = True,
    leave: bool = True,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """What to iterate over, or to `update` within a `with` block. Of several processes the first one shows it.

    Args:
        parts: what is iterated over.
        name, unit: of the work and of one of its parts.
        total: number of all parts; default `initial + len(parts)`.
        initial: number of the parts that were done before.
        shown: whether it is shown, if there is anything to do.
        leave: whether a bar on a terminal stays when it is full.
        file: where it is shown; default standard error.
        clock: seconds from some time on, for the lines.
    """
    file = sys.stderr if file is None else file
    total = initial + len(parts) if total is None else total
    hidden = not shown or processes.rank() > 0 or total == initial
    if hidden or file.isatty():
        shape = {"desc": name, "unit": unit, "total": total, "initial": initial, "leave": leave}
        return tqdm(parts, **shape, file=file, disable=hidden)
    return ProgressLines(parts, name, unit, total, initial, file, clock)
