"""Groups of flags that the commands for images share, and what they make of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sdesig._caching import Record, cached
from sdesig._checks import check_integer
from sdesig._files import file_digest
from sdesig._random import generator_for
from sdesig.commands.inputs import GRID_CELLS, Identity, Teacher, check_snr, identity_of_files, load_teacher, named_grid
from sdesig.evaluation.pixels import ImageSet
from sdesig.sampling import GaussianReference, PathSpace, StepGrid, choose_grid
from sdesig.sampling.choose_grid import LEAST_FOR_IMAGES
from sdesig.sampling.teacher_paths import teacher_samples
from sdesig.sigdeg.network_denoiser import ModelDenoiser
from sdesig.sigdeg.training_data import Data, check_data, take_rows

if TYPE_CHECKING:
    from sdesig.images.latent import Autoencoder

SNR = (1 / 80**2, 1 / 0.01**2)
"""Of images in [-1, 1]: noise of standard deviation 80, as usual, to .01, which is about a grey level."""
FITTED = 10_000
"""Most images that a reference is fitted to."""
GRID_PATHS = 256
GRID_NUMBERS = 2**19


@dataclass(frozen=True)
class ImageFlags:
    """Which images."""

    data: str | None = None
    """Folder or .tar of images, .npz file or FILE.npz:ARRAY, or hf:NAME[:SPLIT] of the Hugging Face hub."""
    size: int | None = None
    """Side to which the centred square of every image is resized."""
    crop: int | None = None
    """Side of that square in the original; default the largest."""
    channels: int | None = None
    """1 for grey or 3 for RGB; default as they are."""
    max_corrupt: int = 10
    """So many images that cannot be read are skipped and named."""
    cache: Path | None = None
    """Folder in which decoded images and reference statistics are kept for the next time."""

    def load(self) -> ImageSet | None:
        """The images; None if there is no --data."""
        if self.data is None:
            return None
        from sdesig.images.image_data import load_images

        return load_images(
            self.data,
            size=self.size,
            crop=self.crop,
            channels=self.channels,
            max_corrupt=self.max_corrupt,
            cache=self.cache,
        )

    def required(self) -> ImageSet:
        """The images.

        Raises:
            ValueError: no --data; see `load_images`.
        """
        images = self.load()
        if images is None:
            raise ValueError("data must be given: a folder or .tar of images, a .npz file, or hf:NAME[:SPLIT]")
        return images


@dataclass(frozen=True)
class TeacherFlags:
    """Which teacher."""

    teacher: str
    """Folder with a denoiser, such as runs/image-teacher/teacher, or a diffusers model: a folder or a hub id,
    owner/name."""
    label: int | None = None
    """Of a class-conditional model."""
    decoder: str | None = None
    """Latent model, a folder or hub id, whose autoencoder makes latents of images and images of samples."""

    def load(self, device: torch.device) -> Teacher:
        """The denoiser and what it is."""
        return load_teacher(self.teacher, device, self.label)

    def autoencoder(self, device: torch.device) -> Autoencoder | None:
        """That of --decoder."""
        if self.decoder is None:
            return None
        from sdesig.images.latent import load_autoencoder

        return load_autoencoder(self.decoder, device=device)

    def decoder_identity(self) -> Identity | None:
        """Which autoencoder it is."""
        if self.decoder is None:
            return None
        from sdesig.images.latent import FOLDERS
        from sdesig.images.teachers import find_model

        patterns = [f"{name}/*.{kind}" for name in FOLDERS for kind in ("safetensors", "json")]
        return identity_of_files(self.decoder, find_model(self.decoder), patterns)

    def training_data(self, images: ImageSet | None, teacher: ModelDenoiser, device: torch.device) -> Data | None:
        """Images in the memory of the device, as uint8, or the latents that the autoencoder draws of them.

        Raises:
            ValueError: images or latents of another shape than the teacher's.
        """
        autoencoder = self.autoencoder(device)
        if images is None:
            return None
        if autoencoder is None:
            images.check_event(teacher.event, f"the teacher {self.teacher}")
            return images.to(device)
        generator = generator_for("latents", device=device)
        parts = torch.arange(len(images)).split(64)
        latents = torch.cat([autoencoder.encode(images.floats(rows, device=device), generator) for rows in parts])
        check_data(latents, teacher.event)
        return latents


@dataclass(frozen=True)
class SettingFlags:
    """In which variables, over which range, and on which grid."""

    reference: Literal["dct", "scalar", "none"] = "dct"
    """Gaussian reference of the images: their power spectrum, one variance, or none."""
    reference_file: Path | None = None
    """Reference of an earlier run instead, reference-*.safetensors in its folder."""
    reference_samples: int = 1024
    """Samples of the teacher to which the reference is fitted where there are no --data."""
    snr: tuple[float, float] | None = None
    """First and last signal-to-noise ratio; default 1/6400 and 10000, cut to the teacher's own range."""
    grid: str = "chosen"
    """Where the steps lie. chosen: by the error of the path-average scheme, measured first. even: in log-SNR. Or the
    grid-*.json in the folder of an earlier run."""

    def range(self, teacher: ModelDenoiser) -> tuple[float, float]:
        """First and last SNR.

        Raises:
            ValueError: first >= last, or beyond the range of the teacher.
        """
        first, last = getattr(teacher, "snr", (0.0, math.inf))
        low, high = self.snr or (max(SNR[0], first), min(SNR[1], last))
        check_snr(low, high)
        if low < first or high > last:
            raise ValueError(f"snr must lie in the teacher's range, {first:g} to {last:g}; got {(low, high)}")
        return low, high

    def fitted(
        self,
        teacher: Teacher,
        images: ImageSet | None,
        data: Data | None,
        snr: tuple[float, float],
        folder: Path,
        decoder: Identity | None = None,
    ) -> tuple[GaussianReference, dict[str, Any]]:
        """The reference, on the CPU, and what it is, for options.json; kept in the folder for the next time.

        `decoder` is of latents, which the data are then.
        """
        event = teacher.denoiser.event
        if self.reference_file is not None:
            described: dict[str, Any] = {"file": str(self.reference_file), "sha256": file_digest(self.reference_file)}
            return GaussianReference.load(self.reference_file, event), described
        if data is None:
            n, of = check_integer("reference_samples", self.reference_samples, 2), "the teacher"
        else:
            n, of = min(FITTED, len(data)), "data"
        described = {"kind": self.reference, "n": n, "of": of}

        def make() -> GaussianReference:
            device = next(teacher.denoiser.parameters()).device
            if data is None:
                known = PathSpace(event, snr, GaussianReference(torch.zeros((), device=device), 0.0))
                samples = teacher_samples(teacher.denoiser, known, n)
            else:
                samples = _some(data)
            return GaussianReference.fit(samples, self.reference)

        def write(stem: Path, reference: GaussianReference) -> Record:
            reference.save(stem.with_suffix(".safetensors"))
            return {"sha256": file_digest(stem.with_suffix(".safetensors"))}

        def read(stem: Path, record: Record) -> GaussianReference:
            if file_digest(stem.with_suffix(".safetensors")) != record["sha256"]:
                raise ValueError("it does not have the sha256 that it was written with")
            return GaussianReference.load(stem.with_suffix(".safetensors"), event)

        key = {**described, "teacher": teacher.identity, "data": described_images(images), "snr": snr}
        key |= {} if decoder is None else {"decoder": decoder}
        return cached(folder, "reference", key, make=make, write=write, read=read), described

    def step_grid(self, teacher: Teacher, space: PathSpace, folder: Path) -> StepGrid:
        """The grid of --grid; one that is chosen is kept in the folder for the next time."""
        paths = max(16, min(GRID_PATHS, GRID_NUMBERS // math.prod(space.event)))

        def make() -> StepGrid:
            return choose_grid(
                teacher.denoiser,
                space,
                paths=paths,
                least=LEAST_FOR_IMAGES,
                kept=folder / GRID_CELLS,
                recorded={"teacher": teacher.identity},
            )

        def choose() -> StepGrid:
            key = {
                "teacher": teacher.identity,
                "reference": space.reference.digest,
                "snr": space.snr,
                "paths": paths,
                "least": LEAST_FOR_IMAGES,
            }
            return cached(
                folder,
                "grid",
                key,
                make=make,
                write=lambda stem, grid: {"quantiles": list(grid.quantiles)},
                read=lambda stem, record: StepGrid(tuple(record["quantiles"])),
            )

        return named_grid(self.grid, choose)


def described_images(images: ImageSet | None) -> dict[str, Any] | None:
    """For options.json."""
    if images is None:
        return None
    return {"source": images.source, "sha256": images.digest, "n": len(images), "shape": list(images.event)}


def _some(data: Data) -> Tensor:
    """At most 10000 samples, float32 on the CPU."""
    rows = torch.randperm(len(data), generator=generator_for("samples of a reference"))[:FITTED].sort().values
    return take_rows(data, rows, "cpu")
