"""Random intervals of one Brownian path, asked one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torchsde

from experiments.benchmarks.comparison import Case, Run
from sdesig.brownian import BrownianPath

SHAPE = (1, 10)
LEVELS = 20  # a resolution of 1e-6, that of the peer
Interval = tuple[float, float]

_CALLS_BOUND = (
    "a query cuts the tree at two new times and joins O(log n) nodes; the time goes into calls of some dozens of torch "
    "operations on tiny tensors."
)


def cases(quick: bool) -> Iterator[Case]:
    """Time of the queries against torchsde, and its growth with the number of queries."""
    few, many, repetitions = (20, 100, 2) if quick else (500, 5000, 5)
    ends = np.sort(np.random.default_rng(0).random((many, 2)))
    intervals, on_grid = ([(s, t) for s, t in x.tolist()] for x in (ends, np.rint(ends * 2**LEVELS) / 2**LEVELS))
    sizes = f"batch {SHAPE[0]}, d = {SHAPE[1]}, float32"

    first = intervals[:few]
    generator = fresh(generated_path, first)
    for peer, make, target in (
        ("torchsde `BrownianTree`, tol 1e-6", brownian_tree, 20.0),
        ("torchsde `BrownianInterval`", brownian_interval, None),
        ("torchsde `BrownianInterval`, unlimited cache", cached_brownian_interval, 2.0),
    ):
        what = f"W on {few} random intervals, {sizes}"
        yield Case(what, "generator", peer, generator, fresh(make, first), repetitions, target, _CALLS_BOUND)
    fewer = few // 5
    yield Case(
        f"W on {fewer} random intervals, {sizes}",
        f"seeds, levels={LEVELS}",
        "torchsde `BrownianTree`, tol 1e-6",
        fresh(seeded_path, on_grid[:fewer]),
        fresh(brownian_tree, intervals[:fewer]),
        repetitions,
    )

    # Each timed run of the last queries uses up a path on which all others have been asked.
    used = [generated_path() for _ in range(repetitions + 1)]
    for path in used:
        ask(path, intervals[:-few])
    remaining = iter(used)
    yield Case(
        f"growth of the time per query, {sizes}",
        f"generator, queries {many - few} to {many} of one path",
        f"the same, queries 0 to {few}",
        lambda: ask(next(remaining), intervals[-few:]),
        generator,
        repetitions,
        target=1 / 1.25,
    )


def ask(path: torchsde.BaseBrownian, intervals: Sequence[Interval]) -> None:
    """All increments."""
    for s, t in intervals:
        path(s, t)


def fresh(make: Callable[[], torchsde.BaseBrownian], intervals: Sequence[Interval]) -> Run:
    """Construction of a path, then all queries."""
    return lambda: ask(make(), intervals)


def generated_path() -> BrownianPath:
    generator = torch.Generator().manual_seed(0)
    return BrownianPath(0.0, 1.0, SHAPE, generator=generator, depth=1, dtype=torch.float32)


def seeded_path() -> BrownianPath:
    return BrownianPath(0.0, 1.0, SHAPE, seeds=range(SHAPE[0]), depth=1, levels=LEVELS, dtype=torch.float32)


def brownian_tree() -> torchsde.BrownianTree:
    return torchsde.BrownianTree(0.0, torch.zeros(SHAPE), 1.0, entropy=0, tol=1e-6)


def brownian_interval() -> torchsde.BrownianInterval:
    return torchsde.BrownianInterval(0.0, 1.0, size=SHAPE, dtype=torch.float32, entropy=0)


def cached_brownian_interval() -> torchsde.BrownianInterval:
    return torchsde.BrownianInterval(0.0, 1.0, size=SHAPE, dtype=torch.float32, entropy=0, cache_size=None)
