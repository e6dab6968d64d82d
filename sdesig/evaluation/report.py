"""Rows of a comparison of samplers, their tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdesig._figures import Look, draw_line, legend_beside, log_axes, looks_of, panels
from sdesig._intervals import root_mean_square, root_mean_square_interval
from sdesig.evaluation.features import FeatureExtractor
from sdesig.evaluation.metrics import TO_THE_LAW, Measured
from sdesig.evaluation.pixels import ImageSet, pixel_digest
from sdesig.evaluation.sample_store import SampleStore
from sdesig.evaluation.teacher_law import TeacherLaw
from sdesig.sampling.information_floor import Floor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""One sampler at one number of steps: what was measured, by the keys of report.json."""
INTERVALS = (
    "Pathwise RMSE: with an interval of 95 % that holds for heavy tails, (?) where fewer than 20 seeds carry most of "
    "it. Seeds apart: the share that ends farther from its converged path than half the standard deviation of the "
    "samples, per coordinate (two independent samples are 1.4 of them apart)."
)
"""What tables say of these columns."""
FRECHET = "+- is one standard error, over the seeds; the bias, which falls like 1/n, is not in it."
"""What they say of Frechet distances."""
CHANGED = (
    "Seeds changed: the share whose sample is nearer to the converged one of another of these seeds than to its own, "
    "+- one standard error; unlike seeds apart it has no threshold, and it grows with the number of seeds."
)
"""What they say of the share of seeds that changed."""
LAW = (
    "FD, or FID: the Frechet distance of the features of a method's samples to those of the law's. KD, or KID: their "
    "kernel distance, a mean over ten parts, without bias: between samples of one law it is as often below zero as "
    "above, sometimes by three standard errors. The first row, the converged paths of the other "
    "methods' seeds, is the noise floor: both sides are of one law, and its FD is all bias. +- is one standard error, "
    "over the seeds of both sides; all rows share one sample of the law, so that their differences are surer than that."
)
"""What they say of distances to the teacher's own law."""


def report_row(
    store: SampleStore,
    key: str,
    steps: int,
    *,
    floors: Sequence[Floor] = (),
    measured: Sequence[Measured] = (),
    extractors: Sequence[FeatureExtractor] = (),
    law: TeacherLaw | None = None,
) -> Row:
    """The row of a sampler at a number of steps.

    It has key, method (the label), depth, steps, nfe, pathwise_rmse, its standard error _se and 95 % interval, _low to
    _high (None where too few seeds carry it), pathwise_median, seeds_apart (see `share_apart`), floor,
    seconds_per_1000, n, digest, the Frechet distances with standard errors _se, and "measured", a list of `Measured`.

    With a law it also has seeds_changed (see `share_changed`), law_seeds (the first and the last), law_n, law_digest
    and, with standard errors _se, law_frechet_distance and law_kernel_distance, named on as Frechet distances are.

    Args:
        store: the samples.
        key, steps: which of them.
        floors: in the clock of the reference; a generator with that reference gets that of its depth, steps and grid.
        measured: what was measured of the samples.
        extractors: by whose features; Frechet distances are the columns "frechet_distance" (of the first one) and
            "frechet_distance_<name>" (of the others).
        law: the teacher's own, of distances to which are among `measured`.

    Returns:
        A row whose missing values are None: JSON-serializable.
    """
    sampler, errors = store.samplers[key], store.errors(key, steps)
    of_it = (floor for floor in floors if floor.is_of(sampler.depth, steps, sampler.grid))
    floor = next(of_it, None) if sampler.referenced else None
    return {
        "key": key,
        "method": sampler.label,
        "depth": sampler.depth,
        "steps": steps,
        "nfe": sampler.evaluations * steps,
        **pathwise_columns(errors),
        "pathwise_median": None if errors is None else errors.median().item(),
        "seeds_apart": store.seeds_apart(key, steps),
        "floor": None if floor is None else floor.rmse,
        "seconds_per_1000": store.seconds_per_1000(key, steps),
        "n": len(store.seeds),
        "digest": sampler.digest,
        **dict(_columns("frechet_distance", lambda by: by.frechet_name, measured, extractors)),
        **({} if law is None else _law_columns(store, key, steps, measured, law)),
        "measured": [asdict(number) for number in measured],
    }


def pathwise_columns(errors: Tensor | None) -> Row:
    """The pathwise RMSE of a row, its standard error and its interval, from the errors per seed, if there are any."""
    rmse, error = (None, None) if errors is None else root_mean_square(errors)
    low, high = (None if errors is None else root_mean_square_interval(errors)) or (None, None)
    return {
        "pathwise_rmse": rmse,
        "pathwise_rmse_se": error,
        "pathwise_rmse_low": low,
        "pathwise_rmse_high": high,
    }


