"""Few-step samplers of others as schemes: the published formulas, what each is exact for, refusals.

Their orders are in test_sampling_reverse_orders.py, what they share with all reverse schemes in
test_sampling_reverse.py.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate

from sdesig.brownian import BrownianPath
from sdesig.sampling import (
    IPNDM4,
    SEEDS2,
    CanonicalDenoiser,
    CanonicalSDE,
    DPMSolver3M,
    ERSDESolver3,
    GaussianReference,
    SNRClock,
    SNRDenoiser,
    to_canonical,
)
from sdesig.sampling.er_sde import recommended_noise
from sdesig.sde import EDM, VP, Mixture
from sdesig.solvers import solve
from sdesig.testing import check_gaussian

F64 = torch.float64
LOW, HIGH = math.exp(-5), math.exp(5)
LAW = Mixture.circle(1.0, 0.3, dtype=F64)
UNEVEN = [0, 1, 2, 4, 7, 10, 11, 13, 16]
every_schedule = pytest.mark.parametrize("diffusion", [VP(), EDM()], ids=["VP", "EDM"])


def solved_by(scheme, diffusion, eta, reference=None):
    """Ours and what a published formula needs: x/alpha at the end, alpha there, x at first, sigmas, alphas, normals."""
    sde = CanonicalSDE(CanonicalDenoiser(LAW.denoiser(diffusion), diffusion, eta), eta=eta, reference=reference)
    clock = sde.clock if eta > 0 else SNRClock()
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), clock=clock, cells=2**4, dtype=F64)
    grid = path.grid(16)[UNEVEN]
    times = diffusion.time(grid)
    x = diffusion.sigma(times[0]) * path.initial_noise()
    start = sde.reference.to_reference(to_canonical(diffusion, x, times[0], eta)[0], grid[0], eta)[0]
    ours = sde.noisy_data(solve(sde, start, grid, scheme=scheme, path=path)[-1], grid[-1])
    return ours * diffusion.alpha(times[-1]), x, times, path.partial_signatures(grid).coefficients[0]


def schedule(diffusion, times):
    """alpha, sigma and lambda = log(alpha/sigma) at times, as lists."""
    alpha, sigma = diffusion.alpha(times), diffusion.sigma(times)
    return alpha, sigma, (alpha / sigma).log()


# --- as published ----------------------------------------------------------------------------------------------------


def published_3m(diffusion, eta, x, times, normals):
    """`sample_dpmpp_3m_sde` of k-diffusion for eta = 1, and what eta = 0 makes of it, for any alpha."""
    alpha, sigma, lambdas = schedule(diffusion, times)
    denoise, past = LAW.denoiser(diffusion), []
    for k, z in enumerate(normals):
        h = lambdas[k + 1] - lambdas[k]
        total = h * (eta + 1)
        d = denoise(x, times[k])
        phi_2 = torch.expm1(-total) / total + 1
        phi_3 = phi_2 / total - 0.5
        moved = sigma[k + 1] / sigma[k] * torch.exp(-h * eta) * x - alpha[k + 1] * torch.expm1(-total) * d
        if len(past) >= 2:
            (d_1, h_1), (d_2, h_2) = past[-1], past[-2]
            r0, r1 = h_1 / h, h_2 / h
            first, second = (d - d_1) / r0, (d_1 - d_2) / r1
            whole = first + (first - second) * r0 / (r0 + r1)
            moved = moved + alpha[k + 1] * (phi_2 * whole - phi_3 * (first - second) / (r0 + r1))
        elif past:
            moved = moved + alpha[k + 1] * phi_2 * (d - past[-1][0]) / (past[-1][1] / h)
        x = moved + sigma[k + 1] * torch.sqrt(-torch.expm1(-2 * h * eta)) * z
        past.append((d, h))
    return x


def published_seeds(diffusion, eta, x, times, normals):
    """SEEDS-2 with its two normal variables, over pairs of steps."""
    alpha, sigma, lambdas = schedule(diffusion, times)
    denoise = LAW.denoiser(diffusion)
    for k in range(0, len(times) - 1, 2):
        h = lambdas[k + 2] - lambdas[k]
        r = (lambdas[k + 1] - lambdas[k]) / h
        d = denoise(x, times[k])
        inner = (
            sigma[k + 1] / sigma[k] * torch.exp(-r * h * eta) * x - alpha[k + 1] * torch.expm1(-r * h * (1 + eta)) * d
        )
        noise = torch.sqrt(-torch.expm1(-2 * r * h * eta)) * normals[k]
        inner = inner + sigma[k + 1] * noise
        both = (1 - 1 / (2 * r)) * d + 1 / (2 * r) * denoise(inner, times[k + 1])
        rest = torch.sqrt(-torch.expm1(-2 * (1 - r) * h * eta)) * normals[k + 1]
        noise = torch.exp(-(1 - r) * h * eta) * noise + rest
        x = sigma[k + 2] / sigma[k] * torch.exp(-h * eta) * x - alpha[k + 2] * torch.expm1(-h * (1 + eta)) * both
        x = x + sigma[k + 2] * noise
    return x


def published_ipndm(diffusion, eta, x, times, normals):
    """In x/alpha and sigma/alpha, as dz = eps ds."""
    weights = ([1], [3 / 2, -1 / 2], [23 / 12, -4 / 3, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -3 / 8])
    alpha, sigma, _ = schedule(diffusion, times)
    denoise, past = LAW.denoiser(diffusion), []
    for k in range(len(times) - 1):
        past.append((x - alpha[k] * denoise(x, times[k])) / sigma[k])
        recent = past[::-1][:4]
        eps = sum(w * e for w, e in zip(weights[len(recent) - 1], recent, strict=True))
        z = x / alpha[k] + (sigma[k + 1] / alpha[k + 1] - sigma[k] / alpha[k]) * eps
        x = alpha[k + 1] * z
    return x


def published_er_sde(diffusion, eta, x, times, normals, phi=recommended_noise):
    """The authors' `vp_3_order_taylor`."""
    alpha, sigma, _ = schedule(diffusion, times)
    s = sigma / alpha
    denoised, slopes = [], []
    for k, z in enumerate(normals):
        denoised.append(LAW.denoiser(diffusion)(x, times[k]))
        ratio = phi(s[k + 1]) / phi(s[k])
        moved = alpha[k + 1] / alpha[k] * ratio * x + alpha[k + 1] * (1 - ratio) * denoised[-1]
        points = s[k + 1] + torch.arange(100, dtype=F64) / 100 * (s[k] - s[k + 1])
        one = (1 / phi(points) * (s[k] - s[k + 1]) / 100).sum()
        other = ((points - s[k]) / phi(points) * (s[k] - s[k + 1]) / 100).sum()
        if k:
            slopes.append((denoised[k] - denoised[k - 1]) / (s[k] - s[k - 1]))
            moved = moved + alpha[k + 1] * (s[k + 1] - s[k] + one * phi(s[k + 1])) * slopes[-1]
        if k > 1:
            second = 2 * (slopes[-1] - slopes[-2]) / (s[k] - s[k - 2])
            moved = moved + alpha[k + 1] * ((s[k + 1] - s[k]) ** 2 / 2 + other * phi(s[k + 1])) * second
        x = moved + alpha[k + 1] * torch.sqrt(s[k + 1] ** 2 - s[k] ** 2 * ratio**2) * z
    return x


