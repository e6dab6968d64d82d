"""Paths of seeds for images: per normal, by the number of steps, and with a clock for each coordinate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.benchmarks.comparison import Expense, Run
from sdesig.brownian import BrownianPath
from sdesig.sampling import CanonicalSDE, GaussianReference, PathAverage, PathSpace, SNRClock, SNRDenoiser
from sdesig.solvers import solve

SNR = (1 / 80**2, 1 / 0.05**2)
DEPTH = 4
LEAST_CELLS, NORMALS = 8, 2**22
"""All cells of a path are drawn, and it has as many that their normals are about four million."""
STEPS = 10
GROWTH = (16, 64, 256, 1000)

_PHILOX_BOUND = "a path is drawn by one pass in Python per query, whose fixed cost shows beside few numbers."
_MATRICES_BOUND = "every coordinate has a clock: every cut and every step is computed for each."
_BISECTIONS_BOUND = "steps that do not end on nodes of the tree need more cuts than there are steps."
_COSINES_BOUND = "the state is transformed to cosines and back at every step, beside the path; see the row without."


def cases(quick: bool) -> Iterator[Expense]:
    """Against `torch.randn`, and among one another."""
    yield from per_normal(quick)
    yield from uneven(quick)
    yield from per_coordinate(quick)
    yield from growth(quick)


def per_normal(quick: bool) -> Iterator[Expense]:
    """All steps of a path over as many normals; of a short path, which does not draw much, to inform."""
    batches, sizes, repetitions = ((1, 2), (20,), 3) if quick else ((1, 16, 100), (784, 12288), 7)
    for size in sizes:
        for name, clock, bound, explanation in (
            ("one clock", SNRClock(0.25), 1.6, _PHILOX_BOUND),
            ("a clock per coordinate", SNRClock(torch.linspace(0.01, 1.0, size)), 2.0, _MATRICES_BOUND),
        ):
            for batch, short in (*((batch, False) for batch in batches), (1, True)):
                cells = LEAST_CELLS
                while not (quick or short) and DEPTH * cells * batch * size < NORMALS:
                    cells *= 2
                yield Expense(
                    f"all {cells} steps of a path, depth {DEPTH}, batch {batch}, {size} coordinates, float32",
                    f"seeds, cells={cells}, {name}",
                    "`torch.randn` of as many normals",
                    _path(clock, batch, size, cells),
                    _normals(cells, batch, size),
                    repetitions,
                    None if short else bound,
                    explanation,
                )


def uneven(quick: bool) -> Iterator[Expense]:
    """Ten steps over eight, of the paths that generators follow."""
    rows, event = (2, (1, 4, 4)) if quick else (16, (3, 32, 32))
    space = PathSpace(event, SNR, GaussianReference(0.0, 0.25))
    yield Expense(
        f"path of a generator in {STEPS} steps, {rows} rows of {_size(event)}",
        f"{STEPS} steps, seeds",
        "8 steps, seeds",
        _steps(space, rows, STEPS),
        _steps(space, rows, 8),
        3 if quick else 9,
        2.0,
        _BISECTIONS_BOUND,
    )


def per_coordinate(quick: bool) -> Iterator[Expense]:
    """A reference for each cosine over a scalar one: the path alone, and sampling without a network."""
    for size in (4, 8) if quick else (128, 256):
        event = (3, size, size)
        generator = torch.Generator().manual_seed(0)
        cosines = GaussianReference.fit(torch.randn(4, *event, generator=generator), "dct")
        spaces = [PathSpace(event, SNR, reference) for reference in (cosines, GaussianReference(0.0, 1.0))]
        for ours, make, explanation in (
            ("the path", _steps, _MATRICES_BOUND),
            ("path-average without a network", _sampling, _COSINES_BOUND),
        ):
            run_ours, run_peer = (make(space, 1, STEPS) for space in spaces)
            yield Expense(
                f"one image of {_size(event)} in {STEPS} steps, seeds",
                f"{ours}, a reference per cosine",
                "the same, a scalar reference",
                run_ours,
                run_peer,
                2 if quick else 5,
                1.5,
                explanation,
            )


def growth(quick: bool) -> Iterator[Expense]:
    """The cost of a step of many over that of a step of eight."""
    rows, event = (2, (1, 4, 4)) if quick else (16, (3, 32, 32))
    space = PathSpace(event, SNR, GaussianReference(0.0, 0.25))
    for steps in (16, 64) if quick else GROWTH:
        yield Expense(
            f"a step of path-average without a network, {rows} rows of {_size(event)}",
            f"of {steps} steps, seeds",
            "of 8 steps, seeds",
            _sampling(space, rows, steps),
            _sampling(space, rows, 8),
            2 if quick else 5,
            1.25,
            _BISECTIONS_BOUND,
            units_ours=steps,
            units_peer=8,
        )


def _path(clock: SNRClock, batch: int, size: int, cells: int) -> Run:
    def run() -> Tensor:
        seeds, dtype = range(batch), torch.float32
        path = BrownianPath(*SNR, (batch, size), seeds=seeds, depth=DEPTH, clock=clock, cells=cells, dtype=dtype)
        return path.partial_signatures(path.grid(cells)).coefficients

    return run


def _normals(steps: int, batch: int, size: int) -> Run:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn((DEPTH, steps, batch, size), generator=generator, dtype=torch.float32)


def _steps(space: PathSpace, rows: int, steps: int) -> Run:
    return lambda: space.paths(rows).partial_signatures(space.times(steps))


def _sampling(space: PathSpace, rows: int, steps: int) -> Run:
    denoiser = SNRDenoiser(lambda y, snr: y / (snr + 4))
    sde = CanonicalSDE(denoiser, reference=space.reference)

    def run() -> Tensor:
        path = space.paths(rows)
        return solve(sde, space.start(path, steps), space.times(steps), scheme=PathAverage(), path=path, save="last")

    return run


def _size(event: tuple[int, ...]) -> str:
    return "x".join(map(str, event))
