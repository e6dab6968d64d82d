"""Levy areas against characteristic functions, naive sums, long expansions, exact moments and simulated paths.

Statistical checks are z-scores with fixed seeds. About 900 of them at |z| < 5.5 (3.8e-8 each, two-sided) and four law
checks at 1e-6 make a false alarm less likely than 4e-5 for the whole file.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.special import polygamma

from sdesig.signature import iterated_integrals, levy_area, strong_area
from sdesig.signature.areas.exact2d import exact2d_area
from sdesig.signature.areas.fourier import fourier_area
from sdesig.signature.areas.legendre_area import legendre_area
from sdesig.signature.areas.levy_area import JOINT_METHODS, METHODS
from sdesig.signature.areas.truncation import NORMS, STRONG_METHODS, choose_method, terms_needed
from sdesig.testing import check_brownian_step

FOURIER_METHODS = ("fourier", "milstein", "wiktorsson", "mronroe")
WEAK_METHODS = ("davie", "foster", "four_moment")
ONE = torch.ones(1, dtype=torch.float64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normals(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def replay(*numbers):
    """A draw callable that hands out the given tensors in order and checks the shapes asked for."""
    queue = list(numbers)

    def draw(shape):
        value = queue.pop(0)
        assert tuple(value.shape) == tuple(shape)
        return value

    return draw


def method_options(method, dim=2):
    """An explicit strong method needs its number of terms; enough of them that the law is right to 1e-3."""
    terms = {"fourier": 1000, "milstein": 400, "wiktorsson": 15, "mronroe": 15, "legendre": 60, "exact2d": 4}
    return {"method": method, "terms": terms[method]} if method in terms else {"method": method}


def z_score(samples, expected):
    """z of the mean of `samples` along axis 0, entrywise."""
    return (samples.mean(0) - expected) / (samples.std(0) / math.sqrt(len(samples)))


# --- the law given the increment ---


def area_cf(x, norm2):
    """E[exp(i x A_01) | W], h = 1, |W|^2 = norm2 (Levy 1951)."""
    z = x / 2
    return z / np.sinh(z) * np.exp(-norm2 / 2 * (z / np.tanh(z) - 1))


def truncated_cf(x, norm2, terms, method):
    """The same for the Fourier series of `terms` terms with the Gaussian tail of `method`."""
    u2 = (np.asarray(x)[..., None] / (2 * np.pi * np.arange(1, terms + 1))) ** 2
    series = np.prod(np.exp(-norm2 * u2 / (1 + u2)) / (1 + u2), -1)
    variance = {"fourier": 0, "milstein": 2 * norm2, "mronroe": 2 + 2 * norm2, "wiktorsson": 2 + 2 * norm2}[method]
    return series * np.exp(-(np.asarray(x) ** 2) / 2 * variance * polygamma(1, terms + 1) / (4 * np.pi**2))


def exact2d_cf(x, norm2, terms):
    """The same for `exact2d_area`: the lognormal tail of the variance is integrated by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    mean = (2 + 2 * norm2) * polygamma(1, terms + 1)
    variance = (4 + 8 * norm2) * polygamma(3, terms + 1) / 6
    spread = np.sqrt(np.log1p(variance / mean**2))
    tail = mean * np.exp(spread * nodes - spread**2 / 2)
    exponent = np.asarray(x)[..., None] ** 2 / (8 * np.pi**2) * tail
    return truncated_cf(x, norm2, terms, "fourier") * (np.exp(-exponent) @ (weights / weights.sum()))


def cf_z_scores(samples, x, cf):
    """z-scores of the real and imaginary parts of the empirical characteristic function at x against the real `cf`."""
    value, doubled = cf(x), cf(2 * x)
    count = len(samples)
    real = (np.cos(x * samples).mean() - value) / math.sqrt(((1 + doubled) / 2 - value**2) / count)
    return real, np.sin(x * samples).mean() / math.sqrt((1 - doubled) / 2 / count)


@pytest.mark.parametrize("method", STRONG_METHODS)
@pytest.mark.parametrize("dim", [2, 3])
def test_characteristic_function_given_the_increment(method, dim):
    if method == "exact2d" and dim == 3:
        pytest.skip("planar only")
    count = 4000 if method in ("fourier", "milstein") else 40_000
    for seed, w in enumerate([(0.0, 0.0), (0.6, -0.8), (2.0, 1.5)]):
        increment = torch.tensor([*w, 0.3][:dim], dtype=torch.float64).expand(count, dim)
        area = levy_area(increment, 1.0, **method_options(method), generator=seeded(seed)).numpy()
        pairs = [(0, 1)] if dim == 2 else [(0, 1), (0, 2), (1, 2)]
        for i, j in pairs:
            norm2 = (increment[0, i] ** 2 + increment[0, j] ** 2).item()
            for x in (0.7, 2.0, 4.5):
                scores = cf_z_scores(area[:, i, j], x, lambda x, norm2=norm2: area_cf(x, norm2))
                assert np.abs(scores).max() < 5.5, (method, i, j, x, norm2, scores)


@pytest.mark.parametrize("method", FOURIER_METHODS)
@pytest.mark.parametrize("terms", [1, 3])
def test_characteristic_function_of_short_series(method, terms):
    """Each method's own law, far from the limit: tells the four methods and their tails' variances apart."""
    for seed, w in enumerate(((0.0, 0.0), (1.2, -0.9))):
        increment = torch.tensor([*w, 0.4], dtype=torch.float64).expand(100_000, 3)
        area = levy_area(increment, 1.0, method=method, terms=terms, generator=seeded(10 + seed)).numpy()
        norm2 = sum(v * v for v in w)
        for x in (1.0, 3.0, 6.0):
            scores = cf_z_scores(area[:, 0, 1], x, lambda x, norm2=norm2: truncated_cf(x, norm2, terms, method))
            assert np.abs(scores).max() < 5.5, (method, terms, x, scores)


def test_characteristic_function_of_exact2d_with_one_term():
    increment = torch.tensor([1.2, -0.9], dtype=torch.float64).expand(100_000, 2)
    area = levy_area(increment, 1.0, method="exact2d", terms=1, generator=seeded(3)).numpy()
    for x in (1.0, 3.0, 6.0):
        assert np.abs(cf_z_scores(area[:, 0, 1], x, lambda x: exact2d_cf(x, 2.25, 1))).max() < 5.5


