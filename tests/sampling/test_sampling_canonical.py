"""The canonical and Gaussian-reference SDEs against sympy, the families' reverse SDEs, and their martingales."""

import math

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from sdesig.sampling import SNRDenoiser
from sdesig.sampling.canonical import CanonicalDenoiser, from_canonical, to_canonical
from sdesig.sampling.gaussian_reference import GaussianReference, drift_clock, noise_clock
from sdesig.sde.families import EDM, VE, VP, Flow, SubVP
from sdesig.sde.mixture import Mixture

FAMILIES = {
    "VP": VP(),
    "VP cosine": VP.cosine(),
    "SubVP": SubVP(),
    "VE": VE(),
    "EDM": EDM(),
    "Flow": Flow(),
}
every_family = pytest.mark.parametrize("diffusion", FAMILIES.values(), ids=FAMILIES.keys())
every_eta = pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.4])


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def log_uniform(low, high, shape, seed, dtype=torch.float64):
    u = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (low + (high - low) * u).exp()


# --- symbolic: the transformation of the reverse SDE -------------------------------------------------------------


T = sympy.Symbol("t", positive=True)
B, B_RATE = T * (1 + 3 * T), 1 + 6 * T
VE_SIGMA = 5000**T / 100


@pytest.mark.parametrize(
    "alpha, sigma, f, g2",
    [
        (sympy.exp(-B / 2), sympy.sqrt(1 - sympy.exp(-B)), -B_RATE / 2, B_RATE),
        (sympy.exp(-B / 2), 1 - sympy.exp(-B), -B_RATE / 2, B_RATE * (1 - sympy.exp(-2 * B))),
        (sympy.Integer(1), VE_SIGMA, sympy.Integer(0), 2 * sympy.log(5000) * VE_SIGMA**2),
        (sympy.Integer(1), T, sympy.Integer(0), 2 * T),
    ],
    ids=["VP", "SubVP", "VE", "EDM"],
)
def test_published_coefficients_are_log_derivatives(alpha, sigma, f, g2):
    """f = (log alpha)' and g^2 = 2 sigma^2 (log sigma - log alpha)', the premise of the next test."""
    log_alpha_rate, log_sigma_rate = (sympy.diff(scale, T) / scale for scale in (alpha, sigma))
    assert sympy.simplify(f - log_alpha_rate) == 0
    assert sympy.simplify(sympy.expand(g2 - 2 * sigma**2 * (log_sigma_rate - log_alpha_rate))) == 0


def test_symbolic_change_of_variables():
    """The reverse SDE in x becomes du = Q db + dM with the two clocks, exactly, for every eta >= 0 and c >= 0.

    c = 0 is dy = D da + dM. Log-derivatives p, q of alpha, sigma along the reverse time stand for any schedule.
    """
    x, d, eta, c, sigma, tau = sympy.symbols("x D eta c sigma tau", positive=True)
    p, q = sympy.symbols("p q", real=True)
    alpha = sigma * sympy.sqrt(tau)

    def along(expression):  # d/ds of a function of (sigma, tau), since (log tau)' = 2 (p - q)
        return sympy.diff(expression, sigma) * sigma * q + sympy.diff(expression, tau) * 2 * tau * (p - q)

    g2 = 2 * sigma**2 * (p - q)  # g^2 = 2 sigma^2 d/dt (log sigma - log alpha), ds = -dt
    drift_x = p * x + (1 + eta**2) / 2 * g2 * (alpha * d - x) / sigma**2  # -f = p
    v = tau / (1 + c * tau)
    y_scale = tau ** (eta**2 / 2) / sigma
    u_scale = y_scale / (1 + c * tau) ** ((1 + eta**2) / 2)
    drift_u = along(u_scale) * x + u_scale * drift_x
    q_reference = (1 + c * tau) * d - c * tau ** ((1 - eta**2) / 2) * y_scale * x
    b_rate, clock_rate = along(v ** ((1 + eta**2) / 2)), along(v ** (eta**2))
    assert sympy.simplify((drift_u / (q_reference * b_rate)) - 1) == 0
    assert sympy.simplify(u_scale**2 * eta**2 * g2 / clock_rate) == 1
    wrong_clock = along(v**eta)
    assert sympy.simplify(u_scale**2 * eta**2 * g2 / wrong_clock) != 1


