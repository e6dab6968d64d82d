"""MNIST on two cores: a network of .27M parameters on patches of 2 x 2 pixels."""

from __future__ import annotations

from functools import partial

from experiments.image_study.study import Study, runs_of
from sdesig.distillation import DistillOptions, TeacherOptions, TrainingOptions
from sdesig.generator import UNet

SOLVER = DistillOptions(
    steps=(4, 20),
    evaluations=512,
    teacher=TeacherOptions(steps=60, cells=60),
    training=TrainingOptions(iterations=600, learning_rate=1e-3, warmup=50, checkpoint_every=50),
)
MNIST = Study(
    title="Sig-DEG on MNIST",
    channels=1,
    size=28,
    network=partial(UNet, 1, 28, widths=(32, 64), patch=2),
    teacher=TrainingOptions(iterations=10_000, learning_rate=2e-3),
    batch=128,
    runs=runs_of(SOLVER, (600, 700, 300, 200)),
    few=frozenset({"path-average, reference", "Sig-DEG, depth 1", "Sig-DEG, depth 2"}),
)
STUDIES = {"cpu": MNIST}
