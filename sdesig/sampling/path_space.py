"""The space of the paths of seeds, shared by generators, comparisons, floors, teacher paths and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_instance, check_integer, check_real, check_shape
from sdesig._files import read_json, reading, write_json
from sdesig._philox import MOST_SEEDS, check_seeds
from sdesig.brownian import BrownianPath
from sdesig.brownian.master_grid import MOST_CELLS, CellTree
from sdesig.brownian.path import MOST_DEPTH
from sdesig.sampling.gaussian_reference import GaussianReference, SNRClock


def check_snr_range(snr: tuple[float, float]) -> tuple[float, float]:
    """The first and the last SNR; raise TypeError or ValueError unless they are two numbers, 0 < first < last."""
    if not isinstance(snr, Sequence) or len(snr) != 2:
        raise TypeError(f"snr must be two numbers, (first, last); got {snr!r}")
    low, high = (check_real(f"snr[{k}]", value, minimum=0.0, strict=True) for k, value in enumerate(snr))
    if low >= high:
        raise ValueError(f"snr must be (first, last) with first < last; got {snr}")
    return low, high


@dataclass(frozen=True)
class StepGrid:
    """Times of N steps for every N: the k-th is at the quantile k/N of a density on the clock's positions in [0, 1].

    A free step may come before them: from position 0 to free - fall log N, where that is above 0. It asks no denoiser:
    the state moves by its noise alone, u += dM, as if the data were the Gaussian reference. The N steps then lie at the
    quantiles of the density behind it. It suits samplers in the variables of a reference only.

    Args:
        quantiles: positions of the quantiles 0, 1/m, ..., 1, increasing from 0 to 1; linear between them. The default,
            (0, 1), is even in the path's clock: in log-SNR.
        free: where the free step would end with one step behind it, in [0, 1).
        fall: >= 0. The end falls with N, as it must for the error of the free step to vanish beside the others'. With
            fall = 1/log(last SNR/first SNR) its SNR is proportional to 1/N.

    Raises:
        TypeError, ValueError: quantiles that do not increase from 0 to 1, other numbers out of range.
    """

    quantiles: tuple[float, ...] = (0.0, 1.0)
    free: float = 0.0
    fall: float = 0.0

    def __post_init__(self) -> None:
        if not check_real("free", self.free, minimum=0.0) < 1:
            raise ValueError(f"free must be in [0, 1); got {self.free}")
        check_real("fall", self.fall, minimum=0.0)
        values = np.asarray(self.quantiles, dtype=np.float64)
        rising = values.ndim == 1 and len(values) > 1 and bool((np.diff(values) > 0).all())
        if not rising or values[0] != 0.0 or values[-1] != 1.0:
            raise ValueError(f"quantiles must increase from 0 to 1; got {self.quantiles}")
        object.__setattr__(self, "quantiles", tuple(values.tolist()))

    @classmethod
    def from_density(cls, density: np.ndarray | Tensor, knots: int = 64) -> StepGrid:
        """The grid of a density > 0 on equal cells of [0, 1], given up to a factor, (cells,)."""
        weights = np.asarray(density, dtype=np.float64)
        check_integer("knots", knots, 1)
        if weights.ndim != 1 or not weights.size or not bool((np.isfinite(weights) & (weights > 0)).all()):
            raise ValueError("density must be finite and > 0 everywhere, of shape (cells,)")
        mass = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
        inner = np.interp(np.linspace(0, 1, knots + 1)[1:-1], mass, np.linspace(0, 1, len(mass)))
        return cls((0.0, *inner.tolist(), 1.0))

    @classmethod
    def karras(cls, snr: tuple[float, float], rho: float = 7.0, knots: int = 240) -> StepGrid:
        """The grid of Karras et al. 2022 (arXiv 2206.00364, eq. 5): (sigma/alpha)^(1/rho) = snr^(-1/(2 rho)) is even.

        Here the last time is the last SNR, without their last step to sigma = 0. Exact for numbers of steps that divide
        the knots; for others the quantiles are linear between them, as ever.

        Args:
            snr: first and last SNR, 0 < first < last: those of the `PathSpace`.
            rho: above 0; the limit of large ones is even in log-SNR.
            knots: number of equal steps whose times are quantiles.
        """
        low, high = check_snr_range(snr)
        power = -1 / (2 * check_real("rho", rho, minimum=0.0, strict=True))
        roots = np.linspace(low**power, high**power, check_integer("knots", knots, 1) + 1)[1:-1]
        inner = np.log(roots / low**power) / (power * np.log(high / low))
        return cls((0.0, *inner.tolist(), 1.0))

    @property
    def whole(self) -> StepGrid:
        """The grid of the same density without a free step."""
        return replace(self, free=0.0, fall=0.0) if self.free else self

    def masses(self, steps: int) -> np.ndarray:
        """The share of the density that lies before each time of `steps` steps, (steps + 1,): even, up to 1."""
        begin = max(0.0, self.free - self.fall * math.log(check_integer("steps", steps, 1)))
        passed = np.interp(begin, self.quantiles, np.linspace(0, 1, len(self.quantiles)))
        return np.linspace(passed, 1, steps + 1)

    def positions(self, steps: int) -> np.ndarray:
        """Positions in [0, 1] of the times of `steps` steps, (steps + 1,); the first is above 0 after a free step."""
        return np.interp(self.masses(steps), np.linspace(0, 1, len(self.quantiles)), self.quantiles)

    def save(self, file: str | Path) -> None:
        """Write the grid to a JSON file."""
        write_json(Path(file), self.numbers)

    def to_json(self) -> list[float] | dict[str, Any]:
        """A JSON value for `from_json`: the list of the quantiles, or with a free step all numbers by name."""
        return self.numbers if self.free else list(self.quantiles)

    @property
    def numbers(self) -> dict[str, Any]:
        """What makes it, by name, JSON-serializable."""
        free = {"free": self.free, "fall": self.fall} if self.free else {}
        return {"quantiles": list(self.quantiles), **free}

    @classmethod
    def load(cls, file: str | Path) -> StepGrid:
        """Read a file of `save`.

        Raises:
            FileNotFoundError, TypeError, ValueError: no such file, or no grid in it.
        """
        with reading(file):
            found = read_json(Path(file))  # a file of a run says more
            return cls.from_json({name: found[name] for name in ("quantiles", "free", "fall") if name in found})

    @classmethod
    def from_json(cls, value: object) -> StepGrid:
        """The grid of a JSON value, which may be anything.

        Raises:
            TypeError, ValueError: neither a list of quantiles nor an object with one, and the numbers of a free step.
        """
        numbers = dict(value) if isinstance(value, Mapping) else {"quantiles": value}
        quantiles = numbers.pop("quantiles", [])
        if not isinstance(quantiles, list):
            raise TypeError(f"quantiles must be a list of numbers; got {quantiles!r}")
        free, fall = (check_real(name, numbers.pop(name, 0.0)) for name in ("free", "fall"))
        if numbers:
            raise ValueError(f"a grid must have quantiles, free and fall alone; it also has {sorted(numbers)}")
        return cls(tuple(check_real(f"quantiles[{k}]", value) for k, value in enumerate(quantiles)), free, fall)

    def __repr__(self) -> str:
        given = [] if len(self.quantiles) == 2 else [f"{len(self.quantiles)} quantiles"]
        given += [f"free={self.free:g}, fall={self.fall:g}"] if self.free else []
        return f"StepGrid({', '.join(given)})"


EVEN = StepGrid()
"""The grid of steps even in log-SNR."""


def chosen_seeds(seeds: int | Sequence[int]) -> Tensor:
    """Seeds of samples, or 0, ..., n - 1 for a number n of them: int64, (n,). Raises the errors of `check_seeds`."""
    return check_seeds(range(check_integer("seeds", seeds, 1, MOST_SEEDS)) if isinstance(seeds, int) else seeds)


def in_todays_words(described: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration or an identity with "cells" and "slack": files made earlier have "levels", log2 of the cells."""
    today = dict(described)
    if "levels" in today:
        cells = 2 ** check_integer("levels", today.pop("levels"), 0, MOST_CELLS.bit_length() - 1)
        today |= {"cells": cells, "slack": 0.0}
    return today


