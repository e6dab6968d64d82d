"""The style of all figures: a colour, marker and line for every sampler and scheme, axes, ticks, legends, files.

Colours are Okabe and Ito's and Paul Tol's, which colour-blind readers tell apart; markers tell them apart in grey.
Families of samplers share a hue: Euler grey, multistep orange, path-average blue, probability flows green, Sig-DEG red.
matplotlib is imported where it is used.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sdesig._files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure


class Look(NamedTuple):
    """How a sampler or scheme is drawn."""

    colour: str
    marker: str
    line: str = "-"


LOOKS = {
    # samplers, by key
    "euler": Look("#777777", "v"),
    "sde-dpm++2m": Look("#E69F00", "s"),
    "path-average": Look("#88CCEE", "^"),
    "path-average-reference": Look("#0072B2", "D"),
    "path-average-grid": Look("#332288", "P"),
    "path-average-flow": Look("#228833", "$o$", "--"),
    "path-average-components": Look("#332288", "X"),
    "ddim": Look("#44AA99", "<", "--"),
    "unipc": Look("#117733", "h", "--"),
    "dpm-solver++2m": Look("#009E73", ">", "--"),
    "dpmsolver++(2M)": Look("#009E73", ">", "--"),
    "dpmsolver++(3M)": Look("#999933", "d", "--"),
    "dpm-solver++3m": Look("#999933", "d", "--"),
    "ipndm-4": Look("#88AA00", "8", "--"),
    "deis": Look("#66CCAA", "1", "--"),
    "sa-solver-ode": Look("#004D00", "2", "--"),
    "sa-solver": Look("#AA4400", "3"),
    "sde-dpm++3m": Look("#CC8800", "H"),
    "seeds-2": Look("#DDCC77", "4"),
    "er-sde-3": Look("#AA4499", "+"),
    # generators
    "plain": Look("#CC79A7", "x"),
    "depth-1": Look("#EE8866", "p"),
    "depth-2": Look("#D55E00", "o"),
    "depth-4": Look("#882255", "*"),
    # schemes, by name; torchsde's and others' of the same name look the same
    "milstein": Look("#D55E00", "o"),
    "milstein without areas": Look("#EE8866", "p", "--"),
    "sri2": Look("#E69F00", "X"),
    "log_ode": Look("#332288", "D"),
    "platen": Look("#0072B2", "P"),
    "heun": Look("#CC79A7", "x"),
    "taylor15": Look("#117733", "h"),
    "sra1": Look("#44AA99", "<"),
    "shark": Look("#000000", "*"),
    "srk": Look("#56B4E9", "^"),
    "midpoint": Look("#999933", "d"),
    "euler_heun": Look("#AA4499", "+"),
    "slow_rk": Look("#887700", "H"),
    "reversible_heun": Look("#DDCC77", ">"),
    # algorithms for Levy areas
    "area fourier": Look("#777777", "v"),
    "area milstein": Look("#D55E00", "o"),
    "area legendre": Look("#0072B2", "D"),
    "area wiktorsson": Look("#117733", "h"),
    "area mronroe": Look("#882255", "*"),
    "area davie": Look("#E69F00", "s", ""),
    "area foster": Look("#332288", "x", ""),
    "area four_moment": Look("#000000", "^", ""),
    "area exact2d": Look("#777777", "", ":"),
}
"""Looks by key of a sampler or name of a scheme."""

SCHEMES = {
    "dpm_solver_1": "euler",
    "dpm_solver_2m": "sde-dpm++2m",
    "dpm_solver_3m": "sde-dpm++3m",
    "seeds_2": "seeds-2",
    "er_sde_3": "er-sde-3",
    "ipndm_4": "ipndm-4",
    "path_average": "path-average",
    "path_average, no reference": "path-average",
    "path_average, scalar reference": "path-average-reference",
    "path_average, PCA reference": "path-average-components",
    "Euler": "euler",
    "Heun": "heun",
    "EulerHeun": "euler_heun",
    "ItoMilstein": "milstein",
    "ShARK": "shark",
    "SlowRK": "slow_rk",
}
"""Schemes that look as a sampler, or as the scheme of another package."""

SPARE = (
    Look("#661100", "1", ":"),
    Look("#6699CC", "2", ":"),
    Look("#AA4466", "3", ":"),
    Look("#888800", "4", ":"),
    Look("#000000", "+", ":"),
    Look("#AAAAAA", "H", ":"),
)
"""For what has no look of its own, in turn."""


LINES = {"-karras": {"-": ":", "--": "-."}, "-calibrated": {"-": "-.", "--": ":"}}
"""The line of a variant of a sampler by that of the sampler."""


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """The look of every name: its own, or a spare one that no other of them has (while there are any).

    "<key>-karras", a sampler on the grid of Karras et al., and "<key>-calibrated" look as the sampler but for the line.
    """
    found: dict[str, Look] = {}
    for name in names:
        bare = name.removeprefix("torchsde:")
        end = next((end for end in LINES if bare.endswith(end)), "")
        plain = bare.removesuffix(end)
        own = LOOKS.get(SCHEMES.get(plain, plain))
        if own is not None and end:
            own = own._replace(line=LINES[end][own.line])
        taken = set(found.values())
        free = [look for look in SPARE if look not in taken]
        found.setdefault(name, own if own is not None else (free or SPARE)[0])
    return found


def look_of(name: str) -> Look:
    """The look of one name."""
    return looks_of([name])[name]


def panels(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """A figure off pyplot, and its axes as `Figure.subplots` gives them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def draw_line(
    axis: Axes, x: Sequence[float], y: Sequence[float], look: Look, *, bars: Any = None, rank: int = 0, **options: Any
) -> ErrorbarContainer:
    """A line with error bars in a look; `rank` counts those before it, each smaller, so that equal ones are all seen.

    Args:
        axis: where.
        x, y: points.
        look: how.
        bars: lengths of error bars below and above, as `Axes.errorbar` takes them.
        rank: number of lines in the axis before this one.
        options: of `Axes.errorbar`, over those of the look.
    """
    size, width = max(5.5, 9.0 - rank), max(1.3, 2.6 - 0.35 * rank)
    style: dict[str, Any] = {
        "color": look.colour,
        "marker": look.marker,
        "ls": look.line,
        "ms": size,
        "mfc": "none" if rank < 2 else look.colour,
        "mew": 1.4,
        "lw": width,
        "elinewidth": 1.0,
        "capsize": 2.5,
        "zorder": 2 + 0.01 * rank,
    }
    return axis.errorbar(x, y, yerr=bars, **(style | options))


