"""Weak order: errors of expectations at several numbers of steps, coupled through one path per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdesig._checks import check_floating
from sdesig.brownian.clock import Clock
from sdesig.convergence.estimate import OrderEstimate
from sdesig.convergence.fit import fit_weak
from sdesig.convergence.study import Reference, Start, Study, rounding
from sdesig.sde.base import SDELike
from sdesig.solvers.base import Scheme


def weak_order(
    sde: SDELike,
    y0: Start,
    *,
    scheme: str | Scheme,
    functional: Callable[[Tensor], Tensor],
    t0: float = 0.0,
    t1: float = 1.0,
    steps: Sequence[int] = (2, 4, 8, 16),
    paths: int = 100_000,
    seed: int = 0,
    reference: Reference | int | float | Tensor | None = None,
    reference_scheme: str | Scheme | None = None,
    levels: int | None = None,
    depth: int | None = None,
    area: bool = False,
    antithetic: bool = True,
    clock: Clock | None = None,
    row_shape: Sequence[int] | None = None,
) -> OrderEstimate:
    """Weak order of a scheme: the slope of log |E phi(Y_N(t1)) - E phi(Y(t1))| against log step length, in float64.

    Levels whose error is at the Monte-Carlo floor are masked, see `fit_weak`; those within 8 times the error of a
    numeric reference are masked as in `strong_order`.

    Args:
        functional: phi, maps Y(t1), (batch, dim), to (batch,), or to (batch, k): then the error is the Euclidean norm
            of the k errors.
        reference: what phi(Y_N) is compared with. Default: phi(Y_2N) on the same path, whose mean differs by the error
            at N less that at 2N: it decays at the same order, and needs no reference. Or a callable (path, y0) -> Y(t1)
            or the number of steps of a numeric reference, on the same path; or, as a float or tensor, the number
            E phi(Y(t1)), () or (k,), with more noise.
        antithetic: every second path is the reflection -W of the one before it: odd functions of W cancel.
        sde, y0, scheme, t0, t1, steps, paths, seed, reference_scheme, levels, depth, area, clock, row_shape: as in
            `strong_order`.

    Raises:
        TypeError, ValueError, FloatingPointError: as `strong_order`; paths odd or 2 with `antithetic`; a functional
            that returns another shape, no floating-point numbers or infinite ones; a known expectation of another
            shape.
    """
    if not callable(functional):
        raise TypeError(f"functional must be callable as functional(Y); got {functional!r}")
    known = None
    if isinstance(reference, float | Tensor):
        known = torch.as_tensor(reference, dtype=torch.float64).detach()
    study = Study(
        sde,
        y0,
        scheme=scheme,
        t0=t0,
        t1=t1,
        steps=steps,
        paths=paths,
        seed=seed,
        reference=None if isinstance(reference, float | Tensor) else reference,
        reference_scheme=reference_scheme,
        levels=levels,
        depth=depth,
        area=area,
        clock=clock,
        row_shape=row_shape,
        doubled=reference is None,
    )
    if antithetic and (study.count % 2 or study.count < 4):
        raise ValueError(f"paths must be even and >= 4 with antithetic=True; got {paths}")

    def phi(ends: Tensor) -> Tensor:
        values = functional(ends)
        if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != len(ends):
            got = tuple(values.shape) if isinstance(values, Tensor) else repr(values)
            raise ValueError(f"functional must return shape ({len(ends)},) or ({len(ends)}, k); got {got}")
        return check_floating("functional(Y)", values).detach().reshape(len(ends), -1)

    for rows in (2, 3):  # of which no more than one is the dimension
        width = phi(study.start(next(study.paths(rows)))).shape[1]
    if known is not None and known.shape not in ((), (width,)):
        got = tuple(known.shape)
        raise ValueError(f"reference must be one number, or the functional's {width}, shape ({width},); got {got}")

    errors, sizes, reference_errors = [], [], []
    for path in study.paths(study.count // 2 if antithetic else study.count):
        sides = []
        for side in (path, path.reflected()) if antithetic else (path,):
            ends, truth, coarse = study.ends(side)
            if truth is not None:
                sides.append(torch.stack([phi(ends[n]) - phi(truth) for n in study.steps]))
            elif known is not None:
                sides.append(torch.stack([phi(ends[n]) - known.to(ends[n]) for n in study.steps]))
            else:
                sides.append(torch.stack([phi(ends[n]) - phi(ends[2 * n]) for n in study.steps]))
            sizes.append(phi(ends[study.steps[-1]]))
            if truth is not None and coarse is not None:
                reference_errors.append(phi(truth) - phi(coarse))
        errors.append(torch.stack(sides).mean(0))
        if not bool(errors[-1].isfinite().all()):
            raise ValueError(
                "functional must be finite at Y(t1), and so must the reference; there is an error that is not"
            )
    floors = rounding(torch.cat(sizes), study.steps)
    if reference_errors:
        floors = torch.maximum(floors, torch.cat(reference_errors).mean(0).norm())
    return fit_weak(torch.cat(errors, 1), study.steps, floors=floors)
