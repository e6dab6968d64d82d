"""Strong orders of all general schemes, ours and torchsde's, on every toy problem that they admit.

All schemes of a problem run along the same paths, at four numbers of steps that double. The truth is the exact solution
where there is one, else a solution of at least the schemes' order at 8 to 16 times the finest steps. An order is shown
by the rule of `OrderEstimate.supports`; it is a lower bound, which some schemes exceed on problems without the term
that limits them: log_ode on commuting noise, schemes of order 1.5 on a linear drift with additive noise.

Controls must fail half an order above their own: Euler and Milstein, both schemes of order 1 with the Levy areas left
out of non-commutative noise, Euler with each increment one step late (order 1/2 on additive noise), and Euler along the
reflected path (order 0).

Problems have their default parameters, but for the Lorenz system: with little noise its drift makes the errors at any
affordable step, so it gets all noise intensities 1. Where the drift is strong the time is short, so that the noise
rules from the first step on, and so it is on the tanh diffusion and in Heston's model, where later a few paths make the
errors of some schemes: the Lorenz system is chaotic, and on the double well, whose drift is not Lipschitz,
torchsde's reversible_heun explodes at t = 1 in 16 steps. On the Heisenberg group schemes with areas are exact, which is
shown instead of an order. In Heston's model g is not Lipschitz where the variance vanishes, and no theorem gives these
orders; its default parameters keep the paths well above. torchsde's milstein is not run on the Kubo oscillator, where
it converges to another solution (see `TorchsdeMethod.check`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdesig.brownian import BrownianPath
from sdesig.convergence import NestedPath, OrderEstimate, fit_strong, rounding
from sdesig.evaluation import legend_below, log_axes, looks_of, panels
from sdesig.sampling import ReverseScheme
from sdesig.sde import SDE
from sdesig.sde.problems import (
    CommutativeLinearSDE,
    DoubleWell,
    FadingNoise,
    GeometricBrownianMotion,
    HasExactSolution,
    HeisenbergGroup,
    Heston,
    KuboOscillator,
    LinearSDE,
    OrnsteinUhlenbeck,
    Problem,
    SinhDiffusion,
    StochasticLorenz,
    TanhDiffusion,
)
from sdesig.signature import PartialSignature
from sdesig.solvers import SCHEMES, SRI2, Euler, Milstein, Scheme, TorchsdeMethod, scheme_named, solve, strong_orders
from validation.report import Point, Row, Stored, Study, draw_points, order_row

NUMBERS_AT_ONCE = 2**21  # of the finest steps of one chunk of paths
EXACT = 1e-12
MULTIPLICATIVE = ("scalar", "diagonal", "commutative", "general")


class Case(NamedTuple):
    """A problem, the share of the study's paths that it gets, steps, and a numeric truth where it needs one."""

    problem: Problem
    share: float
    steps: tuple[int, ...]
    t1: float = 1.0
    truth_steps: int = 0
    truth_scheme: str = ""

    @property
    def name(self) -> str:
        return type(self.problem).__name__


CASES = (
    Case(OrnsteinUhlenbeck(), 0.5, (8, 16, 32, 64), 1.0, 512, "shark"),
    Case(FadingNoise(), 1.0, (8, 16, 32, 64)),
    Case(DoubleWell(), 0.5, (8, 16, 32, 64), 1 / 4, 512, "shark"),
    Case(TanhDiffusion(), 2.0, (8, 16, 32, 64), 1 / 4),
    Case(KuboOscillator(), 1.0, (8, 16, 32, 64), 1 / 4),
    Case(GeometricBrownianMotion(), 2.0, (8, 16, 32, 64)),
    Case(SinhDiffusion(), 4.0, (8, 16, 32, 64)),
    Case(StochasticLorenz(alpha=(1.0, 1.0, 1.0)), 0.25, (8, 16, 32, 64), 1 / 16, 512, "torchsde:srk"),
    Case(CommutativeLinearSDE(), 2.0, (8, 16, 32, 64)),
    Case(LinearSDE(), 0.25, (8, 16, 32, 64), 1.0, 1024, "platen"),
    Case(HeisenbergGroup(), 0.5, (4, 8, 16, 32)),
    Case(Heston(), 0.25, (8, 16, 32, 64), 1 / 4, 1024, "platen"),
)
PANELS = ("DoubleWell", "TanhDiffusion", "SinhDiffusion", "CommutativeLinearSDE", "LinearSDE", "Heston")
LINES = ("euler", "milstein without areas", "milstein", "log_ode", "platen", "taylor15", "shark", "torchsde:srk")


