"""One training loop for teachers and students: it resumes bit-exactly, and stops at the first value that is not finite.

Nothing random is kept from one iteration to the next: iteration k draws from a generator that is seeded with (seed, k),
and with the number of the part where an iteration has several, which processes share. So are torch's global
generators, from which dropout draws; afterwards they are as they were.
A checkpoint therefore is the iteration, the weights, their moving average and the optimizer, in one safetensors file.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from sdesig import _processes as processes
from sdesig._checks import check_choice, check_integer, check_real
from sdesig._files import read_tensors, reading, replacing, write_tensors
from sdesig._interrupts import Interrupted, StopRequests, keeping, stop_requests
from sdesig._progress import progress_bar
from sdesig._random import generator_for, seed_for, seeded
from sdesig._records import forget_options, record_options
from sdesig.sigdeg.buffers import Buffers, copy_buffers
from sdesig.sigdeg.networks import in_precision

CHECKPOINT, OPTIONS, STATS = "checkpoint.safetensors", "options.json", "stats.jsonl"
CHECKPOINT_SECONDS = 300.0
"""Most time without a checkpoint, but for an iteration that takes longer."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)
MOST = 2**30
"""Largest number of iterations, of parts of an iteration, or of rows in a batch."""
LARGEST_RATE = 1e3
"""AdamW moves every weight by about the learning rate, whatever the gradient."""
Part = tuple[Tensor, int] | tuple[Tensor, int, Tensor]
Loss = Callable[[int, torch.Generator], Part]
COMPARISONS = 10
"""Comparisons whose mean is shown."""


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training."""

    iterations: int = 10_000
    """Number of optimizer steps; given more, a shorter run goes on."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW at its peak; cosine decay to zero."""
    weight_decay: float = 0.0
    """Weight decay of AdamW; for weights that start at zero, as a student's do, a pull to the teacher."""
    warmup: int | None = None
    """Iterations of linear warm-up; None: a tenth of them all, 200 at most."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is the result; less in the first iterations."""
    clip: float = 1.0
    """Norm to which gradients are clipped."""
    seed: int = 0
    """Seed of everything random."""
    parts: int = 1
    """Parts of an iteration, each a batch of its own; their gradients are averaged. Processes, started by torchrun,
    share them: their number divides it, and changes the result in its last digits only."""
    checkpoint_every: int = 500
    """Iterations between checkpoints; there is one every five minutes too."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision in which our networks compute in a training (autocast), a teacher's fine steps too; weights, kept paths
    and all else stay in float32."""

    def __post_init__(self) -> None:
        check_integer("iterations", self.iterations, 1, MOST)
        check_real("learning_rate", self.learning_rate, minimum=0.0, strict=True, maximum=LARGEST_RATE)
        if not check_real("weight_decay", self.weight_decay, minimum=0.0) * self.learning_rate <= 1:
            raise ValueError(f"weight_decay must be at most 1/learning_rate; got {self.weight_decay:g}")
        if self.warmup is not None:
            check_integer("warmup", self.warmup, 0)
        if not check_real("ema", self.ema, minimum=0.0) < 1:
            raise ValueError(f"ema must be in [0, 1); got {self.ema}")
        check_real("clip", self.clip, minimum=0.0, strict=True)
        check_integer("seed", self.seed, 0, 2**30)
        check_integer("parts", self.parts, 1, MOST)
        check_integer("checkpoint_every", self.checkpoint_every, 1)
        check_choice("precision", self.precision, ("float32", "bfloat16"))

    @property
    def warmup_iterations(self) -> int:
        """Number of iterations of the warm-up: `warmup`, or its default."""
        return min(200, self.iterations // 10) if self.warmup is None else self.warmup


@dataclass(frozen=True)
class _State:
    """The content of a checkpoint beside the iteration: a module, its moving average, and the optimizer."""

    module: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average towards the parameters that are trained, by a share of 1 - decay."""
        for mean, value in zip(self.average.parameters(), self.module.parameters(), strict=True):
            if value.requires_grad:
                mean.lerp_(value, 1 - decay)

    def save(self, path: Path, iteration: int) -> None:
        """Write a checkpoint, a safetensors file."""
        tensors = {"iteration": torch.tensor(iteration)}
        for prefix, module in (("module", self.module), ("average", self.average)):
            tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
        for k, parameter in enumerate(self.parameters):
            tensors |= {f"optimizer.{k}.{name}": value for name, value in self.optimizer.state[parameter].items()}
        write_tensors(path, tensors)

    def restore(self, path: Path) -> int:
        """Load a checkpoint and return its iteration; raise FileError for the checkpoint of another run."""
        with reading(path, "is not a checkpoint of this run"):
            tensors = read_tensors(path)
            self.module.load_state_dict(_under("module.", tensors))
            self.average.load_state_dict(_under("average.", tensors))
            for k, parameter in enumerate(self.parameters):
                state = {name: value.to(parameter.device) for name, value in _under(f"optimizer.{k}.", tensors).items()}
                found, own = {name: value.shape for name, value in state.items()}, parameter.shape
                if found not in ({}, {"step": torch.Size(()), "exp_avg": own, "exp_avg_sq": own}):
                    raise ValueError(f"optimizer.{k} must be of a weight of shape {tuple(own)}; got {found}")
                self.optimizer.state[parameter] = state
            return check_integer("iteration", tensors["iteration"].item(), 0)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def train(
    module: ModuleT,
    loss: Loss,
    out: str | Path,
    options: TrainingOptions,
    *,
    recorded: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> ModuleT:
    """Minimize a loss over the module's parameters that require gradients.

    Ctrl-C and SIGTERM stop the run after the iteration that they meet, and a second Ctrl-C at once. Whatever stops it,
    an error too, all iterations that were completed are kept in the checkpoint; but where it diverges, the checkpoint
    from before stays.

    A run may be prolonged by more iterations: it goes on with the schedule of the new length from where it is. Its
    earlier learning rates were those of the old length, so that it is no run of the new length from the start.

    Args:
        module: trained in place.
        loss: (iteration, generator) -> (loss, number of samples in it), of one part. It must depend on nothing else
            that changes, but for torch's global generators, which are seeded too. Where the loss is the logarithm of a
            mean square, a third value may be that of what it is compared with, in the iterations that have one.
        out: folder for options.json, stats.jsonl and the checkpoint; if it has a checkpoint, training goes on from it.
        options: see `TrainingOptions`.
        recorded: further options, JSON-serializable, which must be the same when a run goes on.
        progress: whether to show a progress bar with the loss, the share exp((loss - third value)/2) of errors in the
            last ten comparisons, samples per second and the time left.

    Returns:
        The moving average, a copy of the module: averaged are the parameters that are trained. Buffers, such as the
        running statistics of a BatchNorm, which are averages already, are copied. Of several parts each starts with
        the same buffers, and what they change in them is averaged.

    Raises:
        ValueError: nothing to train, parts that the processes do not divide, a folder with a run of other options.
        FloatingPointError: a loss or gradient that is not finite; the last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM; its text says what is kept.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("module must have parameters that require gradients")
    out = Path(out)
    begin(out, options, recorded or {})
    average = copy.deepcopy(module).requires_grad_(False)
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    state = _State(module, average, optimizer, parameters)
    first = state.restore(out / CHECKPOINT) if (out / CHECKPOINT).exists() else 0
    if processes.rank() == 0:
        _forget_later_stats(out / STATS, first)
    buffers = Buffers(module)
    samples, shown, started = 0, 0.0, time.perf_counter()
    compared, share = 0, 0.0
    saved, saved_at = first, time.monotonic()
    kept = f"all iterations that were completed are kept in {out}: the same command goes on from there"

    def save(done: int) -> None:
        nonlocal saved, saved_at
        if processes.rank() == 0 and done > saved:
            copy_buffers(average, module)
            state.save(out / CHECKPOINT, done)
        saved, saved_at = done, time.monotonic()

    left = range(first, options.iterations)
    bar = progress_bar(left, name="training", unit="iteration", initial=first, shown=progress)
    with keeping(kept), in_precision(options.precision, module), stop_requests() as requests:
        for iteration in bar:
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _schedule(iteration, options)
            try:
                with requests.at_once():
                    value, count, stopping = _gradients(parameters, buffers, loss, iteration, options, requests)
                norm = nn.utils.clip_grad_norm_(parameters, options.clip)
                numbers = torch.cat([value, norm.to(value)[None]]).cpu().tolist()  # one wait for the device
                now, *other, length = numbers
                if not (math.isfinite(now) and math.isfinite(length)):
                    raise FloatingPointError(
                        f"loss {now} with a gradient of norm {length} at iteration {iteration}; the last checkpoint in "
                        f"{out} is kept: lower the learning rate, now {options.learning_rate:g}"
                    )
            except BaseException as error:
                buffers.restore()  # the weights are still those of the iteration before
                # divergence begins before it shows: then an older checkpoint is better
                if not isinstance(error, FloatingPointError):
                    save(iteration)
                raise
            optimizer.step()
            buffers.keep()
            state.follow(min(options.ema, (1 + iteration) / (10 + iteration)))
            samples += count * processes.world_size()
            shown += (now - shown) / min(100, iteration - first + 1)
            if other and math.isfinite(other[0]):
                compared += 1
                share += ((now - other[0]) / 2 - share) / min(COMPARISONS, compared)
            done = iteration + 1
            if done % options.checkpoint_every == 0 or done == options.iterations:
                seconds = time.perf_counter() - started
                line = {"iteration": done, "loss": shown, "seconds": seconds, "samples_per_second": samples / seconds}
                line |= {"error_share": math.exp(share)} if compared else {}
                if processes.rank() == 0:
                    with (out / STATS).open("a") as file:
                        file.write(json.dumps(line) + "\n")
                save(done)
            if processes.world_size() == 1:
                stopping = requests.number is not None
            if stopping or time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                save(done)
            if stopping:
                processes.barrier()  # for the checkpoint: torchrun ends all when one has ended
                raise Interrupted(kept, requests.number or signal.SIGTERM)
            if done % 10 == 0:
                speed = samples / (time.perf_counter() - started)
                words = [f"loss {shown:.4g}", *([f"error {math.exp(share):.2f} of the untrained"] if compared else [])]
                bar.set_postfix_str(", ".join([*words, f"{speed:.0f} samples/s"]), False)
    copy_buffers(average, module)
    return average


def part_numbers(options: TrainingOptions) -> list[tuple[int, ...]]:
    """What tells this process's parts of an iteration apart in its seeds: a number each, or nothing if there is one."""
    return [()] if options.parts == 1 else [(number,) for number in processes.share(options.parts)]


def begin(out: Path, options: TrainingOptions, recorded: Mapping[str, Any]) -> None:
    """Record the options of a run. `train` does it too; call this first where other work precedes the training.

    Raises:
        ValueError: parts that the processes do not divide, a folder with a run of other options.
    """
    if options.parts % processes.world_size():
        wanted = f"a multiple of the number of processes, {processes.world_size()}"
        raise ValueError(f"parts must be {wanted}; got {options.parts}")
    processes.on_main(lambda: forget_options(out / OPTIONS, CHECKPOINT, key="training"))
    record_options(out / OPTIONS, {**recorded, "training": asdict(options)}, may_grow=("training.iterations",))


def _schedule(iteration: int, options: TrainingOptions) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = options.warmup_iterations
    if iteration < warmup:
        return (iteration + 1) / warmup
    done = (iteration - warmup) / max(1, options.iterations - warmup)
    return (1 + math.cos(math.pi * done)) / 2


def _gradients(
    parameters: list[nn.Parameter],
    buffers: Buffers,
    loss: Loss,
    iteration: int,
    options: TrainingOptions,
    requests: StopRequests,
) -> tuple[Tensor, int, bool]:
    """Leave the mean gradient of all parts in the parameters, and the mean of their changes in the buffers.

    Returns: the loss and what it is compared with, (1,) or (2,), this process's number of samples, and whether one of
    several processes was asked to stop.
    """
    device = parameters[0].device
    for parameter in parameters:
        parameter.grad = None
    value, count = torch.zeros((), device=device), 0
    for own in part_numbers(options):
        generator = generator_for("training", options.seed, iteration, *own, device=device)
        with seeded(seed_for("global", options.seed, iteration, *own), device):
            of_part, samples_of_part, *other = loss(iteration, generator)
            (of_part / options.parts).backward()
        value = value + torch.stack([of_part.detach(), *other]) / options.parts
        count += samples_of_part
        if options.parts > 1:
            buffers.add(options.parts)
    told = [*buffers.added(), requests.number is not None]
    if processes.world_size() > 1:
        told = _reduce_gradients(parameters, value, told)
    *added, stopping = told
    buffers.settle(added)
    return value, count, stopping


def _reduce_gradients(parameters: list[nn.Parameter], value: Tensor, told: Sequence[bool]) -> list[bool]:
    """Replace gradients and the loss by their sums over processes; a gradient that no process has stays None.

    Returns:
        For each of the statements `told`, whether it is true in one process at least.
    """
    there = [p.grad is not None for p in parameters]
    flags = torch.tensor([*there, *told], dtype=torch.float32, device=value.device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    together = torch.cat([flags, value.flatten(), *(gradient.flatten() for gradient in gradients)])
    processes.all_reduce(together)
    flags, total, rest = together.split([len(flags), value.numel(), sum(p.numel() for p in parameters)])
    value.copy_(total.view_as(value))
    sums = rest.split([p.numel() for p in parameters])
    any_has = [number > 0 for number in flags.tolist()]
    for p, has_one, gradient in zip(parameters, any_has, sums, strict=False):
        p.grad = gradient.view_as(p) if has_one else None
    return any_has[len(parameters) :]


def _forget_later_stats(path: Path, iteration: int) -> None:
    """Drop lines of iterations after the checkpoint from which training goes on."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _iteration(line) <= iteration]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines))


def _iteration(line: str) -> float:
    """The iteration of a line of the statistics; infinite for a line that is damaged."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf
