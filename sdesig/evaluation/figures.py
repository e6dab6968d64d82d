"""Figures of a comparison: pathwise errors against evaluations, and images of the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdesig._files import replacing
from sdesig.evaluation.report import Row
from sdesig.sampling.information_floor import Floor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def error_figure(rows: Sequence[Row], floors: Sequence[Floor] = (), *, most_steps: int | None = None) -> Figure:
    """Pathwise error against evaluations with 95 % intervals, one line per sampler, the floors dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axis = figure.subplots()
    colours: dict[int, str] = {}
    shown = [row for row in rows if most_steps is None or row["nfe"] <= most_steps]
    for key in dict.fromkeys(row["key"] for row in rows):
        own = [row for row in shown if row["key"] == key and row["pathwise_rmse"]]
        if own:
            nfe, values, *bars = zip(*((row["nfe"], row["pathwise_rmse"], *_bars(row)) for row in own), strict=True)
            line = axis.errorbar(nfe, values, yerr=bars, fmt="o-", ms=4, capsize=2, label=own[0]["method"])
            if own[0]["depth"] is not None:
                colours[own[0]["depth"]] = line[0].get_color()  # of the last: plain cells come first
    for depth in dict.fromkeys(floor.depth for floor in floors):
        of_depth = sorted((floor.steps, floor.rmse) for floor in floors if floor.depth == depth)
        axis.plot(
            *zip(*of_depth, strict=True), "--", lw=1.2, color=colours.get(depth, "0.5"), label=f"floor of depth {depth}"
        )
    axis.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="pathwise RMSE per coordinate")
    ticks = sorted({row["nfe"] for row in shown})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    legend = axis.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    for text in legend.get_texts():  # a label is no formula, whatever dollars are in it
        text.set_parse_math(False)
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
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="x-small", parse_math=False)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def save_figure(figure: Figure, path: Path, *, dpi: int = 110) -> None:
    """Write a PNG file, whole or not at all, as large as what is drawn."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
