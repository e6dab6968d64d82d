"""Roessler's derivative-free scheme of strong order 1 for general Ito noise."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.sde.calculus import columns, own_columns
from sdesig.solvers.base import OrderOneScheme, apply


class SRI2(OrderOneScheme):
    """Milstein's scheme with differences for derivatives, and order 2 where there is no noise. Ito, any noise.

        Y~ = Y + f h,   Y_j^(+-) = Y + f h +- sum_i g_i I_(i,j) / sqrt(h)
        Y' = Y + (f + f(t+h, Y~)) h/2 + g W + sqrt(h)/2 sum_j (g_j(t+h, Y_j^(+)) - g_j(t+h, Y_j^(-)))

    Strong order 1, weak order 1; two evaluations of f, and of g one and two for each Brownian motion (two for diagonal
    noise). General noise needs Levy areas. Source: Roessler, SIAM J. Numer. Anal. 48, 2010, pp. 922-952, scheme SRI2.
    """

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y', by finite differences of g."""
        (w, *integrals), h = noise, end - start
        drift, g = sde.f(start, y) * h, sde.g(start, y)
        ahead = y + drift
        y_next = y + (drift + sde.f(end, ahead) * h) / 2 + apply(g, w)
        if not integrals:
            return y_next
        if sde.noise_type == "diagonal":
            shift = g * integrals[0] / h.sqrt()
            return y_next + h.sqrt() / 2 * (sde.g(end, ahead + shift) - sde.g(end, ahead - shift))
        shift = columns(g @ integrals[0]) / h.sqrt()
        diffusion = torch.func.vmap(lambda state: sde.g(end, state))
        difference = own_columns(diffusion(ahead + shift) - diffusion(ahead - shift))
        return y_next + h.sqrt() / 2 * difference.sum(-1)
