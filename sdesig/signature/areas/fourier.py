"""Levy area given the increment, from the Fourier series of the Brownian bridge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesig.signature.areas._draws import Draw, antisymmetric, pair_count


def fourier_sums(w: Tensor, terms: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """sum_{k=1}^{terms} Y_k X_k^T / k and sum_{k=1}^{terms} X_k / k, with X_k, Y_k iid N(0, Id).

    Args:
        w: (..., d), gives shape, dtype and device only.
        draw: called once per term with shape (..., 2d): X_k, then Y_k.

    Returns:
        (batch, d, d) and (batch, d), the leading axes of `w` flattened.
    """
    batch, dim = w.shape[:-1], w.shape[-1]
    # One coordinate after the other and term by term: rounding does not depend on the batch size.
    matrix, vector = w.new_zeros(dim, dim, batch.numel()), w.new_zeros(dim, batch.numel())
    for k in range(1, terms + 1):
        x, y = draw((*batch, 2 * dim)).reshape(-1, 2 * dim).T.contiguous().split(dim)
        matrix.addcmul_(y.unsqueeze(1), x.unsqueeze(0), value=1 / k)
        vector.add_(x, alpha=1 / k)
    return matrix.permute(2, 0, 1), vector.T


def fourier_area(method: str, increment: Tensor, h: Tensor, terms: int, draw: Draw) -> Tensor:
    """Truncated Fourier series of the Levy area given the increment W, with the tail of `method`.

    With w = W/sqrt(h), X_k, Y_k, M ~ N(0, Id), G antisymmetric with N(0, 1) entries, psi = trigamma(n + 1):

        S = sum_{k<=n} (Y_k - sqrt2 w) X_k^T / k,        A = h/(2 pi) (S - S^T + tail)

    - "fourier": tail = 0. RMS error per entry h sqrt(6 psi)/(2 pi).
    - "milstein": tail = sqrt(2 psi) (w M^T - M w^T). RMS error h sqrt(2 psi)/(2 pi) if M = -psi^{-1/2} sum_{k>n} X_k/k.
    - "mronroe": the tail of "milstein" + sqrt(2 psi) G.
    - "wiktorsson": tail = sqrt(2 psi) (G + (v w^T - w v^T)), v = G w/(1 + sqrt(1 + |w|^2)).

    The last two tails have the exact covariance of the neglected terms given w.

    Sources: Kloeden, Platen, Wright, Stoch. Anal. Appl. 10 (1992); Wiktorsson, Ann. Appl. Probab. 11 (2001);
    Mrongowius, Roessler, Stoch. Anal. Appl. 40 (2022); all four in Kastner, Roessler, arXiv:2201.08424, section 4.

    Args:
        method: "fourier", "milstein", "mronroe" or "wiktorsson".
        increment: W, (..., d), d >= 2.
        h: step lengths, broadcastable to (..., 1).
        terms: n >= 1.
        draw: called for M, shape (..., d) ("milstein", "mronroe"); for G, shape (..., d (d - 1)/2) ("wiktorsson",
            "mronroe"); then as in `fourier_sums`. The tail comes first so that truncations at n and 2n share numbers.

    Returns:
        A, (..., d, d).
    """
    from scipy.special import polygamma  # a quarter of a second

    dim = increment.shape[-1]
    batch = increment.shape[:-1]
    w = (increment / h.sqrt()).reshape(-1, dim)
    scale = math.sqrt(2 * float(polygamma(1, terms + 1)))
    right: Tensor | float = 0.0
    pairs: Tensor | None = None
    if method in ("milstein", "mronroe"):
        right = scale * draw((*batch, dim)).reshape(-1, dim)
    if method in ("wiktorsson", "mronroe"):
        pairs = scale * draw((*batch, pair_count(dim))).reshape(-1, pair_count(dim))
    if pairs is not None and method == "wiktorsson":
        g = antisymmetric(pairs, dim)
        right = -torch.einsum("bij,bj->bi", g, w) / (1 + (1 + w.square().sum(-1, keepdim=True)).sqrt())
    matrix, vector = fourier_sums(increment, terms, draw)
    right = right - math.sqrt(2) * vector
    # Laid out as the sums are, one coordinate after the other: mixed layouts take several times as long.
    left, right = w.T.contiguous().T, right.T.contiguous().T
    matrix = matrix.addcmul_(left.unsqueeze(-1), right.unsqueeze(-2))
    if pairs is not None:
        rows, columns = torch.triu_indices(dim, dim, 1, device=w.device)
        matrix.permute(1, 2, 0).view(dim * dim, -1).index_add_(0, dim * rows + columns, pairs.T)
    area = (matrix - matrix.mT).reshape(*batch, dim, dim)
    return h.unsqueeze(-1) / (2 * math.pi) * area
