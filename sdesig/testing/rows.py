"""Rows of a report on a law: averages of statistics, their expectations under the law, standard errors and z-scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

FREQUENCIES = (2.0, 4.0, 8.0)
"""Where the characteristic function of A/h is compared: it falls from .65 to .04 there."""


class Rows(NamedTuple):
    """Some rows of a report."""

    names: list[str]
    expected: Tensor
    estimates: Tensor
    standard_errors: Tensor
    z_scores: Tensor


def _compare(names: list[str], expected: Tensor, estimates: Tensor, errors: Tensor) -> Rows:
    return Rows(names, expected, estimates, errors, _ratio(estimates - expected, errors))


def _ratio(x: Tensor, error: Tensor) -> Tensor:
    """x/error; 0 where both are 0. Errors include rounding: one of 0 stands beside x = 0 only."""
    return x / torch.where(error > 0, error, 1.0)


def studentized(names: list[str], samples: Tensor, expected: Tensor, rounding: float) -> Rows:
    """Rows for the averages of `samples` (n, k), by sample standard errors and Hall's transformation."""
    n, means = len(samples), samples.mean(0)
    centred = samples - means
    floor = rounding * torch.maximum(samples.abs().amax(0), expected.abs())
    errors = torch.maximum(centred.square().sum(0).sqrt() / n, floor)
    t = _ratio(means - expected, errors)
    g = _ratio(centred, errors * math.sqrt(n)).pow(3).mean(0) / math.sqrt(n)
    return Rows(names, expected, means, errors, t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6)


def standardized(names: list[str], samples: Tensor, expected: Tensor, variance: Tensor, rounding_error: Tensor) -> Rows:
    """Rows for the averages of `samples` (n, k), of known variances and with known rounding errors, (k,)."""
    errors = torch.maximum((variance / len(samples)).sqrt(), rounding_error)
    return _compare(names, expected, samples.mean(0), errors)


def deterministic(name: str, deviation: Tensor, scale: Tensor) -> Rows:
    """A row for a deviation that must vanish up to rounding errors of size `scale`."""
    return _compare([name], torch.zeros(1, dtype=torch.float64), deviation.reshape(1), scale.reshape(1))


def gaussian_rows(names: list[str], x: Tensor, covariance: Tensor, rounding: float) -> list[Rows]:
    """The statistics of `check_gaussian`."""
    variances = covariance.diagonal().clamp_min(0.0)
    scale = torch.where(variances > 0, variances.rsqrt(), 0.0)
    correlation = covariance * scale * scale.unsqueeze(-1)
    largest = x.abs().amax(0)
    zeros = torch.zeros_like(variances)
    rows = [standardized(names, x, zeros, variances, rounding * largest)]
    for i, name in enumerate(names):
        later = names[i:]
        product = x[:, i, None] * x[:, i:]
        cross = covariance[i, i:]
        spread = variances[i] * variances[i:] + cross.square()
        labels = [f"{name} {other}" for other in later]
        rows.append(standardized(labels, product, cross, spread, rounding * largest[i] * largest[i:]))

        angle = x[:, i, None] * scale[i] + x[:, i:] * scale[i:]
        error = rounding * (1 + largest[i] * scale[i] + largest[i:] * scale[i:])
        variance = (correlation[i, i] + 2 * correlation[i, i:] + correlation.diagonal()[i:]).clamp_min(0.0)
        cosine, doubled = torch.exp(-variance / 2), torch.exp(-2 * variance)
        spread = ((1 + doubled) / 2 - cosine.square()).clamp_min(0.0)
        labels = [f"cos({name}/s + {other}/s)" for other in later]
        rows.append(standardized(labels, angle.cos(), cosine, spread, error))
        labels = [f"sin({name}/s + {other}/s)" for other in later]
        rows.append(standardized(labels, angle.sin(), zeros[i:], (1 - doubled) / 2, error))
    return rows


def area_rows(area: Tensor, values: dict[str, Tensor], weak: bool, rounding: float) -> list[Rows]:
    """The statistics of `check_brownian_step` that have the Levy area in them, at h = 1."""
    w, dim = values["W"], area.shape[-1]
    size = 1 + area.abs().max() + w.square().max()  # W^2: the area may have been computed as J - W W^T/2
    rows = [deterministic("max |A + A^T|", (area + area.mT).abs().max(), rounding * size)]

    def add(labels: Iterable[str], samples: Tensor, expected: float) -> None:
        means = torch.full((samples.shape[1],), expected, dtype=torch.float64)
        rows.append(studentized(list(labels), samples, means, rounding))

    if dim >= 2:
        _add_pairs(add, area, values, weak)
    if dim >= 3:
        _add_triples(add, area, w, weak)
    return rows


