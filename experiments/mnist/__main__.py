"""`python -m experiments.mnist --data mnist.npz:x_train --extractor FEATURES.pt`: teacher, students, and the table.

Resumes where it was stopped, in the training as in the sampling. Runs go to runs/mnist, results to
experiments/mnist/results. On two cores it takes some hours, on a GPU (`--device cuda`) minutes. --part does a part of
it: the teacher, one student by its name in setting.py, or the table. Under torchrun, processes share the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.mnist.setting import RUNS, distilled, images_of, teacher_of
from experiments.mnist.table import table
from sdesig import _processes as processes

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """See --help."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mnist", description=__doc__)
    parser.add_argument("--data", required=True, help="training images, as load_images reads them: mnist.npz:x_train")
    parser.add_argument("--extractor", action="append", default=[], help="TorchScript file of features; repeatable")
    parser.add_argument("--perceptual", action="append", default=[], help="TorchScript file of a distance; repeatable")
    parser.add_argument("--runs", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--part", choices=("all", "teacher", *RUNS, "table"), default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.device = processes.join(torch.device(options.device))
    with processes.first_one_first():
        data = images_of(options.data, options.runs / "data")
    images = data.floats(device=options.device)
    teacher = teacher_of(images, options.runs)
    if options.part == "teacher":
        return
    names = [options.part] if options.part in RUNS else list(RUNS)
    students = {name: distilled(name, teacher, images, options.runs) for name in names}
    if options.part in ("all", "table"):
        table(teacher, students, data, options)


if __name__ == "__main__":
    main()
