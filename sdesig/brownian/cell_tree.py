"""The tree of a master grid's cells: how the whole interval is cut down to single cells, and its nodes' numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

MOST_CELLS = 2**30
_MOST_NUMBER = 2**32  # numbers of nodes are 32 bits of the generator's counter


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
