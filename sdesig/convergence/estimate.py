"""An order of convergence with its error bars."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdesig._checks import check_real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLACK = 0.15
HALF_WIDTH = 0.1
SIGNIFICANCE = 1e-3


@dataclass(frozen=True)
class OrderEstimate:
    """The slope of log error against log step length, from one level per number of steps.

    Attributes:
        order: the slope of the line through the used levels, by generalized least squares (`fit`).
        ci_low, ci_high: its 95 % confidence interval.
        steps: numbers of steps N, increasing, one per level; the step length is proportional to 1/N.
        errors, standard_errors: one per level.
        used: which levels entered the fit: those above their floor, in one run.
        floors: the level is masked unless its error is greater (errors of the reference, rounding, Monte-Carlo noise).
        constant: the line is constant * N^(-order).
        slopes, slope_errors: between successive used levels, and their standard errors.
        p_value: of the chi-square statistic of the used levels about the line; 1 for two levels. Levels may be off the
            line by 2 % beside the noise, which forgives the curvature that any finite step has.
        kind: "strong" or "weak".
    """

    order: float
    ci_low: float
    ci_high: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    standard_errors: tuple[float, ...]
    used: tuple[bool, ...]
    floors: tuple[float, ...]
    constant: float
    slopes: tuple[float, ...]
    slope_errors: tuple[float, ...]
    p_value: float
    kind: str

    @property
    def half_width(self) -> float:
        """Half the length of the confidence interval."""
        return (self.ci_high - self.ci_low) / 2

    @property
    def straight(self) -> bool:
        """Whether at least three levels were used and their successive slopes agree with one line within noise."""
        return sum(self.used) >= 3 and self.p_value >= SIGNIFICANCE

    def supports(self, theory: float) -> bool:
        """Whether this shows an order >= theory: ci_low >= theory - 0.15, half-width <= 0.1, and `straight`."""
        return self.ci_low >= check_real("theory", theory) - SLACK and self.half_width <= HALF_WIDTH and self.straight

    def refutes(self, theory: float) -> bool:
        """Whether this shows an order < theory: ci_high < theory - 0.15."""
        return self.ci_high < check_real("theory", theory) - SLACK

    def to_json(self) -> str:
        """All attributes as a JSON object; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> OrderEstimate:
        """The estimate that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def plot(self, axis: Axes | None = None) -> Axes:
        """Draw errors with 95 % error bars (masked levels hollow) and the line, log-log; returns the axis."""
        import matplotlib.pyplot as plt

        if axis is None:
            axis = plt.subplots()[1]
        label = f"{self.kind} order {self.order:.2f} [{self.ci_low:.2f}, {self.ci_high:.2f}]"
        (line,) = axis.plot(self.steps, [self.constant * n**-self.order for n in self.steps], label=label)
        for used in (True, False):
            levels = [k for k, flag in enumerate(self.used) if flag == used and self.errors[k] > 0]
            axis.errorbar(
                [self.steps[k] for k in levels],
                [self.errors[k] for k in levels],
                yerr=[1.96 * self.standard_errors[k] for k in levels],
                fmt="o",
                color=line.get_color(),
                markerfacecolor=None if used else "none",
                capsize=2,
            )
        axis.set(xscale="log", yscale="log", xlabel="steps", ylabel=f"{self.kind} error")
        axis.legend()
        return axis
