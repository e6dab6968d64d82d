"""Root mean squares, their standard errors, and ratios on the same paths."""

from __future__ import annotations

import torch
from torch import Tensor

RESAMPLES = 1000


def root_mean_square(errors: Tensor) -> tuple[float, float]:
    """sqrt(mean errors^2) and its standard error by the delta method, for independent errors (n >= 2,)."""
    squares = errors.double().square()
    value = squares.mean().sqrt().item()
    return value, 0.0 if value == 0.0 else squares.std().item() / len(errors) ** 0.5 / (2 * value)


def paired_ratio(errors: Tensor, others: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """The ratio of two root mean squares over the same paths, (n,) each, with a 95 % interval by paired bootstrap."""
    if errors.shape != others.shape or errors.ndim != 1:
        raise ValueError(f"errors must both have shape (n,); got {tuple(errors.shape)} and {tuple(others.shape)}")
    squares = torch.stack([errors, others]).cpu().double().square()
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [squares[:, torch.randint(len(errors), (len(errors),), generator=generator)].mean(1) for _ in range(RESAMPLES)]
    )
    low, high = (means[:, 0] / means[:, 1]).sqrt().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return (squares[0].mean() / squares[1].mean()).sqrt().item(), low, high
