"""A Brownian path that is a pure function of seeds, on a master grid of 2^levels cells."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_integer
from sdesig._memory import rows_at_once
from sdesig.brownian.clock import Clock
from sdesig.brownian.philox import normals
from sdesig.signature import legendre
from sdesig.signature.areas.chen import chen_area
from sdesig.signature.areas.levy_area import check_memory, check_range, strong_area
from sdesig.signature.areas.truncation import RELATIVE_TOLERANCE, affordable_terms, choose_method

_COEFFICIENTS, _INITIAL, _AREA = 0, 1, 2  # streams of the generator; the draws of an area take _AREA, _AREA + 1, ...
_COPIES = 8  # of a value that are counted for each that is asked for: parents, halves, normals and temporaries
_FEWEST = 16  # below so many intervals at a time they are walked one by one, which bisects no cell twice
_LOOKED_AT = 1 << 12  # cells of a grid whose lengths are looked at to find the longest


class MasterGrid:
    """Coefficients and areas of a path on a master grid, a pure function of one seed per row.

    Cells are bisected from the whole interval down by the exact conditional law. Cell `index` of `level` is numbered
    2^level + index, and the normals of its bisection are keyed by (seed, number). So a row depends on its seed alone,
    not on the queries, and only the cells that a query needs are drawn. Values are of the dtype, but at least float32.
    Threads may share a grid.

    Attributes:
        area_tolerance: bound on the error of the cells' areas, None without areas.
        area_method, area_terms: method and number of terms by which the cells' areas are drawn.
    """

    def __init__(
        self,
        t0: float,
        t1: float,
        shape: tuple[int, ...],
        depth: int,
        clock: Clock,
        seeds: Tensor,
        levels: int,
        dtype: torch.dtype,
        *,
        area: bool = False,
        area_tolerance: float | None = None,
    ) -> None:
        self._shape = shape
        self._depth = depth
        self._clock = clock
        self._seeds = seeds
        self._levels = levels
        self._interval = (t0, t1)
        # Half precision would round differently from one batch size to another.
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._lock = threading.RLock()
        self._shared_matrices: dict[int, Tensor] = {}  # whichever thread computes one, it is the same
        self._recent: OrderedDict[int, Tensor] = OrderedDict()
        self._recent_areas: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self.area_tolerance: float | None = None
        if area:
            self._choose_area(area_tolerance, dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Copies have their own lock, and start without what is kept for speed: other threads may be changing it."""
        empty: dict[str, Any] = {"_shared_matrices": {}, "_recent": OrderedDict(), "_recent_areas": OrderedDict()}
        return self.__dict__ | empty | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def locate(self, times: np.ndarray) -> np.ndarray:
        """Grid indices of query times.

        Raises:
            ValueError: a time further from the grid than rounding explains.
        """
        cells = self._clock.position(times, *self._interval) * 2.0**self._levels
        ends = np.rint(cells).astype(np.int64)
        # Rounding of times in float32 amounts to a fixed share of the interval, hence to more cells of a finer grid.
        tolerance = min(0.25, max(1e-3, 1e-5 * 2.0**self._levels))
        for time, cell, end in zip(times, cells, ends, strict=True):
            if abs(cell - end) > tolerance:
                near = self._time(np.array([np.floor(cell), np.ceil(cell)]))
                raise ValueError(
                    f"times must lie on the master grid of 2^{self._levels} cells (see BrownianPath.grid and nearest; "
                    f"give solvers float64 times); got {time}, between {near[0]} and {near[1]}"
                )
        return ends

    def nearest(self, times: np.ndarray) -> np.ndarray:
        """The times of the grid that are nearest in the clock."""
        return self._time(np.rint(self._clock.position(times, *self._interval) * 2.0**self._levels))

    def grid(self, steps: int) -> np.ndarray:
        """Times of `steps` steps, as even in the clock as the grid allows.

        Raises:
            ValueError: more steps than cells.
        """
        check_integer("steps", steps, 1, 2**self._levels)
        return self._time(np.round(np.arange(steps + 1) * 2.0**self._levels / steps))

    def lengths(self, ends: np.ndarray) -> Tensor:
        """Step lengths of the n intervals between n + 1 increasing grid indices, float64."""
        return self._length(ends[:-1], ends[1:])

    def initial_noise(self) -> Tensor:
        """N(0, I), (*shape), independent of the path."""
        return self._normals(np.zeros(1, dtype=np.int64), _INITIAL, self._shape[1:])[0]

    def coefficients(self, ends: np.ndarray) -> Tensor:
        """(depth, n, *shape) on the n intervals between n + 1 increasing grid indices."""
        step = rows_at_once(_COPIES * self._depth * math.prod(self._shape))
        step = step if step >= _FEWEST else 1
        if len(ends) - 1 > step:
            chunks = range(0, len(ends) - 1, step)
            return torch.cat([self.coefficients(ends[k : k + step + 1]) for k in chunks], dim=1)
        shape = (self._depth, len(ends) - 1, *self._shape)
        out = torch.zeros(shape, dtype=self._dtype, device=self._seeds.device)
        cover = self._cover(ends)
        values: Iterable[tuple[int, Tensor]]
        values = self._recent_cells(cover) if len(ends) == 2 else self._cells([cells for cells, _ in cover])
        pieces = []
        for level, cell_values in values:
            cells, owners = cover[level]
            width = 2 ** (self._levels - level)
            alone = ends[owners + 1] - ends[owners] == width
            out[:, owners[alone]] = cell_values[:, alone]
            if not alone.all():
                pieces.append(
                    (cells[~alone] * width, np.full((~alone).sum(), width), owners[~alone], cell_values[:, ~alone])
                )
        if pieces:
            starts, widths, owners = (np.concatenate(column) for column in list(zip(*pieces, strict=True))[:3])
            whole = self._length(ends[owners], ends[owners + 1])
            start, part = self._length(ends[owners], starts) / whole, self._length(starts, starts + widths) / whole
            matrix = self._per_interval(legendre.part_to_whole(start, part, self._depth))
            parts = legendre.apply_in_order(matrix, torch.cat([piece[3] for piece in pieces], dim=1))
            out.index_add_(1, torch.from_numpy(owners).to(out.device), parts)
        return out

    def levy_areas(self, ends: np.ndarray) -> Tensor:
        """(n, *shape, d) on the n intervals between n + 1 increasing grid indices: Chen sums over their leaves.

        Those of intervals asked for not long ago are not drawn again.
        """
        check_memory((len(ends) - 1, *self._shape), self._dtype, self._seeds.device)
        if self._shape[-1] <= 1:
            shape = (len(ends) - 1, *self._shape, self._shape[-1])
            return torch.zeros(shape, dtype=self._dtype, device=self._seeds.device)
        intervals = list(pairwise(ends.tolist()))
        with self._lock:
            found = {interval: self._recent_areas[interval] for interval in intervals if interval in self._recent_areas}
            for known, run in groupby(intervals, key=found.__contains__):
                if not known:
                    missing = list(run)
                    drawn = self._sum_leaves(np.array([missing[0][0], *(stop for _, stop in missing)]))
                    found |= zip(missing, drawn, strict=True)
            # As many as are a chunk of numbers stay; as copies, for a part of a tensor would keep all of it.
            most = rows_at_once(_COPIES * math.prod(self._shape) * self._shape[-1])
            for interval in intervals[-most:]:
                if interval not in self._recent_areas:
                    self._recent_areas[interval] = found[interval].clone()
                self._recent_areas.move_to_end(interval)
            while len(self._recent_areas) > most:
                self._recent_areas.popitem(last=False)
        return torch.stack([found[interval] for interval in intervals])

    def _sum_leaves(self, ends: np.ndarray) -> Tensor:
        """(n, *shape, d) on the n intervals between the ends."""
        step = rows_at_once(_COPIES * math.prod(self._shape) * max(self._shape[-1], 2 * self._depth))
        # Whole intervals are gathered into blocks of at most `step` leaves; a longer one is summed in pieces.
        blocks = [ends[:1].tolist()]
        for start, stop in pairwise(ends.tolist()):
            if stop - blocks[-1][0] > step and len(blocks[-1]) > 1:
                blocks.append([start])
            blocks[-1].append(stop)
        sums = []
        for block in blocks:
            first, last = block[0], block[-1]
            if last - first > step:
                pieces = [self._leaf_areas(pair) for pair in pairwise([*range(first, last, step), last])]
                areas, increments = (torch.cat(values) for values in zip(*pieces, strict=True))
                sums.append(chen_area(areas, increments)[None])
            else:
                sums.append(self._leaf_areas(block)[0])
        return torch.cat(sums)

    def _choose_area(self, tolerance: float | None, dtype: torch.dtype) -> None:
        """Set how areas are drawn; raise ValueError for a tolerance that takes too many terms, or too short cells."""
        cells = np.unique(np.linspace(0, 2**self._levels - 1, _LOOKED_AT).astype(np.int64))
        lengths, whole = self._length(cells, cells + 1), self._length(np.array([0]), np.array([2**self._levels])).item()
        check_range("h of a cell", lengths.min().item(), whole, dtype)
        longest = lengths.max().item()
        if tolerance is None:
            tolerance = longest * min(RELATIVE_TOLERANCE, math.sqrt(longest / whole))
        self.area_tolerance, dim = tolerance, max(1, self._shape[-1])
        # Of the increments alone the cheapest method will do; beside further coefficients it must know them.
        method = choose_method(dim, longest, tolerance) if self._depth == 1 else "legendre"
        self.area_method, self.area_terms = method, affordable_terms(dim, longest, tolerance, method=method)

    def _leaf_areas(self, ends: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Areas (n, *shape, d) and increments (n, *shape) on the n intervals between the ends."""
        leaves = np.arange(ends[0], ends[-1])
        coefficients = self.coefficients(np.arange(ends[0], ends[-1] + 1))
        h = self._length(leaves, leaves + 1).to(coefficients).reshape(-1, *[1] * len(self._shape))
        stream = _AREA - 1

        def draw(shape: tuple[int, ...]) -> Tensor:
            nonlocal stream
            stream += 1
            return self._normals(2**self._levels + leaves, stream, shape[2:])

        leaf_areas = strong_area(self.area_method, coefficients, h, self.area_terms, draw)
        leaf_increments = h.sqrt() * coefficients[0]
        steps = [slice(start - ends[0], stop - ends[0]) for start, stop in pairwise(ends)]
        areas = torch.stack([chen_area(leaf_areas[step], leaf_increments[step]) for step in steps])
        return areas, torch.stack([leaf_increments[step].sum(0) for step in steps])

    def _cover(self, ends: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per level, the cells of the coarsest exact cover of the intervals, and whose interval each is part of."""
        # From the finest level up: a cell at either end that is not half of a cell within the interval is taken, what
        # remains are whole cells of the level above. On 2^3 cells the interval from 1 to 7 is covered by four:
        #   level 3, [1, 7): cells 1 and 6 are taken, [2, 6) remains, which is [1, 3) on level 2
        #   level 2, [1, 3): cells 1 and 2 are taken, [2, 2) remains: nothing
        #   of all 8:        . 1 | 1 | 2 | 6 .
        cover = []
        lower, upper = ends[:-1].copy(), ends[1:].copy()
        owners = np.arange(len(lower))
        for _ in range(self._levels + 1):
            left, right = (lower < upper) & (lower % 2 == 1), (lower < upper) & (upper % 2 == 1)
            cover.append(
                (np.concatenate([lower[left], upper[right] - 1]), np.concatenate([owners[left], owners[right]]))
            )
            lower, upper = (lower + 1) // 2, upper // 2
        return cover[::-1]

    def _cells(self, wanted: list[np.ndarray]) -> Iterator[tuple[int, Tensor]]:
        """Yield (level, (depth, n, *shape)) for the n cells wanted on each level, from the coarsest down."""
        # What is needed beside what is wanted are all cells above. For the cover above, {1, 2} on level 2 and {1, 6} on
        # level 3, that is {0} on level 0, {0, 1} on level 1, {0, 1, 2, 3} on level 2, {1, 6} on level 3. Going down,
        # `values` holds the needed cells of one level; those with a needed half are bisected: on level 2 only 0 and 3.
        needed = [np.unique(cells) for cells in wanted]
        for level in range(self._levels, 0, -1):
            needed[level - 1] = np.union1d(needed[level - 1], needed[level] // 2)
        values = self._whole()
        for level, cells in enumerate(needed):
            if level > 0:
                if len(cells) == 0:
                    return
                parents = np.unique(cells // 2)
                if len(parents) < len(needed[level - 1]):
                    values = values[:, np.searchsorted(needed[level - 1], parents)]
                numbers = self._coefficient_normals(2 ** (level - 1) + parents)
                halves = self._bisect(level - 1, parents, values, numbers)
                values = halves.movedim(0, 2)[:, np.searchsorted(parents, cells // 2), cells % 2]
            if len(wanted[level]):
                yield level, values[:, np.searchsorted(cells, wanted[level])]

    def _recent_cells(self, cover: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, Tensor]]:
        """The same for a single interval, keeping the cells on its way: the next step is likely to start from them."""
        # Cells go by number, 2^level + index: the halves of cell n are 2n and 2n + 1. On 2^3 cells the step [1, 2) is
        # number 9. Nothing is known of 9, 4 and 2, so 1, 2 and 4 are bisected, which leaves 1, 2, 3, 4, 5, 8 and 9. The
        # next step [2, 3), number 10, is half of 5: one bisection, and none for [3, 4), the other half.
        wanted = [(level, (2**level + cells).tolist()) for level, (cells, _) in enumerate(cover) if len(cells)]
        missing = set()
        with self._lock:
            for _, numbers in wanted:
                for number in numbers:
                    while number > 1 and number not in self._recent and number // 2 not in missing:
                        number //= 2
                        missing.add(number)
            parents = sorted(missing)
            normals_of = self._coefficient_normals(np.array(parents, dtype=np.int64))
            if 1 not in self._recent:
                self._recent[1] = self._whole()
            for k, parent in enumerate(parents):
                level = parent.bit_length() - 1
                self._recent.move_to_end(parent)
                values, numbers = self._recent[parent], normals_of[:, k : k + 1]
                halves = self._bisect(level, np.array([parent - 2**level]), values, numbers)
                self._recent[2 * parent], self._recent[2 * parent + 1] = halves
            found = [(level, torch.cat([self._recent[n] for n in numbers], dim=1)) for level, numbers in wanted]
            while len(self._recent) > 6 * self._levels + 1:
                self._recent.popitem(last=False)
        return found

    def _whole(self) -> Tensor:
        """(depth, 1, *shape) on the whole interval. Its number, 0, is that of no bisected cell."""
        return self._coefficient_normals(np.zeros(1, dtype=np.int64))

    def _bisect(self, level: int, cells: np.ndarray, values: Tensor, numbers: Tensor) -> Tensor:
        """Values on the halves of n cells, (2, depth, n, *shape), from those on the cells and as many normals."""
        matrix = self._shared_matrices.get(level)
        if matrix is None:
            width = 2 ** (self._levels - level)
            starts = (np.zeros(1, dtype=np.int64) if self._clock.self_similar else cells) * width
            middles = starts + width // 2
            halves = self._length(starts, middles), self._length(middles, starts + width)
            matrix = legendre.split_matrix(*halves, self._depth)
            if self._clock.self_similar:
                matrix = self._shared_matrices[level] = matrix[0]
            else:
                matrix = self._per_interval(matrix)
        return legendre.apply_in_order(matrix.mT, [*values, *numbers]).unflatten(0, (2, self._depth))

    def _coefficient_normals(self, numbers: np.ndarray) -> Tensor:
        """(depth, n, *shape)."""
        return self._normals(numbers, _COEFFICIENTS, (self._depth, *self._shape[1:])).movedim(2, 0)

    def _normals(self, numbers: np.ndarray, stream: int, event: tuple[int, ...]) -> Tensor:
        """(n, rows, *event)."""
        cells = torch.from_numpy(numbers).to(self._seeds.device)
        values = normals(self._seeds, cells, stream, math.prod(event), self._dtype)
        return values.reshape(*values.shape[:2], *event)

    def _length(self, starts: np.ndarray, stops: np.ndarray) -> Tensor:
        """Step lengths between grid indices, (n, *shape of one length)."""
        times = (torch.from_numpy(self._time(ends)) for ends in (starts, stops))
        return torch.as_tensor(self._clock.length(*times))

    def _time(self, ends: np.ndarray) -> np.ndarray:
        return self._clock.time(ends / 2.0**self._levels, *self._interval)

    def _per_interval(self, matrix: Tensor) -> Tensor:
        """(n, *batch, i, j) with axes inserted after the first, so that it applies to values of shape (n, *shape)."""
        missing = len(self._shape) + 3 - matrix.ndim
        return matrix.reshape(len(matrix), *[1] * missing, *matrix.shape[1:])
