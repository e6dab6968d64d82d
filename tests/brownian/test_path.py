"""Brownian paths: consistency, identity of seeds, law, torchsde's solvers on them, bad input.

Statistical tests compare z-scores with 5 (two-sided 6e-7 each, about 250 statistics: below 2e-4 per run in all).
"""

import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import torchsde
from hypothesis import given, settings
from hypothesis import strategies as st

from sdesig.brownian import BrownianPath, SNRClock, UniformClock

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
            t0, t1, (2, 3), depth=depth, clock=kind, levels=6, area=area, dtype=F64, **SOURCES[source](2)
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
    times = data.draw(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=30, unique=True))
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
    shuffled, straight = (BrownianPath(0.0, 1.0, (3, 2), seeds=[4, 5, 6], levels=8) for _ in range(2))
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
    """Bit for bit on any batch size and order of rows (areas, through matrix products, to rounding)."""
    kind, t0, t1 = CLOCKS[clock]
    seeds = [11, 2**63 - 1, 7, 0, 11]
    options = {"clock": kind, "depth": 3, "levels": 5, "area": area}
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
            torch.testing.assert_close(values.levy_area, stack.levy_area[:, rows], rtol=1e-5, atol=1e-5)


def test_another_process_draws_the_same_path():
    program = (
        "import torch\nfrom sdesig.brownian import BrownianPath\n"
        "path = BrownianPath(0.0, 1.0, (2, 3), seeds=[8, 9], depth=2, levels=6)\n"
        "print(path.partial_signatures(path.grid(5)).coefficients.double().flatten().tolist())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    path = BrownianPath(0.0, 1.0, (2, 3), seeds=[8, 9], depth=2, levels=6)
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
    path = BrownianPath(t0, t1, (n, 3), depth=2, clock=kind, levels=4, dtype=F64, **SOURCES[source](n))
    grid = path.grid(16)
    path.partial_signature(t0, grid[5])  # so that the generator's path is drawn by conditioning
    steps = path.partial_signatures(grid[[0, 3, 5, 10, 16]])
    for coordinate in range(3):
        samples = steps.coefficients[..., coordinate].flatten(0, 1).T
        assert covariance_z(samples, torch.eye(8, dtype=F64)) < 5
    noise = torch.cat([path.initial_noise(), steps.coefficients[0, 0], steps.coefficients[1, 2]], 1)
    assert covariance_z(noise, torch.eye(9, dtype=F64)) < 5


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
    path = BrownianPath(0.0, 1.0, (n, 2), levels=3, area=True, dtype=F64, **SOURCES[source](n))
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
            assert abs(sample.mean() - expected) < 5 * sample.std() / math.sqrt(n)


def test_whole_path_area_is_that_of_its_leaves():
    """Against the second level of the signature of the polygon through the grid, plus the leaf areas."""
    path = BrownianPath(0.0, 1.0, (2, 3), seeds=[1, 2], levels=5, area=True, dtype=F64)
    steps = path.partial_signatures(path.grid(32))
    left = steps.increment.cumsum(0) - steps.increment
    product = torch.einsum("sbi,sbj->bij", left, steps.increment)
    expected = (product - product.mT) / 2 + steps.levy_area.sum(0)
    torch.testing.assert_close(path.partial_signature(0.0, 1.0).levy_area, expected)


def test_one_dimensional_areas_are_zero():
    path = BrownianPath(0.0, 1.0, (4, 1), seeds=range(4), levels=3, area=True)
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
    path = BrownianPath(0.0, 1.0, (400, 1), levels=8, dtype=F64, **SOURCES[source](400))
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

    path = BrownianPath(0.0, 1.0, (6, 2), seeds=range(6), levels=6, area=True, dtype=F64)
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
    path = BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), levels=4, area=True, dtype=F64)
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
    assert "seeds" in repr(path)


def test_prefetch_changes_nothing():
    plain, fetched = (BrownianPath(0.0, 1.0, (3, 2), seeds=range(3), levels=6) for _ in range(2))
    times = plain.grid(64).tolist()
    fetched.prefetch(times)
    for s, t in pairwise(times):
        assert torch.equal(plain(s, t), fetched(s, t))
    assert torch.equal(plain(times[3], times[9]), fetched(times[3], times[9]))


def test_noise_sampler_of_k_diffusion():
    """Unit variance, and coupled over step sizes: coarse increments are sums of fine ones."""
    path = BrownianPath(0.02, 80.0, (3, 4), seeds=range(3), clock=SNRClock(), dtype=F64)
    sampler = path.as_noise_sampler()
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
    path = BrownianPath(0.5, 2.0, (2, 3), seeds=[1, 2], clock=SNRClock(torch.tensor([1.0, 2.0, 3.0])), levels=5)
    identity = json.loads(json.dumps(path.identity))
    assert identity["seeds"] == [1, 2]
    assert identity["clock"] == {"name": "snr", "variance": [1.0, 2.0, 3.0]}
    assert (identity["levels"], identity["depth"], identity["row_shape"]) == (5, 2, [3])
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
    with pytest.raises(ValueError, match="depth must be >= 1; got 0"):
        BrownianPath(0.0, 1.0, (2,), generator=g, depth=0)
    with pytest.raises(ValueError, match=r"levels must be in \[0, 30\]; got 31"):
        BrownianPath(0.0, 1.0, (2,), generator=g, levels=31)
    with pytest.raises(TypeError, match="dtype must be a real floating-point"):
        BrownianPath(0.0, 1.0, (2,), generator=g, dtype=torch.complex128)
    with pytest.raises(ValueError, match="t0 must be > 0 for an SNRClock"):
        BrownianPath(0.0, 1.0, (2,), generator=g, clock=SNRClock())
    with pytest.raises(ValueError, match="variance must be"):
        SNRClock(-1.0)
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
    with pytest.raises(TypeError, match="on the path's device"):
        BrownianPath(0.0, 1.0, (2,), generator=g, device="meta")


def test_bad_queries():
    seeded = BrownianPath(0.0, 1.0, (2, 2), seeds=[0, 1], levels=4, depth=1)
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
    inside_a_leaf = BrownianPath(0.0, 1.0, (2,), generator=generator(0), area=True, levels=2)
    with pytest.raises(ValueError, match="times must lie on the master grid"):
        inside_a_leaf.partial_signature(0.0, 0.1)
