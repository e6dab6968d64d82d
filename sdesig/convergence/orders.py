"""Strong and weak orders: solutions of one SDE at several numbers of steps, along the same seeded Brownian paths."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_floating, check_integer, check_shape
from sdesig._memory import rows_at_once
from sdesig.brownian import BrownianPath
from sdesig.brownian.clock import Clock
from sdesig.convergence.estimate import OrderEstimate
from sdesig.convergence.fit import check_steps, fit_strong, fit_weak
from sdesig.sde.base import SDELike
from sdesig.sde.problems import HasExactSolution
from sdesig.signature.partial_signature import PartialSignature
from sdesig.signature.words import legendre_depth, needs_levy_area
from sdesig.solvers.base import Scheme, noise_structure
from sdesig.solvers.driver import scheme_named, solve

Start = Tensor | Callable[[BrownianPath], Tensor]
Truth = Callable[[BrownianPath, Tensor], Tensor]

_SEEDS_APART = 2**32
_MOST_CELLS = 2**20

P = ParamSpec("P")
S = TypeVar("S")


def takes_arguments_of(study: Callable[P, S]) -> Callable[[Callable[[S], OrderEstimate]], Callable[P, OrderEstimate]]:
    """Turn a function of a study into one of the study's arguments, which then are written down once."""

    def decorate(estimate: Callable[[S], OrderEstimate]) -> Callable[P, OrderEstimate]:
        @functools.wraps(estimate)
        def order(*args: P.args, **options: P.kwargs) -> OrderEstimate:
            return estimate(study(*args, **options))

        study.__init__.__qualname__ = estimate.__qualname__  # errors name the function that was called
        shown = inspect.signature(study).replace(return_annotation="OrderEstimate")
        order.__signature__ = shown  # type: ignore[attr-defined]
        return order

    return decorate


