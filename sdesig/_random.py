"""Random generators, seeded by a purpose and numbers; and seeds, from generators of users or from values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sdesig._checks import check_generator


def seed_for(purpose: str, *numbers: int) -> int:
    """A hash of a purpose and numbers, in [0, 2^63): see `generator_for`."""
    digest = hashlib.sha256(repr((purpose, *numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(purpose: str, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a hash of a purpose and numbers: the same for the same ones, unrelated for others.

    A hash, because torch's generator on the CPU sees only the low 32 bits of its seed.
    """
    return torch.Generator(device).manual_seed(seed_for(purpose, *numbers))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within the block, torch's global generators of the CPU and of a CUDA device are seeded; then they are as before.

    Networks draw their first weights from them, and dropout its masks.
    """
    device = torch.device(device)
    on_cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(on_cuda, device_type="cuda"):
        torch.default_generator.manual_seed(seed)
        for one in on_cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


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
