"""A Brownian path that hands out consistent partial signatures, and on which every torchsde solver runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torchsde
from torch import Tensor

from sdesig._checks import check_device, check_dtype, check_generator, check_integer, check_real, check_shape
from sdesig._devices import to_device
from sdesig._philox import GENERATOR_VERSION, check_seeds
from sdesig.brownian.clock import Clock, UniformClock
from sdesig.brownian.master_grid import MOST_CELLS, MasterGrid
from sdesig.brownian.tree import ConditionalTree
from sdesig.signature.areas.levy_area import check_memory
from sdesig.signature.partial_signature import PartialSignature, check_root

Times = Sequence[float] | np.ndarray | Tensor

MOST_DEPTH = 4096
"""Greatest depth of a path: its steps are joined by matrices of depth^2 entries."""

_INSIDE = 1e-6  # how far outside [t0, t1], in units of the clock's position, a query time may lie


class BrownianPath(torchsde.BaseBrownian):
    """A Brownian motion on [t0, t1] of which any step's partial signature can be asked.

    The values over [s, u] and [u, t] combine to those over [s, t] (to rounding, areas included), in whatever order they
    are asked for. Exactly one source of randomness is given:

    - `seeds`, one per row of the batch: a row is a pure function of its seed (and t0, t1, clock, cells, depth and the
      shape of a row): the same on any batch size, order of rows and of queries, process and device (up to the last
      digits of the transform to normals). The path lives on a master grid of cells, uniform in the clock;
      query times must lie on it (`grid` gives those of N steps, `nearest` moves given times onto it), so one seed is
      one path at every number of steps. Solvers that make steps of a fixed dt themselves, as torchsde's do, meet the
      grid where dt is a multiple of its cells; give them float64 times.
    - `generator`: any query times, drawn when they are first asked for. Consistent, but not the same for other batch
      sizes or orders of queries.

    With `area` the cells of the master grid have Levy areas, jointly right with their coefficients, drawn when an area
    is read; those of longer steps are Chen products. Query times must then lie on the grid also with a generator (which
    is used once, for a seed).

    Threads may share a path: it answers each as it would answer one alone. (Do not copy a path from a generator while
    another thread asks it, nor draw from its generator.)

    Args:
        t0, t1: first and last time; increments have variance `clock.length`, t - s by default.
        shape: shape of a value; the first axis is the batch, the last one the noise dimension if `area`.
        seeds: shape[0] integers in [0, 2^63).
        generator: a torch.Generator on `device`.
        depth: number of Legendre coefficients per step: 1 gives increments, 2 also space-time areas, and so on.
        clock: `UniformClock()` (default) or `SNRClock(variance)`.
        cells: cells of the master grid, at most 2^30. Numbers of steps that divide it cost least, see `CellTree`.
        area: whether steps have a Levy area.
        area_tolerance: bound on the error of an entry of a cell's area in the sense of `terms_needed`, for the longest
            cell; default the smaller one of 1e-2 h and h^(3/2) / T^(1/2), for a cell of length h of a path of length T:
            the first keeps the law, the second strong order 1.
        dtype, device: dtype and device of the values; default: torch's default dtype, and the generator's device or the
            CPU. Values in half precision are computed in float32.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range, more than one or no source of randomness.
        MemoryError: areas of one cell would not fit into memory.
    """

    def __init__(
        self,
        t0: float,
        t1: float,
        shape: int | Sequence[int],
        *,
        seeds: Sequence[int] | np.ndarray | Tensor | None = None,
        generator: torch.Generator | None = None,
        depth: int = 2,
        clock: Clock | None = None,
        cells: int = 4096,
        area: bool = False,
        area_tolerance: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        t0, t1 = check_real("t0", t0), check_real("t1", t1)
        if t0 >= t1:
            raise ValueError(f"t1 must be > t0 = {t0}; got {t1}")
        shape = check_shape("shape", shape)
        depth = check_integer("depth", depth, 1, MOST_DEPTH)
        cells = check_integer("cells", cells, 1, MOST_CELLS)
        dtype = check_dtype(dtype)
        clock = UniformClock() if clock is None else clock
        if not isinstance(clock, Clock):
            raise TypeError(f"clock must be a Clock, such as UniformClock() or SNRClock(); got {clock!r}")
        clock.check(t0, t1)
        if (seeds is None) == (generator is None):
            raise ValueError("exactly one of seeds and generator must be given")
        own = "cpu" if generator is None else check_generator(generator).device
        device = check_device(device, own)
        if generator is not None and device.type != generator.device.type:
            raise TypeError(f"generator must be on the path's device {device}; it is on {generator.device}")
        if seeds is not None:
            row_seeds = check_seeds(seeds)
            if not shape or len(row_seeds) != shape[0]:
                raise ValueError(f"seeds must be one per row of shape {shape}; got {len(row_seeds)} seeds")
        check_root("the variance over [t0, t1]", clock.length(t0, t1), dtype)
        if not isinstance(area, bool):
            raise TypeError(f"area must be True or False; got {area!r}")
        if area:
            if not shape:
                raise ValueError("shape must have a last axis, the noise dimension, with area=True; got ()")
            if isinstance(clock.length(t0, t1), Tensor):
                raise ValueError("clock must have one variance for all coordinates with area=True")
            if area_tolerance is not None:
                check_real("area_tolerance", area_tolerance, minimum=0.0, strict=True)
            check_memory(shape, dtype, device)
        elif area_tolerance is not None:
            raise ValueError("area_tolerance is given without area=True")

        self.t0, self.t1, self.depth, self.clock, self.cells, self.area = t0, t1, depth, clock, cells, area
        self.area_tolerance: float | None = None
        self.seeds = None if seeds is None else tuple(row_seeds.tolist())
        self._shape, self._dtype, self._device = shape, dtype, device
        inside = clock.time(np.array([_INSIDE, 1.0 - _INSIDE]), t0, t1).tolist()
        self._allowed = 2 * t0 - inside[0], 2 * t1 - inside[1]
        self._reflected = False
        self._prefetched: tuple[dict[tuple[float, float], int], PartialSignature] | None = None
        self._source: ConditionalTree | MasterGrid
        if seeds is None and not area:
            assert generator is not None
            self._source = ConditionalTree(t0, t1, shape, depth, clock, generator, dtype, device)
            return
        if generator is not None:
            # With areas a generator's path is a single row of the master grid, whose seed it draws.
            row_seeds = torch.randint(2**62, (1,), generator=generator, device=device)
            shape = (1, *shape)
        row_seeds = to_device(row_seeds, device)
        grid = MasterGrid(
            t0, t1, shape, depth, clock, row_seeds, cells, dtype, area=area, area_tolerance=area_tolerance
        )
        self._source, self.area_tolerance = grid, grid.area_tolerance

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the values."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self._device

    @property
    def levy_area_approximation(self) -> str:
        """What torchsde's solvers may ask for: "none" (depth 1), "space-time", or "foster" with areas.

        torchsde has no word for an area that is consistent over steps; "foster" is its best.
        """
        if self.area:
            return "foster"
        return "space-time" if self.depth >= 2 else "none"

    @property
    def identity(self) -> dict[str, object]:
        """All that determines a seeded path, JSON-serializable: equal identities give equal paths.

        Raises:
            ValueError: the path comes from a generator.
        """
        if self.seeds is None:
            raise ValueError("a path from a generator has no identity; give seeds")
        assert isinstance(self._source, MasterGrid)
        of_areas = {"area_method": self._source.area_method, "area_terms": self._source.area_terms} if self.area else {}
        return {
            "seeds": list(self.seeds),
            "generator_version": GENERATOR_VERSION,
            "t0": self.t0,
            "t1": self.t1,
            "clock": self.clock.identity(),
            "cells": self.cells,
            "depth": self.depth,
            "row_shape": list(self._shape[1:]),
            "area": self.area,
            "area_tolerance": self.area_tolerance,
            "reflected": self._reflected,
            **of_areas,
        }

    def grid(self, steps: int) -> Tensor:
        """Times of `steps` steps, even in the clock (as far as a master grid allows): float64 on the CPU, (steps + 1,).

        Raises:
            ValueError: more steps than the master grid has cells.
        """
        check_integer("steps", steps, 1)
        return torch.from_numpy(self._source.grid(steps))

    def nearest(self, times: Times) -> Tensor:
        """The times of the master grid nearest to given ones: float64 on the CPU. Where there is no grid, the same.

        For schedules from elsewhere, such as a sampler's sigmas. Two times may fall on one.

        Raises:
            ValueError: times outside [t0, t1].
        """
        given = self._check_inside(_as_floats(times))
        return torch.from_numpy(self._source.nearest(given) if isinstance(self._source, MasterGrid) else given)

    def initial_noise(self) -> Tensor:
        """N(0, I) of the path's shape, independent of its increments: a diffusion's start. Always the same."""
        noise = self._source.initial_noise().reshape(self._shape).to(self._dtype)
        return -noise if self._reflected else noise

    def reflected(self) -> BrownianPath:
        """The path -W of the same law, with -`initial_noise()`: coefficients change sign, Levy areas do not."""
        path = copy.copy(self)
        path._reflected, path._prefetched = not self._reflected, None
        return path

    def check_times(self, times: Times) -> None:
        """Raise the errors of `partial_signatures` for these times, without drawing anything."""
        self._locate(_as_floats(times))

    def partial_signatures(self, times: Times) -> PartialSignature:
        """Partial signatures on the n steps between n + 1 increasing times, in one batched call.

        Returns:
            A stack of values of shape (n, *shape): `steps[k]` is the step from times[k] to times[k+1].

        Raises:
            TypeError, ValueError: times not increasing or outside [t0, t1], or off the master grid where there is one.
        """
        values = _as_floats(times)
        if len(values) < 2:
            raise ValueError(f"times must hold at least two times; got {values}")
        return PartialSignature.unchecked(*self._values(self._locate(values)))

    def partial_signature(self, s: float | Tensor, t: float | Tensor) -> PartialSignature:
        """Partial signature on [s, t]; see `partial_signatures`."""
        return self._single_step(self._locate([float(s), float(t)]))

    def prefetch(self, times: Times) -> None:
        """Draw the steps between the times in one batched call, and serve later queries of these very steps from them.

        For solvers that ask step by step; replaces an earlier prefetch. Changes no value of a seeded path.
        """
        with torch.inference_mode(False):  # kept: see `ConditionalTree`
            steps = self.partial_signatures(times)
        ends = self._locate(_as_floats(times)).tolist()
        self._prefetched = {pair: k for k, pair in enumerate(pairwise(ends))}, steps

    def __call__(
        self, ta: float | Tensor, tb: float | Tensor | None = None, return_U: bool = False, return_A: bool = False
    ) -> Tensor | tuple[Tensor, ...]:
        """torchsde's interface: W over [ta, tb] (over [t0, ta] if tb is None), with U = int (W_u - W_ta) du and A.

        As torchsde's solvers expect, times that coincide (where there is a master grid: on it) give zeros.

        Raises:
            ValueError: times out of range or reversed, U asked of depth 1, A asked of a path without areas.
        """
        s, t = (self.t0, float(ta)) if tb is None else (float(ta), float(tb))
        if return_U and self.depth < 2:
            raise ValueError(f"return_U must be False on a path of depth < 2; this one has depth {self.depth}")
        if return_A and not self.area:
            raise ValueError("return_A must be False on a path with area=False")
        ends = self._locate([s, t], strictly=False)
        if ends[0] == ends[1]:
            zero = torch.zeros(self._shape, dtype=self._dtype, device=self._device)
            values = [zero] + [zero] * return_U + [zero[..., None] * zero[..., None, :]] * return_A
        elif self._prefetched is None and isinstance(self._source, ConditionalTree) and self._source.small:
            start, stop = ends.tolist()
            values = self._source.words(start, stop, 2 if return_U else 1)
            values = [-word for word in values] if self._reflected else values
        else:
            step = self._single_step(ends)
            values = [step.increment]
            if return_U:
                values.append(step.time_integral)
            if return_A:
                assert step.levy_area is not None
                values.append(step.levy_area)
        return values[0] if len(values) == 1 else tuple(values)

    def as_noise_sampler(
        self, transform: Callable[[Tensor | float], Tensor | float] | None = None
    ) -> Callable[[Tensor | float, Tensor | float], Tensor]:
        """The callable that k-diffusion's samplers take: (sigma, sigma_next) -> increment / sqrt(h), N(0, 1).

        Args:
            transform: maps a sampler's sigma to this path's time; default the identity. Where it reverses the order,
                the forward increment between the two times is returned.
        """

        def noise_sampler(sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
            s, t = (float(sigma if transform is None else transform(sigma)) for sigma in (sigma, sigma_next))
            return self.partial_signature(min(s, t), max(s, t)).coefficients[0].clone()

        return noise_sampler

    def __repr__(self) -> str:
        """One line, without the seeds and a clock's tensors."""
        source = "a generator" if self.seeds is None else f"{len(self.seeds)} seeds"
        cells = f", {self.cells} cells" if isinstance(self._source, MasterGrid) else ""
        return (
            f"{type(self).__name__}(shape {self._shape} on [{self.t0:g}, {self.t1:g}], {type(self.clock).__name__}, "
            f"{source}{cells}, depth {self.depth}{', area' * self.area}{', reflected' * self._reflected}, "
            f"{str(self._dtype).removeprefix('torch.')} on {self._device})"
        )

    def _values(self, ends: np.ndarray) -> tuple[Tensor, Tensor, Callable[[], Tensor] | None]:
        """Lengths, coefficients (depth, n, *shape) and, to be drawn, areas on the n steps between the ends."""
        h = self._source.lengths(ends)
        h = to_device(h.reshape(len(h), *[1] * (len(self._shape) + 1 - h.ndim), *h.shape[1:]), self._device)
        coefficients = self._source.coefficients(ends).reshape(self.depth, len(h), *self._shape).to(self._dtype)
        if self._reflected:
            coefficients = -coefficients
        source = self._source
        if not (isinstance(source, MasterGrid) and self.area):
            return h, coefficients, None
        shape, dtype = (len(h), *self._shape, self._shape[-1]), self._dtype
        return h, coefficients, lambda: source.levy_areas(ends).reshape(shape).to(dtype)

    def _single_step(self, ends: np.ndarray) -> PartialSignature:
        prefetched = self._prefetched  # another thread may replace it
        if prefetched is not None:
            number = prefetched[0].get((ends[0], ends[1]))
            if number is not None:
                return prefetched[1][number]
        source = self._source
        h, coefficients = source.step(*ends.tolist())
        if h.ndim > len(self._shape):  # with areas a generator's path is one row of a grid
            h, coefficients = h[0], coefficients[:, 0]
        coefficients = coefficients.to(self._dtype)
        if self._reflected:
            coefficients = -coefficients
        if not (isinstance(source, MasterGrid) and self.area):
            return PartialSignature.unchecked(h, coefficients)
        shape, dtype = (*self._shape, self._shape[-1]), self._dtype
        return PartialSignature.unchecked(h, coefficients, lambda: source.levy_areas(ends).reshape(shape).to(dtype))

    def _check_inside(self, times: list[float]) -> np.ndarray:
        """The times as an array, those that rounding put outside [t0, t1] moved to its ends."""
        for time in times:
            if not self._allowed[0] <= time <= self._allowed[1]:
                raise ValueError(f"times must lie in [{self.t0}, {self.t1}]; got {time}")
        return np.array([min(max(time, self.t0), self.t1) for time in times])

    def _locate(self, times: list[float], *, strictly: bool = True) -> np.ndarray:
        """The source's names for times that increase, strictly or not."""
        ends = self._source.locate(self._check_inside(times))
        for (s, t), (start, stop) in zip(pairwise(times), pairwise(ends.tolist()), strict=True):
            if start > stop or (strictly and start == stop):
                where = " (the same time of the path)" if s < t else ""
                raise ValueError(f"times must be increasing; got {s} before {t}{where}")
        return ends


def _as_floats(times: Times) -> list[float]:
    if isinstance(times, np.ndarray):
        times = torch.from_numpy(times)
    if isinstance(times, Tensor):
        if times.ndim != 1 or not times.is_floating_point():
            raise TypeError(f"times must be a one-dimensional floating-point tensor; got {times.dtype}, {times.shape}")
        return times.tolist()
    if not isinstance(times, Sequence) or isinstance(times, str):
        raise TypeError(f"times must be a sequence of numbers or a tensor; got {times!r}")
    return [float(time) for time in times]
