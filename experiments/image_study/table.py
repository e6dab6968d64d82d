"""The table: all samplers on the same seeds, and what was aimed at."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from experiments.image_study.study import Study
from experiments.targets import TITLES, Line, line
from sdesig.evaluation import (
    Comparison,
    FeatureExtractor,
    ImageSet,
    PerceptualDistance,
    Sampler,
    SampleStore,
    evaluate,
    file_digest,
    frechet_ratio,
    generator_sampler,
    load_extractor,
    load_perceptual,
    markdown_table,
    paired_ratio,
    reference_statistics,
    replacing,
    report_text,
    training_free,
    write_json,
)
from sdesig.images import peers
from sdesig.sampling import PathSpace
from sdesig.sigdeg import WEIGHTS, ModelDenoiser, NetworkDenoiser, SigDEG, on_main

MOST_OF_FEW = 20
FEWEST_FOR_FRECHET = 1000
"""Seeds below which the bias of a Frechet distance is much of it, and no target is called met or missed."""
TWO, ANCESTRAL = "sde-dpm++2m", "euler"
AIMED = (("depth-4", 10), ("plain", 100))
"""Samplers with targets, and at how many steps."""
STUDENTS = {"plain": "plain Sig-DEG, depth 2", **{f"depth-{depth}": f"Sig-DEG, depth {depth}" for depth in (1, 2, 4)}}
"""Labels of the students by the names of their runs, which are the keys."""


def samplers_of(
    study: Study, teacher: ModelDenoiser, space: PathSpace, students: Mapping[str, SigDEG], runs: Path
) -> list[Sampler]:
    """All samplers with their numbers of steps; students from folders of `runs`."""
    few = tuple(n for n in study.steps if n <= MOST_OF_FEW)
    made = training_free(space, study.steps) | {"unipc": peers(teacher, space, study.steps)["unipc"]}
    made[ANCESTRAL] = replace(made[ANCESTRAL], steps=(*study.steps, study.teacher_steps))
    for key, label in STUDENTS.items():
        folder = study.student_folder(key, runs)
        assert folder is not None
        made[key] = generator_sampler(key, students[key], study.steps, label, file_digest(folder / WEIGHTS), ema=True)
    return [replace(sampler, steps=few) if key in study.few else sampler for key, sampler in made.items()]


def table(
    study: Study,
    teacher: NetworkDenoiser,
    students: Mapping[str, SigDEG],
    data: ImageSet,
    options: argparse.Namespace,
) -> None:
    """report.md with the targets, report.json, figures; options are those of the command line."""
    space, folder = study.space(teacher, data, options.runs), options.runs / "table"
    comparison = Comparison(teacher, space)
    comparison.batch = study.block
    data = study.compared_with(data)
    extractors = [load_extractor(source, options.device) for source in options.extractor]
    perceptual = [load_perceptual(source, options.device) for source in options.perceptual]
    found = evaluate(
        comparison,
        samplers_of(study, teacher, space, students, options.runs),
        data,
        folder,
        seeds=range(options.seeds),
        law=range(options.seeds, options.seeds + options.law) if options.law else None,
        extractors=extractors,
        perceptual=perceptual,
        ema=True,
    )
    verdicts = targets(study, found.store, data, extractors, perceptual, folder / "reference")
    on_main(lambda: _publish(study, options.command, data, verdicts, folder, options.out))


def _publish(study: Study, command: str, data: ImageSet, verdicts: list[Line], folder: Path, out: Path) -> None:
    """Figures and tables of a folder, with the targets."""
    out.mkdir(parents=True, exist_ok=True)
    for file in (folder / "report.json", *folder.glob("*.png")):
        shutil.copyfile(file, out / file.name)
    write_json(out / "targets.json", verdicts)
    write_text(study, command, data, out)


def write_text(study: Study, command: str, data: ImageSet, out: Path) -> None:
    """report.md, from report.json and targets.json beside it."""
    rows, verdicts = (json.loads((out / name).read_text()) for name in ("report.json", "targets.json"))
    text = report_text(rows, study.compared_with(data))
    with replacing(out / "report.md") as file:
        file.write_text(
            f"# {study.title}\n\nWritten by `{command}`. {text}\n## Targets\n\n{markdown_table(verdicts, TITLES)}\n"
            f"{study.remarks}"
        )
    print(markdown_table(verdicts, TITLES))


def targets(
    study: Study,
    store: SampleStore,
    data: ImageSet,
    extractors: list[FeatureExtractor],
    perceptual: list[PerceptualDistance],
    reference: Path,
) -> list[Line]:
    """What was aimed at, and what was measured, on the same seeds; the statistics of the data are in a folder."""
    lines = []
    for extractor in extractors:
        real = reference_statistics(data, extractor, cache=reference).statistics
        of_teacher = store.features(extractor, ANCESTRAL, study.teacher_steps)
        for key, steps in AIMED:
            ratio = frechet_ratio(store.features(extractor, key, steps), of_teacher, real)
            found = line(
                f"{STUDENTS[key]}, {steps} steps: {extractor.frechet_name} over the teacher's <= 1.05", ratio, 1.05
            )
            if len(store.seeds) < FEWEST_FOR_FRECHET:
                found["passed"] = "too few seeds"
            lines.append(found)
    for distance in perceptual:
        two = store.distances(distance, TWO, 10).clamp(min=0).sqrt()
        for key, steps in AIMED:
            own = store.distances(distance, key, steps).clamp(min=0).sqrt()
            value, low, high = (bound**2 for bound in paired_ratio(own, two))  # of means, not root mean squares
            target = f"{STUDENTS[key]}, {steps} steps: {distance.name} over that of 2M, 10 steps <= .5"
            lines.append(line(target, (value, low, high), 0.53))
    return lines
