"""`sdesig demo`: a pre-trained diffusion model of digits becomes a Sig-DEG generator, and what that buys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from torch import Tensor

from sdesig._files import check_output, replacing, write_json
from sdesig._progress import progress_bar
from sdesig._random import seeded
from sdesig.digits import load_digits, load_features, load_student, load_teacher, path_space
from sdesig.evaluation import (
    CONVERGED,
    COORDINATES,
    FRECHET,
    INTERVALS,
    Comparison,
    Row,
    Sampler,
    SampleStore,
    error_figure,
    evaluate,
    few_step_peers,
    generator_sampler,
    image_figure,
    markdown_table,
    save_figure,
    training_free,
)
from sdesig.images.peers import peers
from sdesig.sampling import TeacherOptions, information_floor
from sdesig.sigdeg import DistillOptions, SigDEG, TrainingOptions, distill

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (4, 8, 16, 32)
MINE, TWO = "depth-4", "sde-dpm++2m"
SHIPPED = {
    "plain": "plain Sig-DEG, depth 2 (shipped)",
    "depth-1": "Sig-DEG, depth 1 (shipped)",
    "depth-2": "Sig-DEG, depth 2 (shipped)",
}
PIXELS = replace(COORDINATES, name="pixels")
COLUMNS = {
    "method": "method",
    "steps": "steps = evaluations",
    "pathwise_rmse": "pathwise RMSE",
    "seeds_apart": "seeds apart",
    "floor": "floor",
    "frechet_distance": "Frechet distance (classifier features)",
    "law_frechet_distance": "to the teacher's law",
    "seconds_per_1000": "seconds per 1000",
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    iterations: int
    seeds: int
    groups: int
    teacher_steps: tuple[int, ...] = (*STEPS, 100, 1000)


FULL = Size(iterations=400, seeds=2000, groups=1000)
QUICK = Size(iterations=3, seeds=100, groups=50, teacher_steps=STEPS)


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True)
class Demo:
    """Sig-DEG on handwritten digits, from the shipped teacher to a report with figures; goes on if it was stopped."""

    out: Path = Path("runs/demo")
    """Folder for the report, the figures and the generators."""
    seed: int = 0
    """Seed of the training; samples have the seeds 0, 1, ..."""
    quick: bool = False
    """A tiny run in seconds, to see that everything works; its numbers mean nothing."""

    def run(self) -> None:
        """Run the command."""
        out, size, started = self.out, QUICK if self.quick else FULL, time.perf_counter()
        check_output("out", out, folder=True)
        images, _ = load_digits()
        teacher = load_teacher()
        print(
            f"A pre-trained denoiser of 8x8 digits ({sum(p.numel() for p in teacher.parameters()) / 1e6:.2f} million "
            f"parameters) is distilled into Sig-DEG with partial signatures of depth 4 ({size.iterations} iterations).",
            flush=True,
        )
        student = distilled(size, self.seed, out / "distillation")
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
            for steps in progress_bar(STEPS, name=f"floors of depth {depth}", unit="floor", leave=False)
        ]
        print(f"All samplers on the same {size.seeds} seeds and Brownian paths.", flush=True)
        found = evaluate(
            Comparison(teacher, path_space()),
            samplers(student, size),
            images,
            seeds=range(size.seeds),
            extractors=[replace(by, frechet_only=True) for by in (load_features(), PIXELS)],
            floors=floors,
            law=range(size.seeds, 2 * size.seeds),
        )
        rows = [{key: row[key] for key in row if key != "measured"} for row in found.rows if row["key"] != CONVERGED]
        write_json(out / "report.json", {"n": size.seeds, "seeds": f"0 to {size.seeds - 1}", "rows": rows})
        table = markdown_table(rows, COLUMNS)
        with replacing(out / "report.md") as file:
            file.write_text(_text(size, table))
        figures = {
            "errors.png": error_figure(rows, floors),
            "methods.png": methods_figure(found.store),
            "steps.png": steps_figure(student, found.store),
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


def samplers(student: SigDEG, size: Size) -> list[Sampler]:
    """What is compared. All but the depth-4 generator are training-free or shipped."""
    space = path_space()
    free = training_free(space, STEPS)
    free["euler"] = replace(free["euler"], steps=size.teacher_steps)
    others = few_step_peers(space, STEPS)
    free |= {key: others[key] for key in ("dpm-solver++2m", "dpm-solver++3m", "ipndm-4")}
    if find_spec("diffusers"):  # of the extra `images`, which `make demo` installs
        free["unipc"] = peers(load_teacher(), space, STEPS)["unipc"]
    try:
        shipped = [generator_sampler(name, load_student(name), STEPS, label) for name, label in SHIPPED.items()]
    except FileNotFoundError as error:
        shipped = []
        print(f"Rows of shipped generators are left out: {error}.", flush=True)
    return [*free.values(), *shipped, generator_sampler(MINE, student, STEPS, "Sig-DEG, depth 4")]


def methods_figure(store: SampleStore, steps: int = 8, columns: int = 16) -> Figure:
    """One line per sampler at `steps` steps, and one column per seed."""
    lines = [("converged path", _images(store.converged[:columns]))]
    for sampler, n in store.pairs:
        if n == steps:
            lines.append((sampler.label, _images(store.samples(sampler.key, n)[:columns])))
    return image_figure(
        lines, title=f"the same seeds in {steps} steps; columns are seeds", columns=store.seeds[:columns]
    )


def steps_figure(student: SigDEG, store: SampleStore, columns: int = 16) -> Figure:
    """The same seeds at 4 to 100 steps: SDE-DPM-Solver++(2M) and the generator."""
    lines = [(f"2M, {steps} steps", _images(store.samples(TWO, steps)[:columns])) for steps in STEPS]
    for steps in (*STEPS, 100):
        lines.append((f"Sig-DEG, {steps} steps", _images(student.sample(columns, steps).values)))
    return image_figure(
        lines, title="the same seeds in different numbers of steps; columns are seeds", columns=range(columns)
    )


def _images(samples: Tensor) -> Tensor:
    return samples.reshape(-1, 8, 8)


def _text(size: Size, table: str) -> str:
    return (
        f"# Sig-DEG on 8x8 digits\n\nWritten by `make demo`. {size.seeds} seeds, the same Brownian paths for all; "
        f"errors are per pixel of x = y/tau at the last SNR (images in [-1, 1]), against the converged path of the "
        f"seed (none for those that solve the probability flow and have another limit: DDIM, path-average's flow, "
        f"DPM-Solver++ ODE, iPNDM-4 and UniPC). "
        f"{INTERVALS} Frechet distances are to the 1797 real digits, on the 32 features of the shipped classifier and "
        f"on the 64 pixels, at equal n, and to the teacher's own law on the features: converged paths of {size.seeds} "
        f"other seeds. {FRECHET} Seconds are processor seconds, the drawing of the path included. "
        f"Generators use the moving average of their weights. They were not trained equally long: depth 4 "
        f"for {size.iterations} iterations in this run, the shipped ones of depth 1, 2 and plain, where the "
        f"installation has them, for 1000, 2000 and 1500, so that their rows do not compare depths.\n\n"
        f"{table}\n![errors](errors.png)\n\n"
        f"![methods](methods.png)\n\n![steps](steps.png)\n"
    )


def _verdict(rows: Sequence[Row]) -> str:
    """What the numbers say, in a line or two."""
    found = {row["key"]: row for row in rows if row["steps"] == 8}
    mine, best, two = (found[key]["pathwise_rmse"] for key in (MINE, "path-average-grid", TWO))
    return (
        f"At 8 evaluations Sig-DEG of depth 4 is {mine:.3f} off the converged image of its seed: {mine / best:.2f} "
        f"times the untrained path-average scheme on the same grid, {mine / two:.2f} times SDE-DPM-Solver++(2M). "
        f"{100 * found[MINE]['seeds_apart']:.1f} % of the seeds end apart from it."
    )
