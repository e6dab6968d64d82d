"""The UNets of score-SDE and EDM, DDPM++ and NCSN++, with the parameter names of EDM's checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdesig._checks import check_choice, check_integer
from sdesig.images.labels import check_label, labels_of
from sdesig.sigdeg.networks import FEATURES, MOST_BLOCKS, NETWORKS, FourierFeatures, Network, zeros

EMBEDDINGS = ("positional", "fourier")
FILTERS = {"standard": (1, 1), "residual": (1, 3, 3, 1)}
"""Taps of the filter of each encoder, with which images are halved and doubled."""
HALF = math.sqrt(0.5)
"""Factor of the sum of two branches, which keeps its variance at one."""


class SongUNet(Network):
    """DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456, appendix H), as EDM has them (Karras et al. 2022, arXiv
    2206.00364, table 7): square images (batch, channels, size, size) to the same shape.

    `noise` is embedded as it is: c_noise of EDM. DDPM++ has the positional embedding and the standard encoder, NCSN++
    the Fourier embedding and the residual encoder. There is no dropout. The weights start as torch's layers do: this is
    made for those of a checkpoint.

    Conditions go through Fourier features and a linear layer, which starts at zero, into the embedding of the noise
    level; extra inputs through a convolution, which starts at zero, to the output of the first. A class-conditional
    network gets the fixed label, or where there is none one per sample, int64 (batch,), in the place of conditions.

    Args:
        channels, size: shape of the images, (channels, size, size); size divisible by 2^(len(multipliers) - 1).
        width: a multiple of 4; the channels of level k are multipliers[k] width.
        multipliers: one per level, from the full resolution down.
        blocks: number of blocks per level.
        attention: sizes at which the blocks have self-attention.
        embedding: how the noise level is embedded, "positional" or "fourier".
        encoder: "standard", or "residual" with a second path of the shrinking image itself.
        classes: number of classes; 0 for a network without labels.
        label: class of all samples.
        conditions, extra: see `Network`; not for a class-conditional network without a fixed label.

    Raises:
        TypeError, ValueError: arguments out of range.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        width: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        embedding: str = "positional",
        encoder: str = "standard",
        classes: int = 0,
        label: int | None = None,
        conditions: int = 0,
        extra: int = 0,
    ) -> None:
        super().__init__(conditions, extra)
        check_integer("channels", channels, 1)
        check_integer("blocks", blocks, 1, MOST_BLOCKS)
        if check_integer("width", width, 4) % 4:
            raise ValueError(f"width must be a multiple of 4; got {width}")
        self.multipliers = tuple(check_integer(f"multipliers[{k}]", m, 1) for k, m in enumerate(multipliers))
        if not self.multipliers:
            raise ValueError("multipliers must have one number per level; got none")
        divisor = 2 ** (len(self.multipliers) - 1)
        if check_integer("size", size, 1) % divisor:
            raise ValueError(f"size must be a multiple of {divisor}, for multipliers {self.multipliers}; got {size}")
        sizes = [size >> level for level in range(len(self.multipliers))]
        for side in attention:
            check_choice("attention", side, sizes)
        check_choice("embedding", embedding, EMBEDDINGS)
        check_choice("encoder", encoder, tuple(FILTERS))
        self.event, self.width, self.blocks = (channels, size, size), width, blocks
        self.attention, self.embedding, self.encoder = tuple(attention), embedding, encoder
        self.classes = check_integer("classes", classes, 0)
        self.label = check_label(label, classes, student=bool(conditions or extra))

        inputs = width if embedding == "positional" else 2 * width
        self.map_noise = embedding_of(embedding, width)
        self.map_label = nn.Linear(classes, inputs) if classes else None
        self.map_layer0, self.map_layer1 = nn.Linear(inputs, 4 * width), nn.Linear(4 * width, 4 * width)
        self.features = FourierFeatures()
        self.map_conditions = zeros(nn.Linear(FEATURES * conditions, inputs, bias=False)) if conditions else None
        self.conv_extra = zeros(nn.Conv2d(extra * channels, width, 3, padding=1, bias=False)) if extra else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()

        taps = FILTERS[encoder]
        now, shown, kept = width, channels, []
        for level, side in enumerate(sizes):
            if level == 0:
                self.enc[f"{side}x{side}_conv"] = nn.Conv2d(channels, width, 3, padding=1)
            else:
                self.enc[f"{side}x{side}_down"] = SongBlock(now, now, 4 * width, taps=taps, order="down")
                if encoder == "residual":
                    self.enc[f"{side}x{side}_aux_residual"] = Resampling(shown, now, 3, taps, "pyramid")
                    shown = now
            kept.append(now)
            for k in range(blocks):
                before, now = now, self.multipliers[level] * width
                attends = side in self.attention
                self.enc[f"{side}x{side}_block{k}"] = SongBlock(before, now, 4 * width, attention=attends)
                kept.append(now)
        for level, side in reversed(list(enumerate(sizes))):
            if level == len(sizes) - 1:
                self.dec[f"{side}x{side}_in0"] = SongBlock(now, now, 4 * width, attention=True)
                self.dec[f"{side}x{side}_in1"] = SongBlock(now, now, 4 * width)
            else:
                self.dec[f"{side}x{side}_up"] = SongBlock(now, now, 4 * width, taps=taps, order="up")
            for k in range(blocks + 1):
                before, now = now + kept.pop(), self.multipliers[level] * width
                attends = side in self.attention and k == blocks
                self.dec[f"{side}x{side}_block{k}"] = SongBlock(before, now, 4 * width, attention=attends)
        self._last = f"{size}x{size}_aux_norm", f"{size}x{size}_aux_conv"
        self.dec[self._last[0]] = group_norm(now)
        self.dec[self._last[1]] = nn.Conv2d(now, channels, 3, padding=1)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of the constructor, JSON-serializable."""
        names = ("width", "multipliers", "blocks", "attention", "embedding", "encoder", "classes", "label")
        values = [(name, getattr(self, name)) for name in (*names, "conditions", "extra")]
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in values}
        return {"channels": self.event[0], "size": self.event[1], **listed}

    def zero_last(self) -> None:
        """Set the last convolution to zero: the network returns zeros until it is trained."""
        zeros(self.dec[self._last[1]])

    def compute(self, x: Tensor, noise: Tensor, conditions: Tensor | None, extra: Tensor | None) -> Tensor:
        """The output of the UNet, (batch, channels, size, size), at the embedded `noise`, (batch,)."""
        embedding = self._embed(x, noise, conditions)
        h = shown = x
        kept: list[Tensor] = []
        for layer in self.enc.values():
            if isinstance(layer, Resampling):
                h = shown = HALF * (kept.pop() + layer(shown))
            elif isinstance(layer, SongBlock):
                h = layer(h, embedding)
            else:
                h = layer(h)
                if self.conv_extra is not None and extra is not None:
                    h = h + self.conv_extra(extra.flatten(1, 2))
            kept.append(h)
        for name, layer in self.dec.items():
            if isinstance(layer, SongBlock):
                h = layer(torch.cat([h, kept.pop()], 1) if "_block" in name else h, embedding)
        norm, conv = self._last
        return self.dec[conv](functional.silu(self.dec[norm](h)))

    def _embed(self, x: Tensor, noise: Tensor, conditions: Tensor | None) -> Tensor:
        value = self.map_noise(noise)
        if self.map_label is not None:
            labels = labels_of(x, conditions, self.label, self.classes)
            value = value + self.map_label(functional.one_hot(labels, self.classes).to(x) * math.sqrt(self.classes))
        if self.map_conditions is not None:
            value = value + self.map_conditions(self.features(self.check_conditions(conditions).to(x)))
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(value))))


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


NETWORKS["song_unet"] = SongUNet
