"""Seeds of images where users of diffusers give generators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

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


def seeds_of(x: Tensor) -> list[int]:
    """A seed below 2^62 for each row of x, a hash of its values: the same in every batch and floating-point type."""
    rows = x.detach().double().cpu().contiguous().numpy()
    return [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:8], "little") >> 2 for row in rows]
