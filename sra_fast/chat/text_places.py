"""Find the characters of a prompt that a user points at: a text, a range, a pattern or a message.

Texts are searched in what the user wrote, never in what a chat template puts around it. A text that
is not there, or is there twice, is refused: of two places, only the user can say which is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sra_fast.chat.chat_template import EncodingError
from sra_fast.tools.suggestions import did_you_mean

Place: TypeAlias = "str | int | re.Pattern[str] | tuple[int, int] | tuple[int, int, int]"
"""How a user points at a part of a prompt; see :func:`find_places`."""

_QUOTED = 40  # characters of a text that an error quotes


@dataclass(frozen=True)
class PromptText:
    """One text of a prompt.

    Attributes:
        content: the text.
        role: the role of the message that it is the content of; None for a prompt that is one text.
    """

    content: str
    role: str | None


@dataclass(frozen=True)
class TextRange:
    """A range of characters of one of a prompt's texts.

    Attributes:
        message: index of the text.
        start, end: the range, in characters.
    """

    message: int
    start: int
    end: int


def find_places(
    texts: Sequence[PromptText], place: Place | Sequence[Place], name: str
) -> tuple[TextRange, ...]:
    """Find what a user points at, in the order of the prompt.

    Args:
        texts: the prompt's texts.
        place: one of these, or a list of them:

            - a text: the one place where it stands;
            - a compiled pattern: every match;
            - an integer: the whole message of that index, counted from the end if negative;
            - ``(message, start, end)``: a range of characters of a message;
            - ``(start, end)``: a range of characters of a prompt that is one text.
        name: what errors call it.

    Raises:
        TypeError: it is none of these.
        EncodingError: there is no such place, or the text stands in several.
    """
    found: list[TextRange] = []
    for one in place if isinstance(place, list) else [place]:
        found += _find(texts, one, name)
    if not found:
        raise EncodingError(f"{name}: the list of places is empty; give at least one")
    return tuple(sorted(found, key=lambda at: (at.message, at.start, at.end)))


def trimmed_range(
    content: str, message: int, start: int = 0, end: int | None = None
) -> TextRange | None:
    """Return a range of a text without the blanks around it, or None if nothing else is in it.

    Args:
        content: the text.
        message: its index.
        start, end: the range, in characters; all of the text if left out.
    """
    piece = content[start:end]
    inner = piece.strip()
    if not inner:
        return None
    start += len(piece) - len(piece.lstrip())
    return TextRange(message, start, start + len(inner))


def _find(texts: Sequence[PromptText], place: object, name: str) -> list[TextRange]:
    if isinstance(place, str):
        return [_of_text(texts, place, name)]
    if isinstance(place, re.Pattern):
        return _of_pattern(texts, place, name)
    if isinstance(place, int) and not isinstance(place, bool):
        return [_of_message(texts, place, name)]
    if (
        isinstance(place, tuple)
        and len(place) in (2, 3)
        and all(type(number) is int for number in place)
    ):
        return [_of_range(texts, place, name)]
    raise TypeError(
        f"{name}: expected a text, a compiled pattern, the index of a message, "
        f"(message, start, end), or a list of these, got {place!r}"
    )


def _of_text(texts: Sequence[PromptText], wanted: str, name: str) -> TextRange:
    if not wanted.strip():
        raise EncodingError(f"{name}: the text {wanted!r} is empty or blank")
    found = [
        TextRange(number, at, at + len(wanted))
        for number, text in enumerate(texts)
        for at in _positions(text.content, wanted)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        where = ", ".join(
            f"{_named(texts, at.message)} at character {at.start}" for at in found[:4]
        )
        more = "" if len(found) <= 4 else f" and {len(found) - 4} more"
        way = "(start, end)" if texts[0].role is None else "(message, start, end)"
        raise EncodingError(
            f"{name}: {_short(wanted)} stands {len(found)} times in the prompt ({where}{more}); "
            f"give a longer text, or its place as {way}"
        )
    raise EncodingError(
        f"{name}: {_short(wanted)} does not stand in the prompt{_why_missing(texts, wanted)}"
    )


def _of_pattern(
    texts: Sequence[PromptText], pattern: re.Pattern[str], name: str
) -> list[TextRange]:
    found = [
        TextRange(number, *match.span())
        for number, text in enumerate(texts)
        for match in pattern.finditer(text.content)
    ]
    if not found:
        raise EncodingError(f"{name}: the pattern {pattern.pattern!r} matches nothing")
    empty = [at for at in found if at.start == at.end]
    if empty:
        raise EncodingError(
            f"{name}: the pattern {pattern.pattern!r} matches no character at "
            f"{_named(texts, empty[0].message)}, character {empty[0].start}; let it match text"
        )
    return found


def _of_message(texts: Sequence[PromptText], index: int, name: str) -> TextRange:
    if texts[0].role is None:
        raise EncodingError(
            f"{name}: the prompt is one text and has no message {index}; give (start, end)"
        )
    if not -len(texts) <= index < len(texts):
        raise EncodingError(
            f"{name}: there is no message {index}; the prompt has {len(texts)}, counted from 0"
        )
    number = index % len(texts)
    found = trimmed_range(texts[number].content, number)
    if found is None:
        raise EncodingError(f"{name}: {_named(texts, number)} has no text")
    return found


def _of_range(texts: Sequence[PromptText], place: Sequence[int], name: str) -> TextRange:
    one_text = texts[0].role is None
    if len(place) == 2 and not one_text:
        raise EncodingError(
            f"{name}: {tuple(place)} counts the characters of a prompt that is one text; of "
            "messages, give (message, start, end)"
        )
    if len(place) == 3 and one_text:
        raise EncodingError(f"{name}: the prompt is one text; give (start, end), not {place!r}")
    message, start, end = (0, *place) if one_text else place
    if not 0 <= message < len(texts):
        raise EncodingError(
            f"{name}: there is no message {message}; the prompt has {len(texts)}, counted from 0"
        )
    length = len(texts[message].content)
    if not 0 <= start < end <= length:
        raise EncodingError(
            f"{name}: {start} to {end} is no range of the {length} characters of "
            f"{_named(texts, message)}"
        )
    return TextRange(message, start, end)


def _positions(content: str, wanted: str) -> Iterable[int]:
    """Yield every position of a text, also where one begins within another."""
    at = content.find(wanted)
    while at >= 0:
        yield at
        at = content.find(wanted, at + 1)


def _named(texts: Sequence[PromptText], number: int) -> str:
    role = texts[number].role
    return "the text" if role is None else f"message {number} ({role})"


def _short(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…")


def _why_missing(texts: Sequence[PromptText], wanted: str) -> str:
    """Return what stands there instead, where only blanks, quotes or capitals differ."""
    alike = re.compile(r"\s+".join(map(re.escape, wanted.split())), re.IGNORECASE)
    for number, text in enumerate(texts):
        match = alike.search(text.content)
        if match is not None:
            return (
                f"; {_named(texts, number)} has {_short(match.group())} at character "
                f"{match.start()}, which differs in blanks or capitals"
            )
    lines = [line.strip() for text in texts for line in text.content.splitlines() if line.strip()]
    if len(lines) < 2000:
        return did_you_mean(wanted, [line for line in lines if len(line) < 4 * len(wanted)])
    return ""
