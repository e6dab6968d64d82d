"""All samplers on one Brownian path: pathwise errors, DDIM by hand, and one path in the clocks of two references."""

import math
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from students_start import StudentsStart

from sdesig.brownian import BrownianPath
from sdesig.convergence import fit_strong
from sdesig.evaluation import (
    CONVERGED,
    FEW_STEP,
    TRAINING_FREE,
    Comparison,
    Sampler,
    SampleStore,
    few_step_peers,
    generator_sampler,
    pathwise_errors,
    root_mean_square,
    share_apart,
    spread_of,
    training_free,
)
from sdesig.sampling import CanonicalSDE, DPMSolver1, GaussianReference, PathAverage, PathSpace, SNRDenoiser, StepGrid
from sdesig.sampling.lockstep import reclock
from sdesig.sampling.path_space import EVEN
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


def space(kind="scalar", cells=2**7, grid=EVEN):
    return PathSpace((2,), (LOW, HIGH), reference(kind), cells=cells, grid=grid, depth=4, slack=0.0)


def student(kind="scalar", depth=2, cells=2**7, grid=EVEN):
    torch.manual_seed(0)
    network = MLP(2, width=8, blocks=1, conditions=2, extra=depth + 2)
    return SigDEG.from_teacher(
        SNRDenoiser(LAW.denoise_y), space(kind, cells, grid), depth=depth, network=network, sigma_data=0.8
    )


def comparison(kind="scalar", cells=2**7, **options):
    """On the paths that a generator of this reference has."""
    return Comparison(SNRDenoiser(LAW.denoise_y), space(kind, cells), **{"truth_steps": 128} | options)


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    """Seconds are another test's subject."""
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: math.nan)


def euler(*steps, **options):
    return Sampler("euler", "euler", steps, **{"scheme": DPMSolver1()} | options)


def followed(made, samplers, seeds):
    """The store with the samples of a comparison."""
    store = SampleStore(made, samplers, seeds)
    store.make(progress=False)
    return store


def rmse(store, key, steps):
    return root_mean_square(store.errors(key, steps))


# --- the comparison --------------------------------------------------------------------------------------------------


@every_reference
def test_every_error_falls_with_the_steps(kind):
    """Of all samplers at eta = 1, with the reference or without: they see one Brownian path."""
    samplers = [
        *training_free(space(kind), (8, 32)).values(),
        generator_sampler("untrained", student(kind), (8, 32)),
    ]
    store = followed(comparison(kind), samplers, range(200))
    assert len(store.pairs) == 1 + 2 * len(samplers)
    spread = store.converged.std().item()
    assert spread > 0.5
    for sampler in samplers:
        if sampler.eta == 0:
            continue
        coarse, fine = (rmse(store, sampler.key, steps) for steps in (8, 32))
        assert fine[0] < coarse[0] / 2, sampler.key
        assert fine[0] < 0.1 * spread, sampler.key
        assert coarse[1] < 0.2 * coarse[0]


def test_errors_are_distances_to_the_truth():
    store = followed(comparison(), [euler(16)], range(50))
    expected = ((store.samples("euler", 16) - store.converged).square().sum(1) / 2).sqrt()
    torch.testing.assert_close(store.errors("euler", 16), expected)
    assert store.samples("euler", 16).shape == store.converged.shape == (50, 2)
    assert torch.equal(store.samples(CONVERGED, 128), store.converged)
    assert store.errors(CONVERGED, 128) is None


@every_reference
def test_the_truth_is_path_average_with_the_reference_in_many_steps(kind):
    sampler = Sampler("same", "same", (128, 64), scheme=PathAverage(correction=0.0), referenced=True)
    store = followed(comparison(kind), [sampler], range(20))
    assert torch.equal(store.samples("same", 128), store.converged)
    assert rmse(store, "same", 128) == (0.0, 0.0)
    assert rmse(store, "same", 64)[0] > 1e-5


