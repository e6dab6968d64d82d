"""The strategies: what they draw, how it shrinks, and the algebra of this package as properties of what they draw."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, find, given, settings
from hypothesis import strategies as st

from sdesig.brownian import BrownianPath
from sdesig.sde.base import NOISE_STRUCTURES
from sdesig.sde.problems import PROBLEMS, LinearSDE
from sdesig.signature import (
    expected_signature,
    iterated_integrals,
    ito_to_stratonovich,
    quasi_shuffle,
    sample_partial_signature,
    shuffle,
    stratonovich_to_ito,
)
from sdesig.testing import chen_deviation
from sdesig.testing.strategies import brownian_paths, partial_signatures, sdes, step_lengths, words

AREA = {"shape": (2, 3), "depth": 3, "area": True, "h": step_lengths(2.0**-6, 4.0)}


def assert_equal(x, y, units=64):
    """Equal up to a few roundings of the largest entries, in the sense of `chen_deviation`."""
    eps = torch.finfo(x.dtype).eps
    torch.testing.assert_close(x.h, y.h, rtol=units * eps, atol=0.0)
    scale = max(1.0, x.coefficients.abs().max().item())
    torch.testing.assert_close(x.coefficients, y.coefficients, rtol=0.0, atol=units * eps * scale)
    if x.levy_area is None:
        assert y.levy_area is None
    else:
        scale = x.h.max().item() * max(1.0, (x.levy_area.abs().max() / x.h.max()).item())
        torch.testing.assert_close(x.levy_area, y.levy_area, rtol=0.0, atol=units * eps * scale)


# --- what is drawn ---


@given(words(3, 5))
def test_words(word):
    assert isinstance(word, tuple)
    assert len(word) <= 5
    assert set(word) <= {0, 1, 2, 3}


def test_words_reach_every_word_and_shrink():
    for word in itertools.chain.from_iterable(itertools.product(range(2), repeat=k) for k in range(3)):
        assert find(words(1, 2), lambda drawn, word=word: drawn == word) == word
    assert find(words(), lambda word: len(word) >= 2) == (0, 0)
    assert find(words(), lambda word: 2 in word) == (2,)


@given(step_lengths(1e-3, 0.7))
def test_step_lengths(h):
    assert isinstance(h, float)
    assert 1e-3 <= h <= 0.7


def test_step_lengths_reach_every_magnitude_and_shrink_to_one():
    assert find(step_lengths(), lambda h: True) == 1.0
    assert find(step_lengths(), lambda h: h > 3.0) == 4.0
    assert find(step_lengths(), lambda h: h < 2.0**-18) < 2.0**-18
    assert find(step_lengths(0.3, 0.3), lambda h: True) == 0.3


@given(partial_signatures((4, 2), 3, area=True, h=step_lengths(0.1, 0.2), dtype=torch.float32))
def test_partial_signatures(ps):
    assert ps.shape == (4, 2)
    assert ps.depth == 3
    assert ps.dtype == torch.float32
    assert ps.levy_area.shape == (4, 2, 2)
    assert 0.1 <= ps.h <= 0.2


@given(partial_signatures(3), partial_signatures((), 1))
def test_partial_signatures_without_area(vector, number):
    assert vector.levy_area is None
    assert vector.shape == (3,)
    assert number.shape == ()
    assert number.dtype == torch.float64


def test_partial_signatures_vary_and_shrink_to_the_unit_step_of_seed_zero():
    simplest = find(partial_signatures(), lambda ps: True)
    generator = torch.Generator().manual_seed(0)
    expected = sample_partial_signature((2,), 1.0, 2, generator=generator, dtype=torch.float64)
    assert torch.equal(simplest.coefficients, expected.coefficients)
    assert simplest.h == 1.0
    assert find(partial_signatures(), lambda ps: bool((ps.increment < 0).all())).h == 1.0


@settings(max_examples=10)
@given(brownian_paths((2, 3), 3, cells=2**3, area=True))
def test_brownian_paths(path):
    assert isinstance(path, BrownianPath)
    assert path.shape == (2, 3)
    assert (path.depth, path.cells, path.area, path.dtype) == (3, 8, True, torch.float64)
    assert path.t0 == 0.0
    assert 2.0**-4 <= path.t1 <= 16.0
    assert len(path.seeds) == 2


@given(sdes())
def test_sdes(sde):
    y = torch.linspace(0.2, 0.8, sde.dim, dtype=torch.float64).repeat(3, 1)
    assert sde.f(0.5, y).shape == (3, sde.dim)
    assert sde.diffusion_matrix(0.5, y).shape == (3, sde.dim, sde.noise_dim)
    assert sde.diffusion_matrix(0.5, y).isfinite().all()


@pytest.mark.parametrize("noise", NOISE_STRUCTURES)
def test_sdes_of_a_noise_structure(noise):
    fitting = [problem for problem in PROBLEMS if problem().noise_structure == noise]
    assert fitting
    for problem in fitting:
        assert find(sdes(noise), lambda sde, problem=problem: type(sde) is problem).noise_structure == noise

    @given(sdes(noise))
    def structure(sde):
        assert sde.noise_structure == noise

    structure()


def test_sdes_hold_random_linear_ones():
    """Of several dimensions, and shrinking to the zero matrices but for the entries that matter."""
    smallest = find(sdes(), lambda sde: type(sde) is LinearSDE and (sde.dim, sde.noise_dim) == (3, 1))
    assert not smallest.noise.any()
    assert not smallest.drift.any()
    smallest = find(
        sdes("general"), lambda sde: type(sde) is LinearSDE and sde.dim == 3 and bool((sde.noise > 0.5).any())
    )
    assert smallest.noise.tolist() == [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.75]]]
    assert not smallest.drift.any()


def test_bad_arguments():
    with pytest.raises(ValueError, match="dim must be >= 0"):
        words(-1)
    with pytest.raises(ValueError, match="max_length must be >= 0"):
        words(2, -1)
    with pytest.raises(ValueError, match="minimum must be a finite number > 0"):
        step_lengths(0.0)
    with pytest.raises(ValueError, match="maximum must be a finite number >= 2"):
        step_lengths(2.0, 1.0)
    with pytest.raises(ValueError, match="depth must be >= 1"):
        partial_signatures(depth=0)
    with pytest.raises(TypeError, match="dtype must be a real floating-point"):
        partial_signatures(dtype=torch.int64)
    with pytest.raises(ValueError, match="shape must have a batch axis"):
        brownian_paths(())
    with pytest.raises(ValueError, match="noise must be one of 'additive'"):
        sdes("coloured")


def test_hypothesis_is_optional():
    """Blocked in another process: the law checks import without it, the strategies name the extra."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import sdesig.testing\n"
        "try:\n"
        "    from sdesig.testing import strategies\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "sdesig.testing.strategies needs hypothesis: pip install hypothesis\n"


