"""Samplers of one teacher on the same seeds: drawn, measured and reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig import _processes as processes
from sdesig._checks import check_floating, check_instance, check_integer
from sdesig._figures import save_figure
from sdesig._files import read_json, replacing, write_json
from sdesig._philox import check_seeds
from sdesig._progress import progress_bar
from sdesig.evaluation.comparison import CONVERGED, Comparison
from sdesig.evaluation.features import (
    COORDINATES,
    FeatureExtractor,
    PerceptualDistance,
    ReferenceStatistics,
    reference_statistics,
)
from sdesig.evaluation.metrics import Measured, measure_pairs, measure_samples
from sdesig.evaluation.pixels import ImageSet, pixel_digest, to_floats
from sdesig.evaluation.report import Row, error_figure, image_figure, report_row, report_text
from sdesig.evaluation.sample_store import SampleStore
from sdesig.evaluation.samplers import Sampler
from sdesig.evaluation.teacher_law import TeacherLaw, check_law_seeds
from sdesig.sampling.information_floor import Floor, information_floor
from sdesig.sampling.teacher_paths import TeacherOptions

SHOWN = 12
"""Seeds in a picture."""
FEWEST = 20
"""Images whose features are compared: kernel distances are means over ten parts."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measures.

    Attributes:
        rows: a dictionary per sampler and number of steps, see `report_row`; the first is of the converged paths.
        floors: those that rows have.
        store: the samples and the errors per seed, by key and number of steps.
        law: converged paths of other seeds, the teacher's own law; None where it was not drawn.
    """

    rows: list[Row]
    floors: list[Floor]
    store: SampleStore
    law: SampleStore | None = None


@torch.no_grad()
def evaluate(
    comparison: Comparison,
    samplers: Sequence[Sampler],
    data: Tensor | ImageSet | None = None,
    out: str | Path | None = None,
    *,
    seeds: Sequence[int],
    law: Sequence[int] | None = None,
    extractors: Sequence[FeatureExtractor] = (),
    perceptual: Sequence[PerceptualDistance] = (),
    floors: Sequence[Floor] = (),
    floor_groups: int = 0,
    ema: bool | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    recorded: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Draw the same seeds by all samplers, measure them, and write a report.

    Samples are drawn block by block, of `comparison.batch` seeds, and kept in memory or in out/samples (`SampleStore`).
    There a run that was stopped goes on, and samplers, steps, seeds, extractors and floors may be added: what is there
    is not drawn again, nor compared again. Processes, started by torchrun, share the blocks. A block needs half a
    gigabyte for its paths if it has no more than 2^18/d seeds, d the coordinates of a sample: 85 for 3 x 32 x 32. 1000
    steps need `comparison.space.cells` = 1024.

    out/ then has report.json (the rows), report.md, errors.png (pathwise errors against evaluations) and, of images,
    images-N.png for every number of steps: a row per sampler, a column per seed.

    Args:
        comparison: of the teacher; `Comparison(teacher, generator.space)`.
        samplers: what to evaluate. The ancestral sampler in 1000 steps is "euler" of `training_free` at 1000.
        data: what the samples are compared with: floats (m, *event), or images, which make images of 256 levels of
            the samples too; None to measure pathwise errors alone.
        out: folder; None to write nothing.
        seeds: one per sample, n; a range with step 1 if there is a folder.
        law: other seeds, as many as `seeds` or more, such as those that follow them; also a range with step 1 if there
            is a folder. Their converged paths stand for the teacher's own law: rows then have distances to it, by all
            extractors and of floats by the coordinates, if there are more samples than coordinates, and the share of
            seeds that changed, see `share_changed`. The first row, of the converged paths of `seeds`, is then the noise
            floor. None: not measured.
        extractors: of features, see `measure_samples`; of images n >= 20. Default for floats: the coordinates, if there
            are more samples than coordinates.
        perceptual: distances of images to the converged path's image of the same seed, of samplers that follow it.
        floors: known information floors.
        floor_groups: pairs of paths, of about `comparison.truth_steps` fine steps, for the information floor of every
            generator at its numbers of steps, kept in out/floors.json; 0: no other floors than those that are known.
        ema: whether the teacher is a moving average; None if unknown.
        decode: of a latent model's samples to images in [-1, 1]; pathwise errors are of the latents.
        recorded: what else identifies the teacher, JSON-serializable: its samples are not taken for another one's.
        cache: folder for reference statistics of images, which runs may share; default out/reference.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: bad arguments; data of another shape; out has samples of another teacher or other paths.
        FloatingPointError: see `Run.take`.
        OSError: a full disk; complete files stay valid.
    """
    check_integer("floor_groups", floor_groups, 0)
    _check(comparison, data, seeds, law, extractors, perceptual, decode)
    by_law = (
        [] if law is None else _extractors_of_law(comparison, data, seeds, law, extractors, in_folder=out is not None)
    )
    if isinstance(data, Tensor) and not extractors and min(len(data), len(seeds)) > data[0].numel():
        extractors = [COORDINATES]
    out = None if out is None else Path(out)
    folder = None if out is None else out / "samples"
    stored = partial(
        SampleStore, comparison, folder=folder, images=isinstance(data, ImageSet), decode=decode, recorded=recorded
    )
    store = stored(samplers, seeds)
    store.make(progress=progress)
    of_teacher = None if law is None else TeacherLaw(stored([], law), by_law)
    if of_teacher is not None:
        of_teacher.store.make(progress=progress, name="the teacher's law")
    with processes.main_first():
        file = None if out is None else out / "floors.json"
        known = [*floors, *_floors(comparison, samplers, floor_groups, file)]
    cache = cache or (out and out / "reference")
    references = {}
    if data is not None:
        references = {extractor: reference_statistics(data, extractor, cache=cache) for extractor in extractors}
    truth = pixel_digest(store.samples(CONVERGED, comparison.truth_steps)) if perceptual else ""
    rows = []
    for sampler, steps in progress_bar(store.pairs, name="comparing", unit="row", shown=progress):
        measured = _measure(store, sampler, steps, references, of_teacher, perceptual, truth, ema)
        rows.append(
            report_row(
                store, sampler.key, steps, floors=known, measured=measured, extractors=extractors, law=of_teacher
            )
        )
    found = Evaluation(rows, known, store, None if of_teacher is None else of_teacher.store)
    if out is not None:
        processes.on_main(lambda: _write(found, data, out))
    return found


