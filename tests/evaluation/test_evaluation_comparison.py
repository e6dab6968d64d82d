"""All samplers on one Brownian path: pathwise errors, DDIM by hand, and one path in the clocks of two references."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sdesig.brownian import BrownianPath
from sdesig.convergence import fit_strong
from sdesig.evaluation.comparison import (
    Comparison,
    OtherSampler,
    Outcome,
    Sampler,
    baselines,
    generator_sampler,
    share_apart,
    spread_of,
)
from sdesig.sampling import CanonicalSDE, DPMSolver1, GaussianReference, PathAverage, PathSpace, SNRDenoiser, StepGrid
from sdesig.sampling.error_statistics import root_mean_square
from sdesig.sampling.reclock import reclock
from sdesig.sampling.step_grid import EVEN
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, SigDEG
from sdesig.signature.partial_signature import join_steps
from sdesig.solvers.driver import run_steps
from sdesig.testing import check_gaussian

F64 = torch.float64
LOW, HIGH = math.exp(-4), math.exp(4)
LAW = Mixture.circle(1.0, 0.3, dtype=torch.float32)
DOUBLE = Mixture.circle(1.0, 0.3, dtype=F64)
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)


def reference(kind, dtype=torch.float32):
    if kind == "none":
        return GaussianReference(0.0, 0.0)
    if kind == "mean":
        return GaussianReference(torch.tensor([0.1, -0.2], dtype=dtype), 0.0)
    if kind == "scalar":
        return GaussianReference(torch.tensor([0.1, -0.2], dtype=dtype), 0.6)
    mean, variance = torch.tensor([0.1, -0.2], dtype=dtype), torch.tensor([0.3, 0.9], dtype=dtype)
    return GaussianReference(mean, variance, TURN.to(dtype))


every_reference = pytest.mark.parametrize("kind", ["none", "scalar", "pca"])


def space(kind="scalar", levels=7, grid=EVEN):
    return PathSpace((2,), (LOW, HIGH), reference(kind), levels=levels, grid=grid)


def student(kind="scalar", depth=2, levels=7, grid=EVEN):
    torch.manual_seed(0)
    network = MLP(2, width=8, blocks=1, conditions=2, extra=depth + 2)
    return SigDEG.from_teacher(
        SNRDenoiser(LAW.denoise_y), space(kind, levels, grid), depth=depth, network=network, sigma_data=0.8
    )


def comparison(kind="scalar", levels=7, **options):
    """On the paths that a generator of this reference has."""
    return Comparison(SNRDenoiser(LAW.denoise_y), space(kind, levels), **{"truth_steps": 128} | options)


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    """Seconds are another test's subject."""
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: math.nan)


def by_name(outcomes):
    return {(outcome.sampler.name, outcome.steps): outcome for outcome in outcomes}


# --- the comparison --------------------------------------------------------------------------------------------------


@every_reference
def test_every_error_falls_with_the_steps(kind):
    """Of all samplers at eta = 1, with the reference or without: they see one Brownian path."""
    samplers = [*baselines(), generator_sampler("untrained", student(kind))]
    truth, outcomes = comparison(kind).run([(sampler, (8, 32)) for sampler in samplers], range(200))
    found = by_name(outcomes)
    assert len(found) == len(outcomes) == 2 * len(samplers)
    spread = truth.std().item()
    assert spread > 0.5
    for sampler in samplers:
        coarse, fine = (found[sampler.name, steps] for steps in (8, 32))
        if sampler.eta == 0:
            continue
        assert fine.rmse[0] < coarse.rmse[0] / 2, sampler.name
        assert fine.rmse[0] < 0.1 * spread, sampler.name
        assert coarse.rmse[1] < 0.2 * coarse.rmse[0]


def test_errors_are_distances_to_the_truth():
    truth, outcomes = comparison().run([(Sampler("euler", DPMSolver1()), (16,))], range(50))
    (outcome,) = outcomes
    expected = ((outcome.samples - truth).square().sum(1) / 2).sqrt()
    torch.testing.assert_close(outcome.errors, expected)
    assert outcome.rmse == root_mean_square(outcome.errors)
    assert outcome.samples.shape == truth.shape == (50, 2)


@every_reference
def test_the_truth_is_path_average_with_the_reference_in_many_steps(kind):
    sampler = Sampler("same", PathAverage(), referenced=True)
    truth, outcomes = comparison(kind).run([(sampler, (128, 64))], range(20))
    assert torch.equal(outcomes[0].samples, truth)
    assert outcomes[0].rmse == (0.0, 0.0)
    assert outcomes[1].rmse[0] > 1e-5


