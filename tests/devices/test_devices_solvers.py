"""Paths, signatures, areas and all schemes on a device: what they give is the CPU's, and stays there."""

import pytest
import torch

from sdesig import BrownianPath, SNRClock, sample_partial_signature, solve, solve_adaptive
from sdesig.sampling import CanonicalDenoiser, CanonicalSDE, GaussianReference, from_canonical, to_canonical
from sdesig.sde import EDM, VE, VP, Flow, Mixture, SubVP, TabulatedVP
from sdesig.sde.problems import (
    CommutativeLinearSDE,
    DoubleWell,
    FadingNoise,
    GeometricBrownianMotion,
    HeisenbergGroup,
    Heston,
    KuboOscillator,
    LinearSDE,
    OrnsteinUhlenbeck,
    SinhDiffusion,
    StochasticLorenz,
    TanhDiffusion,
)
from sdesig.signature import (
    JOINT_METHODS,
    TensorSeries,
    chen_area,
    expected_signature,
    iterated_integrals,
    join_steps,
    levy_area,
    piecewise_linear_signature,
)
from sdesig.signature.areas.levy_area import METHODS
from sdesig.solvers import SCHEMES
from sdesig.solvers.torchsde_methods import STRONG_ORDERS

F64 = torch.float64
STEPS = torch.tensor([0.0, 0.25, 0.375, 1.0], dtype=F64)
PROBLEMS = [
    CommutativeLinearSDE,
    DoubleWell,
    FadingNoise,
    GeometricBrownianMotion,
    HeisenbergGroup,
    Heston,
    KuboOscillator,
    LinearSDE,
    OrnsteinUhlenbeck,
    SinhDiffusion,
    StochasticLorenz,
    TanhDiffusion,
]
REVERSE = ["dpm_solver_1", "dpm_solver_2m", "dpm_solver_3m", "seeds_2", "path_average"]
AT_ONE_ETA = {"ipndm_4": 0.0, "er_sde_3": 1.0}
KINDS = ["none", "scalar", "coordinates", "pca", "dct"]


def drawn(device, seed=0):
    return torch.Generator(device).manual_seed(seed)


def path_on(device, shape=(3, 2), t0=0.0, **options):
    options = {"seeds": range(shape[0]), "cells": 2**3, "dtype": F64, "device": device} | options
    if "generator" in options:
        del options["seeds"]
    return BrownianPath(t0, 1.0, shape, **options)


def values(*shape, seed=3):
    return torch.randn(shape, generator=drawn("cpu", seed), dtype=F64)


# --- paths and signatures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["seeds", "generator"])
@pytest.mark.parametrize("area", [False, True])
def test_a_path(agrees, source, area):
    def compute(device):
        given = {"generator": drawn(device)} if source == "generator" else {}
        path = path_on(device, depth=3, area=area, **given)
        asked = path.partial_signatures(STEPS), path.partial_signature(0.25, 0.5)
        whole = path(0.0, 1.0, return_U=True, return_A=area)
        path.prefetch(STEPS)
        return [*asked, *whole, path(0.5, 0.5), path.initial_noise(), path.reflected()(0.0, 0.25)]

    agrees(compute, draws=source == "generator")


