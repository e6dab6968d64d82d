"""What a study is made of, and how its teacher and students are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sdesig.evaluation import VERDICT_EVALUATIONS, VERDICT_STEPS, ImageSet, file_digest, verdict
from sdesig.images import load_images, peers
from sdesig.sampling import LAW_FOR_IMAGES, GaussianReference, PathSpace, StepGrid, TeacherOptions, choose_grid
from sdesig.sigdeg import (
    WEIGHTS,
    DistillOptions,
    Network,
    NetworkDenoiser,
    SigDEG,
    TrainingOptions,
    distill,
    main_first,
    on_main,
    train_teacher,
)

SNR = (1 / 20**2, 1 / 0.05**2)
"""Noise of standard deviation 20 to .05, for images in [-1, 1]."""
STEPS, TEACHER_STEPS = (5, 8, 10, 20, 50, 100), 1000
FITTED = 60_000
"""Most images that a reference is fitted to: in float64 and 3 x 64 x 64 they are 6 GB."""
CELLS, DEPTH = 1024, 4
"""Of the paths: cells enough for the 1000 steps of the teacher, the depth of the deepest student."""


@dataclass(frozen=True)
class Run:
    """One distillation.

    Its steps are Karras' without a reference and even with one, behind the free one that is measured; the plain cell
    has no reference and even steps, as the paper's.
    """

    options: DistillOptions
    depth: int = 4
    cell: str = "solver"


def runs_of(solver: DistillOptions, iterations: tuple[int, int, int, int]) -> dict[str, Run]:
    """Students of depth 4, 2 and 1 by the same options, and the plain one of depth 2 by the paper's teacher.

    Args:
        solver: options of depth 4, but for the iterations.
        iterations: of depth 4, plain, depth 2 and depth 1.
    """

    def trained(options: DistillOptions, count: int) -> DistillOptions:
        return replace(options, training=replace(options.training, iterations=count))

    slow = replace(solver.training, learning_rate=0.3 * solver.training.learning_rate)  # it starts near its end
    teacher = TeacherOptions(scheme="euler", steps=TEACHER_STEPS, cells=100)
    paper = replace(solver, steps=(50, 100), teacher_options=teacher, training=slow)
    four, plain, two, one = iterations
    return {
        "depth-4": Run(trained(solver, four)),
        "plain": Run(trained(paper, plain), depth=2, cell="plain"),
        "depth-2": Run(trained(solver, two), depth=2),
        "depth-1": Run(trained(solver, one), depth=1),
    }


@dataclass(frozen=True)
class Study:
    """All that one experiment chooses.

    Attributes:
        title: of its report.
        channels, size: of the images.
        network: makes the teacher's network, from torch's global generator.
        teacher: its training, with batches of `batch` images, `log_sigma` as in `train_teacher`, mirrored or not.
        runs: the distillations.
        seeds: samples of every row of the table, a block of `block` at once.
        grid_paths: paths on which the grid is chosen.
        verdict: evaluations of the network for the verdict on every student; 0: none.
        compared: training images with whose features those of samples are compared, at most.
        steps, teacher_steps: of the samplers, and of the teacher's own.
        remarks: on what was measured, for the report.
        committed: folder of a teacher and of students/NAME that were trained already: then a study trains none of
            them, but for --part teacher or the name of a student.
        few: keys of samplers that are not asked for more than 20 steps, where evaluations are dear.
        reference_of_students: kind of the reference of all but the plain cell.
    """

    title: str
    channels: int
    size: int
    network: Callable[[], Network]
    teacher: TrainingOptions
    batch: int
    runs: Mapping[str, Run]
    log_sigma: tuple[float, float] = (-0.5, 1.5)
    flip: bool = False
    seeds: int = 2000
    block: int = 250
    grid_paths: int = 192
    verdict: int = VERDICT_EVALUATIONS
    compared: int = 10_000
    steps: tuple[int, ...] = STEPS
    teacher_steps: int = TEACHER_STEPS
    remarks: str = ""
    few: frozenset[str] = field(default_factory=frozenset)
    committed: Path | None = None
    reference_of_students: str = "none"

    def images(self, source: str, cache: Path) -> ImageSet:
        """The training images, as `load_images` reads them."""
        return load_images(source, channels=self.channels, size=self.size, cache=cache)

    def compared_with(self, images: ImageSet) -> ImageSet:
        """The training images with whose features those of samples are compared."""
        return images.subset(min(self.compared, len(images)))

    def reference(self, images: ImageSet, kind: str) -> GaussianReference:
        """The reference of the training images, of a kind of `GaussianReference.fit`, on the CPU."""
        return GaussianReference.fit(images.subset(min(FITTED, len(images))).floats(device="cpu"), kind)

    def trained_teacher(self, images: ImageSet, runs: Path, device: torch.device) -> NetworkDenoiser:
        """Train the teacher, or go on, or read what is done; the committed one where there is no training."""
        if (folder := self._teacher_folder(runs)) is not None:
            return NetworkDenoiser.load(folder, device)
        torch.manual_seed(0)
        network = self.network().to(device)
        return train_teacher(
            network,
            images.to(device),
            runs / "teacher",
            self.teacher,
            batch=self.batch,
            log_sigma=self.log_sigma,
            flip=self.flip,
        )

    def _teacher_folder(self, runs: Path) -> Path | None:
        """Where a trained teacher is: in the runs, else the committed one unless a training has begun."""
        return self._folder_of(runs / "teacher", "teacher", "teacher")

    def student_folder(self, name: str, runs: Path) -> Path | None:
        """Where a trained student is: in the runs, else the committed one unless a training has begun."""
        return self._folder_of(runs / name, "student", f"students/{name}")

    def _folder_of(self, run: Path, trained: str, committed: str) -> Path | None:
        if (run / trained).exists():
            return run / trained
        if run.exists() or self.committed is None or not (self.committed / committed).exists():
            return None
        return self.committed / committed

    def distilled(self, name: str, teacher: NetworkDenoiser, images: ImageSet, runs: Path) -> SigDEG:
        """Distil the student of a name, or go on, or read what is done, with its verdict; on the teacher's device."""
        trained, file = self._distilled(name, teacher, images, runs), runs / name / "verdict.json"
        if self.verdict and file.parent.exists() and not file.exists():
            unipc = peers(teacher, trained.space, VERDICT_STEPS)["unipc"]
            kept = runs / name / "verdict"
            found = verdict(trained, teacher, samplers=[unipc], evaluations=self.verdict, folder=kept)
            on_main(lambda: found.save(file))
            on_main(lambda: print(found.text))
        return trained

    def space(self, teacher: NetworkDenoiser, images: ImageSet, runs: Path) -> PathSpace:
        """What a seed means in the table: the cosine reference, and the grid that suits it."""
        reference = self.reference(images, "dct").to(next(teacher.parameters()).device)
        space = PathSpace(teacher.event, SNR, reference, cells=CELLS, depth=DEPTH)
        return replace(space, grid=self._grid(teacher, space, runs / "grid.json", law=LAW_FOR_IMAGES))

    def _distilled(self, name: str, teacher: NetworkDenoiser, images: ImageSet, runs: Path) -> SigDEG:
        run, device = self.runs[name], next(teacher.parameters()).device
        if (folder := self.student_folder(name, runs)) is not None:
            return SigDEG.load(folder, device=device)
        kind = "none" if run.cell == "plain" else self.reference_of_students
        space = PathSpace(teacher.event, SNR, self.reference(images, kind).to(device), cells=CELLS, depth=DEPTH)
        if run.cell != "plain":
            steps = StepGrid.karras(SNR) if kind == "none" else StepGrid()
            space = replace(space, grid=self._grid(teacher, space, runs / "student-grid.json", steps=steps))
        torch.manual_seed(0)
        made = SigDEG.from_teacher(teacher, space, depth=run.depth, cell=run.cell)
        return distill(made.to(device), teacher, runs / name, run.options, data=images.to(device))

    def _grid(self, teacher: NetworkDenoiser, space: PathSpace, file: Path, **options: Any) -> StepGrid:
        """A grid of `choose_grid` with some options, measured once and kept in a file."""
        with main_first():
            if not file.exists():
                folder = self._teacher_folder(file.parent)
                assert folder is not None
                grid = choose_grid(
                    teacher,
                    space,
                    paths=self.grid_paths,
                    kept=file.with_name(f"{file.stem}-cells.safetensors"),
                    recorded={"teacher": file_digest(folder / WEIGHTS)},
                    **options,
                )
                grid.save(file)
        return StepGrid.load(file)
