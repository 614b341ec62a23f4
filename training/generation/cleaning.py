"""What models put around a reply, taken off: role labels, announcements, quotation marks."""

from __future__ import annotations

import re

_LABEL = re.compile(
    r"^(?:\*\*)?(?:assistant|supporter|therapist|counsell?or|ai|response|reply)(?:\*\*)?\s*:"
    r"(?:\*\*)?\s*",
    re.IGNORECASE,
)
# One line that speaks of the reply and ends in a colon: "Sure, here is a response:".
_ANNOUNCEMENT = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely)[,.!]*\s*)?"
    r"(?:here(?:'s|\u2019s| is| are)|this is|my|a possible)\b[^\n:.?!]{0,80}"
    r"\b(?:response|reply|message|answer|continuation)\b[^\n:.?!]{0,80}:\s*",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"^\s*<think>.*?</think>\s*", re.DOTALL)
_QUOTES = (('"', '"'), ("\u201c", "\u201d"))


def clean_reply(text: str) -> str:
    """The reply itself; empty if nothing is left.

    Thoughts of a reasoning model, role labels ("assistant:") and announcements ("Here is a
    response:") in front are taken off, and quotation marks around the whole.
    """
    text = _THOUGHT.sub("", text).strip()
    before = None
    while text != before:
        before = text
        for pattern in (_ANNOUNCEMENT, _LABEL):
            text = pattern.sub("", text, count=1).strip()
        text = _unquoted(text)
    return text


def _unquoted(text: str) -> str:
    for opening, closing in _QUOTES:
        inner = text[1:-1]
        around = len(text) > 1 and text.startswith(opening) and text.endswith(closing)
        if around and opening not in inner and closing not in inner:
            return inner.strip()
    return text
