"""What is compared: schemes on the paths, generators, and other samplers from the same start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_instance, check_integer
from sdesig.sampling import IPNDM4, SEEDS2, DPMSolver1, DPMSolver2M, DPMSolver3M, ERSDESolver3, PathAverage
from sdesig.sampling.calibration import Calibrated, calibrate, same_times
from sdesig.sampling.canonical import ReverseScheme, SNRDenoiser
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.path_space import EVEN, PathSpace, StepGrid
from sdesig.sigdeg.sig_deg import SigDEG
from sdesig.solvers import Scheme

BARE, ON_GRID, FLOW = "path-average", "path-average-grid", "path-average-flow"
TRAINING_FREE: dict[str, tuple[str, Scheme, bool, float]] = {
    "euler": ("Euler = SDE-DPM-Solver++(1)", DPMSolver1(), False, 1.0),
    "ddim": ("DDIM", DPMSolver1(), False, 0.0),
    "sde-dpm++2m": ("SDE-DPM-Solver++(2M)", DPMSolver2M(), False, 1.0),
    BARE: ("path-average", PathAverage(correction=1.0), False, 1.0),
    "path-average-reference": ("path-average, reference", PathAverage(), True, 1.0),
    ON_GRID: ("path-average, reference, chosen grid", PathAverage(), True, 1.0),
    FLOW: ("path-average, reference, probability flow", PathAverage(correction=0.5), True, 0.0),
}
"""Label, scheme, whether it is referenced, and eta by key, of the samplers of `training_free`.