def _columns(
    name: str,
    metric: Callable[[FeatureExtractor], str],
    measured: Sequence[Measured],
    extractors: Sequence[FeatureExtractor],
) -> Iterator[tuple[str, float | None]]:
    """One metric by all extractors that it was measured by, with standard errors."""
    found = {(number.extractor_digest, number.metric): number for number in measured}
    for k, extractor in enumerate(extractors):
        column, number = (
            name if k == 0 else f"{name}_{extractor.name}",
            found.get((extractor.digest, metric(extractor))),
        )
        if number is not None:
            yield column, number.value
            yield f"{column}_se", number.standard_error


def _law_columns(store: SampleStore, key: str, steps: int, measured: Sequence[Measured], law: TeacherLaw) -> Row:
    changed, error = store.seeds_changed(key, steps) or (None, None)
    return {
        "seeds_changed": changed,
        "seeds_changed_se": error,
        "law_seeds": law.seeds,
        "law_n": law.n,
        "law_digest": law.digest,
        **dict(_columns("law_frechet_distance", lambda by: by.frechet_name + TO_THE_LAW, measured, law.extractors)),
        **dict(_columns("law_kernel_distance", lambda by: by.kernel_name + TO_THE_LAW, measured, law.extractors)),
    }


def report_text(rows: Sequence[Row], data: ImageSet | Tensor | None) -> str:
    """report.md, from the rows of report.json and the data that the samples were compared with.

    Its pictures are errors.png and, of images, images-N.png for every number of steps.
    """
    flat = [{**row, **_by_metric(row["measured"])} for row in rows]
    metrics: dict[tuple[str, str], dict[str, None]] = {}
    to_law: dict[str, str] = {}
    for row in rows:
        for number in row["measured"]:
            if number["metric"].endswith(TO_THE_LAW):
                to_law[number["metric"]] = number["metric"]
            else:
                metrics.setdefault((number["extractor"], number["extractor_digest"]), {})[number["metric"]] = None
    columns = {"method": "method", "steps": "steps", "nfe": "evaluations", "pathwise_rmse": "pathwise RMSE"}
    columns |= {"seeds_apart": "seeds apart"} | ({"seeds_changed": "seeds changed"} if to_law else {})
    columns |= {"floor": "floor"} if any(row["floor"] is not None for row in rows) else {}
    columns |= {name: name for name in (next(iter(names)) for names in metrics.values())}
    columns |= {"seconds_per_1000": "seconds per 1000"}
    images = isinstance(data, ImageSet)
    legend = " ".join([INTERVALS, *([CHANGED] if to_law else []), FRECHET])
    lines = [
        f"{rows[0]['n']} seeds, all methods on the same paths{'; images of 256 levels' if images else ''}. Errors per "
        f"coordinate{', in [-1, 1], and perceptual distances' if images else ''} are to the converged path of the same "
        "seed, the first row; evaluations are those of the network per "
        f"{'image' if images else 'sample'}. {legend} Seconds are of one timing, on a CPU processor "
        f"seconds.{_described(data)}\n",
        markdown_table(flat, columns),
    ]
    if to_law:
        first, last = rows[0]["law_seeds"]
        lines += [
            f"The teacher's own law: {rows[0]['law_n']} converged paths of other seeds, {first} to {last}, "
            f"sha256 {rows[0]['law_digest'][:12]}. {LAW}\n",
            markdown_table(flat, {"method": "method", "steps": "steps", **to_law}),
        ]
    for (name, digest), names in metrics.items():
        if len(names) > 1:  # of features; a perceptual distance is one number, which is in the first table
            lines += [
                f"Features: {name}{'' if digest == name else f', sha256 {digest[:12]}'}.\n",  # some are of no file
                markdown_table(flat, {"method": "method", "steps": "steps", **{metric: metric for metric in names}}),
            ]
    if any(row["pathwise_rmse"] for row in rows):
        lines.append("![pathwise error against evaluations](errors.png)\n")
    if images:
        lines += [f"![the same seeds](images-{steps}.png)" for steps in sorted({row["steps"] for row in rows[1:]})]
    return "\n".join(lines) + "\n"


def _described(data: ImageSet | Tensor | None) -> str:
    if data is None:
        return ""
    if isinstance(data, Tensor):
        return f" Data: {len(data)} samples, sha256 {pixel_digest(data)[:12]}."
    source = data.source if data.source.startswith("hf:") else Path(data.source).name
    return f" Data: {source}, {len(data)} images, sha256 {data.digest[:12]}."


