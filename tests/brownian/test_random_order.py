"""Paths of few numbers from a generator, whose trees are numpy arrays: law, accuracy, agreement with those of torch.

Statistical tests compare about 5000 z-scores with 6 (two-sided 2e-9 each): below 1e-5 per run in all.
"""

import copy
import math
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sdesig.brownian import BrownianPath, UniformClock, tree
from sdesig.sampling import SNRClock
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre

F64 = torch.float64
CLOCKS = {
    "uniform": (UniformClock(), -1.0, 2.0),
    "reference": (SNRClock(0.3), math.exp(-8), math.exp(8)),
    "power": (SNRClock(0.3, 0.25), math.exp(-8), math.exp(8)),
}


def path_from(seed: int, shape: int | tuple[int, ...] = (2, 3), **options) -> BrownianPath:
    kind, t0, t1 = CLOCKS[options.pop("clock", "uniform")]
    source = torch.Generator().manual_seed(seed)
    return BrownianPath(t0, t1, shape, generator=source, clock=kind, **{"dtype": F64, **options})


def random_intervals(path: BrownianPath, count: int, seed: int) -> list[tuple[float, float]]:
    """Intervals whose ends are among 4 * count + 1 times."""
    times, choose = path.grid(4 * count).tolist(), random.Random(seed)
    return [tuple(sorted(choose.sample(times, 2))) for _ in range(count)]


def exact_covariance(path: BrownianPath, intervals: list[tuple[float, float]]) -> torch.Tensor:
    """Of the coefficients on all intervals: int p_k p'_l over what two share, over the roots of their lengths."""
    nodes, weights = gauss_legendre(path.depth)

    def place(time: float) -> float:
        return float(path.clock.length(path.t0, time)) if time > path.t0 else 0.0

    places = [(place(s), place(t)) for s, t in intervals]
    blocks = []
    for s, t in places:
        row = []
        for u, v in places:
            low, high = max(s, u), max(s, u, min(t, v))
            points = low + (high - low) * nodes
            first, second = (orthonormal_legendre((points - a) / (b - a), path.depth) for a, b in ((s, t), (u, v)))
            row.append((high - low) / math.sqrt((t - s) * (v - u)) * (first * weights) @ second.T)
        blocks.append(torch.cat(row, 1))
    return torch.cat(blocks)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_joint_law_of_intervals_in_random_order(clock: str, depth: int):
    n = 8000
    path = path_from(depth, n, depth=depth, clock=clock)
    assert path._source.small
    intervals = random_intervals(path, 12 // depth + 2, depth)
    values = torch.cat([path.partial_signature(s, t).coefficients for s, t in intervals])
    exact = exact_covariance(path, intervals)
    variance = exact.diagonal()
    spread = ((variance[:, None] * variance + exact**2) / n).sqrt()
    assert ((values @ values.T / n - exact) / spread).abs().max() < 6


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_numpy_and_torch_give_one_path(clock: str, depth: int, monkeypatch):
    """The same normals, to rounding, whatever is asked: torch's tree is that of GPUs and of clocks per coordinate."""
    small = path_from(0, depth=depth, clock=clock)
    monkeypatch.setattr(tree, "_FEW", 0)
    large = path_from(0, depth=depth, clock=clock)
    assert small._source.small
    assert not large._source.small
    times = small.grid(160).tolist()
    choose = random.Random(1)
    choose.shuffle(times)
    for k in range(0, 160, 8):
        # In many calls: `partial_signature` draws the normals of both its ends at once, which are other ones.
        for path in (small, large):
            path.partial_signatures([path.t0, *sorted(t for t in times[k : k + 8] if t > path.t0)])
    assert torch.equal(small.initial_noise(), large.initial_noise())
    for s, t in random_intervals(small, 40, 2):
        one, two = small.partial_signature(s, t), large.partial_signature(s, t)
        assert (one.h.shape, one.h.dtype) == (two.h.shape, two.h.dtype) == ((1, 1), F64)
        torch.testing.assert_close(one.h, two.h, rtol=1e-13, atol=0)
        torch.testing.assert_close(one.coefficients, two.coefficients, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 0)])
def test_calls_and_values_agree(dtype: torch.dtype, shape: tuple[int, ...]):
    path = path_from(3, shape, dtype=dtype)
    for source in (path, path.reflected()):
        for s, t in random_intervals(path, 20, 3):
            value = source.partial_signature(s, t)
            w, u = source(s, t, return_U=True)
            assert (w.shape, w.dtype, u.shape, u.dtype) == (shape, dtype, shape, dtype)
            torch.testing.assert_close(w, value.increment)
            assert torch.equal(source(s, t), w)
            torch.testing.assert_close(u, value.time_integral)
            assert torch.equal(source.partial_signatures([s, t])[0].coefficients, value.coefficients)
            assert value.h.shape == (1,) * len(shape)


