"""The file that users copy: its step is the package's, it is exact on Gaussian data, and a seed keeps its path."""

import ast
import importlib.util
import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sdesig import CanonicalSDE, GaussianReference, Mixture, SNRDenoiser
from sdesig.sampling import PathAverage
from sdesig.testing import check_gaussian

FILE = Path(__file__).parents[2] / "docs/examples/path_average_standalone.py"
specification = importlib.util.spec_from_file_location("path_average_standalone", FILE)
standalone = importlib.util.module_from_spec(specification)
specification.loader.exec_module(standalone)

DOUBLE = torch.zeros((), dtype=torch.float64)
ABAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
LOG_SNR = torch.logit(ABAR)
CIRCLE = Mixture.circle(1.0, 0.3, dtype=torch.float64)


def model(denoise_y, predicts):
    """A noise or v model of x and the index t of the table, from an exact D(y, snr)."""

    def predict(x, t):
        low = min(int(t), len(ABAR) - 2)
        tau = torch.lerp(LOG_SNR[low], LOG_SNR[low + 1], t - low).exp()
        alpha, sigma = (tau / (1 + tau)).sqrt(), (1 / (1 + tau)).sqrt()
        noise = (x - alpha * denoise_y(x * alpha / sigma**2, tau)) / sigma
        return noise if predicts == "epsilon" else (noise - sigma * x) / alpha

    return predict


def test_it_is_short_and_needs_only_torch():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 80
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("predicts", ["epsilon", "v"])
@pytest.mark.parametrize(
    "c, mean", [(0.0, 0.0), (0.5, 0.0), (torch.tensor([0.9, 0.05]).double(), torch.tensor([0.3, -0.2]).double())]
)
def test_a_run_is_the_packages_given_the_same_noise(predicts, c, mean, monkeypatch):
    """Steps of the package's scheme with the standalone's W and H end where the standalone does."""
    drawn = []
    brownian = standalone.brownian
    monkeypatch.setattr(standalone, "brownian", lambda *args: drawn.extend(brownian(*args)) or iter(drawn))
    ours = standalone.sample(
        model(CIRCLE.denoise_y, predicts), ABAR, (2,), range(8), 6, c, mean, predicts, cells=64, like=DOUBLE
    )

    sde = CanonicalSDE(SNRDenoiser(CIRCLE.denoise_y), reference=GaussianReference(mean, c))
    generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
    first = torch.stack([torch.randn(2, generator=generator, dtype=torch.float64) for generator in generators])
    scheme, u = PathAverage(correction=0.0), sde.start(first, drawn[0][0])
    memory = scheme.start(sde, drawn[0][0], u)
    for start, end, W, H in drawn:
        noise = (torch.stack([W, -math.sqrt(12) * H]),)
        u, memory = scheme.advance(sde, start, end, u, memory, noise)
    theirs = sde.noisy_data(u, drawn[-1][1])
    assert len(drawn) == 6
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_it_is_exact_on_gaussian_data(steps):
    """At every number of steps, along one path: the same sample, of the law N(mean, c + 1/tau)."""
    mean, c = torch.tensor([0.5, -2.0]).double(), torch.tensor([0.7, 0.01]).double()
    predict = model(lambda y, tau: (mean + c * y) / (1 + c * tau), "epsilon")
    x, fine = (
        standalone.sample(predict, ABAR, (2,), range(4000), n, c, mean, cells=40, like=DOUBLE) for n in (steps, 40)
    )
    torch.testing.assert_close(x, fine, rtol=1e-9, atol=1e-9)
    tau = LOG_SNR[0].exp()
    check_gaussian(x - mean, torch.diag(c + 1 / tau)).assert_passed()


def test_cells_join_to_the_law_of_one_step():
    """(W, H) of a step of uneven cells: independent, N(0, h) and N(0, h/12)."""
    snrs = torch.tensor([0.1, 0.3, 0.4, 2.0, 9.0], dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in range(20000)]
    ((start, end, W, H),) = standalone.brownian(generators, (1,), snrs, [0, 4], 0.5, torch.zeros(20000, 1).double())
    h = standalone.length(start, end, 0.5).item()
    check_gaussian(torch.cat([W, H], 1), torch.tensor([[h, 0.0], [0.0, h / 12]]).double()).assert_passed()


def test_a_seed_keeps_its_path():
    """More steps end nearer to the converged end of the same seed, whatever else is in the batch."""
    predict = model(CIRCLE.denoise_y, "epsilon")
    c = CIRCLE.covariance().trace().item() / 2
    ends = {
        n: standalone.sample(predict, ABAR, (2,), range(500), n, c, cells=256, like=DOUBLE) for n in (4, 8, 16, 64, 256)
    }
    errors = {n: (ends[n] - ends[256]).square().mean().sqrt().item() for n in (4, 8, 16, 64)}
    assert errors[8] < 0.06  # per coordinate, of samples whose standard deviation is 0.74
    assert all(errors[fine] < 0.6 * errors[coarse] for coarse, fine in pairwise(errors))
    far = (ends[8] - ends[64]).norm(dim=1) > 0.3
    assert far.double().mean() < 0.02
    alone = standalone.sample(predict, ABAR, (2,), [7, 3], 8, c, cells=256, like=DOUBLE)
    torch.testing.assert_close(alone, ends[8][[7, 3]], rtol=1e-12, atol=1e-12)
