"""Brownian paths: consistency, identity of seeds, law, torchsde's solvers on them, bad input.

Statistical tests compare z-scores with 5.5 (two-sided 4e-8 each, about 500 statistics) or check a law at 1e-6 (four):
below 2.5e-5 per run in all.
"""

import copy
import json
import math
import pickle
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
import torchsde
from hypothesis import given, settings
from hypothesis import strategies as st

from sdesig.brownian import BrownianPath, UniformClock, master_grid
from sdesig.brownian.master_grid import CUT, CellTree, MasterGrid
from sdesig.brownian.tree import ConditionalTree
from sdesig.sampling import SNRClock
from sdesig.sde.problems import GeometricBrownianMotion, LinearSDE
from sdesig.signature import TensorSeries, expected_signature
from sdesig.solvers import solve
from sdesig.testing import check_brownian_step

F64 = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance_z(samples: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """z-scores of all second moments of samples (n, k) claimed to be N(0, covariance)."""
    variance = covariance.diagonal()
    spread = ((variance[:, None] * variance + covariance**2) / len(samples)).sqrt()
    return ((samples.T @ samples / len(samples) - covariance) / spread).abs().max()


CLOCKS = {
    "uniform": (UniformClock(), -1.0, 2.0),
    "snr": (SNRClock(), math.exp(-8), math.exp(8)),
    "reference": (SNRClock(0.3), math.exp(-8), math.exp(8)),
    "power": (SNRClock(0.3, 0.25), math.exp(-8), math.exp(8)),
    "per coordinate": (SNRClock(torch.tensor([0.0, 0.3, 2.0])), math.exp(-8), math.exp(8)),
}
SOURCES = {"seeds": lambda n: {"seeds": range(n)}, "generator": lambda n: {"generator": generator(n)}}


@pytest.mark.parametrize("clock, area", [(c, area) for c in CLOCKS for area in (False, True)][:-1])
@pytest.mark.parametrize("source", SOURCES)
def test_adjoining_steps_combine_exactly(clock: str, source: str, area: bool):
    """The last combination is left out: one h per coordinate admits no areas."""
    kind, t0, t1 = CLOCKS[clock]
    for depth in (1, 2, 5):
        path = BrownianPath(
            t0, t1, (2, 3), depth=depth, clock=kind, cells=2**6, area=area, dtype=F64, **SOURCES[source](2)
        )
        order = torch.randperm(10, generator=generator(0)).tolist()
        times = path.grid(10).tolist()
        one_by_one = {k: path.partial_signature(times[k], times[k + 1]) for k in order}
        for first, last in [(0, 10), (3, 7), (1, 9)]:
            joined = one_by_one[first]
            for k in range(first + 1, last):
                joined = joined.combine(one_by_one[k])
            whole = path.partial_signature(times[first], times[last])
            torch.testing.assert_close(joined.h, whole.h)
            torch.testing.assert_close(joined.coefficients, whole.coefficients, rtol=0, atol=1e-12)
            if area:
                torch.testing.assert_close(joined.levy_area, whole.levy_area)
        stack = path.partial_signatures(times)
        for k in range(10):
            torch.testing.assert_close(stack[k].coefficients, one_by_one[k].coefficients, rtol=0, atol=1e-12)
            torch.testing.assert_close(stack[k].h, one_by_one[k].h)


@settings(max_examples=25)
@given(data=st.data())
def test_generator_paths_are_consistent_for_any_times_in_any_order(data):
    path = BrownianPath(0.0, 1.0, (2,), generator=generator(data.draw(st.integers(0, 99))), depth=3, dtype=F64)
    times = [k / 1e9 for k in data.draw(st.lists(st.integers(0, 10**9), min_size=3, max_size=30, unique=True))]
    asked = {}
    for s, t in pairwise(times):
        asked[min(s, t), max(s, t)] = path.partial_signature(min(s, t), max(s, t))
    grid = path.partial_signatures(sorted(times))
    for (s, t), value in asked.items():
        start, stop = sorted(times).index(s), sorted(times).index(t)
        joined = grid[start]
        for k in range(start + 1, stop):
            joined = joined.combine(grid[k])
        torch.testing.assert_close(joined.increment, value.increment, rtol=0, atol=1e-12)
        torch.testing.assert_close(joined.coefficients, value.coefficients, rtol=0, atol=1e-8)


def test_order_of_queries_does_not_change_a_seeded_path():
    shuffled, straight = (BrownianPath(0.0, 1.0, (3, 2), seeds=[4, 5, 6], cells=2**8) for _ in range(2))
    times = straight.grid(256).tolist()
    order = torch.randperm(256, generator=generator(1)).tolist()
    values = {k: shuffled.partial_signature(times[k], times[k + 1]).coefficients for k in order}
    stack = straight.partial_signatures(times)
    for k in range(256):
        assert torch.equal(values[k], stack.coefficients[:, k])
        assert torch.equal(straight.partial_signature(times[k], times[k + 1]).coefficients, values[k])


@pytest.mark.parametrize("clock", ["uniform", "reference"])
@pytest.mark.parametrize("area", [False, True])
def test_a_row_is_a_function_of_its_seed(clock: str, area: bool):
    """Bit for bit on any batch size and order of rows."""
    kind, t0, t1 = CLOCKS[clock]
    seeds = [11, 2**63 - 1, 7, 0, 11]
    options = {"clock": kind, "depth": 3, "cells": 2**5, "area": area}
    whole = BrownianPath(t0, t1, (5, 4, 3), seeds=seeds, **options)
    times = whole.grid(7)
    stack = whole.partial_signatures(times)
    assert torch.equal(stack.coefficients[:, :, 0], stack.coefficients[:, :, 4])
    assert not torch.equal(stack.coefficients[:, :, 0], stack.coefficients[:, :, 1])
    for rows in ([0], [1], [3, 2], [4, 3, 2, 1, 0]):
        part = BrownianPath(t0, t1, (len(rows), 4, 3), seeds=[seeds[row] for row in rows], **options)
        values = part.partial_signatures(times)
        assert torch.equal(values.coefficients, stack.coefficients[:, :, rows])
        assert torch.equal(part.initial_noise(), whole.initial_noise()[rows])
        if area:
            assert torch.equal(values.levy_area, stack.levy_area[:, rows])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("depth, dim", [(1, 3), (2, 5), (3, 2)])
def test_every_sub_batch_in_every_precision(dtype: torch.dtype, depth: int, dim: int):
    """Bit for bit, areas included: at depth 1 of a Fourier series, where d = 5 of matrices that BLAS would block."""
    seeds = torch.randint(2**62, (37,), generator=generator(0)).tolist()
    options = {"depth": depth, "cells": 2**2, "area": True, "dtype": dtype}
    whole = BrownianPath(0.0, 1.0, (37, dim), seeds=seeds, **options)
    steps = whole.partial_signatures(whole.grid(3))
    assert (steps.coefficients.dtype, steps.levy_area.dtype) == (dtype, dtype)
    shuffle = random.Random(1)
    for size in (1, 1, 2, 3, 5, 8, 13, 21, 37):
        rows = shuffle.sample(range(37), size)
        part = BrownianPath(0.0, 1.0, (size, dim), seeds=[seeds[row] for row in rows], **options)
        values = part.partial_signatures(part.grid(3))
        assert torch.equal(values.coefficients, steps.coefficients[:, :, rows])
        assert torch.equal(values.levy_area, steps.levy_area[:, rows])
        assert torch.equal(part.initial_noise(), whole.initial_noise()[rows])


def test_half_precision_is_the_path_of_float32_rounded():
    single, half = (BrownianPath(0.0, 1.0, (9, 2), seeds=range(9), dtype=d) for d in (torch.float32, torch.float16))
    times = single.grid(60)
    values = single.partial_signatures(times).coefficients
    assert torch.equal(half.partial_signatures(times).coefficients, values.half())
    assert torch.equal(half.initial_noise(), single.initial_noise().half())


def test_another_process_draws_the_same_path():
    program = (
        "import torch\nfrom sdesig.brownian import BrownianPath\n"
        "path = BrownianPath(0.0, 1.0, (2, 3), seeds=[8, 9], depth=2, cells=2**6)\n"
        "print(path.partial_signatures(path.grid(5)).coefficients.double().flatten().tolist())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    path = BrownianPath(0.0, 1.0, (2, 3), seeds=[8, 9], depth=2, cells=2**6)
    assert json.loads(run.stdout) == path.partial_signatures(path.grid(5)).coefficients.double().flatten().tolist()


def test_float32_and_float64_are_one_path():
    wide, narrow = (BrownianPath(0.0, 1.0, (4, 2), seeds=range(4), depth=3, dtype=d) for d in (F64, torch.float32))
    times = wide.grid(100)
    difference = wide.partial_signatures(times).coefficients - narrow.partial_signatures(times).coefficients
    assert difference.abs().max() < 1e-5


def test_one_seed_is_one_path_at_every_number_of_steps():
    path = BrownianPath(0.0, 1.0, (50, 1), seeds=range(50), dtype=F64)
    for steps in (1, 7, 20, 1000, 4096):
        stack = path.partial_signatures(path.grid(steps))
        torch.testing.assert_close(stack.increment.sum(0), path(0.0, 1.0))
        torch.testing.assert_close(stack.h.sum().item(), 1.0)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("source", SOURCES)
def test_law_of_the_steps(clock: str, source: str):
    """Coefficients over a partition that cuts across the master grid's cells are iid N(0, 1)."""
    kind, t0, t1 = CLOCKS[clock]
    n = 30_000
    path = BrownianPath(t0, t1, (n, 3), depth=2, clock=kind, cells=2**4, dtype=F64, **SOURCES[source](n))
    grid = path.grid(16)
    path.partial_signature(t0, grid[5])  # so that the generator's path is drawn by conditioning
    steps = path.partial_signatures(grid[[0, 3, 5, 10, 16]])
    for coordinate in range(3):
        samples = steps.coefficients[..., coordinate].flatten(0, 1).T
        assert covariance_z(samples, torch.eye(8, dtype=F64)) < 5.5
    noise = torch.cat([path.initial_noise(), steps.coefficients[0, 0], steps.coefficients[1, 2]], 1)
    assert covariance_z(noise, torch.eye(9, dtype=F64)) < 5.5


def test_lengths_of_the_reference_clock():
    """h is the increase of v = t/(1 + c t), without cancellation where c t is large."""
    kind, t0, t1 = CLOCKS["reference"]
    path = BrownianPath(t0, t1, (1,), seeds=[0], clock=kind, dtype=F64)
    times = path.grid(50)
    v = times / (1 + 0.3 * times)
    torch.testing.assert_close(path.partial_signatures(times).h.flatten(), v.diff(), rtol=1e-8, atol=0)
    assert torch.allclose(times.log().diff(), torch.tensor(16 / 50, dtype=F64), atol=16 / 4096)


@pytest.mark.parametrize("source", SOURCES)
def test_areas_of_steps_have_the_joint_law(source: str):
    """Chen sums of leaf areas: variance h^2/4, kurtosis 5, E A_01 H_0 W_1 = h^2/12, E A_01 H_1 W_0 = -h^2/12."""
    n = 20_000
    path = BrownianPath(0.0, 1.0, (n, 2), cells=2**3, area=True, dtype=F64, **SOURCES[source](n))
    for s, t in [(0.0, 0.125), (0.0, 0.5), (0.25, 1.0)]:
        h, value = t - s, path.partial_signature(s, t)
        a, w, spacetime = value.levy_area[:, 0, 1], value.increment, value.space_time_area
        statistics = {
            a: 0.0,
            a**2: h**2 / 4,
            a * spacetime[:, 0] * w[:, 1]: h**2 / 12,
            a * spacetime[:, 1] * w[:, 0]: -(h**2) / 12,
            a**2 * w.square().sum(1): h**3 * (1 / 6 + 2 / 3),
        }
        for sample, expected in statistics.items():
            assert abs(sample.mean() - expected) < 5.5 * sample.std() / math.sqrt(n)


@pytest.mark.parametrize("cells, depth, dim", [(1, 2, 2), (1, 1, 3), (4, 2, 2), (4096, 1, 2)])
def test_areas_of_short_paths_have_the_law(cells: int, depth: int, dim: int):
    """At n = 10^5. With h^(3/2) / T^(1/2) alone the areas of 1 and 4 cells failed (z-scores of 20)."""
    n, h = 100_000, 1.0 if cells <= 4 else 1 / cells
    path = BrownianPath(0.0, 1.0, (n, dim), seeds=range(n), depth=depth, cells=cells, area=True, dtype=F64)
    step = path.partial_signature(0.0, h)
    words = {"space_time_area": step.space_time_area} if depth > 1 else {}
    check_brownian_step(h, increment=step.increment, levy_area=step.levy_area, **words).assert_passed()


@pytest.mark.parametrize("exponent", [-300, -15, 15, 300])
def test_a_seed_is_the_same_path_in_every_unit_of_time(exponent: int):
    unit, scale = 2.0 ** round(exponent * math.log2(10)), 10.0**exponent
    for length, exact in ((unit, True), (scale, False)):
        paths = [BrownianPath(0.0, t, (3, 3), seeds=range(3), cells=2**3, area=True, dtype=F64) for t in (1.0, length)]
        first, second = (path.partial_signatures(path.grid(2)) for path in paths)
        tolerance = 0 if exact else 1e-12
        torch.testing.assert_close(first.coefficients, second.coefficients, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(first.levy_area, second.levy_area / length, rtol=1e-12, atol=1e-14)
        assert paths[0].identity["area_terms"] == paths[1].identity["area_terms"]


@pytest.mark.parametrize("source", SOURCES)
def test_times_far_from_zero_agree_to_their_own_rounding(source: str):
    """On [10^6, 10^6 + 1] times are multiples of 2^-33; neighbours are one time, as they are on [0, 1]."""
    path = BrownianPath(1e6, 1e6 + 1, (2, 1), cells=2**4, dtype=F64, **SOURCES[source](2))
    value = path(1e6, 1e6 + 0.5)
    for ulps in (-2, 2):
        assert torch.equal(path(1e6, 1e6 + 0.5 + ulps * 2.0**-33), value)


@pytest.mark.parametrize("source", SOURCES)
def test_lengths_that_a_dtype_does_not_hold_are_refused(source: str):
    for options, match in (
        ({"t1": 1e-300, "dtype": torch.float32}, "must have a square root within the range of torch.float32"),
        ({"t1": 1e300, "dtype": torch.float32}, "must have a square root within the range of torch.float32"),
        ({"t1": 1e-36, "dtype": torch.float32, "area": True}, "h of a cell must lie in"),
        ({"t1": 1e308, "dtype": F64, "area": True}, "h of a cell must lie in"),
        ({"t0": -1e308, "t1": 1e308, "dtype": F64}, "must have a square root within the range"),
        ({"t0": 1e-200, "t1": 1e200, "dtype": F64, "clock": SNRClock()}, "t1/t0 must be a finite number"),
        ({"t1": 1.0, "area": True, "area_tolerance": 1e-12}, "tolerance must be >= 8.68e-10 for method 'legendre'"),
    ):
        with pytest.raises(ValueError, match=match):
            BrownianPath(**{"t0": 0.0, "shape": (2, 2), **SOURCES[source](2), **options})


def test_whole_path_area_is_that_of_its_leaves():
    """Against the second level of the signature of the polygon through the grid, plus the leaf areas."""
    path = BrownianPath(0.0, 1.0, (2, 3), seeds=[1, 2], cells=2**5, area=True, dtype=F64)
    steps = path.partial_signatures(path.grid(32))
    left = steps.increment.cumsum(0) - steps.increment
    product = torch.einsum("sbi,sbj->bij", left, steps.increment)
    expected = (product - product.mT) / 2 + steps.levy_area.sum(0)
    torch.testing.assert_close(path.partial_signature(0.0, 1.0).levy_area, expected)


@pytest.fixture
def leaves(monkeypatch):
    """Numbers of the cells whose areas are drawn, in order."""
    drawn = []
    original = MasterGrid._leaf_areas

    def counting(self, ends):
        drawn.extend(range(ends[0], ends[-1]))
        return original(self, ends)

    monkeypatch.setattr(MasterGrid, "_leaf_areas", counting)
    return drawn


def test_areas_that_nobody_reads_are_not_drawn(leaves, monkeypatch):
    for name in ("strong_area", "chen_area"):
        monkeypatch.setattr(master_grid, name, None)
    path = BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), cells=2**6, area=True, dtype=F64)
    path(0.0, 1 / 16)
    path(0.0, 1 / 16, return_U=True)
    path.prefetch(path.grid(8))
    path(0.0, 1 / 8)
    path.as_noise_sampler()(0.0, 0.5)
    step = path.partial_signatures(path.grid(16)).truncate(1)[2:4]
    _ = step[0].reverse().increment
    _ = path.reflected().partial_signature(0.0, 0.25).time_integral
    problem = LinearSDE()
    for scheme in ("euler", "torchsde:euler"):
        solve(problem, problem.y0(3, dtype=F64), path.grid(16), scheme=scheme, path=path)
    assert leaves == []
    monkeypatch.undo()
    assert step.levy_area.shape == (2, 3, 2, 2)


def test_areas_are_drawn_once(leaves):
    path, again = (BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), cells=2**4, area=True, dtype=F64) for _ in range(2))
    step = path.partial_signature(0.25, 0.5)
    first, second = step[0], step.truncate(1)
    assert leaves == []
    assert torch.equal(first.levy_area, second.levy_area[0])
    assert leaves == [4, 5, 6, 7]
    assert path(0.25, 0.5, return_A=True)[1].equal(step.levy_area)
    assert path.reflected().partial_signature(0.25, 0.5).levy_area.equal(step.levy_area)
    assert leaves == [4, 5, 6, 7]
    times = path.grid(4)
    stack = path.partial_signatures(times)
    assert stack.levy_area[1].equal(step.levy_area)
    assert leaves == [4, 5, 6, 7, 0, 1, 2, 3, *range(8, 16)]
    joined = step.combine(path.partial_signature(0.5, 1.0))
    torch.testing.assert_close(joined.levy_area, again.partial_signature(0.25, 1.0).levy_area)
    for value in (copy.copy(stack), copy.deepcopy(stack), pickle.loads(pickle.dumps(again.partial_signatures(times)))):
        assert value.levy_area.equal(stack.levy_area)


