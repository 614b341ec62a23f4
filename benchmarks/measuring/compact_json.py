"""JSON for records that are kept in git: a line per thing that one would compare."""

from __future__ import annotations

import json
from typing import Any

WIDTH = 2000
"""Most characters of a line that holds more than a name and a list of plain values."""


def compact_json(value: Any) -> str:
    """Return a value as JSON text with lists of plain values, and whatever is short, on one line.

    Args:
        value: what ``json.dumps`` takes.

    Returns:
        The text, with a newline at its end. ``json.loads`` gives what that of ``json.dumps`` gives.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON does not know.
    """
    return "".join(_lines("", json.loads(_on_one_line(value)), "", "\n"))


def _lines(key: str, value: Any, indent: str, ending: str) -> list[str]:
    """Return the lines of a value; the first begins with its key, the last ends in ``ending``."""
    whole = f"{indent}{key}{_on_one_line(value)}{ending}"
    members = (
        [(f"{_on_one_line(name)}: ", one) for name, one in value.items()]
        if isinstance(value, dict)
        else [("", one) for one in value]
        if isinstance(value, list)
        else []
    )
    plain = isinstance(value, list) and not any(isinstance(one, (dict, list)) for one in value)
    if not members or plain or len(whole) <= WIDTH:
        return [whole]
    first, last = "{}" if isinstance(value, dict) else "[]"
    inside = [
        line
        for at, (name, one) in enumerate(members, start=1)
        for line in _lines(name, one, f"{indent} ", ",\n" if at < len(members) else "\n")
    ]
    return [f"{indent}{key}{first}\n", *inside, f"{indent}{last}{ending}"]


def _on_one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
