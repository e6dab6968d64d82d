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
REMARKS = """The images were CIFAR-10 (JPEG q75): compressed again, which makes them softer; no number here can be
compared with published ones. A teacher of .6M parameters makes no good images.
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
