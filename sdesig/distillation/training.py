"""One training loop for teachers and students: it resumes bit-exactly, and stops at the first value that is not finite.

Nothing random is kept from one iteration to the next: iteration k draws from a generator that is seeded with (seed, k),
and with the number of the part where an iteration has several, which processes share.
A checkpoint therefore is the iteration, the weights, their moving average and the optimizer, in one safetensors file.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sdesig import _processes as processes
from sdesig._checks import check_choice, check_integer, check_real
from sdesig._files import forget_options, read_tensors, reading, record_options, replacing, write_tensors
from sdesig._random import generator_for
from sdesig.generator.networks import in_precision

CHECKPOINT, OPTIONS, STATS = "checkpoint.safetensors", "options.json", "stats.jsonl"
ModuleT = TypeVar("ModuleT", bound=nn.Module)
MOST = 2**30
"""Largest number of iterations, of parts of one, or of rows in a batch."""
LARGEST_RATE = 1e3
"""AdamW moves every weight by about the learning rate, whatever the gradient."""
Loss = Callable[[int, torch.Generator], tuple[Tensor, int]]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train."""

    iterations: int = 10_000
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """Of AdamW, at its peak; cosine decay to zero."""
    weight_decay: float = 0.0
    """Of AdamW; of weights that start at zero, as a student's do, it is a pull to the teacher."""
    warmup: int = 200
    """Iterations of linear warm-up."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is the result; less in the first iterations."""
    clip: float = 1.0
    """Norm to which gradients are clipped."""
    seed: int = 0
    """Of everything random."""
    parts: int = 1
    """Of an iteration, each a batch of its own; their gradients are averaged. Processes, started by torchrun, share
    them: their number divides it, and changes the result in its last digits only."""
    checkpoint_every: int = 500
    """Iterations between checkpoints."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of what our networks compute in a training (autocast), a teacher's fine steps too; weights, kept paths and all
    else stay in float32."""

    def __post_init__(self) -> None:
        check_integer("iterations", self.iterations, 1, MOST)
        check_real("learning_rate", self.learning_rate, minimum=0.0, strict=True, maximum=LARGEST_RATE)
        if not check_real("weight_decay", self.weight_decay, minimum=0.0) * self.learning_rate <= 1:
            raise ValueError(f"weight_decay must be at most 1/learning_rate; got {self.weight_decay:g}")
        check_integer("warmup", self.warmup, 0)
        if not check_real("ema", self.ema, minimum=0.0) < 1:
            raise ValueError(f"ema must be in [0, 1); got {self.ema}")
        check_real("clip", self.clip, minimum=0.0, strict=True)
        check_integer("seed", self.seed, 0, 2**30)
        check_integer("parts", self.parts, 1, MOST)
        check_integer("checkpoint_every", self.checkpoint_every, 1)
        check_choice("precision", self.precision, ("float32", "bfloat16"))


