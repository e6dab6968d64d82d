"""The two cells: what they are untrained, what they learn from, and what they refuse."""

import math
from itertools import pairwise

import pytest
import torch
from shaken_students import shaken
from students_start import StudentsStart

from sdesig.brownian import BrownianPath
from sdesig.sampling import CanonicalSDE, GaussianReference, PathSpace, SNRClock, SNRDenoiser
from sdesig.sde import Mixture
from sdesig.sde.problems import OrnsteinUhlenbeck
from sdesig.sigdeg import MLP, CorrectedDenoiser, NetworkDenoiser, PlainCell, SigDEG, SolverCell, UNet
from sdesig.sigdeg.cells import StepCoefficients, step_conditions
from sdesig.solvers import solve
from sdesig.testing import check_gaussian

F64 = torch.float64
LOW, HIGH = math.exp(-6), math.exp(6)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orthogonal(dim, seed, dtype=torch.float32):
    return torch.linalg.qr(normal(dim, dim, seed=seed, dtype=F64))[0].to(dtype)


MEANS = torch.tensor([[-1.0, 0.3, 0.0], [0.6, 1.0, -0.5]])
LAW = Mixture(torch.tensor([0.3, 0.7]), MEANS, torch.tensor([0.2, 0.1]))
REFERENCES = {
    "none": GaussianReference(0.0, 0.0),
    "scalar": GaussianReference(LAW.mean(), 0.6),
    "pca": GaussianReference(LAW.mean(), torch.tensor([1.2, 0.3, 0.01]), orthogonal(3, 0)),
}
IMAGE = (1, 4, 4)
IMAGE_REFERENCES = {
    "none": GaussianReference(0.0, 0.0),
    "scalar": GaussianReference(normal(*IMAGE), 0.6),
    "pca": GaussianReference(
        0.3 * normal(*IMAGE), normal(*IMAGE, seed=1).square() + 0.01, [orthogonal(4, 1), orthogonal(4, 2)]
    ),
}
every_reference = pytest.mark.parametrize("kind", REFERENCES)


def mlp_teacher():
    torch.manual_seed(0)
    return NetworkDenoiser(MLP(3, width=16, blocks=2), 0.8)


def unet_teacher():
    torch.manual_seed(0)
    return NetworkDenoiser(UNet(1, 4, widths=(8, 16)), 0.8)


TEACHERS = {"mlp": mlp_teacher, "unet": unet_teacher, "exact": lambda: SNRDenoiser(LAW.denoise_y)}
every_teacher = pytest.mark.parametrize("name", TEACHERS)


def space_of(teacher, reference, *, cells=2**6, snr=(LOW, HIGH)):
    return PathSpace(getattr(teacher, "event", (3,)), snr, reference, cells, depth=4)


def make_student(teacher, reference, *, depth=2, cell="solver", **place):
    """Untrained; a denoiser that is none of our networks gets a small network that corrects it."""
    network = None
    if cell == "plain" or not isinstance(teacher, NetworkDenoiser):
        torch.manual_seed(1)
        network = MLP(3, width=16, blocks=1, conditions=2, extra=depth + (1 if cell == "plain" else 2))
    space = space_of(teacher, reference, **place)
    return SigDEG.from_teacher(teacher, space, depth=depth, network=network, cell=cell, sigma_data=0.8)


def along_the_path(student, denoiser, scheme, steps, rows=30):
    """x of a scheme on the paths of the student's seeds 0, ..., rows - 1."""
    sde, path = CanonicalSDE(denoiser, reference=student.space.reference), student.space.paths(rows)
    times = path.grid(steps)
    states = solve(sde, sde.start(path.initial_noise(), times[0]), times, scheme=scheme, path=path)
    return sde.noisy_data(states[-1], times[-1]).detach()


# --- untrained: the solver -----------------------------------------------------------------------------------------


