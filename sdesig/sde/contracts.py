"""The contract of a denoiser D(x, t), in a diffusion's own variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

X_T = "x, t"


class Denoiser(Protocol):
    """D(x, t) = E[x_0 | x_t = x]. Any function is one, unless it says that its variables are others.

    A D(y, snr) says so (`sdesig.sampling.SNRDenoiser`), by an attribute `variables`.
    """

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """x: (batch, *event); t: () or (batch,), the diffusion's time. Returns (batch, *event)."""


CallableT = TypeVar("CallableT", bound=Callable[..., object])


def check_denoiser(name: str, value: CallableT) -> CallableT:
    """Return `value`; raise TypeError unless it can be called, as a D(x, t) or a network, and is no D(y, snr)."""
    if (variables := getattr(value, "variables", X_T)) != X_T:
        raise TypeError(f"{name} must be a D({X_T}), not a D({variables}); got {type(value).__name__}")
    if not callable(value):
        raise TypeError(f"{name} must be callable as {name}(x, t); got {value!r}")
    return value
