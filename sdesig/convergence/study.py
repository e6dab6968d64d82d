"""Solutions of one SDE at several numbers of steps, all along the same seeded Brownian paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_floating, check_integer, check_shape
from sdesig.brownian import BrownianPath
from sdesig.brownian.clock import Clock
from sdesig.convergence.fit import check_steps
from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature
from sdesig.signature.words import legendre_depth, needs_levy_area
from sdesig.solvers.base import Scheme, noise_structure
from sdesig.solvers.driver import solve
from sdesig.solvers.registry import scheme_named

Start = Tensor | Callable[[BrownianPath], Tensor]
Reference = Callable[[BrownianPath, Tensor], Tensor]

_SEEDS_APART = 2**32
_NUMBERS_AT_ONCE = 2**22  # of the finest steps of one chunk of paths


class Study:
    """One SDE, a scheme at several numbers of steps, and their reference, on chunks of paths.

    Path k of a seed has the path seed `seed * 2^32 + k`: more paths extend the sample, whatever the chunks.

    Args:
        y0, scheme, steps, t0, t1, seed, reference, reference_scheme, levels, depth, area, clock, row_shape: as in
            `strong_order`, all of its checks are here.
        doubled: whether `ends` also holds the scheme's solutions at twice the steps of each level.
    """

    def __init__(
        self,
        sde: SDELike,
        y0: Start,
        *,
        scheme: str | Scheme,
        t0: float,
        t1: float,
        steps: Sequence[int],
        paths: int,
        seed: int,
        reference: Reference | int | None,
        reference_scheme: str | Scheme | None,
        levels: int | None,
        depth: int | None,
        area: bool,
        clock: Clock | None,
        row_shape: Sequence[int] | None,
        doubled: bool = False,
    ) -> None:
        self.steps = check_steps(steps)
        self.count = check_integer("paths", paths, 2, _SEEDS_APART)
        self.scheme = scheme_named(scheme, sde)
        self._sde, self._reference = sde, reference
        self._first_seed = check_integer("seed", seed, 0, 2**30) * _SEEDS_APART
        self._solved = tuple(sorted({*self.steps, *(2 * n for n in self.steps if doubled)}))
        finest = self._solved[-1]
        if isinstance(reference, int):
            if check_integer("reference", reference, 1) <= finest:
                raise ValueError(f"reference must have more steps than the finest level, {finest}; got {reference}")
            finest = reference
        elif reference is not None and not callable(reference):
            raise TypeError(
                f"reference must be a number of steps or callable as reference(path, y0); got {reference!r}"
            )
        elif reference_scheme is not None:
            raise ValueError("reference_scheme is given without a number of steps as reference")
        self._reference_scheme = self.scheme if reference_scheme is None else scheme_named(reference_scheme, sde)
        for n in (*self.steps, finest):
            if n & (n - 1):
                raise ValueError(f"steps and reference must be powers of two, on which one seed is one path; got {n}")
        if not isinstance(area, bool):
            raise TypeError(f"area must be True or False; got {area!r}")
        self._y0 = y0 if callable(y0) else _check_start(sde, y0)
        self._row_shape = _row_shape(sde, self._y0, t0, row_shape)
        structure = noise_structure(sde, self._row_shape[-1] if self._row_shape else 1)
        schemes = (self.scheme, self._reference_scheme)
        # A scheme that does not admit the structure has no say here: `check` refuses it below.
        words = [word for s in schemes if structure in s.strong_order for word in s.words(structure)]
        self._options: dict[str, Any] = {
            "t0": t0,
            "t1": t1,
            "depth": max(1, legendre_depth(words), 1 if depth is None else check_integer("depth", depth, 1)),
            "area": needs_levy_area(words) or area,
            "clock": clock,
            "levels": max(finest.bit_length() - 1, 0 if levels is None else check_integer("levels", levels, 0, 30)),
            "dtype": torch.float64,
        }
        one = self._path(0, 1)
        for s in schemes:
            s.check(sde, self.start(one), one)
        if callable(reference):
            self._truth(reference, one, self.start(one))

    def paths(self, count: int) -> Iterator[NestedPath]:
        """The first `count` paths, in chunks that bound the memory."""
        numbers = self._options["depth"] + self._row_shape[-1] * self._options["area"]
        rows = max(1, _NUMBERS_AT_ONCE // (2 ** self._options["levels"] * math.prod(self._row_shape) * numbers))
        for first in range(0, count, rows):
            yield self._path(first, min(rows, count - first))

    def start(self, path: BrownianPath) -> Tensor:
        """Y(t0), (paths, *event), float64."""
        if isinstance(self._y0, Tensor):
            return self._y0.expand(path.shape[0], *self._y0.shape).contiguous()
        start = check_floating("y0(path)", self._y0(path))
        if start.shape[:1] != path.shape[:1]:
            raise ValueError(f"y0(path) must have shape ({path.shape[0]}, *event); got {tuple(start.shape)}")
        return start.detach().double()

    def ends(self, path: BrownianPath) -> tuple[dict[int, Tensor], Tensor | None, Tensor | None]:
        """The scheme's Y(t1) by number of steps, the reference's, and that of a numeric reference at half its steps."""
        start = self.start(path)
        ends = {n: self._solve(path, start, self.scheme, n) for n in self._solved}
        if isinstance(self._reference, int):
            half = self._reference // 2
            known = ends.get(half) if self._reference_scheme is self.scheme else None
            coarse = self._solve(path, start, self._reference_scheme, half) if known is None else known
            return ends, self._solve(path, start, self._reference_scheme, self._reference), coarse
        if self._reference is None:
            return ends, None, None
        return ends, self._truth(self._reference, path, start), None

    @staticmethod
    def _truth(reference: Reference, path: BrownianPath, start: Tensor) -> Tensor:
        truth = reference(path, start)
        if not isinstance(truth, Tensor) or truth.shape != start.shape or not truth.is_floating_point():
            got = f"{truth.dtype}, {tuple(truth.shape)}" if isinstance(truth, Tensor) else repr(truth)
            raise ValueError(
                f"reference(path, y0) must be floating-point of the shape {tuple(start.shape)} of y0; got {got}"
            )
        if not bool(truth.isfinite().all()):
            raise ValueError("reference(path, y0) must be finite")
        return truth.detach().double()

    def _solve(self, path: BrownianPath, start: Tensor, scheme: Scheme, steps: int) -> Tensor:
        with torch.no_grad():
            return solve(self._sde, start, path.grid(steps), scheme=scheme, path=path, save="last")

    def _path(self, first: int, rows: int) -> NestedPath:
        seeds = range(self._first_seed + first, self._first_seed + first + rows)
        return NestedPath(shape=(rows, *self._row_shape), seeds=seeds, **self._options)


class NestedPath(BrownianPath):
    """A seeded path that draws the steps of its master grid once and joins them to the coarser ones: areas are dear.

    Other steps than consecutive ones of `grid(2^k)` are drawn as by `BrownianPath`: the same path.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stacks: dict[int, PartialSignature] = {}

    def partial_signatures(self, times: Any) -> PartialSignature:
        """As `BrownianPath.partial_signatures`."""
        if len(times) < 2:
            return super().partial_signatures(times)
        ends = self._locate([float(time) for time in times])
        first, last, width = int(ends[0]), int(ends[-1]), int(ends[1] - ends[0])
        if width & (width - 1) or first % width or (np.diff(ends) != width).any():
            return super().partial_signatures(times)
        return self._stack(width)[first // width : last // width]

    def reflected(self) -> NestedPath:
        """As `BrownianPath.reflected`; what is drawn serves both."""
        path = super().reflected()
        assert isinstance(path, NestedPath)
        path._stacks = {k: replace(steps, coefficients=-steps.coefficients) for k, steps in self._stacks.items()}
        return path

    def _stack(self, width: int) -> PartialSignature:
        """All steps of `width` cells."""
        if width not in self._stacks:
            if width == 1:
                self._stacks[width] = super().partial_signatures(self.grid(2**self.levels))
            else:
                halves = self._stack(width // 2)
                self._stacks[width] = halves[::2].combine(halves[1::2])
        return self._stacks[width]


def rounding(ends: Tensor, steps: Sequence[int]) -> Tensor:
    """eps |Y| sqrt(N) per level, |Y| the root mean square: what rounding makes of a solution in N steps, (levels,)."""
    size = ends.flatten(1).norm(dim=1).square().mean().sqrt()
    return torch.finfo(ends.dtype).eps * size * torch.tensor(steps).to(ends).sqrt()


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
