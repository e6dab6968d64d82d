"""The path-average scheme where someone else asks the denoiser: one evaluation point is given away at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdesig.brownian import BrownianPath
from sdesig.sampling import CanonicalSDE
from sdesig.sampling.path_average import PathAverage

_SCHEME = PathAverage()


@dataclass(frozen=True, eq=False)
class PathAverageRun:
    """The scheme on one batch, before one of its evaluations, in the variables u of the SDE's reference.

    It never changes: what holds one may be copied, and the copies go on by themselves.

    Attributes:
        sde: only its reference, clocks and eta are used; someone else asks the denoiser.
        path: None for the probability flow.
        grid: SNRs of the steps.
        number: of the next step.
        shape: of the samples.
        u, noise: state and noise of the next step, (batch, *event) and (depth, batch, *event), None before the first.
        expected: the next evaluation point as it was given away, rounded to the dtype of the samples.
    """

    sde: CanonicalSDE
    path: BrownianPath | None
    grid: Tensor
    number: int
    shape: tuple[int, ...]
    u: Tensor | None = None
    noise: Tensor | None = None
    expected: Tensor | None = None

    def advance(self, snr: Tensor, point: Tensor, drift: Tensor) -> tuple[PathAverageRun, Tensor, Tensor]:
        """What follows an evaluation, Q at a point: the run without `expected`, the next evaluation point and its SNR.

        After the last evaluation these are the last state and its own.
        """
        start, end = self.grid[self.number : self.number + 2]
        if self.u is None:
            noise = self._draw(self.number, point)
            if self.path is not None:
                whole, part = (self.path.clock.length(first, end) for first in (start, snr))
                noise = noise * torch.as_tensor(part / whole).sqrt().to(point)
            u, start = point, snr
        else:
            assert self.noise is not None
            assert self.expected is not None
            noise, u = self.noise, self.u + (point - self.expected)
        u, number = self.sde.moved(start, end, u, drift, noise[0]), self.number + 1
        if number + 1 == len(self.grid):
            return replace(self, number=number), u, end
        noise = self._draw(number, u)
        point, snr = _SCHEME.evaluation_point(self.sde, end, self.grid[number + 1], u, drift, (noise,))
        return replace(self, number=number, u=u, noise=noise), point, snr

    def _draw(self, number: int, u: Tensor) -> Tensor:
        """What the scheme takes of the path in a step, (depth, *shape)."""
        if self.path is None:
            return u.new_zeros(1, *u.shape)
        steps = self.path.partial_signatures(self.grid[number : number + 2])
        return _SCHEME.noise("additive", steps)[0][0]