@every_reference
@pytest.mark.parametrize("steps", [4, 32])
def test_generators_are_compared_on_the_paths_that_they_sample(kind, steps):
    """An untrained one, which is path-average with the reference, and a trained one."""
    untrained, trained = student(kind), student(kind)
    with torch.no_grad():
        for p in trained.cell.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    seeds = [3, 8, 2**40]
    plan = [
        (Sampler("path-average", PathAverage(), referenced=True), (steps,)),
        (generator_sampler("untrained", untrained), (steps,)),
        (generator_sampler("trained", trained), (steps,)),
    ]
    _, (average, one, other) = comparison(kind).run(plan, seeds)
    torch.testing.assert_close(average.samples, untrained.sample(seeds, steps).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.samples, average.samples, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.samples, trained.sample(seeds, steps).values, rtol=1e-4, atol=1e-4)
    assert (other.samples - one.samples).abs().max() > 1e-3
    assert (one.sampler.depth, average.sampler.depth) == (2, None)


def test_a_generator_without_a_reference_is_compared_on_the_same_paths():
    """In the clock of B, though the paths run in that of a reference: untrained it is path-average without one."""
    plan = [(generator_sampler("untrained", student("mean")), (16,)), (Sampler("path-average", PathAverage()), (16,))]
    truth, (one, other) = comparison("scalar").run(plan, range(20))
    torch.testing.assert_close(one.samples, other.samples, rtol=1e-4, atol=1e-4)
    assert one.rmse[0] < 0.2 * truth.std()


def test_a_generator_keeps_its_grid():
    skewed = StepGrid((0.0, 0.25, 1.0))
    generator = student(grid=skewed)
    _, (outcome,) = comparison().run([(generator_sampler("skewed", generator), (8,))], range(5))
    torch.testing.assert_close(outcome.samples, generator.sample(5, 8).values, rtol=1e-4, atol=1e-4)
    assert (outcome.samples - generator.sample(5, 8, grid=StepGrid()).values).abs().max() > 1e-3


@pytest.mark.parametrize("batch", [7, 20])
def test_samples_do_not_depend_on_the_batch(batch):
    plan = [(sampler, (8,)) for sampler in baselines()]
    one, other = (comparison("pca", batch=size).run(plan, range(20)) for size in (250, batch))
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    for first, second in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(first.samples, second.samples, rtol=1e-5, atol=1e-5)


def test_samples_are_functions_of_their_seeds():
    plan = [(Sampler("euler", DPMSolver1()), (8,))]
    _, (whole,) = comparison().run(plan, range(10))
    _, (part,) = comparison().run(plan, [7, 2])
    torch.testing.assert_close(part.samples, whole.samples[[7, 2]], rtol=1e-5, atol=1e-5)


# --- samplers by hand ------------------------------------------------------------------------------------------------


def x_at_the_start(kind, path):
    """x = y/tau of the states where all samplers start: u = sqrt(v) times the initial noise."""
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=reference(kind))
    return sde.noisy_data(sde.start(path.initial_noise(), LOW), LOW)


@every_reference
@pytest.mark.parametrize("steps", [5, 32])
def test_ddim_by_hand(kind, steps):
    """In EDM's x at sigma = 1/sqrt(SNR): x' = D + sigma'/sigma (x - D). It has another limit than the paths."""
    (ddim,) = [sampler for sampler in baselines() if sampler.eta == 0]
    _, (outcome,) = comparison(kind).run([(ddim, (steps,))], range(30))
    path = space(kind).paths(30)
    x, times = x_at_the_start(kind, path), path.grid(steps)
    for tau, end in pairwise(times):
        denoised = LAW.denoise_y(tau.float() * x, tau)
        x = denoised + (tau / end).sqrt().float() * (x - denoised)
    torch.testing.assert_close(outcome.samples, x, rtol=1e-4, atol=1e-4)
    assert outcome.errors is None
    assert all(math.isnan(value) for value in outcome.rmse)