_Add = Callable[[Iterable[str], Tensor, float], None]


def _add_pairs(add: _Add, area: Tensor, values: dict[str, Tensor], weak: bool) -> None:
    """Statistics of A_ij, i < j."""
    first, second = torch.triu_indices(area.shape[-1], area.shape[-1], 1)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    a, wi, wj = area[:, first, second], values["W"][:, first], values["W"][:, second]
    taper = (-(wi.square() + wj.square()) / 2).exp()

    def claim(label: str, samples: Tensor, expected: float) -> None:
        add((label.format(i=i, j=j) for i, j in pairs), samples, expected)

    claim("A[{i},{j}]", a, 0.0)
    claim("A[{i},{j}]^2", a.square(), 1 / 4)
    claim("A[{i},{j}]^2 exp(-r)", a.square() * taper, 1 / 12)
    claim("A[{i},{j}] W[{i}]", a * wi, 0.0)
    claim("A[{i},{j}] W[{j}]", a * wj, 0.0)
    claim("A[{i},{j}] W[{i}] W[{j}]", a * wi * wj, 0.0)
    if not weak:
        claim("A[{i},{j}]^4", a.pow(4), 5 / 16)
        for x in FREQUENCIES:
            z, cosine = x / 2, (x * a).cos()
            tapered = z / math.sinh(z) / (1 + z / math.tanh(z))
            claim(f"cos({x:g} A[{{i}},{{j}}])", cosine, 1 / math.cosh(z))
            claim(f"sin({x:g} A[{{i}},{{j}}])", (x * a).sin(), 0.0)
            claim(f"cos({x:g} A[{{i}},{{j}}]) exp(-r)", cosine * taper, tapered)
    if "H" not in values:
        return

    hi, hj = values["H"][:, first], values["H"][:, second]
    claim("A[{i},{j}] H[{i}]", a * hi, 0.0)
    claim("A[{i},{j}] H[{j}]", a * hj, 0.0)
    claim("A[{i},{j}] H[{i}] H[{j}]", a * hi * hj, 0.0)
    claim("A[{i},{j}] H[{i}] W[{j}]", a * hi * wj, 1 / 12)
    claim("A[{i},{j}] W[{i}] H[{j}]", a * wi * hj, -1 / 12)
    if "K" in values:
        ki, kj = values["K"][:, first], values["K"][:, second]
        claim("A[{i},{j}] K[{i}] H[{j}]", a * ki * hj, 1 / 720)
        claim("A[{i},{j}] H[{i}] K[{j}]", a * hi * kj, -1 / 720)
    if not weak:
        b = a - (hi * wj - wi * hj)
        bridge_taper = (-6 * (hi.square() + hj.square())).exp()
        for x in FREQUENCIES:
            z, cosine = x / 2, (x * b).cos()
            even = z / math.sinh(z)
            tapered = even / (1 + 3 * (z / math.tanh(z) - 1) / z**2)
            claim(f"cos({x:g} B[{{i}},{{j}}]) exp(-q)", cosine * bridge_taper, tapered)
            claim(f"cos({x:g} B[{{i}},{{j}}]) exp(-r)", cosine * taper, even / 2)


def _add_triples(add: _Add, area: Tensor, w: Tensor, weak: bool) -> None:
    """Statistics of A_mi and A_mk, i < k, for every m."""
    for m in range(area.shape[-1]):
        pairs = list(itertools.combinations([i for i in range(area.shape[-1]) if i != m], 2))
        i, k = torch.tensor(pairs).mT
        first, second = area[:, m, i], area[:, m, k]
        add((f"A[{m},{i}] A[{m},{k}]" for i, k in pairs), first * second, 0.0)
        labels = (f"A[{m},{i}] A[{m},{k}] W[{i}] W[{k}]" for i, k in pairs)
        add(labels, first * second * w[:, i] * w[:, k], 1 / 12)
        if weak:
            continue
        for x in FREQUENCIES:
            labels = (f"cos({x:g} A[{m},{i}]) cos({x:g} A[{m},{k}])" for i, k in pairs)
            add(labels, (x * first).cos() * (x * second).cos(), 1 / math.cosh(x / math.sqrt(2)))
