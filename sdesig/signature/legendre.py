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
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sdesig._devices import like, to_device

Array = TypeVar("Array", Tensor, np.ndarray)
"""Tensors, which have gradients and devices, or numpy arrays, whose operations on a few numbers cost far less."""

_SQRT_3 = math.sqrt(3)
_CLOSED_FORM = 4  # greatest depth whose rotations are known in closed form


def orthonormal_legendre(x: Array, depth: int, axis: int = 0) -> Array:
    """p_0(x), ..., p_{depth-1}(x), along a new axis: shape (depth, *x.shape) by default."""
    xp: Any = torch if isinstance(x, Tensor) else np
    values = [xp.ones_like(x)]
    if depth > 1:
        y = 2.0 * x - 1.0
        values.append(math.sqrt(3) * y)
        for k in range(1, depth - 1):
            # Bonnet's recursion (k+1) P_{k+1} = (2k+1) y P_k - k P_{k-1}, normalized
            scale = math.sqrt(2 * k + 3) / (k + 1)
            last = scale * k / math.sqrt(2 * k - 1)
            values.append(scale * math.sqrt(2 * k + 1) * y * values[k] - last * values[k - 1])
    return xp.stack(values, axis)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later callers, of whom some want gradients
def gauss_legendre(count: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], float64 (count,), exact for polynomials of degree < 2 count."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    values = torch.from_numpy((nodes + 1.0) / 2.0), torch.from_numpy(weights / 2.0)
    return values if device is None else (to_device(values[0], device), to_device(values[1], device))


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _quadrature(depth: int, device: torch.device | None) -> tuple[Any, Any, Any]:
    """Nodes (q,), w_q p_j at the nodes (q, j), and a lower triangle of ones; numpy arrays where device is None."""
    nodes, weights = gauss_legendre(depth, device)
    basis, lower = (orthonormal_legendre(nodes, depth) * weights).mT, torch.ones_like(nodes).expand(depth, -1).tril()
    return (nodes.numpy(), basis.numpy(), lower.numpy()) if device is None else (nodes, basis, lower)


def part_to_whole(start: Array, length: Array, depth: int) -> Array:
    """What the coefficients on a part contribute to those on the whole step.

    Args:
        start, length: position of the part in units of the whole step, float64 of one shape, in [0, 1].
        depth: number of coefficients.

    Returns:
        float64 (*start.shape, depth, depth): C_kj = sqrt(length) int_0^1 p_k(start + length x) p_j(x) dx, lower
        triangular. For parts that fill the step, xi^whole = sum over the parts of C xi^part, exactly.
    """
    xp: Any = torch if isinstance(start, Tensor) else np
    nodes, basis, lower = _quadrature(depth, start.device if isinstance(start, Tensor) else None)
    outer = orthonormal_legendre(start[..., None] + length[..., None] * nodes, depth, axis=-2)
    # A matrix for each part: one product of all would round differently from one number of parts to another.
    bases = xp.broadcast_to(basis, outer.shape[:-2] + basis.shape)
    return (outer @ bases) * lower * xp.sqrt(length)[..., None, None]


def parts_to_whole(lengths: Tensor, depth: int) -> Tensor:
    """C_1, ..., C_n for a step cut into n adjoining parts: xi^whole = sum_k C_k xi^k.

    Their rows together are orthonormal: with z iid N(0, 1), z_k + C_k^T (xi - sum_l C_l z_l) has the law of the parts
    given that the step has the coefficients xi.

    Args:
        lengths: lengths of the parts in any unit, (n, *shape).

    Returns:
        float64 (n, *shape, depth, depth).
    """
    lengths = lengths.to(torch.float64)
    ends = lengths.cumsum(0)
    return part_to_whole((ends - lengths) / ends[-1], lengths / ends[-1], depth)


