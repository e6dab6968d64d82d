"""Adaptive steps along a Brownian path: small where the drift is stiff, long elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_real
from sdesig.brownian import BrownianPath
from sdesig.brownian.master_grid import MOST_CELLS
from sdesig.sde.base import SDELike
from sdesig.solvers.driver import all_finite, check_arguments
from sdesig.solvers.shark import ShARK

_FIRST_STEP = 0.01  # the first trial step, as a share of the path in its clock
_SAFETY, _SMALLEST_FACTOR, _LARGEST_FACTOR = 0.9, 0.2, 5.0
# The estimate is of size h^(3/2). Coefficients for SDEs as diffrax recommends them (`PIDController`): errors follow the
# noise, so a controller should not follow them too eagerly.
_ERROR_ORDER, _INTEGRAL, _PROPORTIONAL = 1.5, 0.3, 0.1


@dataclass(frozen=True, eq=False)
class AdaptiveSolution:
    """What `solve_adaptive` found.

    Attributes:
        times: the times asked for, float64 on the CPU, (n,).
        states: the states at these times, (n, *y0.shape).
        step_times: all times between which a step was made, float64 on the CPU, (accepted + 1,). On them
            `solve(..., solution.step_times, scheme="shark")` makes the same steps again.
        rejected: number of rejected steps.
        evaluations: number of evaluations of the drift, two for a step, rejected or not.
    """

    times: Tensor
    states: Tensor
    step_times: Tensor
    rejected: int
    evaluations: int

    def __repr__(self) -> str:
        """One line, without numbers of the states."""
        return (
            f"AdaptiveSolution({len(self.times)} states of shape {tuple(self.states.shape[1:])}, "
            f"{len(self.step_times) - 1} steps, {self.rejected} rejected, {self.evaluations} evaluations)"
        )


def solve_adaptive(
    sde: SDELike,
    y0: Tensor,
    times: Tensor,
    *,
    path: BrownianPath,
    atol: float,
    rtol: float = 1e-3,
) -> AdaptiveSolution:
    """Solve dY = f dt + g dW, additive noise, from Y(times[0]) = y0 with steps of `ShARK` whose local error is bounded.

    A step is accepted if in every row of the batch the root mean square of the estimated error
    (`ShARK.step_and_error`) is at most atol + rtol |Y|, |Y| the larger root mean square of the row before and after the
    step. So the tolerance holds for every path, not for the batch on average, and an entry that passes through zero
    does no harm beside larger ones. Lengths come from a PI controller on h.

    After a rejection a shorter step sees the same Brownian path: what was learnt of it is neither forgotten nor drawn
    again, so rejecting does not bias the law. With additive noise the solution depends continuously on the path, so the
    states converge pathwise with the tolerance, however the steps are chosen (for multiplicative noise that would need
    care: Gaines & Lyons, SIAM J. Appl. Math. 57, 1997).

    The batch shares its steps. So a row depends on the other rows, within tolerance. Where it must not, solve the rows
    one by one, or all of them with `solve` on given times, such as the `step_times` of one adaptive solution.

    Diffusions run in the signal-to-noise ratio tau, dy = D(y, tau) dtau + dB, on a path with `SNRClock()`. Their y
    grows like tau times the data, so rtol bounds the error relative to the data's scale as soon as tau is large, and
    atol matters at the start, where |y| is of order sqrt(tau); atol = rtol suits data of unit scale.

    Args:
        sde: an SDE with additive noise and torchsde's interface; see `sdesig.sde.SDE`.
        y0: as in `solve`, at least one row.
        times: where states are wanted, the first one y0's: increasing, float64, (n >= 2,), on the path's master grid if
            it has one. Steps end there exactly.
        path: as in `solve`, of depth >= 2. Steps end at cells of its master grid; from a generator without areas at any
            time, but no step is shorter than 2^-30 of the path in its clock.
        atol: > 0, absolute tolerance of one step. It has the units of Y and so no default: take rtol times a size that
            is small for Y. Scaled with Y it leaves the steps as they are.
        rtol: >= 0, relative tolerance of one step.

    Returns:
        An `AdaptiveSolution`; its states are differentiable as those of `solve`, the steps taken as given.

    Raises:
        TypeError, ValueError: as `solve`, or tolerances out of range.
        RuntimeError: a step of one cell is rejected, because its error is too large or its state not finite.
    """
    rtol, atol = check_real("rtol", rtol, minimum=0.0), check_real("atol", atol, minimum=0.0, strict=True)
    scheme = ShARK()
    grid, sde, structure = check_arguments(scheme, sde, y0, times, path)
    if len(y0) == 0:
        raise ValueError(f"y0 must have at least one row; got shape {tuple(y0.shape)}")

    t, y = grid[0].item(), y0
    position = path.clock.position(t, path.t0, path.t1)
    h = float(path.clock.time(position + _FIRST_STEP, path.t0, path.t1)) - t
    states, step_times, rejected, last = [y0], [t], 0, 1.0
    for goal in grid[1:].tolist():
        while t < goal:
            end, shortest = _step_end(path, t, h, goal)
            length = end - t
            noise = scheme.noise(structure, path.partial_signature(t, end))
            y_next, error = scheme.step_and_error(sde, grid.new_tensor(t), grid.new_tensor(end), y, *noise)
            ratio = _error_ratio(error, y, y_next, rtol, atol)
            if ratio <= 1:
                factor = _factor(ratio, last)
                # A step cut off by the goal says little about the length that is possible.
                h = h * factor if end < goal else max(h, length * factor)
                t, y, last = end, y_next, ratio
                step_times.append(t)
            elif shortest:
                raise RuntimeError(
                    f"the shortest step from t = {t} (h = {length:.3g}) has {ratio:.3g} times the error that rtol = "
                    f"{rtol:g} and atol = {atol:g} allow; give the path more cells, or take larger tolerances"
                )
            else:
                h = length * min(_SAFETY, _factor(ratio, last))
                rejected += 1
        states.append(y)
    evaluations = 2 * (len(step_times) - 1 + rejected)
    return AdaptiveSolution(grid, torch.stack(states), grid.new_tensor(step_times), rejected, evaluations)


@torch.no_grad()
def _error_ratio(error: Tensor, y: Tensor, y_next: Tensor, rtol: float, atol: float) -> float:
    """The largest ratio in the batch of a row's error to what is allowed; infinite if a state is not finite."""
    if not all_finite(y_next):
        return math.inf
    size, before, after = (x.flatten(1).square().mean(1).sqrt() for x in (error, y, y_next))
    return (size / (atol + rtol * torch.maximum(before, after))).max().item()


def _factor(ratio: float, last: float) -> float:
    """What to multiply h by, from the step's error ratio and that of the last accepted step."""
    ratio, last = (max(r, 1e-6) for r in (ratio, last))
    power = ratio ** -(_INTEGRAL + _PROPORTIONAL) * last**_PROPORTIONAL
    return min(_LARGEST_FACTOR, max(_SMALLEST_FACTOR, _SAFETY * power ** (1 / _ERROR_ORDER)))


def _step_end(path: BrownianPath, t: float, h: float, goal: float) -> tuple[float, bool]:
    """Where a step from t ends, and whether it is the shortest: the last cell before t + h, the goal at most."""
    # along a path without master grid steps are no shorter than the cells of the finest grid that exists
    cells = MOST_CELLS if path.seeds is None and not path.area else path.cells
    here, there, last = path.clock.position(np.array([t, t + h, goal]), path.t0, path.t1) * cells
    shortest = np.rint(here) + 1
    cell = max(shortest, np.floor(there))
    if cell >= np.rint(last):
        return goal, bool(shortest >= np.rint(last))
    return float(path.clock.time(cell / cells, path.t0, path.t1)), bool(cell == shortest)
