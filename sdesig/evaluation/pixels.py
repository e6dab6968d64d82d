"""Images of 256 levels, and the one place where samples become such."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdesig._checks import check_floating, check_integer
from sdesig._random import generator_for


def to_uint8(samples: Tensor) -> Tensor:
    """Samples in [-1, 1], of any shape, clamped and rounded to 256 levels.

    Raises:
        TypeError, ValueError: not floating point, values that are not finite.
    """
    if not bool(check_floating("samples", samples).isfinite().all()):
        raise ValueError("samples must be finite to be images; some are not")
    return ((samples.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_floats(pixels: Tensor) -> Tensor:
    """uint8 as float32 in [-1, 1]; `to_uint8` gives the same levels back."""
    return pixels.float() / 127.5 - 1


def check_pixels(name: str, pixels: object) -> Tensor:
    """Return `pixels`; raise TypeError or ValueError unless they are uint8, (n >= 1, 1 or 3, height, width)."""
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
        kind = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(f"{name} must be a uint8 tensor (see to_uint8); got {kind}")
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not pixels.numel():
        raise ValueError(f"{name} must have shape (n >= 1, 1 or 3, height, width); got {tuple(pixels.shape)}")
    return pixels


def pixel_digest(pixels: Tensor) -> str:
    """sha256 of the shape and the values."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    for rows in pixels.split(4096):
        digest.update(rows.cpu().contiguous().numpy())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images of one shape, in the order of their names.

    Attributes:
        pixels: uint8, (n, channels, height, width); they may be mapped from a file.
        digest: `pixel_digest` of them.
        source: where they are from.
        skipped: names of images that could not be read, each with the reason.
    """

    pixels: Tensor
    digest: str
    source: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def event(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return tuple(self.pixels.shape[1:])

    def floats(self, rows: Tensor | slice = slice(None), *, device: torch.device | str | None = None) -> Tensor:
        """Some images, by default all, as float32 in [-1, 1], on `device` or where they are."""
        if isinstance(rows, Tensor):
            rows = rows.to(self.pixels.device)
        return to_floats(self.pixels[rows].to(device or self.pixels.device))

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images in the memory of a device."""
        return replace(self, pixels=self.pixels.to(device))

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} images of shape {self.event}, from {self.source})"

    def subset(self, n: int, seed: int = 0) -> ImageSet:
        """n random ones, in their order; raise ValueError unless there are that many."""
        check_integer("n", n, 1, len(self))
        rows = torch.randperm(len(self), generator=generator_for("subset of images", seed))[:n].sort().values
        pixels = self.pixels[rows.to(self.pixels.device)]
        return replace(self, pixels=pixels, digest=pixel_digest(pixels))

    def check_event(self, event: Sequence[int], whose: str) -> None:
        """Raise ValueError unless the images have the shape that something asks for, (channels, height, width)."""
        if self.event != tuple(event):
            raise ValueError(
                f"images must have shape {tuple(event)}, as {whose} has; {self.source} has {self.event}: see size and "
                "channels of load_images"
            )
