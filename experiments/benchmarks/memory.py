"""Memory at its peak, of processes of their own: beside the latents in a scheduler, and of samples of many steps.

`python -m experiments.benchmarks.memory NAME TINY` is one such process; it writes a number of bytes.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.comparison import Peak
from experiments.benchmarks.scheduler import path_average, pipeline_run, two_m
from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import Network, NetworkDenoiser, SigDEG

LATENTS, SCHEDULER_STEPS = (4, 16, 128, 128), 10
IMAGES, SAMPLE_STEPS = (64, 3, 32, 32), 128

_CELLS_BOUND = (
    "the path holds a step and three nodes, eight states of depth 2; the rest are the student's inputs and its step."
)


class Nothing(Network):
    """A network of one weight that needs one state of memory."""

    def __init__(self, event: tuple[int, ...], conditions: int = 0, extra: int = 0) -> None:
        super().__init__(conditions, extra)
        self.event, self.weight = tuple(event), nn.Parameter(torch.ones(1))

    @property
    def config(self) -> dict[str, Any]:
        """The event and the numbers of inputs."""
        return {"event": self.event, **self.inputs}

    def zero_last(self) -> None:
        """Leave the weight at zero."""
        nn.init.zeros_(self.weight)

    def compute(self, x: Tensor, noise: Tensor, conditions: Tensor | None, extra: Tensor | None) -> Tensor:
        """x times the weight."""
        return self.weight * x


def cases(quick: bool) -> Iterator[Peak]:
    """The scheduler and DPM-Solver++(2M) SDE, and `SigDEG.sample` of a network that needs no memory."""
    what = f"{SCHEDULER_STEPS} steps of latents {_size(LATENTS)}, float32, beyond the start"
    latents = partial(_states, quick=quick, shape=LATENTS)
    yield Peak(what, "`PathAverageScheduler`", "latents", partial(latents, "scheduler"), 16.0, _CELLS_BOUND)
    yield Peak(what, "DPM-Solver++(2M) SDE of diffusers", "latents", partial(latents, "two_m"))
    yield Peak(
        f"{IMAGES[0]} images of {_size(IMAGES[1:])} in {SAMPLE_STEPS} steps, network of one state",
        "`SigDEG.sample`, depth 2, seeds",
        "states",
        partial(_states, "sample", quick=quick, shape=IMAGES),
        12.0,
        _CELLS_BOUND,
    )


def _states(name: str, *, quick: bool, shape: tuple[int, ...]) -> float:
    """Peak of a process, in numbers of a shape in float32."""
    # with these settings glibc gives memory back as soon as it is free, so that the peak is what is held
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "experiments.benchmarks.memory", name, *["tiny"][: int(quick)]]
    run = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    return int(run.stdout) / (4 * math.prod(shape))


def _scheduler(make: Callable[[], Any], tiny: bool) -> Callable[[], Tensor]:
    return pipeline_run(make(), (1, 4, 8, 8) if tiny else LATENTS, 4 if tiny else SCHEDULER_STEPS)


def _sample(tiny: bool) -> Callable[[], Tensor]:
    rows, event, steps = (2, (3, 8, 8), 4) if tiny else (IMAGES[0], IMAGES[1:], SAMPLE_STEPS)
    teacher = NetworkDenoiser(Nothing(event), 0.5)
    space = PathSpace(event, (1 / 80**2, 1 / 0.05**2), GaussianReference(0.0, 0.25))
    student = SigDEG.from_teacher(teacher, space, depth=2).eval()
    return lambda: student.sample(rows, steps).values


WORK: dict[str, Callable[[bool], Callable[[], Tensor]]] = {
    "scheduler": partial(_scheduler, path_average),
    "two_m": partial(_scheduler, two_m),
    "sample": _sample,
}


def peak_bytes(run: Callable[[], object]) -> int:
    """Most memory that a call takes in this process beyond what there was before, by Linux's account."""
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the peak goes down to what is held now
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}: peaks are measured on Linux")


def _size(event: tuple[int, ...]) -> str:
    return "x".join(map(str, event))


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen, small = sys.argv[1], "tiny" in sys.argv
    WORK[chosen](True)()  # code is loaded, or compiled
    print(peak_bytes(WORK[chosen](small)))
