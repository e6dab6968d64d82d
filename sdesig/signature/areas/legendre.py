"""Levy area from the Legendre coefficients of the path: jointly right with the Gaussian words."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesig.signature.areas._draws import CHUNK, Draw, antisymmetric, pair_count


def legendre_series(xi: Tensor, first: int) -> Tensor:
    """sum_k xi_{k-1} xi_k^T / sqrt(4 k^2 - 1) over the neighbours in `xi` = (xi_{first-1}, xi_first, ...).

    Args:
        xi: (count + 1, batch, d).
        first: the k of the first product, >= 1.

    Returns:
        (batch, d, d).
    """
    k = torch.arange(first, first + len(xi) - 1, dtype=xi.dtype, device=xi.device).reshape(-1, 1, 1)
    left = xi[:-1] * (4 * k.square() - 1).rsqrt()
    return left.permute(1, 2, 0) @ xi[1:].permute(1, 0, 2)


def legendre_area(coefficients: Tensor, h: float | Tensor, terms: int, draw: Draw) -> Tensor:
    """Levy area given the first m Legendre coefficients of the path on the step.

        A = (h/2) sum_{k=1}^{n} (xi_{k-1} xi_k^T - xi_k xi_{k-1}^T)/sqrt(4 k^2 - 1) + (h/2) (2n + 1)^{-1/2} G

    with n = max(terms, m - 1), G antisymmetric with N(0, 1) entries (the variance of the neglected terms), and
    xi_m..xi_n ~ N(0, Id) drawn. E[A | xi_0..xi_{m-1}] is exact. The series without G has RMS error
    (h/2) (2n + 1)^{-1/2} per entry.

    This is the entry point for callers with their own source of normals; it does not check its arguments.

    Source: Kuznetsov, "Stochastic differential equations: theory and practice of numerical solution" (the expansion);
    Foster, Habermann, "Brownian bridge expansions for Levy area approximations", Bernoulli 29 (2023), Theorem 5.4.

    Args:
        coefficients: xi_0..xi_{m-1}, (m, ..., d), m >= 1, d >= 2; xi_0 = W/sqrt(h).
        h: step length, a float or a tensor broadcastable to (..., 1).
        terms: n >= 1.
        draw: `draw(shape)` returns N(0, 1) numbers. Called once for G, shape (..., d (d - 1)/2), entries i < j row by
            row; then once for each of xi_m, ..., xi_n, shape (..., d). The leading axes are always the batch, so that
            the numbers may be keyed by the batch row. With 2n terms, the first calls are those of n terms.

    Returns:
        A, (..., d, d).
    """
    depth, *batch, dim = coefficients.shape
    terms = max(terms, depth - 1)
    tail = antisymmetric(draw((*batch, pair_count(dim))), dim)
    kept = coefficients.reshape(depth, -1, dim)
    matrix, last = legendre_series(kept, 1), kept[-1:]
    for first in range(depth, terms + 1, CHUNK):
        count = min(CHUNK, terms + 1 - first)
        xi = torch.cat([last, *(draw((*batch, dim)).reshape(1, -1, dim) for _ in range(count))])
        matrix, last = matrix + legendre_series(xi, first), xi[-1:]
    area = (matrix - matrix.mT).reshape(tail.shape) + tail / math.sqrt(2 * terms + 1)
    return torch.as_tensor(h).to(coefficients).unsqueeze(-1) / 2 * area
