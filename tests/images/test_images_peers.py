"""diffusers' multistep schedulers as peers: they solve the flow of a denoiser D(y, snr), at their order, or its SDE."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from images_tiny import normal, save_pipeline, tiny_unet
from scipy.integrate import solve_ivp

from sdesig.evaluation import Comparison, few_step_peers, named_after
from sdesig.images import load_teacher
from sdesig.images.peers import PEERS, peer_samples, peers
from sdesig.sampling import (
    CanonicalDenoiser,
    CanonicalSDE,
    DPMSolver2M,
    DPMSolver3M,
    GaussianReference,
    PathSpace,
    SNRDenoiser,
    StepGrid,
)
from sdesig.sde import EDM, Mixture
from sdesig.testing import check_gaussian

SNR = (math.exp(-5), math.exp(5))
MIXTURE = Mixture.circle(1.5, 0.3, dtype=torch.float64)
GAUSSIAN = Mixture(
    torch.ones(1),
    torch.tensor([[0.7, -0.2]], dtype=torch.float64),
    torch.tensor([[[0.5, 0.2], [0.2, 0.3]]], dtype=torch.float64),
)
every_peer = pytest.mark.parametrize("scheduler", PEERS)
FLOWS = [key for key, peer in PEERS.items() if not peer.random]
every_flow = pytest.mark.parametrize("scheduler", FLOWS)


def start(n=20):
    return math.sqrt(SNR[0]) * normal(n, 2).double()


def flow(mixture, y):
    """x = y/tau at the last SNR, by dz/d(log SNR) = (D - z)/2 in z = y/tau."""

    def rate(log_snr, z):
        tau, z = math.exp(log_snr), torch.from_numpy(z).reshape(y.shape)
        return ((mixture.denoise_y(tau * z, tau) - z) / 2).numpy().ravel()

    first = (y / SNR[0]).numpy().ravel()
    solution = solve_ivp(rate, np.log(SNR), first, method="DOP853", rtol=1e-11, atol=1e-11)
    assert solution.success
    return torch.from_numpy(solution.y[:, -1]).reshape(y.shape)


def error(found, expected):
    return (found - expected).square().mean().sqrt().item()


@pytest.mark.usefixtures("diffusers")
def test_the_flow_of_a_gaussian_is_known():
    """The oracle of this file: each principal component contracts by sqrt((c + 1/tau_1)/(c + 1/tau_0))."""
    y = start()
    variances, basis = torch.linalg.eigh(GAUSSIAN.covariance())
    centred = (y / SNR[0] - GAUSSIAN.mean()) @ basis
    scale = ((variances + 1 / SNR[1]) / (variances + 1 / SNR[0])).sqrt()
    expected = GAUSSIAN.mean() + (scale * centred) @ basis.T
    torch.testing.assert_close(flow(GAUSSIAN, y), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        peer_samples(SNRDenoiser(GAUSSIAN.denoise_y), y, 2000, snr=SNR), expected, rtol=1e-6, atol=1e-6
    )


@every_flow
@pytest.mark.parametrize("law", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
@pytest.mark.usefixtures("diffusers")
def test_they_converge_to_the_probability_flow_with_order_two(scheduler, law):
    """At least: order 3 has a first step, most also a last one, of lower order."""
    y = start()
    expected = flow(law, y)
    errors = [
        error(peer_samples(SNRDenoiser(law.denoise_y), y, steps, snr=SNR, scheduler=scheduler), expected)
        for steps in (32, 64, 128)
    ]
    assert errors[-1] < 2e-3
    for coarse, fine in pairwise(errors):
        assert 1.6 < math.log2(coarse / fine) < 4


@pytest.mark.usefixtures("diffusers")
def test_one_step_is_ddim():
    """z_1 = D + sqrt(tau_0/tau_1) (z_0 - D): noise that is predicted once and then kept."""
    y = start()
    denoised = MIXTURE.denoise_y(y, SNR[0])
    expected = denoised + math.sqrt(SNR[0] / SNR[1]) * (y / SNR[0] - denoised)
    for scheduler in FLOWS:
        found = peer_samples(SNRDenoiser(MIXTURE.denoise_y), y, 1, snr=SNR, scheduler=scheduler)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheduler, ours", [("dpmsolver++(2M)", DPMSolver2M()), ("dpmsolver++(3M)", DPMSolver3M())])
@pytest.mark.parametrize("grid", [StepGrid(), StepGrid.karras(SNR)], ids=["even", "Karras"])
@pytest.mark.usefixtures("diffusers")
def test_dpm_solver_is_ours(scheduler, ours, grid):
    """The same scheme twice; to the float32 in which diffusers computes it."""
    flow = SNRDenoiser(lambda y, snr: MIXTURE.denoise_y(y * snr**0.5, snr), 0.0)
    y, sde = start(), CanonicalSDE(flow, eta=0.0)
    times = math.log(SNR[0]) + torch.from_numpy(grid.positions(20)) * math.log(SNR[1] / SNR[0])
    first = y / SNR[0] ** 0.5  # the state of eta = 0
    states = [first]
    memory = None
    for before, after in pairwise(times.exp()):
        state, memory = ours.advance(sde, before, after, states[-1], memory, (torch.zeros(()),))
        states.append(state)
    expected = sde.noisy_data(states[-1], times[-1].exp())
    found = peer_samples(SNRDenoiser(MIXTURE.denoise_y), y, 20, snr=SNR, scheduler=scheduler, grid=grid)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    other = next(key for key in ("dpmsolver++(2M)", "dpmsolver++(3M)") if key != scheduler)
    assert error(peer_samples(SNRDenoiser(MIXTURE.denoise_y), y, 20, snr=SNR, scheduler=other, grid=grid), found) > 1e-4


@pytest.mark.usefixtures("diffusers")
def test_sa_solver_with_noise_has_the_law_of_the_data():
    """N(m, C + I/tau) in 64 steps, from the law at the first SNR, to a bias below the limit. False-alarm rate 1e-6."""
    rows = 4000
    y = (
        SNR[0] * GAUSSIAN.mean()
        + normal(rows, 2).double()
        @ torch.linalg.cholesky(SNR[0] ** 2 * GAUSSIAN.covariance() + SNR[0] * torch.eye(2).double()).mT
    )
    found = peer_samples(SNRDenoiser(GAUSSIAN.denoise_y), y, 64, snr=SNR, scheduler="sa-solver")
    covariance = GAUSSIAN.covariance() + torch.eye(2).double() / SNR[1]
    check_gaussian(found - GAUSSIAN.mean(), covariance, false_alarm_rate=1e-6).assert_passed()
    flow = peer_samples(SNRDenoiser(GAUSSIAN.denoise_y), y, 64, snr=SNR, scheduler="sa-solver-ode")
    assert abs(torch.corrcoef(torch.stack([found[:, 0], flow[:, 0]]))[0, 1]) < 0.5


@pytest.mark.usefixtures("diffusers")
def test_the_noise_of_sa_solver_is_a_function_of_a_row():
    """The same twice, in any batch and whatever the global state is; another for another y."""
    y = start()
    whole = peer_samples(SNRDenoiser(MIXTURE.denoise_y), y, 5, snr=SNR, scheduler="sa-solver")
    state = torch.random.get_rng_state()
    alone = [peer_samples(SNRDenoiser(MIXTURE.denoise_y), row[None], 5, snr=SNR, scheduler="sa-solver") for row in y]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-10, atol=1e-10)
    moved = peer_samples(SNRDenoiser(MIXTURE.denoise_y), y * (1 + 1e-12), 5, snr=SNR, scheduler="sa-solver")
    assert error(moved, whole) > 0.01


@every_peer
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 40])
@pytest.mark.usefixtures("diffusers")
def test_the_teacher_is_asked_once_per_step(scheduler, steps):
    """At SNRs even in log-SNR from the first on, and never at the last."""
    asked = []

    def teacher(y, snr):
        asked.append(snr.item())
        return MIXTURE.denoise_y(y, snr)

    peer_samples(SNRDenoiser(teacher), start(), steps, snr=SNR, scheduler=scheduler)
    np.testing.assert_allclose(np.log(asked), -5 + 10 / steps * np.arange(steps), rtol=1e-12, atol=1e-12)
    asked.clear()
    grid = StepGrid.karras(SNR)
    peer_samples(SNRDenoiser(teacher), start(), steps, snr=SNR, scheduler=scheduler, grid=grid)
    np.testing.assert_allclose(np.log(asked), -5 + 10 * grid.positions(steps)[:-1], rtol=1e-12, atol=1e-12)


@every_peer
def test_image_teachers(diffusers, scheduler, tmp_path):
    """In float32, each row by itself; a D that is constant is reached up to the noise that is left."""
    teacher = load_teacher(save_pipeline(tmp_path, tiny_unet(), diffusers.DDPMScheduler()))
    y, snr = 0.1 * normal(3, 1, 8, 8), (0.01, 900.0)
    whole = peer_samples(teacher, y, 5, snr=snr, scheduler=scheduler)
    assert whole.dtype == torch.float32
    alone = torch.cat([peer_samples(teacher, row[None], 5, snr=snr, scheduler=scheduler) for row in y])
    torch.testing.assert_close(alone, whole, rtol=1e-3, atol=1e-4)
    constant = peer_samples(SNRDenoiser(lambda y, snr: torch.full_like(y, 0.3)), y, 5, snr=snr, scheduler=scheduler)
    expected = 0.3 + (snr[0] / snr[1]) ** 0.5 * (y / snr[0] - 0.3)
    if scheduler in FLOWS:
        torch.testing.assert_close(constant, expected, rtol=1e-4, atol=1e-4)
    else:
        assert ((constant - 0.3).square().mean() * snr[1]).sqrt().item() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    "changes, error, match",
    [
        ({"y": None}, TypeError, "y must be a torch.Tensor"),
        ({"steps": 0}, ValueError, "steps must be >= 1; got 0"),
        ({"steps": 2.0}, TypeError, "steps must be an integer"),
        ({"snr": (1.0, 1.0)}, ValueError, r"snr must be \(first, last\) with first < last; got \(1.0, 1.0\)"),
        ({"snr": (0.0, 1.0)}, ValueError, r"snr\[0\] must be a finite number > 0"),
        ({"grid": 7}, TypeError, "grid must be a StepGrid"),
        ({"scheduler": "ddim"}, ValueError, r"scheduler must be one of 'unipc', 'dpmsolver\+\+\(2M\)'.*; got 'ddim'"),
    ],
)
def test_refusals(changes, error, match):
    arguments = {"y": start(), "steps": 4, "snr": SNR, "scheduler": "unipc"} | changes
    with pytest.raises(error, match=match):
        peer_samples(SNRDenoiser(MIXTURE.denoise_y), arguments.pop("y"), arguments.pop("steps"), **arguments)


@pytest.mark.usefixtures("diffusers")
def test_the_teacher_is_in_evaluation_mode_while_it_is_asked():
    exact, dropout = MIXTURE.denoiser(EDM()), torch.nn.Dropout(0.5)
    dropping = CanonicalDenoiser(lambda x, sigma: dropout(exact(x, sigma)), EDM())
    expected = peer_samples(CanonicalDenoiser(exact, EDM()), start(), 3, snr=SNR)
    assert torch.equal(peer_samples(dropping.train(), start(), 3, snr=SNR), expected)
    assert dropout.training


@pytest.mark.usefixtures("diffusers")
def test_samplers_of_a_comparison():
    """By key, from the start where all others begin."""
    teacher, space = SNRDenoiser(MIXTURE.denoise_y), PathSpace((2,), SNR, GaussianReference(0.0, 1.0), depth=4)
    made = peers(teacher, space, (2, 3))
    assert [(sampler.key, sampler.label, sampler.steps) for sampler in made.values()] == [
        ("unipc", "UniPC", (2, 3)),
        ("dpmsolver++(2M)", "DPM-Solver++(2M)", (2, 3)),
        ("dpmsolver++(3M)", "DPM-Solver++(3M)", (2, 3)),
        ("deis", "DEIS", (2, 3)),
        ("sa-solver-ode", "SA-Solver, tau = 0", (2, 3)),
        ("sa-solver", "SA-Solver, tau = 1", (2, 3)),
    ]
    for key, sampler in made.items():
        wanted = peer_samples(teacher, start(), 3, snr=SNR, scheduler=key)
        assert torch.equal(sampler.draw(start(), 3), wanted)
        assert not sampler.follows
    karras = StepGrid.karras(SNR)
    on_karras = [named_after("Karras", sampler) for sampler in peers(teacher, space, (3,), grid=karras).values()]
    assert (on_karras[0].key, on_karras[0].label) == ("unipc-karras", "UniPC, Karras grid")
    for key, sampler in zip(made, on_karras, strict=True):
        wanted = peer_samples(teacher, start(), 3, snr=SNR, scheduler=key, grid=karras)
        assert torch.equal(sampler.draw(start(), 3), wanted)
        assert error(wanted, made[key].draw(start(), 3)) > 1e-3
    Comparison(teacher, space).check([*made.values(), *on_karras, *few_step_peers(space, (2, 3)).values()])
