"""How many terms an algorithm needs for a tolerance, and which algorithm needs the least work."""

from __future__ import annotations

import math

from sdesig._checks import check_choice, check_integer, check_real
from sdesig.signature.areas._draws import pair_count

STRONG_METHODS = ("fourier", "milstein", "wiktorsson", "mronroe", "legendre", "exact2d")
"""Methods that converge to the area as their terms grow."""
NORMS = ("max_l2", "frobenius_l2")

MULTIPLICATIONS_PER_NORMAL = 40.0
"""Multiplications in a batched matrix product that take as long as drawing one normal number."""


RELATIVE_TOLERANCE = 1e-2
"""Default tolerance of an area, in units of h. With tails, 10^5 samples tell an area from the true one at .1, no longer
at .05 (`sdesig.testing.check_brownian_step`, d = 2, 3), and what they would see falls like the tolerance's cube.
"""

MAX_TERMS = 100_000
"""Most terms of a series that are summed for an area."""


def terms_needed(
    dim: int, h: float, tolerance: float | None = None, *, method: str = "mronroe", norm: str = "max_l2"
) -> int:
    """Smallest number of terms n >= 1 for which the error bound C h n^{-g} is at most `tolerance`.

    | method | C (norm "max_l2", per entry) | g | the error is |
    |---|---|---|---|
    | "fourier" | sqrt(3/2)/pi | 1/2 | root mean square |
    | "milstein" | 1/(sqrt2 pi) | 1/2 | root mean square |
    | "wiktorsson" | sqrt(5 d/12)/pi | 1 | 2-Wasserstein distance (the tail is coupled to the neglected terms) |
    | "mronroe" | sqrt(d/12)/pi | 1 | 2-Wasserstein distance |
    | "legendre" | sqrt(d)/4 | 1 | 2-Wasserstein distance, jointly with all coefficients xi_0, ..., xi_n |
    | "exact2d" | 1e-3 | 5 | 2-Wasserstein distance, computed by Fourier inversion; n >= 4 always |

    In the norm "frobenius_l2" the constants are sqrt(d (d - 1)) times as large. Source: Kastner, Roessler,
    arXiv:2201.08424, sections 4 and 5; for "legendre" see `legendre_area`.

    Args:
        dim: number of Brownian motions d >= 1; exactly 2 for "exact2d".
        h: step length, > 0.
        tolerance: > 0, in units of the area itself; default `RELATIVE_TOLERANCE` h, so that n does not depend on h.
        method: one of `STRONG_METHODS`.
        norm: "max_l2" (largest L2 error of an entry) or "frobenius_l2" (L2 norm of the Frobenius norm).

    Raises:
        TypeError, ValueError: arguments outside of the above, or more terms than a float can count.
    """
    dim = check_integer("dim", dim, 1)
    h = check_real("h", h, minimum=0.0, strict=True)
    relative = RELATIVE_TOLERANCE
    if tolerance is not None:
        relative = check_real("tolerance", tolerance, minimum=0.0, strict=True) / h
    check_choice("method", method, STRONG_METHODS)
    check_choice("norm", norm, NORMS)
    if method == "exact2d" and dim != 2:
        raise ValueError(f"method 'exact2d' needs dimension 2; got {dim}")
    terms = _terms(dim, relative, method, norm)
    if terms == math.inf:
        raise ValueError(f"tolerance is too small for method {method!r} at h = {h:g}; got {tolerance:g}")
    return int(terms)


def affordable_terms(dim: int, h: float, tolerance: float | None, *, method: str, norm: str = "max_l2") -> int:
    """`terms_needed`, but raise ValueError where they are more than `MAX_TERMS`; it says which tolerance would do."""
    relative = RELATIVE_TOLERANCE if tolerance is None else tolerance / h
    terms = _terms(dim, relative, method, norm)
    if terms > MAX_TERMS:
        raise ValueError(
            f"tolerance must be >= {reached(dim, h, method, norm):.3g} for method {method!r} at h = {h:g}, d = {dim}, "
            f"which takes {MAX_TERMS} terms; got {relative * h:.3g}, which needs {terms:.3g}"
        )
    return int(terms)


def reached(dim: int, h: float, method: str, norm: str = "max_l2") -> float:
    """The tolerance that `MAX_TERMS` terms reach, rounded up to three digits."""
    constant, order = _bound(dim, method, norm)
    return 1.006 * constant * MAX_TERMS**-order * h


def _terms(dim: int, relative: float, method: str, norm: str) -> float:
    """The number of terms for a tolerance in units of h; infinite where a float cannot count them."""
    constant, order = _bound(dim, method, norm)
    if relative * 2.0 ** (53 * order) < constant:
        return math.inf
    return max(4 if method == "exact2d" else 1, math.ceil((constant / relative) ** (1 / order)))


def _bound(dim: int, method: str, norm: str) -> tuple[float, float]:
    """(C, g) of the error bound C h n^{-g}."""
    constant, order = {
        "fourier": (math.sqrt(1.5) / math.pi, 0.5),
        "milstein": (math.sqrt(0.5) / math.pi, 0.5),
        "wiktorsson": (math.sqrt(5 * dim / 12) / math.pi, 1.0),
        "mronroe": (math.sqrt(dim / 12) / math.pi, 1.0),
        "legendre": (math.sqrt(dim) / 4, 1.0),
        "exact2d": (1e-3, 5.0),
    }[method]
    return constant * (math.sqrt(dim * (dim - 1)) if norm == "frobenius_l2" else 1.0), order


def normals_drawn(method: str, dim: int, terms: float) -> float:
    """How many normal numbers a strong method draws for one area, given the increment."""
    return {
        "fourier": 2 * dim * terms,
        "milstein": 2 * dim * terms + dim,
        "wiktorsson": 2 * dim * terms + pair_count(dim),
        "mronroe": 2 * dim * terms + dim + pair_count(dim),
        "legendre": dim * terms + pair_count(dim),
        "exact2d": 2 * (terms + 1),
    }[method]


def choose_method(dim: int, h: float, tolerance: float | None, norm: str = "max_l2") -> str:
    """The strong method with the least work for the tolerance (see `terms_needed`); "exact2d" in two dimensions.

    The work of one area is in units of one normal number: the numbers drawn, the multiplications at a fixed exchange
    rate, and one unit per matrix entry for the assembly (measured). That is not for "exact2d", which assembles no
    matrices; in two dimensions it was within 5 % of the fastest method at every tolerance measured (.01 h to .2 h).
    """
    if dim == 2:
        return "exact2d"
    relative = RELATIVE_TOLERANCE if tolerance is None else tolerance / h
    relative = max(relative, 1e-15)  # below, the terms of no method can be counted, and all would cost the same

    def work(method: str) -> float:
        terms = _terms(dim, relative, method, norm)
        return normals_drawn(method, dim, terms) + dim**2 * (1 + terms / MULTIPLICATIONS_PER_NORMAL)

    return min((method for method in STRONG_METHODS if method != "exact2d"), key=work)
