"""Gaussian references of a teacher: from its own samples where there are no data, in files, and on a device."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from sdesig._files import read_tensors, reading, write_tensors
from sdesig.sampling.gaussian_reference import GaussianReference


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
