"""What a row of the benchmark is: a timed comparison, a cost in time or memory, or a check that a peer agrees."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Paired timings. A ratio is the peer's time over ours: above 1, ours is faster; else see `quantity`."""

    ratio: float
    lowest: float
    highest: float
    ours_seconds: float
    peer_seconds: float


@dataclass(frozen=True)
class Result:
    """One row of the report; `value` is a `quantity`: a median of ratios if `timing` is given."""

    what: str
    ours: str
    peer: str
    quantity: str
    value: float
    target: str
    reached: bool | None
    explanation: str = ""
    timing: Timing | None = None


@dataclass(frozen=True)
class Case:
    """A timed comparison.

    Attributes:
        what: the task, with its sizes.
        ours, peer: how each side does it.
        run_ours, run_peer: do it once.
        repetitions: number of timed pairs.
        target: smallest median ratio that is good enough; None for a row that only informs.
        explanation: what limits the ratio, shown where the target is missed.
    """

    what: str
    ours: str
    peer: str
    run_ours: Run
    run_peer: Run
    repetitions: int
    target: float | None = None
    explanation: str = ""

    def measure(self) -> Result:
        timing = compare(self.run_ours, self.run_peer, self.repetitions)
        reached = None if self.target is None else timing.ratio >= self.target
        target = "" if self.target is None else f">= {self.target:.3g}"
        return Result(self.what, self.ours, self.peer, "ratio", timing.ratio, target, reached, self.explanation, timing)


@dataclass(frozen=True)
class Expense:
    """A timed comparison the other way round: what we spend on a unit over what something else spends on one.

    Attributes:
        what, ours, peer, run_ours, run_peer, repetitions, explanation: as in `Case`.
        bound: largest median that is good enough; None for a row that only informs.
        units_ours, units_peer: units that a run does: steps, numbers.
    """

    what: str
    ours: str
    peer: str
    run_ours: Run
    run_peer: Run
    repetitions: int
    bound: float | None = None
    explanation: str = ""
    units_ours: int = 1
    units_peer: int = 1

    def measure(self) -> Result:
        timing = compare(self.run_ours, self.run_peer, self.repetitions)
        units = self.units_peer / self.units_ours
        value, lowest, highest = (units / ratio for ratio in (timing.ratio, timing.highest, timing.lowest))
        shown = Timing(value, lowest, highest, timing.ours_seconds, timing.peer_seconds)
        return _bounded(self, "cost", value, shown)


@dataclass(frozen=True)
class Overhead:
    """What a run takes beside a part of it, in percent of that part; both are of one run, so that it is exact.

    Attributes:
        what, ours, peer, repetitions: as in `Case`; the peer is the part.
        run: do it once.
        inside: seconds that the part took since it was asked last.
        bound: largest median that is good enough; None for a row that only informs.
        explanation: what is beside it, shown where the bound is missed.
    """

    what: str
    ours: str
    peer: str
    run: Run
    inside: Callable[[], float]
    repetitions: int
    bound: float | None = None
    explanation: str = ""

    def measure(self) -> Result:
        self.inside()
        pairs = [(seconds(self.run), self.inside()) for _ in range(self.repetitions)]
        excess = [100 * (whole / part - 1) for whole, part in pairs]
        wholes, parts = (statistics.median(times) for times in zip(*pairs, strict=True))
        timing = Timing(statistics.median(excess), min(excess), max(excess), wholes, parts)
        return _bounded(self, "overhead, %", timing.ratio, timing)


@dataclass(frozen=True)
class Peak:
    """Memory that we take at most, without a peer.

    Attributes:
        what, ours: the task, and how we do it.
        quantity: what it is counted in, such as "states".
        peak: measures it.
        bound: largest peak that is good enough; None for a row that only informs.
        explanation: what takes it, shown where the bound is missed.
    """

    what: str
    ours: str
    quantity: str
    peak: Callable[[], float]
    bound: float | None = None
    explanation: str = ""

    def measure(self) -> Result:
        return _bounded(self, self.quantity, self.peak())


@dataclass(frozen=True)
class Cost:
    """What one of many equal steps costs us, without a peer.

    Attributes:
        what, ours: the task, and how we do it.
        run: do all steps once.
        steps: their number.
        repetitions: number of timed runs.
        bound: largest median time of a step that is good enough, in microseconds.
        explanation: what limits it, shown where the bound is missed.
    """

    what: str
    ours: str
    run: Run
    steps: int
    repetitions: int
    bound: float
    explanation: str = ""

    def measure(self) -> Result:
        self.run()
        value = 1e6 * statistics.median(seconds(self.run) for _ in range(self.repetitions)) / self.steps
        target, reached = f"< {self.bound:g}", value < self.bound
        return Result(self.what, self.ours, "", "microseconds a step", value, target, reached, self.explanation)


@dataclass(frozen=True)
class Check:
    """Agreement with a peer: `statistic()`, a `quantity` such as "max |z|", must be below `bound`."""

    what: str
    ours: str
    peer: str
    quantity: str
    statistic: Callable[[], float]
    bound: float

    def measure(self) -> Result:
        value = self.statistic()
        return Result(self.what, self.ours, self.peer, self.quantity, value, f"< {self.bound:g}", value < self.bound)


def _bounded(row: Expense | Overhead | Peak, quantity: str, value: float, timing: Timing | None = None) -> Result:
    reached = None if row.bound is None else value <= row.bound
    target = "" if row.bound is None else f"<= {row.bound:g}"
    peer = "" if isinstance(row, Peak) else row.peer
    return Result(row.what, row.ours, peer, quantity, value, target, reached, row.explanation, timing)


def seconds(run: Run) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(ours: Run, peer: Run, repetitions: int) -> Timing:
    """Time `ours` and `peer` in alternation after one untimed call each.

    The median of the ratios of neighbours in time is robust to a machine whose speed drifts.
    """
    ours()
    peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repetitions)]
    ratios = [peer_time / our_time for our_time, peer_time in pairs]
    our_times, peer_times = zip(*pairs, strict=True)
    return Timing(
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        statistics.median(our_times),
        statistics.median(peer_times),
    )


def fastest(runs: Mapping[str, Run], repetitions: int) -> str:
    """The key of the run with the smallest median time, timed in alternation after one untimed call each."""
    for run in runs.values():
        run()
    times = [{name: seconds(run) for name, run in runs.items()} for _ in range(repetitions)]
    return min(runs, key=lambda name: statistics.median(row[name] for row in times))


def max_z(ours: Tensor, peer: Tensor) -> float:
    """Largest |z| over k statistics of the difference of two sample means, from samples (n, k) and (m, k)."""
    variance = ours.var(0) / len(ours) + peer.var(0) / len(peer)
    return ((ours.mean(0) - peer.mean(0)).abs() / variance.sqrt()).max().item()


def import_peer(name: str) -> ModuleType:
    """Import a package that only the benchmark needs; raise ModuleNotFoundError naming the extra that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the benchmark needs {name}: pip install -e '.[peers]', or `make bench`") from error
