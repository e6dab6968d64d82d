"""Weak order: errors of expectations at several numbers of steps, coupled through one path per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdesig._checks import check_floating
from sdesig.convergence.estimate import OrderEstimate
from sdesig.convergence.fit import fit_weak
from sdesig.convergence.study import Study, rounding, takes_arguments_of


@dataclass(eq=False, repr=False, kw_only=True)
class WeakStudy(Study):
    """The arguments of `weak_order`, and the functional's values."""

    functional: Callable[[Tensor], Tensor]
    steps: Sequence[int] = (2, 4, 8, 16)
    paths: int = 100_000
    antithetic: bool = True

    def __post_init__(self) -> None:
        if not callable(self.functional):
            raise TypeError(f"functional must be callable as functional(Y); got {self.functional!r}")
        self.expectation: Tensor | None = None
        if isinstance(self.truth, float | Tensor):
            self.expectation = torch.as_tensor(self.truth, dtype=torch.float64).detach()
            self.prepare(None)
        else:
            self.prepare(self.truth, doubled=self.truth is None)
        if self.antithetic and (self.paths % 2 or self.paths < 4):
            raise ValueError(f"paths must be even and >= 4 with antithetic=True; got {self.paths}")
        for rows in (2, 3):  # of which no more than one is the dimension
            width = self.phi(self.start(self.path(0, rows))).shape[1]
        if self.expectation is not None and self.expectation.shape not in ((), (width,)):
            got = tuple(self.expectation.shape)
            raise ValueError(f"truth must be one number, or the functional's {width}, shape ({width},); got {got}")

    def phi(self, ends: Tensor) -> Tensor:
        """The functional of Y(t1), checked, (batch, k)."""
        values = self.functional(ends)
        if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != len(ends):
            got = tuple(values.shape) if isinstance(values, Tensor) else repr(values)
            raise ValueError(f"functional must return shape ({len(ends)},) or ({len(ends)}, k); got {got}")
        return check_floating("functional(Y)", values).detach().reshape(len(ends), -1)


@takes_arguments_of(WeakStudy)
def weak_order(study: WeakStudy) -> OrderEstimate:
    """Weak order of a scheme: the slope of log |E phi(Y_N(t1)) - E phi(Y(t1))| against log step length, in float64.

    Numbers of steps whose error is at the Monte-Carlo floor are masked, see `fit_weak`; those within 8 times the error
    of a numeric truth are masked as in `strong_order`.

    Args:
        functional: phi, maps Y(t1), (batch, dim), to (batch,), or to (batch, k): then the error is the Euclidean norm
            of the k errors.
        truth: what phi(Y_N) is compared with. Default: phi(Y_2N) on the same path, whose mean differs by the error at N
            less that at 2N: it decays at the same order, and needs no truth. Or a callable (path, y0) -> Y(t1) or the
            number of steps of a numeric truth, on the same path; or, as a float or tensor, the number E phi(Y(t1)), ()
            or (k,), with more noise.
        antithetic: every second path is the reflection -W of the one before it: odd functions of W cancel.
        sde, y0, scheme, t0, t1, steps, paths, seed, truth_scheme, levels, depth, area, clock, row_shape: as in
            `strong_order`.

    Returns:
        The order with its confidence interval, and the errors: see `OrderEstimate`.

    Raises:
        TypeError, ValueError, FloatingPointError: as `strong_order`; paths odd or 2 with `antithetic`; a functional
            that returns another shape, no floating-point numbers or infinite ones; a known expectation of another
            shape.
    """
    errors, sizes, truth_errors = [], [], []
    for path in study.chunks(study.paths // 2 if study.antithetic else study.paths):
        sides = []
        for side in (path, path.reflected()) if study.antithetic else (path,):
            ends, truth, coarse = study.ends(side)
            values = {n: study.phi(end) for n, end in ends.items()}
            if truth is not None:
                expected = [study.phi(truth)] * len(study.steps)
            elif study.expectation is not None:
                expected = [study.expectation.to(values[n]) for n in study.steps]
            else:
                expected = [values[2 * n] for n in study.steps]
            sides.append(torch.stack([values[n] - e for n, e in zip(study.steps, expected, strict=True)]))
            sizes.append(values[study.steps[-1]])
            if truth is not None and coarse is not None:
                truth_errors.append(expected[0] - study.phi(coarse))
        errors.append(torch.stack(sides).mean(0))
        if not bool(errors[-1].isfinite().all()):
            raise ValueError("functional must be finite at Y(t1), and so must the truth; there is an error that is not")
    floors = rounding(torch.cat(sizes), study.steps)
    if truth_errors:
        floors = torch.maximum(floors, torch.cat(truth_errors).mean(0).norm())
    return fit_weak(torch.cat(errors, 1), study.steps, floors=floors)
