"""Mixtures against quadrature, scipy and autograd; their reverse diffusions against the data law."""

import math

import numpy as np
import pytest
import torch
import torchsde
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

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
LOG_SNRS = [-20.0, -8.0, -2.0, 0.0, 1.5, 4.0, 8.0, 20.0]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS = tensor([0.2, 0.5, 0.3])
LINE = Mixture(WEIGHTS, tensor([[-1.0], [0.2], [2.0]]), tensor([0.09, 0.04, 0.3]))


def random_mixture(kind, dim):
    """Three components of unequal weights with covariances (3,), (3, dim) or (3, dim, dim)."""
    if kind == "full":
        factors = normal((3, dim, dim), 1)
        covariances = 0.2 * factors @ factors.mT + 0.05 * torch.eye(dim)
    else:
        covariances = 0.05 + normal((3, dim), 1) ** 2
        covariances = covariances[:, 0] if kind == "isotropic" else covariances
    return Mixture(WEIGHTS, normal((3, dim), 2), covariances)


every_kind = pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])


def full_covariances(law):
    covariances, eye = law.covariances, torch.eye(law.dim, dtype=torch.float64)
    if covariances.ndim == 1:
        return covariances[:, None, None] * eye
    return torch.diag_embed(covariances) if covariances.ndim == 2 else covariances


def y_draws(law, snr, n, seed):
    x0 = law.sample(n, torch.Generator().manual_seed(seed))
    return snr * x0 + math.sqrt(snr) * normal(x0.shape, seed + 1)


# --- the law itself --------------------------------------------------------------------------------------------------


@every_kind
def test_log_density_is_scipys_and_score_its_gradient(kind):
    law = random_mixture(kind, 3)
    x = 2 * normal((40, 3), 3)
    parts = zip(law.weights, law.means, full_covariances(law), strict=True)
    density = sum(w.item() * multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy()) for w, m, c in parts)
    np.testing.assert_allclose(law.log_density(x), np.log(density), rtol=1e-11)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_density(x).sum(), x)
    torch.testing.assert_close(law.score(x), gradient, rtol=1e-10, atol=1e-10)


@every_kind
def test_samples_have_the_laws_mean_covariance_and_density(kind):
    # 3 + 6 + 1 z-scores per kind, |z| < 5: false alarms 2e-5 in all. Standard errors of products are estimated.
    law, n = random_mixture(kind, 3), 40_000
    x = law.sample(n, torch.Generator().manual_seed(4))
    centred = x - law.mean()
    products = centred[:, :, None] * centred[:, None, :]
    assert ((centred.mean(0) / centred.std(0)).abs() * math.sqrt(n) < 5).all()
    assert (((products.mean(0) - law.covariance()) / products.std(0)).abs() * math.sqrt(n) < 5).all()
    # E[h(x)] from the samples and from importance sampling under a wide Gaussian, with h a bounded nonlinear function.
    wide = Mixture(tensor([1.0]), law.mean()[None], 2.0 * law.covariance()[None])
    z = wide.sample(n, torch.Generator().manual_seed(5))
    ratio = (law.log_density(z) - wide.log_density(z)).exp() * torch.sin(2 * z).prod(-1)
    plain = torch.sin(2 * x).prod(-1)
    assert abs(plain.mean() - ratio.mean()) < 5 * math.sqrt((plain.var() + ratio.var()) / n)


