"""Processes that share the work of a run, as torchrun starts them. Without it there is one, and nothing is sent.

Work is divided by number, never by time: which process does a part does not change what comes out of it.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
PATIENCE = timedelta(days=2)
"""How long processes wait for the first one, which alone does what cannot be divided."""


def join(device: torch.device) -> torch.device:
    """Join the other processes, if torchrun started some; on CUDA each has a GPU of its own, which is returned.

    Raises:
        ValueError: fewer GPUs than processes on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.type == "cuda":
            local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= there:
                raise ValueError(f"processes must be no more than the GPUs of this machine, {there}")
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
            atexit.register(distributed.destroy_process_group)
    return device


def number() -> int:
    """Of this process, from 0."""
    return distributed.get_rank() if _several() else 0


def count() -> int:
    """How many there are."""
    return distributed.get_world_size() if _several() else 1


def mine(parts: int) -> range:
    """Numbers of the parts of some work that this process does."""
    return range(number(), parts, count())


def wait() -> None:
    """Until all are here."""
    if _several():
        distributed.barrier()


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process goes through the block, then all others: they find the files that it has written."""
    if number() > 0:
        wait()
    try:
        yield
    finally:
        if number() == 0:
            wait()


def once(call: Callable[[], object]) -> None:
    """Let the first process do something, for which the others wait."""
    if number() == 0:
        call()
    wait()


def add_up(*tensors: Tensor) -> None:
    """Replace every tensor by its sum over all processes."""
    if _several():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def gathered(of_mine: Mapping[int, T], parts: int) -> list[T]:
    """The parts of all processes in order, from those of each by number."""
    if not _several():
        return [of_mine[k] for k in range(parts)]
    found: list[Mapping[int, T]] = [{}] * count()
    distributed.all_gather_object(found, dict(of_mine))
    return [found[k % count()][k] for k in range(parts)]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
