"""Words, products and conversions against sympy, brute-force enumeration and closed-form moments. All exact."""

import itertools
from fractions import Fraction
from math import comb, factorial

import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from sdesig.signature.words import (
    is_gaussian,
    ito_to_stratonovich,
    legendre_depth,
    needs_levy_area,
    quasi_shuffle,
    shuffle,
    stratonovich_to_ito,
    words_for_scheme,
)

words = st.lists(st.integers(0, 2), max_size=4).map(tuple)
short_words = st.lists(st.integers(0, 2), max_size=3).map(tuple)


def all_words(dim, length):
    return [w for k in range(1, length + 1) for w in itertools.product(range(dim + 1), repeat=k)]


# --- which words a scheme needs ---


@pytest.mark.parametrize(
    ("order", "noise", "dim", "expected"),
    [
        ({"strong": 0.5}, "general", 2, {(0,), (1,), (2,)}),  # Euler-Maruyama
        ({"weak": 1}, "general", 2, {(0,), (1,), (2,)}),
        ({"strong": 1.0}, "additive", 2, {(0,), (1,), (2,)}),  # Euler-Maruyama again
        ({"strong": 1}, "diagonal", 2, {(0,), (1,), (2,), (1, 1), (2, 2)}),  # Milstein
        ({"strong": 1}, "commutative", 2, {(0,), (1,), (2,), (1, 1), (2, 2)}),
        ({"strong": 1}, "general", 2, {(0,), (1,), (2,), (1, 1), (1, 2), (2, 1), (2, 2)}),
        ({"strong": 1.5}, "scalar", 1, {(0,), (1,), (1, 1), (1, 0), (0, 1), (0, 0), (1, 1, 1)}),
        ({"strong": 1.5}, "additive", 1, {(0,), (1,), (1, 0), (0, 1), (0, 0)}),
        (
            {"strong": 1.5},
            "diagonal",
            2,
            {(0,), (1,), (2,), (1, 1), (2, 2), (1, 0), (2, 0), (0, 1), (0, 2), (0, 0), (1, 1, 1), (2, 2, 2)},
        ),
        ({"strong": 2.0}, "additive", 1, {(0,), (1,), (1, 0), (0, 1), (0, 0), (1, 1, 0)}),
        ({"weak": 2}, "scalar", 1, {(0,), (1,), (1, 1), (1, 0), (0, 1), (0, 0)}),
        ({"weak": 2}, "additive", 2, {(0,), (1,), (2,), (1, 0), (2, 0), (0, 1), (0, 2), (0, 0)}),
    ],
)
def test_known_schemes(order, noise, dim, expected):
    found = words_for_scheme(**order, noise=noise, dim=dim)
    assert set(found) == expected
    assert list(found) == sorted(expected, key=lambda w: (len(w), w))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("twice", [1, 2, 3, 4, 5])
def test_strong_general_is_the_hierarchical_set(twice, dim):
    expected = {
        w
        for w in all_words(dim, twice)
        if len(w) + w.count(0) <= twice or (len(w) == w.count(0) and 2 * len(w) == twice + 1)
    }
    assert set(words_for_scheme(strong=twice / 2, dim=dim)) == expected


@pytest.mark.parametrize("weak", [1, 2, 3])
def test_weak_general_is_every_word_up_to_the_order(weak):
    assert set(words_for_scheme(weak=weak, dim=2)) == set(all_words(2, weak))


def ito_operators(drift, diffusion):
    """The operators L^0, L^1, ..., L^d of dX = drift dt + sum_i diffusion[i] dW^i, state in R^2."""
    t, *x = sp.symbols("t x1 x2")

    def l_zero(f):
        second = sum(
            b[i] * b[k] * sp.diff(f, x[i], x[k]) for b in diffusion for i, k in itertools.product(range(2), repeat=2)
        )
        return sp.diff(f, t) + sum(drift[i] * sp.diff(f, x[i]) for i in range(2)) + second / 2

    def l_noise(j):
        return lambda f: sum(diffusion[j][i] * sp.diff(f, x[i]) for i in range(2))

    return [l_zero, *(l_noise(j) for j in range(len(diffusion)))]


