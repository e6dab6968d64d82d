"""`python -m experiments.digits`: the students at full length, the targets, and the study of what matters.

Resumes where it was stopped; about two hours on one core. Results go to experiments/digits/results, runs to
runs/digits. `--part ship` copies the students that the package ships into it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.digits.setting import distilled
from experiments.digits.study import study
from experiments.digits.table import full_table, write_text
from sdesig.digits import FOLDER

RESULTS = Path(__file__).parent / "results"
SHIPPED = ("plain", "depth-1", "depth-2")
PARTS = "ship: copy students; text: report.md alone, from report.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """See --help."""
    parser = argparse.ArgumentParser(prog="python -m experiments.digits", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/digits"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--frechet-seeds", type=int, default=4000, help="for the targets of Frechet distances")
    parser.add_argument("--study-seeds", type=int, default=500)
    parser.add_argument("--groups", type=int, default=4000, help="pairs of paths of a floor")
    parser.add_argument("--part", choices=("all", "table", "study", "ship", "text"), default="all", help=PARTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.part == "ship":
        for name in SHIPPED:
            distilled(name, options.runs)
            shutil.copytree(options.runs / name / "student", FOLDER / "students" / name, dirs_exist_ok=True)
        return
    if options.part == "text":
        write_text(options.out)
    if options.part in ("all", "table"):
        full_table(options.runs, options.seeds, options.frechet_seeds, options.groups, options.out)
    if options.part in ("all", "study"):
        study(options.runs, options.study_seeds, options.groups // 4, options.out)


if __name__ == "__main__":
    main()
