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

from sdesig._checks import check_device

T = TypeVar("T")
PATIENCE = timedelta(days=2)
"""How long processes wait for the main one, which alone does what cannot be divided."""


def join(device: torch.device | str) -> torch.device:
    """Join the other processes, if torchrun started some; return the device, on CUDA a GPU of this process's own.

    Raises:
        ValueError: a device that torch does not have here, fewer GPUs than processes on this machine.
    """
    device = check_device(device)
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


def rank() -> int:
    """The number of this process, from 0; 0 is the main one."""
    return distributed.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _several() else 1


def share(parts: int) -> range:
    """Numbers of the parts of some work that this process does."""
    return range(rank(), parts, world_size())


def barrier() -> None:
    """Wait until all processes are here."""
    if _several():
        distributed.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block, then all others: they find the files that it has written."""
    if rank() > 0:
        barrier()
    try:
        yield
    finally:
        if rank() == 0:
            barrier()


def on_main(call: Callable[[], object]) -> None:
    """Let the main process do something, for which the others wait."""
    if rank() == 0:
        call()
    barrier()


def all_reduce(*tensors: Tensor) -> None:
    """Replace every tensor by its sum over all processes."""
    if _several():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def all_gather(own: Mapping[int, T], parts: int) -> list[T]:
    """All parts in order, on every process, from those that each has by number."""
    if not _several():
        return [own[k] for k in range(parts)]
    found: list[Mapping[int, T]] = [{}] * world_size()
    distributed.all_gather_object(found, dict(own))
    return [found[k % world_size()][k] for k in range(parts)]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