def _check(
    comparison: Comparison,
    data: Tensor | ImageSet | None,
    seeds: Sequence[int],
    law: Sequence[int] | None,
    extractors: Sequence[FeatureExtractor],
    perceptual: Sequence[PerceptualDistance],
    decode: Callable[[Tensor], Tensor] | None,
) -> None:
    """Raise TypeError or ValueError for what does not fit the data."""
    images = isinstance(data, ImageSet)
    check_instance("comparison", comparison, Comparison)
    check_integer("number of seeds", len(check_seeds(seeds)), FEWEST if extractors and images else 2)
    if isinstance(data, ImageSet):
        if extractors:
            check_integer("number of images in data", len(data), FEWEST)
        if decode is None:
            data.check_event(comparison.space.event, "the teacher")
    elif perceptual or decode is not None:
        raise ValueError("perceptual and decode must not be given without images as data")
    elif data is not None and not (len(check_floating("data", data).shape) and len(data)):
        raise ValueError(f"data must not be empty; got shape {tuple(data.shape)}")
    elif data is not None and tuple(data.shape[1:]) != comparison.space.event:
        raise ValueError(f"data must have shape (n, *{comparison.space.event}); got {tuple(data.shape)}")
    if data is None and law is None and extractors:
        raise ValueError("extractors must not be given without data or law")
    for extractor in extractors:
        if extractor.floats == images:
            wanted = "images" if images else "vectors (its `floats`)"
            raise ValueError(f"extractors must take {wanted}, as the data are; {extractor.name} does not")


