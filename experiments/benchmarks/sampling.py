"""Partial signatures without areas: as fast as drawing their normals?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from experiments.benchmarks.comparison import Case
from sdesig.signature import sample_partial_signature

DEPTH = 3


def cases(quick: bool) -> Iterator[Case]:
    """At most 1.4 times the time of `torch.randn`."""
    shape = (8, 64) if quick else (64, 3072)
    generator = torch.Generator().manual_seed(0)
    yield Case(
        f"partial signature of depth {DEPTH}, {shape[0]} x {shape[1]} float32",
        "`sample_partial_signature`",
        f"`torch.randn` of {DEPTH} x {shape[0]} x {shape[1]}",
        lambda: sample_partial_signature(shape, 0.1, DEPTH, generator=generator, dtype=torch.float32),
        lambda: torch.randn((DEPTH, *shape), generator=generator, dtype=torch.float32),
        repetitions=3 if quick else 101,
        target=1 / 1.4,
    )
