"""Adapters against Gaussian regression: each network is the conditional expectation of its own training target."""

import math

import pytest
import torch
from torch import nn

from sdesig.sde.denoisers import EDMDenoiser, EpsilonDenoiser, FlowDenoiser, ScoreDenoiser, VDenoiser, X0Denoiser
from sdesig.sde.families import EDM, VE, VP, Flow, SubVP

FAMILIES = {
    "VP": VP(),
    "VP cosine": VP.cosine(),
    "SubVP": SubVP(),
    "VE": VE(),
    "EDM": EDM(),
    "Flow": Flow(),
}
every_family = pytest.mark.parametrize("diffusion", FAMILIES.values(), ids=FAMILIES.keys())

MEAN, VARIANCE, SIGMA_DATA = 0.4, 0.3, 0.5
TARGETS = {  # coefficients (of x_0, of eps) of what a network is trained to predict
    EpsilonDenoiser: lambda alpha, sigma: (0 * sigma, 1 + 0 * sigma),
    X0Denoiser: lambda alpha, sigma: (1 + 0 * sigma, 0 * sigma),
    VDenoiser: lambda alpha, sigma: (-sigma, alpha),
    FlowDenoiser: lambda alpha, sigma: (-1 + 0 * sigma, 1 + 0 * sigma),
    ScoreDenoiser: lambda alpha, sigma: (0 * sigma, -1 / sigma),  # grad log p(x_t | x_0)
}


def column(value, x):
    return value.reshape(-1, *[1] * (x.ndim - 1))


def regression(x, alpha, sigma, of_x0, of_eps):
    """E[of_x0 x_0 + of_eps eps | x], x = alpha x_0 + sigma eps, x_0 ~ N(MEAN, VARIANCE), from the joint covariance."""
    covariance = of_x0 * VARIANCE * alpha + of_eps * sigma
    return of_x0 * MEAN + covariance / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def network_for(kind, diffusion):
    def network(x, t):
        assert t.shape == x.shape[:1]
        assert t.dtype == x.dtype
        alpha, sigma = column(diffusion.alpha(t), x), column(diffusion.sigma(t), x)
        return regression(x, alpha, sigma, *TARGETS[kind](alpha, sigma))

    return network


def edm_network(x_in, c_noise):
    """E[F's target | input]: F is trained on (x_0 - c_skip z)/c_out for z = x_0 + s eps (Karras et al. 2022, eq. 8)."""
    s = column(torch.exp(4 * c_noise), x_in)
    norm = torch.sqrt(s**2 + SIGMA_DATA**2)
    c_skip, c_out = SIGMA_DATA**2 / norm**2, s * SIGMA_DATA / norm
    one = torch.ones_like(s)
    return regression(x_in * norm, one, s, (1 - c_skip) / c_out, -c_skip * s / c_out)


def adapters(diffusion):
    yield from (kind(network_for(kind, diffusion), diffusion) for kind in TARGETS)
    yield EDMDenoiser(edm_network, diffusion, sigma_data=SIGMA_DATA)


def log_snr_times(diffusion, low, high, n, dtype=torch.float64):
    return diffusion.time(torch.linspace(low, high, n, dtype=dtype).exp())


@every_family
@pytest.mark.parametrize("event", [(2,), (3, 4, 4)])
def test_every_parametrization_is_the_exact_denoiser(diffusion, event):
    t = log_snr_times(diffusion, -8, 8, 17)
    x0 = MEAN + math.sqrt(VARIANCE) * torch.randn(17, *event, generator=torch.Generator().manual_seed(1)).double()
    x = diffusion.sample_marginal(x0, t, torch.Generator().manual_seed(2))
    alpha, sigma = column(diffusion.alpha(t), x), column(diffusion.sigma(t), x)
    exact = regression(x, alpha, sigma, torch.ones_like(sigma), 0 * sigma)
    for denoiser in adapters(diffusion):
        # D = (x - sigma eps)/alpha loses e^4 = sigma/alpha of a rounding at log-SNR -8.
        torch.testing.assert_close(denoiser(x, t), exact, rtol=1e-12, atol=1e-12)
        one_time = torch.cat([denoiser(x[i : i + 1], t[i]) for i in range(17)])
        torch.testing.assert_close(one_time, exact, rtol=1e-12, atol=1e-12)


@every_family
def test_single_precision_states_with_double_precision_times(diffusion):
    t = log_snr_times(diffusion, -8, 8, 17)
    x = diffusion.sample_marginal(torch.full((17, 2), MEAN), t, torch.Generator().manual_seed(3))
    assert x.dtype == torch.float32
    double = [denoiser(x.double(), t) for denoiser in adapters(diffusion)]
    for denoiser, exact in zip(adapters(diffusion), double, strict=True):
        got = denoiser(x, t)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=5e-4)


def test_edm_network_sees_unit_variance():
    # Data N(0, sigma_data^2): the input c_in z has variance 1, and c_noise = log(sigma)/4.
    edm = EDM()
    t = log_snr_times(edm, -8, 8, 5)
    seen = []
    denoiser = EDMDenoiser(lambda x, c: seen.append((x, c)) or torch.zeros_like(x), edm, sigma_data=0.5)
    z = torch.sqrt(t**2 + 0.25)[:, None]  # one standard deviation
    skip = denoiser(z, t)
    torch.testing.assert_close(seen[0][0], torch.ones_like(z))
    torch.testing.assert_close(seen[0][1], t.log() / 4)
    torch.testing.assert_close(skip, 0.25 / (t[:, None] ** 2 + 0.25) * z)


def test_a_velocity_is_the_drift_of_the_probability_flow():
    """Solver time runs from the noise to the data, so it is -dx/dt."""
    flow, generator = Flow(), torch.Generator().manual_seed(5)
    velocity = network_for(FlowDenoiser, flow)
    sde = flow.reverse(FlowDenoiser(velocity, flow), 0.0)
    x = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    for t in (0.01, 0.3, 0.99):
        expected = -velocity(x, torch.full((4,), t, dtype=torch.float64))
        torch.testing.assert_close(sde.f(sde.solver_time(t), x), expected, rtol=1e-10, atol=1e-10)


class TinyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, x, t):
        return self.layer(torch.cat([x, t[:, None]], -1))


def test_networks_are_trainable_through_the_reverse_sde():
    network = TinyNetwork()
    sde = VP().reverse(VDenoiser(network, VP()))
    assert {id(p) for p in sde.parameters()} == {id(p) for p in network.parameters()}
    sde.f(0.5, torch.ones(4, 2, dtype=torch.float64)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: EpsilonDenoiser(None, VP()), TypeError, "network"),
        (lambda: EpsilonDenoiser(lambda x, t: x, VP), TypeError, "diffusion must be a Diffusion; got"),
        (lambda: EDMDenoiser(lambda x, t: x, VP(), sigma_data=0.0), ValueError, "sigma_data"),
        (lambda: VDenoiser(lambda x, t: x, VP())(torch.zeros(2, 3), torch.tensor(-1.0)), ValueError, "t must"),
        (lambda: X0Denoiser(lambda x, t: x, VP())(torch.zeros(2, 3), torch.tensor(-1.0)), ValueError, "t must"),
        (lambda: VDenoiser(lambda x, t: x, VP())(torch.zeros(2, 3), torch.ones(3)), ValueError, r"\(batch,\)"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
