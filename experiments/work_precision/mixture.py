"""Reverse diffusion of a mixture of eight Gaussians on a circle, embedded in 64 dimensions, with its exact denoiser."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.comparison import import_peer
from experiments.work_precision.curves import Part, Problem, installed
from experiments.work_precision.packages import DTYPE, Diffrax, Ours, Torchsde
from sdesig.brownian import BrownianPath
from sdesig.sampling import CanonicalSDE, GaussianReference, SNRDenoiser
from sdesig.sde import SDE, Mixture

DIM = 64
START, END = -8.0, 8.0  # log-SNR
FINE, QUICK = 1024, 64  # steps of the truth
CELLS = 2**14  # so that steps that are no power of two are even too: uneven ones spoil multistep schemes
SCALE = math.exp(-START / 2)  # of x at the start
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class LogSNR(SDE):
    """dx = (D - x) ds + e^{-s/2} dW: the reverse diffusion of variance-exploding noise in s = log SNR, x = y/tau.

    A time in which fixed steps make sense, for packages whose steps have a fixed length in the SDE's time.
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__("diagonal", "ito", dim=DIM, noise_structure="additive")
        self.mixture = mixture

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """D(y tau, tau) - y."""
        snr = math.exp(float(t))
        return self.mixture.denoise_y(snr * y, snr) - y

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """e^{-t/2}."""
        return torch.full_like(y, math.exp(-float(t) / 2))


def mixture() -> Mixture:
    """Eight modes of deviation .3 on the unit circle of a random plane."""
    return Mixture.circle(1.0, 0.3, dtype=DTYPE).embed(DIM, torch.Generator().manual_seed(0))


def references(law: Mixture) -> dict[str, GaussianReference | None]:
    """What the path-average scheme may know of the data, by name."""
    covariance = law.covariance()
    variances, basis = torch.linalg.eigh(covariance)
    return {
        "no reference": None,
        "scalar reference": GaussianReference(law.mean(), (covariance.trace() / DIM).item()),
        "PCA reference": GaussianReference(law.mean(), variances, basis),
    }


def ours(law: Mixture, reference: GaussianReference | None, fine: int) -> Ours:
    """`CanonicalSDE` in the SNR, on steps even in its logarithm."""
    sde = CanonicalSDE(SNRDenoiser(law.denoise_y), reference=reference)
    first, last = math.exp(START), math.exp(END)

    def start(path: BrownianPath) -> Tensor:
        return sde.start(path.initial_noise(), first)

    def read(u: Tensor) -> Tensor:
        return sde.reference.from_reference(u, last) / last

    truth = ("path_average", fine)
    return Ours({"ito": sde}, DIM, start, truth, first, last, read, sde.clock, cells=CELLS)


def problem(quick: bool) -> Problem:
    """Ours with and without a Gaussian reference, the samplers of diffusion models, and Runge-Kutta schemes."""
    law, fine, steps = mixture(), QUICK if quick else FINE, (4, 8, 16) if quick else STEPS
    parts = [
        Part(ours(law, reference, fine), {"path_average": steps}, name) for name, reference in references(law).items()
    ]
    parts.append(Part(ours(law, None, fine), {"dpm_solver_1": steps, "dpm_solver_2m": steps, "shark": steps}))
    even = tuple(n for n in steps if n >= 16)  # fewer are unstable in `LogSNR`

    def noise(rows: int) -> Tensor:
        return SCALE * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(1), dtype=DTYPE)

    parts.append(
        Part(Torchsde({"ito": LogSNR(law)}, DIM, noise, ("srk", fine), START, END), {"euler": even, "srk": even})
    )
    if installed("diffrax"):
        parts.append(Part(_diffrax(law, fine), {"Euler": even, "ShARK": even}))
    return Problem(
        "mixture",
        f"Reverse diffusion of `Mixture.circle(1, .3)` embedded in {DIM} dimensions, log-SNR {START:g} to {END:g}, "
        f"x = y/tau at the end. Ours: `CanonicalSDE`, steps even in log-SNR. The others: the same SDE in x and "
        f"log-SNR (`LogSNR`), where steps of a fixed length make sense; at least 16, fewer are unstable. Truth: "
        f"{fine} steps of the path-average scheme (`srk`, ShARK)",
        parts,
        targets=(5e-2, 2e-2, 1e-2, 1e-3),
        remark="diffrax fuses the denoiser's operations when it compiles, so one of its evaluations costs less than "
        "one of ours; where the denoiser is a network, count evaluations instead.",
    )


def _diffrax(law: Mixture, fine: int) -> Diffrax:
    """`LogSNR` in jax, with the formula of `Mixture.denoise_y`."""
    jax, jnp, lineax = import_peer("jax"), import_peer("jax.numpy"), import_peer("lineax")
    means, variance = jnp.asarray(law.means.tolist()), law.covariances.item()

    def drift(s: Any, x: Any) -> Any:
        snr = jnp.exp(s)
        y, growth = snr * x, 1 + snr * variance
        residual = y[..., None, :] - snr * means
        weights = jax.nn.softmax(-jnp.square(residual).sum(-1) / (2 * snr * growth))
        shift = (weights[..., None] * residual).sum(-2) * variance / growth
        return weights @ means + shift - x

    return Diffrax(
        {"ito": drift},
        lambda s, x: lineax.DiagonalLinearOperator(jnp.exp(-s / 2) * jnp.ones_like(x)),
        DIM,
        lambda key, rows: SCALE * jax.random.normal(jax.random.fold_in(key, 1), (rows, DIM)),
        ("ShARK", fine),
        START,
        END,
        batched=("Euler", "ShARK"),
    )