def test_areas_of_increments_alone_take_few_numbers(monkeypatch):
    """At depth 1 the cheapest method will do; the Legendre series took 513 terms for this path."""
    counted = []
    original = master_grid.normals
    monkeypatch.setattr(master_grid, "normals", lambda *a: counted.append(len(a[1]) * a[3]) or original(*a))
    for dim, most in ((2, 2 * 5), (3, 2 * 3 * 16 + 6), (5, 2 * 5 * 21 + 15)):
        counted.clear()
        path = BrownianPath(0.0, 1.0, (1, dim), seeds=[0], depth=1, cells=2**0, area=True)
        assert path.partial_signature(0.0, 1.0).levy_area is not None
        assert sum(counted) <= 2 * dim + most


def test_kept_areas_are_few(monkeypatch):
    monkeypatch.setattr("sdesig._memory.NUMBERS_AT_ONCE", 8 * 5 * 3 * 2 * 2)
    path = BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), cells=2**4, area=True, dtype=F64)
    stack = path.partial_signatures(path.grid(16)).levy_area
    for k in range(16):
        assert torch.equal(path.partial_signature(k / 16, (k + 1) / 16).levy_area, stack[k])
    assert len(path._source._recent_areas) == 5


QUERIES = {"seeds": {"seeds": range(4)}, "areas": {"seeds": range(4), "area": True, "depth": 1}, "generator": {}}