def log_axes(axis: Axes, x: Iterable[float] | None, *, xlabel: str, ylabel: str | None = None, title: str = "") -> None:
    """Logarithmic axes with a light grid, ticks in plain numbers at the values x and nowhere else.

    Without x the ticks are decades. Call it when all is drawn: ticks are those of the limits.
    """
    axis.set(xscale="log", yscale="log", xlabel=xlabel)
    if ylabel is not None:
        axis.set_ylabel(ylabel)
    if title:
        axis.set_title(title, fontsize="medium")
    if x is None:
        _plain_numbers(axis.xaxis, axis.get_xlim())
    else:
        number_ticks(axis, x)
    _plain_numbers(axis.yaxis, axis.get_ylim())
    axis.grid(alpha=0.3)


def number_ticks(axis: Axes, values: Iterable[float]) -> None:
    """Ticks of a logarithmic x axis where there are points; labels that would touch the one before are left out."""
    ticks = sorted({value for value in values if value > 0})
    if not ticks:
        return
    axis.set_xscale("log")
    width = axis.bbox.width / axis.figure.dpi  # in inches
    span = math.log(ticks[-1] / ticks[0]) or 1.0
    labels: list[str] = []
    end = -math.inf  # of the last label
    last = f"{ticks[-1]:g}"
    for tick in ticks:
        text, place = f"{tick:g}", 0.9 * width * math.log(tick / ticks[0]) / span
        half, of_last = 0.045 * len(text), 0.9 * width - 0.045 * len(last) - 0.06
        clear = place - half > end and (tick == ticks[-1] or place + half < of_last)
        labels.append(text if clear else "")
        end = place + half + 0.06 if clear else end
    axis.set_xticks(ticks, labels)
    axis.xaxis.minorticks_off()


def _plain_numbers(axis: Axis, limits: tuple[float, float]) -> None:
    """Plain numbers on a logarithmic axis that reaches no lower than 0.0001; also 2 and 5 where it has few decades."""
    from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, NullFormatter

    low, high = limits
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,), numticks=12))
    if low > 1e-5 and high < 1e5:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10f}".rstrip("0").rstrip(".")))
    else:
        axis.set_major_formatter(LogFormatterMathtext())
    axis.set_minor_formatter(NullFormatter())


def legend_beside(axis: Axes, **options: Any) -> None:
    """A legend on the right of an axis, over no data. A label is no formula, whatever dollars are in it."""
    _plain_text(axis.legend(**({"fontsize": "small", "loc": "center left", "bbox_to_anchor": (1.0, 0.5)} | options)))


def legend_below(axis: Axes, *, columns: int = 2, drop: float = 0.16) -> None:
    """A legend under an axis and its label, over no data."""
    _plain_text(
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -drop), ncols=columns, frameon=False)
    )


def _plain_text(legend: Any) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)


def save_figure(figure: Figure, path: Path, *, dpi: int = 110) -> None:
    """Write a PNG file, whole or not at all, as large as what is drawn; of at most 256 colours but for photographs."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
    photographs = any(np.asarray(image.get_array()).ndim == 3 for axis in figure.axes for image in axis.images)
    with replacing(path) as file:
        if photographs:
            file.write_bytes(buffer.getvalue())
            return
        picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(file, format="PNG", optimize=True)
