"""Schemes whose states have the means and the variances of converged paths, coordinate by coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_instance, check_integer
from sdesig._devices import like
from sdesig._evaluating import evaluating
from sdesig._files import read_tensors, reading, tensor_digest, write_tensors
from sdesig._progress import progress_bar
from sdesig._random import generator_for
from sdesig.brownian import BrownianPath
from sdesig.sampling.canonical import CanonicalSDE, ReverseScheme, SNRDenoiser, at_eta, check_snr_denoiser
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.path_average import PathAverage
from sdesig.sampling.path_space import EVEN, PathSpace
from sdesig.sampling.teacher_paths import TeacherPaths, draw_signature, snr_times
from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature, join_steps
from sdesig.signature.words import Word, legendre_depth
from sdesig.solvers.driver import all_finite

AT_ONCE, NUMBERS = 64, 2**27
"""Most paths at once, and most numbers of their signatures on the fine grid. What a seed gives depends on them."""


@dataclass(frozen=True, eq=False)
class StepMoments:
    """What is done to the states after each of a number of steps: u <- shift + gain u.

    Attributes:
        times: SNRs at which the steps begin and end, float64 on the CPU, (steps + 1,).
        shift, gain: by step and coordinate, (steps, *event).
    """

    times: Tensor
    shift: Tensor
    gain: Tensor


class Calibrated(ReverseScheme):
    """A scheme whose states, after every step, have the means and standard deviations of converged paths.

    With one evaluation a step a scheme sees late what the denoiser says, and what is decided late, the high frequencies
    of images above all, varies too little in its states. The network is then asked at states that are too smooth, and
    the samples are. In every coordinate of a basis, after step n,

        u <- b_n + g_n u,    g_n = s_n/s'_n,    b_n = m_n - g_n m'_n,

    with the mean m and standard deviation s of converged paths at that SNR, and m', s' those of the scheme's own states
    on the same paths, calibrated up to this step. `calibrate` measures them, for one grid and some numbers of steps. As
    steps grow short the states are the converged ones, and nothing is changed.

    Args:
        scheme: the scheme.
        moments: for each number of steps.
        basis: the matrices of the basis in which the coordinates are, as `GaussianReference.basis`. An SDE has a
            reference in that basis, or one without a basis.

    Raises:
        TypeError, ValueError: a scheme that is none for reverse diffusions, or has noise of its own; no moments, or two
            numbers of steps that begin with the same step.
    """

    def __init__(
        self, scheme: ReverseScheme, moments: Sequence[StepMoments], basis: Sequence[Tensor] | None = None
    ) -> None:
        if check_instance("scheme", scheme, ReverseScheme).own_noise:
            raise ValueError(f"scheme must follow the paths; {scheme!r} has noise of its own")
        if not moments:
            raise ValueError("moments must be of one number of steps at least; there are none")
        self.scheme = scheme
        self.moments = {len(one.gain): one for one in moments}
        self.strong_order, self.weak_order = scheme.strong_order, scheme.weak_order
        self._basis = GaussianReference(0.0, 0.0, basis)
        for one, other in combinations(moments, 2):
            if _same(one.times[:2], other.times[:2]):
                raise ValueError(
                    f"moments must have different first steps; those of {len(one.gain)} and of {len(other.gain)} "
                    "steps have the same"
                )

    def __repr__(self) -> str:
        return f"Calibrated({self.scheme!r}, steps={tuple(self.moments)})"

    @property
    def basis(self) -> tuple[Tensor, ...]:
        """The matrices of the basis, none for the coordinates of the data."""
        return self._basis.basis

    @property
    def digest(self) -> str:
        """The sha256 of all numbers."""
        return tensor_digest(self._tensors().values())

    def words(self, structure: str) -> tuple[Word, ...]:
        """Those of the scheme."""
        return self.scheme.words(structure)

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """That of the scheme."""
        return self.scheme.noise(structure, signatures)

    def noise_by_step(self, structure: str, signatures: PartialSignature) -> Iterator[tuple[Tensor, ...]]:
        """That of the scheme."""
        return self.scheme.noise_by_step(structure, signatures)

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """As that of the scheme."""
        return self.scheme.check(sde, y0, path)

    def start(  # type: ignore[override]
        self, sde: CanonicalSDE, t: Tensor, y: Tensor
    ) -> tuple[Any, StepMoments | None, int]:
        """The memory of the scheme, the moments, unknown before the first step, and the number of steps made.

        Raises:
            ValueError: a reference in another basis.
        """
        ours, theirs = self.basis, sde.reference.basis
        if theirs and not (_shapes(ours) == _shapes(theirs) and all(map(_close, ours, theirs))):
            raise ValueError("the SDE's reference must have the basis of the calibration, or none; it has another")
        return self.scheme.start(sde, t, y), None, 0

    def advance(
        self,
        sde: CanonicalSDE,
        start: Tensor,
        end: Tensor,
        u: Tensor,
        memory: tuple[Any, StepMoments | None, int],
        noise: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Any, StepMoments | None, int]]:
        """A step of the scheme, and the calibration of where it ends.

        Raises:
            ValueError: steps that were not measured.
        """
        inner, moments, done = memory
        step = torch.stack([start, end])
        if moments is None:
            moments = next((one for one in self.moments.values() if _same(one.times[:2], step)), None)
        if moments is None or done >= len(moments.gain) or not _same(moments.times[done : done + 2], step):
            raise ValueError(
                f"steps must be those that were calibrated, {tuple(self.moments)} of one grid; step {done + 1} from "
                f"SNR {start.item():g} to {end.item():g} is none of theirs"
            )
        u, inner = self.scheme.advance(sde, start, end, u, inner, noise)
        shift, gain = like(moments.shift[done], u), like(moments.gain[done], u)
        own = u if sde.reference.basis else self._basis.to_basis(u)
        u = shift + gain * own
        u = u if sde.reference.basis else self._basis.from_basis(u)
        return u, (inner, moments, done + 1)

    def save(self, file: str | Path) -> None:
        """Write the moments and the basis to a safetensors file; the scheme is not saved."""
        write_tensors(Path(file), self._tensors())

    @classmethod
    def load(cls, file: str | Path, scheme: ReverseScheme) -> Calibrated:
        """Read a file of `save`, for the scheme that was calibrated.

        Raises:
            FileNotFoundError, ValueError: no such file, or other things in it.
        """
        tensors = read_tensors(Path(file))
        with reading(file):
            counts = sorted(int(name.removeprefix("times_")) for name in tensors if name.startswith("times_"))
            basis = [f"basis_{k}" for k in range(sum(name.startswith("basis_") for name in tensors))]
            names = {f"{what}_{count}" for count in counts for what in ("times", "shift", "gain")}
            if not counts or tensors.keys() != {*names, *basis}:
                raise ValueError(f"it must hold times, shift and gain of numbers of steps; it holds {sorted(tensors)}")
            moments = []
            for count in counts:
                one = StepMoments(*(tensors[f"{what}_{count}"] for what in ("times", "shift", "gain")))
                if one.times.shape != (count + 1,) or one.gain.shape != one.shift.shape or len(one.gain) != count:
                    raise ValueError(f"times_{count}, shift_{count} and gain_{count} must be of {count} steps")
                moments.append(one)
            return cls(scheme, moments, [tensors[name] for name in basis])

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"basis_{k}": matrix for k, matrix in enumerate(self.basis)}
        for count, one in self.moments.items():
            found |= {f"times_{count}": one.times, f"shift_{count}": one.shift, f"gain_{count}": one.gain}
        return found


def _shapes(matrices: Sequence[Tensor]) -> list[torch.Size]:
    return [matrix.shape for matrix in matrices]


def _close(matrix: Tensor, other: Tensor) -> bool:
    return torch.allclose(matrix.to(other), other, atol=1e-4)


def _same(times: Tensor, others: Tensor) -> bool:
    return times.shape == others.shape and torch.allclose(times, others.to(times), rtol=1e-9, atol=0.0)


@torch.no_grad()
def calibrate(
    teacher: SNRDenoiser,
    space: PathSpace,
    steps: Sequence[int],
    scheme: ReverseScheme | None = None,
    *,
    eta: float = 1.0,
    paths: int = 192,
    fine_steps: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Calibrated:
    """Measure means and standard deviations of a scheme's states, and of the converged paths that they follow.

    Both are of the same paths, so that the ratio of the standard deviations has a small error: for Gaussian coordinates
    of correlation r relatively sqrt((1 - r^2)/paths). Log gains and shifts are shrunk by their own errors: a value d of
    standard error e becomes max(0, 1 - e^2/d^2) d.

    The teacher is evaluated paths (fine_steps + 2 n) times, at most, n being the sum of the numbers of steps. Memory:
    the noise of all steps and paths is held, 2 n paths numbers for every coordinate for the path-average scheme.

    Args:
        teacher: D(y, snr), on the device of the space; its eta is 1.
        space: the grid of the steps, and the reference of the scheme's variables. The coordinates are those of its
            basis. Where a scheme has no reference, one of variance 0 gives the basis.
        steps: the numbers of steps.
        scheme: default `PathAverage()`.
        eta: stochasticity, 1 or 0; that of the probability flow is compared with converged solutions of its own.
        paths: number of paths.
        fine_steps: number of steps of the converged paths, even in log-SNR; those of the grid come to them.
        seed: seed of all random numbers.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: arguments out of range, the errors of `Calibrated`.
        FloatingPointError: states that are not finite.
    """
    scheme = check_instance("scheme", PathAverage() if scheme is None else scheme, ReverseScheme)
    check_integer("paths", paths, 2)
    check_integer("fine_steps", fine_steps, 1)
    check_integer("seed", seed, 0)
    check_choice("eta", eta, (0.0, 1.0))
    counts = [check_integer(f"steps[{k}]", count, 1) for k, count in enumerate(steps)]
    if not counts:
        raise ValueError(f"steps must not be empty; got {steps!r}")
    if len({*counts}) < len(counts):
        raise ValueError(f"steps must differ; got {counts}")
    grids = {count: check_instance("space", space, PathSpace).times(count) for count in counts}
    own = check_snr_denoiser("teacher", teacher) if eta == 1.0 else at_eta(teacher, eta)
    sde = CanonicalSDE(own, reference=space.reference, eta=eta)
    times = _merged([snr_times(space.snr, EVEN, fine_steps), *grids.values()])
    ends = {count: [int((times - time).abs().argmin()) for time in at] for count, at in grids.items()}
    depth = max(2, legendre_depth(scheme.words("additive")))
    at_once = max(1, min(AT_ONCE, NUMBERS // (depth * len(times) * math.prod(space.event))))
    parts: dict[int, list[TeacherPaths]] = {count: [] for count in counts}
    total = len(range(0, paths, at_once)) * (len(times) - 1) + sum(counts)
    with (
        progress_bar(total=total, name="calibration", unit="evaluation", shown=progress) as bar,
        evaluating(teacher, scheme.advance),
    ):
        for first in range(0, paths, at_once):
            generator = generator_for("calibration", seed, first, device=space.device)
            shape = min(at_once, paths - first), *space.event
            whole = _converged(sde, space, times, shape, depth, generator, bar.update)
            for count in counts:
                parts[count].append(_coarse(whole, ends[count], free=eta > 0.0))
        moments = [_measured(sde, scheme, _joined(parts.pop(count)), bar.update) for count in counts]
    return Calibrated(scheme, moments, space.reference.basis)


def _merged(parts: Sequence[Tensor]) -> Tensor:
    """The times of all parts, in order, each once."""
    times = torch.cat([*parts]).sort().values
    return torch.cat([times[:1], times[1:][times.diff() > 1e-9 * times[1:]]])


def _converged(
    sde: CanonicalSDE,
    space: PathSpace,
    times: Tensor,
    shape: tuple[int, ...],
    depth: int,
    generator: torch.Generator,
    evaluated: Callable[[int], object],
) -> TeacherPaths:
    """Converged paths at all times; `evaluated` is called after every evaluation."""
    scheme = PathAverage(correction=0.0)
    noise = torch.randn(shape, generator=generator, dtype=space.dtype, device=space.device)
    clock = sde.clock if sde.eta > 0.0 else space.clock
    signatures = draw_signature(clock, times, shape, depth, generator, space.dtype)
    states = [sde.start(noise, times[0])]
    memory: Any = scheme.start(sde, times[0], states[0])
    for k, now in enumerate(scheme.noise_by_step("additive", signatures)):
        u, memory = scheme.advance(sde, times[k], times[k + 1], states[-1], memory, now)
        states.append(u)
        evaluated(1)
    return TeacherPaths(times, signatures, torch.stack(states))


def _coarse(paths: TeacherPaths, ends: list[int], *, free: bool) -> TeacherPaths:
    """Paths on steps that end at some of the times; the first state is that of a free step, without noise the start."""
    states, joined = paths.states[ends], join_steps(paths.signature, ends if ends[0] == 0 else [0, *ends])
    if ends[0] > 0:
        states[0] = paths.states[0] + joined[0].increment if free else paths.states[0]
        joined = joined[1:]
    return TeacherPaths(paths.times[ends], joined, states)


def _joined(parts: Sequence[TeacherPaths]) -> TeacherPaths:
    """The rows of all parts."""
    first = parts[0]
    coefficients = torch.cat([part.signature.coefficients for part in parts], 2)
    signature = PartialSignature.unchecked(first.signature.h, coefficients)
    return TeacherPaths(first.times, signature, torch.cat([part.states for part in parts], 1))


def _measured(
    sde: CanonicalSDE, scheme: ReverseScheme, paths: TeacherPaths, evaluated: Callable[[int], object]
) -> StepMoments:
    """Shifts and gains of the scheme's steps on paths, one after the other."""
    times, u, found = paths.times, paths.states[0], []
    memory = scheme.start(sde, times[0], u)
    for k, now in enumerate(scheme.noise_by_step("additive", paths.signature)):
        u, memory = scheme.advance(sde, times[k], times[k + 1], u, memory, now)
        shift, gain = matched(u, paths.states[k + 1])
        u = shift + gain * u
        found.append((shift, gain))
        evaluated(1)
    shift, gain = map(torch.stack, zip(*found, strict=True))
    if not all_finite(shift + gain):
        raise FloatingPointError(f"the states of {scheme!r} in {len(times) - 1} steps must be finite; they are not")
    return StepMoments(times, shift, gain)


def matched(states: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and gain with which states, (n, *event), have the means and standard deviations of others, shrunk."""
    own, other, n = states.double(), truth.double(), len(states)
    mean, wanted, spread, aimed = own.mean(0), other.mean(0), own.std(0), other.std(0)
    ratio = torch.where(spread > 0, aimed / spread, 1.0).clamp(1e-3, 1e3).log()
    # log(s/s') is to first order the mean of half the difference of the standardized squares
    squares = (((other - wanted) / aimed) ** 2 - ((own - mean) / spread) ** 2).nan_to_num(0.0, 0.0, 0.0)
    gain = shrunk(ratio, (squares / 2).var(0) / n).exp()
    left = other - gain * own
    shift = shrunk(left.mean(0), left.var(0) / n)
    return shift.to(states), gain.to(states)


def shrunk(change: Tensor, variance: Tensor) -> Tensor:
    """A change that is uncertain, times the share of its square that is not its own variance."""
    share = 1 - variance / change.square()
    return torch.where(change == 0, change, change * share.clamp(min=0.0))
