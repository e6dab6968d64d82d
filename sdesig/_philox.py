"""Normals that are a pure function of (seed, cell, stream): the Philox counter-based generator in torch operations.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011) maps a 128-bit counter
and a 64-bit key to 128 random bits. The same integer arithmetic runs on every device; only the transform to normals can
differ in the last digits.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._memory import rows_at_once

GENERATOR_VERSION = 1
"""Changes whenever the numbers of a seed change; part of the counter, and of a path's identity."""

MOST_SEEDS = 10**8
"""Most seeds of one path: their list alone takes gigabytes."""

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_FUSED_ON = frozenset({"cuda"})  # devices on which torch.compile makes one kernel of the numbers
_IN_CACHE = 1 << 16  # counters per pass on the CPU: large enough for two threads, small enough for the cache


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four random 32-bit words for each counter.

    Args:
        counter: four broadcastable int64 tensors with values in [0, 2^32), least significant word first.
        key: two such tensors.

    Returns:
        Four int64 tensors of the broadcast shape, iid uniform on {0, ..., 2^32 - 1} over distinct counters.
    """
    c0, c1, c2, c3 = map(torch.clone, torch.broadcast_tensors(*counter, *key)[:4])
    p0, p1 = torch.empty_like(c0), torch.empty_like(c0)
    k0, k1 = key
    for _ in range(10):
        # The product of two 32-bit words wraps around in int64, but its bits are those of the unsigned product: the
        # high half is masked once it is combined, the low half keeps its high bits until the next round or the end.
        torch.mul(c0, _MULTIPLIERS[0], out=p0)
        torch.mul(c2, _MULTIPLIERS[1], out=p1)
        torch.bitwise_right_shift(p1, 32, out=c0).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK)
        torch.bitwise_right_shift(p0, 32, out=c2).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK)
        c1, p1, c3, p0 = p1, c1, p0, c3
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1.bitwise_and_(_MASK), c2, c3.bitwise_and_(_MASK)


def check_seeds(seeds: Sequence[int] | np.ndarray | Tensor, name: str = "seeds") -> Tensor:
    """Return seeds, one per row and each in [0, 2^63), as an int64 tensor of shape (rows,) on the CPU.

    Errors call them by the name.

    Raises:
        TypeError: not a one-dimensional sequence or tensor of integers.
        ValueError: no seeds, more than `MOST_SEEDS`, or a seed out of range.
    """
    if isinstance(seeds, np.ndarray):
        seeds = torch.from_numpy(seeds)
    if isinstance(seeds, Tensor):
        if seeds.ndim != 1 or seeds.dtype == torch.bool or seeds.is_floating_point() or seeds.is_complex():
            raise TypeError(
                f"{name} must be a one-dimensional integer tensor; got {seeds.dtype}, shape {tuple(seeds.shape)}"
            )
        values = seeds.tolist()
    elif isinstance(seeds, Sequence) and not isinstance(seeds, str):
        if len(seeds) > MOST_SEEDS:
            raise ValueError(f"{name} must be {MOST_SEEDS} at most; got {len(seeds)}")
        values = list(seeds)
        if any(isinstance(seed, bool) or not isinstance(seed, Integral) for seed in values):
            raise TypeError(f"{name} must be integers, one per batch row; got {seeds!r}")
    else:
        raise TypeError(f"{name} must be a sequence of integers, one per batch row; got {seeds!r}")
    if not values:
        raise ValueError(f"{name} must not be empty")
    for seed in values:
        if not 0 <= seed < 2**63:
            raise ValueError(f"{name} must lie in [0, 2^63); got {seed}")
    return torch.tensor([int(seed) for seed in values], dtype=torch.int64)


@functools.cache
def kernels() -> ModuleType | None:
    """The compiled drawing of the CPU, `sdesig._compiled`.

    None where numba is missing, does not load or is switched off (NUMBA_DISABLE_JIT=1): then the operations of torch
    take its place.
    """
    try:
        from numba.core import config

        from sdesig import _compiled as compiled
    except (ImportError, OSError):  # the latter where the library of llvmlite does not load
        return None
    return None if getattr(config, "DISABLE_JIT", False) else compiled


def as_numpy(values: Tensor) -> np.ndarray:
    """A tensor on the CPU as a contiguous array, for what is compiled."""
    try:
        return np.ascontiguousarray(values.numpy())
    except RuntimeError:  # tensors that are made within transforms of torch.func show no memory
        return np.array(values.tolist(), numpy_dtype(values.dtype))


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The dtype of the same name."""
    return np.dtype(str(dtype).removeprefix("torch."))


