"""Every oracle of the toy problems against an independent one.

Solutions: Ito's formula by automatic differentiation, and strong convergence of a scheme that does not know them.
Moments: the moment equation integrated from f and g themselves, and simulation. All z-scores (fewer than 200) use
|z| < 5: false-alarm rate about 1e-4 for the whole file; slopes have 99.99 % intervals. Seeds are fixed.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch
import torchsde
from fixed_step import coarsen, euler_maruyama, heun, increments, solve, strong_slope, z_scores
from torch import Tensor

from sdesig.sde.base import NOISE_STRUCTURES
from sdesig.sde.calculus import ito_correction, to_ito, to_stratonovich
from sdesig.sde.problems import (
    PROBLEMS,
    CommutativeLinearSDE,
    DoubleWell,
    FadingNoise,
    GeometricBrownianMotion,
    HasExactMoments,
    HasExactSolution,
    HeisenbergGroup,
    Heston,
    KuboOscillator,
    LinearSDE,
    OrnsteinUhlenbeck,
    SinhDiffusion,
    StochasticLorenz,
    TanhDiffusion,
)

# torch's own, at the first forward-mode derivative.

jacobian = torch.autograd.functional.jacobian
WITH_SOLUTION = [p for p in PROBLEMS if isinstance(p(), HasExactSolution)]
WITH_MOMENTS = [p for p in PROBLEMS if isinstance(p(), HasExactMoments)]
BUILDERS = {problem.__name__: problem for problem in PROBLEMS} | {
    "OrnsteinUhlenbeck1d": lambda: OrnsteinUhlenbeck(1.5, 0.2, 0.6),
    "OrnsteinUhlenbeck3x2": lambda: OrnsteinUhlenbeck(
        [[1.0, 0.3, 0.0], [-0.3, 0.2, 0.0], [0.5, 0.0, -0.4]], [0.1, 0.2, 0.3], [[0.5, 0.0], [0.1, 0.4], [0.0, 0.7]]
    ),
    "GeometricBrownianMotion1d": lambda: GeometricBrownianMotion(0.3, 0.6),
    "LinearSDE3x1": lambda: LinearSDE(
        [[-1.0, 0.2, 0.0], [0.0, -0.3, 0.5], [0.1, 0.0, 0.4]],
        [[[0.1, 0.3, 0.0], [0.0, -0.2, 0.4], [0.5, 0.0, 0.2]]],
    ),
    "SinhDiffusion1d": lambda: SinhDiffusion(0.5, dim=1),
}
SOLUTIONS = [name for name, build in BUILDERS.items() if isinstance(build(), HasExactSolution)]
MOMENTS = [name for name, build in BUILDERS.items() if isinstance(build(), HasExactMoments)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(problem) -> Tensor:
    return problem.y0(1, torch.float64)[0]


# --- the table ---------------------------------------------------------------------------------------------------


def test_every_noise_structure_has_problems_and_the_oracles_are_those_of_the_table():
    assert {problem().noise_structure for problem in PROBLEMS} == set(NOISE_STRUCTURES)
    assert set(WITH_SOLUTION) == {
        FadingNoise,
        TanhDiffusion,
        KuboOscillator,
        GeometricBrownianMotion,
        SinhDiffusion,
        CommutativeLinearSDE,
    }
    assert set(PROBLEMS) - set(WITH_MOMENTS) == {DoubleWell, TanhDiffusion, StochasticLorenz}


@pytest.mark.parametrize("name", BUILDERS)
def test_shapes_and_dtypes(name):
    problem = BUILDERS[name]()
    for dtype in (torch.float32, torch.float64):
        y = problem.y0(5, dtype)
        w = torch.zeros(5, problem.noise_dim, dtype=dtype)
        values = [(y, (5, problem.dim)), (problem.f(0.5, y), (5, problem.dim))]
        values.append((problem.diffusion_matrix(0.5, y), (5, problem.dim, problem.noise_dim)))
        if isinstance(problem, HasExactSolution):
            values.append((problem.exact(0.5, w, y), (5, problem.dim)))
        if isinstance(problem, HasExactMoments):
            values.append((problem.mean(0.5, y), (5, problem.dim)))
            values.append((problem.covariance(0.5, y), (5, problem.dim, problem.dim)))
        for value, shape in values:
            assert value.dtype == dtype
            assert value.shape == shape


@pytest.mark.parametrize("name", BUILDERS)
def test_noise_structure_is_what_the_diffusion_does(name):
    """Lie brackets (dg_j/dy) g_i - (dg_i/dy) g_j of the columns vanish, except for "general"; dg/dy for "additive"."""
    problem = BUILDERS[name]()
    y = start(problem) + 0.05 * normal(problem.dim)
    g = problem.diffusion_matrix(0.4, y[None])[0]
    derivative = jacobian(lambda state: problem.diffusion_matrix(0.4, state[None])[0], y)  # (dim, noise, dim)
    along = torch.einsum("djk,ki->ijd", derivative, g)
    bracket = (along - along.transpose(0, 1)).abs().max()
    if problem.noise_structure == "general" and problem.noise_dim > 1:
        assert bracket > 0.02
    else:
        assert bracket < 1e-12
    assert (derivative.abs().max() < 1e-12) == (problem.noise_structure == "additive")
    if problem.noise_structure in ("scalar", "diagonal"):
        assert problem.noise_type == problem.noise_structure
    if problem.noise_type == "diagonal":
        assert torch.equal(g, torch.diag(g.diagonal()))
        off_diagonal = torch.einsum("iik->ik", derivative) - torch.diag(torch.einsum("iii->i", derivative))
        assert off_diagonal.abs().max() == 0
    if problem.noise_structure == "commutative":
        assert g.abs().min() > 0.02  # not diagonal in disguise


# --- solutions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLUTIONS)
def test_solution_satisfies_itos_formula(name):
    """Y = phi(t, W) solves dY = f dt + g o dW iff dphi/dt = f_Stratonovich(phi), dphi/dw_j = g_j(phi)."""
    problem = BUILDERS[name]()
    y0 = start(problem)
    assert torch.allclose(problem.exact(0.0, torch.zeros(problem.noise_dim).double(), y0), y0, rtol=0, atol=1e-15)
    stratonovich = to_stratonovich(problem)
    for seed in range(5):
        t, w = torch.tensor(0.2 + 0.3 * seed, dtype=torch.float64), normal(problem.noise_dim, seed=seed)
        by_t, by_w = jacobian(lambda t, w: problem.exact(t, w, y0), (t, w))
        y = problem.exact(t, w, y0)[None]
        torch.testing.assert_close(by_t, stratonovich.f(t, y)[0], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(by_w, problem.diffusion_matrix(t, y)[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_heun_converges_to_the_solution_with_strong_order_one(name):
    """Heun on the Stratonovich form; on the drift of the other calculus it converges to something else (control)."""
    problem = BUILDERS[name]()
    stratonovich, steps = to_stratonovich(problem), [16, 32, 64, 128]
    dw = increments(8000, steps[-1], problem.noise_dim, 1.0, seed=5)
    y0 = problem.y0(8000, torch.float64)
    exact = problem.exact(1.0, dw.sum(0), y0)
    errors = [solve(heun, stratonovich, y0, 1.0, coarsen(dw, steps[-1] // n)) - exact for n in steps]
    slope, half_width = strong_slope(steps, torch.stack(errors))
    assert half_width < 0.1
    assert slope - half_width > 0.85
    if problem.noise_structure != "additive":
        wrong = problem if problem.sde_type == "ito" else to_ito(problem)
        wrong_error = solve(heun, wrong, y0, 1.0, dw) - exact
        assert wrong_error.square().mean() > 100 * errors[-1].square().mean()


def test_stratonovich_drifts_are_those_derived_by_hand():
    y = 0.3 + normal(4, 2).abs()
    linear = LinearSDE()
    a = linear.drift - (linear.noise @ linear.noise).sum(0) / 2
    heston = Heston()
    cases = [
        (linear, y @ a.mT),
        (SinhDiffusion(), torch.zeros_like(y)),
        (heston, heston.f(0.0, y) - heston.xi / 4 * torch.tensor([heston.rho, heston.xi], dtype=torch.float64)),
    ]
    for problem, drift in cases:
        torch.testing.assert_close(to_stratonovich(problem).f(0.0, y), drift, rtol=1e-13, atol=1e-14)
    kubo = KuboOscillator(omega=2.0, sigma=0.7)
    drift = 2.0 * torch.stack([-y[:, 1], y[:, 0]], -1) - 0.49 / 2 * y
    torch.testing.assert_close(to_ito(kubo).f(0.0, y), drift, rtol=1e-13, atol=1e-14)
    assert not ito_correction(HeisenbergGroup(), 0.0, normal(4, 3)).any()


# --- moments -----------------------------------------------------------------------------------------------------


def moments_from_coefficients(problem, t1, y0):
    """Mean and covariance at t1 from f and g alone, for f affine and g g^T quadratic in y.

    m' = f(m), C' = F C + C F^T + E[g g^T], E[g g^T] = (g g^T)(m) + 1/2 sum_kl C_kl d^2 (g g^T) / dy_k dy_l.
    """
    d = problem.dim
    ito = to_ito(problem)

    def squared(t, y):
        g = ito.g(t, y[None])[0]
        g = torch.diag_embed(g) if ito.noise_type == "diagonal" else g
        return g @ g.mT

    def second_derivative(t, y):
        return jacobian(lambda x: jacobian(lambda z: squared(t, z), x, create_graph=True), y)

    def slope(t, state):
        state = torch.from_numpy(state)
        mean, covariance = state[:d], state[d:].reshape(d, d)
        matrix = jacobian(lambda y: ito.f(t, y[None])[0], mean)
        noise = squared(t, mean) + torch.einsum("ijkl,kl->ij", second_derivative(t, mean), covariance) / 2
        change = matrix @ covariance + covariance @ matrix.mT + noise
        return torch.cat([ito.f(t, mean[None])[0], change.flatten()]).numpy()

    initial = np.concatenate([y0.numpy(), np.zeros(d * d)])
    end = torch.from_numpy(
        scipy.integrate.solve_ivp(slope, (0.0, t1), initial, "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    )
    return end[:d], end[d:].reshape(d, d)


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_solve_the_moment_equation(name):
    problem = BUILDERS[name]()
    y0 = start(problem) + 0.1 * normal(problem.dim).abs()
    mean, covariance = moments_from_coefficients(problem, 0.8, y0)
    assert covariance.abs().max() > 0.01
    torch.testing.assert_close(problem.mean(0.8, y0), mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(problem.covariance(0.8, y0), covariance, rtol=1e-8, atol=1e-9)
    zero = problem.covariance(0.0, y0)
    assert torch.allclose(zero, torch.zeros_like(zero), atol=1e-14)


def simulated_moment_scores(problem, t1, seed):
    """z-scores of mean and centred second moments: Euler-Maruyama at two step sizes, extrapolated to order 2."""
    dw = increments(20_000, 64, problem.noise_dim, t1, seed)
    y0 = problem.y0(20_000, torch.float64)
    fine, coarse = (solve(euler_maruyama, to_ito(problem), y0, t1, coarsen(dw, factor)) for factor in (1, 2))
    mean, covariance = problem.mean(t1, y0[0]), problem.covariance(t1, y0[0])

    def squares(y):
        return torch.einsum("bi,bj->bij", y - mean, y - mean).flatten(1)

    return torch.cat(
        [z_scores(2 * fine - coarse, mean), z_scores(2 * squares(fine) - squares(coarse), covariance.flatten())]
    )


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_match_simulation(name):
    """Bias O(h^2) with h = 1/64 is far below the standard error."""
    z = simulated_moment_scores(BUILDERS[name](), 1.0, seed=3)
    assert z.abs().max() < 5


@pytest.mark.parametrize("name", [name for name in SOLUTIONS if name in MOMENTS])
def test_moments_match_the_solution(name):
    problem = BUILDERS[name]()
    w = math.sqrt(0.5) * normal(200_000, problem.noise_dim, seed=4)
    y0 = problem.y0(200_000, torch.float64)
    y = problem.exact(0.5, w, y0)
    mean, covariance = problem.mean(0.5, y0[0]), problem.covariance(0.5, y0[0])
    squares = torch.einsum("bi,bj->bij", y - mean, y - mean)
    z = torch.cat([z_scores(y, mean), z_scores(squares, covariance).flatten()])
    assert z.abs().max() < 5
    # The test sees an error of 3 % in the standard deviation.
    assert z_scores(squares, 1.06 * covariance).abs().max() > 5


# --- Ornstein-Uhlenbeck given Legendre coefficients -----------------------------------------------------------------


def test_ornstein_uhlenbeck_loadings_are_those_of_quadrature():
    """d conditional_mean / d xi_k = int_0^t e^{-K(t-s)} S phi_k(s) ds by scipy, with scipy's Legendre polynomials."""
    problem, t, depth = BUILDERS["OrnsteinUhlenbeck3x2"](), 1.7, 5
    y0 = start(problem)
    loadings = jacobian(lambda xi: problem.conditional_mean(t, xi, y0), normal(depth, 2))  # (3, depth, 2)
    for k in range(depth):

        def integrand(s, k=k):
            phi = math.sqrt((2 * k + 1) / t) * scipy.special.eval_legendre(k, 2 * s / t - 1)
            return phi * (scipy.linalg.expm(-(t - s) * problem.rate.numpy()) @ problem.volatility.numpy())

        expected = torch.from_numpy(scipy.integrate.quad_vec(integrand, 0, t, epsabs=1e-13)[0])
        torch.testing.assert_close(loadings[:, k], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["OrnsteinUhlenbeck", "OrnsteinUhlenbeck1d", "OrnsteinUhlenbeck3x2"])
