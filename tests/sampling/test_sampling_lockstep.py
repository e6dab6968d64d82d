"""Samplers along a path that is drawn part by part: where the parts end makes no difference."""

import math

import pytest
import torch

from sdesig.brownian import BrownianPath
from sdesig.sampling import CanonicalSDE, DPMSolver2M, GaussianReference, PathAverage, SNRDenoiser, lockstep
from sdesig.sampling.lockstep import Joined, Run, run_along
from sdesig.sde import Mixture
from sdesig.signature.partial_signature import join_steps
from sdesig.solvers import solve

LAW = Mixture.circle(1.0, 0.3, dtype=torch.float64)
MEAN = torch.tensor([0.1, -0.2], dtype=torch.float64)
REFERENCES = {
    "none": GaussianReference(MEAN, 0.0),
    "coordinates": GaussianReference(MEAN, torch.tensor([0.3, 0.9], dtype=torch.float64)),
}


def path_of(sde, cells=2**6):
    snr = math.exp(-4), math.exp(4)
    return BrownianPath(*snr, (5, 2), seeds=range(5), depth=3, clock=sde.clock, cells=cells, dtype=torch.float64)


@pytest.mark.parametrize("sizes", [(64,), (1, 63), (5, 5, 20, 34), (16, 16, 16, 16), (7,) * 9 + (1,)])
@pytest.mark.parametrize("ends", [(0, 64), (0, 16, 32, 48, 64), (0, 1, 2, 30, 64), tuple(range(65))])
@pytest.mark.parametrize("kind", REFERENCES)
def test_steps_are_those_of_the_whole(sizes, ends, kind):
    path = path_of(CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=REFERENCES[kind]))
    cells = path.partial_signatures(path.grid(64))
    joined, first, found = Joined(ends), 0, []
    for size in sizes:
        found.append(joined.add(cells[first : first + size]))
        first += size
        done = sum(0 if stack is None else len(stack) for stack in found)
        assert done == sum(0 < end <= first for end in ends)
    wanted, found = join_steps(cells, ends), [stack for stack in found if stack is not None]
    coefficients = torch.cat([stack.coefficients for stack in found], 1)
    torch.testing.assert_close(coefficients, wanted.coefficients, rtol=0, atol=1e-12)
    lengths = torch.cat([stack.h.expand(stack.shape) for stack in found])
    torch.testing.assert_close(lengths, wanted.h.expand(wanted.shape), rtol=1e-12, atol=0)


@pytest.mark.parametrize("fewest", [3, 16, 64])
@pytest.mark.parametrize("kind", REFERENCES)
def test_ends_are_those_of_solve(fewest, kind, monkeypatch):
    """Two schemes at three numbers of steps at once, on parts of 3 cells, 16, or all."""
    monkeypatch.setattr("sdesig._memory.NUMBERS_AT_ONCE", 1)
    monkeypatch.setattr(lockstep, "FEWEST_CELLS", fewest)
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=REFERENCES[kind])
    path = path_of(sde)
    start, times = sde.start(path.initial_noise(), path.t0), path.grid(64)
    runs = {
        (scheme, steps): Run(scheme, sde, start, times, [round(64 * k / steps) for k in range(steps + 1)], True)
        for scheme in (PathAverage(), DPMSolver2M())
        for steps in (1, 5, 64)
    }
    run_along(path, REFERENCES[kind], list(runs.values()))
    for (scheme, steps), run in runs.items():
        last = solve(sde, start, path.grid(steps), scheme=scheme, path=path)[-1]
        torch.testing.assert_close(run.state, last, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(run.noisy_data, sde.noisy_data(last, path.t1), rtol=1e-9, atol=1e-9)


def test_states_that_are_not_finite_are_refused():
    sde = CanonicalSDE(SNRDenoiser(lambda y, snr: y / (snr < 1)))
    path = path_of(sde)
    run = Run(PathAverage(), sde, sde.start(path.initial_noise(), path.t0), path.grid(64), [0, 32, 64], True)
    with pytest.raises(
        FloatingPointError, match=r"PathAverage\(correction=0\.2\) is not finite after step 2 of 2, at SNR 54\.5982"
    ):
        run_along(path, sde.reference, [run])
