"""Schemes whose states have the means and the variances of converged paths, coordinate by coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_instance, check_integer, check_real
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
from sdesig.sampling.teacher_paths import TeacherPaths, draw_signature, snr_times, teacher_states
from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature
from sdesig.signature.words import Word, legendre_depth
from sdesig.solvers.driver import all_finite

FEWEST_PATHS = 16
AT_ONCE, NUMBERS = 64, 2**26
"""Most paths at once, and most numbers of their signatures on the fine grid. What a seed gives depends on them."""


@dataclass(frozen=True, eq=False)
class StepMoments:
    """What is done to the states after each of a number of steps: u <- shift + gain u.

    Attributes:
        times: SNRs at which the steps begin and end, float64 on the CPU, (steps + 1,).
        shift, gain: by step and coordinate, (steps, *event).

    Raises:
        TypeError, ValueError: other things than tensors, shapes that do not fit.
    """

    times: Tensor
    shift: Tensor
    gain: Tensor

    def __post_init__(self) -> None:
        for name in ("times", "shift", "gain"):
            check_instance(name, getattr(self, name), Tensor)
        steps = len(self.gain)
        if self.times.dtype != torch.float64 or self.times.shape != (steps + 1,) or not steps:
            raise ValueError(
                f"times must be float64, of shape ({steps + 1},) for {steps} gains, of one step at least; they are "
                f"{self.times.dtype}, of shape {tuple(self.times.shape)}"
            )
        if self.shift.shape != self.gain.shape:
            raise ValueError(
                f"shift must have the gain's shape {tuple(self.gain.shape)}; got {tuple(self.shift.shape)}"
            )


class Calibrated(ReverseScheme):
    """A scheme whose states, after every step, have the means and standard deviations of converged paths.

    With one evaluation a step a scheme sees late what the denoiser says, and what is decided late, the high frequencies
    of images above all, varies too little in its states. The network is then asked at states that are too smooth, and
    the samples are. In every coordinate of a basis, after step n,

        u <- b_n + g_n u,    g_n = s_n/s'_n,    b_n = m_n - g_n m'_n,

    with the mean m and standard deviation s of converged paths at that SNR, and m', s' those of the scheme's own states
    on the same paths, calibrated up to this step. `calibrate` measures them, for one grid and some numbers of steps. As
    steps grow short the states are the converged ones, and nothing is changed. The correction that `PathAverage` makes
    between two steps comes after the first of them was calibrated: the second begins with it, and undoes what it does
    to the moments.

    Args:
        scheme: the scheme.
        moments: for each number of steps.
        basis: the matrices of the basis in which the coordinates are, as `GaussianReference.basis`. An SDE has a
            reference in that basis, or one without a basis.
        eta: of the SDE that it was measured for.

    Raises:
        TypeError, ValueError: a scheme that is none for reverse diffusions, or has noise of its own; no moments, those
            of one number of steps twice, or two numbers of steps that begin with the same step.
    """

    def __init__(
        self,
        scheme: ReverseScheme,
        moments: Sequence[StepMoments],
        basis: Sequence[Tensor] | None = None,
        eta: float = 1.0,
    ) -> None:
        _check_follows(scheme)
        if not moments:
            raise ValueError("moments must be of one number of steps at least; there are none")
        for k, one in enumerate(moments):
            check_instance(f"moments[{k}]", one, StepMoments)
        _check_told_apart("moments", [one.times for one in moments])
        self.scheme = scheme
        self._advance = scheme.advance  # as a callable that is held, by which `evaluating` finds the scheme's modules
        self.moments = {len(one.gain): one for one in moments}
        self.strong_order, self.weak_order = scheme.strong_order, scheme.weak_order
        self._basis = GaussianReference(0.0, 0.0, basis)
        self.eta = check_real("eta", eta, minimum=0.0)

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

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """As that of the scheme."""
        return self.scheme.check(sde, y0, path)

    def start(  # type: ignore[override]
        self, sde: CanonicalSDE, t: Tensor, y: Tensor
    ) -> tuple[Any, StepMoments | None, int]:
        """The memory of the scheme, the moments, unknown before the first step, and the number of steps made.

        Raises:
            ValueError: another eta, samples of another shape, a reference in another basis.
        """
        event = next(iter(self.moments.values())).gain.shape[1:]
        if (sde.eta, y.shape[1:]) != (self.eta, event):
            raise ValueError(
                f"the calibration is for eta = {self.eta:g} and samples of shape {tuple(event)}; got {sde.eta:g} and "
                f"{tuple(y.shape[1:])}"
            )
        if self.basis and (self.basis[0].device, self.basis[0].dtype) != (y.device, y.dtype):
            self._basis = GaussianReference(0.0, 0.0, [like(matrix, y) for matrix in self.basis])
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
            moments = next((one for one in self.moments.values() if same_times(one.times[:2], step)), None)
        if moments is None or done >= len(moments.gain) or not same_times(moments.times[done : done + 2], step):
            raise ValueError(
                f"steps must be those that were calibrated, {tuple(self.moments)} of one grid; step {done + 1} from "
                f"SNR {start.item():g} to {end.item():g} is none of theirs"
            )
        u, inner = self._advance(sde, start, end, u, inner, noise)
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
            parts = {count: [f"{what}_{count}" for what in ("times", "shift", "gain")] for count in counts}
            if not counts or tensors.keys() != {"eta", *basis, *(name for names in parts.values() for name in names)}:
                raise ValueError(
                    f"it must hold eta, and times, shift and gain of numbers of steps; it holds {sorted(tensors)}"
                )
            moments = [StepMoments(*(tensors[name] for name in names)) for names in parts.values()]
            if [len(one.gain) for one in moments] != counts:
                raise ValueError(f"its moments must be of the numbers of steps that their names say, {counts}")
            return cls(scheme, moments, [tensors[name] for name in basis], tensors["eta"].item())

    def _tensors(self) -> dict[str, Tensor]:
        found = {"eta": torch.tensor(self.eta), **{f"basis_{k}": matrix for k, matrix in enumerate(self.basis)}}
        for count, one in self.moments.items():
            found |= {f"times_{count}": one.times, f"shift_{count}": one.shift, f"gain_{count}": one.gain}
        return found


def _check_follows(scheme: ReverseScheme) -> None:
    if check_instance("scheme", scheme, ReverseScheme).own_noise:
        raise ValueError(f"scheme must follow the paths; {scheme!r} has noise of its own")


def _check_told_apart(name: str, grids: Sequence[Tensor]) -> None:
    """Raise ValueError unless the steps of all numbers of them can be told by the first."""
    for one, other in combinations(grids, 2):
        if len(one) == len(other) or same_times(one[:2], other[:2]):
            raise ValueError(
                f"{name} must be of different numbers of steps with different first steps; those of {len(one) - 1} and "
                f"of {len(other) - 1} steps are not"
            )


def _shapes(matrices: Sequence[Tensor]) -> list[torch.Size]:
    return [matrix.shape for matrix in matrices]


def _close(matrix: Tensor, other: Tensor) -> bool:
    return torch.allclose(matrix.to(other), other, atol=1e-4)


def same_times(times: Tensor, others: Tensor) -> bool:
    """Whether both are the same SNRs, to rounding."""
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
    states and noise of all steps and paths are held, 3 n paths numbers for every coordinate for the path-average
    scheme, beside a fine solution of as many paths as a quarter of a gigabyte allows, 64 at most.

    Args:
        teacher: D(y, snr), on the device of the space; its eta is 1.
        space: the grid of the steps, and the reference of the scheme's variables. The coordinates are those of its
            basis. Where a scheme has no reference, one of variance 0 gives the basis.
        steps: the numbers of steps. The fine solution has the times of all of them, so what is measured for one is not
            quite the same beside others.
        scheme: default `PathAverage()`.
        eta: stochasticity, 1 or 0; that of the probability flow is compared with converged solutions of its own.
        paths: number of paths, at least 16: fewer do not tell how uncertain the ratios are.
        fine_steps: number of steps of the converged paths, even in log-SNR; those of the grid come to them.
        seed: seed of all random numbers.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: arguments out of range, the errors of `Calibrated`.
        FloatingPointError: states that are not finite.
    """
    scheme = PathAverage() if scheme is None else scheme
    _check_follows(scheme)
    check_integer("paths", paths, FEWEST_PATHS)
    check_integer("fine_steps", fine_steps, 1)
    check_integer("seed", seed, 0)
    check_choice("eta", eta, (0.0, 1.0))
    counts = [check_integer(f"steps[{k}]", n, 1) for k, n in enumerate(check_instance("steps", steps, Sequence))]
    if not counts:
        raise ValueError(f"steps must not be empty; got {steps!r}")
    grids = {count: check_instance("space", space, PathSpace).times(count) for count in counts}
    _check_told_apart("steps", [grids[count] for count in counts])
    check_snr_denoiser("teacher", teacher)
    sde = CanonicalSDE(at_eta(teacher, eta), reference=space.reference, eta=eta)
    depth = max(2, legendre_depth(scheme.words("additive")))
    one = replace(space, depth=depth).paths([0])
    scheme.check(sde, one.initial_noise(), one)
    times = _merged([snr_times(space.snr, EVEN, fine_steps), *grids.values()])
    ends = {count: [int((times - time).abs().argmin()) for time in at] for count, at in grids.items()}
    at_once = max(1, min(AT_ONCE, NUMBERS // (depth * len(times) * math.prod(space.event))))
    parts: dict[int, list[TeacherPaths]] = {count: [] for count in counts}
    fine = len(times) - 1
    total = len(range(0, paths, at_once)) * (fine + sum(counts))
    with (
        progress_bar(total=total, name="calibration", unit="evaluation", shown=progress) as bar,
        evaluating(teacher, scheme.advance),
    ):
        for first in range(0, paths, at_once):
            generator = generator_for("calibration", seed, first, device=space.device)
            shape = min(at_once, paths - first), *space.event
            whole = _converged(sde, space, times, shape, depth, generator)
            for count in counts:
                parts[count].append(whole.at(ends[count], noise=eta > 0.0))
            bar.update(fine)
        moments = [_measured(sde, scheme, parts.pop(count), bar.update) for count in counts]
    return Calibrated(scheme, moments, space.reference.basis, eta)


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
) -> TeacherPaths:
    """Converged paths at all times."""
    noise = torch.randn(shape, generator=generator, dtype=space.dtype, device=space.device)
    signatures = draw_signature(space.clock, times, shape, depth, generator, space.dtype)
    start = sde.start(noise, times[0])
    states = teacher_states(PathAverage(correction=0.0), sde, start, times, signatures, save="all", watch=False)
    if not all_finite(states[-1]):
        raise FloatingPointError("the teacher's values must be finite; its converged paths are not")
    return TeacherPaths(times, signatures, states)


def _measured(
    sde: CanonicalSDE, scheme: ReverseScheme, parts: Sequence[TeacherPaths], evaluated: Callable[[int], object]
) -> StepMoments:
    """Shifts and gains of the scheme's steps on the paths of all parts, one step after the other."""
    times, found = parts[0].times, []
    states = [part.states[0] for part in parts]
    memories = [scheme.start(sde, times[0], u) for u in states]
    noises = [scheme.noise_by_step("additive", part.signature) for part in parts]
    for k in range(len(times) - 1):
        for i, noise in enumerate(noises):
            states[i], memories[i] = scheme.advance(sde, times[k], times[k + 1], states[i], memories[i], next(noise))
            evaluated(1)
        shift, gain = matched(torch.cat(states), torch.cat([part.states[k + 1] for part in parts]))
        states = [shift + gain * u for u in states]
        found.append((shift, gain))
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