def test_ornstein_uhlenbeck_conditional_law_is_complete(name):
    """Parseval: the residual covariance decreases to zero with the depth, and mean + residual give the whole law."""
    problem = BUILDERS[name]()
    y0 = start(problem)
    traces = [problem.conditional_covariance(1.0, depth, y0).trace().item() for depth in (1, 2, 3, 4, 12)]
    assert all(shallow > 10 * deep for shallow, deep in pairwise(traces))
    assert abs(traces[-1]) < 1e-14
    deepest = jacobian(lambda xi: problem.conditional_mean(1.0, xi, y0), normal(12, problem.noise_dim))
    covariance = torch.einsum("dkm,ekm->de", deepest, deepest)
    torch.testing.assert_close(covariance, problem.covariance(1.0, y0), rtol=1e-12, atol=1e-14)


def test_ornstein_uhlenbeck_conditional_mean_follows_the_path():
    """Fine Euler-Maruyama paths and their own coefficients: the residual has the predicted covariance."""
    problem, t, n, paths = OrnsteinUhlenbeck(), 1.0, 512, 20_000
    y0 = problem.y0(paths, torch.float64)
    dw = increments(paths, n, 2, t, seed=6)
    end = solve(euler_maruyama, problem, y0, t, dw)
    middle = (np.arange(n) + 0.5) / n
    phi = np.stack([math.sqrt(2 * k + 1) * scipy.special.eval_legendre(k, 2 * middle - 1) for k in range(3)])
    xi = torch.einsum("kn,npm->kpm", torch.from_numpy(phi), dw)
    for depth in (1, 2):
        residual = end - problem.conditional_mean(t, xi[:depth], y0)
        squares = torch.einsum("bi,bj->bij", residual, residual)
        z = z_scores(squares, problem.conditional_covariance(t, depth, y0[0]))
        assert z.abs().max() < 5
    # Control: the path run backwards in time has the same law but is not followed.
    reversed_order = xi * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)[:, None, None]
    residual, wrong = ((end - problem.conditional_mean(t, x, y0)).square().mean().sqrt() for x in (xi, reversed_order))
    assert wrong > 20 * residual


