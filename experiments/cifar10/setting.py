"""CIFAR-10: on a GPU with a network of 4.6M parameters, and on a CPU with one of .6M on patches of 2 x 2 pixels.

The GPU's was not run yet. Planned for one recent GPU, in bfloat16: teacher 6M images (10 minutes), students 15 minutes
in all, the table of 10000 seeds 35M evaluations (half an hour), each in pieces of any length; about 30 GiB of memory.

The CPU's teacher, the moving average of 10,000 iterations (640,000 images, 45 minutes of a core), is in teacher/, its
students of depth 1, 2 and 4, as float16, in students/: 300 iterations, twenty minutes of a core each. At the
learning rate 1e-3 in place of 2e-4 depth 4 was no better than untrained for 200 iterations, and came to .91 of the
untrained error of a step, against .69.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.image_study.study import Study, runs_of
from sdesig.images import image_network
from sdesig.sampling import TeacherOptions
from sdesig.sigdeg import DistillOptions, TrainingOptions, UNet

EVENT = (3, 32, 32)
SOLVER = DistillOptions(
    steps=(4, 20),
    evaluations=2048,
    teacher_options=TeacherOptions(steps=60, cells=60),
    training=TrainingOptions(learning_rate=3e-4, warmup=100, checkpoint_every=100, precision="bfloat16"),
)
GPU = Study(
    title="Sig-DEG on CIFAR-10",
    channels=3,
    size=32,
    network=partial(image_network, "unet2d", EVENT, widths=(64, 128, 128), attention=(1, 2), layers=1),
    teacher=TrainingOptions(iterations=24_000, learning_rate=1e-3, checkpoint_every=1000, precision="bfloat16"),
    batch=256,
    runs=runs_of(SOLVER, (2000, 1500, 1000, 600)),
    log_sigma=(-1.2, 1.2),
    flip=True,
    seeds=10_000,
    reference_of_students="dct",
)
TWO_CORES = replace(
    SOLVER,
    evaluations=256,
    training=TrainingOptions(learning_rate=2e-4, warmup=20, checkpoint_every=25, precision="bfloat16"),
)
REMARKS = """The table is that of an earlier teacher of the same kind, whose weights were not kept. The one in teacher/
has none yet but that of experiments/few_steps.

The images were CIFAR-10 (JPEG q75): compressed again, which makes them softer; no number here can be
compared with published ones. A teacher of .6M parameters makes no good images, and 255 seeds are few for a Frechet
distance, too few to call a target met: all rows share its bias, so read its ratios, which say how near the samplers
are to the teacher. UniPC has a lower Frechet distance than Sig-DEG at every number of steps, 2M in 10 and 20, and the
untrained scheme has a lower one on even steps than on the chosen grid. Depths were not trained equally long. The target
that sets plain Sig-DEG in 100 steps against 2M in 10 compares ten times the evaluations; in 100 steps 2M is nearer.

Measured before such tables had intervals, seeds apart and standard errors of Frechet distances, and the samples are
not kept: +- of a pathwise error is one standard error of normal theory. Seeds apart were not measured, nor standard
errors of Frechet distances. Seconds are of the clock, beside other work.
"""
CPU = replace(
    GPU,
    title="Sig-DEG on CIFAR-10 (JPEG q75), small",
    committed=Path(__file__).parent,
    network=partial(UNet, 3, 32, widths=(48, 96), patch=2),
    teacher=TrainingOptions(iterations=10_000, learning_rate=2e-3),
    batch=64,
    runs=runs_of(TWO_CORES, (300, 60, 300, 300)),
    seeds=255,
    block=85,
    remarks=REMARKS,
    few=frozenset({"path-average-reference", "depth-1", "depth-2", "ddim"}),
)
STUDIES = {"gpu": GPU, "cpu": CPU}
