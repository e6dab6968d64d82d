"""The interfaces of the layer: the general SDE, a `torchsde.BaseSDE` that knows its dimensions and the structure of its
noise, and the denoiser D(x, t), in a diffusion's own variables. What an SDE has, and what its f and g return,
is checked against what it declares: once, before a solution.
"""

from __future__ import annotations

import contextlib
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


def check_sde(sde: object) -> None:
    """Raise unless the SDE has torchsde's interface: TypeError for a missing part, ValueError for unknown names."""
    missing = [name for name in ("f", "g", "noise_type", "sde_type") if not hasattr(sde, name)]
    if missing:
        raise TypeError(f"sde must have f, g, noise_type and sde_type; {sde!r} lacks {', '.join(missing)}")
    check_choice("sde.noise_type", sde.noise_type, ("diagonal", "scalar", "additive", "general"))  # type: ignore[attr-defined]
    check_choice("sde.sde_type", sde.sde_type, ("ito", "stratonovich"))  # type: ignore[attr-defined]


def check_coefficients(sde: SDELike, t: Tensor, y: Tensor, noise_dim: int, structure: str) -> None:
    """Call f and g at (t, y), and raise unless they return what `SDE` asks for and g has the structure.

    What a scheme exploits of the noise is checked at this one state, by derivatives of g: that additive noise does not
    depend on y, component i of diagonal noise on y_i alone, and that the columns of commutative noise commute. A g that
    autograd cannot differentiate is believed. An SDE that is `checked` is not called.

    Args:
        sde, t, y: where f and g are taken; y of shape (batch, ..., dim).
        noise_dim: dimension of W.
        structure: what a scheme may exploit of the noise, one of `NOISE_STRUCTURES`.

    Raises:
        TypeError: f or g returns no tensor, or one of another dtype or device than y.
        ValueError: another shape, a value that is not finite, a g without the structure, a y changed in place.
    """
    if isinstance(sde, SDE) and sde.checked:
        return
    shape = tuple(y.shape) if sde.noise_type == "diagonal" else (*y.shape, noise_dim)
    with torch.inference_mode(False):
        given = y.detach().clone()
    version = given._version
    with torch.no_grad():
        _check_returned(f"{type(sde).__name__}.f(t, y)", sde.f(t, given), y, tuple(y.shape), "the shape of y")
        g = sde.g(t, given)
        _check_returned(f"{type(sde).__name__}.g(t, y)", g, y, shape, f"for noise_type {sde.noise_type!r}")
    if given._version != version:
        raise ValueError(f"{type(sde).__name__}.f and g must not change y in place")
    if structure in _PROMISES and y.numel():
        promise, holds = _PROMISES[structure]
        # a RuntimeError is autograd's: g has just been called without it
        with contextlib.suppress(RuntimeError), torch.inference_mode(False), torch.enable_grad():
            state = y.detach().clone().requires_grad_()
            if holds(sde.g(t, state), state):
                return
            raise ValueError(
                f"{type(sde).__name__}.g(t, y) must be {structure}, as the SDE declares: {promise}; at t = "
                f"{t.item():g} it is not so"
            )


def _check_returned(name: str, value: object, y: Tensor, shape: tuple[int, ...], why: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must return a torch.Tensor; got {value!r}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must return shape {shape}, {why}; got {tuple(value.shape)}")
    if value.dtype != y.dtype or value.device != y.device:
        raise TypeError(f"{name} must return {y.dtype} on {y.device} like y; got {value.dtype} on {value.device}")
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite at the start; it returned {value[~value.isfinite()][0].item()}")


def _weights(like: Tensor, *shape: int) -> Tensor:
    """Numbers in [.5, 1.5], always the same: in general position, so that derivatives do not cancel."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5).to(like)


def _pulled_back(values: Tensor, y: Tensor, weights: Tensor, *, create_graph: bool = False) -> Tensor:
    """sum_i weights_i d values_i / dy, in the shape of y."""
    if not values.requires_grad:
        return torch.zeros_like(y)
    found = torch.autograd.grad(values, y, weights, retain_graph=True, create_graph=create_graph, allow_unused=True)[0]
    return torch.zeros_like(y) if found is None else found


def _small(values: Tensor, *scales: Tensor) -> bool:
    """Whether `values` are rounding errors beside the scales, of their shape. NaN, of which nothing is known, are."""
    size = sum((scale.abs() for scale in scales), torch.zeros_like(values)).amax(-1, keepdim=True)
    return not bool((values.abs() > torch.finfo(values.dtype).eps ** 0.5 * size).any())


def _is_constant(g: Tensor, y: Tensor) -> bool:
    return not bool((_pulled_back(g, y, _weights(g, *g.shape[1:]).expand_as(g)).abs() > 0).any())


def _is_diagonal(g: Tensor, y: Tensor) -> bool:
    """With a diagonal Jacobian J, w J is w times the row (1, ..., 1) J."""
    weights = _weights(g, *g.shape[1:]).expand_as(g)
    plain, weighted = _pulled_back(g, y, torch.ones_like(g)), _pulled_back(g, y, weights)
    return _small(weighted - weights * plain, plain, weighted)


def _commutes(g: Tensor, y: Tensor) -> bool:
    """Whether [G, H] = DH G - DG H = 0 for two combinations of the columns; derivatives forward, by two backward."""
    first, second = (g @ weights for weights in _weights(g, 2, g.shape[-1]))

    def along(field: Tensor, direction: Tensor) -> Tensor:
        dual = torch.zeros_like(field, requires_grad=True)
        return _pulled_back(_pulled_back(field, y, dual, create_graph=True), dual, direction)

    one, other = along(second, first), along(first, second)
    return _small(one - other, one, other)


_PROMISES = {
    "additive": ("g does not depend on y", _is_constant),
    "diagonal": ("component i of g depends on component i of y alone", _is_diagonal),
    "commutative": ("the columns of g commute, Dg_j g_i = Dg_i g_j", _commutes),
}
