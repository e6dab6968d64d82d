"""Tensors beside others that may be on an accelerator, without a wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """`value` on a device. A copy to an accelerator is not waited for; the value must not be changed afterwards."""
    return value.to(device, non_blocking=device.type != "cpu")


def like(value: Tensor, x: Tensor) -> Tensor:
    """`value` in x's dtype and on its device; copied as in `to_device`."""
    return value.to(x, non_blocking=x.device.type != "cpu")


def beside(value: Tensor | float, x: Tensor) -> Tensor | float:
    """`value` in x's dtype, to compute with x: a float, or one number on the CPU, which mixes with x, stays there."""
    if not isinstance(value, Tensor):
        return value
    return value.to(x.dtype) if value.ndim == 0 and value.device.type == "cpu" else like(value, x)


def plus(x: Tensor, factor: Tensor | float, value: Tensor) -> Tensor:
    """x + factor value: with a float in one pass over memory."""
    return torch.add(x, value, alpha=factor) if isinstance(factor, float) else x + factor * value


def filled(value: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """One number, (), on a device, in a shape of ones."""
    if value.device.type == "cpu" != device.type:
        return value * torch.ones(shape, dtype=value.dtype, device=device)  # a copy would be waited for
    return to_device(value.reshape(shape), device)


def per_row(value: Tensor, x: Tensor) -> Tensor:
    """`value`, one number () or one per sample (batch,), as (batch,) in x's dtype and on its device."""
    return like(filled(value, (), x.device) if value.ndim == 0 else value, x).expand(len(x))
