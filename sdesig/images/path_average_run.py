"""The path-average scheme where someone else asks the denoiser: one evaluation point is given away at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdesig._checks import check_generator
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


def draw_seeds(generator: object, n: int) -> list[int]:
    """n seeds below 2^62: one from each of n generators, or all from one, or from torch's global one for None."""
    if isinstance(generator, Sequence):
        if len(generator) != n:
            raise ValueError(f"generator must be one, or one for each of {n} images; got a list of {len(generator)}")
        return [seed for each in generator for seed in draw_seeds(check_generator(each), 1)]
    if generator is None:
        return torch.randint(2**62, (n,)).tolist()
    given = check_generator(generator)
    return torch.randint(2**62, (n,), generator=given, device=given.device).tolist()
