"""`--config`: options from a JSON file, which flags override."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from sdesig._files import FileError, read_json

GUARD = "\u2060"
"""Before a value of a file that begins with a dash: so it is no option. It has no width, where a message shows it."""


def option_names(kind: type) -> Iterator[str]:
    """Names of the flags of a dataclass and of the groups in it, which have no prefix, without the dashes in front."""
    return (name for name, _ in _options(kind))


def _options(kind: type) -> Iterator[tuple[str, object]]:
    """Their names and defaults."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        markers = getattr(hints[field.name], "__metadata__", ())
        inner = get_type_hints(kind)[field.name]
        if is_dataclass(inner) and isinstance(inner, type):
            if tyro.conf.Fixed not in markers:
                yield from _options(inner)
        else:
            yield field.name.replace("_", "-"), field.default


def with_config(command: type, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with the options of the file that --config names before them: the last one wins.

    Args:
        command: dataclass with a field `config`.
        arguments: without the name of the command.

    Raises:
        FileNotFoundError, FileError: no such file, not a JSON object, names that are not options of the command, values
            that no option has.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    file = parser.parse_known_args(arguments)[0].config
    if file is None:
        return list(arguments)
    defaults = dict(_options(command))
    admissible = sorted(defaults.keys() - {"config"})
    given: list[str] = []
    for name, value in read_json(Path(file)).items():
        option = name.replace("_", "-")
        if option not in admissible:
            raise FileError(f"{file}: {name!r} is not an option; the options are {', '.join(admissible)}")
        if isinstance(value, bool):
            if value is not defaults[option]:  # some flags have no --no-
                given.append(f"--{option}" if value else f"--no-{option}")
            continue
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str | int | float | None) for part in values):
            raise FileError(f"{file}: {name} must be a string, a number, true, false, null or a list of these")
        given += [f"--{option}", *map(_guarded, values)]
    return [*given, *arguments]


def unguarded(value: Any) -> Any:
    """A command, or a value in it, as it was in the file: without what keeps values from being options."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
        changed = {name: unguarded(part) for name, part in found.items()}
        return value if changed == found else replace(value, **changed)
    if isinstance(value, tuple):
        return tuple(map(unguarded, value))
    if isinstance(value, str | Path) and str(value).startswith(GUARD):
        return type(value)(str(value).removeprefix(GUARD))
    return value


def _guarded(value: object) -> str:
    """As an argument of the command line."""
    text = str(value)
    return GUARD + text if isinstance(value, str) and text.startswith("-") and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
