"""Platen's explicit scheme of weak order 2, coupled to the path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.sde.calculus import columns, own_columns
from sdesig.solvers.base import OrderOneScheme, apply


class PlatenWeak2(OrderOneScheme):
    """Derivative-free, weak order 2, Ito, any noise:

        Y~ = Y + f h + g W,   R_j^(+-) = Y + f h +- g_j sqrt(h)  (at t + h),   U_i^(+-) = Y +- g_i sqrt(h)  (at t)
        Y' = Y + (f + f(Y~)) h/2
           + 1/4 sum_j (g_j(R_j^+) + g_j(R_j^-) + 2 g_j) W_j
           + 1/4 sum_{i != j} (g_j(U_i^+) + g_j(U_i^-) - 2 g_j) W_j
           + 1/2 sum_j (g_j(R_j^+) - g_j(R_j^-)) I_(j,j) / sqrt(h)
           + 1/2 sum_{i != j} (g_j(U_i^+) - g_j(U_i^-)) I_(i,j) / sqrt(h)

    (Kloeden & Platen, Numerical Solution of SDEs, 1992, eq. 15.1.3.) They have (W_i W_j + V_ij)/2 for I_(i,j), i != j,
    with two-point V_ij = +-h. The path's own 2 A_ij in its place has the moments that count (mean 0 given W, variance
    h^2, pairs uncorrelated) and keeps the scheme on the path: strong order 1 beside weak order 2. General noise needs
    Levy areas; elsewhere they cancel up to terms of mean zero and order h^2.
    """

    weak_order = 2.0

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y', by finite differences of g; for additive noise the trapezoidal rule in f and g."""
        (w, *integrals), h = noise, end - start
        drift, g = sde.f(start, y) * h, sde.g(start, y)
        ahead = y + drift
        y_next = y + (drift + sde.f(end, ahead + apply(g, w)) * h) / 2
        if not integrals:
            return y_next + apply(g + sde.g(end, y), w) / 2
        root = h.sqrt()
        if sde.noise_type == "diagonal":
            above, below = sde.g(end, ahead + g * root), sde.g(end, ahead - g * root)
            return y_next + (above + below + 2 * g) * w / 4 + (above - below) * integrals[0] / (2 * root)
        shift = columns(g) * root
        own = integrals[0].diagonal(dim1=-2, dim2=-1)

        later = torch.func.vmap(lambda state: sde.g(end, state))
        above, below = own_columns(later(ahead + shift)), own_columns(later(ahead - shift))
        y_next = y_next + apply(above + below + 2 * g, w) / 4 + apply(above - below, own) / (2 * root)

        now = torch.func.vmap(lambda state: sde.g(start, state))
        plus, minus = now(y + shift), now(y - shift)
        second = plus + minus - 2 * g
        others = second.sum(0) - own_columns(second)
        mixed = torch.einsum("ibkj,bij->bk", plus - minus, integrals[0] - torch.diag_embed(own))
        return y_next + apply(others, w) / 4 + mixed / (2 * root)
