"""What a seed means: the path, the times and the start of a space, and when two spaces are the same."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdesig.brownian import BrownianPath
from sdesig.brownian.master_grid import CUT, CellTree
from sdesig.evaluation import Comparison, Sampler, SampleStore
from sdesig.sampling import (
    CanonicalSDE,
    DPMSolver1,
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRClock,
    SNRDenoiser,
    StepGrid,
)
from sdesig.sampling.path_space import in_todays_words
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, SigDEG

F64 = torch.float64
LOW, HIGH = math.exp(-4), math.exp(5)
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)
REFERENCES = {
    "none": GaussianReference(torch.zeros(2, dtype=F64), 0.0),
    "scalar": GaussianReference(torch.tensor([0.1, -0.2], dtype=F64), 0.6),
    "pca": GaussianReference(torch.tensor([0.1, -0.2], dtype=F64), torch.tensor([0.3, 0.9], dtype=F64), TURN),
}
SPACE = PathSpace((2,), (LOW, HIGH), REFERENCES["pca"], cells=2**7, depth=3)
LAW = Mixture.circle(1.0, 0.3, dtype=torch.float32)
GRIDS = {
    "even": StepGrid(),
    "chosen": StepGrid.from_density(np.linspace(1.0, 3.0, 20) ** 2, knots=31),
    "skewed": StepGrid((0.0, 0.31, 0.7, 1.0)),
}
every_reference = pytest.mark.parametrize("kind", REFERENCES)
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


# --- paths -----------------------------------------------------------------------------------------------------------


@every_reference
def test_paths_are_brownian_paths_of_the_same_arguments(kind):
    """To the last bit, whatever the kind of seeds."""
    space, seeds = replace(SPACE, reference=REFERENCES[kind]), [5, 2**40, 7]
    clock = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=REFERENCES[kind]).clock
    wanted = BrownianPath(LOW, HIGH, (3, 2), seeds=seeds, depth=3, clock=clock, cells=2**7, dtype=F64)
    cells, noise = wanted.partial_signatures(wanted.grid(16)), wanted.initial_noise()
    for given in (seeds, tuple(seeds), torch.tensor(seeds), np.array(seeds)):
        path = space.paths(given)
        assert path.identity == wanted.identity
        assert torch.equal(path.partial_signatures(path.grid(16)).coefficients, cells.coefficients)
        assert torch.equal(path.initial_noise(), noise)
    assert space.paths(3).identity == space.paths(range(3)).identity


def test_lengths_in_the_clock_are_rounded_as_ever():
    """The numbers of a seed in float64 depend on the last bit."""
    times = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=F64).cumsum(0)
    start, end = times[:-1], times[1:]
    wanted = (end - start) / ((1 + 0.37 * start) * (1 + 0.37 * end))
    assert torch.equal(SNRClock(0.37).length(start, end), wanted)
    assert torch.equal(SNRClock(torch.full((2,), 0.37, dtype=F64)).length(start, end), wanted[:, None].expand(-1, 2))


@every_reference
def test_the_start_has_the_variance_of_the_clock(kind):
    """u = sqrt(v) times the initial noise, v = tau/(1 + c tau): by hand and as `CanonicalSDE` has it."""
    reference = REFERENCES[kind]
    space = replace(SPACE, reference=reference)
    path = space.paths(4)
    start = space.start(path)
    assert (start.shape, start.dtype) == ((4, 2), F64)
    expected = (LOW / (1 + reference.variance * LOW)).sqrt() * path.initial_noise()
    torch.testing.assert_close(start, expected, rtol=1e-14, atol=0)
    sde = CanonicalSDE(SNRDenoiser(LAW.denoise_y), reference=reference)
    assert torch.equal(start, sde.start(path.initial_noise(), LOW))


@pytest.mark.parametrize(
    "reference, dtype",
    [
        (GaussianReference(0.0, 0.5), torch.float32),
        (GaussianReference(torch.tensor(0.0, dtype=F64), 0.5), torch.float32),
        (GaussianReference(torch.zeros(2), 0.5), torch.float32),
        (GaussianReference(torch.zeros(2, dtype=F64), 0.5), F64),
        (GaussianReference(0.0, torch.ones(2, dtype=F64)), F64),
        (GaussianReference(0.0, 0.5, TURN), F64),
    ],
)
def test_paths_have_the_dtype_of_the_references_tensors(reference, dtype):
    """Where it has none but numbers, of whatever dtype, they are float32."""
    space = replace(SPACE, reference=reference)
    path = space.paths(2)
    assert (space.dtype, space.device.type) == (dtype, "cpu")
    assert path.initial_noise().dtype == space.start(path).dtype == dtype
    assert path.partial_signatures(path.grid(2)).dtype == dtype


# --- times -----------------------------------------------------------------------------------------------------------


@every_reference
@pytest.mark.parametrize("cells", [8, 128, 1024, 1280])
def test_even_times_are_those_of_the_path(kind, cells):
    space = replace(SPACE, reference=REFERENCES[kind], cells=cells, slack=0.0)
    path = space.paths(1)
    for steps in {*range(1, cells, 7), cells}:
        assert torch.equal(space.times(steps), path.grid(steps)), steps


@every_grid
@pytest.mark.parametrize("cells", [128, 1024])
def test_times_are_the_nearest_of_the_master_grid(grid, cells):
    """To the times of the grid's positions in the clock, to the last bit."""
    space = replace(SPACE, grid=grid, cells=cells, slack=0.0)
    path = space.paths(1)
    for steps in range(1, cells // 4):
        wanted = path.nearest(torch.from_numpy(space.clock.time(grid.positions(steps), LOW, HIGH)))
        times = space.times(steps)
        assert torch.equal(times, wanted), steps
        assert (times.dtype, times.device.type) == (F64, "cpu")
        assert (times[0].item(), times[-1].item()) == (LOW, HIGH)


@every_grid
@pytest.mark.parametrize("cells", [1024, 1280])
def test_within_the_slack_steps_end_high_up_in_the_tree(grid, cells):
    tree, exact, space = CellTree(cells), *(replace(SPACE, grid=grid, cells=cells, slack=s) for s in (0.0, 0.05))
    saved = 0
    for steps in range(1, 101):
        ends, places = np.array(space.ends(steps)), cells * grid.positions(steps)
        shorter = np.minimum(np.diff(places)[:-1], np.diff(places)[1:])
        assert (np.abs(ends - places)[1:-1] <= np.maximum(0.05 * shorter, 0.5) + 1e-9).all()
        assert (np.diff(ends) > 0).all()
        asked = [sum(v.owner == CUT for v in tree.visits(tree.root, x, 0)) for x in (exact.ends(steps), ends.tolist())]
        assert asked[1] <= asked[0]
        saved += asked[0] - asked[1]
    assert saved > 1000


def test_files_made_earlier_have_the_logarithm_of_the_cells():
    described = {
        key: value for key, value in replace(SPACE, slack=0.0).identity.items() if key not in ("cells", "slack")
    }
    assert in_todays_words(described | {"levels": 7}) == replace(SPACE, slack=0.0).identity
    assert in_todays_words(SPACE.identity) == SPACE.identity
    with pytest.raises(ValueError, match=r"levels must be in \[0, 30\]; got 31"):
        in_todays_words({"levels": 31})


@every_grid
def test_ends_are_the_cells_of_the_times(grid):
    space = replace(SPACE, grid=grid)
    for steps in (1, 2, 5, 16, 30):
        ends = space.ends(steps)
        assert (ends[0], ends[-1], len(ends)) == (0, 128, steps + 1)
        assert all(isinstance(end, int) for end in ends)
        assert torch.equal(space.times(steps), space.paths(1).grid(128)[ends])


@pytest.mark.parametrize("ask", [PathSpace.times, PathSpace.ends])
@pytest.mark.parametrize(
    "steps, grid, error, match",
    [
        (0, "even", ValueError, r"steps must be in \[1, 128\]; got 0"),
        (129, "even", ValueError, r"steps must be in \[1, 128\]; got 129"),
        (129, "skewed", ValueError, r"steps must be in \[1, 128\]; got 129"),
        (4.0, "even", TypeError, "steps must be an integer; got 4.0"),
        (128, "skewed", ValueError, "steps must be fewer for this grid on a path of 128 cells; got 128"),
    ],
)
def test_numbers_of_steps_that_do_not_fit_are_refused(ask, steps, grid, error, match):
    with pytest.raises(error, match=match):
        ask(replace(SPACE, grid=GRIDS[grid]), steps)


# --- equality --------------------------------------------------------------------------------------------------------

OTHERS = {
    "event": replace(SPACE, event=(3, 2)),
    "first snr": replace(SPACE, snr=(2 * LOW, HIGH)),
    "last snr": replace(SPACE, snr=(LOW, 2 * HIGH)),
    "cells": replace(SPACE, cells=2**8),
    "depth": replace(SPACE, depth=4),
    "grid": replace(SPACE, grid=GRIDS["skewed"]),
    "slack": replace(SPACE, slack=0.0),
    "mean": replace(SPACE, reference=GaussianReference(0.0, REFERENCES["pca"].variance, TURN)),
    "variance": replace(SPACE, reference=GaussianReference(REFERENCES["pca"].mean, 0.5, TURN)),
    "basis": replace(SPACE, reference=GaussianReference(REFERENCES["pca"].mean, REFERENCES["pca"].variance, TURN.mT)),
    "no basis": replace(SPACE, reference=GaussianReference(REFERENCES["pca"].mean, REFERENCES["pca"].variance)),
}


def test_spaces_are_equal_by_value():
    """Not by the objects that they are made of."""
    pca = REFERENCES["pca"]
    same = [
        copy.deepcopy(SPACE),
        SPACE.to("cpu"),
        PathSpace([2], [LOW, HIGH], GaussianReference(pca.mean.clone(), pca.variance.clone(), TURN.clone()), 128, 3),
        replace(SPACE, grid=StepGrid((0.0, 1.0))),
    ]
    for space in same:
        assert space == SPACE
        assert hash(space) == hash(SPACE)
        assert space.identity == SPACE.identity
    assert len({SPACE, *same}) == 1
    assert SPACE != "space"


@pytest.mark.parametrize("name", OTHERS)
def test_spaces_that_differ_in_one_thing_are_others(name):
    assert OTHERS[name] != SPACE
    assert hash(OTHERS[name]) != hash(SPACE)
    assert len({*OTHERS.values(), SPACE}) == len(OTHERS) + 1


def test_the_identity_is_json():
    assert json.loads(json.dumps(SPACE.identity)) == SPACE.identity
    assert list(SPACE.identity) == ["event", "snr", "reference", "cells", "depth", "grid", "slack"]
    numpy = PathSpace((np.int64(2),), (np.float64(LOW), HIGH), REFERENCES["pca"], cells=2**7, depth=3)
    assert json.loads(json.dumps(numpy.identity)) == SPACE.identity


def test_numpy_integers_make_the_same_space():
    given = replace(SPACE, cells=np.int64(128), depth=np.int32(3))
    assert (given, hash(given)) == (SPACE, hash(SPACE))
    assert json.loads(json.dumps(given.identity)) == SPACE.identity


@pytest.mark.parametrize("quantiles", [[0, 0.5, 1], (0, 0.5, 1), np.array([0.0, 0.5, 1.0]), torch.tensor([0, 0.5, 1])])
def test_the_quantiles_of_a_grid_are_kept_as_floats(quantiles):
    """So that grids and spaces of equal numbers are equal, hash alike and name the same files."""
    grid = StepGrid((0.0, 0.5, 1.0))
    given, wanted = (replace(SPACE, grid=each) for each in (StepGrid(quantiles), grid))
    assert (given.grid, hash(given.grid), repr(given.grid.quantiles)) == (grid, hash(grid), repr(grid.quantiles))
    assert (given, hash(given)) == (wanted, hash(wanted))


def test_references_of_the_same_numbers_in_other_shapes_are_others():
    """A mean per row is not a mean per column, though their bytes are the same."""
    mean = torch.tensor([[1.0, 2.0]])
    spaces = [PathSpace((2, 2), (LOW, HIGH), GaussianReference(turned, 0.5), depth=4) for turned in (mean, mean.mT)]
    assert spaces[0] != spaces[1]
    assert len({*spaces}) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_spaces_of_every_dtype_can_be_compared(dtype):
    mean = torch.tensor([0.5, -0.25], dtype=dtype, requires_grad=True)
    given, copied = (replace(SPACE, reference=GaussianReference(each, 0.5)) for each in (mean, mean.detach().clone()))
    assert (given, hash(given)) == (copied, hash(copied))
    assert given != SPACE
    assert given.paths(2).dtype == dtype


def test_a_space_moves_to_a_device():
    """Its tensors do, a scalar variance does not; the rest stays."""
    moved = SPACE.to("meta")
    assert moved.device.type == moved.reference.variance.device.type == moved.reference.basis[0].device.type == "meta"
    assert (moved.event, moved.snr, moved.cells, moved.depth, moved.grid) == (
        *(SPACE.event, SPACE.snr, SPACE.cells, SPACE.depth, SPACE.grid),
    )
    assert moved.dtype == F64
    scalar = replace(SPACE, reference=REFERENCES["scalar"]).to("meta")
    assert (scalar.device.type, scalar.reference.variance.device.type) == ("meta", "cpu")


def test_a_space_cannot_be_changed():
    with pytest.raises(AttributeError):
        SPACE.cells = 8


@every_grid
def test_its_repr_is_one_line(grid):
    text = repr(replace(SPACE, event=(3, 64, 64), reference=GaussianReference(0.0, torch.ones(3, 64, 64)), grid=grid))
    assert text.startswith("PathSpace(event=(3, 64, 64), snr=(0.0183156, 148.413), reference=GaussianReference(")
    assert text.endswith(f"cells=128, depth=3, grid={grid}, slack=0.05)")
    assert "\n" not in text
    assert len(text) < 250


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, error, match",
    [
        ({"event": "ab"}, TypeError, "event must be an int or a sequence of ints; got 'ab'"),
        ({"event": (2.0,)}, TypeError, r"event\[0\] must be an integer; got 2.0"),
        ({"event": (0,)}, ValueError, r"event\[0\] must be >= 1; got 0"),
        ({"snr": 3.0}, TypeError, r"snr must be two numbers, \(first, last\); got 3.0"),
        ({"snr": (1.0, 2.0, 3.0)}, TypeError, r"snr must be two numbers, \(first, last\)"),
        ({"snr": ("a", 2.0)}, TypeError, r"snr\[0\] must be a real number; got 'a'"),
        ({"snr": (0.0, 2.0)}, ValueError, r"snr\[0\] must be a finite number > 0; got 0.0"),
        ({"snr": (1.0, math.inf)}, ValueError, r"snr\[1\] must be a finite number > 0; got inf"),
        ({"snr": (2.0, 2.0)}, ValueError, r"snr must be \(first, last\) with first < last; got \(2.0, 2.0\)"),
        ({"event": (10**30,)}, ValueError, r"mean must broadcast against an event of shape \(10+,\)"),
        ({"cells": 0}, ValueError, r"cells must be in \[1, 1073741824\]; got 0"),
        ({"cells": 2**31}, ValueError, r"cells must be in \[1, 1073741824\]; got 2147483648"),
        ({"cells": 7.0}, TypeError, "cells must be an integer; got 7.0"),
        ({"slack": 0.5}, ValueError, r"slack must be in \[0, .5\); got 0.5"),
        ({"depth": 0}, ValueError, r"depth must be in \[1, 4096\]; got 0"),
        ({"depth": 4097}, ValueError, r"depth must be in \[1, 4096\]; got 4097"),
        ({"depth": True}, TypeError, "depth must be an integer; got True"),
        ({"grid": (0.0, 1.0)}, TypeError, "grid must be a StepGrid; got tuple"),
        ({"grid": None}, TypeError, "grid must be a StepGrid; got NoneType"),
        ({"reference": None}, TypeError, "reference must be a GaussianReference; got NoneType"),
        ({"reference": GaussianReference(torch.zeros(3), 0.1)}, ValueError, "mean must broadcast against"),
        ({"reference": GaussianReference(0.0, torch.ones(3))}, ValueError, "variance must broadcast"),
        ({"reference": GaussianReference(0.0, 0.1, torch.eye(3))}, ValueError, "basis must be a matrix for each"),
    ],
)
def test_arguments_that_are_refused_are_named(changes, error, match):
    with pytest.raises(error, match=match):
        replace(SPACE, **changes)


