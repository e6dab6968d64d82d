"""A small problem for the commands, in files: 8 x 8 pictures, and an untrained teacher of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from sdesig.sigdeg import NetworkDenoiser, UNet

SNR = ["--snr", "0.01", "100"]
SHORT = ["--teacher-steps", "16", "--teacher-cells", "8", "--steps", "2", "4", "--grid", "even", *SNR]
"""Teacher paths that take no time."""


class Pictures(NamedTuple):
    """Paths of the files."""

    data: Path
    teacher: Path

    @property
    def flags(self):
        return ["--teacher", str(self.teacher), "--data", str(self.data)]


def make_pictures(folder, n=24, channels=1, size=8):
    """PNG files of waves that differ in direction and phase."""
    generator = np.random.default_rng(0)
    x = np.arange(size)
    (folder / "data").mkdir(parents=True)
    for k in range(n):
        a, b, phase = generator.uniform(-1, 1, 3)
        wave = 127.5 * (1 + np.sin(a * x[:, None] + b * x + 3 * phase))
        pixels = np.stack([wave * (0.5 + 0.5 * c / channels) for c in range(1, channels + 1)], -1).astype(np.uint8)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / "data" / f"{k:03d}.png")
    torch.manual_seed(0)
    NetworkDenoiser(UNet(channels, size, widths=(8,)), 0.6).save(folder / "teacher")
    return Pictures(folder / "data", folder / "teacher")


def make_diffusers_model(folder, *, channels=1, **changes):
    """A tiny UNet with random weights and a DDPM scheduler, in the layout of a pipeline."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": (8,),
            "down_block_types": ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            **changes,
        }
    )
    unet.save_pretrained(folder / "unet")
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


def make_latent_model(folder):
    """A tiny latent model: images (3, 16, 16), latents (4, 8, 8)."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    block = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    autoencoder = diffusers.AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, **block, **kinds)
    autoencoder.save_pretrained(folder / "vae")
    return make_diffusers_model(folder, channels=4)
