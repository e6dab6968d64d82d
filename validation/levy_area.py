"""Levy areas: error against work, for every algorithm.

Errors are root mean squares per entry in units of h (all entries have one law), between the area of an algorithm and
the area of the same path, a long Fourier or Legendre expansion with a Gaussian tail of the exact covariance:

- "fourier" and "milstein" share the first n terms with the path; "milstein" is given the M of the path. Theory gives
  the error exactly.
- "wiktorsson", "mronroe" and "legendre" replace the tail by Gaussian numbers. Their error is that of the coupling
  behind their bounds: the tail R is Gaussian with a random covariance C given the Y_k (wiktorsson), the X_k (mronroe)
  or every other coefficient (legendre) of the neglected terms, so G = C^{-1/2} R is the Gaussian vector that they are
  given. Theory bounds the error.
- "davie", "foster" and "four_moment" share W, H (and K) with the path. What they add is independent of it, so their
  error is sqrt(2 Var[A | W, H, (K)]), and they have no truncation.
- "exact2d" is an algorithm for the law: it is held against the characteristic function of the area given W. Its error
  (below 1e-3 h n^-5 in the 2-Wasserstein distance) is too small to be seen in samples; the figure shows its work.

The terms of each point are those that `terms_needed` asks for at a tolerance; the row also says that the error is
below it. Each of fewer than 120 rows raises a false alarm with a probability of at most 8e-6, that is 1e-3 in all.
Seconds inform only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from scipy.special import polygamma
from torch import Tensor

from sdesig.evaluation import draw_line, log_axes, look_of, panels
from sdesig.signature import levy_area, normals_drawn, strong_area, terms_needed
from sdesig.testing import LawReport, check_moments
from validation.report import Point as Shown
from validation.report import Row, Stored, Study, law_row, mean_interval

H = 0.25
DIMENSIONS = (2, 5, 10)
RATE = 8e-6
LONG = 1024  # terms of the long expansions
CHUNK = 200  # paths whose long expansions are in memory at once
SLOW, FAST = (0.2, 0.1, 0.05, 0.025), (0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125)  # tolerances, in units of h
TOLERANCES = {"fourier": SLOW, "milstein": SLOW, "legendre": FAST, "wiktorsson": FAST, "mronroe": FAST}
ORDERS = {"fourier": 0.5, "milstein": 0.5, "legendre": 1.0, "wiktorsson": 1.0, "mronroe": 1.0}
ASYMPTOTIC = 5  # terms from which orders are fitted
MARGIN = 0.1  # of orders
WEAK = {"davie": 2, "foster": 2, "four_moment": 3}  # the depth of the coefficients that they are given
INCREMENTS = ((0.0, 0.0), (0.6, -0.8), (2.0, 1.5))  # given which exact2d is checked, in units of sqrt(h)
WORK = {"random_numbers": (1.0, "random numbers per area"), "seconds_per_area": (1e-6, "microseconds per area")}
"""Columns of the figure's x axes: unit and label."""
FREQUENCIES = (1.0, 2.0, 4.0, 8.0)


class Point(NamedTuple):
    """A point of the figure; `tolerance` in units of h."""

    method: str
    terms: int
    tolerance: float


def exact_error(method: str, terms: int) -> float | None:
    """RMS error per entry in units of h; None for methods for which theory has only a bound.

    Kloeden, Platen, Wright, Stoch. Anal. Appl. 10 (1992).
    """
    psi = float(polygamma(1, terms + 1))
    return {
        "fourier": math.sqrt(6 * psi) / (2 * math.pi),
        "milstein": math.sqrt(2 * psi) / (2 * math.pi),
    }.get(method)


def weak_error(depth: int) -> float:
    """RMS distance in units of h of two areas that are independent given xi_0..xi_{m-1}, each with the exact variance
    given them, 1/(4 (2m - 1)).
    """
    return math.sqrt(1 / (2 * (2 * depth - 1)))