def slow(monkeypatch, kind: type, method: str) -> None:
    """Let other threads run while one has its numbers drawn."""
    original = getattr(kind, method)
    monkeypatch.setattr(kind, method, lambda *a: (original(*a), time.sleep(1e-3))[0])


@pytest.mark.parametrize("kind", QUERIES)
def test_threads_share_a_path(kind: str, monkeypatch):
    """Every answer is the one that the path gives later, and to a single thread."""
    slow(monkeypatch, ConditionalTree, "_normals")
    slow(monkeypatch, MasterGrid, "_coefficient_normals")
    cells, start = 16 if kind == "areas" else 1024, threading.Barrier(8)
    options = {"cells": cells, "dtype": F64, **QUERIES[kind]}
    if kind == "generator":
        options["generator"] = generator(0)
    path = BrownianPath(0.0, 1.0, (4, 2), **options)

    def ask(thread: int) -> list[tuple[float, float, torch.Tensor, torch.Tensor | None]]:
        choose, answers = random.Random(thread), []
        start.wait()
        for _ in range(8):
            s, t = (k / cells for k in sorted(choose.sample(range(cells + 1), 2)))
            if thread == 0:
                path.prefetch([0.0, s, t] if s else [0.0, t])
            value = path.partial_signature(s, t)
            answers.append((s, t, value.coefficients, value.levy_area))
            noises.append(path.initial_noise())
        return answers

    noises: list[torch.Tensor] = []
    with ThreadPoolExecutor(8) as pool:
        answers = [answer for part in pool.map(ask, range(8)) for answer in part]
    alone = path if kind == "generator" else BrownianPath(0.0, 1.0, (4, 2), **options)
    for s, t, coefficients, area in answers:
        value = alone.partial_signature(s, t)
        torch.testing.assert_close(value.coefficients, coefficients, rtol=0, atol=1e-9)
        assert area is None or torch.equal(value.levy_area, area)
    assert all(torch.equal(noise, alone.initial_noise()) for noise in noises)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("area", [False, True])
