"""What the algorithms share: the source of normals, antisymmetric matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[tuple[int, ...]], Tensor]
"""draw(shape): new iid N(0, 1) numbers; the leading axes of `shape` are the batch, the last one is a row's numbers."""


def pair_count(dim: int) -> int:
    """Number of pairs i < j, dim (dim - 1)/2."""
    return dim * (dim - 1) // 2


def antisymmetric(pairs: Tensor, dim: int) -> Tensor:
    """Antisymmetric matrices (..., dim, dim) from their entries i < j, (..., dim (dim - 1)/2), row by row.

    In memory one entry of all matrices after the other, as the sums of the series are.
    """
    count = pair_count(dim)
    rows, columns = torch.triu_indices(dim, dim, 1, device=pairs.device)
    index = torch.full((dim, dim), 2 * count, device=pairs.device)  # the last entry below is the zero of the diagonal
    index[rows, columns] = torch.arange(count, device=pairs.device)
    index[columns, rows] = torch.arange(count, 2 * count, device=pairs.device)
    rows_of_all = pairs.movedim(-1, 0)
    entries = torch.cat([rows_of_all, -rows_of_all, pairs.new_zeros(1, *pairs.shape[:-1])])
    return entries.index_select(0, index.flatten()).unflatten(0, (dim, dim)).movedim((0, 1), (-2, -1))
