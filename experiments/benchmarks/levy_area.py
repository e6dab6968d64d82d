"""Levy areas given the increment: time per area at the same error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.comparison import Case, Run, fastest, import_peer, seconds
from sdesig.signature import STRONG_METHODS, levy_area, terms_needed

ERROR = 0.01  # max-L2 error of an area over a step h = 1
TARGETS = {2: 1.5, 5: 12.0, 10: 60.0}  # by dimension

_NORMALS_BOUND = "most of our time are the sums of the series, in float64; see the row in float32."


def cases(quick: bool) -> Iterator[Case]:
    """`levy_area` against the faster of sdeint's two algorithms, each with the terms that its error bound asks for."""
    batch, error = (100, 0.1) if quick else (5000, ERROR)
    generator = torch.Generator().manual_seed(0)
    for dim, target in TARGETS.items():
        increment = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
        peer = fastest(_peers(increment[: batch // 10], error), 1)
        for dtype in (torch.float64, torch.float32):
            yield Case(
                f"{batch} Levy areas, d = {dim}, error {error} h",
                f"`levy_area`, {str(dtype).removeprefix('torch.')}",
                f"{peer}, float64",
                _sampler(increment.to(dtype), error, "auto", generator),
                _peers(increment, error)[peer],
                repetitions=5,
                target=target if dtype == torch.float64 else None,
                explanation=_NORMALS_BOUND,
            )
    yield from automatic_cases(quick)


def automatic_cases(quick: bool) -> Iterator[Case]:
    """`method="auto"` against the explicit method that turns out to be the fastest."""
    batch = 100 if quick else 10_000
    generator = torch.Generator().manual_seed(0)
    for dim in TARGETS:
        for error in (0.1,) if quick else (0.1, 0.01):
            increment = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
            methods = [method for method in STRONG_METHODS if dim == 2 or method != "exact2d"]
            # A method three times slower on a tenth of the batch is not worth the minute it takes on all of it.
            small = {m: _sampler(increment[: batch // 10], error, m, generator) for m in methods}
            limit = 3 * seconds(small[fastest(small, 1)])
            candidates = [method for method in methods if seconds(small[method]) <= limit]
            best = fastest({m: _sampler(increment, error, m, generator) for m in candidates}, 3)
            yield Case(
                f"{batch} Levy areas, d = {dim}, error {error} h, float64",
                '`levy_area(method="auto")`',
                f"the fastest explicit method, `{best}`",
                _sampler(increment, error, "auto", generator),
                _sampler(increment, error, best, generator),
                repetitions=9,
                target=1 / 1.25,
            )


def _peers(increment: Tensor, error: float) -> dict[str, Run]:
    """sdeint's algorithms; `Ikpw` is the plain Fourier series."""
    sdeint = import_peer("sdeint")
    dim = increment.shape[-1]
    fourier, wiktorsson = (terms_needed(dim, 1.0, error, method=method) for method in ("fourier", "wiktorsson"))
    dw, rng = increment.numpy(), np.random.default_rng(0)
    return {
        f"sdeint `Ikpw`, {fourier} terms": lambda: sdeint.Ikpw(dw, 1.0, fourier, rng),
        f"sdeint `Iwik`, {wiktorsson} terms": lambda: sdeint.Iwik(dw, 1.0, wiktorsson, rng),
    }


def _sampler(increment: Tensor, error: float, method: str, generator: torch.Generator) -> Run:
    return lambda: levy_area(increment, 1.0, method=method, tolerance=error, generator=generator)
