"""The interfaces of the layer: the general SDE, a `torchsde.BaseSDE` that knows its dimensions and the structure of its
noise, and the denoiser D(x, t), in a diffusion's own variables.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
import torchsde
from torch import Tensor

from sdesig._checks import NOISE_STRUCTURES, check_choice, check_integer


class SDELike(Protocol):
    """What torchsde asks of an SDE: any object with `f(t, y)`, `g(t, y)`, `noise_type` and `sde_type`."""

    noise_type: str
    sde_type: str

    def f(self, t: Any, y: Tensor) -> Tensor:
        """Drift, (batch, dim)."""

    def g(self, t: Any, y: Tensor) -> Tensor:
        """Diffusion, (batch, dim) for diagonal noise, else (batch, dim, noise_dim)."""


class SDE(torchsde.BaseSDE):
    """dY = f(t, Y) dt + g(t, Y) dW, in the Ito or the Stratonovich sense.

    Subclasses define, for y of shape (batch, dim):
      - `f(t, y)`: drift, (batch, dim);
      - `g(t, y)`: diffusion, (batch, dim) if `noise_type` is "diagonal" (component i depends on y_i alone, as
        torchsde requires), otherwise (batch, dim, noise_dim).

    Args:
        noise_type: torchsde's "diagonal", "scalar", "additive" or "general": the shape that `g` returns.
        sde_type: "ito" or "stratonovich".
        dim: dimension of the state; None for diagonal noise that acts on states of any dimension.
        noise_dim: dimension of W; defaults to `dim` ("diagonal") or 1 ("scalar"), required otherwise.
        noise_structure: what schemes may exploit, one of `NOISE_STRUCTURES`; defaults to `noise_type`. It is
            finer than `noise_type`: general noise whose columns commute is "commutative", and a state-independent
            g of any shape is "additive".

    Attributes:
        checked: whether f and g look themselves at what they compute with. Of any other SDE f is called once more and g
            twice at the start of a solution, to see that they return what is said here.

    Raises:
        ValueError: unknown names, dimensions that do not fit the noise type.
    """

    checked: ClassVar[bool] = False
    noise_type: str
    sde_type: str

    def __init__(
        self,
        noise_type: str,
        sde_type: str,
        *,
        dim: int | None,
        noise_dim: int | None = None,
        noise_structure: str | None = None,
    ) -> None:
        check_choice("noise_type", noise_type, ("diagonal", "scalar", "additive", "general"))
        check_choice("sde_type", sde_type, ("ito", "stratonovich"))
        super().__init__(noise_type=noise_type, sde_type=sde_type)
        self.noise_structure = noise_type if noise_structure is None else noise_structure
        check_choice("noise_structure", self.noise_structure, NOISE_STRUCTURES)
        self.dim: int | None = dim
        self.noise_dim: int | None = noise_dim
        if dim is None and noise_type == "diagonal" and noise_dim is None:
            return
        self.dim = check_integer("dim", dim, 1)
        implied = {"diagonal": self.dim, "scalar": 1}.get(noise_type)
        if noise_dim is None and implied is None:
            raise ValueError(f"noise_dim must be given for noise_type {noise_type!r}")
        self.noise_dim = check_integer("noise_dim", implied if noise_dim is None else noise_dim, 1)
        if implied is not None and self.noise_dim != implied:
            raise ValueError(f"noise_dim must be {implied} for noise_type {noise_type!r}; got {noise_dim}")

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """Drift at (t, y), shape (batch, dim)."""
        raise NotImplementedError(f"{type(self).__name__} does not define the drift f(t, y)")

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """Diffusion at (t, y), shape (batch, dim) for diagonal noise, else (batch, dim, noise_dim)."""
        raise NotImplementedError(f"{type(self).__name__} does not define the diffusion g(t, y)")

    def diffusion_matrix(self, t: Tensor | float, y: Tensor) -> Tensor:
        """Diffusion as a matrix, (batch, dim, noise_dim), whatever the noise type."""
        g = self.g(t, y)
        return torch.diag_embed(g) if self.noise_type == "diagonal" else g


class Denoiser(Protocol):
    """D(x, t) = E[x_0 | x_t = x]. Any function is one, unless it says that its variables are others.

    A D(y, snr) says so (`sdesig.sampling.SNRDenoiser`), by an attribute `variables`.
    """

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """x: (batch, *event); t: () or (batch,), the diffusion's time. Returns (batch, *event)."""
