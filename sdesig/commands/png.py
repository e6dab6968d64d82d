"""Samples as a picture."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.image
import numpy as np
from torch import Tensor

from sdesig._files import replacing
from sdesig.evaluation.pixels import to_uint8

SHOWN = 256
"""Most samples in a picture."""
_LEAST = 32
"""Pixels that an image's side has at least: smaller ones are magnified."""


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