@pytest.mark.parametrize("kind", ["scalar", "pca"])
def test_euler_without_the_reference_by_hand(kind):
    """y' = y + D dtau + dB, where B on every fine cell is int (1 + c tau) dM, here with the factor at its middle:
    both agree to the square of the cells' length."""
    steps = 4
    _, (outcome,) = comparison(kind, levels=11).run([(Sampler("euler", DPMSolver1()), (steps,))], range(30))
    made = space(kind, levels=11)
    path = made.paths(30)
    fine = path.grid(2**11)
    cells = path.partial_signatures(fine)
    middle = (fine[:-1] * fine[1:]).sqrt().reshape(-1, 1, 1)
    scaled = (cells.increment * (1 + made.reference.variance * middle)).float()
    rotated = torch.stack([made.reference.from_basis(db) for db in scaled])
    increments = rotated.unflatten(0, (steps, -1)).sum(1)
    y = LOW * x_at_the_start(kind, path)
    for (tau, end), db in zip(pairwise(path.grid(steps)), increments, strict=True):
        y = y + (end - tau).float() * LAW.denoise_y(y, tau) + db
    torch.testing.assert_close(outcome.samples, y / HIGH, rtol=0, atol=2e-3)
    _, (other,) = comparison(kind, levels=11).run([(Sampler("euler", DPMSolver1()), (steps,))], range(30, 60))
    assert (other.samples - y / HIGH).abs().max() > 0.1


# --- seconds, progress, refusals -------------------------------------------------------------------------------------


def test_seconds_are_measured_of_every_kind_of_sampler(monkeypatch):
    monkeypatch.undo()
    made = comparison("pca")
    samplers = [
        Sampler("ddim", DPMSolver1(), eta=0.0),
        Sampler("euler", DPMSolver1()),
        generator_sampler("g", student("pca")),
    ]
    for sampler in samplers:
        assert 0 < made.seconds_per_1000(sampler, 2) < 60
    _, (outcome,) = made.run([(samplers[1], (2,))], range(3))
    assert 0 < outcome.seconds_per_1000 < 60


@pytest.mark.parametrize("numbers", [1 << 20, 5 * 2 * 4 * 3], ids=["at once", "three steps at once"])
def test_what_is_timed_is_what_is_compared(numbers, monkeypatch):
    monkeypatch.setattr("sdesig._memory.NUMBERS_AT_ONCE", 4 * numbers)
    made, sampler = comparison(), generator_sampler("g", student())
    (samples,) = made.follow([(sampler, 10)], range(5))
    torch.testing.assert_close(made._sampled(sampler, 10, range(5)), samples, rtol=0, atol=1e-4)


def test_a_gpu_is_timed_on_a_batch_after_an_untimed_call(monkeypatch):
    monkeypatch.undo()
    made, drawn = comparison(batch=40), []
    other = OtherSampler("other", lambda y, steps: drawn.append(len(y)) or y)
    made.seconds_per_1000(other, 1000)
    made.seconds_per_1000(other, 2)
    assert drawn == [50, 500]
    monkeypatch.setattr(PathSpace, "device", property(lambda self: FakeCUDA()))
    monkeypatch.setattr(Comparison, "start", lambda self, seeds: torch.zeros(len(seeds), 2))
    made.seconds_per_1000(other, 1000)
    assert drawn == [50, 500, 40, 40]


class FakeCUDA:
    """A device by its type alone."""

    type = "cuda"


def test_samplers_that_follow_no_path_are_compared():
    """They start where all samplers do, and have no errors."""
    made, seen = comparison(batch=4), []

    def draw(y, steps):
        seen.append(y)
        return y * steps

    other, euler = OtherSampler("other", draw, evaluations=2), Sampler("euler", DPMSolver1())
    _, (one, two, three) = made.run([(euler, (2,)), (other, (3, 500))], range(6))
    assert torch.equal(two.samples, 3 * torch.cat(seen[::2]))
    assert torch.equal(torch.cat(seen[::2]), torch.cat([made.start(range(4)), made.start(range(4, 6))]))
    assert (two.errors, two.seeds_apart, three.steps) == (None, None, 500)
    assert one.errors is not None
    with pytest.raises(ValueError, match=r"odd must draw samples of shape \(6, .*\); it drew \(5, "):
        comparison().run([(OtherSampler("odd", lambda y, steps: y[1:]), (1,))], range(6))
    with pytest.raises(ValueError, match="steps must be >= 1; got 0"):
        made.run([(other, (0,))], range(2))