def test_circle():
    law = Mixture.circle(1.5, 0.1, dtype=torch.float64)
    angles = torch.atan2(law.means[:, 1], law.means[:, 0]) % (2 * math.pi)
    torch.testing.assert_close(angles, torch.arange(8, dtype=torch.float64) * math.pi / 4)
    torch.testing.assert_close(law.means.norm(dim=-1), torch.full((8,), 1.5, dtype=torch.float64))
    torch.testing.assert_close(law.mean(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(law.covariance(), (1.5**2 / 2 + 0.01) * torch.eye(2, dtype=torch.float64))
    assert Mixture.circle(1.0, 0.3).means.dtype == torch.get_default_dtype()
    three = Mixture.circle(1.0, 0.3, modes=3, dtype=torch.float64)
    assert three.means.shape == (3, 2)
    assert three.weights.tolist() == [1 / 3] * 3
    assert three.covariances.tolist() == [0.3**2]


@pytest.mark.parametrize("dim", [2, 5, 3072])
def test_embedding_is_the_plane_mixture_times_a_gaussian(dim):
    plane = Mixture.circle(1.0, 0.3, dtype=torch.float64)
    law = plane.embed(dim, torch.Generator().manual_seed(6))
    torch.testing.assert_close(law.means @ law.means.mT, plane.means @ plane.means.mT)
    isometry = torch.linalg.lstsq(plane.means, law.means).solution.mT  # (dim, 2)
    torch.testing.assert_close(isometry.mT @ isometry, torch.eye(2, dtype=torch.float64))
    for log_snr in LOG_SNRS:
        snr = math.exp(log_snr)
        y = y_draws(law, snr, 6, 7)
        in_plane = y @ isometry
        expected = plane.denoise_y(in_plane, snr) @ isometry.mT
        expected += 0.09 / (1 + 0.09 * snr) * (y - in_plane @ isometry.mT)
        torch.testing.assert_close(law.denoise_y(y, snr), expected, rtol=1e-8, atol=1e-10)


def test_embeddings_are_uniform_and_seeded():
    # The image of e_1 is uniform on the sphere of R^3: coordinates of mean 0 and variance 1/3 (fourth moment 1/5).
    law, generator, n = Mixture(tensor([1.0]), tensor([[1.0, 0.0]]), 0.0), torch.Generator().manual_seed(8), 2000
    images = torch.cat([law.embed(3, generator).means for _ in range(n)])
    assert (images.mean(0).abs() * math.sqrt(3 * n) < 5).all()
    assert (((images**2).mean(0) - 1 / 3).abs() * math.sqrt(n / (1 / 5 - 1 / 9)) < 5).all()
    torch.testing.assert_close(*(law.embed(3, torch.Generator().manual_seed(1)).means for _ in range(2)))


# --- the denoiser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_snr", LOG_SNRS)
def test_denoiser_is_the_posterior_mean_by_quadrature_in_one_dimension(log_snr):
    snr = math.exp(log_snr)
    for y in y_draws(LINE, snr, 5, 9):
        half_width = 12 * min(
            2.0, 1 / math.sqrt(snr)
        )  # of the likelihood exp(-(snr x_0 - y)^2 / (2 snr)), or the prior
        centre = (y / snr).clamp(-25, 25)
        x0 = centre + torch.linspace(-half_width, half_width, 40_001, dtype=torch.float64)
        x0 = x0 if half_width < 20 else torch.linspace(-30, 30, 40_001, dtype=torch.float64)
        posterior = (LINE.log_density(x0[:, None]) - (snr * x0 - y) ** 2 / (2 * snr)).softmax(0)
        torch.testing.assert_close(LINE.denoise_y(y[None], snr)[0, 0], (posterior * x0).sum(), rtol=1e-9, atol=1e-9)


@every_kind
@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 2.0])
def test_denoiser_is_the_posterior_mean_by_quadrature_in_two_dimensions(kind, log_snr):
    law, snr = random_mixture(kind, 2), math.exp(log_snr)
    axis = torch.linspace(-12, 12, 701, dtype=torch.float64)
    x0 = torch.cartesian_prod(axis, axis)
    log_density = law.log_density(x0)
    for y in y_draws(law, snr, 3, 11):
        posterior = (log_density - ((snr * x0 - y) ** 2).sum(-1) / (2 * snr)).softmax(0)
        torch.testing.assert_close(law.denoise_y(y[None], snr)[0], posterior @ x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shared", [False, True])
def test_covariance_forms_agree(shared):
    variances = tensor([0.3]) if shared else tensor([0.3, 0.02, 1.1])
    means, k = normal((3, 4), 13), len(variances)
    basis, _ = torch.linalg.qr(normal((k, 4, 4), 14))
    full = basis @ (variances[:, None, None] * torch.eye(4, dtype=torch.float64)) @ basis.mT
    laws = [Mixture(WEIGHTS, means, c) for c in (variances, variances[:, None].expand(k, 4), (full + full.mT) / 2)]
    for log_snr in LOG_SNRS:
        snr = math.exp(log_snr)
        y = y_draws(laws[0], snr, 20, 15)
        for law in laws[1:]:
            torch.testing.assert_close(law.denoise_y(y, snr), laws[0].denoise_y(y, snr), rtol=1e-8, atol=1e-10)
            torch.testing.assert_close(law.score(y), laws[0].score(y), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(law.covariance(), laws[0].covariance())


@every_kind
def test_denoiser_with_one_snr_per_sample(kind):
    law = random_mixture(kind, 3)
    snr = tensor(LOG_SNRS).exp()
    y = normal((len(snr), 3), 16) * (snr + snr.sqrt())[:, None]
    one_by_one = torch.cat([law.denoise_y(y[i : i + 1], snr[i]) for i in range(len(snr))])
    torch.testing.assert_close(law.denoise_y(y, snr), one_by_one)


@every_kind
def test_denoiser_at_the_ends_of_the_log_snr_range(kind):
    law = random_mixture(kind, 3)
    low, high = math.exp(-20), math.exp(20)
    y = y_draws(law, low, 50, 17)
    first_order = law.mean() + (y - low * law.mean()) @ law.covariance()  # relative to |y| = 4.5e-5, next order |y|^2
    torch.testing.assert_close(law.denoise_y(y, low), first_order, rtol=0, atol=1e-7)
    x0 = law.sample(50, torch.Generator().manual_seed(18))
    y = high * x0 + math.sqrt(high) * normal(x0.shape, 19)
    torch.testing.assert_close(law.denoise_y(y, high), y / high, rtol=0, atol=1e-7)  # prior's pull |score|/snr
    far = 1e6 * normal((20, 3), 20)
    for snr in (low, 1.0, high):
        assert law.denoise_y(far * snr, snr).isfinite().all()


def test_single_precision_denoiser():
    law, exact = (Mixture.circle(1.0, 0.3, dtype=d) for d in (torch.float32, torch.float64))
    snr = torch.linspace(-8, 8, 200).exp()
    y = snr[:, None] * law.sample(200, torch.Generator().manual_seed(21)) + snr.sqrt()[:, None] * normal(2, 22).float()
    got = law.denoise_y(y, snr)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact.denoise_y(y.double(), snr.double()), rtol=0, atol=2e-4)


def test_point_masses_are_the_empirical_denoiser():
    points = normal((5, 3), 23)
    law, snr = Mixture(torch.ones(5), points, 0.0), 2.0
    y = y_draws(law, snr, 10, 24)
    weights = (-((y[:, None] - snr * points) ** 2).sum(-1) / (2 * snr)).softmax(-1)
    torch.testing.assert_close(law.denoise_y(y, snr), weights @ points)
    with pytest.raises(ValueError, match="positive definite"):
        law.log_density(y)


# --- the reverse diffusion -------------------------------------------------------------------------------------------


@every_family
@every_kind
def test_tweedie(diffusion, kind):
    """D(x, t) = (x + sigma^2 grad log p_t(x)) / alpha, with p_t the marginal mixture."""
    law = random_mixture(kind, 3)
    for log_snr in (-6.0, 0.0, 6.0):
        t = diffusion.time(math.exp(log_snr))
        alpha, sigma = diffusion.alpha(t), diffusion.sigma(t)
        x = diffusion.sample_marginal(law.sample(10, torch.Generator().manual_seed(25)), t, torch.Generator())
        tweedie = (x + sigma**2 * law.marginal(diffusion, t).score(x)) / alpha
        torch.testing.assert_close(law.denoiser(diffusion)(x, t), tweedie, rtol=1e-9, atol=1e-9)


@every_family
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.4])
def test_reverse_sde_satisfies_the_fokker_planck_equation(diffusion, eta):
    """d_s log p = -b' - b (log p)' + eta^2 g^2/2 ((log p)'' + (log p)'^2), with p the exact marginal, pointwise."""
    sde = diffusion.reverse(LINE.denoiser(diffusion), eta)
    for log_snr in (-4.0, 0.0, 2.0, 5.0):
        t = diffusion.time(math.exp(log_snr))
        x = LINE.marginal(diffusion, t).sample(20, torch.Generator().manual_seed(26)).requires_grad_()
        h = 1e-5 * t
        ahead, behind = (LINE.marginal(diffusion, u).log_density(x) for u in (t - h, t + h))
        drift, g2 = sde.f(sde.solver_time(t), x), sde.g(sde.solver_time(t), x) ** 2
        (divergence,) = torch.autograd.grad(drift.sum(), x)
        (score,) = torch.autograd.grad(LINE.marginal(diffusion, t).log_density(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(score.sum(), x)
        terms = torch.stack([divergence, drift * score, -g2 / 2 * curvature, -g2 / 2 * score**2], -1)[:, 0]
        left = (ahead - behind) / (2 * h)
        scale = terms.abs().amax(-1).maximum(left.abs())
        assert ((left + terms.sum(-1)).abs() < 1e-6 * scale).all()


@every_family
def test_probability_flow_of_gaussian_data_is_the_exact_affine_map(diffusion):
    mean, variances = tensor([0.7, -1.0]), tensor([0.09, 2.0])
    law = Mixture(tensor([1.0]), mean[None], variances[None])
    sde = diffusion.reverse(law.denoiser(diffusion), 0.0)
    start, end = (law.marginal(diffusion, t) for t in (diffusion.t_max, diffusion.t_min))
    x = tensor([[1.0, -2.0]]) * start.covariances.sqrt() + start.mean()

    def rates(s, y):
        return sde.f(tensor(s), tensor(y)[None])[0].numpy()

    span = [sde.solver_time(t).item() for t in (diffusion.t_max, diffusion.t_min)]
    got = solve_ivp(rates, span, x[0].numpy(), method="LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    exact = end.mean() + (end.covariances / start.covariances).sqrt() * (x - start.mean())
    np.testing.assert_allclose(got, exact[0], rtol=1e-6)


def log_snr_grid(sde, steps):
    """Solver times from t_max to t_min, uniform in log-SNR, in float64."""
    diffusion = sde.diffusion
    ends = [diffusion.log_snr(t).item() for t in (diffusion.t_max, diffusion.t_min)]
    return sde.solver_time(diffusion.time(torch.linspace(*ends, steps + 1, dtype=torch.float64).exp()))


def integrate(sde, y, grid, method, entropy):
    """torchsde.sdeint with one step per interval of the grid, on one Brownian path."""
    area = "space-time" if method == "srk" else "none"
    bm = torchsde.BrownianInterval(
        grid[0], grid[-1], y.shape, dtype=y.dtype, entropy=entropy, levy_area_approximation=area
    )
    with torch.no_grad():
        for step in grid.unfold(0, 2, 1):
            dt = 2 * (step[1] - step[0]).item()  # more than the step, so that torchsde makes exactly one
            y = torchsde.sdeint(sde, y, step, bm=bm, method=method, dt=dt)[-1]
    return y


@every_family
@pytest.mark.parametrize("eta, method, steps", [(1.0, "euler", 200), (0.0, "srk", 40)])
def test_torchsde_turns_noise_into_data(diffusion, eta, method, steps):
    """Mean and covariance at t_min, starting from exact draws at t_max.

    Tolerance: 5 standard errors plus .03 for the bias of the scheme, which was below .015 in every case at n = 40,000.
    """
    n, generator = 4000, torch.Generator().manual_seed(27)
    law = Mixture(WEIGHTS, tensor([[1.0, 0.0], [-0.5, 1.0], [0.0, -1.5]]), tensor([0.09, 0.04, 0.16]))
    sde = diffusion.reverse(law.denoiser(diffusion), eta=eta)
    y = diffusion.sample_marginal(law.sample(n, generator), diffusion.t_max, generator)
    y = integrate(sde, y, log_snr_grid(sde, steps), method, entropy=28)
    target = law.marginal(diffusion, diffusion.t_min)
    products = (y - target.mean())[:, :, None] * (y - target.mean())[:, None, :]
    assert ((y.mean(0) - target.mean()).abs() < 5 * y.std(0) / math.sqrt(n) + 0.03).all()
    assert ((products.mean(0) - target.covariance()).abs() < 5 * products.std(0) / math.sqrt(n) + 0.03).all()


@every_family
def test_single_precision_states_follow_double_precision_ones(diffusion):
    ends = []
    for dtype in (torch.float32, torch.float64):
        law = Mixture.circle(1.0, 0.3, dtype=dtype)
        sde = diffusion.reverse(law.denoiser(diffusion), 0.0)
        y = diffusion.sample_prior((50, 2), torch.Generator().manual_seed(29), dtype=torch.float64).to(dtype)
        ends.append(integrate(sde, y, log_snr_grid(sde, 50), "euler", entropy=30))
        assert ends[-1].dtype == dtype
    assert (ends[0].double() - ends[1]).square().mean().sqrt() < 1e-5


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: Mixture(tensor([1.0]), tensor([0.0, 1.0]), 1.0), ValueError, r"means must have shape \(k, d\)"),
        (lambda: Mixture(tensor([1.0]), torch.zeros(1, 2, dtype=torch.int64), 1.0), TypeError, "means"),
        (lambda: Mixture(tensor([1.0, 1.0]), tensor([[0.0]]), 1.0), ValueError, r"weights must have shape \(1,\)"),
        (lambda: Mixture(tensor([0.0]), tensor([[0.0]]), 1.0), ValueError, "weights"),
        (lambda: Mixture(tensor([1.0]), tensor([[0.0]]), -1.0), ValueError, "covariances"),
        (lambda: Mixture(tensor([1.0]), tensor([[0.0, 1.0]]), tensor([1.0, 2.0])), ValueError, "covariances.*shapes"),
        (lambda: Mixture(tensor([1.0]), tensor([[0.0, 1.0]]), tensor([[1.0, -2.0]])), ValueError, "semi-definite"),
        (lambda: Mixture(tensor([1.0]), tensor([[0.0, 1.0]]), tensor([[[1, 2.0], [2, 1]]])), ValueError, "semi-def"),
        (lambda: Mixture(tensor([1.0]), tensor([[0.0, 1.0]]), tensor([[[1, 0.5], [0, 1]]])), ValueError, "symmetric"),
        (lambda: Mixture.circle(-1.0, 0.3), ValueError, "radius"),
        (lambda: Mixture.circle(1.0, -0.3), ValueError, "std"),
        (lambda: Mixture.circle(1.0, 0.3, modes=0), ValueError, "modes"),
        (lambda: Mixture.circle(1.0, 0.3).embed(1, torch.Generator()), ValueError, "dim"),
        (lambda: Mixture.circle(1.0, 0.3).embed(3, None), TypeError, "generator"),
        (lambda: random_mixture("diagonal", 2).embed(3, torch.Generator()), ValueError, "isotropic"),
        (lambda: LINE.sample(0, torch.Generator()), ValueError, "n must"),
        (lambda: LINE.sample(3, 7), TypeError, "generator"),
        (lambda: LINE.denoise_y(torch.zeros(3, 2), 1.0), ValueError, r"y must have shape \(batch, 1\)"),
        (lambda: LINE.denoise_y(torch.zeros(3, 1), 0.0), ValueError, "snr"),
        (lambda: LINE.score(torch.zeros(3)), ValueError, "x must"),
        (lambda: LINE.marginal(VP(), torch.tensor([0.1, 0.2])), TypeError, "t must"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
