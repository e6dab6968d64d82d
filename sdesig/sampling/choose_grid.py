"""The choice of a grid of coarse steps: where they lie, and where the free step before them ends."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_instance, check_integer, check_real
from sdesig._evaluating import evaluating
from sdesig._files import read_tensors, write_tensors
from sdesig._interrupts import keeping
from sdesig._progress import progress_bar
from sdesig._random import generator_for
from sdesig._records import without_names
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.path_average import PathAverage
from sdesig.sampling.path_space import EVEN, PathSpace, StepGrid
from sdesig.sampling.teacher_paths import draw_signature, snr_times
from sdesig.signature.partial_signature import join_steps

STRONG_LOCAL, WEAK_LOCAL = 2.0, 3.0
"""Orders, in its length, of the path-average scheme's error of one step: root mean square, and in mean values."""
LEAST = 0.05
"""Least density of steps, as a share of its mean."""
NEGLIGIBLE = 1e-5
"""Relative errors that count as rounding: where all are below, the grid is even."""
LAW_FOR_IMAGES = 0.7
"""`law` for images. By the pathwise error alone the last steps would be long, as images change little in them. With
such steps path-average leaves grain, and its correction makes more of it."""
AT_ONCE, NUMBERS = 64, 2**27
"""Most paths at once, and most numbers of their signatures on the fine grid. What a seed gives depends on them."""
STEPS = (4, 5, 8, 10, 16, 20, 32, 64)
"""Numbers of steps for which the end of the free step is sought; a line in their logarithm goes through them."""
KNOTS = 64
FINE = 1024
"""Points per cell of the quadrature over positions."""


class _Measured(NamedTuple):
    """Sums over paths, float64.

    Attributes:
        paths: number of the paths so far.
        square: of the ends, (): sum of their squares.
        whole: (): of the squares of the error of one step per cell all the way.
        steps: (cells,): of the squares of what the single step over a cell moves the end by.
        free: (cells - 1,): of the squares of what a free step to the end of a cell moves the end by.
        change, change_square: (cells, *event): of the changes of the squares of the coordinates by that single step,
            in the reference's basis, and of the squares of these.
        variance: (*event): of the squares of the coordinates.
    """

    paths: Tensor
    square: Tensor
    whole: Tensor
    steps: Tensor
    free: Tensor
    change: Tensor
    change_square: Tensor
    variance: Tensor


