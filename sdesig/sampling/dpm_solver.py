"""DPM-Solver++, multistep (Lu et al. 2022, arXiv 2211.01095), in the canonical variables."""

from __future__ import annotations

from typing import Any

import torch
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


class DPMSolver3M(ReverseScheme):
    """Multistep, with Q extrapolated by Newton's divided differences of the last three evaluations in log-SNR:

        u' = u + [Q_n + phi_2 h (g_n + h_1 k_n) - phi_3 h^2 k_n] db + dM,    h = lambda_{n+1} - lambda_n,
        g_n = (Q_n - Q_{n-1})/h_1,    k_n = (g_n - g_{n-1})/(h_1 + h_2),    h_1, h_2 the steps before this one,
        phi_2 = [1 - (1 - e^-H)/H]/(1 - e^-H),    phi_3 = phi_2/H - (1/2)/(1 - e^-H),    H = (1 + eta^2) h

    after a first step by `DPMSolver1` and a second without k. At eta = 1 without a reference:
    SDE-DPM-Solver++(3M), as `sample_dpmpp_3m_sde` of k-diffusion has it. At eta = 0: DPM-Solver++(3M), as
    `multistep_dpm_solver_third_update` of the authors' code and diffusers have it. phi_2 is the average of (lambda -
    lambda_n)/h over the drift clock of no reference. That of its square is -2 phi_3: all that code has half of it, so
    one part of order 2 stays in the error. Strong order 1, weak order 1; order 2 at eta = 0.
    """

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]]:
        """u + Q db + dM, with Q extrapolated; the memory is time, evaluation, and the last step with its slope g."""
        drift = extrapolated = sde.drift(u, start)
        difference = None
        if memory is not None:
            before, last, earlier = memory
            step, last_step = (end / start).log() / 2, (start / before).log() / 2
            phi_2, phi_3 = _phis((1 + sde.eta**2) * step)
            slope = (drift - last) / last_step
            difference = last_step, slope
            extrapolated = drift + phi_2 * step * slope
            if earlier is not None:
                earlier_step, earlier_slope = earlier
                curvature = (slope - earlier_slope) / (last_step + earlier_step)
                extrapolated = extrapolated + step * (phi_2 * last_step - phi_3 * step) * curvature
        return sde.moved(start, end, u, extrapolated, noise[0]), (start, drift, difference)


def _phis(length: Tensor) -> tuple[Tensor, Tensor]:
    """phi_2 and phi_3 at H = `length`, over 1 - e^-H."""
    passed = -torch.expm1(-length)
    phi_2 = 1 - passed / length
    return phi_2 / passed, (phi_2 / length - 1 / 2) / passed