def test_characteristic_function_rejects_a_wrong_law():
    """Negative control: a Gaussian with the right conditional variance fails the same check."""
    samples = normals(0, 40_000).numpy() * math.sqrt(1 / 12)
    assert abs(cf_z_scores(samples, 4.5, lambda x: area_cf(x, 0.0))[0]) > 10


def wasserstein2(cf, norm2):
    """2-Wasserstein distance of the law of A_01 given W to that with characteristic function `cf`, to first order:
    int (F_1 - F)^2/f over the line, by Fourier inversion.
    """
    t = np.linspace(1e-9, 120, 12001)
    x = np.linspace(0, 5, 301)
    angles = np.outer(x, t)
    density = trapezoid(np.cos(angles) * area_cf(t, norm2), t) / np.pi
    difference = trapezoid(np.sin(angles) / t * (cf(t) - area_cf(t, norm2)), t) / np.pi
    safe = density > 1e-9
    return math.sqrt(2 * trapezoid(np.where(safe, difference**2 / np.maximum(density, 1e-9), 0), x))


def mean_wasserstein2(cf):
    """Root mean square of `wasserstein2` over planar W ~ N(0, I), |W|^2/2 ~ Exp(1), by Gauss-Laguerre quadrature."""
    nodes, weights = np.polynomial.laguerre.laggauss(5)
    squares = [wasserstein2(lambda t, v=v: cf(t, 2 * v), 2 * v) ** 2 for v in nodes]
    return math.sqrt(float(np.dot(weights, squares)))


@pytest.mark.parametrize("terms", [1, 4, 8])
def test_exact2d_error_is_as_small_as_documented(terms):
    assert mean_wasserstein2(lambda t, norm2: exact2d_cf(t, norm2, terms)) < 1e-3 * terms**-5
    x = np.linspace(0.01, 60, 3000)
    sup = max(np.abs(exact2d_cf(x, norm2, terms) - area_cf(x, norm2)).max() for norm2 in (0, 0.5, 2, 8, 30))
    assert sup < {1: 3e-4, 4: 6e-6, 8: 4e-7}[terms]


@pytest.mark.parametrize("method", ["mronroe", "wiktorsson"])
@pytest.mark.parametrize("terms", [1, 3])
def test_coupling_bounds_hold_in_two_dimensions(method, terms):
    """The Wasserstein distance of the laws given W is at most the L2 error of the coupling that terms_needed bounds."""
    bound = math.sqrt((1 if method == "mronroe" else 5) * 2 / 12) / math.pi / terms
    assert mean_wasserstein2(lambda t, norm2: truncated_cf(t, norm2, terms, method)) < bound


@pytest.mark.parametrize("method", STRONG_METHODS)
def test_variance_and_kurtosis(method):
    """Var A = h^2/4, E A^4 = 5 h^4/16, Var[A_01 | W] = h^2/12 + h (W_0^2 + W_1^2)/12."""
    h, dim = 0.25, 2 if method == "exact2d" else 3
    increment = math.sqrt(h) * normals(20, 50_000 if method not in ("fourier", "milstein") else 6000, dim)
    area = levy_area(increment, h, **method_options(method), generator=seeded(21))[:, 0, 1] / h
    w2 = increment[:, :2].square().sum(-1) / h
    conditional = (1 + w2) / 12
    checks = torch.stack([area, area**2 - 1 / 4, area**4 - 5 / 16, area**2 - conditional, (area**2 - conditional) * w2])
    assert z_score(checks.T, 0.0).abs().max() < 5.5


# --- the series themselves, number by number ---


@pytest.mark.parametrize("method", FOURIER_METHODS)
@pytest.mark.parametrize("terms", [5, 40])
def test_fourier_methods_equal_the_naive_sum(method, terms):
    """The documented order of draws and formulas; 5 and 40 terms share numbers, as the same naive reference shows."""
    batch, dim, h = 4, 3, 0.7
    increment = normals(30, batch, dim)
    area = levy_area(increment, h, method=method, terms=terms, generator=seeded(31))
    source = seeded(31)

    def draw(*shape):
        return torch.randn(shape, generator=source, dtype=torch.float64)

    vectors = draw(batch, dim) if method in ("milstein", "mronroe") else None
    entries = draw(batch, 3) if method in ("wiktorsson", "mronroe") else None
    numbers = [draw(batch, 2 * dim) for _ in range(terms)]
    psi = math.pi**2 / 6 - sum(1 / k**2 for k in range(1, terms + 1))
    for b in range(batch):
        w = increment[b] / math.sqrt(h)
        s = torch.zeros(dim, dim, dtype=torch.float64)
        for k, row in enumerate(numbers, start=1):
            x, y = row[b, :dim], row[b, dim:]
            s += torch.outer(y - math.sqrt(2) * w, x) / k
        if vectors is not None:
            s += math.sqrt(2 * psi) * torch.outer(w, vectors[b])
        total = s - s.T
        if entries is not None:
            g = torch.zeros(dim, dim, dtype=torch.float64)
            g[0, 1], g[0, 2], g[1, 2] = math.sqrt(2 * psi) * entries[b]
            g = g - g.T
            total += g
            if method == "wiktorsson":
                gw = g @ w
                total += (torch.outer(gw, w) - torch.outer(w, gw)) / (1 + (1 + w @ w).sqrt())
        torch.testing.assert_close(area[b], h / (2 * math.pi) * total, rtol=1e-12, atol=1e-13)


def naive_legendre(xi, tail):
    """`xi` (n + 1, d), `tail` antisymmetric (d, d), h = 1."""
    terms = len(xi) - 1
    s = sum(
        (torch.outer(xi[k - 1], xi[k]) - torch.outer(xi[k], xi[k - 1])) / math.sqrt(4 * k * k - 1)
        for k in range(1, terms + 1)
    )
    return s / 2 + tail / (2 * math.sqrt(2 * terms + 1))


