"""What all studies share: rows, intervals, and one writer for CSV, figure and summary."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri
from torch import Tensor

from sdesig import testing
from sdesig.convergence import FEWEST, HALF_WIDTH, SLACK, OrderEstimate
from sdesig.evaluation import Look, draw_line, replacing, save_figure
from sdesig.testing import LawReport

COLUMNS = ("case", "theory", "measured", "ci_low", "ci_high", "passed", "note", "mode", "seconds")
"""Columns of every study's CSV; the columns of `Row.details` follow. Seconds are processor seconds."""

RULE = (
    f"An order passes (`OrderEstimate.supports`) if its 95 % interval lies above theory - {SLACK:g}, reaches at most "
    f"{HALF_WIDTH:g} to either side, comes from three errors or more that lie on one line, and from {FEWEST} effective "
    f"paths or more. The slack of {SLACK:g} is for finite steps, whose orders are not yet those of theory: where an "
    "interval is wholly below theory, within the slack, the verdict says so. A control fails an order if its interval "
    f"is below it by more than {SLACK:g}."
)
"""The rule of `order_row`, in words."""

Stored = Mapping[str, str]
"""A row of a CSV, by column."""


@dataclass(frozen=True)
class Row:
    """One statement of theory beside its measurement.

    Attributes:
        case: what is measured.
        theory: what theory says of it.
        measured: the estimate.
        ci_low, ci_high: its confidence interval, at the false-alarm rate that the study states.
        passed: whether the interval agrees with theory.
        note: what a reader should know of the verdict; stands beside it.
        details: further columns of the CSV, which inform only; the same ones in all rows of a study.
    """

    case: str
    theory: str
    measured: float
    ci_low: float
    ci_high: float
    passed: bool
    details: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Point:
    """A point of a figure.

    Attributes:
        panel, line: the panel that it is in, and what is measured.
        x, y: its place.
        low, high: the 95 % interval of y; NaN where none holds.
        note: what the legend says of the line beside its name; the same in all its points.
    """

    panel: str
    line: str
    x: float
    y: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A study and its sizes.

    Attributes:
        name: name of the study and of its files.
        title: one line for the summary: what it holds against theory, and its false-alarm rate.
        run: `run(samples, report)` calls `report` with each row as soon as it is measured and returns the points of the
            figure that are not in the rows.
        draw: `draw(rows, points)` returns the figure, from the rows of the CSV and those points.
        quick, full: `samples` of the two modes.
    """

    name: str
    title: str
    run: Callable[[int, Callable[[Row], None]], Sequence[Point]]
    draw: Callable[[Sequence[Stored], Sequence[Point]], Figure]
    quick: int
    full: int


def mean_interval(samples: Tensor, false_alarm_rate: float) -> tuple[float, float, float]:
    """Mean of independent samples (n,) and its two-sided confidence interval, (mean, low, high).

    The interval is that of `sdesig.testing.check_moments`: Hall's transformation of the t statistic, which corrects for
    the skewness of the samples, solved for the mean (P. Hall, J. R. Statist. Soc. B 54, 1992).
    """
    z = torch.tensor(float(ndtri(1 - false_alarm_rate / 2)), dtype=torch.float64)
    low, high = testing.mean_interval(samples, z)
    return samples.mean().item(), low.item(), high.item()


def law_row(case: str, report: LawReport, details: Mapping[str, float] | None = None) -> Row:
    """The largest z-score of a law check; its interval has the width of the check's Bonferroni threshold."""
    z = report.z_scores[report.names.index(report.worst)].item()
    theory = f"z = 0 for {len(report.names)} statistics of n = {report.n}; here the largest, of {report.worst}"
    return Row(case, theory, z, z - report.threshold, z + report.threshold, report.passed, details or {})


def order_row(
    what: str, estimate: OrderEstimate, order: float, details: Mapping[str, float], *, control: bool = False
) -> Row:
    """The row that shows an order, or that a control is below it, by `OrderEstimate.supports` and `refutes`.

    These allow for finite steps: an interval wholly below the order of theory passes if it reaches to within 0.15 of
    it. Such a row is noted.
    """
    used = [n for n, flag in zip(estimate.steps, estimate.used, strict=True) if flag]
    case, interval = f"{what}, {used[0]} to {used[-1]} steps", (estimate.order, estimate.ci_low, estimate.ci_high)
    if control:
        theory = f"control: {estimate.kind} order below {order:g}"
        return Row(case, theory, *interval, estimate.refutes(order), details)
    passed = estimate.supports(order)
    note = f"interval below {order:g}" if passed and estimate.ci_high < order else ""
    return Row(case, f"{estimate.kind} order >= {order:g}", *interval, passed, details, note)