def coefficient(word, drift, diffusion):
    """L^{j_1} ... L^{j_{k-1}} b^{j_k}, a vector in R^2, with b^0 the drift."""
    operators = ito_operators(drift, diffusion)
    vector = [drift, *diffusion][word[-1]]
    for letter in reversed(word[:-1]):
        vector = [operators[letter](component) for component in vector]
    return [sp.expand(component) for component in vector]


def generic_noise(noise):
    t, x1, x2 = sp.symbols("t x1 x2")
    b = [sp.Function(f"b{k}") for k in range(4)]
    return {
        "additive": [[b[0](t), b[1](t)], [b[2](t), b[3](t)]],
        "diagonal": [[b[0](t, x1), 0], [0, b[1](t, x2)]],
        "scalar": [[b[0](t, x1, x2), b[1](t, x1, x2)]],
        "general": [[b[0](t, x1, x2), b[1](t, x1, x2)], [b[2](t, x1, x2), b[3](t, x1, x2)]],
    }[noise]


@pytest.mark.parametrize(("noise", "length"), [("additive", 3), ("diagonal", 3), ("scalar", 3), ("general", 3)])
def test_words_left_out_are_those_with_vanishing_coefficient(noise, length):
    """Generic drift and diffusion of each structure in R^2, symbolically; every word up to `length`."""
    t, x1, x2 = sp.symbols("t x1 x2")
    diffusion = generic_noise(noise)
    drift = [sp.Function("a1")(t, x1, x2), sp.Function("a2")(t, x1, x2)]
    kept = set(words_for_scheme(strong=length, noise=noise, dim=len(diffusion)))  # l + n <= 2 length: all of them
    for word in all_words(len(diffusion), length):
        if noise == "general" and word[-1] == 0:
            continue  # the drift is generic in every structure: checked in the others
        alive = any(component != 0 for component in coefficient(word, drift, diffusion))
        assert alive == (word in kept), word


def test_commutative_noise_needs_only_the_symmetric_part():
    """b^j = c_j v(t, x), v generic, commutes: (1,2), (2,1) share a coefficient that does not vanish."""
    t, x1, x2 = sp.symbols("t x1 x2")
    v = [sp.Function("v1")(t, x1, x2), sp.Function("v2")(t, x1, x2)]
    c = sp.symbols("c1 c2")
    diffusion = [[c_j * component for component in v] for c_j in c]
    left, right = (coefficient(word, [0, 0], diffusion) for word in ((1, 2), (2, 1)))
    assert left == right
    assert left[0] != 0
    assert quasi_shuffle((1,), (2,)) == {(1, 2): 1, (2, 1): 1}  # so they enter through W^1 W^2 alone
    commutative, general = (set(words_for_scheme(strong=1.5, noise=n, dim=2)) for n in ("commutative", "general"))
    assert general - commutative == {(1, 2), (2, 1)}
    not_commuting = generic_noise("general")
    assert coefficient((1, 2), [0, 0], not_commuting) != coefficient((2, 1), [0, 0], not_commuting)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({}, ValueError, "exactly one"),
        ({"strong": 1, "weak": 1}, ValueError, "exactly one"),
        ({"strong": 0.75}, ValueError, "strong .*0.75"),
        ({"strong": 0}, ValueError, "strong"),
        ({"strong": "1"}, TypeError, "strong"),
        ({"weak": 4}, ValueError, "weak .*4"),
        ({"weak": 1.5}, TypeError, "weak"),
        ({"strong": 1, "noise": "white"}, ValueError, "noise .*'white'"),
        ({"strong": 1, "dim": 0}, ValueError, "dim .*0"),
        ({"strong": 1, "noise": "scalar", "dim": 2}, ValueError, "dim .*scalar noise; got 2"),
    ],
)
def test_words_for_scheme_rejects(arguments, error, match):
    with pytest.raises(error, match=match):
        words_for_scheme(**arguments)


