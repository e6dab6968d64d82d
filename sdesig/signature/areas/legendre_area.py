"""Levy area from the Legendre coefficients of the path: jointly right with the Gaussian words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor

from sdesig.signature.areas._draws import Draw, antisymmetric, pair_count


def legendre_series(xi: Iterable[Tensor]) -> Tensor:
    """sum_{k>=1} xi_{k-1} xi_k^T / sqrt(4 k^2 - 1) over neighbours, (batch, d, d).

    Args:
        xi: xi_0, xi_1, ..., at least one, each (batch, d).
    """
    # One coordinate after the other and term by term: rounding does not depend on the batch size.
    columns = (value.T.contiguous() for value in xi)
    left = next(columns)
    matrix = left.new_zeros(len(left), *left.shape)
    for k, right in enumerate(columns, 1):
        matrix.addcmul_(left.unsqueeze(1), right.unsqueeze(0), value=(4 * k**2 - 1) ** -0.5)
        left = right
    return matrix.permute(2, 0, 1)


def legendre_area(coefficients: Tensor, h: float | Tensor, terms: int, draw: Draw) -> Tensor:
    """Levy area given the first m Legendre coefficients of the path on the step.

        A = (h/2) sum_{k=1}^{n} (xi_{k-1} xi_k^T - xi_k xi_{k-1}^T)/sqrt(4 k^2 - 1) + (h/2) (2n + 1)^{-1/2} G

    with n = max(terms, m - 1), G antisymmetric with N(0, 1) entries (the variance of the neglected terms), and
    xi_m..xi_n ~ N(0, Id) drawn. E[A | xi_0..xi_{m-1}] is exact. The series without G has RMS error
    (h/2) (2n + 1)^{-1/2} per entry.

    Given xi_0..xi_n, the 2-Wasserstein distance of A to the true area is at most sqrt(d) h/(4n) per entry: with
    c_k = (4 k^2 - 1)^{-1/2}, what is neglected is (h/2) R, R = sum_l B_l xi_l^T - xi_l B_l^T over l = n+1, n+3, ...,
    B_l = c_l xi_{l-1} - c_{l+1} xi_{l+1}. Given xi_n, xi_{n+2}, ... it is Gaussian with a covariance C of the entries
    i < j, made of M = sum_l B_l B_l^T; E[C] = I/(2n + 1) = b I. So R = C^{1/2} Z and b^{1/2} Z, one Z for both, differ
    by at most |C - b I| b^{-1/2}, and

        E |C - b I|^2 = (d (d - 1)/2) 2 d V,    V = Var M_01 = sum_l (c_l^2 + c_{l+1}^2)^2 + 2 c_{l+1}^2 c_{l+2}^2,

    as C has the entries M_ii + M_jj and +-M_jk, of variances 4 V and V; and (2n + 1) V < 1/(8 n^2), computed.

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
    drawn = (draw((*batch, dim)).reshape(-1, dim) for _ in range(depth, terms + 1))
    matrix = legendre_series(chain(kept, drawn))
    area = (matrix - matrix.mT).reshape(tail.shape) + tail / math.sqrt(2 * terms + 1)
    return torch.as_tensor(h).to(coefficients).unsqueeze(-1) / 2 * area
