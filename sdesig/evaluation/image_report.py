"""Everything that is reported of image samplers: a table, what every number depends on, figures, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from sdesig import _processes as processes
from sdesig._checks import check_integer
from sdesig._files import read_json, replacing, write_json
from sdesig.evaluation.comparison import Comparison, OtherSampler
from sdesig.evaluation.features import FeatureExtractor, PerceptualDistance
from sdesig.evaluation.metrics import Measured, measure_pairs, measure_samples
from sdesig.evaluation.pixels import ImageSet, pixel_digest, to_floats
from sdesig.evaluation.reference_statistics import ReferenceStatistics, reference_statistics
from sdesig.evaluation.report import (
    FRECHET,
    INTERVALS,
    Row,
    error_figure,
    image_figure,
    markdown_table,
    row_of,
    save_figure,
)
from sdesig.evaluation.sample_store import Method, SampleFiles
from sdesig.sampling.information_floor import Floor, information_floor
from sdesig.sampling.teacher_paths import TeacherOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12
"""Seeds in a picture."""
FEWEST = 20
"""Samples that features are compared of: kernel distances are means over ten parts."""


@dataclass(frozen=True, eq=False)
class ImageReport:
    """What `evaluate_images` measures.

    Attributes:
        rows: a dictionary per method and number of steps, JSON-serializable; the first is of the converged paths. They
            have the columns of `sdesig.evaluation.report.report_rows` but for Frechet distances, and "measured", a
            list of `Measured`.
        floors: of every depth and number of steps, if they were asked for.
        samples: of all methods, on disk.
    """

    rows: list[Row]
    floors: list[Floor]
    samples: SampleFiles


def evaluate_images(
    comparison: Comparison,
    methods: Sequence[Method],
    data: ImageSet,
    out: str | Path,
    *,
    n: int,
    first_seed: int = 0,
    extractors: Sequence[FeatureExtractor] = (),
    perceptual: Sequence[PerceptualDistance] = (),
    floor_groups: int = 0,
    ema: bool | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    recorded: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> ImageReport:
    """Draw the same seeds by all methods, measure them, and write a report.

    Samples are drawn block by block, of `comparison.batch` seeds, and kept in out/samples (`SampleFiles`). So a run
    that was stopped goes on, and methods, steps, seeds, extractors and floors may be added: what is there is not drawn
    again, nor compared again. Processes, started by torchrun, share the blocks. A block needs half a gigabyte
    for its paths if it has no more than 2^18/d seeds, d the coordinates of a sample: 85 for 3 x 32 x 32. 1000 steps
    need `comparison.space.levels` = 10.

    out/ then has report.json (the rows), report.md, errors.png (pathwise errors against evaluations) and images-N.png
    for every number of steps: a row per method, a column per seed.

    Args:
        comparison: of the teacher; `Comparison(teacher, generator.space)`.
        methods: what to evaluate. The ancestral sampler in 1000 steps is `DPMSolver1` at 1000.
        data: images to whose features those of the samples are compared.
        out: folder.
        n, first_seed: the seeds are first_seed, ..., first_seed + n - 1.
        extractors: of features, see `measure_samples`; n >= 20.
        perceptual: distances to the converged path's image of the same seed, of methods that follow it.
        floor_groups: pairs of paths, of about `comparison.truth_steps` fine steps, for the information floor of every
            generator at its numbers of steps, kept in out/floors.json; 0: no floors.
        ema: whether the teacher is a moving average; None if unknown.
        decode: of a latent model's samples to images in [-1, 1]; pathwise errors are of the latents.
        recorded: what else identifies the teacher, JSON-serializable: its samples are not taken for another one's.
        cache: folder for reference statistics, which runs may share; default out/reference.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: bad arguments; data of another shape; out has samples of another teacher or other paths.
        FloatingPointError: see `Run.take`.
        OSError: a full disk; complete files stay valid.
    """
    check_integer("n", n, FEWEST if extractors else 2)
    check_integer("first_seed", first_seed, 0)
    check_integer("floor_groups", floor_groups, 0)
    if extractors:
        check_integer("number of images in data", len(data), FEWEST)
    if decode is None:
        data.check_event(comparison.space.event, "the teacher")
    out = Path(out)
    seeds = range(first_seed, first_seed + n)
    samples = SampleFiles(out / "samples", comparison, methods, seeds=seeds, decode=decode, recorded=recorded)
    samples.make(progress=progress)
    with processes.main_first():
        floors = list(_floors(comparison, methods, floor_groups, out / "floors.json"))
    references = [reference_statistics(data, extractor, cache=cache or out / "reference") for extractor in extractors]
    compared = list(zip(extractors, references, strict=True))
    truth = pixel_digest(samples.images(samples.truth, samples.truth.steps[0])) if perceptual else ""
    rows = []
    hidden = not progress or processes.rank() > 0
    for method, steps in tqdm(samples.pairs, desc="comparing", unit="row", disable=hidden):
        measured = _measure(samples, method, steps, compared, perceptual, truth, ema)
        rows.append(_row(samples, method, steps, floors, measured))
    report = ImageReport(rows, floors, samples)
    text = report_text(rows, data)
    processes.on_main(lambda: _write(report, text, out))
    return report


def _write(report: ImageReport, text: str, out: Path) -> None:
    rows, methods = report.rows, report.samples.methods
    write_json(out / "report.json", rows)
    with replacing(out / "report.md") as file:
        file.write_text(text)
    if any(row["pathwise_rmse"] for row in rows):
        save_figure(error_figure(rows, report.floors), out / "errors.png")
    for steps in sorted({steps for method in methods for steps in method.steps}):
        save_figure(_pictures(report.samples, steps), out / f"images-{steps}.png")


def _floors(comparison: Comparison, methods: Sequence[Method], groups: int, file: Path) -> Iterator[Floor]:
    """Of every generator in the reference's variables, at every number of its steps; those in the file are kept."""
    wanted = {
        (method.sampler.depth, steps, method.sampler.grid)
        for method in methods
        for steps in method.steps
        if groups and method.sampler.depth and method.sampler.referenced
    }
    for depth, steps, grid in sorted(wanted, key=lambda key: (key[0], key[1], key[2].quantiles)):
        key = f"depth {depth}, {steps} steps, {groups} groups, quantiles {list(grid.quantiles)}"
        known = read_json(file) if file.exists() else {}
        if key not in known:
            floor = information_floor(
                comparison.teacher,
                replace(comparison.space, grid=grid),
                steps=steps,
                depth=depth,
                groups=groups,
                teacher_options=TeacherOptions(steps=comparison.truth_steps, cells=1),
            )
            known[key] = asdict(floor)
            write_json(file, known)
        yield Floor(**known[key])


