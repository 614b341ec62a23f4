"""Take off what models put around a reply: role labels, announcements and quotation marks."""

from __future__ import annotations

import re

_LABEL = re.compile(
    r"^(?:\*\*)?(?:assistant|supporter|therapist|counsell?or|ai|response|reply)(?:\*\*)?\s*:"
    r"(?:\*\*)?\s*",
    re.IGNORECASE,
)
_OPENING = (
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely)[,.!]*\s*)?"
    r"(?:here(?:'s|\u2019s| is| are)|this is|my|a possible)\b"
)
_WORDS = r"[^\n:.?!]{0,80}"
# One line that speaks of the reply and ends in a colon: "Sure, here is a response:".
_ANNOUNCEMENT = re.compile(
    rf"{_OPENING}(?![^\n:]*\bmessage\b){_WORDS}\b(?:response|reply|answer)\b{_WORDS}:\s*",
    re.IGNORECASE,
)
# A supporter may mention a message too ("This is my message to you: ..."), so here the reply must
# stand apart: on the next line, or in quotation marks.
_ANNOUNCED_APART = re.compile(
    rf"{_OPENING}{_WORDS}\b(?:message|continuation)\b{_WORDS}:"
    r"(?=[^\S\n]*(?:\n|[\"\u201c]|$))\s*",
    re.IGNORECASE,
)
_QUOTES = (('"', '"'), ("\u201c", "\u201d"))


def clean_reply(text: str) -> str:
    """Return the reply alone, without what the model wrote around it.

    Role labels ("assistant:") and announcements ("Here is a response:") are taken off the front,
    and quotation marks off both ends. The result is empty if nothing is left.

    Args:
        text: what the model wrote, without its thoughts.
    """
    text = text.strip()
    before = None
    while text != before:
        before = text
        for pattern in (_ANNOUNCEMENT, _ANNOUNCED_APART, _LABEL):
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
