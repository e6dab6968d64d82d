"""Networks F(x, noise, conditions, extra): a residual MLP for vectors and a small UNet for images.

One form serves teachers and students. A teacher calls network(x, noise) with x of shape (batch, *event) and the noise
level c_noise of EDM, (batch,). A student also gives numbers that describe the step, `conditions`, and tensors that
describe the Brownian path on it, `extra`. The inputs that a teacher lacks have weights that start at zero, so that a
teacher that is `widened` computes what it did before.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdesig._checks import check_integer

FREQUENCIES = 8
FEATURES = 2 * FREQUENCIES + 1
"""Features that `FourierFeatures` makes of one number."""
EMBEDDING = 64
MOST, MOST_BLOCKS = 2**20, 1000
"""Largest size and largest number of blocks in a configuration: larger ones belong to a damaged file."""
LISTS = {"widths", "multipliers", "attention"}
"""Arguments of networks that are lists."""
NetworkT = TypeVar("NetworkT", bound="Network")
T = TypeVar("T")


class FourierFeatures(nn.Module):
    """(..., k) numbers of order 1 to (..., 17 k): the numbers, and sin and cos of them at 8 frequencies 1/2 to 64."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(-1, FREQUENCIES - 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The features, (..., 17 k), of numbers (..., k)."""
        angles = x[..., None] * self.frequencies
        return torch.cat([x[..., None], angles.sin(), angles.cos()], -1).flatten(-2)


