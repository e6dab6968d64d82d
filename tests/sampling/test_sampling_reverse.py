"""Schemes for reverse diffusions: exact on Gaussian data, the published formulas, weak orders, precision, refusals.

Their strong orders are in test_solvers_reverse_orders.py.
"""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special
from test_solvers_weak import generator, quadrature

from sdesig.brownian import BrownianPath
from sdesig.sampling import (
    CanonicalDenoiser,
    CanonicalSDE,
    DPMSolver1,
    GaussianReference,
    PathAverage,
    SNRClock,
    SNRDenoiser,
    to_canonical,
)
from sdesig.sampling import path_average as path_average_module
from sdesig.sampling.path_average import average_weights, evaluation_snr
from sdesig.sde import EDM, VP, Mixture
from sdesig.sde.problems import OrnsteinUhlenbeck
from sdesig.signature import PartialSignature
from sdesig.solvers import solve
from sdesig.testing import check_gaussian

SCHEMES = ("dpm_solver_1", "dpm_solver_2m", "dpm_solver_3m", "seeds_2", "path_average", PathAverage(correction=0.3))
EVERY_ETA = (0.0, 0.5, 1.0, 1.4)
AT_ONE_ETA = {"ipndm_4": 0.0, "er_sde_3": 1.0}
"""Schemes that one stochasticity is for."""
LOW, HIGH = math.exp(-8), math.exp(8)
every_eta = pytest.mark.parametrize("eta", EVERY_ETA)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def orthogonal(dim, seed):
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(noise)[0]


def make_path(sde, shape, **kwargs):
    clock = sde.clock if sde.eta > 0 else SNRClock()
    options = {"seeds": range(shape[0]), "clock": clock, "cells": 2**8, "dtype": torch.float64} | kwargs
    return BrownianPath(LOW, HIGH, shape, **options)


def solution(sde, path, steps, scheme="path_average"):
    return solve(sde, sde.start(path.initial_noise(), path.t0), path.grid(steps), scheme=scheme, path=path)[-1]


class Gaussian:
    """Data N(mean, B diag(variance) B^T), B a basis of vectors or one of each axis of a matrix."""

    def __init__(self, mean, variance, basis):
        self.mean, self.variance, self.basis = mean, variance, basis
        whole = basis[0]
        for matrix in basis[1:]:
            whole = torch.kron(whole, matrix)
        self.covariance = whole @ torch.diag(variance.expand(mean.shape).flatten()) @ whole.mT

    def denoise(self, x, t):
        """E[x_0 | x_t] for EDM: regression with the full covariance."""
        total = self.covariance + t**2 * torch.eye(len(self.covariance), dtype=x.dtype)
        flat = torch.linalg.solve(total, (x - self.mean).flatten(1).mT).mT @ self.covariance
        return self.mean + flat.reshape(x.shape)


GAUSSIANS = {
    "scalar": Gaussian(tensor([0.5, -2.0]), tensor(0.7), [torch.eye(2).double()]),
    "principal components": Gaussian(tensor([0.5, -2.0, 0.1]), tensor([2.0, 0.3, 0.001]), [orthogonal(3, 0)]),
    "two axes": Gaussian(
        tensor([[0.5], [-2.0]]).expand(2, 3), tensor([1.0, 0.1, 0.0]), [orthogonal(2, 1), orthogonal(3, 2)]
    ),
}


@pytest.mark.parametrize("law", GAUSSIANS.values(), ids=GAUSSIANS.keys())
@pytest.mark.parametrize("scheme, eta", [*((scheme, eta) for scheme in SCHEMES for eta in EVERY_ETA), ("ipndm_4", 0.0)])
def test_gaussian_data_are_exact_at_any_number_of_steps(scheme, law, eta):
    """The law at the last SNR is N(mean, covariance + I/tau); the path of one seed is the same at any step count."""
    reference = GaussianReference(law.mean, law.variance, law.basis)
    sde = CanonicalSDE(CanonicalDenoiser(law.denoise, EDM(), eta), reference=reference, eta=eta)
    path = make_path(sde, (4000, *law.mean.shape), cells=2**4)
    last = [sde.noisy_data(solution(sde, path, steps, scheme), HIGH) for steps in (1, 3, 16)]
    for other in last[1:]:
        torch.testing.assert_close(other, last[0], rtol=1e-9, atol=1e-9)
    covariance = law.covariance + torch.eye(len(law.covariance)).double() / HIGH
    check_gaussian((last[0] - law.mean).flatten(1), covariance, false_alarm_rate=1e-6).assert_passed()