def test_a_path_as_the_noise_of_another_sampler(agrees):
    agrees(lambda device: path_on(device).as_noise_sampler()(0.25, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("source", ["seeds", "generator"])
def test_a_path_with_a_clock_for_every_coordinate(agrees, dtype, source):
    def compute(device):
        given = {"generator": drawn(device)} if source == "generator" else {}
        clock = SNRClock(torch.tensor([0.5, 2.0], dtype=dtype, device=device))
        path = path_on(device, t0=0.01, clock=clock, dtype=dtype, depth=3, **given)
        steps = path.partial_signatures(path.grid(3))
        return steps, steps.h.to(dtype), path.partial_signature(0.01, 1.0)

    agrees(compute, rtol=1e-5, draws=source == "generator")


def test_a_long_query_in_parts(agrees):
    agrees(lambda device: path_on(device, (2, 3), cells=2**7).partial_signatures(torch.linspace(0, 1, 129, dtype=F64)))


@pytest.mark.parametrize("column", [False, True])
def test_signatures_and_what_is_made_of_them(agrees, column):
    def compute(device):
        h = torch.tensor([[0.1], [0.2]], dtype=F64, device=device) if column else 0.1
        step = sample_partial_signature((2, 3), h, 3, generator=drawn(device), dtype=F64)
        left, right = step.split(h / 2, generator=drawn(device, 1))
        words = [step.scalar_word(word, ito=ito) for word in ((0,), (0, 1), (1, 1), (1, 1, 1)) for ito in (False, True)]
        areas = [step.increment, step.space_time_area, step.space_time_time_area, step.time_integral]
        return [step, left, right, left.combine(right), step.reverse(), step.gaussian_word(1, 1), *areas, *words]

    agrees(compute, draws=True)


def test_steps_that_are_joined(agrees):
    def compute(device):
        steps = path_on(device, depth=3, area=True).partial_signatures(STEPS)
        areas = chen_area(steps.levy_area, steps.increment)
        steps = steps.without_area()
        return areas, join_steps(steps, [0, 2, 3]), join_steps(steps, [0, 3])

    agrees(compute)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize("column", [False, True])
def test_areas(agrees, method, column):
    def compute(device):
        step = torch.full((4, 1), 0.5, dtype=F64, device=device) if column else 0.5
        w = values(4, 2 if method == "exact2d" else 3).to(device)
        area = levy_area(w, step, generator=drawn(device), method=method)
        given = [levy_area(w[:, :1], step, generator=drawn(device)), area, iterated_integrals(w, step, area=area)]
        if method in JOINT_METHODS:
            joint = torch.stack([w / 0.5**0.5, values(4, 3).to(device)])
            given.append(levy_area(w, step, coefficients=joint, generator=drawn(device), method=method))
        return given

    agrees(compute, draws=True)


def test_series(agrees):
    def compute(device):
        one, other = (TensorSeries.from_letters(values(2, 3, seed=k).to(device), 3) for k in (0, 1))
        whole = piecewise_linear_signature(values(2, 4, 2).to(device), 3)
        expected = expected_signature(2, torch.tensor(0.5, dtype=F64, device=device), 3)
        made = (one @ other, whole, whole.log(), one.exp(), whole.inverse(), whole.ito_to_stratonovich(), expected)
        return [series.levels for series in made]

    agrees(compute)


# --- schemes ---------------------------------------------------------------------------------------------------------


def solved(device, problem, scheme, steps=3, area=True):
    sde = problem()
    path = path_on(device, (3, sde.noise_dim), area=area, depth=3)
    y0 = sde.y0(3, dtype=F64).to(device)
    return solve(sde, y0, path.grid(steps), scheme=scheme, path=path)


def pairs():
    """Every scheme with a problem of every kind of noise that it takes; Euler with all problems."""
    for scheme in [*SCHEMES, *(f"torchsde:{name}" for name in STRONG_ORDERS)]:
        seen = set()
        for problem in PROBLEMS:
            structure = problem().noise_structure
            if scheme in (*REVERSE, *AT_ONE_ETA) or (structure in seen and scheme != "euler"):
                continue
            try:
                solved("cpu", problem, scheme)
            except ValueError:
                continue
            seen.add(structure)
            yield pytest.param(problem, scheme, id=f"{scheme}-{problem.__name__}")


PAIRS = list(pairs())


def test_every_scheme_is_here():
    found = {pair.values[1].removeprefix("torchsde:") for pair in PAIRS}
    assert found == {*SCHEMES, *STRONG_ORDERS} - {*REVERSE, *AT_ONE_ETA}


@pytest.mark.parametrize("problem, scheme", PAIRS)
def test_a_scheme(agrees, problem, scheme):
    agrees(lambda device: solved(device, problem, scheme))


@pytest.mark.parametrize("scheme", ["milstein", "heun", "taylor15"])
def test_gradients(agrees, scheme):
    def compute(device):
        problem = GeometricBrownianMotion()
        path = path_on(device, (3, problem.noise_dim), depth=3)
        y0 = problem.y0(3, dtype=F64).to(device).requires_grad_()
        solve(problem, y0, path.grid(3), scheme=scheme, path=path)[-1].square().sum().backward()
        return y0.grad

    agrees(compute)


def test_adaptive_steps(agrees):
    def compute(device):
        problem = OrnsteinUhlenbeck()
        path = path_on(device, (3, problem.noise_dim), cells=2**6)
        times = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
        return solve_adaptive(
            problem, problem.y0(3, dtype=F64).to(device), times, path=path, rtol=0.05, atol=0.05
        ).states

    agrees(compute)


@pytest.mark.parametrize("problem", [GeometricBrownianMotion, LinearSDE, KuboOscillator, OrnsteinUhlenbeck, DoubleWell])
def test_exact_solutions_and_moments(agrees, problem):
    def compute(device):
        sde = problem()
        y0 = sde.y0(3, dtype=F64).to(device)
        path = path_on(device, (3, sde.noise_dim))
        found = [sde.f(torch.tensor(0.5, dtype=F64), y0), sde.g(torch.tensor(0.5, dtype=F64), y0)]
        if hasattr(sde, "mean"):
            found += [sde.mean(1.0, y0), sde.covariance(1.0, y0)]
        if sde.noise_structure in ("diagonal", "scalar") and hasattr(sde, "exact"):
            found.append(sde.exact(1.0, path(0.0, 1.0), y0))
        return found

    agrees(compute)


# --- reverse diffusions ----------------------------------------------------------------------------------------------


class Teacher(torch.nn.Module):
    """D(x, t) of some schedule: any function will do."""

    def forward(self, x, t):
        t = torch.as_tensor(t).to(x).reshape(-1, *[1] * (x.ndim - 1))
        return x.tanh() / (1 + t)


def teacher(eta=1.0):
    return CanonicalDenoiser(Teacher(), EDM(), eta)


def reference_of(kind, device, dtype=F64, event=(2,)):
    data = values(20, *event).to(dtype) * torch.linspace(0.5, 2, event[-1], dtype=dtype) + 0.25
    return GaussianReference.fit(data, kind).to(device)


def reverse(device, scheme, kind, eta, event=(2,), dtype=F64, steps=3):
    sde = CanonicalSDE(teacher(eta), reference=reference_of(kind, device, dtype, event), eta=eta)
    clock = sde.clock if eta > 0 else SNRClock()
    path = path_on(device, (3, *event), t0=0.01, clock=clock, cells=2**6, dtype=dtype)
    times = path.grid(steps)
    states = solve(sde, sde.start(path.initial_noise(), times[0]), times, scheme=scheme, path=path)
    return states, sde.noisy_data(states[-1], times[-1]), sde.denoised(states[-1], times[-1])


@pytest.mark.parametrize("scheme", REVERSE)
@pytest.mark.parametrize("kind, eta", [(kind, eta) for kind in KINDS for eta in (0.5, 1.0)] + [("pca", 0.0)])
def test_a_scheme_for_reverse_diffusions(agrees, scheme, kind, eta):
    event = (2, 3) if kind == "dct" else (2,)
    agrees(lambda device: reverse(device, scheme, kind, eta, event))


@pytest.mark.parametrize("scheme, eta", AT_ONE_ETA.items())
@pytest.mark.parametrize("kind", KINDS)
def test_a_scheme_for_one_stochasticity(agrees, scheme, eta, kind):
    agrees(lambda device: reverse(device, scheme, kind, eta, (2, 3) if kind == "dct" else (2,)))


@pytest.mark.parametrize("scheme", ["euler", "shark", "sra1", "taylor15", "torchsde:srk"])
def test_another_scheme_on_a_reverse_diffusion(agrees, scheme):
    def compute(device):
        sde = CanonicalSDE(teacher(), reference=reference_of("coordinates", device))
        path = path_on(device, (3, 2), t0=0.01, depth=3, cells=2**6)
        return solve(sde, values(3, 2).to(device), path.grid(3), scheme=scheme, path=path)

    agrees(compute)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr", ["number", "scalar", "batch", "batch on the device"])
def test_the_variables_of_a_reference(agrees, kind, snr):
    """An SNR without axes is on the CPU, one with axes is there or on the device."""
    event = (2, 3) if kind == "dct" else (2,)

    def compute(device):
        reference, y = reference_of(kind, device, event=event), values(3, *event).to(device)
        tau = {"number": 0.5, "scalar": torch.tensor(0.5, dtype=F64)}.get(snr, torch.tensor([0.1, 0.5, 2.0], dtype=F64))
        tau = tau.to(device) if snr == "batch on the device" else tau
        u, v = reference.to_reference(y, tau)
        drift = reference.drift(y, y, tau)
        made = [u, reference.from_reference(u, tau), drift]
        return made + [clock.to(device) for clock in (v, reference.step_length(tau, tau * 2))]

    agrees(compute)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_is_fitted_on_the_device(agrees, kind):
    """Up to signs of principal components."""
    data = values(20, *((2, 3) if kind == "dct" else (2,)))

    def compute(device):
        found = GaussianReference.fit(data.to(device), kind)
        return [found.mean, found.variance.to(device), *(matrix.abs() for matrix in found.basis)]

    agrees(compute)


def tabulated():
    return TabulatedVP(torch.linspace(0.999, 0.01, 50, dtype=F64))


@pytest.mark.parametrize("make", [EDM, VP, SubVP, VE, Flow, tabulated])
def test_a_diffusion_there_and_back(agrees, make):
    diffusion = make()

    def compute(device):
        x, t = values(3, 2).to(device), torch.tensor([0.3, 0.5, 0.9], dtype=F64, device=device)
        noised = diffusion.sample_marginal(x, t, drawn(device))
        y, snr = to_canonical(diffusion, x, t)
        back, at = from_canonical(diffusion, y, snr)
        return [
            noised,
            y,
            back,
            at,
            diffusion.alpha(t),
            diffusion.sigma(t),
            CanonicalDenoiser(Teacher(), diffusion)(y, snr),
        ]

    agrees(compute, rtol=1e-7, atol=1e-8, draws=True)


def test_a_mixture(agrees):
    def compute(device):
        means = values(3, 2).to(device)
        mixture = Mixture(torch.tensor([0.5, 0.25, 0.25], dtype=F64, device=device), means, 0.1)
        return mixture.sample(5, drawn(device)), mixture.denoise_y(values(4, 2).to(device), 0.5)

    agrees(compute, draws=True)
