"""Networks for image teachers that are trained from scratch, by `sdesig.sigdeg.train_teacher`."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence

import torch

from sdesig._checks import check_choice, check_integer
from sdesig.images.diffusers_unet import DiffusersUNet
from sdesig.sigdeg.networks import Network, UNet

KINDS = ("unet", "unet2d")


def image_network(
    kind: str,
    event: Sequence[int],
    *,
    widths: Sequence[int],
    patch: int = 1,
    attention: Sequence[int] = (),
    layers: int = 2,
) -> Network:
    """A network for square images, just initialized from torch's global generator.

    Args:
        kind: "unet" for our small `UNet`, "unet2d" for diffusers' `UNet2DModel`, with attention in its middle.
        event: (channels, size, size).
        widths: channels of the levels, from the full resolution down, each a multiple of 8.
        patch: side of the patches that become one pixel, for "unet".
        attention: levels with attention, 0 for the full resolution, for "unet2d".
        layers: blocks per level, for "unet2d".

    Raises:
        ImportError: "unet2d" without diffusers.
        TypeError, ValueError: arguments out of range, images that are not square.
    """
    check_choice("kind", kind, KINDS)
    if len(event) != 3 or event[1] != event[2]:
        raise ValueError(f"event must be (channels, size, size); got {tuple(event)}: see size of load_images")
    channels, size = event[0], event[1]
    if kind == "unet":
        if attention or layers != 2:
            raise ValueError("attention and layers must be left out for the network 'unet', which has no such choice")
        return UNet(channels, size, widths=tuple(widths), patch=patch)
    if patch != 1:
        raise ValueError(f"patch must be 1 for the network 'unet2d', which has no patches; got {patch}")
    if not widths or any(check_integer("widths", width, 8) % 8 for width in widths):
        raise ValueError(f"widths must be one or more multiples of 8; got {tuple(widths)}")
    with_attention = {check_integer("attention", level, 0, len(widths) - 1) for level in attention}
    middle = ["Attn" if level in with_attention else "" for level in range(len(widths))]
    return DiffusersUNet(
        {
            "sample_size": size,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": list(widths),
            "layers_per_block": check_integer("layers", layers, 1),
            "down_block_types": [f"{name}DownBlock2D" for name in middle],
            "up_block_types": [f"{name}UpBlock2D" for name in reversed(middle)],
            "norm_num_groups": math.gcd(32, *widths),
        }
    )


def compile_network(network: Network, batch: int) -> None:
    """Let `torch.compile` compute a network; where that does not work, warn and leave it as it is.

    Args:
        network: on its device, its `mixed_precision` as it will be.
        batch: size of the batch with which it is tried, forwards and backwards.

    Raises:
        torch.OutOfMemoryError: the batch does not fit into memory.
    """
    trial = copy.deepcopy(network)
    x = next(trial.parameters()).new_zeros(batch, *network.event)
    try:
        trial.compile()
        trial(x, x.new_zeros(batch)).sum().backward()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise almost anything
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"torch.compile does not work here, training goes on without it: {reason}", stacklevel=2)
        return
    network.compile()