def _extractors_of_law(
    comparison: Comparison,
    data: Tensor | ImageSet | None,
    seeds: Sequence[int],
    law: Sequence[int],
    extractors: Sequence[FeatureExtractor],
    *,
    in_folder: bool,
) -> list[FeatureExtractor]:
    """What samples and law are compared by; raise TypeError or ValueError for seeds of a law that cannot be such."""
    images, coordinates = isinstance(data, ImageSet), math.prod(comparison.space.event)
    check_law_seeds(law, seeds, FEWEST if extractors and images else 2, in_folder=in_folder)
    known = {extractor.digest for extractor in extractors}
    enough = not images and min(len(seeds), len(law)) > coordinates
    chosen = [*extractors, *([COORDINATES] if enough and COORDINATES.digest not in known else [])]
    if not chosen:
        wanted = "without extractors of images" if images else f"or have, as seeds, more than {coordinates} seeds"
        raise ValueError(f"law must be None {wanted}; got {len(law)} seeds")
    return chosen


def _write(found: Evaluation, data: Tensor | ImageSet | None, out: Path) -> None:
    rows = found.rows
    write_json(out / "report.json", rows)
    with replacing(out / "report.md") as file:
        file.write_text(report_text(rows, data))
    if any(row["pathwise_rmse"] for row in rows):
        save_figure(error_figure(rows, found.floors), out / "errors.png")
    if isinstance(data, ImageSet):
        seeds = list(found.store.seeds[:SHOWN])
        for steps in sorted({row["steps"] for row in rows[1:]}):
            shown = [(s, n) for s, n in found.store.pairs if n == steps or s.key == CONVERGED]
            lines = [(s.label, to_floats(found.store.samples(s.key, n)[:SHOWN])) for s, n in shown]
            save_figure(
                image_figure(lines, title=f"{steps} steps; columns are seeds", columns=seeds),
                out / f"images-{steps}.png",
            )


def _floors(comparison: Comparison, samplers: Sequence[Sampler], groups: int, file: Path | None) -> Iterator[Floor]:
    """The floors of every generator in the reference's variables, at every number of its steps; a file keeps them."""
    wanted = {
        (sampler.depth, steps, sampler.grid)
        for sampler in samplers
        for steps in sampler.steps
        if groups and sampler.depth and sampler.referenced
    }
    for depth, steps, grid in sorted(wanted, key=lambda key: (key[0], key[1], str(key[2].to_json()))):
        key = f"depth {depth}, {steps} steps, {groups} groups, quantiles {grid.to_json()}"
        known = read_json(file) if file is not None and file.exists() else {}
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
            if file is not None:
                write_json(file, known)
        yield Floor(**{**known[key], "quantiles": grid.quantiles})  # a list in the file


def _measure(
    store: SampleStore,
    sampler: Sampler,
    steps: int,
    references: Mapping[FeatureExtractor, ReferenceStatistics],
    law: TeacherLaw | None,
    perceptual: Sequence[PerceptualDistance],
    truth: str,
    ema: bool | None,
) -> list[Measured]:
    seeds = store.seeds[0], store.seeds[-1]
    own = ema if sampler.ema is None else sampler.ema
    found = []
    for extractor, reference in references.items():
        features = store.features(extractor, sampler.key, steps)
        found += measure_samples(features, extractor, reference, seeds=seeds, ema=own, quantization=store.quantization)
    if law is not None:
        found += law.measure(store, sampler.key, steps, ema=own)
    if store.errors(sampler.key, steps) is not None:
        for distance in perceptual:
            values = store.distances(distance, sampler.key, steps)
            found.append(measure_pairs(values, distance, reference_digest=truth, seeds=seeds, ema=own))
    return found
