"""Generators that are seeded by what they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator_for(purpose: str, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a hash of a purpose and numbers: the same for the same ones, unrelated for others.

    A hash, because torch's generator on the CPU sees only the low 32 bits of its seed.
    """
    digest = hashlib.sha256(repr((purpose, *numbers)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator of the CPU, from which networks draw their first weights, seeded; then as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
