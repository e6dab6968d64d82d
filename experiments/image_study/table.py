"""The table: all samplers on the same seeds, and what was aimed at."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from experiments.files import WEIGHTS, file_digest, replacing, write_json
from experiments.image_study.study import SNR, Study
from experiments.targets import TITLES, Line, line
from sdesig import _processes as processes
from sdesig.evaluation import Comparison
from sdesig.evaluation.comparison import baselines, generator_sampler
from sdesig.evaluation.features import FeatureExtractor, PerceptualDistance, load_extractor, load_perceptual
from sdesig.evaluation.frechet import frechet_ratio
from sdesig.evaluation.image_report import Method, OtherSampler, evaluate_images, report_text
from sdesig.evaluation.pixels import ImageSet
from sdesig.evaluation.reference_statistics import reference_statistics
from sdesig.evaluation.report import markdown_table
from sdesig.evaluation.sample_store import SampleFiles
from sdesig.images import peer_samples
from sdesig.sampling import PathAverage, paired_ratio
from sdesig.sigdeg import ModelDenoiser, SigDEG

MOST_OF_FEW = 20
FEWEST_FOR_FRECHET = 1000
"""Seeds below which the bias of a Frechet distance is much of it, and no target is called met or missed."""
TWO, PLAIN = "SDE-DPM-Solver++(2M)", "plain Sig-DEG, depth 2"
ANCESTRAL = "Euler = SDE-DPM-Solver++(1)"
AIMED = (("Sig-DEG, depth 4", 10), (PLAIN, 100))
"""Methods with targets, and at how many steps."""


def methods_of(study: Study, teacher: ModelDenoiser, students: Mapping[str, SigDEG], runs: Path) -> list[Method]:
    """All samplers with their numbers of steps; students from folders of `runs`."""

    def steps(name: str) -> tuple[int, ...]:
        if name == ANCESTRAL:
            return (*study.steps, study.teacher_steps)
        return tuple(n for n in study.steps if n <= MOST_OF_FEW or name not in study.few)

    names = {"plain": PLAIN, **{f"depth-{depth}": f"Sig-DEG, depth {depth}" for depth in (1, 2, 4)}}
    return [
        *(
            Method(sampler, steps(sampler.name))
            for sampler in baselines(students["depth-4"].space.grid)
            if sampler.referenced or not isinstance(sampler.scheme, PathAverage)
        ),
        Method(OtherSampler("UniPC", partial(_unipc, teacher)), study.steps),
        *(
            Method(
                generator_sampler(name, students[run]),
                steps(name),
                ema=True,
                digest=file_digest(runs / run / "student" / WEIGHTS),
            )
            for run, name in names.items()
        ),
    ]


def _unipc(teacher: ModelDenoiser, y: Tensor, steps: int) -> Tensor:
    return peer_samples(teacher, y, steps, snr=SNR)


def table(
    study: Study,
    teacher: ModelDenoiser,
    students: Mapping[str, SigDEG],
    data: ImageSet,
    options: argparse.Namespace,
) -> None:
    """report.md with the targets, report.json, figures; options are those of the command line."""
    comparison, folder = Comparison(teacher, students["depth-4"].space), options.runs / "table"
    comparison.batch = study.block
    data = data.subset(min(study.compared, len(data)))
    extractors = [load_extractor(source, options.device) for source in options.extractor]
    perceptual = [load_perceptual(source, options.device) for source in options.perceptual]
    report = evaluate_images(
        comparison,
        methods_of(study, teacher, students, options.runs),
        data,
        folder,
        n=options.seeds,
        extractors=extractors,
        perceptual=perceptual,
        ema=True,
    )
    verdicts = targets(study, report.samples, data, extractors, perceptual, folder / "reference")
    processes.on_main(lambda: _publish(study, options.command, data, verdicts, folder, options.out))


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
    text = report_text(rows, data.subset(min(study.compared, len(data))))
    with replacing(out / "report.md") as file:
        file.write_text(
            f"# {study.title}\n\nWritten by `{command}`. {text}\n## Targets\n\n{markdown_table(verdicts, TITLES)}\n"
            f"{study.remarks}"
        )
    print(markdown_table(verdicts, TITLES))


def targets(
    study: Study,
    samples: SampleFiles,
    data: ImageSet,
    extractors: list[FeatureExtractor],
    perceptual: list[PerceptualDistance],
    reference: Path,
) -> list[Line]:
    """What was aimed at, and what was measured, on the same seeds; the statistics of the data are in a folder."""
    methods, lines = {method.name: method for method in samples.methods}, []
    for extractor in extractors:
        real = reference_statistics(data, extractor, cache=reference).statistics
        of_teacher = samples.features(extractor, methods[ANCESTRAL], study.teacher_steps)
        for name, steps in AIMED:
            ratio = frechet_ratio(samples.features(extractor, methods[name], steps), of_teacher, real)
            found = line(f"{name}, {steps} steps: {extractor.frechet_name} over the teacher's <= 1.05", ratio, 1.05)
            if len(samples.seeds) < FEWEST_FOR_FRECHET:
                found["passed"] = "too few seeds"
            lines.append(found)
    for distance in perceptual:
        two = samples.distances(distance, methods[TWO], 10).clamp(min=0).sqrt()
        for name, steps in AIMED:
            own = samples.distances(distance, methods[name], steps).clamp(min=0).sqrt()
            value, low, high = (bound**2 for bound in paired_ratio(own, two))  # of means, not root mean squares
            target = f"{name}, {steps} steps: {distance.name} over that of 2M, 10 steps <= .5"
            lines.append(line(target, (value, low, high), 0.53))
    return lines