# --- the code's maps against the families' own reverse SDEs --------------------------------------------------------


@every_family
@every_eta
def test_reverse_sde_in_the_new_variables_is_the_canonical_one(diffusion, eta):
    """Ito's formula for u(x, t), by autograd: drift Q db/ds and squared diffusion d<M>/ds, for an arbitrary D.

    The variances include c = 0, where (u, Q) = (y - a mu, D - mu).
    """
    reference = GaussianReference(tensor([0.3, -1.0, 2.0]), tensor([0.0, 0.5, 4.0]))
    sde = diffusion.reverse(lambda x, t: torch.cos(x), eta=eta)
    generator = torch.Generator().manual_seed(1)
    for t in diffusion.time(log_uniform(-6, 6, 8, seed=2)):
        t.requires_grad_()
        x = 2 * torch.randn(1, 3, generator=generator, dtype=torch.float64) * (1 + diffusion.sigma(t).detach())
        x.requires_grad_()
        y, snr = to_canonical(diffusion, x, t, eta)
        u, v = reference.to_reference(y, snr, eta)
        q = reference.drift(torch.cos(x), y, snr, eta)
        drift, noise = sde.f(sde.solver_time(t), x), sde.g(sde.solver_time(t), x)
        for i in range(3):
            u_t, u_x = torch.autograd.grad(u[0, i], (t, x), retain_graph=True)
            (b_t,) = torch.autograd.grad(drift_clock(v, eta)[i], t, retain_graph=True)
            (m_t,) = torch.autograd.grad(noise_clock(v, eta)[i], t, retain_graph=True)
            terms = torch.stack([-u_t, u_x[0, i] * drift[0, i]])
            scale = terms.abs().max().item()
            assert terms.sum().item() == pytest.approx(-(q[0, i] * b_t).item(), rel=1e-9, abs=1e-11 * scale)
            assert ((u_x[0, i] * noise[0, i]) ** 2).item() == pytest.approx(-m_t.item(), rel=1e-9)