@pytest.mark.parametrize(
    "seeds, error, match",
    [
        (0, ValueError, r"seeds must be in \[1, 100000000\]; got 0"),
        (True, TypeError, "seeds must be an integer; got True"),
        ([], ValueError, "seeds must not be empty"),
        ([-1], ValueError, r"seeds must lie in \[0, 2\^63\); got -1"),
        (range(10**13), ValueError, "seeds must be 100000000 at most"),
        (None, TypeError, "seeds must be a sequence of integers"),
        ([0.5], TypeError, "seeds must be integers"),
    ],
)
def test_seeds_that_are_refused_are_named(seeds, error, match):
    with pytest.raises(error, match=match):
        SPACE.paths(seeds)


# --- how often a path is made ----------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch):
    """The seeds of every path that is constructed."""
    seeds, construct = [], BrownianPath.__init__

    def counted(self, *arguments, **options):
        construct(self, *arguments, **options)
        seeds.append(list(self.seeds))

    monkeypatch.setattr(BrownianPath, "__init__", counted)
    return seeds


SINGLE = PathSpace((2,), (LOW, HIGH), GaussianReference(torch.zeros(2), 0.6), cells=2**5, depth=4)


def student():
    network = MLP(2, width=8, blocks=1, conditions=2, extra=4)
    return SigDEG.from_teacher(SNRDenoiser(LAW.denoise_y), SINGLE, depth=2, network=network, sigma_data=0.8)


