"""All samplers on the same seeds and the same Brownian paths: pathwise errors, Frechet distances, seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sdesig._checks import check_instance, check_integer
from sdesig._evaluating import evaluating
from sdesig._memory import rows_at_once
from sdesig.brownian import BrownianPath
from sdesig.sampling import DPMSolver1, DPMSolver2M, PathAverage
from sdesig.sampling.canonical_sde import CanonicalSDE
from sdesig.sampling.error_statistics import root_mean_square
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.lockstep import Run, run_along
from sdesig.sampling.path_space import PathSpace
from sdesig.sampling.snr_denoiser import SNRDenoiser, check_snr_denoiser
from sdesig.sampling.step_grid import StepGrid
from sdesig.sigdeg.sig_deg import SigDEG
from sdesig.solvers import Scheme
from sdesig.solvers.driver import chunks

TIMED = 500
APART = 0.5
"""Standard deviations beyond which a seed ends apart from its converged path: about a third of the distance between
independent samples, and in a mixture of eight separate modes most of that between neighbours."""


class Sampler(NamedTuple):
    """A way to sample: a scheme for reverse diffusions, or a generator.

    Attributes:
        name: for tables and figures.
        scheme: what steps; a cell for generators.
        referenced: whether it works in the variables of the Gaussian reference, or in those without one.
        eta: stochasticity, 1 or 0; at 0 there is another limit than the paths', and so no pathwise error.
        depth: of the partial signatures, for generators.
        grid: where its steps lie; default even in log-SNR.
    """

    name: str
    scheme: Scheme
    referenced: bool = False
    eta: float = 1.0
    depth: int | None = None
    grid: StepGrid = StepGrid()

    @property
    def evaluations(self) -> int:
        """Of the network per step."""
        return 1

    def errors(self, samples: Tensor, converged: Tensor) -> Tensor | None:
        """|x - x_ref|/sqrt(d) per seed, (n,); None at eta = 0."""
        if self.eta != 1.0:
            return None
        return (samples - converged).flatten(1).norm(dim=1) / math.sqrt(converged[0].numel())


@dataclass(frozen=True)
class OtherSampler:
    """A sampler that does not follow the paths of a comparison, and so has no pathwise error.

    Attributes:
        name: for tables and figures.
        draw: (y, steps) -> samples x, (batch, *event). y, (batch, *event), is the canonical state at the first SNR,
            from which all samplers of the comparison start. What else is random must depend on y alone.
        evaluations: of the network per step.
    """

    name: str
    draw: Callable[[Tensor, int], Tensor]
    evaluations: int = 1
    depth: ClassVar[None] = None
    referenced: ClassVar[bool] = False
    grid: ClassVar[StepGrid] = StepGrid()

    def errors(self, samples: Tensor, converged: Tensor) -> None:
        """There are none."""


AnySampler = Sampler | OtherSampler


def baselines(grid: StepGrid | None = None) -> list[Sampler]:
    """Training-free samplers with one evaluation per step; with a grid also the best of them on it."""
    chosen = Sampler("path-average, reference, chosen grid", PathAverage(), referenced=True, grid=grid or StepGrid())
    return [
        Sampler("Euler = SDE-DPM-Solver++(1)", DPMSolver1()),
        Sampler("DDIM", DPMSolver1(), eta=0.0),
        Sampler("SDE-DPM-Solver++(2M)", DPMSolver2M()),
        Sampler("path-average", PathAverage()),
        Sampler("path-average, reference", PathAverage(), referenced=True),
        *([] if grid is None else [chosen]),
    ]


def generator_sampler(name: str, generator: SigDEG) -> Sampler:
    """A generator as a sampler."""
    referenced = bool((generator.space.reference.variance > 0).any())
    return Sampler(name, generator.cell, referenced=referenced, depth=generator.depth, grid=generator.space.grid)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a sampler made of the seeds in a number of steps.

    Attributes:
        sampler, steps: which.
        samples: x = y/tau at the last SNR, (n, *event).
        errors: |x - x_ref|/sqrt(d) per seed, (n,), against the converged path of the seed; None at eta = 0.
        seconds_per_1000: of sampling 1000 seeds, the drawing of the path included; on the CPU processor seconds.
        seeds_apart: share of the seeds whose error is more than `APART` standard deviations of the converged samples,
            per coordinate: where the mean square says how far off samples are, this says how many are others. Two
            independent samples are sqrt(2) standard deviations apart, root mean square. None at eta = 0.
    """

    sampler: AnySampler
    steps: int
    samples: Tensor
    errors: Tensor | None
    seconds_per_1000: float = math.nan
    seeds_apart: float | None = None

    @property
    def rmse(self) -> tuple[float, float]:
        """sqrt(E |x - x_ref|^2 / d) and its standard error; NaN at eta = 0."""
        return (math.nan, math.nan) if self.errors is None else root_mean_square(self.errors)


