"""The terms that schemes share: g v, directional derivatives, iterated integrals of two letters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdesig.sde.conversion import SDELike
from sdesig.signature.partial_signature import PartialSignature


def apply(g: Tensor, v: Tensor) -> Tensor:
    """g v, (batch, dim): elementwise for diagonal g (of v's number of axes), else g is (batch, dim, noise_dim)."""
    return g * v if g.ndim == v.ndim else (g @ v.unsqueeze(-1)).squeeze(-1)


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


def two_letter_integrals(structure: str, steps: PartialSignature) -> Tensor:
    """I_(i,j) = (W_i W_j - h [i=j])/2 + A_ij, the area only for general noise: commutative noise does not feel it.

    Returns:
        (n, batch, d, d); for diagonal noise I_(i,i) alone, (n, batch, d).
    """
    w, h = steps.increment, steps.h
    if structure == "diagonal":
        return (w**2 - h) / 2
    symmetric = (w.unsqueeze(-1) * w.unsqueeze(-2) - h[..., None] * torch.eye(w.shape[-1]).to(w)) / 2
    return symmetric if structure != "general" or steps.levy_area is None else symmetric + steps.levy_area


def second_order_noise(sde: SDELike, t: Tensor, y: Tensor, integrals: Tensor) -> Tensor:
    """sum_{i,j} (Dg_j g_i) C_ij, (batch, dim), for integrals C like those of `two_letter_integrals`."""

    def diffusion(state: Tensor) -> Tensor:
        return sde.g(t, state)

    g = diffusion(y)
    if sde.noise_type == "diagonal":
        return derivative(diffusion, y, g * integrals)
    along = torch.func.vmap(lambda direction: derivative(diffusion, y, direction))(columns(g @ integrals))
    return own_columns(along).sum(-1)
