"""`python -m experiments.work_precision [problem ...]`: measure errors, then seconds, and write the reports."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.benchmarks.report import environment
from experiments.work_precision import geometric_brownian_motion, mixture, noncommutative, report
from experiments.work_precision.curves import SLOWEST, errors, measure_seconds
from experiments.work_precision.evaluations import needs

PROBLEMS = {
    module.__name__.rpartition(".")[2]: module for module in (geometric_brownian_motion, noncommutative, mixture)
}
RESULTS = Path(__file__).parent / "results"
PATHS, BATCH, REPETITIONS = 1024, 1024, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study; see --help."""
    parser = argparse.ArgumentParser(prog="python -m experiments.work_precision", description=__doc__)
    parser.add_argument("problems", nargs="*", metavar="problem", help=f"of {', '.join(PROBLEMS)}; default all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; writes nothing")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.problems if name not in PROBLEMS]
    if unknown:
        parser.error(f"problem must be one of {', '.join(PROBLEMS)}; got {', '.join(unknown)}")
    use_one_core()
    setting = described()
    for name in options.problems or PROBLEMS:
        problem = PROBLEMS[name].problem(options.quick)
        curves = errors(problem, 16 if options.quick else PATHS)
        measure_seconds(problem, curves, *((8, 1) if options.quick else (BATCH, REPETITIONS)))
        needed = needs(curves, mixture.mixture().means) if name == "mixture" else []
        print(report.markdown(problem, curves, needed, setting), flush=True)
        if not options.quick:
            report.write(problem, curves, needed, setting, RESULTS)


def use_one_core() -> None:
    """The same for torch and jax, which counts its cores when it starts; threads that wait for each other only blur."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def described() -> str:
    """How everything is measured, and where."""
    return (
        f"Errors: {PATHS} paths, each package on its own, known at all steps (ours: seeds; diffrax: "
        f"`VirtualBrownianTree`). Seconds: whole solves of {BATCH} paths, path included, in float32, on one core; "
        f"median of {REPETITIONS} after a warm-up, which takes compilation out. `BrownianInterval` is told dt, and "
        "`UnsafeBrownianPath`, like our generator, knows one number of steps only; trees are timed up to "
        f"{SLOWEST['VirtualBrownianTree']} steps. The figure shows the first path of each package.\n\n{environment()}"
    )


if __name__ == "__main__":
    main()
