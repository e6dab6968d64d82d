"""Teacher paths: solutions by hand on the very path they tell, exact marginals, and the cache on disk."""

import json
import math
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdesig.brownian import BrownianPath
from sdesig.sampling import (
    CanonicalSDE,
    GaussianReference,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    TeacherOptions,
    TeacherPaths,
    draw_paths,
)
from sdesig.sampling.teacher_paths import coarse_ends, draw_local, draw_signature, snr_times
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, SigDEG
from sdesig.sigdeg import path_cache as cache_module
from sdesig.sigdeg.path_cache import PathCache
from sdesig.signature import PartialSignature
from sdesig.solvers import SCHEMES, solve
from sdesig.solvers.driver import run_steps
from sdesig.testing import check_gaussian

F64 = torch.float64
LOW, HIGH = math.exp(-3), math.exp(3)
LAW = Mixture.circle(1.0, 0.3, dtype=F64)
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)
PCA = GaussianReference(torch.tensor([0.2, -0.1], dtype=F64), torch.tensor([0.3, 0.9], dtype=F64), TURN)
REFERENCES = {"none": None, "scalar": GaussianReference(LAW.mean(), 0.6), "pca": PCA}
every_reference = pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES.keys())
SKEWED = StepGrid.from_density([1.0, 2.0, 3.0], knots=6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_sde(reference=None):
    return CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=reference)


def draw(
    reference=None, *, teacher=LAW.denoise_y, steps=16, cells=16, rows=5, scheme="path_average", seed=0, **options
):
    reference = GaussianReference(torch.zeros(2, dtype=F64), 0.0) if reference is None else reference
    space = PathSpace((2,), (LOW, HIGH), reference, **{"depth": 2} | options)
    return draw_paths(SNRDenoiser(teacher), space, TeacherOptions(scheme, steps, cells), rows, generator=seeded(seed))


# --- the solution --------------------------------------------------------------------------------------------------


def v(tau, c):
    return tau / (1 + c * tau)


def by_hand(paths, mean, c, basis, scheme):
    """u at all times, in the reference's variables written out, from the increments and areas that the paths tell.

    du = Q dv + dM, Q = (1 + c tau)(D - mu) - c (y - tau mu); "euler" asks at the start of a step, "path_average" at
    u_n + h/3 Q_{n-1} + int (M - M_n) dv / h where v of the mean variance has grown by a third of the step.
    """
    u, last, states = paths.states[0], torch.zeros_like(paths.states[0]), [paths.states[0]]
    for k in range(len(paths.times) - 1):
        start, end = paths.times[k], paths.times[k + 1]
        h = v(end, c) - v(start, c)
        one, two = paths.signature.coefficients[:2, k]
        tau, point = start, u
        if scheme == "path_average":
            mean_c = c.mean()
            grown = v(start, mean_c) + (v(end, mean_c) - v(start, mean_c)) / 3
            tau = grown / (1 - mean_c * grown)
            average = h.sqrt() * one / 2 - h.sqrt() * two / math.sqrt(12)
            point = u + (v(tau, c) - v(start, c)) * last + average
        y = (1 + c * tau) * point @ basis.mT + tau * mean
        last = (1 + c * tau) * ((LAW.denoise_y(y, tau) - mean) @ basis) - c * ((y - tau * mean) @ basis)
        u = u + h * last + h.sqrt() * one
        states.append(u)
    return torch.stack(states)


@every_reference
@pytest.mark.parametrize("scheme", ["path_average", "euler"])
@pytest.mark.parametrize("grid", [StepGrid(), SKEWED], ids=["even", "skewed"])
def test_states_are_the_solution_along_the_path_that_is_told(reference, scheme, grid):
    paths = draw(reference, scheme=scheme, grid=grid)
    assert paths.states.shape == (17, 5, 2)
    assert paths.signature.coefficients.shape == (2, 16, 5, 2)
    mean = torch.zeros(2, dtype=F64) if reference is None else reference.mean
    c = torch.zeros(2, dtype=F64) if reference is None else reference.variance.expand(2)
    basis = TURN if reference is PCA else torch.eye(2, dtype=F64)
    torch.testing.assert_close(paths.states, by_hand(paths, mean, c, basis, scheme), rtol=1e-9, atol=1e-9)
    other = by_hand(paths, mean, c, basis, "euler" if scheme == "path_average" else "path_average")
    assert (paths.states - other).abs().max() > 1e-3


