"""Distillation: a Sig-DEG generator learns a teacher's fine paths, pathwise, from their coarse partial signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sdesig import _processes as processes
from sdesig._checks import check_choice, check_instance, check_integer, check_real
from sdesig._evaluating import evaluating
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.teacher_paths import TeacherOptions, TeacherPaths, coarse_ends, draw_local, draw_paths, snr_times
from sdesig.sigdeg.cells import SolverCell
from sdesig.sigdeg.networks import in_precision
from sdesig.sigdeg.path_cache import PathCache
from sdesig.sigdeg.sig_deg import SigDEG
from sdesig.sigdeg.training import MOST, TrainingOptions, begin, train
from sdesig.sigdeg.training_data import Data, check_data, draw_rows

ROUNDING = 1e-12
"""Mean squares below this are rounding errors, in units of the variance of the data."""

LOCAL_STEPS = 8
"""Steps of a grid, drawn at random, that a local iteration trains."""


@dataclass(frozen=True)
class DistillOptions:
    """Options of a distillation."""

    steps: tuple[int, int] = (4, 32)
    """Fewest and most coarse steps; each iteration draws a number between them, log-uniformly."""
    evaluations: int = 2048
    """Evaluations of the student per iteration: rows times steps."""
    pairs: Literal["local", "rollout", "both"] = "local"
    """Pairs of paths to learn from. local: single steps from the exact marginal of data, drawn anew in every iteration.
    rollout: whole teacher paths, the student unrolled and matched at all coarse times; needs no data. both: local for
    the first part of the training, rollouts after. For equal time local won on the digits by a wide margin."""
    local_share: float = 0.3
    """Share of the iterations that are local, with both."""
    paths: int = 8192
    """Number of the teacher's paths on disk, for rollouts; 0: drawn anew in every iteration."""
    window: int = 0
    """Steps of a rollout through which gradients flow, from a step drawn at random on (truncated back-propagation): the
    memory of so many steps. 0: through all."""
    recompute: bool = False
    """Whether every step is computed again in the backward pass (gradient checkpointing): the memory of one step, for a
    third more time."""
    only_coefficients: bool = False
    """Whether only the evaluation point's numbers are trained (`StepCoefficients`); the network stays the teacher's."""
    teacher_options: TeacherOptions = field(default_factory=TeacherOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        check_instance("teacher_options", self.teacher_options, TeacherOptions)
        check_instance("training", self.training, TrainingOptions)
        if not isinstance(self.steps, Sequence) or len(self.steps) != 2:
            raise TypeError(f"steps must be two integers, (fewest, most); got {self.steps!r}")
        low, high = self.steps
        check_integer("steps[0]", low, 1)
        check_integer("steps[1]", high, low, self.teacher_options.cells)
        check_integer("evaluations", self.evaluations, high, MOST)
        check_choice("pairs", self.pairs, ("local", "rollout", "both"))
        if not 0.0 <= check_real("local_share", self.local_share) <= 1.0:
            raise ValueError(f"local_share must be in [0, 1]; got {self.local_share}")
        check_integer("paths", self.paths, 0, MOST)
        check_integer("window", self.window, 0)

    def described(self) -> dict[str, Any]:
        """The options as runs record them, JSON-serializable: `teacher_options` is called "teacher" there."""
        return {"teacher" if name == "teacher_options" else name: value for name, value in asdict(self).items()}


def distill(
    student: SigDEG,
    teacher: SNRDenoiser,
    out: str | Path,
    options: DistillOptions,
    *,
    data: Data | None = None,
    cache: str | Path | None = None,
    recorded: Mapping[str, Any] | None = None,
    cache_recorded: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> SigDEG:
    """Train a student on a teacher's paths, and save it to out/student. A run that was stopped goes on.

    The loss is the logarithm of a mean square error of one number of steps. These errors differ by a factor of ten from
    one doubling of the steps to the next; their logarithms weigh alike.

    The teacher is in evaluation mode meanwhile, and so is the copy of it in a `StudentDenoiser`: targets have no
    dropout, and what is learned is added to the teacher as it is used. All else that is trained is in training mode.

    Args:
        student: a generator of `SigDEG.from_teacher`; trained in place.
        teacher: D(y, snr), on the device of the student.
        out: folder of the run: options.json, stats.jsonl, the checkpoint, the student.
        options: see `DistillOptions`.
        data: samples (n, *event) for local pairs, see `sdesig.sigdeg.training_data`.
        cache: folder of the teacher paths; default out/paths.
        recorded: further entries of options.json, such as which teacher it is.
        cache_recorded: further entries of the options.json of the paths; default `recorded`.
        progress: whether to show progress bars.

    Returns:
        The moving average of the student, in evaluation mode.

    Raises:
        TypeError: a student, teacher, options or data of another type.
        ValueError: local pairs without data, data that do not fit, only_coefficients of a plain cell, a folder with a
            run of other options.
        FloatingPointError: see `train`.
    """
    check_instance("student", student, SigDEG)
    check_snr_denoiser("teacher", teacher)
    check_instance("options", options, DistillOptions)
    if options.pairs != "rollout":
        if data is None:
            raise ValueError(f"data must be given for pairs {options.pairs!r}")
        check_data(data, student.space.event)
    if options.only_coefficients and not isinstance(student.cell, SolverCell):
        raise ValueError("only_coefficients must be False with a plain cell, which has none")
    student.cell.set_trainable(only_coefficients=options.only_coefficients)
    folder = Path(out)
    described = {
        **(recorded or {}),
        "distillation": {name: value for name, value in options.described().items() if name != "training"},
        "event": list(student.space.event),
        "depth": student.depth,
        "cell": student.kind,
    }
    begin(folder, options.training, described)
    sde = CanonicalSDE(teacher, reference=student.space.reference)
    paths = None
    if options.pairs != "local" and options.paths > 0:
        paths = PathCache(
            folder / "paths" if cache is None else Path(cache),
            teacher,
            student.space,
            options.teacher_options,
            paths=options.paths,
            seed=options.training.seed,
            recorded=recorded if cache_recorded is None else cache_recorded,
            progress=progress,
        )
    local_iterations = {
        "rollout": 0,
        "local": options.training.iterations,
        "both": round(options.local_share * options.training.iterations),
    }[options.pairs]

    def loss(iteration: int, generator: torch.Generator) -> tuple[Tensor, int]:
        steps = _draw_steps(options.steps, generator)
        if iteration < local_iterations:
            assert data is not None
            rows = options.evaluations // min(steps, LOCAL_STEPS)
            fine = options.teacher_options
            error = local_loss(student, sde, data, steps, rows, fine, generator, recompute=options.recompute)
            return _log(error, student), options.evaluations
        rows = max(2, options.evaluations // steps)
        if paths is None:
            drawn = draw_paths(teacher, student.space, options.teacher_options, rows, generator=generator)
        else:
            drawn = paths.draw(rows, generator)
        window, first = options.window, 0
        if 0 < window < steps:
            first = int(torch.randint(steps - window + 1, (1,), generator=generator, device=generator.device))
        coarse = drawn.coarse(steps)
        error = rollout_loss(student, sde, coarse, first=first, window=window, recompute=options.recompute)
        return _log(error, student), drawn.states.shape[1] * steps

    student.train()
    with in_precision(options.training.precision, teacher), evaluating(teacher):
        trained = train(student, loss, folder, options.training, recorded=described, progress=progress)
    processes.on_main(lambda: trained.save(folder / "student"))
    return trained.eval()


def rollout_loss(
    student: SigDEG,
    sde: CanonicalSDE,
    paths: TeacherPaths,
    *,
    first: int = 0,
    window: int = 0,
    recompute: bool = False,
) -> Tensor:
    """Mean square of x - x_teacher over coarse times, x = y/tau, of the student unrolled along the paths.

    In the reference's variables an error of x is one of u over v, v = tau/(1 + c tau) per coordinate.

    Args:
        first: number of steps at the beginning that are run without gradients and not compared.
        window: number of steps after them that are compared; 0: all.
        recompute: see `DistillOptions`.
    """
    u, memory = paths.states[0], student.cell.start(sde, paths.times[0], paths.states[0])
    errors = []
    noises = student.cell.noise_by_step("additive", paths.signature)
    moves = zip(paths.states[1:], noises, pairwise(paths.times.unbind()), strict=True)
    last = first + window if window else len(paths.times)
    for k, (target, noise, (start, end)) in enumerate(moves):
        if k >= last:
            break
        with torch.set_grad_enabled(k >= first):
            u, memory = _move(student, recompute, sde, start, end, u, memory, noise)
        if k >= first:
            errors.append(_error(sde, u, target, end))
    return torch.stack(errors).mean()


def local_loss(
    student: SigDEG,
    sde: CanonicalSDE,
    data: Data,
    steps: int,
    rows: int,
    teacher_options: TeacherOptions,
    generator: torch.Generator,
    *,
    recompute: bool = False,
) -> Tensor:
    """Mean square of x - x_teacher after single steps that start on the exact marginal of data.

    Args:
        steps: number of steps of a grid, of which `LOCAL_STEPS` at most are drawn.
        rows: number of states per step.
        teacher_options: scheme and fine steps of the targets.
        recompute: see `DistillOptions`.
    """
    times = coarse_times(student, teacher_options, steps)
    per_step = max(1, teacher_options.steps // steps)
    fine = TeacherOptions(teacher_options.scheme, per_step, per_step)
    errors = []
    for k in torch.randperm(steps, generator=generator, device=generator.device)[:LOCAL_STEPS].tolist():
        start, end = times[k], times[k + 1]
        clean = draw_rows(data, rows, generator)
        paths = draw_local(sde, fine, clean, start, end, depth=student.depth, generator=generator)
        u = paths.states[0]
        with torch.no_grad():
            memory = (
                student.cell.start(sde, start, u)
                if k == 0
                else student.cell.memory_at(sde, times[k - 1], start, u, generator)
            )
        (noise,) = student.cell.noise_by_step("additive", paths.signature)
        moved, _ = _move(student, recompute, sde, start, end, u, memory, noise)
        errors.append(_error(sde, moved, paths.states[1], end))
    return torch.stack(errors).mean()


def coarse_times(student: SigDEG, teacher_options: TeacherOptions, steps: int) -> Tensor:
    """SNRs of `steps` steps on the cells of the teacher's grid, as rollouts have them."""
    space, cells = student.space, teacher_options.cells
    return snr_times(space.snr, space.grid, cells)[coarse_ends(cells, steps)]


def _move(student: SigDEG, recompute: bool, *step: Any) -> tuple[Tensor, Any]:
    if recompute:
        return checkpoint(student.cell.advance, *step, use_reentrant=False)
    return student.cell.advance(*step)


def _log(error: Tensor, student: SigDEG) -> Tensor:
    """The logarithm of an error, constant below rounding: a student that equals its teacher has nothing to learn."""
    return error.clamp(min=ROUNDING * student.cell.sigma_data**2).log()


def _error(sde: CanonicalSDE, u: Tensor, target: Tensor, end: Tensor) -> Tensor:
    return ((u - target) / sde.reference.clock(end).to(u)).square().mean()


def _draw_steps(bounds: tuple[int, int], generator: torch.Generator) -> int:
    """Log-uniform on the integers from bounds[0] to bounds[1]."""
    low, high = bounds
    uniform = torch.rand(1, generator=generator, device=generator.device).item()
    return min(high, int(low * ((high + 1) / low) ** uniform))