def test_without_the_reference_gaussian_data_are_not_exact():
    law = GAUSSIANS["scalar"]
    sde = CanonicalSDE(CanonicalDenoiser(law.denoise, EDM()))
    path = make_path(sde, (10, 2))
    assert (solution(sde, path, 4) - solution(sde, path, 16)).abs().max() / HIGH > 0.1


# --- DPM-Solver++ as published -------------------------------------------------------------------------------------


def published(diffusion, denoise, eta, x, times, normals, second_order):
    """(SDE-)DPM-Solver++ (1) and (2M) in x, at times that decrease; normals (steps, batch, dim).

    x_t = (sigma_t/sigma_s) e^(-eta h) x_s + alpha_t (1 - e^(-(1 + eta) h)) D + sigma_t sqrt(1 - e^(-2 eta h)) z for
    eta = 0 and 1, h the step in lambda = log(alpha/sigma), with D + (D - D_last)/(2 r) for D in (2M), r = h_last/h.
    """
    last = None
    for s, t, z in zip(times[:-1], times[1:], normals, strict=True):
        lambdas = [0.5 * diffusion.log_snr(time) for time in (s, t)]
        h = lambdas[1] - lambdas[0]
        d = denoise(x, s)
        direction = d
        if second_order and last is not None:
            r = last[0] / h
            direction = d + (d - last[1]) / (2 * r)
        last = h, d
        sigma = diffusion.sigma(t)
        x = (
            sigma / diffusion.sigma(s) * torch.exp(-eta * h) * x
            + diffusion.alpha(t) * (1 - torch.exp(-(1 + eta) * h)) * direction
            + sigma * torch.sqrt(1 - torch.exp(-2 * eta * h)) * z
        )
    return x


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("diffusion", [VP(), EDM()], ids=["VP", "EDM"])
def test_dpm_solver_is_the_published_one(diffusion, second_order, eta):
    law = Mixture.circle(1.0, 0.3, dtype=torch.float64)
    sde = CanonicalSDE(CanonicalDenoiser(law.denoiser(diffusion), diffusion, eta), eta=eta)
    path = make_path(sde, (5, 2))
    grid = path.grid(12)[[0, 1, 2, 4, 7, 11, 12]]  # steps of different lengths
    times = diffusion.time(grid)
    x = diffusion.sigma(times[0]) * path.initial_noise()
    start, _ = to_canonical(diffusion, x, times[0], eta)
    name = "dpm_solver_2m" if second_order else "dpm_solver_1"
    ours = sde.noisy_data(solve(sde, start, grid, scheme=name, path=path)[-1], grid[-1])
    normals = path.partial_signatures(grid).coefficients[0]
    theirs = published(diffusion, law.denoiser(diffusion), eta, x, times, normals, second_order)
    torch.testing.assert_close(ours, theirs / diffusion.alpha(times[-1]), rtol=1e-8, atol=1e-8)


def test_euler_is_dpm_solver_1_at_eta_1():
    sde = CanonicalSDE(SNRDenoiser(Mixture.circle(1.0, 0.3, dtype=torch.float64).denoise_y))
    path = make_path(sde, (5, 2))
    assert torch.equal(solution(sde, path, 8, "euler"), solution(sde, path, 8, "dpm_solver_1"))


# --- the path-average step ---------------------------------------------------------------------------------------


LAW = Mixture(tensor([0.3, 0.7]), tensor([[-1.0], [0.6]]), tensor([0.2, 0.1]))
LENGTHS = [0.16 * 0.5**k for k in range(4)]


def unasked(eta):
    """A denoiser for an eta, where its values do not matter."""
    return SNRDenoiser(lambda y, snr: y, eta)


def powers(y):
    """y, y^2, y^3 of y (..., 1), stacked last."""
    return torch.cat([y, y**2, y**3], -1)