# --- properties of what is drawn ---


@given(partial_signatures(**AREA), partial_signatures(**AREA), partial_signatures(**AREA))
def test_combine_is_associative(a, b, c):
    assert_equal(a.combine(b).combine(c), a.combine(b.combine(c)))


@given(partial_signatures(**AREA), partial_signatures(**AREA))
def test_combine_is_not_commutative(a, b):
    assume(not torch.equal(a.coefficients, b.coefficients))
    assert chen_deviation(a.combine(b), b, a) > 1e6


@given(partial_signatures(**AREA))
def test_reverse_is_an_involution(a):
    assert_equal(a.reverse().reverse(), a, units=0)


@given(partial_signatures(**AREA), partial_signatures(**AREA))
def test_reverse_is_an_antihomomorphism(a, b):
    assert_equal(a.combine(b).reverse(), b.reverse().combine(a.reverse()))


@given(partial_signatures((2,), 4), st.floats(2.0**-10, 1.0 - 2.0**-10), st.integers(0, 2**32))
def test_split_then_combine_returns_the_value(a, share, seed):
    first, second = a.split(share * a.h.item(), generator=torch.Generator().manual_seed(seed))
    assert chen_deviation(a, first, second) < 256


@settings(max_examples=20)
@given(
    brownian_paths(depth=3, cells=2**4, area=True), st.lists(st.integers(0, 16), min_size=3, max_size=3, unique=True)
)
def test_paths_obey_chen(path, cells):
    s, u, t = (path.grid(16)[k].item() for k in sorted(cells))
    deviation = chen_deviation(path.partial_signature(s, t), path.partial_signature(s, u), path.partial_signature(u, t))
    assert deviation < 256