def join_matrix(lengths: Sequence[float], depth: int, dtype: np.typing.DTypeLike = np.float64) -> np.ndarray:
    """[C_1, ..., C_n] of `parts_to_whole`, one beside the other: (depth, n depth), for calls where microseconds count.

    In closed form at the depths where a quadrature takes longer.
    """
    whole = sum(lengths)
    shares = [length / whole for length in lengths]
    if depth == 1:
        return np.array([[math.sqrt(share) for share in shares]], dtype)
    if depth == 2:
        first: list[float] = []
        second: list[float] = []
        start = 0.0
        for share in shares:
            root = math.sqrt(share)
            first += (root, 0.0)
            second += (_SQRT_3 * root * (2.0 * start + share - 1.0), root * share)
            start += share
        return np.array([first, second], dtype)
    ends = np.cumsum(shares)
    matrices = part_to_whole(ends - shares, np.array(shares), depth)
    return matrices.swapaxes(0, 1).reshape(depth, -1).astype(dtype)


def halves_to_whole(first: float | Tensor, second: float | Tensor, depth: int) -> Tensor:
    """[C_first, C_second] for a step cut into two parts.

    Args:
        first, second: lengths of the parts in any unit, floats or tensors of one shape.

    Returns:
        float64 (*shape of a length, depth, 2 depth).
    """
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        ends = torch.stack(torch.broadcast_tensors(torch.as_tensor(first), torch.as_tensor(second)), -1)
        share = ends.to(torch.float64) / ends.sum(-1, keepdim=True, dtype=torch.float64)
        start = torch.stack([torch.zeros_like(share[..., 0]), share[..., 0]], -1)
        return part_to_whole(start, share, depth).movedim(-3, -2).flatten(-2)
    shares = np.array([first, second]) / (first + second)
    parts = part_to_whole(np.array([0.0, shares[0]]), shares, depth)
    return torch.from_numpy(np.concatenate([parts[0], parts[1]], axis=1))


def split_matrix(first: Tensor, second: Tensor, depth: int) -> Tensor:
    """The orthogonal map between the coefficients on a step and those on its two parts.

    The rows of Q = [[C_first, C_second], [N_first, N_second]] give the coefficients of the step (`halves_to_whole`),
    and an orthonormal basis of the rest. Hence

        (xi^first, xi^second) = Q^T (xi, z),   z iid N(0, 1) independent of xi,

    is the exact conditional law of the parts given the step, and joining them again returns xi. It spends half the
    normals of `split_coefficients`.

    Args:
        first, second: lengths of the parts in any unit, of one shape.

    Returns:
        float64 (*first.shape, 2 depth, 2 depth), a deterministic function of the ratio of the lengths.
    """
    whole = halves_to_whole(first, second, depth)
    shares = torch.stack(torch.broadcast_tensors(first, second), -1).to(torch.float64)
    larger = shares.amax(-1, keepdim=True)
    longest = (larger / shares.sum(-1, keepdim=True))[..., 0]
    # The basis is that of Gram-Schmidt on (rows of the step, unit vectors of the first part, in their order): row i has
    # no entry before the i-th of either part. From depth n to n + 1 the pair n joins in: a new row across xi_n, and
    # `line` along it. What xi_n has of the earlier rows, `parts`, is taken out of them by a rotation with the line of
    # row n - 1, then of row n - 2, and so on; the line becomes xi_n from row i on, of length `to`. Nothing cancels.
    rest = whole.new_zeros(*whole.shape[:-2], depth, 2 * depth)
    pair, scale = (shares / larger).sqrt(), longest.sqrt()  # to the power n + 1/2, below
    for n in range(depth):
        if n > 0:
            pair, scale = pair * (shares / larger), scale * longest
        size = torch.linalg.vector_norm(pair, dim=-1)
        rows, parts = rest[..., :n, :], (rest[..., :n, :] @ whole[..., n, :, None])
        line = torch.zeros_like(whole[..., :1, :])
        line[..., 0, n::depth] = pair / size[..., None]
        length = (size * scale)[..., None, None]
        lines = torch.cat([parts * rows, length * line], -2).flip(-2).cumsum(-2).flip(-2)
        to = torch.cat([parts, length], -2).square().flip(-2).cumsum(-2).flip(-2).sqrt()
        rest[..., :n, :] = (to[..., 1:, :] * rows - parts * lines[..., 1:, :] / to[..., 1:, :]) / to[..., :-1, :]
        rest[..., n, n], rest[..., n, depth + n] = pair[..., 1] / size, -pair[..., 0] / size
    # Of two parts the shorter one has the positive signs. The switch sits at 2 : 1 so that rounding in the lengths of
    # a bisection cannot change it.
    sign = torch.where(first < 2 * second, 1.0, -1.0).to(whole)
    return torch.cat([whole, sign[..., None, None] * rest], dim=-2)


