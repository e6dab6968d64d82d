"""Levy area of planar Brownian motion given the increment, exact to far below any sampling error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesig.signature.areas._draws import Draw, antisymmetric


def exact2d_area(increment: Tensor, h: Tensor, terms: int, draw: Draw) -> Tensor:
    """Levy area of a planar Brownian motion given its increment W.

    In the Fourier series, A_01 = h/(2 pi) sum_k (b_k0 X_k1 - b_k1 X_k0)/k with b_k = Y_k - sqrt2 w, w = W/sqrt(h);
    given the Y_k it is Gaussian, so the X_k need not be drawn:

        A_01 = h/(2 pi) sqrt(V) Z,    V = sum_{k>=1} |Y_k - sqrt2 w|^2 / k^2,    Z ~ N(0, 1),  Y_k ~ N(0, I_2)

    (the same law as (h/(2 pi)) Logistic(0, 1) plus a compound Poisson sum of Laplace variables). The terms k > n of V
    are replaced by a lognormal variable T with their exact mean and variance,

        E[T] = (2 + 2 |w|^2) trigamma(n + 1),    Var T = (4 + 8 |w|^2) sum_{k>n} k^{-4}.

    This replacement is the only error: in the characteristic function of A_01/h given W, less than 6e-6 everywhere at
    n = 4 and 4e-7 at n = 8; in the 2-Wasserstein distance of (W, A_01), below 1e-3 h n^{-5}.

    Args:
        increment: W, (..., 2).
        h: step lengths, broadcastable to (..., 1).
        terms: n >= 1.
        draw: called with shape (..., 2) for Z and the normal in T, then once per term for Y_k, shape (..., 2).

    Returns:
        A, (..., 2, 2).
    """
    from scipy.special import polygamma  # a quarter of a second

    w = increment / h.sqrt()
    shape = tuple(increment.shape)
    z, tail_normal = draw(shape).unbind(-1)
    squares = torch.zeros_like(w)
    for k in range(1, terms + 1):
        b = draw(shape) - math.sqrt(2) * w
        squares = torch.addcmul(squares, b, b, value=1 / k**2)
    norm2 = w.square().sum(-1)
    mean = (2 + 2 * norm2) * float(polygamma(1, terms + 1))
    variance = (4 + 8 * norm2) * float(polygamma(3, terms + 1)) / 6
    log_variance = torch.log1p(variance / mean.square())
    tail = mean * (log_variance.sqrt() * tail_normal - log_variance / 2).exp()
    entry = h.squeeze(-1) / (2 * math.pi) * (squares.sum(-1) + tail).sqrt() * z
    return antisymmetric(entry.unsqueeze(-1), 2)