def local_weak_slope(eta, variance, scheme):
    """Order in the step length of |E phi(u_1) - Ito-Taylor expansion to h^2| of one step at SNR 1.3 in dimension 1."""
    denoise = CanonicalDenoiser(LAW.denoiser(EDM()), EDM(), eta)
    sde = CanonicalSDE(denoise, eta=eta, reference=GaussianReference(0.2, variance))
    t, u = tensor(1.3), tensor([0.4])
    first = generator(sde, lambda t, y: powers(y))
    value, rate, second = powers(u), first(t, u), generator(sde, first)(t, u)
    normals, weights = quadrature(2, 1, nodes=8)
    states, errors = u.expand(len(weights), 1), []
    for length in LENGTHS:
        h = tensor(length)
        clock = torch.as_tensor(sde.clock.length(t, t + h)) if eta > 0 else h
        noise = [values[0] for values in scheme.noise("additive", PartialSignature(clock, normals[:, None]))]
        memory = (sde.drift(states, t), None) if isinstance(scheme, PathAverage) else None
        y, memory = scheme.advance(sde, t, t + h, states, memory, tuple(noise))
        if isinstance(scheme, PathAverage):
            y = y + memory[1]  # the correction, with which the next step would begin
        errors.append((weights @ powers(y) - (value + h * rate + h**2 / 2 * second)).abs().max())
    return np.polyfit(np.log(LENGTHS), torch.stack(errors).log().numpy(), 1)[0]


@every_eta
@pytest.mark.parametrize("variance", [0.0, 0.5])
def test_local_weak_error_of_the_path_average(eta, variance):
    """Order 3: weak order 2. By quadrature, no sampling."""
    assert local_weak_slope(eta, variance, PathAverage()) > 2.85


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_local_weak_error_of_dpm_solver_1(eta):
    assert 1.85 < local_weak_slope(eta, 0.5, DPMSolver1()) < 2.15


@pytest.mark.parametrize("eta, fraction", [(1.0, 1 / 2), (0.5, 1 / 3), (0.0, 1 / 3), (1.4, 1 / 3)])
def test_another_evaluation_point_loses_the_order(eta, fraction, monkeypatch):
    monkeypatch.setattr(path_average_module, "evaluation_snr", lambda sde, s, t, _: evaluation_snr(sde, s, t, fraction))
    assert local_weak_slope(eta, 0.5, PathAverage()) < 2.3


@pytest.mark.parametrize("eta", [0.3, 0.5, 1.0, 1.4])
@pytest.mark.parametrize("start, end", [(1.0, 1.1), (0.1, 3.0), (1e-3, 1e3)])
def test_average_weights_by_quadrature_over_the_drift_clock(eta, start, end):
    """(1/db) int (M - M_n) db = int (b_end - b)/db dM, against Legendre polynomials in <M>; here integrated over b."""
    c = 0.4
    sde = CanonicalSDE(unasked(eta), eta=eta, reference=GaussianReference(0.0, tensor([0.0, c])))
    weights = average_weights(sde, tensor(start), tensor(end), 4)
    weights = weights.expand(4, 2)
    for column, variance in enumerate((0.0, c)):
        v = [tau / (1 + variance * tau) for tau in (start, end)]
        b = [x ** ((1 + eta**2) / 2) for x in v]
        power = 2 * eta**2 / (1 + eta**2)  # <M> = b^power
        for k in range(4):
            # x = z^4 takes out what is singular at 0 where the step is long
            value, _ = integrate.quad(
                lambda z, *rest: 4 * z**3 * integrand(z**4, *rest), 0, 1, (k, *b, power), limit=400
            )
            assert weights[k, column].item() == pytest.approx(value, abs=1e-6)


def integrand(x, k, start, end, power):
    """(1 - x) phi_k d<M>/h at b = start + x (end - start)."""
    b = start + x * (end - start)
    h = end**power - start**power
    position = 2 * (b**power - start**power) / h - 1
    legendre = math.sqrt(2 * k + 1) * special.eval_legendre(k, position)
    return (1 - x) * legendre * power * b ** (power - 1) * (end - start) / h


def test_evaluation_point():
    """v of the mean variance has passed a third; in float64 also where v hardly moves."""
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=GaussianReference(0.0, tensor([0.2, 0.4])))
    for start, end in ((0.01, 5.0), (2900.0, 2980.0)):
        time = evaluation_snr(sde, tensor(start), tensor(end), 1 / 3)
        mean = GaussianReference(0.0, 0.3)
        assert (3 * mean.step_length(start, time) / mean.step_length(start, end)).item() == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("scheme", [*SCHEMES, *AT_ONE_ETA])
def test_one_evaluation_a_step(scheme):
    calls = []

    def denoise(y, snr):
        calls.append(snr)
        return LAW.denoise_y(y, snr)

    eta = AT_ONE_ETA.get(scheme, 1.0)
    sde = CanonicalSDE(SNRDenoiser(denoise, eta), eta=eta)
    solution(sde, make_path(sde, (3, 1)), 8, scheme)
    assert len(calls) == 8
    assert all(time.ndim == 0 and time.dtype == torch.float64 for time in calls)