def test_a_generator_makes_the_path_of_a_seed_once(made):
    generator = student()
    samples = generator.sample([4, 2**40, 9, 1, 0], 3, batch=2)
    assert made == [[4, 2**40], [9, 1], [0]]
    assert samples.seeds == [4, 2**40, 9, 1, 0]
    made.clear()
    generator.sample(3, 4)
    assert made == [[0, 1, 2]]


def test_all_seeds_are_checked_before_the_first_path(made):
    with pytest.raises(ValueError, match=r"seeds must lie in \[0, 2\^63\); got -1"):
        student().sample([1, 2, 3, -1], 2, batch=1)
    assert not made


def test_a_comparison_makes_the_path_of_a_seed_once(made, monkeypatch):
    """However many samplers follow it."""
    monkeypatch.setattr(Comparison, "seconds_per_1000", lambda *_: math.nan)
    comparison = Comparison(SNRDenoiser(LAW.denoise_y), SINGLE, truth_steps=32, batch=3)
    samplers = [
        Sampler("euler", "Euler", (2, 8), scheme=DPMSolver1()),
        Sampler("average", "path-average", (2, 8), scheme=PathAverage(), referenced=True),
    ]
    comparison.follow([(sampler, steps) for sampler in samplers for steps in (2, 8)], [7, 5])
    assert made == [[7, 5]]
    made.clear()
    SampleStore(comparison, samplers, range(7)).make(progress=False)
    assert made == [[0, 1, 2], [3, 4, 5], [6]]
