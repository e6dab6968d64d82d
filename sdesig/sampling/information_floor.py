"""The information floor: the least error of methods that see the start and partial signatures on coarse steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdesig._checks import check_instance, check_integer
from sdesig._intervals import root_mean_square, root_mean_square_interval
from sdesig._random import generator_for
from sdesig.brownian.path import MOST_DEPTH
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.path_space import PathSpace, StepGrid
from sdesig.sampling.teacher_paths import (
    TEACHER_SCHEMES,
    TeacherOptions,
    draw_signature,
    refined_times,
    snr_times,
    teacher_states,
)
from sdesig.signature import legendre
from sdesig.signature.partial_signature import PartialSignature

_NUMBERS = 2**24
"""Most numbers of paths that are drawn from one generator. The floor of a seed depends on it: it must not change."""
_ORTHONORMAL = 1e-4  # what inner products of functionals may be off by


@dataclass(frozen=True)
class Floor:
    """sqrt(E |x - E[x | start, partial signatures]|^2 / d), x = y/tau at the end.

    Attributes:
        rmse: the floor.
        standard_error: the standard error of the floor.
        median: the median of |x - x'|/sqrt(2 d) over the groups, for the two ends x and x' of a group: smaller than the
            floor, as few groups carry much of the mean square.
        groups: number of groups, each of two paths with the same start and partial signatures.
        steps, depth: number of coarse steps, and depth of the partial signatures.
        quantiles: quantiles of the coarse grid, as in `StepGrid`.
        begin: position at which the steps begin, after a free step.
    """

    rmse: float
    standard_error: float
    median: float
    groups: int
    steps: int
    depth: int
    quantiles: tuple[float, ...] = (0.0, 1.0)
    begin: float = 0.0

    def __repr__(self) -> str:
        return (
            f"Floor(rmse={self.rmse:.4g} +- {self.standard_error:.2g}, steps={self.steps}, depth={self.depth}, "
            f"groups={self.groups})"
        )

    def is_of(self, depth: int | None, steps: int, grid: StepGrid) -> bool:
        """Whether this is the floor of generators of a depth in a number of steps of a grid."""
        own, other = (self.depth, self.steps, tuple(self.quantiles)), (depth, steps, tuple(grid.quantiles))
        return own == other and math.isclose(self.begin, grid.positions(steps)[0], abs_tol=1e-12)

    def ratio(self, errors: Tensor) -> tuple[float, float, float]:
        """The root mean square of errors, (n,), over the floor: ratio, low, high of a 95 % interval.

        The errors must come from other paths than the floor. Their interval, `root_mean_square_interval`, is widened by
        the floor's standard error, both on the scale of logarithms; NaN where too few errors carry the mean square.
        """
        rmse, _ = root_mean_square(errors)
        ratio = rmse / self.rmse
        low, high = root_mean_square_interval(errors) or (math.nan, math.nan)
        of_floor = 1.96 * self.standard_error / self.rmse
        down = math.hypot(math.log(rmse / low), of_floor) if low > 0 else math.nan
        return ratio, ratio * math.exp(-down), ratio * math.exp(math.hypot(math.log(high / rmse), of_floor))


@torch.no_grad()
def information_floor(
    teacher: SNRDenoiser,
    space: PathSpace,
    *,
    steps: int,
    depth: int,
    groups: int = 10_000,
    teacher_options: TeacherOptions | None = None,
    functionals: Callable[[Tensor, int], Tensor] | None = None,
    seed: int = 0,
) -> Floor:
    """The least pathwise error of any method that sees the start and depth-`depth` signatures of M on `steps` steps.

    In every group two Brownian paths are drawn that agree in the start and these signatures, by the exact conditional
    law, and the teacher runs along both: E|x - x'|^2 / 2 is the conditional variance. Errors are heavy-tailed: take
    10^4 groups.

    Args:
        teacher: D(y, snr), on the device of the space.
        space: event, range and grid of the steps; its reference sets the clock of the Legendre expansion. After a free
            step the paths begin with the state that it leads to: its own error is in no floor.
        steps: number of coarse steps.
        depth: depth of the partial signatures, >= 1.
        groups: number of pairs of paths.
        teacher_options: scheme and fine steps, whose number is rounded up to a multiple of `steps`.
        functionals: functionals of the path on a step that are known in place of its partial signature. Called with the
            SNRs of the fine steps in it, (n + 1, steps), and their depth k, it returns `depth` orthonormal combinations
            of their Legendre coefficients: (n, steps, depth, k).
        seed: seed of all random numbers.

    Raises:
        TypeError, ValueError: arguments out of range.
    """
    check_integer("steps", steps, 1)
    check_integer("depth", depth, 1, MOST_DEPTH)
    check_integer("groups", groups, 2)
    check_integer("seed", seed, 0, 2**63 - 1)
    check_instance("space", space, PathSpace)
    sde = CanonicalSDE(check_snr_denoiser("teacher", teacher), reference=space.reference)
    options = teacher_options or TeacherOptions()
    event, device, dtype = space.event, space.device, space.dtype
    fine_per_step = math.ceil(options.steps / steps)
    times = snr_times(space.snr, space.grid, steps)
    fine_times = refined_times(times, fine_per_step)
    scheme = TEACHER_SCHEMES[options.scheme]()
    fine_depth = max(2, depth)
    numbers = len(fine_times) * fine_depth * math.prod(event)
    rows = max(1, min(groups, _NUMBERS // numbers))
    inner = torch.cat([fine_times[:-1].unflatten(0, (steps, fine_per_step)).T, times[None, 1:]])
    differences = []
    for first in range(0, groups, rows):
        generator = generator_for("floor", seed, first, device=device)
        shape = (min(rows, groups - first), *event)
        noise = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        one = draw_signature(sde.clock, fine_times, shape, fine_depth, generator, dtype)
        other = draw_signature(sde.clock, fine_times, shape, fine_depth, generator, dtype)
        if functionals is None:
            lengths = one.h.unflatten(0, (steps, fine_per_step)).movedim(1, 0)
            matrix = legendre.parts_to_whole(lengths, fine_depth)[..., :depth, :]
        else:
            matrix = functionals(inner, fine_depth)
            wanted = (fine_per_step, steps, depth, fine_depth)
            if not isinstance(matrix, Tensor) or tuple(matrix.shape) != wanted:
                got = tuple(matrix.shape) if isinstance(matrix, Tensor) else repr(matrix)
                raise ValueError(f"functionals must return shape {wanted}; got {got}")
            product = torch.einsum("nsik,nsjk->sij", matrix, matrix)
            if not bool(((product - torch.eye(depth).to(product)).abs() < _ORTHONORMAL).all()):
                raise ValueError(
                    "functionals must be orthonormal on every step, summed over its parts and coefficients"
                )
        other = _agreeing(other, one, matrix.to(one.coefficients))
        start = sde.start(noise, times[0])
        ends = (teacher_states(scheme, sde, start, fine_times, signature, save="last") for signature in (one, other))
        x, y = (sde.noisy_data(end, times[-1]) for end in ends)
        differences.append((x - y).flatten(1).double().norm(dim=1) / math.sqrt(2 * math.prod(event)))
    errors = torch.cat(differences)
    rmse, standard_error = root_mean_square(errors)
    begin = float(space.grid.positions(steps)[0])
    return Floor(rmse, standard_error, errors.median().item(), groups, steps, depth, space.grid.quantiles, begin)


def _agreeing(value: PartialSignature, given: PartialSignature, matrix: Tensor) -> PartialSignature:
    """`value` with the functionals C x of `given` on every coarse step: z + C^T (x - C z), rows of C orthonormal.

    The law is the exact conditional one. C: (parts of a step, steps, ..., functionals, depth).
    """
    # On a step of two equal parts, at depth 1, C = (1, 1)/sqrt(2) maps the parts' xi to that of the step. If `given`
    # has (1, 3) and `value` (0, 0), then C (x - z) = 4/sqrt(2), and `value` becomes (2, 2): its sum is that of `given`,
    # its difference still its own.
    missing = (given.coefficients - value.coefficients).unflatten(1, (matrix.shape[1], matrix.shape[0]))
    whole = torch.einsum("ns...ij,jsn...->is...", matrix, missing)
    change = torch.einsum("ns...ij,is...->jsn...", matrix, whole)
    return PartialSignature(value.h, value.coefficients + change.flatten(1, 2))