@every_teacher
@pytest.mark.parametrize("kind, depth", [("none", 2), ("scalar", 4), ("pca", 2), ("pca", 3)])
def test_the_untrained_solver_cell_is_path_average_with_its_correction_at_once(name, kind, depth):
    teacher = TEACHERS[name]()
    student = make_student(teacher, (IMAGE_REFERENCES if name == "unet" else REFERENCES)[kind], depth=depth)
    for steps in (1, 5, 32):
        expected = along_the_path(student, teacher, StudentsStart(), steps)
        assert expected.abs().max() > 0.2
        torch.testing.assert_close(student.sample(30, steps).values, expected, rtol=1e-5, atol=1e-5)


@every_reference
@pytest.mark.parametrize("cell, depth", [("solver", 1), ("solver", 2), ("solver", 4), ("plain", 2)])
def test_the_untrained_step_is_that_of_an_untrained_cell_with_the_teacher(kind, cell, depth):
    """Also of a cell that is trained; a plain cell's network is a copy of the teacher's."""
    teacher = mlp_teacher()
    space = space_of(teacher, REFERENCES[kind])
    student, trained = (SigDEG.from_teacher(teacher, space, depth=depth, cell=cell) for _ in range(2))
    shaken(trained)
    sde, path = CanonicalSDE(teacher, reference=space.reference), space.paths(20)
    times = path.grid(3)
    u, signatures = space.start(path), path.partial_signatures(times)
    memory = student.cell.start(sde, times[0], u)
    with torch.no_grad():
        for k, noise in enumerate(student.cell.noise_by_step("additive", signatures)):
            step = sde, times[k], times[k + 1], u, memory, noise
            wanted, now = student.cell.advance(*step)
            found, other = trained.cell.untrained(*step)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(other, now, rtol=1e-4, atol=1e-4)
            assert (trained.cell.advance(*step)[0] - wanted).abs().max() > 1e-3
            u, memory = wanted, now


class IncrementAlone(StudentsStart):
    """The average of the path replaced by its mean given the increment, W/2."""

    def noise(self, structure, signatures):
        (scaled,) = super().noise(structure, signatures)
        return (torch.cat([scaled[:, :1], torch.zeros_like(scaled[:, 1:])], 1),)


@every_teacher
@every_reference
def test_at_depth_one_it_knows_the_increment_alone(name, kind):
    teacher = TEACHERS[name]()
    student = make_student(teacher, (IMAGE_REFERENCES if name == "unet" else REFERENCES)[kind], depth=1)
    for steps in (1, 7):
        values = student.sample(30, steps).values
        expected = along_the_path(student, teacher, IncrementAlone(), steps)
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
        assert (values - along_the_path(student, teacher, "path_average", steps)).abs().max() > 0.01


def told(denoise, calls):
    """A student that is none of our networks, and takes note of what it is told."""

    def student(y, snr, conditions, extra):
        calls.append((snr, conditions, extra))
        return denoise(y, snr)

    return student


@every_reference
def test_any_callable_is_a_student_also_in_double_precision(kind):
    """float32 in the coefficients limits the agreement."""
    law = Mixture(LAW.weights.double(), LAW.means.double(), LAW.covariances.double())
    single = REFERENCES[kind]
    basis = [orthogonal(3, 0, F64)] if single.basis else None
    reference = GaussianReference(single.mean.double(), single.variance.double(), basis)
    sde, calls = CanonicalSDE(SNRDenoiser(law.denoise_y), reference=reference), []
    path = BrownianPath(LOW, HIGH, (20, 3), seeds=range(20), depth=3, clock=sde.clock, cells=2**4, dtype=F64)
    start, times = sde.start(path.initial_noise(), LOW), path.grid(8)
    cell = SolverCell(told(SNRDenoiser(law.denoise_y), calls), 3, 0.8)
    states = [solve(sde, start, times, scheme=scheme, path=path) for scheme in (cell, StudentsStart())]
    torch.testing.assert_close(*[sde.noisy_data(s[-1], HIGH).detach() for s in states], rtol=1e-6, atol=1e-6)
    assert len(calls) == 8
    for (snr, conditions, extra), (start, end) in zip(calls, pairwise(times), strict=True):
        assert start < snr < end
        torch.testing.assert_close(conditions, step_conditions(start, end).double())
        assert extra.shape == (20, 4, 3)
        assert extra.dtype == F64


