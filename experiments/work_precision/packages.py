"""One problem in three packages: final states at several numbers of steps along one path, and whole solves to be timed.

Errors are pathwise: each package is held against a fine or exact solution along its own path. What is timed is a whole
solve, from making the path to the final state. All values are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torchsde
from torch import Tensor

from experiments.benchmarks.comparison import Run, import_peer
from sdesig.brownian import BrownianPath, Clock
from sdesig.convergence import NestedPath
from sdesig.sde import SDELike
from sdesig.signature import legendre_depth, needs_levy_area
from sdesig.solvers import noise_structure, scheme_named, solve

DTYPE = torch.float32
_ROWS = 512  # paths of ours whose fine solutions are in memory at once

Steps = Mapping[str, Sequence[int]]
"""Numbers of steps by scheme."""
Truth = Callable[[Tensor], Tensor] | tuple[str, int]
"""Y(t1) as a function of W(t1), or the scheme and the number of steps of a fine solution."""
Calculi = Mapping[str, SDELike]
"""The SDE in each calculus that a scheme asks for."""


class Package(Protocol):
    """A problem on [t0, t1] in one package; `paths` are the kinds of Brownian path that it is timed with."""

    @property
    def name(self) -> str:
        """The package's name."""

    @property
    def paths(self) -> Sequence[str]:
        """Kinds of path."""

    def differences(self, steps: Steps, count: int) -> dict[str, Tensor]:
        """Y_N - Y at the end by scheme, (numbers of steps, count, dim), along the same `count` paths."""

    def run(self, scheme: str, path: str, steps: int, batch: int) -> Run:
        """A whole solve on a new path of this kind."""


@dataclass(frozen=True, eq=False)
class Ours:
    """sdesig. Paths have what the schemes need: areas, H.

    Attributes:
        sdes, noise_dim, truth, t0, t1: the problem.
        start: Y(t0) from a path.
        read: what is compared, from the last state.
        clock, cells: of the paths; those that are timed have the smallest master grid for their steps.
    """

    name: ClassVar[str] = "sdesig"
    paths: ClassVar[Sequence[str]] = ("generator", "seeds")

    sdes: Calculi
    noise_dim: int
    start: Callable[[BrownianPath], Tensor]
    truth: Truth
    t0: float = 0.0
    t1: float = 1.0
    read: Callable[[Tensor], Tensor] = lambda state: state
    clock: Clock | None = None
    cells: int = 4096

    def differences(self, steps: Steps, count: int) -> dict[str, Tensor]:
        """See `Package`; the paths have the seeds 0, ..., count - 1."""
        chunks: dict[str, list[Tensor]] = {scheme: [] for scheme in steps}
        schemes = [*steps, self.truth[0]] if isinstance(self.truth, tuple) else list(steps)
        for first in range(0, count, _ROWS):
            seeds = range(first, min(first + _ROWS, count))
            path = self._path(schemes, len(seeds), self.cells, seeds, nested=True)
            if isinstance(self.truth, tuple):
                truth = self._solve(path, *self.truth)
            else:
                truth = self.truth(path.partial_signature(self.t0, self.t1).increment)
            for scheme, numbers in steps.items():
                chunks[scheme].append(torch.stack([self._solve(path, scheme, n) - truth for n in numbers]))
        return {scheme: torch.cat(differences, 1) for scheme, differences in chunks.items()}

    def run(self, scheme: str, path: str, steps: int, batch: int) -> Run:
        """See `Package`."""
        cells, seeds = 2 ** (steps - 1).bit_length(), range(batch) if path == "seeds" else None
        return lambda: self._solve(self._path([scheme], batch, cells, seeds), scheme, steps)

    def _path(
        self, schemes: Collection[str], rows: int, cells: int, seeds: range | None, *, nested: bool = False
    ) -> BrownianPath:
        """A path with what the schemes need; `nested` keeps areas, which are dear, for steps in powers of two."""
        words = []
        for scheme in schemes:
            chosen = self._chosen(scheme)
            words += chosen.words(noise_structure(self.sdes[chosen.sde_type], self.noise_dim))
        area = needs_levy_area(words)
        kind = NestedPath if nested and area else BrownianPath
        return kind(
            t0=self.t0,
            t1=self.t1,
            shape=(rows, self.noise_dim),
            seeds=seeds,
            generator=torch.Generator().manual_seed(0) if seeds is None else None,
            depth=max(1, legendre_depth(words)),
            clock=self.clock,
            cells=cells,
            area=area,
            dtype=DTYPE,
        )

    def _chosen(self, scheme: str) -> Any:
        return scheme_named(scheme, next(iter(self.sdes.values())))

    def _solve(self, path: BrownianPath, scheme: str, steps: int) -> Tensor:
        sde = self.sdes[self._chosen(scheme).sde_type]
        return self.read(solve(sde, self.start(path), path.grid(steps), scheme=scheme, path=path, save="last"))


