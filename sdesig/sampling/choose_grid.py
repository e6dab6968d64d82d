"""The choice of a grid of coarse steps that spreads a scheme's error evenly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_instance, check_integer, check_real
from sdesig._files import read_tensors, write_tensors
from sdesig._interrupts import keeping
from sdesig._progress import progress_bar
from sdesig._random import generator_for
from sdesig._records import without_names
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.lockstep import stacked
from sdesig.sampling.path_average import PathAverage
from sdesig.sampling.path_space import PathSpace, StepGrid
from sdesig.sampling.teacher_paths import draw_signature, snr_times, teacher_states
from sdesig.signature.partial_signature import join_steps

LOCAL_ORDER = 2.0
"""The path-average scheme's root mean square error of one step is of this order in its length."""

NEGLIGIBLE = 1e-5
"""Relative errors that count as rounding: where all are below, the grid is even."""

LEAST_FOR_IMAGES = 0.8
"""`least` for images. By the pathwise error alone, the last steps would be long, as images change little in them. But
they change the grain of flat areas, to which a mean square is blind and a Frechet distance is not."""


@torch.no_grad()
def choose_grid(
    teacher: SNRDenoiser,
    space: PathSpace,
    *,
    cells: int = 8,
    fine_per_cell: int = 16,
    paths: int = 2048,
    least: float = 0.05,
    seed: int = 0,
    progress: bool = True,
    kept: str | Path | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> StepGrid:
    """A grid from measured errors of the path-average scheme, in proportion to what they do to the sample.

    The range is cut into cells even in log-SNR. Every path is solved on a fine grid, and once more for every cell with
    a single step over that cell: the root mean square r of the difference at the end is the cell's share. With
    r = kappa length^2, the sum of the mean squares kappa^2 length^4 of N steps is least where kappa^2 length^3 is the
    same for all: the density of steps is proportional to r^(2/3).

    Args:
        teacher: D(y, snr), on the device of the space.
        space: event, range and reference of the scheme's variables; its own grid plays no part.
        cells: number of cells in which errors are measured, about the number of steps that the grid is for.
        fine_per_cell: number of fine steps per cell.
        paths: number of paths over which errors, which are heavy-tailed, are averaged.
        least: lower bound of the density as a share of its mean, in (0, 1]; for images, `LEAST_FOR_IMAGES`.
        seed: seed of all random numbers.
        progress: whether to show a progress bar.
        kept: safetensors file of the cells that are measured. A choice that was stopped goes on from there; a file of
            another choice is overwritten.
        recorded: what tells two choices apart beside the arguments and the reference: which teacher it is, by a hash
            of its weights for example. JSON-serializable; needed with `kept`.

    Raises:
        TypeError, ValueError: arguments out of range, `kept` without `recorded`, a file that is not a complete
            safetensors file.
        KeyboardInterrupt: Ctrl-C; its text says what is kept.
    """
    check_integer("cells", cells, 2)
    check_integer("fine_per_cell", fine_per_cell, 2)
    check_integer("paths", paths, 2)
    if not 0.0 < check_real("least", least) <= 1.0:
        raise ValueError(f"least must be in (0, 1]; got {least}")
    if kept is not None and not recorded:
        raise ValueError(f"recorded must say which teacher it is, as the cells are kept; got {recorded!r}")
    check_instance("space", space, PathSpace)
    sde = CanonicalSDE(check_snr_denoiser("teacher", teacher), reference=space.reference)
    times = snr_times(space.snr, StepGrid(), cells * fine_per_cell)
    generator = generator_for("grid", check_integer("seed", seed, 0), device=space.device)
    shape, scheme = (paths, *space.event), PathAverage()
    start = sde.start(torch.randn(shape, generator=generator, dtype=space.dtype, device=space.device), times[0])
    file = None if kept is None else Path(kept)
    described = {
        **(recorded or {}),
        "reference": space.reference.digest,
        "numbers": [sde.eta, cells, fine_per_cell, paths, seed, *space.snr, *space.event],
        "noise": [start.device.type, str(start.dtype)],  # a seed gives other paths elsewhere
    }
    key, truth, shares = _measured(file, described)
    fine = draw_signature(sde.clock, times, shape, 2, generator, start.dtype)
    with nullcontext() if kept is None else keeping(f"the cells that were measured for the grid are kept in {kept}"):
        if truth is None:
            truth = sde.noisy_data(teacher_states(scheme, sde, start, times, fine, save="last"), times[-1])
        truth = truth.to(start)
        rounding = NEGLIGIBLE * truth.square().mean().sqrt().item()
        done = len(shares)
        for k in progress_bar(range(done, cells), name="grid", unit="cell", initial=done, shown=progress):
            first, last = k * fine_per_cell, (k + 1) * fine_per_cell
            left = [*range(first + 1), *range(last, len(times))]
            before = [fine[:first]] if k > 0 else []
            after = [fine[last:]] if k + 1 < cells else []
            signatures = stacked(*before, join_steps(fine, (first, last)), *after)
            end = sde.noisy_data(teacher_states(scheme, sde, start, times[left], signatures, save="last"), times[-1])
            shares.append(max(rounding, (end - truth).square().mean().sqrt().item()))
            if file is not None:
                measured = torch.tensor(shares, dtype=torch.float64)
                write_tensors(file, {"key": key, "shares": measured, "truth": truth})
    density = np.asarray(shares) ** (2 / (2 * LOCAL_ORDER - 1))
    smooth = np.convolve(np.pad(density, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return StepGrid.from_density(np.maximum(smooth, least * smooth.mean()), knots=max(64, 2 * cells))


def _measured(file: Path | None, described: Mapping[str, Any]) -> tuple[Tensor, Tensor | None, list[float]]:
    """What a file has of the choice that is described, JSON-serializable.

    Returns:
        The choice's key in the file, ends of the paths on the fine grid, and the shares of the cells that are done.
    """
    text = json.dumps(without_names(described), sort_keys=True).encode()
    key = torch.tensor(list(hashlib.sha256(text).digest()), dtype=torch.uint8)
    found = {} if file is None or not file.exists() else read_tensors(file)
    if found.keys() == {"key", "shares", "truth"} and torch.equal(found["key"], key):
        return key, found["truth"], found["shares"].tolist()
    return key, None, []