class Network(nn.Module):
    """The base class of networks F(x, noise, conditions, extra): configuration, checks of inputs, precision.

    Attributes:
        event: shape of a sample.
        conditions, extra: how many numbers and tensors of the shape of a sample come beside it.
        config: the arguments that make a network like this one.
    """

    event: tuple[int, ...]
    mixed_precision: bool
    """Whether to compute in bfloat16 (autocast); the result has the dtype of x."""

    def __init__(self, conditions: int, extra: int) -> None:
        super().__init__()
        self.mixed_precision = False
        self.conditions = check_integer("conditions", conditions, 0)
        self.extra = check_integer("extra", extra, 0)

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-serializable arguments of the constructor."""

    @property
    def inputs(self) -> dict[str, int]:
        """The part of `config` that all networks have: the numbers of conditions and extra inputs."""
        return {"conditions": self.conditions, "extra": self.extra}

    @abstractmethod
    def zero_last(self) -> None:
        """Set the last layer to zero: the network returns zeros until it is trained."""

    @abstractmethod
    def compute(self, x: Tensor, noise: Tensor, conditions: Tensor | None, extra: Tensor | None) -> Tensor:
        """The result of `forward`, (batch, *event), from inputs that are checked."""

    def forward(
        self, x: Tensor, noise: Tensor, conditions: Tensor | None = None, extra: Tensor | None = None
    ) -> Tensor:
        """F(x, noise, conditions, extra), with the shape and dtype of x.

        Args:
            x: (batch, *event).
            noise: the noise level c_noise of EDM, (batch,).
            conditions: numbers that describe the step of a student, (conditions,) or (batch, conditions); none of a
                teacher.
            extra: tensors that describe the Brownian path on it, (batch, extra, *event); none of a teacher.

        Raises:
            ValueError: inputs of other shapes than this network was made for.
        """
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have shape (batch, {', '.join(map(str, self.event))}); got {tuple(x.shape)}")
        wanted = (len(x), self.extra, *self.event)
        if self.extra and (extra is None or tuple(extra.shape) != wanted):
            raise ValueError(f"extra must have shape {wanted}; got {None if extra is None else tuple(extra.shape)}")
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed_precision):
            return self.compute(x, noise, conditions, extra).to(x)

    def check_conditions(self, conditions: Tensor | None) -> Tensor:
        """Return them as (1 or batch, conditions); raise ValueError unless they are so many along their last axis."""
        if conditions is None or conditions.shape[-1] != self.conditions:
            got = None if conditions is None else tuple(conditions.shape)
            raise ValueError(f"conditions must have {self.conditions} numbers along the last axis; got shape {got}")
        return conditions.reshape(-1, self.conditions)

    def widened(self: NetworkT, conditions: int, extra: int) -> NetworkT:
        """A copy with more inputs, which it ignores until it is trained; only of a network without any.

        Raises:
            ValueError: this network has conditions or extra inputs already.
        """
        if self.conditions or self.extra:
            raise ValueError(f"widened needs a network without extra inputs; this one has {self.config}")
        copy = type(self)(**{**self.config, "conditions": conditions, "extra": extra})
        copy.load_state_dict({**copy.state_dict(), **self.state_dict()})
        return copy.to(next(self.parameters()))


def networks_in(module: object) -> list[Network]:
    """The networks inside a module; an empty list for other objects, such as a denoiser that is a function."""
    return [part for part in module.modules() if isinstance(part, Network)] if isinstance(module, nn.Module) else []


@contextmanager
def in_precision(precision: str, module: object) -> Iterator[None]:
    """Within the block, the networks inside a module compute in "bfloat16" (autocast) or in "float32"."""
    before = {network: network.mixed_precision for network in networks_in(module)}
    try:
        for network in before:
            network.mixed_precision = precision == "bfloat16"
        yield
    finally:
        for network, mixed in before.items():
            network.mixed_precision = mixed


class EmbeddedNetwork(Network):
    """The base class of `MLP` and `UNet`: an embedding of the noise level and the conditions."""

    def __init__(self, conditions: int, extra: int) -> None:
        super().__init__(conditions, extra)
        self.features = FourierFeatures()
        self.embed_noise = nn.Linear(FEATURES, EMBEDDING)
        self.embed_conditions = zeros(nn.Linear(FEATURES * conditions, EMBEDDING, bias=False)) if conditions else None
        self.embed_out = nn.Linear(EMBEDDING, EMBEDDING)

    def embed(self, noise: Tensor, conditions: Tensor | None) -> Tensor:
        """(1 or batch, EMBEDDING) from the noise level (batch,) and (conditions,) or (batch, conditions) numbers."""
        if noise.ndim and noise.stride(0) == 0:
            noise = noise[:1]  # one level expanded over the batch is embedded once
        value = self.embed_noise(self.features(noise.reshape(-1, 1)))
        if self.embed_conditions is not None:
            value = value + self.embed_conditions(self.features(self.check_conditions(conditions).to(noise)))
        return nn.functional.silu(self.embed_out(nn.functional.silu(value)))


class MLP(EmbeddedNetwork):
    """A residual multilayer perceptron: vectors (batch, dim) to (batch, dim).

    Args:
        dim: dimension of the vectors.
        width, blocks: width and number of hidden blocks x + W_2 silu(scale * W_1 norm(x) + shift), with scale and shift
            from the embedding.
        conditions, extra: see `Network`.
    """

    def __init__(self, dim: int, *, width: int = 256, blocks: int = 3, conditions: int = 0, extra: int = 0) -> None:
        super().__init__(conditions, extra)
        self.event = (check_integer("dim", dim, 1),)
        self.width, self.blocks = check_integer("width", width, 1), check_integer("blocks", blocks, 1, MOST_BLOCKS)
        self.first = nn.Linear(dim, width)
        self.first_extra = zeros(nn.Linear(dim * extra, width, bias=False)) if extra else None
        self.modulate = nn.Linear(EMBEDDING, 2 * blocks * width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.final = nn.Linear(width, dim)

    @property
    def config(self) -> dict[str, Any]:
        """JSON-serializable arguments of the constructor."""
        return {"dim": self.event[0], "width": self.width, "blocks": self.blocks, **self.inputs}

    def zero_last(self) -> None:
        """Set the last linear layer to zero."""
        zeros(self.final)

    def compute(self, x: Tensor, noise: Tensor, conditions: Tensor | None, extra: Tensor | None) -> Tensor:
        """(batch, dim), from inputs that are checked."""
        scales, shifts = self.modulate(self.embed(noise, conditions)).unflatten(-1, (2, self.blocks, -1)).unbind(1)
        h = self.first(x)
        if self.first_extra is not None and extra is not None:
            h = h + self.first_extra(extra.flatten(1))
        for k, (norm, inner, outer) in enumerate(zip(self.norms, self.inner, self.outer, strict=True)):
            h = h + outer(nn.functional.silu(torch.addcmul(shifts[:, k], inner(norm(h)), 1 + scales[:, k])))
        return self.final(h)


class UNet(EmbeddedNetwork):
    """A small convolutional UNet: images (batch, channels, size, size) to the same shape.

    Args:
        channels, size: shape (channels, size, size) of an image; size is a multiple of patch * 2^(len(widths) - 1).
        widths: channels at each resolution, from the full one down, each a multiple of 8.
        patch: side of the patches that become the channels of one pixel: the full resolution is size/patch.
        conditions, extra: see `Network`.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        widths: tuple[int, ...] = (32, 64),
        patch: int = 1,
        conditions: int = 0,
        extra: int = 0,
    ) -> None:
        widths = tuple(check_integer(f"widths[{k}]", width, 8) for k, width in enumerate(widths))
        if not widths or any(width % 8 for width in widths):
            raise ValueError(f"widths must be one or more multiples of 8; got {widths}")
        super().__init__(conditions, extra)
        check_integer("channels", channels, 1)
        divisor = check_integer("patch", patch, 1) * 2 ** (len(widths) - 1)
        if check_integer("size", size, 1) % divisor:
            raise ValueError(
                f"size must be a multiple of {divisor}, for {len(widths)} widths and patch {patch}; got {size}"
            )
        self.event, self.widths, self.patch = (channels, size, size), widths, patch
        inputs = channels * patch**2
        self.first = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.first_extra = None
        if extra:
            self.first_extra = zeros(nn.Conv2d(inputs * extra, widths[0], 3, padding=1, bias=False))
        before = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(_Residual(a, b) for a, b in zip(before, widths, strict=True))
        self.middle = _Residual(widths[-1], widths[-1])
        self.up = nn.ModuleList(_Residual(2 * b, a) for a, b in zip(before, widths, strict=True))
        self.final = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], inputs, 3, padding=1))

    @property
    def config(self) -> dict[str, Any]:
        """JSON-serializable arguments of the constructor."""
        channels, size, _ = self.event
        return {"channels": channels, "size": size, "widths": list(self.widths), "patch": self.patch, **self.inputs}

    def zero_last(self) -> None:
        """Set the last convolution to zero."""
        zeros(self.final[-1])

    def compute(self, x: Tensor, noise: Tensor, conditions: Tensor | None, extra: Tensor | None) -> Tensor:
        """(batch, channels, size, size), from inputs that are checked."""
        embedding = self.embed(noise, conditions)
        h = self.first(nn.functional.pixel_unshuffle(x, self.patch))
        if self.first_extra is not None and extra is not None:
            h = h + self.first_extra(nn.functional.pixel_unshuffle(extra.flatten(1, 2), self.patch))
        kept = []
        for k, block in enumerate(self.down):
            h = block(h if k == 0 else nn.functional.avg_pool2d(h, 2), embedding)
            kept.append(h)
        h = self.middle(h, embedding)
        for k, block in reversed(list(enumerate(self.up))):
            h = block(torch.cat([h, kept[k]], 1), embedding)
            if k > 0:
                h = nn.functional.interpolate(h, scale_factor=2.0, mode="nearest")
        return nn.functional.pixel_shuffle(self.final(h), self.patch)


