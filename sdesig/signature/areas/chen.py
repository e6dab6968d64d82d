"""The Levy area of adjoining steps together."""

from __future__ import annotations

import torch
from torch import Tensor


def chen_area(areas: Tensor, increments: Tensor) -> Tensor:
    """Levy area over n adjoining steps: A = sum_k A_k + 1/2 sum_{k<l} (W_k W_l^T - W_l W_k^T).

    Args:
        areas: (n, ..., d, d), n >= 1.
        increments: (n, ..., d).

    Returns:
        (..., d, d).
    """
    # Neighbours are joined pairwise, term by term: accurate, and without rounding that depends on the batch size.
    while len(areas) > 1:
        even = len(areas) // 2 * 2
        first, second = increments[:even:2], increments[1:even:2]
        cross = first[..., :, None] * second[..., None, :]
        areas = torch.cat([areas[:even:2] + areas[1:even:2] + (cross - cross.mT) / 2.0, areas[even:]])
        increments = torch.cat([first + second, increments[even:]])
    return areas[0]
