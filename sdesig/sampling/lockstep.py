"""Several samplers along one path that is drawn part by part: the memory does not grow with its number of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdesig._checks import unread
from sdesig._devices import to_device
from sdesig._memory import rows_at_once
from sdesig.brownian import BrownianPath
from sdesig.sampling.canonical import CanonicalSDE
from sdesig.sampling.gaussian_reference import GaussianReference, clock_length
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre
from sdesig.signature.partial_signature import PartialSignature, join_steps
from sdesig.solvers.base import Scheme
from sdesig.solvers.driver import all_finite

_NODES = 16


def reclock(
    cells: PartialSignature, times: Tensor, reference: GaussianReference, variance: float = 0.0
) -> PartialSignature:
    """Partial signatures of M' of the scalar reference N(mu, variance) on short cells, from those of M of `reference`.

    With u = y/(1 + c tau) in centred coordinates, dM = dB/(1 + c tau): the martingales M of two references, of
    variances c and c', are integrals of each other, dM' = (1 + c tau)/(1 + c' tau) dM. On a cell that is short in
    log-SNR that ratio is a smooth function, so the coefficients of M' are, to high accuracy, linear in those of M.

    M lives in the coordinates of the reference's basis, M' in those of the data. The error is that of approximating a
    Legendre polynomial times (1 + c tau)/(1 + c' tau) by the polynomials that the cells hold; the deepest coefficients
    are the least accurate.

    Args:
        cells: a stack of adjoining cells, (n, batch, *event).
        times: SNRs at their ends, float64, (n + 1,).
        reference: the reference in whose clock the path of the cells runs.
        variance: variance of the other reference; 0 gives B itself.

    Returns:
        A stack of the same shape and depth.
    """
    axes = len(cells.shape) - 1
    c = to_device(reference.variance.double(), cells.device)
    c = c.reshape(*[1] * (axes - c.ndim), *c.shape)
    ends = to_device(times, c.device).reshape(-1, *[1] * axes)
    start, end = ends[:-1], ends[1:]
    nodes, weights = gauss_legendre(_NODES, c.device)
    x = nodes.reshape(-1, *[1] * (axes + 1))
    length, new_length = clock_length(start, end, c), clock_length(start, end, variance)
    # v has grown by x h at the nodes of a cell: tau there, from (1 + c tau)^-1 = (1 + c start)^-1 - c x h
    growth = (1 + c * start) * x * length
    tau = (start + growth) / (1 - c * growth)
    position = (clock_length(start, tau, variance) / new_length).clamp(0, 1)
    ratio = (1 + c * tau) / (1 + variance * tau) * (length / new_length).sqrt()
    inner = orthonormal_legendre(nodes, cells.depth) * weights
    matrix = torch.einsum("iq...,jq->ij...", orthonormal_legendre(position, cells.depth) * ratio, inner)
    moved = torch.einsum("ij...,j...->i...", matrix.to(cells.coefficients), cells.coefficients)
    stacked = reference.from_basis(moved.flatten(0, 2)).reshape(moved.shape)
    return PartialSignature.unchecked(new_length.to(cells.dtype), stacked)


FEWEST_CELLS = 16
"""Cells of a path that are held at least."""
FEWEST_SEEDS = 64
"""Matrices, one for every coordinate that has a clock of its own, take the memory of the paths of so many seeds."""


class Joined:
    """Joins the cells of a path, which come part by part, to steps; an incomplete step waits for the next part.

    Example: the ends 0, 4, 8 of two steps, and parts of 3 and 5 cells. After the first part no step is complete: its
    cells are joined to one signature, which waits. The second part reaches from cell 3 to 8. Behind the waiting
    signature its cells have the ends 0, 2, 6: the wait and one cell make the first step, four cells the second, and
    nothing waits.

    Args:
        ends: indices of cells at which steps end, the last their number. One from 0 to the first is a step too.
    """

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = list(ends)
        self._first = 0
        self._waiting: PartialSignature | None = None

    def add(self, cells: PartialSignature) -> PartialSignature | None:
        """The steps that the next cells complete: a stack, or None if there are none."""
        last = self._first + len(cells)
        shift = -self._first
        if self._waiting is not None:
            cells, shift = stacked(self._waiting, cells), shift + 1
        ends = [0, *(end + shift for end in self._ends if self._first < end <= last)]
        complete, self._first = len(ends) - 1, last
        if ends[-1] < len(cells):
            ends.append(len(cells))
        joined = join_steps(cells, ends)
        self._waiting = joined[complete:] if len(joined) > complete else None
        return joined[:complete] if complete else None


class Run:
    """The solution of a sampler, which goes on as the path is drawn.

    Args:
        scheme: a scheme for reverse diffusions.
        sde: the SDE that it solves.
        state: u at the first of the times.
        times: SNRs at the ends of the cells of a path, float64.
        ends: indices of the times at which its steps begin and end, up to the last; up to the first goes a free step.
        referenced: whether it takes the path as it is; otherwise the path is reclocked to that of no reference.
    """

    def __init__(
        self, scheme: Scheme, sde: CanonicalSDE, state: Tensor, times: Tensor, ends: Sequence[int], referenced: bool
    ) -> None:
        self.state, self.ends, self.referenced = state, tuple(ends), referenced
        self.scheme, self._sde, self._times = scheme, sde, times[list(ends)]
        self._free = ends[0] > 0
        self._memory: Any = scheme.start(sde, self._times[0], state)
        self._done = 0

    def take(self, signatures: PartialSignature) -> None:
        """Make the next steps; raise FloatingPointError if the state is not finite after them."""
        if self._free:
            self._free, free, signatures = False, signatures[0], signatures[1:]
            self.state = self.state + free.increment if self._sde.eta > 0 else self.state
        with unread():
            for noise in self.scheme.noise_by_step("additive", signatures):
                start, end = self._times[self._done : self._done + 2]
                self.state, self._memory = self.scheme.advance(self._sde, start, end, self.state, self._memory, noise)
                self._done += 1
        if not all_finite(self.state):
            raise FloatingPointError(
                f"the state of {self.scheme!r} is not finite after step {self._done} of "
                f"{len(self._times) - 1}, at SNR {self._times[self._done].item():g}"
            )

    @property
    def noisy_data(self) -> Tensor:
        """x = y/tau at the time that is reached."""
        return self._sde.noisy_data(self.state, self._times[self._done])


def run_along(path: BrownianPath, reference: GaussianReference, runs: Sequence[Run]) -> None:
    """Take samplers to the end of the path of a reference.

    2^24 numbers of the path are in memory at once, or 16 cells of it if those have more, and a few copies: about half a
    gigabyte, for up to 85 seeds of 3072 coordinates or 330 seeds of 784 coordinates at depth 4.
    """
    times = path.grid(path.cells)
    groups: dict[tuple[bool, tuple[int, ...]], tuple[Joined, list[Run]]] = {}
    for run in runs:
        groups.setdefault((run.referenced, run.ends), (Joined(run.ends), []))[1].append(run)
    seeds, *event = path.shape
    part = max(FEWEST_CELLS, rows_at_once(max(FEWEST_SEEDS, seeds) * path.depth * math.prod(event)))
    for first in range(0, len(times) - 1, part):
        now = times[first : first + part + 1]
        cells = path.partial_signatures(now)
        plain = cells if all(run.referenced for run in runs) else reclock(cells, now, reference)
        for (referenced, _), (joined, following) in groups.items():
            signatures = joined.add(cells if referenced else plain)
            if signatures is not None:
                for run in following:
                    run.take(signatures)


def stacked(*stacks: PartialSignature) -> PartialSignature:
    """Adjoining stacks of steps as one."""
    lengths = torch.cat([stack.h.expand(len(stack), *stack.h.shape[1:]) for stack in stacks])
    return PartialSignature.unchecked(lengths, torch.cat([stack.coefficients for stack in stacks], 1))
