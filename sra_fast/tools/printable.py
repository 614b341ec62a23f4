"""Text from outside, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line; what a terminal would obey (escapes, line breaks) becomes visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