def test_the_first_state_has_the_law_of_the_reference():
    """N(0, v), false-alarm rate 1e-6."""
    paths = draw(PCA, steps=1, cells=1, rows=4000)
    covariance = torch.diag(v(torch.tensor(LOW, dtype=F64), PCA.variance))
    check_gaussian(paths.states[0], covariance, false_alarm_rate=1e-6).assert_passed()


def test_run_steps_is_solve_on_signatures_at_hand():
    """The loop of the driver along a seeded path, by `solve` and by what the path tells."""
    sde = make_sde(PCA)
    path = BrownianPath(LOW, HIGH, (5, 2), seeds=range(5), clock=sde.clock, cells=2**4, dtype=F64)
    times, start = path.grid(16), sde.start(path.initial_noise(), LOW)
    for scheme in ("dpm_solver_2m", "path_average"):
        whole = solve(sde, start, times, scheme=scheme, path=path)
        steps = path.partial_signatures(times)
        parts = [steps[:7], steps[7:]]
        assert torch.equal(run_steps(SCHEMES[scheme](), sde, "additive", start, times, parts), whole)


def test_the_step_lengths_are_those_of_the_clock():
    """v(end) - v(start) of every coordinate, at ends that lie even in log-SNR."""
    paths = draw(PCA, cells=4)
    torch.testing.assert_close(paths.times.log(), torch.linspace(-3, 3, 5, dtype=F64), rtol=0, atol=1e-12)
    assert (paths.times[0].item(), paths.times[-1].item()) == (LOW, HIGH)
    lengths = v(paths.times[:, None], PCA.variance).diff(dim=0)
    torch.testing.assert_close(paths.signature.h.reshape(4, 2), lengths, rtol=1e-11, atol=0)


# --- coarse signatures ----------------------------------------------------------------------------------------------


@every_reference
@pytest.mark.parametrize("depth", [1, 3])
def test_cells_are_joined_from_the_fine_steps(reference, depth):
    """The same draws on 16 cells of one step and on 4 of four: nothing is drawn anew for the cells."""
    fine = draw(reference, cells=16, depth=max(2, depth))
    coarse = draw(reference, cells=4, depth=depth)
    torch.testing.assert_close(coarse.states, fine.states[::4], rtol=0, atol=0)
    torch.testing.assert_close(coarse.times, fine.times[::4], rtol=0, atol=0)
    assert coarse.signature.depth == depth
    increments = fine.signature.increment.unflatten(0, (4, 4)).sum(1)
    torch.testing.assert_close(coarse.signature.increment, increments, rtol=1e-11, atol=1e-13)
    for k in range(4):
        joined = fine.signature[4 * k]
        for step in range(4 * k + 1, 4 * k + 4):
            joined = joined.combine(fine.signature[step])
        mine = coarse.signature[k].coefficients
        torch.testing.assert_close(mine, joined.coefficients[:depth], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16])
def test_coarse_paths_are_the_same_paths(steps):
    paths = draw(PCA, depth=3)
    coarse = paths.coarse(steps)
    ends = [round(16 * k / steps) for k in range(steps + 1)]
    assert coarse.times.tolist() == paths.times[ends].tolist()
    assert torch.equal(coarse.states, paths.states[ends])
    for k, (a, b) in enumerate(pairwise(ends)):
        total = paths.signature.increment[a:b].sum(0)
        torch.testing.assert_close(coarse.signature[k].increment, total, rtol=1e-10, atol=1e-12)
    assert coarse.signature.depth == 3