def test_what_is_drawn_in_inference_mode_serves_gradients_later(source: str, area: bool):
    path = BrownianPath(0.0, 1.0, (2, 2), depth=2, cells=2**4, area=area, dtype=F64, **SOURCES[source](2))
    read = path.partial_signature(0.25, 0.75)
    with torch.inference_mode():
        path.prefetch([0.5, 0.75])
        assert (read.levy_area is not None) == area
        path.partial_signature(0.0, 0.5), path.initial_noise()
    y = torch.ones(2, 2, dtype=F64, requires_grad=True)
    for value in (read, path.partial_signature(0.0, 0.5), path.partial_signature(0.5, 0.75)):
        areas = [value.levy_area[0]] if area else []
        for factor in (value.h, value.increment, value.space_time_area, path.initial_noise(), *areas):
            assert torch.equal(torch.autograd.grad((y * factor).sum(), y)[0], factor.expand(2, 2))


def test_one_dimensional_areas_are_zero():
    path = BrownianPath(0.0, 1.0, (4, 1), seeds=range(4), cells=2**3, area=True)
    assert path.partial_signature(0.25, 1.0).levy_area.abs().max() == 0


class LinearIto(torchsde.SDEIto):
    """dX = -X dt + .5 X dW."""

    def __init__(self) -> None:
        super().__init__(noise_type="diagonal")

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return 0.5 * y


@pytest.mark.parametrize("method", ["euler", "milstein", "srk"])
@pytest.mark.parametrize("source", SOURCES)
def test_torchsde_solvers_converge_to_the_exact_solution_on_the_path(method: str, source: str):
    """geometric Brownian motion at 16 and 256 steps: the error falls by 16^order, 4 for euler and 16 for milstein."""
    path = BrownianPath(0.0, 1.0, (400, 1), cells=2**8, dtype=F64, **SOURCES[source](400))
    y0, times = torch.ones(400, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    exact = torch.exp(-1.125 + 0.5 * path(0.0, 1.0))
    errors = []
    for dt in (1 / 16, 1 / 256):
        end = torchsde.sdeint(LinearIto(), y0, times, bm=path, method=method, dt=dt)[-1]
        errors.append((end - exact).square().mean().sqrt().item())
    order = math.log(errors[0] / errors[1]) / math.log(16)
    theory = {"euler": 0.5, "milstein": 1.0, "srk": 1.5}[method]
    assert order > theory - 0.15, errors


def test_torchsde_log_ode_uses_the_area():
    """Heisenberg group dX^3 = (X^1 dW^2 - X^2 dW^1)/2: one log-ODE step is exact given W and A, of the right sign."""

    class Heisenberg(torchsde.SDEStratonovich):
        def __init__(self) -> None:
            super().__init__(noise_type="general")

        def f(self, t, y):
            return torch.zeros_like(y)

        def g(self, t, y):
            one, zero = torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 0])
            rows = [torch.stack(r, 1) for r in ([one, zero], [zero, one], [-y[:, 1] / 2, y[:, 0] / 2])]
            return torch.stack(rows, 1)

    path = BrownianPath(0.0, 1.0, (6, 2), seeds=range(6), cells=2**6, area=True, dtype=F64)
    y0, times = torch.zeros(6, 3, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    area = path.partial_signature(0.0, 1.0).levy_area[:, 0, 1]
    for dt in (1.0, 1 / 8, 1 / 64):
        end = torchsde.sdeint(Heisenberg(), y0, times, bm=path, method="log_ode", dt=dt)[-1]
        torch.testing.assert_close(end[:, :2], path(0.0, 1.0))
        torch.testing.assert_close(end[:, 2], area)


def test_torchsde_adaptive_steps_run_on_a_generator_path():
    path = BrownianPath(0.0, 1.0, (50, 1), generator=generator(3), dtype=F64)
    y0, times = torch.ones(50, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    end = torchsde.sdeint(LinearIto(), y0, times, bm=path, method="srk", dt=0.1, adaptive=True, rtol=1e-4, atol=1e-5)[
        -1
    ]
    assert (end - torch.exp(-1.125 + 0.5 * path(0.0, 1.0))).abs().max() < 5e-3


def test_torchsde_interface():
    path = BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), cells=2**4, area=True, dtype=F64)
    value = path.partial_signature(0.25, 0.5)
    w, u, a = path(torch.tensor(0.25), torch.tensor(0.5), return_U=True, return_A=True)
    torch.testing.assert_close(w, value.increment)
    torch.testing.assert_close(u, 0.25 * (w / 2 + value.space_time_area))
    torch.testing.assert_close(a, value.levy_area)
    torch.testing.assert_close(path(0.25, 0.5, return_A=True)[1], a)
    torch.testing.assert_close(path(0.5), path(0.0, 0.25) + w)
    zeros = path(0.25, 0.25, return_U=True, return_A=True)
    assert [z.shape for z in zeros] == [(3, 2), (3, 2), (3, 2, 2)]
    assert all(z.abs().max() == 0 for z in zeros)
    assert path.levy_area_approximation == "foster"
    assert BrownianPath(0.0, 1.0, (1,), seeds=[0], depth=1).levy_area_approximation == "none"
    assert path.size() == (3, 2)


