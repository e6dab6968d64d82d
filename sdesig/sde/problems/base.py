"""What the toy problems share: the default start and horizon, the names of the oracles, parameter checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sdesig._checks import check_dtype, check_floating, check_integer, check_real
from sdesig.sde.base import SDE


class Problem(SDE):
    """An SDE with a default start `y0` and a default horizon [0, `t1`].

    Matrices and vectors are float64 buffers, cast to the dtype and device of the state on use.
    """

    dim: int
    noise_dim: int
    t1: float = 1.0
    initial: Tensor

    def __init__(
        self,
        noise_type: str,
        sde_type: str,
        *,
        initial: Tensor | Sequence[float],
        noise_dim: int | None = None,
        noise_structure: str | None = None,
    ) -> None:
        start = torch.as_tensor(initial, dtype=torch.float64)
        super().__init__(noise_type, sde_type, dim=len(start), noise_dim=noise_dim, noise_structure=noise_structure)
        self.register_buffer("initial", start)

    def y0(self, batch: int, dtype: torch.dtype | None = None) -> Tensor:
        """The default start, repeated: (batch, dim) in `dtype` (default: torch's default dtype)."""
        check_integer("batch", batch, 0)
        return self.initial.to(check_dtype(dtype)).repeat(batch, 1)

    def _check(self, t: float | Tensor, y0: Tensor, **noise: Tensor) -> Tensor:
        """Return t as a zero-dimensional tensor like y0; raise unless t >= 0 and last axes are dim and noise_dim."""
        check_real("t", t, minimum=0.0)
        if check_floating("y0", y0).shape[-1:] != (self.dim,):
            raise ValueError(f"y0 must have shape (..., {self.dim}); got {tuple(y0.shape)}")
        for name, value in noise.items():
            if check_floating(name, value).shape[-1:] != (self.noise_dim,):
                raise ValueError(f"{name} must have shape (..., {self.noise_dim}); got {tuple(value.shape)}")
        return torch.as_tensor(t, dtype=y0.dtype, device=y0.device)


@runtime_checkable
class HasExactSolution(Protocol):
    """Y(t) is known as a function of W(t) alone."""

    def exact(self, t: float | Tensor, w: Tensor, y0: Tensor) -> Tensor:
        """Y(t) given W(t) = w and Y(0) = y0.

        Args:
            t: time >= 0, a number or a zero-dimensional tensor.
            w: W(t), law N(0, t I), (..., noise_dim).
            y0: (..., dim); its batch axes broadcast against those of w.

        Returns:
            (..., dim), differentiable in all three.

        Raises:
            TypeError, ValueError: t < 0 or not a number, wrong last axes, no floating-point tensors.
        """


@runtime_checkable
class HasExactMoments(Protocol):
    """E[Y(t)] and Cov[Y(t)] are known."""

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """E[Y(t) | Y(0) = y0], (..., dim) for y0 of shape (..., dim). Raises as `HasExactSolution.exact`."""

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """Cov[Y(t) | Y(0) = y0], (..., dim, dim) for y0 of shape (..., dim). Raises as `HasExactSolution.exact`."""


def as_array(name: str, value: Any, *shape: int | str) -> Tensor:
    """Return `value` as a finite float64 tensor; raise ValueError unless it has this shape.

    An axis is a length or a letter that stands for any positive length, everywhere the same. A number fits all ones.
    """
    array = torch.as_tensor(value, dtype=torch.float64)
    array = array.reshape([1] * len(shape)) if array.ndim == 0 else array
    lengths: dict[int | str, int] = {axis: axis for axis in shape if isinstance(axis, int)}
    if array.ndim != len(shape) or not all(
        size > 0 and lengths.setdefault(axis, size) == size for axis, size in zip(shape, array.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape ({', '.join(map(str, shape))}); got {tuple(array.shape)}")
    if not bool(array.isfinite().all()):
        raise ValueError(f"{name} must be finite; got {array.tolist()}")
    return array


def check_levy_area(levy_area: Tensor, noise_dim: int) -> None:
    """Raise unless `levy_area` is a floating-point tensor of shape (..., noise_dim, noise_dim)."""
    if check_floating("levy_area", levy_area).shape[-2:] != (noise_dim, noise_dim):
        raise ValueError(f"levy_area must have shape (..., {noise_dim}, {noise_dim}); got {tuple(levy_area.shape)}")


def affine_flow(matrix: Tensor, offset: Tensor, t: Tensor, start: Tensor) -> Tensor:
    """x(t) for x' = matrix x + offset, x(0) = start, by the exponential of [[matrix, offset], [0, 0]].

    Args:
        matrix: (n, n).
        offset: (n,).
        t: zero-dimensional.
        start: (..., n).

    Returns:
        (..., n) in the dtype of start.
    """
    n = len(offset)
    generator = start.new_zeros(n + 1, n + 1)
    generator[:n, :n] = matrix
    generator[:n, n] = offset
    flow = torch.linalg.matrix_exp(t * generator)[:n]
    return start @ flow[:, :n].mT + flow[:, n]


def quarter_turn(y: Tensor) -> Tensor:
    """(-y_1, y_0), the first two components turned by a right angle: (..., n >= 2) to (..., 2)."""
    return torch.stack([-y[..., 1], y[..., 0]], -1)


def outer(x: Tensor, y: Tensor) -> Tensor:
    """x y^T, (..., m, n) for x of shape (..., m) and y of shape (..., n)."""
    return x.unsqueeze(-1) * y.unsqueeze(-2)