def test_the_conditions_tell_the_step():
    """Any two steps differ in them."""
    times = torch.logspace(-3, 3, 7, dtype=F64)
    found = torch.stack([step_conditions(a, b) for k, a in enumerate(times) for b in times[k + 1 :]])
    assert found.shape == (21, 2)
    assert found.dtype == torch.float32
    assert torch.pdist(found).min() > 0.1


# --- coefficients ----------------------------------------------------------------------------------------------------


def numbers(coefficients, start, end):
    """The fraction of a step where the denoiser is asked, and all other numbers, the weights of the xi_k last."""
    ends = (torch.tensor(time, dtype=F64) for time in (start, end))
    fraction, *others = coefficients(step_conditions(*ends))
    return fraction, torch.cat([values.reshape(-1) for values in others]).detach()


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_coefficients_start_as_the_solvers_numbers(depth):
    for start, end in ((LOW, HIGH), (1.0, 1.01), (3e-3, 5.0)):
        fraction, others = numbers(StepCoefficients(depth), start, end)
        assert fraction.item() == pytest.approx(1 / 3, abs=1e-15)
        expected = [0.5, -math.sqrt(1 / 12), 0.0, 0.0, 0.0][:depth]
        torch.testing.assert_close(others[-depth:], torch.tensor(expected), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_fraction_of_a_step_stays_inside(scale):
    generator = torch.Generator().manual_seed(0)
    found = []
    for seed in range(20):
        start, end = torch.exp(torch.rand(2, generator=generator).sort()[0] * 12 - 6).tolist()
        fraction, others = numbers(shaken(StepCoefficients(2), scale, seed), start, end)
        assert fraction.dtype == F64
        assert others.isfinite().all()
        found.append(fraction.item())
    assert min(found) >= 0
    assert max(found) <= 2 / 3
    assert max(found) - min(found) > 0.1


def test_coefficients_at_their_bounds_still_make_a_step():
    """An output of the network of -2 will do, as it is multiplied by 10."""
    student = make_student(SNRDenoiser(LAW.denoise_y), REFERENCES["scalar"])
    for value in (20.0, -20.0):
        with torch.no_grad():
            student.cell.coefficients.network[-1].bias[0] = value
        assert student.sample(3, 2).values.isfinite().all()


def test_whatever_the_coefficients_the_path_itself_enters_as_it_is():
    """For a denoiser that knows nothing the state stays the path."""
    cell = shaken(SolverCell(lambda y, snr, conditions, extra: torch.zeros_like(y), 2, 0.8), 0.3)
    sde = CanonicalSDE(SNRDenoiser(lambda y, snr: torch.zeros_like(y)))
    path = BrownianPath(LOW, HIGH, (20, 3), seeds=range(20), clock=sde.clock, cells=2**4, dtype=torch.float32)
    start = sde.start(path.initial_noise(), LOW)
    last = solve(sde, start, path.grid(8), scheme=cell, path=path)[-1].detach()
    torch.testing.assert_close(last, start + path.partial_signature(LOW, HIGH).increment, rtol=1e-5, atol=1e-4)


# --- the gate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "pca"])
@every_teacher
def test_a_trained_student_is_the_solver_where_steps_are_short(name, kind):
    """Whatever it learned vanishes with the step as fast as the solver's own error at least, N^-1.5: a factor of 8
    from N to 4 N. On few steps it is another generator."""
    teacher = TEACHERS[name]()
    reference = (IMAGE_REFERENCES if name == "unet" else REFERENCES)[kind]
    student = make_student(teacher, reference, cells=2**7, snr=(math.exp(-3), math.exp(3)))
    shaken(student.cell, 0.05)
    differences = {}
    for steps in (4, 32, 128):
        difference = student.sample(10, steps).values - along_the_path(student, teacher, "path_average", steps, rows=10)
        differences[steps] = difference.square().mean().sqrt().item()
    assert differences[4] > 0.03
    assert differences[32] / differences[128] > 8, differences
    assert differences[128] > 2e-5, differences  # above rounding, which would make the ratio mean nothing


def test_without_the_gate_what_was_learned_stays():
    """The comparison above would notice: another denoiser at all step lengths is another law."""
    teacher, reference = mlp_teacher(), REFERENCES["pca"]
    student = make_student(teacher, reference, cells=2**7, snr=(math.exp(-3), math.exp(3)))
    ungated = SolverCell(told(shaken(mlp_teacher(), 0.05), []), 2, 0.8)
    differences = [
        along_the_path(student, teacher, ungated, steps) - along_the_path(student, teacher, "path_average", steps)
        for steps in (32, 128)
    ]
    assert differences[0].square().mean() < 2 * differences[1].square().mean()


def test_the_teacher_inside_a_student_is_a_frozen_copy():
    teacher = mlp_teacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = make_student(teacher, REFERENCES["scalar"])
    assert not any(p.requires_grad for p in student.cell.denoiser.base.parameters())
    assert all(p.requires_grad for p in student.cell.denoiser.change)
    shaken(student, 1.0)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in teacher.parameters())


