"""`PathAverageScheduler` in a pipeline of diffusers: its own time, beside DPM-Solver++(2M) SDE's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.comparison import Expense

SHAPES = ((1, 4, 64, 64), (1, 4, 128, 128), (4, 16, 128, 128))
STEPS = (10, 20, 30)
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Betas of Stable Diffusion."""

_BOUND = "30 steps end on cells deep in the tree of 1280: 3.3 cuts of the path a step, where 10 steps take one."


def cases(quick: bool) -> Iterator[Expense]:
    """Runs with a model that takes no time, for each shape of the latents and number of steps."""
    for shape in ((1, 4, 8, 8),) if quick else SHAPES:
        for steps in (4,) if quick else STEPS:
            yield Expense(
                f"{steps} steps of latents {'x'.join(map(str, shape))}, float32, `set_timesteps` included",
                "`PathAverageScheduler`",
                "`DPMSolverMultistepScheduler`, sde-dpmsolver++, order 2",
                pipeline_run(path_average(), shape, steps),
                pipeline_run(two_m(), shape, steps),
                2 if quick else 5,
                4.0,
                _BOUND,
            )


def path_average() -> Any:
    """Ours. Like the other it needs diffusers, which the rest of the benchmarks do not."""
    from sdesig.images import PathAverageScheduler

    return PathAverageScheduler(**TABLE)


def two_m() -> Any:
    """DPM-Solver++(2M) SDE."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**TABLE, algorithm_type="sde-dpmsolver++", solver_order=2)


def pipeline_run(scheduler: Any, shape: tuple[int, ...], steps: int, device: str = "cpu") -> Callable[[], Tensor]:
    """What a pipeline does in a run beside its model, whose output is always the same; returns the last latents."""
    latents, output = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)

    def run() -> Tensor:
        generator = torch.Generator(device).manual_seed(0)
        scheduler.set_timesteps(steps, device=device)
        sample = latents
        for timestep in scheduler.timesteps:
            sample = scheduler.step(output, timestep, sample, generator=generator, return_dict=False)[0]
        return sample

    return run