def _by_metric(measured: Sequence[Row]) -> Row:
    """Values and standard errors by the names of the metrics."""
    values = {number["metric"]: number["value"] for number in measured}
    return {**values, **{f"{number['metric']}_se": number["standard_error"] for number in measured}}


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """A Markdown table of some columns, {key: title}: see `table_cell`."""
    lines = [list(columns.values()), *[[table_cell(row, key) for key in columns] for row in rows]]
    lines = [[" ".join(value.split()).replace("|", "\\|") for value in line] for line in lines]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    text = [
        "| " + " | ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text) + "\n"


def table_cell(row: Row, key: str, digits: int = 4) -> str:
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
    if key in ("seeds_apart", "seeds_changed"):
        error = row.get(f"{key}_se")
        return f"{100 * value:.1f} {'' if error is None else f'+- {100 * error:.1f} '}%"
    if not isinstance(value, float):
        return str(value)
    error = row.get(f"{key}_se")
    if not error:
        return f"{value:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} +- {error:.{decimals}f}"


def error_figure(
    rows: Sequence[Row], floors: Sequence[Floor] = (), *, most_steps: int | None = None, title: str = ""
) -> Figure:
    """Pathwise error against evaluations with 95 % intervals, one line per sampler, the floors dotted.

    Evaluations that only one of several samplers has, beyond those of the others, would leave most of the figure
    empty: their errors stand in the legend instead.

    Args:
        rows: of a comparison (see `report_row`).
        floors: of some depths, drawn in the colours of their generators.
        most_steps: the most evaluations that are shown; default: all but those.
        title: of the figure; default: its seeds, and what its bars are.
    """
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row["pathwise_rmse"]:
            lines.setdefault(row["key"], []).append(row)
    if most_steps is None:
        reaches = sorted(max(row["nfe"] for row in own) for own in lines.values())
        most = max([*(reaches[-2:-1] or reaches), *(floor.steps for floor in floors)], default=0)
    else:
        most = most_steps
    figure, axis = panels(figsize=(9, 5.2))
    looks = _looks(lines)
    for rank, (key, own) in enumerate(lines.items()):
        shown = [row for row in own if row["nfe"] <= most]
        if not shown:
            continue
        beyond = [f"{row['pathwise_rmse']:.3f} in {row['nfe']}" for row in own if row["nfe"] > most]
        label = own[0]["method"] + (f"\n({', '.join(beyond)})" if beyond else "")
        nfe, values, *bars = zip(*((row["nfe"], row["pathwise_rmse"], *_bars(row)) for row in shown), strict=True)
        draw_line(axis, nfe, values, looks[key], bars=bars, rank=rank, label=label)
    colours = {own[0]["depth"]: looks[key].colour for key, own in lines.items()}  # of the last: plain cells come first
    for depth in dict.fromkeys(floor.depth for floor in floors):
        of_depth = sorted((floor.steps, floor.rmse) for floor in floors if floor.depth == depth)
        axis.plot(
            *zip(*of_depth, strict=True), ":", lw=1.6, color=colours.get(depth, "0.5"), label=f"floor of depth {depth}"
        )
    shown_nfe = [row["nfe"] for own in lines.values() for row in own if row["nfe"] <= most]
    seeds = f"{rows[0]['n']} seeds, " if rows and "n" in rows[0] else ""
    log_axes(
        axis,
        shown_nfe,
        xlabel="evaluations of the network per sample",
        ylabel="pathwise RMSE per coordinate",
        title=title or f"distance to the converged path of the seed: {seeds}bars are 95 % intervals",
    )
    legend_beside(axis)
    return figure


def _looks(lines: Mapping[str, Sequence[Row]]) -> dict[str, Look]:
    """Of every key; generators, whose keys are the user's, look as their depth or as plain ones do, if that is free."""
    names: dict[str, str] = {}
    for key, own in lines.items():
        depth, method = own[0]["depth"], own[0]["method"]
        name = key if depth is None else "plain" if "plain" in method else f"depth-{depth}"
        names[key] = key if name in names.values() else name
    looks = looks_of(names.values())
    return {key: looks[name] for key, name in names.items()}


def _bars(row: Row) -> tuple[float, float]:
    """Lengths below and above; of a standard error where there is no interval."""
    value, half = row["pathwise_rmse"], 1.96 * row["pathwise_rmse_se"]
    low, high = row.get("pathwise_rmse_low"), row.get("pathwise_rmse_high")
    return (half, half) if low is None or high is None else (value - low, high - value)


def image_figure(lines: Sequence[tuple[str, Tensor]], *, title: str = "", columns: Sequence[object] = ()) -> Figure:
    """A grid of images: one named line per entry, one column per image.

    Args:
        lines: a name and images, (n, size, size) or (n, 1 or 3, size, size) in [-1, 1].
        title: of the figure.
        columns: names of the columns, such as seeds, over the first line.
    """
    count = len(lines[0][1])
    figure, axes = panels(len(lines), 1, figsize=(3.2 + 0.52 * count, 0.4 + 0.54 * len(lines)), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], lines, strict=True):
        shown = (images if images.ndim == 4 else images[:, None]).float().clamp(-1, 1).cpu()
        strip = torch.nn.functional.pad(shown, (0, 1), value=1.0).permute(2, 0, 3, 1).flatten(1, 2)
        values = strip[..., 0] if strip.shape[-1] == 1 else (strip + 1) / 2
        axis.imshow(values.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="x-small", parse_math=False)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    if columns:
        first, width = axes[0, 0], lines[0][1].shape[-1] + 1
        places = [width * (k + 0.5) - 1 for k in range(len(columns))]
        first.set_xticks(places, [str(column) for column in columns], fontsize="x-small")
        first.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure
