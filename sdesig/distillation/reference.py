"""Gaussian references of a teacher: from its own samples where there are no data, in files, and on a device."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor

from sdesig._checks import check_integer
from sdesig._files import read_tensors, reading, write_tensors
from sdesig._random import generator_for
from sdesig.distillation.paths import TeacherOptions, draw_paths
from sdesig.generator.grid import StepGrid
from sdesig.sde.canonical_sde import CanonicalSDE
from sdesig.sde.contracts import SNRDenoiser, check_snr_denoiser
from sdesig.sde.reference import GaussianReference

STEPS = 128
_NUMBERS = 2**26


def teacher_samples(
    teacher: SNRDenoiser,
    n: int,
    *,
    event: tuple[int, ...],
    snr: tuple[float, float],
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """n samples of a teacher, (n, *event) on the CPU: path-average without a reference, 128 steps even in log-SNR.

    They are what a reference can be fitted to without data. About half a gigabyte is held at once.

    Args:
        teacher: D(y, snr), on the device.
        n: number of samples.
        event: shape of a sample.
        snr: first and last SNR.
        seed: of everything random.

    Raises:
        FloatingPointError: a denoiser that gives what is not finite.
    """
    check_snr_denoiser("teacher", teacher)
    check_integer("n", n, 1)
    sde, options = CanonicalSDE(teacher), TeacherOptions(steps=STEPS, cells=1)
    batch = max(1, _NUMBERS // (2 * STEPS * math.prod(event)))
    samples = []
    for first in range(0, n, batch):
        generator = generator_for("teacher samples", seed, first, device=device)
        rows = min(batch, n - first)
        paths = draw_paths(sde, options, rows, event=event, snr=snr, depth=2, grid=StepGrid(), generator=generator)
        samples.append(sde.noisy_data(paths.states[-1], paths.times[-1]).cpu())
    return torch.cat(samples)


def write_reference(file: Path, reference: GaussianReference) -> None:
    """Write mean, variance and basis to a safetensors file."""
    basis = {f"basis_{k}": matrix for k, matrix in enumerate(reference.basis)}
    write_tensors(file, {"mean": reference.mean, "variance": reference.variance, **basis})


def read_reference(file: Path, event: tuple[int, ...] | None = None) -> GaussianReference:
    """Read what `write_reference` wrote, for samples of a shape if one is given.

    Raises:
        FileNotFoundError, TypeError, ValueError: no such file, not safetensors, other tensors, another event.
    """
    tensors = read_tensors(file)
    basis = [f"basis_{k}" for k in range(len(tensors) - 2)]
    with reading(file, "is not one of a reference"):
        if tensors.keys() != {"mean", "variance", *basis}:
            raise ValueError(f"it must hold mean, variance, basis_0, ...; it holds {', '.join(sorted(tensors))}")
        reference = GaussianReference(tensors["mean"], tensors["variance"], [tensors[name] for name in basis])
        if event is not None:
            reference.check_event(torch.zeros(1, *event))
        return reference


def reference_on(reference: GaussianReference, device: torch.device | str) -> GaussianReference:
    """The same on a device; a scalar variance stays on the CPU."""
    variance = reference.variance if reference.variance.ndim == 0 else reference.variance.to(device)
    return reference.with_tensors(
        reference.mean.to(device), variance, [matrix.to(device) for matrix in reference.basis]
    )


def reference_digest(reference: GaussianReference) -> str:
    """A hash of mean, variance and basis."""
    values = (reference.mean, reference.variance, *reference.basis)
    return hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in values)).hexdigest()
