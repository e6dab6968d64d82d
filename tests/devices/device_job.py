"""The command line for images on a device: `python device_job.py DEVICE OUT FOLDER COMMANDS`, under torchrun."""

import sys
from itertools import islice

import pytest
import torch
from command_lines import main
from images_problem import make_pictures
from virtual_device import virtual_device

from sdesig.evaluation.comparison import Comparison
from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import NetworkDenoiser, SigDEG

SNR = ["--snr", "0.01", "100"]
SHORT = ["--teacher-steps", "8", "--teacher-cells", "4", "--steps", "2", "4", "--grid", "even", *SNR]


def make_problem(folder):
    """Pictures, a teacher, and a generator on paths of few cells."""
    pictures = make_pictures(folder)
    torch.manual_seed(0)
    reference = GaussianReference.fit(torch.randn(30, 1, 8, 8), "dct")
    space = PathSpace((1, 8, 8), (0.01, 100.0), reference, cells=2**3)
    SigDEG.from_teacher(NetworkDenoiser.load(pictures.teacher), space, depth=2).save(folder / "short")
    return folder


def commands(out, folder):
    """From training to the report, at tiny size."""
    files = ["--data", f"{folder}/data"]
    trained = ["--iterations", "2", "--warmup", "1", "--parts", "2"]
    yield ["teacher", *files, "--widths", "8", "--batch", "4", *trained], f"{out}/teacher"
    files += ["--teacher", f"{folder}/teacher"]
    sizes = ["--evaluations", "4", "--depth", "2", "--pairs", "local", "--reference", "dct", "--verdict-seeds", "4"]
    yield ["distill", *files, *SHORT, *sizes, *trained], f"{out}/student"
    yield ["sample", f"{folder}/short", "--n", "3", "--steps", "2", "--batch", "2"], f"{out}/images.npz"
    counts = ["--steps", "2", "--teacher-steps", "8", "--n", "20", "--batch", "10", "--samplers", "sde-dpm++2m"]
    yield ["evaluate", f"{folder}/short", *files, *counts], f"{out}/report"


def run(device, out, folder, most=4):
    """The first commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "seconds_per_1000", lambda *_: 1.0)
        for command, file in islice(commands(out, folder), int(most)):
            main([*command, "--out", file, "--device", device, "--threads", "1"])


if __name__ == "__main__":
    with virtual_device():
        run(*sys.argv[1:])
