"""Markdown that shows text from outside as it is, and the one writer of Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sra_fast.tools.printable import printable

# An underscore inside a word is only itself.
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>|$~#!]|(?<!\w)_|_(?!\w))")
_BARE_PIPE = re.compile(r"(?<!\\)\|")  # it would end the cell


def markdown_text(text: str) -> str:
    """Return the text as one line of Markdown that shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> list[str]:
    """Return the lines of a table, and the empty line that ends it.

    Args:
        head: the titles of the columns, as Markdown.
        rows: the cells of each row, as many as there are titles.
        names: how many columns, the first ones, hold plain text, which is shown as it is and to
            the left. The others hold Markdown, numbers as a rule, and stand to the right.

    Raises:
        ValueError: a row has another number of cells.
    """
    lines = [
        _line(head),
        "|" + "|".join([" --- "] * names + [" ---: "] * (len(head) - names)) + "|",
    ]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(head)} columns: {row}")
        lines.append(_line([*map(markdown_text, row[:names]), *row[names:]]))
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_BARE_PIPE.sub(r"\|", cell) for cell in cells) + " |"
