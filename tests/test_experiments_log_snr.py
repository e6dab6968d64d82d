"""The floor of the expansion in log-SNR against its closed form for Gaussian data, by quadrature.

For data N(0, s^2) the last x is int G dB, G = (1 + s^2 tau_N)/(tau_N (1 + s^2 tau)) (see
sampling/test_sampling_floor.py). Estimates are compared within 5 standard errors: a right one fails with a
probability below 1e-6.
"""

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special

from experiments.digits.floors import log_snr_functionals
from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser, TeacherOptions, information_floor

LOW, HIGH, S2 = math.exp(-3), math.exp(3), 0.5


def integral(f, a, b):
    return integrate.quad(f, a, b, epsabs=1e-14, epsrel=1e-11, limit=200)[0]


def closed_form(steps, depth):
    """See the module; in l = log tau, with dB = tau^{1/2} dM and <M> = l."""

    def kernel(l):
        return (1 + S2 * HIGH) / HIGH / (1 + S2 * math.exp(l)) * math.exp(l / 2)

    left = 0.0
    for a, b in pairwise(np.linspace(math.log(LOW), math.log(HIGH), steps + 1)):
        left += integral(lambda l: kernel(l) ** 2, a, b)
        for k in range(depth):

            def projected(l, k=k, a=a, b=b):
                return (
                    kernel(l) * math.sqrt((2 * k + 1) / (b - a)) * special.eval_legendre(k, 2 * (l - a) / (b - a) - 1)
                )

            left -= integral(projected, a, b) ** 2
    return math.sqrt(left)


@pytest.mark.parametrize("steps, depth", [(2, 1), (3, 2), (2, 3)])
def test_the_floor_in_log_snr_has_its_closed_form(steps, depth):
    floor = information_floor(
        SNRDenoiser(lambda y, snr: S2 * y / (1 + S2 * snr.item())),
        PathSpace((4,), (LOW, HIGH), GaussianReference(torch.zeros(4, dtype=torch.float64), 0.0)),
        steps=steps,
        depth=depth,
        groups=4000,
        teacher_options=TeacherOptions(steps=128),
        functionals=functools.partial(log_snr_functionals, depth=depth),
    )
    assert abs(floor.rmse - closed_form(steps, depth)) < 5 * floor.standard_error
    assert 5 * floor.standard_error < 0.1 * floor.rmse
