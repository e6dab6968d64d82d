"""What a loss keeps in memory for its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
