"""Seeds of images where users of diffusers give generators."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdesig._checks import check_generator


def draw_seeds(generator: object, n: int) -> list[int]:
    """n seeds below 2^62: one from each of n generators, or all from one, or from torch's global one for None."""
    if isinstance(generator, Sequence):
        if len(generator) != n:
            raise ValueError(f"generator must be one, or one for each of {n} images; got a list of {len(generator)}")
        return [seed for each in generator for seed in draw_seeds(check_generator(each), 1)]
    if generator is None:
        return torch.randint(2**62, (n,)).tolist()
    given = check_generator(generator)
    return torch.randint(2**62, (n,), generator=given, device=given.device).tolist()
