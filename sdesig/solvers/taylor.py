"""The Ito-Taylor scheme of strong order 1.5."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.sde.calculus import columns, derivative
from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import Scheme, apply, strong_orders

Field = Callable[[Tensor, Tensor], Tensor]


class Taylor15(Scheme):
    """Ito-Taylor scheme of strong order 1.5 and weak order 2, for additive, scalar and diagonal Ito noise:

        Y' = Y + f h + g W + sum_i (Df g_i) I_(i,0) + (L^0 f) h^2/2 + sum_i (L^0 g_i) I_(0,i)
           + (L^1 g) I_(1,1) + (L^1 L^1 g) I_(1,1,1)
        L^0 = d/dt + f . grad + 1/2 sum_i g_i g_i : Hessian,   L^1 = g . grad

    with I_(i,0) = h (W/2 + H), I_(0,i) = h W - I_(i,0), I_(1,1) = (W^2 - h)/2, I_(1,1,1) = (W^3 - 3 h W)/6. The terms
    in L^1 are absent for additive noise, and meant for each component by itself for diagonal noise (Kloeden & Platen,
    Numerical Solution of SDEs, 1992, section 10.4). All derivatives by forward mode (`torch.func.jvp`): f and g must be
    twice differentiable in y, once in t. The cost grows with the number of Brownian motions, for the second derivatives
    in L^0 f.
    """

    sde_type = "ito"
    strong_order = strong_orders(1.5, ("additive", "scalar", "diagonal"))
    weak_order = 2.0
    word_order = 1.5

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W, I_(i,0), I_(0,i), then I_(1,1) and I_(1,1,1) unless the noise is additive."""
        gaussian = signatures.increment, signatures.gaussian_word(0, 1), signatures.gaussian_word(1, 0)
        if structure == "additive":
            return gaussian
        return *gaussian, signatures.scalar_word((1, 1)), signatures.scalar_word((1, 1, 1))

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y', with all derivatives by forward mode."""
        (w, i10, i01, *powers), t, h = noise, start, end - start
        f, g = sde.f(t, y), sde.g(t, y)
        noises = columns(torch.diag_embed(g) if sde.noise_type == "diagonal" else g)
        laplacian = torch.func.vmap(lambda column: _second_derivative(sde.f, t, y, column))(noises).sum(0) / 2
        y_next = (
            y
            + f * h
            + apply(g, w)
            + derivative(lambda state: sde.f(t, state), y, apply(g, i10))
            + (_along_drift(sde.f, t, y, f) + laplacian) * h**2 / 2
        )
        if not powers:
            return y_next + apply(_along_drift(sde.g, t, y, f), i01)

        def single(time: Tensor, state: Tensor) -> Tensor:
            """g as a vector field: the only column of scalar noise; every component of diagonal noise by itself."""
            value = sde.g(time, state)
            return value if sde.noise_type == "diagonal" else value.squeeze(-1)

        def along_noise(state: Tensor) -> Tensor:
            """L^1 g."""
            return derivative(lambda other: single(t, other), state, single(t, state))

        column = single(t, y)
        generator = _along_drift(single, t, y, f) + _second_derivative(single, t, y, column) / 2
        i11, i111 = powers
        return y_next + generator * i01 + along_noise(y) * i11 + derivative(along_noise, y, column) * i111


def _along_drift(field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
    """(d/dt + f . grad) field."""
    return torch.func.jvp(field, (t, y.contiguous()), (torch.ones_like(t), f.contiguous()))[1]


def _second_derivative(field: Field, t: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """(v v : Hessian) field, for a constant v."""
    return derivative(lambda state: derivative(lambda other: field(t, other), state, v), y, v)
