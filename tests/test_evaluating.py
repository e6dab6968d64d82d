"""Modules of others are in evaluation mode while they are used, and are given back as they were."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from sdesig._evaluating import evaluating, modules_in
from sdesig.evaluation import Comparison, FeatureExtractor, evaluate, generator_sampler, training_free
from sdesig.sampling import (
    CanonicalDenoiser,
    GaussianReference,
    PathSpace,
    TeacherOptions,
    choose_grid,
    draw_paths,
    information_floor,
)
from sdesig.sampling.teacher_paths import teacher_samples
from sdesig.sde import EDM, Mixture
from sdesig.sigdeg import MLP, SigDEG

LAW = Mixture.circle(1.5, 0.1, dtype=torch.float32)
REFERENCE = GaussianReference(LAW.mean(), LAW.covariance()[0, 0].item())
SPACE = PathSpace((2,), (math.exp(-3), math.exp(5)), REFERENCE, cells=2**4)


class Watched(nn.Module):
    """What a function computes; it takes note of the modes in which it is called."""

    def __init__(self, compute):
        super().__init__()
        self.compute, self.inner, self.modes = compute, nn.Dropout(0.5), []

    def forward(self, *arguments):
        self.modes.append((self.training, self.inner.training))
        return self.inner(self.compute(*arguments))


def students(teacher):
    torch.manual_seed(0)
    network = MLP(2, width=8, blocks=1, conditions=2, extra=4)
    return SigDEG.from_teacher(teacher, SPACE, depth=2, network=network, sigma_data=1.0)


def compared(teacher):
    comparison = Comparison(teacher, SPACE, truth_steps=16)
    samplers = [*training_free(SPACE, (2,)).values(), generator_sampler("student", students(teacher), (2,))]
    evaluate(comparison, samplers, seeds=range(3), floor_groups=2, progress=False)


def drawn(teacher):
    draw_paths(teacher, SPACE, TeacherOptions(steps=4, cells=2), 2, generator=torch.Generator().manual_seed(0))


USES = {
    "paths": drawn,
    "samples for a reference": lambda teacher: teacher_samples(teacher, SPACE, 2),
    "grid": lambda teacher: choose_grid(teacher, SPACE, cells=3, fine_per_cell=2, paths=2, progress=False),
    "floor": lambda teacher: information_floor(teacher, SPACE, steps=2, depth=1, groups=2),
    "comparison": compared,
    "samples": lambda teacher: students(teacher).sample(3, 2),
}


@pytest.mark.parametrize("use", USES)
def test_teachers(use):
    watched = Watched(LAW.denoiser(EDM()))
    watched.inner.train()
    watched.training = False
    USES[use](CanonicalDenoiser(watched, EDM()))
    assert {*watched.modes} == {(False, False)}
    assert (watched.training, watched.inner.training) == (False, True)


def test_generators():
    """One in training mode samples what it samples in evaluation mode, and stays in it."""
    generator = students(CanonicalDenoiser(LAW.denoiser(EDM()), EDM()))
    generator.cell.denoiser.network.final = nn.Sequential(nn.Linear(8, 2), watched := Watched(lambda values: values))
    evaluated = generator.eval().sample(3, 2).values
    assert torch.equal(generator.train().sample(3, 2).values, evaluated)
    assert {*watched.modes} == {(False, False)}
    assert watched.training


def test_features():
    teacher, watched = CanonicalDenoiser(LAW.denoiser(EDM()), EDM()), Watched(lambda samples: samples)
    comparison = Comparison(teacher, SPACE, truth_steps=16)
    real = LAW.sample(10, torch.Generator().manual_seed(0))
    extractor = FeatureExtractor("f", "f", lambda x: watched(x), floats=True)
    samplers = training_free(SPACE, (2,)).values()
    evaluate(comparison, [*samplers], real, seeds=range(3), extractors=[extractor], progress=False)
    assert {*watched.modes} == {(False, False)}
    assert watched.training


OUTSIDE = Watched(lambda x: x)


def outside(x):
    return OUTSIDE(x)


class Holder:
    """A denoiser that is no module."""

    def __init__(self, module):
        self.parts = [module]

    def __call__(self, x):
        return self.parts[0](x)

    def method(self, x):
        return self.parts[0](x)


def test_modules_are_found_wherever_a_callable_holds_them():
    module = Watched(lambda x: x)
    inside = lambda x: module(x)  # noqa: E731
    held = [module, module.forward, inside, lambda x: inside(x), partial(inside), partial(lambda m, x: m(x), module)]
    held += [lambda x, m=module: m(x), Holder(module), Holder(module).method, nn.Sequential(Watched(inside))]
    for thing in held:
        assert {id(part) for part in modules_in(thing)} >= {id(module), id(module.inner)}, thing
    assert modules_in(lambda x: outside(x), outside)[0] is OUTSIDE
    assert modules_in(None, 3, "text", torch.ones(2), Holder, LAW.denoiser(EDM())) == []


def test_scripted_modules():
    scripted = torch.jit.script(nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)))
    with evaluating(scripted):
        assert not scripted.training
        assert not scripted[0].training
    assert scripted.training
    assert scripted[0].training


def test_modes_are_given_back_one_by_one_after_an_error():
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    module[1][0].eval()
    before = [part.training for part in module.modules()]

    def fail():
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [part.training for part in module.modules()] == before