@pytest.mark.parametrize(
    "scheme, published, eta",
    [
        (DPMSolver3M(), published_3m, 1.0),
        (DPMSolver3M(), published_3m, 0.0),
        (SEEDS2(), published_seeds, 1.0),
        (SEEDS2(), published_seeds, 0.0),
        (IPNDM4(), published_ipndm, 0.0),
        (ERSDESolver3(), published_er_sde, 1.0),
    ],
)
@every_schedule
def test_the_schemes_are_the_published_ones(scheme, published, eta, diffusion):
    """On steps of different lengths, in float64."""
    ours, *rest = solved_by(scheme, diffusion, eta)
    torch.testing.assert_close(ours, published(diffusion, eta, *rest), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["scalar", "turned"])
def test_er_sde_does_not_depend_on_the_reference(kind):
    """Its path does: the normal variables are those of the reference's coordinates."""
    basis = None if kind == "scalar" else torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)
    variance = torch.tensor([0.4, 0.4] if kind == "scalar" else [0.2, 0.9], dtype=F64)
    reference = GaussianReference(torch.tensor([0.3, -0.1], dtype=F64), variance, basis)
    ours, x, times, normals = solved_by(ERSDESolver3(), VP(), 1.0, reference)
    turned = torch.stack([reference.from_basis(z) for z in normals])
    torch.testing.assert_close(ours, published_er_sde(VP(), 1.0, x, times, turned), rtol=1e-10, atol=1e-10)


