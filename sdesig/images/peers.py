"""Samplers of other packages as peers: diffusers' multistep schedulers, asked for a teacher's flow or SDE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_floating, check_instance, check_integer
from sdesig._evaluating import evaluating
from sdesig._files import tensor_digest
from sdesig.evaluation import Sampler, named_after
from sdesig.images.diffusers_unet import import_diffusers
from sdesig.sampling.canonical import SNRDenoiser, check_snr_denoiser
from sdesig.sampling.path_space import EVEN, PathSpace, StepGrid, check_snr_range


class Peer(NamedTuple):
    """A scheduler of diffusers: label, class, and the options in which it is not as diffusers has it."""

    label: str
    scheduler: str
    options: dict[str, Any]
    random: bool = False


_SA = {"predictor_order": 3, "corrector_order": 3}
PEERS = {
    "unipc": Peer("UniPC", "UniPCMultistepScheduler", {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    "dpmsolver++(2M)": Peer(
        "DPM-Solver++(2M)", "DPMSolverMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "sigma_min"}
    ),
    "dpmsolver++(3M)": Peer(
        "DPM-Solver++(3M)", "DPMSolverMultistepScheduler", {"solver_order": 3, "final_sigmas_type": "sigma_min"}
    ),
    "deis": Peer("DEIS", "DEISMultistepScheduler", {"solver_order": 3}),
    "sa-solver-ode": Peer("SA-Solver, tau = 0", "SASolverScheduler", _SA | {"tau_func": lambda t: 0.0}),
    "sa-solver": Peer("SA-Solver, tau = 1", "SASolverScheduler", _SA | {"tau_func": lambda t: 1.0}, random=True),
}
"""Schedulers by key. The orders are those that diffusers recommends for unconditional sampling.

UniPC: Zhao et al. 2023, arXiv 2302.04867. DPM-Solver++: Lu et al. 2022, arXiv 2211.01095. DEIS: Zhang and Chen 2023,
arXiv 2204.13902. SA-Solver: Xue et al. 2023, arXiv 2309.05019; tau = 0 is the flow, tau = 1 the SDE.
"""


def peers(teacher: SNRDenoiser, space: PathSpace, steps: Sequence[int], *, grid: StepGrid = EVEN) -> dict[str, Sampler]:
    """The schedulers of `PEERS` as samplers of a comparison, by key; see `peer_samples`.

    `sdesig.evaluation.named_after` gives those on another grid keys and labels of their own.
    """
    check_instance("grid", grid, StepGrid)
    return {
        key: Sampler(
            key,
            peer.label,
            tuple(steps),
            draw=partial(peer_samples, teacher, snr=space.snr, scheduler=key, grid=grid),
            grid=grid,
        )
        for key, peer in PEERS.items()
    }


def peers_on_both_grids(teacher: SNRDenoiser, space: PathSpace, steps: Sequence[int]) -> dict[str, Sampler]:
    """`peers` by key, on even steps and, as "<key>-karras", on `StepGrid.karras`: see `few_step_peers`."""
    karras = peers(teacher, space, steps, grid=StepGrid.karras(space.snr)).values()
    named = {sampler.key: sampler for sampler in (named_after("Karras", peer) for peer in karras)}
    return peers(teacher, space, steps) | named


@torch.no_grad()
def peer_samples(
    teacher: SNRDenoiser,
    y: Tensor,
    steps: int,
    *,
    snr: tuple[float, float],
    scheduler: str = "unipc",
    grid: StepGrid = EVEN,
) -> Tensor:
    """x = y/tau at the last SNR, (n, *event), by a scheduler of diffusers; like all samples here it is not denoised.

    The probability flow is solved, or by "sa-solver" the SDE. The teacher is asked once per step, at the start of the
    step: `steps` evaluations, none at the last SNR. The noise of "sa-solver" is not that of a path, so there is no
    pathwise error; each row draws its own from a seed that is a digest of its y. So samples are functions of y, and do
    not depend on the batch; the last bit of y changes the noise.

    Args:
        teacher: D(y, snr).
        y: canonical state at the first SNR, (n, *event); that of a path is
            `reference.from_reference(sde.start(path.initial_noise(), snr[0]), snr[0])`.
        steps: number of steps, >= 1.
        snr: first and last SNR, 0 < first < last.
        scheduler: one of `PEERS`. DPM-Solver++ works in float32, whatever the dtype of y.
        grid: where the steps lie in log-SNR; even by default, as those of the training-free samplers of a `Comparison`.

    Raises:
        ImportError: diffusers is missing.
        TypeError, ValueError: arguments out of range.
    """
    check_snr_denoiser("teacher", teacher)
    check_floating("y", y)
    check_integer("steps", steps, 1)
    check_choice("scheduler", scheduler, tuple(PEERS))
    check_instance("grid", grid, StepGrid)
    low, high = check_snr_range(snr)
    peer = PEERS[scheduler]
    positions = torch.from_numpy(grid.positions(steps))
    times = torch.lerp(torch.tensor(math.log(low)).double(), torch.tensor(math.log(high)).double(), positions).exp()
    solver = getattr(import_diffusers(), peer.scheduler)(prediction_type="sample", **peer.options)
    solver.set_timesteps(steps)
    solver.set_begin_index(0)
    solver.sigmas = times.rsqrt()  # sigma/alpha; a scheduler's own choices lie on its table of betas
    noise = {"generator": [_generator(row) for row in y]} if peer.random else {}
    alpha = (times / (1 + times)).sqrt().tolist()
    x = y * (alpha[0] / times[0].item())
    for k, step in enumerate(solver.timesteps):
        with evaluating(teacher):
            denoised = teacher(x * (times[k].item() / alpha[k]), times[k])
        x = solver.step(denoised.to(x), step, x, return_dict=False, **noise)[0]
    return x / alpha[-1]


def _generator(row: Tensor) -> torch.Generator:
    """Of a seed that is a digest of the row's values."""
    return torch.Generator().manual_seed(int(tensor_digest([row])[:16], 16))
