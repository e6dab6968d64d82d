"""The report of a problem: its points (CSV), its figure (PNG) and what given errors cost (markdown)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.work_precision.curves import Curve, Problem, work_to_reach
from experiments.work_precision.evaluations import BASELINE, RATIOS, TARGET, WHY_NOT, Need
from sdesig.evaluation import replacing

COLUMNS = ("package", "scheme", "path", "steps", "rmse", "standard_error", "seconds")
COLOURS = {"sdesig": "tab:blue", "torchsde": "tab:orange", "diffrax": "tab:green"}
MARKERS = "osD^v<>PX*"


def write(problem: Problem, curves: Sequence[Curve], needs: Sequence[Need], setting: str, directory: Path) -> None:
    """Write <name>.csv, <name>.png and <name>.md."""
    with replacing(directory / f"{problem.name}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_rows(curves))
    with replacing(directory / f"{problem.name}.png") as path:
        figure(problem, curves).savefig(path, format="png", dpi=130)
    with replacing(directory / f"{problem.name}.md") as path:
        path.write_text(markdown(problem, curves, needs, setting), encoding="utf-8")


def figure(problem: Problem, curves: Sequence[Curve]) -> Figure:
    """Error against steps, and against seconds, on the first kind of path of each package."""
    drawn = Figure(figsize=(12, 5), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    for curve, marker in zip(curves, (MARKERS * len(curves))[: len(curves)], strict=True):
        path, seconds = next(iter(curve.seconds.items()))
        style = {"color": COLOURS[curve.package], "marker": marker, "linewidth": 1.0, "markersize": 4.0}
        left.loglog(curve.steps, curve.rmse, label=curve.label, **style)
        right.loglog(seconds, curve.rmse[: len(seconds)], label=f"{curve.label} ({path})", **style)
    left.set(xlabel="steps", ylabel="pathwise RMSE per coordinate")
    right.set(xlabel="seconds of a whole solve")
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (left, right):
        axes.grid(True, which="major", alpha=0.3)
        for target in problem.targets:
            axes.axhline(target, color="grey", linewidth=0.5, linestyle=":")
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