def test_rows_are_some_of_the_paths():
    paths = draw(PCA)
    for chosen in (torch.tensor([4, 1]), slice(1, 3)):
        some = paths.rows(chosen)
        assert torch.equal(some.states, paths.states[:, chosen])
        assert torch.equal(some.signature.coefficients, paths.signature.coefficients[:, :, chosen])
        assert torch.equal(some.signature.h, paths.signature.h)


def test_coarse_ends_are_as_even_as_can_be():
    for cells, steps in ((64, 5), (64, 64), (7, 3), (10, 1)):
        ends = coarse_ends(cells, steps)
        assert (ends[0], ends[-1], len(ends)) == (0, cells, steps + 1)
        lengths = {b - a for a, b in pairwise(ends)}
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
    with pytest.raises(ValueError, match=r"steps must be in \[1, 4\]; got 5"):
        coarse_ends(4, 5)


@pytest.mark.parametrize("cells", [1, 5])
def test_coarse_coefficients_are_independent_normals(cells):
    """N(0, 1), independent of each other, of other cells and of the start. False-alarm rate 1e-6."""
    paths = draw(PCA, steps=10 * cells, cells=cells, rows=4000, depth=3)
    count = min(2, cells)
    values = paths.signature.coefficients[:, :count].permute(2, 0, 1, 3).flatten(1)
    whole = torch.cat([values, paths.states[0] / v(torch.tensor(LOW), PCA.variance).sqrt()], 1)
    check_gaussian(whole, torch.eye(whole.shape[1], dtype=F64), false_alarm_rate=1e-6).assert_passed()


def test_one_generator_gives_the_same_paths():
    one, again, other = draw(seed=1), draw(seed=1), draw(seed=2)
    assert torch.equal(one.states, again.states)
    assert (one.states - other.states).abs().max() > 0.1


def test_signatures_are_drawn_with_the_lengths_of_the_clock():
    sde, times = make_sde(PCA), snr_times((LOW, HIGH), StepGrid(), 6)
    steps = draw_signature(sde.clock, times, (4, 2), 3, seeded(), torch.float32)
    assert isinstance(steps, PartialSignature)
    assert (steps.shape, steps.depth, steps.dtype) == ((6, 4, 2), 3, torch.float32)
    lengths = v(times[:, None], PCA.variance).diff(dim=0).float()
    torch.testing.assert_close(steps.h.reshape(6, 2), lengths, rtol=1e-5, atol=0)


# --- one step from the exact marginal -------------------------------------------------------------------------------


def local(reference=None, clean=None, *, steps=1, scheme="euler", depth=2, rows=5, seed=0):
    clean = torch.tensor([0.7, -0.2], dtype=F64).expand(rows, 2) if clean is None else clean
    start, end = torch.tensor([0.4, 1.9], dtype=F64)
    options = TeacherOptions(scheme, steps, steps)
    return draw_local(make_sde(reference), options, clean, start, end, depth=depth, generator=seeded(seed))


@every_reference
def test_a_local_path_starts_on_the_exact_marginal(reference):
    """y ~ N(tau x_0, tau) for data that are one point, and independent of the path. False-alarm rate 1e-6."""
    paths = local(reference, rows=4000)
    sde = make_sde(reference)
    y = sde.reference.from_reference(paths.states[0], 0.4)
    xi = paths.signature.coefficients[:, 0].permute(1, 0, 2).flatten(1)
    whole = torch.cat([y - 0.4 * torch.tensor([0.7, -0.2], dtype=F64), xi], 1)
    variances = torch.tensor([0.4, 0.4, 1.0, 1.0, 1.0, 1.0], dtype=F64)
    check_gaussian(whole, torch.diag(variances), false_alarm_rate=1e-6).assert_passed()


@pytest.mark.parametrize("mean, variance", [(0.0, 0.4), (0.4, 0.6)])
def test_the_marginal_check_would_notice_another_one(mean, variance):
    shifted = local(rows=4000).states[0] - mean * torch.tensor([0.7, -0.2], dtype=F64)
    assert not check_gaussian(shifted, variance * torch.eye(2, dtype=F64), false_alarm_rate=1e-6).passed


