"""Grids of coarse steps: even in log-SNR, or by a density that was chosen and saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from sdesig._checks import check_integer, check_real
from sdesig._files import read_json, reading, write_json


@dataclass(frozen=True)
class StepGrid:
    """Times of N steps for every N: the k-th is at the quantile k/N of a density on the clock's positions in [0, 1].

    Args:
        quantiles: positions of the quantiles 0, 1/m, ..., 1, increasing from 0 to 1; linear between them. The default,
            (0, 1), is even in the path's clock: in log-SNR.

    Raises:
        ValueError: quantiles that do not increase from 0 to 1.
    """

    quantiles: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        values = np.asarray(self.quantiles, dtype=np.float64)
        if len(values) < 2 or values[0] != 0.0 or values[-1] != 1.0 or not bool((np.diff(values) > 0).all()):
            raise ValueError(f"quantiles must increase from 0 to 1; got {self.quantiles}")

    @classmethod
    def from_density(cls, density: np.ndarray | Tensor, knots: int = 64) -> StepGrid:
        """The grid of a density > 0 on equal cells of [0, 1], given up to a factor, (cells,)."""
        weights = np.asarray(density, dtype=np.float64)
        if weights.ndim != 1 or not bool((np.isfinite(weights) & (weights > 0)).all()):
            raise ValueError("density must be finite and > 0 everywhere, of shape (cells,)")
        mass = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
        inner = np.interp(np.linspace(0, 1, knots + 1)[1:-1], mass, np.linspace(0, 1, len(mass)))
        return cls((0.0, *inner.tolist(), 1.0))

    def positions(self, steps: int) -> np.ndarray:
        """Positions in [0, 1] of the times of `steps` steps, (steps + 1,)."""
        check_integer("steps", steps, 1)
        knots = np.linspace(0, 1, len(self.quantiles))
        return np.interp(np.linspace(0, 1, steps + 1), knots, self.quantiles)

    def save(self, file: str | Path) -> None:
        """Write the quantiles to a JSON file."""
        write_json(Path(file), {"quantiles": list(self.quantiles)})

    @classmethod
    def load(cls, file: str | Path) -> StepGrid:
        """Read a file of `save`.

        Raises:
            FileNotFoundError, ValueError: no such file, or no list of quantiles in it.
        """
        with reading(file):
            return cls.from_json(read_json(Path(file)).get("quantiles", []))

    @classmethod
    def from_json(cls, quantiles: object) -> StepGrid:
        """The grid of a JSON value, which may be anything.

        Raises:
            TypeError, ValueError: a value that is no list of quantiles.
        """
        if not isinstance(quantiles, list):
            raise TypeError(f"quantiles must be a list of numbers; got {quantiles!r}")
        return cls(tuple(check_real(f"quantiles[{k}]", value) for k, value in enumerate(quantiles)))

    def __repr__(self) -> str:
        return "StepGrid()" if len(self.quantiles) == 2 else f"StepGrid({len(self.quantiles)} quantiles)"


EVEN = StepGrid()
"""The grid of steps even in log-SNR."""
