"""SEEDS-2 (Gonzalez et al. 2023, arXiv 2305.14267), in the canonical variables."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdesig.sampling.canonical import CanonicalSDE, ReverseScheme


class SEEDS2(ReverseScheme):
    """Single-step with two evaluations, over two steps of the grid, so that each has one evaluation:

        u_1 = u_0 + Q_0 db_1 + dM_1,
        u_2 = u_0 + [Q_0 + (Q_1 - Q_0)/(2 r)] (db_1 + db_2) + dM_1 + dM_2,
        r = (lambda_1 - lambda_0)/(lambda_2 - lambda_0).

    Every other state, u_1, is the inner stage: a step by `DPMSolver1`. An odd number of steps ends with one, of first
    order. Both increments are those of the path, which is how the two normal variables of SEEDS-2 are correlated. At
    eta = 1 without a reference this is also SDE-DPM-Solver++(2S), `sample_dpmpp_sde` of k-diffusion, whose r is 1/2; at
    eta = 0 DPM-Solver++(2S). Strong order 1, weak order 1; order 2 at eta = 0.
    """

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor] | None]:
        """The inner stage, whose memory is where the pair began, its state, Q and dM; or the pair's end, without."""
        drift = sde.drift(u, start)
        if memory is None:
            return sde.moved(start, end, u, drift, noise[0]), (start, u, drift, noise[0])
        first, state, last, increment = memory
        part = (start / first).log() / (end / first).log()
        extrapolated = last + (drift - last) / (2 * part)
        return sde.moved(first, end, state, extrapolated, increment + noise[0]), None
