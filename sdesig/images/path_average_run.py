"""The path-average scheme where someone else asks the denoiser: one evaluation point is given away at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig.brownian import BrownianPath
from sdesig.sde import CanonicalSDE
from sdesig.solvers.path_average import PathAverage

_SCHEME = PathAverage()


class PathAverageRun:
    """The scheme on one batch, an evaluation at a time, in the variables u of the SDE's reference.

    Attributes:
        number: of the next step.
        expected: the evaluation point of the next step as it was given away, rounded to the dtype of the samples.
    """

    expected: Tensor
    _u: Tensor | None = None
    _noise: Tensor

    def __init__(self, sde: CanonicalSDE, path: BrownianPath | None, grid: Tensor, number: int) -> None:
        self.sde, self.number = sde, number
        self._path, self._grid = path, grid

    def advance(self, snr: Tensor, point: Tensor, drift: Tensor) -> tuple[Tensor, Tensor]:
        """The next evaluation point and its SNR, or the last state and its own, from Q at an evaluation point."""
        start, end = self._grid[self.number : self.number + 2]
        if self._u is None:
            self._noise = self._draw(point)
            if self._path is not None:
                whole, part = (self._path.clock.length(first, end) for first in (start, snr))
                self._noise = self._noise * torch.as_tensor(part / whole).sqrt().to(point)
            u, start = point, snr
        else:
            u = self._u + (point - self.expected)
        self._u = u = _SCHEME.arrival(self.sde, start, end, u, drift, (self._noise,))
        self.number += 1
        if self.number + 1 == len(self._grid):
            return u, end
        self._noise = self._draw(u)
        return _SCHEME.evaluation_point(self.sde, end, self._grid[self.number + 1], u, drift, (self._noise,))

    def _draw(self, u: Tensor) -> Tensor:
        """What the scheme takes of the path in the next step, (depth, *shape)."""
        if self._path is None:
            return u.new_zeros(1, *u.shape)
        steps = self._path.partial_signatures(self._grid[self.number : self.number + 2])
        return _SCHEME.noise("additive", steps)[0][0]