@dataclass(frozen=True, eq=False)
class Torchsde:
    """torchsde, whose path is told the step when timed, which makes it fastest.

    Attributes:
        sdes, noise_dim, truth, t0, t1: the problem.
        start: Y(t0) from the number of rows.
    """

    name: ClassVar[str] = "torchsde"
    paths: ClassVar[Sequence[str]] = ("BrownianInterval",)

    sdes: Calculi
    noise_dim: int
    start: Callable[[int], Tensor]
    truth: Truth
    t0: float = 0.0
    t1: float = 1.0

    def differences(self, steps: Steps, count: int) -> dict[str, Tensor]:
        """See `Package`."""
        path, y0 = self._path(steps, count, None), self.start(count)
        if isinstance(self.truth, tuple):
            truth = self._solve(path, y0, *self.truth)
        else:
            truth = self.truth(path(self.t0, self.t1))
        return {
            scheme: torch.stack([self._solve(path, y0, scheme, n) - truth for n in numbers])
            for scheme, numbers in steps.items()
        }

    def run(self, scheme: str, path: str, steps: int, batch: int) -> Run:
        """See `Package`."""
        dt = (self.t1 - self.t0) / steps
        return lambda: self._solve(self._path([scheme], batch, dt), self.start(batch), scheme, steps)

    def _path(self, schemes: Collection[str], rows: int, dt: float | None) -> torchsde.BrownianInterval:
        levy_area = "foster" if "log_ode" in schemes else "space-time" if "srk" in schemes else "none"
        return torchsde.BrownianInterval(
            self.t0,
            self.t1,
            size=(rows, self.noise_dim),
            dtype=DTYPE,
            entropy=0,
            dt=dt,
            levy_area_approximation=levy_area,
        )

    def _solve(self, path: torchsde.BrownianInterval, y0: Tensor, scheme: str, steps: int) -> Tensor:
        sde = self.sdes["stratonovich" if scheme in ("heun", "log_ode") else "ito"]
        times = torch.tensor([self.t0, self.t1], dtype=torch.float64)
        return torchsde.sdeint(sde, y0, times, bm=path, method=scheme, dt=(self.t1 - self.t0) / steps)[-1]


