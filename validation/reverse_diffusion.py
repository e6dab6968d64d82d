"""Reverse diffusions: pathwise error against evaluations of the denoiser, with exact denoisers of Gaussian mixtures.

Mixture(R, s) is 8 equal modes N(m_j, s^2 I) on a circle of radius R in the plane, embedded isometrically in dimension d
(N(0, s^2) in all further directions). All solutions go from log-SNR -8 to 8 in steps even in log-SNR, from a start that
is exact for the reference. The error is sqrt(E |x - x_ref|^2 / d), x = y/tau at the last SNR and x_ref the path-average
solution of the same path at many more steps.

The rows: the strong order over the range of steps that each states, by the rule of `OrderEstimate.supports`, with the
two schemes of order 1 as controls that must fail order 1.5; and the error at 16 steps over that of 2M, which must be
below 1. Steps below the range are shown, not fitted. Not fitted at all are Mixture(1.5, .1), whose error a few paths
carry that end in another mode, and the schemes with a reference in high dimension, where all but the plane is exact: a
few hundred paths do not show an order there.

Weak orders are those of E |x|^2, E cos 2x_1 and E cos 2x_2 on Mixture(1, .3) in the plane, from log-SNR -3 to 3, by
`weak_order`: antithetic paths, each solution against that at twice the steps. Euler's scheme must fail order 2. 2M is
run with a scalar reference, without which its error changes sign at few steps; path-average without one and without its
correction, for with either the error is small and follows no power law at steps where it is above the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdesig.brownian import BrownianPath
from sdesig.convergence import NestedPath, fit_strong, weak_order
from sdesig.evaluation import Look, draw_line, legend_beside, log_axes, look_of, panels, root_mean_square_interval
from sdesig.sampling import CanonicalSDE, GaussianReference, PathAverage, SNRDenoiser
from sdesig.sde import Mixture
from sdesig.solvers import Scheme, solve
from validation.report import Point, Row, Stored, Study, draw_points, order_row

LOW, HIGH = math.exp(-8), math.exp(8)
NUMBERS_AT_ONCE = 2**23  # of the states of one numeric truth


class Case(NamedTuple):
    """A mixture, the share of the study's paths that it gets, its steps, the first that is fitted, the truth's."""

    radius: float
    std: float
    dim: int
    share: float
    steps: tuple[int, ...]
    fitted: int | None
    truth_steps: int

    @property
    def title(self) -> str:
        return f"Mixture({self.radius:g}, {self.std:g}), d = {self.dim}"


class Method(NamedTuple):
    """A scheme with a Gaussian reference of a kind, its strong order and its evaluations per step."""

    label: str
    scheme: str
    kind: str
    order: float
    evaluations: int

    @property
    def look(self) -> Look:
        """Colour, marker and line."""
        kinds = {"scalar": "path-average-reference", "components": "path-average-components"}
        return look_of(kinds.get(self.kind, self.scheme))


CASES = (
    Case(1.0, 0.3, 2, 2.0, (4, 8, 16, 32, 64, 128, 256), 32, 4096),
    Case(1.5, 0.1, 2, 10.0, (4, 8, 16, 32, 64, 128, 256), None, 2048),
    Case(1.0, 0.3, 4, 4.0, (4, 8, 16, 32, 64, 128, 256), 32, 4096),
    Case(1.0, 0.3, 64, 0.6, (4, 8, 16, 32, 64, 128), 32, 2048),
    Case(1.0, 0.3, 3072, 0.04, (4, 8, 16, 32, 64), 16, 1024),
)
ALL_STEPS = sorted({steps for case in CASES for steps in case.steps})
METHODS = (
    Method("Euler = SDE-DPM-Solver++(1)", "dpm_solver_1", "none", 1.0, 1),
    Method("SDE-DPM-Solver++(2M)", "dpm_solver_2m", "none", 1.0, 1),
    Method("ShARK", "shark", "none", 1.5, 2),
    Method("path-average", "path_average", "none", 1.5, 1),
    Method("path-average, scalar reference", "path_average", "scalar", 1.5, 1),
    Method("path-average, reference per principal component", "path_average", "components", 1.5, 1),
)


class WeakCase(NamedTuple):
    """A scheme with a Gaussian reference of a kind, its weak order, paths per sample of the study, steps."""

    label: str
    scheme: str | Scheme
    kind: str
    order: float
    share: int
    steps: tuple[int, ...]


WEAK_CASES = (
    WeakCase("Euler = SDE-DPM-Solver++(1)", "dpm_solver_1", "none", 1.0, 20, (8, 16, 32, 64)),
    WeakCase("SDE-DPM-Solver++(2M), scalar reference", "dpm_solver_2m", "scalar", 1.0, 80, (4, 8, 16, 32)),
    WeakCase("path-average without correction", PathAverage(correction=0.0), "none", 2.0, 40, (8, 16, 32, 64)),
)


def mixture(case: Case) -> Mixture:
    """The case's law, float64."""
    plane = Mixture.circle(case.radius, case.std, dtype=torch.float64)
    return plane.embed(case.dim, torch.Generator().manual_seed(0)) if case.dim > 2 else plane