def area_cf(x: float, norm2: float) -> float:
    """E[exp(i x A_01/h) | W], |W|^2 = h norm2 (P. Levy, 1951)."""
    z = x / 2
    return z / math.sinh(z) * math.exp(-norm2 / 2 * (z / math.tanh(z) - 1))


def points(dim: int) -> list[Point]:
    """The points of all methods that have a path."""
    return [
        Point(method, terms_needed(dim, H, tolerance * H, method=method), tolerance)
        for method, tolerances in TOLERANCES.items()
        for tolerance in tolerances
    ]


def squared_errors(
    dim: int, wanted: list[Point], samples: int, generator: torch.Generator
) -> dict[Point | str, Tensor]:
    """Squared errors in units of h, averaged over the entries, for each point and each weak method, (samples,)."""
    chunks = [
        _errors_of_chunk(dim, wanted, min(CHUNK, samples - first), generator) for first in range(0, samples, CHUNK)
    ]
    return {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _errors_of_chunk(dim: int, wanted: list[Point], rows: int, generator: torch.Generator) -> dict[Point | str, Tensor]:
    def normals(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def mean_square(difference: Tensor) -> Tensor:
        return (difference / H).square().sum((-2, -1)) / (dim * (dim - 1))

    h, w = torch.tensor([H], dtype=torch.float64), normals(rows, dim)
    increment = math.sqrt(H) * w
    errors: dict[Point | str, Tensor] = {}

    numbers, m, g = normals(LONG, rows, 2 * dim), normals(rows, dim), normals(rows, dim * (dim - 1) // 2)
    path = strong_area("mronroe", w[None], h, LONG, _replay(m, g, *numbers))
    for point in wanted:
        if point.method != "legendre":
            tail = _coupled_tail(point.method, w, point.terms, numbers, m, g)
            area = strong_area(point.method, w[None], h, point.terms, _replay(*tail, *numbers))
            errors[point] = mean_square(area - path)

    xi = torch.cat([w.unsqueeze(0), normals(LONG, rows, dim)])
    path = strong_area("legendre", xi[:1], h, LONG, _replay(g, *xi[1:]))
    for point in wanted:
        if point.method == "legendre":
            tail = _coupled_legendre_tail(point.terms, xi, g)
            area = strong_area("legendre", xi[:1], h, point.terms, _replay(*tail, *xi[1:]))
            errors[point] = mean_square(area - path)
    for method, depth in WEAK.items():
        area = levy_area(increment, H, coefficients=xi[:depth], method=method, generator=generator)
        errors[method] = mean_square(area - path)
    return errors


def _replay(*numbers: Tensor) -> Callable[[tuple[int, ...]], Tensor]:
    """Hands out the given numbers, whatever the generator would have drawn."""
    queue = iter(numbers)
    return lambda shape: next(queue).reshape(shape)


def _coupled_tail(method: str, w: Tensor, terms: int, numbers: Tensor, m: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """The numbers of the tail that the Fourier methods draw first, made of the path's terms beyond `terms`.

    The path itself ends with the numbers `m` and `g` in place of its terms beyond LONG.
    """
    if method == "fourier":
        return ()
    dim = w.shape[-1]
    psi, rest = float(polygamma(1, terms + 1)), float(polygamma(1, LONG + 1))
    weights = 1 / torch.arange(terms + 1, LONG + 1, dtype=w.dtype)
    x, y = (numbers[terms:] * weights.reshape(-1, 1, 1)).split(dim, -1)  # X_k/k, Y_k/k
    total = x.sum(0) - math.sqrt(rest) * m  # sum_{k>n} X_k/k
    coupled_m = -total / math.sqrt(psi)
    if method == "milstein":
        return (coupled_m,)
    raw_x = numbers[terms:, :, :dim]
    product = torch.einsum("kbi,kbj->bij", y, raw_x)
    if method == "mronroe":
        given = torch.einsum("kbi,kbj->bij", x, x) + rest * torch.eye(dim, dtype=w.dtype)
    else:
        product = product - math.sqrt(2) * w.unsqueeze(-1) * total.unsqueeze(-2)
        b = y - math.sqrt(2) * weights.reshape(-1, 1, 1) * w
        outer = 2 * w.unsqueeze(-1) * w.unsqueeze(-2)
        given = torch.einsum("kbi,kbj->bij", b, b) + rest * (torch.eye(dim, dtype=w.dtype) + outer)
    i, j = torch.triu_indices(dim, dim, 1)
    whitened = _whitened((product - product.mT)[:, i, j] + math.sqrt(2 * rest) * g, given)
    return (coupled_m, whitened) if method == "mronroe" else (whitened,)


def _coupled_legendre_tail(terms: int, xi: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """The same for "legendre", from the coefficients xi_0, ... of the path beyond `terms`.

    With c_k = (4 k^2 - 1)^{-1/2}, what is neglected is (h/2) sum_l B_l xi_l^T - xi_l B_l^T over l = n+1, n+3, ...,
    B_l = c_l xi_{l-1} - c_{l+1} xi_{l+1}, and the path's own tail.
    """
    dim, last = xi.shape[-1], len(xi) - 1
    k = torch.arange(last + 2, dtype=xi.dtype).reshape(-1, 1, 1)
    c = (4 * k.square() - 1).abs().rsqrt()
    free = torch.arange(terms + 1, last + 1, 2)
    beyond = torch.cat([xi, torch.zeros_like(xi[:1])])
    b = c[free] * beyond[free - 1] - c[free + 1] * beyond[free + 1]
    product = torch.einsum("kbi,kbj->bij", b, beyond[free])
    rest = 1 / (2 * last + 1)
    given = torch.einsum("kbi,kbj->bij", b, b) + rest / 2 * torch.eye(dim, dtype=xi.dtype)
    i, j = torch.triu_indices(dim, dim, 1)
    return (_whitened((product - product.mT)[:, i, j] + math.sqrt(rest) * g, given),)


def _whitened(remainder: Tensor, second_moment: Tensor) -> Tensor:
    """C^{-1/2} R for a remainder R, its entries i < j, of covariance C = `_pair_covariance(second_moment)`."""
    values, vectors = torch.linalg.eigh(_pair_covariance(second_moment))
    whitened = vectors @ ((vectors.mT @ remainder.unsqueeze(-1)) / values.sqrt().unsqueeze(-1))
    return whitened.squeeze(-1)


def _pair_covariance(second_moment: Tensor) -> Tensor:
    """Covariance of sum_k b_ki z_kj - b_kj z_ki, i < j, z_k ~ N(0, Id), given sum_k b_k b_k^T = `second_moment`."""
    dim = second_moment.shape[-1]
    i, j = torch.triu_indices(dim, dim, 1)
    same = torch.eye(dim, dtype=second_moment.dtype)

    def product(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return second_moment[:, a[:, None], c] * same[b[:, None], d]

    return product(i, j, i, j) - product(i, j, j, i) - product(j, i, i, j) + product(j, i, j, i)


def error_row(dim: int, point: Point, squares: Tensor) -> Row:
    """A point against the exact error, or the tolerance where theory has only a bound."""
    measured, low, high = (math.sqrt(max(value, 0.0)) for value in mean_interval(squares, RATE))
    exact = exact_error(point.method, point.terms)
    if exact is None:
        theory, passed = f"RMS <= {point.tolerance:g} h", high <= point.tolerance
    else:
        theory = f"RMS = {exact:.4g} h <= {point.tolerance:g} h"
        passed = low <= exact <= high and exact <= point.tolerance
    case = f"{point.method}, d = {dim}, {point.terms} terms for tolerance {point.tolerance:g} h"
    numbers = normals_drawn(point.method, dim, point.terms)
    seconds = seconds_per_area(dim, point.method, terms=point.terms)
    return Row(case, theory, measured, low, high, passed, _details(dim, numbers, seconds))


def order_row(dim: int, method: str, squares: dict[int, Tensor]) -> Row:
    """Slope of log error against log(n + 1/2), from the squared errors of each n; interval by linearization.

    trigamma(n + 1) = 1/(n + 1/2) + O(n^-3): in this variable the orders are reached early.
    """
    x = torch.tensor([math.log(terms + 0.5) for terms in squares], dtype=torch.float64)
    weights = -(x - x.mean()) / (x - x.mean()).square().sum()
    errors = torch.stack(list(squares.values()))
    means = errors.mean(1)
    order = (weights @ means.log()).item() / 2
    _, low, high = mean_interval(weights @ (errors / means.unsqueeze(-1)) / 2, RATE)
    low, high = order + low, order + high
    passed = abs(low - ORDERS[method]) <= MARGIN and abs(high - ORDERS[method]) <= MARGIN
    case = f"{method}, d = {dim}, order over {min(squares)}..{max(squares)} terms"
    return Row(case, f"order {ORDERS[method]:g} (within {MARGIN:g})", order, low, high, passed, _details(dim))


def weak_row(dim: int, method: str, squares: Tensor) -> Row:
    """A weak method against the path that shares its coefficients."""
    measured, low, high = (math.sqrt(max(value, 0.0)) for value in mean_interval(squares, RATE))
    exact = weak_error(WEAK[method])
    pairs = dim * (dim - 1) // 2
    numbers = {"davie": dim + pairs, "foster": dim + pairs, "four_moment": 3 * dim + 2 * pairs}[method]
    case = f"{method} (weak), d = {dim}, beside the path with its W, H{', K' if WEAK[method] == 3 else ''}"
    details = _details(dim, numbers, seconds_per_area(dim, method))
    return Row(case, f"RMS = {exact:.4g} h", measured, low, high, low <= exact <= high, details)


def exact2d_law(terms: int, samples: int, generator: torch.Generator) -> LawReport:
    """The characteristic function of exact2d's area given three values of W."""
    columns, expected, names = [], [], []
    for w in INCREMENTS:
        increment = math.sqrt(H) * torch.tensor(w, dtype=torch.float64).expand(samples, 2)
        area = levy_area(increment, H, method="exact2d", terms=terms, generator=generator)[:, 0, 1] / H
        for x in FREQUENCIES:
            columns += [(x * area).cos(), (x * area).sin()]
            expected += [area_cf(x, w[0] ** 2 + w[1] ** 2), 0.0]
            names += [f"cos({x:g} A/h) given W = {w}", f"sin({x:g} A/h) given W = {w}"]
    return check_moments(torch.stack(columns, 1), expected, names=names, false_alarm_rate=RATE)


def covariance_law(method: str, dim: int, samples: int, generator: torch.Generator) -> LawReport:
    """E[A_mi A_mj | W] = (h/12) (h delta_ij (1 + W_m^2/h) + W_i W_j) for one term and a Gaussian tail.

    Each method's tail makes that exact at any number of terms. Checked are all m, i, j among the first three letters,
    alone and times W_i W_j.
    """
    w = torch.randn(samples, dim, generator=generator, dtype=torch.float64)
    area = levy_area(math.sqrt(H) * w, H, method=method, terms=1, generator=generator) / H
    columns, names = [], []
    letters = range(min(dim, 3))
    for m in letters:
        for i in letters:
            for j in letters:
                if m not in (i, j) and i <= j:
                    expected = ((i == j) * (1 + w[:, m].square()) + w[:, i] * w[:, j]) / 12
                    excess = area[:, m, i] * area[:, m, j] - expected
                    columns += [excess, excess * w[:, i] * w[:, j]]
                    names += [f"A[{m},{i}] A[{m},{j}] given W", f"A[{m},{i}] A[{m},{j}] W[{i}] W[{j}] given W"]
    zeros = [0.0] * len(names)
    return check_moments(torch.stack(columns, 1), zeros, names=names, false_alarm_rate=RATE)


def seconds_per_area(dim: int, method: str, *, terms: int | None = None, batch: int = 1000) -> float:
    """The fastest of nine runs."""
    generator = torch.Generator().manual_seed(0)
    increment = math.sqrt(H) * torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        levy_area(increment, H, method=method, terms=terms, generator=generator)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / batch


def _details(dim: int, numbers: float = math.nan, seconds: float = math.nan) -> dict[str, float]:
    return {"dim": dim, "random_numbers": numbers, "seconds_per_area": seconds}


def rows(dim: int, samples: int, generator: torch.Generator) -> Iterator[Row]:
    """The rows of one dimension; those with a place in the figure have random numbers, and begin with the method."""
    wanted = points(dim)
    squares = squared_errors(dim, wanted, samples // (2 * dim), generator)
    for point in wanted:
        yield error_row(dim, point, squares[point])
    for method in TOLERANCES:
        of_method = {
            point.terms: squares[point] for point in wanted if point.method == method and point.terms >= ASYMPTOTIC
        }
        yield order_row(dim, method, of_method)
    for method in WEAK:
        yield weak_row(dim, method, squares[method])
    for method in ("wiktorsson", "mronroe", "legendre"):
        law = covariance_law(method, dim, samples, generator)
        yield law_row(f"{method}, d = {dim}, 1 term: covariance of A given W", law, _details(dim))
    if dim == 2:
        terms = terms_needed(2, H, min(FAST) * H, method="exact2d")
        details = _details(2, normals_drawn("exact2d", 2, terms), seconds_per_area(2, "exact2d", terms=terms))
        law = exact2d_law(terms, samples, generator)
        yield law_row(f"exact2d, d = 2, {terms} terms: characteristic function given W", law, details)


def run(samples: int, report: Callable[[Row], None]) -> list[Shown]:
    """Report the rows of all dimensions, which have all that the figure shows."""
    generator = torch.Generator().manual_seed(0)
    for dim in DIMENSIONS:
        for row in rows(dim, samples, generator):
            report(row)
    return []


def draw(rows: Sequence[Stored], points: Sequence[Shown]) -> Figure:
    """One column for each dimension: error against random numbers above, against seconds per area below."""
    drawn = [row for row in rows if row["random_numbers"] != "nan"]
    dims = list(dict.fromkeys(row["dim"] for row in drawn))
    figure, axes = panels(2, len(dims), figsize=(4.4 * len(dims), 7.4), sharey=True, squeeze=False)
    for column, dim in enumerate(dims):
        for axis, (key, (unit, label)) in zip(axes[:, column], WORK.items(), strict=True):
            for rank, method in enumerate((*TOLERANCES, *WEAK, "exact2d")):
                own = [row for row in drawn if row["dim"] == dim and row["case"].split(",")[0].split()[0] == method]
                look = look_of(f"area {method}")
                x = [float(row[key]) / unit for row in own]
                if method == "exact2d":
                    for place in x:
                        axis.axvline(place, color=look.colour, ls=look.line, label="exact2d (law only)", zorder=1)
                    continue
                y, low, high = ([float(row[k]) for row in own] for k in ("measured", "ci_low", "ci_high"))
                bars = [[v - w for v, w in zip(y, low, strict=True)], [w - v for v, w in zip(y, high, strict=True)]]
                name = f"{method} (weak)" if method in WEAK else method
                draw_line(axis, x, y, look, bars=bars, rank=rank, label=name)
            title = f"d = {dim}" if key == "random_numbers" else ""
            log_axes(axis, None, xlabel=label, ylabel="RMS error / h" if column == 0 else None, title=title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=5,
        title="bars: intervals at a false-alarm rate "
        f"of {RATE:g} each; weak methods share W, H (and K) with the path and add what is independent of it",
    )
    return figure


STUDY = Study(
    "levy_area",
    "Levy areas, error against work for every algorithm; false alarms below 1e-3.",
    run,
    draw,
    quick=40_000,
    full=400_000,
)