def test_the_share_of_seeds_that_end_apart():
    """Of a mixture of modes +-2 and a sampler that is off by a third of a mode, but for two seeds of eight that end in
    the other one: the mean square hardly tells them, the share does."""
    made = comparison()
    converged, outcomes = made.run([(Sampler("euler", DPMSolver1()), (2, 128))], range(40))
    spread = spread_of(converged)
    assert spread == pytest.approx(converged.flatten(1).double().var(0).mean().sqrt().item(), rel=1e-12)
    for outcome in outcomes:
        assert outcome.seeds_apart == (outcome.errors > spread / 2).double().mean().item()
    assert outcomes[0].seeds_apart > outcomes[1].seeds_apart
    modes = torch.tensor([2.0, -2.0] * 4)[:, None] * torch.ones(8, 3)
    ends = torch.where(torch.arange(8)[:, None] < 2, -modes, modes + 0.7)
    errors = Sampler("by hand", DPMSolver1()).errors(ends, modes)
    assert share_apart(errors, spread_of(modes)) == 0.25
    assert share_apart(None, 1.0) is None
    assert share_apart(errors[:1], spread_of(modes[:1])) is None


def test_progress_counts_the_seeds():
    done = []
    comparison(batch=4).run([(Sampler("euler", DPMSolver1()), (2,))], range(10), done.append)
    assert done == [4, 8, 10]


def test_outcomes_without_errors_have_no_root_mean_square():
    outcome = Outcome(Sampler("ddim", DPMSolver1(), eta=0.0), 3, torch.zeros(2, 2), None)
    assert all(math.isnan(value) for value in outcome.rmse)


@pytest.mark.parametrize("steps", [129, 0])
def test_more_steps_than_cells_are_refused(steps):
    with pytest.raises(ValueError, match=rf"steps must be in \[1, 128\]; got {steps}"):
        comparison().run([(Sampler("euler", DPMSolver1()), (4, steps))], range(3))


# --- one path in two clocks ------------------------------------------------------------------------------------------


def make_path(kind, rows, *, levels=10, depth=4, seed=0):
    sde = CanonicalSDE(SNRDenoiser(DOUBLE.denoise_y), reference=reference(kind, F64))
    seeds = range(seed, seed + rows)
    return BrownianPath(LOW, HIGH, (rows, 2), seeds=seeds, depth=depth, clock=sde.clock, levels=levels, dtype=F64)


@pytest.mark.parametrize("variance", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("levels", [2, 6])
def test_to_the_same_clock_it_is_the_identity(variance, levels):
    own = GaussianReference(0.3, variance)
    clock = CanonicalSDE(SNRDenoiser(DOUBLE.denoise_y), reference=own).clock
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), depth=5, clock=clock, levels=levels, dtype=F64)
    times = path.grid(2**levels)
    cells = path.partial_signatures(times)
    same = reclock(cells, times, own, variance)
    torch.testing.assert_close(same.coefficients, cells.coefficients, rtol=0, atol=1e-12)
    torch.testing.assert_close(same.h.expand(cells.shape), cells.h.expand(cells.shape), rtol=1e-12, atol=0)


def test_a_basis_is_left_behind():
    """M' lives in the coordinates of the data: with variance 0 in the basis it is M, turned."""
    own = GaussianReference(0.0, torch.zeros(2, dtype=F64), TURN)
    clock = CanonicalSDE(SNRDenoiser(DOUBLE.denoise_y), reference=own).clock
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), depth=3, clock=clock, levels=4, dtype=F64)
    times = path.grid(16)
    cells = path.partial_signatures(times)
    turned = reclock(cells, times, own)
    torch.testing.assert_close(turned.coefficients, cells.coefficients @ TURN.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "pca"])
@pytest.mark.parametrize("variance", [0.0, 2.0])
def test_lengths_are_those_of_the_other_clock(kind, variance):
    path = make_path(kind, 3, levels=5)
    times = path.grid(32)
    moved = reclock(path.partial_signatures(times), times, reference(kind, F64), variance)
    expected = (times / (1 + variance * times)).diff()
    torch.testing.assert_close(moved.h.expand(32, 3, 2), expected.reshape(-1, 1, 1).expand(32, 3, 2), rtol=1e-9, atol=0)
    assert (moved.shape, moved.depth, moved.dtype) == ((32, 3, 2), 4, F64)


