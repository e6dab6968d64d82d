"""A Brownian path that is a pure function of seeds, on a master grid of cells."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_integer
from sdesig._memory import rows_at_once
from sdesig.brownian.cell_tree import AFTER, CUT, CellTree, Node, Visit
from sdesig.brownian.clock import Clock
from sdesig.brownian.philox import GENERATOR_VERSION, as_numpy, kernels, normals, numpy_dtype
from sdesig.signature import legendre
from sdesig.signature.areas.chen import chen_area
from sdesig.signature.areas.levy_area import check_memory, check_range, strong_area
from sdesig.signature.areas.truncation import RELATIVE_TOLERANCE, affordable_terms, choose_method

_COEFFICIENTS, _INITIAL, _AREA = 0, 1, 2  # streams of the generator; the draws of an area take _AREA, _AREA + 1, ...
_COPIES = 8  # of a value that are counted for each that is asked for: parents, halves, normals and temporaries
_LOOKED_AT = 1 << 12  # cells of a grid whose lengths are looked at to find the longest
_FEWEST_KEPT, _MOST_KEPT, _KEPT_NUMBERS = 3, 64, 2**20  # nodes that wait for later queries, and their numbers


Values = Tensor | np.ndarray
"""Of a node: a tensor (depth, *shape), or what is compiled makes of it, (depth, number of values)."""


class MasterGrid:
    """Coefficients and areas of a path on a master grid, a pure function of one seed per row.

    The nodes of a `CellTree` are cut from the whole interval down by the exact conditional law. The normals of a cut
    are keyed by (seed, number of the node). So a row depends on its seed alone, not on the queries, and only the nodes
    that a query needs are drawn. Values are of the dtype, but at least float32. Threads may share a grid.

    On the CPU the whole way down is one compiled pass, if numba is there. Elsewhere, and for depths and clocks that it
    does not know, the nodes of each level of the tree are cut at once by operations of torch.

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
        cells: int,
        dtype: torch.dtype,
        *,
        area: bool = False,
        area_tolerance: float | None = None,
    ) -> None:
        self._shape = shape
        self._depth = depth
        self._clock = clock
        self._seeds = seeds
        self._cells = cells
        self._tree = CellTree(cells)
        self._interval = (t0, t1)
        # Half precision would round differently from one batch size to another.
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._may_compile = seeds.device.type == "cpu" and math.prod(shape) > 0
        self._variance: np.ndarray | None = None  # of each coordinate, where clocks differ
        if self._may_compile and isinstance(clock.length(t0, t1), Tensor):
            variances = clock.variances
            self._may_compile = variances is not None and not variances.requires_grad
            if variances is not None and self._may_compile:
                own = variances.to(seeds.device, self._dtype).broadcast_to(shape[1:]).reshape(-1)
                self._variance = as_numpy(own)
                self._may_compile = float(self._variance.max()) * max(1.0, t1) < torch.finfo(self._dtype).max
        self._lock = threading.RLock()
        self._kept: list[tuple[Node, Values]] = []  # nodes that lie after an earlier query, by their start
        self._recent_areas: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self.area_tolerance: float | None = None
        if area:
            self._choose_area(area_tolerance, dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Copies have their own lock, and start without what is kept for speed: other threads may be changing it."""
        return self.__dict__ | {"_kept": [], "_recent_areas": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def locate(self, times: np.ndarray) -> np.ndarray:
        """Grid indices of query times.

        Raises:
            ValueError: a time further from the grid than rounding explains.
        """
        cells = self._clock.position(times, *self._interval) * self._cells
        ends = np.rint(cells).astype(np.int64)
        # Rounding of times in float32 amounts to a fixed share of the interval, hence to more cells of a finer grid.
        off = np.abs(cells - ends) > min(0.25, max(1e-3, 1e-5 * self._cells))
        if off.any():
            time, cell = times[off][0], cells[off][0]
            near = self._time(np.array([np.floor(cell), np.ceil(cell)]))
            raise ValueError(
                f"times must lie on the master grid of {self._cells} cells (see BrownianPath.grid and nearest; "
                f"give solvers float64 times); got {time}, between {near[0]} and {near[1]}"
            )
        return ends

    def nearest(self, times: np.ndarray) -> np.ndarray:
        """The times of the grid that are nearest in the clock."""
        return self._time(np.rint(self._clock.position(times, *self._interval) * self._cells))

    def grid(self, steps: int) -> np.ndarray:
        """Times of `steps` steps, as even in the clock as the grid allows.

        Raises:
            ValueError: more steps than cells.
        """
        check_integer("steps", steps, 1, self._cells)
        return self._time(np.round(np.arange(steps + 1) * float(self._cells) / steps))

    def lengths(self, ends: np.ndarray) -> Tensor:
        """Step lengths of the n intervals between n + 1 increasing grid indices, float64."""
        return self._length(ends[:-1], ends[1:])

    def step(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Length, with as many axes as a value, and coefficients (depth, *shape) on one interval, in less time."""
        h = self._clock.length(*self._time(np.array([start, stop])).tolist())
        dtype, axes = self._dtype, len(self._shape)
        if isinstance(h, Tensor):
            h = h.reshape(*[1] * (axes - h.ndim), *h.shape).to(self._seeds.device, dtype)
        else:
            h = torch.full((1,) * axes, h, dtype=dtype, device=self._seeds.device)
        return h, self.coefficients(np.array([start, stop]))[:, 0]

    def initial_noise(self) -> Tensor:
        """N(0, I), (*shape), independent of the path."""
        return self._normals(np.zeros(1, dtype=np.int64), _INITIAL, self._shape[1:])[0]

    def coefficients(self, ends: np.ndarray) -> Tensor:
        """(depth, n, *shape) on the n intervals between n + 1 increasing grid indices."""
        numbers, compiled = self._depth * math.prod(self._shape), self._kernels()
        size = (self._depth, len(ends) - 1, *self._shape)
        out: Any  # each place of an array is written first, and then added to
        if compiled is not None:
            out = np.empty(size, numpy_dtype(self._dtype))
        else:
            out = torch.zeros(size, dtype=self._dtype, device=self._seeds.device)
        # The operations of torch hold all nodes of a level, with temporaries; what is compiled holds none.
        step = len(ends) if compiled is not None else rows_at_once(_COPIES * numbers)
        most = min(_MOST_KEPT, max(_FEWEST_KEPT, _KEPT_NUMBERS // max(1, numbers)))
        for first in range(0, len(ends) - 1, step):
            part = ends[first : first + step + 1].tolist()
            at = part[0]
            while at < part[-1]:
                node, values = self._node_at(at)
                way = self._tree.visits(node, part, at)
                at = node.start + node.width
                later = [visit.node for visit in way if visit.owner == AFTER][:most]
                self._make_room(part[-1], most - len(later))
                kept: Sequence[Values]
                if compiled is not None:
                    kept = self._cut_compiled(compiled, way, values, out, len(later))
                else:
                    kept = self._cut_by_level(way, values, part, out[:, first : first + step], later)
                del values
                if later:
                    self._keep(list(zip(later, kept, strict=True)))
        return out if compiled is None else torch.from_numpy(out)

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
        cells = np.unique(np.linspace(0, self._cells - 1, _LOOKED_AT).astype(np.int64))
        lengths, whole = self._length(cells, cells + 1), self._length(np.array([0]), np.array([self._cells])).item()
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
        stream, numbers = _AREA - 1, self._tree.numbers(leaves)

        def draw(shape: tuple[int, ...]) -> Tensor:
            nonlocal stream
            stream += 1
            return self._normals(numbers, stream, shape[2:])

        leaf_areas = strong_area(self.area_method, coefficients, h, self.area_terms, draw)
        leaf_increments = h.sqrt() * coefficients[0]
        steps = [slice(start - ends[0], stop - ends[0]) for start, stop in pairwise(ends)]
        areas = torch.stack([chen_area(leaf_areas[step], leaf_increments[step]) for step in steps])
        return areas, torch.stack([leaf_increments[step].sum(0) for step in steps])

    def _kernels(self) -> Any:
        """The compiled drawing, where it knows the device, the depth and the clock."""
        compiled = kernels() if self._may_compile else None
        return compiled if compiled is not None and self._depth <= compiled.DEEPEST else None

    def _node_at(self, cell: int) -> tuple[Node, Any]:
        """A node that contains the cell, with its value: one that was kept, which then is so no more; else the root."""
        with self._lock:
            index = bisect_right(self._kept, cell, key=_start) - 1
            if index >= 0 and cell < self._kept[index][0].stop:
                return self._kept.pop(index)
        return self._tree.root, None

    def _make_room(self, cell: int, most: int) -> None:
        """Forget kept nodes but for the `most` nearest to a cell: the next queries are likely to go on from there."""
        with self._lock:
            if len(self._kept) > most:
                self._kept = sorted(self._kept, key=lambda pair: abs(pair[0].start - cell))[:most]
                self._kept.sort(key=_start)

    def _keep(self, nodes: list[tuple[Node, Values]]) -> None:
        """Keep nodes for later queries."""
        # After the step [1, 2) of 2^3 cells the nodes 5, [2, 4), and 3, [4, 8), are kept. The next step, [2, 3), cuts
        # node 5, which leaves 11, [3, 4), and 3; and so on: no node is cut twice.
        with self._lock:
            known = {node.number for node, _ in self._kept}
            self._kept += [pair for pair in nodes if pair[0].number not in known]
            self._kept.sort(key=_start)

    def _cut_compiled(
        self, compiled: Any, way: list[Visit], values: np.ndarray | None, out: np.ndarray, keep: int
    ) -> list[np.ndarray]:
        """Go the way down from a node's values, those of the whole if None; return the first `keep` nodes after it."""
        doings: list[tuple[int, int, int]] = []
        spans: list[tuple[int, int, int, int]] = []  # what is cut or joined: its number, begin, middle, end
        waiting = 0
        for node, owner, joined in way:
            if owner == CUT:
                spans.append((len(doings), node.start, self._tree.parts(node)[1].start, node.stop))
                doings.append((compiled.CUT, node.number, 0))
            elif owner == AFTER and waiting < keep:
                doings.append((compiled.KEEP, 0, waiting))
                waiting += 1
            elif owner < 0:
                doings.append((compiled.DROP, 0, 0))
            elif joined == node.start:
                doings.append((compiled.STORE, 0, owner))
            else:
                spans.append((len(doings), joined, node.start, node.stop))
                doings.append((compiled.JOIN, 0, owner))
        ratios = np.ones((len(doings), 3))
        if spans:
            numbers, *cells = np.array(spans).T
            begin, middle, end = self._time(np.array(cells))
            length = self._clock.length if self._variance is None else np.subtract
            ratios[numbers, 0] = length(begin, middle) / length(middle, end)
            ratios[numbers, 1], ratios[numbers, 2] = begin, end
        flat = (self._depth, math.prod(self._shape))
        kept = [np.empty(flat, out.dtype) for _ in range(keep)]
        compiled.descend(
            as_numpy(self._seeds),
            (_COEFFICIENTS, GENERATOR_VERSION),
            self._variance,
            values,
            np.array(doings, dtype=np.int64),
            ratios,
            out.reshape(self._depth, -1, flat[1]),
            kept,
        )
        return kept

    def _cut_by_level(
        self, way: list[Visit], values: Tensor | None, ends: list[int], out: Tensor, later: list[Node]
    ) -> list[Tensor]:
        """The same by operations of torch; joined parts are added to `out`, (depth, n, *shape)."""
        owners = {visit.node.number: visit.owner for visit in way}
        nodes, values = [way[0].node], self._whole() if values is None else values[:, None]
        kept: dict[Node, Tensor] = {}
        while nodes:
            parts = [k for k, node in enumerate(nodes) if owners[node.number] >= 0]
            if parts:
                given = [nodes[k] for k in parts]
                self._give_out(given, [owners[node.number] for node in given], values[:, parts], ends, out)
            kept |= {node: values[:, k] for k, node in enumerate(nodes) if node in later}
            cut = [k for k, node in enumerate(nodes) if owners[node.number] == CUT]
            values = self._cut([nodes[k] for k in cut], values[:, cut]) if cut else values
            nodes = [self._tree.parts(nodes[k])[side] for side in (0, 1) for k in cut]
        return [kept[node].clone() for node in later]

    def _give_out(self, nodes: list[Node], owners: list[int], values: Tensor, ends: list[int], out: Tensor) -> None:
        """Add what n nodes, of values (depth, n, *shape), contribute to their intervals."""
        starts, stops = np.array([node.start for node in nodes]), np.array([node.stop for node in nodes])
        begins, after = np.array(ends)[owners], np.array(ends)[np.array(owners) + 1]
        whole = self._length(begins, after)
        start, part = self._length(begins, starts) / whole, self._length(starts, stops) / whole
        matrix = self._per_interval(legendre.part_to_whole(start, part, self._depth))
        out.index_add_(1, torch.tensor(owners, device=out.device), legendre.apply_in_order(matrix, list(values)))

    def _cut(self, nodes: list[Node], values: Tensor) -> Tensor:
        """Values on the left and then on the right parts of n nodes, (depth, 2 n, *shape), from those on the nodes."""
        starts, middles, stops = np.array([(n.start, self._tree.parts(n)[1].start, n.stop) for n in nodes]).T
        lengths = self._length(starts, middles), self._length(middles, stops)
        matrix = self._per_interval(legendre.split_matrix(*lengths, self._depth))
        numbers = self._coefficient_normals(np.array([node.number for node in nodes]))
        parts = legendre.apply_in_order(matrix.mT, [*values, *numbers]).unflatten(0, (2, self._depth))
        return torch.cat([parts[0], parts[1]], dim=1)

    def _whole(self) -> Tensor:
        """(depth, 1, *shape) on the whole interval. Its number, 0, is that of no node that is cut."""
        return self._coefficient_normals(np.zeros(1, dtype=np.int64))

    def _coefficient_normals(self, numbers: np.ndarray) -> Tensor:
        """(depth, n, *shape)."""
        return self._normals(numbers, _COEFFICIENTS, (self._depth, *self._shape[1:])).movedim(2, 0)

    def _normals(self, numbers: np.ndarray, stream: int, event: tuple[int, ...]) -> Tensor:
        """(n, rows, *event)."""
        nodes = torch.from_numpy(numbers).to(self._seeds.device)
        values = normals(self._seeds, nodes, stream, math.prod(event), self._dtype)
        return values.reshape(*values.shape[:2], *event)

    def _length(self, starts: np.ndarray, stops: np.ndarray) -> Tensor:
        """Step lengths between grid indices, (n, *shape of one length)."""
        times = (torch.from_numpy(self._time(ends)) for ends in (starts, stops))
        return torch.as_tensor(self._clock.length(*times))

    def _time(self, ends: np.ndarray) -> np.ndarray:
        return self._clock.time(ends / float(self._cells), *self._interval)

    def _per_interval(self, matrix: Tensor) -> Tensor:
        """(n, *batch, i, j) with axes inserted after the first, so that it applies to values of shape (n, *shape)."""
        missing = len(self._shape) + 3 - matrix.ndim
        return matrix.reshape(len(matrix), *[1] * missing, *matrix.shape[1:])


def _start(pair: tuple[Node, Values]) -> int:
    return pair[0].start
