"""The report of a problem: its points (CSV), its figure (PNG) and what given errors cost (markdown)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.work_precision.curves import Curve, Problem, work_to_reach
from experiments.work_precision.evaluations import BASELINE, RATIOS, TARGET, WHY_NOT, Need
from sdesig.evaluation import draw_line, legend_beside, log_axes, looks_of, panels, replacing, save_figure

COLUMNS = ("package", "scheme", "path", "steps", "rmse", "standard_error", "seconds")
STYLES = {"sdesig": "-", "torchsde": "--", "diffrax": ":"}


def write(problem: Problem, curves: Sequence[Curve], needs: Sequence[Need], setting: str, directory: Path) -> None:
    """Write <name>.csv, <name>.png and <name>.md."""
    with replacing(directory / f"{problem.name}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_rows(curves))
    draw(problem.name, problem.targets, directory)
    with replacing(directory / f"{problem.name}.md") as path:
        path.write_text(markdown(problem, curves, needs, setting), encoding="utf-8")


def draw(name: str, targets: Sequence[float], directory: Path) -> None:
    """Write <name>.png, from <name>.csv."""
    with (directory / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        save_figure(figure(name, list(csv.DictReader(file)), targets), directory / f"{name}.png", dpi=120)


def figure(name: str, rows: Sequence[Mapping[str, str]], targets: Sequence[float]) -> Figure:
    """Error against steps, and against seconds, on the first kind of path of each package, from the rows of the CSV.

    A scheme has its colour and marker in every package; the line is the package's.
    """
    drawn, (left, right) = panels(1, 2, figsize=(14, 6), sharey=True)
    lines: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        lines.setdefault((row["package"], row["scheme"]), []).append(row)
    looks = looks_of(scheme for _, scheme in lines)
    ticks = {int(row["steps"]) for row in rows}
    for (package, scheme), own in lines.items():
        first = [row for row in own if row["path"] == own[0]["path"]]
        options = {"ls": STYLES[package], "mfc": looks[scheme].colour if package == "sdesig" else "none"}
        timed = [row for row in first if row["seconds"]]
        label = f"{package} {scheme} ({own[0]['path']})"
        for axis, key, points in ((left, "steps", first), (right, "seconds", timed)):
            rmse = [float(row["rmse"]) for row in points]
            bars = [1.96 * float(row["standard_error"]) for row in points]
            x = [(1e3 if key == "seconds" else 1) * float(row[key]) for row in points]
            draw_line(axis, x, rmse, looks[scheme], bars=bars, rank=4, label=label, **options)
    log_axes(left, ticks, xlabel="steps", ylabel="pathwise RMSE per coordinate")
    log_axes(right, None, xlabel="milliseconds of a whole solve, path included (one core)")
    for axis in (left, right):
        for k, target in enumerate(targets):
            axis.axhline(
                target, color="0.5", lw=0.8, ls=(0, (1, 3)), label="" if k else "errors of the table", zorder=1
            )
    legend_beside(right)
    drawn.suptitle(f"{name.replace('_', ' ')}: bars are 95 % intervals over the paths", fontsize="medium")
    return drawn


def markdown(problem: Problem, curves: Sequence[Curve], needs: Sequence[Need], setting: str) -> str:
    """Seconds for each target error by scheme and path, the ratios of the best, and the evaluations needed."""
    heads = [f"error {target:g}" for target in problem.targets]
    lines = [
        f"# Work-precision: {problem.name.replace('_', ' ')}",
        "",
        f"{problem.title}.",
        "",
        setting,
        "",
        "Seconds for a pathwise RMSE per coordinate, between measured points by the power law through them (< : the "
        "fewest steps already do; > : the most steps, or the most that were timed, do not, and take so long).",
        "",
        f"| scheme | path | {' | '.join(heads)} |",
        f"|---|---|{'---|' * len(heads)}",
    ]
    best: dict[bool, list[tuple[float, str]]] = {}
    for curve in curves:
        for path, seconds in curve.seconds.items():
            work = [work_to_reach(target, curve.rmse[: len(seconds)], seconds) for target in problem.targets]
            cells = [_cell(w, t, curve, seconds) for w, t in zip(work, problem.targets, strict=True)]
            lines.append(f"| {curve.label} | {path} | {' | '.join(cells)} |")
            ours = curve.package == "sdesig"
            named = [(w, f"{curve.label}, {path}") for w in work]
            best[ours] = [min(pair) for pair in zip(best.get(ours, named), named, strict=True)]
    lines += ["", *_ratios(problem, best), "", problem.remark]
    return "\n".join(lines + _evaluations(needs)) + "\n"


def _rows(curves: Sequence[Curve]) -> Iterator[tuple[object, ...]]:
    for curve in curves:
        for path, seconds in curve.seconds.items():
            times = [*map(str, seconds), *[""] * (len(curve.steps) - len(seconds))]
            for point in zip(curve.steps, curve.rmse, curve.standard_errors, times, strict=True):
                yield (curve.package, curve.label.removeprefix(f"{curve.package} "), path, *point)


def _cell(work: float, target: float, curve: Curve, seconds: Sequence[float]) -> str:
    if math.isinf(work):
        return f"> {_duration(seconds[-1])}"
    return f"{'< ' if curve.rmse[0] <= target else ''}{_duration(work)}"


def _ratios(problem: Problem, best: dict[bool, list[tuple[float, str]]]) -> Iterator[str]:
    yield "| error | best of ours | best of the others | the others' seconds over ours |"
    yield "|---|---|---|---|"
    for target, (ours, our_name), (theirs, their_name) in zip(problem.targets, best[True], best[False], strict=True):
        known = not math.isinf(ours) and not math.isinf(theirs)
        ratio = f"{theirs / ours:.2g}" if known else "none of the others gets there" if ours < theirs else "not reached"
        yield f"| {target:g} | {our_name} | {their_name if not math.isinf(theirs) else '-'} | {ratio} |"


def _evaluations(needs: Sequence[Need]) -> list[str]:
    if not needs:
        return []
    lines = [
        "",
        f"## Evaluations of the denoiser for a pathwise RMSE of {TARGET:g}",
        "",
        "Interpolated in the same way; intervals of 95 % from a bootstrap over the paths. Ratio: evaluations of "
        f"`{BASELINE.split()[1]}` over the scheme's. Reached: the whole interval is above what is asked for.",
    ]
    for measure in dict.fromkeys(need.measure for need in needs):
        lines += [
            "",
            f"RMSE {measure}:",
            "",
            "| scheme | evaluations | ratio | asked for | reached |",
            "|---|---|---|---|---|",
        ]
        for need in needs:
            if need.measure == measure:
                asked = f">= {RATIOS[need.label]:g}" if need.label in RATIOS else ""
                reached = {None: "", True: "yes", False: "no"}[need.reached]
                bound, other = ("<= ", ">= ") if need.at_most else ("", "")
                spans = (
                    f"{bound}{_span(need.evaluations, need.interval)} | {other}{_span(need.ratio, need.ratio_interval)}"
                )
                if math.isinf(need.evaluations):
                    spans = "more than measured | "
                lines.append(f"| {need.label} | {spans} | {asked} | {reached} |")
    if any(need.reached is False for need in needs):
        lines += ["", f"Where it is not reached: {WHY_NOT}"]
    return lines


def _span(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3g} ({interval[0]:.3g} - {interval[1]:.3g})"


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