def spread_of(samples: Tensor) -> float:
    """Of samples (n, *event), per coordinate: root mean square over the coordinates; NaN for one sample."""
    return samples.flatten(1).double().var(0).mean().sqrt().item() if len(samples) > 1 else math.nan


def share_apart(errors: Tensor | None, spread: float) -> float | None:
    """Share of errors, (n,), beyond `APART` times a standard deviation; None without errors or a standard deviation."""
    return None if errors is None or math.isnan(spread) else (errors > APART * spread).double().mean().item()


@dataclass
class Comparison:
    """Samplers of one teacher on the paths of one reference.

    Args:
        teacher: D(y, snr), on the device of the space.
        space: what the seeds mean. All cells of their paths are drawn.
        truth_steps: steps of the converged path, by the path-average scheme with the reference; at most 2^levels.
        batch: seeds at once.
    """

    teacher: SNRDenoiser
    space: PathSpace
    truth_steps: int = 512
    batch: int = 250
    _sdes: dict[tuple[bool, float], CanonicalSDE] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_snr_denoiser("teacher", self.teacher)
        check_instance("space", self.space, PathSpace)
        self.truth_steps = min(check_integer("truth_steps", self.truth_steps, 1), 2**self.space.levels)

    @torch.no_grad()
    def run(
        self,
        plan: Sequence[tuple[AnySampler, Sequence[int]]],
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> tuple[Tensor, list[Outcome]]:
        """The converged samples, (n, *event), and the outcomes of every sampler at its numbers of steps.

        Args:
            plan: samplers with their numbers of steps.
            seeds: one per sample.
            progress: called with the number of seeds done.

        Raises:
            ValueError: no seeds, two samplers of one name, more steps than the cells or a sampler's grid allow.
        """
        if not len(seeds):
            raise ValueError("seeds must not be empty")
        self.check(plan)
        pairs = [(sampler, steps) for sampler, counts in plan for steps in counts]
        made: list[list[Tensor]] = [[] for _ in range(len(pairs) + 1)]
        for first in range(0, len(seeds), self.batch):
            ends = self.follow([self.truth, *pairs], seeds[first : first + self.batch])
            for samples, end in zip(made, ends, strict=True):
                samples.append(end)
            if progress is not None:
                progress(min(len(seeds), first + self.batch))
        converged, *sets = map(torch.cat, made)
        spread, outcomes = spread_of(converged), []
        for (sampler, steps), x in zip(pairs, sets, strict=True):
            errors, seconds = sampler.errors(x, converged), self.seconds_per_1000(sampler, steps)
            outcomes.append(Outcome(sampler, steps, x, errors, seconds, share_apart(errors, spread)))
        return converged, outcomes

    @property
    def truth(self) -> tuple[Sampler, int]:
        """What gives the converged samples, and in how many steps."""
        return Sampler("converged path", PathAverage(), referenced=True), self.truth_steps

    def check(self, plan: Sequence[tuple[AnySampler, Sequence[int]]]) -> None:
        """Raise ValueError for two samplers of one name, more steps than the cells or a sampler's grid allow."""
        names = [sampler.name for sampler, _ in plan]
        if len({*names}) < len(names):
            raise ValueError(f"samplers must have different names; got {names}")
        for sampler, counts in plan:
            for steps in counts:
                if isinstance(sampler, Sampler):
                    self._space_of(sampler).ends(steps)
                else:
                    check_integer("steps", steps, 1)

    @torch.no_grad()
    def follow(self, pairs: Sequence[tuple[AnySampler, int]], seeds: Sequence[int]) -> list[Tensor]:
        """Samples x, (n, *event), of samplers in a number of steps each, of one batch of seeds.

        Those on the paths go along them together: see `run_along`. The teacher and the generators are in evaluation
        mode meanwhile.

        Raises:
            ValueError: an `OtherSampler` that draws another shape.
        """
        path = self.space.paths(seeds)
        y, times = self._start(path), path.grid(2**self.space.levels)
        runs = []
        for sampler, count in pairs:
            if not isinstance(sampler, Sampler):
                continue
            sde = self._sde(sampler.referenced, sampler.eta)
            ends = self._space_of(sampler).ends(count)
            # the canonical y of another eta is tau^((eta^2 - 1)/2) times that of eta = 1
            own = y * times[0].item() ** ((sampler.eta**2 - 1) / 2)
            state = sde.reference.to_reference(own, times[0], sampler.eta)[0]
            runs.append(Run(sampler.scheme, sde, state, times, ends, sampler.referenced))
        if runs:
            with evaluating(self.teacher, *(sampler.scheme for sampler, _ in pairs if isinstance(sampler, Sampler))):
                run_along(path, self.space.reference, runs)
        followed = iter(runs)
        return [
            next(followed).noisy_data if isinstance(sampler, Sampler) else self._drawn(sampler, count, y)
            for sampler, count in pairs
        ]

    def _drawn(self, sampler: OtherSampler, steps: int, y: Tensor) -> Tensor:
        with evaluating(sampler.draw):
            samples = sampler.draw(y, steps)
        if samples.shape != y.shape:
            raise ValueError(
                f"{sampler.name} must draw samples of shape {tuple(y.shape)}; it drew {tuple(samples.shape)}"
            )
        return samples

    def start(self, seeds: Sequence[int]) -> Tensor:
        """The canonical y at the first SNR of seeds, from which all samplers start, (n, *event)."""
        return self._start(self.space.paths(seeds))

    def _start(self, path: BrownianPath) -> Tensor:
        return self.space.reference.from_reference(self.space.start(path), self.space.snr[0])

    @torch.no_grad()
    def seconds_per_1000(self, sampler: AnySampler, steps: int) -> float:
        """Of a whole sampling in seeds mode: path, steps and solver.

        On the CPU processor seconds, of all threads together, which other work on the machine changes little, from 500
        seeds, or fewer where steps or coordinates are many; elsewhere those of the clock, from a batch, as few seeds
        would leave a GPU idle, and after a call that is not timed.
        """
        if self.space.device.type == "cpu":
            at_once = rows_at_once(steps * self.space.depth * math.prod(self.space.event))
            seeds = range(min(at_once, max(50, min(TIMED, TIMED * 32 // steps))))
        else:
            seeds = range(self.batch)
            self._sampled(sampler, steps, seeds).cpu()
        clock = time.process_time if self.space.device.type == "cpu" else time.perf_counter
        started = clock()
        self._sampled(sampler, steps, seeds).cpu()  # waits for an accelerator
        return (clock() - started) * 1000 / len(seeds)

    def _sampled(self, sampler: AnySampler, steps: int, seeds: Sequence[int]) -> Tensor:
        """x of a sampler alone, of whose path no more is drawn than it needs."""
        if not isinstance(sampler, Sampler):
            return self._drawn(sampler, steps, self.start(seeds))
        sde, space = self._sde(sampler.referenced, sampler.eta), self._space_of(sampler)
        if sampler.eta != 0.0:
            space = replace(space, reference=sde.reference)
        path, times = space.paths(seeds), space.times(steps)
        start = sde.start(path.initial_noise(), times[0])
        run = Run(sampler.scheme, sde, start, times, range(steps + 1), sampler.referenced)
        with evaluating(self.teacher, sampler.scheme):
            for signatures in chunks(path, times):
                run.take(signatures)
        return run.noisy_data

    def _space_of(self, sampler: Sampler) -> PathSpace:
        """The space with the sampler's grid."""
        return replace(self.space, grid=sampler.grid)

    def _sde(self, referenced: bool, eta: float) -> CanonicalSDE:
        key = referenced, eta
        if key not in self._sdes:
            reference = self.space.reference if referenced else GaussianReference(self.space.reference.mean, 0.0)
            teacher = self.teacher

            def denoiser(y: Tensor, snr: Tensor) -> Tensor:
                return teacher(y * snr.item() ** ((1 - eta**2) / 2), snr)

            self._sdes[key] = CanonicalSDE(
                teacher if eta == 1 else SNRDenoiser(denoiser, eta), reference=reference, eta=eta
            )
        return self._sdes[key]