class WithoutAreas(Scheme):
    """A scheme for general noise with A = 0, of steps whose areas are left out."""

    strong_order = strong_orders(0.5, ("general",))
    word_order = 0.5

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """The scheme's own, of steps without areas."""
        return super().noise(structure, signatures.without_area())


class MilsteinWithoutAreas(WithoutAreas, Milstein):
    """Milstein's scheme with A = 0."""


class SRI2WithoutAreas(WithoutAreas, SRI2):
    """SRI2 with A = 0."""


class LateEuler(Euler):
    """Euler's scheme with the increment of the step before, 0 in the first step: its errors are as large as one."""

    strong_order = strong_orders(0.5, ("additive",))

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W of the step before; `solve` asks for all steps of these short paths at once."""
        return (torch.cat([torch.zeros_like(signatures.increment[:1]), signatures.increment[:-1]]),)


class ReflectedEuler(Euler):
    """Euler's scheme along -W: it does not converge to the solution along W."""

    strong_order = strong_orders(0.0, MULTIPLICATIVE)

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """-W."""
        return (-signatures.increment,)


class AreaFreeLogODE(TorchsdeMethod):
    """torchsde's log-ODE method for commuting noise, which does not feel the areas that the method asks for: A = 0."""

    word_order = 0.5

    def __init__(self) -> None:
        super().__init__("log_ode")
        self.strong_order = strong_orders(1.0, ("additive", "scalar", "diagonal", "commutative"))

    def words(self, structure: str) -> tuple[tuple[int, ...], ...]:
        """The increments."""
        return Scheme.words(self, structure)

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W and 0."""
        w = signatures.increment
        return w, w.unsqueeze(-1) * torch.zeros_like(w).unsqueeze(-2)


WITHOUT_AREAS = {"milstein without areas": MilsteinWithoutAreas, "sri2 without areas": SRI2WithoutAreas}
NOT_SCHEMES = {"euler, increments a step late": LateEuler, "euler along the reflected path": ReflectedEuler}
CONTROLS = ("euler", "milstein", *WITHOUT_AREAS, *NOT_SCHEMES)


def general_schemes(sde: SDE) -> dict[str, Scheme]:
    """All schemes for SDEs of this calculus but those for reverse diffusions, by label."""
    ours = [name for name, scheme in SCHEMES.items() if not issubclass(scheme, ReverseScheme)]
    schemes = {
        name: scheme_named(name, sde) for name in (*ours, *(f"torchsde:{name}" for name in TorchsdeMethod.NAMES))
    }
    if sde.noise_structure != "general":
        schemes["torchsde:log_ode"] = AreaFreeLogODE()
    return schemes


def admitted(problem: Problem, schemes: Mapping[str, Scheme]) -> tuple[str, dict[str, Scheme]]:
    """The noise structure of a problem, and the schemes that admit it."""
    path = BrownianPath(0.0, 1.0, (1, problem.noise_dim), seeds=[0], cells=2**0, area=True, dtype=torch.float64)
    start, admitting = problem.y0(1, torch.float64), {}
    for name, scheme in schemes.items():
        try:
            structure = scheme.check(problem, start, path)
        except ValueError:
            continue
        admitting[name] = scheme
    return structure, admitting


def nested_paths(problem: Problem, t1: float, finest: int, count: int) -> Iterator[NestedPath]:
    """`count` paths with `finest` steps, in chunks: with areas for general noise, else with time integrals."""
    area = problem.noise_structure == "general"
    options: dict[str, Any] = {"t0": 0.0, "t1": t1, "cells": finest, "dtype": torch.float64}
    rows = max(1, NUMBERS_AT_ONCE // (2 * finest * problem.noise_dim))
    for first in range(0, count, rows):
        seeds = range(first, min(count, first + rows))
        shape = (len(seeds), problem.noise_dim)
        yield NestedPath(shape=shape, seeds=seeds, depth=1 if area else 2, area=area, **options)


def end(problem: Problem, path: BrownianPath, scheme: str | Scheme, steps: int) -> Tensor:
    """Y(t1), (paths, dim)."""
    with torch.no_grad():
        return solve(
            problem, problem.y0(path.shape[0], path.dtype), path.grid(steps), scheme=scheme, path=path, save="last"
        )


def exact_end(problem: Problem, path: BrownianPath) -> Tensor:
    """Y(t1) from W(t1), and on the Heisenberg group its area; (paths, dim)."""
    whole, start = path.partial_signatures(path.grid(1))[0], problem.y0(path.shape[0], path.dtype)
    if isinstance(problem, HeisenbergGroup):
        assert whole.levy_area is not None
        return problem.exact_from_area(path.t1, whole.increment, whole.levy_area, start)
    assert isinstance(problem, HasExactSolution)
    return problem.exact(path.t1, whole.increment, start)


def pathwise_errors(case: Case, schemes: Mapping[str, Scheme], paths: int) -> tuple[dict[str, Tensor], Tensor]:
    """|Y_N - Y| at t1 for every scheme, (len(steps), paths), and the floors for `fit_strong`, (len(steps),)."""
    errors: dict[str, list[Tensor]] = {name: [] for name in schemes}
    truths, truth_errors = [], []
    for path in nested_paths(case.problem, case.t1, case.truth_steps or case.steps[-1], paths):
        if case.truth_steps:
            truth, coarse = (end(case.problem, path, case.truth_scheme, case.truth_steps // n) for n in (1, 2))
        else:
            truth = coarse = exact_end(case.problem, path)
        truths.append(truth)
        truth_errors.append((truth - coarse).square().sum(1))
        for name, scheme in schemes.items():
            errors[name].append(
                torch.stack([(end(case.problem, path, scheme, n) - truth).norm(dim=1) for n in case.steps])
            )
    floors = torch.maximum(torch.cat(truth_errors).mean().sqrt(), rounding(torch.cat(truths), case.steps))
    return {name: torch.cat(values, 1) for name, values in errors.items()}, floors


def order_details(estimate: OrderEstimate, paths: int) -> dict[str, float]:
    """Columns of the CSV about an order."""
    used = [(n, error) for n, error, flag in zip(estimate.steps, estimate.errors, estimate.used, strict=True) if flag]
    return details_of(paths, used, estimate.p_value, estimate.effective_paths)


def details_of(
    paths: int, errors: Sequence[tuple[int, float]], p_value: float = math.nan, effective_paths: float = math.nan
) -> dict[str, float]:
    """Columns of the CSV about errors by number of steps."""
    (first_steps, first_error), (last_steps, last_error) = errors[0], errors[-1]
    return {
        "paths": paths,
        "first_steps": first_steps,
        "last_steps": last_steps,
        "first_error": first_error,
        "last_error": last_error,
        "p_value": p_value,
        "effective_paths": effective_paths,
    }


def exact_row(what: str, case: Case, errors: Tensor) -> Row:
    """The row of a scheme that is exact; its interval reaches from the median to the maximum over the paths."""
    worst = errors.amax().item()
    details = details_of(errors.shape[1], list(zip(case.steps, errors.amax(1).tolist(), strict=True)))
    theory = f"exact: all errors below {EXACT:g}; here the largest, and the median"
    return Row(
        f"{what}, {case.steps[0]} to {case.steps[-1]} steps",
        theory,
        worst,
        errors.median().item(),
        worst,
        worst < EXACT,
        details,
    )


def run(samples: int, report: Callable[[Row], None]) -> list[Point]:
    """Report the rows; return the errors of some schemes on one or two problems for each noise structure."""
    points: list[Point] = []
    for case in CASES:
        every = {name: scheme() for name, scheme in (WITHOUT_AREAS | NOT_SCHEMES).items()}
        structure, schemes = admitted(case.problem, general_schemes(case.problem) | every)
        paths = max(20, round(samples * case.share))
        errors, floors = pathwise_errors(case, schemes, paths)
        estimates = measure(case, structure, schemes, errors, floors, report)
        if case.name in PANELS:
            title = f"{case.name} ({structure} noise), t = {case.t1:g}\nseeds 0 to {paths - 1}"
            points += points_of(title, estimates)
    return points


def measure(
    case: Case,
    structure: str,
    schemes: Mapping[str, Scheme],
    errors: Mapping[str, Tensor],
    floors: Tensor,
    report: Callable[[Row], None],
) -> dict[str, OrderEstimate]:
    """Report the rows of one problem; return the estimates."""
    orders = {name: scheme.strong_order[structure] for name, scheme in schemes.items()}
    shown = {order for name, order in orders.items() if name not in NOT_SCHEMES}
    estimates = {}
    for name, order in orders.items():
        what, paths = f"{name} on {case.name} ({structure})", errors[name].shape[1]
        if isinstance(case.problem, HeisenbergGroup) and order == 1.0:
            report(exact_row(what, case, errors[name]))
            continue
        estimate = estimates[name] = fit_strong(errors[name], case.steps, floors=floors)
        details = order_details(estimate, paths)
        if name not in NOT_SCHEMES:
            report(order_row(what, estimate, order, details))
        if name in CONTROLS and order + 0.5 in shown:
            report(order_row(what, estimate, order + 0.5, details, control=True))
    return estimates


def points_of(panel: str, estimates: Mapping[str, OrderEstimate]) -> Iterator[Point]:
    """Errors of the schemes in `LINES`, with the orders."""
    for name in LINES:
        if name in estimates:
            estimate = estimates[name]
            note = f"{estimate.order:.2f} ± {estimate.half_width:.2f}"
            for steps, error, spread in zip(estimate.steps, estimate.errors, estimate.standard_errors, strict=True):
                yield Point(panel, name, steps, error, error - 1.96 * spread, error + 1.96 * spread, note)


def draw(rows: Sequence[Stored], points: Sequence[Point]) -> Figure:
    """Errors of some schemes against the number of steps, one panel for each problem."""
    return order_figure(points, 3, "strong error (RMS at t)")


def order_figure(points: Sequence[Point], columns: int, ylabel: str) -> Figure:
    """Errors of the schemes in `LINES` against steps, one panel for each problem; orders in the legends."""
    titles = list(dict.fromkeys(point.panel for point in points))
    lines = math.ceil(len(titles) / columns)
    figure, axes = panels(lines, columns, figsize=(4.4 * columns, 4.9 * lines), squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.axis("off")
    for axis, title in zip(axes.flat, titles, strict=False):
        own = [point for point in points if point.panel == title]
        draw_points(axis, own, looks_of(LINES))
        log_axes(axis, [point.x for point in own], xlabel="steps", ylabel=ylabel, title=title)
        legend_below(axis)
    return figure


STUDY = Study(
    "strong_orders",
    "strong orders of general schemes on all toy problems.",
    run,
    draw,
    quick=4000,
    full=40_000,
)