The demo and `sdesig evaluate` of vectors run all of them. Without a reference or without noise path-average takes
larger corrections: see experiments/few_steps.
"""
WITHOUT_REFERENCE = {
    "path-average-reference": "path-average, even",
    ON_GRID: "path-average, its grid",
    FLOW: "path-average, probability flow",
}
"""Labels in a space without a reference, where `TRAINING_FREE` has others."""
FEW_STEP: dict[str, tuple[str, Scheme, float]] = {
    "ddim": ("DDIM", DPMSolver1(), 0.0),
    "dpm-solver++2m": ("DPM-Solver++(2M) ODE", DPMSolver2M(), 0.0),
    "dpm-solver++3m": ("DPM-Solver++(3M) ODE", DPMSolver3M(), 0.0),
    "ipndm-4": ("iPNDM-4", IPNDM4(), 0.0),
    "euler": ("Euler = SDE-DPM-Solver++(1)", DPMSolver1(), 1.0),
    "sde-dpm++2m": ("SDE-DPM-Solver++(2M)", DPMSolver2M(), 1.0),
    "sde-dpm++3m": ("SDE-DPM-Solver++(3M)", DPMSolver3M(), 1.0),
    "seeds-2": ("SEEDS-2", SEEDS2(), 1.0),
    "er-sde-3": ("ER-SDE-Solver-3", ERSDESolver3(), 1.0),
}
"""Label, scheme and eta by key, of the samplers of `few_step_peers`, none of them ours; keys are those of
`TRAINING_FREE` where both have a row. None is referenced."""

CALIBRATED = "-calibrated"
"""What the keys of calibrated samplers end with, see `calibrated_sampler`."""


@dataclass(frozen=True)
class Sampler:
    """A way to sample, at some numbers of steps: either a scheme along the paths of a comparison, or a function.

    Attributes:
        key: the name to compute with, the same on the command line, in reports and in files.
        label: the name to show.
        steps: the numbers of steps that it is compared at.
        scheme: for reverse diffusions, along the paths; a cell for generators.
        draw: (y, steps) -> samples x, (batch, *event), in place of a scheme. y, (batch, *event), is the canonical state
            at the first SNR, from which all samplers of a comparison start. Anything else that is random must depend on
            y alone.
        referenced: whether the scheme works in the variables of the Gaussian reference, or in those without one.
        eta: stochasticity of the scheme, 1 or 0; 0 has another limit than the paths', and so no pathwise error. Nor has
            a scheme with noise of its own kind (`ReverseScheme.own_noise`).
        depth: of the partial signatures that a generator sees.
        grid: where the steps of the scheme lie.
        evaluations: of the network per step.
        ema: whether the network is a moving average; None: as the teacher is.
        digest: of the weights, if they are the sampler's own. Samples of other weights in a folder are made again.

    Raises:
        TypeError, ValueError: no steps, or other things than numbers; both a scheme and a function, or neither; another
            eta than 1 and 0.
    """

    key: str
    label: str
    steps: tuple[int, ...]
    _: KW_ONLY
    scheme: Scheme | None = None
    draw: Callable[[Tensor, int], Tensor] | None = None
    referenced: bool = False
    eta: float = 1.0
    depth: int | None = None
    grid: StepGrid = EVEN
    evaluations: int = 1
    ema: bool | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.steps, Iterable):
            raise TypeError(f"steps must be a sequence of integers; those of {self.key} are {self.steps!r}")
        object.__setattr__(self, "steps", tuple(check_integer("steps", steps, 0) for steps in self.steps))
        if not self.steps:
            raise ValueError(f"steps must not be empty; those of {self.key} are")
        if (self.scheme is None) == (self.draw is None):
            raise ValueError(f"{self.key} must have either a scheme or a function that draws")
        if self.scheme is not None:
            check_instance("scheme", self.scheme, Scheme)
        elif not callable(self.draw):
            raise TypeError(f"draw must be callable as draw(y, steps); got {self.draw!r}")
        check_choice("eta", self.eta, (0.0, 1.0))

    @property
    def follows(self) -> bool:
        """Whether its limit for many steps is the path of the seed, so that it has pathwise errors."""
        own_noise = isinstance(self.scheme, ReverseScheme) and self.scheme.own_noise
        return self.scheme is not None and self.eta == 1.0 and not own_noise


def training_free(space: PathSpace, steps: Sequence[int]) -> dict[str, Sampler]:
    """Samplers with one evaluation a step that need no training, by key.

    Args:
        space: its grid is that of "path-average-grid", which there is unless the grid is even, and of
            "path-average-flow". "path-average" has `StepGrid.karras` behind the free step of that grid. The others'
            grids are even.
        steps: numbers of steps of all of them; `dataclasses.replace` changes those of one.
    """
    grid = check_instance("space", space, PathSpace).grid
    made = {
        key: Sampler(key, label, tuple(steps), scheme=scheme, referenced=referenced, eta=eta)
        for key, (label, scheme, referenced, eta) in TRAINING_FREE.items()
    }
    for key in (ON_GRID, FLOW):
        made[key] = replace(made[key], grid=grid)
    made[BARE] = replace(made[BARE], grid=replace(grid, quantiles=StepGrid.karras(space.snr).quantiles))
    if bool((space.reference.variance == 0).all()):
        made = {key: replace(one, label=WITHOUT_REFERENCE.get(key, one.label)) for key, one in made.items()}
    if grid == EVEN:
        del made[ON_GRID]
    return made


def few_step_peers(space: PathSpace, steps: Sequence[int]) -> dict[str, Sampler]:
    """The samplers of `FEW_STEP` by key, on steps even in log-SNR and, as "<key>-karras", on `StepGrid.karras`.

    Each has one evaluation a step. Which grid is the better differs between them, so a comparison should have both.
    `sdesig.images.peers` has more, by diffusers.

    Args:
        space: the SNRs of the grid are its own.
        steps: numbers of steps of all of them.
    """
    even = [Sampler(key, label, tuple(steps), scheme=scheme, eta=eta) for key, (label, scheme, eta) in FEW_STEP.items()]
    grid = StepGrid.karras(check_instance("space", space, PathSpace).snr)
    both = [(sampler, replace(named_after("Karras", sampler), grid=grid)) for sampler in even]
    return {sampler.key: sampler for pair in both for sampler in pair}


def named_after(grid: str, sampler: Sampler) -> Sampler:
    """The sampler with the name of a grid in its key and label, so that it can stand beside itself on another grid."""
    return replace(sampler, key=f"{sampler.key}-{grid.lower()}", label=f"{sampler.label}, {grid} grid")


def calibrated_sampler(
    sampler: Sampler, teacher: SNRDenoiser, space: PathSpace, *, file: str | Path | None = None, **options: Any
) -> Sampler:
    """The sampler with calibrated states (`calibrate`), as "<key>-calibrated", at its own numbers of steps.

    Args:
        sampler: one with a scheme that follows the paths, or the flow.
        teacher: D(y, snr), on the device of the space.
        space: of the comparison. The coordinates are those of its reference's basis, whether or not the sampler has the
            reference.
        file: safetensors file of the calibration. One that is there is taken if its steps are the sampler's: name it by
            teacher, reference and sampler, which it does not know.
        options: of `calibrate`.

    Raises:
        TypeError, ValueError: a sampler without such a scheme, the errors of `calibrate` and `Calibrated.load`.
    """
    scheme, reference = sampler.scheme, check_instance("space", space, PathSpace).reference
    if not isinstance(scheme, ReverseScheme):
        raise ValueError(f"sampler must have a scheme for reverse diffusions; {sampler.key} has {scheme!r}")
    if not sampler.referenced:
        reference = GaussianReference(reference.mean, torch.zeros_like(reference.variance), reference.basis)
    own = replace(space, reference=reference, grid=sampler.grid)
    if file is not None and Path(file).exists():
        found = Calibrated.load(file, scheme)
        for steps in sampler.steps:
            kept, times = found.moments.get(steps), own.times(steps)
            if found.eta != sampler.eta or kept is None or not same_times(kept.times, times):
                raise ValueError(
                    f"file must have the calibration of {sampler.key} in {steps} steps; {file} has another"
                )
    else:
        found = calibrate(teacher, own, sampler.steps, scheme, eta=sampler.eta, **options)
        if file is not None:
            found.save(file)
    digest = hashlib.sha256(f"{sampler.digest} {scheme!r} {found.digest}".encode()).hexdigest()
    key, label = sampler.key + CALIBRATED, f"{sampler.label}, calibrated"
    return replace(sampler, key=key, label=label, scheme=found, digest=digest)


def generator_sampler(
    key: str,
    generator: SigDEG,
    steps: Sequence[int],
    label: str | None = None,
    digest: str = "",
    *,
    ema: bool | None = None,
) -> Sampler:
    """A generator as a sampler, on its own grid; its label is the key unless another is given."""
    space = generator.space
    return Sampler(
        key,
        label or key,
        tuple(steps),
        scheme=generator.cell,
        referenced=bool((space.reference.variance > 0).any()),
        depth=generator.depth,
        grid=space.grid,
        ema=ema,
        digest=digest,
    )
