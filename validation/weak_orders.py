"""Weak orders of all general schemes, ours and torchsde's.

Errors |E phi(Y_N) - E phi(Y)|, Euclidean over the functionals phi that each row names, from antithetic pairs of paths.
They are coupled through one path: to the exact solution where there is one, else to the solution at twice the steps,
whose mean differs by the error at N less that at 2N. An order is shown by the rule of `OrderEstimate.supports`; it is a
lower bound, as for strong orders.

Each noise structure has a problem. Times are short and two parameters not the default ones (DoubleWell's sigma is 1,
KuboOscillator's omega 1.5), so that the leading term rules from the first step on. Schemes whose weak error is far
below their strong error have a case of their own, with more paths and sometimes another time or functional. Left out
for want of affordable intervals: SinhDiffusion (Platen's scheme would take 10^7 paths), OrnsteinUhlenbeck (log_ode 10^6
on many steps), the Lorenz system and Heston's model; and the Heisenberg group, where schemes with areas are exact.

Controls must fail an order that they do not have: order 2 those of order 1, Euler, Milstein, and Platen's scheme with
the Levy areas left out of non-commutative noise; order 1 Euler without the Ito correction, which converges to another
solution (order 0; where the solution is exact).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdesig.brownian import BrownianPath
from sdesig.convergence import OrderEstimate, fit_weak, rounding
from sdesig.sde.problems import (
    CommutativeLinearSDE,
    DoubleWell,
    FadingNoise,
    GeometricBrownianMotion,
    HasExactSolution,
    KuboOscillator,
    LinearSDE,
    Problem,
    TanhDiffusion,
)
from sdesig.solvers import Euler, PlatenWeak2, Scheme, strong_orders
from validation.report import Point, Row, Stored, Study, order_row
from validation.strong_orders import (
    WithoutAreas,
    admitted,
    end,
    exact_end,
    general_schemes,
    nested_paths,
    order_details,
    order_figure,
    points_of,
)

FUNCTIONALS: dict[str, Callable[[Tensor], Tensor]] = {
    "y": lambda y: y,
    "y, y^2": lambda y: torch.cat([y, y.square()], -1),
}
"""Functionals by name, applied to all components: (batch, dim) to (batch, k)."""


class Case(NamedTuple):
    """A problem, functionals, the share of the study's paths that it gets, steps and time.

    `only` names its schemes; the case without names has all others.
    """

    problem: Problem
    functional: str
    share: float
    steps: tuple[int, ...]
    t1: float = 1.0
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return type(self.problem).__name__


DOUBLE_WELL = DoubleWell(sigma=1.0)
NOISY = ("heun", "platen", "taylor15", "torchsde:heun", "torchsde:reversible_heun")
BENT = ("torchsde:log_ode", "torchsde:midpoint")
CASES = (
    Case(FadingNoise(), "y, y^2", 0.1, (4, 8, 16, 32)),
    Case(DOUBLE_WELL, "y, y^2", 1.0, (4, 8, 16, 32), 1 / 4),
    Case(DOUBLE_WELL, "y, y^2", 4.0, (4, 8, 16, 32), 1 / 4, NOISY),
    Case(DOUBLE_WELL, "y, y^2", 2.0, (8, 16, 32, 64), 1 / 4, BENT),
    Case(TanhDiffusion(), "y, y^2", 2.0, (2, 4, 8, 16), 1 / 4),
    Case(TanhDiffusion(), "y, y^2", 10.0, (2, 4, 8, 16), 1 / 2, ("platen",)),
    Case(TanhDiffusion(), "y, y^2", 4.0, (2, 4, 8, 16), 1 / 8, ("taylor15",)),
    Case(KuboOscillator(omega=1.5), "y, y^2", 0.5, (4, 8, 16, 32), 1 / 4),
    Case(KuboOscillator(omega=1.5), "y, y^2", 2.0, (4, 8, 16, 32), 1 / 4, ("platen", "taylor15")),
    Case(GeometricBrownianMotion(), "y, y^2", 1.0, (2, 4, 8, 16), 1 / 2),
    Case(GeometricBrownianMotion(), "y, y^2", 10.0, (2, 4, 8, 16), 1.0, ("platen",)),
    Case(GeometricBrownianMotion(), "y, y^2", 4.0, (2, 4, 8, 16), 1 / 2, ("taylor15",)),
    Case(CommutativeLinearSDE(), "y, y^2", 1.0, (2, 4, 8, 16), 1 / 4),
    Case(CommutativeLinearSDE(), "y, y^2", 5.0, (2, 4, 8, 16), 1 / 4, ("euler", "torchsde:euler")),
    Case(CommutativeLinearSDE(), "y", 8.0, (2, 4, 8, 16), 1.0, ("platen",)),
    Case(LinearSDE(), "y, y^2", 0.6, (4, 8, 16, 32)),
    Case(LinearSDE(), "y, y^2", 4.0, (2, 4, 8), 1.0, ("platen", "platen without areas")),
)


class UncorrectedEuler(Euler):
    """Euler's Ito scheme given the drift of the Stratonovich form."""

    sde_type = "stratonovich"
    strong_order = strong_orders(0.0, ("scalar", "diagonal", "commutative"))
    weak_order = 0.0