@every_reference
@pytest.mark.parametrize("steps", [4, 32])
def test_generators_are_compared_on_the_paths_that_they_sample(kind, steps):
    """An untrained one, which is known, and a trained one."""
    untrained, trained = student(kind), student(kind)
    with torch.no_grad():
        for p in trained.cell.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    seeds = [3, 8, 2**40]
    samplers = [
        replace(training_free(space(kind), (steps,))["path-average-reference"], scheme=StudentsStart()),
        generator_sampler("untrained", untrained, (steps,)),
        generator_sampler("trained", trained, (steps,)),
    ]
    store = followed(comparison(kind), samplers, seeds)
    average, one, other = (store.samples(sampler.key, steps) for sampler in samplers)
    torch.testing.assert_close(average, untrained.sample(seeds, steps).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one, average, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other, trained.sample(seeds, steps).values, rtol=1e-4, atol=1e-4)
    assert (other - one).abs().max() > 1e-3
    assert [sampler.depth for sampler in samplers] == [None, 2, 2]


def test_a_generator_without_a_reference_is_compared_on_the_same_paths():
    """In the clock of B, though the paths run in that of a reference: untrained it is path-average without one."""
    samplers = [
        generator_sampler("untrained", student("mean"), (16,)),
        replace(training_free(space("scalar"), (16,))["path-average"], scheme=StudentsStart(), grid=EVEN),
    ]
    store = followed(comparison("scalar"), samplers, range(20))
    one, other = (store.samples(sampler.key, 16) for sampler in samplers)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert rmse(store, "untrained", 16)[0] < 0.2 * store.converged.std()


def test_a_generator_keeps_its_grid():
    skewed = StepGrid((0.0, 0.25, 1.0))
    generator = student(grid=skewed)
    samples = followed(comparison(), [generator_sampler("skewed", generator, (8,))], range(5)).samples("skewed", 8)
    torch.testing.assert_close(samples, generator.sample(5, 8).values, rtol=1e-4, atol=1e-4)
    assert (samples - generator.sample(5, 8, grid=StepGrid()).values).abs().max() > 1e-3


def test_the_best_scheme_is_also_on_the_grid_of_the_space():
    """By one of the keys that the command line has, in the same order."""
    skewed = StepGrid((0.0, 0.25, 1.0))
    assert [*training_free(space(grid=skewed), (4,))] == [*TRAINING_FREE]
    assert [*training_free(space(), (4,))] == [key for key in TRAINING_FREE if key != "path-average-grid"]
    grids = {key: sampler.grid for key, sampler in training_free(space(grid=skewed), (4,)).items()}
    assert grids.pop("path-average-grid") == grids.pop("path-average-flow") == skewed
    assert grids.pop("path-average") == StepGrid.karras(space().snr)
    assert set(grids.values()) == {EVEN}
    free = training_free(space(grid=StepGrid(free=0.4, fall=0.1)), (4,))["path-average"].grid
    assert (free.quantiles, free.free, free.fall) == (StepGrid.karras(space().snr).quantiles, 0.4, 0.1)


def test_few_step_peers_are_on_both_grids_and_stand_beside_the_others():
    """Those that follow the path of a seed are the stochastic ones, but for one with noise of its own."""
    made = few_step_peers(space(), (4,))
    assert [*made] == [key + end for key in FEW_STEP for end in ("", "-karras")]
    assert all(key == sampler.key for key, sampler in made.items())
    karras = StepGrid.karras((LOW, HIGH))
    assert all(sampler.grid == (karras if key.endswith("-karras") else EVEN) for key, sampler in made.items())
    follow = {key for key in FEW_STEP if made[key].follows}
    assert follow == {"euler", "sde-dpm++2m", "sde-dpm++3m", "seeds-2"}
    assert {key for key in FEW_STEP if made[f"{key}-karras"].follows} == follow
    comparison().check([*(training_free(space(), (4,)) | made).values()])
    for key in FEW_STEP.keys() & TRAINING_FREE.keys():
        assert replace(training_free(space(), (4,))[key], scheme=made[key].scheme) == made[key]


def test_few_step_peers_approach_the_path_or_a_limit_of_their_own():
    """In 64 steps of 128, twice as near as in 16 for those that follow; the rest moves by less than before."""
    samplers = [*few_step_peers(space(), (16, 32, 64)).values()]
    store = followed(comparison(), samplers, range(50))
    for sampler in samplers:
        key = sampler.key
        if sampler.follows:
            assert rmse(store, key, 64)[0] < 0.5 * rmse(store, key, 16)[0]
        else:
            assert store.errors(key, 64) is None
            first, last = (store.samples(key, n) - store.samples(key, m) for n, m in ((16, 32), (32, 64)))
            assert last.square().mean() < first.square().mean()