def _measure(
    samples: SampleFiles,
    method: Method,
    steps: int,
    extractors: Sequence[tuple[FeatureExtractor, ReferenceStatistics]],
    perceptual: Sequence[PerceptualDistance],
    truth: str,
    ema: bool | None,
) -> list[Measured]:
    seeds = samples.seeds[0], samples.seeds[-1]
    own = ema if method.ema is None else method.ema
    found = []
    for extractor, reference in extractors:
        features = samples.features(extractor, method, steps)
        found += measure_samples(features, extractor, reference, seeds=seeds, ema=own)
    if samples.errors(method, steps) is not None:
        for distance in perceptual:
            values = samples.distances(distance, method, steps)
            found.append(measure_pairs(values, distance, reference_digest=truth, seeds=seeds, ema=own))
    return found


def _row(
    samples: SampleFiles, method: Method, steps: int, floors: Sequence[Floor], measured: Sequence[Measured]
) -> Row:
    sampler = method.sampler
    matching = (floor for floor in floors if floor.is_of(sampler.depth, steps, sampler.grid))
    row = row_of(
        method.name,
        steps,
        samples.errors(method, steps),
        seeds_apart=samples.seeds_apart(method, steps),
        n=len(samples.seeds),
        depth=sampler.depth,
        floor=next(matching, None) if sampler.referenced else None,
        seconds_per_1000=samples.seconds_per_1000(method, steps),
    )
    return {
        **row,
        "nfe": sampler.evaluations * steps,
        "digest": method.digest,
        "measured": [asdict(number) for number in measured],
    }


def report_text(rows: Sequence[Row], data: ImageSet) -> str:
    """report.md, from the rows of report.json and the data that the samples were compared with."""
    flat = [{**row, **_columns(row["measured"])} for row in rows]
    metrics: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for number in row["measured"]:
            metrics.setdefault((number["extractor"], number["extractor_digest"]), {})[number["metric"]] = None
    columns = {"method": "method", "steps": "steps", "nfe": "evaluations", "pathwise_rmse": "pathwise RMSE"}
    columns |= {"seeds_apart": "seeds apart"}
    columns |= {"floor": "floor"} if any(row["floor"] is not None for row in rows) else {}
    columns |= {name: name for name in (next(iter(names)) for names in metrics.values())}
    columns |= {"seconds_per_1000": "seconds per 1000"}
    source = data.source if data.source.startswith("hf:") else Path(data.source).name
    lines = [
        f"{rows[0]['n']} seeds, all methods on the same paths; images of 256 levels. Errors per coordinate, in "
        "[-1, 1], and perceptual distances are to the converged path of the same seed, the first row; evaluations are "
        f"those of the network per image. {INTERVALS} {FRECHET} Seconds are of one timing, on a CPU processor seconds. "
        f"Data: {source}, {len(data)} images, sha256 {data.digest[:12]}.\n",
        markdown_table(flat, columns),
    ]
    for (name, digest), names in metrics.items():
        if len(names) > 1:  # of features; a perceptual distance is one number, which is in the first table
            lines += [
                f"Features: {name}, sha256 {digest[:12]}.\n",
                markdown_table(flat, {"method": "method", "steps": "steps", **{metric: metric for metric in names}}),
            ]
    if any(row["pathwise_rmse"] for row in rows):
        lines.append("![pathwise error against evaluations](errors.png)\n")
    lines += [f"![the same seeds](images-{steps}.png)" for steps in sorted({row["steps"] for row in rows[1:]})]
    return "\n".join(lines) + "\n"


def _columns(measured: Sequence[Row]) -> Row:
    """Values and standard errors by the names of the metrics."""
    values = {number["metric"]: number["value"] for number in measured}
    return {**values, **{f"{number['metric']}_se": number["standard_error"] for number in measured}}


def _pictures(samples: SampleFiles, steps: int) -> Figure:
    """A line per method that has this number of steps, below the converged path."""
    methods = [method for method in samples.methods if steps in method.steps]
    lines = chain([(samples.truth, samples.truth.steps[0])], ((method, steps) for method in methods))
    return image_figure(
        [(method.name, to_floats(samples.images(method, count)[:SHOWN])) for method, count in lines],
        title=f"{steps} steps",
    )


__all__ = ["ImageReport", "Method", "OtherSampler", "evaluate_images", "report_text"]