def test_fine_intervals_far_from_the_start_keep_their_digits():
    """Errors are of the size of rounding in the interval itself, 10^-10 long, not in the path up to it."""
    path = path_from(4, 1000, depth=3)
    step = 2.0**-33  # differences of times are exact
    order = list(range(64))
    random.Random(0).shuffle(order)
    fine = {k: path.partial_signature(1.5 + k * step, 1.5 + (k + 1) * step) for k in order}
    for first, last in ((0, 64), (17, 18), (5, 50)):
        joined = fine[first]
        for k in range(first + 1, last):
            joined = joined.combine(fine[k])
        whole = path.partial_signature(1.5 + first * step, 1.5 + last * step)
        assert torch.equal(joined.h, whole.h)
        torch.testing.assert_close(joined.coefficients, whole.coefficients, rtol=0, atol=1e-13)
    samples = torch.stack([fine[k].coefficients for k in range(64)]).flatten(2).movedim(1, 0).flatten(1)
    error = samples @ samples.T / samples.shape[1] - torch.eye(3, dtype=F64)
    assert (error * math.sqrt(samples.shape[1] / 2)).abs().max() < 6


@pytest.mark.parametrize("make", [copy.deepcopy, lambda path: pickle.loads(pickle.dumps(path))])
def test_copies_go_on_by_themselves_and_alike(make):
    path = path_from(5)
    intervals = random_intervals(path, 60, 5)
    for s, t in intervals[:30]:
        path(s, t)
    other = make(path)
    ours = [path.partial_signature(s, t).coefficients for s, t in intervals[30:]]
    known = len(other._source._cuts)
    theirs = [other.partial_signature(s, t).coefficients for s, t in intervals[30:]]
    assert known < len(other._source._cuts)
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


def test_answers_are_no_views_of_the_path():
    path = path_from(6)
    path(-1.0, 0.0)
    value = path.partial_signature(-1.0, 0.0).coefficients
    before = value.clone()
    value.zero_()
    assert torch.equal(path.partial_signature(-1.0, 0.0).coefficients, before)


def test_threads_ask_in_any_order():
    """A rebuild, or a value joined late, is never seen half done."""
    path, start = path_from(7, depth=2), threading.Barrier(6)
    intervals = [random_intervals(path, 120, thread) for thread in range(6)]

    def ask(thread: int) -> list[torch.Tensor]:
        start.wait()
        return [path.partial_signature(s, t).coefficients for s, t in intervals[thread]]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    for thread in range(6):
        for (s, t), value in zip(intervals[thread], answers[thread], strict=True):
            torch.testing.assert_close(path.partial_signature(s, t).coefficients, value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ["up", "down", "inwards", "random"])
def test_depth_and_rebuilds_stay_within_their_bounds(order: str, monkeypatch):
    """No leaf is below more than log(n) / log(4/3) nodes, and all rebuilds together touch O(n log n) leaves."""
    n, touched, balanced = 1500, [], tree._balanced
    monkeypatch.setattr(tree, "_balanced", lambda leaves: (touched.append(len(leaves)), balanced(leaves))[1])
    path = path_from(8, 1, depth=1)
    up = list(range(1, n))
    numbers = {
        "up": up,
        "down": up[::-1],
        "inwards": [k for pair in zip(up, up[::-1], strict=True) for k in pair][: n - 1],
        "random": random.Random(0).sample(up, n - 1),
    }[order]
    times = path.grid(n).tolist()
    path(times[0], times[-1])
    for k in numbers:
        path(times[0], times[k])
    layer, depth = [path._source._root], 0
    while layer:
        layer = [part for node in layer for part in (node.parts or ())]
        depth += 1
    assert depth - 1 <= math.log(n) / math.log(4 / 3)
    assert sum(touched) < n * math.log2(n)


def test_inference_mode_leaves_ordinary_tensors():
    path = path_from(9)
    y = torch.ones(2, 3, dtype=F64, requires_grad=True)
    with torch.inference_mode():
        values = [*path(-1.0, 0.3, return_U=True), path.partial_signature(0.3, 0.5).coefficients[0]]
    for value in values:
        assert torch.equal(torch.autograd.grad((y * value).sum(), y)[0], value)