@dataclass(eq=False, repr=False)
class Study:
    """The arguments of `strong_order` that `weak_order` shares, checked, and what both do with them.

    Path k of a seed has the path seed `seed * 2^32 + k`: more paths extend the sample, whatever the chunks.
    """

    sde: SDELike
    y0: Start
    _: KW_ONLY
    scheme: str | Scheme
    t0: float = 0.0
    t1: float = 1.0
    steps: Sequence[int] = (8, 16, 32, 64, 128)
    paths: int = 10_000
    seed: int = 0
    truth: Truth | int | float | Tensor | None = None
    truth_scheme: str | Scheme | None = None
    cells: int = 1
    depth: int | None = None
    area: bool = False
    clock: Clock | None = None
    row_shape: Sequence[int] | None = None

    def prepare(self, truth: Truth | int | None, *, doubled: bool = False) -> None:
        """Check the arguments, before any work.

        Args:
            truth: what the solutions are compared with; None where that is no solution on the same path.
            doubled: whether `ends` also holds the scheme's solutions at twice the numbers of steps.
        """
        self.steps = check_steps(self.steps)
        self.paths = check_integer("paths", self.paths, 2, _SEEDS_APART)
        self._scheme = scheme_named(self.scheme, self.sde)
        self._truth = truth
        self._first_seed = check_integer("seed", self.seed, 0, 2**30) * _SEEDS_APART
        self._solved = sorted({*self.steps, *(2 * n for n in self.steps if doubled)})
        most = self._solved[-1]
        if isinstance(truth, int):
            if check_integer("truth", truth, 1) <= most:
                raise ValueError(f"truth must have more steps than the finest solution, {most}; got {truth}")
            most = truth
        elif truth is not None and not callable(truth):
            raise TypeError(f"truth must be a number of steps or callable as truth(path, y0); got {truth!r}")
        elif self.truth_scheme is not None:
            raise ValueError("truth_scheme is given without a number of steps as truth")
        self._truth_scheme = self._scheme if self.truth_scheme is None else scheme_named(self.truth_scheme, self.sde)
        numbers = [*self._solved, *((truth, truth // 2) if isinstance(truth, int) else ())]
        if isinstance(truth, int) and truth % 2:
            raise ValueError(f"truth must be an even number of steps, half of which tell its error; got {truth}")
        cells = math.lcm(check_integer("cells", self.cells, 1, _MOST_CELLS), *numbers)
        if cells > _MOST_CELLS:
            raise ValueError(
                f"steps, truth and cells must have a common multiple of at most {_MOST_CELLS}, the cells of a grid on "
                f"which one seed is one path at all of them; that of {sorted(numbers)} and {self.cells} is {cells}"
            )
        if not isinstance(self.area, bool):
            raise TypeError(f"area must be True or False; got {self.area!r}")
        self._start = self.y0 if callable(self.y0) else _check_start(self.sde, self.y0)
        self._row_shape = _row_shape(self.sde, self._start, self.t0, self.row_shape)
        structure = noise_structure(self.sde, self._row_shape[-1] if self._row_shape else 1)
        schemes = (self._scheme, self._truth_scheme)
        # A scheme that does not admit the structure has no say here: `check` refuses it below.
        words = [word for s in schemes if structure in s.strong_order for word in s.words(structure)]
        depth = 1 if self.depth is None else check_integer("depth", self.depth, 1)
        self._options: dict[str, Any] = {
            "t0": self.t0,
            "t1": self.t1,
            "depth": max(depth, legendre_depth(words)),
            "area": needs_levy_area(words) or self.area,
            "clock": self.clock,
            "cells": cells,
            "dtype": torch.float64,
        }
        one = self.path(0, 1)
        for s in schemes:
            s.check(self.sde, self.start(one), one)
        if callable(truth):
            _true_end(truth, one, self.start(one))

    def path(self, first: int, count: int) -> NestedPath:
        """Path number `first` and those after it, in one batch."""
        seeds = range(self._first_seed + first, self._first_seed + first + count)
        return NestedPath(shape=(count, *self._row_shape), seeds=seeds, **self._options)

    def chunks(self, count: int) -> Iterator[NestedPath]:
        """The first `count` paths, in chunks that bound the memory."""
        numbers = self._options["depth"] + self._row_shape[-1] * self._options["area"]
        # Four times: the finest steps, all the coarser ones, and what a scheme takes of both.
        rows = rows_at_once(4 * self._options["cells"] * math.prod(self._row_shape) * numbers)
        for first in range(0, count, rows):
            yield self.path(first, min(rows, count - first))

    def start(self, path: BrownianPath) -> Tensor:
        """Y(t0), (paths, *event), float64."""
        if isinstance(self._start, Tensor):
            return self._start.expand(path.shape[0], *self._start.shape).contiguous()
        start = check_floating("y0(path)", self._start(path))
        if start.shape[:1] != path.shape[:1]:
            raise ValueError(f"y0(path) must have shape ({path.shape[0]}, *event); got {tuple(start.shape)}")
        return start.detach().double()

    def ends(self, path: BrownianPath) -> tuple[dict[int, Tensor], Tensor | None, Tensor | None]:
        """The scheme's Y(t1) by number of steps, the true one, and that of a numeric truth at half its steps."""
        start = self.start(path)
        solved = functools.partial(solve, self.sde, start, path=path, save="last")
        ends = {}
        with torch.no_grad():
            for n in self._solved:
                ends[n] = solved(path.grid(n), scheme=self._scheme)
            if isinstance(self._truth, int):
                half = self._truth // 2
                known = ends.get(half) if self._truth_scheme is self._scheme else None
                coarse = solved(path.grid(half), scheme=self._truth_scheme) if known is None else known
                return ends, solved(path.grid(self._truth), scheme=self._truth_scheme), coarse
        return ends, None if self._truth is None else _true_end(self._truth, path, start), None


@dataclass(eq=False, repr=False, kw_only=True)
class StrongStudy(Study):
    """The arguments of `strong_order`."""

    truth: Truth | int | None = None

    def __post_init__(self) -> None:
        self.prepare(_exact(self.sde, self.t0, self.t1) if self.truth is None else self.truth)


@takes_arguments_of(StrongStudy)
def strong_order(study: StrongStudy) -> OrderEstimate:
    """Strong order of a scheme: the slope of log sqrt(E |Y_N(t1) - Y(t1)|^2) against log step length, in float64.

    All solutions and the truth run along the same Brownian paths, which have the depth and the Levy areas that the
    scheme and the truth's scheme need. With a numeric truth of N steps, a number of steps is masked unless its error is
    above 8 |Y_N - Y_{N/2}|: take 8 (order 1.5) to 16 (order 1) times the most of `steps`. Also masked are errors that
    rounding explains. See `fit_strong` for the fit.

    Args:
        sde: as `solve` takes it.
        y0: (dim,), one start for all paths, or a callable path -> (paths, *event), such as
            `lambda path: path.initial_noise()`.
        scheme: a `Scheme` or its name.
        t0, t1: the SDE is solved from t0 to t1.
        steps: numbers of steps, increasing; steps are even in the clock.
        paths: number of paths.
        seed: path k has the path seed seed * 2^32 + k.
        truth: a callable (path, y0) -> Y(t1) of y0's shape; or the number of steps of a numeric truth; default the
            SDE's own solution `exact`, if it has one (`HasExactSolution`).
        truth_scheme: scheme of a numeric truth, default `scheme`.
        cells, depth, area: what a callable truth needs of the path beside what the schemes do: a master grid of a
            multiple of `cells`, at least this depth, Levy areas.
        clock: clock of the path, see `BrownianPath`.
        row_shape: shape of W per path, where neither y0 nor the SDE tell it.

    Returns:
        The order with its confidence interval, and the errors: see `OrderEstimate`.

    Raises:
        TypeError, ValueError: arguments of the wrong type or range, or that do not fit each other; a truth of no more
            steps than the solutions; fewer than two numbers of steps with an error above the floor.
        FloatingPointError: see `solve`.
    """
    errors, truth_squares, truths = [], [], []
    for path in study.chunks(study.paths):
        ends, truth, coarse = study.ends(path)
        assert truth is not None
        errors.append(torch.stack([(ends[n] - truth).flatten(1).norm(dim=1) for n in study.steps]))
        truth_squares.append((truth - (truth if coarse is None else coarse)).flatten(1).square().sum(1))
        truths.append(truth)
    truth_error = torch.cat(truth_squares).mean().sqrt()
    floors = torch.maximum(truth_error, rounding(torch.cat(truths), study.steps))
    return fit_strong(torch.cat(errors, 1), study.steps, floors=floors)


@dataclass(eq=False, repr=False, kw_only=True)
class WeakStudy(Study):
    """The arguments of `weak_order`, and the functional's values."""

    functional: Callable[[Tensor], Tensor]
    steps: Sequence[int] = (2, 4, 8, 16)
    paths: int = 100_000
    antithetic: bool = True

    def __post_init__(self) -> None:
        if not callable(self.functional):
            raise TypeError(f"functional must be callable as functional(Y); got {self.functional!r}")
        self.expectation: Tensor | None = None
        if isinstance(self.truth, float | Tensor):
            self.expectation = torch.as_tensor(self.truth, dtype=torch.float64).detach()
            self.prepare(None)
        else:
            self.prepare(self.truth, doubled=self.truth is None)
        if self.antithetic and (self.paths % 2 or self.paths < 4):
            raise ValueError(f"paths must be even and >= 4 with antithetic=True; got {self.paths}")
        for rows in (2, 3):  # of which no more than one is the dimension
            width = self.phi(self.start(self.path(0, rows))).shape[1]
        if self.expectation is not None and self.expectation.shape not in ((), (width,)):
            got = tuple(self.expectation.shape)
            raise ValueError(f"truth must be one number, or the functional's {width}, shape ({width},); got {got}")

    def phi(self, ends: Tensor) -> Tensor:
        """The functional of Y(t1), checked, (batch, k)."""
        values = self.functional(ends)
        if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != len(ends):
            got = tuple(values.shape) if isinstance(values, Tensor) else repr(values)
            raise ValueError(f"functional must return shape ({len(ends)},) or ({len(ends)}, k); got {got}")
        return check_floating("functional(Y)", values).detach().reshape(len(ends), -1)


@takes_arguments_of(WeakStudy)
def weak_order(study: WeakStudy) -> OrderEstimate:
    """Weak order of a scheme: the slope of log |E phi(Y_N(t1)) - E phi(Y(t1))| against log step length, in float64.

    Numbers of steps whose error is at the Monte-Carlo floor are masked, see `fit_weak`; those within 8 times the error
    of a numeric truth are masked as in `strong_order`.

    Args:
        functional: phi, maps Y(t1), (batch, dim), to (batch,), or to (batch, k): then the error is the Euclidean norm
            of the k errors.
        truth: what phi(Y_N) is compared with. Default: phi(Y_2N) on the same path, whose mean differs by the error at N
            less that at 2N: it decays at the same order, and needs no truth. Or a callable (path, y0) -> Y(t1) or the
            number of steps of a numeric truth, on the same path; or, as a float or tensor, the number E phi(Y(t1)), ()
            or (k,), with more noise.
        antithetic: every second path is the reflection -W of the one before it: odd functions of W cancel.
        sde, y0, scheme, t0, t1, steps, paths, seed, truth_scheme, cells, depth, area, clock, row_shape: as in
            `strong_order`.

    Returns:
        The order with its confidence interval, and the errors: see `OrderEstimate`.

    Raises:
        TypeError, ValueError, FloatingPointError: as `strong_order`; paths odd or 2 with `antithetic`; a functional
            that returns another shape, no floating-point numbers or infinite ones; a known expectation of another
            shape.
    """
    errors, sizes, truth_errors = [], [], []
    for path in study.chunks(study.paths // 2 if study.antithetic else study.paths):
        sides = []
        for side in (path, path.reflected()) if study.antithetic else (path,):
            ends, truth, coarse = study.ends(side)
            values = {n: study.phi(end) for n, end in ends.items()}
            if truth is not None:
                expected = [study.phi(truth)] * len(study.steps)
            elif study.expectation is not None:
                expected = [study.expectation.to(values[n]) for n in study.steps]
            else:
                expected = [values[2 * n] for n in study.steps]
            sides.append(torch.stack([values[n] - e for n, e in zip(study.steps, expected, strict=True)]))
            sizes.append(values[study.steps[-1]])
            if truth is not None and coarse is not None:
                truth_errors.append(expected[0] - study.phi(coarse))
        errors.append(torch.stack(sides).mean(0))
        if not bool(errors[-1].isfinite().all()):
            raise ValueError("functional must be finite at Y(t1), and so must the truth; there is an error that is not")
    floors = rounding(torch.cat(sizes), study.steps)
    if truth_errors:
        floors = torch.maximum(floors, torch.cat(truth_errors).mean(0).norm())
    return fit_weak(torch.cat(errors, 1), study.steps, floors=floors)


class NestedPath(BrownianPath):
    """A seeded path that draws the steps of its master grid once and joins them to the coarser ones: areas are dear.

    Other steps than consecutive ones of a grid of equal steps are drawn as by `BrownianPath`: the same path.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stacks: dict[int, PartialSignature] = {}  # by the width of a step, in cells

    def partial_signatures(self, times: Any) -> PartialSignature:
        """Partial signatures on the n steps between n + 1 increasing times, as of every path."""
        if len(times) < 2:
            return super().partial_signatures(times)
        ends = self._locate([float(time) for time in times])
        first, last, width = int(ends[0]), int(ends[-1]), int(ends[1] - ends[0])
        if self.cells % width or first % width or (np.diff(ends) != width).any():
            return super().partial_signatures(times)
        if not self._stacks:
            self._stacks[1] = PartialSignature.unchecked(*self._values(np.arange(self.cells + 1)))
        while width not in self._stacks:
            widest = max(k for k in self._stacks if width % k == 0)
            count = next(p for p in range(2, width + 1) if width // widest % p == 0)
            parts = self._stacks[widest]
            self._stacks[count * widest] = functools.reduce(
                PartialSignature.combine, [parts[k::count] for k in range(count)]
            )
        return self._stacks[width][first // width : last // width]

    def reflected(self) -> NestedPath:
        """The path -W; steps that are drawn already serve both."""
        path = super().reflected()
        assert isinstance(path, NestedPath)
        path._stacks = {k: replace(steps, coefficients=-steps.coefficients) for k, steps in self._stacks.items()}
        return path


def rounding(ends: Tensor, steps: Sequence[int]) -> Tensor:
    """eps |Y| sqrt(N) per N, |Y| the root mean square: what rounding makes of a solution in N steps, (len(steps),)."""
    size = ends.flatten(1).norm(dim=1).square().mean().sqrt()
    return torch.finfo(ends.dtype).eps * size * torch.tensor(steps).to(ends).sqrt()


def _exact(sde: SDELike, t0: float, t1: float) -> Truth:
    if not isinstance(sde, HasExactSolution):
        raise ValueError(
            "truth must be given, a number of steps or a callable (path, y0) -> Y(t1): "
            f"{type(sde).__name__} has no exact solution"
        )
    if t0 != 0:
        raise ValueError(f"truth must be given for t0 != 0; exact solutions start at 0, not {t0}")

    def exact(path: BrownianPath, y0: Tensor) -> Tensor:
        return sde.exact(t1, path.partial_signature(0.0, t1).increment, y0)

    return exact


def _true_end(truth: Truth, path: BrownianPath, start: Tensor) -> Tensor:
    """Y(t1) of a callable, checked, float64."""
    end = truth(path, start)
    if not isinstance(end, Tensor) or end.shape != start.shape or not end.is_floating_point():
        got = f"{end.dtype}, {tuple(end.shape)}" if isinstance(end, Tensor) else repr(end)
        raise ValueError(f"truth(path, y0) must be floating-point of the shape {tuple(start.shape)} of y0; got {got}")
    if not bool(end.isfinite().all()):
        raise ValueError("truth(path, y0) must be finite")
    return end.detach().double()


def _check_start(sde: SDELike, y0: Tensor) -> Tensor:
    dim = getattr(sde, "dim", None)
    if check_floating("y0", y0).ndim == 0 or (dim is not None and y0.shape != (dim,)):
        wanted = "(dim,)" if dim is None else f"({dim},)"
        raise ValueError(f"y0 must have shape {wanted}, one start for all paths, or be callable; got {tuple(y0.shape)}")
    return y0.detach().double()


def _row_shape(sde: SDELike, y0: Start, t0: float, row_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Shape of one path's value."""
    if row_shape is not None:
        return check_shape("row_shape", row_shape)
    if isinstance(y0, Tensor) and sde.noise_type == "diagonal":
        return tuple(y0.shape)
    noise_dim = getattr(sde, "noise_dim", None)
    if noise_dim is None and isinstance(y0, Tensor):
        noise_dim = sde.g(torch.tensor(t0, dtype=torch.float64), y0[None]).shape[-1]
    if noise_dim is None:
        raise ValueError("row_shape must be given, the shape of W per path: the SDE and a callable y0 do not tell it")
    return (noise_dim,)
