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
REMARKS = """Both Frechet ratios are missed, by images with more grain than the teacher's: training was short (300,000
evaluations of the student of depth 4, 360,000 of the plain one), and the grid is chosen for pathwise
errors, with long steps at the end, where the grain is decided: untrained, even steps are farther from
the path and nearer in features. On a path the images are those of the teacher: compare the lines of a
picture. Samplers without noise, DDIM and UniPC, have another limit. Seconds were measured beside other
work.
"""
MNIST = Study(
    title="Sig-DEG on MNIST",
    channels=1,
    size=28,
    network=partial(UNet, 1, 28, widths=(32, 64), patch=2),
    teacher=TrainingOptions(iterations=10_000, learning_rate=2e-3),
    batch=128,
    runs=runs_of(SOLVER, (450, 200, 250, 150)),
    remarks=REMARKS,
    few=frozenset({"path-average, reference", "Sig-DEG, depth 1", "Sig-DEG, depth 2"}),
)
STUDIES = {"cpu": MNIST}
