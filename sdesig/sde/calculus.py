"""Ito and Stratonovich calculus: derivatives of a diffusion along its own columns, and conversion between the two.

    dY = f dt + sum_j g_j dW^j  =  (f - c) dt + sum_j g_j o dW^j,    c = 1/2 sum_j (dg_j/dy) g_j

(Kloeden & Platen, Numerical Solution of Stochastic Differential Equations, 1992, Section 4.9.) The derivatives come
from forward-mode Jacobian-vector products: no finite differences, no Jacobian is formed, and gradients flow through.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchsde
from torch import Tensor

from sdesig.sde.base import SDE, SDELike, check_sde


def derivative(field: Callable[[Tensor], Tensor], y: Tensor, direction: Tensor) -> Tensor:
    """(D field(y)) direction, by forward-mode differentiation."""
    # Forward mode refuses the overlapping memory of expanded tensors.
    return torch.func.jvp(field, (y.contiguous(),), (direction.contiguous(),))[1]


def columns(g: Tensor) -> Tensor:
    """(noise_dim, batch, dim) from g of shape (batch, dim, noise_dim)."""
    return g.movedim(-1, 0).contiguous()


def own_columns(values: Tensor) -> Tensor:
    """Column j of the j-th matrix: (batch, dim, noise_dim) from (noise_dim, batch, dim, noise_dim)."""
    return values.diagonal(dim1=0, dim2=-1)


def second_order_noise(sde: SDELike, t: Tensor | float, y: Tensor, integrals: Tensor | None = None) -> Tensor:
    """sum_{i,j} (Dg_j g_i) C_ij, shape (batch, dim).

    Args:
        sde, t, y: where g and its derivative are taken; y of shape (batch, dim).
        integrals: C, (batch, d, d), for diagonal noise its diagonal alone, (batch, d). None for the identity.
    """

    def diffusion(state: Tensor) -> Tensor:
        return sde.g(t, state)

    g = diffusion(y)
    if sde.noise_type == "diagonal":
        return derivative(diffusion, y, g if integrals is None else g * integrals)
    directions = columns(g if integrals is None else g @ integrals)
    along = torch.func.vmap(lambda direction: derivative(diffusion, y, direction))(directions)
    return own_columns(along).sum(-1)


def ito_correction(sde: SDELike, t: Tensor | float, y: Tensor) -> Tensor:
    """c = 1/2 sum_j (dg_j/dy) g_j at (t, y): the Ito drift minus the Stratonovich drift, whatever `sde.sde_type`.

    Args:
        sde: object with torchsde's interface. Component i of a diagonal g must depend on y_i alone, and g must be
            differentiable by `torch.func.jvp` (torch operations, nothing in place on y).
        t: time, passed on to g.
        y: state, (batch, dim).

    Returns:
        (batch, dim). Zero for additive noise, where g is not even called.

    Raises:
        TypeError: `sde` lacks a part of torchsde's interface.
        ValueError: unknown noise_type or sde_type.
    """
    check_sde(sde)
    if getattr(sde, "noise_structure", sde.noise_type) == "additive":
        return torch.zeros_like(y)

    return 0.5 * second_order_noise(sde, t, y)


def to_ito(sde: SDELike) -> SDELike:
    """The Ito SDE with the same solutions as `sde`; see `ConvertedSDE`. An Ito SDE is returned as it is.

    Raises:
        TypeError: `sde` lacks a part of torchsde's interface.
        ValueError: unknown noise_type or sde_type.
    """
    return _convert(sde, "ito")


def to_stratonovich(sde: SDELike) -> SDELike:
    """The Stratonovich SDE with the same solutions as `sde`; see `ConvertedSDE`. A Stratonovich SDE is returned as is.

    Raises:
        TypeError: `sde` lacks a part of torchsde's interface.
        ValueError: unknown noise_type or sde_type.
    """
    return _convert(sde, "stratonovich")


class ConvertedSDE(SDE):
    """`sde` rewritten in the other calculus: the drift moves by the Ito correction, g stays. Made by `to_ito` and
    `to_stratonovich`, which return the original object when asked to convert back.

    The original is the submodule `sde`, so its parameters and buffers are this module's. The attributes dim and
    noise_dim are there if the original has them; noise_structure defaults to its noise_type. Nothing else of the
    original is passed on, such as torchsde's prior drift `h`.
    """

    def __repr__(self) -> str:
        return f"ConvertedSDE({self.sde!r}, {self.sde_type!r})"

    def __init__(self, sde: SDELike, sde_type: str) -> None:
        # Not SDE.__init__: an object that only has torchsde's interface does not know its dimensions.
        torchsde.BaseSDE.__init__(self, noise_type=sde.noise_type, sde_type=sde_type)
        for name in ("dim", "noise_dim"):
            if hasattr(sde, name):
                setattr(self, name, getattr(sde, name))
        self.noise_structure = getattr(sde, "noise_structure", sde.noise_type)
        self.sde = sde
        self._sign = 1.0 if sde_type == "ito" else -1.0

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """Drift of the original plus (to Ito) or minus (to Stratonovich) `ito_correction`, (batch, dim)."""
        return self.sde.f(t, y) + self._sign * ito_correction(self.sde, t, y)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """Diffusion of the original."""
        return self.sde.g(t, y)


def _convert(sde: SDELike, sde_type: str) -> SDELike:
    check_sde(sde)
    if sde.sde_type == sde_type:
        return sde
    return sde.sde if isinstance(sde, ConvertedSDE) else ConvertedSDE(sde, sde_type)
