"""Distillation: a Sig-DEG generator learns a teacher's fine paths, pathwise, from their coarse partial signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sdesig import _processes as processes
from sdesig._checks import check_choice, check_instance, check_integer, check_real, unread
from sdesig._devices import beside
from sdesig._evaluating import evaluating
from sdesig._random import generator_for
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.teacher_paths import TeacherOptions, TeacherPaths, draw_local, draw_paths, snr_times
from sdesig.sigdeg.cells import SolverCell
from sdesig.sigdeg.networks import in_precision
from sdesig.sigdeg.path_cache import PathCache
from sdesig.sigdeg.sig_deg import SigDEG
from sdesig.sigdeg.training import MOST, Part, TrainingOptions, begin, part_numbers, train
from sdesig.sigdeg.training_data import Data, check_data, draw_rows, on_device
from sdesig.solvers.driver import all_finite

ROUNDING = 1e-12
"""Mean squares below this are rounding errors, in units of the variance of the data."""

SHARED = 0.1
"""Share of the mean over the steps in what counts for the mean square of one of them."""

LOCAL_STEPS = 8
"""Steps of a grid, drawn at random, that a local iteration trains."""

COMPARED = {"local": 20, "rollout": 50}
"""Iterations, of each kind of pairs, from one comparison with the untrained scheme to the next: its one evaluation per
step is a fifth of a local iteration at most, a third of one with paths from disk, and so a hundredth of the run."""

AHEAD = 64
"""Iterations, or parts of iterations, whose choices are read from the device together."""


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

    @property
    def share_of_local(self) -> float:
        """The share of the iterations that are local."""
        return {"local": 1.0, "rollout": 0.0, "both": self.local_share}[self.pairs]

    def steps_at(self, quantile: float) -> int:
        """A quantile, in [0, 1), of the number of steps of an iteration, log-uniform between the bounds."""
        low, high = self.steps
        return min(high, int(low * ((high + 1) / low) ** quantile))

    def described(self) -> dict[str, Any]:
        """The options as runs record them, JSON-serializable: `teacher_options` is called "teacher" there."""
        return {"teacher" if name == "teacher_options" else name: value for name, value in asdict(self).items()}


class _Choices(NamedTuple):
    """First draws of an iteration: the number of steps, numbers of steps or of a shard, and the generator after it."""

    generator: torch.Generator
    steps: int
    chosen: Sequence[int]


class _Ahead:
    """The choices of iterations, which are drawn on the device and made on the CPU: read for many of them at once.

    For every read waits for the device. The seed of an iteration decides, and so it does not matter when it is drawn.

    Args:
        options: of the distillation.
        device: device of the generators.
        choose: (iteration, steps, generator) -> int64 (n,), what else an iteration chooses.
    """

    def __init__(
        self,
        options: DistillOptions,
        device: torch.device,
        choose: Callable[[int, int, torch.Generator], Tensor],
    ) -> None:
        self._options, self._device, self._choose = options, device, choose
        self._known: dict[int, _Choices] = {}

    def of(self, iteration: int, generator: torch.Generator) -> _Choices:
        """The choices of an iteration's part, whose generator this is."""
        if generator.initial_seed() not in self._known:
            self._known = self._read(iteration)
        return self._known.pop(generator.initial_seed())

    def _read(self, first: int) -> dict[int, _Choices]:
        training = self._options.training
        numbers = part_numbers(training)
        last = min(first + max(1, AHEAD // len(numbers)), training.iterations)
        parts = [
            (k, generator_for("training", training.seed, k, *own, device=self._device))
            for k in range(first, last)
            for own in numbers
        ]
        steps = _read_steps(self._options, [generator for _, generator in parts])
        chosen = [self._choose(k, n, generator) for (k, generator), n in zip(parts, steps, strict=True)]
        found = iter(torch.cat(chosen).tolist())
        return {
            generator.initial_seed(): _Choices(generator, n, list(islice(found, len(own))))
            for (_, generator), n, own in zip(parts, steps, chosen, strict=True)
        }


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

    The loss is the logarithm of a mean square error of one number of steps; of local pairs it is `local_loss`. These
    errors fall four- to eightfold when the steps are doubled; their logarithms weigh alike. So the progress and
    stats.jsonl also have the root mean square error as a share of the untrained scheme's on the same pairs,
    "error_share". It is measured in every twentieth iteration, or every fiftieth of rollouts, which takes a hundredth
    of the time.

    The teacher is in evaluation mode meanwhile, and so is the copy of it in a `StudentDenoiser`: targets have no
    dropout, and what is learned is added to the teacher as it is used. All else that is trained is in training mode.

    Args:
        student: a generator of `SigDEG.from_teacher`; trained in place.
        teacher: D(y, snr), on the device of the student.
        out: folder of the run: options.json, stats.jsonl, the checkpoint, the student.
        options: see `DistillOptions`.
        data: samples (n, *event) for local pairs, see `sdesig.sigdeg.training_data`. A tensor is copied to the device
            of the student; images on the CPU are waited for whenever rows are drawn.
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
    device, sde = student.space.device, CanonicalSDE(teacher, reference=student.space.reference)
    samples = None if data is None else on_device(data, device)
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
    local_iterations = round(options.share_of_local * options.training.iterations)

    def choose(iteration: int, steps: int, generator: torch.Generator) -> Tensor:
        if iteration < local_iterations:
            return _draw_local_steps(steps, generator)
        return torch.zeros(0, dtype=torch.int64, device=device) if paths is None else paths.draw_shard(generator)

    ahead = _Ahead(options, device, choose)

    def loss(iteration: int, generator: torch.Generator) -> Part:
        generator, steps, chosen = ahead.of(iteration, generator)
        fine, recompute = options.teacher_options, options.recompute
        if iteration < local_iterations:
            assert samples is not None
            rows = options.evaluations // min(steps, LOCAL_STEPS)
            untrained: list[Tensor] | None = [] if _compared(iteration, "local") else None
            errors = local_errors(
                *(student, sde, samples, steps, rows, fine, generator),
                chosen=chosen,
                recompute=recompute,
                untrained=untrained,
            )
            value = local_loss(errors, student)
            if untrained is None:
                return value, options.evaluations
            share = _log(errors.detach().mean(), student) - _log(torch.stack(untrained).mean(), student)
            return value, options.evaluations, value.detach() - share
        rows = max(2, options.evaluations // steps)
        if paths is None:
            drawn = draw_paths(teacher, student.space, fine, rows, generator=generator, watch=False)
        else:
            drawn = paths.draw(rows, generator, chosen[0])
        starts = steps - options.window + 1 if 0 < options.window < steps else 1
        first = 0
        if paths is None or starts > 1:
            random = torch.randint(starts, (1,), generator=generator, device=device)
            first, finite = torch.cat([random, drawn.states[-1].isfinite().all()[None]]).tolist()  # one wait
            _check_teacher(finite)
        coarse = drawn.coarse(steps, student.space.grid)
        error = rollout_loss(student, sde, coarse, first=first, window=options.window, recompute=recompute)
        found = _log(error, student), drawn.states.shape[1] * steps
        if not _compared(iteration, "rollout"):
            return found
        others = rollout_loss(student, sde, coarse, first=first, window=options.window, untrained=True)
        return *found, _log(others, student)

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
    untrained: bool = False,
) -> Tensor:
    """Mean square of x - x_teacher over coarse times, x = y/tau, of the student unrolled along the paths.

    In the reference's variables an error of x is one of u over v, v = tau/(1 + c tau) per coordinate.

    Args:
        first: number of steps at the beginning that are run without gradients and not compared.
        window: number of steps after them that are compared; 0: all.
        recompute: see `DistillOptions`.
        untrained: whether it is that of the untrained scheme, `Cell.untrained`, without gradients.
    """
    u, memory = paths.states[0], student.cell.start(sde, paths.times[0], paths.states[0])
    errors = []
    noises = student.cell.noise_by_step("additive", paths.signature)
    moves = zip(paths.states[1:], noises, pairwise(paths.times.unbind()), strict=True)
    last = first + window if window else len(paths.times)
    for k, (target, noise, (start, end)) in enumerate(moves):
        if k >= last:
            break
        with torch.set_grad_enabled(k >= first and not untrained):
            step = sde, start, end, u, memory, noise
            u, memory = student.cell.untrained(*step) if untrained else _move(student, recompute, *step)
        if k >= first:
            errors.append(_error(sde, u, target, end))
    return torch.stack(errors).mean()


def local_errors(
    student: SigDEG,
    sde: CanonicalSDE,
    data: Data,
    steps: int,
    rows: int,
    teacher_options: TeacherOptions,
    generator: torch.Generator,
    *,
    chosen: Sequence[int] | None = None,
    recompute: bool = False,
    untrained: list[Tensor] | None = None,
) -> Tensor:
    """Mean squares, (steps,), of x - x_teacher after single steps that start on the exact marginal of data.

    The steps have the times of a sampler, at which the student is asked later.

    Args:
        steps: number of steps of a grid.
        rows: number of states per step.
        teacher_options: scheme and fine steps of the targets.
        chosen: numbers of the steps, by default drawn: `LOCAL_STEPS` of them at most.
        recompute: see `DistillOptions`.
        untrained: gets the mean squares of the untrained scheme, `Cell.untrained`, in the same steps.
    """
    times = snr_times(student.space.snr, student.space.grid, steps)
    per_step = max(1, teacher_options.steps // steps)
    fine = TeacherOptions(teacher_options.scheme, per_step, per_step)
    errors, ends = [], []
    for k in _draw_local_steps(steps, generator).tolist() if chosen is None else chosen:
        start, end = times[k], times[k + 1]
        clean = draw_rows(data, rows, generator)
        paths = draw_local(sde, fine, clean, start, end, depth=student.depth, generator=generator, watch=False)
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
        if untrained is not None:
            with torch.no_grad():
                moved, _ = student.cell.untrained(sde, start, end, u, memory, noise)
            untrained.append(_error(sde, moved, paths.states[1], end))
        ends.append(paths.states[1])
    _check_teacher(all_finite(torch.stack(ends)))
    return torch.stack(errors)


def local_loss(errors: Tensor, student: SigDEG) -> Tensor:
    """The mean logarithm of the mean squares of steps, (steps,): each step counts by its relative error.

    Early steps err little in x, but later ones enlarge what they err by: the logarithm of the mean neglects them. Each
    has a share `SHARED` of the mean in it, so that steps with next to no error count for little. A plain cell starts
    far from the teacher, most where steps matter most: there it is the logarithm of the mean.
    """
    share = SHARED if isinstance(student.cell, SolverCell) else 1.0
    return _log(errors.lerp(errors.mean(), share), student).mean()


def _compared(iteration: int, pairs: str) -> bool:
    """Whether an iteration is compared with the untrained scheme, by its number alone: a run may be resumed."""
    return (iteration + 1) % COMPARED[pairs] == 0


def _check_teacher(finite: bool | int) -> None:
    if not finite:
        raise FloatingPointError("the states of the teacher's paths are not finite; take more of its steps")


def _move(student: SigDEG, recompute: bool, *step: Any) -> tuple[Tensor, Any]:
    def advance(*step: Any) -> tuple[Tensor, Any]:
        with unread():  # here, for autograd computes again in another thread
            return student.cell.advance(*step)

    return checkpoint(advance, *step, use_reentrant=False) if recompute else advance(*step)


def _log(error: Tensor, student: SigDEG) -> Tensor:
    """The logarithm of errors, constant below rounding: a student that equals its teacher has nothing to learn."""
    return error.clamp(min=ROUNDING * student.cell.sigma_data**2).log()


def _error(sde: CanonicalSDE, u: Tensor, target: Tensor, end: Tensor) -> Tensor:
    return ((u - target) / beside(sde.reference.clock(end), u)).square().mean()


def _read_steps(options: DistillOptions, generators: Sequence[torch.Generator]) -> list[int]:
    """Numbers of steps of iterations, one from each generator."""
    uniform = torch.cat([torch.rand(1, generator=generator, device=generator.device) for generator in generators])
    return [options.steps_at(number) for number in uniform.tolist()]


def _draw_local_steps(steps: int, generator: torch.Generator) -> Tensor:
    """Numbers of different steps, `LOCAL_STEPS` of them or all."""
    return torch.randperm(steps, generator=generator, device=generator.device)[:LOCAL_STEPS]