def rotations(ratio: Array, depth: int) -> tuple[Array, Array]:
    """`split_matrix` as rotations, each of one normal and one coefficient of the step.

    With the parts r and s = 1 - r of the step and A_n^2 = r^{2n+1} + s^{2n+1} the pairs (z_i, e), for n = depth - 1,
    ..., 0, e = xi_n and i = 0, ..., n, become (c z_i + s e, c e - s z_i); the last pair of each n is (xi^first_n,
    xi^second_n), where (c, s) = (s^{n+1/2}, r^{n+1/2})/A_n. The others follow from the minors of I - C_first^T C_first,
    polynomials in q = r s or in t = (s - r)^2 = 1 - 4q.

    Args:
        ratio: r/s.
        depth: at most 4.

    Returns:
        Factors of z_i, (c, -s), and of e, (s, c), for n = 0, ..., depth - 1 and i = 0, ..., n: each
        (depth (depth + 1)/2, 2, *ratio.shape). From a ratio of 2 on normals have the other sign, see `split_matrix`.
    """
    xp: Any = torch if isinstance(ratio, Tensor) else np
    s = 1.0 / (1.0 + ratio)
    r = ratio * s
    h, g = xp.sqrt(r), xp.sqrt(s)
    pairs = [(g, h)]
    if depth > 1:
        d, root = s - r, h * g
        t = d * d
        norm_1 = xp.sqrt(0.25 + 0.75 * t)
        pairs += [(norm_1, -_SQRT_3 * root), (s * g / norm_1, r * h / norm_1)]
    if depth > 2:
        q, rr, ss = r * s, r * r * h, s * s * g
        norm_2 = xp.sqrt(0.0625 * (1.0 + t * (10.0 + 5.0 * t)))
        b = xp.sqrt(0.25 * (1.0 + t * (5.0 * t - 2.0)))
        third = q * root
        pairs += [(b / norm_1, math.sqrt(5) * root * d / norm_1), (norm_1 * norm_2 / b, -math.sqrt(15) * third / b)]
        pairs += [(ss / norm_2, rr / norm_2)]
    if depth > 3:
        norm_3 = xp.sqrt(0.015625 * (1.0 + t * (21.0 + t * (35.0 + 7.0 * t))))
        c = xp.sqrt(0.00390625 * (9.0 + t * (t * (150.0 + t * (28.0 + 105.0 * t)) - 36.0)))
        e = xp.sqrt(0.015625 * (9.0 + t * (45.0 + t * (175.0 * t - 165.0))))
        pairs += [(e / b, math.sqrt(7) * root * (5.0 * q - 1.0) / b)]
        pairs += [(b * c / (norm_2 * e), math.sqrt(21) * third * d * (2.0 - 5.0 * q) / (norm_2 * e))]
        pairs += [(norm_2 * norm_3 / c, -math.sqrt(35) * third * q / c), (ss * s / norm_3, rr * r / norm_3)]
    cosines, sines = (xp.stack(values) for values in zip(*pairs, strict=True))
    return xp.stack([cosines, -sines], 1), xp.stack([sines, cosines], 1)


def cut(coefficients: Tensor, normals: Tensor, ratio: np.ndarray | Tensor) -> Tensor:
    """Coefficients of n steps to those of their two parts, by the rows of `split_matrix`, in few operations.

    Rounding does not depend on the number of steps, nor on the shape of a value.

    Args:
        coefficients: (depth, n, *shape).
        normals: (depth, n, *shape), N(0, 1).
        ratio: lengths of the first parts over those of the second ones, broadcastable to (n, *shape) and with as many
            axes. What is computed of a numpy array is so on the CPU and copied once.

    Returns:
        (depth, n, 2, *shape).
    """
    depth = len(coefficients)
    if depth > _CLOSED_FORM:
        ratio = torch.as_tensor(ratio)
        matrix = split_matrix(ratio, torch.ones_like(ratio), depth)
        return apply_in_order(matrix.mT, [*coefficients, *normals]).unflatten(0, (2, depth)).movedim(0, 2)
    if isinstance(ratio, Tensor):
        of_normals, of_step = rotations(like(ratio, coefficients), depth)
        of_normals[-depth:] *= like(torch.where(ratio < 2.0, 1.0, -1.0), coefficients)  # by the ratio in full
    else:
        factors = np.stack(rotations(ratio, depth))
        factors[0, -depth:] *= np.where(ratio < 2.0, 1.0, -1.0)
        of_normals, of_step = like(torch.from_numpy(factors), coefficients)
    of_normals, of_step = of_normals.movedim(1, 2), of_step.movedim(1, 2)
    z, at = list(normals), len(of_normals)
    out = coefficients.new_empty(depth, coefficients.shape[1], 2, *coefficients.shape[2:])
    for n in reversed(range(depth)):
        e, at = coefficients[n], at - n - 1
        for i in range(n + 1):
            pair = torch.mul(of_normals[at + i], z[i][:, None], out=out[n] if i == n else None)
            z[i], e = pair.addcmul_(of_step[at + i], e[:, None]).unbind(1)
    return out


def apply(matrix: Tensor, coefficients: Tensor) -> Tensor:
    """matrix @ coefficients over their first axis.

    Args:
        matrix: (rows, columns), or (*batch, rows, columns) with `batch` broadcastable to the shape of a coefficient.
        coefficients: (columns, *shape).

    Returns:
        (rows, *shape), in the dtype of the coefficients.
    """
    matrix = like(matrix, coefficients)
    if matrix.ndim == 2:
        shape = coefficients.shape
        return (matrix @ coefficients.reshape(shape[0], shape[1:].numel())).reshape(len(matrix), *shape[1:])
    return apply_in_order(matrix, coefficients)


def apply_in_order(matrix: Tensor, coefficients: Sequence[Tensor] | Tensor) -> Tensor:
    """`apply`, term by term: rounding does not depend on the shape of a coefficient, as it does in a matrix product.

    A path's rows must not change with the batch size. The coefficients may be a list of tensors of one shape.
    """
    weights = like(matrix, coefficients[0]).movedim((-1, -2), (0, 1)).contiguous()
    missing = coefficients[0].ndim + 2 - weights.ndim
    weights = weights.reshape(*weights.shape[:2], *[1] * missing, *weights.shape[2:])
    rows = weights[0] * coefficients[0]
    for weight, value in zip(weights[1:], coefficients[1:], strict=True):
        rows.addcmul_(weight, value)
    return rows


def split_coefficients(
    coefficients: Array, normals: Array, first: float | Tensor, second: float | Tensor
) -> tuple[Array, Array]:
    """Coefficients xi of a step to those of its two parts, by their exact conditional law.

    The parts of an unrelated step are 2 depth iid normals z, its own coefficients P z (`halves_to_whole`, with
    orthonormal rows); z + P^T (xi - P z) has the law of the parts given that the step's coefficients are xi.

    Args:
        coefficients: (depth, *shape), or a numpy array (depth, n).
        normals: (2 depth, *shape) or (2 depth, n), N(0, 1).
        first, second: lengths of the parts, zero-dimensional or broadcastable to `shape`; floats beside numpy arrays.
    """
    depth = len(coefficients)
    if isinstance(coefficients, np.ndarray):
        join = join_matrix((float(first), float(second)), depth, coefficients.dtype)
        parts = normals + join.T.dot(coefficients - join.dot(normals))
    else:
        join = halves_to_whole(first, second, depth)
        parts = normals + apply(join.mT, coefficients - apply(join, normals))
    return parts[:depth], parts[depth:]


@functools.lru_cache(maxsize=256)
def word_weights(before: int, after: int) -> tuple[float, ...]:
    """Coefficients c_k of a Gaussian word: I_(0^a, i, 0^b) = h^{a+b+1/2} sum_{k <= a+b} c_k xi_k^i.

    c_k = int_0^1 x^a (1-x)^b p_k(x) dx / (a! b!), with a = `before` and b = `after` the numbers of zeros.
    """
    depth = before + after + 1
    nodes, weights = gauss_legendre(depth)
    kernel = weights * nodes**before * (1.0 - nodes) ** after / (math.factorial(before) * math.factorial(after))
    return tuple((orthonormal_legendre(nodes, depth) @ kernel).tolist())
