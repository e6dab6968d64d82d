"""iPNDM (Zhang and Chen 2023, arXiv 2204.13902), in the canonical variables."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdesig._devices import beside
from sdesig.brownian import BrownianPath
from sdesig.sampling.canonical import CanonicalSDE, ReverseScheme
from sdesig.sde.base import SDELike

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the evaluations, the last one first, by order - 1."""


class IPNDM4(ReverseScheme):
    """The probability flow by Adams and Bashforth's rule of order 4 on the noise that is predicted, eps = u - b Q:

        u'/b' = u/b + (1/b' - 1/b) [55 eps_n - 59 eps_{n-1} + 37 eps_{n-2} - 9 eps_{n-3}]/24,

    after steps of orders 1, 2 and 3; at eta = 0 only. Without a reference 1/b = sigma/alpha and eps = (x - alpha
    D)/sigma. The weights are those of steps even in 1/b (PNDM: Liu et al. 2022, arXiv 2202.09778, has the rule)
    whatever the grid is. So the order is 2, as that of the first step is anyway.
    """

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """The noise structure, checked as for every reverse scheme; raise ValueError also unless eta is 0."""
        structure = super().check(sde, y0, path)
        if isinstance(sde, CanonicalSDE) and sde.eta != 0:
            raise ValueError(f"IPNDM4 solves the probability flow, eta = 0; the SDE's eta is {sde.eta:g}")
        return structure

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The state at `end`; the memory are the values of eps, the last one first, three at most."""
        clock = beside(sde.reference.clock(start) ** sde.drift_power, u)
        values = (u - clock * sde.drift(u, start), *(memory or ()))
        predicted = sum(weight * value for weight, value in zip(ADAMS_BASHFORTH[len(values) - 1], values, strict=True))
        # as b'/b - 1 times the difference: where c tau >> 1, b hardly moves
        return sde.moved(start, end, u, (u - predicted) / clock, noise[0]), values[:3]
