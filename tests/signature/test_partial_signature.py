"""Partial signatures against quadrature of the definition, closed forms and exact conditional laws.

Statistical tests compare z-scores with 5.5 (two-sided 4e-8 each, about 400 statistics) or check a law at 1e-6 (three):
below 2e-5 per run in all.
"""

import copy
import math
from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import eval_hermitenorm

from sdesig.signature import PartialSignature, gaussian_word_covariance, legendre, sample_partial_signature
from sdesig.signature.legendre import gauss_legendre
from sdesig.testing import check_brownian_step

F64 = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance_z(samples: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """z-scores of all means and second moments of samples (n, k) claimed to be N(0, covariance)."""
    n, variance = len(samples), covariance.diagonal()
    means = samples.mean(0) / (variance / n).sqrt()
    spread = ((variance[:, None] * variance + covariance**2) / n).sqrt()
    return torch.cat([means, ((samples.T @ samples / n - covariance) / spread).flatten()])


def fine_path(steps: int, batch: int, seed: int, h: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A path that is linear between fine times: midpoints x in [0, 1], increments and left values (steps, batch)."""
    dw = math.sqrt(h / steps) * torch.randn(steps, batch, generator=generator(seed), dtype=F64)
    return (torch.arange(steps, dtype=F64)[:, None] + 0.5) / steps, dw, dw.cumsum(0) - dw


def project(steps: int, dw: torch.Tensor, depth: int, h: float) -> PartialSignature:
    """Partial signature whose coefficients are the integrals of p_k against the piecewise linear path."""
    from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre

    nodes, weights = gauss_legendre(depth)
    points = (torch.arange(steps, dtype=F64)[:, None] + nodes) / steps
    kernel = (orthonormal_legendre(points, depth) * weights).sum(-1)
    return PartialSignature(torch.tensor(h, dtype=F64), kernel @ dw / math.sqrt(h))


def test_definitions_by_quadrature():
    """W, H, K, the time integral and the words of a piecewise linear path, each from its own integral."""
    steps, h = 400, 0.3
    x, dw, left = fine_path(steps, 5, 0, h)
    w = dw.sum(0)
    middle = left + dw / 2  # the path at the midpoints
    # int over a fine step of a product of linear functions: midpoint value plus a twelfth of the product of slopes
    bridge, slope = middle - x * w, dw - w / steps
    integral = h / steps
    value = project(steps, dw, 4, h)
    torch.testing.assert_close(value.increment, w)
    torch.testing.assert_close(value.space_time_area, bridge.sum(0) / steps)
    k_integral = ((0.5 - x) * bridge - slope / (12 * steps)).sum(0) / steps
    torch.testing.assert_close(value.space_time_time_area, k_integral)
    torch.testing.assert_close(value.time_integral, middle.sum(0) * integral)
    torch.testing.assert_close(value.time_integral, h * (w / 2 + value.space_time_area))
    for a, b in [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (1, 2)]:
        kernel = (h * x) ** a / math.factorial(a) * (h * (1 - x)) ** b / math.factorial(b)
        torch.testing.assert_close(value.gaussian_word(a, b), (kernel * dw).sum(0), rtol=1e-4, atol=1e-6)


@given(depth=st.integers(1, 12), h=st.floats(2.0**-20, 16.0))
def test_gaussian_words_have_their_covariance(depth: int, h: float):
    """The linear map from coefficients to words reproduces the beta-function covariance at every depth."""
    identity = torch.eye(depth, dtype=F64)
    value = PartialSignature(torch.tensor(h, dtype=F64), identity)
    places = [(a, b) for a in range(depth) for b in range(depth - a)]
    loadings = torch.stack([value.gaussian_word(a, b) / h ** (a + b + 0.5) for a, b in places])
    words = [(0,) * a + (1,) + (0,) * b for a, b in places]
    covariance = gaussian_word_covariance(words, h)
    scale = torch.tensor([h ** (a + b + 0.5) for a, b in places], dtype=F64)
    torch.testing.assert_close(loadings @ loadings.T, covariance / scale / scale[:, None], rtol=1e-9, atol=1e-13)


def test_gaussian_word_covariance_against_the_ito_isometry():
    """E I_v I_w by numerical quadrature of the two kernels, and zero across noise letters."""
    h = 0.7
    u = (torch.arange(20000, dtype=F64) + 0.5) / 20000 * h
    words = [(1,), (0, 1), (1, 0), (0, 1, 0), (0, 0, 1), (2,), (2, 0)]
    covariance = gaussian_word_covariance(words, h)
    for i, v in enumerate(words):
        for j, w in enumerate(words):
            kernels = []
            for word in (v, w):
                a = next(k for k, letter in enumerate(word) if letter)
                b = len(word) - 1 - a
                kernels.append(u**a / math.factorial(a) * (h - u) ** b / math.factorial(b))
            expected = (kernels[0] * kernels[1]).mean() * h if max(v) == max(w) else torch.tensor(0.0, dtype=F64)
            torch.testing.assert_close(covariance[i, j], expected, rtol=1e-6, atol=1e-12)
    batched = gaussian_word_covariance(words, torch.tensor([0.7, 1.0], dtype=F64))
    torch.testing.assert_close(batched[0], covariance)


@pytest.mark.parametrize("depth", [1, 2, 3, 12])
def test_sampler_has_the_law_of_the_words(depth: int):
    h, n = 0.4, 100_000
    value = sample_partial_signature(n, h, depth, generator=generator(depth), dtype=F64)
    words = [(0,) * a + (1,) + (0,) * (depth - 1 - a) for a in range(depth)]
    samples = torch.stack([value.gaussian_word(a, depth - 1 - a) for a in range(depth)], dim=1)
    assert covariance_z(samples, gaussian_word_covariance(words, h)).abs().max() < 5.5
    # the negative control: a covariance that is 3 % off is noticed
    assert covariance_z(samples, 1.03 * gaussian_word_covariance(words, h)).abs().max() > 5


@pytest.mark.parametrize("h", [1.0, 2.0**-20])
def test_float32_keeps_the_law_at_tiny_steps(h: float):
    """W, H, K in float32 at h = 2^-20 (a peer that differences path values has 12 Var(H)/h = 8.2 at 2^-16)."""
    n = 200_000
    whole = sample_partial_signature(n, h, 3, generator=generator(1), dtype=torch.float32)
    first, second = whole.split(h / 3, generator=generator(2))
    for value in (whole, first, second, first.combine(second)):
        step = value.h.item()
        samples = torch.stack([value.increment, value.space_time_area, value.space_time_time_area], 1).to(F64)
        exact = torch.diag(torch.tensor([step, step / 12, step / 720], dtype=F64))
        assert covariance_z(samples, exact).abs().max() < 5.5


def test_split_and_join_against_the_published_formulas():
    """Midpoint split and general join of (W, H, K)."""
    whole = sample_partial_signature((1000,), 0.8, 3, generator=generator(3), dtype=F64)
    first, second = whole.split(0.4, generator=generator(4))
    w, h_area, k_area = whole.increment, whole.space_time_area, whole.space_time_time_area
    z = first.increment - w / 2 - 1.5 * h_area
    torch.testing.assert_close(second.increment, w / 2 - 1.5 * h_area - z)
    x1 = first.space_time_area - (h_area / 4 - z / 2 + 3.75 * k_area)
    torch.testing.assert_close(second.space_time_area, h_area / 4 - z / 2 - 3.75 * k_area - x1)
    x2 = first.space_time_time_area - (k_area / 8 - x1 / 2)
    torch.testing.assert_close(second.space_time_time_area, k_area / 8 - x1 / 2 - x2)
    fresh = torch.stack([z, x1, x2, w, h_area, k_area], 1)
    exact = torch.tensor([0.8 / 16, 0.8 / 768, 0.8 / 2880, 0.8, 0.8 / 12, 0.8 / 720], dtype=F64)
    assert covariance_z(fresh, torch.diag(exact)).abs().max() < 5.5

    a, b = (sample_partial_signature((4,), step, 3, generator=generator(5), dtype=F64) for step in (0.3, 1.1))
    joined, h = a.combine(b), 1.4
    area = (0.3 * (a.space_time_area - b.increment / 2) + 1.1 * (b.space_time_area + a.increment / 2)) / h
    torch.testing.assert_close(joined.space_time_area, area)
    k = 0.3**2 * a.space_time_time_area + 1.1**2 * b.space_time_time_area
    k += 0.3 * 1.1 / 2 * (a.space_time_area - b.space_time_area)
    k += (1.1 - 0.3) / 12 * (1.1 * a.increment - 0.3 * b.increment)
    torch.testing.assert_close(joined.space_time_time_area, k / h**2)


@given(depth=st.integers(1, 12), at=st.floats(0.01, 0.99), h=st.floats(1e-6, 1e3), seed=st.integers(0, 2**32))
def test_combine_undoes_split(depth: int, at: float, h: float, seed: int):
    whole = sample_partial_signature((2, 3), h, depth, generator=generator(seed), dtype=F64)
    first, second = whole.split(at * h, generator=generator(seed + 1))
    again = first.combine(second)
    torch.testing.assert_close(again.h, whole.h)
    torch.testing.assert_close(again.coefficients, whole.coefficients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth, at", [(1, 0.5), (2, 0.2), (3, 0.9), (5, 0.5)])
def test_split_parts_are_independent_standard_normals(depth: int, at: float):
    whole = sample_partial_signature(100_000, 2.0, depth, generator=generator(6), dtype=F64)
    parts = whole.split(2.0 * at, generator=generator(7))
    samples = torch.cat([part.coefficients for part in parts]).T
    assert covariance_z(samples, torch.eye(2 * depth, dtype=F64)).abs().max() < 5.5


def test_combine_of_a_fine_path_is_the_projection_of_the_path():
    """Chen against the integrals of the same piecewise linear path over the whole step."""
    steps, h = 300, 1.7
    _, dw, _ = fine_path(steps, 4, 8, h)
    parts = [project(100, dw[k : k + 100], 6, h / 3) for k in (0, 100, 200)]
    joined = parts[0].combine(parts[1]).combine(parts[2])
    torch.testing.assert_close(joined.coefficients, project(steps, dw, 6, h).coefficients, rtol=0, atol=1e-12)


def test_scalar_words():
    h = 0.6
    value = sample_partial_signature((7,), h, 3, generator=generator(9), dtype=F64)
    w = value.increment
    for k in range(1, 7):
        hermite = h ** (k / 2) * eval_hermitenorm(k, (w / math.sqrt(h)).numpy()) / math.factorial(k)
        torch.testing.assert_close(value.scalar_word((1,) * k), torch.from_numpy(hermite))
        torch.testing.assert_close(value.scalar_word((1,) * k, ito=False), w**k / math.factorial(k))
    torch.testing.assert_close(value.scalar_word((0, 0)), torch.full((7,), h**2 / 2, dtype=F64))
    torch.testing.assert_close(value.scalar_word((0, 1, 0)), value.gaussian_word(1, 1))
    for word in [(1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0, 0)]:
        with pytest.raises(ValueError, match="not a function of finitely many Gaussian words"):
            value.scalar_word(word)
    with pytest.raises(ValueError, match="word must have letters 0 and 1"):
        value.scalar_word((1, 2))


def test_identities_of_the_mixed_scalar_words():
    """2 I_(1,1,0) + I_(1,0,1) = W I_(1,0) - h^2/2, as the docstring says, on left-point sums of a fine path."""
    steps, h = 4000, 1.0
    errors = []
    _, dw, left = fine_path(steps, 200, 10, h)
    dt = h / steps
    i_110 = ((left**2 - torch.arange(steps, dtype=F64)[:, None] * dt) / 2).sum(0) * dt
    i_10 = (left * dt).cumsum(0)
    i_101 = ((i_10 - left * dt) * dw).sum(0)
    errors = 2 * i_110 + i_101 - (dw.sum(0) * i_10[-1] - h**2 / 2)
    assert errors.square().mean().sqrt() < 3 / math.sqrt(steps)
    assert i_110.std() > 0.2


def test_reverse_is_the_value_of_the_reversed_path():
    steps, h = 200, 0.9
    _, dw, _ = fine_path(steps, 3, 11, h)
    value, backwards = project(steps, dw, 5, h), project(steps, -dw.flip(0), 5, h)
    torch.testing.assert_close(value.reverse().coefficients, backwards.coefficients)
    torch.testing.assert_close(value.reverse().space_time_area, value.space_time_area)
    torch.testing.assert_close(value.reverse().space_time_time_area, -value.space_time_time_area)


def test_areas_of_combined_and_reversed_steps():
    """Against the antisymmetric second level of the signature of one piecewise linear path."""
    steps, h = 60, 1.0
    dw = math.sqrt(h / steps) * torch.randn(steps, 2, 3, generator=generator(12), dtype=F64)

    def value(increments: torch.Tensor) -> PartialSignature:
        left = increments.cumsum(0) - increments
        product = torch.einsum("sbi,sbj->bij", left, increments)
        coefficients = increments.sum(0)[None] / math.sqrt(h * len(increments) / steps)
        area = (product - product.mT) / 2
        return PartialSignature(torch.tensor(h * len(increments) / steps, dtype=F64), coefficients, area)

    joined = value(dw[:17]).combine(value(dw[17:40])).combine(value(dw[40:]))
    torch.testing.assert_close(joined.levy_area, value(dw).levy_area)
    torch.testing.assert_close(value(dw).reverse().levy_area, value(-dw.flip(0)).levy_area)


@pytest.mark.parametrize("depth, area", [(1, "auto"), (3, "legendre"), (3, "foster")])
def test_sampled_areas_have_the_joint_law(depth: int, area: str):
    n, h = 200_000, 0.5
    value = sample_partial_signature((n, 2), h, depth, area=area, generator=generator(13), dtype=F64)
    a = value.levy_area[:, 0, 1]
    assert torch.equal(value.levy_area, -value.levy_area.mT)
    z = [(a.mean()) / a.std() * math.sqrt(n)]
    z.append((a.square().mean() - h**2 / 4) / a.square().std() * math.sqrt(n))
    if depth >= 2:
        product = a * value.space_time_area[:, 0] * value.increment[:, 1]
        z.append((product.mean() - h**2 / 12) / product.std() * math.sqrt(n))
    assert max(abs(score) for score in z) < 5.5


@pytest.mark.parametrize("h, dim, depth", [(0.1, 2, 2), (1.0, 3, 1), (1e-15, 3, 3)])
def test_areas_have_the_law_by_default(h: float, dim: int, depth: int):
    """At n = 10^5, which told areas with the tolerance h^{3/2} from true ones at a tenth of that."""
    value = sample_partial_signature((100_000, dim), h, depth, area="auto", generator=generator(31), dtype=F64)
    words = {name: getattr(value, name) for name in ("space_time_area", "space_time_time_area")[: depth - 1]}
    check_brownian_step(h, increment=value.increment, levy_area=value.levy_area, **words).assert_passed()


def test_terms_and_tolerance_are_those_of_the_area():
    def sample(**options):
        return sample_partial_signature((4, 3), 0.3, 2, area="legendre", generator=generator(32), dtype=F64, **options)

    assert torch.equal(sample(tolerance=0.03).levy_area, sample(terms=5).levy_area)
    assert torch.equal(sample().levy_area, sample(terms=44).levy_area)
    assert not torch.equal(sample().levy_area, sample(terms=43).levy_area)


def test_an_area_may_be_drawn_later():
    """By a function, called once, and not before the area of a value that comes from it is read."""
    drawn = []
    plain = sample_partial_signature((2, 3), torch.tensor([[0.1], [0.2]]), 2, area="auto", generator=generator(33))

    def draw():
        drawn.append(1)
        return plain.levy_area

    later = PartialSignature(plain.h, plain.coefficients, draw)
    values = [(v.truncate(1), v[1], v[:1], v.reverse()) for v in (later, plain)]
    assert later.without_area().levy_area is None
    with pytest.raises(ValueError, match="split is not possible"):
        later.split(0.05, generator=generator(0))
    with pytest.raises(ValueError, match="levy_area exactly if"):
        later.combine(plain.without_area())
    assert not drawn
    for mine, theirs in zip(*values, strict=True):
        assert torch.equal(mine.levy_area, theirs.levy_area)
    assert torch.equal(later.combine(later).levy_area, plain.combine(plain).levy_area)
    assert torch.equal(copy.deepcopy(later).levy_area, plain.levy_area)
    assert drawn == [1]


@pytest.mark.parametrize(
    "returned, error, message",
    [
        (torch.zeros(2, 3), ValueError, r"levy_area must have shape \(\*shape, d\).*\(2, 3\); got \(2, 3\)"),
        (torch.zeros(2, 3, 3, dtype=F64), TypeError, "levy_area must be torch.float32"),
        (None, TypeError, "levy_area must be a torch.Tensor; got NoneType"),
    ],
    ids=str,
)
def test_an_area_that_is_drawn_is_checked(returned, error, message):
    value = PartialSignature(torch.tensor(1.0), torch.zeros(1, 2, 3), lambda: returned)
    for _ in range(2):
        with pytest.raises(error, match=message):
            _ = value[0].levy_area


def test_an_area_first_read_without_gradients_has_them():
    scale = torch.tensor(2.0, requires_grad=True)
    value = PartialSignature(torch.tensor(1.0), torch.zeros(1, 3), lambda: scale * torch.ones(3, 3))
    with torch.no_grad():
        assert value.reverse().levy_area[0, 1] == -2
    assert torch.autograd.grad(value.levy_area.sum(), scale)[0] == 9


def test_long_products_of_steps_with_areas():
    """Each factor is let go of: nothing waits for the area of the product to be read."""
    one = PartialSignature(torch.tensor(1.0), torch.ones(1, 2), lambda: torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    product = reduce(PartialSignature.combine, [one] * 2000)
    assert product.levy_area[0, 1] == 2000


def test_steps_joined_in_inference_mode_first():
    """Nodes of quadratures are computed once for a process."""

    def end(h: torch.Tensor) -> torch.Tensor:
        first, second = (sample_partial_signature((2, 3), h, 7, generator=generator(k)) for k in range(2))
        return first.combine(second).coefficients.square().sum()

    gauss_legendre.cache_clear()
    legendre._quadrature.cache_clear()
    h = torch.tensor([[1.0], [2.0]])
    with torch.inference_mode():
        end(h)
    h.requires_grad_()
    assert torch.autograd.grad(end(h), h)[0].isfinite().all()


def test_step_lengths_broadcast_and_are_differentiable():
    h = torch.tensor([0.1, 1.0, 4.0], dtype=F64, requires_grad=True)

    def words(step: torch.Tensor) -> torch.Tensor:
        value = sample_partial_signature((2, 3), step, 4, generator=generator(15), dtype=F64)
        return torch.stack([value.increment, value.space_time_area, value.gaussian_word(1, 2)])

    assert torch.autograd.gradcheck(words, (h,))
    steps = h.detach()
    columns = [sample_partial_signature((2, 3), float(step), 4, generator=generator(15), dtype=F64) for step in steps]
    value = sample_partial_signature((2, 3), steps, 4, generator=generator(15), dtype=F64)
    for k, column in enumerate(columns):
        torch.testing.assert_close(value.gaussian_word(1, 2)[:, k], column.gaussian_word(1, 2)[:, k])
    split = value.split(steps / 3, generator=generator(16))
    alone = columns[2].split(4.0 / 3, generator=generator(16))
    torch.testing.assert_close(split[0].coefficients[..., 2], alone[0].coefficients[..., 2])
    torch.testing.assert_close(split[0].combine(split[1]).coefficients, value.coefficients)


def test_combine_is_differentiable_in_the_steps():
    def area(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first, second = (sample_partial_signature((3,), s, 3, generator=generator(17), dtype=F64) for s in (a, b))
        return first.combine(second).space_time_area

    steps = [torch.tensor(h, dtype=F64, requires_grad=True) for h in (0.3, 0.8)]
    assert torch.autograd.gradcheck(area, steps)


def test_stacks_truncation_and_indexing():
    h = torch.tensor([[0.1], [0.2]], dtype=F64)
    value = sample_partial_signature((2, 3), h, 3, area="legendre", generator=generator(18), dtype=F64)
    assert (len(value), value.depth, value.shape, value.dtype) == (2, 3, (2, 3), F64)
    row = value[1]
    assert row.shape == (3,)
    torch.testing.assert_close(row.increment, value.increment[1])
    torch.testing.assert_close(row.levy_area, value.levy_area[1])
    torch.testing.assert_close(value[:1].increment, value.increment[:1])
    short = value.truncate(1)
    assert short.depth == 1
    with pytest.raises(ValueError, match="space_time_area needs depth >= 2"):
        _ = short.space_time_area
    assert value.without_area().levy_area is None


BAD_STEPS = [(0.0, ValueError), (-1.0, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError)]
BAD_STEPS += [(torch.tensor([0.1, 0.0]), ValueError), (torch.tensor([1, 2]), TypeError), (1j, TypeError)]
BAD_STEPS += [(torch.tensor([0.1 + 0j]), TypeError), (torch.tensor([0.1, 0.2, 0.3]), ValueError)]


@pytest.mark.parametrize("h, error", BAD_STEPS)
def test_bad_steps(h, error):
    with pytest.raises(error, match=r"h must"):
        sample_partial_signature((5, 2), h, 2, generator=generator(0))


def test_bad_arguments():
    g = generator(0)
    with pytest.raises(TypeError, match="later must be a PartialSignature; got int"):
        sample_partial_signature((2,), 0.1, 1, generator=g).combine(3)
    with pytest.raises(ValueError, match="depth must be >= 1; got -1"):
        sample_partial_signature((2,), 0.1, -1, generator=g)
    with pytest.raises(TypeError, match="depth must be an integer"):
        sample_partial_signature((2,), 0.1, 1.5, generator=g)
    with pytest.raises(TypeError, match="generator must be a torch"):
        sample_partial_signature((2,), 0.1, 1, generator=None)
    with pytest.raises(TypeError, match="dtype must be a real floating-point"):
        sample_partial_signature((2,), 0.1, 1, generator=g, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"shape\[1\] must be >= 0; got -3"):
        sample_partial_signature((2, -3), 0.1, 1, generator=g)
    with pytest.raises(ValueError, match="shape must have a last axis"):
        sample_partial_signature((), 0.1, 1, area="auto", generator=g)
    with pytest.raises(ValueError, match="fourier"):
        sample_partial_signature((2, 2), 0.1, 2, area="fourier", generator=g)
    with pytest.raises(ValueError, match="exact2d"):
        sample_partial_signature((2, 3), 0.1, 1, area="exact2d", generator=g)
    with pytest.raises(ValueError, match="h must"):
        sample_partial_signature((2, 2), torch.tensor([0.1, 0.2]), 2, area="legendre", generator=g)
    for options, match in (
        ({"terms": 3}, "terms and tolerance are those of an area"),
        ({"tolerance": 0.1}, "terms and tolerance are those of an area"),
        ({"area": "auto", "terms": 3}, "terms needs method"),
        ({"area": "legendre", "tolerance": 1e-9}, "tolerance must be >= 3.56e-07"),
        ({"area": "legendre", "terms": 10**6}, "terms must be <= 100000"),
        ({"h": 1e-300}, "h must have a square root within the range of torch.float32; got 1e-300"),
        ({"h": 1e300}, "h must have a square root"),
        ({"h": torch.tensor([[1.0], [1e-300]], dtype=F64)}, "h must have a square root"),
    ):
        state = g.get_state()
        with pytest.raises(ValueError, match=match):
            sample_partial_signature(**{"shape": (2, 2), "h": 0.1, "depth": 2, "generator": g, **options})
        assert torch.equal(g.get_state(), state)
    value = sample_partial_signature((2, 2), 0.1, 2, area="legendre", generator=g)
    with pytest.raises(ValueError, match="split is not possible on a value with a levy_area"):
        value.split(0.05, generator=g)
    plain = value.without_area()
    for at in (0.1, 0.2):
        with pytest.raises(ValueError, match=r"at must lie in \(0, h\)"):
            plain.split(at, generator=g)
    with pytest.raises(ValueError, match="at must"):
        plain.split(-0.1, generator=g)
    with pytest.raises(ValueError, match="levy_area exactly if"):
        value.combine(plain)
    with pytest.raises(ValueError, match="later must have the shape"):
        plain.combine(sample_partial_signature((3,), 0.1, 2, generator=g))
    with pytest.raises(TypeError, match=r"later must be torch.float32"):
        plain.combine(sample_partial_signature((2, 2), 0.1, 2, generator=g, dtype=F64))
    with pytest.raises(ValueError, match=r"gaussian_word\(1, 1\) needs depth >= 3"):
        plain.gaussian_word(1, 1)
    with pytest.raises(ValueError, match="words must each have exactly one noise letter"):
        gaussian_word_covariance([(1, 1)], 0.1)
    for h in (-1.0, 0.0, math.nan):
        with pytest.raises(ValueError, match="h must be"):
            PartialSignature(torch.tensor(h), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="coefficients must have shape"):
        PartialSignature(torch.tensor(1.0), torch.zeros(0, 3))
    with pytest.raises(TypeError, match="coefficients must have a real floating-point dtype"):
        PartialSignature(torch.tensor(1.0), torch.zeros(1, 3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="levy_area must have shape"):
        PartialSignature(torch.tensor(1.0), torch.zeros(1, 3), torch.zeros(3, 2))


def test_a_partial_signature_is_one_line():
    """For which its area is not drawn."""

    def area():
        raise AssertionError("drawn")

    stack = PartialSignature(torch.tensor(0.5), torch.zeros(2, 8, 100, 3), area)
    assert repr(stack) == "PartialSignature(values of shape (8, 100, 3), depth 2, area, float32 on cpu)"
    plain = stack.without_area().truncate(1)
    assert repr(plain) == "PartialSignature(values of shape (8, 100, 3), depth 1, float32 on cpu)"