@pytest.mark.parametrize(
    "scheme, eta", [*((scheme, eta) for scheme in SCHEMES for eta in (0.5, 1.0)), *AT_ONE_ETA.items()]
)
def test_a_rotated_basis_rotates_the_solution(scheme, eta):
    """Data and reference turned by B, path values as before: x turns by B."""
    basis = orthogonal(2, 5)
    law = Mixture(tensor([0.3, 0.7]), tensor([[-1.0, 0.3], [0.6, 1.0]]), tensor([0.2, 0.1]))
    turned = Mixture(law.weights, law.means @ basis.mT, law.covariances)
    mean, variance = tensor([0.1, -0.4]), tensor([0.3, 1.2])
    found = []
    for data, centre, columns in ((law, mean, None), (turned, basis @ mean, basis)):
        denoise = CanonicalDenoiser(data.denoiser(VP()), VP(), eta)
        sde = CanonicalSDE(denoise, reference=GaussianReference(centre, variance, columns), eta=eta)
        path = make_path(sde, (20, 2))
        last = solution(sde, path, 16, scheme)
        found.append((sde.noisy_data(last, HIGH), sde.denoised(last, HIGH)))
    for plain, rotated in zip(*found, strict=True):
        torch.testing.assert_close(rotated, plain @ basis.mT, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variance", [None, 0.6, [0.2, 1.5]], ids=["none", "scalar", "per coordinate"])
@pytest.mark.parametrize(
    "scheme, eta", [*((scheme, eta) for scheme in SCHEMES for eta in EVERY_ETA), *AT_ONE_ETA.items()]
)
def test_single_precision(scheme, variance, eta):
    """log-SNR -8..8, 64 steps: the path of a seed is the same in both precisions, the data agree to 1e-4."""
    found = []
    for dtype in (torch.float32, torch.float64):
        law = Mixture.circle(1.0, 0.3, dtype=dtype)
        reference = None if variance is None else GaussianReference(0.0, torch.tensor(variance, dtype=dtype))
        sde = CanonicalSDE(CanonicalDenoiser(law.denoiser(EDM()), EDM(), eta), reference=reference, eta=eta)
        path = make_path(sde, (200, 2), dtype=dtype)
        last = solution(sde, path, 64, scheme)
        assert last.dtype == dtype
        found.append(sde.noisy_data(last, HIGH).double())
    assert (found[0] - found[1]).abs().max() < 1e-4
    assert found[1].abs().max() > 0.5


# --- the SDE itself ------------------------------------------------------------------------------------------------


@every_eta
def test_coefficients_are_rates_of_the_clocks(eta):
    denoise = CanonicalDenoiser(LAW.denoiser(EDM()), EDM(), eta)
    sde = CanonicalSDE(denoise, reference=GaussianReference(0.2, tensor([0.7])), eta=eta)
    u = tensor([[0.3], [-1.0]])
    for snr in tensor([1e-3, 1.0, 200.0]):
        up, down = snr * (1 + 1e-5), snr * (1 - 1e-5)
        rate = sde.drift_clock.length(down, up) / (up - down)
        torch.testing.assert_close(sde.f(snr, u), sde.drift(u, snr) * rate, rtol=1e-8, atol=0)
        noise = sde.clock.length(down, up) / (up - down) if eta > 0 else torch.zeros(1).double()
        torch.testing.assert_close(sde.g(snr, u) ** 2, noise.expand(2, 1), rtol=1e-8, atol=0)


@pytest.mark.parametrize("variance, power", [(0.0, 0.25), (0.3, 2.0), (5.0, 1.0)])
def test_clock_with_a_power(variance, power):
    """Against v(t)^power - v(s)^power in numpy's extended precision."""
    clock = SNRClock(variance, power)
    times = np.exp(np.linspace(-8, 8, 41)).astype(np.longdouble)
    exact = np.diff((times / (1 + np.longdouble(variance) * times)) ** np.longdouble(power))
    floats = times.astype(float)
    np.testing.assert_allclose(clock.length(floats[:-1], floats[1:]), exact.astype(float), rtol=1e-11)


def test_start_is_exact_for_the_reference():
    """u = (y - a mu)/(1 + c tau)^((1 + eta^2)/2) of y ~ N(a mu, <M> (1 + c tau))."""
    for eta in (0.0, 0.5, 1.0):
        sde = CanonicalSDE(unasked(eta), reference=GaussianReference(0.0, 2.0), eta=eta)
        tau = 0.3
        spread = tau ** (eta**2) * (1 + 2 * tau) / (1 + 2 * tau) ** (1 + eta**2)
        assert sde.start(tensor([1.0]), tau).item() == pytest.approx(math.sqrt(spread), rel=1e-12)


def test_start_per_sample_and_per_coordinate():
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=GaussianReference(0.0, tensor([0.0, 2.0])))
    snr = tensor([0.3, 5.0])
    noise = torch.ones(2, 2).double()
    expected = torch.stack([sde.start(noise[:1], one)[0] for one in snr])
    torch.testing.assert_close(sde.start(noise, snr), expected)
    torch.testing.assert_close(expected[1], tensor([5.0, 5.0 / 11]).sqrt())