@pytest.mark.parametrize("batch", [7, 20])
def test_samples_do_not_depend_on_the_batch(batch):
    samplers = training_free(space("pca"), (8,))
    one, other = (followed(comparison("pca", batch=size), [*samplers.values()], range(20)) for size in (250, batch))
    torch.testing.assert_close(one.converged, other.converged, rtol=1e-5, atol=1e-5)
    for key in samplers:
        torch.testing.assert_close(one.samples(key, 8), other.samples(key, 8), rtol=1e-5, atol=1e-5)


def test_samples_are_functions_of_their_seeds():
    whole, part = (followed(comparison(), [euler(8)], seeds).samples("euler", 8) for seeds in (range(10), [7, 2]))
    torch.testing.assert_close(part, whole[[7, 2]], rtol=1e-5, atol=1e-5)


# --- samplers by hand ------------------------------------------------------------------------------------------------


def x_at_the_start(kind, path):
    """x = y/tau of the states where all samplers start: u = sqrt(v) times the initial noise."""
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=reference(kind))
    return sde.noisy_data(sde.start(path.initial_noise(), LOW), LOW)


@every_reference
@pytest.mark.parametrize("steps", [5, 32])
def test_ddim_by_hand(kind, steps):
    """In EDM's x at sigma = 1/sqrt(SNR): x' = D + sigma'/sigma (x - D). It has another limit than the paths."""
    ddim = training_free(space(kind), (steps,))["ddim"]
    store = followed(comparison(kind), [ddim], range(30))
    path = space(kind).paths(30)
    x, times = x_at_the_start(kind, path), path.grid(steps)
    for tau, end in pairwise(times):
        denoised = LAW.denoise_y(tau.float() * x, tau)
        x = denoised + (tau / end).sqrt().float() * (x - denoised)
    torch.testing.assert_close(store.samples("ddim", steps), x, rtol=1e-4, atol=1e-4)
    assert store.errors("ddim", steps) is None


@pytest.mark.parametrize("kind", ["scalar", "pca"])
def test_euler_without_the_reference_by_hand(kind):
    """y' = y + D dtau + dB, where B on every fine cell is int (1 + c tau) dM, here with the factor at its middle:
    both agree to the square of the cells' length."""
    steps = 4
    store = followed(comparison(kind, cells=2**11), [euler(steps)], range(30))
    made = space(kind, cells=2**11)
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
    torch.testing.assert_close(store.samples("euler", steps), y / HIGH, rtol=0, atol=2e-3)
    other = followed(comparison(kind, cells=2**11), [euler(steps)], range(30, 60))
    assert (other.samples("euler", steps) - y / HIGH).abs().max() > 0.1


# --- seconds, progress, refusals -------------------------------------------------------------------------------------


def test_seconds_are_measured_of_every_kind_of_sampler(monkeypatch):
    monkeypatch.undo()
    made = comparison("pca")
    for sampler in (euler(2, eta=0.0), euler(2), generator_sampler("g", student("pca"), (2,))):
        assert 0 < made.seconds_per_1000(sampler, 2) < 60
    store = followed(made, [euler(2)], range(3))
    assert 0 < store.seconds_per_1000("euler", 2) < 60
    assert store.seconds_per_1000("euler", 2) == store.seconds_per_1000("euler", 2)  # measured once


def test_what_is_timed_is_drawn_at_the_depth_that_it_reads(monkeypatch):
    """The paths of a generator are those of its space."""
    made, depths = comparison(), []

    def paths(self, seeds):
        depths.append(self.depth)
        return kept(self, seeds)

    kept = PathSpace.paths
    monkeypatch.setattr(PathSpace, "paths", paths)
    free = training_free(made.space, (2,))
    for sampler in (free["euler"], free["path-average-reference"], generator_sampler("g", student(), (2,))):
        made._sampled(sampler, 2, range(3))
    assert depths == [1, 2, made.space.depth] == [1, 2, 4]


@pytest.mark.parametrize("numbers", [1 << 20, 5 * 2 * 4 * 3], ids=["at once", "three steps at once"])
def test_what_is_timed_is_what_is_compared(numbers, monkeypatch):
    monkeypatch.setattr("sdesig._memory.NUMBERS_AT_ONCE", 4 * numbers)
    made, sampler = comparison(), generator_sampler("g", student(), (10,))
    samples = made.follow([(sampler, 10)], range(5))["g", 10]
    torch.testing.assert_close(made._sampled(sampler, 10, range(5)), samples, rtol=0, atol=1e-4)


