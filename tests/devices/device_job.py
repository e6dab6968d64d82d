"""The command line on a device, as `python device_job.py DEVICE FOLDER PICTURES TEACHER`, also under torchrun."""

import sys

import pytest
from virtual_device import NAME, virtual_device

from sdesig.cli import main
from sdesig.distillation.evaluation import Comparison

SNR = ["--snr", "0.01", "100"]
SHORT = ["--teacher-steps", "8", "--teacher-cells", "4", "--steps", "2", "4", "--grid", "even", *SNR]


def commands(folder, pictures, teacher):
    """From training to the report, at tiny size."""
    flags = ["--teacher", str(teacher), "--data", str(pictures)]
    trained = ["--iterations", "2", "--warmup", "1", "--parts", "2"]
    student = f"{folder}/student/student"
    yield [
        "train-teacher",
        "--data",
        str(pictures),
        "--widths",
        "8",
        "--batch",
        "4",
        *trained,
        "--out",
        f"{folder}/teacher",
    ]
    sizes = ["--evaluations", "4", "--depth", "2", "--pairs", "local", "--reference", "dct"]
    yield ["distill", *flags, *SHORT, *sizes, *trained, "--out", f"{folder}/student"]
    yield ["sample", "--model", student, "--n", "3", "--steps", "2", "--batch", "2", "--out", f"{folder}/images.npz"]
    counts = ["--steps", "2", "--teacher-steps", "8", "--n", "20", "--batch", "10", "--samplers", "sde-dpm++2m"]
    yield ["evaluate", *flags, "--models", student, *counts, "--out", f"{folder}/report"]


def run(device, folder, pictures, teacher):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "seconds_per_1000", lambda *_: 1.0)
        patch.setattr(Comparison, "truth_steps", 8)
        for command in commands(folder, pictures, teacher):
            main(["images", *command, "--device", device, "--threads", "1"])


if __name__ == "__main__":
    if sys.argv[1] == NAME:
        with virtual_device():
            run(*sys.argv[1:])
    else:
        run(*sys.argv[1:])
