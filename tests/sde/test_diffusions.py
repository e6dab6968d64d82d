"""Schedules against 50-digit references, published tables and autograd; SDEs against moment equations and torchsde."""

import math

import mpmath
import numpy as np
import pytest
import torch
import torchsde
from scipy.integrate import quad, solve_ivp

from sdesig.sde import EDM, VE, VP, CosineBeta, Flow, ForwardDiffusion, LinearBeta, SubVP

FAMILIES = {
    "VP": VP(),
    "VP linear": VP.linear(0.2, 12.0),
    "VP cosine": VP.cosine(),
    "SubVP": SubVP(),
    "SubVP cosine": SubVP.cosine(0.02),
    "VE": VE(),
    "EDM": EDM(),
    "Flow": Flow(),
}
every_family = pytest.mark.parametrize("diffusion", FAMILIES.values(), ids=FAMILIES.keys())


def times(diffusion, n=50):
    """n times, uniform in log-SNR over the schedule."""
    ends = [diffusion.log_snr(t).item() for t in (diffusion.t_max, diffusion.t_min)]
    return diffusion.time(torch.linspace(*ends, n, dtype=torch.float64).exp())


def published(diffusion, t):
    """(alpha, sigma) from the papers' formulas, in mpmath's working precision."""
    if isinstance(diffusion, EDM):
        return mpmath.mpf(1), t
    if isinstance(diffusion, Flow):
        return 1 - t, t
    if isinstance(diffusion, VE):
        return mpmath.mpf(1), diffusion.sigma_min * (mpmath.mpf(diffusion.sigma_max) / diffusion.sigma_min) ** t
    schedule = diffusion.schedule
    if isinstance(schedule, LinearBeta):
        low, high = mpmath.mpf(schedule.beta_min), mpmath.mpf(schedule.beta_max)
        alpha_bar = mpmath.exp(-(t**2) * (high - low) / 2 - t * low)
    else:
        offset = mpmath.mpf(schedule.offset)
        f = [mpmath.cos((u + offset) / (1 + offset) * mpmath.pi / 2) ** 2 for u in (t, 0)]
        alpha_bar = f[0] / f[1]
    sigma = 1 - alpha_bar if isinstance(diffusion, SubVP) else mpmath.sqrt(1 - alpha_bar)
    return mpmath.sqrt(alpha_bar), sigma


@every_family
def test_alpha_sigma_snr_have_full_relative_accuracy(diffusion):
    log_snr = torch.linspace(-20, 20, 41, dtype=torch.float64)
    t = diffusion.time(log_snr.exp())
    got = torch.stack([diffusion.alpha(t), diffusion.sigma(t), diffusion.snr(t)], -1)
    with mpmath.workdps(50):
        exact = [published(diffusion, mpmath.mpf(u)) for u in t.tolist()]
        exact = [[float(a), float(s), float((a / s) ** 2)] for a, s in exact]
    torch.testing.assert_close(got, torch.tensor(exact, dtype=torch.float64), rtol=2e-14, atol=0)


@every_family
def test_time_inverts_snr(diffusion):
    log_snr = torch.linspace(-20, 20, 401, dtype=torch.float64)
    t = diffusion.time(log_snr.exp())
    # t near 1 carries the cosine schedule's smallest SNRs: a rounding of t is 4e-12 of 1 - t there.
    torch.testing.assert_close(diffusion.log_snr(t), log_snr, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        diffusion.time(diffusion.snr(times(diffusion))), times(diffusion), rtol=1e-12, atol=1e-13
    )
    assert (t.diff() < 0).all()


@every_family
def test_time_inverts_snr_in_float32(diffusion):
    # A rounding of t, 6e-8, is 3e-6 of 1 - t at the cosine schedule's end.
    log_snr = torch.linspace(-8, 8, 65)
    error = diffusion.log_snr(diffusion.time(log_snr.exp())) - log_snr
    assert error.abs().max() < 2e-5
    assert error.dtype == torch.float32


