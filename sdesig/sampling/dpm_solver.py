"""DPM-Solver++ of first and second order (Lu et al. 2022, arXiv 2211.01095), in the canonical variables."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdesig.sampling.canonical import CanonicalSDE, ReverseScheme


class DPMSolver1(ReverseScheme):
    """The Euler scheme in the drift clock: u' = u + Q db + dM.

    At eta = 1 without a reference, y' = y + D dtau + dB: SDE-DPM-Solver++(1). At eta = 0: DPM-Solver++(1), which is
    DDIM. Strong order 1, weak order 1.
    """

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, None]:
        """u + Q db + dM, with Q at the start of the step; no memory."""
        return sde.moved(start, end, u, sde.drift(u, start), noise[0]), None


class DPMSolver2M(ReverseScheme):
    """Multistep, with Q extrapolated to the middle of the step in log-SNR from this and the last evaluation:

        u' = u + [Q_n + r/2 (Q_n - Q_{n-1})] db + dM,   r = (lambda_{n+1} - lambda_n)/(lambda_n - lambda_{n-1})

    after a first step by `DPMSolver1`. At eta = 1 without a reference: SDE-DPM-Solver++(2M). At eta = 0:
    DPM-Solver++(2M). Strong order 1, weak order 1; order 2 at eta = 0.
    """

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """u + Q db + dM, with Q extrapolated; the memory is the last time and evaluation."""
        drift = extrapolated = sde.drift(u, start)
        if memory is not None:
            before, last = memory
            ratio = (end.log() - start.log()) / (start.log() - before.log())
            extrapolated = drift + ratio / 2 * (drift - last)
        return sde.moved(start, end, u, extrapolated, noise[0]), (start, drift)
