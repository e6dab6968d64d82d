"""Evaluations of the denoiser that a reverse diffusion needs for a pathwise error, against SDE-DPM-Solver++(2M)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.work_precision.curves import Curve, work_to_reach

TARGET = 0.05
BASELINE = "sdesig dpm_solver_2m"
RATIOS = {"sdesig path_average, no reference": 3.0, "sdesig path_average, scalar reference": 6.0}
"""How many times fewer evaluations than the baseline are asked for."""
WHY_NOT = (
    f"Per coordinate an error of {TARGET:g} is coarse: in 64 dimensions it is {8 * TARGET:g} in norm. Some 20 steps of "
    "2M reach it, and in so few steps the order 1.5 of the path-average scheme without a reference hardly shows yet; "
    "its advantage grows as the error falls. In the plane alone both ratios are close to what is asked for: the "
    "intervals contain it. The scalar reference's variance, trace/64 = .106, is that of the 62 other coordinates; the "
    "plane's is .59, which the PCA reference knows."
)
PER_STEP = {"shark": 2}
RESAMPLES = 1000

Measure = Callable[[Tensor], Tensor]
"""From differences (..., dim) to squared errors (...)."""


@dataclass(frozen=True)
class Need:
    """A scheme's evaluations for `TARGET`, and the baseline's over these; intervals (low, high) of 95 %."""

    measure: str
    label: str
    evaluations: float
    interval: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]
    at_most: bool

    @property
    def reached(self) -> bool | None:
        """Whether the interval of the ratio lies above what is asked for; None where nothing is."""
        return self.ratio_interval[0] >= RATIOS[self.label] if self.label in RATIOS else None


def measures(means: Tensor) -> dict[str, Measure]:
    """Ways to measure a difference of final states: the plane is that of the mixture's means, (modes, dim)."""
    plane = torch.linalg.svd(means, full_matrices=False).Vh[:2].mT
    return {
        "per coordinate, sqrt(E|x - x_ref|^2 / 64)": lambda d: d.square().mean(-1),
        "summed over the two coordinates of the plane, sqrt(E|P(x - x_ref)|^2)": lambda d: (d @ plane).square().sum(-1),
        "summed over all 64, sqrt(E|x - x_ref|^2)": lambda d: d.square().sum(-1),
    }


def needs(curves: Sequence[Curve], means: Tensor) -> list[Need]:
    """The needs of sdesig's curves, in each measure.

    Bootstrap: paths are resampled, the same for all schemes. Schemes without a reference run along the same paths, so
    their ratios have paired intervals; with a reference the clock, and so the path of a seed, is another.
    """
    ours = [curve for curve in curves if curve.package == "sdesig"]
    paths = ours[0].differences.shape[1]
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(paths, (RESAMPLES, paths), generator=generator)
    counts = torch.zeros(RESAMPLES, paths, dtype=torch.float64).scatter_add_(1, draws, torch.ones(draws.shape).double())
    everyone = torch.ones(1, paths, dtype=torch.float64)
    rows = []
    for name, measure in measures(means).items():
        found = {curve.label: _evaluations(curve, measure, torch.cat([everyone, counts]) / paths) for curve in ours}
        for curve in ours:
            own = found[curve.label]
            ratio = found[BASELINE] / own
            first = measure(curve.differences[0]).mean().sqrt().item()
            values = own[0].item(), _interval(own), ratio[0].item(), _interval(ratio)
            rows.append(Need(name, curve.label, *values, at_most=first <= TARGET))
    return rows


def _evaluations(curve: Curve, measure: Measure, weights: Tensor) -> Tensor:
    """For each row of weights over the paths: interpolated evaluations for `TARGET`, infinite where not reached."""
    errors = (weights @ measure(curve.differences).double().mT).sqrt().tolist()
    work = [PER_STEP.get(curve.scheme, 1) * float(n) for n in curve.steps]
    return torch.tensor([work_to_reach(TARGET, row, work) for row in errors], dtype=torch.float64)


def _interval(values: Tensor) -> tuple[float, float]:
    """95 % of the resamples, which follow the value itself."""
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(values[1:], ends, interpolation="nearest").tolist()  # some may be infinite
    return low, high