def test_a_path_is_one_line():
    path = BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), cells=2**4, area=True, dtype=F64)
    text = "BrownianPath(shape (3, 2) on [0, 1], UniformClock, 3 seeds, 16 cells, depth 2, area, float64 on cpu)"
    assert repr(path) == text
    assert repr(path.reflected()) == text.replace("area,", "area, reflected,")
    clock = SNRClock(torch.ones(2000))
    path = BrownianPath(0.5, 2.0, (1, 2000), generator=torch.Generator(), clock=clock, depth=3)
    assert repr(path) == "BrownianPath(shape (1, 2000) on [0.5, 2], SNRClock, a generator, depth 3, float32 on cpu)"


@pytest.mark.parametrize("source", SOURCES)
def test_prefetch_serves_a_torchsde_solver_and_changes_nothing(source: str, monkeypatch):
    """Solvers add up dt, so their times agree with the prefetched ones to rounding only."""
    plain, fetched = (BrownianPath(0.0, 0.999, (3, 1), cells=2**8, dtype=F64, **SOURCES[source](3)) for _ in range(2))
    times, y0 = torch.tensor([0.0, 0.999], dtype=F64), torch.ones(3, 1, dtype=F64)
    if source == "generator":
        plain.partial_signatures(plain.grid(256))  # what prefetch draws first
    fetched.prefetch(fetched.grid(256))
    drawn = []
    monkeypatch.setattr(fetched, "_values", lambda ends: drawn.append(ends))
    ends = [torchsde.sdeint(LinearIto(), y0, times, bm=p, method="euler", dt=0.999 / 256)[-1] for p in (plain, fetched)]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=0)
    assert not drawn
    monkeypatch.undo()
    coarse = fetched.grid(16)
    assert torch.equal(plain(coarse[2], coarse[9]), fetched(coarse[2], coarse[9]))


def test_noise_sampler_of_k_diffusion():
    """Unit variance, and coupled over step sizes: coarse increments are sums of fine ones."""
    path = BrownianPath(0.02, 80.0, (3, 4), seeds=range(3), clock=SNRClock(), dtype=F64)
    sampler = path.as_noise_sampler()
    karras = torch.linspace(80.0 ** (1 / 7), 0.02 ** (1 / 7), 12, dtype=F64) ** 7
    assert (path.nearest(karras).log() - karras.log()).abs().max() <= math.log(4000) / 2**13
    assert sampler(*path.nearest(karras)[:2]).shape == (3, 4)
    t = path.grid(8).flip(0)
    fine = [(t[k] - t[k + 1]).sqrt() * sampler(t[k], t[k + 1]) for k in range(2)]
    torch.testing.assert_close(fine[0] + fine[1], (t[0] - t[2]).sqrt() * sampler(t[0], t[2]))
    inverse = path.as_noise_sampler(lambda sigma: 1 / sigma)
    torch.testing.assert_close(inverse(1 / t[0], 1 / t[1]), sampler(t[0], t[1]))
    torch.testing.assert_close(sampler(t[0], t[1]), path(t[1], t[0]) / (t[0] - t[1]).sqrt())


def test_many_queries_in_any_order_stay_shallow():
    """2000 cuts from left to right, from right to left and at random: no recursion, no deep tree."""
    for order in (range(1, 2000), range(1999, 0, -1), torch.randperm(1999, generator=generator(4)).add(1).tolist()):
        path = BrownianPath(0.0, 1.0, (1,), generator=generator(5), depth=1, dtype=F64)
        path.partial_signature(0.0, 1.0)
        for k in order:
            path.partial_signature(0.0, k / 2000)
        node, depth = path._source._root, 0
        layer = [node]
        while layer:
            layer = [part for node in layer for part in (node.parts or ())]
            depth += 1
        assert depth <= math.log(2000) / math.log(4 / 3) + 3


def test_identity_is_json_and_determines_the_path():
    path = BrownianPath(0.5, 2.0, (2, 3), seeds=[1, 2], clock=SNRClock(torch.tensor([1.0, 2.0, 3.0])), cells=2**5)
    identity = json.loads(json.dumps(path.identity))
    assert identity["seeds"] == [1, 2]
    assert identity["clock"] == {"name": "snr", "variance": [1.0, 2.0, 3.0], "power": 1.0}
    assert (identity["cells"], identity["depth"], identity["row_shape"]) == (32, 2, [3])
    assert identity["area_tolerance"] is None
    assert "area_method" not in identity
    with_area = BrownianPath(0.0, 2.0, (2, 3), seeds=[1, 2], cells=2**1, area=True).identity
    assert (with_area["area_tolerance"], with_area["area_method"], with_area["area_terms"]) == (0.01, "legendre", 44)
    with pytest.raises(ValueError, match="no identity"):
        _ = BrownianPath(0.0, 1.0, (2,), generator=generator(0)).identity


def test_bad_construction():
    g = generator(0)
    with pytest.raises(ValueError, match=r"t1 must be > t0 = 1.0; got 1.0"):
        BrownianPath(1.0, 1.0, (2,), seeds=[0, 1])
    with pytest.raises(ValueError, match="t1 must be > t0"):
        BrownianPath(1.0, 0.0, (2,), seeds=[0, 1])
    with pytest.raises(ValueError, match="t0 must be a finite number"):
        BrownianPath(math.nan, 1.0, (2,), seeds=[0, 1])
    with pytest.raises(ValueError, match="exactly one of seeds and generator"):
        BrownianPath(0.0, 1.0, (2,))
    with pytest.raises(ValueError, match="exactly one of seeds and generator"):
        BrownianPath(0.0, 1.0, (2,), seeds=[0, 1], generator=g)
    with pytest.raises(ValueError, match=r"seeds must be one per row of shape \(3,\); got 2 seeds"):
        BrownianPath(0.0, 1.0, (3,), seeds=[0, 1])
    with pytest.raises(ValueError, match="seeds must be one per row"):
        BrownianPath(0.0, 1.0, (), seeds=[0])
    with pytest.raises(ValueError, match=r"depth must be in \[1, 4096\]; got 0"):
        BrownianPath(0.0, 1.0, (2,), generator=g, depth=0)
    with pytest.raises(ValueError, match=r"depth must be in \[1, 4096\]; got 1000000000"):
        BrownianPath(0.0, 1.0, (2,), generator=g, depth=10**9)
    with pytest.raises(TypeError, match="area must be True or False; got 'no'"):
        BrownianPath(0.0, 1.0, (2,), generator=g, area="no")
    with pytest.raises(ValueError, match=r"cells must be in \[1, 1073741824\]; got 2147483648"):
        BrownianPath(0.0, 1.0, (2,), generator=g, cells=2**31)
    with pytest.raises(TypeError, match="dtype must be a real floating-point"):
        BrownianPath(0.0, 1.0, (2,), generator=g, dtype=torch.complex128)
    with pytest.raises(ValueError, match="t0 must be > 0 for an SNRClock"):
        BrownianPath(0.0, 1.0, (2,), generator=g, clock=SNRClock())
    with pytest.raises(ValueError, match="variance must be"):
        SNRClock(-1.0)
    with pytest.raises(ValueError, match=r"power must be a finite number > 0; got 0\.0"):
        SNRClock(power=0.0)
    with pytest.raises(ValueError, match="area_tolerance"):
        BrownianPath(0.0, 1.0, (2,), generator=g, area_tolerance=0.1)
    with pytest.raises(ValueError, match="area_tolerance must be"):
        BrownianPath(0.0, 1.0, (2,), generator=g, area=True, area_tolerance=-0.1)
    with pytest.raises(ValueError, match="shape must have a last axis"):
        BrownianPath(0.0, 1.0, (), generator=g, area=True)
    with pytest.raises(ValueError, match="one variance for all coordinates"):
        BrownianPath(0.1, 1.0, (2, 3), generator=g, area=True, clock=SNRClock(torch.ones(3)))
    with pytest.raises(MemoryError, match="bytes"):
        BrownianPath(0.0, 1.0, (10, 3_000_000), generator=g, area=True)
    with pytest.raises(TypeError, match="clock must be a Clock"):
        BrownianPath(0.0, 1.0, (2,), generator=g, clock="snr")
    with pytest.raises(TypeError, match="on the path's device"):
        BrownianPath(0.0, 1.0, (2,), generator=g, device="meta")
    with pytest.raises(ValueError, match="device must be one that torch can use here; got 'nowhere'"):
        BrownianPath(0.0, 1.0, (2,), seeds=[0, 1], device="nowhere")


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("source", SOURCES)
def test_times_outside_of_a_path_are_refused(clock: str, source: str):
    """By more than rounding, which in log t is tiny at the small end."""
    kind, t0, t1 = CLOCKS[clock]
    path = BrownianPath(t0, t1, (2, 3), clock=kind, cells=2**4, **SOURCES[source](2))
    for s, t in [(t0 - 1e-3 * abs(t0), t1), (-100.0, t1), (t0, t1 * 1.01), (math.nan, t1)]:
        with pytest.raises(ValueError, match="times must lie in"):
            path.partial_signature(s, t)
        with pytest.raises(ValueError, match="times must lie in"):
            path(s, t)
    whole = path.partial_signature(t0, t1)
    almost = path.partial_signature(t0 - 1e-9 * abs(t0), t1 * (1 + 1e-9))
    assert torch.equal(whole.coefficients, almost.coefficients)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (2, 3, 0)])
@pytest.mark.parametrize("area", [False, True])
def test_empty_shapes(shape: tuple[int, ...], area: bool):
    sources = [{"generator": generator(0)}]
    if shape[0]:
        sources.append({"seeds": range(shape[0])})
    for source in sources:
        path = BrownianPath(0.0, 1.0, shape, cells=2**3, area=area, **source)
        assert path.partial_signatures([0.0, 0.5, 1.0]).increment.shape == (2, *shape)
        assert path(0.0, 0.25).shape == shape


def test_grid_of_a_generator_path_is_even():
    path = BrownianPath(0.0, 1.0, (2,), generator=generator(0))
    torch.testing.assert_close(path.grid(5000), torch.linspace(0, 1, 5001, dtype=F64))


def test_float32_times_of_a_solver_meet_the_grid():
    path = BrownianPath(0.0, 3.7, (2, 1), seeds=[0, 1])
    end = torchsde.sdeint(LinearIto(), torch.ones(2, 1), torch.tensor([0.0, 3.7]), bm=path, dt=3.7 / 256)[-1]
    assert torch.isfinite(end).all()


def test_half_precision_keeps_tiny_steps():
    path = BrownianPath(0.0, 1e-9, (1000,), generator=generator(0), dtype=torch.float16)
    assert 0.8 < path(0.0, 1e-9).double().std() / math.sqrt(1e-9) < 1.2


def test_samplers_reproduce_the_expected_signature():
    """Signatures to level 4 of (time, W), products of exp(h e_0 + W + A) over 128 cells, average to the exact ones.

    The logarithm of a cell's signature is cut off after level 2: a bias of order h = 1/128 in words of length 4.
    """
    n, cells = 4000, 128
    path = BrownianPath(0.0, 1.0, (n, 2), seeds=range(n), cells=2**7, area=True, area_tolerance=1e-3, dtype=F64)
    steps = path.partial_signatures(path.grid(cells))
    total = TensorSeries.identity(2, 4, batch_shape=(n,), dtype=F64)
    for k in range(cells):
        step = steps[k]
        letters = torch.cat([torch.full((n, 1), 1 / cells, dtype=F64), step.increment], 1)
        logarithm = TensorSeries.from_letters(letters, 4)
        second = logarithm.levels[2].clone()
        second[:, 1:, 1:] += step.levy_area
        levels = (*logarithm.levels[:2], second, *logarithm.levels[3:])
        total = total @ TensorSeries(levels).exp()
    exact = expected_signature(2, 1.0, 4)
    for level in range(1, 5):
        samples = total.levels[level].flatten(1)
        error = samples.mean(0) - exact.levels[level].flatten()
        spread = samples.std(0) / math.sqrt(n)
        assert (error.abs() < 5.5 * spread + 2e-3).all(), level
    wrong = expected_signature(2, 1.0, 4, ito=True)
    assert ((total[1, 1] - wrong[1, 1]).mean().abs()) > 0.4


@pytest.fixture
def cut_nodes(monkeypatch) -> list[int]:
    """Numbers of the nodes of master grids that are cut."""
    numbers, visits = [], CellTree.visits

    def counting(self, node, ends, first):
        way = visits(self, node, ends, first)
        numbers.extend(visit.node.number for visit in way if visit.owner == CUT)
        return way

    monkeypatch.setattr(CellTree, "visits", counting)
    return numbers


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kept", [1, 3, 64])
def test_a_path_does_not_depend_on_how_much_of_it_is_drawn_at_once(kept: int, compiled: bool, monkeypatch, cut_nodes):
    """Step by step no node is cut twice where some wait; else those above each part are cut again."""
    if not compiled:
        monkeypatch.setattr("sdesig.brownian.master_grid.kernels", lambda: None)
    variance = torch.tensor([0.3, 0.9, 2.0])
    path = BrownianPath(0.1, 10.0, (4, 3), seeds=range(4), clock=SNRClock(variance), cells=2**6)
    times = path.grid(64)
    whole = path.partial_signatures(times).coefficients
    assert sorted(cut_nodes) == list(range(1, 64))
    monkeypatch.setattr("sdesig._memory.NUMBERS_AT_ONCE", 8 * kept * 2 * 4 * 3)
    cut_nodes.clear()
    again = BrownianPath(0.1, 10.0, (4, 3), seeds=range(4), clock=SNRClock(variance), cells=2**6)
    steps = [again.partial_signature(s, t).coefficients for s, t in pairwise(times)]
    assert torch.equal(torch.stack(steps, 1), whole)
    assert {*cut_nodes} == {*range(1, 64)}
    assert len(cut_nodes) <= (63 if kept == 64 else 1.4 * 63)
    if not compiled:  # the operations of torch work on as many nodes at once as fit
        assert torch.equal(again.partial_signatures(times).coefficients, whole)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "source, area, coordinates",
    [("seeds", False, False), ("seeds", False, True), ("seeds", True, False), ("generator", True, False)],
)
def test_reading_ahead_changes_nothing(compiled: bool, source: str, area: bool, coordinates: bool, monkeypatch):
    """Runs of equal steps, also broken off, repeated, of another width and backwards, bit for bit."""
    if not compiled:
        monkeypatch.setattr("sdesig.brownian.master_grid.kernels", lambda: None)
    clock = SNRClock(torch.tensor([0.3, 0.9])) if coordinates else SNRClock(0.4)
    options = {"clock": clock, "cells": 60, "area": area, "dtype": F64}
    path, whole = (BrownianPath(0.1, 10.0, (2, 2), **SOURCES[source](2), **options) for _ in range(2))
    times = whole.grid(60).tolist()
    values = {
        width: whole.partial_signatures([*times[:-1:width], times[-1]] if 60 % width else times[::width])
        for width in (1, 2, 7)
    }
    walks = [(1, range(9)), (1, [4, 5, 6, 4, 5, 40]), (2, range(30)), (7, range(8)), (1, range(59, -1, -1)), (2, [29])]
    for width, steps in walks:
        for k in steps:
            step, expected = path.partial_signature(times[k * width], times[(k + 1) * width]), values[width][k]
            assert torch.equal(step.coefficients, expected.coefficients), (width, k)
            torch.testing.assert_close(step.h, expected.h, rtol=1e-15, atol=0)
            assert not area or torch.equal(step.levy_area, expected.levy_area)
            step.coefficients.zero_(), step.h.zero_()  # what is handed out is the caller's own


def test_what_is_read_ahead_is_bounded(monkeypatch):
    """By four times what was asked for, by the end of the path, and by a number of values."""
    drawn = []
    original = MasterGrid.coefficients
    monkeypatch.setattr(MasterGrid, "coefficients", lambda self, ends: drawn.append(ends) or original(self, ends))
    path = BrownianPath(0.0, 1.0, (2, 2), seeds=range(2), cells=256)
    times = path.grid(256).tolist()
    for k, (s, t) in enumerate(pairwise(times), 1):
        path.partial_signature(s, t)
        assert sum(len(ends) - 1 for ends in drawn) <= max(1, 5 * (k - 1), k)
    assert [len(ends) - 1 for ends in drawn] == [1, 4, 16, 64, 64, 64, 43]
    drawn.clear()
    path = BrownianPath(0.0, 1.0, (2, 2), seeds=range(2), cells=1024)
    for s, t in pairwise(path.grid(1000).tolist()):  # 40 or 41 steps of one cell, then one of two cells, and so on
        path.partial_signature(s, t)
    assert sum(len(ends) - 1 for ends in drawn) <= 1025
    assert len(drawn) <= 70
    drawn.clear()
    monkeypatch.setattr("sdesig.brownian.master_grid._AHEAD_NUMBERS", 7 * 2 * 2 * 2)
    path = BrownianPath(0.0, 1.0, (2, 2), seeds=range(2), cells=16)
    for s, t in pairwise(path.grid(16).tolist()):
        path.partial_signature(s, t)
    assert [len(ends) - 1 for ends in drawn] == [1, 4, 7, 4]
    monkeypatch.setattr("sdesig.brownian.master_grid._AHEAD_NUMBERS", 1)
    path = BrownianPath(0.0, 1.0, (2, 2), seeds=range(2), cells=16)
    for s, t in pairwise(path.grid(16).tolist()):
        path.partial_signature(s, t)
        assert path._source._ahead.steps is None


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("event", [(1,), (3,), (10,), (2, 6), (1040,), (2050,)])
@pytest.mark.parametrize("clock", [UniformClock(), SNRClock(0.7), "coordinates"])
def test_what_is_compiled_gives_the_numbers_of_torch(depth: int, event, clock, monkeypatch):
    """On a tree with odd factors, over whole steps, joined ones and such that begin in between."""
    if clock == "coordinates":
        clock = SNRClock(torch.linspace(0.0, 40.0, math.prod(event), dtype=F64).reshape(event))
    options = {"seeds": [5, 2**62 + 1, 7], "depth": depth, "clock": clock, "cells": 60, "dtype": F64}
    paths = [BrownianPath(0.01, 10.0, (3, *event), **options) for _ in range(2)]
    times = paths[0].grid(60)
    queries = [times[::7], times[11:47:9], times[[0, 1, 2, 3, 31, 32, 60]], times[[58, 59, 60]], times[[59, 60]]]
    compiled = [paths[0].partial_signatures(query).coefficients for query in queries]
    monkeypatch.setattr("sdesig.brownian.master_grid.kernels", lambda: None)
    monkeypatch.setattr("sdesig._philox.kernels", lambda: None)
    for query, values in zip(queries, compiled, strict=True):
        torch.testing.assert_close(values, paths[1].partial_signatures(query).coefficients, rtol=0, atol=2e-13)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("clock", ["one", "coordinates"])
