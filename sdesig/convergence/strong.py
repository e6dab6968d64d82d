"""Strong order: root-mean-square errors along one path per seed, at several numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdesig.brownian import BrownianPath
from sdesig.brownian.clock import Clock
from sdesig.convergence.estimate import OrderEstimate
from sdesig.convergence.fit import fit_strong
from sdesig.convergence.study import Reference, Start, Study, rounding
from sdesig.sde.base import SDELike
from sdesig.sde.problems import HasExactSolution
from sdesig.solvers.base import Scheme


def strong_order(
    sde: SDELike,
    y0: Start,
    *,
    scheme: str | Scheme,
    t0: float = 0.0,
    t1: float = 1.0,
    steps: Sequence[int] = (8, 16, 32, 64, 128),
    paths: int = 10_000,
    seed: int = 0,
    reference: Reference | int | None = None,
    reference_scheme: str | Scheme | None = None,
    levels: int | None = None,
    depth: int | None = None,
    area: bool = False,
    clock: Clock | None = None,
    row_shape: Sequence[int] | None = None,
) -> OrderEstimate:
    """Strong order of a scheme: the slope of log sqrt(E |Y_N(t1) - Y(t1)|^2) against log step length, in float64.

    All levels and the reference run along the same Brownian paths, which have the depth and the Levy areas that the
    scheme and the reference's scheme need. With a numeric reference of N steps, a level is masked unless its error is
    above 8 |Y_N - Y_{N/2}|: take 8 (order 1.5) to 16 (order 1) times the steps of the finest level. Also masked are
    errors that rounding explains. See `fit_strong` for the fit.

    Args:
        sde: as `solve` takes it.
        y0: (dim,), one start for all paths, or a callable path -> (paths, *event), such as
            `lambda path: path.initial_noise()`.
        scheme: a `Scheme` or its name.
        t0, t1: the SDE is solved from t0 to t1.
        steps: numbers of steps of the levels, increasing powers of two; steps are even in the clock.
        paths: number of paths.
        seed: path k has the path seed seed * 2^32 + k.
        reference: a callable (path, y0) -> Y(t1) of y0's shape; or the number of steps of a numeric reference; default
            the SDE's own solution `exact`, if it has one (`HasExactSolution`).
        reference_scheme: scheme of a numeric reference, default `scheme`.
        levels, depth, area: what a callable reference needs of the path beside what the schemes do: a master grid of at
            least 2^levels cells, at least this depth, Levy areas.
        clock: of the path (`BrownianPath`).
        row_shape: shape of W per path, where neither y0 nor the SDE tell it.

    Raises:
        TypeError, ValueError: arguments of the wrong type or range, or that do not fit each other; a reference no finer
            than the finest level; fewer than two levels above the floor.
        FloatingPointError: see `solve`.
    """
    if reference is None:
        reference = _exact(sde, t0, t1)
    study = Study(
        sde,
        y0,
        scheme=scheme,
        t0=t0,
        t1=t1,
        steps=steps,
        paths=paths,
        seed=seed,
        reference=reference,
        reference_scheme=reference_scheme,
        levels=levels,
        depth=depth,
        area=area,
        clock=clock,
        row_shape=row_shape,
    )
    errors, reference_squares, truths = [], [], []
    for path in study.paths(study.count):
        ends, truth, coarse = study.ends(path)
        assert truth is not None
        errors.append(torch.stack([(ends[n] - truth).flatten(1).norm(dim=1) for n in study.steps]))
        reference_squares.append((truth - (truth if coarse is None else coarse)).flatten(1).square().sum(1))
        truths.append(truth)
    reference_error = torch.cat(reference_squares).mean().sqrt()
    floors = torch.maximum(reference_error, rounding(torch.cat(truths), study.steps))
    return fit_strong(torch.cat(errors, 1), study.steps, floors=floors)


def _exact(sde: SDELike, t0: float, t1: float) -> Reference:
    if not isinstance(sde, HasExactSolution):
        raise ValueError(
            "reference must be given, a number of steps or a callable (path, y0) -> Y(t1): "
            f"{type(sde).__name__} has no exact solution"
        )
    if t0 != 0:
        raise ValueError(f"reference must be given for t0 != 0; exact solutions start at 0, not {t0}")

    def exact(path: BrownianPath, y0: torch.Tensor) -> torch.Tensor:
        return sde.exact(t1, path.partial_signature(0.0, t1).increment, y0)

    return exact
