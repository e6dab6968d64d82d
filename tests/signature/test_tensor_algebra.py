"""Tensor series against brute force over words, closed forms, a moment ODE and Monte Carlo.

Statistical tests have fixed seeds. False-alarm rate if the seeds were redrawn: 232 comparisons with |z| < 5 (1.4e-4)
and two 99.995 % intervals for slopes (1e-4).
"""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdesig.signature.tensor_algebra import TensorSeries, expected_signature, piecewise_linear_signature
from sdesig.signature.words import quasi_shuffle, shuffle

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 3)
depths = st.integers(1, 4)
scalars = st.floats(0.2, 3.0)


def randn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_series(size, depth, seed, batch=(2,), time=True):
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn((*batch, *(size,) * k), generator=generator, dtype=torch.float64) for k in range(depth + 1)]
    return TensorSeries(tuple(levels), time)


def words_of(series):
    return [w for k in range(series.depth + 1) for w in itertools.product(series.letters, repeat=k)]


def assert_same(x, y, rtol=1e-11, atol=1e-11):
    assert x.letters == y.letters
    for level_x, level_y in zip(x.levels, y.levels, strict=True):
        torch.testing.assert_close(level_x, level_y, rtol=rtol, atol=atol)


def identity_like(x):
    return TensorSeries.identity(x.letters[-1], x.depth, time=x.time, batch_shape=x.batch_shape, dtype=x.dtype)


def brownian_paths(n_paths, n_steps, dim, seed):
    """(time, W) on a uniform grid of [0, 1], shape (n_paths, n_steps + 1, 1 + dim)."""
    increments = randn(n_paths, n_steps, dim, seed=seed) / math.sqrt(n_steps)
    time = torch.full((n_paths, n_steps, 1), 1 / n_steps, dtype=torch.float64)
    points = torch.cat([time, increments], dim=-1).cumsum(dim=-2)
    return torch.cat([torch.zeros_like(points[:, :1]), points], dim=-2)


def left_point_sums(path, depth):
    """Ito sums over strictly increasing times: the Chen product of 1 + increment."""
    increments = path.diff(dim=-2)
    total = identity_like(TensorSeries.from_letters(increments[:, 0], depth))
    for increment in increments.unbind(-2):
        total = total + total @ TensorSeries.from_letters(increment, depth)
    return total


# --- algebra ---


@given(sizes, depths, seeds, st.booleans())
def test_word_access_and_product_against_sums_over_words(size, depth, seed, time):
    x, y = random_series(size, depth, seed, time=time), random_series(size, depth, seed + 1, batch=(3, 1), time=time)
    product = x @ y
    assert product.batch_shape == (3, 2)
    assert x.letters == (range(size) if time else range(1, size + 1))
    for word in words_of(x):
        index = tuple(letter if time else letter - 1 for letter in word)
        torch.testing.assert_close(x[word], x.levels[len(word)][(slice(None), *index)], rtol=0, atol=0)
        brute = sum(x[word[:k]] * y[word[k:]] for k in range(len(word) + 1))
        torch.testing.assert_close(product[word], brute, rtol=1e-13, atol=1e-13)


@given(sizes, depths, seeds)
def test_ring_axioms(size, depth, seed):
    x, y, z = (random_series(size, depth, seed + k) for k in range(3))
    one = identity_like(x)
    assert_same((x @ y) @ z, x @ (y @ z))
    assert_same(x @ (y + z), x @ y + x @ z)
    assert_same((x - y) @ z, x @ z - y @ z)
    assert_same(one @ x, x)
    assert_same(x @ one, x)
    factor = torch.tensor([2.0, -0.5], dtype=torch.float64)
    assert_same((factor * x) @ y, x @ (y * factor))
    assert_same(x + x, 2 * x)