@pytest.mark.parametrize("kind", ["scalar", "pca"])
@pytest.mark.parametrize("variance", [0.0, 2.0])
def test_increments_by_sums_over_fine_cells(kind, variance):
    """dM' = (1 + c tau)/(1 + c' tau) dM, with the ratio at the middle of 2^14 cells: first and second coefficients on
    64 cells agree to the length of the fine ones, 1/256 of the others."""
    own, path = reference(kind, F64), make_path(kind, 4, levels=14)
    fine, coarse = path.grid(2**14), path.grid(64)
    found = reclock(path.partial_signatures(coarse), coarse, own, variance)
    middle = (fine[:-1] * fine[1:]).sqrt().reshape(-1, 1, 1)
    small = path.partial_signatures(fine).increment * (1 + own.variance * middle) / (1 + variance * middle)
    small = small @ TURN.mT if kind == "pca" else small
    clock = fine / (1 + variance * fine)
    length = clock[::256].diff()
    position = ((clock[:-1] + clock[1:]) / 2).unflatten(0, (64, 256)) - clock[:-1:256, None]
    slope = math.sqrt(3) * (2 * position / length[:, None] - 1)
    root = length.sqrt().reshape(-1, 1, 1)
    first = small.unflatten(0, (64, 256)).sum(1) / root
    second = (small.unflatten(0, (64, 256)) * slope[:, :, None, None]).sum(1) / root
    assert (found.coefficients[0] - first).abs().max() < 1e-3
    assert (found.coefficients[1] - second).abs().max() < 2e-2
    assert (found.coefficients[1] - second).square().mean().sqrt() < 5e-3


@pytest.mark.parametrize("kind", ["scalar", "pca"])
def test_reclocked_coefficients_are_independent_normals(kind):
    """On two neighbouring cells of 2^6; false-alarm rate 1e-6. The map is orthogonal to 2e-3, which is a fifth of a
    standard error of the variances here."""
    path = make_path(kind, 20_000, levels=6, depth=3)
    times = path.grid(64)[30:33]
    moved = reclock(path.partial_signatures(times), times, reference(kind, F64))
    values = moved.coefficients.permute(2, 0, 1, 3).flatten(1)
    check_gaussian(values, torch.eye(12, dtype=F64), false_alarm_rate=1e-6).assert_passed()


def test_there_and_back_again():
    """To B and from there to the first clock: the lower coefficients return, the deepest is the least accurate."""
    own, path = reference("scalar", F64), make_path("scalar", 10, levels=7)
    times = path.grid(128)
    cells = path.partial_signatures(times)
    there = reclock(cells, times, own)
    back = reclock(there, times, GaussianReference(0.0, 0.0), 0.6)
    errors = (back.coefficients - cells.coefficients).square().flatten(1).mean(1).sqrt()
    assert errors[0] < 1e-5
    assert (errors[1:] > errors[:-1]).all()
    assert errors[-1] < 0.1


def differences(kind, steps, paths=200, variance=0.0, seed=None):
    """|x - x'| by path-average with a reference and with N(mu, variance) on the reclocked path, per level and path."""
    own, other = reference(kind, F64), GaussianReference(reference(kind, F64).mean, variance)
    path = make_path(kind, paths)
    sdes = [CanonicalSDE(SNRDenoiser(DOUBLE.denoise_y), reference=r) for r in (own, other)]
    start = sdes[0].start(path.initial_noise(), LOW)
    y = own.from_reference(start, LOW)
    times = path.grid(1024)
    cells = path.partial_signatures(times)
    moved = reclock(
        cells if seed is None else make_path(kind, paths, seed=seed).partial_signatures(times), times, own, variance
    )
    errors = []
    for n in steps:
        ends = np.arange(0, 1025, 1024 // n).tolist()
        x = []
        for sde, u, signature in zip(sdes, (start, other.to_reference(y, LOW)[0]), (cells, moved), strict=True):
            joined = join_steps(signature, ends)
            last = run_steps(PathAverage(), sde, "additive", u, times[ends], [joined])[-1]
            x.append(sde.noisy_data(last, HIGH))
        errors.append((x[0] - x[1]).norm(dim=1))
    return torch.stack(errors)


@pytest.mark.parametrize("kind, variance", [("scalar", 0.0), ("pca", 0.0), ("pca", 0.5)])
def test_two_clocks_converge_to_one_path(kind, variance):
    """Path-average has order 1.5 in both, hence so has the difference: 2^6, 2^8 and 2^10 steps, a slope of 1.35 at
    least. Seeded; the half-width of the interval is below .15."""
    steps = (64, 256, 1024)
    errors = differences(kind, steps, variance=variance)
    sizes = errors.square().mean(1).sqrt()
    assert sizes[-1] < 1e-3
    estimate = fit_strong(errors, steps)
    assert estimate.order > 1.35, estimate
    assert estimate.half_width < 0.15, estimate


def test_another_path_does_not_converge():
    sizes = differences("scalar", (64, 256), seed=1000).square().mean(1).sqrt()
    assert sizes.min() > 0.3