class _Residual(nn.Module):
    """Two convolutions with group norm, modulated by the embedding, and a skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(EMBEDDING, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(nn.functional.silu(self.norm_in(x)))
        scale, shift = self.modulate(embedding)[..., None, None].chunk(2, 1)
        h = self.conv_out(nn.functional.silu(self.norm_out(h) * (1 + scale) + shift))
        return (self.skip(x) + h) / math.sqrt(2)


class Kinds(dict[str, type[T]]):
    """Classes by their names in saved configurations. `sdesig.images` adds more when it is imported.

    Args:
        what: noun for an instance, used in messages.
        own: classes of this package.
    """

    def __init__(self, what: str, own: Mapping[str, type[T]]) -> None:
        super().__init__(own)
        self._what, self._own = what, tuple(own)

    def config(self, value: Any) -> dict[str, Any]:
        """The configuration of an instance, JSON-serializable, from which another one like it can be made."""
        return {"kind": next(name for name, kind in self.items() if isinstance(value, kind)), **value.config}

    def read(self, config: object) -> tuple[type[T], dict[str, Any]]:
        """The class and the arguments of a configuration {"kind": name, **arguments}, which may be any JSON value.

        Raises:
            TypeError, ValueError: not an object, an unknown kind, arguments that are not those of its constructor.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"{self._what} must be an object with its kind; got {config!r}")
        arguments = dict(config)
        name = arguments.pop("kind", None)
        if not isinstance(name, str) or name not in self:
            raise ValueError(
                f"kind of {self._what} must be one of {', '.join(map(repr, self._own))}; got {name!r}. Those of image "
                "models are known after `import sdesig.images`, which needs the extra 'images'"
            )
        kind = self[name]
        if unknown := sorted(arguments.keys() - inspect.signature(kind).parameters.keys()):
            raise TypeError(f"{kind.__name__} has no {', '.join(unknown)}")
        return kind, arguments


NETWORKS: Kinds[Network] = Kinds("network", {"mlp": MLP, "unet": UNet})


def zeros(layer: Any) -> Any:
    """The layer, its weights and bias set to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def make_network(config: Mapping[str, Any]) -> Network:
    """The network of a configuration {"kind": "mlp", "unet" or another of `NETWORKS`, **arguments}, just initialized.

    Raises:
        TypeError, ValueError: an unknown kind, arguments that are not those of its constructor.
    """
    kind, arguments = NETWORKS.read(config)
    for name, value in arguments.items():
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int | float) and not abs(number) <= MOST:
                raise ValueError(f"{name} must be at most {MOST}; got {value!r}")
    for name in LISTS & arguments.keys():
        if not isinstance(arguments[name], list | tuple):
            raise TypeError(f"{name} must be a list; got {arguments[name]!r}")
        arguments[name] = tuple(arguments[name])
    return kind(**arguments)


def network_for(event: tuple[int, ...], **arguments: Any) -> Network:
    """An MLP for vectors (dim,), a UNet for square images (channels, size, size), with further arguments of theirs.

    Raises:
        ValueError: events of another shape.
    """
    if len(event) == 1:
        return MLP(event[0], **arguments)
    if len(event) == 3 and event[1] == event[2]:
        return UNet(event[0], event[1], **arguments)
    raise ValueError(f"event must be (dim,) or (channels, size, size); got {event}")
