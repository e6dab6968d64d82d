"""`--config`: options from a JSON file, which flags override."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import tyro

from sdesig._files import read_json


def option_names(kind: type) -> Iterator[str]:
    """Names of the flags of a dataclass and of the groups in it, which have no prefix, without the dashes in front."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        markers = getattr(hints[field.name], "__metadata__", ())
        inner = get_type_hints(kind)[field.name]
        if is_dataclass(inner) and isinstance(inner, type):
            if tyro.conf.Fixed not in markers:
                yield from option_names(inner)
        else:
            yield field.name.replace("_", "-")


def with_config(command: type, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with the options of the file that --config names before them: the last one wins.

    Args:
        command: dataclass with a field `config`.
        arguments: without the name of the command.

    Raises:
        FileNotFoundError, ValueError: no such file, not a JSON object, names that are not options of the command.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    file = parser.parse_known_args(arguments)[0].config
    if file is None:
        return list(arguments)
    admissible = sorted({*option_names(command)} - {"config"})
    given: list[str] = []
    for name, value in read_json(Path(file)).items():
        option = name.replace("_", "-")
        if option not in admissible:
            raise ValueError(f"{file}: {name!r} is not an option; the options are {', '.join(admissible)}")
        if isinstance(value, bool):
            given.append(f"--{option}" if value else f"--no-{option}")
        else:
            given += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return [*given, *arguments]