# --- gradients ---------------------------------------------------------------------------------------------------


def gradients(student, denoiser, steps=3):
    """Of a mean square of samples, by the name of what is trained."""
    sde, path = CanonicalSDE(denoiser, reference=student.space.reference), student.space.paths(6)
    times = path.grid(steps)
    last = solve(sde, sde.start(path.initial_noise(), times[0]), times, scheme=student.cell, path=path)[-1]
    sde.noisy_data(last, times[-1]).square().mean().backward()
    return {name: p.grad for name, p in student.named_parameters() if p.requires_grad}


@every_teacher
def test_gradients_reach_everything_that_is_trained(name):
    """At the start all but what lies behind a layer of zeros, once that has moved everything."""
    teacher = TEACHERS[name]()
    reference = (IMAGE_REFERENCES if name == "unet" else REFERENCES)["pca"]
    fresh = gradients(make_student(teacher, reference), teacher)
    for part in ("coefficients", "denoiser"):
        assert any((g != 0).any() for key, g in fresh.items() if key.startswith(f"cell.{part}"))
    moved = gradients(shaken(make_student(teacher, reference), 0.1), teacher)
    assert {key.split(".")[1] for key in moved} == {"coefficients", "denoiser"}
    for key, gradient in moved.items():
        assert gradient is not None, key
        assert gradient.isfinite().all(), key
        assert (gradient != 0).any(), key


def test_gradients_reach_all_of_a_plain_cell():
    student = shaken(make_student(SNRDenoiser(LAW.denoise_y), REFERENCES["pca"], cell="plain"), 0.1)
    for key, gradient in gradients(student, SNRDenoiser(LAW.denoise_y)).items():
        assert gradient.isfinite().all(), key
        assert (gradient != 0).any(), key


def test_a_corrected_denoiser_is_no_part_of_the_student():
    teacher = mlp_teacher()
    network = MLP(3, width=16, blocks=1, conditions=2, extra=4)
    student = make_student(teacher, REFERENCES["scalar"])
    corrected = SolverCell(CorrectedDenoiser(teacher, network, 0.8), 2, 0.8)
    assert sum(p.numel() for p in corrected.denoiser.parameters()) == sum(p.numel() for p in network.parameters())
    sde = CanonicalSDE(teacher, reference=student.space.reference)
    path = student.space.paths(30)
    start = sde.start(path.initial_noise(), LOW)
    last = solve(sde, start, path.grid(5), scheme=corrected, path=path)[-1].detach()
    expected = along_the_path(student, teacher, StudentsStart(), 5)
    torch.testing.assert_close(sde.noisy_data(last, HIGH), expected, rtol=1e-5, atol=1e-5)


