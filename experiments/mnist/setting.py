"""The teacher and the students of this experiment: how each is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sdesig.distillation import (
    DistillOptions,
    TeacherOptions,
    TrainingOptions,
    choose_grid,
    distill,
    train_teacher,
)
from sdesig.generator import NetworkDenoiser, SigDEG, StepGrid, UNet
from sdesig.images.data import ImageSet, load_images
from sdesig.sde import CanonicalSDE, GaussianReference

SNR = (1 / 20**2, 1 / 0.05**2)
"""Noise of standard deviation 20 to .05, for images in [-1, 1]."""
WIDTHS, PATCH = (32, 64), 2
TEACHER = TrainingOptions(iterations=10_000, learning_rate=2e-3)
TEACHER_BATCH, LOG_SIGMA = 128, (-0.5, 1.5)


@dataclass(frozen=True)
class Run:
    """One distillation: of a depth and a cell, with the cosine reference and a chosen grid, or as the paper does it."""

    options: DistillOptions
    depth: int = 4
    cell: str = "solver"


FULL = DistillOptions(
    steps=(4, 20),
    evaluations=512,
    teacher=TeacherOptions(steps=60, cells=60),
    training=TrainingOptions(iterations=600, learning_rate=1e-3, warmup=50, checkpoint_every=50),
)
PAPER = replace(
    FULL,
    steps=(50, 100),
    teacher=TeacherOptions(scheme="euler", steps=1000, cells=100),
    training=replace(FULL.training, iterations=700),
)
RUNS = {
    "depth-4": Run(FULL),
    "plain": Run(PAPER, depth=2, cell="plain"),
    "depth-2": Run(replace(FULL, training=replace(FULL.training, iterations=300)), depth=2),
    "depth-1": Run(replace(FULL, training=replace(FULL.training, iterations=200)), depth=1),
}
LEVELS = 10
"""Paths of 1024 cells: enough for the 1000 steps of the teacher."""
GRID_PATHS = 256
"""Over which the errors of single steps are averaged where the grid is chosen."""


def images_of(source: str, cache: Path) -> ImageSet:
    """The training images of MNIST, such as mnist.npz:x_train: (n, 1, 28, 28)."""
    return load_images(source, channels=1, size=28, cache=cache)


def teacher_of(images: Tensor, runs: Path) -> NetworkDenoiser:
    """Train the teacher, or go on, or read what is done; images are floats in [-1, 1], on its device."""
    done = runs / "teacher" / "teacher"
    if done.exists():
        return NetworkDenoiser.load(done, images.device)
    torch.manual_seed(0)
    network = UNet(1, 28, widths=WIDTHS, patch=PATCH).to(images.device)
    return train_teacher(network, images, runs / "teacher", TEACHER, batch=TEACHER_BATCH, log_sigma=LOG_SIGMA)


def grid_of(teacher: NetworkDenoiser, reference: GaussianReference, file: Path) -> StepGrid:
    """The grid of steps that suits the teacher, measured once and kept in a file."""
    if not file.exists():
        sde = CanonicalSDE(teacher, reference=reference)
        device = reference.mean.device
        choose_grid(sde, event=teacher.event, snr=SNR, paths=GRID_PATHS, device=device).save(file)
    return StepGrid.load(file)


def distilled(name: str, teacher: NetworkDenoiser, images: Tensor, runs: Path) -> SigDEG:
    """Distil the student of a name in `RUNS`, or go on, or read what is done."""
    run, student = RUNS[name], runs / name / "student"
    if student.exists():
        return SigDEG.load(student, device=images.device)
    plain = run.cell == "plain"
    reference = GaussianReference.fit(images, "dct")
    grid = StepGrid() if plain else grid_of(teacher, reference, runs / "grid.json")
    torch.manual_seed(0)
    made = SigDEG.from_teacher(
        teacher,
        event=teacher.event,
        snr=SNR,
        depth=run.depth,
        reference=reference,
        cell=run.cell,
        grid=grid,
        levels=LEVELS,
    )
    return distill(made.to(images.device), teacher, run.options, runs / name, data=images)
