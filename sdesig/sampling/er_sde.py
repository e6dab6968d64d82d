"""ER-SDE-Solver-3 (Cui et al. 2023, arXiv 2309.06169)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdesig._devices import beside
from sdesig.brownian import BrownianPath
from sdesig.sampling.canonical import CanonicalSDE, ReverseScheme
from sdesig.sampling.gaussian_reference import drift_clock
from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature

_NODES = 100


def recommended_noise(s: Tensor) -> Tensor:
    """phi(s) = s (exp(s^0.3) + 10), which the authors recommend: "ER SDE 5" of appendix A.8."""
    return s * ((s**0.3).exp() + 10)


class ERSDESolver3(ReverseScheme):
    """Multistep, for the extended reverse SDE of a noise function phi. With s = sigma/alpha and z = x/alpha:

        z' = r z + (1 - r) D_n + [s' - s + phi(s') int_{s'}^s dq/phi(q)] d_n
             + [(s' - s)^2/2 + phi(s') int_{s'}^s (q - s)/phi(q) dq] e_n + sqrt(s'^2 - r^2 s^2) xi,
        r = phi(s')/phi(s),    d_n = (D_n - D_{n-1})/(s_n - s_{n-1}),    e_n = 2 (d_n - d_{n-1})/(s_n - s_{n-2}),

    after a first step with D alone and a second without e: Taylor's formula at s_n, where d stands for the first
    derivative and e for the second. The integrals are a sum over 100 points from s' on. All is as in the authors'
    `vp_3_order_taylor`. xi ~ N(0, I) is the increment of the path by its standard deviation.

    Every phi has the marginals of the diffusion, but another process: phi = s^2 is the SDE of eta = 1, phi = s the
    probability flow. So the limit of many steps is the solution of the `CanonicalSDE` for phi = s^2 only. It is run on
    the variables and paths of eta = 1. Strong order 1 towards its own limit, weak order 1.

    Args:
        noise_function: phi, of float64 tensors; phi(s)/s must not decrease.
    """

    own_noise = True

    def __init__(self, noise_function: Callable[[Tensor], Tensor] = recommended_noise) -> None:
        self.noise_function = noise_function

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """The noise structure, checked as for every reverse scheme; raise ValueError also unless eta is 1."""
        structure = super().check(sde, y0, path)
        if isinstance(sde, CanonicalSDE) and sde.eta != 1:
            raise ValueError(f"ERSDESolver3 runs on the paths of eta = 1; the SDE's eta is {sde.eta:g}")
        return structure

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """xi, (n, *shape)."""
        return (signatures.coefficients[0],)

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        """The state at `end`; the memory are s, D and d of the last two steps, the last one first."""
        s, next_s = start.rsqrt(), end.rsqrt()
        ratio = self.noise_function(next_s) / self.noise_function(s)
        denoised = sde.denoised(u, start).to(u)
        moved = ratio * sde.noisy_data(u, start) + (1 - ratio) * denoised
        now: tuple[Tensor, ...] = s, denoised
        if memory is not None:
            first, second = self._integrals(s, next_s)
            last_s, last, *last_slope = memory[0]
            slope = (denoised - last) / (s - last_s)
            moved, now = moved + first * slope, (s, denoised, slope)
            if last_slope:
                curvature = 2 * (slope - last_slope[0]) / (s - memory[1][0])
                moved = moved + second * curvature
        spread = (next_s**2 - (ratio * s) ** 2).sqrt()
        moved = moved + spread * sde.reference.from_basis(noise[0])
        state = sde.reference.to_reference(beside(drift_clock(end), u) * moved, end)[0]
        return state, (now, *(memory or ())[:1])

    def _integrals(self, s: Tensor, next_s: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of d and e."""
        length = s - next_s
        points = next_s + length * torch.arange(_NODES, dtype=s.dtype, device=s.device) / _NODES
        weights = self.noise_function(next_s) / self.noise_function(points) * length / _NODES
        return weights.sum() - length, length**2 / 2 + (weights * (points - s)).sum()