# --- memory ----------------------------------------------------------------------------------------------------------


def second_step(cell, sde, memory):
    """u after a step from a fixed state, with a memory, and the memory then."""
    start, end = torch.tensor([0.5, 2.0], dtype=F64)
    h = sde.reference.step_length(start, end).float()
    noise = h.expand(1, 3).sqrt(), normal(2, 4, 3, seed=3)
    with torch.no_grad():
        return cell.advance(sde, start, end, normal(4, 3, seed=4), memory, noise)


@every_reference
@pytest.mark.parametrize("name", ["mlp", "exact"])
def test_a_trained_solver_cell_uses_its_last_estimate(name, kind):
    teacher = TEACHERS[name]()
    student = make_student(teacher, REFERENCES[kind])
    sde = CanonicalSDE(teacher, reference=student.space.reference)
    drift, estimate = normal(4, 3, seed=1), normal(4, 3, seed=2)

    def change():
        one, other = (second_step(student.cell, sde, (drift, factor * estimate))[0] for factor in (1, -1))
        return (one - other).abs().max()

    assert change() == 0  # untrained, the last drift alone counts
    moved = [second_step(student.cell, sde, (factor * drift, estimate))[0] for factor in (1, -1)]
    assert (moved[0] - moved[1]).abs().max() > 1e-3
    shaken(student.cell, 0.1)
    assert change() > 1e-3


@every_reference
def test_a_plain_cell_uses_its_memory_and_the_path(kind):
    student = make_student(SNRDenoiser(LAW.denoise_y), REFERENCES[kind], cell="plain")
    reference = student.space.reference
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=reference)
    shaken(student.cell, 0.1)
    one, other = (second_step(student.cell, sde, factor * normal(4, 3, seed=1)) for factor in (1, -1))
    assert (one[0] - other[0]).abs().max() > 1e-3
    # what it hands on is the estimate of the data, less their mean: it is all that moves the state beside the noise
    start, end = torch.tensor([0.5, 2.0], dtype=F64)
    h, u = reference.step_length(start, end).float(), normal(4, 3, seed=4)
    change = one[0] - u - h.sqrt() * normal(2, 4, 3, seed=3)[0]
    drift = reference.drift(one[1] + reference.mean, reference.from_reference(u, start), start)
    torch.testing.assert_close(change, h * drift, rtol=1e-4, atol=1e-5)
    values = student.sample(10, 4).values
    assert values.isfinite().all()
    solved = along_the_path(student, SNRDenoiser(LAW.denoise_y), student.cell, 4, rows=10)
    torch.testing.assert_close(values, solved, rtol=1e-5, atol=1e-5)
    assert (values - student.sample(range(10, 20), 4).values).abs().max() > 0.01


# --- untrained: Euler's scheme --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "unet"])
@pytest.mark.parametrize("kind", ["none", "scalar", "pca"])
def test_an_untrained_plain_cell_is_eulers_scheme(name, kind):
    teacher = TEACHERS[name]()
    reference = (IMAGE_REFERENCES if name == "unet" else REFERENCES)[kind]
    student = SigDEG.from_teacher(teacher, space_of(teacher, reference), depth=2, cell="plain")
    for steps in (1, 5, 32):
        expected = along_the_path(student, teacher, "dpm_solver_1", steps)
        assert expected.abs().max() > 0.2
        torch.testing.assert_close(student.sample(30, steps).values, expected, rtol=1e-5, atol=1e-5)