# --- which sampler suffices ---


def expectation(terms):
    """E sum_w terms[w] I_w at h = 1: only the words 0^k count, E I_{0^k} = 1 / k!."""
    return sum(Fraction(c, factorial(len(w))) for w, c in terms.items() if not any(w))


@pytest.mark.parametrize("word", [w for w in all_words(2, 2) if any(w)] + [(0, 1, 0), (1, 0, 1), (1, 2, 0)])
def test_gaussian_words_have_gaussian_kurtosis(word):
    """Exact rational moments through the quasi-shuffle: E I^4 = 3 (E I^2)^2 for Gaussian words and for no other."""
    square = quasi_shuffle(word, word)
    second = expectation(square)
    fourth = sum(a * b * expectation(quasi_shuffle(u, v)) for u, a in square.items() for v, b in square.items())
    assert is_gaussian(word) == (fourth == 3 * second**2)


def test_time_only_words_are_not_gaussian():
    assert not is_gaussian(())
    assert not is_gaussian((0, 0))


@pytest.mark.parametrize(
    ("arguments", "depth", "area"),
    [
        ({"strong": 0.5, "dim": 2}, 1, False),
        ({"strong": 1, "dim": 2}, 1, True),
        ({"strong": 1, "noise": "diagonal", "dim": 2}, 1, False),
        ({"strong": 1, "noise": "commutative", "dim": 2}, 1, False),
        ({"strong": 1.5, "noise": "additive", "dim": 2}, 2, False),
        ({"strong": 1.5, "noise": "commutative", "dim": 2}, 2, True),
        ({"weak": 3, "noise": "scalar"}, 3, False),
    ],
)
def test_sampler_needs(arguments, depth, area):
    found = words_for_scheme(**arguments)
    assert (legendre_depth(found), needs_levy_area(found)) == (depth, area)
    assert legendre_depth([(0,), (1, 1)]) == 0


# --- products ---


def brute_force_product(u, v, contract):
    """All ways to place u and v, in order, on 0..r-1 so that every place is taken; a shared place contracts."""
    product = {}
    for r in range(max(len(u), len(v)), len(u) + len(v) + 1):
        for at_u in itertools.combinations(range(r), len(u)):
            for at_v in itertools.combinations(range(r), len(v)):
                shared = set(at_u) & set(at_v)
                if set(at_u) | set(at_v) != set(range(r)) or (shared and not contract):
                    continue
                letters_u, letters_v = dict(zip(at_u, u, strict=True)), dict(zip(at_v, v, strict=True))
                if any(letters_u[k] != letters_v[k] or letters_u[k] == 0 for k in shared):
                    continue
                word = tuple(0 if k in shared else {**letters_u, **letters_v}[k] for k in range(r))
                product[word] = product.get(word, 0) + 1
    return product


@given(short_words, short_words)
def test_products_against_enumeration(u, v):
    assert shuffle(u, v) == brute_force_product(u, v, contract=False)
    assert quasi_shuffle(u, v) == brute_force_product(u, v, contract=True)


@given(words, words)
def test_products_commute_and_count(u, v):
    for product in (shuffle, quasi_shuffle):
        assert product(u, v) == product(v, u)
        assert product(u, ()) == {u: 1}
    assert sum(shuffle(u, v).values()) == comb(len(u) + len(v), len(u))


@given(short_words, short_words, st.lists(st.integers(0, 2), max_size=2).map(tuple))
def test_products_associate(u, v, w):
    def extend(product, terms, word, left):
        total = {}
        for x, c in terms.items():
            for y, e in (product(x, word) if left else product(word, x)).items():
                total[y] = total.get(y, 0) + c * e
        return total

    for product in (shuffle, quasi_shuffle):
        assert extend(product, product(u, v), w, left=True) == extend(product, product(v, w), u, left=False)


