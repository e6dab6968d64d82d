"""The command line of a study."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from experiments.image_study.study import Study
from experiments.image_study.table import table, write_text
from sdesig.sigdeg import join_processes, main_first, on_main

HELP = """Train the teacher and its students, and write the table.

Resumes where it was stopped, in the training as in the sampling; a piece of it may be as short as you like. --part does
a part of it; its "text" is report.md alone, from report.json and targets.json. Under torchrun, processes share the
table, and trainings that have parts for them.
"""


def main(folder: str, studies: Mapping[str, Study], arguments: Sequence[str] | None = None) -> None:
    """Run a study; see --help.

    Args:
        folder: of the experiment: its name, and where results go.
        studies: by the sizes that --scale names, the first by default.
        arguments: default those of the command line.
    """
    name, first = Path(folder).name, next(iter(studies))
    runs = list(dict.fromkeys(run for study in studies.values() for run in study.runs))
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=HELP)
    parser.add_argument("--data", required=True, help="training images, as load_images reads them")
    parser.add_argument("--extractor", action="append", default=[], help="TorchScript file of features; repeatable")
    parser.add_argument("--perceptual", action="append", default=[], help="TorchScript file of a distance; repeatable")
    parser.add_argument("--scale", choices=list(studies), default=first)
    parser.add_argument("--runs", type=Path, help=f"default runs/{name}, or runs/{name}-SCALE")
    parser.add_argument("--out", type=Path, help=f"default experiments/{name}/results, or results-SCALE")
    parser.add_argument("--seeds", type=int, help="samples of every row; more may be added later")
    parser.add_argument("--law", type=int, default=0, help="seeds after them, for distances to the teacher's own law")
    parser.add_argument("--part", choices=("all", "teacher", *runs, "table", "text"), default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    study, suffix = studies[options.scale], "" if options.scale == first else f"-{options.scale}"
    options.runs = options.runs or Path("runs") / f"{name}{suffix}"
    options.out = options.out or Path(folder) / f"results{suffix}"
    options.seeds = options.seeds or study.seeds
    options.command = f"python -m experiments.{name}" + (f" --scale {options.scale}" if suffix else "")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.device = join_processes(options.device)
    with main_first():
        data = study.images(options.data, options.runs / "data")
    if options.part == "text":
        on_main(lambda: write_text(study, options.command, data, options.out))
        return
    if options.part == "teacher":
        replace(study, committed=None).trained_teacher(data, options.runs, options.device)
        return
    teacher = study.trained_teacher(data, options.runs, options.device)
    names = list(study.runs)
    if options.part in study.runs:
        names = [options.part]
        (options.runs / options.part).mkdir(parents=True, exist_ok=True)  # begun: a committed one is not taken
    students = {name: study.distilled(name, teacher, data, options.runs) for name in names}
    if options.part in ("all", "table"):
        table(study, teacher, students, data, options)
