"""Strong order: root-mean-square errors along one path per seed, at several numbers of steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdesig.brownian import BrownianPath
from sdesig.convergence.estimate import OrderEstimate
from sdesig.convergence.fit import fit_strong
from sdesig.convergence.study import Study, Truth, rounding, takes_arguments_of
from sdesig.sde.base import SDELike
from sdesig.sde.problems import HasExactSolution


@dataclass(eq=False, repr=False, kw_only=True)
class StrongStudy(Study):
    """The arguments of `strong_order`."""

    truth: Truth | int | None = None

    def __post_init__(self) -> None:
        self.prepare(_exact(self.sde, self.t0, self.t1) if self.truth is None else self.truth)


@takes_arguments_of(StrongStudy)
def strong_order(study: StrongStudy) -> OrderEstimate:
    """Strong order of a scheme: the slope of log sqrt(E |Y_N(t1) - Y(t1)|^2) against log step length, in float64.

    All solutions and the truth run along the same Brownian paths, which have the depth and the Levy areas that the
    scheme and the truth's scheme need. With a numeric truth of N steps, a number of steps is masked unless its error is
    above 8 |Y_N - Y_{N/2}|: take 8 (order 1.5) to 16 (order 1) times the most of `steps`. Also masked are errors that
    rounding explains. See `fit_strong` for the fit.

    Args:
        sde: as `solve` takes it.
        y0: (dim,), one start for all paths, or a callable path -> (paths, *event), such as
            `lambda path: path.initial_noise()`.
        scheme: a `Scheme` or its name.
        t0, t1: the SDE is solved from t0 to t1.
        steps: numbers of steps, increasing powers of two; steps are even in the clock.
        paths: number of paths.
        seed: path k has the path seed seed * 2^32 + k.
        truth: a callable (path, y0) -> Y(t1) of y0's shape; or the number of steps of a numeric truth; default the
            SDE's own solution `exact`, if it has one (`HasExactSolution`).
        truth_scheme: scheme of a numeric truth, default `scheme`.
        levels, depth, area: what a callable truth needs of the path beside what the schemes do: a master grid of at
            least 2^levels cells, at least this depth, Levy areas.
        clock: clock of the path, see `BrownianPath`.
        row_shape: shape of W per path, where neither y0 nor the SDE tell it.

    Returns:
        The order with its confidence interval, and the errors: see `OrderEstimate`.

    Raises:
        TypeError, ValueError: arguments of the wrong type or range, or that do not fit each other; a truth of no more
            steps than the solutions; fewer than two numbers of steps with an error above the floor.
        FloatingPointError: see `solve`.
    """
    errors, truth_squares, truths = [], [], []
    for path in study.chunks(study.paths):
        ends, truth, coarse = study.ends(path)
        assert truth is not None
        errors.append(torch.stack([(ends[n] - truth).flatten(1).norm(dim=1) for n in study.steps]))
        truth_squares.append((truth - (truth if coarse is None else coarse)).flatten(1).square().sum(1))
        truths.append(truth)
    truth_error = torch.cat(truth_squares).mean().sqrt()
    floors = torch.maximum(truth_error, rounding(torch.cat(truths), study.steps))
    return fit_strong(torch.cat(errors, 1), study.steps, floors=floors)


def _exact(sde: SDELike, t0: float, t1: float) -> Truth:
    if not isinstance(sde, HasExactSolution):
        raise ValueError(
            "truth must be given, a number of steps or a callable (path, y0) -> Y(t1): "
            f"{type(sde).__name__} has no exact solution"
        )
    if t0 != 0:
        raise ValueError(f"truth must be given for t0 != 0; exact solutions start at 0, not {t0}")

    def exact(path: BrownianPath, y0: torch.Tensor) -> torch.Tensor:
        return sde.exact(t1, path.partial_signature(0.0, t1).increment, y0)

    return exact
