"""Everything that is reported of generators, beside the training-free samplers of their teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sdesig._checks import check_integer
from sdesig.evaluation.comparison import Comparison, Outcome, Sampler, baselines, generator_sampler
from sdesig.evaluation.report import Features, Row, report_rows
from sdesig.sampling.information_floor import Floor, information_floor
from sdesig.sampling.step_grid import StepGrid
from sdesig.sigdeg.sig_deg import SigDEG


class Evaluation(NamedTuple):
    """What `evaluate` measures.

    Attributes:
        rows: a dictionary per sampler and number of steps (`report_rows`), JSON-serializable.
        floors: of every depth and number of steps, if they were asked for.
        outcomes: the samples and errors per seed, in the order of the rows.
        converged: samples of the converged paths of the seeds, (n, *event).
    """

    rows: list[Row]
    floors: list[Floor]
    outcomes: list[Outcome]
    converged: Tensor


@torch.no_grad()
def evaluate(
    comparison: Comparison,
    generators: Mapping[str, SigDEG],
    *,
    steps: Sequence[int],
    seeds: Sequence[int],
    real: Tensor | None = None,
    features: Features | None = None,
    floor_groups: int = 0,
    training_free: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Pathwise errors with standard errors, Frechet distances, floors and seconds, on the same seeds and paths.

    Args:
        comparison: of the teacher; `Comparison(teacher, generator.space)`.
        generators: by name, all on the paths of the comparison.
        steps: numbers of steps.
        seeds: one per sample.
        real: data (m, *event) for Frechet distances.
        features: see `report_rows`. Default: the coordinates themselves, if there are more samples than coordinates.
        floor_groups: pairs of paths for the information floor of every depth; 0: no floors.
        training_free: whether to evaluate the training-free samplers too.
        progress: called with the number of seeds done.

    Raises:
        ValueError: nothing to evaluate; see `Comparison.run` and `information_floor`.
    """
    check_integer("floor_groups", floor_groups, 0)
    if not (generators or training_free):
        raise ValueError("generators must not be empty with training_free=False")
    if not steps:
        raise ValueError("steps must not be empty")
    plan = [(sampler, steps) for sampler in samplers(generators, training_free=training_free)]
    converged, outcomes = comparison.run(plan, seeds, progress)
    floors = [
        information_floor(
            comparison.teacher,
            replace(comparison.space, grid=_grid(generators)),
            steps=n,
            depth=depth,
            groups=floor_groups,
        )
        for depth in sorted({generator.depth for generator in generators.values()} if floor_groups else ())
        for n in steps
    ]
    if features is None and real is not None and min(len(real), len(seeds)) > real[0].numel():
        features = {"pixels": lambda samples: samples.flatten(1)}
    return Evaluation(report_rows(outcomes, floors=floors, features=features, real=real), floors, outcomes, converged)


def samplers(generators: Mapping[str, SigDEG], *, training_free: bool = True) -> list[Sampler]:
    """Those that `evaluate` compares."""
    grid = _grid(generators)
    free = baselines(None if grid == StepGrid() else grid) if training_free else []
    return [*free, *(generator_sampler(name, generator) for name, generator in generators.items())]


def _grid(generators: Mapping[str, SigDEG]) -> StepGrid:
    """That of all generators."""
    return next((generator.space.grid for generator in generators.values()), StepGrid())