@given(sizes, depths, seeds, scalars)
def test_exp_log_inverse(size, depth, seed, scalar):
    x = random_series(size, depth, seed)
    y = TensorSeries((torch.full_like(x.levels[0], scalar), *x.levels[1:]), x.time)
    one = identity_like(x)
    assert_same(x.exp().log(), x, rtol=1e-9, atol=1e-9)
    assert_same(y.log().exp(), y, rtol=1e-9, atol=1e-9)
    for z in (y, -1.0 * y):
        assert_same(z @ z.inverse(), one, rtol=1e-8, atol=1e-8)
        assert_same(z.inverse() @ z, one, rtol=1e-8, atol=1e-8)
    assert_same((x + x).exp(), x.exp() @ x.exp(), rtol=1e-9, atol=1e-9)
    assert_same(x.exp() @ (-1.0 * x).exp(), one, rtol=1e-8, atol=1e-8)


def test_exp_of_matrices():
    """A representation e_j -> nilpotent matrix turns exp and log of series into those of matrices (scipy)."""
    rng = np.random.default_rng(0)
    matrices = [np.triu(rng.normal(size=(5, 5)), 1) for _ in range(2)]  # products of five vanish: depth 4 is exact
    x = random_series(2, 4, 1, batch=())

    def represent(series):
        total = np.zeros((5, 5))
        for word in words_of(series):
            total += series[word].item() * np.linalg.multi_dot([np.eye(5), np.eye(5), *(matrices[i] for i in word)])
        return total

    np.testing.assert_allclose(represent(x.exp()), scipy.linalg.expm(represent(x)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(represent(x.inverse()), np.linalg.inv(represent(x)), rtol=1e-9, atol=1e-9)


# --- signatures of piecewise linear paths ---


@given(sizes, depths, seeds, st.integers(1, 4), st.booleans())
def test_signature_against_sums_over_segments(size, depth, seed, n, time):
    """S_w = sum over s_1 <= ... <= s_k of prod_j x_{s_j}^{w_j} / prod (multiplicity of each segment)!."""
    path = randn(2, n + 1, size, seed=seed)
    signature = piecewise_linear_signature(path, depth, time=time)
    increments = path.diff(dim=-2)
    for word in words_of(signature):
        brute = torch.zeros(2, dtype=torch.float64)
        for segments in itertools.combinations_with_replacement(range(n), len(word)):
            term = torch.ones(2, dtype=torch.float64)
            for segment, letter in zip(segments, word, strict=True):
                term = term * increments[:, segment, signature.letters.index(letter)]
            brute += term / math.prod(math.factorial(segments.count(s)) for s in set(segments))
        torch.testing.assert_close(signature[word], brute, rtol=1e-12, atol=1e-12)


@given(sizes, depths, seeds, st.integers(1, 6), st.integers(1, 6))
def test_chen_identity_and_reversal(size, depth, seed, n, m):
    path = randn(3, n + m + 1, size, seed=seed)
    whole = piecewise_linear_signature(path, depth)
    first, second = (piecewise_linear_signature(p, depth) for p in (path[:, : n + 1], path[:, n:]))
    assert_same(first @ second, whole)
    assert_same(piecewise_linear_signature(path.flip(-2), depth), whole.inverse(), rtol=1e-9, atol=1e-9)
    for word in words_of(whole):  # antipode
        antipode = (-1) ** len(word) * whole[word[::-1]]
        torch.testing.assert_close(whole.inverse()[word], antipode, rtol=1e-9, atol=1e-9)


def test_log_signature_of_one_segment_is_its_increment():
    path = randn(4, 2, 3, seed=0)
    assert_same(piecewise_linear_signature(path, 4).log(), TensorSeries.from_letters(path[:, 1] - path[:, 0], 4))


def test_constant_path_has_trivial_signature():
    point = randn(2, 1, 3, seed=0)
    for path in (point, point.expand(2, 5, 3)):
        assert_same(
            piecewise_linear_signature(path, 3), TensorSeries.identity(2, 3, batch_shape=(2,), dtype=path.dtype)
        )


def product_defect(series, product, u, v):
    return series[u] * series[v] - sum(c * series[w] for w, c in product(u, v).items())


@given(seeds, st.integers(1, 3))
def test_shuffle_and_quasi_shuffle_identities(seed, length):
    """Signatures obey the shuffle identity and, converted to Ito integrals, the quasi-shuffle; exactly, both."""
    signature = piecewise_linear_signature(randn(2, 4, 3, seed=seed), 4)
    ito = signature.stratonovich_to_ito()
    zero = torch.zeros(2, dtype=torch.float64)
    for u in itertools.product(range(3), repeat=length):
        for v in itertools.product(range(3), repeat=4 - length):
            torch.testing.assert_close(product_defect(signature, shuffle, u, v), zero, rtol=0, atol=1e-9)
            torch.testing.assert_close(product_defect(ito, quasi_shuffle, u, v), zero, rtol=0, atol=1e-9)


@given(seeds)
def test_left_point_sums_obey_the_quasi_shuffle_when_letter_zero_is_the_bracket(seed):
    """With d(letter 0) = (dW)^2, products of left-point sums in W contract exactly, at any step size; shuffles fail."""
    noise = randn(2, 5, 1, seed=seed)
    increments = torch.cat([noise**2, noise], dim=-1)
    path = torch.cat([torch.zeros_like(increments[:, :1]), increments], dim=-2).cumsum(dim=-2)
    sums = left_point_sums(path, 4)
    zero = torch.zeros(2, dtype=torch.float64)
    for k, m in ((1, 1), (1, 2), (2, 2), (1, 3)):
        u, v = (1,) * k, (1,) * m
        torch.testing.assert_close(product_defect(sums, quasi_shuffle, u, v), zero, rtol=1e-10, atol=1e-10)
    bracket = sums[(0,)]
    torch.testing.assert_close(product_defect(sums, shuffle, (1,), (1,)), bracket, rtol=1e-10, atol=1e-10)


def slope_interval(n_steps, errors):
    """99.995 % confidence interval of d log(error) / d log(n)."""
    fit = scipy.stats.linregress(np.log(n_steps), np.log(errors))
    half = scipy.stats.t.ppf(1 - 2.5e-5, len(n_steps) - 2) * fit.stderr
    return fit.slope - half, fit.slope + half


def test_ito_sums_and_signature_of_one_brownian_path_converge_to_each_other():
    """The same path: left-point sums -> I, piecewise linear signature -> J, at rate n^{-1/2}, related by conversion.

    Unconverted they stay apart, and the left-point sums obey the quasi-shuffle, not the shuffle, in the limit.
    """
    grids = np.array([8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256])
    rms = {"converted": [], "unconverted": [], "quasi-shuffle": [], "shuffle": []}
    u, v = (1, 2), (1,)
    for n in grids:
        path = brownian_paths(2000, int(n), 2, seed=int(n))
        ito, signature = left_point_sums(path, 3), piecewise_linear_signature(path, 3)
        word = (1, 1, 2)
        errors = {
            "converted": ito.ito_to_stratonovich()[word] - signature[word],
            "unconverted": ito[word] - signature[word],
            "quasi-shuffle": product_defect(ito, quasi_shuffle, u, v),
            "shuffle": product_defect(ito, shuffle, u, v),
        }
        for name, error in errors.items():
            rms[name].append(error.square().mean().sqrt().item())
    for name in ("converted", "quasi-shuffle"):
        low, high = slope_interval(grids, rms[name])
        assert low <= -0.5 <= high
        assert high - low < 0.2
    for name, factor in (("unconverted", 0.5), ("shuffle", 1.0)):  # factor * I_(0,2) is missing; E I_(0,2)^2 = 1/3
        assert rms[name][-1] == pytest.approx(factor / math.sqrt(3), rel=0.1)


def test_whole_series_conversion_is_the_algebra_map_of_the_letters():
    """Conversion is the algebra homomorphism with e_0 -> e_0 +- (1/2) sum e_i (x) e_i, e_i -> e_i: check on exps."""
    x = TensorSeries.from_letters(randn(2, 3, seed=3), 4)
    x = x + x @ x
    correction = torch.diag(torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64))
    e = [TensorSeries.from_letters(row, 4) for row in torch.eye(3, dtype=torch.float64)]
    for sign, convert in ((1, TensorSeries.ito_to_stratonovich), (-1, TensorSeries.stratonovich_to_ito)):
        zeros = TensorSeries.from_letters(torch.zeros(3, dtype=torch.float64), 4).levels
        image = [e[0] + TensorSeries((*zeros[:2], sign * correction, *zeros[3:])), e[1], e[2]]
        mapped = x.levels[0] * identity_like(x)
        for word in words_of(x)[1:]:
            term = image[word[0]]
            for letter in word[1:]:
                term = term @ image[letter]
            mapped = mapped + x[word] * TensorSeries(tuple(level.expand(2, *level.shape) for level in term.levels))
        assert_same(convert(x), mapped)
    assert_same(x.ito_to_stratonovich().stratonovich_to_ito(), x)


# --- expected signatures ---


def closed_form(word, h):
    """E J_w = h^m / (m! 2^p) if w is a concatenation of m blocks, p pairs (i, i) and m - p zeros; else 0."""
    blocks, pairs, k = 0, 0, 0
    while k < len(word):
        if word[k] != 0:
            if word[k : k + 2] != (word[k],) * 2:
                return 0.0
            pairs, k = pairs + 1, k + 1
        blocks, k = blocks + 1, k + 1
    return h**blocks / (math.factorial(blocks) * 2**pairs)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("time", [True, False])
@pytest.mark.parametrize("h", [1.0, 0.3])
def test_expected_signature_closed_form(dim, time, h):
    stratonovich, ito = (expected_signature(dim, h, 4, time=time, ito=ito) for ito in (False, True))
    assert stratonovich.letters == (range(dim + 1) if time else range(1, dim + 1))
    for word in words_of(stratonovich):
        assert stratonovich[word].item() == pytest.approx(closed_form(word, h), rel=1e-14, abs=1e-16)
        expected = 0.0 if any(word) else h ** len(word) / math.factorial(len(word))
        assert ito[word].item() == pytest.approx(expected, rel=1e-14, abs=1e-16)


def test_expected_signature_solves_the_moment_equation():
    """d E[J_w]/dt = E[J_v] if w = v0, E[J_v]/2 if w = vii, else 0: the Ito form of dJ_{vj} = J_v o dW^j; by expm."""
    dim, depth, h = 2, 5, 0.7
    series = expected_signature(dim, h, depth)
    words = words_of(series)
    position = {w: k for k, w in enumerate(words)}
    generator = np.zeros((len(words), len(words)))
    for w in words:
        if w and w[-1] == 0:
            generator[position[w], position[w[:-1]]] = 1.0
        elif len(w) > 1 and w[-1] == w[-2]:
            generator[position[w], position[w[:-2]]] = 0.5
    start = np.eye(len(words))[0]
    solution = scipy.linalg.expm(h * generator) @ start
    np.testing.assert_allclose([series[w].item() for w in words], solution, rtol=1e-13, atol=1e-15)


def test_expected_signature_without_time_is_a_restriction():
    h = torch.tensor([0.5, 2.0], dtype=torch.float64)
    for ito in (False, True):
        full, noise = (expected_signature(2, h, 4, time=time, ito=ito) for time in (True, False))
        for word in words_of(noise):
            torch.testing.assert_close(noise[word], full[word], rtol=1e-14, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_expected_stratonovich_is_the_converted_expected_ito(dim):
    h = torch.tensor([0.2, 1.5], dtype=torch.float64)
    stratonovich, ito = (expected_signature(dim, h, 5, ito=ito) for ito in (False, True))
    assert_same(ito.ito_to_stratonovich(), stratonovich, rtol=1e-14, atol=1e-16)
    assert_same(stratonovich.stratonovich_to_ito(), ito, rtol=1e-14, atol=1e-15)


@given(st.floats(0.01, 2.0), st.floats(0.01, 2.0), st.booleans(), st.booleans())
def test_expected_signatures_of_adjacent_steps_multiply(h1, h2, time, ito):
    first, second, whole = (expected_signature(2, h, 4, time=time, ito=ito) for h in (h1, h2, h1 + h2))
    assert_same(first @ second, whole, rtol=1e-12, atol=1e-14)


def z_scores(samples, expected):
    """z of every word's sample mean; words that do not fluctuate must agree outright and are left out."""
    result = {}
    for word in words_of(expected):
        x, mean = samples[word], expected[word].item()
        if x.std() < 1e-12:
            assert x.mean().item() == pytest.approx(mean, abs=0.02)  # 0^k: the left-point sum is biased by O(1/n)
        else:
            result[word] = ((x.mean() - mean) / (x.std() / math.sqrt(len(x)))).item()
    return result


def test_expected_signature_against_monte_carlo():
    """Bias of E J from the piecewise linear path with 256 steps: h^2 / (12 * 256) = 3e-4, 0.1 standard errors."""
    path = brownian_paths(8000, 256, 2, seed=11)
    signature = piecewise_linear_signature(path, 4)
    z = z_scores(signature, expected_signature(2, 1.0, 4))
    assert len(z) == 116
    assert max(map(abs, z.values())) < 5
    wrong = z_scores(signature, expected_signature(2, 1.0, 4, ito=True))
    assert wrong[(1, 1)] > 20

    sums = left_point_sums(path, 4)
    z = z_scores(sums, expected_signature(2, 1.0, 4, ito=True))
    assert len(z) == 116
    assert max(map(abs, z.values())) < 5


# --- gradients, dtypes, devices ---


def test_gradients_in_the_step():
    h = torch.tensor([0.4, 1.3], dtype=torch.float64, requires_grad=True)
    for time, ito in ((True, True), (True, False), (False, False)):  # Ito without time does not depend on h

        def levels(x, time=time, ito=ito):
            return expected_signature(2, x, 3, time=time, ito=ito).levels[1 + (not time) :]

        assert torch.autograd.gradcheck(levels, h)
    (slope,) = torch.autograd.grad(expected_signature(1, h, 4)[(1, 1, 0)].sum(), h)
    torch.testing.assert_close(slope, h.detach() / 2)  # E J_(1,1,0) = h^2 / 4


def test_gradients_in_the_path():
    path = randn(2, 4, 2, seed=5).requires_grad_()

    def everything(p):
        signature = piecewise_linear_signature(p, 3)
        return (
            *signature.log().levels[1:],
            *signature.inverse().levels[1:],
            *signature.stratonovich_to_ito().levels[1:],
        )

    assert torch.autograd.gradcheck(everything, path)


def test_float32_follows_the_input():
    path = randn(4, 33, 3, seed=1)
    single, double = (piecewise_linear_signature(p / 5, 4) for p in (path.float(), path))
    for x in (single, single @ single, single.log(), single.inverse(), 0.5 * single, single.stratonovich_to_ito()):
        assert x.dtype == torch.float32
    assert (torch.tensor(2.0, dtype=torch.float64) * single).dtype == torch.float32
    for level, reference in zip(single.levels, double.levels, strict=True):
        torch.testing.assert_close(level.double(), reference, rtol=1e-4, atol=1e-5)
    assert expected_signature(2, torch.tensor(0.5), 3).dtype == torch.float32
    assert expected_signature(2, 0.5, 3).dtype == torch.float64
    assert TensorSeries.identity(2, 3).dtype == torch.get_default_dtype()


def test_nothing_is_created_on_another_device():
    """The meta device refuses to mix with tensors made on the CPU."""
    path = torch.empty(2, 4, 3, device="meta")
    signature = piecewise_linear_signature(path, 3)
    one = TensorSeries.identity(2, 3, batch_shape=(2,), device="meta")
    for x in (signature, signature @ one, (0.5 * signature).exp(), signature.ito_to_stratonovich()):
        assert x.device.type == "meta"
        assert [tuple(level.shape) for level in x.levels] == [(2,), (2, 3), (2, 3, 3), (2, 3, 3, 3)]


# --- bad input ---


def test_series_is_checked():
    zero, one, two = torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 3, 3)
    for levels in ([zero, one], (zero,)):
        with pytest.raises(ValueError, match="levels must be a tuple of at least two tensors"):
            TensorSeries(levels)
    with pytest.raises(TypeError, match=r"levels\[1\] must be a torch.Tensor; got list"):
        TensorSeries((zero, [0.0]))
    with pytest.raises(TypeError, match=r"levels\[0\] .*int64"):
        TensorSeries((zero.long(), one))
    with pytest.raises(TypeError, match="time must be a bool; got 1"):
        TensorSeries((zero, one), 1)
    for bad in (torch.zeros(2, 0), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=r"levels\[1\] must have shape \(\*batch, D\), D >= 1"):
            TensorSeries((zero, bad))
    with pytest.raises(ValueError, match=r"levels\[2\] must have shape \(2, 3, 3\); got \(3, 3\)"):
        TensorSeries((zero, one, two[0]))
    with pytest.raises(ValueError, match=r"levels\[2\] must be torch.float32 on cpu; got torch.float64"):
        TensorSeries((zero, one, two.double()))
    with pytest.raises(ValueError, match=r"values must have shape \(\*batch, D\)"):
        TensorSeries.from_letters(torch.tensor(1.0), 2)
    with pytest.raises(ValueError, match="depth must be >= 1; got 0"):
        TensorSeries.from_letters(one, 0)
    with pytest.raises(ValueError, match="dim must be >= 1; got 0"):
        TensorSeries.identity(0, 2, time=False)
    assert TensorSeries.identity(0, 2).letters == range(1)  # time alone


def test_words_are_checked_against_the_series():
    x = TensorSeries.from_letters(torch.zeros(3), 2, time=False)
    assert x[(3,)] == 0
    for word, error, match in (
        ((1, 1, 1), ValueError, "at most 2 letters"),
        ((0,), ValueError, r"letters in 1, ..., 3; got \(0,\)"),
        ((4,), ValueError, r"letters in 1, ..., 3; got \(4,\)"),
        ((-1,), ValueError, r"word\[0\]"),
        (1, TypeError, "word must be a tuple"),
    ):
        with pytest.raises(error, match=match):
            x[word]
    with pytest.raises(ValueError, match="time"):
        x.ito_to_stratonovich()


def test_operands_are_checked():
    x = TensorSeries.identity(2, 2)
    others = (
        TensorSeries.identity(1, 2),
        TensorSeries.identity(3, 2, time=False),
        TensorSeries.identity(2, 3),
        TensorSeries.identity(2, 2, dtype=torch.float64),
    )
    for other in others:
        for operation in (TensorSeries.__add__, TensorSeries.__sub__, TensorSeries.__matmul__):
            with pytest.raises(ValueError, match="series must agree in letters, depth and dtype"):
                operation(x, other)
    for bad in (lambda: x + 1.0, lambda: x - 1.0, lambda: x @ torch.eye(3), lambda: x * "2", lambda: x * x):
        with pytest.raises(TypeError):
            bad()


def test_scalar_parts_are_checked():
    x = TensorSeries.from_letters(torch.ones(2, 3), 2)
    with pytest.raises(ValueError, match="inverse needs a scalar part != 0"):
        x.inverse()
    with pytest.raises(ValueError, match="log needs a scalar part > 0 everywhere; its minimum is 0"):
        x.log()


def test_signature_arguments_are_checked():
    with pytest.raises(TypeError, match=r"path must be a torch\.Tensor"):
        piecewise_linear_signature([[0.0], [1.0]], 2)
    with pytest.raises(TypeError, match="path must have a real floating-point dtype"):
        piecewise_linear_signature(torch.zeros(3, 2, dtype=torch.int64), 2)
    for shape in ((3,), (0, 2)):
        with pytest.raises(ValueError, match="path must have shape"):
            piecewise_linear_signature(torch.zeros(shape), 2)
    with pytest.raises(TypeError, match=r"depth must be an integer; got 2\.5"):
        piecewise_linear_signature(torch.zeros(3, 2), 2.5)
    with pytest.raises(ValueError, match="dim must be >= 1; got 0"):
        expected_signature(0, 1.0, 2)
    with pytest.raises(ValueError, match="h must be a finite number > 0; got -1"):
        expected_signature(1, -1.0, 2)
    with pytest.raises(ValueError, match=r"h must be finite and > 0 everywhere; it contains 0\.0"):
        expected_signature(1, torch.tensor([1.0, 0.0]), 2)
    with pytest.raises(ValueError, match="depth must be >= 1; got 0"):
        expected_signature(1, 1.0, 0)
    with pytest.raises(ValueError, match=r"depth must leave \d+ words of that length at most; got 4\^40"):
        expected_signature(3, 1.0, 40)
    with pytest.raises(TypeError, match="time must be a bool; got 2"):
        expected_signature(1, 1.0, 2, time=2)
