"""The students of this experiment: how each is distilled at full length, and the variants of the study.

configs/ has the full ones for the command line: `sdesig distill --config experiments/digits/configs/depth-4.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sdesig.digits import load_digits, load_grid, load_teacher, path_space
from sdesig.sampling import StepGrid, TeacherOptions
from sdesig.sigdeg import DistillOptions, SigDEG, TrainingOptions, distill

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """One distillation.

    Attributes:
        options: of the distillation.
        depth, cell, reference: of the student.
        even: whether its steps are even in log-SNR, rather than on the chosen grid.
        cache: name of the folder of teacher paths, which runs of one reference and one set of paths share.
    """

    options: DistillOptions
    depth: int = 4
    cell: str = "solver"
    reference: str = "pca"
    even: bool = False
    cache: str = "pca"


FULL = DistillOptions(
    steps=(4, 16),
    teacher_options=TeacherOptions(steps=64, cells=32),
    training=TrainingOptions(iterations=4000, learning_rate=2e-3, warmup=200),
)
PAPER = DistillOptions(
    steps=(16, 100),
    teacher_options=TeacherOptions(scheme="euler", steps=1000, cells=100),
    training=TrainingOptions(iterations=1500, learning_rate=1e-3, warmup=200),
)
"""The plain cell on Euler's scheme with 1000 steps, for 16 to 100 steps."""
SHORT = replace(FULL, paths=8192, training=replace(FULL.training, iterations=200, ema=0.98, warmup=40))
DECAYED = replace(SHORT.training, learning_rate=5e-4, weight_decay=20.0)
"""For rollouts over paths on disk, which are learned by heart otherwise."""


def longer(options: DistillOptions, iterations: int) -> DistillOptions:
    """The same with another number of iterations."""
    return replace(options, training=replace(options.training, iterations=iterations))


RUNS = {
    "depth-4": Run(FULL),
    "depth-2": Run(longer(FULL, 2000), depth=2),
    "depth-1": Run(longer(FULL, 1000), depth=1),
    "plain": Run(PAPER, depth=2, cell="plain", even=True),
    "short": Run(SHORT),
    "short-rollout": Run(replace(SHORT, pairs="rollout", training=DECAYED), cache="pca-short"),
    "short-both": Run(replace(SHORT, pairs="both", training=DECAYED), cache="pca-short"),
    "short-coefficients": Run(replace(SHORT, only_coefficients=True)),
    "short-plain": Run(SHORT, cell="plain"),
    "short-depth-2": Run(SHORT, depth=2),
    "short-depth-1": Run(SHORT, depth=1),
    "short-even": Run(SHORT, even=True),
    "short-none": Run(SHORT, reference="none"),
    "short-scalar": Run(SHORT, reference="scalar"),
}


def distilled(name: str, folder: Path) -> SigDEG:
    """Distil the student of a name in `RUNS`, or go on, or read what is done."""
    run = RUNS[name]
    student = folder / name / "student"
    if student.exists():
        return SigDEG.load(student)
    torch.manual_seed(0)
    made = SigDEG.from_teacher(
        load_teacher(),
        replace(path_space(run.reference), grid=StepGrid() if run.even else load_grid()),
        depth=run.depth,
        cell=run.cell,
    )
    return distill(
        made, load_teacher(), folder / name, run.options, data=load_digits()[0], cache=folder / "paths" / run.cache
    )