@dataclass(frozen=True, eq=False, repr=False)
class PathSpace:
    """The meaning of a seed: a Brownian path in the clock of a Gaussian reference, and the times of its steps.

    Spaces are equal if they differ in the device at most. In equal spaces a seed has the same path, and a number of
    steps the same times.

    Args:
        event: shape of a sample.
        snr: first and last SNR, 0 < first < last.
        reference: the Gaussian reference in whose clock the paths run. Its tensors have the dtype and the device of the
            paths; if it consists of numbers alone, the paths are float32.
        cells: number of cells of the master grid, which are even in log-SNR and bound the number of steps.
        depth: number of Legendre coefficients of the paths, to be no more than what is compared on them sees: 2 for the
            path-average scheme. Paths of another depth are other paths; generators that see fewer coefficients follow
            the same ones.
        grid: the grid of the steps.
        slack: how far a step may end from its place on the grid, in units of the shorter step beside it, at least 0 and
            below .5. It ends where a node does that is high up in the tree of the cells, so that paths are cut less
            often: .05 moves the pathwise error of path-average by less than 2 % at 4 to 100 steps of 1280 cells.

    Raises:
        TypeError, ValueError: arguments out of range, a reference that does not fit the event.
    """

    event: tuple[int, ...]
    snr: tuple[float, float]
    reference: GaussianReference
    cells: int = 1280
    depth: int = 2
    grid: StepGrid = EVEN
    slack: float = 0.05

    def __post_init__(self) -> None:
        event = check_shape("event", self.event)
        low, high = check_snr_range(self.snr)
        object.__setattr__(self, "cells", check_integer("cells", self.cells, 1, MOST_CELLS))
        object.__setattr__(self, "depth", check_integer("depth", self.depth, 1, MOST_DEPTH))
        check_instance("grid", self.grid, StepGrid)
        if check_real("slack", self.slack, minimum=0.0) >= 0.5:
            raise ValueError(f"slack must be in [0, .5); got {self.slack}")
        check_instance("reference", self.reference, GaussianReference)
        object.__setattr__(self, "event", tuple(check_integer(f"event[{k}]", n, 1) for k, n in enumerate(event)))
        object.__setattr__(self, "snr", (low, high))
        self.reference.check_fits(self.event, self.dtype, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the paths."""
        return next((value.dtype for value in self.reference.tensors if value.ndim), torch.float32)

    @property
    def device(self) -> torch.device:
        """Device of the paths."""
        return self.reference.mean.device

    @cached_property
    def clock(self) -> SNRClock:
        """The clock of the paths. Kept, as its check of the variance waits for the device."""
        return self.reference.snr_clock()

    def paths(self, seeds: int | Sequence[int]) -> BrownianPath:
        """The paths of n seeds, or of the seeds 0, ..., n - 1 for a number n: (n, *event)."""
        chosen = chosen_seeds(seeds)
        return BrownianPath(
            *self.snr,
            (len(chosen), *self.event),
            seeds=chosen,
            depth=self.depth,
            clock=self.clock,
            cells=self.cells,
            dtype=self.dtype,
            device=self.device,
        )

    def start(self, path: BrownianPath, steps: int | None = None) -> Tensor:
        """u where the first of `steps` steps begins, the shape of the path: after the free step, if the grid has one.

        Without a number of steps u is that at the first SNR, N(0, v), made of the path's initial noise.
        """
        u = self.reference.start(path.initial_noise(), self.snr[0])
        begin = path.t0 if steps is None else self.times(steps)[0].item()
        if not begin > path.t0:
            return u
        return u + path.partial_signatures(torch.tensor([path.t0, begin], dtype=torch.float64)).increment[0]

    def ends(self, steps: int) -> list[int]:
        """Indices of the master cells at which `steps` steps end: high up in the tree of the cells. The first is 0, or
        where a free step ends, the last is `cells`.

        Raises:
            TypeError, ValueError: not a number from 1 to `cells`, or so many steps that two of the grid's times
                coincide on the master grid.
        """
        cells = self.cells
        positions = cells * self.grid.positions(check_integer("steps", steps, 1, cells))
        widths = np.diff(positions)
        slacks = self.slack * np.minimum(widths[:-1], widths[1:])
        inner = zip(positions[1:-1].tolist(), slacks.tolist(), strict=True)
        tree = CellTree(cells)
        first = tree.end_near(positions[0], self.slack * min(positions[0], widths[0])) if positions[0] > 0 else 0
        ends = [first, *(tree.end_near(position, slack) for position, slack in inner), cells]
        if len({*ends}) <= steps:
            raise ValueError(f"steps must be fewer for this grid on a path of {cells} cells; got {steps}")
        return ends

    def times(self, steps: int) -> Tensor:
        """SNRs at the ends of `steps` steps: float64 on the CPU, (steps + 1,). Raises the errors of `ends`."""
        positions = torch.tensor(self.ends(steps), dtype=torch.float64) / self.cells
        return torch.from_numpy(self.clock.time(positions.numpy(), *self.snr))

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the space, JSON-serializable, with a hash of the reference's tensors."""
        return {
            "event": list(self.event),
            "snr": list(self.snr),
            "reference": self.reference.digest,
            "cells": self.cells,
            "depth": self.depth,
            "grid": self.grid.to_json(),
            "slack": self.slack,
        }

    def to(self, device: torch.device | str) -> PathSpace:
        """The same space on a device."""
        return replace(self, reference=self.reference.to(device))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PathSpace) or self.identity != other.identity:
            return False
        # the digest is of the values alone: those of a mean (2, 1) and of a mean (1, 2) may be the same
        return self.reference.shapes == other.reference.shapes

    def __hash__(self) -> int:
        return hash(json.dumps(self.identity))

    def __repr__(self) -> str:
        return (
            f"PathSpace(event={self.event}, snr=({self.snr[0]:g}, {self.snr[1]:g}), reference={self.reference}, "
            f"cells={self.cells}, depth={self.depth}, grid={self.grid}, "
            f"slack={self.slack:g})"
        )