@pytest.mark.parametrize("depth", [1, 2, 5, 45])
@pytest.mark.parametrize("terms", [1, 20, 40])
def test_legendre_equals_the_naive_sum_and_keeps_rows_apart(depth, terms):
    """Also with numbers keyed by the row: one row alone gives what it gives in the batch."""
    rows, dim, used = 3, 3, max(terms, depth - 1)
    kept, drawn, pairs = normals(40, depth, rows, dim), normals(41, 45, rows, dim), normals(42, rows, 3)
    h = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    area = legendre_area(kept, h, terms, replay(pairs, *drawn[: used + 1 - depth]))
    for b in range(rows):
        tail = torch.zeros(dim, dim, dtype=torch.float64)
        tail[0, 1], tail[0, 2], tail[1, 2] = pairs[b]
        xi = torch.cat([kept[:, b], drawn[: used + 1 - depth, b]])
        torch.testing.assert_close(area[b], h[b] * naive_legendre(xi, tail - tail.T), rtol=1e-12, atol=1e-13)
        alone = legendre_area(kept[:, b], h[b], terms, replay(pairs[b], *drawn[: used + 1 - depth, b]))
        torch.testing.assert_close(area[b], alone, rtol=1e-13, atol=1e-14)


def test_legendre_prefixes_share_numbers():
    increment = normals(50, 6, 3)
    source = seeded(51)
    pairs = torch.randn(6, 3, generator=source, dtype=torch.float64)
    xi = [torch.randn(6, 3, generator=source, dtype=torch.float64) for _ in range(32)]
    for terms in (8, 16, 32):
        expected = legendre_area(increment.unsqueeze(0), 1.0, terms, replay(pairs, *xi[:terms]))
        area = levy_area(increment, 1.0, method="legendre", terms=terms, generator=seeded(51))
        torch.testing.assert_close(area, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("method", [*FOURIER_METHODS, "legendre"])
def test_many_rows_share_numbers_over_truncations_and_nothing_else(method):
    """Numbers of numpy, seeded by the generator: longer series begin with them, calls and rows have their own."""
    increment = normals(55, 1, 3).expand(2000, 3)
    source = seeded(56)
    states, areas = [], []
    for terms in (64, 128):
        source.manual_seed(56)
        areas.append(levy_area(increment, 1.0, method=method, terms=terms, generator=source)[:, 0, 1])
        states.append(source.get_state())
    assert torch.equal(*states)
    areas.append(levy_area(increment, 1.0, method=method, terms=64, generator=source)[:, 0, 1])
    # Neighbours in a batch share no numbers either.
    correlations = torch.corrcoef(torch.stack([*areas, areas[0].roll(1)]))
    assert correlations[0, 1] > 0.97
    assert correlations[0, 2:].abs().max() < 5.5 / math.sqrt(2000)


def test_exact2d_equals_the_formula():
    w, tail, y = normals(60, 7, 2), normals(61, 7, 2), normals(62, 3, 7, 2)
    area = exact2d_area(2.0 * w, 4 * torch.ones(7, 1, dtype=torch.float64), 3, replay(tail, *y))
    for b in range(7):
        norm2 = float(w[b] @ w[b])
        v = sum(float((y[k, b] - math.sqrt(2) * w[b]).square().sum()) / (k + 1) ** 2 for k in range(3))
        mean = (2 + 2 * norm2) * (math.pi**2 / 6 - 1 - 1 / 4 - 1 / 9)
        variance = (4 + 8 * norm2) * (math.pi**4 / 90 - 1 - 1 / 16 - 1 / 81)
        s2 = math.log1p(variance / mean**2)
        v += mean * math.exp(math.sqrt(s2) * float(tail[b, 1]) - s2 / 2)
        expected = 4 / (2 * math.pi) * math.sqrt(v) * float(tail[b, 0])
        assert area[b, 0, 1].item() == pytest.approx(expected, rel=1e-12)
        assert area[b, 1, 0].item() == -area[b, 0, 1].item()
        assert area[b, 0, 0].item() == area[b, 1, 1].item() == 0


# --- truncation errors ---


def test_rms_errors_of_fourier_and_milstein():
    """Against an expansion of 1500 terms: h sqrt(6 psi)/(2 pi) and, with the tail's own M, h sqrt(2 psi)/(2 pi).

    With M of the wrong sign the error is three times that.
    """
    rows, dim, terms, long, h = 2000, 3, 12, 1500, 0.3
    numbers = normals(70, long, rows, 2 * dim)
    increment = math.sqrt(h) * normals(71, rows, dim)
    step = h * ONE
    psi = polygamma(1, terms + 1) - polygamma(1, long + 1)
    k = torch.arange(terms + 1, long + 1, dtype=torch.float64)
    tail_sum = torch.tensordot(1 / k, numbers[terms:, :, :dim], 1)
    m = -tail_sum / math.sqrt(polygamma(1, terms + 1))
    reference = fourier_area("fourier", increment, step, long, replay(*numbers))
    for method, tail, factor in (
        ("fourier", (), 6),
        ("milstein", (m,), 2),
        ("milstein", (-m,), 18),
    ):
        area = fourier_area(method, increment, step, terms, replay(*tail, *numbers[:terms]))
        mean_square = (area - reference).square().sum((-2, -1)) / (dim * (dim - 1))
        assert abs(z_score(mean_square, factor * psi * (h / (2 * math.pi)) ** 2)) < 5.5, (method, factor)


@pytest.mark.parametrize("terms", [3, 12])
def test_rms_error_of_the_legendre_series(terms):
    """Without the Gaussian tail, against 1000 terms: (h/2) sqrt(1/(2n + 1) - 1/2001)."""
    rows, dim, long, h = 4000, 3, 1000, 0.3
    xi, none = normals(72, long + 1, rows, dim), torch.zeros(rows, 3, dtype=torch.float64)
    reference, area = (legendre_area(xi[:1], h, n, replay(none, *xi[1 : n + 1])) for n in (long, terms))
    mean_square = (area - reference).square().sum((-2, -1)) / (dim * (dim - 1))
    assert abs(z_score(mean_square, h * h / 4 * (1 / (2 * terms + 1) - 1 / (2 * long + 1)))) < 5.5


def rms_error(method, terms, h):
    psi = float(polygamma(1, terms + 1))
    return {
        "fourier": h * math.sqrt(6 * psi) / (2 * math.pi),
        "milstein": h * math.sqrt(2 * psi) / (2 * math.pi),
    }[method]


@given(
    method=st.sampled_from(["fourier", "milstein"]),
    dim=st.integers(2, 12),
    h=st.floats(1e-4, 10),
    relative=st.floats(0.003, 2),
    norm=st.sampled_from(NORMS),
)
def test_terms_needed_honours_the_tolerance_without_waste(method, dim, h, relative, norm):
    """The exact RMS errors (verified above) at n and, up to the slack of psi(n + 1) < 1/n, not yet at n - 2."""
    terms = terms_needed(dim, h, relative * h, method=method, norm=norm)
    scale = math.sqrt(dim * (dim - 1)) if norm == "frobenius_l2" else 1.0
    assert scale * rms_error(method, terms, h) <= relative * h * (1 + 1e-12)
    if terms > 2:
        assert scale * rms_error(method, terms - 2, h) > relative * h * (1 - 1e-12)


@pytest.mark.parametrize("dim", [2, 3, 10])
@pytest.mark.parametrize("relative", [0.3, 0.1, 0.01, 0.001])
def test_terms_of_legendre_honour_the_tolerance_without_waste(dim, relative):
    """Its bound is that of a coupling (`legendre_area`), sqrt(d V (2n + 1)/2) h, here with V summed."""

    def coupled(terms):
        c = 1 / np.sqrt(4.0 * np.arange(1, 200_000) ** 2 - 1)
        first, second, third = c[terms:-2:2], c[terms + 1 : -1 : 2], c[terms + 2 :: 2]
        v = ((first**2 + second**2) ** 2).sum() + 2 * (second**2 * third**2).sum()
        return math.sqrt(dim * v * (2 * terms + 1) / 2)

    terms = terms_needed(dim, 0.7, relative * 0.7, method="legendre")
    assert coupled(terms) <= relative
    assert terms < 9 or coupled(math.floor(0.85 * terms)) > relative


@pytest.mark.parametrize("method", STRONG_METHODS)
def test_terms_by_default_do_not_depend_on_the_step(method):
    """The default tolerance is 1e-2 h."""
    default = {terms_needed(2, h, method=method) for h in (1e-300, 1e-15, 0.1, 1.0, 1e15, 1e300)}
    assert default == {terms_needed(2, 1.0, 0.01, method=method)}


def test_terms_needed_reference_values():
    assert terms_needed(5, 0.01, method="mronroe") == math.ceil(math.sqrt(5 / 12) / math.pi * 100)
    assert terms_needed(3, 0.01, method="legendre") == math.ceil(math.sqrt(3) / 4 * 100)
    assert terms_needed(10, 1.0, 0.01, method="mronroe") == 30
    assert terms_needed(10, 1.0, 0.01, method="wiktorsson") == 65
    assert terms_needed(10, 1.0, 0.01, method="mronroe", norm="frobenius_l2") == 276
    assert terms_needed(2, 1.0, 0.01, method="fourier") == 1520
    assert terms_needed(2, 1.0, 0.5, method="exact2d") == 4
    assert terms_needed(2, 1.0, 1e-9, method="exact2d") == 16
    assert terms_needed(1, 1.0, 0.01, method="mronroe", norm="frobenius_l2") == 1


@pytest.mark.parametrize("tolerance", [1e-9, 1e-40, 1e-300])
def test_a_tolerance_out_of_reach_names_what_the_best_method_reaches(tolerance):
    with pytest.raises(ValueError, match=r"tolerance must be >= 1\.6e-06 for method 'mronroe'"):
        levy_area(torch.ones(1, 3), 1.0, tolerance=tolerance, generator=torch.Generator())


@pytest.mark.parametrize("dim", [2, 3, 5, 10])
@pytest.mark.parametrize("relative", [0.3, 0.1, 0.01, 0.003])
def test_auto_draws_the_fewest_numbers(dim, relative):
    """No method draws less than half of what the chosen one draws: counted, not taken from the cost model."""

    def drawn(method):
        count = 0

        def draw(shape):
            nonlocal count
            count += math.prod(shape)
            return torch.zeros(shape, dtype=torch.float64)

        terms = terms_needed(dim, 1.0, relative, method=method)
        w, h = torch.zeros(1, dim, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        if method == "exact2d":
            exact2d_area(w, h, terms, draw)
        elif method == "legendre":
            legendre_area(w[None], h, terms, draw)
        else:
            fourier_area(method, w, h, terms, draw)
        return count

    counts = {method: drawn(method) for method in STRONG_METHODS if method != "exact2d" or dim == 2}
    assert counts[choose_method(dim, 1.0, relative, "max_l2")] <= 2 * min(counts.values())
    assert choose_method(2, 1.0, relative, "max_l2") == "exact2d"


def test_truncation_of_a_batch_follows_its_most_demanding_step():
    """Default tolerance 1e-2 h: each step is as hard as the other. Given tolerance: the largest h needs most terms."""
    increment, h = normals(80, 4, 3), torch.tensor([[1e-4], [1e-3], [1e-2], [1.0]], dtype=torch.float64)
    for tolerance, hardest in ((None, 1e-4), (0.01, 1.0), (0.1, 1.0)):
        method = choose_method(3, hardest, tolerance)
        terms = terms_needed(3, hardest, tolerance, method=method)
        expected = levy_area(increment, h, method=method, terms=terms, generator=seeded(81))
        area = levy_area(increment, h, tolerance=tolerance, generator=seeded(81))
        assert torch.equal(area, expected)


# --- the joint law with the Gaussian words ---


def joint_moments(xi, area):
    """Products of A (h = 1) and xi_0, xi_1, xi_2, one column each, d = 3; xi (3, N, 3), area (N, 3, 3)."""
    x, a01, a02, a12 = xi, area[:, 0, 1], area[:, 0, 2], area[:, 1, 2]
    moments = {
        "A01": a01,
        "A01 xi1_0 xi0_1": a01 * x[1, :, 0] * x[0, :, 1],
        "A01 xi1_1 xi0_0": a01 * x[1, :, 1] * x[0, :, 0],
        "A01 xi2_0 xi1_1": a01 * x[2, :, 0] * x[1, :, 1],
        "A12 xi2_1 xi1_2": a12 * x[2, :, 1] * x[1, :, 2],
        "A01 xi2_0 xi0_1": a01 * x[2, :, 0] * x[0, :, 1],
        "A01^2": a01**2,
        "A01 A12": a01 * a12,
        "A01 A02 A12": a01 * a02 * a12,
        "A01^4": a01**4,
        "A01^2 A02^2": a01**2 * a02**2,
        "A01^3 xi1_0 xi0_1": a01**3 * x[1, :, 0] * x[0, :, 1],
        "A01^2 A12 xi2_1 xi1_2": a01**2 * a12 * x[2, :, 1] * x[1, :, 2],
    }
    for k in range(3):
        moments[f"A01^2 xi{k}_0^2"] = a01**2 * x[k, :, 0] ** 2
        moments[f"A01^2 xi{k}_2^2"] = a01**2 * x[k, :, 2] ** 2
        moments[f"A01 A12 xi{k}_0 xi{k}_2"] = a01 * a12 * x[k, :, 0] * x[k, :, 2]
        moments[f"A01 A02 xi{k}_1 xi{k}_2"] = a01 * a02 * x[k, :, 1] * x[k, :, 2]
    return moments


@pytest.fixture(scope="module")
def simulated():
    """(xi, A) of 150 000 Brownian paths of dimension 3 on [0, 1], from 2^9 increments and time integrals of the path.

    H = int (W_t - t W) dt, K = int (W_t - t W) (1/2 - t) dt by the trapezoidal rule; A by its Riemann sum plus the
    total area inside the 2^9 pieces as a Gaussian of the exact variance (it is 1/512 of Var A).
    """
    count, dim, pieces, source = 150_000, 3, 2**9, seeded(90)
    first, second = torch.triu_indices(dim, dim, 1)

    def drawn():
        """N(0, 1), (dim, count). In float32 six times as fast; sums are in float64."""
        return torch.randn(dim, count, generator=source).double()

    w = torch.zeros(dim, count, dtype=torch.float64)
    time_integral, weighted_integral = torch.zeros_like(w), torch.zeros_like(w)
    entries = drawn() / (2 * math.sqrt(pieces))
    for n in range(pieces):
        dw = drawn() / math.sqrt(pieces)
        entries += (w[first] * dw[second] - w[second] * dw[first]) / 2
        middle = w + dw / 2
        time_integral += middle / pieces
        weighted_integral += middle * ((0.5 - (n + 0.5) / pieces) / pieces)
        w += dw
    h_area = time_integral - w / 2
    k_area = weighted_integral + w / 12  # int t (1/2 - t) dt = -1/12
    area = torch.zeros(count, dim, dim, dtype=torch.float64)
    area[:, first, second], area[:, second, first] = entries.mT, -entries.mT
    return torch.stack([w, -math.sqrt(12) * h_area, math.sqrt(720) * k_area]).mT.contiguous(), area


def mismatches(moments, reference):
    """|z| of the difference of means of two independent samples, largest first."""
    scores = {}
    for name, values in moments.items():
        other = reference[name]
        error = math.sqrt(values.var().item() / len(values) + other.var().item() / len(other))
        scores[name] = abs(values.mean().item() - other.mean().item()) / error
    return scores


def sampled(method, depth, seed, count=150_000, terms=20):
    """(xi, A) from `levy_area` at h = 1 given `depth` coefficients; those beyond `depth` are independent of A."""
    xi = normals(seed, 3, count, 3)
    options = {"terms": terms} if method == "legendre" else {}
    area = levy_area(xi[0], 1.0, coefficients=xi[:depth], method=method, generator=seeded(seed + 1), **options)
    return xi, area


def test_simulated_paths_have_the_exact_moments(simulated):
    """The simulation is itself a fair oracle: closed-form moments of (W, H, K, A)."""
    xi, area = simulated
    moments = joint_moments(xi, area)
    exact = {
        "A01": 0.0,
        "A01^2": 1 / 4,
        "A01^4": 5 / 16,
        "A01 xi1_0 xi0_1": -1 / math.sqrt(12),
        "A01 xi1_1 xi0_0": 1 / math.sqrt(12),
        "A01 xi2_0 xi1_1": -1 / math.sqrt(60),
        "A01 xi2_0 xi0_1": 0.0,
        "A01^2 xi0_0^2": 1 / 12 + 4 / 12,
        "A01 A12 xi0_0 xi0_2": -1 / 12,
    }
    for name, value in exact.items():
        assert abs(z_score(moments[name], value)) < 5.5, name
    assert z_score(xi.square().permute(1, 0, 2), 1.0).abs().max() < 5.5
    assert z_score((xi[0] * xi[1])[:, :1], 0.0).abs().max() < 5.5


def test_legendre_has_the_joint_law_of_simulated_paths(simulated):
    reference = joint_moments(*simulated)
    for depth in (2, 3):
        scores = mismatches(joint_moments(*sampled("legendre", depth, 100 + 10 * depth)), reference)
        known = {name: score for name, score in scores.items() if depth == 3 or "xi2" not in name}
        assert max(known.values()) < 5.5, known


def test_joint_moments_detect_wrong_signs_and_wrong_tails(simulated):
    """Negative controls: A -> -A; an area drawn from W alone; tail entries taken as independent of the coefficients."""
    reference = joint_moments(*simulated)
    xi, area = sampled("legendre", 3, 130)
    flipped = mismatches(joint_moments(xi, -area), reference)
    assert max(flipped.values()) > 20
    assert flipped["A01^2"] < 5.5
    assert flipped["A01^2 xi0_0^2"] < 5.5
    apart = levy_area(xi[0], 1.0, method="mronroe", terms=15, generator=seeded(131))
    assert mismatches(joint_moments(xi, apart), reference)["A01 xi1_0 xi0_1"] > 20
    independent = mismatches(joint_moments(*sampled("davie", 2, 132)), reference)
    assert independent["A01 A12 xi1_0 xi1_2"] > 7


@pytest.mark.parametrize(
    "method, depth", [("davie", 2), ("davie", 3), ("foster", 2), ("foster", 3), ("four_moment", 3)]
)
def test_weak_methods_match_the_moments_they_promise(method, depth, simulated):
    """Linear in A: all. Quadratic: variance given the last kept coefficient (not davie's). E A_01^4: four_moment."""
    reference = joint_moments(*simulated)
    scores = mismatches(joint_moments(*sampled(method, depth, 140 + depth)), reference)
    last = depth - 1
    # No weak method has the correlation between the entries of the residual.
    broken = {f"A01 A12 xi{last}_0 xi{last}_2", f"A01 A02 xi{last}_1 xi{last}_2", "A01^2 A02^2"}
    if method == "davie":
        broken |= {f"A01^2 xi{last}_0^2"}
    if method != "four_moment":
        broken |= {"A01^4"}
    if depth == 2:  # independent of xi_2
        broken |= {name for name in scores if "xi2" in name}
    assert max(score for name, score in scores.items() if name not in broken) < 5.5, scores


def test_four_moment_matches_the_fourth_moment_of_the_residual():
    """R = A - E[A | W, H, K], h = 1: R_01 = x^T M y with x, y iid N(0, Id) and M tridiagonal, antisymmetric, so that
    E R_01^4 = 3 ((tr M^T M)^2 + 2 tr (M^T M)^2), by summation; davie and foster fail.

    E R_01^2 R_02^2 is not matched: it is E sigma_01^2 sigma_02^2 = .00369, where the true area has .00321.
    """
    c = 1 / np.sqrt(4.0 * np.arange(1, 200_000) ** 2 - 1) / 2
    c[:2] = 0
    diagonal = np.append(c, 0) ** 2 + np.append(0, c) ** 2
    trace, trace2 = diagonal.sum(), (diagonal**2).sum() + 2 * (c[1:] ** 2 * c[:-1] ** 2).sum()
    fourth = 3 * (trace**2 + 2 * trace2)
    c_variance = (8 / 15) ** 2
    cross = (3 / 28) ** 2 * (1 / 3 + c_variance) / 3 + 2 * 3 / 28 / 3 * 2 / 140 + 6 / 140**2
    xi = normals(150, 3, 200_000, 3)
    mean = legendre_area(xi, 1.0, 2, replay(torch.zeros(200_000, 3, dtype=torch.float64)))
    for method, succeeds in (("four_moment", True), ("foster", False), ("davie", False)):
        residual = levy_area(xi[0], 1.0, coefficients=xi, method=method, generator=seeded(151)) - mean
        r01, r02 = residual[:, 0, 1], residual[:, 0, 2]
        assert abs(z_score(r01**2, trace)) < 5.5
        assert (abs(z_score(r01**4, fourth)) < 5.5) == succeeds
        assert (abs(z_score(r01**2 * r02**2, cross)) < 5.5) == succeeds


@pytest.mark.parametrize("method", JOINT_METHODS)
def test_conditional_mean_is_that_of_the_gaussian_words(method):
    """E[A | W, H] = H W^T - W H^T, plus 12 (K H^T - H K^T) given K too, at three fixed points and h = 0.4."""
    h, count = 0.4, 20_000
    for seed in range(3):
        point = normals(160 + seed, 3, 3)
        for depth in (2, 3):
            if method == "four_moment" and depth == 2:
                point[2] = 0.0  # it draws K: keep E[K H^T] = 0
            xi = point[:depth].unsqueeze(1).expand(depth, count, 3)
            area = levy_area(math.sqrt(h) * xi[0], h, coefficients=xi, method=method, generator=seeded(170 + seed))
            w, hh = math.sqrt(h) * point[0], -math.sqrt(h / 12) * point[1]
            mean = torch.outer(hh, w) - torch.outer(w, hh)
            if depth == 3:
                k = math.sqrt(h / 720) * point[2]
                mean = mean + 12 * (torch.outer(k, hh) - torch.outer(hh, k))
            scores = (area.mean(0) - mean) / (area.std(0) / math.sqrt(count) + torch.eye(3))
            assert scores.abs().max() < 5.5, (depth, scores)


# --- iterated integrals, shapes, scaling, dtypes, gradients ---


def test_iterated_integrals():
    """I + I^T = W W^T - h Id (Ito), W W^T (Stratonovich); I - I^T = 2 A; E I_(i,j)^2 = h^2/2 (Ito)."""
    h = 0.3
    increment = math.sqrt(h) * normals(180, 40_000, 3)
    area = levy_area(increment, h, method="mronroe", terms=10, generator=seeded(181))
    ito = iterated_integrals(increment, h, area=area)
    stratonovich = iterated_integrals(increment, h, area=area, ito=False)
    outer = increment.unsqueeze(-1) * increment.unsqueeze(-2)
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(ito + ito.mT, outer - h * identity)
    torch.testing.assert_close(stratonovich + stratonovich.mT, outer)
    torch.testing.assert_close(ito - ito.mT, 2 * area)
    assert z_score(ito, 0.0).abs().max() < 5.5
    assert z_score(ito.square(), h * h / 2).abs().max() < 5.5
    assert z_score(ito[:, 0, 1] * ito[:, 1, 0], 0.0).abs() < 5.5
    drawn = iterated_integrals(increment, h, method="mronroe", terms=10, generator=seeded(181))
    assert torch.equal(ito, drawn)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2,), (7, 2), (3, 1, 2), (0, 2), (4, 1)])
