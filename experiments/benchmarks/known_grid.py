"""A Brownian path on a grid known in advance, against torchsde's `BrownianInterval`: construction and all steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torchsde

from experiments.benchmarks.comparison import Case, Cost, Expense, Run
from sdesig.brownian import BrownianPath

DIM = 10
NAMES = {1: "W", 2: "W and H"}  # by depth

_RANDN_BOUND = "both sides have to draw the same normals; the row of `torch.randn` is the ceiling of this ratio."
_PHILOX_BOUND = (
    "the normals of seeds and the cuts cost about as much as `torch.randn`; a single step has a fixed cost in Python."
)


def cases(quick: bool) -> Iterator[Case | Cost | Expense]:
    """Both sources of randomness, all steps at once and step by step."""
    steps, batches, repetitions = (100, (1, 16), 3) if quick else (1000, (1, 1024), 5)
    times = [k / steps for k in range(steps + 1)]
    cells = 2 ** (steps - 1).bit_length()  # of the smallest master grid with so many steps
    for batch in batches:
        for depth, name in NAMES.items():
            seeds = f"seeds, cells={cells}"
            seeded = seeded_path(batch, depth, steps, cells)
            hinted = "torchsde `BrownianInterval`, dt hint", interval(batch, depth, times, 1 / steps)
            unhinted = "torchsde `BrownianInterval` as its solvers make it", interval(batch, depth, times, None)
            at_once = generator_path(batch, depth, times)
            what = f"{name} on {steps} steps, batch {batch}, d = {DIM}, float32"
            for ours, run_ours, (peer, run_peer), target, explanation in (
                ("generator, all steps at once", at_once, unhinted, 10.0, _RANDN_BOUND),
                ("generator, all steps at once", at_once, hinted, None, ""),
                ("generator, prefetched, step by step", prefetched_path(batch, depth, times), unhinted, None, ""),
                ("`torch.randn` of the same normals", normals(batch, depth, steps), unhinted, None, ""),
                (seeds, seeded, unhinted, 6.0, _PHILOX_BOUND),
                (seeds, seeded, hinted, 2.0, _PHILOX_BOUND),
                (f"seeds, cells={4 * cells}", seeded_path(batch, depth, steps, 4 * cells), unhinted, None, ""),
            ):
                yield Case(what, ours, peer, run_ours, run_peer, repetitions, target, explanation)
            queried = seeded_queries(batch, depth, steps, cells)
            ours, peer = f"{seeds}, step by step", f"{seeds}, all steps at once"
            yield Expense(what, ours, peer, queried, seeded, repetitions, 1.5 if batch > 1 else None)
            if batch == 1:
                yield Cost(what, ours, queried, steps, repetitions, 100.0)


def interval(batch: int, depth: int, times: list[float], hint: float | None) -> Run:
    """torchsde: construction, then every step by itself."""

    def run() -> None:
        path = make_interval(batch, depth, hint)
        for s, t in pairwise(times):
            path(s, t, return_U=depth == 2)

    return run


def generator_path(batch: int, depth: int, times: list[float]) -> Run:
    """Construction, then all steps in one call."""
    return lambda: make_path(batch, depth).partial_signatures(times)


def prefetched_path(batch: int, depth: int, times: list[float]) -> Run:
    """Construction, prefetch, then every step by itself, as a torchsde solver asks for it."""

    def run() -> None:
        path = make_path(batch, depth)
        path.prefetch(times)
        for s, t in pairwise(times):
            path(s, t, return_U=depth == 2)

    return run


def seeded_path(batch: int, depth: int, steps: int, cells: int) -> Run:
    """The same as `generator_path` from seeds, on the steps that the master grid allows."""

    def run() -> None:
        path = BrownianPath(0.0, 1.0, (batch, DIM), seeds=range(batch), depth=depth, cells=cells, dtype=torch.float32)
        path.partial_signatures(path.grid(steps))

    return run


def seeded_queries(batch: int, depth: int, steps: int, cells: int) -> Run:
    """The same as `seeded_path`, every step asked for by itself."""

    def run() -> None:
        path = BrownianPath(0.0, 1.0, (batch, DIM), seeds=range(batch), depth=depth, cells=cells, dtype=torch.float32)
        for s, t in pairwise(path.grid(steps).tolist()):
            path.partial_signature(s, t)

    return run


def normals(batch: int, depth: int, steps: int) -> Run:
    """The random numbers of a path, nothing else."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn((depth, steps, batch, DIM), generator=generator, dtype=torch.float32)


def make_interval(batch: int, depth: int, hint: float | None) -> torchsde.BrownianInterval:
    """torchsde's path on [0, 1], with increments, or time integrals too."""
    return torchsde.BrownianInterval(
        0.0,
        1.0,
        size=(batch, DIM),
        dtype=torch.float32,
        entropy=0,
        dt=hint,
        levy_area_approximation="none" if depth == 1 else "space-time",
    )


def make_path(batch: int, depth: int) -> BrownianPath:
    """Ours, from a generator."""
    generator = torch.Generator().manual_seed(0)
    return BrownianPath(0.0, 1.0, (batch, DIM), generator=generator, depth=depth, dtype=torch.float32)
