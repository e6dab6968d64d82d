"""Random generators, seeded by a purpose and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
