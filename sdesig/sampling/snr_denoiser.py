"""The contract of a denoiser D(y, snr), in the canonical variables; that of a D(x, t) is in `sdesig.sde.base`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sdesig._checks import check_denoised, check_real
from sdesig.sde.base import check_denoiser


class SNRDenoiser(nn.Module):
    """A denoiser D(y, snr) = E[x_0 | y] in the canonical variables (`sdesig.sampling.canonical`).

    The type tells it from a D(x, t), which has the same signature: `SNRDenoiser(f)` for a function f(y, snr),
    `CanonicalDenoiser(D, diffusion)` for a D(x, t).

    Args:
        denoiser: f(y, snr), for y of shape (batch, *event) and snr () or (batch,); returns (batch, *event). A module is
            a part of this one: its parameters are this one's.
        eta: the stochasticity that y belongs to.

    Raises:
        TypeError, ValueError: an object that cannot be called or is a D(y, snr) already, a negative eta.
    """

    variables = "y, snr"

    def __init__(self, denoiser: Callable[..., Tensor], eta: float = 1.0) -> None:
        super().__init__()
        self.denoiser = check_denoiser("denoiser", denoiser)
        self.eta = check_real("eta", eta, minimum=0.0)

    def __repr__(self) -> str:
        name = getattr(self.denoiser, "__qualname__", type(self.denoiser).__name__)
        numbers = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self).__name__}({name}, eta={self.eta:g}, {numbers} parameters)"

    def forward(self, y: Tensor, snr: Tensor | float, *inputs: object) -> Tensor:
        """E[x_0 | y], shape (batch, *event), for y of that shape and snr () or (batch,); `inputs` are handed on.

        Raises:
            TypeError, ValueError: what is wrapped returns no tensor, or another shape.
        """
        return check_denoised(self._denoise(y, snr, *inputs), y)

    def _denoise(self, y: Tensor, snr: Tensor | float, *inputs: object) -> Tensor:
        return self.denoiser(y, snr, *inputs)


def check_snr_denoiser(name: str, value: object, eta: float = 1.0) -> SNRDenoiser:
    """Return `value`; raise TypeError unless it is a D(y, snr), marked as such, ValueError if it is for another eta."""
    if not isinstance(value, SNRDenoiser):
        raise TypeError(
            f"{name} must be a D(y, snr): SNRDenoiser(f) for a function f(y, snr) of the canonical variables, "
            f"CanonicalDenoiser(D, diffusion) for a D(x, t); got {type(value).__name__}"
        )
    if value.eta != eta:
        raise ValueError(f"eta must be the {name}'s, {value.eta:g}; got {eta:g}")
    return value
