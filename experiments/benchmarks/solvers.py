"""The driver and torchsde's `sdeint`: whole solves on both sides, and what our driver adds to a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torchsde
from torch import Tensor

from experiments.benchmarks.comparison import Case, Cost, Run
from experiments.benchmarks.known_grid import DIM, make_interval, make_path
from sdesig.brownian import BrownianPath
from sdesig.sde import SDE, SDELike
from sdesig.solvers import Scheme, solve, strong_orders

_SOLVE_BOUND = "both sides draw the same normals, evaluate the same SDE and store the same states."
_SRK_BOUND = "a step of `srk` costs the same on both sides, and a path that is not prefetched cuts its tree at each."
_DRIVER_BOUND = "the time goes into drawing the path, and one Python call a step."


class Relaxation(SDE):
    """dY = -Y dt + dW, diagonal: hardly anything to compute beside the noise."""

    def __init__(self) -> None:
        super().__init__("diagonal", "ito", dim=DIM, noise_structure="additive")

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """-y."""
        return -y

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(y)


class Standstill(Scheme):
    """Y' = Y: what a solve costs without its scheme."""

    sde_type = "ito"
    strong_order = strong_orders(0.5)
    weak_order = 0.5

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """The same y."""
        return y


def cases(quick: bool) -> Iterator[Case | Cost]:
    """Euler and `srk` against torchsde's, and the time of an empty step."""
    steps, batch, repetitions = (50, 4, 3) if quick else (1000, 1024, 5)
    cells = 2 ** (steps - 1).bit_length()
    task = f"dY = -Y dt + dW, {steps} steps, d = {DIM}, float32"
    own, hinted = (
        "torchsde `sdeint`, `BrownianInterval` as it makes it",
        "torchsde `sdeint`, `BrownianInterval`, dt hint",
    )

    what = f"Euler, all states, {task}, batch {batch}"
    generator = solved(steps, batch, "euler", lambda: make_path(batch, depth=1))
    seeds = solved(steps, batch, "euler", lambda: _seeded_path(batch, cells))
    run_own = sdeint(steps, batch)
    run_hinted = sdeint(steps, batch, 1 / steps)
    yield Case(what, "`solve`, generator", own, generator, run_own, repetitions, 3.0, _SOLVE_BOUND)
    yield Case(what, "`solve`, generator", hinted, generator, run_hinted, repetitions)
    yield Case(what, f"`solve`, seeds, cells={cells}", own, seeds, run_own, repetitions)
    yield Case(what, f"`solve`, seeds, cells={cells}", hinted, seeds, run_hinted, repetitions, 2.0, _SOLVE_BOUND)

    what = f"torchsde's `srk`, last state, {task}, batch {batch}"
    run_own = srk(steps, batch, lambda: make_interval(batch, 2, None))
    for ours, make in (
        ("torchsde `sdeint`, `BrownianPath`, generator", lambda: make_path(batch, depth=2)),
        ("torchsde `sdeint`, `BrownianPath`, generator, prefetched", lambda: _prefetched_path(steps, batch)),
    ):
        yield Case(what, ours, own, srk(steps, batch, make), run_own, repetitions, 1.0, _SRK_BOUND)

    what = f"`solve` with a scheme that does nothing, {task}, batch 1"
    run = solved(steps, 1, Standstill(), lambda: make_path(1, depth=1))
    yield Cost(what, "generator, drawing the path included", run, steps, 3 * repetitions, 20.0, _DRIVER_BOUND)


def solved(steps: int, batch: int, scheme: str | Scheme, make: Callable[[], BrownianPath]) -> Run:
    """`solve`, from the construction of the path to all states."""

    def run() -> None:
        path = make()
        solve(Relaxation(), torch.zeros(batch, DIM), path.grid(steps), scheme=scheme, path=path)

    return run


def sdeint(steps: int, batch: int, hint: float | None = None) -> Run:
    """torchsde's Euler, all states, on the path that it makes itself, or on one that is told the step."""
    times = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)

    def run() -> None:
        path = None if hint is None else make_interval(batch, 1, hint)
        torchsde.sdeint(Relaxation(), torch.zeros(batch, DIM), times, bm=path, method="euler", dt=1 / steps)

    return run


def srk(steps: int, batch: int, make: Callable[[], torchsde.BaseBrownian]) -> Run:
    """torchsde's solver, last state, on a path made for it."""
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return lambda: torchsde.sdeint(Relaxation(), torch.zeros(batch, DIM), times, bm=make(), method="srk", dt=1 / steps)


def _seeded_path(batch: int, cells: int) -> BrownianPath:
    return BrownianPath(0.0, 1.0, (batch, DIM), seeds=range(batch), depth=1, cells=cells, dtype=torch.float32)


def _prefetched_path(steps: int, batch: int) -> BrownianPath:
    path = make_path(batch, depth=2)
    path.prefetch(path.grid(steps))
    return path
