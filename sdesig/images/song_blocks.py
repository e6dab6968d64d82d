"""Parts of `SongUNet`, with the parameter names of EDM's checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

HALF = math.sqrt(0.5)
"""Factor of the sum of two branches, which keeps its variance at one."""


class SongBlock(nn.Module):
    """Two convolutions and a skip, at the same or at half or double the size, then self-attention with one head."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        taps: Sequence[int] = (),
        order: str = "",
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.attends = attention
        self.norm0, self.norm1 = group_norm(inputs), group_norm(outputs)
        self.conv0 = _conv(inputs, outputs, 3, taps, order)
        self.affine = nn.Linear(embedding, outputs)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = _conv(inputs, outputs, 1, taps, order) if inputs != outputs or order else None
        if attention:
            self.norm2 = group_norm(outputs)
            self.qkv, self.proj = nn.Conv2d(outputs, 3 * outputs, 1), nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(functional.silu(self.norm0(x))) + self.affine(embedding)[..., None, None]
        h = self.conv1(functional.silu(self.norm1(h)))
        h = HALF * (h + (x if self.skip is None else self.skip(x)))
        return HALF * (h + self._attended(h)) if self.attends else h

    def _attended(self, h: Tensor) -> Tensor:
        # channels of query, key and value alternate
        qkv = self.qkv(self.norm2(h)).unflatten(1, (-1, 3)).flatten(3).mT
        query, key, value = (part[:, None] for part in qkv.movedim(1, 3).unbind(2))
        return self.proj(functional.scaled_dot_product_attention(query, key, value)[:, 0].mT.reshape(h.shape))


class Resampling(nn.Conv2d):
    """A convolution at half ("down") or double ("up") the size, or before half of it ("pyramid": the second path of the
    residual encoder). The size is changed by a depthwise filter, with the product of the taps in both directions."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, taps: Sequence[int], order: str) -> None:
        reach = (len(taps) - 1) // 2
        super().__init__(inputs, outputs, kernel, padding=kernel // 2 + (reach if order == "pyramid" else 0))
        row = torch.tensor(taps, dtype=torch.get_default_dtype()) / sum(taps)
        self.register_buffer("resample_filter", torch.outer(row, row)[None, None])
        self.reach, self.order = reach, order

    def forward(self, input: Tensor) -> Tensor:
        if self.order == "pyramid":
            return self._halved(super().forward(input), 0)
        return super().forward(self._halved(input, self.reach) if self.order == "down" else self._doubled(input))

    def _halved(self, x: Tensor, padding: int) -> Tensor:
        """Filtered, at every other point."""
        weight = self.resample_filter.expand(x.shape[1], -1, -1, -1)
        return functional.conv2d(x, weight, stride=2, padding=padding, groups=x.shape[1])

    def _doubled(self, x: Tensor) -> Tensor:
        """Zeros between the points, then filtered and multiplied by 4, so that constants stay what they are."""
        weight = 4 * self.resample_filter.expand(x.shape[1], -1, -1, -1)
        return functional.conv_transpose2d(x, weight, stride=2, padding=self.reach, groups=x.shape[1])


class Waves(nn.Module):
    """sin and cos of numbers (batch,) times a factor and the frequencies, which a checkpoint may hold."""

    freqs: Tensor

    def __init__(self, freqs: Tensor, factor: float = 1.0, *, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("freqs", freqs, persistent=persistent)
        self.factor = factor

    def forward(self, noise: Tensor) -> Tensor:
        angles = self.factor * noise[:, None] * self.freqs
        return torch.cat([angles.sin(), angles.cos()], 1)


def embedding_of(kind: str, width: int) -> Waves:
    """The "positional" one, width/2 frequencies from 1 down to 1/10000, or "fourier", at random ones, N(0, 16^2)."""
    if kind == "positional":
        return Waves(10000 ** -torch.linspace(0, 1, width // 2))
    return Waves(16 * torch.randn(width), 2 * math.pi, persistent=True)


def _conv(inputs: int, outputs: int, kernel: int, taps: Sequence[int], order: str) -> nn.Conv2d:
    if order:
        return Resampling(inputs, outputs, kernel, taps, order)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 4 channels, or more where there would be more than 32 groups."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)
