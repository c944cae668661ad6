"""Makes the docstrings of the package fit for the site: an extension of griffe, which reads them.

They are written for ``help()``, with Sphinx's roles. Here a role becomes a link, and the default of a
dataclass's field the value that it has, rather than the call that makes it.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Any, Final

import griffe

_ROLE: Final = re.compile(r":(?:class|meth|attr|func|mod|exc|data):`~?([^`]+)`")
#: A line that ends in two colons opens a block of text as it stands, which for Markdown the indentation does.
_LITERAL: Final = re.compile(r"^::\n|:(?=:$)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Called by griffe for each object of a package once all of it is read."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Rewrite one object's docstring, and a dataclass's defaults."""
        if obj.docstring is not None:
            text = _LITERAL.sub("", obj.docstring.value)
            obj.docstring.value = _ROLE.sub(lambda role: _linked(obj, role[1]), text)
        if isinstance(obj, griffe.Class) and "dataclass" in obj.labels:
            _show_defaults(obj)


def _linked(obj: griffe.Object, name: str) -> str:
    """The Markdown for a role's target, as seen from `obj`: a link, if it is documented."""
    shown = name.removeprefix("snowgreen.").lstrip(".")
    path = name if name.startswith("snowgreen.") else None
    if path is None:
        try:
            path = obj.resolve(name)
        except griffe.NameResolutionError:
            return f"`{shown}`"
    return f"[`{shown}`][{path}]"


def _show_defaults(cls: griffe.Class) -> None:
    made = getattr(importlib.import_module(cls.module.path), cls.name)
    defaults = {item.name: item.default for item in dataclasses.fields(made)}
    for parameter in cls.parameters:
        value = defaults.get(parameter.name, dataclasses.MISSING)
        if value is not dataclasses.MISSING:
            parameter.default = f"{value:_}" if isinstance(value, int) and value > 9999 else repr(value)
