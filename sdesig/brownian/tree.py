"""A Brownian path from a torch.Generator: any query times in any order, drawn from exact conditional laws."""

from __future__ import annotations

import bisect
import math
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
_FEW = 2**15  # so many numbers torch, too, handles in one thread; the calls of its operations are most of the time


Values = Tensor | np.ndarray
"""Coefficients of a step as a tree keeps them: (depth, *shape), or (depth, numbers of a value) in numpy."""


@dataclass(eq=False, slots=True)
class _Node:
    """The interval [start, stop]; a leaf has no parts. `coefficients` is None where it can be joined from the parts."""

    start: float
    stop: float
    coefficients: Values | None
    parts: tuple[_Node, _Node] | None = None
    leaves: int = 1


class ConditionalTree:
    """Coefficients of a path on [t0, t1], consistent over all queries.

    The leaves of a binary tree hold the coefficients between neighbouring times queried so far. A new time splits one
    leaf by its conditional law given the leaf (white noise is independent elsewhere); an interval is joined from
    O(log n) nodes in one batch. Unbalanced subtrees are rebuilt, so the cost per query stays O(log n) for any order.
    Values are of the dtype, but at least float32. Threads may share a tree. What is drawn in inference mode is kept as
    ordinary tensors, for it may be asked for again where gradients are wanted.

    A query does a dozen operations on one step's coefficients. On the CPU, with one clock for all coordinates, few of
    them are numpy arrays (depth, numbers of a value), on which an operation takes a fraction of what it takes in torch.
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
        scalar = not isinstance(clock.length(t0, t1), Tensor)
        self._in_numpy = device.type == "cpu" and scalar and depth * math.prod(shape) <= _FEW
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
        return torch.as_tensor(self._clock.length(times[:-1], times[1:]))

    def initial_noise(self) -> Tensor:
        """N(0, I), drawn once."""
        with self._lock, torch.inference_mode(False):
            if self._initial is None:
                self._initial = self._tensor(self._normals(1))[0]
            return self._initial

    def coefficients(self, ends: np.ndarray) -> Tensor:
        """(depth, n, *shape) on the n intervals between n + 1 increasing times in [t0, t1]."""
        times = ends.tolist()
        with self._lock, torch.inference_mode(False):
            root = self._root
            if root.parts is None and root.coefficients is None:
                # Nothing is known yet: the intervals of a grid given in advance are independent leaves, drawn at once.
                cuts = sorted({root.start, *times, root.stop})
                values = self._normals(self._depth * (len(cuts) - 1))
                values = values.reshape(self._depth, len(cuts) - 1, *values.shape[1:])
                self._root = _balanced([_Node(s, t, values[:, k]) for k, (s, t) in enumerate(pairwise(cuts))])
                first = cuts.index(times[0])
                return self._tensor(values[:, first : first + len(times) - 1])
            for time in times:
                self._cut(time)
            steps = [self._between(s, t) for s, t in pairwise(times)]
            return self._tensor(np.stack(steps, 1) if self._in_numpy else torch.stack(steps, 1))

    def _normals(self, count: int) -> Values:
        """(count, *shape), or (count, numbers of a value) as a numpy array."""
        shape = (count, math.prod(self._shape)) if self._in_numpy else (count, *self._shape)
        normals = torch.randn(shape, generator=self._generator, dtype=self._dtype, device=self._device)
        return normals.numpy() if self._in_numpy else normals

    def _tensor(self, values: Values) -> Tensor:
        """The values (..., *shape)."""
        if isinstance(values, Tensor):
            return values
        return torch.from_numpy(values).view(*values.shape[:-1], *self._shape)

    def _cut(self, time: float) -> None:
        """Make `time` an end of leaves."""
        # Say [0, 1] was cut at .5 and its first half at .25: leaves [0, .25], [.25, .5], [.5, 1] under the inner nodes
        # [0, 1] and [0, .5]. The time .7 goes down to the leaf [.5, 1], which is given two parts by their law given
        # its own coefficients; 4 leaves then are under [0, 1]. The step [.25, .7] is joined from [.25, .5], [.5, .7].
        path = []
        node = self._root
        while node.parts is not None:
            path.append(node)
            middle = node.parts[1].start
            if time == middle:
                return
            node = node.parts[time > middle]
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
                ancestor.parts = _balanced(_highest(ancestor, lambda part: part.parts is None)).parts
                break

    def _between(self, s: float, t: float) -> Values:
        """(depth, *shape) on [s, t], both ends of leaves."""
        node = self._root
        while (s, t) != (node.start, node.stop):
            assert node.parts is not None
            first, second = node.parts
            if s < second.start < t:
                return self._join(s, t, _ending(first, s) + _beginning(second, t))
            node = first if t <= second.start else second
        return self._value(node)

    def _value(self, node: _Node) -> Values:
        if node.coefficients is None:
            known = _highest(node, lambda part: part.coefficients is not None)
            node.coefficients = self._join(node.start, node.stop, known)
        return node.coefficients

    def _join(self, s: float, t: float, parts: list[_Node]) -> Values:
        """(depth, *shape) on [s, t] from adjoining nodes, the earliest first."""
        starts, stops = np.array([part.start for part in parts]), np.array([part.stop for part in parts])
        whole = self._clock.length(s, t)
        shares = self._clock.length(s, starts) / whole, self._clock.length(starts, stops) / whole
        values = [self._value(part) for part in parts]
        if self._in_numpy:
            matrix = legendre.join_matrix(*shares, self._depth)
            return matrix.astype(values[0].dtype) @ np.concatenate(values)
        matrix = torch.as_tensor(legendre.part_to_whole(*shares, self._depth))
        matrix = matrix.movedim(0, -2).flatten(-2)  # the parts' coefficients one below the other
        return legendre.apply(matrix, torch.cat(values))


def _ending(node: _Node, s: float) -> list[_Node]:
    """The highest nodes from `node` down that fill [s, node.stop], the earliest first."""
    found = []
    while node.start != s:
        assert node.parts is not None
        first, second = node.parts
        if s < second.start:
            found.append(second)
            node = first
        else:
            node = second
    return [node, *reversed(found)]


def _beginning(node: _Node, t: float) -> list[_Node]:
    """The highest nodes from `node` down that fill [node.start, t], the earliest first."""
    found = []
    while node.stop != t:
        assert node.parts is not None
        first, second = node.parts
        if t > second.start:
            found.append(first)
            node = second
        else:
            node = first
    return [*found, node]


def _highest(node: _Node, wanted: Callable[[_Node], bool]) -> list[_Node]:
    """The wanted nodes from `node` down, without those below another one, the earliest first."""
    found = []
    pending = [node]
    while pending:
        node = pending.pop()
        if wanted(node):
            found.append(node)
        else:
            assert node.parts is not None
            pending.extend(reversed(node.parts))
    return found


def _balanced(leaves: list[_Node]) -> _Node:
    """A balanced tree over adjoining leaves; inner nodes are joined when they are first asked for."""
    if len(leaves) == 1:
        return leaves[0]
    middle = len(leaves) // 2
    first, second = _balanced(leaves[:middle]), _balanced(leaves[middle:])
    return _Node(first.start, second.stop, None, (first, second), len(leaves))