def run_study(study: Study, out: Path, *, full: bool) -> bool:
    """Run a study, print each row, write its CSV files and figure; return whether all rows agree with theory."""
    rows: list[Row] = []
    seconds: list[float] = []
    last = time.process_time()

    def report(row: Row) -> None:
        nonlocal last
        now = time.process_time()
        rows.append(row)
        seconds.append(now - last)
        last = now
        print(f"{_verdict(row)}  {study.name}: {row.case}: {_measurement(row)}; theory: {row.theory}", flush=True)

    points = study.run(study.full if full else study.quick, report)
    with replacing(out / f"{study.name}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, *rows[0].details))
        for row, spent in zip(rows, seconds, strict=True):
            numbers = (f"{value:.6g}" for value in (row.measured, row.ci_low, row.ci_high))
            end = (row.passed, row.note, "full" if full else "quick", f"{spent:.2f}")
            details = (f"{value:.4g}" for value in row.details.values())
            writer.writerow((row.case, row.theory, *numbers, *end, *details))
    if points:
        with replacing(_points_file(study, out)) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(column.name for column in fields(Point))
            for point in points:
                writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in asdict(point).values())
    draw_study(study, out)
    return all(row.passed for row in rows)


def draw_study(study: Study, out: Path) -> None:
    """Draw the figure of a study from its CSV files."""
    points = []
    if _points_file(study, out).exists():
        for stored in read_csv(_points_file(study, out)):
            numbers = {key: float(stored[key]) for key in ("x", "y", "low", "high")}
            points.append(Point(stored["panel"], stored["line"], **numbers, note=stored["note"]))
    save_figure(study.draw(read_csv(out / f"{study.name}.csv"), points), out / f"{study.name}.png")


def _points_file(study: Study, out: Path) -> Path:
    return out / f"{study.name}_points.csv"


def read_csv(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def draw_points(axis: Axes, points: Sequence[Point], looks: Mapping[str, Look]) -> None:
    """Lines with 95 % error bars, in the order of `looks`; a hollow grey ring marks a point without an interval."""
    names = [name for name in looks if any(point.line == name for point in points)]
    for rank, name in enumerate(names):
        own = [point for point in points if point.line == name]
        y = [point.y for point in own]
        bars = [[_length(p.y - p.low) for p in own], [_length(p.high - p.y) for p in own]]
        label = f"{name}: {own[0].note}" if own[0].note else name
        draw_line(axis, [point.x for point in own], y, looks[name], bars=bars, rank=rank, label=label)
    unsure = [point for point in points if math.isnan(point.low)]
    axis.plot([p.x for p in unsure], [p.y for p in unsure], "o", ms=13, mfc="none", mec="0.6", zorder=1)


def _length(value: float) -> float:
    return 0.0 if math.isnan(value) else max(value, 0.0)


def write_summary(studies: Iterable[Study], out: Path) -> None:
    """Write summary.md: one table of the rows of all studies that have a CSV in `out`, whenever they were run."""
    lines = ["# Validation", "", "Written by `python -m validation`, from the CSV files beside it.", "", RULE, ""]
    table = ["| study | case | theory | measured (interval) | verdict | seconds |", "|---|---|---|---|---|---|"]
    for study in studies:
        source = out / f"{study.name}.csv"
        if not source.exists():
            continue
        stored = read_csv(source)
        passed = sum(row["passed"] == "True" for row in stored)
        command = f"python -m validation {study.name} --{stored[0]['mode']}"
        below = sum(row.get("note", "").startswith("interval below") for row in stored)
        seconds = sum(float(row["seconds"]) for row in stored)
        lines.append(
            f"- [{study.name}]({study.name}.csv) ([figure]({study.name}.png)): {study.title} "
            f"{passed} of {len(stored)} rows agree with theory{f', {below} within the slack' if below else ''}. "
            f"`{command}`, {seconds:.0f} s."
        )
        table += [_table_line(study.name, row) for row in stored]
    with replacing(out / "summary.md") as path:
        path.write_text("\n".join([*lines, "", *table, ""]), encoding="utf-8")


def _table_line(name: str, stored: Mapping[str, str]) -> str:
    measured, low, high = (float(stored[column]) for column in ("measured", "ci_low", "ci_high"))
    passed, note = stored["passed"] == "True", stored.get("note", "")
    row = Row(stored["case"], stored["theory"], measured, low, high, passed, note=note)
    cells: Sequence[str] = (name, row.case, row.theory, _measurement(row), _verdict(row), stored["seconds"])
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _measurement(row: Row) -> str:
    return f"{row.measured:.4g} ({row.ci_low:.4g} .. {row.ci_high:.4g})"


def _verdict(row: Row) -> str:
    return ("pass" if row.passed else "FAIL") + (f" ({row.note})" if row.note else "")
