"""`python -m experiments.benchmarks`: measure all rows and write the report; exit status 1 if peers disagree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.benchmarks import (
    agreement,
    drawing,
    image_overhead,
    known_grid,
    levy_area,
    memory,
    random_order,
    report,
    sampling,
    scheduler,
    solvers,
    virtual_tree,
)
from experiments.benchmarks.comparison import Check, Result

THREADS = 1
TOPICS = {
    module.__name__.rpartition(".")[2]: module.cases
    for module in (
        *(sampling, drawing, image_overhead, scheduler, memory),
        *(levy_area, known_grid, random_order, virtual_tree, solvers, agreement),
    )
}
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see --help."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; writes nothing")
    parser.add_argument("--only", choices=TOPICS, help="a single topic; writes nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    setting = report.environment()
    print(setting, flush=True)
    results: dict[str, list[Result]] = {}
    agreed = True
    for topic in [options.only] if options.only else TOPICS:
        results[topic] = []
        for case in TOPICS[topic](options.quick):
            result = case.measure()
            results[topic].append(result)
            agreed = agreed and not (isinstance(case, Check) and not result.reached)
            verdict = "  NOT REACHED" if result.reached is False else ""
            print(f"{topic}: {result.what}\n    {result.ours} | {result.peer}")
            print(f"    {report.measurement(result)} {result.target}{verdict}", flush=True)
    if not (options.quick or options.only):
        report.write(results, setting, RESULTS)
        print(f"written: {RESULTS}/foundation.md, foundation.csv and targets.md")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
