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

from sdesig._devices import to_device
from sdesig.brownian.clock import Clock
from sdesig.signature import legendre

_ROUNDING = 1e-12  # positions in the clock that are as close as this, or as four roundings of a time, are one time
_FEW = 2**15  # so many numbers torch, too, handles in one thread; the calls of its operations are most of the time


Values = Any
"""Coefficients of a step as a tree keeps them: a tensor (depth, *shape), or numpy's (depth, numbers of a value)."""


@dataclass(eq=False, slots=True)
class _Node:
    """The interval [start, stop]; a leaf has no parts. `coefficients` is None where it can be joined from the parts."""

    start: float
    stop: float
    coefficients: Values | None
    parts: tuple[_Node, _Node] | None = None


class ConditionalTree:
    """Coefficients of a path on [t0, t1], consistent over all queries.

    The leaves of a binary tree hold the coefficients between neighbouring times queried so far. A new time splits one
    leaf by its conditional law given the leaf (white noise is independent elsewhere); an interval is joined from
    O(log n) nodes in one batch. Subtrees that are too deep are rebuilt (Galperin, Rivest: Scapegoat trees, SODA 1993),
    so the cost per query stays O(log n) for any order.
    Values are of the dtype, but at least float32. Threads may share a tree. What is drawn in inference mode is kept as
    ordinary tensors, for it may be asked for again where gradients are wanted.

    Attributes:
        small: whether a step's coefficients are few, on the CPU, with one clock for all coordinates, in a precision of
            numpy. Then they are numpy arrays: a query does dozens of operations, and a small one takes far less there.
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
        self._cuts = {t0, t1}  # the ends of the leaves
        self._times = [t0, t1]
        self._positions = [0.0, 1.0]
        inner = clock.position(np.nextafter([t0, t1], [t1, t0]), t0, t1)
        self._rounding = max(_ROUNDING, 4.0 * float(np.abs(inner - [0.0, 1.0]).max()))
        self._initial: Tensor | None = None
        self._shape = shape
        self._numbers = math.prod(shape)
        self._depth = depth
        self._clock = clock
        self._generator = generator
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._device = device
        in_numpy = device.type == "cpu" and dtype == self._dtype and not isinstance(clock.length(t0, t1), Tensor)
        self.small = in_numpy and depth * self._numbers <= _FEW
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
        known = self._positions
        at = bisect.bisect(known, position)
        if at > 0 and position - known[at - 1] < self._rounding:
            return self._times[at - 1]
        if at < len(known) and known[at] - position < self._rounding:
            return self._times[at]
        known.insert(at, position)
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
            if self._root.parts is None and self._root.coefficients is None:
                # Nothing is known yet: the intervals of a grid given in advance are independent leaves, drawn at once.
                self._cuts.update(times)
                cuts = sorted(self._cuts)
                values = self._normals(self._depth, len(cuts) - 1)
                self._root = _balanced([_Node(s, t, values[:, k]) for k, (s, t) in enumerate(pairwise(cuts))])
                first = cuts.index(times[0])
                return self._tensor(values[:, first : first + len(times) - 1])
            for time in times:
                self._cut(time)
            steps = [self._between(s, t) for s, t in pairwise(times)]
            return self._tensor(np.stack(steps, 1) if self.small else torch.stack(steps, 1))

    def step(self, s: float, t: float) -> tuple[Tensor, Tensor]:
        """Length, with as many axes as a value, and coefficients (depth, *shape) on one interval, in less time."""
        if not self.small:
            ends = np.array([s, t])
            h = self.lengths(ends)[0]
            h = h.reshape([1] * (len(self._shape) - h.ndim) + list(h.shape)).to(self._dtype)
            return to_device(h, self._device), self.coefficients(ends)[:, 0]
        values = self._step(s, t)
        length = np.array(self._clock.length(s, t), values.dtype, ndmin=len(self._shape))
        return torch.from_numpy(length), self._tensor(values.copy())

    def words(self, s: float, t: float, count: int) -> list[Tensor]:
        """The first `count` Gaussian words I_(i), I_(i,0), ... on one interval, in least time; of a small tree."""
        values = self._step(s, t)
        h = float(self._clock.length(s, t))
        words = [math.sqrt(h) * values[0]]
        for zeros in range(1, count):
            weights = np.array(legendre.word_weights(0, zeros), values.dtype)
            words.append(h ** (zeros + 0.5) * weights.dot(values[: zeros + 1]))
        return [self._tensor(word) for word in words]

    def _step(self, s: float, t: float) -> Values:
        with self._lock:
            if self._root.parts is None and self._root.coefficients is None:
                self.coefficients(np.array([s, t]))
            self._cut(s, t)
            return self._between(s, t)

    def _normals(self, *count: int) -> Values:
        """(*count, *shape), or (*count, numbers of a value) as a numpy array."""
        shape = (*count, self._numbers) if self.small else (*count, *self._shape)
        normals = torch.randn(shape, generator=self._generator, dtype=self._dtype, device=self._device)
        return normals.numpy() if self.small else normals

    def _tensor(self, values: Values) -> Tensor:
        """The values (..., *shape)."""
        if isinstance(values, Tensor):
            return values
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self._tensor(values)
        return torch.from_numpy(values.reshape(values.shape[:-1] + self._shape))

    def _cut(self, *times: float) -> None:
        """Make the times ends of leaves."""
        # Say [0, 1] was cut at .5 and its first half at .25: leaves [0, .25], [.25, .5], [.5, 1] under the inner nodes
        # [0, 1] and [0, .5]. The time .7 goes down to the leaf [.5, 1], which is given two parts by their law given
        # its own coefficients. The step [.25, .7] is joined from [.25, .5] and [.5, .7].
        new = [time for time in times if time not in self._cuts]
        if not new:
            return
        length = self._clock.length
        for time, normals in zip(new, self._normals(len(new), 2 * self._depth), strict=True):
            path = []
            node = self._root
            while (parts := node.parts) is not None:
                path.append(node)
                node = parts[time > parts[1].start]
            lengths = length(node.start, time), length(time, node.stop)
            first, second = legendre.split_coefficients(self._value(node), normals, *lengths)
            node.parts = _Node(node.start, time, first), _Node(time, node.stop, second)
            self._cuts.add(time)
            if len(path) + 1 > _most_depth(len(self._cuts) - 1):
                _rebuild([*path, node])

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
        length = self._clock.length
        values = [self._value(part) for part in parts]
        if self.small:
            lengths = [length(part.start, part.stop) for part in parts]
            return legendre.join_matrix(lengths, self._depth, values[0].dtype).dot(np.concatenate(values))
        starts, stops = (np.array([getattr(part, end) for part in parts]) for end in ("start", "stop"))
        whole = length(s, t)
        matrix = legendre.part_to_whole(length(s, starts) / whole, length(starts, stops) / whole, self._depth)
        matrix = torch.as_tensor(matrix).movedim(0, -2).flatten(-2)  # the parts' coefficients one below the other
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


def _most_depth(leaves: int) -> float:
    """Depth of a leaf in a tree each of whose nodes has at most 3/4 of the leaves of the node above."""
    return math.log(leaves) / math.log(4 / 3)


def _rebuild(path: list[_Node]) -> None:
    """Balance the lowest node that is too deep for its leaves, of those on the way down to two new leaves."""
    assert path[-1].parts is not None
    leaves, below = [*path[-1].parts], path[-1]
    for depth, node in enumerate(reversed(path[:-1]), 2):
        assert node.parts is not None
        first, second = node.parts
        leaves = [*leaves, *_leaves(second)] if below is first else [*_leaves(first), *leaves]
        if depth > _most_depth(len(leaves)):
            node.parts = _balanced(leaves).parts
            return
        below = node


def _leaves(node: _Node) -> list[_Node]:
    return _highest(node, lambda part: part.parts is None)


def _balanced(leaves: list[_Node]) -> _Node:
    """A balanced tree over adjoining leaves; inner nodes are joined when they are first asked for."""
    layer = leaves
    while len(layer) > 1:
        pairs = [_Node(a.start, b.stop, None, (a, b)) for a, b in zip(layer[::2], layer[1::2], strict=False)]
        layer = [*pairs, layer[-1]] if len(layer) % 2 else pairs
    return layer[0]
