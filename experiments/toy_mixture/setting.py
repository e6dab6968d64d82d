"""The law, the range of SNR, and the students of this experiment."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from sdesig.sampling import CanonicalSDE, GaussianReference, PathSpace, SNRDenoiser, TeacherOptions
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, DistillOptions, SigDEG, TrainingOptions, distill

MIXTURE = Mixture.circle(1.5, 0.1, dtype=torch.float32)
REFERENCE = GaussianReference(MIXTURE.mean(), MIXTURE.covariance().trace().item() / 2)
DENOISER = SNRDenoiser(MIXTURE.denoise_y)
SDE = CanonicalSDE(DENOISER, reference=REFERENCE)
DEPTHS = (1, 2, 4)
SPACE = PathSpace((2,), (math.exp(-8), math.exp(8)), REFERENCE, depth=max(DEPTHS))
STEPS = (4, 8, 16)
TEACHER = TeacherOptions(steps=128, cells=64)
ITERATIONS = {1: 1000, 2: 3000, 4: 6000}
DATA = 2**18


def student(depth: int) -> SigDEG:
    """A student that is not trained: the exact denoiser, and a network that corrects it."""
    torch.manual_seed(0)
    network = MLP(2, width=128, blocks=3, conditions=2, extra=depth + 2)
    return SigDEG.from_teacher(DENOISER, SPACE, depth=depth, network=network)


def options(depth: int, iterations: int | None = None) -> DistillOptions:
    """How the student of a depth is distilled: up to half an hour on one core."""
    training = TrainingOptions(iterations=iterations or ITERATIONS[depth], learning_rate=2e-3, warmup=200)
    return DistillOptions(steps=(4, 16), evaluations=4096, teacher_options=TEACHER, training=training)


def distilled(depth: int, out: Path, iterations: int | None = None) -> SigDEG:
    """Distil, or go on, or read what is done."""
    done = out / f"depth-{depth}" / "student"
    if done.exists():
        return SigDEG.load(done, denoiser=DENOISER)
    data = MIXTURE.sample(DATA, torch.Generator().manual_seed(0))
    return distill(student(depth), DENOISER, out / f"depth-{depth}", options(depth, iterations), data=data)
