"""The problems, the samplers, and the distance in distribution of those without a feature extractor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from experiments.celeba64.setting import CPU as CELEBA
from experiments.cifar10.setting import CPU as CIFAR10
from experiments.image_study.study import SNR, Study
from experiments.mnist.setting import MNIST
from sdesig.digits import load_digits, load_features, load_teacher, path_space
from sdesig.evaluation import (
    CALIBRATED,
    CONVERGED,
    Comparison,
    Evaluation,
    FeatureExtractor,
    ImageSet,
    PerceptualDistance,
    Sampler,
    calibrated_sampler,
    evaluate,
    few_step_peers,
    file_digest,
    generator_sampler,
    load_extractor,
    load_perceptual,
    training_free,
)
from sdesig.images import peers_on_both_grids
from sdesig.sampling import (
    LAW_FOR_IMAGES,
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    choose_grid,
)
from sdesig.sde import Mixture
from sdesig.sigdeg import WEIGHTS, SigDEG

STEPS = (4, 5, 8, 10, 16, 40)
BEFORE, EVEN = "path-average-before", "path-average-even"
STUDENTS = ("depth-1", "depth-2", "depth-4")
CALIBRATED_OF = {
    "calibrated-grid": "path-average-grid",
    "calibrated-even": EVEN,
    "calibrated": "path-average",
    "calibrated-ipndm-4": "ipndm-4",
}
"""Keys of calibrated samplers, and of those without."""
OURS = (
    *(BEFORE, EVEN, "path-average-grid", "path-average-law", "path-average", "path-average-flow"),
    *(*CALIBRATED_OF, *STUDENTS, *(key + CALIBRATED for key in STUDENTS)),
)
"""Keys of ours: even steps without a free step and without the correction; even steps; the chosen grid; one chosen for
the distribution in a share of its steps; without a reference; the probability flow. This one is on the chosen grid, for
images on that for the distribution. A calibrated iPNDM-4 is nobody's but ours, too. Students are on even steps."""
LAW = 0.5
IMAGE_STEPS, MANY = (5, 8, 10), 50
"""Steps of the samplers of images, and those in which students must be no worse than before their training."""
NUMBERS = 100 * 32**2
"""Pixels of the images that are drawn at once."""
IMAGE_PEERS = (
    *("dpm-solver++2m", "dpm-solver++3m", "ipndm-4", "sde-dpm++2m", "er-sde-3"),
    *("unipc", "deis", "sa-solver"),
)
"""Keys of the samplers of others that are asked for images."""
STUDENT_PEERS = ("unipc", "deis", "sde-dpm++2m")
"""Those that are asked beside students."""


@dataclass(frozen=True)
class Problem:
    """A teacher, whose paths are compared.

    Attributes:
        title: for the report.
        teacher, space: D(y, snr), and the meaning of a seed; the grid does not matter.
        seeds: of every row, and of the teacher's own law.
        data, extractor: real data and features for a Frechet distance; without them MMD is measured.
        perceptual: distance of images to those of the converged paths.
        steps: numbers of steps of every sampler.
        law: share of the steps of "path-average-law" that lie where the distribution needs them.
        truth_steps: of the converged paths.
        block: seeds that are drawn at once.
        students: generators that were trained on the teacher, by key, and the digests of their weights.
    """

    title: str
    teacher: SNRDenoiser
    space: PathSpace
    seeds: int
    data: Tensor | ImageSet | None = None
    extractor: FeatureExtractor | None = None
    perceptual: PerceptualDistance | None = None
    steps: tuple[int, ...] = STEPS
    law: float = LAW
    truth_steps: int = 512
    block: int = 1000
    students: Mapping[str, tuple[SigDEG, str]] = field(default_factory=dict)

    @property
    def distance(self) -> str:
        """The name of the distance."""
        if self.extractor is None:
            return "MMD^2"
        return self.extractor.frechet_name if self.images else "Frechet distance of the classifier's features"

    @property
    def images(self) -> bool:
        """Whether the samples are images."""
        return isinstance(self.data, ImageSet)


@dataclass(frozen=True)
class OfImages:
    """A problem of images.

    Attributes:
        study: that has a committed teacher.
        seeds: of every row.
        students: whether its students are asked, on paths as deep as they see, beside fewer samplers of others.
    """

    study: Study
    seeds: int
    students: bool = False


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


def of_images(asked: OfImages, source: str, extractor: str, runs: Path, perceptual: str | None = None) -> Problem:
    """The committed teacher and students of a study, its training images, and the features and distance of files."""
    study = asked.study
    images = study.images(source, runs / "data")
    folders = {key: study.student_folder(key, runs) for key in STUDENTS} if asked.students else {}
    students = {key: (SigDEG.load(f), file_digest(f / WEIGHTS)) for key, f in folders.items() if f is not None}
    teacher = study.trained_teacher(images, runs, torch.device("cpu")).requires_grad_(False)
    depth = max([2, *(student.depth for student, _ in students.values())])
    space = PathSpace(teacher.event, SNR, study.reference(images, "dct"), depth=depth)
    title = study.title.removeprefix("Sig-DEG on ") + (", students" if asked.students else "")
    return Problem(
        title,
        teacher,
        space,
        asked.seeds,
        study.compared_with(images),
        load_extractor(extractor),
        None if perceptual is None else load_perceptual(perceptual),
        steps=IMAGE_STEPS,
        law=LAW_FOR_IMAGES,
        truth_steps=128,
        block=NUMBERS // math.prod(space.event[1:]),
        students=students,
    )


