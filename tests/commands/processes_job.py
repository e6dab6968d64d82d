"""What the processes of a test do: `torchrun --nproc-per-node 2 processes_job.py FOLDER PICTURES TEACHER [DEATH]`."""

import os
import signal
import sys
from pathlib import Path

import torch
from command_lines import main

from sdesig import _processes as processes
from sdesig.evaluation import comparison as evaluation
from sdesig.sigdeg import path_cache as cache

SNR = ["--snr", "0.01", "100"]
PATHS = ["--teacher-steps", "16", "--teacher-cells", "8", "--grid", "even", *SNR]


def commands(folder, pictures, teacher):
    """From training to the report, at tiny size."""
    flags = ["--teacher", teacher, "--data", pictures]
    trained = ["--parts", "2", "--checkpoint-every", "2", "--warmup", "1"]
    sampled = [f"{folder}/student/student", "--n", "7", "--steps", "4", "--batch", "2", "--force"]
    yield ["teacher", "--data", pictures, "--widths", "8", "--batch", "4", "--iterations", "8", *trained]
    yield ["cache", *flags, *PATHS, "--paths", "8", "--steps", "2", "4"]
    paths = ["--teacher-cache", f"{folder}/paths", "--pairs", "rollout", "--paths", "8", "--steps", "2", "4"]
    sizes = ["--evaluations", "8", "--iterations", "4", "--depth", "2", "--verdict-seeds", "6"]
    yield ["distill", *flags, *PATHS, *paths, *sizes, *trained]
    yield ["sample", *sampled]
    counts = ["--steps", "2", "4", "--teacher-steps", "8", "--n", "21", "--batch", "4"]
    yield ["evaluate", f"{folder}/student/student", *flags, "--samplers", "sde-dpm++2m", *counts]


def outputs(folder):
    """The --out of every command."""
    return [f"{folder}/teacher", f"{folder}/paths", f"{folder}/student", f"{folder}/images.npz", f"{folder}/report"]


def dying(call, after):
    """The call, but the second process is killed the `after`-th time that it comes there."""
    times = 0

    def counted(*arguments, **options):
        nonlocal times
        times += processes.rank() == 1
        if times == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)

    return counted


def run(folder, pictures, teacher):
    cache.NUMBERS = 2 * 16 * 4 * 64  # files of two paths
    evaluation.Comparison.seconds_per_1000 = lambda *_: 1.0
    for command, out in zip(commands(folder, pictures, teacher), outputs(folder), strict=True):
        main([*command, "--out", out, "--threads", "1"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    death = sys.argv[4] if len(sys.argv) > 4 else ""
    if death == "training":
        processes.all_reduce = dying(processes.all_reduce, 4)
    if death == "caching":
        cache.draw_paths = dying(cache.draw_paths, 2)
    run(*sys.argv[1:4])
    Path(sys.argv[1], f"process-{processes.rank()}-of-{processes.world_size()}").touch()