def train(
    module: ModuleT,
    loss: Loss,
    options: TrainingOptions,
    out: Path,
    *,
    recorded: Mapping[str, Any],
    progress: bool = True,
) -> ModuleT:
    """Minimize a loss over the module's parameters that require gradients.

    Args:
        module: trained in place.
        loss: (iteration, generator) -> (loss, number of samples in it), of one part. It must depend on nothing else
            that changes.
        options: see `TrainingOptions`.
        out: folder for options.json, stats.jsonl and the checkpoint; if it has a checkpoint, training goes on from it.
        recorded: further options, JSON-serializable, which a run that goes on must share.
        progress: whether to show a progress bar with the loss, samples per second and the time left.

    Returns:
        The moving average, a copy of the module.

    Raises:
        ValueError: nothing to train, parts that the processes do not divide, a folder with a run of other options.
        FloatingPointError: a loss or gradient that is not finite; the last checkpoint is kept.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("module must have parameters that require gradients")
    if options.parts % processes.count():
        wanted = f"a multiple of the number of processes, {processes.count()}"
        raise ValueError(f"parts must be {wanted}; got {options.parts}")
    average = copy.deepcopy(module).requires_grad_(False)
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    processes.once(lambda: forget_options(out / OPTIONS, CHECKPOINT))
    record_options(out / OPTIONS, {**recorded, "training": asdict(options)})
    first = 0
    if (out / CHECKPOINT).exists():
        first = _restore(out / CHECKPOINT, module, average, optimizer, parameters)
    if processes.number() == 0:
        _forget_later_stats(out / STATS, first)
    samples, shown, started = 0, 0.0, time.perf_counter()
    hidden = not progress or processes.number() > 0
    bar = tqdm(range(first, options.iterations), initial=first, total=options.iterations, disable=hidden)
    with in_precision(options.precision, module):
        for iteration in bar:
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _schedule(iteration, options)
            value, count = _gradients(parameters, loss, iteration, options)
            norm = nn.utils.clip_grad_norm_(parameters, options.clip)
            if not (math.isfinite(value.item()) and math.isfinite(norm.item())):
                raise FloatingPointError(
                    f"loss {value.item()} with a gradient of norm {norm.item()} at iteration {iteration}; the last "
                    f"checkpoint in {out} is kept: lower the learning rate, now {options.learning_rate:g}"
                )
            optimizer.step()
            _average(average, module, min(options.ema, (1 + iteration) / (10 + iteration)))
            samples += count * processes.count()
            shown += (value.item() - shown) / min(100, iteration - first + 1)
            done = iteration + 1
            if done % options.checkpoint_every == 0 or done == options.iterations:
                seconds = time.perf_counter() - started
                line = {"iteration": done, "loss": shown, "seconds": seconds, "samples_per_second": samples / seconds}
                if processes.number() == 0:
                    with (out / STATS).open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    _save(out / CHECKPOINT, done, module, average, optimizer, parameters)
            if done % 10 == 0:
                speed = samples / (time.perf_counter() - started)
                bar.set_postfix_str(f"loss {shown:.4g}, {speed:.0f} samples/s", False)
    return average


def _schedule(iteration: int, options: TrainingOptions) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if iteration < options.warmup:
        return (iteration + 1) / options.warmup
    done = (iteration - options.warmup) / max(1, options.iterations - options.warmup)
    return (1 + math.cos(math.pi * done)) / 2


def _gradients(
    parameters: list[nn.Parameter], loss: Loss, iteration: int, options: TrainingOptions
) -> tuple[Tensor, int]:
    """Leave the mean gradient of all parts in the parameters; return the loss and this process's number of samples."""
    device = parameters[0].device
    for parameter in parameters:
        parameter.grad = None
    value, count = torch.zeros((), device=device), 0
    for number in processes.mine(options.parts):
        own = () if options.parts == 1 else (number,)
        generator = generator_for("training", options.seed, iteration, *own, device=device)
        of_part, samples_of_part = loss(iteration, generator)
        (of_part / options.parts).backward()
        value, count = value + of_part.detach() / options.parts, count + samples_of_part
    if processes.count() > 1:
        _add_up_gradients(parameters, value)
    return value, count


def _add_up_gradients(parameters: list[nn.Parameter], value: Tensor) -> None:
    """Replace gradients and the loss by their sums over processes; a gradient that none has stays None."""
    there = torch.tensor([float(p.grad is not None) for p in parameters], device=value.device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    together = torch.cat([there, value[None], *(gradient.flatten() for gradient in gradients)])
    processes.add_up(together)
    there, total, rest = together.split([len(parameters), 1, sum(p.numel() for p in parameters)])
    value.copy_(total[0])
    sums = rest.split([p.numel() for p in parameters])
    for p, has_one, gradient in zip(parameters, there.tolist(), sums, strict=True):
        p.grad = gradient.view_as(p) if has_one else None


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    for mean, value in zip(average.parameters(), module.parameters(), strict=True):
        if value.requires_grad:
            mean.lerp_(value, 1 - decay)


def _forget_later_stats(path: Path, iteration: int) -> None:
    """Drop lines of iterations after the checkpoint from which training goes on."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _iteration(line) <= iteration]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines))


def _iteration(line: str) -> float:
    """Of a line of the statistics; infinite for one that was cut off or is none."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf


def _save(
    path: Path,
    iteration: int,
    module: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> None:
    tensors = {"iteration": torch.tensor(iteration)}
    for prefix, state in (("module", module.state_dict()), ("average", average.state_dict())):
        tensors |= {f"{prefix}.{name}": value for name, value in state.items()}
    for k, parameter in enumerate(parameters):
        tensors |= {f"optimizer.{k}.{name}": value for name, value in optimizer.state[parameter].items()}
    write_tensors(path, tensors)


def _restore(
    path: Path,
    module: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> int:
    with reading(path, "is not a checkpoint of this run"):
        return _take_over(read_tensors(path), module, average, optimizer, parameters)


def _take_over(
    tensors: Mapping[str, Tensor],
    module: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> int:
    for prefix, target in (("module.", module), ("average.", average)):
        target.load_state_dict(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )
    for k, parameter in enumerate(parameters):
        prefix = f"optimizer.{k}."
        state = {
            name.removeprefix(prefix): value.to(parameter.device)
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        shapes = {name: value.shape for name, value in state.items()}
        if shapes not in ({}, {"step": torch.Size(()), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}):
            raise ValueError(f"optimizer.{k} must be of a weight of shape {tuple(parameter.shape)}; got {shapes}")
        optimizer.state[parameter] = state
    return check_integer("iteration", tensors["iteration"].item(), 0)
