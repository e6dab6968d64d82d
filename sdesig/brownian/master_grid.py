"""A Brownian path that is a pure function of seeds, on a master grid: the tree of its cells, and its nodes' values."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_integer
from sdesig._devices import like, to_device
from sdesig._memory import rows_at_once
from sdesig._philox import GENERATOR_VERSION, as_numpy, kernels, normals, numpy_dtype
from sdesig.brownian.clock import Clock
from sdesig.signature import legendre
from sdesig.signature.areas.chen import chen_area
from sdesig.signature.areas.levy_area import check_memory, check_range, strong_area
from sdesig.signature.areas.truncation import RELATIVE_TOLERANCE, affordable_terms, choose_method

MOST_CELLS = 2**30
_MOST_NUMBER = 2**32  # numbers of nodes are 32 bits of the generator's counter
_COEFFICIENTS, _INITIAL, _AREA = 0, 1, 2  # streams of the generator; the draws of an area take _AREA, _AREA + 1, ...
_COPIES = 8  # of a value that are counted for each that is asked for: parents, halves, normals and temporaries
_LOOKED_AT = 1 << 12  # cells of a grid whose lengths are looked at to find the longest
_FEWEST_KEPT, _MOST_KEPT, _KEPT_NUMBERS = 3, 64, 2**20  # nodes that wait for later queries, and their numbers
_MOST_AHEAD, _AHEAD_NUMBERS = 64, 2**20  # steps that are drawn before they are asked for, and their numbers


class Node(NamedTuple):
    """The cells start, ..., start + width - 1."""

    number: int
    start: int
    width: int

    @property
    def stop(self) -> int:
        """The cell after the last one."""
        return self.start + self.width


CUT, BEFORE, AFTER = -3, -2, -1
"""Owners of nodes that are no part of an interval: those that are cut, those before the intervals, and those after."""


class Visit(NamedTuple):
    """A node met on the way down the tree.

    Attributes:
        node: the node.
        owner: number of the interval that it is part of, or one of `CUT`, `BEFORE` and `AFTER`.
        joined: of a part of an interval, the cell at which the interval begins: what lies between comes before it.
    """

    node: Node
    owner: int
    joined: int


class CellTree:
    """A binary tree over n cells, whose root is all of them.

    A node is cut into the parts of the largest odd prime factor of n first, then into those of the next one, and into
    halves in the end; p parts are cut into p // 2 and the others. So N even steps end at nodes high up in the tree
    where N is the product of some such factors: of 5 x 256 cells, 2 : 3 of the first cut are followed by 1 : 1 and
    1 : 2, and 5, 10 and 20 even steps need 4, 9 and 19 cuts.

    The root has number 1, the parts of node k the numbers 2k and 2k + 1; on 2^levels cells they are 2^level + index.

    Raises:
        ValueError: more than 2^30 cells, or a number of cells whose tree is deeper than 31.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.root = Node(1, 0, cells)
        widths, rest = [cells], cells
        for factor in _prime_factors(cells):
            rest //= factor
            widths.append(rest)
        self._left: dict[int, int] = {}  # by the width of a node
        for whole, part in pairwise(widths):
            pending = [whole // part]
            while pending:
                count = pending.pop()
                if count > 1 and count * part not in self._left:
                    self._left[count * part] = count // 2 * part
                    pending += [count // 2, count - count // 2]
        last = self.root
        while last.width > 1:
            last = self.parts(last)[1]
        if last.number >= _MOST_NUMBER:
            raise ValueError(f"cells must have fewer odd factors: a tree of {cells} cells is deeper than 31")

    def parts(self, node: Node) -> tuple[Node, Node]:
        """The two parts of a node of more than one cell."""
        left = self._left[node.width]
        return (
            Node(2 * node.number, node.start, left),
            Node(2 * node.number + 1, node.start + left, node.width - left),
        )

    def end_near(self, position: float, slack: float) -> int:
        """The cell at which the node highest up in the tree ends within `slack` of a position; else the nearest one."""
        node = self.root
        while node.width > 1:
            left, right = self.parts(node)
            if abs(right.start - position) <= slack:
                return right.start
            node = left if position < right.start else right
        return round(position)

    def visits(self, node: Node, ends: Sequence[int], first: int) -> list[Visit]:
        """The way down a node for the intervals between n + 1 increasing ends: left parts before right ones.

        Args:
            node: a node that contains the cell `first`.
            ends: cells at which intervals begin and end.
            first: ends[0] or a cell after it; nodes before it are not wanted.
        """
        # On 2^3 cells the intervals [0, 3) and [3, 8) cut node 1, [0, 8), node 2, [0, 4), and node 5, [2, 4). Parts are
        # 4, [0, 2), and 10, [2, 3), of the first one; 11, [3, 4), and 3, [4, 8), of the second one. The way is
        # 1 2 4 5 10 11 3.
        way, pending = [], [node]
        while pending:
            node = pending.pop()
            stop = node.start + node.width
            if stop <= first:
                way.append(Visit(node, BEFORE, 0))
                continue
            at = bisect_right(ends, node.start)
            if at == len(ends):
                way.append(Visit(node, AFTER, 0))
            elif ends[at] < stop or node.start < first:
                way.append(Visit(node, CUT, 0))
                left, right = self.parts(node)
                pending += [right, left]
            else:
                way.append(Visit(node, at - 1, ends[at - 1]))
        return way

    def numbers(self, cells: np.ndarray) -> np.ndarray:
        """Numbers of the nodes that are these single cells, int64."""
        number, start, width = np.ones_like(cells), np.zeros_like(cells), np.full_like(cells, self.cells)
        widths = np.array(sorted(self._left), dtype=np.int64)
        lefts = np.array([self._left[width] for width in widths.tolist()], dtype=np.int64)
        while (width > 1).any():
            wide = width > 1
            left = lefts[np.searchsorted(widths, width[wide])]
            right = cells[wide] >= start[wide] + left
            number[wide] = 2 * number[wide] + right
            start[wide] += np.where(right, left, 0)
            width[wide] = np.where(right, width[wide] - left, left)
        return number


_Met = tuple[Node, dict[int, int]]
"""A node on the way down from one of the nodes where it begins, and the owners of those on it."""


class _Ahead(NamedTuple):
    """Adjacent single steps of `width` cells each, of which the later ones are not asked for yet.

    Attributes:
        steps: their lengths (drawn, ...) and coefficients (depth, drawn, ...); None of a step that was drawn alone.
        before: how many steps of this width ended where they start.
        runs: widths and numbers of steps of the last two runs of equal steps, where each began at the end of another.
    """

    start: int
    width: int
    drawn: int
    steps: tuple[Tensor, Tensor] | None
    before: int
    runs: tuple[tuple[int, int], ...]


_NOTHING_AHEAD = _Ahead(0, 1, 0, None, 0, ())


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
        self._variance: Tensor | None = None
        self._one_clock = not isinstance(clock.length(t0, t1), Tensor)
        if not self._one_clock and clock.variances is not None:
            variance = to_device(clock.variances.detach().to(self._dtype), seeds.device)
            self._variance = variance.broadcast_to(shape[1:]).reshape(-1)
        self._may_compile = seeds.device.type == "cpu" and math.prod(shape) > 0
        if self._may_compile and not self._one_clock:
            own = self._variance
            most = torch.finfo(self._dtype).max / max(1.0, t1)
            self._may_compile = own is not None and bool(own.max() < most)
        self._lock = threading.RLock()
        self._kept: list[tuple[Node, Values]] = []  # nodes that lie after an earlier query, by their start
        self._recent_areas: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._ahead = _NOTHING_AHEAD
        self.area_tolerance: float | None = None
        if area:
            self._choose_area(area_tolerance, dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Copies have their own lock, and start without what is kept for speed: other threads may be changing it."""
        return self.__dict__ | {
            "_kept": [],
            "_recent_areas": OrderedDict(),
            "_ahead": _NOTHING_AHEAD,
            "_lock": None,
        }

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
        """Step lengths of the n intervals between n + 1 increasing grid indices, (n, *shape of one length)."""
        compiled, variances = self._kernels(), self._clock.variances
        if compiled is None or variances is None:
            lengths = self._length(ends[:-1], ends[1:])
            return lengths if isinstance(lengths, Tensor) else torch.from_numpy(lengths)
        own = as_numpy(variances.detach().to(self._dtype).reshape(-1))
        return torch.from_numpy(compiled.lengths(self._time(ends), own)).unflatten(1, variances.shape or (1,))

    def step(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Length, with as many axes as a value, and coefficients (depth, *shape) on one interval.

        Of adjacent steps of equal numbers of cells the next ones are drawn with the one that is asked for, as a solver
        will ask for them: four times as many as before each time, of small values. This changes none of them.
        """
        # Of 1000 even steps on 1024 cells runs of 41 or 42 steps of a cell follow on single ones of two cells. After
        # the first run all of a run is drawn with its first step; where it goes on, few more at first.
        width, ahead = stop - start, self._ahead  # another thread may replace it
        number, within = divmod(start - ahead.start, ahead.width)
        adjoins = within == 0 and 0 <= number <= ahead.drawn
        before, runs, count = 0, ahead.runs if adjoins else (), 1
        if adjoins and width == ahead.width:
            if number < ahead.drawn and ahead.steps is not None:
                lengths, coefficients = ahead.steps
                return lengths[number].clone(), coefficients[:, number].clone()
            before = ahead.before + number
            count = 4 * number
        elif adjoins:
            runs = (*runs[-1:], (ahead.width, ahead.before + number))
        if known := dict(runs).get(width, 0):
            count = known - before if known > before else before - known + 1
        fitting = _AHEAD_NUMBERS // max(1, self._depth * math.prod(self._shape))
        count = max(1, min(count, _MOST_AHEAD, fitting, (self._cells - start) // width))
        ends = np.arange(start, start + count * width + 1, width)
        with torch.inference_mode(False):  # kept: see `ConditionalTree`
            lengths = self.lengths(ends)
            lengths = lengths.reshape(count, *[1] * (len(self._shape) + 1 - lengths.ndim), *lengths.shape[1:])
            lengths, coefficients = to_device(lengths.to(self._dtype), self._seeds.device), self.coefficients(ends)
        self._ahead = _Ahead(start, width, count, (lengths, coefficients) if count > 1 else None, before, runs)
        return (lengths[0].clone(), coefficients[:, 0].clone()) if count > 1 else (lengths[0], coefficients[:, 0])

    def initial_noise(self) -> Tensor:
        """N(0, I), (*shape), independent of the path."""
        return self._normals(np.zeros(1, dtype=np.int64), _INITIAL, self._shape[1:])[0]

    @torch.no_grad()  # of a clock's variance
    def coefficients(self, ends: np.ndarray) -> Tensor:
        """(depth, n, *shape) on the n intervals between n + 1 increasing grid indices."""
        numbers, compiled = self._depth * math.prod(self._shape), self._kernels()
        size = (self._depth, len(ends) - 1, *self._shape)
        out: Any  # each place of an array is written first, and then added to
        if compiled is not None:
            out = np.empty(size, numpy_dtype(self._dtype))
        else:
            out = torch.zeros(size, dtype=self._dtype, device=self._seeds.device)
        # The operations of torch hold all nodes of a level, with temporaries, and matrices of each coordinate where it
        # has a clock; what is compiled holds none.
        matrices = 0 if self._one_clock else self._depth**2 * math.prod(self._shape[1:])
        step = len(ends) if compiled is not None else rows_at_once(_COPIES * (numbers + matrices))
        most = min(_MOST_KEPT, max(_FEWEST_KEPT, _KEPT_NUMBERS // max(1, numbers)))
        for first in range(0, len(ends) - 1, step):
            part = ends[first : first + step + 1].tolist()
            if compiled is None:
                self._cut_by_level(part, out[:, first : first + step], most)
                continue
            at = part[0]
            while at < part[-1]:
                node, values = self._node_at(at)
                way = self._tree.visits(node, part, at)
                at = node.stop
                later = [visit.node for visit in way if visit.owner == AFTER][:most]
                self._make_room(part[-1], most - len(later))
                kept = self._cut_compiled(compiled, way, values, out, len(later))
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
        h = like(torch.as_tensor(self._length(leaves, leaves + 1)), coefficients).reshape(-1, *[1] * len(self._shape))
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
            ratios[numbers] = self._ratios(np.array(cells)).T
        flat = (self._depth, math.prod(self._shape))
        kept = [np.empty(flat, out.dtype) for _ in range(keep)]
        compiled.descend(
            as_numpy(self._seeds),
            (_COEFFICIENTS, GENERATOR_VERSION),
            None if self._variance is None else as_numpy(self._variance),
            values,
            np.array(doings, dtype=np.int64),
            ratios,
            out.reshape(self._depth, -1, flat[1]),
            kept,
        )
        return kept

    def _cut_by_level(self, ends: list[int], out: Tensor, most: int) -> None:
        """Add what n intervals between n + 1 ends are to `out`, (depth, n, *shape), by operations of torch.

        Of the nodes after them the first `most` are kept. What is added to an interval comes in the order of the levels
        of the tree, wherever the way begins: so sums do not depend on what was kept.
        """
        given: dict[int, list[tuple[_Met, Tensor | None]]] = {}  # nodes where the way begins, by their level
        later: list[Node] = []
        at = ends[0]
        while at < ends[-1]:
            top, start = self._node_at(at)
            way = self._tree.visits(top, ends, at)
            later += [visit.node for visit in way if visit.owner == AFTER]
            owners = {visit.node.number: visit.owner for visit in way}
            given.setdefault(top.number.bit_length(), []).append(((top, owners), start))
            at = top.stop
        del later[most:]
        self._make_room(ends[-1], most - len(later))
        met: list[_Met] = []  # nodes of one level
        values = out[:, :0]
        level = min(given)
        while met or given:
            for beginning, of_it in given.pop(level, []):
                of_it = self._whole() if of_it is None else of_it[:, None]
                values = torch.cat([values, of_it], 1) if met else of_it
                met.append(beginning)
            self._give_out(met, values, ends, out)
            for k, (node, owners) in enumerate(met):
                if owners[node.number] == AFTER and node in later:
                    self._keep([(node, values[:, k].clone())])  # as a part of the level it would keep all of it
            cut = [k for k, (node, owners) in enumerate(met) if owners[node.number] == CUT]
            nodes = [met[k][0] for k in cut]
            values = self._cut(nodes, values[:, _places(cut, values)]) if cut else out[:, :0]
            met = [(part, met[k][1]) for k in cut for part in self._tree.parts(met[k][0])]
            level += 1

    def _give_out(self, met: list[_Met], values: Tensor, ends: list[int], out: Tensor) -> None:
        """Add those of n nodes of one level, of values (depth, n, *shape), that are parts of intervals."""
        alone: list[int] = []
        joined: tuple[list[int], list[int]] = [], []
        of = [owners[node.number] for node, owners in met]
        for k, ((node, _), owner) in enumerate(zip(met, of, strict=True)):
            if owner >= 0 and (node.start, node.stop) == (ends[owner], ends[owner + 1]):
                alone.append(k)
            elif owner >= 0:
                # An interval has one left and one right part of a level at most: what is added at once goes to
                # different ones, and the order in which a device adds does not matter.
                joined[node.number % 2].append(k)
        if alone:
            out[:, _places([of[k] for k in alone], out)] = values[:, _places(alone, values)]
        for parts in filter(None, joined):
            owners = np.array([of[k] for k in parts])
            starts, stops = np.array([(met[k][0].start, met[k][0].stop) for k in parts]).T
            begins, after = np.array(ends)[owners], np.array(ends)[owners + 1]
            whole = self._length(begins, after)
            start, part = self._length(begins, starts) / whole, self._length(starts, stops) / whole
            matrix = self._per_interval(torch.as_tensor(legendre.part_to_whole(start, part, self._depth)), 2)
            added = legendre.apply_in_order(matrix, values[:, _places(parts, values)])
            out[:, _places(owners.tolist(), out)] += added

    def _cut(self, nodes: list[Node], values: Tensor) -> Tensor:
        """Values on the left and the right part of each of n nodes, (depth, 2 n, *shape), from those on the nodes."""
        cells = np.array([(node.start, self._tree.parts(node)[1].start, node.stop) for node in nodes]).T
        numbers = self._coefficient_normals(np.array([node.number for node in nodes]))
        return legendre.cut(values, numbers, self._ratio(cells)).flatten(1, 2)

    def _ratio(self, cells: np.ndarray) -> np.ndarray | Tensor:
        """Ratios of the parts of n nodes, with as many axes as their values, from their begin, middle and end, (3, n).

        With one clock for all coordinates they stay on the CPU.
        """
        if self._variance is None:
            begin, middle, end = cells
            return self._per_interval(self._length(begin, middle) / self._length(middle, end))
        given = to_device(torch.from_numpy(self._ratios(cells)), self._seeds.device)
        ratio, begin, end = (self._per_interval(values) for values in given)
        variance = self._variance.reshape(self._shape[1:])
        return ratio * (1.0 + variance * end) / (1.0 + variance * begin)

    def _ratios(self, cells: np.ndarray) -> np.ndarray:
        """Of n nodes the ratios of their parts, and the times at which they begin and end: (3, n).

        Where each coordinate has a clock the ratios are those in the clock t.
        """
        begin, middle, end = self._time(cells)
        length = self._clock.length if self._variance is None else np.subtract
        return np.stack([length(begin, middle) / length(middle, end), begin, end])

    def _whole(self) -> Tensor:
        """(depth, 1, *shape) on the whole interval. Its number, 0, is that of no node that is cut."""
        return self._coefficient_normals(np.zeros(1, dtype=np.int64))

    def _coefficient_normals(self, numbers: np.ndarray) -> Tensor:
        """(depth, n, *shape)."""
        return self._normals(numbers, _COEFFICIENTS, (self._depth, *self._shape[1:])).movedim(2, 0)

    def _normals(self, numbers: np.ndarray, stream: int, event: tuple[int, ...]) -> Tensor:
        """(n, rows, *event)."""
        nodes = to_device(torch.from_numpy(numbers), self._seeds.device)
        values = normals(self._seeds, nodes, stream, math.prod(event), self._dtype)
        return values.reshape(*values.shape[:2], *event)

    def _length(self, starts: np.ndarray, stops: np.ndarray) -> Any:
        """Step lengths between grid indices, (n, *shape of one length): a numpy array for one clock, else a tensor."""
        return self._clock.length(self._time(starts), self._time(stops))

    def _time(self, ends: np.ndarray) -> np.ndarray:
        return self._clock.time(ends / float(self._cells), *self._interval)

    def _per_interval(self, values: legendre.Array, trailing: int = 0) -> legendre.Array:
        """(n, *batch, ...) with axes inserted after the first, to fit (n, *shape) but for the trailing axes."""
        missing = len(self._shape) + 1 + trailing - values.ndim
        return values.reshape(len(values), *[1] * missing, *values.shape[1:])


def _places(places: list[int], values: Tensor) -> slice | Tensor:
    """An index of the second axis, without a wait for a device; a slice, hence a view, of places evenly apart."""
    step = places[1] - places[0] if len(places) > 1 else 1
    if step > 0 and places == list(range(places[0], places[-1] + 1, step)):
        return slice(places[0], places[-1] + 1, step)
    return to_device(torch.tensor(places), values.device)


def _start(pair: tuple[Node, Values]) -> int:
    return pair[0].start


def _prime_factors(n: int) -> list[int]:
    """The largest odd one first, twos last."""
    factors, factor = [], 2
    while factor * factor <= n:
        while n % factor == 0:
            factors.append(factor)
            n //= factor
        factor += 1
    factors += [n] * (n > 1)
    return sorted((f for f in factors if f > 2), reverse=True) + [2] * factors.count(2)
