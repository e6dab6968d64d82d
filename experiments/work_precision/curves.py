"""What a problem is, and its curves: error by number of steps, seconds by number of steps."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from experiments.benchmarks.comparison import seconds
from experiments.work_precision.packages import Package, Steps

SLOWEST = {"VirtualBrownianTree": 64}
"""The most steps that are timed on a slow kind of path; the time is proportional to their number."""


@dataclass(frozen=True)
class Part:
    """A package's schemes and their numbers of steps; `note` tells parts of one package apart."""

    package: Package
    steps: Steps
    note: str = ""

    def label(self, scheme: str) -> str:
        """The scheme's name in figures and tables."""
        return f"{self.package.name} {scheme}{', ' if self.note else ''}{self.note}"


@dataclass(frozen=True)
class Problem:
    """A problem in several packages; `targets` are the errors whose cost is asked for, `remark` explains the costs."""

    name: str
    title: str
    parts: Sequence[Part]
    targets: Sequence[float]
    remark: str


@dataclass
class Curve:
    """A scheme's points, in increasing order of steps.

    Attributes:
        package, label, scheme: whose scheme, its name in the report and in the package.
        steps: numbers of steps.
        differences: Y_N - Y, (numbers of steps, paths, dim).
        seconds: of a solve by kind of path, one for each number of steps that was timed.
    """

    package: str
    label: str
    scheme: str
    steps: Sequence[int]
    differences: Tensor
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rmse(self) -> list[float]:
        """sqrt(E |Y_N - Y|^2 / dim)."""
        return self.differences.double().square().mean((1, 2)).sqrt().tolist()

    @property
    def standard_errors(self) -> list[float]:
        """Standard errors of `rmse`, by linearization."""
        squares = self.differences.double().square().mean(2)
        return (squares.std(1) / math.sqrt(squares.shape[1]) / (2 * squares.mean(1).sqrt())).tolist()


def installed(package: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(package) is not None


def powers_of_two(first: int, last: int) -> tuple[int, ...]:
    """first, 2 first, ... up to last."""
    return tuple(first * 2**k for k in range(int(math.log2(last / first)) + 1))


def errors(problem: Problem, paths: int) -> list[Curve]:
    """The curves of all schemes, without seconds."""
    curves = []
    for part in problem.parts:
        with torch.no_grad():
            differences = part.package.differences(part.steps, paths)
        curves += [
            Curve(part.package.name, part.label(scheme), scheme, numbers, differences[scheme])
            for scheme, numbers in part.steps.items()
        ]
    return curves


def measure_seconds(problem: Problem, curves: Sequence[Curve], batch: int, repetitions: int) -> None:
    """Fill in the seconds: medians, after one solve that is not timed (and compiles)."""
    schemes = ((part.package, scheme) for part in problem.parts for scheme in part.steps)
    for curve, (package, scheme) in zip(curves, schemes, strict=True):
        for path in package.paths:
            times = []
            for n in curve.steps:
                if n > SLOWEST.get(path, n):
                    break
                run = package.run(scheme, path, n, batch)
                with torch.no_grad():
                    run()
                    times.append(statistics.median(seconds(run) for _ in range(repetitions)))
            curve.seconds[path] = times


def work_to_reach(target: float, errors: Sequence[float], work: Sequence[float]) -> float:
    """The work at which the error first falls to the target, between two points by the power law through them.

    A bound from above, the first point's work, if its error is not above the target; infinite if the last one's is.
    """
    if errors[0] <= target:
        return work[0]
    points = list(zip(errors, work, strict=False))
    for (above, less), (below, more) in pairwise(points):
        if below <= target:
            share = math.log(above / target) / math.log(above / below)
            return less * (more / less) ** share
    return math.inf