def test_an_odd_number_of_steps_of_seeds_ends_with_one_of_first_order():
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y))
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), clock=sde.clock, cells=2**4, dtype=F64)
    grid = path.grid(16)[UNEVEN][:6]
    states = solve(sde, path.initial_noise(), grid, scheme="seeds_2", path=path)
    before = solve(sde, path.initial_noise(), grid[:5], scheme="seeds_2", path=path)
    assert torch.equal(before, states[:5])
    expected = solve(sde, states[4], grid[4:], scheme="dpm_solver_1", path=path)
    torch.testing.assert_close(states[5], expected[1], rtol=1e-12, atol=1e-12)


# --- what they are exact for -----------------------------------------------------------------------------------------


def steps_of(scheme, sde, times, u):
    """States at times, along a path that stays at 0."""
    states, memory = [u], scheme.start(sde, times[0], u)
    for start, end in pairwise(times):
        state, memory = scheme.advance(sde, start, end, states[-1], memory, (torch.zeros_like(u),))
        states.append(state)
    return torch.stack(states)


def of_snr(function, eta):
    """A denoiser that looks at the SNR alone."""
    return CanonicalSDE(SNRDenoiser(lambda y, snr: function(snr) * torch.ones_like(y), eta), eta=eta)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_3m_integrates_what_is_linear_in_log_snr_and_half_of_the_square(eta):
    """Of D = lambda^2 the term phi_3 h^2 is missing, as in the published codes: the average of s^2 is -2 phi_3."""
    times = torch.tensor([0.5, 0.8, 1.1, 2.0, 2.7], dtype=F64)
    power = (1 + eta**2) / 2
    u = torch.zeros(1, 1, dtype=F64)
    for degree, first in ((1, 1), (2, 2)):
        found = steps_of(DPMSolver3M(), of_snr(lambda snr, n=degree: (snr.log() / 2) ** n, eta), times, u).flatten()
        for k in range(first, len(times) - 1):
            start, end = times[k].item(), times[k + 1].item()
            exact = integrate.quad(
                lambda tau, n=degree: (math.log(tau) / 2) ** n * power * tau ** (power - 1), start, end, epsabs=1e-14
            )[0]
            h = math.log(end / start) / 2
            square = integrate.quad(
                lambda tau, a=start: (math.log(tau / a) / 2) ** 2 * power * tau ** (power - 1),
                start,
                end,
                epsabs=1e-14,
            )[0]
            missing = 0.0 if degree == 1 else square / 2
            assert (found[k + 1] - found[k]).item() == pytest.approx(exact - missing, abs=1e-12)
            assert square > 0.1 * h**3


def test_ipndm_integrates_cubic_noise_on_steps_even_in_sigma():
    """eps = s^n, so D = z - s^(n + 1), after three steps that do not; not for n = 4, nor on other steps."""

    def left(degree, s):
        def denoise(y, snr):
            sigma = snr.rsqrt()
            return y * sigma - sigma ** (degree + 1)  # z = y/sqrt(snr) at eta = 0

        sde = CanonicalSDE(SNRDenoiser(denoise, 0.0), eta=0.0)
        z = steps_of(IPNDM4(), sde, s**-2, torch.ones(1, 1, dtype=F64)).flatten() * s
        exact = (s[1:] ** (degree + 1) - s[:-1] ** (degree + 1)) / (degree + 1)
        return (z.diff() - exact).abs()

    even = torch.linspace(3, 1, 9, dtype=F64)
    for degree in range(4):
        errors = left(degree, even)
        assert errors[3:].max() < 1e-12
        assert (errors[:degree] > 1e-4).all()
    assert left(4, even)[3:].min() > 1e-4
    assert left(1, torch.linspace(3**0.5, 1, 9, dtype=F64) ** 2)[3:].min() > 1e-4


