"""One Brownian path in the clocks of several Gaussian references.

With u = y/(1 + c tau) in centred coordinates, dM = dB/(1 + c tau): the martingales M of two references, of variances c
and c', are integrals of each other, dM' = (1 + c tau)/(1 + c' tau) dM. On a cell that is short in log-SNR that ratio is
a smooth function, so the coefficients of M' are, to high accuracy, linear in those of M.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.snr_clock import clock_length
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre
from sdesig.signature.partial_signature import PartialSignature

_NODES = 16


def reclock(
    cells: PartialSignature, times: Tensor, reference: GaussianReference, variance: float = 0.0
) -> PartialSignature:
    """Partial signatures of M' of the scalar reference N(mu, variance) on short cells, from those of M of `reference`.

    M lives in the coordinates of the reference's basis, M' in those of the data. The error is that of approximating a
    Legendre polynomial times (1 + c tau)/(1 + c' tau) by the polynomials that the cells hold; the deepest coefficients
    are the least accurate.

    Args:
        cells: a stack of adjoining cells, (n, batch, *event).
        times: SNRs at their ends, float64, (n + 1,).
        reference: the reference in whose clock the path of the cells runs.
        variance: variance of the other reference; 0 gives B itself.

    Returns:
        A stack of the same shape and depth.
    """
    axes = len(cells.shape) - 1
    c = reference.variance.double().to(cells.device)
    c = c.reshape(*[1] * (axes - c.ndim), *c.shape)
    start, end = (value.reshape(-1, *[1] * axes).to(c.device) for value in (times[:-1], times[1:]))
    nodes, weights = gauss_legendre(_NODES, c.device)
    x = nodes.reshape(-1, *[1] * (axes + 1))
    length, new_length = clock_length(start, end, c), clock_length(start, end, variance)
    # v has grown by x h at the nodes of a cell: tau there, from (1 + c tau)^-1 = (1 + c start)^-1 - c x h
    growth = (1 + c * start) * x * length
    tau = (start + growth) / (1 - c * growth)
    position = (clock_length(start, tau, variance) / new_length).clamp(0, 1)
    ratio = (1 + c * tau) / (1 + variance * tau) * (length / new_length).sqrt()
    inner = orthonormal_legendre(nodes, cells.depth) * weights
    matrix = torch.einsum("iq...,jq->ij...", orthonormal_legendre(position, cells.depth) * ratio, inner)
    moved = torch.einsum("ij...,j...->i...", matrix.to(cells.coefficients), cells.coefficients)
    stacked = reference.from_basis(moved.flatten(0, 2)).reshape(moved.shape)
    return PartialSignature(new_length.to(cells.dtype), stacked)
