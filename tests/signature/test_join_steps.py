"""Joining many steps at once: against longer steps of a path, against Chen one by one, and by quadrature."""

import math
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special

from sdesig.brownian import BrownianPath, UniformClock
from sdesig.sampling import SNRClock
from sdesig.signature import PartialSignature
from sdesig.signature.legendre import parts_to_whole
from sdesig.signature.partial_signature import join_steps, sample_partial_signature

F64 = torch.float64
CLOCKS = {
    "uniform": UniformClock(),
    "snr": SNRClock(),
    "reference": SNRClock(0.7),
    "per coordinate": SNRClock(torch.tensor([0.0, 0.5, 40.0], dtype=F64)),
}
ENDS = [0, 1, 3, 4, 11, 30, 32]
every_clock = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())


def make_path(clock, depth, dtype=F64):
    return BrownianPath(0.02, 50.0, (4, 3), seeds=range(4), depth=depth, clock=clock, cells=2**5, dtype=dtype)


def random_steps(lengths, depth, shape=(3, 2), seed=0):
    """Unrelated steps of these lengths, (n,), as a stack."""
    h = torch.as_tensor(lengths, dtype=F64).reshape(-1, *[1] * len(shape))
    generator = torch.Generator().manual_seed(seed)
    return sample_partial_signature((len(h), *shape), h, depth, generator=generator, dtype=F64)


@every_clock
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_joined_steps_are_the_longer_steps_of_the_path(clock, depth):
    path = make_path(clock, depth)
    times = path.grid(32)
    joined, longer = join_steps(path.partial_signatures(times), ENDS), path.partial_signatures(times[ENDS])
    torch.testing.assert_close(joined.h, longer.h, rtol=1e-12, atol=0)
    torch.testing.assert_close(joined.coefficients, longer.coefficients, rtol=0, atol=1e-10)


def test_other_steps_are_not_these():
    """The comparison above would notice ends that are off by one."""
    path = make_path(SNRClock(0.7), 2)
    times = path.grid(32)
    shifted = [0, 1, 3, 5, 11, 30, 32]
    difference = (
        join_steps(path.partial_signatures(times), shifted).coefficients
        - path.partial_signatures(times[ENDS]).coefficients
    )
    assert difference.abs().max() > 0.1


@every_clock
def test_joining_is_combining_one_by_one(clock):
    steps = make_path(clock, 4).partial_signatures(make_path(clock, 4).grid(32))
    joined = join_steps(steps, ENDS)
    for k, (start, stop) in enumerate(pairwise(ENDS)):
        combined = reduce(lambda a, b: a.combine(b), [steps[i] for i in range(start, stop)])
        torch.testing.assert_close(joined[k].coefficients, combined.coefficients, rtol=0, atol=1e-10)
        torch.testing.assert_close(joined[k].h.expand(4, 3), combined.h.expand(4, 3), rtol=1e-12, atol=0)


def test_joining_in_two_stages_is_joining_at_once():
    steps = random_steps(torch.rand(12, generator=torch.Generator().manual_seed(1)) + 0.1, 3)
    once, twice = join_steps(steps, [0, 5, 12]), join_steps(join_steps(steps, [0, 2, 5, 6, 12]), [0, 2, 4])
    torch.testing.assert_close(once.coefficients, twice.coefficients, rtol=0, atol=1e-12)


def legendre_coefficient(f, start, h, k):
    """h^{-1/2} int p_k((u - s)/h) f(u) du, by adaptive quadrature and scipy's Legendre polynomials."""
    scale = math.sqrt((2 * k + 1) / h)
    return (
        scale
        * integrate.quad(
            lambda u: special.eval_legendre(k, 2 * (u - start) / h - 1) * f(u), start, start + h, epsabs=1e-13
        )[0]
    )


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_coefficients_of_a_smooth_path_by_quadrature(depth):
    """For dW = f(u) du every coefficient, of a part or of the whole, is an integral."""

    def f(u):
        return math.exp(math.sin(3 * u))

    ends = np.array([0.2, 0.3, 0.9, 1.0, 2.4])
    parts = [[legendre_coefficient(f, a, b - a, k) for a, b in pairwise(ends)] for k in range(depth)]
    steps = PartialSignature(torch.from_numpy(np.diff(ends)), torch.tensor(parts, dtype=F64))
    joined = join_steps(steps, [0, 3, 4])
    for k in range(depth):
        for j, (a, b) in enumerate([(0.2, 1.0), (1.0, 2.4)]):
            assert joined.coefficients[k, j].item() == pytest.approx(legendre_coefficient(f, a, b - a, k), abs=1e-11)