@every_reference
@pytest.mark.parametrize("scheme", ["path_average", "euler"])
def test_a_local_path_of_one_fine_step_is_a_step_by_hand(reference, scheme):
    paths = local(reference, scheme=scheme)
    assert paths.times.tolist() == [0.4, 1.9]
    mean = torch.zeros(2, dtype=F64) if reference is None else reference.mean
    c = torch.zeros(2, dtype=F64) if reference is None else reference.variance.expand(2)
    basis = TURN if reference is PCA else torch.eye(2, dtype=F64)
    torch.testing.assert_close(paths.states, by_hand(paths, mean, c, basis, scheme), rtol=1e-9, atol=1e-9)


def test_a_local_path_tells_what_drove_it():
    """For a denoiser that knows nothing the state moves by the increment, whatever the fine steps."""
    sde = CanonicalSDE(SNRDenoiser(lambda y, snr: torch.zeros_like(y)))
    start, end = torch.tensor([0.4, 1.9], dtype=F64)
    clean = torch.randn(6, 2, generator=seeded(3), dtype=F64)
    options = TeacherOptions("euler", 12, 12)
    paths = draw_local(sde, options, clean, start, end, depth=1, generator=seeded())
    torch.testing.assert_close(paths.states[1] - paths.states[0], paths.signature[0].increment, rtol=1e-10, atol=1e-12)
    assert (paths.signature.depth, len(paths.signature)) == (1, 1)


def test_local_steps_of_the_data_have_the_marginal_at_their_end():
    """Data of the mixture: y at the end is tau x_0 + N(0, tau) again, up to the error of 64 fine steps.

    Its mean square is tau^2 E|x_0|^2 + d tau; false-alarm rate 1e-6 (|z| < 4.9), with a bias below .1 of a standard
    error.
    """
    clean = LAW.sample(20_000, seeded(5))
    paths = local(PCA, clean, steps=64, scheme="path_average")
    y = make_sde(PCA).reference.from_reference(paths.states[1], 1.9)
    squares = y.square().sum(1)
    expected = 1.9**2 * (1.0 + 2 * 0.09) + 2 * 1.9
    z = (squares.mean() - expected) / (squares.std() / len(squares) ** 0.5)
    assert abs(z.item()) < 4.9


# --- the cache -------------------------------------------------------------------------------------------------------

SINGLE = Mixture.circle(1.0, 0.3, dtype=torch.float32)


SPACE = PathSpace((2,), (LOW, HIGH), GaussianReference(0.0, 0.6), cells=2**4, depth=2)
EULER = TeacherOptions("euler", 4, 2)


def make_cache(folder, paths=1024, *, options=EULER, space=SPACE, **others):
    return PathCache(folder, SNRDenoiser(SINGLE.denoise_y), space, options, paths=paths, progress=False, **others)


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def state_of(files):
    return [(file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) for file in files]


def test_a_cache_resumes_with_the_shards_that_are_missing(tmp_path):
    make_cache(tmp_path)
    assert len(shards(tmp_path)) == 2
    before = state_of(shards(tmp_path))
    shards(tmp_path)[1].unlink()
    make_cache(tmp_path)
    after = state_of(shards(tmp_path))
    assert after[0] == before[0]
    assert after[1][0] == before[1][0]
    assert after[1][1:] != before[1][1:]
    assert after[0][0] != after[1][0]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_the_paths_of_another_seed_are_others(tmp_path):
    one, other = (make_cache(tmp_path / str(seed), 40, seed=seed).draw(40, seeded()) for seed in (0, 1))
    assert (one.states - other.states).abs().max() > 0.1


def test_a_cache_that_is_whole_asks_the_teacher_nothing(tmp_path):
    make_cache(tmp_path)

    @SNRDenoiser
    def teacher(y, snr):
        raise AssertionError("the teacher was asked")

    again = PathCache(tmp_path, teacher, SPACE, EULER, paths=1024, progress=False)
    assert again.draw(3, seeded()).states.shape == (3, 3, 2)


