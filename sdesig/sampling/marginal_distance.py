"""A distance between two laws that needs no network: the Frechet distance of their marginals."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig._checks import check_floating
from sdesig.sampling.gaussian_reference import GaussianReference


def marginal_distance(samples: Tensor, others: Tensor, reference: GaussianReference) -> tuple[float, float]:
    """The Frechet distance of the marginals in the basis of a reference, and its standard error:

        (1/d) sum_i [(m_i - m'_i)^2 + (s_i - s'_i)^2],

    with means m and standard deviations s of the coordinates of `GaussianReference.to_basis`: principal components, the
    cosines of images, or the pixels themselves. It is the squared Frechet distance (Wasserstein's, of Gaussians) over
    d, of the Gaussians that have these marginals and independent coordinates, so it needs few samples.

    It sees a shifted mean and a wrong variance of every coordinate, in units of the data: too much or too little
    contrast, and grain or blur, which are too much or too little variance at high frequencies. It does not see how
    coordinates depend on each other, nor the shape of a marginal: modes that are missing while mean and variance are
    right, or a wrong object.

    The bias of n and n' samples is about sum_i [s_i^2 + s_i^2 (k_i - 1)/4] (1/n + 1/n')/d, with k_i the kurtosis of a
    coordinate: 3/2 times the mean variance times 1/n + 1/n' for normal ones. Compare at equal n, and with the distance
    of samples that have the law of the others. The standard error is that of the samples, by the infinitesimal
    jackknife; the others count as exact, as all rows of a table share them.

    Args:
        samples: (n >= 2, *event).
        others: (n' >= 2, *event).
        reference: its basis fits the event; mean and variance do not matter.

    Raises:
        TypeError, ValueError: another shape, values that are not finite.
    """
    event = tuple(check_floating("others", others).shape[1:])
    found = []
    for name, values in (("samples", samples), ("others", others)):
        if check_floating(name, values).ndim < 2 or len(values) < 2 or tuple(values.shape[1:]) != event:
            raise ValueError(f"{name} must have shape (n >= 2, *{event}); got {tuple(values.shape)}")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} must be finite")
        found.append(reference.to_basis(values).flatten(1).double())
    own, other = found
    centred, deviation = own - own.mean(0), own.std(0)
    shift, excess = own.mean(0) - other.mean(0), deviation - other.std(0)
    # s moves with a sample by (z^2 - s^2)/(2 s), z its deviation from the mean
    rate = excess / torch.where(deviation > 0, deviation, 1.0)
    influence = (2 * centred * shift + rate * (centred.square() - deviation.square())).mean(1)
    distance = (shift.square() + excess.square()).mean().item()
    return distance, influence.std().item() / len(own) ** 0.5