def test_a_plain_cell_of_another_denoiser_starts_with_gaussian_data():
    """N(0, sigma_data^2), for which `dpm_solver_1` is given the denoiser."""
    teacher = SNRDenoiser(LAW.denoise_y)
    student = SigDEG.from_teacher(teacher, space_of(teacher, REFERENCES["none"]), depth=1, cell="plain", sigma_data=0.8)
    expected = along_the_path(student, SNRDenoiser(lambda y, snr: 0.8**2 * y / (1 + 0.8**2 * snr)), "dpm_solver_1", 5)
    torch.testing.assert_close(student.sample(30, 5).values, expected, rtol=1e-4, atol=1e-5)


# --- memory where only the state is known ---------------------------------------------------------------------------

BEFORE, START = torch.tensor([0.3, 1.7], dtype=F64)
POINT = torch.tensor([0.5, -1.0], dtype=F64)
TURNED = GaussianReference(
    torch.tensor([0.2, -0.1], dtype=F64), torch.tensor([0.3, 0.9], dtype=F64), orthogonal(2, 3, F64)
)


def remembered_at_start(cell_type, reference):
    """Of data that are one point x_0: the SDE, a cell's memory at START, y there, and (y, SNR) of the estimate in it.

    y is tau x_0 + B, so that y at the earlier SNR s and at START have covariance s.
    """
    calls = []

    def denoise(y, snr):
        calls.append((y, snr))
        return POINT.expand_as(y)

    sde = CanonicalSDE(SNRDenoiser(denoise), reference=reference)
    generator = torch.Generator().manual_seed(0)
    y = START * POINT + START.sqrt() * torch.randn(10_000, 2, generator=generator, dtype=F64)
    u = sde.reference.to_reference(y, START)[0]
    memory = cell_type(told(denoise, []), 2, 0.8).memory_at(sde, BEFORE, START, u, generator)
    (estimate,) = calls
    return sde, memory, y, estimate


def assert_on_one_path(earlier, s, y):
    s, t = s.item(), START.item()
    joint = torch.cat([earlier - s * POINT, y - t * POINT], 1)
    covariance = torch.kron(torch.tensor([[s, s], [s, t]], dtype=F64), torch.eye(2, dtype=F64))
    check_gaussian(joint, covariance, false_alarm_rate=1e-6).assert_passed()


@pytest.mark.parametrize("reference", [GaussianReference(0.0, 0.0), TURNED], ids=["none", "pca"])
def test_a_solver_cell_remembers_an_estimate_on_the_same_path(reference):
    """False-alarm rate 1e-6."""
    sde, memory, y, (earlier, s) = remembered_at_start(SolverCell, reference)
    assert BEFORE < s < START
    assert_on_one_path(earlier, s, y)
    drift = sde.reference.drift(POINT.expand_as(y), earlier, s)
    torch.testing.assert_close(memory, (drift, POINT.expand_as(y) - reference.mean))


@pytest.mark.parametrize("reference", [GaussianReference(0.0, 0.0), TURNED], ids=["none", "pca"])
def test_a_plain_cell_remembers_the_estimate_of_the_step_before(reference):
    """False-alarm rate 1e-6."""
    _, memory, y, (earlier, s) = remembered_at_start(PlainCell, reference)
    assert s == BEFORE
    assert_on_one_path(earlier, s, y)
    torch.testing.assert_close(memory, POINT.expand_as(y) - reference.mean)


def test_memory_at_has_the_form_of_a_memory():
    for cell in ("solver", "plain"):
        student = make_student(SNRDenoiser(LAW.denoise_y), REFERENCES["pca"], cell=cell)
        sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=student.space.reference)
        memory = student.cell.memory_at(sde, BEFORE, START, normal(4, 3), torch.Generator().manual_seed(0))
        shapes = [[m.shape for m in (value if cell == "solver" else [value])] for value in (memory,)]
        start = student.cell.start(sde, BEFORE, normal(4, 3))
        assert shapes == [[m.shape for m in (start if cell == "solver" else [start])]]
        assert second_step(student.cell, sde, memory)[0].isfinite().all()


# --- refusals ------------------------------------------------------------------------------------------------------