@pytest.mark.parametrize("phi", [recommended_noise, torch.square], ids=["recommended", "eta = 1"])
def test_er_sde_integrates_what_is_linear_in_sigma(phi):
    """z' = r z + phi(s') int D d(-1/phi), D = s^n, up to the sum over 100 points.

    Not what is quadratic, for d stands for the derivative at the start of the step.
    """
    s = torch.tensor([3.0, 2.6, 2.1, 1.5, 1.2], dtype=F64)

    def rate(q):
        q = torch.tensor(q, dtype=F64, requires_grad=True)
        value = phi(q)
        (slope,) = torch.autograd.grad(value, q)
        return (slope / value.detach() ** 2).item()

    for degree in (0, 1, 2):
        sde = of_snr(lambda snr, n=degree: snr.rsqrt() ** n, 1.0)
        z = steps_of(ERSDESolver3(phi), sde, s**-2, torch.zeros(1, 1, dtype=F64)).flatten() * s**2
        for k in range(degree, 4):
            integral = integrate.quad(lambda q, n=degree: q**n * rate(q), s[k + 1].item(), s[k].item())[0]
            moved = phi(s[k + 1]) / phi(s[k]) * z[k] + phi(s[k + 1]) * integral
            error = abs(z[k + 1] - moved).item()
            assert error < (2e-3 if degree else 1e-12) if degree < 2 else error > 0.01


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_er_sde_has_the_law_of_data_at_one_point(steps):
    """x_0 is known, D = x_0: z ~ N(x_0, s^2) at the end, whatever phi is. False-alarm rate 1e-6 each."""
    point = torch.tensor([0.4, -0.7], dtype=F64)
    sde = CanonicalSDE(SNRDenoiser(lambda y, snr: point.expand_as(y)))
    path = BrownianPath(LOW, HIGH, (4000, 2), seeds=range(4000), clock=sde.clock, cells=20, dtype=F64)
    start = LOW * point + math.sqrt(LOW) * path.initial_noise()
    last = sde.noisy_data(solve(sde, start, path.grid(steps), scheme="er_sde_3", path=path)[-1], HIGH)
    check_gaussian(last - point, torch.eye(2, dtype=F64) / HIGH, false_alarm_rate=1e-6).assert_passed()


def test_er_sde_with_the_square_is_dpm_solver_in_its_first_step():
    """phi = s^2 is eta = 1; with another phi the step is another one."""
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y))
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), clock=sde.clock, cells=2**4, dtype=F64)
    times = path.grid(8)[:2]
    euler, square, other = (
        solve(sde, path.initial_noise(), times, scheme=scheme, path=path)[-1]
        for scheme in ("dpm_solver_1", ERSDESolver3(torch.square), ERSDESolver3())
    )
    torch.testing.assert_close(square, euler, rtol=1e-10, atol=1e-12)
    assert (other - euler).abs().max() > 1e-2


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme, eta, match",
    [
        ("ipndm_4", 1.0, "IPNDM4 solves the probability flow, eta = 0; the SDE's eta is 1"),
        ("er_sde_3", 0.5, "ERSDESolver3 runs on the paths of eta = 1; the SDE's eta is 0.5"),
    ],
)
def test_etas_that_do_not_fit_are_refused(scheme, eta, match):
    sde = CanonicalSDE(SNRDenoiser(lambda y, snr: y, eta), eta=eta)
    path = BrownianPath(LOW, HIGH, (2, 1), seeds=range(2), clock=sde.clock, cells=8, dtype=F64)
    with pytest.raises(ValueError, match=match):
        solve(sde, path.initial_noise(), path.grid(4), scheme=scheme, path=path)


def test_what_has_noise_of_its_own_says_so():
    assert ERSDESolver3.own_noise
    assert not any(scheme.own_noise for scheme in (DPMSolver3M, SEEDS2, IPNDM4))
    assert np.isclose(recommended_noise(torch.tensor(1.0, dtype=F64)).item(), math.e + 10)
