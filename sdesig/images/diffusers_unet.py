"""diffusers' `UNet2DModel` as one of our networks, so that a student can be made of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdesig._checks import readable
from sdesig._install import install_command
from sdesig.images.diffusers_config import known_arguments
from sdesig.images.labels import check_label, labels_of
from sdesig.sigdeg.networks import FEATURES, NETWORKS, FourierFeatures, Network, zeros


def import_diffusers() -> Any:
    """The module, which takes seconds to import; raise ImportError that names the extra where it is missing."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"image models need diffusers: {install_command('images')} ({error})") from error
    return diffusers


class DiffusersUNet(Network):
    """A `UNet2DModel` of square images: (batch, channels, size, size) to the same shape; `noise` is its timestep.

    A model that also predicts variances has 2 channels outputs, of which the first half is returned. The timestep may
    be any real number; a model with a Fourier embedding, which takes the logarithm of it and divides by it, needs
    noise > 0.

    Conditions go through Fourier features and a linear layer, which starts at zero, into the embedding of the timestep;
    extra inputs through a convolution, which starts at zero, to the output of `conv_in`. A class-conditional model gets
    the fixed label, or where there is none it takes one per sample, int64 (batch,), in the place of conditions.

    Args:
        unet: the configuration of a `UNet2DModel`, or one, which becomes a part of this network.
        label: class of all samples, 0 <= label < num_class_embeds; only for a class-conditional model.
        conditions, extra: see `Network`; not for a class-conditional model without a fixed label. With them what is
            made from a configuration is a student's network, without dropout.

    Raises:
        ImportError: diffusers is missing.
        TypeError, ValueError: a model of another kind (its message says which are supported), a label out of range.
    """

    def __init__(
        self, unet: Mapping[str, Any] | nn.Module, *, label: int | None = None, conditions: int = 0, extra: int = 0
    ) -> None:
        super().__init__(conditions, extra)
        model: Any = unet
        if not isinstance(unet, Mapping | nn.Module):
            raise TypeError(f"unet must be a UNet2DModel or its configuration; got {unet!r}")
        if isinstance(unet, Mapping):
            kind = import_diffusers().UNet2DModel
            student = {"dropout": 0.0} if conditions or extra else {}
            model = kind(**{**known_arguments(kind, unet), **student})
        self.unet = model
        known = inspect.signature(type(model)).parameters  # beside these, a file may have keys of a later version
        described = {name: value for name, value in model.config.items() if name in known}
        self._described: dict[str, Any] = json.loads(json.dumps(described))  # lists for tuples, as in a file
        self.event = event_of(self._described)
        self._classes = self._described["num_class_embeds"] or 0
        self.label = check_label(label, self._classes, student=bool(conditions or extra))
        if self._classes or conditions:
            width = model.time_embedding.linear_2.out_features
            model.class_embedding = _Embedding(model.class_embedding, conditions, width)
        if extra:
            model.conv_in = _FirstChannels(model.conv_in, extra * self.event[0])
            for block in model.down_blocks:
                if getattr(block, "skip_conv", None) is not None:
                    block.skip_conv = _FirstChannels(block.skip_conv)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of the constructor, JSON-serializable."""
        return {"unet": self._described, "label": self.label, "conditions": self.conditions, "extra": self.extra}

    @property
    def needs_positive_noise(self) -> bool:
        """Whether the timestep is embedded by its logarithm."""
        return self._described["time_embedding_type"] == "fourier"

    def zero_last(self) -> None:
        """Set the last convolution and those that skip to it to zero: it returns zeros until it is trained."""
        zeros(self.unet.conv_out)
        for block in self.unet.up_blocks:
            if getattr(block, "skip_conv", None) is not None:
                zeros(block.skip_conv)

    def compute(self, x: Tensor, noise: Tensor, conditions: Tensor | None, extra: Tensor | None) -> Tensor:
        """The UNet's output for x and its timestep `noise`: (batch, channels, size, size)."""
        if self.needs_positive_noise and readable(noise) and not bool((noise > 0).all()):
            raise ValueError(f"noise must be > 0 for a UNet with a Fourier embedding; got {noise.min().item()}")
        numbers = self.check_conditions(conditions).to(x) if self.conditions else None
        labels = labels_of(x, conditions, self.label, self._classes) if self._classes else None
        given = (labels, numbers) if self._classes or self.conditions else None
        shown = x
        if self.extra and extra is not None:
            flat = extra.flatten(1, 2)
            shown = torch.cat([x, (flat + 1) / 2 if self._described["center_input_sample"] else flat], 1)
        return self.unet(shown, noise, class_labels=given, return_dict=False)[0][:, : self.event[0]]


class _Embedding(nn.Module):
    """The sum of two embeddings, of labels (batch,) and of (1 or batch, k) numbers, that the timestep's is added to.

    diffusers hands on its `class_labels` as they are: here a pair.
    """

    def __init__(self, labels: nn.Module | None, conditions: int, width: int) -> None:
        super().__init__()
        self.labels = labels
        self.features = FourierFeatures()
        self.conditions = zeros(nn.Linear(FEATURES * conditions, width, bias=False)) if conditions else None

    def forward(self, given: tuple[Tensor | None, Tensor | None]) -> Tensor:
        labels, conditions = given
        added = [] if self.labels is None else [self.labels(labels)]
        if self.conditions is not None:
            added.append(self.conditions(self.features(conditions)))
        return sum(added[1:], added[0])


class _FirstChannels(nn.Conv2d):
    """A convolution of the channels that it had, plus one of `extra` more; without these, what is more is ignored."""

    def __init__(self, conv: nn.Conv2d, extra: int = 0) -> None:
        options: dict[str, Any] = {"kernel_size": conv.kernel_size, "padding": conv.padding}
        super().__init__(conv.in_channels, conv.out_channels, **options)
        self.weight, self.bias = conv.weight, conv.bias
        self.extra = zeros(nn.Conv2d(extra, conv.out_channels, bias=False, **options)) if extra else None

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input[:, : self.in_channels])
        return output if self.extra is None else output + self.extra(input[:, self.in_channels :])


def event_of(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(channels, size, size) from a configuration; raise ValueError unless it is that of a supported model."""
    channels, size = config["in_channels"], config["sample_size"]
    if config["out_channels"] not in (channels, 2 * channels):
        raise ValueError(
            f"out_channels must be in_channels or twice as many, with variances; got {config['out_channels']} for "
            f"{channels}: models that are also shown another image are not supported"
        )
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    if not isinstance(size, int) or size < 1 or size % factor:
        raise ValueError(f"sample_size must be one number, of square images, a multiple of {factor}; got {size!r}")
    if config["class_embed_type"] is not None:
        raise ValueError(f"class_embed_type must be None, for labels; got {config['class_embed_type']!r}")
    if config["time_embedding_type"] == "learned":
        raise ValueError("time_embedding_type must be 'positional' or 'fourier'; 'learned' knows whole timesteps only")
    return channels, size, size


NETWORKS["unet2d"] = DiffusersUNet