def test_a_gpu_is_timed_on_a_batch_after_an_untimed_call(monkeypatch):
    monkeypatch.undo()
    made, drawn = comparison(batch=40), []
    other = Sampler("other", "other", (2, 1000), draw=lambda y, steps: drawn.append(len(y)) or y)
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

    other = Sampler("other", "other", (3, 500), draw=draw, evaluations=2)
    store = followed(made, [euler(2), other], range(6))
    assert torch.equal(store.samples("other", 3), 3 * torch.cat(seen[::2]))
    assert torch.equal(torch.cat(seen[::2]), torch.cat([made.start(range(4)), made.start(range(4, 6))]))
    assert (store.errors("other", 3), store.seeds_apart("other", 3)) == (None, None)
    assert torch.equal(store.samples("other", 500), 500 * torch.cat(seen[::2]))
    assert store.errors("euler", 2) is not None
    with pytest.raises(ValueError, match=r"odd must draw samples of shape \(6, .*\); it drew \(5, "):
        followed(comparison(), [Sampler("odd", "odd", (1,), draw=lambda y, steps: y[1:])], range(6))
    with pytest.raises(ValueError, match="steps must be >= 1; got 0"):
        followed(made, [replace(other, steps=(0,))], range(2))


@pytest.mark.parametrize(
    "options, match",
    [
        ({"steps": (), "scheme": DPMSolver1()}, "steps must not be empty; those of one are"),
        ({"steps": (2,)}, "one must have either a scheme or a function that draws"),
        ({"steps": (2,), "scheme": DPMSolver1(), "draw": max}, "one must have either a scheme or a function"),
    ],
)
def test_samplers_that_are_none(options, match):
    with pytest.raises(ValueError, match=match):
        Sampler("one", "One", **options)


@pytest.mark.parametrize(
    "changes, error, match",
    [
        ({"steps": 5}, TypeError, "steps must be a sequence of integers; those of one are 5"),
        ({"steps": ("4",)}, TypeError, "steps must be an integer; got '4'"),
        ({"steps": (2, -1)}, ValueError, "steps must be >= 0; got -1"),
        ({"scheme": "euler"}, TypeError, "scheme must be a Scheme; got str"),
        ({"scheme": None, "draw": 3}, TypeError, r"draw must be callable as draw\(y, steps\); got 3"),
        ({"eta": 0.5}, ValueError, "eta must be one of 0.0, 1.0; got 0.5"),
    ],
)
def test_arguments_of_samplers_that_are_refused(changes, error, match):
    """Paths are of eta 1, so that another one than 1 and 0 would have the noise of none."""
    with pytest.raises(error, match=match):
        Sampler("one", "One", **{"steps": (2,), "scheme": DPMSolver1(), **changes})


def test_numbers_of_steps_are_integers_of_python():
    """Those of numpy cannot be written to a report."""
    for steps in (np.array([2, 4]), range(2, 5, 2), [np.int64(2), 4]):
        sampler = Sampler("one", "One", steps, scheme=DPMSolver1())
        assert repr(sampler.steps) == "(2, 4)"


def test_a_function_that_draws_cannot_change_the_start_of_another():
    def spoil(y, steps):
        return y.zero_()

    kept = Sampler("kept", "kept", (2,), draw=lambda y, steps: y)
    first = followed(comparison(), [kept], range(3)).samples("kept", 2)
    after = followed(comparison(), [Sampler("spoil", "spoil", (2,), draw=spoil), kept], range(3)).samples("kept", 2)
    assert torch.equal(after, first)
    assert after.abs().min() > 0


