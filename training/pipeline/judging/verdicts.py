"""Read the verdict at the end of a judge's answer, in the wrappings that models put around it."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any, Literal

Verdict = Literal["first", "second", "tie"]
"""What one answer says: the first reply is better, the second is, or neither."""

_VERDICTS: dict[str, Verdict] = {"first": "first", "second": "second", "tie": "tie"}
_NAMES = "verdict|answer|choice|decision|judge?ment|winner|result|preference"
_KEY = re.compile(rf"(?:final |my |the )*(?:{_NAMES}|better)")

# Marks of the end of a text, and tags of XML, but not the words themselves in such brackets.
_TAGS = re.compile(r"<\|[^<>]*\|>|</?(?!first\b|second\b|tie\b)[a-z_]+>", re.IGNORECASE)
_COMMANDS = re.compile(r"\\(?:boxed|text|textbf|mathbf)\b")  # of LaTeX
_SIGNS = re.compile(r"[^\w?¬≠]|_")  # a question mark or a negation is no decoration

_MOST_BRACES = 100  # opening braces that may begin the last object; each costs a look at it all

_VERDICT = re.compile(
    rf"(?:(?:my |the )?(?:final )?(?:{_NAMES})(?: is)? )?"
    r"(?:the )?(first|second|tie)(?: (?:response|candidate|reply|one))?"
)


def read_verdict(answer: str) -> Verdict | None:
    """Return the verdict in the last line of an answer; None if that line is anything else.

    Signs around it count for nothing: Markdown, a code fence, quotes, brackets, tags, a full stop.
    An answer that ends in an object of JSON gives its verdict under a key such as "verdict".

    A sentence that names a reply is no verdict: one that begins "the first one is warmer" may go on
    to prefer the second.

    Args:
        answer: the text of the judge's answer.
    """
    found = _last_object(answer)
    if found is not None:
        return _of_object(found)
    lines = [line for line in map(_plain, answer.splitlines()) if line]
    return _of_line(lines[-1]) if lines else None


def _of_line(line: str) -> Verdict | None:
    match = _VERDICT.fullmatch(line)
    return None if match is None else _VERDICTS[match[1]]


def _of_object(found: dict[str, Any]) -> Verdict | None:
    """Return the verdict under the keys that mean one; None if they differ or there is none."""
    values = [value for key, value in found.items() if _KEY.fullmatch(_plain(key))]
    read = {_of_line(_plain(value)) if isinstance(value, str) else None for value in values}
    return read.pop() if len(read) == 1 else None


def _last_object(answer: str) -> dict[str, Any] | None:
    """Return the object of JSON with which an answer ends, a code fence aside; None without one."""
    text = answer.strip().removesuffix("```").rstrip()
    if not text.endswith("}"):
        return None
    for match in islice(re.finditer(r"\{", text), _MOST_BRACES):
        try:
            value, end = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if end == len(text) and isinstance(value, dict):
            return value
    return None


def _plain(line: str) -> str:
    """Return a text in lower case, without tags and any sign that is no letter or digit."""
    bare = _COMMANDS.sub(" ", _TAGS.sub(" ", line))
    return " ".join(_SIGNS.sub(" ", bare).split()).lower()