def test_shape_antisymmetry_and_reproducibility(method, shape):
    if method == "exact2d" and shape[-1] != 2:
        pytest.skip("planar only")
    options = {"terms": 20} if method in STRONG_METHODS else {}
    increment = normals(190, *shape)
    area = levy_area(increment, 0.5, method=method, generator=seeded(191), **options)
    assert area.shape == (*shape, shape[-1])
    assert area.dtype == torch.float64
    assert torch.equal(area, -area.mT)
    assert torch.equal(area, levy_area(increment, 0.5, method=method, generator=seeded(191), **options))
    if shape[-1] == 2 and area.numel() > 0:
        assert (area[..., 0, 1] != 0).all()
        assert not torch.equal(area, levy_area(increment, 0.5, method=method, generator=seeded(192), **options))


def test_one_dimension_draws_nothing():
    generator = seeded(5)
    state = generator.get_state()
    area = levy_area(normals(0, 4, 1), 0.5, generator=generator)
    assert torch.equal(area, torch.zeros(4, 1, 1, dtype=torch.float64))
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_brownian_scaling_and_one_step_per_area(method):
    """A(sqrt(c) W, c h) = c A(W, h) for the same numbers, also with a tensor of steps."""
    dim = 2 if method == "exact2d" else 3
    options = {"method": method, "terms": 6} if method in STRONG_METHODS else {"method": method}
    w = normals(200, 5, 4, dim)
    h = 0.1 + torch.rand(4, 1, generator=seeded(201), dtype=torch.float64)
    unit = levy_area(w, 1.0, generator=seeded(202), **options)
    area = levy_area(h.sqrt() * w, h, generator=seeded(202), **options)
    torch.testing.assert_close(area, h.unsqueeze(-1) * unit, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("exponent", [-300, -15, -6, -3, 3, 15, 300])
@pytest.mark.parametrize("dim, depth", [(2, 1), (3, 1), (2, 2), (3, 3)])
def test_areas_are_the_same_in_every_unit_of_time(dim, depth, exponent):
    """A(sqrt(h) W, h) = h A(W, 1) by default, from the same random numbers and as many of them."""
    h, xi = 10.0**exponent, normals(203, depth, 5, dim)
    areas, states = [], []
    for step in (1.0, h):
        generator = seeded(204)
        increment = math.sqrt(step) * xi[0]
        areas.append(levy_area(increment, step, coefficients=xi, generator=generator) / step)
        states.append(generator.get_state())
    torch.testing.assert_close(*areas, rtol=1e-12, atol=1e-14)
    assert torch.equal(*states)


@pytest.mark.parametrize("dim, depth", [(2, 1), (3, 1), (2, 2), (3, 3)])
def test_the_default_area_has_the_law(dim, depth):
    """At n = 10^5, where h^{3/2} at h = 1 gave z-scores of 14 to 35; false alarms 1e-6 each."""
    xi = normals(205 + depth, depth, 100_000, dim)
    area = levy_area(xi[0], 1.0, coefficients=xi, generator=seeded(215))
    words = {"space_time_area": -math.sqrt(1 / 12), "space_time_time_area": math.sqrt(1 / 720)}
    given = {name: scale * value for (name, scale), value in zip(words.items(), xi[1:], strict=False)}
    check_brownian_step(1.0, increment=xi[0], levy_area=area, **given).assert_passed()


@pytest.mark.parametrize("method", ["mronroe", "legendre"])
def test_rows_do_not_depend_on_the_batch(method):
    """Also where a matrix product is blocked by its size, as for d = 5."""
    numbers = [normals(250 + k, 41, size) for k, size in enumerate([5, 10] + 8 * [10 if method == "mronroe" else 5])]
    sizes = {"mronroe": (5, 10), "legendre": (10,)}[method]
    queue = [next(n for n in numbers if n.shape[1] == size) for size in sizes] + numbers[2:]
    w, h = normals(260, 41, 5), torch.ones(1, dtype=torch.float64)
    whole = strong_area(method, w[None], h, 8, replay(*queue))
    for rows in ([0], [3, 4, 5], list(range(7, 40))):
        part = strong_area(method, w[None, rows], h, 8, replay(*(n[rows] for n in queue)))
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("method", METHODS)
def test_float32_at_a_small_step(method):
    """h = 2^-20: the float32 variance is that of the law, and no precision is lost against float64."""
    h, dim = 2.0**-20, 2 if method == "exact2d" else 3
    options = {"method": method, "terms": 15} if method in STRONG_METHODS else {"method": method}
    w = normals(210, 20_000, dim, dtype=torch.float32)
    area = levy_area(math.sqrt(h) * w, h, generator=seeded(211), **options)
    assert area.dtype == torch.float32
    unit = (area[:, 0, 1] / h).double()
    deficit = {"fourier": rms_error("fourier", 15, 1.0) ** 2, "milstein": 2 * polygamma(1, 16) / (4 * math.pi**2)}
    assert abs(z_score(unit**2, 1 / 4 - deficit.get(method, 0.0))) < 5.5
    if method in (*FOURIER_METHODS, "legendre", "exact2d"):
        draws = [torch.randn(50, n, generator=seeded(212)) for n in {"exact2d": [2] * 16}.get(method, [])]
        vectors = [torch.randn(50, dim, generator=seeded(213))]
        pairs = [torch.randn(50, 3, generator=seeded(214))]
        double = [torch.randn(50, 2 * dim, generator=seeded(215)) for _ in range(15)]
        single = [torch.randn(50, dim, generator=seeded(216)) for _ in range(15)]
        draws = {
            "fourier": double,
            "milstein": vectors + double,
            "wiktorsson": pairs + double,
            "mronroe": vectors + pairs + double,
            "legendre": pairs + single,
            "exact2d": draws,
        }[method]
        results = []
        for dtype in (torch.float32, torch.float64):
            source = replay(*(value.to(dtype) for value in draws))
            increment, step = math.sqrt(h) * w[:50].to(dtype), torch.full((50, 1), h, dtype=dtype)
            if method == "legendre":
                results.append(legendre_area(w[:50].to(dtype).unsqueeze(0), step, 15, source))
            elif method == "exact2d":
                results.append(exact2d_area(increment, step, 15, source))
            else:
                results.append(fourier_area(method, increment, step, 15, source))
        torch.testing.assert_close(results[0].double() / h, results[1] / h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_increment_and_step(method):
    dim = 2 if method == "exact2d" else 3
    options = {"method": method, "terms": 3} if method in STRONG_METHODS else {"method": method}
    increment = normals(220, 4, dim).requires_grad_()
    h = torch.full((4, 1), 0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda w, h: levy_area(w, h, generator=seeded(221), **options), (increment, h), atol=1e-7
    )


def test_gradient_in_the_coefficients():
    xi, pairs, rest = normals(230, 2, 4, 3).requires_grad_(), normals(231, 4, 3), normals(232, 40, 4, 3)
    assert torch.autograd.gradcheck(lambda xi: legendre_area(xi, 0.7, 20, replay(pairs, *rest[:19])), (xi,))


# --- bad input ---


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"increment": [0.0, 1.0]}, TypeError, "increment"),
        ({"increment": torch.zeros(3, 2, dtype=torch.complex128)}, TypeError, "complex128"),
        ({"increment": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "int64"),
        ({"increment": torch.tensor(1.0)}, ValueError, r"\(\.\.\., d\)"),
        ({"increment": torch.zeros(3, 0)}, ValueError, "d >= 1"),
        ({"h": 0.0}, ValueError, "h must"),
        ({"h": -1.0}, ValueError, "h must"),
        ({"h": math.nan}, ValueError, "h must"),
        ({"h": torch.tensor([[1.0], [0.0], [1.0]])}, ValueError, "h must"),
        ({"h": torch.tensor([1.0, 2.0])}, ValueError, "one step per area"),
        ({"h": torch.ones(4, 1)}, ValueError, "one step per area"),
        ({"h": torch.ones(1, 3, 1)}, ValueError, "one step per area"),
        ({"h": torch.ones(3, 1, dtype=torch.int64)}, TypeError, "h must"),
        ({"method": "kloeden"}, ValueError, "method must be one of"),
        ({"norm": "l1"}, ValueError, "norm must be one of"),
        ({"method": "fourier", "terms": 0}, ValueError, "terms must be >= 1"),
        ({"method": "fourier", "terms": 2.0}, TypeError, "terms must be an integer"),
        ({"method": "fourier", "terms": 2, "tolerance": 0.1}, ValueError, "only one of"),
        ({"terms": 2}, ValueError, "terms needs method"),
        ({"method": "davie", "terms": 2}, ValueError, "terms needs method"),
        ({"method": "davie", "tolerance": 0.1}, ValueError, "no meaning"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": -0.1}, ValueError, "tolerance"),
        ({"tolerance": math.nan}, ValueError, "tolerance"),
        ({"tolerance": "small"}, TypeError, "tolerance"),
        ({"method": "fourier", "tolerance": 1e-6}, ValueError, r"tolerance must be >= 0.00124 for method 'fourier'"),
        ({"method": "legendre", "tolerance": 1e-9}, ValueError, r"tolerance must be >= 3.56e-06 .* needs 3.54e\+08"),
        ({"coefficients": torch.zeros(2, 3, 2), "tolerance": 1e-300}, ValueError, "tolerance must be >= 3.56e-06"),
        ({"method": "legendre", "terms": 100_001}, ValueError, "terms must be <= 100000, .* tolerance of 3.56e-06"),
        ({"h": 1e-39}, ValueError, r"h must lie in \[1.18e-38, 3.4e\+35\] for areas in torch.float32; got 1e-39"),
        ({"h": 1e36}, ValueError, "h must lie in"),
        ({"h": 1e-300}, ValueError, "h must lie in"),
        ({"h": 1e-320, "increment": torch.zeros(3, 2, dtype=torch.float64)}, ValueError, "h must lie in"),
        ({"increment": torch.zeros(3, 3), "method": "exact2d"}, ValueError, "dimension 2; got 3"),
        ({"generator": 0}, TypeError, "generator"),
        ({"generator": None}, TypeError, "generator"),
        ({"coefficients": torch.zeros(2, 3, 3)}, ValueError, "coefficients must have shape"),
        ({"coefficients": torch.zeros(0, 3, 2)}, ValueError, "coefficients must have shape"),
        ({"coefficients": torch.zeros(2)}, ValueError, "coefficients must have shape"),
        ({"coefficients": torch.zeros(2, 3, 2, dtype=torch.float64)}, TypeError, "dtype and device"),
        ({"coefficients": torch.zeros(2, 3, 2, dtype=torch.complex64)}, TypeError, "complex64"),
        ({"coefficients": torch.ones(2, 3, 2)}, ValueError, "up to rounding"),
        ({"coefficients": torch.full((2, 3, 2), math.nan)}, ValueError, "up to rounding"),
        ({"coefficients": torch.zeros(4, 3, 2), "method": "four_moment"}, ValueError, "depth <= 3"),
        *(
            ({"coefficients": torch.zeros(2, 3, 2), "method": method}, ValueError, "method must be one of legendre")
            for method in (*FOURIER_METHODS, "exact2d")
        ),
    ],
)
def test_bad_input(change, error, match):
    arguments = {"increment": torch.zeros(3, 2), "h": 1.0, "generator": seeded(0), **change}
    state = seeded(0).get_state()
    with pytest.raises(error, match=match):
        levy_area(**arguments)
    if isinstance(arguments["generator"], torch.Generator):
        assert torch.equal(arguments["generator"].get_state(), state)


