"""What values show of themselves: one line each."""

import pytest
import torch

from sdesig.evaluation import Comparison
from sdesig.sampling import (
    CanonicalDenoiser,
    CanonicalSDE,
    Floor,
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    TeacherOptions,
    draw_paths,
)
from sdesig.sde import VP, ForwardDiffusion, Mixture, to_stratonovich
from sdesig.sde.problems import GeometricBrownianMotion
from sdesig.sigdeg import MLP, NetworkDenoiser, SigDEG
from sdesig.signature import expected_signature
from sdesig.solvers import Heun

LAW = Mixture.circle(1.0, 0.3)
REFERENCE = GaussianReference(torch.zeros(2), torch.tensor([0.5, 1.5]), torch.eye(2))
SPACE = PathSpace((2,), (0.1, 10.0), REFERENCE, cells=2**4, depth=2, grid=StepGrid((0.0, 0.3, 1.0)))
SHOWN_SPACE = (
    "PathSpace(event=(2,), snr=(0.1, 10), reference=GaussianReference(variance of shape (2,), basis of sizes (2,)), "
    "cells=16, depth=2, grid=StepGrid(3 quantiles), slack=0.05)"
)


def teacher():
    return NetworkDenoiser(MLP(2, width=8, blocks=1), 1.0)


def generator(cell="plain"):
    return SigDEG.from_teacher(teacher(), SPACE, depth=1, cell=cell)


def paths():
    options = TeacherOptions(steps=4, cells=2)
    return draw_paths(SNRDenoiser(LAW.denoise_y), SPACE, options, 3, generator=torch.Generator())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (StepGrid(), "StepGrid()"),
        (GaussianReference(0.0, 0.25), "GaussianReference(variance 0.25)"),
        (SPACE, SHOWN_SPACE),
        (
            Floor(0.0123456, 0.000123, 0.01, 500, 8, 2, (0.0, 0.5, 1.0)),
            "Floor(rmse=0.01235 +- 0.00012, steps=8, depth=2, groups=500)",
        ),
        (paths(), "TeacherPaths(3 of shape (2,), cells=2, depth=2, snr=(0.1, 10))"),
        (generator().sample(3, 2), "Samples(3 of shape (2,), steps=2)"),
        (SNRDenoiser(LAW.denoise_y), "SNRDenoiser(Mixture.denoise_y, eta=1, 0 parameters)"),
        (CanonicalDenoiser(torch.nn.Identity(), VP(), eta=0.5), "CanonicalDenoiser(Identity, eta=0.5, 0 parameters)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_one_line(value, shown):
    assert repr(value) == shown


def test_networks_are_counted_by_their_parameters():
    network = teacher()
    numbers = sum(value.numel() for value in network.parameters())
    assert repr(network) == f"NetworkDenoiser(EDMDenoiser, eta=1, {numbers} parameters)"
    student = generator("solver")
    numbers = sum(value.numel() for value in student.parameters())
    assert repr(student) == f"SigDEG(cell='solver', depth=1, {numbers} parameters, {SHOWN_SPACE})"


@pytest.mark.parametrize(
    "value, text",
    [
        (
            CanonicalSDE(SNRDenoiser(LAW.denoise_y)),
            "CanonicalSDE(SNRDenoiser(Mixture.denoise_y, eta=1, 0 parameters), ",
        ),
        (ForwardDiffusion(VP()), "ForwardDiffusion(VP("),
        (VP().reverse(LAW.denoiser(VP()), 0.5), "ReverseDiffusion(VP("),
        (to_stratonovich(GeometricBrownianMotion()), "ConvertedSDE(GeometricBrownianMotion(), 'stratonovich')"),
        (expected_signature(2, 1.0, 3), "TensorSeries(batch (), letters 0 to 2, depth 3, torch.float64 on cpu)"),
        (LAW, "Mixture(8 components, dim 2)"),
        (PathAverage(), "PathAverage(correction=0.2)"),
        (Heun(), "Heun()"),
        (Comparison(SNRDenoiser(LAW.denoise_y), SPACE), "Comparison(teacher=SNRDenoiser("),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sdes_schemes_and_series(value, text):
    assert repr(value).startswith(text)
    assert "\n" not in repr(value)
    assert " at 0x" not in repr(value)