IMAGES = {
    "mnist": OfImages(MNIST, 4000),
    "mnist-students": OfImages(MNIST, 650, students=True),
    "cifar10": OfImages(CIFAR10, 1000),
    "cifar10-students": OfImages(CIFAR10, 300, students=True),
    "celeba": OfImages(CELEBA, 1000),
}
"""Their data are files that the command line names."""
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "mixture-1-0.3": lambda: of_mixture("Mixture(1, .3)", Mixture.circle(1.0, 0.3, dtype=torch.float32), 3000),
    "mixture-1.5-0.1": lambda: of_mixture("Mixture(1.5, .1)", Mixture.circle(1.5, 0.1, dtype=torch.float32), 3000),
    "mixture-64": lambda: of_mixture("Mixture of 12 modes, d = 64", anisotropic(), 3000),
    "digits": of_digits,
}


def grids_of(problem: Problem, folder: Path) -> dict[str, StepGrid]:
    """Even steps behind a free one, the chosen grid and that for the distribution, measured once."""
    options = {"even": {"steps": StepGrid()}, "grid": {}, "law": {"law": problem.law}}
    found = {}
    for name, chosen in options.items():
        file = folder / f"{name}.json"
        if not file.exists():
            kept, recorded = folder / "grid-cells.safetensors", {"problem": problem.title}
            grid = choose_grid(problem.teacher, problem.space, kept=kept, recorded=recorded, **chosen)  # type: ignore[arg-type]
            grid.save(file)
        found[name] = StepGrid.load(file)
    return found


def samplers_of(problem: Problem, grids: dict[str, StepGrid], folder: Path) -> list[Sampler]:
    """Ours, and those of others, each on even steps and on Karras' grid; calibrations are kept in a folder."""
    steps = problem.steps
    made = training_free(replace(problem.space, grid=grids["law" if problem.images else "grid"]), steps)
    referenced = made["path-average-reference"]
    before = PathAverage(correction=0.0)
    many = (*steps, MANY) if problem.students else steps
    ours = [
        replace(referenced, key=BEFORE, label="path-average, even, no free step, kappa = 0", scheme=before),
        replace(referenced, key=EVEN, label="path-average, even", grid=grids["even"], steps=many),
        replace(made["path-average-grid"], label="path-average, chosen grid", grid=grids["grid"]),
        replace(referenced, key="path-average-law", label="path-average, law's grid", grid=grids["law"]),
        replace(made["path-average"], label="path-average, no reference"),
        made["path-average-flow"],
        *(
            generator_sampler(key, student, many, f"Sig-DEG, depth {student.depth}", digest, ema=True)
            for key, (student, digest) in problem.students.items()
        ),
    ]
    others = few_step_peers(problem.space, steps) | peers_on_both_grids(problem.teacher, problem.space, steps)
    asked = STUDENT_PEERS if problem.students else IMAGE_PEERS
    chosen = [key for key in others if not problem.images or key.removesuffix("-karras") in asked]
    plain = {sampler.key: sampler for sampler in (*ours, *others.values())}
    asked_of = CALIBRATED_OF if not problem.students else {key + CALIBRATED: key for key in problem.students}
    calibrated = [calibrated_as(key, replace(plain[of], steps=steps), problem, folder) for key, of in asked_of.items()]
    return [*ours, *calibrated, *(others[key] for key in chosen)]


def calibrated_as(key: str, sampler: Sampler, problem: Problem, folder: Path) -> Sampler:
    """A sampler calibrated at its numbers of steps, in the coordinates of the reference's basis."""
    file = folder / f"{key}{sampler.digest[:8]}.safetensors"
    return replace(calibrated_sampler(sampler, problem.teacher, problem.space, file=file), key=key)


def evaluated(
    problem: Problem, samplers: Sequence[Sampler], folder: Path | None = None, *, progress: bool = True
) -> tuple[Evaluation, MMD | None]:
    """Rows of samplers on the seeds of a problem, with "distance", that to the teacher's own law, and "distance_se".

    Those that follow the paths have "perceptual" and "perceptual_se" where the problem has a perceptual distance.

    Returns:
        The rows and samples, and the MMD by which distances were measured, if there are no features.
    """
    comparison = Comparison(problem.teacher, problem.space, truth_steps=problem.truth_steps, batch=problem.block)
    extractors = [] if problem.extractor is None else [problem.extractor]
    law = range(problem.seeds, 2 * problem.seeds)
    found = evaluate(
        comparison,
        samplers,
        problem.data,
        folder,
        seeds=range(problem.seeds),
        extractors=extractors,
        perceptual=[] if problem.perceptual is None else [problem.perceptual],
        law=law,
        progress=progress,
    )
    assert found.law is not None
    kernel = None if extractors else MMD(found.law.samples(CONVERGED, comparison.truth_steps))
    for row in found.rows:
        for number in row["measured"]:
            if problem.perceptual is not None and number["metric"] == problem.perceptual.name:
                row["perceptual"], row["perceptual_se"] = number["value"], number["standard_error"]
        if kernel is None:
            row["distance"], row["distance_se"] = row["law_frechet_distance"], row["law_frechet_distance_se"]
        else:
            row["distance"], row["distance_se"] = kernel(found.store.samples(row["key"], row["steps"]))
    return found, kernel


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
