"""The tree of a master grid's cells: numbers, cuts, and what even steps cost."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdesig.brownian.master_grid import AFTER, BEFORE, CUT, CellTree


def cuts(tree: CellTree, steps: int) -> int:
    ends = [round(k * tree.cells / steps) for k in range(steps + 1)]
    return sum(visit.owner == CUT for visit in tree.visits(tree.root, ends, 0))


@given(cells=st.integers(1, 600))
def test_every_cell_is_a_leaf_with_a_number_of_its_own(cells: int):
    tree, seen, pending = CellTree(cells), {}, [CellTree(cells).root]
    while pending:
        node = pending.pop()
        if node.width == 1:
            seen[node.start] = node.number
        else:
            left, right = tree.parts(node)
            assert (left.start, left.stop, right.stop) == (node.start, right.start, node.stop)
            assert min(left.width, right.width) > 0
            pending += [left, right]
    assert [seen[k] for k in range(cells)] == tree.numbers(np.arange(cells)).tolist()
    assert len({*seen.values()}) == cells


def test_on_powers_of_two_nodes_are_numbered_by_level_and_index():
    assert CellTree(32).numbers(np.arange(32)).tolist() == list(range(32, 64))
    assert CellTree(1).numbers(np.zeros(1, dtype=np.int64)).tolist() == [1]


def test_odd_factors_are_cut_first():
    tree = CellTree(5 * 256)
    first, second = tree.parts(tree.root)
    assert (first.width, second.width) == (2 * 256, 3 * 256)
    for steps in (5, 10, 20, 40, 80, 160, 320, 640, 1280):
        assert cuts(tree, steps) == steps - 1
    assert [cuts(CellTree(6 * 64), steps) for steps in (3, 6, 12)] == [2, 5, 11]
    assert [cuts(CellTree(15 * 8), steps) for steps in (5, 15, 30)] == [4, 14, 29]
    assert cuts(CellTree(1024), 10) == 59  # what they cost on a power of two


@given(cells=st.integers(2, 300), data=st.data())
def test_a_way_covers_each_interval_once_and_cuts_no_more_than_it_must(cells: int, data):
    tree = CellTree(cells)
    ends = sorted(data.draw(st.sets(st.integers(0, cells), min_size=2, max_size=6)))
    first = data.draw(st.integers(ends[0], ends[-1] - 1))
    way = tree.visits(tree.root, ends, first)
    covered = {number: [] for number in range(len(ends) - 1)}
    for node, owner, joined in way:
        if owner >= 0:
            covered[owner] += range(node.start, node.stop)
            assert joined == ends[owner]
        elif owner == BEFORE:
            assert node.stop <= first
        elif owner == AFTER:
            assert node.start >= ends[-1]
        else:
            inside = [end for end in (first, *ends) if node.start < end < node.stop]
            assert owner == CUT
            assert inside
    for number, (start, stop) in enumerate(pairwise(ends)):
        assert covered[number] == [cell for cell in range(start, stop) if cell >= first]


def test_deep_trees_are_refused():
    with pytest.raises(ValueError, match="cells must have fewer odd factors: a tree of 387420489 cells is deeper than"):
        CellTree(3**18)
