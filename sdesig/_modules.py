"""Modules in folders, config.json and weights.safetensors: written whole, and checked before they are loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdesig._files import FileError, read_json, read_tensors, write_json, write_tensors

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
"""File of the numbers of a network, in its folder."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)
_NAMED = 12
"""Largest number of names of tensors in a message."""
_SLACK, _SHARE = 2**20, 64
"""A module is made if it has at most `_SHARE` times (the numbers of its file + `_SLACK`): 256 MB in float32 for the
smallest files, which any machine has. That it does not fit its file is told better, by name and shape, afterwards."""


def save_module(folder: Path, config: Mapping[str, object], module: nn.Module, *, half: str | None = None) -> None:
    """Write config.json and weights.safetensors to a folder.

    Args:
        half: float32 tensors whose names begin with it are kept as float16; None: none are.
    """
    tensors = module.state_dict()
    if half is not None:
        short = {name for name, v in tensors.items() if v.dtype == torch.float32 and name.startswith(half)}
        tensors = {name: v.half() if name in short else v for name, v in tensors.items()}
    write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)


def make_within(tensors: Mapping[str, Tensor], make: Callable[[Any], ModuleT], config: Any) -> ModuleT:
    """A module of a file that was read, just initialized; its weights, some of the tensors, are not loaded yet.

    One whose configuration has large numbers, for so few weights, is first made without memory, on the device "meta"
    (whose first use takes seconds). torch's global generator is left as it was.

    Args:
        tensors: tensors of the file.
        make: function from a configuration to a module.
        config: configuration of the module, from JSON.

    Raises:
        ValueError: a module with far more numbers than the tensors have; whatever `make` raises.
    """
    there = _SLACK + sum(value.numel() for value in tensors.values())
    with torch.random.fork_rng(devices=[]):  # what it is initialized with is overwritten
        if math.prod([*sorted(_integers(config))[-2:], max(_integers(config), default=0)]) > _SHARE * there:
            with torch.device("meta"):
                numbers = sum(value.numel() for value in make(config).state_dict().values())
            if numbers > _SHARE * there:  # else it fits into memory, and its names and shapes tell more
                raise ValueError(f"its network has {numbers} numbers, {WEIGHTS} {there - _SLACK}")
        return make(config)


def _integers(value: Any) -> Iterator[int]:
    """The magnitudes of all integers in a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _integers(part)
    elif isinstance(value, int):
        yield abs(value)


def load_state(folder: Path, module: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Load the weights of `save_module`, or those that were read, into a module.

    Raises:
        FileNotFoundError, FileError: no such file, not safetensors, unknown or missing names, wrong shapes or dtypes,
            values that are not finite.
    """
    path = folder / WEIGHTS
    tensors = read_tensors(path) if tensors is None else tensors
    _check_state(path, tensors, module.state_dict())
    check_finite(path, tensors)
    module.load_state_dict(tensors)


def check_finite(source: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise FileError, which names the tensor, unless the weights of a file or folder are finite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise FileError(f"{source}: {name} is not finite")


def _check_state(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise FileError unless tensors have the names, shapes and dtypes that are wanted, or float16 for float32."""
    for what, names in (("unknown", tensors.keys() - wanted.keys()), ("missing", wanted.keys() - tensors.keys())):
        if names:
            raise FileError(f"{path} does not fit its config.json; {what}: {_listed(names)}")
    for name, value in tensors.items():
        halved = (value.dtype, wanted[name].dtype) == (torch.float16, torch.float32)
        if value.shape != wanted[name].shape or (value.dtype != wanted[name].dtype and not halved):
            raise FileError(
                f"{path}: {name} must be {wanted[name].dtype} of shape {tuple(wanted[name].shape)}; it is "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:_NAMED]) + (f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else "")


def load_config(folder: Path, kind: str) -> dict[str, Any]:
    """The config.json of a folder, which must have the type `kind`.

    Raises:
        FileNotFoundError, FileError: no such folder or file, not JSON, another kind.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}")
    config = read_json(folder / CONFIG)
    if config.get("type") != kind:
        raise FileError(f"{folder} must hold a {kind}; its {CONFIG} says {config.get('type')!r}")
    return config
