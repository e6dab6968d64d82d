"""`python -m experiments.digits.pipeline`: the shipped pipeline of diffusers; three minutes on one core."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sdesig.digits import PIPELINE, load_digits

BATCH = 128


def train_pipeline(iterations: int) -> Any:
    """A UNet that predicts the noise of the digits, (1, 8, 8), on the betas of Ho et al. 2020.

    Its weights, batches and noise are from torch's global generator.
    """
    diffusers: Any = import_module("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 24),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        add_attention=False,
    )
    images, scheduler = load_digits()[0].reshape(-1, 1, 8, 8), diffusers.DDPMScheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), weight_decay=0.0)
    rate = OneCycleLR(optimizer, 3e-3, iterations)
    average = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    for _ in range(iterations):
        clean = images[torch.randint(len(images), (BATCH,))]
        t, noise = torch.randint(len(scheduler), (BATCH,)), torch.randn_like(clean)
        loss = (unet(scheduler.add_noise(clean, noise, t), t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        average.update_parameters(unet)
    return diffusers.DDPMPipeline(average.module.eval(), scheduler)


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train_pipeline(3500).save_pretrained(PIPELINE)


if __name__ == "__main__":
    main()
