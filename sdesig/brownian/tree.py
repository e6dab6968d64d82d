"""A Brownian path from a torch.Generator: any query times in any order, drawn from exact conditional laws."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig.brownian.clock import Clock
from sdesig.signature import legendre

_ROUNDING = 1e-12  # positions in the clock that are as close as this, or as four roundings of a time, are one time


@dataclass(eq=False)
class _Node:
    """The interval [start, stop]; a leaf has no parts. `coefficients` is None where it can be joined from the parts."""

    start: float
    stop: float
    coefficients: Tensor | None
    parts: tuple[_Node, _Node] | None = None
    leaves: int = 1


class ConditionalTree:
    """Coefficients of a path on [t0, t1], consistent over all queries.

    The leaves of a binary tree hold the coefficients between neighbouring times queried so far. A new time splits one
    leaf by its conditional law given the leaf (white noise is independent elsewhere); an interval is joined from
    O(log n) nodes in one batch. Unbalanced subtrees are rebuilt, so the cost per query stays O(log n) for any order.
    Values are of the dtype, but at least float32. Threads may share a tree. What is drawn in inference mode is kept as
    ordinary tensors, for it may be asked for again where gradients are wanted.
    """

    def __init__(
        self,
        t0: float,
        t1: float,
        shape: tuple[int, ...],
        depth: int,
        clock: Clock,
        generator: torch.Generator,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._root = _Node(t0, t1, None)
        self._times = [t0, t1]
        self._positions = [0.0, 1.0]
        inner = clock.position(np.nextafter([t0, t1], [t1, t0]), t0, t1)
        self._rounding = max(_ROUNDING, 4.0 * float(np.abs(inner - [0.0, 1.0]).max()))
        self._initial: Tensor | None = None
        self._shape = shape
        self._depth = depth
        self._clock = clock
        self._generator = generator
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._device = device
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Copies have a lock of their own."""
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def grid(self, steps: int) -> np.ndarray:
        """Times of `steps` steps that are even in the clock."""
        return self._clock.time(np.arange(steps + 1) / steps, self._root.start, self._root.stop)

    def locate(self, times: np.ndarray) -> np.ndarray:
        """The times themselves, or times known already where they differ by rounding only."""
        positions = self._clock.position(times, self._root.start, self._root.stop).tolist()
        with self._lock:
            return np.array([self._known(*pair) for pair in zip(times.tolist(), positions, strict=True)])

    def _known(self, time: float, position: float) -> float:
        at = bisect.bisect(self._positions, position)
        for k in (at - 1, at):
            if 0 <= k < len(self._times) and abs(self._positions[k] - position) < self._rounding:
                return self._times[k]
        self._positions.insert(at, position)
        self._times.insert(at, time)
        return time

    def lengths(self, times: np.ndarray) -> Tensor:
        """Step lengths of the n intervals between n + 1 increasing times, float64."""
        return torch.as_tensor(self._clock.length(torch.from_numpy(times[:-1]), torch.from_numpy(times[1:])))

    def initial_noise(self) -> Tensor:
        """N(0, I), drawn once."""
        with self._lock, torch.inference_mode(False):
            if self._initial is None:
                self._initial = self._normals(1)[0]
            return self._initial

    def coefficients(self, ends: np.ndarray) -> Tensor:
        """(depth, n, *shape) on the n intervals between n + 1 increasing times in [t0, t1]."""
        times = ends.tolist()
        with self._lock, torch.inference_mode(False):
            root = self._root
            if root.parts is None and root.coefficients is None:
                # Nothing is known yet: the intervals of a grid given in advance are independent leaves, drawn at once.
                cuts = sorted({root.start, *times, root.stop})
                values = self._normals(self._depth * (len(cuts) - 1)).unflatten(0, (self._depth, len(cuts) - 1))
                self._root = _balanced([_Node(s, t, values[:, k]) for k, (s, t) in enumerate(pairwise(cuts))])
                first = cuts.index(times[0])
                return values[:, first : first + len(times) - 1]
            for time in times:
                self._cut(time)
            return torch.stack([self._between(s, t) for s, t in pairwise(times)], dim=1)

    def _normals(self, count: int) -> Tensor:
        shape = (count, *self._shape)
        return torch.randn(shape, generator=self._generator, dtype=self._dtype, device=self._device)

    def _cut(self, time: float) -> None:
        """Make `time` an end of leaves."""
        # Say [0, 1] was cut at .5 and its first half at .25: leaves [0, .25], [.25, .5], [.5, 1] under the inner nodes
        # [0, 1] and [0, .5]. The time .7 goes down to the leaf [.5, 1], which is given two parts by their law given
        # its own coefficients; 4 leaves then are under [0, 1]. The step [.25, .7] is joined from [.25, .5], [.5, .7].
        path = []
        node = self._root
        while node.parts is not None:
            path.append(node)
            middle = node.parts[0].stop
            if time == middle:
                return
            node = node.parts[0] if time < middle else node.parts[1]
        if time in (node.start, node.stop):
            return
        lengths = self._clock.length(node.start, time), self._clock.length(time, node.stop)
        first, second = legendre.split_coefficients(self._value(node), self._normals(2 * self._depth), *lengths)
        node.parts = _Node(node.start, time, first), _Node(time, node.stop, second)
        path.append(node)
        for ancestor in path:
            ancestor.leaves += 1
        for ancestor, heavier in pairwise(path):
            # Along the path only: the other part did not grow.
            if heavier.leaves > 0.75 * ancestor.leaves + 1:
                leaves = _highest(ancestor, lambda part: part.parts is None, ancestor.start, ancestor.stop)
                ancestor.parts = _balanced(leaves[::-1]).parts
                break

    def _between(self, s: float, t: float) -> Tensor:
        """(depth, *shape) on [s, t], both ends of leaves."""
        return self._join(s, t, _highest(self._root, lambda node: s <= node.start and node.stop <= t, s, t))

    def _value(self, node: _Node) -> Tensor:
        if node.coefficients is None:
            known = _highest(node, lambda part: part.coefficients is not None, node.start, node.stop)
            node.coefficients = self._join(node.start, node.stop, known)
        return node.coefficients

    def _join(self, s: float, t: float, parts: list[_Node]) -> Tensor:
        if len(parts) == 1:
            return self._value(parts[0])
        length = self._clock.length
        starts, stops = (np.array([getattr(part, end) for part in parts]) for end in ("start", "stop"))
        whole = length(s, t)
        matrix = legendre.part_to_whole(length(s, starts) / whole, length(starts, stops) / whole, self._depth)
        matrix = torch.as_tensor(matrix).movedim(0, -2).flatten(-2)  # the parts' coefficients one below the other
        return legendre.apply(matrix, torch.cat([self._value(part) for part in parts]))


def _highest(node: _Node, wanted: Callable[[_Node], bool], s: float, t: float) -> list[_Node]:
    """The wanted nodes from `node` down that meet [s, t], without those below another one; the latest comes first."""
    found = []
    pending = [node]
    while pending:
        node = pending.pop()
        if wanted(node):
            found.append(node)
        elif node.parts is not None and s < node.stop and node.start < t:
            pending.extend(node.parts)
    return found


def _balanced(leaves: list[_Node]) -> _Node:
    """A balanced tree over adjoining leaves; inner nodes are joined when they are first asked for."""
    if len(leaves) == 1:
        return leaves[0]
    middle = len(leaves) // 2
    first, second = _balanced(leaves[:middle]), _balanced(leaves[middle:])
    return _Node(first.start, second.stop, None, (first, second), len(leaves))
