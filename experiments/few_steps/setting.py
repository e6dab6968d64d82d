"""The problems, the samplers, and the distance in distribution of those without a feature extractor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sdesig.digits import load_digits, load_features, load_teacher, path_space
from sdesig.evaluation import FeatureExtractor, Sampler, few_step_peers, training_free
from sdesig.images import peers_on_both_grids
from sdesig.sampling import GaussianReference, PathAverage, PathSpace, SNRDenoiser, StepGrid, choose_grid
from sdesig.sde import Mixture

STEPS = (4, 5, 8, 10, 16, 40)
BEFORE, EVEN = "path-average-before", "path-average-even"
OURS = (BEFORE, EVEN, "path-average-grid", "path-average-law", "path-average-flow")
"""Keys of ours: even steps without a free step and without the correction; even steps; the chosen grid; one chosen for
the distribution in half of its steps; the probability flow on the chosen grid."""
LAW = 0.5


@dataclass(frozen=True)
class Problem:
    """A teacher, whose paths are compared.

    Attributes:
        title: for the report.
        teacher, space: D(y, snr), and the meaning of a seed; the grid does not matter.
        seeds: of every row, and of the teacher's own law.
        data, extractor: real data and features for a Frechet distance; without them MMD is measured.
    """

    title: str
    teacher: SNRDenoiser
    space: PathSpace
    seeds: int
    data: Tensor | None = None
    extractor: FeatureExtractor | None = None


def of_mixture(title: str, law: Mixture, seeds: int) -> Problem:
    """A mixture, whose denoiser is exact, with a scalar reference."""
    reference = GaussianReference(law.mean(), law.covariance().trace().item() / law.dim)
    space = PathSpace((law.dim,), (math.exp(-8), math.exp(8)), reference)
    return Problem(title, SNRDenoiser(law.denoise_y), space, seeds)


def anisotropic(dim: int = 64, modes: int = 12) -> Mixture:
    """Modes at random, with standard deviations and distances that fall along the coordinates like k^(-3/4)."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1, dtype=torch.float32) ** -0.75
    means = torch.randn(modes, dim, generator=generator) * scale
    return Mixture(torch.full((modes,), 1 / modes), means, torch.diag((0.3 * scale) ** 2).expand(modes, dim, dim))


def of_digits() -> Problem:
    """The shipped teacher, by the features of the shipped classifier."""
    space = replace(path_space(), depth=2)
    return Problem("8 x 8 digits", load_teacher(), space, 2000, load_digits()[0], load_features())


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "mixture-1-0.3": lambda: of_mixture("Mixture(1, .3)", Mixture.circle(1.0, 0.3, dtype=torch.float32), 3000),
    "mixture-1.5-0.1": lambda: of_mixture("Mixture(1.5, .1)", Mixture.circle(1.5, 0.1, dtype=torch.float32), 3000),
    "mixture-64": lambda: of_mixture("Mixture of 12 modes, d = 64", anisotropic(), 3000),
    "digits": of_digits,
}


def grids_of(problem: Problem, folder: Path) -> dict[str, StepGrid]:
    """Even steps behind a free one, the chosen grid and that for the distribution, measured once."""
    options = {"even": {"even": True}, "grid": {}, "law": {"law": LAW}}
    found = {}
    for name, chosen in options.items():
        file = folder / f"{name}.json"
        if not file.exists():
            choose_grid(problem.teacher, problem.space, **chosen).save(file)  # type: ignore[arg-type]
        found[name] = StepGrid.load(file)
    return found


def samplers_of(problem: Problem, grids: dict[str, StepGrid]) -> list[Sampler]:
    """Ours, and those of others, each on even steps and on Karras' grid."""
    space = replace(problem.space, grid=grids["grid"])
    made = training_free(space, STEPS)
    referenced = made["path-average-reference"]
    before = PathAverage(correction=0.0)
    ours = [
        replace(referenced, key=BEFORE, label="path-average, even, no free step, kappa = 0", scheme=before),
        replace(referenced, key=EVEN, label="path-average, even", grid=grids["even"]),
        replace(made["path-average-grid"], label="path-average, chosen grid"),
        replace(referenced, key="path-average-law", label="path-average, law's grid", grid=grids["law"]),
        made["path-average-flow"],
    ]
    by_diffusers = peers_on_both_grids(problem.teacher, problem.space, STEPS)
    return [*ours, *few_step_peers(problem.space, STEPS).values(), *by_diffusers.values()]


class MMD:
    """The unbiased estimate of the squared maximum mean discrepancy to a law (Gretton et al. 2012, Journal of Machine
    Learning Research 13, lemma 6).

    The kernel is the mean of Gaussian kernels exp(-|a - b|^2/(2 h^2)) of bandwidths h: .2, .5 and 1 times the
    root mean square of the law's samples about their mean.

    Args:
        law: samples of it, (m, d).
    """

    def __init__(self, law: Tensor) -> None:
        self._law = law
        spread = (law - law.mean(0)).square().sum(1).mean().sqrt().item()
        self._bandwidths = [part * spread for part in (0.2, 0.5, 1.0)]
        self._own = self._mean_without_diagonal(law)

    def __call__(self, samples: Tensor) -> tuple[float, float]:
        """The estimate for samples (n, d), and its standard error over both sets (delta method)."""
        own, of_samples, of_law = self._parts(samples)
        value = own.mean() + self._own.mean() - 2 * of_samples.mean()
        variances = (own - of_samples).var() / len(samples) + (self._own - of_law).var() / len(self._law)
        return value.item(), 2 * variances.sqrt().item()

    def difference(self, samples: Tensor, others: Tensor) -> tuple[float, float]:
        """The distance of samples less that of others of the same seeds, and its standard error."""
        parts, of_others = self._parts(samples), self._parts(others)
        own, of_samples, of_law = (one - other for one, other in zip(parts, of_others, strict=True))
        value = own.mean() - 2 * of_samples.mean()
        variances = (own - of_samples).var() / len(samples) + of_law.var() / len(self._law)
        return value.item(), 2 * variances.sqrt().item()

    def _parts(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean kernels of every sample with the other ones, of every sample with the law, and of the law with all."""
        kernel = self._kernel(samples, self._law)
        return self._mean_without_diagonal(samples), kernel.mean(1), kernel.mean(0)

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        squares = torch.cdist(a, b).square()
        return torch.stack([torch.exp(-squares / (2 * h**2)) for h in self._bandwidths]).mean(0)

    def _mean_without_diagonal(self, a: Tensor) -> Tensor:
        kernel = self._kernel(a, a)
        return (kernel.sum(1) - kernel.diagonal()) / (len(a) - 1)
