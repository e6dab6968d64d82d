"""Configurations of diffusers' models and schedulers: checked by the arguments of their constructors."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from sdesig._checks import check_integer

MOST = 2**20
"""Largest whole number: what is beyond belongs to a damaged file."""
MOST_LAYERS = 100


def known_arguments(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model without what its constructor does not know.

    As diffusers does, such keys, of a later version, are ignored with a warning.

    Args:
        kind: a class of diffusers.
        config: as in its JSON file; keys that begin with "_" are diffusers' own and are left out.

    Raises:
        TypeError, ValueError: see `check_arguments`.
    """
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    known = {name: value for name, value in given.items() if name in inspect.signature(kind).parameters}
    if unknown := sorted(given.keys() - known.keys()):
        warnings.warn(f"{kind.__name__} of this diffusers does not know {', '.join(unknown)}: ignored", stacklevel=2)
    check_arguments(kind, known)
    return known


def check_arguments(kind: type, config: Mapping[str, Any]) -> None:
    """Check the values of a configuration by the annotations and defaults of a constructor.

    Raises:
        TypeError, ValueError: a value of another type, a whole number that is negative or huge; names the key.
    """
    for name, parameter in inspect.signature(kind).parameters.items():
        if config.get(name) is not None:  # which diffusers takes for every argument that it can do without
            _check(name, config[name], parameter.default, "float" in str(parameter.annotation))


def _check(name: str, value: object, default: object, real: bool) -> None:
    if isinstance(value, list | tuple):
        if isinstance(default, bool | str | float):
            raise TypeError(f"{name} must be one {type(default).__name__}; got {value!r}")
        inner = default[0] if isinstance(default, list | tuple) and default else default
        for k, part in enumerate(value):
            _check(f"{name}[{k}]", part, inner, real)
    elif isinstance(default, list | tuple):
        raise TypeError(f"{name} must be a list; got {value!r}")
    elif isinstance(default, bool | str):
        if not isinstance(value, type(default)):
            raise TypeError(f"{name} must be a {type(default).__name__}; got {value!r}")
    elif real or isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, int | float):  # an infinite one is a default
            raise TypeError(f"{name} must be a number; got {value!r}")
    elif isinstance(default, int) or not isinstance(value, str):
        check_integer(name, value, 0, MOST_LAYERS if name.startswith("layers_per_block") else MOST)
