"""Docstrings are plain text that reads well in the code; this makes Markdown of them, for the pages of the API."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]*`)")
_ITEM = re.compile(r"^( *)(- |\d\. )")
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")


def as_markdown(text: str) -> str:
    """Lists apart from the paragraph above them; stars and angles as they are, but in code and in indented formulas."""
    lines: list[str] = []
    section = False
    for line in text.splitlines():
        if line.strip() and not line.startswith(" "):
            section = _SECTION.match(line) is not None
        item, above = _ITEM.match(line), lines[-1] if lines else ""
        # a line of an item is indented below it
        if item and above.strip() and not _ITEM.match(above) and not above.startswith(item[1] + "  "):
            lines.append("")
        lines.append(line if line.startswith("    ") and not section else _escaped(line))
    return "\n".join(lines)


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    parts[::2] = (re.sub(r"<(?=[\w/!])", "&lt;", part).replace("*", r"\*") for part in parts[::2])
    return "".join(parts)


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


def _parameter(given: inspect.Parameter) -> griffe.Parameter:
    default = None if given.default is inspect.Parameter.empty else repr(given.default)
    kind = griffe.ParameterKind(given.kind.description)
    return griffe.Parameter(given.name, annotation=given.annotation, kind=kind, default=default)
