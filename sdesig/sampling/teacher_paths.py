"""Teacher paths: solutions on a fine grid, and the partial signatures of the same Brownian path on coarse steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_choice, check_integer
from sdesig._devices import to_device
from sdesig._evaluating import evaluating
from sdesig._random import generator_for
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.dpm_solver import DPMSolver1, DPMSolver2M
from sdesig.sampling.gaussian_reference import SNRClock
from sdesig.sampling.path_average import PathAverage
from sdesig.sampling.path_space import EVEN, PathSpace, StepGrid
from sdesig.signature.partial_signature import PartialSignature, join_steps
from sdesig.solvers.base import Scheme
from sdesig.solvers.driver import Save, run_steps

TEACHER_SCHEMES: dict[str, Callable[[], Scheme]] = {
    "path_average": partial(PathAverage, correction=0.0),
    "euler": DPMSolver1,
    "dpm_solver_2m": DPMSolver2M,
}
"""Schemes of a teacher's paths by name; `SCHEMES` calls the second "dpm_solver_1"."""

MOST_STEPS = 2**20
"""Largest number of fine steps of a teacher."""

SAMPLE_STEPS = 128
"""Number of steps of `teacher_samples`."""

_NUMBERS = 2**26
"""Most numbers that `teacher_samples` draws from one generator. What a seed gives depends on it: it must not change."""


@dataclass(frozen=True)
class TeacherOptions:
    """Options of a teacher's paths."""

    scheme: str = "path_average"
    """Scheme: path_average, euler (SDE-DPM-Solver++(1), as in the paper) or dpm_solver_2m."""
    steps: int = 512
    """Number of fine steps over the whole range of SNR. On the digits, half as many move a path by .0006 per pixel, a
    hundredth of the error of the best generator in 8 steps."""
    cells: int = 64
    """Number of cells into which a path is cut: coarse steps consist of whole cells. It divides the number of steps."""

    def __post_init__(self) -> None:
        check_choice("scheme", self.scheme, tuple(TEACHER_SCHEMES))
        check_integer("cells", self.cells, 1)
        if check_integer("steps", self.steps, 1, MOST_STEPS) % self.cells:
            raise ValueError(f"steps must be a multiple of cells, {self.cells}; got {self.steps}")


class TeacherPaths(NamedTuple):
    """Paths of a teacher.

    Attributes:
        times: SNRs at the ends of the cells, float64, (cells + 1,).
        signature: partial signatures on the cells: a stack of shape (cells, rows, *event).
        states: u at the ends of the cells, (cells + 1, rows, *event).
    """

    times: Tensor
    signature: PartialSignature
    states: Tensor

    def __repr__(self) -> str:
        cells, (rows, *event) = len(self.times) - 1, self.states.shape[1:]
        low, high = self.times[[0, -1]].tolist()
        return (
            f"TeacherPaths({rows} of shape {tuple(event)}, cells={cells}, depth={self.signature.depth}, "
            f"snr=({low:g}, {high:g}))"
        )

    def coarse(self, steps: int, grid: StepGrid = EVEN) -> TeacherPaths:
        """The same paths with cells joined to `steps` steps (Chen, exact), whose lengths differ by one cell at most.

        Args:
            steps: number of steps.
            grid: that of the paths. After a free step they begin with the state that it leads to, not the teacher's.
        """
        return self.at(coarse_ends(len(self.times) - 1, steps, grid))

    def at(self, ends: Sequence[int], *, noise: bool = True) -> TeacherPaths:
        """The same paths with cells joined to steps that end at some of the times, the first of them where they begin.

        Up to there goes a free step, by its noise, or without `noise`, as for the probability flow, by nothing.
        """
        ends = list(ends)
        states = torch.stack([self.states[end] for end in ends])
        joined = join_steps(self.signature, ends if ends[0] == 0 else [0, *ends])
        if ends[0] > 0:
            states[0] = self.states[0] + joined[0].increment if noise else self.states[0]
            joined = joined[1:]
        return TeacherPaths(self.times[ends], joined, states)

    def rows(self, chosen: Tensor | slice) -> TeacherPaths:
        """The paths of some rows."""
        signature = PartialSignature.unchecked(self.signature.h, self.signature.coefficients[:, :, chosen])
        return TeacherPaths(self.times, signature, self.states[:, chosen])


def coarse_ends(cells: int, steps: int, grid: StepGrid = EVEN) -> list[int]:
    """Indices of the cells, of equal shares of the grid's density, at which `steps` steps end: up to `cells`.

    The first is 0, or where the grid's free step ends.

    Raises:
        ValueError: more steps than cells.
    """
    check_integer("steps", steps, 1, cells)
    first = min(round(cells * float(grid.masses(steps)[0])), cells - steps)
    return [first + round(k * (cells - first) / steps) for k in range(steps + 1)]


def snr_times(snr: tuple[float, float], grid: StepGrid, steps: int) -> Tensor:
    """SNRs at the ends of `steps` steps of a grid, not rounded to a master grid: float64, (steps + 1,)."""
    positions, (low, high) = grid.positions(steps), snr
    times = low * np.exp(positions * np.log(high / low))
    times[-1] = high
    return torch.from_numpy(times)


def refined_times(times: Tensor, parts: int) -> Tensor:
    """The SNRs of n steps, (n + 1,), with each step cut into parts even in log-SNR: (n parts + 1,)."""
    inner = [snr_times((start.item(), end.item()), EVEN, parts)[:-1] for start, end in pairwise(times)]
    return torch.cat([*inner, times[-1:]])