@every_family
def test_coefficients_are_those_of_the_marginals(diffusion):
    t = times(diffusion).requires_grad_()
    (f,) = torch.autograd.grad((diffusion.alpha(t).log() + 0 * t).sum(), t)  # alpha may be constant
    (rate,) = torch.autograd.grad((diffusion.sigma(t) ** 2).sum(), t)
    torch.testing.assert_close(diffusion.drift_coefficient(t), f, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        diffusion.squared_diffusion(t), rate - 2 * f * diffusion.sigma(t) ** 2, rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("schedule", [LinearBeta(), LinearBeta(0.5, 3.0), CosineBeta(), CosineBeta(0.1)])
def test_beta_integrates_to_its_integral_and_back(schedule):
    t = torch.linspace(0.01, 0.99, 15, dtype=torch.float64)
    exact = [
        quad(lambda u: schedule.rate(torch.tensor(u, dtype=torch.float64)).item(), 0, end, epsrel=1e-11)[0] for end in t
    ]
    torch.testing.assert_close(schedule.integral(t), torch.tensor(exact, dtype=torch.float64), rtol=1e-8, atol=0)
    torch.testing.assert_close(schedule.time(schedule.integral(t)), t, rtol=1e-12, atol=0)


def test_cosine_schedule_is_nichol_and_dhariwals_before_their_clip():
    n = np.arange(1001) / 1000
    alpha_bar = np.cos((n + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert np.flatnonzero(betas > 0.999).tolist() == [999]  # the clip acts on the last step alone
    discrete = np.cumprod(1 - np.minimum(betas, 0.999))
    grid = torch.arange(1, 1000, dtype=torch.float64) / 1000
    vp = VP.cosine()
    np.testing.assert_allclose(vp.alpha(grid) ** 2, discrete[:999], rtol=1e-11)
    assert vp.t_max == grid[-1]


def test_linear_schedule_is_the_limit_of_ddpm():
    # Song et al. 2021, appendix B: beta_n = beta(n/N)/N; the product of 1 - beta_n tends to alpha^2 like 1/N.
    vp = VP()
    errors = []
    for n in (1000, 4000):
        betas = torch.linspace(0.1, 20.0, n, dtype=torch.float64) / n
        errors.append((torch.log1p(-betas).sum() - 2 * vp.alpha(1.0).log()).item())
    assert abs(errors[0]) < 0.1
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


def test_published_constants():
    assert VP().alpha(1.0).item() == pytest.approx(math.exp(-5.025), rel=1e-14)
    assert VE().sigma(0.0).item() == 0.01
    assert VE().sigma(0.5).item() == pytest.approx(math.sqrt(0.5), rel=1e-14)
    assert VE().sigma(1.0).item() == pytest.approx(50.0, rel=1e-14)
    assert (EDM().t_min, EDM().t_max) == (0.002, 80.0)
    assert VP() == VP.linear() == VP(LinearBeta(0.1, 20.0))
    assert VP.cosine(0.02) == VP(CosineBeta(0.02))


@every_family
def test_marginal_samples(diffusion):
    # z-scores of mean and variance in 3 coordinates at 2 times, 8 families: 96 at |z| < 5, false alarms 6e-5.
    n = 20_000
    x0 = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64).expand(n, 3)
    for t in times(diffusion, 4)[1:3]:
        x = diffusion.sample_marginal(x0, t, torch.Generator().manual_seed(1))
        z = (x - diffusion.alpha(t) * x0) / diffusion.sigma(t)
        assert (z.mean(0).abs() * math.sqrt(n) < 5).all()
        assert ((z.var(0) - 1).abs() * math.sqrt(n / 2) < 5).all()


@every_family
def test_marginal_takes_one_time_or_one_per_sample(diffusion):
    x0 = torch.arange(24.0).reshape(2, 3, 2, 2)
    t = times(diffusion, 4)[1:3]
    mean, std = diffusion.marginal(x0, t)
    assert mean.dtype == std.dtype == torch.float32
    assert std.shape == (2, 1, 1, 1)
    for i, u in enumerate(t.tolist()):
        single = diffusion.marginal(x0[i : i + 1], u)
        torch.testing.assert_close((mean[i : i + 1], std[i, 0, 0, 0]), single)


@every_family
def test_prior_is_the_noise_at_the_end(diffusion):
    std = diffusion.sigma(diffusion.t_max).item()
    x = diffusion.sample_prior((100, 200), torch.Generator().manual_seed(2), dtype=torch.float64) / std
    assert abs(x.mean().item()) * math.sqrt(x.numel()) < 5
    assert abs(x.var().item() - 1) * math.sqrt(x.numel() / 2) < 5
    drawn = diffusion.sample_prior(3, torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(drawn, std * torch.randn(3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    assert diffusion.sample_prior(3, torch.Generator()).dtype == torch.get_default_dtype()


def linear_moments(sde, mean, variance, span):
    """Mean and variance at the end of `span` of a scalar SDE with drift linear in y, by integrating their ODEs."""

    def rates(time, moments):
        at = torch.tensor([[moments[0]], [moments[0] + 1.0]], dtype=torch.float64)
        drift = sde.f(torch.tensor(time, dtype=torch.float64), at)
        noise = sde.g(torch.tensor(time, dtype=torch.float64), at)[0, 0] ** 2
        return [drift[0, 0].item(), (2 * (drift[1] - drift[0]) * moments[1] + noise).item()]

    solution = solve_ivp(rates, span, [mean, variance], method="LSODA", rtol=1e-9, atol=1e-12)
    assert solution.success
    return solution.y[:, -1]


@every_family
def test_forward_sde_has_the_marginals(diffusion):
    start, end = diffusion.t_min, diffusion.t_max
    (mean, std), (mean_end, std_end) = (diffusion.marginal(torch.tensor([[1.5]]).double(), t) for t in (start, end))
    got = linear_moments(ForwardDiffusion(diffusion), mean.item(), std.item() ** 2, (start, end))
    np.testing.assert_allclose(got, [mean_end.item(), std_end.item() ** 2], rtol=1e-6)


@pytest.mark.parametrize("diffusion", [VP(), SubVP(), VE()])
def test_torchsde_integrates_the_forward_sde(diffusion):
    # Against the exact moments of Euler's recursion, so that no bias enters: 12 z-scores, |z| < 5.
    n, steps = 5000, 50
    sde = ForwardDiffusion(diffusion)
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    y0 = torch.full((n, 2), 1.5, dtype=torch.float64)
    bm = torchsde.BrownianInterval(0.0, 1.0, (n, 2), dtype=torch.float64, entropy=3)
    y = torchsde.sdeint(sde, y0, grid[[0, -1]], bm=bm, method="euler", dt=1 / steps)[-1]
    mean, variance = 1.5, 0.0
    for t in grid[:-1]:
        growth = 1 + diffusion.drift_coefficient(t).item() / steps
        mean, variance = growth * mean, growth**2 * variance + diffusion.squared_diffusion(t).item() / steps
    assert ((y.mean(0) - mean).abs() * math.sqrt(n / variance) < 5).all()
    assert ((y.var(0) / variance - 1).abs() * math.sqrt(n / 2) < 5).all()


def gaussian_denoiser(diffusion, mean, variance):
    """E[x_0 | x_t] by Gaussian regression, for data N(mean, variance)."""

    def denoise(x, t):
        alpha, sigma = diffusion.alpha(t), diffusion.sigma(t)
        return mean + variance * alpha / (alpha**2 * variance + sigma**2) * (x - alpha * mean)

    return denoise


@every_family
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
def test_reverse_sde_has_the_marginals_for_every_eta(diffusion, eta):
    mean, variance = 0.7, 0.3
    sde = diffusion.reverse(gaussian_denoiser(diffusion, mean, variance), eta=eta)

    def exact(t):
        alpha, sigma = diffusion.alpha(t).item(), diffusion.sigma(t).item()
        return alpha * mean, alpha**2 * variance + sigma**2

    span = [sde.solver_time(t).item() for t in (diffusion.t_max, diffusion.t_min)]
    assert span[0] == 0
    got = linear_moments(sde, *exact(diffusion.t_max), span)
    np.testing.assert_allclose(got, exact(diffusion.t_min), rtol=1e-6)


@every_family
def test_reverse_sde_shapes_times_and_dtypes(diffusion):
    seen = []

    def denoise(x, t):
        seen.append((x.shape, t))
        return 0.5 * x

    sde = diffusion.reverse(denoise, shape=(3, 4, 5))
    assert (sde.dim, sde.noise_dim, sde.noise_structure, sde.noise_type) == (60, 60, "additive", "diagonal")
    s = torch.tensor(0.25 * diffusion.t_max, dtype=torch.float64)
    y = torch.randn(2, 60, generator=torch.Generator().manual_seed(4))
    drift, noise = sde.f(s, y), sde.g(s, y)
    assert seen == [((2, 3, 4, 5), sde.diffusion_time(s))]
    assert drift.shape == noise.shape == (2, 60)
    assert drift.dtype == noise.dtype == torch.float32
    torch.testing.assert_close(sde.solver_time(sde.diffusion_time(s)), s)
    flow = diffusion.reverse(denoise, 0.0, shape=(3, 4, 5))
    assert not flow.g(s, y).any()


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: LinearBeta(0.0, 1.0), ValueError, "beta_min"),
        (lambda: VP.linear(2.0, 1.0), ValueError, "beta_max"),
        (lambda: CosineBeta(0.0), ValueError, "offset"),
        (lambda: VP(0.1), TypeError, "schedule"),
        (lambda: VE(0.0, 1.0), ValueError, "sigma_min"),
        (lambda: EDM(2.0, 1.0), ValueError, "sigma_max"),
        (lambda: VP().alpha(-0.1), ValueError, r"t must be in \[0, inf\)"),
        (lambda: VP.cosine().sigma(torch.tensor([0.5, 1.0])), ValueError, r"\[0, 1\).*got 1.0"),
        (lambda: EDM().sigma(float("nan")), ValueError, "t must"),
        (lambda: EDM().sigma(torch.tensor(float("nan"))), ValueError, "t must"),
        (lambda: VP().snr("now"), TypeError, "t must"),
        (lambda: VP().snr(torch.tensor(1)), TypeError, "t must"),
        (lambda: VP().time(0.0), ValueError, "snr"),
        (lambda: VE().time(torch.tensor([1.0, -1.0])), ValueError, "snr"),
        (lambda: VP().marginal(torch.zeros(2, 3), torch.tensor([0.1, 0.2, 0.3])), ValueError, r"\(batch,\)"),
        (lambda: VP().marginal(torch.zeros(2, dtype=torch.int64), 0.1), TypeError, "x0"),
        (lambda: VP().sample_marginal(torch.zeros(2, 3), 0.1, 7), TypeError, "generator"),
        (lambda: VP().sample_prior((2,), None), TypeError, "generator"),
        (lambda: VP().reverse(None), TypeError, "denoiser"),
        (lambda: VP().reverse(lambda x, t: x, shape=(2, 0)), ValueError, "dim"),
        (lambda: VP().reverse(lambda x, t: x, eta=-1.0), ValueError, "eta"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