@every_family
@every_eta
def test_law_given_the_data(diffusion, eta):
    """y | x_0 ~ N(a x_0, <M>): y is linear in x, so its mean and standard deviation are the images of x's."""
    x0 = tensor([[1.5]]).expand(9, 1)
    t = diffusion.time(torch.linspace(-9, 9, 9, dtype=torch.float64).exp())
    mean, std = diffusion.marginal(x0, t)
    (y_mean, snr), (y_std, _) = to_canonical(diffusion, mean, t, eta), to_canonical(diffusion, std, t, eta)
    torch.testing.assert_close(snr, diffusion.snr(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(y_mean[:, 0], 1.5 * snr ** ((1 + eta**2) / 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(y_std[:, 0] ** 2, snr ** (eta**2), rtol=1e-12, atol=0)
    torch.testing.assert_close(drift_clock(snr, eta) ** 2 / noise_clock(snr, eta), snr, rtol=1e-12, atol=0)


@every_eta
def test_variance_along_the_canonical_sde_for_gaussian_data(eta):
    """dy = D da + dM carries Var y = <M> (tau s^2 + 1), and u carries that over (1 + c tau)^(1 + eta^2)."""
    s2, c, diffusion = 0.3, 0.7, VP()
    law = Mixture(tensor([1.0]), tensor([[0.0]]), s2)
    denoise = CanonicalDenoiser(law.denoiser(diffusion), diffusion, eta)
    reference = GaussianReference(0.0, c)

    def exact(log_snr):
        tau = math.exp(log_snr)
        y = tau ** (eta**2) * (tau * s2 + 1)
        return np.array([y, y / (1 + c * tau) ** (1 + eta**2)])

    def rates(log_snr, variances):
        log_tau = tensor(log_snr).requires_grad_()
        tau = log_tau.exp()
        v = reference.clock(tau)
        clocks = drift_clock(tau, eta), noise_clock(tau, eta), drift_clock(v, eta), noise_clock(v, eta)
        a, m, b, mv = (torch.autograd.grad(k, log_tau, retain_graph=True)[0] for k in clocks)
        y = tensor([[1.0]])
        slope_y = denoise(y, tau.detach()).item()
        y_of_u = reference.from_reference(y, tau.detach(), eta)
        slope_u = reference.drift(denoise(y_of_u, tau.detach()), y_of_u, tau.detach(), eta).item()
        return [2 * slope_y * a * variances[0] + m, 2 * slope_u * b * variances[1] + mv]

    solution = solve_ivp(rates, (-4, 4), exact(-4), method="DOP853", rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(solution.y[:, -1], exact(4), rtol=1e-6)


# --- martingales ---------------------------------------------------------------------------------------------------


def asymmetric_mixture(dim):
    generator = torch.Generator().manual_seed(10 + dim)
    factors = torch.randn(3, dim, dim, generator=generator, dtype=torch.float64)
    means = 2 * torch.randn(3, dim, generator=generator, dtype=torch.float64)
    return Mixture(tensor([0.2, 0.5, 0.3]), means, 0.2 * factors @ factors.mT + 0.05 * torch.eye(dim))


def generator_applied(function, state, clock):
    """(d_clock + function . grad + Laplacian/2) function at one point, by autograd, and the size of its terms."""
    state, clock = state.clone().requires_grad_(), clock.clone().requires_grad_()
    value = function(state[None], clock)[0]
    terms = []
    for component in value:
        gradient, clock_rate = torch.autograd.grad(component, (state, clock), create_graph=True)
        laplacian = sum(torch.autograd.grad(gradient[i], state, retain_graph=True)[0][i] for i in range(len(state)))
        terms.append(torch.stack([clock_rate, value @ gradient, laplacian / 2]))
    terms = torch.stack(terms).detach()
    return terms.sum(-1), terms.abs().amax(-1)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_denoiser_and_reference_drift_are_martingales(dim):
    law = asymmetric_mixture(dim)
    reference = GaussianReference(law.mean(), 0.8)

    def q_of_u(u, v):
        snr = v / (1 - reference.variance * v)
        y = reference.from_reference(u, snr)
        return reference.drift(law.denoise_y(y, snr), y, snr)

    def wrong(y, snr):
        return law.denoise_y(y, 1.1 * snr)

    wrong_defects = []
    for i, snr in enumerate(log_uniform(-3, 3, 10, seed=3)):
        x0 = law.sample(1, torch.Generator().manual_seed(i))
        y = snr * x0 + snr.sqrt() * torch.randn(x0.shape, generator=torch.Generator().manual_seed(50 + i)).double()
        u, v = reference.to_reference(y, snr)
        for function, state, clock in ((SNRDenoiser(law.denoise_y), y[0], snr), (q_of_u, u[0], v)):
            defect, scale = generator_applied(function, state, clock)
            assert (defect.abs() <= 1e-9 * (scale + 1e-3)).all()
        defect, scale = generator_applied(wrong, y[0], snr)
        wrong_defects.append((defect.abs() / scale).max())
    assert max(wrong_defects) > 0.05  # the test sees a clock that is 10 % off


@every_eta
def test_reference_drift_vanishes_for_the_reference_itself(eta):
    mean, variance = tensor([0.5, -1.0, 2.0]), tensor([0.2, 1.0, 30.0])
    law = Mixture(tensor([1.0]), mean[None], variance[None])
    reference = GaussianReference(mean, variance)
    denoise = CanonicalDenoiser(law.denoiser(EDM()), EDM(), eta)
    snr = log_uniform(-8, 8, 20, seed=4)
    y = 3 * torch.randn(20, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * snr[:, None].sqrt()
    q = reference.drift(denoise(y, snr), y, snr, eta)
    growth = 1 + variance * snr[:, None]
    assert (q.abs() <= 1e-12 * growth * (1 + denoise(y, snr).abs())).all()


# --- inverse maps and precision ------------------------------------------------------------------------------------


@every_family
@every_eta
def test_round_trips(diffusion, eta):
    reference = GaussianReference(tensor([[0.3], [-1.0]]), tensor([[0.2], [3.0]]))
    x = torch.randn(7, 2, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    t = diffusion.time(log_uniform(-9, 9, 7, seed=7))
    y, snr = to_canonical(diffusion, x, t, eta)
    torch.testing.assert_close(from_canonical(diffusion, y, snr, eta), (x, t), rtol=1e-11, atol=1e-11)
    u, v = reference.to_reference(y, snr, eta)
    assert u.shape == y.shape
    assert v.shape == (7, 2, 1)
    torch.testing.assert_close(reference.from_reference(u, snr, eta), y, rtol=1e-12, atol=1e-12)
    denoised = torch.cos(x)
    q = reference.drift(denoised, y, snr, eta)
    growth = 1 + reference.variance * snr.reshape(7, 1, 1)
    a = drift_clock(snr, eta).reshape(7, 1, 1)
    back = reference.mean + (q + (growth - 1) / a * (y - a * reference.mean)) / growth
    torch.testing.assert_close(back, denoised, rtol=1e-11, atol=1e-11)
    one = reference.drift(denoised[2:3], y[2:3], snr[2], eta)
    torch.testing.assert_close(one, q[2:3])


def test_canonical_denoiser_agrees_with_the_mixtures_own():
    law = asymmetric_mixture(2)
    snr = log_uniform(-8, 8, 30, seed=8)
    y = snr[:, None] * law.sample(30, torch.Generator().manual_seed(9))
    for diffusion in FAMILIES.values():
        denoise = CanonicalDenoiser(law.denoiser(diffusion), diffusion)
        torch.testing.assert_close(denoise(y, snr), law.denoise_y(y, snr), rtol=1e-9, atol=1e-9)


@every_family
def test_reference_drift_does_not_depend_on_eta(diffusion):
    reference = GaussianReference(0.3, tensor([0.5, 4.0]))
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    t = diffusion.time(log_uniform(-8, 8, 9, seed=12))
    drifts = [reference.drift(torch.cos(x), *to_canonical(diffusion, x, t, eta), eta) for eta in (0.0, 0.7, 1.0, 2.0)]
    for other in drifts[1:]:
        torch.testing.assert_close(other, drifts[0], rtol=1e-10, atol=1e-10)


@given(st.floats(-20, 20), st.floats(1e-6, 8), st.floats(0, 100))
def test_clock_arithmetic(log_snr, log_ratio, variance):
    reference = GaussianReference(0.0, variance)
    start, end = math.exp(log_snr), math.exp(log_snr + log_ratio)
    step = reference.step_length(start, end)
    v_start, v_end = reference.clock(start).item(), reference.clock(end).item()
    assert step.item() == pytest.approx(v_end - v_start, rel=1e-12, abs=4e-16 * v_end)


def relative_error(got, exact):
    assert got.dtype == torch.float32
    return ((got.double() - exact) / exact).abs().max().item()


def test_single_precision_over_log_snr_from_minus_8_to_8():
    law = Mixture.circle(1.0, 0.3, dtype=torch.float64)
    variance = torch.tensor([0.5, 40.0])
    reference, exact_reference = GaussianReference(0.0, variance), GaussianReference(0.0, variance.double())
    generator = torch.Generator().manual_seed(13)
    snr = torch.linspace(-8, 8, 321).exp()
    noise = snr.sqrt()[:, None] * torch.randn(321, 2, generator=generator)
    y = snr[:, None] * law.sample(321, generator).float() + noise
    exact_y, exact_snr = y.double(), snr.double()
    u, v = reference.to_reference(y, snr)
    exact_u, exact_v = exact_reference.to_reference(exact_y, exact_snr)
    assert relative_error(u, exact_u) < 5e-7
    assert relative_error(v, exact_v) < 5e-7

    step, exact_step = (
        reference.step_length(snr[:-1], snr[1:]),
        exact_reference.step_length(exact_snr[:-1], exact_snr[1:]),
    )
    assert relative_error(step, exact_step) < 5e-7
    assert relative_error(v.diff(dim=0), exact_step) > 1e-2  # why step_length exists

    denoised = law.denoise_y(exact_y, exact_snr)
    q = reference.drift(denoised.float(), y, snr)
    error = (q.double() - exact_reference.drift(denoised.float().double(), exact_y, exact_snr)).abs()
    assert (error / (1 + exact_reference.variance * exact_snr[:, None])).max() < 5e-6
    assert (error[:-1] * exact_step).max() < 1e-7  # what it does to u
    growth = 1 + reference.variance * snr[:, None]
    assert ((q + reference.variance * y) / growth - denoised).abs().max() < 5e-6


def test_single_precision_range():
    variance = torch.tensor([0.5, 40.0])
    reference, exact_reference = GaussianReference(0.0, variance), GaussianReference(0.0, variance.double())
    snr = torch.tensor([-80.0, -79.0, 0.0, 79.0, 80.0]).exp()
    y = snr.clamp(min=snr.sqrt())[:, None].expand(5, 2)
    u, v = reference.to_reference(y, snr)
    exact_u, exact_v = exact_reference.to_reference(y.double(), snr.double())
    assert relative_error(u, exact_u) < 5e-7
    assert relative_error(v, exact_v) < 5e-7
    step, exact_step = (r.step_length(s[:-1], s[1:]) for r, s in ((reference, snr), (exact_reference, snr.double())))
    assert relative_error(step[:-1], exact_step[:-1]) < 5e-7  # the last one underflows
    assert relative_error(reference.from_reference(u, snr), y.double()) < 5e-7


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: GaussianReference(0.0, -1.0), ValueError, "variance"),
        (lambda: GaussianReference(0.0, torch.tensor([1.0, -2.0])), ValueError, "variance.*-2"),
        (lambda: GaussianReference(torch.tensor([math.nan]), 1.0), ValueError, "mean.*nan"),
        (lambda: GaussianReference(torch.tensor([1]), 1.0), TypeError, "mean"),
        (lambda: GaussianReference(0.0, "1"), TypeError, "variance"),
        (lambda: GaussianReference(0.0, 1.0, torch.ones(2, 3)), ValueError, r"basis\[0\] must be a square.*\(2, 3\)"),
        (lambda: GaussianReference(0.0, 1.0, [torch.eye(2), 2 * torch.eye(3)]), ValueError, r"basis\[1\].*off by 3"),
        (lambda: GaussianReference(0.0, 1.0, "dct"), TypeError, r"basis\[0\] must be a torch.Tensor"),
        (lambda: GaussianReference(0.0, 1.0).clock(0.0), ValueError, "snr"),
        (lambda: GaussianReference(0.0, 1.0).step_length(1.0, -1.0), ValueError, "end"),
        (lambda: GaussianReference(0.0, 1.0).to_reference(torch.ones(2, 3), torch.ones(3)), ValueError, r"\(batch,\)"),
        (lambda: GaussianReference(0.0, 1.0).to_reference(torch.ones(2, 3), 1.0, -1.0), ValueError, "eta"),
        (lambda: drift_clock(1.0, -0.1), ValueError, "eta"),
        (lambda: noise_clock(-1.0), ValueError, "snr"),
        (lambda: to_canonical(VP(), torch.ones(2, 3), 0.0), ValueError, "snr"),
        (lambda: to_canonical(VP(), [1.0], 0.5), TypeError, "x must"),
        (lambda: from_canonical(VP(), torch.ones(2, 3), 0.0), ValueError, "snr"),
        (lambda: CanonicalDenoiser(lambda x, t: x, VP(), -1.0), ValueError, "eta"),
        (lambda: CanonicalDenoiser(None, VP()), TypeError, "denoiser"),
        (lambda: CanonicalDenoiser(lambda x, t: x, None), TypeError, "diffusion must be a Diffusion; got NoneType"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