def test_a_cache_can_grow(tmp_path):
    """More paths: the shards that are there stay."""
    make_cache(tmp_path, 512)
    before = state_of(shards(tmp_path))
    make_cache(tmp_path, 1024)
    assert state_of(shards(tmp_path)[:1]) == before
    assert len(shards(tmp_path)) == 2


def test_draws_are_functions_of_the_generator(tmp_path):
    one, again = make_cache(tmp_path / "one"), make_cache(tmp_path / "two")
    for seed in range(3):
        first, second = one.draw(7, seeded(seed)), again.draw(7, seeded(seed))
        assert torch.equal(first.states, second.states)
        assert torch.equal(first.signature.coefficients, second.signature.coefficients)
        assert torch.equal(first.times, second.times)
    drawn = [one.draw(7, seeded(seed)).states for seed in range(2)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_drawn_when_a_signal_comes_is_kept(number, tmp_path, monkeypatch):
    """Of four files the second is completed, and the rest drawn the next time; handlers are those of before."""
    monkeypatch.setattr("sdesig.sigdeg.path_cache.SHARD", 10)
    drawn, draw, before = [], cache_module.draw_paths, signal.getsignal(number)

    def signalled(*arguments, **options):
        drawn.append(None)
        if len(drawn) == 2:
            signal.raise_signal(number)
        return draw(*arguments, **options)

    monkeypatch.setattr("sdesig.sigdeg.path_cache.draw_paths", signalled)
    with pytest.raises(KeyboardInterrupt, match=r"all paths that were drawn are kept in .*: the same command goes on"):
        make_cache(tmp_path, 40)
    assert signal.getsignal(number) is before
    assert len(shards(tmp_path)) == 2
    make_cache(tmp_path, 40)
    assert len(shards(tmp_path)) == len(drawn) == 4


def test_drawn_paths_are_paths_of_the_teacher(tmp_path):
    """For the Euler scheme on cells of one step: by hand from what the cache returns, in single precision."""
    cache = make_cache(tmp_path, 40, options=TeacherOptions("euler", 8, 8))
    drawn = cache.draw(1000, seeded())
    assert isinstance(drawn, TeacherPaths)
    assert drawn.states.shape == (9, 40, 2)
    assert len(torch.unique(drawn.states[0], dim=0)) == 40
    double = drawn._replace(
        states=drawn.states.double(),
        signature=PartialSignature(drawn.signature.h.double(), drawn.signature.coefficients.double()),
    )
    c = torch.tensor([0.6, 0.6], dtype=torch.float32).double()
    expected = by_hand(double, torch.zeros(2, dtype=F64), c, torch.eye(2, dtype=F64), "euler")
    torch.testing.assert_close(double.states, expected, rtol=1e-4, atol=1e-4)


def test_students_of_several_depths_share_a_cache(tmp_path):
    one, two = (
        SigDEG.from_teacher(
            SNRDenoiser(SINGLE.denoise_y),
            SPACE,
            depth=depth,
            network=MLP(2, width=8, blocks=1, conditions=2, extra=depth + 2),
        )
        for depth in (1, 2)
    )
    make_cache(tmp_path, 40, space=one.space)
    before = state_of(shards(tmp_path))
    drawn = make_cache(tmp_path, 40, space=two.space).draw(5, seeded())
    assert drawn.signature.depth == 2
    assert state_of(shards(tmp_path)) == before


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"seed": 1}, "seed: 0, now 1"),
        ({"options": TeacherOptions("path_average", 4, 2)}, "scheme: 'euler', now 'path_average'"),
        ({"options": TeacherOptions("euler", 8, 2)}, "steps: 4, now 8"),
        ({"options": TeacherOptions("euler", 4, 4)}, "cells: 2, now 4"),
        ({"space": replace(SPACE, depth=3)}, "depth: 2, now 3"),
        ({"space": replace(SPACE, snr=(LOW, 30.0))}, "snr: .*, now .*30.0"),
        ({"space": replace(SPACE, reference=GaussianReference(0.0, 0.5))}, "clock.variance: .*, now 0.5"),
        ({"space": replace(SPACE, grid=SKEWED)}, "grid: "),
        ({"recorded": {"teacher": "b"}}, "teacher: 'a', now 'b'"),
        ({"recorded": {}}, "teacher: 'a', now None"),
        ({"paths": 30}, "rows: 40, now 30"),
    ],
)
def test_a_cache_of_other_options_is_refused(changes, match, tmp_path):
    make_cache(tmp_path, 40, recorded={"teacher": "a"})
    before = state_of(shards(tmp_path))
    with pytest.raises(ValueError, match=f"has a run with other options .*{match}.*give another folder"):
        make_cache(tmp_path, **({"paths": 40, "recorded": {"teacher": "a"}} | changes))
    assert state_of(shards(tmp_path)) == before