class PlatenWithoutAreas(WithoutAreas, PlatenWeak2):
    """Platen's scheme with A = 0: the variance of I_(i,j) is too small."""

    weak_order = 1.0


CONTROLS = {
    "euler without the Ito correction": (UncorrectedEuler, 1.0),
    "platen without areas": (PlatenWithoutAreas, 2.0),
}
BELOW_TWO = ("euler", "milstein")


def weak_errors(case: Case, schemes: Mapping[str, Scheme], paths: int) -> tuple[dict[str, Tensor], Tensor]:
    """Means over antithetic pairs of phi(Y_N) - phi(Y) for every scheme, (steps, pairs, k); the floors, (steps,)."""
    phi, exact = FUNCTIONALS[case.functional], isinstance(case.problem, HasExactSolution)
    finest = case.steps[-1] if exact else 2 * case.steps[-1]
    errors: dict[str, list[Tensor]] = {name: [] for name in schemes}
    values: list[Tensor] = []

    def differences(path: BrownianPath, scheme: Scheme) -> Tensor:
        ends = {n: phi(end(case.problem, path, scheme, n)) for n in sorted({*case.steps, finest})}
        if exact:
            truth = phi(exact_end(case.problem, path))
            return torch.stack([ends[n] - truth for n in case.steps])
        return torch.stack([ends[n] - ends[2 * n] for n in case.steps])

    for path in nested_paths(case.problem, case.t1, finest, paths // 2):
        for name, scheme in schemes.items():
            sides = [differences(side, scheme) for side in (path, path.reflected())]
            errors[name].append((sides[0] + sides[1]) / 2)
        values.append(phi(end(case.problem, path, "euler", case.steps[-1])))
    return {name: torch.cat(parts, 1) for name, parts in errors.items()}, rounding(torch.cat(values), case.steps)


def run(samples: int, report: Callable[[Row], None]) -> list[Point]:
    """Report the rows; return the errors of some schemes, one panel for each problem."""
    panels: dict[tuple[str, str, float], dict[str, OrderEstimate]] = {}
    for case in CASES:
        structure, schemes = schemes_of(case)
        paths = 2 * max(10, round(samples * case.share / 2))
        errors, floors = weak_errors(case, schemes, paths)
        estimates = {name: fit_weak(values, case.steps, floors=floors) for name, values in errors.items()}
        panels.setdefault((f"{case.name} ({structure} noise)", case.functional, case.t1), {}).update(estimates)
        for name, estimate in estimates.items():
            details = order_details(estimate, paths)
            what = f"{name}, E of {case.functional} on {case.name} ({structure})"
            if name in CONTROLS:
                report(order_row(what, estimate, CONTROLS[name][1], details, control=True))
                continue
            report(order_row(what, estimate, schemes[name].weak_order, details))
            if name in BELOW_TWO:
                report(order_row(what, estimate, 2.0, details, control=True))
    points: list[Point] = []
    for (problem, functional, t1), estimates in panels.items():
        if len(estimates) > 2:  # not those of one or two schemes at a time of their own
            points += points_of(f"{problem}\nE of {functional} at t = {t1:g}", estimates)
    return points


def draw(rows: Sequence[Stored], points: Sequence[Point]) -> Figure:
    """Errors of some schemes against the number of steps, one panel for each problem."""
    return order_figure(points, 4, "weak error")


def schemes_of(case: Case) -> tuple[str, dict[str, Scheme]]:
    """The noise structure, and the schemes of a case."""
    every = general_schemes(case.problem) | {name: control() for name, (control, _) in CONTROLS.items()}
    structure, schemes = admitted(case.problem, every)
    elsewhere = {name for other in CASES if other.name == case.name for name in other.only}
    return structure, {
        name: scheme for name, scheme in schemes.items() if (name in case.only if case.only else name not in elsewhere)
    }


STUDY = Study(
    "weak_orders",
    "weak orders of general schemes on toy problems.",
    run,
    draw,
    quick=100_000,
    full=1_000_000,
)
