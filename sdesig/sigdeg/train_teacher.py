"""Training a small teacher from data: denoising with EDM's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig import _processes as processes
from sdesig._checks import check_integer, check_real, unread
from sdesig.sigdeg.network_denoiser import NetworkDenoiser
from sdesig.sigdeg.networks import NETWORKS, Network
from sdesig.sigdeg.training import MOST, TrainingOptions, train
from sdesig.sigdeg.training_data import Data, check_data, draw_rows, on_device, standard_deviation

LARGEST = 40.0
"""Largest |log sigma|: the square of sigma stays finite in float32."""


def train_teacher(
    network: Network,
    data: Data,
    out: str | Path,
    options: TrainingOptions,
    *,
    batch: int = 512,
    log_sigma: tuple[float, float] = (-0.8, 1.4),
    flip: bool = False,
    recorded: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> NetworkDenoiser:
    """Fit D(x_0 + sigma eps, sigma) to x_0, with log sigma ~ N(mean, std^2) and EDM's weights, and save it to `out`.

    The weights (sigma^2 + sigma_data^2)/(sigma sigma_data)^2 give every noise level a loss of order 1 at the start
    (Karras et al. 2022, arXiv 2206.00364, section 5 and table 1).

    Args:
        network: a network without extra inputs.
        data: (n, *event), in the dtype of the network; or images, see `sdesig.sigdeg.training_data`. A tensor is copied
            to the device of the network.
        out: folder of the run; a run that was stopped goes on.
        options: see `TrainingOptions`.
        batch: samples per iteration.
        log_sigma: mean and standard deviation of log sigma.
        flip: whether samples are reversed along their last axis with probability 1/2.
        recorded: further entries of options.json.
        progress: whether to show a progress bar.

    Returns:
        The moving average, also saved as out/teacher.

    Raises:
        ValueError: data that do not fit the network; see `train`.
    """
    check_data(data, network.event)
    check_integer("batch", batch, 1, MOST)
    mean, std = check_real("log_sigma[0]", log_sigma[0]), check_real("log_sigma[1]", log_sigma[1], minimum=0.0)
    if not abs(mean) + 8 * std <= LARGEST:
        raise ValueError(f"log_sigma must be (mean, std) with |mean| + 8 std <= {LARGEST:g}; got {log_sigma}")
    denoiser = NetworkDenoiser(network, standard_deviation(data)).train()
    data = on_device(data, next(network.parameters()).device)

    def loss(iteration: int, generator: torch.Generator) -> tuple[Tensor, int]:
        clean = draw_rows(data, batch, generator)
        options: dict[str, Any] = {"generator": generator, "device": clean.device, "dtype": clean.dtype}
        sigma = (mean + std * torch.randn(batch, **options)).exp()
        noise = torch.randn(clean.shape, **options)
        if flip:
            turned = torch.rand(batch, **options) < 0.5
            clean = torch.where(turned.reshape(-1, *[1] * len(network.event)), clean.flip(-1), clean)
        scale = sigma.reshape(-1, *[1] * len(network.event))
        with unread():
            residual = denoiser.denoiser(clean + scale * noise, sigma) - clean
        weight = (scale**2 + denoiser.sigma_data**2) / (scale * denoiser.sigma_data) ** 2
        return (weight * residual.square()).mean(), batch

    own = {"network": NETWORKS.config(network), "batch": batch, "log_sigma": list(log_sigma), "samples": len(data)}
    own |= {"flip": True} if flip else {}
    trained = train(denoiser, loss, out, options, recorded={**(recorded or {}), **own}, progress=progress)
    processes.on_main(lambda: trained.save(Path(out) / "teacher"))
    return trained.eval()