def reference(law: Mixture, kind: str) -> GaussianReference | None:
    """Mean and variance of the law: its mean variance, or one per principal component."""
    if kind == "none":
        return None
    if kind == "scalar":
        return GaussianReference(law.mean(), law.covariance().trace().item() / law.dim)
    return GaussianReference(law.mean(), *torch.linalg.eigh(law.covariance()))


def methods_of(case: Case) -> list[Method]:
    """In the plane all components have one variance; in 3072 dimensions a dense basis takes too long."""
    return [method for method in METHODS if method.kind != "components" or case.dim in (4, 64)]


def pathwise_errors(case: Case, paths: int) -> dict[Method, Tensor]:
    """|x - x_ref|/sqrt(d) for every method, (len(steps) + 1, paths); last the change of x_ref from half its steps."""
    law = mixture(case)
    rows = max(1, NUMBERS_AT_ONCE // (case.truth_steps * case.dim))
    chunks: dict[Method, list[Tensor]] = {method: [] for method in methods_of(case)}
    for kind in dict.fromkeys(method.kind for method in chunks):
        sde = CanonicalSDE(SNRDenoiser(law.denoise_y), reference=reference(law, kind))
        for first in range(0, paths, rows):
            seeds = range(first, min(paths, first + rows))
            path = NestedPath(
                t0=LOW,
                t1=HIGH,
                shape=(len(seeds), case.dim),
                seeds=seeds,
                clock=sde.clock,
                cells=case.truth_steps,
                dtype=torch.float64,
            )
            truth, half = (_end(sde, path, "path_average", case.truth_steps // n) for n in (1, 2))
            for method, errors in chunks.items():
                if method.kind == kind:
                    ends = [_end(sde, path, method.scheme, steps) for steps in case.steps]
                    errors.append((torch.stack([*ends, half]) - truth).norm(dim=-1) / math.sqrt(case.dim))
    return {method: torch.cat(errors, 1) for method, errors in chunks.items()}


def _end(sde: CanonicalSDE, path: BrownianPath, scheme: str, steps: int) -> Tensor:
    """x = y/tau at the last SNR."""
    start = sde.start(path.initial_noise(), LOW)
    return sde.noisy_data(solve(sde, start, path.grid(steps), scheme=scheme, path=path, save="last"), HIGH)


def ratio_interval(ours: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """sqrt(E ours^2 / E theirs^2) with a 95 % bootstrap interval; samples (n,) each, independent of one another."""
    generator = torch.Generator().manual_seed(0)

    def resampled(errors: Tensor) -> Tensor:
        chosen = torch.randint(len(errors), (1000, len(errors)), generator=generator)
        return errors.square()[chosen].mean(1)

    low, high = (resampled(ours) / resampled(theirs)).sqrt().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return (ours.square().mean() / theirs.square().mean()).sqrt().item(), low, high


def run(samples: int, report: Callable[[Row], None]) -> list[Point]:
    """Report the rows; return the errors of all methods in all cases against the number of evaluations."""
    points: list[Point] = []
    for case in CASES:
        paths = max(10, round(samples * case.share))
        errors = pathwise_errors(case, paths)
        for method, values in errors.items():
            rms = dict(zip(case.steps, values.square().mean(1).sqrt().tolist(), strict=False))
            details = {f"rmse_{n}": rms.get(n, math.nan) for n in ALL_STEPS}
            _report_rows(case, method, values, errors[METHODS[1]], details, report)
            points += _points(case, method, values)
    for weak in WEAK_CASES:
        report_weak_order(weak, weak.share * samples, report)
    return points


def _points(case: Case, method: Method, errors: Tensor) -> Iterator[Point]:
    """Root mean squares of the errors, (len(steps) + 1, paths), with intervals that hold for heavy tails, or none."""
    for steps, values in zip(case.steps, errors, strict=False):
        low, high = root_mean_square_interval(values) or (math.nan, math.nan)
        title = f"{case.title}, seeds 0 to {len(values) - 1}"
        yield Point(title, method.label, method.evaluations * steps, values.square().mean().sqrt().item(), low, high)


def draw(rows: Sequence[Stored], points: Sequence[Point]) -> Figure:
    """Errors of all methods against the number of evaluations, one panel for each case."""
    figure, axes = panels(2, 3, figsize=(14, 8.2))
    *shown, beside = axes.flat
    for axis, title in zip(shown, dict.fromkeys(point.panel for point in points), strict=False):
        own = [point for point in points if point.panel == title]
        draw_points(axis, own, {method.label: method.look for method in METHODS})
        log_axes(
            axis,
            [point.x for point in own],
            xlabel="evaluations of the denoiser",
            ylabel="pathwise RMSE per coordinate",
            title=title,
        )
    beside.axis("off")
    for rank, method in enumerate(METHODS):
        draw_line(beside, [], [], method.look, rank=rank, label=method.label)
    beside.plot([], [], "o", ms=13, mfc="none", mec="0.6", label="fewer than 20 effective seeds: no interval")
    legend_beside(beside, bbox_to_anchor=(0.0, 0.5), title="bars: 95 % intervals")
    return figure


def _report_rows(
    case: Case,
    method: Method,
    errors: Tensor,
    of_2m: Tensor,
    details: Mapping[str, float],
    report: Callable[[Row], None],
) -> None:
    what = f"{method.label} on {case.title}, {errors.shape[1]} paths"
    if case.fitted is not None and (method.kind == "none" or case.dim <= 4):
        first = case.steps.index(case.fitted)
        estimate = fit_strong(errors[first:-1], case.steps[first:], floors=errors[-1].square().mean().sqrt())
        report(order_row(what, estimate, method.order, details))
        if method.order == 1.0:
            report(order_row(what, estimate, 1.5, details, control=True))
    if method.scheme == "path_average":
        at = case.steps.index(16)
        ratio = ratio_interval(errors[at], of_2m[at])
        report(Row(f"{what}, at 16 steps", f"error over that of {METHODS[1].label} < 1", *ratio, ratio[2] < 1, details))


def report_weak_order(case: WeakCase, paths: int, report: Callable[[Row], None]) -> None:
    """The rows of one scheme."""
    law = Mixture.circle(1.0, 0.3, dtype=torch.float64)
    sde = CanonicalSDE(SNRDenoiser(law.denoise_y), reference=reference(law, case.kind))

    def functionals(y: Tensor) -> Tensor:
        x = sde.noisy_data(y, math.exp(3))
        return torch.cat([x.square().sum(-1, keepdim=True), (2 * x).cos()], -1)

    estimate = weak_order(
        sde,
        lambda path: sde.start(path.initial_noise(), path.t0),
        scheme=case.scheme,
        functional=functionals,
        t0=math.exp(-3),
        t1=math.exp(3),
        steps=case.steps,
        paths=paths,
        clock=sde.clock,
        row_shape=(2,),
    )
    details = dict.fromkeys([f"rmse_{n}" for n in ALL_STEPS], math.nan)
    what = f"{case.label} on Mixture(1, 0.3), d = 2, log-SNR -3 to 3, {paths} paths"
    report(order_row(what, estimate, case.order, details))
    if case.scheme == "dpm_solver_1":
        report(order_row(what, estimate, 2.0, details, control=True))


STUDY = Study(
    "reverse_diffusion",
    "strong and weak orders of the schemes for reverse diffusions.",
    run,
    draw,
    quick=1000,
    full=20_000,
)
