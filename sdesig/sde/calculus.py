"""Derivatives of a diffusion along its own columns, exact, by forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdesig.sde.base import SDELike


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
