"""How often the 95 % intervals of strong orders and of errors hold, where a few paths carry the error.

On geometric Brownian motion dY = a Y dt + b Y dW the errors of Euler's and Milstein's schemes are products of
independent factors, so E (Y_N - Y)^2 is known for every number of steps, and so is the slope that `fit_strong` would
find with infinitely many paths. The larger b, the heavier the tail of the error: its square has about the moments of
exp(2 b N(0, 1)).

Of many runs, each of a few hundred paths, the rows count in how many the interval of the order contains that slope, and
in how many the interval of an error, where it holds least often, contains the exact error. At least .92 must. A run in
which fewer than 10 effective paths make the error says so (`OrderEstimate.few`). In the cases called heavy, and for
single errors in all, the runs that say so are counted as right, for no interval from so few paths can hold: with b =
2.5 the paths that make E (Y_N - Y)^2 are not among 1000. The share of such runs is in the row. The CSV has beside it
how often normal theory holds: the order +- 1.96 standard errors by the delta method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdesig.convergence import fit_strong
from sdesig.evaluation import Look, draw_line, panels
from validation.report import Point, Row, Stored, Study

STEPS = (8, 16, 32, 64, 128)
PATHS = (300, 1000)
LEAST = 0.92


class Case(NamedTuple):
    """A scheme on geometric Brownian motion with drift a and volatility b; is its tail too heavy for any interval?"""

    scheme: str
    a: float
    b: float
    heavy: bool = False

    @property
    def name(self) -> str:
        return f"{self.scheme}, a = {self.a:g}, b = {self.b:g}"


CASES = (
    Case("milstein", 0.0, 0.5),
    Case("milstein", 0.0, 0.8),
    Case("euler", 0.5, 0.5),
    Case("euler", 0.5, 0.8),
    Case("euler", 0.5, 1.5),
    Case("milstein", 0.5, 1.5),
    Case("euler", 0.0, 2.5, heavy=True),
)


class Coverage(NamedTuple):
    """Shares of runs: the order's interval holds, normal theory's holds, errors' hold, (len(STEPS),), too few paths.

    `_or_few`: it holds or the run says that its paths are too few.
    """

    order: float
    order_or_few: float
    normal: float
    errors: Tensor
    errors_or_few: Tensor
    few: float
    half_width: float


def one_step(case: Case, h: float) -> tuple[float, float, float]:
    """c with Y_{n+1}/Y_n = c0 + c1 dW + c2 dW^2."""
    if case.scheme == "euler":
        return 1 + case.a * h, case.b, 0.0
    return 1 + case.a * h - case.b**2 * h / 2, case.b, case.b**2 / 2


def exact_error(case: Case, steps: int) -> float:
    """sqrt(E (Y_N - Y)^2) at t = 1 from Y = 1: E Y_N^2 - 2 E Y_N Y + E Y^2, each a power of its value for one step.

    E[p(dW) exp((a - b^2/2) h + b dW)] = e^(a h) E p(dW + b h).
    """
    h = 1 / steps
    c0, c1, c2 = one_step(case, h)
    shift = case.b * h
    numeric = c0**2 + (c1**2 + 2 * c0 * c2) * h + 3 * c2**2 * h**2
    mixed = math.exp(case.a * h) * (c0 + c1 * shift + c2 * (shift**2 + h))
    exact = math.exp((2 * case.a + case.b**2) * h)
    return math.sqrt(numeric**steps - 2 * mixed**steps + exact**steps)


def pathwise_errors(case: Case, paths: int, generator: torch.Generator) -> Tensor:
    """|Y_N - Y| at t = 1 for all `STEPS`, (len(STEPS), paths)."""
    finest = STEPS[-1]
    dw = torch.randn(finest, paths, generator=generator, dtype=torch.float64) / math.sqrt(finest)
    exact = torch.exp(case.a - case.b**2 / 2 + case.b * dw.sum(0))
    errors = []
    for steps in reversed(STEPS):
        c0, c1, c2 = one_step(case, 1 / steps)
        dw = dw.reshape(steps, -1, paths).sum(1)
        errors.append(((c0 + c1 * dw + c2 * dw.square()).prod(0) - exact).abs())
    return torch.stack(errors[::-1])


def weights() -> Tensor:
    """Weights of the log errors in the slope of their least-squares line, (len(STEPS),)."""
    x = -torch.tensor(STEPS, dtype=torch.float64).log()
    return (x - x.mean()) / (x - x.mean()).square().sum()


def coverage(case: Case, paths: int, runs: int) -> Coverage:
    """Shares of `runs` runs."""
    generator = torch.Generator().manual_seed(paths)
    truth = torch.tensor([exact_error(case, steps) for steps in STEPS], dtype=torch.float64)
    slope = (weights() @ truth.log()).item()
    order, normal, errors, few, half_widths = [], [], [], [], []
    for _ in range(runs):
        found = pathwise_errors(case, paths, generator)
        estimate = fit_strong(found, STEPS)
        order.append(estimate.ci_low < slope < estimate.ci_high)
        sizes, spreads = (torch.tensor(v, dtype=torch.float64) for v in (estimate.errors, estimate.standard_errors))
        errors.append((sizes - truth).abs() < 1.96 * spreads)
        few.append(estimate.few)
        half_widths.append(estimate.half_width)
        squares = found.square()
        delta = (weights() @ (squares / squares.mean(1, keepdim=True)) / 2).std() / math.sqrt(paths)
        normal.append(abs(estimate.order - slope) < 1.96 * delta.item())
    held, beside, all_errors, flags = (
        torch.stack(errors) if values is errors else torch.tensor(values) for values in (order, normal, errors, few)
    )
    return Coverage(
        held.double().mean().item(),
        (held | flags).double().mean().item(),
        beside.double().mean().item(),
        all_errors.double().mean(0),
        (all_errors | flags[:, None]).double().mean(0),
        flags.double().mean().item(),
        torch.tensor(half_widths).median().item(),
    )


def share_interval(share: float, runs: int) -> tuple[float, float]:
    """95 % interval of a share of independent runs (E. B. Wilson, 1927)."""
    z = 1.96
    middle, spread = share + z**2 / (2 * runs), z * math.sqrt(share * (1 - share) / runs + z**2 / (4 * runs**2))
    return (middle - spread) / (1 + z**2 / runs), (middle + spread) / (1 + z**2 / runs)


def rows(case: Case, paths: int, runs: int, found: Coverage) -> list[Row]:
    """One row for the order, one for the errors."""
    details = {
        "runs": runs,
        "order_holds": found.order,
        "normal_theory_holds": found.normal,
        "errors_hold_least": found.errors.min().item(),
        "too_few_paths": found.few,
        "half_width": found.half_width,
    }
    where = f"{case.name}, {paths} paths, {runs} runs of which {found.few:.0%} say that they are too few"
    or_few = ", or says that paths are too few"
    measured = {
        f"order's interval holds{or_few if case.heavy else ''}": found.order_or_few if case.heavy else found.order,
        f"an error's interval holds{or_few}": found.errors_or_few.min().item(),
    }
    return [
        Row(f"{what}: {where}", f"share >= {LEAST:g}", share, *share_interval(share, runs), share >= LEAST, details)
        for what, share in measured.items()
    ]


def run(samples: int, report: Callable[[Row], None]) -> list[Point]:
    """Report the rows, which have all that the figure shows."""
    for paths in PATHS:
        found = [coverage(case, paths, samples) for case in CASES]
        for case, shares in zip(CASES, found, strict=True):
            for row in rows(case, paths, samples, shares):
                report(row)
    return []


SHOWN = {
    "order_holds": ("interval of the order", "#0072B2", "D"),
    "normal_theory_holds": ("interval of the order by normal theory", "#D55E00", "x"),
    "errors_hold_least": ("interval of an error, worst number of steps", "#117733", "s"),
}
"""Labels, colours and markers by column."""


def draw(rows: Sequence[Stored], points: Sequence[Point]) -> Figure:
    """Shares of all cases: intervals here, normal theory's, runs with too few paths."""
    figure, axes = panels(1, 2, figsize=(12, 4.6), sharey=True)
    for axis, paths in zip(axes, PATHS, strict=True):
        of_case = [next(row for row in rows if f": {case.name}, {paths} paths, " in row["case"]) for case in CASES]
        runs = int(of_case[0]["runs"])
        for shift, (key, (label, colour, marker)) in zip((-0.18, 0.0, 0.18), SHOWN.items(), strict=True):
            shares = [float(row[key]) for row in of_case]
            ends = [share_interval(share, runs) for share in shares]
            bars = [
                [max(0.0, s - e[0]) for s, e in zip(shares, ends, strict=True)],
                [max(0.0, e[1] - s) for s, e in zip(shares, ends, strict=True)],
            ]
            places = [place + shift for place in range(len(CASES))]
            draw_line(axis, places, shares, Look(colour, marker, ""), bars=bars, rank=3, label=label)
        few = [float(row["too_few_paths"]) for row in of_case]
        axis.bar(range(len(CASES)), few, color="0.88", label="runs that say: too few paths", zorder=1)
        axis.axhline(0.95, color="0.5", lw=1, label="0.95")
        axis.axhline(LEAST, color="0.5", lw=1, ls=":", label=f"{LEAST:g}, the least that passes")
        axis.set_xticks(range(len(CASES)), [case.name.replace(", ", "\n") for case in CASES], fontsize=8)
        axis.set(xlabel="scheme on dY = a Y dt + b Y dW", ylim=(0, 1.02))
        axis.set_title(f"{paths} paths a run, {runs} runs", fontsize="medium")
        axis.grid(alpha=0.3, axis="y")
    axes[0].set_ylabel("share of runs whose 95 % interval holds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


STUDY = Study(
    "coverage",
    f"how often 95 % intervals of strong orders and of errors hold under multiplicative noise: in {LEAST:g} "
    "of the runs at least.",
    run,
    draw,
    quick=400,
    full=4000,
)
