"""`python -m experiments.few_steps.tried`: changes of the path-average scheme that do not help, or not everywhere.

At equal evaluations, on even steps behind the free one, beside the scheme as it is. Writes tried.json and tried.md to
experiments/few_steps/results. With --data and --extractor also on MNIST, with references of other bases. Twenty minutes
of one core, five without MNIST.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.few_steps.setting import IMAGES, PROBLEMS, Problem, evaluated, of_images
from sdesig.evaluation import (
    FeatureExtractor,
    Sampler,
    markdown_table,
    paired_ratio,
    replacing,
    to_uint8,
    write_json,
)
from sdesig.sampling import CanonicalSDE, GaussianReference, PathAverage, PathSpace, SNRDenoiser, StepGrid, choose_grid
from sdesig.sampling.path_average import evaluation_fraction, evaluation_snr
from sdesig.solvers import ShARK

RESULTS = Path(__file__).parent / "results"
STEPS = (4, 8, 10, 16)
IMAGE_STEPS = (6, 10)
TRIED_ON = ("mixture-1.5-0.1", "mixture-64", "digits")
SEEDS, IMAGE_SEEDS = 2000, 300
PATCH = 7
"""Sides of the patches whose principal components are a basis; they divide those of the images."""

Memory = tuple[Tensor, Tensor, Tensor | None]


class Changed(PathAverage):
    """Path-average with a change.

    Args:
        ahead: a, of the memory that u* goes along, Q_{n-1} + a g (Q_{n-1} - Q_{n-2}), with the correction's gate g.
        second: k, of a further correction along k g^2 (Q_n - 2 Q_{n-1} + Q_{n-2}).
        again: s in (0, 1], for two evaluations: the first where a variance of s^2/3 of the step's has passed, with s
            times the average of the noise; u* goes along it. Up to O(h^2) both have the mean of Q.
        weights: of the coordinates, in whose mean a third of the clock has passed at tau*: "equal" or "variance";
            "": the clock of their mean variance.
    """

    def __init__(self, *, ahead: float = 0.0, second: float = 0.0, again: float = 0.0, weights: str = "") -> None:
        super().__init__()
        self.ahead, self.second, self.again, self.weights = ahead, second, again, weights

    def __repr__(self) -> str:
        return f"Changed({self.ahead:g}, {self.second:g}, {self.again:g}, {self.weights!r})"

    def start(self, sde: Any, t: Tensor, y: Tensor) -> Memory:  # type: ignore[override]
        """Q_{-1} = Q_{-2} = 0, and no correction."""
        return torch.zeros_like(y), torch.zeros_like(y), None

    def advance(  # type: ignore[override]
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Memory, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Memory]:
        """As `PathAverage.advance`; the memory also has the Q before the last."""
        last, before, correction = memory
        u = u if correction is None else u + correction
        gate = (1 - start / end) ** 2
        along = last + self.ahead * gate * (last - before)
        if self.again:
            time = evaluation_snr(sde, start, end, self.again**2 / 3)
            point = self.evaluation_point(sde, start, time, end, u, along, (self.again * noise[0],))
            along = sde.drift(point, time)
        time = self._time(sde, start, end)
        drift = sde.drift(self.evaluation_point(sde, start, time, end, u, along, noise), time)
        change = self.correction * gate * (drift - last) + self.second * gate**2 * (drift - 2 * last + before)
        length = sde.drift_clock.length(start, end).to(u)
        return sde.moved(start, end, u, drift, noise[0][0]), (drift, last, length * change)

    def _time(self, sde: CanonicalSDE, start: Tensor, end: Tensor) -> Tensor:
        """tau*, in a third of a step by the clock that is asked for."""
        if not self.weights:
            return evaluation_snr(sde, start, end, evaluation_fraction(sde.eta))
        c, length = sde.reference.variance, sde.drift_clock.length
        shares = torch.ones_like(c) if self.weights == "equal" else c
        low, high = start, end
        for _ in range(40):
            middle = (low * high).sqrt()
            passed = (shares * length(start, middle) / length(start, end)).sum() / shares.sum()
            low, high = (low, middle) if passed > 1 / 3 else (middle, high)
        return (low * high).sqrt()


CHANGES = {
    "two evaluations: ShARK in the reference's variables": (ShARK(), 2),
    "two evaluations: the first at the average": (Changed(again=1.0), 2),
    "two evaluations: the first at half of the average": (Changed(again=0.5), 2),
    "memory with two past evaluations, a = 0.3": (Changed(ahead=0.3), 1),
    "memory with two past evaluations, a = 1": (Changed(ahead=1.0), 1),
    "second difference of Q, k = 0.1": (Changed(second=0.1), 1),
    "second difference of Q, k = -0.1": (Changed(second=-0.1), 1),
    "tau* at a third for the mean coordinate": (Changed(weights="equal"), 1),
    "tau* at a third for the mean by variance": (Changed(weights="variance"), 1),
}
"""Scheme and evaluations a step, by what is changed."""


@dataclass(frozen=True)
class Found:
    """What was measured of one sampler: errors, (seeds,), by the number of evaluations, and distances to the law."""

    errors: dict[int, Tensor]
    distances: dict[int, tuple[float, float]]


def measured(problem: Problem, samplers: Sequence[Sampler]) -> Iterator[Found]:
    """Of each sampler, on the seeds of the problem."""
    found, _ = evaluated(problem, samplers, progress=False)
    rows = {(row["key"], row["steps"]): row for row in found.rows}
    for sampler in samplers:
        errors, distances = {}, {}
        for steps in sampler.steps:
            row, own = rows[sampler.key, steps], found.store.errors(sampler.key, steps)
            assert own is not None
            count = steps * sampler.evaluations
            errors[count] = own
            distances[count] = row["distance"], row["distance_se"]
        yield Found(errors, distances)


def lines(title: str, names: Sequence[str], found: Sequence[Found], base: Found) -> list[dict[str, Any]]:
    """A line of the table for every sampler, with the paired ratio of its error to that of the base."""
    made = []
    for name, one in zip(names, found, strict=True):
        line: dict[str, Any] = {"problem": title, "change": name}
        for count, errors in one.errors.items():
            line[f"ratio_{count}"] = None if one is base else paired_ratio(errors, base.errors[count])
            line[f"rmse_{count}"] = errors.square().mean().sqrt().item()
            line[f"distance_{count}"] = one.distances[count]
        made.append(line)
    return made


def schemes(problem: Problem, counts: Sequence[int]) -> list[dict[str, Any]]:
    """The changes of the scheme, on the same grid; those of tau* where coordinates have different clocks."""
    grid = choose_grid(problem.teacher, problem.space, steps=StepGrid(), progress=False)
    one_clock = problem.space.reference.variance.ndim == 0
    all_of = {"none": (PathAverage(), 1), **CHANGES}
    if one_clock:
        all_of = {name: made for name, made in all_of.items() if not name.startswith("tau*")}
    samplers = [
        Sampler(
            f"tried-{k}",
            name,
            tuple(count // each for count in counts),
            scheme=scheme,
            referenced=True,
            grid=grid,
            evaluations=each,
        )
        for k, (name, (scheme, each)) in enumerate(all_of.items())
    ]
    found = list(measured(problem, samplers))
    return lines(problem.title, list(all_of), found, found[0])


def bases(problem: Problem, images: Tensor) -> list[dict[str, Any]]:
    """References of the same Gaussian law in other bases, of images as vectors; each on its own converged paths."""
    flat, shape, teacher = images.flatten(1), problem.space.event, problem.teacher
    vectors = SNRDenoiser(lambda y, snr: teacher(y.reshape(-1, *shape), snr).flatten(1))
    dct = GaussianReference.fit(images, "dct")
    columns = dct.from_basis(torch.eye(flat.shape[1]).reshape(-1, *shape)).flatten(1).mT
    made = {
        "none": GaussianReference.fit(flat, "none"),
        "cosines": in_basis(flat, columns),
        f"principal components of {PATCH} x {PATCH} patches": in_basis(flat, of_patches(images)),
        "principal components of images": GaussianReference.fit(flat, "pca"),
    }
    assert problem.extractor is not None
    features = of_vectors(problem.extractor, shape)
    found: list[Found] = []
    for reference in made.values():
        space = PathSpace(flat.shape[1:], problem.space.snr, reference)
        grid = choose_grid(vectors, space, steps=StepGrid(), progress=False)
        sampler = Sampler("tried", "", problem.steps, scheme=PathAverage(), referenced=True, grid=grid)
        own = replace(problem, teacher=vectors, space=space, data=flat, extractor=features)
        found += measured(own, [sampler])
    return lines(f"{problem.title}, the reference's basis", list(made), found, found[1])


def of_vectors(extractor: FeatureExtractor, shape: tuple[int, ...]) -> FeatureExtractor:
    """An extractor of images, asked with images as vectors of floats in [-1, 1]."""

    def features(x: Tensor) -> Tensor:
        return extractor(to_uint8(x.reshape(-1, *shape)))

    return replace(extractor, network=features, floats=True)


def in_basis(flat: Tensor, columns: Tensor) -> GaussianReference:
    """The reference of vectors in an orthonormal basis, the columns of a matrix."""
    mean = flat.mean(0)
    return GaussianReference(mean, ((flat - mean) @ columns).var(0), columns)


def of_patches(images: Tensor) -> Tensor:
    """Columns: the principal components of the square patches of images with one channel, (n, 1, size, size)."""
    size = images.shape[-1]
    patches = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).reshape(len(images), -1, PATCH**2)
    components = torch.linalg.eigh(torch.cov(patches.flatten(0, 1).double().T)).eigenvectors
    where = torch.arange(size**2).reshape(1, size, size).unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)
    basis = torch.zeros(size**2, size**2, dtype=torch.float64)
    for k, rows in enumerate(where.reshape(-1, PATCH**2)):
        basis[rows, k * PATCH**2 : (k + 1) * PATCH**2] = components
    return basis.to(images)


def text(found: Sequence[dict[str, Any]]) -> str:
    """tried.md, from the content of tried.json."""
    written = (
        "# What was tried\n\nWritten by `python -m experiments.few_steps.tried`. Path-average with one change, at "
        "equal evaluations, on even steps behind the free one. RMSE: of the path, over that of the scheme as it is, "
        "with the 95 % interval of the paired ratio. Distance: to the teacher's own law, MMD^2 x 10^4 of the "
        "mixtures, else Frechet distance of the features, +- one standard error.\n"
    )
    for title in dict.fromkeys(line["problem"] for line in found):
        own = [line for line in found if line["problem"] == title]
        counts = [int(name.removeprefix("rmse_")) for name in own[0] if name.startswith("rmse_")]
        scale = 1e4 if "ixture" in title else 1.0
        shown = []
        for line in own:
            row = {"change": line["change"]}
            for n in counts:
                value, ratio = line[f"rmse_{n}"], line[f"ratio_{n}"]
                row[f"r{n}"] = f"({value:.4f})" if ratio is None else "{:.3f} ({:.3f} - {:.3f})".format(*ratio)
                row[f"d{n}"] = "{:.2f} +- {:.2f}".format(*(scale * number for number in line[f"distance_{n}"]))
            shown.append(row)
        titles = {"change": "change", **{f"r{n}": f"RMSE, {n}" for n in counts}}
        titles |= {f"d{n}": f"distance, {n}" for n in counts}
        written += f"\n## {title}\n\n{markdown_table(shown, titles)}"
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m experiments.few_steps.tried", description=__doc__)
    parser.add_argument("--data", help="images of MNIST, as load_images reads them")
    parser.add_argument("--extractor", help="TorchScript file of features, for images")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of every problem but MNIST")
    parser.add_argument("--image-seeds", type=int, default=IMAGE_SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/few_steps"), help="where converted images are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if (options.data is None) != (options.extractor is None):
        parser.error("--data and --extractor go together")
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for name in TRIED_ON:
        found += schemes(replace(PROBLEMS[name](), seeds=options.seeds), STEPS)
        write_json(options.out / "tried.json", found)
    if options.data is not None:
        asked = replace(IMAGES["mnist"], seeds=options.image_seeds)
        study, problem = asked.study, of_images(asked, options.data, options.extractor, options.runs / "mnist")
        found += schemes(problem, IMAGE_STEPS)
        write_json(options.out / "tried.json", found)
        images = study.compared_with(study.images(options.data, options.runs / "mnist" / "data")).floats(device="cpu")
        found += bases(replace(problem, steps=IMAGE_STEPS), images)
        write_json(options.out / "tried.json", found)
    with replacing(options.out / "tried.md") as file:
        file.write_text(text(found))


if __name__ == "__main__":
    main()