def attempt(cell, sde=None, **path_options):
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y)) if sde is None else sde
    options = {"clock": SNRClock(), "cells": 2**4, "dtype": torch.float32} | path_options
    path = BrownianPath(LOW, HIGH, (2, 3), seeds=range(2), **options)
    return solve(sde, path.initial_noise(), path.grid(4), scheme=cell, path=path)


def solver_cell(depth=2):
    return SolverCell(told(SNRDenoiser(LAW.denoise_y), []), depth, 0.8)


def plain_cell(depth=2):
    return PlainCell(told(SNRDenoiser(LAW.denoise_y), []), depth, 0.8)


@pytest.mark.parametrize("make", [solver_cell, plain_cell])
@pytest.mark.parametrize(
    "call, match",
    [
        (
            lambda cell: attempt(cell, CanonicalSDE(SNRDenoiser(told, 0.5), eta=0.5), clock=SNRClock(power=0.25)),
            "Cell needs eta = 1; the SDE's is 0.5",
        ),
        (
            lambda cell: attempt(cell, CanonicalSDE(SNRDenoiser(told, 0.0), eta=0.0)),
            "Cell needs eta = 1; the SDE's is 0",
        ),
        (lambda cell: attempt(cell, depth=1), r"a path of depth >= 2; this one has depth 1"),
        (lambda cell: attempt(cell, clock=SNRClock(0.5)), "path must run in the SDE's `clock`"),
        (lambda cell: attempt(cell, clock=None), "path must run in the SDE's `clock`"),
        (lambda cell: attempt(cell, OrnsteinUhlenbeck()), "Cell needs a CanonicalSDE, a reverse diffusion"),
    ],
)
def test_cells_refuse_what_they_cannot_step(make, call, match):
    with pytest.raises(ValueError, match=match):
        call(make())


def test_a_shallow_cell_takes_a_shallow_path():
    assert attempt(solver_cell(1), depth=1).isfinite().all()


def test_a_student_that_changes_the_shape_is_refused():
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y))
    with pytest.raises((ValueError, RuntimeError)):
        attempt(SolverCell(lambda y, *rest: y[:, :2], 2, 0.8), sde)


def test_the_worked_example_of_a_step():
    """The numbers of the comment in `SolverCell.advance`."""
    shown = []

    def student(*inputs):
        shown.extend(inputs)
        return torch.full((1, 1), 0.8)

    cell, sde = SolverCell(student, 2, 1.0), CanonicalSDE(SNRDenoiser(LAW.denoise_y))
    start, end = torch.tensor([1.0, 4.0], dtype=torch.float64)
    noise = torch.tensor(3.0).sqrt(), torch.tensor([1.0, 0.0]).reshape(2, 1, 1)
    memory = torch.full((1, 1), 0.5), torch.full((1, 1), 0.5)
    u, memory = cell.advance(sde, start, end, torch.ones(1, 1), memory, noise)
    y, time, conditions, extra = (value.flatten().tolist() for value in shown)
    assert y == pytest.approx([2.366], abs=1e-3)
    assert time == pytest.approx([2.0])
    assert conditions == pytest.approx([0.0, math.log(4) / 8])
    assert extra == pytest.approx([0.5**0.5, 0.0, 0.5])
    assert u.item() == pytest.approx(5.233, abs=1e-3)
    assert [value.item() for value in memory] == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: solver_cell(0), ValueError, "depth must be >= 1; got 0"),
        (lambda: plain_cell(0), ValueError, "depth must be >= 1; got 0"),
        (lambda: SolverCell(SNRDenoiser(LAW.denoise_y), 2.0, 0.8), TypeError, "depth must be an integer; got 2.0"),
        (lambda: SolverCell(SNRDenoiser(LAW.denoise_y), 2, 0.0), ValueError, "sigma_data must be a finite number > 0"),
        (
            lambda: PlainCell(told(SNRDenoiser(LAW.denoise_y), []), 2, math.nan),
            ValueError,
            "sigma_data must be a finite number > 0",
        ),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()
