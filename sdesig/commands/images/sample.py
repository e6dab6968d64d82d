"""`sdesig images sample`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdesig._files import write_json
from sdesig.commands.options import announce, naming_memory
from sdesig.commands.sample import Sample
from sdesig.sigdeg import SigDEG


@dataclass(frozen=True)
class SampleImages(Sample):
    """Draw images from a generator; an image is a function of its seed. Writes a .npz file, a PNG and the options."""

    batch: int = 64
    """Images at once."""
    out: Path = Path("images.npz")
    """File to write: values (images in [-1, 1], or latents), steps and the paths' identity; the picture has its name
    with .png, the options with .json."""
    decoder: str | None = None
    """Latent model, a folder or hub id, whose autoencoder decodes the samples for the picture."""
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def run(self) -> None:
        """Run the command."""
        with naming_memory(batch=self.batch):
            super().run()

    def _files(self) -> tuple[Path, ...]:
        return *super()._files(), self.out.with_suffix(".json")

    def _begin(self, model: SigDEG, seeds: int | Sequence[int]) -> Callable[[Tensor], Tensor]:
        pictures = super()._begin(model, seeds)
        if self.decoder is not None:
            from sdesig.images.latent import load_autoencoder

            decoder = load_autoencoder(self.decoder, device=model.space.device)
            wanted, found = model.space.event[0], decoder.latent_channels
            if wanted != found:
                raise ValueError(f"decoder must be of latents of {wanted} channels; {self.decoder} has {found}")

            def pictures(values: Tensor) -> Tensor:
                with torch.no_grad():
                    return decoder.decode(values.to(decoder.mean.device))

        options = {
            "model": str(self.model),
            "seeds": list(range(seeds)) if isinstance(seeds, int) else list(seeds),
            "steps": self.steps,
            "batch": self.batch,
            "decoder": self.decoder,
            "device": self.machine.device,
            "threads": self.machine.threads,
        }
        announce("images sample", {**options, "out": self.out})
        write_json(self.out.with_suffix(".json"), options)
        return pictures
