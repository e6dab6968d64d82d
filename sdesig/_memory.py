"""The one bound on memory, to which work is cut into parts; and what a loss keeps in memory for its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 2**24
"""Numbers that a part holds at once: 64 MB in float32. No result depends on it, but for rounding."""


def rows_at_once(numbers: int) -> int:
    """Number of rows to work on at once, at least 1, if each takes `numbers` numbers, temporaries included."""
    return max(1, NUMBERS_AT_ONCE // max(1, numbers))


def saved_bytes(make_loss: Callable[[], Tensor]) -> int:
    """Bytes that the graph of a loss keeps for its backward pass, each storage once, weights included.

    Args:
        make_loss: computes the loss.
    """
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        # the tensor is held, so that no other one can get its address
        kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        make_loss()
    return sum(value.untyped_storage().nbytes() for value in kept.values())
