"""Docstrings are plain text that reads well in the code; this makes Markdown of them, for the pages of the API."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]*`)")
_ITEM = re.compile(r"^( *)(- |\d\. )")
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
_TOGETHER = re.compile(r"^    ((?:\w+, )+\w+): (.*)$")
SHORT = 80
"""Longest description, in characters, that is repeated for each of the names that share it."""


def as_markdown(text: str) -> str:
    """A row per name; lists apart from the paragraph above; stars and angles as they are, but in code and formulas.

    Formulas are indented, and so they are code.
    """
    lines: list[str] = []
    section = False
    for line in _a_row_per_name(text.splitlines()):
        if line.strip() and not line.startswith(" "):
            section = _SECTION.match(line) is not None
        item, above = _ITEM.match(line), lines[-1] if lines else ""
        # a line of an item is indented below it
        if item and above.strip() and not _ITEM.match(above) and not above.startswith(item[1] + "  "):
            lines.append("")
        lines.append(line if line.startswith("    ") and not section else _escaped(line))
    return "\n".join(lines)


def _a_row_per_name(lines: list[str]) -> list[str]:
    """`t0, t1: ...` as a row for t0 and one for t1, so that each has its own type and default."""
    rows: list[str] = []
    section = ""
    while lines:
        line, *lines = lines
        rows.append(line)
        if line.strip() and not line.startswith(" "):
            section = line
        together = _TOGETHER.match(line)
        if together is None or section not in ("Args:", "Attributes:"):
            continue
        more = [*itertools.takewhile(lambda below: below.startswith("     "), lines)]
        lines = lines[len(more) :]
        first, *others = together[1].split(", ")
        description = " ".join([together[2], *(below.strip() for below in more)])
        again = description if len(description) <= SHORT else f"see `{first}`."
        rows[-1:] = [f"    {first}: {together[2]}", *more, *(f"    {name}: {again}" for name in others)]
    return rows


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    parts[::2] = (re.sub(r"<(?=[\w/!])", "&lt;", part).replace("*", r"\*") for part in parts[::2])
    return re.sub(r"(^\s*|: )>", r"\1&gt;", "".join(parts))  # at the start of a description it would be a quotation


class PlainText(griffe.Extension):
    """Called by mkdocstrings for everything that it has read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """A function whose decorator gives it other parameters has these."""
        if any(str(decorator.value).startswith("takes_arguments_of") for decorator in func.decorators):
            signature = inspect.signature(getattr(importlib.import_module(func.module.path), func.name))
            func.parameters = griffe.Parameters(*map(_parameter, signature.parameters.values()))

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """What is private, or only looks empty since it is filled elsewhere, is not shown."""
        if str(attr.value) == "{}":
            attr.value = None
        descriptor = attr.module.members.get(str(attr.annotation))
        if not str(attr.annotation).startswith("_") or descriptor is None or "__get__" not in descriptor.members:
            return
        owner = getattr(importlib.import_module(attr.module.path), attr.parent.name)
        attr.annotation, attr.value = descriptor["__get__"].returns, repr(getattr(owner, attr.name))
        parameter = attr.parent["__init__"].parameters[attr.name]
        parameter.annotation, parameter.default = attr.annotation, attr.value


def _parameter(given: inspect.Parameter) -> griffe.Parameter:
    default = None if given.default is inspect.Parameter.empty else repr(given.default)
    kind = griffe.ParameterKind(given.kind.description)
    return griffe.Parameter(given.name, annotation=given.annotation, kind=kind, default=default)
