"""Legendre coefficients of white noise on a step: one routine for every depth.

On a step of length h starting at s let x = (u - s)/h in [0, 1] and

    p_k(x) = sqrt(2k+1) P_k(2x - 1),    xi_k = h^{-1/2} int p_k((u - s)/h) dW_u,

P_k the Legendre polynomials. The p_k are orthonormal on [0, 1], so xi_0, xi_1, ... are iid N(0, 1), and every
polynomial of degree < depth integrated against dW is linear in the first `depth` of them (Foster, Lyons, Oberhauser: An
optimal polynomial approximation of Brownian motion, SIAM J. Numer. Anal. 2020). A polynomial on a step stays one on a
part of the step: joining steps is a linear map of the coefficients, and so is splitting once independent normals are
added.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def orthonormal_legendre(x: Tensor, depth: int) -> Tensor:
    """p_0(x), ..., p_{depth-1}(x), shape (depth, *x.shape)."""
    values = [torch.ones_like(x)]
    if depth > 1:
        y = 2.0 * x - 1.0
        values.append(math.sqrt(3) * y)
        for k in range(1, depth - 1):
            # Bonnet's recursion (k+1) P_{k+1} = (2k+1) y P_k - k P_{k-1}, normalized
            scale = math.sqrt(2 * k + 3) / (k + 1)
            last = scale * k / math.sqrt(2 * k - 1)
            values.append(scale * math.sqrt(2 * k + 1) * y * values[k] - last * values[k - 1])
    return torch.stack(values)


@functools.lru_cache(maxsize=64)
def gauss_legendre(count: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], float64 (count,), exact for polynomials of degree < 2 count."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1.0) / 2.0).to(device), torch.from_numpy(weights / 2.0).to(device)


@functools.lru_cache(maxsize=64)
def _weighted_basis(depth: int, device: torch.device) -> Tensor:
    """p_j times the weight at the nodes of `gauss_legendre`, (nodes, j)."""
    nodes, weights = gauss_legendre(depth, device)
    return (orthonormal_legendre(nodes, depth) * weights).mT


def part_to_whole(start: Tensor, length: Tensor, depth: int) -> Tensor:
    """What the coefficients on a part contribute to those on the whole step.

    Args:
        start, length: position of the part in units of the whole step, float64 of one shape, in [0, 1].
        depth: number of coefficients.

    Returns:
        float64 (*start.shape, depth, depth): C_kj = sqrt(length) int_0^1 p_k(start + length x) p_j(x) dx, lower
        triangular. For parts that fill the step, xi^whole = sum over the parts of C xi^part, exactly.
    """
    nodes, _ = gauss_legendre(depth, start.device)
    outer = orthonormal_legendre(torch.addcmul(start[..., None], length[..., None], nodes), depth).movedim(0, -2)
    return (outer @ _weighted_basis(depth, start.device)).tril() * length.sqrt()[..., None, None]


def halves_to_whole(ratio: Tensor, depth: int) -> Tensor:
    """float64 (*ratio.shape, depth, 2 depth): [C_first, C_second] for a step cut at `ratio` in (0, 1)."""
    ratio = ratio.to(torch.float64)
    start = torch.stack([torch.zeros_like(ratio), ratio], -1)
    return part_to_whole(start, torch.stack([ratio, 1.0 - ratio], -1), depth).movedim(-3, -2).flatten(-2)


def split_matrix(ratio: Tensor, depth: int) -> Tensor:
    """The orthogonal map between the coefficients on a step and those on its two parts.

    With r = `ratio` the first part's share of the step, the rows of Q = [[C_first, C_second], [N_first, N_second]] give
    the coefficients of the step (`part_to_whole`), and an orthonormal basis of the rest. Hence

        (xi^first, xi^second) = Q^T (xi, z),   z iid N(0, 1) independent of xi,

    is the exact conditional law of the parts given the step, and joining them again returns xi. Worth its factorization
    where it serves many splits; it spends half the normals of `split_coefficients`.

    Args:
        ratio: tensor in (0, 1), any shape.

    Returns:
        float64 (*ratio.shape, 2 depth, 2 depth), a deterministic function of the ratio.
    """
    whole = halves_to_whole(ratio, depth)
    # Gram-Schmidt on (rows of the step, unit vectors of the shorter part) has one result once the signs are fixed. The
    # switch sits at 2/3 so that rounding in the ratio of a bisection cannot change it.
    identity = torch.eye(2 * depth, dtype=torch.float64, device=ratio.device)
    shorter = torch.where((ratio < 2 / 3)[..., None, None], identity[:depth], identity[depth:])
    basis, triangle = torch.linalg.qr(torch.cat([whole, shorter], dim=-2).mT)
    rest = basis[..., depth:] * triangle.diagonal(dim1=-2, dim2=-1)[..., None, depth:].sign()
    return torch.cat([whole, rest.mT], dim=-2)


def apply(matrix: Tensor, coefficients: Tensor | Sequence[Tensor]) -> Tensor:
    """matrix @ coefficients over their first axis, term by term.

    Rounding does not depend on the shape of a coefficient, as it would in a matrix product: a path's rows must not
    change with the batch size.

    Args:
        matrix: (rows, columns), or (*batch, rows, columns) with `batch` broadcastable to the shape of a coefficient.
        coefficients: (columns, *shape), or that many tensors of this shape.

    Returns:
        (rows, *shape), in the dtype of the coefficients.
    """
    shared = matrix.ndim == 2 and not matrix.requires_grad
    entries = matrix.tolist() if shared else matrix.to(coefficients[0]).movedim((-2, -1), (0, 1))
    rows = []
    for entry in entries:
        row = entry[0] * coefficients[0]
        for weight, value in zip(entry[1:], coefficients[1:], strict=True):
            if not shared:
                row = row + weight * value
            elif weight != 0.0:
                row.add_(value, alpha=weight)
        rows.append(row)
    return torch.stack(rows)


@functools.lru_cache(maxsize=256)
def word_weights(before: int, after: int) -> tuple[float, ...]:
    """Coefficients c_k of a Gaussian word: I_(0^a, i, 0^b) = h^{a+b+1/2} sum_{k <= a+b} c_k xi_k^i.

    c_k = int_0^1 x^a (1-x)^b p_k(x) dx / (a! b!), with a = `before` and b = `after` the numbers of zeros.
    """
    depth = before + after + 1
    nodes, weights = gauss_legendre(depth)
    kernel = weights * nodes**before * (1.0 - nodes) ** after / (math.factorial(before) * math.factorial(after))
    return tuple((orthonormal_legendre(nodes, depth) @ kernel).tolist())
