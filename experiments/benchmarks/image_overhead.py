"""Sampling by Sig-DEG beside its network: what the path, the scheme and the student's weights add."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from torch import nn

from experiments.benchmarks.comparison import Overhead
from experiments.image_costs.__main__ import SETTINGS, STEPS, Setting, network_of, space_of, student_of, teacher_of
from sdesig.sigdeg import UNet

BOUNDS = dict(zip(SETTINGS, ((25.0, 9), (1.5, 2)), strict=True))
"""Largest overhead that is good enough, in percent, and repetitions."""


class Stopwatch:
    """Adds up the time that a module takes."""

    def __init__(self, module: nn.Module) -> None:
        self._total, self._started = 0.0, 0.0
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)

    def __call__(self) -> float:
        """Seconds since the last call."""
        total, self._total = self._total, 0.0
        return total

    def _start(self, *_: object) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self._total += time.perf_counter() - self._started


def cases(quick: bool) -> Iterator[Overhead]:
    """The networks of `experiments.image_costs`, with random weights and a reference per cosine."""
    tiny = {"tiny UNet": Setting(lambda: UNet(1, 8, widths=(8,)), 2, 2)}
    for name, setting in (tiny if quick else SETTINGS).items():
        bound, repetitions = BOUNDS.get(name, (None, 2))
        teacher = teacher_of(setting, "cpu").eval()
        student = student_of(teacher, space_of(teacher.event)).eval()
        student.sample(1, STEPS)  # to warm up
        yield Overhead(
            f"{setting.sampled} images of {'x'.join(map(str, teacher.event))} in {STEPS} steps, {name}",
            "`SigDEG.sample`, depth 4, a reference per cosine, seeds",
            "the network in it",
            partial(student.sample, setting.sampled, STEPS),
            Stopwatch(network_of(student)),
            repetitions,
            bound,
            "the normals of the paths, a transform of cosines before and after each evaluation, and the sum of a "
            "student's weights and their change at each step.",
        )