def test_increments_and_their_time_integrals_add_up():
    """W is the sum of the increments; int (W_u - W_s) du adds W at the start of every part times its length."""
    steps = random_steps([0.3, 0.1, 2.0, 0.7], 2)
    joined = join_steps(steps, [0, 4])
    torch.testing.assert_close(joined.increment[0], steps.increment.sum(0), rtol=0, atol=1e-13)
    before = steps.increment.cumsum(0) - steps.increment
    total = (before * steps.h + steps.time_integral).sum(0)
    torch.testing.assert_close(joined.time_integral[0], total, rtol=0, atol=1e-13)


def test_one_step_stays_as_it_is():
    steps = random_steps([0.3, 0.1, 2.0], 3)
    same = join_steps(steps, [0, 1, 2, 3])
    torch.testing.assert_close(same.coefficients, steps.coefficients, rtol=0, atol=1e-14)
    part = join_steps(steps, [1, 2])
    torch.testing.assert_close(part.coefficients, steps.coefficients[:, 1:2], rtol=0, atol=1e-14)


def test_one_length_for_all_steps():
    """A zero-dimensional h counts for every step."""
    steps = random_steps([0.4] * 6, 2)
    short = PartialSignature(torch.tensor(0.4, dtype=F64), steps.coefficients)
    for ends in ([0, 6], [0, 1, 4]):
        one, other = join_steps(short, ends), join_steps(steps, ends)
        torch.testing.assert_close(one.coefficients, other.coefficients, rtol=0, atol=1e-13)
        assert torch.allclose(one.h.flatten(), other.h.flatten())


def test_single_precision_stays_single():
    double, single = (make_path(CLOCKS["per coordinate"], 3, dtype) for dtype in (F64, torch.float32))
    joined = [join_steps(path.partial_signatures(path.grid(32)), ENDS) for path in (double, single)]
    assert joined[1].dtype == torch.float32
    torch.testing.assert_close(joined[1].coefficients.double(), joined[0].coefficients, rtol=0, atol=1e-5)


def test_gradients_pass_through():
    steps = random_steps([0.3, 0.1, 2.0], 2)
    coefficients = steps.coefficients.clone().requires_grad_()
    join_steps(PartialSignature(steps.h, coefficients), [0, 3]).coefficients.square().sum().backward()
    assert bool((coefficients.grad != 0).all())


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["one length", "per coordinate"])
def test_rows_of_the_parts_are_orthonormal(depth, shape):
    generator = torch.Generator().manual_seed(depth)
    lengths = torch.exp(3 * torch.randn(5, *shape, generator=generator, dtype=F64))
    matrices = parts_to_whole(lengths, depth)
    assert matrices.shape == (5, *shape, depth, depth)
    gram = (matrices @ matrices.mT).sum(0)
    torch.testing.assert_close(gram, torch.eye(depth, dtype=F64).expand_as(gram), rtol=0, atol=1e-12)


def test_parts_of_a_whole_scale_with_it():
    lengths = torch.tensor([0.2, 1.0, 0.5], dtype=F64)
    torch.testing.assert_close(parts_to_whole(lengths, 3), parts_to_whole(1e6 * lengths, 3), rtol=0, atol=1e-13)


def with_area():
    generator = torch.Generator().manual_seed(0)
    return sample_partial_signature((4, 2, 2), 0.5, 2, area="auto", generator=generator, dtype=F64)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: join_steps(with_area(), [0, 4]), ValueError, "no levy_area; see without_area"),
        (lambda: join_steps(random_steps([1, 1], 2), [0]), ValueError, r"two or more indices that increase; got \[0\]"),
        (lambda: join_steps(random_steps([1, 1], 2), []), ValueError, r"two or more indices that increase; got \[\]"),
        (lambda: join_steps(random_steps([1, 1], 2), [0, 0, 2]), ValueError, r"increase; got \[0, 0, 2\]"),
        (lambda: join_steps(random_steps([1, 1], 2), [2, 0]), ValueError, r"increase; got \[2, 0\]"),
        (lambda: join_steps(random_steps([1, 1], 2), [0, 3]), ValueError, r"ends\[1\] must be in \[0, 2\]; got 3"),
        (lambda: join_steps(random_steps([1, 1], 2), [-1, 2]), ValueError, r"ends\[0\] must be in \[0, 2\]; got -1"),
        (lambda: join_steps(random_steps([1, 1], 2), [0, 1.0]), TypeError, r"ends\[1\] must be an integer; got 1.0"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()