def normals(seeds: Tensor, cells: Tensor, stream: int, count: int, dtype: torch.dtype) -> Tensor:
    """N(0, 1) numbers, a pure function of (seed, cell, stream, count, position, `GENERATOR_VERSION`).

    Each number spends 32 random bits (Box-Muller, |x| < 6.8), in every dtype: float32 and float64 agree to rounding.

    Args:
        seeds: int64, (rows,).
        cells: int64 in [0, 2^32), (n,).
        stream: which independent family of numbers of the cell, in [0, 2^32).
        count: numbers per row and cell.

    Returns:
        (n, rows, count), iid over all distinct (seed, cell, stream, position).
    """
    blocks = -(-count // 4)
    if seeds.device.type in _FUSED_ON and (fused := _fused(seeds, cells, stream, blocks, dtype)) is not None:
        return fused[..., :count]
    fits = count > 0 and dtype.itemsize >= 4 and seeds.device.type == "cpu"
    compiled = kernels() if fits and not torch.compiler.is_compiling() else None
    if compiled is not None:
        numbers = np.empty((len(cells), len(seeds), 4 * blocks), numpy_dtype(dtype))
        compiled.normals(as_numpy(seeds), as_numpy(cells), (stream, GENERATOR_VERSION), numbers)
        return torch.from_numpy(numbers)[..., :count]
    position = torch.arange(blocks, device=seeds.device)
    constants = [torch.full((), constant, device=seeds.device) for constant in (stream, GENERATOR_VERSION)]
    key = ((seeds & _MASK)[:, None], (seeds >> 32)[:, None])
    counters = max(1, len(seeds) * blocks)  # of a cell, each of which gives four numbers
    step = rows_at_once(4 * counters) if seeds.device.type != "cpu" else max(1, _IN_CACHE // counters)
    out = torch.empty(len(cells), len(seeds), 4 * blocks, dtype=dtype, device=seeds.device)
    for start in range(0, len(cells), step):
        part = cells[start : start + step, None, None]
        words = philox4x32((position, part, *constants), key)
        part_of_out = out[start : start + step].unflatten(-1, (4, blocks))
        for k, values in enumerate(_box_muller(words)):
            part_of_out[..., k, :] = values
    return out[..., :count]


def _box_muller(words: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the four normals of each counter, float64."""
    for pair in range(2):
        uniform, turn = (words[2 * pair + i].to(torch.float64).add_(0.5).mul_(2.0**-32) for i in range(2))
        radius = uniform.log_().mul_(-2.0).sqrt_()
        angle = turn.mul_(2.0 * math.pi)
        yield angle.cos().mul_(radius)
        yield angle.sin_().mul_(radius)


def _fused(seeds: Tensor, cells: Tensor, stream: int, blocks: int, dtype: torch.dtype) -> Tensor | None:
    """The numbers of whole blocks, (n, rows, 4 blocks), by one compiled kernel, and one that puts them together.

    Returns:
        None without cells, within another compilation, and where compiling does not work.
    """
    n, rows = len(cells), len(seeds)
    if n == 0 or torch.compiler.is_compiling() or (kernel := _kernel(seeds.device, dtype)) is None:
        return None
    # torch.compile makes a kernel of its own for each size that is 1, and for each integer that is 0 or 1. So sizes are
    # 2 at least, cells and rows are one axis, and the stream is a tensor: there is one kernel per dtype.
    pairs = max(2, n * rows)
    row_seeds = seeds.repeat(-(-pairs // rows))[:pairs]
    row_cells = cells.repeat_interleave(rows).repeat(-(-pairs // (n * rows)))[:pairs]
    position = torch.arange(max(2, blocks), device=seeds.device)
    with torch.no_grad():
        numbers = kernel(row_seeds, row_cells, position, torch.full((1,), stream, device=seeds.device), dtype)
    return torch.stack([values[: n * rows, :blocks] for values in numbers], 1).reshape(n, rows, 4 * blocks)


@functools.cache
def _kernel(device: torch.device, dtype: torch.dtype) -> Callable[..., tuple[Tensor, ...]] | None:
    """`_in_one_pass`, compiled and tried for all sizes; None where that fails, which is warned of."""
    seeds, cells, position, stream = (torch.ones(size, dtype=torch.int64, device=device) for size in (2, 2, 3, 1))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the compiler's own
            compiled = torch.compile(_in_one_pass, dynamic=True)
            compiled(seeds, cells, position, stream, dtype)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise almost anything
        reason = " ".join(str(error).split("\n")[:2])
        warnings.warn(f"torch.compile does not work here, paths are drawn without it, slower: {reason}", stacklevel=4)
        return None
    return compiled


def _in_one_pass(
    seeds: Tensor, cells: Tensor, position: Tensor, stream: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """The four numbers of each pair of a seed and a cell, both (pairs,), and block, (blocks,): each (pairs, blocks).

    They are stacked by who calls: on GPUs torch.compile would compute all four for each entry of what is stacked here.
    """
    version = torch.full_like(stream, GENERATOR_VERSION)
    key = (seeds & _MASK)[:, None], (seeds >> 32)[:, None]
    words = philox4x32((position, cells[:, None], stream, version), key)
    return tuple(values.to(dtype) for values in _box_muller(words))