@pytest.mark.parametrize(
    "event, depth, dtype", [((2,), 2, torch.float32), ((1030,), 4, torch.float32), ((3,), 3, F64), ((5,), 5, F64)]
)
def test_a_path_does_not_depend_on_the_batch(compiled: bool, clock: str, event, depth: int, dtype, monkeypatch):
    """Bit for bit: of few rows and of many, one after the other and at once."""
    if not compiled:
        monkeypatch.setattr("sdesig.brownian.master_grid.kernels", lambda: None)
        monkeypatch.setattr("sdesig._philox.kernels", lambda: None)
    variance = torch.linspace(0.1, 2.0, *event) if clock == "coordinates" else 0.3
    options = {"depth": depth, "cells": 2**5, "dtype": dtype, "clock": SNRClock(variance)}
    whole = BrownianPath(0.1, 1.0, (300, *event), seeds=range(300), **options)
    times = whole.grid(9).tolist()
    values = whole.partial_signatures(times).coefficients
    for seeds in ([0], [299], [3, 299, 17], range(100, 231)):
        path = BrownianPath(0.1, 1.0, (len(seeds), *event), seeds=seeds, **options)
        for k in (4, 0, 8):
            step = path.partial_signature(times[k], times[k + 1]).coefficients
            assert torch.equal(step, values[:, k, list(seeds)])
        assert torch.equal(path.partial_signatures(times).coefficients, values[:, :, list(seeds)])


def test_a_node_that_is_kept_keeps_no_others(monkeypatch):
    """The operations of torch cut all nodes of a level at once; of what waits, the memory is its own."""
    monkeypatch.setattr("sdesig.brownian.master_grid.kernels", lambda: None)
    path = BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), cells=2**6)
    path.partial_signatures(path.grid(64)[:4])
    assert len(path._source._kept) > 1
    for _, values in path._source._kept:
        assert values.untyped_storage().nbytes() == values.nbytes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_seed_is_the_same_path_on_the_gpu():
    options = {"seeds": [1, 2], "depth": 3, "cells": 2**6, "area": True, "dtype": F64}
    values = [
        BrownianPath(0.0, 1.0, (2, 3), device=d, **options).partial_signatures([0.0, 0.25, 1.0])
        for d in ("cpu", "cuda")
    ]
    torch.testing.assert_close(values[0].coefficients, values[1].coefficients.cpu(), rtol=0, atol=1e-12)
    torch.testing.assert_close(values[0].levy_area, values[1].levy_area.cpu(), rtol=0, atol=1e-12)


def test_bad_queries():
    seeded = BrownianPath(0.0, 1.0, (2, 2), seeds=[0, 1], cells=2**4, depth=1)
    free = BrownianPath(0.0, 1.0, (2, 2), generator=generator(0))
    for path in (seeded, free):
        with pytest.raises(ValueError, match="increasing"):
            path.partial_signature(0.5, 0.25)
        with pytest.raises(ValueError, match="increasing"):
            path.partial_signature(0.5, 0.5)
        with pytest.raises(ValueError, match=r"times must lie in \[0.0, 1.0\]; got 1.01"):
            path.partial_signature(0.5, 1.01)
        with pytest.raises(ValueError, match="times must lie in"):
            path.partial_signature(math.nan, 1.0)
        with pytest.raises(ValueError, match="times must lie in"):
            path(-0.5, 1.0)
        with pytest.raises(ValueError, match="at least two times"):
            path.partial_signatures([0.5])
        with pytest.raises(TypeError, match="times must be"):
            path.partial_signatures(torch.tensor([0, 1]))
        with pytest.raises(TypeError, match="times must be"):
            path.partial_signatures("01")
        with pytest.raises(ValueError, match="return_A must be False"):
            path(0.0, 0.5, return_A=True)
        assert path.partial_signature(-1e-9, 1 + 1e-9).h.item() == 1.0
    with pytest.raises(ValueError, match="return_U must be False on a path of depth < 2"):
        seeded(0.0, 0.5, return_U=True)
    with pytest.raises(ValueError, match=r"times must lie on the master grid .* got 0.3, between 0.25 and 0.3125"):
        seeded.partial_signature(0.0, 0.3)
    with pytest.raises(ValueError, match=r"steps must be in \[1, 16\]; got 17"):
        seeded.grid(17)
    inside_a_leaf = BrownianPath(0.0, 1.0, (2,), generator=generator(0), area=True, cells=2**2)
    with pytest.raises(ValueError, match="times must lie on the master grid"):
        inside_a_leaf.partial_signature(0.0, 0.1)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("area", [False, True])
def test_reflected_path(source: str, area: bool):
    """-W: odd values change sign, areas do not, and adjoining steps still combine; twice is the path itself."""
    path = BrownianPath(0.0, 1.0, (4, 2), depth=3, cells=2**4, area=area, dtype=F64, **SOURCES[source](4))
    mirror = path.reflected()
    late, early = mirror.partial_signature(0.5, 1.0), mirror.partial_signature(0.0, 0.5)
    steps = path.partial_signatures([0.0, 0.5, 1.0])
    for k, value in enumerate((early, late)):
        assert torch.equal(value.coefficients, -steps[k].coefficients)
        assert not area or torch.equal(value.levy_area, steps[k].levy_area)
    joined, whole = early.combine(late), mirror.partial_signature(0.0, 1.0)
    torch.testing.assert_close(joined.coefficients, whole.coefficients, rtol=0, atol=1e-12)
    if area:
        torch.testing.assert_close(joined.levy_area, whole.levy_area)
    assert torch.equal(mirror.initial_noise(), -path.initial_noise())
    assert torch.equal(mirror.reflected().partial_signature(0.0, 0.5).coefficients, steps[0].coefficients)


def test_reflection_is_part_of_the_identity_and_forgets_what_was_prefetched():
    path = BrownianPath(0.0, 1.0, (2, 1), seeds=[0, 1], dtype=F64)
    path.prefetch(path.grid(4))
    mirror = path.reflected()
    assert mirror.identity == path.identity | {"reflected": True}
    assert mirror.reflected().identity == path.identity
    assert torch.equal(mirror(0.0, 0.25), -path(0.0, 0.25))


def test_steps_of_torchsde_that_are_no_dyadic_parts():
    """Steps of .05 on [0, .3] lie on 6 x 2^k cells, areas included: the solution is that of our own driver."""
    sde = GeometricBrownianMotion()
    path = BrownianPath(0.0, 0.3, (5, sde.noise_dim), seeds=range(5), cells=6 * 4, area=True, dtype=F64)
    y0 = torch.ones(5, sde.noise_dim, dtype=F64)
    times = torch.linspace(0.0, 0.3, 7, dtype=F64)
    theirs = torchsde.sdeint(sde, y0, times[[0, -1]], bm=path, dt=0.05, method="milstein")
    ours = solve(sde, y0, times, scheme="milstein", path=path, save="last")
    torch.testing.assert_close(theirs[-1], ours, rtol=1e-10, atol=0)
