"""Training data: a tensor of samples, or an object that converts rows on demand, such as a set of uint8 images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sdesig._checks import check_floating

_ROWS = 1024
"""Samples that are added up at once. The last digit of a standard deviation depends on it: it must not change."""


class Rows(Protocol):
    """Samples that are converted to float32 by rows, such as `sdesig.evaluation.pixels.ImageSet`."""

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of a sample."""

    def __len__(self) -> int: ...

    def floats(self, rows: Tensor, *, device: torch.device | str | None = None) -> Tensor:
        """The samples of some rows, (len(rows), *event), on a device."""


Data = Tensor | Rows


def check_data(data: Data, event: Sequence[int]) -> None:
    """Raise TypeError or ValueError unless data are samples of this shape."""
    if isinstance(data, Tensor):
        if check_floating("data", data).dtype != torch.float32:
            raise TypeError(f"data must be float32; got {data.dtype}")
        shape = tuple(data.shape)
    elif not hasattr(data, "floats"):
        raise TypeError(f"data must be a float32 tensor or an ImageSet; got {type(data).__name__}")
    else:
        shape = (len(data), *data.event)
    if shape[1:] != tuple(event) or len(data) < 2:
        raise ValueError(f"data must have shape (n >= 2, {tuple(event)}); got {shape}")
    if isinstance(data, Tensor) and not bool(data.isfinite().all()):
        raise ValueError("data must be finite")


def on_device(data: Data, device: torch.device) -> Data:
    """Data from which rows are taken without a wait: a tensor on the device, and other data as they are."""
    return data.to(device) if isinstance(data, Tensor) else data


def draw_rows(data: Data, n: int, generator: torch.Generator) -> Tensor:
    """n samples, with repetition, on the device of the generator: (n, *event)."""
    rows = torch.randint(len(data), (n,), generator=generator, device=generator.device)
    return take_rows(data, rows, generator.device)


def take_rows(data: Data, rows: Tensor, device: torch.device | str) -> Tensor:
    """The samples of some rows, (len(rows), *event), on a device; data and rows may be on others."""
    return data[rows.to(data.device)].to(device) if isinstance(data, Tensor) else data.floats(rows, device=device)


def standard_deviation(data: Data) -> float:
    """The standard deviation of all coordinates of all samples together."""
    if isinstance(data, Tensor):
        return data.std().item()
    n, total, square = 0, 0.0, 0.0
    for rows in torch.arange(len(data)).split(_ROWS):
        values = data.floats(rows).double()
        n, total, square = n + values.numel(), total + values.sum().item(), square + values.square().sum().item()
    return ((square - total**2 / n) / (n - 1)) ** 0.5