def test_one_coefficient_admits_every_method():
    increment = normals(240, 5, 3)
    for method in ("mronroe", "auto"):
        given_xi0 = levy_area(increment, 4.0, coefficients=increment[None] / 2, method=method, generator=seeded(0))
        assert torch.equal(given_xi0, levy_area(increment, 4.0, method=method, generator=seeded(0)))


def test_areas_that_do_not_fit_raise_before_any_work():
    with pytest.raises(MemoryError, match=r"\(2000000, 2000000\) need about .* bytes; .* are available"):
        levy_area(torch.zeros(2_000_000), 1.0, generator=seeded(0))


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"dim": 0}, ValueError),
        ({"dim": 2.0}, TypeError),
        ({"h": 0.0}, ValueError),
        ({"h": math.inf}, ValueError),
        ({"tolerance": 0.0}, ValueError),
        ({"tolerance": 1e-12, "method": "fourier"}, ValueError),
        ({"method": "auto"}, ValueError),
        ({"method": "davie"}, ValueError),
        ({"norm": "max"}, ValueError),
        ({"dim": 3, "method": "exact2d"}, ValueError),
    ],
)
def test_terms_needed_rejects(arguments, error):
    with pytest.raises(error):
        terms_needed(**{"dim": 2, "h": 1.0, **arguments})


def test_iterated_integrals_reject():
    increment, area = normals(0, 4, 3), torch.zeros(4, 3, 3, dtype=torch.float64)
    with pytest.raises(TypeError, match="together with area; got method"):
        iterated_integrals(increment, 1.0, area=area, method="fourier")
    with pytest.raises(ValueError, match="area must have shape"):
        iterated_integrals(increment, 1.0, area=area[:, :2])
    with pytest.raises(TypeError, match="area must be a"):
        iterated_integrals(increment, 1.0, area=0.0)
    with pytest.raises(TypeError, match="generator"):
        iterated_integrals(increment, 1.0)
    with pytest.raises(ValueError, match="h must"):
        iterated_integrals(increment, -1.0, area=area)