def draw_signature(
    clock: SNRClock, times: Tensor, shape: Sequence[int], depth: int, generator: torch.Generator, dtype: torch.dtype
) -> PartialSignature:
    """Independent partial signatures of M on the steps between n + 1 SNRs: a stack of shape (n, *shape)."""
    h = torch.as_tensor(clock.length(times[:-1], times[1:]))
    h = to_device(h.reshape(len(h), *[1] * (len(shape) + 1 - h.ndim), *h.shape[1:]), generator.device)
    size = (depth, len(times) - 1, *shape)
    return PartialSignature.unchecked(h, torch.randn(size, generator=generator, dtype=dtype, device=generator.device))


@torch.no_grad()
def teacher_states(
    scheme: Scheme,
    sde: CanonicalSDE,
    u: Tensor,
    times: Tensor,
    signatures: PartialSignature,
    *,
    save: Save,
    watch: bool = True,
) -> Tensor:
    """The states of a solution from u along given partial signatures, saved as in `solve` and watched as in
    `run_steps`.

    The denoiser is in evaluation mode meanwhile.
    """
    with evaluating(sde.denoiser):
        return run_steps(scheme, sde, "additive", u, times, [signatures], save=save, watch=watch)


@torch.no_grad()
def draw_paths(
    teacher: SNRDenoiser,
    space: PathSpace,
    options: TeacherOptions,
    rows: int,
    *,
    generator: torch.Generator,
    watch: bool = True,
) -> TeacherPaths:
    """Independent paths of a teacher from the prior to the data, with their partial signatures on the cells.

    Args:
        teacher: D(y, snr), on the device of the space.
        space: event, range, depth and clock of the paths; its grid is the density of the fine steps.
        options: scheme, fine steps and cells.
        rows: number of paths.
        generator: source of all random numbers, on the device of the space.
        watch: whether to look for states that are not finite, see `run_steps`.
    """
    sde = CanonicalSDE(check_snr_denoiser("teacher", teacher), reference=space.reference)
    times = snr_times(space.snr, space.grid.whole, options.steps)
    shape = (rows, *space.event)
    noise = torch.randn(shape, generator=generator, dtype=space.dtype, device=generator.device)
    fine = draw_signature(space.clock, times, shape, max(2, space.depth), generator, space.dtype)
    start = sde.start(noise, times[0])
    ends = range(0, options.steps + 1, options.steps // options.cells)
    scheme, kept = TEACHER_SCHEMES[options.scheme](), times[list(ends)]
    states = teacher_states(scheme, sde, start, times, fine, save=kept, watch=watch)
    cells = join_steps(fine, ends) if options.cells < options.steps else fine
    return TeacherPaths(kept, cells.truncate(space.depth), states)


@torch.no_grad()
def draw_local(
    sde: CanonicalSDE,
    options: TeacherOptions,
    clean: Tensor,
    start: Tensor,
    end: Tensor,
    *,
    depth: int,
    generator: torch.Generator,
    watch: bool = True,
) -> TeacherPaths:
    """Paths over one coarse step, from the exact law of the state there: y = tau x_0 + sqrt(tau) eps.

    Args:
        sde: the reverse diffusion, with the teacher for its denoiser.
        options: scheme and fine steps; the cells do not matter.
        clean: data x_0, (rows, *event).
        start, end: SNRs of the step; its fine grid is even in log-SNR.
        depth: depth of the partial signatures.
        generator: source of all random numbers, on the device of the data.
        watch: as in `draw_paths`.
    """
    eps = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    tau = start.item()
    u = sde.reference.to_reference(tau * clean + tau**0.5 * eps, start)[0]
    times = snr_times((tau, end.item()), EVEN, options.steps)
    fine = draw_signature(sde.clock, times, tuple(clean.shape), max(2, depth), generator, clean.dtype)
    scheme = TEACHER_SCHEMES[options.scheme]()
    states = teacher_states(scheme, sde, u, times, fine, save=times[[0, -1]], watch=watch)
    whole = join_steps(fine, (0, options.steps)).truncate(depth)
    return TeacherPaths(times[[0, -1]], whole, states)


def teacher_samples(teacher: SNRDenoiser, space: PathSpace, n: int, *, seed: int = 0) -> Tensor:
    """n samples of a teacher, (n, *event) on the CPU, by the path-average scheme in 128 steps.

    A reference can be fitted to them where there are no data. They take about half a gigabyte of memory at once.

    Args:
        teacher: D(y, snr), on the device of the space.
        space: event, range, grid and clock; its reference is N(0, 0) where none is known yet.
        n: number of samples.
        seed: seed of all random numbers.

    Raises:
        FloatingPointError: a denoiser whose values are not finite.
    """
    check_snr_denoiser("teacher", teacher)
    check_integer("n", n, 1)
    sde, options = CanonicalSDE(teacher, reference=space.reference), TeacherOptions(steps=SAMPLE_STEPS, cells=1)
    batch = max(1, _NUMBERS // (2 * SAMPLE_STEPS * math.prod(space.event)))
    samples = []
    for first in range(0, n, batch):
        generator = generator_for("teacher samples", seed, first, device=space.device)
        paths = draw_paths(teacher, replace(space, depth=2), options, min(batch, n - first), generator=generator)
        samples.append(sde.noisy_data(paths.states[-1], paths.times[-1]).cpu())
    return torch.cat(samples)
