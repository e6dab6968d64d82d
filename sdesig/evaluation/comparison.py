"""Samplers on the same seeds and the same Brownian paths."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sdesig._checks import check_instance, check_integer
from sdesig._evaluating import evaluating
from sdesig._memory import rows_at_once
from sdesig.brownian import BrownianPath
from sdesig.evaluation.samplers import Sampler
from sdesig.sampling import PathAverage
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, at_eta, check_snr_denoiser
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.lockstep import Run, run_along
from sdesig.sampling.path_space import PathSpace
from sdesig.signature.words import legendre_depth
from sdesig.solvers.driver import chunks

CONVERGED = "converged-path"
"""Key of the sampler that gives the converged paths."""
TIMED = 500


@dataclass
class Comparison:
    """Samplers of one teacher on the paths of one reference.

    Args:
        teacher: D(y, snr), on the device of the space.
        space: what the seeds mean. All cells of their paths are drawn.
        truth_steps: steps of the converged path, by the path-average scheme with the reference; at most the cells.
        batch: seeds at once.
    """

    teacher: SNRDenoiser
    space: PathSpace
    truth_steps: int = 512
    batch: int = 250
    _sdes: dict[tuple[bool, float], CanonicalSDE] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_snr_denoiser("teacher", self.teacher)
        check_instance("space", self.space, PathSpace)
        check_integer("batch", self.batch, 1)
        self.truth_steps = min(check_integer("truth_steps", self.truth_steps, 1), self.space.cells)

    @property
    def truth(self) -> Sampler:
        """The sampler that gives the converged paths."""
        scheme = PathAverage(correction=0.0)
        return Sampler(CONVERGED, "converged path", (self.truth_steps,), scheme=scheme, referenced=True)

    def check(self, samplers: Sequence[Sampler]) -> None:
        """Raise ValueError for two samplers of one key or label, more steps than the cells or a sampler's grid allow.

        The key and label of `truth` are taken.
        """
        everything = [self.truth, *samplers]
        for what in ("key", "label"):
            names = [getattr(sampler, what) for sampler in everything]
            if len({*names}) < len(names):
                raise ValueError(f"samplers must have different {what}s; got {names}")
        for sampler in samplers:
            for steps in sampler.steps:
                if sampler.draw is None:
                    self._space_of(sampler).ends(steps)
                else:
                    check_integer("steps", steps, 1)

    @torch.no_grad()
    def follow(self, pairs: Sequence[tuple[Sampler, int]], seeds: Sequence[int]) -> dict[tuple[str, int], Tensor]:
        """Samples x, (n, *event), of one batch of seeds, by key and number of steps.

        Those on the paths go along them together: see `run_along`. The teacher and the generators are in evaluation
        mode meanwhile.

        Args:
            pairs: samplers, each with one number of steps.
            seeds: one per sample.

        Raises:
            ValueError: a function that draws another shape.
        """
        path = self.space.paths(seeds)
        y, times = self._start(path), path.grid(self.space.cells)
        runs = {}
        for sampler, steps in pairs:
            if sampler.scheme is not None:
                sde = self._sde(sampler.referenced, sampler.eta)
                # the canonical y of another eta is tau^((eta^2 - 1)/2) times that of eta = 1
                own = y * times[0].item() ** ((sampler.eta**2 - 1) / 2)
                state = sde.reference.to_reference(own, times[0], sampler.eta)[0]
                ends = self._space_of(sampler).ends(steps)
                runs[sampler.key, steps] = Run(sampler.scheme, sde, state, times, ends, sampler.referenced)
        if runs:
            with evaluating(self.teacher, *(run.scheme.advance for run in runs.values())):
                run_along(path, self.space.reference, [*runs.values()])
        drawn = {(s.key, steps): self._drawn(s, steps, y) for s, steps in pairs if s.scheme is None}
        return {pair: run.noisy_data for pair, run in runs.items()} | drawn

    def _drawn(self, sampler: Sampler, steps: int, y: Tensor) -> Tensor:
        assert sampler.draw is not None
        with evaluating(sampler.draw):
            samples = sampler.draw(y.clone(), steps)  # the others start from y too
        if check_instance(f"what {sampler.key} draws", samples, Tensor).shape != y.shape:
            raise ValueError(
                f"{sampler.key} must draw samples of shape {tuple(y.shape)}; it drew {tuple(samples.shape)}"
            )
        return samples

    def start(self, seeds: Sequence[int]) -> Tensor:
        """The canonical y at the first SNR of seeds, from which all samplers start, (n, *event)."""
        return self._start(self.space.paths(seeds))

    def _start(self, path: BrownianPath) -> Tensor:
        return self.space.reference.from_reference(self.space.start(path), self.space.snr[0])

    @torch.no_grad()
    def seconds_per_1000(self, sampler: Sampler, steps: int) -> float:
        """Seconds that sampling 1000 seeds takes: path, steps and solver.

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

    def _sampled(self, sampler: Sampler, steps: int, seeds: Sequence[int]) -> Tensor:
        """x of a sampler alone, of whose path no more is drawn than it needs."""
        if sampler.scheme is None:
            return self._drawn(sampler, steps, self.start(seeds))
        sde, space = self._sde(sampler.referenced, sampler.eta), self._space_of(sampler)
        if sampler.depth is None:  # a generator's paths are those of its space
            space = replace(space, depth=legendre_depth(sampler.scheme.words("additive")))
        if sampler.eta != 0.0:
            space = replace(space, reference=sde.reference)
        path, times = space.paths(seeds), space.times(steps)
        noisy = sampler.eta > 0.0
        start = space.start(path, steps) if noisy else sde.start(path.initial_noise(), space.snr[0])
        run = Run(sampler.scheme, sde, start, times, range(steps + 1), sampler.referenced)
        with evaluating(self.teacher, sampler.scheme.advance):
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
            self._sdes[key] = CanonicalSDE(at_eta(self.teacher, eta), reference=reference, eta=eta)
        return self._sdes[key]