@dataclass(frozen=True, eq=False)
class Diffrax:
    """diffrax, compiled once for all numbers of steps; states and times in the functions are jax arrays.

    Attributes:
        drifts: f(t, y) by calculus.
        diffusion: g(t, y), a lineax operator.
        noise_dim, truth, t0, t1: the problem.
        start: Y(t0), (rows, dim), from a key and the number of rows.
        batched: schemes timed with the batch as one state; the others, and differences, have `jax.vmap` over its rows.
    """

    name: ClassVar[str] = "diffrax"
    paths: ClassVar[Sequence[str]] = ("UnsafeBrownianPath", "VirtualBrownianTree")

    drifts: Mapping[str, Callable[[Any, Any], Any]]
    diffusion: Callable[[Any, Any], Any]
    noise_dim: int
    start: Callable[[Any, int], Any]
    truth: Truth
    t0: float = 0.0
    t1: float = 1.0
    batched: Collection[str] = ()

    def differences(self, steps: Steps, count: int) -> dict[str, Tensor]:
        """See `Package`; on `VirtualBrownianTree`, which alone knows one path at all steps."""
        jax = import_peer("jax")
        key = jax.random.key(0)
        schemes = [*steps, self.truth[0]] if isinstance(self.truth, tuple) else list(steps)
        area = any(map(_needs_area, schemes))
        finest = max(n for numbers in steps.values() for n in numbers)
        if isinstance(self.truth, tuple):
            finest = self.truth[1]

        def ends(scheme: str) -> Callable[[int], Tensor]:
            solve_rows = self._compiled(scheme, "VirtualBrownianTree", count, area=area, batched=False)
            return lambda n: _to_torch(solve_rows(key, float(n), float(finest)))

        if isinstance(self.truth, tuple):
            truth = ends(self.truth[0])(self.truth[1])
        else:
            whole = jax.vmap(
                lambda key: self._path("VirtualBrownianTree", key, (self.noise_dim,), float(finest), area).evaluate(
                    self.t0, self.t1
                )
            )
            truth = self.truth(_to_torch(whole(jax.random.split(key, count))))
        solved = {scheme: ends(scheme) for scheme in steps}
        return {scheme: torch.stack([solved[scheme](n) - truth for n in numbers]) for scheme, numbers in steps.items()}

    def run(self, scheme: str, path: str, steps: int, batch: int) -> Run:
        """See `Package`; a tree has half a step as tolerance, as diffrax recommends."""
        jax = import_peer("jax")
        solve_rows = self._compiled(scheme, path, batch, area=_needs_area(scheme), batched=scheme in self.batched)
        key = jax.random.key(0)
        return lambda: jax.block_until_ready(solve_rows(key, float(steps), float(steps)))

    def _compiled(self, scheme: str, path: str, rows: int, *, area: bool, batched: bool) -> Callable[..., Any]:
        """(key, number of steps, number of steps that the path must know) -> final states, (rows, dim)."""
        jax = import_peer("jax")

        @jax.jit
        def solve_rows(key: Any, steps: Any, finest: Any) -> Any:
            y0 = self.start(key, rows)
            if batched:
                path_of_all = self._path(path, key, (rows, self.noise_dim), finest, area)
                return self._solve(scheme, path_of_all, y0, steps)

            def solve_row(key: Any, start: Any) -> Any:
                return self._solve(scheme, self._path(path, key, (self.noise_dim,), finest, area), start, steps)

            return jax.vmap(solve_row)(jax.random.split(key, rows), y0)

        return solve_rows

    def _path(self, path: str, key: Any, shape: tuple[int, ...], finest: Any, area: bool) -> Any:
        jax, diffrax = import_peer("jax"), import_peer("diffrax")
        value = jax.ShapeDtypeStruct(shape, "float32")
        kind = diffrax.SpaceTimeLevyArea if area else diffrax.BrownianIncrement
        if path == "UnsafeBrownianPath":
            return diffrax.UnsafeBrownianPath(value, key, kind)
        return diffrax.VirtualBrownianTree(self.t0, self.t1, (self.t1 - self.t0) / finest / 2, value, key, kind)

    def _solve(self, scheme: str, path: Any, y0: Any, steps: Any) -> Any:
        diffrax = import_peer("diffrax")
        drift = self.drifts["ito" if scheme in ("Euler", "ItoMilstein", "ShARK") else "stratonovich"]
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, _: drift(t, y)),
            diffrax.ControlTerm(lambda t, y, _: self.diffusion(t, y), path),
        )
        solution = diffrax.diffeqsolve(
            terms,
            getattr(diffrax, scheme)(),
            self.t0,
            self.t1,
            (self.t1 - self.t0) / steps,
            y0,
            saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(),  # the only one that takes UnsafeBrownianPath
            max_steps=None,
        )
        return solution.ys[0]


def _to_torch(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values))


def _needs_area(scheme: str) -> bool:
    """Whether diffrax's scheme uses H."""
    return scheme in ("SlowRK", "ShARK")
