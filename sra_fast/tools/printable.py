"""Make text from outside safe to show on a terminal, and short."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text in one line, with terminal escapes and line breaks made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, width: int) -> str:
    """Return the text in one line of at most ``width`` characters, printable as it is."""
    shown = printable(text)
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"
