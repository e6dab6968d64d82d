"""Weak approximations of the Levy area: few random numbers, matched moments, jointly right with the Gaussian words."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesig.signature.areas._draws import Draw, antisymmetric, pair_count
from sdesig.signature.areas.legendre_area import legendre_area, legendre_series


def _complete(coefficients: Tensor, depth: int, draw: Draw) -> Tensor:
    """Draw the Legendre coefficients that are missing up to `depth`, (max(m, depth), ..., d)."""
    missing = [draw(tuple(coefficients.shape[1:])).unsqueeze(0) for _ in range(len(coefficients), depth)]
    return torch.cat([coefficients, *missing])


def _conditional_mean(xi: Tensor) -> Tensor:
    """E[A | xi_0..xi_{m-1}]/h, (..., d, d), for xi of shape (m, ..., d)."""
    matrix = legendre_series(xi.reshape(len(xi), -1, xi.shape[-1]))
    return ((matrix - matrix.mT) / 2).reshape(*xi.shape[1:], xi.shape[-1])


def _pairwise(vector: Tensor) -> tuple[Tensor, Tensor]:
    """(v_i, v_j) over the pairs i < j, (..., d (d - 1)/2) each."""
    rows, columns = torch.triu_indices(vector.shape[-1], vector.shape[-1], 1, device=vector.device)
    return vector[..., rows], vector[..., columns]


def davie_area(coefficients: Tensor, h: Tensor, draw: Draw) -> Tensor:
    """E[A | xi_0..xi_{m-1}] plus independent Gaussian entries of the residual's variance, h^2/(4 (2m - 1)).

    For m = 2: A = H W^T - W H^T + N(0, h^2/12). m = 1 draws xi_1. Source: Davie, "Pathwise approximation of
    stochastic differential equations using coupling" (2014).
    """
    return legendre_area(coefficients, h, 1, draw)


def foster_area(coefficients: Tensor, h: Tensor, draw: Draw) -> Tensor:
    """E[A | xi_0..xi_{m-1}] plus Gaussian entries of the residual's variance given xi_{m-1},

        Var[A_ij | xi_0..xi_{m-1}] = (h^2/4) ((xi_{m-1,i}^2 + xi_{m-1,j}^2)/(4 m^2 - 1) + 1/(2m + 1)).

    For m = 2: A = H W^T - W H^T + N(0, h^2/20 + (h/5) (H_i^2 + H_j^2)). m = 1 draws xi_1. Source: Foster,
    "Numerical approximations for stochastic differential equations" (thesis, Oxford 2020).
    """
    dim = coefficients.shape[-1]
    xi = _complete(coefficients, 2, draw)
    first, second = _pairwise(xi[-1].square())
    variance = (first + second) / (4 * len(xi) ** 2 - 1) + 1 / (2 * len(xi) + 1)
    residual = variance.sqrt() / 2 * draw((*xi.shape[1:-1], pair_count(dim)))
    return h.unsqueeze(-1) * (_conditional_mean(xi) + antisymmetric(residual, dim))


def four_moment_area(coefficients: Tensor, h: Tensor, draw: Draw, generator: torch.Generator) -> Tensor:
    """Levy area with the conditional mean and variance given (W, H, K), and E A_ij^4, of the true one,

        A = H W^T - W H^T + 12 (K H^T - H K^T) + S,   S_ij = xi_ij sigma_ij antisymmetric,
        sigma_ij^2 = (3/28) (C_i + c) (C_j + c) h^2 + (144/28) h (K_i^2 + K_j^2),   c = 1/sqrt3 - 8/15,

    C_i ~ Exp with mean 8/15, xi_ij uniform on [-sqrt3, sqrt3] with probability 21130/25621 and +-1 otherwise. Like the
    other methods of this module it has uncorrelated entries S_ij given K, which the true area has not for d >= 3.
    Coefficients missing up to depth 3 are drawn; `coefficients` is (m, ..., d), m <= 3. Source: Jelincic, Foster,
    Kidger, "Generative modelling of Levy area for high order SDE simulation", arXiv:2308.02452.
    """
    dim = coefficients.shape[-1]
    xi = _complete(coefficients, 3, draw)
    c = 1 / math.sqrt(3) - 8 / 15
    shifted_i, shifted_j = _pairwise(torch.empty_like(xi[2]).exponential_(generator=generator) * (8 / 15) + c)
    k2_i, k2_j = _pairwise(xi[2].square())
    variance = 3 / 28 * shifted_i * shifted_j + (k2_i + k2_j) / 140  # K^2 = h xi_2^2/720
    choice, uniform = torch.rand(2, *variance.shape, generator=generator, dtype=xi.dtype, device=xi.device)
    centred = 2 * uniform - 1
    unit = torch.where(choice < 21130 / 25621, math.sqrt(3) * centred, torch.ones_like(centred).copysign(centred))
    return h.unsqueeze(-1) * (_conditional_mean(xi) + antisymmetric(unit * variance.sqrt(), dim))
