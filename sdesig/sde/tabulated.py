"""The variance-preserving diffusion of a discrete table, such as a DDPM's, on a continuous index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdesig._checks import check_step, readable
from sdesig._devices import to_device
from sdesig.sde.diffusions import Diffusion

SLACK = 1e-6
"""Times and SNRs beyond an end by this share, or less, are taken for the end: float32 rounding of values in between."""


class TabulatedVP(Diffusion):
    """alpha^2 = alphas_cumprod[t] and sigma^2 = 1 - alphas_cumprod[t] at the indices t = 0, 1, ..., T - 1.

    Between them the logarithm of the SNR is linear in t, so that it stays monotone and its inverse is exact. At the
    indices alpha and sigma are those of the table to a few rounding units of float64 (to 1e-14, relative), whatever the
    precision in which it was made.

    A table whose last entries are zero (zero terminal SNR: Lin et al. 2024, arXiv 2305.08891) ends at its last positive
    one: the SNR has no logarithm beyond. Times outside [0, T - 1] and SNRs outside `snr_range` are refused.

    Args:
        alphas_cumprod: (T >= 2,), strictly decreasing, in (0, 1): prod_{s <= t} (1 - beta_s) of Ho et al. 2020 (arXiv
            2006.11239, eq. 4) or `scheduler.alphas_cumprod` of diffusers.

    Raises:
        ValueError: another table.
    """

    t_min = 0.0  # the first index; its sigma is positive

    def __init__(self, alphas_cumprod: Sequence[float] | Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).detach().cpu()
        if table.ndim == 1 and bool((table == 0).any()):
            table = table[: int((table != 0).nonzero().max()) + 1 if bool(table.any()) else 0]
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(
                f"alphas_cumprod must have two positive entries or more, in one row; got shape {tuple(table.shape)}"
            )
        for what, bad in (
            ("in (0, 1)", ~((table > 0) & (table < 1))),
            ("strictly decreasing", torch.cat([torch.tensor([False]), table.diff() >= 0])),
        ):
            if bool(bad.any()):
                k = int(bad.nonzero()[0])
                raise ValueError(f"alphas_cumprod must be {what}; entry {k} is {table[k].item()}")
        self._log_snr = table.log() - torch.log1p(-table)

    def __repr__(self) -> str:
        return f"TabulatedVP({len(self._log_snr)} entries)"

    @property
    def t_max(self) -> float:
        """The last index with a positive alpha."""
        return float(len(self._log_snr) - 1)

    @property
    def snr_range(self) -> tuple[float, float]:
        """Least and largest SNR, at t_max and at t_min."""
        return self._log_snr[-1].exp().item(), self._log_snr[0].exp().item()

    @property
    def _domain(self) -> tuple[float, float]:
        return 0.0, self.t_max * (1 + SLACK)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Linear between the entries."""
        t = self.check_time(t)
        return self._interpolated(t).to(t.dtype)

    def alpha(self, t: Tensor | float) -> Tensor:
        """sqrt(alphas_cumprod)."""
        t = self.check_time(t)
        return torch.sigmoid(self._interpolated(t)).sqrt().to(t.dtype)

    def sigma(self, t: Tensor | float) -> Tensor:
        """sqrt(1 - alphas_cumprod)."""
        t = self.check_time(t)
        return torch.sigmoid(-self._interpolated(t)).sqrt().to(t.dtype)

    def time(self, snr: Tensor | float) -> Tensor:
        """The index at which log SNR has this value.

        Raises:
            TypeError, ValueError: unless snr is in `snr_range`.
        """
        tau = check_step("snr", snr)
        low, high = self.snr_range
        outside = (tau < low * (1 - SLACK)) | (tau > high * (1 + SLACK))
        if readable(tau) and bool(outside.any()):
            raise ValueError(
                f"snr must be in [{low:.6g}, {high:.6g}], the range of {self!r}; got {tau[outside].flatten()[0].item()}"
            )
        table, value = to_device(self._log_snr, tau.device), tau.double().log()
        left = (torch.searchsorted(-table, -value, right=True) - 1).clamp(0, len(table) - 2)
        share = (value - table[left]) / (table[left + 1] - table[left])
        return (left + share.clamp(0, 1)).to(tau.dtype)

    def drift_coefficient(self, t: Tensor | float) -> Tensor:
        """f = sigma^2/2 d(log SNR)/dt, the derivative from the right (at t_max from the left)."""
        return -self.squared_diffusion(t) / 2

    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g^2 = -2 f."""
        t = self.check_time(t)
        table, left = self._left(t)
        slope = table[left + 1] - table[left]
        return (-slope * torch.sigmoid(-self._interpolated(t))).to(t.dtype)

    def _left(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The table on the device of t, and the index of the entry at or before t, but the last."""
        return to_device(self._log_snr, t.device), t.floor().long().clamp(0, len(self._log_snr) - 2)

    def _interpolated(self, t: Tensor) -> Tensor:
        """log SNR at times that are checked, in float64."""
        table, left = self._left(t)
        return torch.lerp(table[left], table[left + 1], (t.double() - left).clamp(0, 1))