def test_states_keep_their_dtype_beside_a_denoiser_in_double_precision():
    sde = CanonicalSDE(SNRDenoiser(lambda y, snr: torch.tanh(y.double())))
    assert solution(sde, make_path(sde, (3, 2), dtype=torch.float32), 4).dtype == torch.float32


@pytest.mark.parametrize("eta", [0.5, 1.4])
def test_one_huge_step_stays_bounded(eta):
    """Over log-SNR -8..8, where the drift clock grows by a factor of a million or more."""
    denoise = CanonicalDenoiser(LAW.denoiser(EDM()), EDM(), eta)
    sde = CanonicalSDE(denoise, reference=GaussianReference(LAW.mean(), LAW.covariance().item()), eta=eta)
    path = make_path(sde, (200, 1))
    assert sde.noisy_data(solution(sde, path, 1), HIGH).abs().max() < 5


# --- refusals ------------------------------------------------------------------------------------------------------


def attempt(sde=None, scheme="path_average", **path_options):
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y)) if sde is None else sde
    options = {"clock": SNRClock(), "cells": 2**6, "dtype": torch.float64} | path_options
    path = BrownianPath(LOW, HIGH, (2, 1), seeds=range(2), **options)
    return solve(sde, path.initial_noise(), path.grid(4), scheme=scheme, path=path)


def referring(reference):
    return CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=reference)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: attempt(OrnsteinUhlenbeck()), ValueError, "PathAverage needs a CanonicalSDE"),
        (
            lambda: attempt(clock=SNRClock(0.5)),
            ValueError,
            r"path must run in the SDE's `clock`, SNRClock\(variance=0.0",
        ),
        (lambda: attempt(clock=None), ValueError, "path must run in the SDE's `clock`"),
        (lambda: attempt(CanonicalSDE(unasked(0.5), eta=0.5)), ValueError, r"power=0\.25"),
        (
            lambda: attempt(CanonicalSDE(unasked(2.0), eta=2.0), clock=SNRClock(power=4.0)),
            ValueError,
            r"PathAverage needs eta < sqrt\(3\); the SDE's is 2.0",
        ),
        (lambda: attempt(depth=1), ValueError, "depth >= 2"),
        (
            lambda: attempt(referring(GaussianReference(tensor([0.0, 1.0]), 0.0))),
            ValueError,
            r"mean must broadcast against an event of shape \(1,\); it has \(2,\)",
        ),
        (
            lambda: attempt(referring(GaussianReference(0.0, torch.zeros(2, 1).double()))),
            ValueError,
            r"variance must broadcast against an event of shape \(1,\); it has \(2, 1\)",
        ),
        (
            lambda: attempt(referring(GaussianReference(0.0, 0.0, torch.eye(2).double()))),
            ValueError,
            r"basis must be a matrix for each of the last axes of an event \(1,\); it has \(2,\)",
        ),
        (
            lambda: attempt(referring(GaussianReference(0.0, 0.0, torch.eye(1)))),
            TypeError,
            "mean, variance and basis must be torch.float64 on cpu, like the states; one is torch.float32",
        ),
        (
            lambda: attempt(CanonicalSDE(SNRDenoiser(lambda y, snr: y[:1]))),
            ValueError,
            r"shape \(2, 1\) of the state it is given; got \(1, 1\)",
        ),
        (lambda: CanonicalSDE(None), TypeError, "denoiser must be a D.*; got NoneType"),
        (
            lambda: CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=1.0),
            TypeError,
            "reference must be a GaussianReference",
        ),
        (lambda: CanonicalSDE(SNRDenoiser(LAW.denoise_y), eta=-1.0), ValueError, "eta must be"),
        (
            lambda: CanonicalSDE(CanonicalDenoiser(LAW.denoiser(VP()), VP(), 0.5)),
            ValueError,
            "eta must be the denoiser's, 0.5; got 1",
        ),
        (lambda: CanonicalSDE(unasked(0.0), eta=0.0).clock, ValueError, "eta must be > 0 for a noise clock"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()
