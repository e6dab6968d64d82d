"""Groups of flags that commands share, and what they make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from sdesig import _processes as processes
from sdesig._checks import check_integer
from sdesig.sampling import TeacherOptions
from sdesig.sampling.teacher_paths import MOST_STEPS
from sdesig.sigdeg import DistillOptions

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
MOST_SAMPLES = 10_000_000
"""Most samples of one command."""
COUNT = tyro.conf.arg(aliases=("--count",))
"""The other name of --n, which torchrun takes for an abbreviation of its own options."""


@dataclass(frozen=True)
class DistillFlags(DistillOptions):
    """What to distil from, and how."""

    # `TeacherPathFlags` are in the place of `teacher_options`, which other options are checked against

    teacher_options: tyro.conf.Suppress[tyro.conf.Fixed[TeacherOptions]] = field(default_factory=TeacherOptions)

    def __post_init__(self) -> None:
        """Check nothing."""

    def options(self, teacher_options: TeacherOptions) -> DistillOptions:
        """The options with those of a teacher's paths; raise TypeError or ValueError for bad values."""
        return DistillOptions(**{**vars(self), "teacher_options": teacher_options})


@dataclass(frozen=True)
class TeacherPathFlags:
    """How the teacher's paths are made."""

    teacher_scheme: str = TeacherOptions.scheme
    """Scheme of the teacher's paths: path_average, euler (SDE-DPM-Solver++(1), the discretization of the paper's
    teacher) or dpm_solver_2m."""
    teacher_steps: int = TeacherOptions.steps
    """Fine steps of the teacher over the whole range of SNR."""


@dataclass(frozen=True)
class CutPathFlags(TeacherPathFlags):
    """How the teacher's paths are made and cut."""

    teacher_cells: int | None = None
    """Parts of a path, of which coarse steps are made; they divide its steps; default the divisor next to 64."""

    def cut_options(self, most_steps: int) -> TeacherOptions:
        """The options of paths that are cut into no fewer cells than the most coarse steps there are.

        Raises:
            ValueError: fewer fine steps than coarse ones, cells that do not divide them, an unknown scheme.
        """
        cells = self.teacher_cells
        if cells is None:
            count = check_integer("teacher_steps", self.teacher_steps, 1, MOST_STEPS)
            divisors = [k for k in range(max(1, most_steps), count + 1) if count % k == 0]
            if not divisors:
                raise ValueError(f"teacher_steps must be at least {most_steps}, the most coarse steps; got {count}")
            cells = min(divisors, key=lambda k: abs(k - TeacherOptions.cells))
        return TeacherOptions(self.teacher_scheme, self.teacher_steps, cells)


@dataclass(frozen=True)
class MachineFlags:
    """What to compute on, and with which file of options."""

    device: str = "cpu"
    """Device to compute on: cpu, cuda, or another one of torch."""
    threads: int | None = None
    """Threads of torch on the CPU; default torch's own choice. Results depend on them in the last digits."""
    config: Path | None = None
    """JSON file with options by these names and rarer ones; flags override it."""

    def described(self, device: torch.device | str) -> dict[str, Any]:
        """Device and threads, for the options that commands show and write."""
        return {"device": str(device), "threads": self.threads}

    def use(self) -> torch.device:
        """Set the number of threads, join the processes that torchrun started, and return the device.

        Raises:
            ValueError: a device that torch does not have here, threads < 1.
        """
        if self.threads is not None:
            torch.set_num_threads(check_integer("threads", self.threads, 1))
        return processes.join(self.device)


@contextmanager
def naming_memory(**settings: object) -> Iterator[None]:
    """Turn torch's errors of too little memory into a MemoryError that names the settings which need it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip().partition("\n")[0]
        known = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        if not (known or any(text in reason for text in NO_MEMORY)):
            raise
        named = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in settings.items())
        raise MemoryError(f"out of memory with {named}: choose less ({reason})") from None


def announce(command: str, options: Mapping[str, object]) -> None:
    """Print a command's options, one per line."""
    print(f"sdesig {command}")
    for name, value in options.items():
        print(f"  {name}: {value if isinstance(value, str) else json.dumps(value, default=str)}", flush=True)
