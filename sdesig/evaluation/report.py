"""Tables and figures of a comparison of samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdesig._evaluating import evaluating
from sdesig._files import replacing
from sdesig.evaluation.comparison import Outcome
from sdesig.evaluation.frechet import FeatureStatistics, frechet_distance
from sdesig.sampling.error_statistics import root_mean_square, root_mean_square_interval
from sdesig.sampling.information_floor import Floor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
Features = Mapping[str, Callable[[Tensor], Tensor]]
INTERVALS = (
    "Pathwise RMSE: with an interval of 95 % that holds for heavy tails, (?) where fewer than 20 seeds carry most of "
    "it. Seeds apart: the share that ends farther from its converged path than half the standard deviation of the "
    "samples, per coordinate (two independent samples are 1.4 of them apart)."
)
"""What tables of `report_rows` say of these columns."""
FRECHET = "+- is one standard error, over the seeds; the bias, which falls like 1/n, is not in it."
"""What they say of Frechet distances."""


def report_rows(
    outcomes: Sequence[Outcome], *, floors: Sequence[Floor] = (), features: Features | None = None, real: Tensor | None
) -> list[Row]:
    """One row per outcome: method, depth, steps, nfe, pathwise_rmse, its standard error _se and 95 % interval, _low to
    _high (None where too few seeds carry it), pathwise_median, seeds_apart (see `Outcome`), floor, seconds_per_1000, n,
    and the Frechet distances with standard errors _se.

    Args:
        floors: in the clock of the reference; a generator with that reference gets that of its depth, steps and grid.
        features: names of Frechet distances, and the features (n, *event) -> (n, k) that each is of; they become the
            columns "frechet_distance" (the first) and "frechet_distance_<name>" (all others).
        real: data (m, *event), to which the distances are measured.

    Returns:
        Rows whose missing values are None: JSON-serializable.
    """
    known = features or {}
    with evaluating(*known.values()):
        statistics = {name: FeatureStatistics.of(of(real)) for name, of in known.items() if real is not None}
    rows = []
    for outcome in outcomes:
        sampler = outcome.sampler
        of_it = (floor for floor in floors if floor.is_of(sampler.depth, outcome.steps, sampler.grid))
        floor = next(of_it, None) if sampler.referenced else None
        row = row_of(
            sampler.name,
            outcome.steps,
            outcome.errors,
            seeds_apart=outcome.seeds_apart,
            n=len(outcome.samples),
            depth=sampler.depth,
            floor=floor,
            seconds_per_1000=outcome.seconds_per_1000,
        )
        row["nfe"] = sampler.evaluations * outcome.steps
        for k, (name, real_statistics) in enumerate(statistics.items()):
            key = "frechet_distance" if k == 0 else f"frechet_distance_{name}"
            with evaluating(known[name]):
                row[key], row[f"{key}_se"], _ = frechet_distance(known[name](outcome.samples), real_statistics)
        rows.append(row)
    return rows


def row_of(
    method: str,
    steps: int,
    errors: Tensor | None,
    *,
    seeds_apart: float | None,
    n: int,
    depth: int | None,
    floor: Floor | None,
    seconds_per_1000: float,
) -> Row:
    """A row of `report_rows` without Frechet distances, from the errors of the seeds, (n,), if there are any."""
    rmse, error = (None, None) if errors is None else root_mean_square(errors)
    low, high = (None if errors is None else root_mean_square_interval(errors)) or (None, None)
    return {
        "method": method,
        "depth": depth,
        "steps": steps,
        "nfe": steps,
        "pathwise_rmse": rmse,
        "pathwise_rmse_se": error,
        "pathwise_rmse_low": low,
        "pathwise_rmse_high": high,
        "pathwise_median": None if errors is None else errors.median().item(),
        "seeds_apart": seeds_apart,
        "floor": None if floor is None else floor.rmse,
        "seconds_per_1000": seconds_per_1000,
        "n": n,
    }


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """A Markdown table of some columns, {key: title}: see `cell`."""
    lines = [list(columns.values()), *[[cell(row, key) for key in columns] for row in rows]]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    text = [
        "| " + " | ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text) + "\n"


def cell(row: Row, key: str, digits: int = 4) -> str:
    """A value as tables have it, a dash for a missing one.

    A pathwise error has `digits` digits and its interval, where the row has one: (?) for too few seeds; otherwise +- a
    standard error. Any other value whose standard error is in the row, under key_se, has it, to two digits.
    """
    value = row.get(key)
    if value is None:
        return "-"
    if key == "pathwise_rmse":
        if "pathwise_rmse_low" not in row:
            return f"{value:.{digits}f} +- {row['pathwise_rmse_se']:.{digits}f}"
        low, high = row["pathwise_rmse_low"], row["pathwise_rmse_high"]
        return f"{value:.{digits}f} " + ("(?)" if low is None else f"({low:.{digits}f} - {high:.{digits}f})")
    if key == "seeds_apart":
        return f"{100 * value:.1f} %"
    if not isinstance(value, float):
        return str(value)
    error = row.get(f"{key}_se")
    if not error:
        return f"{value:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} +- {error:.{decimals}f}"


def error_figure(rows: Sequence[Row], floors: Sequence[Floor] = (), *, most_steps: int | None = None) -> Figure:
    """Pathwise error against evaluations with 95 % intervals, one line per method, the floors dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axis = figure.subplots()
    colours: dict[int, str] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        points = [
            (row["nfe"], row["pathwise_rmse"], *_bars(row))
            for row in rows
            if row["method"] == method and row["pathwise_rmse"] and (most_steps is None or row["nfe"] <= most_steps)
        ]
        if points:
            nfe, values, *bars = zip(*points, strict=True)
            line = axis.errorbar(nfe, values, yerr=bars, fmt="o-", ms=4, capsize=2, label=method)
            depth = next(row["depth"] for row in rows if row["method"] == method)
            if depth is not None:
                colours[depth] = line[0].get_color()  # of the last: plain cells come first
    for depth in dict.fromkeys(floor.depth for floor in floors):
        of_depth = sorted((floor.steps, floor.rmse) for floor in floors if floor.depth == depth)
        axis.plot(
            *zip(*of_depth, strict=True), "--", lw=1.2, color=colours.get(depth, "0.5"), label=f"floor of depth {depth}"
        )
    axis.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="pathwise RMSE per coordinate")
    ticks = sorted({row["nfe"] for row in rows if most_steps is None or row["nfe"] <= most_steps})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _bars(row: Row) -> tuple[float, float]:
    """Lengths below and above; of a standard error where there is no interval."""
    value, half = row["pathwise_rmse"], 1.96 * row["pathwise_rmse_se"]
    low, high = row.get("pathwise_rmse_low"), row.get("pathwise_rmse_high")
    return (half, half) if low is None or high is None else (value - low, high - value)


def image_figure(lines: Sequence[tuple[str, Tensor]], *, title: str = "") -> Figure:
    """A grid of images: one named line per entry, one column per image.

    Args:
        lines: a name and images, (n, size, size) or (n, 1 or 3, size, size) in [-1, 1].
        title: of the figure.
    """
    from matplotlib.figure import Figure

    columns = len(lines[0][1])
    figure = Figure(figsize=(3.2 + 0.52 * columns, 0.4 + 0.54 * len(lines)), layout="constrained")
    for axis, (name, images) in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        shown = (images if images.ndim == 4 else images[:, None]).float().clamp(-1, 1).cpu()
        strip = torch.nn.functional.pad(shown, (0, 1), value=1.0).permute(2, 0, 3, 1).flatten(1, 2)
        values = strip[..., 0] if strip.shape[-1] == 1 else (strip + 1) / 2
        axis.imshow(values.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="x-small")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def save_figure(figure: Figure, path: Path, *, dpi: int = 110) -> None:
    """Write a PNG file, whole or not at all, as large as what is drawn."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