@pytest.mark.parametrize(
    "mean, basis", [(1.0, [TURN.float()]), (0.0, None), (0.0, [TURN.float().mT])], ids=["mean", "none", "turned"]
)
def test_a_cache_of_another_reference_is_refused(mean, basis, tmp_path):
    """Also where its clock is the same: the states are others."""
    variance = torch.tensor([0.3, 0.9])
    first = GaussianReference(torch.zeros(2), variance, [TURN.float()])
    other = GaussianReference(torch.full((2,), mean), variance, basis)
    make_cache(tmp_path, 40, space=replace(SPACE, reference=first))
    with pytest.raises(ValueError, match="has a run with other options"):
        make_cache(tmp_path, 40, space=replace(SPACE, reference=other))


def spoil(folder, change):
    """A cache of one shard that was changed, read from anew."""
    make_cache(folder, 40)
    (file,) = shards(folder)
    change(file)
    make_cache(folder, 40).draw(5, seeded())


def truncate(file):
    file.write_bytes(file.read_bytes()[:-50])


def shorten(file):
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    tensors["coefficients"] = tensors["coefficients"][:, :, :-1].contiguous()
    save_file(tensors, file)


@pytest.mark.parametrize(
    "change, match",
    [
        (truncate, "not a complete safetensors file"),
        (lambda file: file.write_bytes(b""), "not a complete safetensors file"),
        (lambda file: torch.save({"times": torch.zeros(3)}, file), "pickles are not loaded"),
        (shorten, r"must hold tensors of the shapes .*\(2, 2, 40, 2\).*; it holds .*\(2, 2, 39, 2\)"),
    ],
)
def test_a_shard_that_is_not_whole_is_refused(change, match, tmp_path):
    with pytest.raises(ValueError, match=f"paths-00000.safetensors.*{match}"):
        spoil(tmp_path, change)


def test_the_options_of_a_cache_are_json(tmp_path):
    make_cache(tmp_path, 40, recorded={"teacher": "a"})
    (file,) = [file for file in tmp_path.iterdir() if file.suffix == ".json"]
    assert json.loads(file.read_text())["teacher"] == "a"


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, match",
    [
        (
            lambda _: TeacherOptions("heun"),
            ValueError,
            "scheme must be one of 'path_average', 'euler', 'dpm_solver_2m'",
        ),
        (lambda _: TeacherOptions(steps=100), ValueError, "steps must be a multiple of cells, 64; got 100"),
        (lambda _: TeacherOptions(cells=0), ValueError, "cells must be >= 1; got 0"),
        (lambda _: TeacherOptions(steps=0), ValueError, r"steps must be in \[1, 1048576\]; got 0"),
        (lambda folder: make_cache(folder, 700), ValueError, "paths must be a multiple of 512; got 700"),
        (lambda folder: make_cache(folder, 0), ValueError, "paths must be >= 1; got 0"),
    ],
)
def test_refusals(call, error, match, tmp_path):
    with pytest.raises(error, match=match):
        call(tmp_path)


def test_a_teacher_whose_state_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="the state is not finite after step"):
        draw(teacher=lambda y, snr: y * math.inf)
