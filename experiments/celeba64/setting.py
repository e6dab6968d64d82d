"""CelebA: 64 x 64 on a GPU with a network of 5.4M parameters, and 32 x 32 on a CPU with one of 1.8M on single pixels.

The GPU's was not run yet. Planned for one recent GPU, in bfloat16: teacher 4M images (15 minutes), students 20 minutes
in all, the table of 10000 seeds an hour, each in pieces of any length; about 45 GiB of memory.

The CPU's teacher, the moving average of 8000 iterations (512,000 images, 95 minutes of a core), is in teacher/, as
float16.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.cifar10 import setting as cifar10
from experiments.image_study.study import runs_of
from sdesig.images import image_network
from sdesig.sigdeg import UNet

EVENT = (3, 64, 64)
GPU = replace(
    cifar10.GPU,
    title="Sig-DEG on CelebA, 64 x 64",
    size=64,
    network=partial(image_network, "unet2d", EVENT, widths=(64, 96, 128, 128), attention=(3,), layers=1),
    teacher=replace(cifar10.GPU.teacher, iterations=16_000),
    runs=runs_of(replace(cifar10.SOLVER, evaluations=1024), (2000, 1500, 1000, 600)),
    log_sigma=(-0.8, 1.4),
    block=85,
)
REMARKS = """A subset of CelebA for non-commercial research, made from crops of 74 x 74.
"""
CPU = replace(
    cifar10.CPU,
    title="Sig-DEG on CelebA, 32 x 32",
    size=32,
    network=partial(UNet, 3, 32, widths=(32, 64, 128, 128)),
    teacher=replace(cifar10.CPU.teacher, iterations=8000, learning_rate=1e-3),
    committed=Path(__file__).parent,
    runs=runs_of(replace(cifar10.TWO_CORES, evaluations=128), (200, 40, 200, 200)),
    log_sigma=(-0.8, 1.4),
    batch=64,
    seeds=120,
    block=20,
    remarks=REMARKS,
)
STUDIES = {"gpu": GPU, "cpu": CPU}
