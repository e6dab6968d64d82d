"""Deterministic samplers of other packages as peers: diffusers' multistep schedulers, asked for a teacher's flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_floating, check_integer, check_real
from sdesig._evaluating import evaluating
from sdesig.evaluation import Sampler
from sdesig.images.diffusers_unet import import_diffusers
from sdesig.sampling.canonical import SNRDenoiser, check_snr_denoiser
from sdesig.sampling.path_space import PathSpace

PEERS = {
    "unipc": ("UniPC", "UniPCMultistepScheduler", 3),
    "dpmsolver++(2M)": ("DPM-Solver++(2M)", "DPMSolverMultistepScheduler", 2),
    "dpmsolver++(3M)": ("DPM-Solver++(3M)", "DPMSolverMultistepScheduler", 3),
}
"""Labels, schedulers and their orders by key; all else is as diffusers has it. The orders are those that diffusers
recommends for unconditional sampling.

UniPC: Zhao et al. 2023, arXiv 2302.04867. DPM-Solver++: Lu et al. 2022, arXiv 2211.01095.
"""


def peers(teacher: SNRDenoiser, space: PathSpace, steps: Sequence[int]) -> dict[str, Sampler]:
    """The schedulers of `PEERS` as samplers of a comparison, by key; see `peer_samples`."""
    return {
        key: Sampler(key, label, tuple(steps), draw=partial(peer_samples, teacher, snr=space.snr, scheduler=key))
        for key, (label, *_) in PEERS.items()
    }


@torch.no_grad()
def peer_samples(
    teacher: SNRDenoiser, y: Tensor, steps: int, *, snr: tuple[float, float], scheduler: str = "unipc"
) -> Tensor:
    """x = y/tau at the last SNR, (n, *event), by a scheduler of diffusers; like all samples here it is not denoised.

    The probability flow is solved on SNRs that are even in log-SNR, as the training-free samplers of a `Comparison`
    are. The teacher is asked once per step, at the start of the step: `steps` evaluations, none at the last SNR. There
    is no noise, and so no pathwise error.

    Args:
        teacher: D(y, snr).
        y: canonical state at the first SNR, (n, *event); that of a path is
            `reference.from_reference(sde.start(path.initial_noise(), snr[0]), snr[0])`.
        steps: number of steps, >= 1.
        snr: first and last SNR, 0 < first < last.
        scheduler: one of `PEERS`. DPM-Solver++ works in float32, whatever the dtype of y.

    Raises:
        ImportError: diffusers is missing.
        TypeError, ValueError: arguments out of range.
    """
    check_snr_denoiser("teacher", teacher)
    check_floating("y", y)
    check_integer("steps", steps, 1)
    check_choice("scheduler", scheduler, tuple(PEERS))
    low, high = (check_real(f"snr[{k}]", value, minimum=0.0, strict=True) for k, value in enumerate(snr))
    if low >= high:
        raise ValueError(f"snr must be (first, last) with first < last; got {snr}")
    _, name, order = PEERS[scheduler]
    times = torch.linspace(math.log(low), math.log(high), steps + 1, dtype=torch.float64).exp()
    solver = getattr(import_diffusers(), name)(
        prediction_type="sample", final_sigmas_type="sigma_min", solver_order=order
    )
    solver.set_timesteps(steps)
    solver.set_begin_index(0)
    solver.sigmas = times.rsqrt()  # sigma/alpha; a scheduler's own choices lie on its table of betas
    alpha = (times / (1 + times)).sqrt().tolist()
    x = y * (alpha[0] / times[0].item())
    for k, step in enumerate(solver.timesteps):
        with evaluating(teacher):
            denoised = teacher(x * (times[k].item() / alpha[k]), times[k])
        x = solver.step(denoised.to(x), step, x, return_dict=False)[0]
    return x / alpha[-1]
