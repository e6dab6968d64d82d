"""How many terms an algorithm needs for a tolerance, and which algorithm needs the least work."""

from __future__ import annotations

import math

from sdesig._checks import check_choice, check_integer, check_real
from sdesig.signature.areas._draws import pair_count

STRONG_METHODS = ("fourier", "milstein", "wiktorsson", "mronroe", "legendre", "exact2d")
NORMS = ("max_l2", "frobenius_l2")

MULTIPLICATIONS_PER_NORMAL = 40.0
"""Multiplications in a batched matrix product that take as long as drawing one normal number."""


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
    | "legendre" | 1/sqrt8 | 1/2 | root mean square without the Gaussian tail, which only corrects the law |
    | "exact2d" | 1e-3 | 5 | 2-Wasserstein distance, computed by Fourier inversion; n >= 4 always |

    In the norm "frobenius_l2" the constants are sqrt(d (d - 1)) times as large. Source: Kastner, Roessler,
    arXiv:2201.08424, sections 4 and 5; Foster, Habermann, Bernoulli 29 (2023), for "legendre".

    Args:
        dim: number of Brownian motions d >= 1; exactly 2 for "exact2d".
        h: step length, > 0.
        tolerance: > 0, in units of the area itself; default h^{3/2}, which keeps strong order 1.
        method: one of `STRONG_METHODS`.
        norm: "max_l2" (largest L2 error of an entry) or "frobenius_l2" (L2 norm of the Frobenius norm).

    Raises:
        TypeError, ValueError: arguments outside of the above, or more terms than a float can count.
    """
    dim = check_integer("dim", dim, 1)
    h = check_real("h", h, minimum=0.0, strict=True)
    tolerance = h**1.5 if tolerance is None else check_real("tolerance", tolerance, minimum=0.0, strict=True)
    check_choice("method", method, STRONG_METHODS)
    check_choice("norm", norm, NORMS)
    if method == "exact2d" and dim != 2:
        raise ValueError(f"method 'exact2d' needs dimension 2; got {dim}")
    constant, order = {
        "fourier": (math.sqrt(1.5) / math.pi, 0.5),
        "milstein": (math.sqrt(0.5) / math.pi, 0.5),
        "wiktorsson": (math.sqrt(5 * dim / 12) / math.pi, 1.0),
        "mronroe": (math.sqrt(dim / 12) / math.pi, 1.0),
        "legendre": (math.sqrt(0.125), 0.5),
        "exact2d": (1e-3, 5.0),
    }[method]
    scale = math.sqrt(dim * (dim - 1)) if norm == "frobenius_l2" else 1.0
    ratio = constant * scale * h / tolerance
    if ratio > 2.0 ** (53 * order):
        raise ValueError(f"tolerance is too small for method {method!r} at h = {h:g}; got {tolerance:g}")
    return max(4 if method == "exact2d" else 1, math.ceil(ratio ** (1 / order)))


def normals_drawn(method: str, dim: int, terms: int) -> int:
    """How many normal numbers a strong method draws for one area, given the increment."""
    return {
        "fourier": 2 * dim * terms,
        "milstein": 2 * dim * terms + dim,
        "wiktorsson": 2 * dim * terms + pair_count(dim),
        "mronroe": 2 * dim * terms + dim + pair_count(dim),
        "legendre": dim * terms + pair_count(dim),
        "exact2d": 2 * (terms + 1),
    }[method]


def work(method: str, dim: int, terms: int) -> float:
    """Cost of one area in units of one normal number: the numbers drawn, the multiplications at a fixed exchange rate,
    and one unit per matrix entry for the assembly (measured). Not for "exact2d", which assembles no matrices.
    """
    return normals_drawn(method, dim, terms) + dim**2 * (1 + terms / MULTIPLICATIONS_PER_NORMAL)


def choose_method(dim: int, h: float, tolerance: float | None, norm: str) -> str:
    """The strong method with the least `work` for the tolerance; "exact2d" in two dimensions.

    In two dimensions "exact2d" was within 5 % of the fastest method at every tolerance measured (.01 h to .2 h).
    """
    if dim == 2:
        return "exact2d"
    candidates = [method for method in STRONG_METHODS if method != "exact2d"]
    return min(
        candidates, key=lambda method: work(method, dim, terms_needed(dim, h, tolerance, method=method, norm=norm))
    )
