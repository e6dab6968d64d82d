"""An order of convergence with its error bars."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdesig._checks import check_real
from sdesig._figures import log_axes, look_of
from sdesig._intervals import NORMAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLACK = 0.15
"""By how much an order may miss theory: the orders of finite steps are not yet those of theory."""

HALF_WIDTH = 0.1
"""Half the length of the longest confidence interval that shows an order."""

SIGNIFICANCE = 1e-3
FEWEST = 10
"""Effective paths below which no interval holds: the errors of the paths that matter most were probably not drawn."""


@dataclass(frozen=True, repr=False)
class OrderEstimate:
    """The slope of log error against log step length, from one error per number of steps.

    `str` has the order, its interval and every reason for doubt, such as "strong order 0.87 [0.80, 0.94], 2 of 4
    step counts".

    Attributes:
        order: the slope of the line through the used errors, by least squares (`fit_strong`, `fit_weak`).
        ci_low, ci_high: its 95 % confidence interval, for the slope of the exact errors at these numbers of steps; as
            much wider as the errors are off the line by more than noise.
        steps: the step counts N, increasing; the step length is proportional to 1/N.
        errors, standard_errors: one per step count; error +- 1.96 standard errors is a 95 % interval, wider than normal
            theory has it where a few paths make the error.
        used: which errors entered the fit: those above their floor, in one run.
        floors: an error is masked unless it is greater (errors of the truth, rounding, Monte-Carlo noise).
        constant: the line is constant * N^(-order).
        slopes, slope_errors: between successive used errors, and their standard errors.
        p_value: probability of so large a squared distance of the used errors from the line, in units of the noise, by
            Fisher's law with as many degrees of freedom as paths make the noise; 1 for two errors. Errors may be
            off the line by 2 % beside the noise, which forgives the curvature that any finite step has.
        kind: "strong" or "weak".
        effective_paths: (sum e^2)^2 / sum e^4 over the paths' errors e (weak: the samples less their mean), the least
            of the used errors; NaN where not known. Below 10 no interval from these paths holds (`few`).
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
    effective_paths: float = math.nan

    @property
    def half_width(self) -> float:
        """Half the length of the confidence interval."""
        return (self.ci_high - self.ci_low) / 2

    @property
    def straight(self) -> bool:
        """Whether at least three errors were used and their successive slopes agree with one line within noise."""
        return sum(self.used) >= 3 and self.p_value >= SIGNIFICANCE

    @property
    def few(self) -> bool:
        """Whether so few paths make an error that no interval from them holds: fewer than 10 effective ones."""
        return self.effective_paths < FEWEST

    def supports(self, theory: float) -> bool:
        """Whether this shows an order >= theory: ci_low >= theory - 0.15, half-width <= 0.1, `straight`, not `few`."""
        shown = self.ci_low >= check_real("theory", theory) - SLACK and self.half_width <= HALF_WIDTH
        return shown and self.straight and not self.few

    def refutes(self, theory: float) -> bool:
        """Whether this shows an order < theory: ci_high < theory - 0.15, and not `few`."""
        return self.ci_high < check_real("theory", theory) - SLACK and not self.few

    def __str__(self) -> str:
        """The order, its interval and every reason for doubt."""
        parts = [f"{self.kind} order {self.order:.2f} [{self.ci_low:.2f}, {self.ci_high:.2f}]"]
        used, count = sum(self.used), len(self.used)
        if used < count:
            parts.append(f"{used} of {count} step counts")
        elif count == 2:
            parts.append("2 step counts")
        if self.p_value < SIGNIFICANCE:
            parts.append(f"not straight (p = {self.p_value:.0e})")
        if self.few:
            parts.append(f"too few effective paths ({self.effective_paths:.1f})")
        if self.half_width > HALF_WIDTH:
            parts.append(f"interval wider than +- {HALF_WIDTH:g}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        """The text, and the errors."""
        errors = ", ".join(
            f"{n}: {error:.3g} +- {NORMAL * spread:.2g}{'' if used else ' masked'}"
            for n, error, spread, used in zip(self.steps, self.errors, self.standard_errors, self.used, strict=True)
        )
        return f"OrderEstimate({self}; {errors})"

    def to_json(self) -> str:
        """All attributes as a JSON object; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> OrderEstimate:
        """The estimate that `to_json` wrote, here or before it had `effective_paths`."""
        values: dict[str, Any] = json.loads(text)
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def plot(self, axis: Axes | None = None, *, name: str = "") -> Axes:
        """Draw errors with 95 % error bars (masked ones hollow) and the line, log-log; returns the axis.

        Args:
            axis: where; default: a new one of pyplot.
            name: of the scheme, to stand in the legend; one that the package knows has its colour and marker.
        """
        import matplotlib.pyplot as plt

        if axis is None:
            axis = plt.subplots(layout="constrained")[1]
        look = look_of(name) if name else None
        label = f"{name}: {self}" if name else str(self)
        fitted = [self.constant * n**-self.order for n in self.steps]
        (line,) = axis.plot(
            self.steps, fitted, look.line if look else "-", color=look.colour if look else None, label=label
        )
        for used in (True, False):
            shown = [k for k, flag in enumerate(self.used) if flag == used and self.errors[k] > 0]
            axis.errorbar(
                [self.steps[k] for k in shown],
                [self.errors[k] for k in shown],
                yerr=[NORMAL * self.standard_errors[k] for k in shown],
                fmt=look.marker if look else "o",
                color=line.get_color(),
                markerfacecolor=None if used else "none",
                capsize=2,
            )
        ticks = {*self.steps, *(n for n in axis.get_xticks() if axis.lines[0] is not line)}
        log_axes(axis, ticks, xlabel="steps", ylabel=f"{self.kind} error")
        axis.legend()
        return axis
