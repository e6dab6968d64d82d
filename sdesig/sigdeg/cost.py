"""What a distillation costs: evaluations of networks, and seconds, measured on a few of its steps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sdesig import _processes as processes
from sdesig._evaluating import evaluating
from sdesig._random import generator_for, seeded
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser
from sdesig.sampling.teacher_paths import draw_paths
from sdesig.sigdeg.distillation import LOCAL_STEPS, DistillOptions, local_errors, local_loss, rollout_loss
from sdesig.sigdeg.networks import in_precision
from sdesig.sigdeg.sig_deg import SigDEG
from sdesig.sigdeg.training_data import Data, on_device

QUANTILES = (1 / 6, 1 / 2, 5 / 6)
"""Of the law of the numbers of steps: an iteration is timed at each of them."""


def steps_law(bounds: tuple[int, int]) -> dict[int, float]:
    """Probabilities of the numbers of steps of an iteration, log-uniform on the integers between the bounds."""
    low, high = bounds
    return {n: math.log((n + 1) / n) / math.log((high + 1) / low) for n in range(low, high + 1)}


def network_evaluations(options: DistillOptions) -> int:
    """Mean number of evaluations of a distillation: the student's, and those of the teacher for its targets."""
    law, fine, training = steps_law(options.steps), options.teacher_options.steps, options.training
    anew = options.evaluations * sum(share * max(1, fine // n) for n, share in law.items())
    local = options.share_of_local
    rolled = 0.0 if options.paths else anew
    each = options.evaluations + local * (options.evaluations + anew) + (1 - local) * rolled
    kept = options.paths * fine if local < 1 else 0
    return round(training.iterations * training.parts * each) + kept


class Seconds(NamedTuple):
    """Seconds of a distillation in this process.

    Attributes:
        iteration: of an iteration, all its parts.
        paths: of drawing the teacher's paths that are kept on disk.
        measuring: what it took to find out.
    """

    iteration: float
    paths: float
    measuring: float


def time_distillation(
    student: SigDEG, teacher: SNRDenoiser, options: DistillOptions, data: Data | None = None
) -> Seconds:
    """Time a few iterations of a distillation on a copy of the student: nothing is trained, and nothing written.

    One iteration, forward, backward and the optimizer's step, is timed at each of three numbers of steps, the
    quantiles 1/6, 1/2 and 5/6 of their law, after one that is not timed. Of "both" kinds of pairs both are timed.
    """
    began = time.perf_counter()
    device, training = student.space.device, options.training
    trained = copy.deepcopy(student).train()
    trained.cell.set_trainable(only_coefficients=options.only_coefficients)
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=0.0, fused=True)
    sde = CanonicalSDE(teacher, reference=student.space.reference)
    samples = None if data is None else on_device(data, device)
    generator = generator_for("timing", training.seed, device=device)
    counts = [options.steps_at(share) for share in QUANTILES]

    def seconds(call: Callable[[], object]) -> float:
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        return time.perf_counter() - started

    def update(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def local(steps: int) -> None:
        assert samples is not None
        rows = options.evaluations // min(steps, LOCAL_STEPS)
        fine, recompute = options.teacher_options, options.recompute
        errors = local_errors(trained, sde, samples, steps, rows, fine, generator, recompute=recompute)
        update(local_loss(errors, trained))

    drawing: list[float] = []  # per path

    def rollout(steps: int) -> float:
        rows = max(2, options.evaluations // steps)
        paths = []

        def draw() -> None:
            fine = options.teacher_options
            paths.append(draw_paths(teacher, student.space, fine, rows, generator=generator, watch=False))

        took = seconds(draw)
        drawing.append(took / rows)
        coarse = paths[0].coarse(steps, student.space.grid)
        found = seconds(
            lambda: update(rollout_loss(trained, sde, coarse, window=options.window, recompute=options.recompute).log())
        )
        return found if options.paths else found + took

    iteration = paths = 0.0
    share = options.share_of_local
    precision = training.precision
    with in_precision(precision, teacher), in_precision(precision, trained), evaluating(teacher), seeded(0, device):
        if share > 0:
            local(counts[1])
            iteration += share * sum(seconds(partial(local, n)) for n in counts) / len(counts)
        if share < 1:
            rollout(counts[-1])
            drawing.clear()
            iteration += (1 - share) * sum(map(rollout, counts)) / len(counts)
            paths = options.paths * sum(drawing) / len(drawing) / processes.world_size()
    iteration *= training.parts / processes.world_size()
    return Seconds(iteration, paths, time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    """Let an accelerator finish."""
    if device.type != "cpu":
        torch.zeros(1, device=device).item()