# --- non-commutative noise -----------------------------------------------------------------------------------------


def path_areas(dw: Tensor, factor: int) -> Tensor:
    """Levy areas over `factor` steps each of the piecewise linear path with increments dw, by Chen's relation."""
    steps = dw.unflatten(0, (-1, factor))
    before = steps.cumsum(1) - steps
    products = torch.einsum("nfbi,nfbj->nbij", before, steps)
    return (products - products.mT) / 2


def log_ode_errors(problem, steps, leaves, use_area):
    """Log-ODE with the increments and areas of a piecewise linear path, against the exact solution along that path."""
    dw = increments(2000, leaves, problem.noise_dim, 1.0, seed=8)
    y0 = problem.y0(2000, torch.float64)
    no_area = torch.zeros(2000, problem.noise_dim, problem.noise_dim, dtype=torch.float64)
    exact = y0
    stratonovich, basis = to_stratonovich(problem), torch.eye(problem.dim, dtype=torch.float64)
    drift, noise = stratonovich.f(0.0, basis).mT, stratonovich.g(0.0, basis).permute(2, 1, 0)
    for dw_n in dw:
        exponent = drift / leaves + torch.tensordot(dw_n, noise, 1)
        exact = (torch.linalg.matrix_exp(exponent) @ exact.unsqueeze(-1)).squeeze(-1)
    errors = []
    for n in steps:
        areas = path_areas(dw, leaves // n)
        y = y0
        for w, area in zip(coarsen(dw, leaves // n), areas, strict=True):
            y = problem.log_ode(1.0 / n, w, use_area * area + (1 - abs(use_area)) * no_area, y)
        errors.append(y - exact)
    return torch.stack(errors)


def test_log_ode_has_strong_order_one_with_areas_and_one_half_without():
    steps, leaves = [4, 8, 16, 32], 512
    slopes = {area: strong_slope(steps, log_ode_errors(LinearSDE(), steps, leaves, area)) for area in (1, 0, -1)}
    slope, half_width = slopes[1]
    assert half_width < 0.1
    assert slope - half_width > 0.85
    for control in (0, -1):
        slope, half_width = slopes[control]
        assert slope + half_width < 0.7


def test_log_ode_is_exact_in_one_step_for_a_nilpotent_algebra():
    """B_1 = E_12, B_2 = E_23 (step 2): one step is the composition of many, and the product is the closed form."""
    shift = torch.zeros(2, 3, 3, dtype=torch.float64)
    shift[0, 0, 1] = shift[1, 1, 2] = 1.0
    problem = LinearSDE(torch.zeros(3, 3), shift)
    errors = log_ode_errors(problem, [1], 64, 1)
    assert errors.abs().max() < 1e-12
    assert log_ode_errors(problem, [1], 64, 0).abs().max() > 0.1
    # dY_1 = Y_2 dW^1, dY_2 = Y_3 dW^2: Y_1 = y_1 + y_2 W^1 + y_3 (W^1 W^2 / 2 + A_21), J_(2,1) = int W^2 o dW^1.
    w, y0 = normal(2), normal(3, seed=1)
    area = torch.tensor([[0.0, 0.4], [-0.4, 0.0]], dtype=torch.float64)
    first = y0[0] + y0[1] * w[0] + y0[2] * (w[0] * w[1] / 2 - 0.4)
    expected = torch.stack([first, y0[1] + y0[2] * w[1], y0[2]])
    torch.testing.assert_close(problem.log_ode(0.7, w, area, y0), expected, rtol=1e-13, atol=1e-14)


def test_log_ode_of_commuting_noise_is_the_exact_solution_whatever_the_area():
    problem = CommutativeLinearSDE()
    w, y0, m = normal(6, 2), normal(6, 3), normal(6, 2, 2)
    torch.testing.assert_close(problem.log_ode(0.9, w, m - m.mT, y0), problem.exact(0.9, w, y0), rtol=1e-12, atol=0)


def test_heisenberg_solution_satisfies_the_equation():
    """Y = phi(W, A_12) with dA_12 = (W^1 o dW^2 - W^2 o dW^1)/2: d phi along each noise is the column of g."""
    problem = HeisenbergGroup()
    y0, w = start(problem), normal(2)

    def phi(w, a12):
        area = torch.stack([torch.stack([0 * a12, a12]), torch.stack([-a12, 0 * a12])])
        return problem.exact_from_area(1.0, w, area, y0)

    a12 = torch.tensor(0.37, dtype=torch.float64)
    by_w, by_area = jacobian(phi, (w, a12))
    along = by_w + by_area[:, None] * torch.stack([-w[1], w[0]]) / 2
    torch.testing.assert_close(along, problem.g(0.0, phi(w, a12)[None])[0], rtol=1e-13, atol=1e-14)
    assert torch.equal(phi(torch.zeros_like(w), torch.zeros_like(a12)), y0)


def test_heisenberg_solution_is_euler_along_a_piecewise_linear_path():
    """Euler-Maruyama is exact for the area of the piecewise linear path: the two agree to rounding."""
    problem = HeisenbergGroup()
    dw = increments(50, 256, 2, 1.0, seed=9)
    y0 = problem.y0(50, torch.float64)
    expected = problem.exact_from_area(1.0, dw.sum(0), path_areas(dw, 256)[0], y0)
    torch.testing.assert_close(solve(euler_maruyama, problem, y0, 1.0, dw), expected, rtol=0, atol=1e-13)


# --- the rest ------------------------------------------------------------------------------------------------------


def test_kubo_conserves_the_norm():
    problem = KuboOscillator()
    y = problem.exact(3.0, normal(100, 1), normal(100, 2, seed=1))
    torch.testing.assert_close(y.norm(dim=-1), normal(100, 2, seed=1).norm(dim=-1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("sigma", [0.2, 0.7, 2.0])
def test_double_well_density_is_stationary(sigma):
    """Mass one; no probability flux, f p = sigma^2/2 p'; hence E[Y^4 - Y^2] = sigma^2/2. Moments are integrals of p."""
    problem = DoubleWell(sigma)
    y = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    density = problem.stationary_density(y)
    for order, expected in ((0, 1.0), (1, 0.0), (2, problem.stationary_moment(2)), (4, problem.stationary_moment(4))):
        assert torch.trapezoid(y**order * density, y).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert problem.stationary_moment(0) == 1
    assert problem.stationary_moment(3) == 0
    assert problem.stationary_moment(4) - problem.stationary_moment(2) == pytest.approx(sigma**2 / 2, rel=1e-8)
    x = torch.linspace(-1.8, 1.8, 37, dtype=torch.float64, requires_grad=True)
    p = problem.stationary_density(x)
    (slope,) = torch.autograd.grad(p.sum(), x)
    torch.testing.assert_close(problem.f(0.0, x) * p, sigma**2 / 2 * slope, rtol=1e-11, atol=1e-14)


def test_double_well_relaxes_to_its_stationary_moments():
    problem = DoubleWell()
    dw = increments(10_000, 640, 1, 10.0, seed=10)
    y0 = problem.y0(10_000, torch.float64)
    fine, coarse = (solve(euler_maruyama, problem, y0, 10.0, coarsen(dw, factor)) for factor in (1, 2))
    for order in (2, 4):
        expected = torch.tensor([problem.stationary_moment(order)], dtype=torch.float64)
        z = z_scores(2 * fine**order - coarse**order, expected)
        assert z.abs() < 5
        assert z_scores(fine**order, 1.1 * expected).abs() > 5


def milstein_diagonal(alpha):
    """Milstein's step for the noise alpha_i y_i dW^i."""

    def step(sde, t, y, h, dw):
        return euler_maruyama(sde, t, y, h, dw) + alpha**2 * y * (dw**2 - h) / 2

    return step


def test_lorenz_flow_contracts_volume_as_stated():
    """The Jacobian determinant along Milstein paths converges to the exact one with strong order 1."""
    problem, paths, t1, steps = StochasticLorenz(), 400, 0.5, [64, 128, 256, 512]
    step = milstein_diagonal(problem.alpha)
    dw = increments(paths, steps[-1], 3, t1, seed=11)
    exact = problem.log_flow_determinant(t1, dw.sum(0))
    errors = []
    for n in steps:
        y, total = problem.y0(paths, torch.float64), torch.zeros(paths, dtype=torch.float64)
        h = t1 / n
        derivative = torch.func.vmap(torch.func.jacfwd(lambda y, dw, h=h: step(problem, 0.0, y, h, dw)))
        for dw_n in coarsen(dw, steps[-1] // n):
            total = total + torch.linalg.slogdet(derivative(y, dw_n))[1]
            y = step(problem, 0.0, y, h, dw_n)
        errors.append((total - exact)[:, None])
    slope, half_width = strong_slope(steps, torch.stack(errors))
    assert half_width < 0.1
    assert slope - half_width > 0.85
    assert errors[-1].square().mean().sqrt() < 0.1 * exact.std()


def test_heston_price_is_a_discounted_martingale():
    problem, paths = Heston(), 20_000
    dw = increments(paths, 64, 2, 1.0, seed=12)
    fine, coarse = (
        solve(euler_maruyama, problem, problem.y0(paths, torch.float64), 1.0, coarsen(dw, factor))[:, :1].exp()
        for factor in (1, 2)
    )
    expected = problem.mean_price(1.0, start(problem))[None]
    assert expected.item() == pytest.approx(math.exp(problem.mu))
    z = z_scores(2 * fine - coarse, expected)
    assert z.abs() < 5
    assert z_scores(fine, expected * math.exp(-problem.mu)).abs() > 5


def test_heston_below_zero_variance_stops_the_noise_and_has_finite_derivatives():
    problem = Heston()
    y = torch.tensor([[0.0, 0.0], [0.0, -0.1]], dtype=torch.float64)
    assert not problem.g(0.0, y).any()
    assert torch.equal(problem.f(0.0, y), torch.tensor([[0.05, 0.18]] * 2, dtype=torch.float64))
    assert torch.equal(to_stratonovich(problem).f(0.0, y), problem.f(0.0, y))


@pytest.mark.parametrize("name", BUILDERS)
def test_torchsde_integrates(name):
    """Both calculi; against the solution from the same Brownian value where there is one."""
    problem = BUILDERS[name]()
    y0 = problem.y0(16, torch.float64)
    bm = torchsde.BrownianInterval(0.0, 0.5, size=(16, problem.noise_dim), dtype=torch.float64, entropy=13)
    ts = torch.tensor([0.0, 0.5], dtype=torch.float64)
    ito = torchsde.sdeint(to_ito(problem), y0, ts, bm=bm, method="euler", dt=2**-8)[-1]
    stratonovich = torchsde.sdeint(to_stratonovich(problem), y0, ts, bm=bm, method="midpoint", dt=2**-8)[-1]
    spread = (stratonovich - y0).square().mean().sqrt()
    assert (ito - stratonovich).square().mean().sqrt() < 0.1 * spread
    if isinstance(problem, HasExactSolution):
        gap = stratonovich - problem.exact(0.5, bm(0.0, 0.5), y0)
        assert gap.square().mean().sqrt() < 0.01 * spread


def test_bad_arguments_are_refused():
    nan = float("nan")
    for build, match in [
        (lambda: OrnsteinUhlenbeck(rate=[[1.0, 0.0]]), r"rate must have shape \(d, d\); got \(1, 2\)"),
        (lambda: OrnsteinUhlenbeck(level=[1.0, 2.0, 3.0]), r"level must have shape \(2\); got \(3,\)"),
        (lambda: OrnsteinUhlenbeck(volatility=[[1.0, nan], [0.0, 1.0]]), "volatility must be finite"),
        (lambda: GeometricBrownianMotion([0.1, 0.2], 0.3), r"volatility must have shape \(2\); got \(1,\)"),
        (lambda: LinearSDE(noise=[[1.0, 0.0], [0.0, 1.0]]), r"noise must have shape \(m, 2, 2\); got \(2, 2\)"),
        (lambda: LinearSDE(noise=torch.zeros(0, 2, 2)), r"noise must have shape \(m, 2, 2\); got \(0, 2, 2\)"),
        (lambda: CommutativeLinearSDE([[0.0, 1.0], [0.0, 0.0]], [[[1.0, 0.0], [0.0, 2.0]]]), "must commute"),
        (lambda: DoubleWell(0.0), "sigma must be a finite number > 0; got 0"),
        (lambda: SinhDiffusion(dim=0), "dim must be >= 1; got 0"),
        (lambda: Heston(rho=1.2), r"rho must be in \[-1, 1\]; got 1.2"),
        (lambda: Heston(kappa=-1.0), "kappa must be a finite number > 0; got -1"),
        (lambda: StochasticLorenz(alpha=[0.1, 0.2]), r"alpha must have shape \(3\); got \(2,\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            build()
    with pytest.raises(TypeError, match="beta must be a real number; got 'x'"):
        TanhDiffusion(beta="x")


def test_bad_oracle_arguments_are_refused():
    y, w, area = torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 2, 2)
    for call, match in [
        (lambda: GeometricBrownianMotion().exact(-1.0, w, y), "t must be a finite number >= 0; got -1"),
        (lambda: GeometricBrownianMotion().exact(1.0, w[:, :1], y), r"w must have shape \(\.\.\., 2\); got \(4, 1\)"),
        (lambda: GeometricBrownianMotion().mean(1.0, y[:, :1]), r"y0 must have shape \(\.\.\., 2\); got \(4, 1\)"),
        (lambda: LinearSDE().log_ode(1.0, w, w, y), r"levy_area must have shape \(\.\.\., 2, 2\); got \(4, 2\)"),
        (lambda: HeisenbergGroup().exact_from_area(1.0, w, area[..., :1], torch.zeros(3)), "levy_area must have shape"),
        (lambda: OrnsteinUhlenbeck().conditional_mean(1.0, torch.zeros(2), y), "coefficients must have shape"),
        (lambda: OrnsteinUhlenbeck().conditional_covariance(1.0, 0, y), "depth must be >= 1; got 0"),
        (lambda: DoubleWell().stationary_moment(-1), "order must be >= 0; got -1"),
        (lambda: Heston().y0(-1), "batch must be >= 0; got -1"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="y0 must have a real floating-point dtype"):
        GeometricBrownianMotion().mean(1.0, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="t must be a real number"):
        GeometricBrownianMotion().mean(torch.zeros(2), y)
    with pytest.raises(TypeError, match="dtype must be a real floating-point"):
        Heston().y0(2, torch.int64)
