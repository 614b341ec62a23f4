"""Make text from outside safe to show on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text in one line, with terminal escapes and line breaks made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
