"""`python -m experiments.gpu`: what needs a GPU, in eight minutes of one; see --help."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
HELP = """Tests, costs, throughput, speed and a piece of CIFAR-10 on a GPU.

Each part writes a file of its own as soon as it is done, and summary.md is made again. A part that fails is recorded
with its error, and the rest goes on. Parts that are done are skipped when it is run again; trainings go on.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not done; the exit status is 1 without a GPU, or where a part failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu", description=HELP)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, to see that everything runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no part goes on")
    parser.add_argument("--data", help="CIFAR-10's training images, as load_images reads them")
    parser.add_argument("--out", type=Path, help="default experiments/gpu/results; runs/gpu-tiny/results with --tiny")
    parser.add_argument("--runs", type=Path, help="folder of the trainings, default runs/gpu or runs/gpu-tiny")
    options = parser.parse_args(arguments)
    runs = options.runs or Path("runs") / ("gpu-tiny" if options.tiny else "gpu")
    out = options.out or (runs / "results" if options.tiny else RESULTS)
    try:
        import torch

        from experiments.gpu.parts import PARTS
        from experiments.gpu.running import FAILED, LATE, Setting, is_done, run_part, write_summary
    except ImportError as error:
        print(f"make gpu needs this package, its extra 'images', and a torch built for CUDA: {error}", file=sys.stderr)
        return 1
    if options.device == "cuda" and not torch.cuda.is_available():
        found = f"torch {torch.__version__}"
        print(f"make gpu needs a GPU and a torch built for CUDA; {found} finds none (see --device)", file=sys.stderr)
        return 1
    end = time.monotonic() + 60 * options.minutes
    failed = False
    for name, (part, most) in PARTS.items():
        if is_done(name, out):
            print(f"{name}: done before", flush=True)
            continue
        deadline = min(end, time.monotonic() + most)
        setting = Setting(options.device, options.tiny, runs, options.data, deadline)
        status = run_part(name, part, setting, out)
        failed |= status in (FAILED, LATE)
        print(f"{name}: {status}", flush=True)
        write_summary(list(PARTS), out)
    print(write_summary(list(PARTS), out))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
