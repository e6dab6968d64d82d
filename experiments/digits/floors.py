"""Information floors of the teacher, where the Legendre expansion runs in the clock of a reference or in log-SNR."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sdesig.digits import load_teacher, path_space
from sdesig.sampling import Floor, StepGrid, TeacherOptions, information_floor
from sdesig.signature import gauss_legendre, orthonormal_legendre

NODES = 12
DEPTHS = (1, 2, 4)
LOG_SNR = "log-SNR"


def log_snr_functionals(times: Tensor, fine_depth: int, *, depth: int) -> Tensor:
    """int phi_k(log tau) tau^{-1/2} dB, k < depth, as combinations of the fine steps' coefficients in the SNR clock.

    phi_k are the orthonormal Legendre polynomials of the coarse step in log-SNR, and int tau^{-1/2} dB is a Brownian
    motion in log-SNR. What the fine coefficients miss is left out, and the rows made orthonormal again, which does not
    change what they know.

    Args:
        times: SNRs of the n fine steps in every coarse step, (n + 1, steps), float64.
        fine_depth: number of coefficients of a fine step.
        depth: number of functionals.

    Returns:
        (n, steps, depth, fine_depth), orthonormal for every step.
    """
    points, weights = gauss_legendre(NODES)
    h = times.diff(dim=0)[..., None]
    tau = times[:-1, :, None] + h * points
    low, high = times[0, :, None].log(), times[-1, :, None].log()
    outer = orthonormal_legendre((tau.log() - low) / (high - low), depth) / ((high - low) * tau).sqrt()
    inner = orthonormal_legendre(points, fine_depth) * weights
    rows = torch.einsum("insq,jq,nsq->sinj", outer, inner, h.sqrt().expand_as(tau))
    orthonormal = torch.linalg.qr(rows.flatten(2).mT)[0].mT
    return orthonormal.unflatten(2, (len(times) - 1, fine_depth)).permute(2, 0, 1, 3)


def floors_of(clock: str, grid: StepGrid, steps: Sequence[int], depths: Sequence[int], groups: int) -> list[Floor]:
    """Floors of the teacher where the Legendre expansion runs in the clock of a reference, or in log-SNR."""
    space = replace(path_space("none" if clock == LOG_SNR else clock), grid=grid)
    return [
        information_floor(
            load_teacher(),
            space,
            steps=n,
            depth=depth,
            groups=groups,
            teacher_options=TeacherOptions(steps=128),
            functionals=functools.partial(log_snr_functionals, depth=depth) if clock == LOG_SNR else None,
        )
        for depth in depths
        for n in steps
    ]
