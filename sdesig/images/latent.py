"""The autoencoder of a latent diffusion model; `load_teacher` on the same folder gives its denoiser of latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdesig._checks import check_floating, check_generator, check_integer
from sdesig._evaluating import evaluating
from sdesig._files import reading
from sdesig.images.teachers import find_model, load_model

FOLDERS = ("vae", "vqvae")
KINDS = ("AutoencoderKL", "VQModel")


class Autoencoder(nn.Module):
    """Images in [-1, 1] to the latents that a latent diffusion model is trained on, and back:

        latent = scaling_factor (z - mean)/std,

    with z the encoder's, mean = latents_mean or shift_factor or 0, and std = latents_std or 1, as diffusers' pipelines
    have it.

    Args:
        model: an `AutoencoderKL` or `VQModel` of diffusers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.channels, self.latent_channels = config.in_channels, config.get("vq_embed_dim") or config.latent_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        """Factor by which a latent is smaller than its image, in each direction."""
        self._scale = config.scaling_factor
        for name, given in (
            ("mean", config.get("latents_mean") or config.get("shift_factor") or 0.0),
            ("std", config.get("latents_std") or 1.0),
        ):
            self.register_buffer(name, torch.tensor(given).reshape(-1, 1, 1), persistent=False)

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"Autoencoder({kind}, {self.channels} to {self.latent_channels} channels, sides by {self.factor})"

    @torch.no_grad()
    def encode(self, images: Tensor, generator: torch.Generator | None = None, *, batch: int = 64) -> Tensor:
        """Latents, (n, latent_channels, height/factor, width/factor), of images, (n, channels, height, width).

        An `AutoencoderKL` gives the mean of its Gaussian, or with a generator, on the device of the images, a draw from
        it: the law that latent models are trained on.

        Raises:
            TypeError, ValueError: images of another shape, a batch below 1.
        """
        self._check("images", images, self.channels, self.factor)
        if generator is not None:
            check_generator(generator)
        return self._in_batches(lambda part: self._encoded(part, generator), images, batch)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, batch: int = 64) -> Tensor:
        """Images of latents, such as a student's samples: inverse of `encode`, up to what the model loses; not clipped.

        Raises:
            TypeError, ValueError: latents of another shape, a batch below 1.
        """
        self._check("latents", latents, self.latent_channels, 1)
        return self._in_batches(
            lambda part: self.model.decode(part / self._scale * self.std + self.mean, return_dict=False)[0],
            latents,
            batch,
        )

    def _encoded(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        encoded = self.model.encode(images, return_dict=False)[0]
        if isinstance(encoded, Tensor):
            z = encoded
        else:
            z = encoded.mean
            if generator is not None:
                z = z + encoded.std * torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        return self._scale * (z - self.mean) / self.std

    def _check(self, name: str, value: Tensor, channels: int, factor: int) -> None:
        shape = tuple(check_floating(name, value).shape)
        if len(shape) != 4 or shape[1] != channels or shape[2] % factor or shape[3] % factor:
            raise ValueError(
                f"{name} must have shape (n, {channels}, height, width), height and width multiples of {factor}; got "
                f"{shape}"
            )

    def _in_batches(self, compute: Any, values: Tensor, batch: int) -> Tensor:
        with evaluating(self.model):
            return torch.cat([compute(part) for part in values.split(check_integer("batch", batch, 1))])


def load_autoencoder(source: str | Path, *, device: torch.device | str = "cpu") -> Autoencoder:
    """The autoencoder in vae/ or vqvae/ of a latent diffusion model, in float32 and evaluation mode.

    Args:
        source: as for `load_teacher`.
        device: device of the weights.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: see `load_teacher`.
    """
    folder = find_model(source)
    inside = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    if not inside:
        raise FileNotFoundError(f"{folder} has neither of the folders {', '.join(FOLDERS)}: it is no latent model")
    model = load_model(inside[0], KINDS)
    with reading(inside[0] / "config.json"):
        autoencoder = Autoencoder(model)
    return autoencoder.to(device).eval()