SCALAR = partial_signatures((3,), 5, h=step_lengths(2.0**-6, 4.0))


def assert_product(ps, u, v, product, *, ito):
    """The (quasi-)shuffle identity for words with closed forms, to rounding of its largest term."""
    terms = torch.stack([count * ps.scalar_word(word, ito=ito) for word, count in product.items()])
    expected = ps.scalar_word(u, ito=ito) * ps.scalar_word(v, ito=ito)
    tolerance = 1e-12 * (terms.abs().max() + expected.abs().max()).item()
    torch.testing.assert_close(terms.sum(0), expected, rtol=0.0, atol=tolerance)


@given(SCALAR, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
def test_shuffle_of_gaussian_words_with_time(ps, before, after, zeros):
    """I_(0^k) I_(0^a,1,0^b): every word of the product is Gaussian, and the two products agree."""
    word, time = (0,) * before + (1,) + (0,) * min(after, 4 - before - zeros), (0,) * zeros
    assert shuffle(word, time) == quasi_shuffle(word, time)
    assert_product(ps, word, time, shuffle(word, time), ito=True)


@given(SCALAR, st.integers(0, 4), st.integers(0, 4))
def test_shuffle_of_powers(ps, m, n):
    """J_(1^m) J_(1^n) = binom(m + n, m) J_(1^(m+n))."""
    u, v = (1,) * m, (1,) * n
    assert shuffle(u, v) == {u + v: math.comb(m + n, m)}
    assert_product(ps, u, v, shuffle(u, v), ito=False)


@given(SCALAR)
def test_quasi_shuffle_of_powers(ps):
    """I_(1) I_(1) = 2 I_(1,1) + I_(0), I_(1) I_(1,1) = 3 I_(1,1,1) + I_(1,0) + I_(0,1)."""
    for v in ((1,), (1, 1)):
        assert_product(ps, (1,), v, quasi_shuffle((1,), v), ito=True)


@given(partial_signatures((3,), 2, area=True))
def test_products_of_increments(ps):
    """I_(i) I_(j) = I_(i,j) + I_(j,i) + [i = j] h, J_(i) J_(j) = J_(i,j) + J_(j,i), with an area of any law."""
    for ito, product in ((True, quasi_shuffle), (False, shuffle)):
        integrals = iterated_integrals(ps.increment, ps.h, area=ps.levy_area, ito=ito)
        for i, j in itertools.product(range(3), repeat=2):
            values = {(a + 1, b + 1): integrals[a, b] for a, b in itertools.product(range(3), repeat=2)} | {(0,): ps.h}
            terms = [count * values[word] for word, count in product((i + 1,), (j + 1,)).items()]
            tolerance = 1e-12 * (ps.h + ps.levy_area.abs().max()).item()
            torch.testing.assert_close(sum(terms), ps.increment[i] * ps.increment[j], rtol=0.0, atol=tolerance)


@given(words(2, 4), words(2, 4), step_lengths(2.0**-4, 4.0))
def test_products_commute_and_agree_in_both_calculi(u, v, h):
    """J_u J_v by the shuffle and by the quasi-shuffle of Ito integrals, both in expectation."""
    assert shuffle(u, v) == shuffle(v, u)
    assert sum(shuffle(u, v).values()) == math.comb(len(u) + len(v), len(u))
    stratonovich, ito = (expected_signature(2, h, 8, ito=calculus) for calculus in (False, True))
    by_shuffle = sum(count * stratonovich[word] for word, count in shuffle(u, v).items())
    by_quasi_shuffle = sum(
        float(a * b) * count * ito[word]
        for (p, a), (q, b) in itertools.product(stratonovich_to_ito(u).items(), stratonovich_to_ito(v).items())
        for word, count in quasi_shuffle(p, q).items()
    )
    torch.testing.assert_close(by_shuffle, by_quasi_shuffle, rtol=1e-12, atol=1e-14)


@given(words(2, 6))
def test_calculi_convert_back_and_forth(word):
    back = {}
    for longer, a in stratonovich_to_ito(word).items():
        for shorter, b in ito_to_stratonovich(longer).items():
            back[shorter] = back.get(shorter, 0) + a * b
    assert {w: c for w, c in back.items() if c} == {word: 1}
