"""Turns what docstrings borrow from reStructuredText into Markdown, for the reference pages."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(?P<name>[^`]+)`")
_RAISES = re.compile(r"^Raises \(.+\):$", re.M)  # "Raises (from the Trainer):"
_CODE_FOLLOWS = re.compile(r"^(?P<text>.*?):?:$", re.M)


class DocstringMarkup(griffe.Extension):
    """The extension that shows ``:func:`~a.b``` as code, and ``::`` before a block as a colon."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of each object that is documented."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Return a docstring with roles as code, and literal blocks as indented code."""

    def short(role: re.Match[str]) -> str:
        name = role["name"]
        if name.startswith("~"):
            name = name.rpartition(".")[2]
        return f"`{name.removeprefix('~').lstrip('.')}`"

    text = _RAISES.sub("Raises:", _ROLE.sub(short, text))
    return _CODE_FOLLOWS.sub(lambda line: f"{line['text']}:" if line["text"] else "", text)