@torch.no_grad()
def choose_grid(
    teacher: SNRDenoiser,
    space: PathSpace,
    *,
    law: float = 0.0,
    steps: StepGrid | None = None,
    paths: int = 192,
    cells: int = 8,
    fine_per_cell: int = 8,
    seed: int = 0,
    progress: bool = True,
    kept: str | Path | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> StepGrid:
    """A grid from measured errors of the path-average scheme, in proportion to what they do to the sample.

    The range is cut into cells even in log-SNR. Every path is solved on a fine grid, and from the fine state at the
    beginning of every cell on with one step per cell: two such ends from adjacent cells differ by what the single step
    over one cell does. From these differences:

    - The path. Let r be their root mean square, r = kappa length^2. The sum of the mean squares kappa^2 length^4 of N
      steps is least where the density of steps is proportional to r^(2/3).
    - The distribution. Let w be the relative change of the standard deviation of a coordinate of the reference's basis,
      its root mean square over the coordinates (less its sampling error), w = kappa length^3. The sum of N such changes
      is least where the density is proportional to w^(1/3). It asks for more steps at high SNRs: changes there are
      small beside the path's, but they are the grain of flat areas, which a Frechet distance sees.
    - The free step, see `StepGrid`. It is measured as the steps are: a free step to the end of a cell in place of the
      fine path. For every N it goes to where the mean square of its error and that of N steps behind it are least; the
      latter as above, times what the mean square of all cells together is over the sum of those of single ones.

    The teacher is evaluated paths (cells fine_per_cell + cells^2) times: 24,576 by default.

    Args:
        teacher: D(y, snr), on the device of the space.
        space: event, range and reference of the scheme's variables; its own grid plays no part.
        law: share of the steps, in [0, 1], that lie where the distribution needs them; the others lie where the path
            does.
        steps: a grid whose steps are taken instead, such as `StepGrid.karras`, or `StepGrid()` for even ones: the free
            step before them alone is chosen.
        paths: number of paths over which errors, which are heavy-tailed, are averaged; 64 of them at once, or fewer.
        cells: number of cells in which errors are measured, about the number of steps that the grid is for.
        fine_per_cell: number of fine steps per cell.
        seed: seed of all random numbers.
        progress: whether to show a progress bar.
        kept: safetensors file of what is measured. A choice that was stopped goes on from there; a file of another
            choice is overwritten.
        recorded: what tells two choices apart beside the arguments and the reference: which teacher it is, by a hash
            of its weights for example. JSON-serializable; needed with `kept`.

    Raises:
        TypeError, ValueError: arguments out of range, `kept` without `recorded`, a file that is not a complete
            safetensors file.
        FloatingPointError: a denoiser whose values are not finite.
        KeyboardInterrupt: Ctrl-C; its text says what is kept.
    """
    check_integer("cells", cells, 3)
    check_integer("fine_per_cell", fine_per_cell, 2)
    check_integer("paths", paths, 2)
    check_integer("seed", seed, 0)
    if not 0.0 <= check_real("law", law) <= 1.0:
        raise ValueError(f"law must be in [0, 1]; got {law}")
    if steps is not None:
        check_instance("steps", steps, StepGrid)
        if law:
            raise ValueError(f"law must be 0 where steps are given; got {law}")
    if kept is not None and not recorded:
        raise ValueError(f"recorded must say which teacher it is, as what is measured is kept; got {recorded!r}")
    check_instance("space", space, PathSpace)
    sde = CanonicalSDE(check_snr_denoiser("teacher", teacher), reference=space.reference)
    numbers = [sde.eta, cells, fine_per_cell, paths, seed, *space.snr, *space.event]
    noise = [space.device.type, str(space.dtype)]  # a seed gives other paths elsewhere
    described = {
        **(recorded or {}),
        "reference": space.reference.digest,
        "numbers": numbers,
        "noise": noise,
        "scheme": f"{PathAverage()}, between steps",
    }
    file = None if kept is None else Path(kept)
    key, measured = _kept(file, described, cells, space.event)
    with nullcontext() if kept is None else keeping(f"what was measured for the grid is kept in {kept}"):
        at_once = max(1, min(AT_ONCE, NUMBERS // (2 * cells * fine_per_cell * math.prod(space.event))))
        left = range(int(measured.paths), paths, at_once)
        rounds = cells * fine_per_cell + cells**2
        with (
            progress_bar(total=len(left) * rounds, name="grid", unit="evaluation", shown=progress) as bar,
            evaluating(teacher),
        ):
            for first in left:
                generator = generator_for("grid", seed, first, device=space.device)
                rows = min(at_once, paths - first)
                found = _measure(sde, space, cells, fine_per_cell, rows, generator, bar.update)
                measured = _Measured(*(a + b for a, b in zip(measured, found, strict=True)))
                if not bool(measured.steps.isfinite().all() & measured.free.isfinite().all()):
                    raise FloatingPointError("the teacher's values must be finite; its paths for the grid are not")
                if file is not None:
                    write_tensors(file, {"key": key, **measured._asdict()})
    return _chosen(measured, law, steps)


def _measure(
    sde: CanonicalSDE,
    space: PathSpace,
    cells: int,
    fine_per_cell: int,
    rows: int,
    generator: torch.Generator,
    evaluated: Any,
) -> _Measured:
    """The sums of some paths; `evaluated` is called after every evaluation."""
    times = snr_times(space.snr, EVEN, cells * fine_per_cell)
    shape, scheme = (rows, *space.event), PathAverage()
    noise = torch.randn(shape, generator=generator, dtype=space.dtype, device=space.device)
    fine = draw_signature(sde.clock, times, shape, 2, generator, space.dtype)

    def states(first: int, signatures: Any, at: Tensor, u: Tensor, memory: Any) -> list[tuple[Tensor, Any]]:
        """State and memory after each of the steps between times, from a state at the first of them on."""
        found = []
        for k, now in enumerate(scheme.noise_by_step("additive", signatures[first:]), start=first):
            u, memory = scheme.advance(sde, at[k], at[k + 1], u, memory, now)
            found.append((u, memory))
            evaluated(1)
        return found

    start = sde.start(noise, times[0])
    nothing = scheme.start(sde, times[0], start)
    solved = [(start, nothing), *states(0, fine, times, start, nothing)]
    ends = range(0, len(times), fine_per_cell)
    coarse, at = join_steps(fine, ends), times[list(ends)]
    truth = [solved[end][0] for end in ends]
    # as a step over the cell before would have left it: from a third of it
    before = [solved[end - fine_per_cell + fine_per_cell // 3 + 1][1] for end in ends[1:-1]]
    memories = [nothing, *((drift, None) for drift, _ in before)]

    def end_from(cell: int, u: Tensor, memory: Any) -> Tensor:
        last = u if cell == cells else states(cell, coarse, at, u, memory)[-1][0]
        return sde.noisy_data(last, at[-1]).double()

    by_cell = [end_from(k, truth[k], memories[k]) for k in range(cells)] + [end_from(cells, truth[-1], nothing)]
    steps = torch.stack([(a - b).square().mean() for a, b in pairwise(by_cell)])
    free, moved = [], start
    for k in range(1, cells):
        moved = moved + coarse[k - 1].increment
        free.append((end_from(k, moved, nothing) - by_cell[k]).square().mean())
    mean = space.reference.mean
    turned = torch.stack([space.reference.to_basis((x - mean).to(start)).double().square() for x in by_cell])
    change = turned[:-1] - turned[1:]
    return _Measured(
        torch.tensor(float(rows)),
        rows * by_cell[-1].square().mean().cpu(),
        rows * (by_cell[0] - by_cell[-1]).square().mean().cpu(),
        rows * steps.cpu(),
        rows * torch.stack(free).cpu(),
        change.sum(1).cpu(),
        change.square().sum(1).cpu(),
        turned[-1].sum(0).cpu(),
    )


def _chosen(measured: _Measured, law: float, steps: StepGrid | None) -> StepGrid:
    """The grid of what was measured."""
    n, cells = measured.paths.item(), len(measured.steps)
    least = NEGLIGIBLE * math.sqrt(measured.square.item() / n)
    errors = np.maximum(least, (measured.steps / n).sqrt().numpy())
    if not errors.max() > least:
        return EVEN if steps is None else steps.whole
    # what single steps do may cancel: where a path changes its mode, one of them undoes another
    together = math.sqrt((measured.whole / measured.steps.sum()).item())
    kappa = together * errors * cells**STRONG_LOCAL
    if steps is None:
        shares = (1 - law) * _shares(errors, 2 / (2 * STRONG_LOCAL - 1))
        if law:
            mean = measured.change / n
            uncertain = (measured.change_square / n - mean.square()) / (n - 1)
            relative = (mean.square() - uncertain) / (2 * measured.variance / n).square()
            changes = relative.flatten(1).mean(1).clamp(min=NEGLIGIBLE**2).sqrt().numpy()
            shares += law * _shares(changes, 1 / WEAK_LOCAL)
        grid, density = StepGrid.from_density(shares, knots=max(KNOTS, 2 * cells)), np.repeat(shares, FINE)
    else:
        quantiles, places = steps.quantiles, np.linspace(0, 1, cells * FINE + 1)
        grid = steps.whole
        density = np.diff(np.interp(places, quantiles, np.linspace(0, 1, len(quantiles))))
    free = np.maximum(least, (measured.free / n).sqrt().numpy())
    return _with_free_step(grid, density / density.mean(), np.repeat(kappa, FINE), free)


def _shares(errors: np.ndarray, power: float) -> np.ndarray:
    """A density of mean one on the cells, as a power of the errors, smooth, nowhere far below its mean."""
    density = errors**power
    smooth = np.convolve(np.pad(density, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    density = np.maximum(smooth, LEAST * smooth.mean())
    return density / density.mean()


def _with_free_step(grid: StepGrid, density: np.ndarray, kappa: np.ndarray, free: np.ndarray) -> StepGrid:
    """The grid with the free step whose error, with that of the steps behind it, is least in mean square.

    Args:
        grid: without a free step.
        density, kappa: on even cells of [0, 1].
        free: error of a free step to k/(len(free) + 1), k = 1, ...
    """
    begins = np.linspace(0, 1, len(kappa), endpoint=False)
    # N steps at a density rho have lengths 1/(N rho): mean squares kappa^2 / (N rho)^3 per length
    behind = np.cumsum((kappa**2 / density**3)[::-1])[::-1] / len(kappa)
    mass = np.cumsum(density[::-1])[::-1] / len(density)
    places = np.arange(1, len(free) + 1) / (len(free) + 1)
    bias = np.exp(np.interp(begins, places, np.log(free)))
    slope = np.log(free[1] / free[0]) / (places[1] - places[0])
    before = begins < places[0]
    bias[before] = free[0] * np.exp(slope * (begins[before] - places[0]))
    bias[0] = 0.0
    best = [begins[np.argmin(behind * (mass / steps) ** 3 + bias**2)] for steps in STEPS]
    fall, at_one = np.polyfit(np.log(STEPS), best, 1)
    if not best[0] > 0:
        return grid
    return replace(grid, free=float(np.clip(at_one, 0, 0.99)), fall=float(max(0.0, -fall)))


def _kept(
    file: Path | None, described: Mapping[str, Any], cells: int, event: tuple[int, ...]
) -> tuple[Tensor, _Measured]:
    """The key of the choice that is described, JSON-serializable, and what a file has of it: nothing, or sums."""
    text = json.dumps(without_names(described), sort_keys=True).encode()
    key = torch.tensor(list(hashlib.sha256(text).digest()), dtype=torch.uint8)
    shapes = ((), (), (), (cells,), (cells - 1,), (cells, *event), (cells, *event), event)
    nothing = _Measured(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))
    found = {} if file is None or not file.exists() else read_tensors(file)
    same = found.keys() == {"key", *nothing._fields} and torch.equal(found.pop("key"), key)
    return key, _Measured(**found) if same else nothing
