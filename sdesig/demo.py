"""`make demo`: a pre-trained diffusion model of handwritten digits becomes a Sig-DEG generator, and what that buys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from sdesig._files import replacing, write_json
from sdesig._random import seeded
from sdesig.digits import (
    SNR,
    load_classifier,
    load_digits,
    load_grid,
    load_student,
    load_teacher,
    path_space,
)
from sdesig.evaluation.comparison import (
    AnySampler,
    Comparison,
    OtherSampler,
    Outcome,
    Sampler,
    baselines,
    generator_sampler,
)
from sdesig.evaluation.report import (
    FRECHET,
    INTERVALS,
    Row,
    error_figure,
    image_figure,
    markdown_table,
    report_rows,
    save_figure,
)
from sdesig.images.unipc import peer_samples
from sdesig.sampling import DPMSolver2M
from sdesig.sampling.information_floor import information_floor
from sdesig.sampling.teacher_paths import TeacherOptions
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.distillation import DistillOptions, distill
from sdesig.sigdeg.training import TrainingOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (4, 8, 16, 32)
TEACHER_STEPS = (4, 8, 16, 32, 100, 1000)
COLUMNS = {
    "method": "method",
    "steps": "steps = evaluations",
    "pathwise_rmse": "pathwise RMSE",
    "seeds_apart": "seeds apart",
    "floor": "floor",
    "frechet_distance": "Frechet distance (classifier features)",
    "frechet_distance_pixels": "Frechet distance (pixels)",
    "seconds_per_1000": "seconds per 1000",
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    iterations: int
    seeds: int
    groups: int
    teacher_steps: tuple[int, ...] = TEACHER_STEPS


FULL = Size(iterations=400, seeds=2000, groups=1000)
QUICK = Size(iterations=3, seeds=100, groups=50, teacher_steps=(4, 8, 16, 32))


def run_demo(out: Path, *, seed: int = 0, quick: bool = False) -> None:
    """Distil, compare on the same seeds, and write report.json, report.md and three figures to a folder.

    Args:
        out: the folder; a distillation in it that was stopped goes on.
        seed: of the training; samples have the seeds 0, 1, ...
        quick: a tiny run, to see that everything works.
    """
    size, started = QUICK if quick else FULL, time.perf_counter()
    images, _ = load_digits()
    teacher = load_teacher()
    print(
        f"A pre-trained denoiser of 8x8 digits ({sum(p.numel() for p in teacher.parameters()) / 1e6:.2f} million "
        f"parameters) is distilled into Sig-DEG with partial signatures of depth 4 ({size.iterations} iterations).",
        flush=True,
    )
    student = distilled(size, seed, out / "distillation")
    print(f"\nFloors: {size.groups} pairs of paths each, for depths 1, 2, 4.", flush=True)
    floors = [
        information_floor(
            teacher,
            path_space(),
            steps=steps,
            depth=depth,
            groups=size.groups,
            teacher_options=TeacherOptions(steps=128),
        )
        for depth in (1, 2, 4)
        for steps in tqdm(STEPS, desc=f"floors of depth {depth}", leave=False)
    ]
    print(f"All samplers on the same {size.seeds} seeds and Brownian paths.", flush=True)
    comparison = Comparison(teacher, path_space())
    with tqdm(total=size.seeds, unit="seed") as bar:
        converged, outcomes = comparison.run(
            plan(student, size), range(size.seeds), lambda done: bar.update(done - bar.n)
        )
    features = {"classifier": load_classifier().features, "pixels": lambda x: x}
    with torch.no_grad():
        rows = report_rows(outcomes, floors=floors, features=features, real=images)
    write_json(out / "report.json", {"n": size.seeds, "seeds": f"0 to {size.seeds - 1}", "rows": rows})
    table = markdown_table(rows, COLUMNS)
    with replacing(out / "report.md") as file:
        file.write_text(_text(size, table))
    figures = {
        "errors.png": error_figure(rows, floors),
        "methods.png": methods_figure(outcomes, converged),
        "steps.png": steps_figure(student, outcomes),
    }
    for name, figure in figures.items():
        save_figure(figure, out / name, dpi=130)
    print(f"\n{table}\n{_verdict(rows)}")
    for name in ("report.json", "report.md", *figures):
        print(f"  -> {out / name}")
    print(f"{time.perf_counter() - started:.0f} s")


def distilled(size: Size, seed: int, out: Path) -> SigDEG:
    """The depth-4 generator, distilled live."""
    with seeded(seed):
        student = SigDEG.from_teacher(load_teacher(), path_space(), depth=4)
    options = DistillOptions(
        steps=(4, 16),
        teacher_options=TeacherOptions(steps=64, cells=32),
        training=TrainingOptions(
            iterations=size.iterations, learning_rate=2e-3, warmup=50, ema=0.99, seed=seed, checkpoint_every=100
        ),
    )
    return distill(student, load_teacher(), out, options, data=load_digits()[0])


def plan(student: SigDEG, size: Size) -> list[tuple[AnySampler, Sequence[int]]]:
    """Samplers and their numbers of steps. All but the depth-4 generator are training-free or shipped."""
    euler, *others = baselines(load_grid())
    flows: list[AnySampler] = [Sampler("DPM-Solver++(2M)", DPMSolver2M(), eta=0.0)]
    if find_spec("diffusers"):  # of the extra `images`, which `make demo` installs
        flows.append(OtherSampler("UniPC", partial(peer_samples, load_teacher(), snr=SNR)))
    shipped = [
        generator_sampler("plain Sig-DEG, depth 2 (shipped)", load_student("plain")),
        generator_sampler("Sig-DEG, depth 1 (shipped)", load_student("depth-1")),
        generator_sampler("Sig-DEG, depth 2 (shipped)", load_student("depth-2")),
    ]
    mine = generator_sampler("Sig-DEG, depth 4", student)
    return [(euler, size.teacher_steps), *((sampler, STEPS) for sampler in (*others, *flows, *shipped, mine))]


def methods_figure(outcomes: Sequence[Outcome], converged: Tensor, steps: int = 8, columns: int = 16) -> Figure:
    """One line per method at `steps` steps, and one column per seed."""
    lines = [("converged path", _images(converged[:columns]))]
    lines += [(o.sampler.name, _images(o.samples[:columns])) for o in outcomes if o.steps == steps]
    return image_figure(lines, title=f"the same seeds in {steps} steps")


def steps_figure(student: SigDEG, outcomes: Sequence[Outcome], columns: int = 16) -> Figure:
    """The same seeds at 4 to 100 steps: SDE-DPM-Solver++(2M) and the generator."""
    lines = []
    for o in outcomes:
        if o.sampler.name == "SDE-DPM-Solver++(2M)":
            lines.append((f"2M, {o.steps} steps", _images(o.samples[:columns])))
    for steps in (*STEPS, 100):
        lines.append((f"Sig-DEG, {steps} steps", _images(student.sample(columns, steps).values)))
    return image_figure(lines, title="the same seeds in different numbers of steps")


def _images(samples: Tensor) -> Tensor:
    return samples.reshape(-1, 8, 8)


def _text(size: Size, table: str) -> str:
    return (
        f"# Sig-DEG on 8x8 digits\n\nWritten by `make demo`. {size.seeds} seeds, the same Brownian paths for all; "
        f"errors are per pixel of x = y/tau at the last SNR (images in [-1, 1]), against the converged path of the "
        f"seed (none for DDIM, DPM-Solver++(2M) and UniPC, which solve the probability flow and have another limit). "
        f"{INTERVALS} Frechet distances are to the 1797 real digits, on the 32 features of the shipped classifier and "
        f"on the 64 pixels, at equal n. {FRECHET} Seconds are processor seconds, the drawing of the path included. "
        f"Generators use the moving average of their weights. They were not trained equally long: depth 4 "
        f"for {size.iterations} iterations in this run, the shipped ones of depth 1, 2 and plain for 1000, 2000 and "
        f"1500, so that their rows do not compare depths.\n\n{table}\n![errors](errors.png)\n\n"
        f"![methods](methods.png)\n\n![steps](steps.png)\n"
    )


def _verdict(rows: Sequence[Row]) -> str:
    """What the numbers say, in a line or two."""
    found = {(row["method"], row["steps"]): row for row in rows}

    def error(method: str, steps: int) -> float:
        return float(found[method, steps]["pathwise_rmse"])

    mine, best, two = (error(m, 8) for m in ("Sig-DEG, depth 4", "path-average, reference", "SDE-DPM-Solver++(2M)"))
    return (
        f"At 8 evaluations Sig-DEG of depth 4 is {mine:.3f} off the converged image of its seed: {mine / best:.2f} "
        f"times the path-average scheme with its reference, {mine / two:.2f} times SDE-DPM-Solver++(2M). "
        f"{100 * found['Sig-DEG, depth 4', 8]['seeds_apart']:.1f} % of the seeds end apart from it."
    )
