"""Argument checks shared by the whole package: the error names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import TypeVar

import torch
from torch import Tensor

from sdesig._devices import like

T = TypeVar("T")
_UNREAD = ContextVar("unread", default=False)

NOISE_STRUCTURES = ("additive", "scalar", "diagonal", "commutative", "general")
"""Noise structures that schemes may exploit, see `sdesig.sde.SDE`."""


@contextmanager
def unread() -> Iterator[None]:
    """Within the block, checks look at no values that are on an accelerator: to read one is to wait for the device.

    For loops over steps and iterations, whose numbers come from others that were checked. Shapes and types are checked
    as ever, and on the CPU so are values.
    """
    token = _UNREAD.set(True)
    try:
        yield
    finally:
        _UNREAD.reset(token)


def readable(value: Tensor) -> bool:
    """Whether a check may look at the values of a tensor; see `unread`."""
    return value.device.type == "cpu" or not _UNREAD.get()


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_instance(name: str, value: T, kind: type) -> T:
    """Return `value`; raise TypeError unless it is of a class."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}; got {type(value).__name__}")
    return value


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int; raise TypeError if it is not an integer, ValueError if it is out of range."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    number = int(value)
    if number < minimum or (maximum is not None and number > maximum):
        allowed = f">= {minimum}" if maximum is None else f"in [{minimum}, {maximum}]"
        raise ValueError(f"{name} must be {allowed}; got {number}")
    return number


def check_real(
    name: str, value: object, *, minimum: float = -math.inf, strict: bool = False, maximum: float = math.inf
) -> float:
    """Return `value` as a finite float >= `minimum` (> if `strict`) and <= `maximum`; raise TypeError or ValueError."""
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number; got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # of an int
        number = math.inf
    if not math.isfinite(number) or not minimum <= number <= maximum or (strict and number == minimum):
        bound = "" if minimum == -math.inf else f" {'>' if strict else '>='} {minimum:g}"
        bound += "" if maximum == math.inf else f"{' and' if bound else ''} <= {maximum:g}"
        raise ValueError(f"{name} must be a finite number{bound}; got {number}")
    return number


def check_step(name: str, value: float | Tensor) -> Tensor:
    """Return a step length, a float or a real tensor, as a tensor; raise unless finite and > 0 everywhere.

    A float becomes a zero-dimensional float64 tensor on the CPU, which mixes with tensors of any dtype and device
    without promoting them.
    """
    if not isinstance(value, Tensor):
        return torch.tensor(check_real(name, value, minimum=0.0, strict=True), dtype=torch.float64)
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a float or a real floating-point tensor; got a tensor of {value.dtype}")
    if not readable(value):
        return value
    if value.ndim == 0:
        check_real(name, value.detach(), minimum=0.0, strict=True)
    elif not bool(((value > 0) & torch.isfinite(value)).all()):
        bad = value[~((value > 0) & torch.isfinite(value))].flatten()[0].item()
        raise ValueError(f"{name} must be finite and > 0 everywhere; it contains {bad}")
    return value


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """`value`, one number () or one per sample (batch,), in x's dtype and shaped to multiply x, (batch, *event)."""
    if value.ndim > 1 or (value.ndim == 1 and value.shape != x.shape[:1]):
        raise ValueError(
            f"a time or signal-to-noise ratio must have shape () or (batch,) beside a state of shape {tuple(x.shape)}; "
            f"got {tuple(value.shape)}"
        )
    if value.ndim == 0:
        return value.to(x.dtype) if value.device.type == "cpu" else like(value, x)
    return like(value, x).reshape(value.shape + (1,) * (x.ndim - 1))


def check_floating(name: str, value: object) -> Tensor:
    """Return `value`; raise TypeError unless it is a real floating-point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a real floating-point dtype; got {value.dtype}")
    return value


def check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Return `dtype` (default: torch's default dtype); raise TypeError unless it is a real floating-point dtype."""
    if dtype is None:
        return torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point torch.dtype; got {dtype!r}")
    return dtype


def check_device(device: torch.device | str | None, default: torch.device | str = "cpu") -> torch.device:
    """Return the device of tensors that are made on `device`, "cuda:0" for "cuda"; raise ValueError if there is none.

    Tensors have an index where "cuda" has none, and a device without one equals none of theirs.
    """
    try:
        return torch.empty(0, device=default if device is None else device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be one that torch can use here; got {str(device)!r} ({reason})") from None


def check_shape(name: str, shape: object) -> tuple[int, ...]:
    """Return `shape` as a tuple of non-negative ints; raise TypeError or ValueError otherwise."""
    if isinstance(shape, Integral) and not isinstance(shape, bool):
        shape = (shape,)
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise TypeError(f"{name} must be an int or a sequence of ints; got {shape!r}")
    return tuple(check_integer(f"{name}[{i}]", size, 0) for i, size in enumerate(shape))


def check_generator(generator: object) -> torch.Generator:
    """Return `generator`; raise TypeError unless it is a torch.Generator (never global state)."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator; got {generator!r}")
    return generator


def check_denoiser(name: str, value: T, variables: str = "x, t") -> T:
    """Return `value`; raise TypeError unless it can be called with the variables and is no D(y, snr)."""
    if (own := getattr(value, "variables", "x, t")) != "x, t":
        raise TypeError(f"{name} must be a D(x, t), not a D({own}); got {type(value).__name__}")
    if not callable(value):
        raise TypeError(f"{name} must be callable as {name}({variables}); got {value!r}")
    return value


def check_denoised(value: object, state: Tensor) -> Tensor:
    """Return what a denoiser gave for a state; raise TypeError or ValueError unless it is a tensor of its shape."""
    if not isinstance(value, Tensor):
        raise TypeError(f"the denoiser must return a torch.Tensor; got {value!r}")
    if value.shape != state.shape:
        wanted, got = tuple(state.shape), tuple(value.shape)
        raise ValueError(f"the denoiser must return the shape {wanted} of the state it is given; got {got}")
    return value