@pytest.mark.parametrize(("a", "b", "c", "e"), list(itertools.product(range(3), repeat=4)))
def test_quasi_shuffle_gives_the_covariance_of_gaussian_words(a, b, c, e):
    """Ito isometry at h = 1: Cov(I_(0^a,1,0^b), I_(0^c,1,0^e)) = B(a+c+1, b+e+1) / (a! b! c! e!)."""
    u, v, other = (0,) * a + (1,) + (0,) * b, (0,) * c + (1,) + (0,) * e, (0,) * c + (2,) + (0,) * e
    beta = Fraction(factorial(a + c) * factorial(b + e), factorial(a + b + c + e + 1))
    assert expectation(quasi_shuffle(u, v)) == beta / (factorial(a) * factorial(b) * factorial(c) * factorial(e))
    assert expectation(quasi_shuffle(u, other)) == 0


# --- Ito and Stratonovich ---


@given(st.lists(st.integers(0, 2), max_size=6).map(tuple))
def test_conversions_are_inverse(word):
    for first, second in ((ito_to_stratonovich, stratonovich_to_ito), (stratonovich_to_ito, ito_to_stratonovich)):
        total = {}
        for v, c in first(word).items():
            for w, e in second(v).items():
                total[w] = total.get(w, 0) + c * e
        assert {w: c for w, c in total.items() if c} == {word: 1}


def test_conversion_examples():
    half = Fraction(1, 2)
    assert stratonovich_to_ito((1, 1)) == {(1, 1): 1, (0,): half}
    assert ito_to_stratonovich((1, 1)) == {(1, 1): 1, (0,): -half}
    assert stratonovich_to_ito((2, 1, 1, 0)) == {(2, 1, 1, 0): 1, (2, 0, 0): half}
    assert stratonovich_to_ito((1, 1, 1)) == {(1, 1, 1): 1, (0, 1): half, (1, 0): half}
    assert stratonovich_to_ito((1, 1, 2, 2)) == {(1, 1, 2, 2): 1, (0, 2, 2): half, (1, 1, 0): half, (0, 0): half**2}
    for word in ((), (0, 0), (1, 2), (1, 0, 1)):
        assert stratonovich_to_ito(word) == ito_to_stratonovich(word) == {word: 1}


@pytest.mark.parametrize("k", range(1, 8))
def test_conversion_of_repeated_letters_is_the_hermite_expansion(k):
    """J_(1,...,1) = W^k / k! and I_(1,...,1) = h^{k/2} He_k(W / sqrt h) / k!.

    All arrangements of n ones and m zeros must come with one coefficient, and sum to h^m / m! I_(1^n).
    """
    h, w = sp.symbols("h W", positive=True)
    total = sp.Integer(0)
    expansion = stratonovich_to_ito((1,) * k)
    for m in range(k // 2 + 1):
        n = k - 2 * m
        group = {v: c for v, c in expansion.items() if v.count(0) == m}
        assert group.keys() == set(itertools.permutations((0,) * m + (1,) * n))
        (weight,) = set(group.values())
        hermite = sp.expand(2 ** sp.Rational(-n, 2) * sp.hermite(n, w / sp.sqrt(2 * h)))  # He_n(W / sqrt h)
        total += sp.Rational(weight) * h**m / factorial(m) * h ** sp.Rational(n, 2) * hermite / factorial(n)
    assert sp.expand(total - w**k / factorial(k)) == 0


@pytest.mark.parametrize("function", [is_gaussian, stratonovich_to_ito, ito_to_stratonovich])
def test_words_are_checked(function):
    with pytest.raises(TypeError, match=r"word must be a tuple of letters; got \[0, 1\]"):
        function([0, 1])
    with pytest.raises(ValueError, match=r"word\[1\] must be >= 0; got -1"):
        function((0, -1))
    with pytest.raises(TypeError, match=r"word\[0\] must be an integer; got 0.5"):
        function((0.5,))


@pytest.mark.parametrize("product", [shuffle, quasi_shuffle])
def test_product_arguments_are_checked(product):
    with pytest.raises(ValueError, match=r"u\[0\]"):
        product((-1,), (1,))
    with pytest.raises(TypeError, match="v must be a tuple"):
        product((1,), "1")
