"""Where a peer computes the same thing: is it the same?

Statistical checks compare the means of two samples by their z-scores, some two hundred in all, with fixed seeds:
|z| < 5 fails by chance with probability 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.comparison import Check, import_peer, max_z
from sdesig.signature import (
    STRONG_METHODS,
    PartialSignature,
    expected_signature,
    iterated_integrals,
    piecewise_linear_signature,
    sample_partial_signature,
)
from sdesig.testing import check_moments

Z_BOUND = 5.0
DEPTH = 4
H = 0.5


def cases(quick: bool) -> Iterator[Check]:
    """Ito integrals, signatures, and (W, H, K) on a step and its halves."""
    import_peer("jax").config.update("jax_enable_x64", True)  # this topic runs last: all timings are in float32
    samples = 2_000 if quick else 20_000
    for algorithm, terms in (("Ikpw", 300), ("Iwik", 20)):
        yield Check(
            f"law of W and its Ito double integrals, d = 2 and 3, h = {H}, {samples} samples",
            "`iterated_integrals`, all strong methods",
            f"sdeint `{algorithm}`, {terms} terms",
            "max |z|",
            partial(_ito_integrals, algorithm, terms, samples),
            Z_BOUND,
        )
    yield Check(
        f"signature of piecewise linear paths in R^3, depth {DEPTH}, float64",
        "`piecewise_linear_signature`",
        "signax `signature`",
        "max difference",
        _signature,
        1e-12,
    )
    yield Check(
        f"expected signature of (time, W), d = 2, depth {DEPTH}",
        "`expected_signature`",
        "average of signax `signature` over Brownian paths",
        "max |z|",
        _expected_signature,
        Z_BOUND,
    )
    tree = "diffrax `VirtualBrownianTree`"
    yield Check(
        "(W, H, K) on a step from those on its halves, float64",
        "`PartialSignature.combine`",
        tree,
        "max difference",
        partial(_join, samples),
        1e-12,
    )
    yield Check(
        f"joint law of (W, H, K) on a step and its halves, {samples} samples",
        "`sample_partial_signature`, `PartialSignature.split`",
        tree,
        "max |z|",
        partial(_split, samples),
        Z_BOUND,
    )


def _ito_integrals(algorithm: str, terms: int, samples: int) -> float:
    """Largest |z| over our methods, dimensions and statistics of (W, I)."""
    sdeint = import_peer("sdeint")
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for dim in (2, 3):
        rng = np.random.default_rng(dim)
        dw = sdeint.deltaW(samples, dim, H, rng)
        integrals = getattr(sdeint, algorithm)(dw, H, terms, rng)[1]
        theirs = _statistics(torch.from_numpy(dw), torch.from_numpy(integrals))
        for method in STRONG_METHODS:
            if method == "exact2d" and dim != 2:
                continue
            w = math.sqrt(H) * torch.randn(samples, dim, generator=generator, dtype=torch.float64)
            ours = iterated_integrals(w, H, method=method, terms=300, generator=generator)
            largest = max(largest, max_z(_statistics(w, ours), theirs))
    return largest


def _statistics(w: Tensor, integrals: Tensor) -> Tensor:
    """Moments of W and I, and the characteristic function of the Levy area A_01, (samples, k)."""
    w0, w1 = w[:, 0], w[:, 1]
    i01, i10 = integrals[:, 0, 1], integrals[:, 1, 0]
    area = (i01 - i10) / 2
    columns = [i01, i01**2, i01 * i10, i01 * w0 * w1, integrals[:, 0, 0] * w0**2, area**2, area**2 * (w0**2 + w1**2)]
    columns += [(x * area / H).cos() for x in (1.0, 3.0, 6.0)]
    if w.shape[1] == 3:
        columns.append(integrals[:, 0, 2] * integrals[:, 2, 1] * w0 * w1)
    return torch.stack(columns, -1)


def _signature() -> float:
    """Largest difference of a coefficient; the coefficients are of order 1."""
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(16, 51, 3, generator=generator, dtype=torch.float64).cumsum(1) / math.sqrt(50)
    theirs = import_peer("signax").signature(path.numpy(), DEPTH, flatten=False)
    ours = piecewise_linear_signature(path, DEPTH).levels[1:]
    return max(_difference(a, _tensor(b)) for a, b in zip(ours, theirs, strict=True))


def _expected_signature() -> float:
    """Largest |z| over the words with noise. The bias of so many segments is .06 standard errors at most."""
    generator = torch.Generator().manual_seed(0)
    samples, segments, dim = 2_500, 1024, 2
    steps = torch.randn(samples, segments, dim, generator=generator, dtype=torch.float64) / math.sqrt(segments)
    increments = torch.cat([torch.full((samples, segments, 1), 1 / segments, dtype=torch.float64), steps], -1)
    path = torch.cat([torch.zeros(samples, 1, dim + 1, dtype=torch.float64), increments.cumsum(1)], 1)
    theirs = import_peer("signax").signature(path.numpy(), DEPTH, flatten=False)
    # The first word of a level has no noise.
    values = torch.cat([_tensor(level).flatten(1)[:, 1:] for level in theirs], -1)
    ours = expected_signature(dim, 1.0, DEPTH).levels[1:]
    expected = torch.cat([level.flatten()[1:] for level in ours])
    return check_moments(values, expected).z_scores.abs().max().item()


def _join(samples: int) -> float:
    """Largest difference of W, H, K on [0, 1] when ours are joined from the peer's on the halves."""
    whole, first, second = _peer_step_and_halves(samples)
    joined = _values(_partial_signature(first, 0.5).combine(_partial_signature(second, 0.5)))
    return _difference(joined, whole)