@pytest.mark.parametrize("batch, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_a_batch_that_is_none(batch, error):
    with pytest.raises(error, match="batch must be"):
        comparison(batch=batch)


def test_a_function_that_draws_nothing_is_named():
    with pytest.raises(TypeError, match="what odd draws must be a Tensor; got NoneType"):
        followed(comparison(), [Sampler("odd", "odd", (1,), draw=lambda y, steps: None)], range(6))


def test_keys_and_labels_tell_samplers_apart():
    """From each other, and from the converged paths."""
    one, made = euler(2), comparison()
    for what, changes in (
        ("key", {"label": "other"}),
        ("key", {"key": CONVERGED}),
        ("label", {"key": "other"}),
        ("label", {"key": "other", "label": "converged path"}),
    ):
        other = replace(one, **changes)
        with pytest.raises(ValueError, match=f"samplers must have different {what}s; got "):
            SampleStore(made, [one, other], range(2))


def test_the_share_of_seeds_that_end_apart():
    """Of a mixture of modes +-2 and a sampler that is off by a third of a mode, but for two seeds of eight that end in
    the other one: the mean square hardly tells them, the share does."""
    made = comparison()
    store = followed(made, [euler(2, 128)], range(40))
    converged = store.converged
    spread = spread_of(converged)
    assert spread == pytest.approx(converged.flatten(1).double().var(0).mean().sqrt().item(), rel=1e-12)
    for steps in (2, 128):
        share = (store.errors("euler", steps) > spread / 2).double().mean().item()
        assert store.seeds_apart("euler", steps) == share
    assert store.seeds_apart("euler", 2) > store.seeds_apart("euler", 128)
    modes = torch.tensor([2.0, -2.0] * 4)[:, None] * torch.ones(8, 3)
    ends = torch.where(torch.arange(8)[:, None] < 2, -modes, modes + 0.7)
    errors = pathwise_errors(ends, modes)
    assert share_apart(errors, spread_of(modes)) == 0.25
    assert share_apart(None, 1.0) is None
    assert share_apart(errors[:1], spread_of(modes[:1])) is None


def test_progress_counts_the_seeds(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    SampleStore(comparison(batch=4), [euler(2)], range(10)).make()
    assert "10/10" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [129, 0])
def test_more_steps_than_cells_are_refused(steps):
    with pytest.raises(ValueError, match=rf"steps must be in \[1, 128\]; got {steps}"):
        SampleStore(comparison(), [euler(4, steps)], range(3))


# --- one path in two clocks ------------------------------------------------------------------------------------------


def make_path(kind, rows, *, cells=2**10, depth=4, seed=0):
    sde = CanonicalSDE(SNRDenoiser(DOUBLE.denoise_y), reference=reference(kind, F64))
    seeds = range(seed, seed + rows)
    return BrownianPath(LOW, HIGH, (rows, 2), seeds=seeds, depth=depth, clock=sde.clock, cells=cells, dtype=F64)


@pytest.mark.parametrize("variance", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("cells", [4, 64])
def test_to_the_same_clock_it_is_the_identity(variance, cells):
    own = GaussianReference(0.3, variance)
    clock = CanonicalSDE(SNRDenoiser(DOUBLE.denoise_y), reference=own).clock
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), depth=5, clock=clock, cells=cells, dtype=F64)
    times = path.grid(cells)
    cells = path.partial_signatures(times)
    same = reclock(cells, times, own, variance)
    torch.testing.assert_close(same.coefficients, cells.coefficients, rtol=0, atol=1e-12)
    torch.testing.assert_close(same.h.expand(cells.shape), cells.h.expand(cells.shape), rtol=1e-12, atol=0)


def test_a_basis_is_left_behind():
    """M' lives in the coordinates of the data: with variance 0 in the basis it is M, turned."""
    own = GaussianReference(0.0, torch.zeros(2, dtype=F64), TURN)
    clock = CanonicalSDE(SNRDenoiser(DOUBLE.denoise_y), reference=own).clock
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), depth=3, clock=clock, cells=2**4, dtype=F64)
    times = path.grid(16)
    cells = path.partial_signatures(times)
    turned = reclock(cells, times, own)
    torch.testing.assert_close(turned.coefficients, cells.coefficients @ TURN.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "pca"])
@pytest.mark.parametrize("variance", [0.0, 2.0])
def test_lengths_are_those_of_the_other_clock(kind, variance):
    path = make_path(kind, 3, cells=2**5)
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
    own, path = reference(kind, F64), make_path(kind, 4, cells=2**14)
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
    path = make_path(kind, 20_000, cells=2**6, depth=3)
    times = path.grid(64)[30:33]
    moved = reclock(path.partial_signatures(times), times, reference(kind, F64))
    values = moved.coefficients.permute(2, 0, 1, 3).flatten(1)
    check_gaussian(values, torch.eye(12, dtype=F64), false_alarm_rate=1e-6).assert_passed()


def test_there_and_back_again():
    """To B and from there to the first clock: the lower coefficients return, the deepest is the least accurate."""
    own, path = reference("scalar", F64), make_path("scalar", 10, cells=2**7)
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
