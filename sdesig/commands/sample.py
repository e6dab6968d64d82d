"""`sdesig sample`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor

from sdesig import _processes as processes
from sdesig._checks import check_integer
from sdesig._files import check_output, replacing, write_json
from sdesig._philox import check_seeds
from sdesig.commands.inputs import check_same_paths, load_model
from sdesig.commands.options import COUNT, MOST_SAMPLES, MachineFlags, announce, naming_memory
from sdesig.evaluation.pixels import to_uint8
from sdesig.sigdeg import Samples, SigDEG

SHOWN = 256
"""Most samples in a picture."""
_LEAST = 32
"""Pixels that an image's side has at least: smaller ones are magnified."""


@dataclass(frozen=True)
class Sample:
    """Draw samples from a generator, each a function of its seed, to .npz and, of images, .png; options to .json."""

    model: tyro.conf.Positional[str]
    """Folder with a generator, such as runs/distill/student, or a shipped one: digits/depth-1, digits/depth-2 or
    digits/plain."""
    n: Annotated[int | None, COUNT] = None
    """Number of samples, of the seeds 0, ..., n - 1; default 64. Under torchrun only --count is known."""
    seeds: tuple[str, ...] = ()
    """Seeds instead: numbers, or ranges such as 0:64."""
    replay: Path | None = None
    """File of earlier samples: the same seeds on the same paths again, perhaps in more steps."""
    steps: int = 8
    """Number of coarse steps, each one evaluation: at most the 1280 cells of the paths that distill makes."""
    batch: int | None = None
    """Number of samples at once; default 1024, of images 64."""
    out: Path = Path("samples.npz")
    """File to write: values (images in [-1, 1], latents or vectors), steps and the paths' identity; the picture has its
    name with .png, the options with .json."""
    force: tyro.conf.FlagCreatePairsOff[bool] = False
    """Whether to overwrite files that are there."""
    decoder: str | None = None
    """Latent model, by its folder or hub id, whose autoencoder encodes images and decodes samples."""
    machine: MachineFlags = field(default_factory=MachineFlags)

    def run(self) -> None:
        """Run the command."""
        if self.out.suffix != ".npz":
            raise ValueError(f"out must be a .npz file; got {self.out}")
        picture, record = self.out.with_suffix(".png"), self.out.with_suffix(".json")
        for file in (self.out, picture, record):
            if file.exists() and not self.force:
                raise FileExistsError(f"{file} exists already; give another --out, or --force to overwrite it")
            check_output("out", file)
        check_integer("steps", self.steps, 1)
        if self.batch is not None:
            check_integer("batch", self.batch, 1)
        model = load_model(self.model, self.machine.use())
        seeds = self._chosen(model)
        model.space.ends(self.steps)  # checks the steps
        batch = self.batch or (1024 if len(model.space.event) == 1 else 64)
        decode = self._decoder(model)
        options = {
            "model": self.model,
            "seeds": list(seeds),
            "steps": self.steps,
            "batch": batch,
            "decoder": self.decoder,
            **self.machine.described(self.machine.device),
        }
        announce("sample", {**options, "out": self.out})
        with naming_memory(batch=batch):
            samples = self._drawn(model, seeds, batch)
            if processes.rank() > 0:
                return
            write_json(record, options)  # not before: one that was stopped would be in the way of the next
            samples.save(self.out)
            print(f"{len(samples.values)} samples in {samples.steps} steps -> {self.out}")
            images = as_images(decode(samples.values[:SHOWN]))
        if images is None:
            print(f"no picture: samples of shape {model.space.event} are not images")
        else:
            write_images(picture, images)
            print(f"-> {picture}")

    def _drawn(self, model: SigDEG, seeds: Sequence[int], batch: int) -> Samples:
        """The samples of all seeds, whose batches processes share."""
        batches = [seeds[first : first + batch] for first in range(0, len(seeds), batch)]
        own = {}
        for k in processes.share(len(batches)):
            drawn = model.sample(batches[k], self.steps, batch=batch)
            own[k] = replace(drawn, values=drawn.values.cpu())
        return Samples.join(processes.all_gather(own, len(batches)))

    def _decoder(self, model: SigDEG) -> Callable[[Tensor], Tensor]:
        """What makes of samples what a picture shows."""
        if self.decoder is None:
            return lambda values: values
        from sdesig.images.latent import load_autoencoder

        decoder = load_autoencoder(self.decoder, device=model.space.device)
        wanted, found = model.space.event[0], decoder.latent_channels
        if wanted != found:
            raise ValueError(f"decoder must be of latents of {wanted} channels; {self.decoder} has {found}")
        return torch.no_grad()(lambda values: decoder.decode(values.to(decoder.mean.device)))

    def _chosen(self, model: SigDEG) -> Sequence[int]:
        """The seeds."""
        if sum((self.n is not None, bool(self.seeds), self.replay is not None)) > 1:
            raise ValueError("only one of --n, --seeds and --replay may be given")
        if self.replay is not None:
            earlier = Samples.load(self.replay)
            check_same_paths(str(self.replay), earlier.identity, self.model, model.space.paths(1).identity)
            return earlier.seeds
        if self.seeds:
            parts = [parse_seeds(text) for text in self.seeds]
            check_integer("number of seeds", sum(part.stop - part.start for part in parts), 1, MOST_SAMPLES)
            return check_seeds(parts[0] if len(parts) == 1 else [seed for part in parts for seed in part]).tolist()
        return range(64 if self.n is None else check_integer("n", self.n, 1, MOST_SAMPLES))


def parse_seeds(text: str) -> range:
    """range(a, a + 1) of "a", or range(a, b) of "a:b".

    Raises:
        ValueError: anything else, an empty range.
    """
    first, colon, stop = text.partition(":")
    try:
        seeds = range(int(first), int(stop) if colon else int(first) + 1)
    except ValueError:
        seeds = range(0)
    if seeds.start >= seeds.stop:
        raise ValueError(f"seeds must be numbers, or ranges a:b with a < b; got {text!r}")
    return seeds


def as_images(samples: Tensor) -> Tensor | None:
    """(n, 1 or 3, size, size) of images, or of vectors of a square number of grey values; None if they are neither."""
    size = math.isqrt(samples.shape[-1])
    if samples.ndim == 2 and size > 1 and size**2 == samples.shape[1]:
        return samples.reshape(-1, 1, size, size)
    if samples.ndim == 4 and samples.shape[1] in (1, 3) and samples.shape[2] == samples.shape[3]:
        return samples
    return None


def write_images(file: Path, images: Tensor) -> None:
    """Write the first 256 of (n, 1 or 3, size, size) images, their values clipped to [-1, 1], as a square in a PNG."""
    import matplotlib.image

    shown = to_uint8(images[:SHOWN].detach()).cpu().numpy().transpose(0, 2, 3, 1)
    pixels = shown.repeat(3 // shown.shape[3], 3)
    zoom = math.ceil(_LEAST / pixels.shape[1])
    pixels = pixels.repeat(zoom, 1).repeat(zoom, 2)
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    padded = np.full((rows * columns, pixels.shape[1] + 2, pixels.shape[2] + 2, 3), 255, dtype=np.uint8)
    padded[: len(pixels), 1:-1, 1:-1] = pixels
    grid = padded.reshape(rows, columns, *padded.shape[1:]).swapaxes(1, 2)
    with replacing(file) as temporary:
        matplotlib.image.imsave(temporary, grid.reshape(rows * padded.shape[1], -1, 3), format="png")