def _split(samples: int) -> float:
    """Largest |z| over the second moments of (W, H, K) on [0, 1], [0, 1/2] and [1/2, 1]: 45 of them."""
    generator = torch.Generator().manual_seed(0)
    step = sample_partial_signature(samples, 1.0, 3, generator=generator, dtype=torch.float64)
    ours = [_values(step), *(_values(half) for half in step.split(0.5, generator=generator))]
    return max_z(_second_moments(ours), _second_moments(_peer_step_and_halves(samples)))


def _peer_step_and_halves(samples: int) -> list[Tensor]:
    """diffrax's (W, H, K) on [0, 1], [0, 1/2] and [1/2, 1], each (3, samples), one path."""
    jax, diffrax = import_peer("jax"), import_peer("diffrax")
    value = jax.ShapeDtypeStruct((samples,), "float64")
    path = diffrax.VirtualBrownianTree(0.0, 1.0, 0.25, value, jax.random.key(0), diffrax.SpaceTimeTimeLevyArea)
    steps = [path.evaluate(s, t, use_levy=True) for s, t in ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0))]
    return [torch.stack([_tensor(x) for x in (step.W, step.H, step.K)]) for step in steps]


def _partial_signature(values: Tensor, h: float) -> PartialSignature:
    """From (W, H, K), (3, samples): xi_0 = W/sqrt(h), xi_1 = -H sqrt(12/h), xi_2 = K sqrt(720/h)."""
    scale = torch.tensor([1.0, -math.sqrt(12.0), math.sqrt(720.0)], dtype=values.dtype) / math.sqrt(h)
    return PartialSignature(torch.tensor(h, dtype=values.dtype), scale[:, None] * values)


def _values(step: PartialSignature) -> Tensor:
    """(W, H, K), (3, samples)."""
    return torch.stack([step.increment, step.space_time_area, step.space_time_time_area])


def _second_moments(values: list[Tensor]) -> Tensor:
    """All products of two of the values, (samples, k)."""
    rows = torch.cat(values)
    left, right = torch.triu_indices(len(rows), len(rows))
    return (rows[left] * rows[right]).mT


def _difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _tensor(array: object) -> Tensor:
    return torch.from_numpy(np.array(array))
